"""`fusion.json`: what was tuned is what is used, and nothing else is."""

import json
import logging
import math

import numpy as np
import pytest

from runtime import MultimodalASR
from runtime.commands.main import main
from runtime.errors import BundleError, SettingsError
from runtime.fusion import fuse
from runtime.fusion_settings import FEATURES, Confidence, FusionSettings, confidence_features
from runtime.results import Hypothesis
from tests.conftest import POCKET

IMAGE = next((POCKET / "data" / "test" / "images").iterdir())
AUDIO = next((POCKET / "data" / "test" / "audio").iterdir())
SURE = Confidence((1.0, 0.5, 2.0, 0.25, -1.0), 0.1)


def test_what_is_written_is_read(tmp_path):
    written = FusionSettings(
        0.25,
        "sum",
        0.5,
        50.0,
        "words",
        "english",
        {"name": "b", "sha256": "ab"},
        Confidence((1.0,) * 5, -2.0),
    )
    assert FusionSettings.load(written.save(tmp_path / "fusion.json")) == written
    plain = FusionSettings()
    assert FusionSettings.load(plain.save(tmp_path / "plain.json")) == plain


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": "high"}, "alpha"),
        ({"clip_scale": 0}, "clip_scale"),
        ({"asr_temperature": True}, "asr_temperature"),
        ({"asr_score": "max"}, "asr_score"),
        ({"distinct": "letters"}, "distinct"),
        ({"schema": "earsight.fusion/0"}, "no fusion.json of this version"),
        ({"more": 1}, "tune again"),
        ({"confidence": {"weights": [1.0], "bias": 0.0}}, "confidence"),
        ({"confidence": {"weights": [1.0] * 5}}, "tune again"),
        ({"confidence": {"weights": ["a"] * 5, "bias": 0.0}}, "confidence"),
    ],
)
def test_a_damaged_file_is_refused_with_its_name(tmp_path, change, complaint):
    path = FusionSettings().save(tmp_path / "fusion.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SettingsError, match=complaint) as caught:
        FusionSettings.load(path)
    assert str(path) in str(caught.value)


def test_a_key_given_twice_is_refused(tmp_path):
    path = FusionSettings(alpha=0.25).save(tmp_path / "fusion.json")
    path.write_text(path.read_text().replace("{", '{"alpha": 0.5,', 1))
    with pytest.raises(BundleError, match=r"fusion\.json .*the key 'alpha' is there twice"):
        FusionSettings.load(path)


def test_a_missing_file_and_one_that_is_no_json(tmp_path):
    with pytest.raises(SettingsError, match="no such file"):
        FusionSettings.load(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(BundleError, match=r"broken\.json"):
        FusionSettings.load(tmp_path / "broken.json")


def test_features_are_of_the_first_text():
    scores, cosines = [-0.2, -0.4, -0.9], [0.2, 0.26, 0.1]
    fused = fuse(scores, cosines, 0.5)
    first = int(fused.fused.argmax())
    assert first == 1
    found = dict(zip(FEATURES, confidence_features(scores, fused), strict=True))
    assert found["asr_score"] == -0.4
    assert found["log_fused"] == pytest.approx(math.log(fused.fused[1]))
    assert found["margin"] == pytest.approx(fused.fused[1] - np.sort(fused.fused)[1])
    assert (found["asr_probability"], found["clip_probability"]) == (fused.asr[1], fused.clip[1])
    assert confidence_features([-1.0], fuse([-1.0], [0.1], 0.3))[2] == 1.0


def test_confidence_is_a_probability():
    assert Confidence((0.0,) * 5, 0.0).probability([9.0] * 5) == 0.5
    assert 0.0 <= Confidence((1e6,) * 5, 0.0).probability([-9.0] * 5) < 1e-9
    assert Confidence((1.0, 0, 0, 0, 0), 1.0).probability([1.0, 0, 0, 0, 0]) == pytest.approx(
        1 / (1 + math.exp(-2))
    )


@pytest.fixture
def open_asr(pocket_bundle):
    def make(**settings):
        return MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1, **settings)

    return make


def test_the_pipeline_fuses_as_it_was_tuned(open_asr, pocket_bundle, tmp_path):
    tuned = FusionSettings(0.6, "sum", 2.0, 25.0, "words", bundle={"sha256": pocket_bundle.digest})
    asr = open_asr(fusion=tuned.save(tmp_path / "fusion.json"))
    assert (asr.alpha, asr.search.distinct) == (0.6, "words")
    found = asr.generate_nbest(AUDIO)
    embedding = asr.encode_images([IMAGE])[0]
    rescored = {each.text: each for each in asr.rescore(found, embedding)}
    cosines = [rescored[each.text].clip_score for each in found]
    expected = fuse(
        [each.score * len(each.tokens) for each in found], cosines, 0.6, asr_temperature=2.0, clip_scale=25.0
    )
    np.testing.assert_allclose([rescored[each.text].fused_score for each in found], expected.fused, rtol=1e-6)
    assert open_asr(fusion=tuned, alpha=0.1, distinct="tokens").alpha == 0.1
    with pytest.raises(SettingsError, match="no tokens"):
        asr.rescore([Hypothesis("a bear", -0.1)], embedding)


def test_another_bundle_or_other_lists_are_warned_of(open_asr, pocket_bundle, caplog):
    with caplog.at_level(logging.WARNING):
        open_asr(fusion=FusionSettings(bundle={"name": "b", "sha256": pocket_bundle.digest}))
        assert caplog.text == ""
        open_asr(fusion=FusionSettings(bundle={"name": "other", "sha256": "0" * 64}))
        assert "tuned with another bundle (other" in caplog.text
        caplog.clear()
        open_asr(fusion=FusionSettings(distinct="words"), distinct="tokens")
        assert "differ in words; these differ in tokens" in caplog.text


def test_confidence_is_given_where_it_was_calibrated(open_asr):
    asr = open_asr(fusion=FusionSettings(0.3, confidence=SURE))
    result = asr.transcribe(AUDIO, image_path=IMAGE)
    scores = {each.text: each.score for each in asr.generate_nbest(AUDIO)}
    order = list(scores)
    cosine = {each.text: each.clip_score for each in result.hypotheses}
    fused = fuse(list(scores.values()), [cosine[text] for text in order], 0.3)
    expected = SURE.probability(confidence_features(list(scores.values()), fused))
    assert result.confidence == pytest.approx(expected)
    assert result.to_dict()["confidence"] == result.confidence
    assert asr.transcribe(AUDIO).confidence is None
    assert asr.transcribe(AUDIO, image_path=IMAGE, alpha=0.9).confidence is None
    assert "confidence" not in open_asr().transcribe(AUDIO, image_path=IMAGE).to_dict()


def test_the_command_line_takes_it(pocket_bundle, tmp_path, capsys):
    path = FusionSettings(0.9, distinct="words").save(tmp_path / "fusion.json")
    given = ["transcribe", str(AUDIO), "--image", str(IMAGE), "--bundle", str(pocket_bundle.folder), "--json"]
    assert main([*given, "--fusion", str(path)]) == 0
    assert json.loads(capsys.readouterr().out)["alpha"] == 0.9
    assert main([*given, "--fusion", str(tmp_path / "none")]) == 2
    assert "no such file" in capsys.readouterr().err
