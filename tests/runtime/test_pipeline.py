import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from runtime import Hypothesis, MultimodalASR
from runtime.audio.load import load_audio
from runtime.errors import (
    AudioError,
    AudioNotFoundError,
    EarsightError,
    ImageCacheError,
    ImageError,
    SettingsError,
)
from runtime.recognizer import LEAST_TOKENS
from runtime.whisper.decoder import OnnxStepDecoder
from tests.conftest import ROOT

TEST_SET = ROOT / "bench" / "pocket" / "data" / "test"
ROWS = [json.loads(line) for line in (TEST_SET / "manifest.jsonl").read_text().splitlines()]
AUDIO, PICTURE = TEST_SET / ROWS[0]["audio"], TEST_SET / ROWS[0]["image"]


def pipeline(bundle, **options):
    return MultimodalASR(bundle, **{"precision": "fp32", "providers": "cpu", "threads": 1, **options})


def test_path_bytes_file_and_waveform_give_one_answer(pocket_asr):
    waveform, rate = soundfile.read(AUDIO, dtype="float32")
    expected = pocket_asr.generate_nbest(AUDIO)
    with AUDIO.open("rb") as file:
        for source in (str(AUDIO), AUDIO.read_bytes(), file):
            assert pocket_asr.generate_nbest(source) == expected
    for source in (waveform, np.stack([waveform, waveform], axis=1), waveform.astype(np.float64)):
        assert pocket_asr.generate_nbest(source, sr=rate) == expected


def test_nbest_lists_are_distinct_sorted_and_clean(pocket_asr):
    for row in ROWS[:10]:
        nbest = pocket_asr.generate_nbest(TEST_SET / row["audio"])
        texts, scores = [h.text for h in nbest], [h.score for h in nbest]
        assert 1 <= len(nbest) <= pocket_asr.search.num_beams
        assert len(set(texts)) == len(texts)
        assert scores == sorted(scores, reverse=True)
        assert all(text == text.strip().lower() and "<|" not in text for text in texts)
        assert all(h.tokens for h in nbest)


@pytest.mark.parametrize("beams", [1, 2, 8])
def test_num_beams_limits_the_list(pocket_bundle, beams):
    nbest = pipeline(pocket_bundle, num_beams=beams).generate_nbest(AUDIO)
    assert 1 <= len(nbest) <= beams


def test_a_list_may_be_shorter_than_there_are_beams(pocket_bundle):
    eight = pipeline(pocket_bundle, num_beams=8).generate_nbest(AUDIO)
    assert pipeline(pocket_bundle, num_beams=8, num_hypotheses=3).generate_nbest(AUDIO) == eight[:3]
    with pytest.raises(SettingsError, match="num_hypotheses is 9"):
        pipeline(pocket_bundle, num_beams=8, num_hypotheses=9)


def test_a_batch_of_none(pocket_asr):
    assert pocket_asr.generate_nbest_batch([]) == []


def test_modes(pocket_asr):
    speech = pocket_asr.transcribe(AUDIO)
    assert (speech.mode, speech.alpha, speech.warning) == ("asr_only", None, None)
    assert speech.transcription == speech.hypotheses[0].text
    assert set(speech.to_dict()) == {"transcription", "hypotheses", "mode"}

    seen = pocket_asr.transcribe(AUDIO, image_path=PICTURE, alpha=0.5)
    assert (seen.mode, seen.alpha, seen.warning) == ("multimodal", 0.5, None)
    assert {h.text for h in seen.hypotheses} == {h.text for h in speech.hypotheses}
    assert sum(h.asr_score for h in seen.hypotheses) == pytest.approx(1.0)
    assert sum(h.fused_score for h in seen.hypotheses) == pytest.approx(1.0)
    assert set(seen.to_dict()) == {"transcription", "hypotheses", "mode", "alpha"}
    assert set(seen.to_dict()["hypotheses"][0]) == {"text", "asr_score", "clip_score", "fused_score"}


def test_a_picture_that_is_not_there_gives_a_warning(pocket_asr, tmp_path):
    for options in ({"image_id": "nowhere.png"}, {"image_path": tmp_path / "nowhere.png"}):
        result = pocket_asr.transcribe(AUDIO, **options)
        assert result.mode == "asr_only"
        assert "Image not found" in result.warning
        assert "nowhere.png" in result.warning
        assert result.transcription == pocket_asr.transcribe(AUDIO).transcription


def test_a_picture_that_is_none_is_a_fault(pocket_asr, tmp_path):
    (tmp_path / "note.png").write_text("not a picture")
    with pytest.raises(ImageError):
        pocket_asr.transcribe(AUDIO, image_path=tmp_path / "note.png")


def test_alpha_0_is_speech_alone_and_alpha_1_the_picture_alone(pocket_asr):
    for row in ROWS[:5]:
        nbest = pocket_asr.generate_nbest(TEST_SET / row["audio"])
        embedding = pocket_asr.encode_images([TEST_SET / row["image"]])[0]
        assert [h.text for h in pocket_asr.rescore(nbest, embedding, 0.0)] == [h.text for h in nbest]
        by_picture = pocket_asr.rescore(nbest, embedding, 1.0)
        cosines = [h.clip_score for h in by_picture]
        assert cosines == sorted(cosines, reverse=True)


def test_caption_style_reaches_clip_and_not_the_text(pocket_asr):
    embedding = pocket_asr.encode_images([PICTURE])[0]
    (styled,) = pocket_asr.rescore([Hypothesis("um a bear", -0.1)], embedding)
    (plain,) = pocket_asr.rescore([Hypothesis("um a bear", -0.1)], embedding, caption_style=False)
    assert styled.text == plain.text == "um a bear"
    expected = pocket_asr.clip_similarity(embedding, ["an image showing a bear", "a bear"])
    np.testing.assert_allclose([styled.clip_score, plain.clip_score], expected, atol=1e-6)
    assert pocket_asr.rescore([], embedding) == []


def test_texts_of_every_kind_are_rescored(pocket_asr):
    """Empty, only fillers, far over 77 tokens, emoji and other scripts: finite scores, the text unchanged."""
    embedding = pocket_asr.encode_images([PICTURE])[0]
    texts = [
        "",
        "um",
        "um uh you know",
        "bear",
        "a bear " * 200,
        "🐻🏽 👩‍👩‍👧",
        "медведь",
        "熊 熊",
        "ﷺ",
        "a\u0300\u0301",
    ]
    hypotheses = [Hypothesis(text, -0.1 * place) for place, text in enumerate(texts)]
    rescored = pocket_asr.rescore(hypotheses, embedding)
    assert sorted(h.text for h in rescored) == sorted(texts)
    assert sum(h.fused_score for h in rescored) == pytest.approx(1.0)
    assert all(-1.0001 <= h.clip_score <= 1.0001 for h in rescored)
    scores = {h.text: h.clip_score for h in rescored}
    assert scores[""] == scores["um"] == scores["um uh you know"]  # CLIP sees nothing of them


def test_a_cache_of_embeddings_is_used(pocket_bundle, pocket_asr):
    embedding = pocket_asr.encode_images([PICTURE])[0]
    cached = pipeline(pocket_bundle, image_cache={"scene": embedding})
    by_key = cached.transcribe(AUDIO, image_id="scene")
    assert by_key.to_dict() == pocket_asr.transcribe(AUDIO, image_path=PICTURE).to_dict()
    # A key that is not there falls back on the file.
    assert cached.transcribe(AUDIO, image_id="other", image_path=PICTURE).to_dict() == by_key.to_dict()


@pytest.mark.parametrize("cache", [{"scene": np.ones(3, np.float32)}, "nowhere.npz"])
def test_a_cache_that_does_not_fit_is_refused(pocket_bundle, cache):
    with pytest.raises(ImageCacheError):
        pipeline(pocket_bundle, image_cache=cache)


def test_an_embedding_of_another_model_is_refused(pocket_asr):
    with pytest.raises(SettingsError, match="3 values"):
        pocket_asr.rescore([Hypothesis("a bear", -0.1)], np.ones(3, np.float32))


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": -0.1},
        {"alpha": 1.1},
        {"alpha": float("nan")},
        {"alpha": "0.3"},
        {"alpha": True},
        {"num_beams": 0},
        {"num_beams": 2.5},
        {"precision": "fp64"},
        {"language": "klingon"},
        {"language": "de"},  # of an English-only checkpoint
        {"providers": "abacus"},
        {"threads": 0},
    ],
)
def test_unusable_settings_are_refused_when_opened(pocket_bundle, options):
    with pytest.raises(EarsightError):
        pipeline(pocket_bundle, **options)


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_is_verified_at_every_call(pocket_asr, alpha):
    with pytest.raises(SettingsError, match="alpha"):
        pocket_asr.transcribe(AUDIO, alpha=alpha)
    with pytest.raises(SettingsError, match="alpha"):
        pocket_asr.rescore([Hypothesis("a", 0.0)], np.zeros(pocket_asr.text_encoder.dimension), alpha)


def test_more_beams_than_the_vocabulary_feeds(pocket_bundle):
    with pytest.raises(SettingsError, match="beams"):
        pipeline(pocket_bundle, num_beams=100_000).generate_nbest(AUDIO)


def test_unusable_audio_is_refused(pocket_asr, tmp_path):
    with pytest.raises(AudioNotFoundError):
        pocket_asr.generate_nbest(tmp_path / "nowhere.wav")
    for samples in ([], [np.nan] * 16000):
        with pytest.raises(AudioError):
            pocket_asr.generate_nbest(np.array(samples, np.float32))


def test_silence_and_noise_are_answered(pocket_asr):
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    for waveform in (np.zeros(16000, np.float32), noise, np.zeros(1, np.float32)):
        nbest = pocket_asr.generate_nbest(waveform)
        assert all(np.isfinite(hypothesis.score) for hypothesis in nbest)


def test_two_pipelines_over_one_bundle_agree(pocket_bundle, pocket_asr):
    assert pipeline(pocket_bundle.folder).generate_nbest(AUDIO) == pocket_asr.generate_nbest(AUDIO)


def test_auto_is_the_language_that_nobody_names(pocket_bundle):
    asr = MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1, language=" Auto ")
    assert asr.language is None


# -- how long a text may be ---------------------------------------------------------------------------------


def test_the_most_tokens_follow_the_length_of_the_sound(pocket_bundle):
    asr = pipeline(pocket_bundle)
    samples, unknown = [0, 1, 32_000], [None] * 3
    assert asr.recognizer.most_tokens(samples, unknown) == [40, 41, 80]
    slower = pipeline(pocket_bundle, tokens_per_second=3.5).recognizer
    assert slower.most_tokens([32_000, 33_000], [None, None]) == [47, 48]
    assert slower.token_limit == {"least": 40, "en": 3.5, "other": 3.5}
    for options in ({"tokens_per_second": float("inf")}, {"max_new_tokens": 9}):
        free = pipeline(pocket_bundle, **options).recognizer
        assert (free.most_tokens(samples, unknown), free.token_limit) == (None, None)
    multilingual = SimpleNamespace(
        features=asr.whisper.features,
        tokens=SimpleNamespace(
            is_multilingual=True, languages={"en": 1}, prompt=lambda _: [0], max_length=448, vocab_size=99
        ),
    )
    recognizer = dataclasses.replace(asr.recognizer, whisper=multilingual)
    assert recognizer.most_tokens([32_000] * 3, ["en", "my", None]) == [80, 200, 200]


def test_a_limit_cuts_as_the_same_number_of_new_tokens_does(pocket_bundle, monkeypatch):
    audios = [TEST_SET / row["audio"] for row in ROWS[:6]]
    monkeypatch.setattr("runtime.recognizer.LEAST_TOKENS", 2)
    limited = pipeline(pocket_bundle, tokens_per_second=2.0)
    together = limited.generate_nbest_batch(audios)
    lengths = [limited.recognizer.most_tokens([load_audio(audio).size], [None])[0] for audio in audios]
    assert len(set(lengths)) > 1
    for audio, most, nbest in zip(audios, lengths, together, strict=True):
        assert limited.generate_nbest(audio) == nbest
        assert pipeline(pocket_bundle, max_new_tokens=most).generate_nbest(audio) == nbest
        assert max(len(hypothesis.tokens) for hypothesis in nbest) <= most
    # What is given goes before what is counted.
    assert pipeline(pocket_bundle, tokens_per_second=2.0, max_new_tokens=5).generate_nbest(audios[0]) == (
        pipeline(pocket_bundle, max_new_tokens=5).generate_nbest(audios[0])
    )


def test_a_loop_over_two_seconds_ends_long_before_the_checkpoint_does(pocket_bundle, monkeypatch):
    """A decoder that never ends a text: what a short clip can cost."""
    steps = []
    waveform = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    step = OnnxStepDecoder.step

    def endless(self, *arguments):
        log_probs, tokens = step(self, *arguments)
        steps.append(1)
        return np.where(tokens == end_of_text, -np.inf, log_probs).astype(np.float32), tokens

    asr = pipeline(pocket_bundle, tokens_per_second=10.0)
    end_of_text = asr.whisper.tokens.eos_token_id
    monkeypatch.setattr(OnnxStepDecoder, "step", endless)
    nbest = asr.generate_nbest(waveform)
    # One token is an end-of-text of the prompt's own step.
    assert {len(hypothesis.tokens) for hypothesis in nbest} - {1} == {LEAST_TOKENS + 20}
    assert len(steps) == LEAST_TOKENS + 20 - 1
    assert asr.whisper.tokens.max_length > LEAST_TOKENS + 20


def test_the_default_limit_changes_no_list(pocket_bundle):
    audios = [TEST_SET / row["audio"] for row in ROWS[:40]]
    free = pipeline(pocket_bundle, tokens_per_second=float("inf")).generate_nbest_batch(audios)
    assert pipeline(pocket_bundle).generate_nbest_batch(audios) == free


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), True])
def test_impossible_rates_are_refused(pocket_bundle, rate):
    with pytest.raises(SettingsError, match="tokens_per_second"):
        pipeline(pocket_bundle, tokens_per_second=rate)


@pytest.mark.parametrize("language", [5, False, ["en"]])
def test_a_language_that_is_no_text_is_refused_when_opened(pocket_bundle, language):
    with pytest.raises(SettingsError, match=r"language is .*expected a code or name in quotes"):
        pipeline(pocket_bundle, language=language)
