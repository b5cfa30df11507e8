"""The exact error surface against brute force through the runtime's own fusion."""

import numpy as np
import pytest

from bench.nbest.table import NBestTable, build_table
from bench.text.normalizers import normalizer
from bench.tuning.fusion_lines import fusion_lines, trace_steps
from bench.tuning.surface import ErrorSurface, error_surface
from runtime.fusion import fuse, rank
from tests.tools.nbest_examples import random_utterances


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


def errors_within_rounding(table: NBestTable, alpha: float) -> tuple[int, int]:
    """Fewest and most errors among the lines that float64 cannot tell from the highest one at `alpha`.

    Each fused score carries three roundings of values up to 1: two of them differ by 4 units in the last
    place at most without telling which line is higher.
    """
    low = high = 0
    for u, utterance in enumerate(table.utterances):
        begin, end = table.first[u], table.first[u + 1]
        errors = table.errors[begin:end]
        if utterance.has_image:
            fused = fuse(table.scores[begin:end], table.cosines[begin:end], alpha).fused
            errors = errors[fused >= fused.max() - 4 * np.finfo(np.float64).eps]
        else:
            errors = errors[:1]
        low, high = low + int(errors.min()), high + int(errors.max())
    return low, high


def surface_of(table: NBestTable) -> ErrorSurface:
    return error_surface(trace_steps(fusion_lines(table)), table.errors, table.reference_words)


def check(seed: int, alphas: np.ndarray) -> int:
    """Compare at `alphas` and around every breakpoint; return how many alphas only rounding decides."""
    table = build_table(random_utterances(np.random.default_rng(seed)), normalizer("notebook"))
    surface = surface_of(table)
    inner = surface.breakpoints
    near = np.concatenate([inner, inner - 1e-9, inner + 1e-9])
    near = near[(near >= 0.0) & (near <= 1.0)]
    undecided = 0
    expected = brute_force_errors_of_many(table, alphas).tolist()
    expected += [brute_force_errors(table, float(alpha)) for alpha in near]
    for alpha, errors in zip(np.concatenate([alphas, near]), expected, strict=True):
        found = surface.errors_at(float(alpha))
        if found != errors:
            low, high = errors_within_rounding(table, float(alpha))
            assert low <= found <= high, (seed, alpha)
            assert low < high, (seed, alpha)
            undecided += 1
    grid = np.round(np.arange(0, 1.05, 0.05), 2)
    assert surface.best_errors <= brute_force_errors_of_many(table, grid).min()
    return undecided


@pytest.mark.parametrize("seed", range(60))
def test_surface_equals_brute_force(seed: int) -> None:
    assert check(seed, np.linspace(0.0, 1.0, 101)) == 0


@pytest.mark.slow
def test_surface_equals_brute_force_on_1000_files_at_2001_alphas() -> None:
    """Ties included. The exception: lines so nearly parallel that no float64 fused score tells them apart."""
    undecided = [check(seed, np.linspace(0.0, 1.0, 2001)) for seed in range(1000)]
    assert sum(undecided) <= 5  # of more than two million comparisons
