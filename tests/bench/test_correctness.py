"""The confidence of the first text: fitted on data where the truth is known, and assessed."""

import numpy as np
import pytest

from bench.nbest.file import NBestFile
from bench.nbest.records import NBestHeader, NBestHypothesis, NBestUtterance
from bench.nbest.table import build_table
from bench.text.normalizers import normalizer
from bench.tuning.alpha import tune
from bench.tuning.correctness import FEWEST, assess_correctness, fit_confidence, fused_samples
from bench.tuning.options import TuneOptions
from runtime.fusion_settings import FusionSettings


def utterances(count, seed=0, picture=True):
    """Lists whose first text is right the more often, the further it is ahead of the second."""
    random = np.random.default_rng(seed)
    made = []
    for i in range(count):
        ahead = random.uniform(0.0, 4.0)
        right = random.random() < 1.0 / (1.0 + np.exp(2.0 - 1.5 * ahead))
        clip = (0.2, 0.2) if picture else (None, None)
        texts = ("a bear", "a pear") if right else ("a pear", "a bear")
        made.append(
            NBestUtterance(
                f"u{i}",
                "a bear",
                hypotheses=(
                    NBestHypothesis(text=texts[0], score=-0.1, clip_score=clip[0]),
                    NBestHypothesis(text=texts[1], score=-0.1 - ahead, clip_score=clip[1]),
                ),
            )
        )
    return tuple(made)


def table(count, seed=0, **more):
    return build_table(utterances(count, seed, **more), normalizer("words"))


def test_a_fitted_confidence_is_calibrated_on_other_data():
    fusion = FusionSettings(0.1)
    confidence, reason = fit_confidence(fused_samples(table(800), fusion))
    assert reason is None
    found = assess_correctness(fused_samples(table(2000, seed=1), fusion), confidence)
    assert found["calibration_error"] < 0.05
    assert found["brier"] < 0.8 * found["brier_constant"]
    assert sum(part["utterances"] for part in found["bins"]) == found["utterances"] == 2000
    said = [part["confidence"] for part in found["bins"]]
    assert said == sorted(said)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (table(FEWEST - 1), "have a picture"),
        (table(200, picture=False), "0 utterances have a picture"),
        (build_table([utterances(1)[0]] * 60, normalizer("words")), "wrong"),
    ],
)
def test_too_little_data_give_none_and_the_reason(data, why):
    samples = fused_samples(data, FusionSettings())
    confidence, reason = fit_confidence(samples)
    assert confidence is None
    assert why in reason
    assert assess_correctness(samples, confidence) is None


def test_tuning_writes_what_it_chose():
    header = NBestHeader({"name": "b", "sha256": "ab"}, {"distinct": "words"})
    development, test = (NBestFile(header, utterances(300, seed)) for seed in (3, 4))
    result = tune(development, TuneOptions(replicates=100), test)
    assert result.fusion.alpha == result.chosen_alpha
    assert result.fusion.distinct == "words"
    assert result.fusion.bundle == {"name": "b", "sha256": "ab"}
    assert result.correctness["reason"] is None
    assert result.correctness["test"]["utterances"] == 300
    assert result.to_dict()["fusion"]["confidence"]["bias"] == result.fusion.confidence.bias
