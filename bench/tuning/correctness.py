"""How sure the first text is: a probability fitted on the tuning data, and what it is worth on other data.

A logistic regression on five features of a fused list (`runtime.fusion_settings.confidence_features`) with a
ridge, so that few utterances do not make it overconfident. It is assessed by its Brier score, by the expected
calibration error, and by a reliability table: of ten texts with confidence 0.8, are eight right?
"""

from typing import Any, Final, NamedTuple

import numpy as np

from bench.nbest.table import FloatArray, NBestTable
from runtime.fusion_settings import FEATURES, Confidence, FusionSettings, confidence_features

FEWEST: Final = 50  # utterances, below which nothing is fitted
FEWEST_OF_A_KIND: Final = 5  # right ones, and wrong ones
RIDGE: Final = 1.0  # of the weights of standardised features
BINS: Final = 10
STEPS: Final = 50  # of Newton's method, which needs about ten


class Samples(NamedTuple):
    """The fused lists of the utterances with a picture.

    Attributes:
        features: Of each list, (n, 5); `FEATURES` names them.
        right: 1 where the first text is right word for word, else 0, (n,).
    """

    features: FloatArray
    right: FloatArray


def fused_samples(table: NBestTable, fusion: FusionSettings) -> Samples:
    """Fuse every list that has a picture, as the runtime does."""
    features, right = [], []
    for row in np.flatnonzero(table.has_image):
        part = slice(int(table.first[row]), int(table.first[row + 1]))
        fused = fusion.fuse(table.scores[part], table.cosines[part], fusion.alpha)
        features.append(confidence_features(table.scores[part], fused))
        right.append(float(table.errors[part][int(fused.fused.argmax())] == 0))
    return Samples(np.array(features, dtype=np.float64), np.array(right, dtype=np.float64))


def fit_confidence(samples: Samples) -> tuple[Confidence | None, str | None]:
    """Fit the confidence to the tuning data.

    Returns:
        It and None, or None and the reason.
    """
    features, right = samples
    if len(right) < FEWEST:
        return None, f"{len(right)} utterances have a picture; {FEWEST} are needed"
    kinds = int(right.sum()), int((1 - right).sum())
    if min(kinds) < FEWEST_OF_A_KIND:
        return (
            None,
            f"{kinds[0]} first texts are right and {kinds[1]} wrong; {FEWEST_OF_A_KIND} each are needed",
        )
    mean, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-9] = 1.0
    inputs = np.column_stack([(features - mean) / spread, np.ones(len(features))])
    ridge = np.diag([RIDGE] * len(FEATURES) + [0.0])
    weights = np.zeros(inputs.shape[1])
    for _ in range(STEPS):
        probability = 1.0 / (1.0 + np.exp(-inputs @ weights))
        gradient = inputs.T @ (probability - right) + ridge @ weights
        curvature = (inputs * (probability * (1.0 - probability))[:, None]).T @ inputs + ridge
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(weights)), gradient)
        weights -= step
        if np.abs(step).max() < 1e-9:
            break
    scaled = weights[:-1] / spread
    return Confidence(tuple(map(float, scaled)), float(weights[-1] - scaled @ mean)), None


def assess_correctness(samples: Samples, confidence: Confidence | None) -> dict[str, Any] | None:
    """Return what the confidence is worth on data; None where there is none, or no picture.

    Returns:
        `utterances`, `brier` (0 is perfect), `brier_constant` (of always saying the share that is right),
        `calibration_error` (mean distance of confidence and share that is right over ten equally filled
        bins, weighted) and `bins`, each with its mean confidence, share right and count.
    """
    features, right = samples
    if confidence is None or not len(right):
        return None
    said = np.array([confidence.probability(row) for row in features.tolist()])
    order = np.argsort(said, kind="stable")
    bins = [
        {
            "confidence": float(said[part].mean()),
            "right": float(right[part].mean()),
            "utterances": len(part),
        }
        for part in np.array_split(order, min(BINS, len(order)))
    ]
    error = sum(abs(b["confidence"] - b["right"]) * b["utterances"] for b in bins) / len(right)
    return {
        "utterances": len(right),
        "right": float(right.mean()),
        "brier": float(np.mean((said - right) ** 2)),
        "brier_constant": float(right.mean() * (1.0 - right.mean())),
        "calibration_error": error,
        "bins": bins,
    }
