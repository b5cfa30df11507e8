"""Probability of no speech: read with the prompt, or by a run of its own where the language is asked for."""

from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from export import cli as export_cli
from export import random_checkpoints as architectures
from runtime.audio.segmentation import Segment
from runtime.pipeline import MultimodalASR
from runtime.recognizer import Utterance
from runtime.whisper.beam_search import beam_search
from runtime.whisper.decoder import OnnxStepDecoder
from runtime.whisper.first_position import ReadWithPrompt
from tests.runtime.test_whisper_model import exported, search
from tests.tools.reference_generate import random_case

TOKEN = 7  # stands for <|nospeech|>


def reference_probability(case):
    """Return the probability of `TOKEN` after the first token of each prompt, (N,), by PyTorch."""
    with torch.no_grad():
        logits = case.model(
            torch.from_numpy(case.features), decoder_input_ids=torch.from_numpy(case.prompts)
        ).logits
    return logits[:, 0].softmax(dim=-1)[:, TOKEN].numpy()


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_read_with_the_prompt_and_changes_no_list(seed, timestamps, tmp_path, monkeypatch):
    """Prompts of one to four tokens, one to seven utterances, one beam among others."""
    case = random_case(seed, timestamps=timestamps)
    model = exported(case, tmp_path, monkeypatch, "fp32")
    into = np.full(len(case.prompts), np.nan, np.float32)
    lists = beam_search(
        ReadWithPrompt(model.step_decoder(model.encode(case.features)), TOKEN, into),
        case.prompts,
        case.settings,
        case.rules,
        eos_token_id=case.model.config.eos_token_id,
        max_length=case.model.config.max_target_positions,
    )
    assert lists == search(model, case)
    np.testing.assert_allclose(into, reference_probability(case), rtol=1e-4)


def sounding(asr, seconds=(1.0, 2.0, 1.5)):
    noise = np.random.default_rng(0).standard_normal(int(2 * asr.recognizer.sampling_rate))
    lengths = [int(each * asr.recognizer.sampling_rate) for each in seconds]
    return [Utterance(Segment(0, 0.05 * noise[:length].astype(np.float32)), None) for length in lengths]


def test_a_known_language_costs_no_run_of_its_own(pocket_asr, monkeypatch):
    """The pocket checkpoint knows English only; utterances of a batch get what they get alone."""
    prompts = []
    run = OnnxStepDecoder._run
    monkeypatch.setattr(
        OnnxStepDecoder, "_run", lambda self, asked: prompts.append(asked.tokens) or run(self, asked)
    )
    utterances = sounding(pocket_asr)
    together = [each.no_speech_prob for each in pocket_asr.recognizer.recognise(utterances)]
    start, *rest = pocket_asr.whisper.tokens.prompt(None)
    assert prompts[0].tolist() == [[start, *rest]] * len(utterances)
    alone = [pocket_asr.recognizer.recognise([each])[0].no_speech_prob for each in utterances]
    whisper = pocket_asr.whisper
    features = whisper.features([each.segment.waveform for each in utterances])
    own_run, languages = astuple(whisper.first_position(whisper.encode(features)))
    assert languages is None
    np.testing.assert_allclose(together, own_run, rtol=1e-4)
    np.testing.assert_allclose(alone, own_run, rtol=1e-4)
    assert 0.0 < min(together) < max(together) < 1.0


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """A miniature with random weights, and the languages and the vocabulary of the published checkpoints."""
    output = tmp_path_factory.mktemp("multilingual") / "bundle"
    sizes = {
        "WHISPER": {"whisper-miniature": architectures.WhisperDimensions(64, 1, 1)},
        "CLIP": {"clip-miniature": (64, 1, 64, 1, 32, 64)},
    }
    arguments = ["--architecture", "whisper-miniature", "--clip-architecture", "clip-miniature"]
    with pytest.MonkeyPatch.context() as patch:
        for name, table in sizes.items():
            patch.setattr(architectures, name, table)
        assert export_cli.main([*arguments, "--output", str(output), "--precision", "fp32"]) == 0
    return MultimodalASR(output, providers="cpu", threads=1, num_beams=2, max_new_tokens=4, speech_gate=None)


@pytest.mark.parametrize("known", [(), (1,)], ids=["all are detected", "one is known"])
def test_where_the_language_is_detected_the_probability_is_read_with_it(multilingual, known):
    utterances = sounding(multilingual)
    whisper = multilingual.whisper
    features = whisper.features([each.segment.waveform for each in utterances])
    probabilities, languages = astuple(whisper.first_position(whisper.encode(features)))
    assert 0.0 < probabilities.min() < probabilities.max() < 1.0
    for place in known:
        utterances[place] = replace(utterances[place], language="tr")
        languages[place] = "tr"
    found = multilingual.recognizer.recognise(utterances)
    np.testing.assert_allclose([each.no_speech_prob for each in found], probabilities, rtol=1e-4)
    assert [each.language for each in found] == languages


def test_a_checkpoint_without_the_token_has_no_probability(pocket_bundle):
    asr = MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1)
    asr.whisper.tokens = replace(asr.whisper.tokens, no_speech_id=None)
    assert {each.no_speech_prob for each in asr.recognizer.recognise(sounding(asr))} == {None}
