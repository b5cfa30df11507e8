"""The exact error surface against brute force through the runtime's own fusion."""

import numpy as np
import pytest
from nbest_examples import random_utterances

from bench.fusion_lines import fusion_lines, trace_steps
from bench.nbest_table import NBestTable, build_table
from bench.normalizers import normalizer
from bench.surface import ErrorSurface, error_surface
from runtime.fusion import fuse, rank


def brute_force_errors(table: NBestTable, alpha: float) -> int:
    """Errors at one alpha, utterance by utterance through `runtime.fusion`."""
    total = 0
    for u, utterance in enumerate(table.utterances):
        begin, end = table.first[u], table.first[u + 1]
        best = 0
        if utterance.has_image:
            best = int(rank(fuse(table.scores[begin:end], table.cosines[begin:end], alpha).fused)[0])
        total += int(table.errors[begin + best])
    return total


def brute_force_errors_of_many(table: NBestTable, alphas: np.ndarray) -> np.ndarray:
    """The same for many alphas; the two softmaxes of `fuse` do not depend on alpha."""
    total = np.zeros(len(alphas), dtype=np.int64)
    for u, utterance in enumerate(table.utterances):
        begin, end = table.first[u], table.first[u + 1]
        best = np.zeros(len(alphas), dtype=np.int64)
        if utterance.has_image:
            parts = fuse(table.scores[begin:end], table.cosines[begin:end], 0.0)
            weight = alphas[:, np.newaxis]
            best = ((1.0 - weight) * parts.asr + weight * parts.clip).argmax(axis=1)
        total += table.errors[begin + best]
    return total


def surface_of(table: NBestTable) -> ErrorSurface:
    return error_surface(trace_steps(fusion_lines(table)), table.errors, table.reference_words)


def check(seed: int, alphas: np.ndarray) -> None:
    table = build_table(random_utterances(np.random.default_rng(seed)), normalizer("notebook"))
    surface = surface_of(table)
    inner = surface.breakpoints
    near = np.concatenate([inner, inner - 1e-9, inner + 1e-9])
    near = near[(near >= 0.0) & (near <= 1.0)]
    for alpha in near:
        assert surface.errors_at(float(alpha)) == brute_force_errors(table, float(alpha)), (seed, alpha)
    expected = brute_force_errors_of_many(table, alphas)
    assert [surface.errors_at(float(alpha)) for alpha in alphas] == expected.tolist(), seed
    assert surface.best_errors <= min(surface.errors_at(a) for a in np.round(np.arange(0, 1.05, 0.05), 2))


@pytest.mark.parametrize("seed", range(60))
def test_surface_equals_brute_force(seed: int) -> None:
    check(seed, np.linspace(0.0, 1.0, 101))


@pytest.mark.slow
def test_surface_equals_brute_force_on_1000_files_at_2001_alphas() -> None:
    for seed in range(1000):
        check(seed, np.linspace(0.0, 1.0, 2001))
