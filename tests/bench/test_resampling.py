"""Bootstrap: arithmetic, determinism, and coverage where the truth is known."""

import numpy as np
import pytest

from bench.nbest.records import NBestUtterance
from bench.tuning.resampling import Replicas, bootstrap, resampling_units, small_sample_statements, t_quantile


def speakers_of(*names: str | None) -> list[NBestUtterance]:
    return [NBestUtterance(str(i), "", speaker=name) for i, name in enumerate(names)]


def test_units_are_speakers_only_where_they_tell_something() -> None:
    assert resampling_units(speakers_of("a", "b", "a")).kind == "speaker"
    assert resampling_units(speakers_of("a", "b", "a")).index.tolist() == [0, 1, 0]
    assert resampling_units(speakers_of("a", "a", "a")).kind == "utterance"
    assert resampling_units(speakers_of("a", "b", "c")).kind == "utterance"
    assert resampling_units(speakers_of("a", "b", None, "a")).kind == "utterance"


def test_replicas_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    errors, words = rng.integers(0, 5, (7, 2)).astype(float), rng.integers(1, 9, 7).astype(float)
    replicas = bootstrap(errors, words, replicates=50, seed=11)
    draws = np.random.default_rng(11).integers(0, 7, size=(50, 7))
    for row, drawn in enumerate(draws):
        total = words[drawn].sum()
        ratio = errors[drawn].sum(axis=0) / total
        residuals = errors[drawn] - ratio * words[drawn][:, np.newaxis]
        error = np.sqrt((residuals**2).sum(axis=0) * 7 / 6) / total
        # Sums of moments instead of sums of residuals: cancellation costs a few digits of float64.
        np.testing.assert_allclose(replicas.ratios[row], ratio, rtol=1e-12)
        np.testing.assert_allclose(replicas.standard_errors[row], error, rtol=1e-6, atol=1e-9)
    again = bootstrap(errors, words, replicates=50, seed=11)
    assert np.array_equal(again.ratios, replicas.ratios)


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.706205), (2, 4.302653), (7, 2.364624), (100, 1.983972)]
)
def test_t_quantile_equals_tables(degrees: int, expected: float) -> None:
    assert t_quantile(0.975, degrees) == pytest.approx(expected, abs=1e-5)


def test_one_and_two_units() -> None:
    one = bootstrap(np.array([[1.0]]), np.array([2.0]), 100, 0).interval(0, 0.95)
    assert (one.estimate, one.low, one.high, one.method) == (0.5, None, None, "none")
    two = bootstrap(np.array([[1.0], [0.0]]), np.array([2.0, 2.0]), 100, 0).interval(0, 0.95, lowest=0.0)
    assert (two.method, two.low) == ("t", 0.0)
    assert two.high is not None
    assert two.high > 1.0


def test_no_difference_has_an_empty_interval() -> None:
    replicas = bootstrap(np.zeros((20, 1)), np.ones(20), 200, 0)
    interval = replicas.interval(0, 0.95)
    assert (interval.low, interval.high) == (0.0, 0.0)


def test_small_samples_are_called_small() -> None:
    units = resampling_units(speakers_of("a", "b", "a"))
    assert any("Small sample: 3 utterances" in s for s in small_sample_statements(units, 3, 20))
    assert any("Only 2 speakers" in s for s in small_sample_statements(units, 3000, 20_000))
    assert any("One utterance only" in s for s in small_sample_statements(units, 1, 5))
    many = resampling_units(speakers_of(*(None,) * 200))
    assert small_sample_statements(many, 200, 2000) == []


def simulate(
    rng: np.random.Generator, units: int, per_unit: int, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of two systems and words of every unit; speakers differ by `spread` in log-odds of an error."""
    odds = np.log(0.25 / 0.75) + spread * rng.normal(size=(units, 1))
    words = rng.integers(3, 12, size=(units, per_unit))
    first = rng.binomial(words, 1.0 / (1.0 + np.exp(-odds)))
    second = first - rng.binomial(first, 0.25) + rng.binomial(words - first, 0.03)
    errors = np.stack([first.sum(1), (second - first).sum(1)], axis=1)
    return errors.astype(np.float64), words.sum(1).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("units", "per_unit", "spread"),
    [(60, 1, 0.0), (240, 1, 0.5), (6, 30, 0.5), (8, 20, 0.0), (8, 30, 0.8), (12, 20, 0.8), (30, 10, 0.5)],
)
def test_coverage_of_the_95_percent_interval(units: int, per_unit: int, spread: float) -> None:
    """WER and its difference between two systems, utterances or speakers resampled.

    2,000 data sets: the share covered is known to ±1 percentage point (two standard errors).
    """
    rng = np.random.default_rng(units + per_unit)
    errors, words = simulate(rng, 200_000, per_unit, spread)
    truth = errors.sum(axis=0) / words.sum()
    covered = np.zeros(2)
    data_sets = 2000
    for seed in range(data_sets):
        replicas: Replicas = bootstrap(*simulate(rng, units, per_unit, spread), replicates=1000, seed=seed)
        for column in range(2):
            interval = replicas.interval(column, 0.95)
            assert interval.low is not None
            assert interval.high is not None
            covered[column] += interval.low <= truth[column] <= interval.high
    share = covered / data_sets
    assert ((share >= 0.92) & (share <= 0.98)).all(), share
