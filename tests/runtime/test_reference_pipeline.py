"""A whole recognition against PyTorch: the reference n-best call, then the formulas, on every test utterance.

The reference is written from the formulas with transformers' own feature extractor, tokenizers, image
processor and models; it shares no code with the runtime but the caption style, which has tests of its own.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizerFast,
    GenerationMixin,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)
from transformers.generation import (
    LogitsProcessorList,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from bench.manifest import Utterance, read_manifest
from runtime.fusion import to_caption_style
from runtime.pipeline import MultimodalASR
from tests.conftest import POCKET

ALPHA = 0.05
BEAMS = 5
BATCH = 24
# Sums of a dozen float32 log-probabilities in another order, then a softmax of 100 cosines, which multiplies
# differences of a few 1e-7 by 100.
TOLERANCE = 1e-3


@dataclass
class Reference:
    """What PyTorch says of one utterance: texts and scores in ASR order, fused scores of the same."""

    texts: list[str]
    scores: list[float]
    fused: np.ndarray


@pytest.fixture(scope="module")
def utterances() -> list[Utterance]:
    return read_manifest(POCKET / "data" / "test" / "manifest.jsonl")


@pytest.fixture(scope="module")
def references(utterances: list[Utterance]) -> list[Reference]:
    found = []
    recognise, fuse = _Recogniser(), _Fuser()
    for start in range(0, len(utterances), BATCH):
        batch = utterances[start : start + BATCH]
        for utterance, (texts, scores) in zip(batch, recognise(batch), strict=True):
            found.append(Reference(texts, scores, fuse(utterance, texts, scores)))
    return found


class _Recogniser:
    """Notebook steps on the mixin's beam search: decode, strip, lower-case, drop duplicates, sort."""

    def __init__(self) -> None:
        folder = POCKET / "models" / "whisper"
        self.model = WhisperForConditionalGeneration.from_pretrained(folder).float().eval()
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = WhisperTokenizerFast.from_pretrained(folder)
        settings = self.model.generation_config
        self.prompt = [settings.decoder_start_token_id, settings.no_timestamps_token_id]
        self.rules = LogitsProcessorList(
            [
                SuppressTokensLogitsProcessor(settings.suppress_tokens),
                SuppressTokensAtBeginLogitsProcessor(settings.begin_suppress_tokens, len(self.prompt)),
            ]
        )
        self.length = min(settings.max_length, self.model.config.max_target_positions) - len(self.prompt)

    def __call__(self, batch: list[Utterance]) -> list[tuple[list[str], list[float]]]:
        audio = [soundfile.read(utterance.audio, dtype="float32")[0] for utterance in batch]
        features = self.extractor(audio, sampling_rate=16000, return_tensors="pt").input_features
        with torch.inference_mode():
            output = GenerationMixin.generate(
                self.model,
                features,
                decoder_input_ids=torch.tensor([self.prompt] * len(batch)),
                num_beams=BEAMS,
                num_return_sequences=BEAMS,
                max_new_tokens=self.length,
                logits_processor=self.rules,
                return_dict_in_generate=True,
                output_scores=True,
            )
        texts = self.tokenizer.batch_decode(output.sequences, skip_special_tokens=True)
        scores = output.sequences_scores.tolist()
        return [
            self._distinct(texts[i : i + BEAMS], scores[i : i + BEAMS]) for i in range(0, len(texts), BEAMS)
        ]

    @staticmethod
    def _distinct(texts: list[str], scores: list[float]) -> tuple[list[str], list[float]]:
        best: dict[str, float] = {}
        for text, score in zip(texts, scores, strict=True):
            best.setdefault(text.strip().lower(), score)
        ordered = sorted(best.items(), key=lambda item: -item[1])
        return [text for text, _ in ordered], [score for _, score in ordered]


class _Fuser:
    def __init__(self) -> None:
        folder = POCKET / "models" / "clip"
        self.model = CLIPModel.from_pretrained(folder).float().eval()
        self.tokenizer = CLIPTokenizerFast.from_pretrained(folder)
        self.processor = CLIPImageProcessor.from_pretrained(folder)

    def __call__(self, utterance: Utterance, texts: list[str], scores: list[float]) -> np.ndarray:
        captions = [to_caption_style(text) for text in texts]
        tokens = self.tokenizer(captions, return_tensors="pt", padding=True, truncation=True)
        pixels = self.processor(images=Image.open(utterance.image).convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            text = torch.nn.functional.normalize(self.model.get_text_features(**tokens), dim=-1)
            image = torch.nn.functional.normalize(self.model.get_image_features(**pixels), dim=-1)
        cosines = (text @ image.T).squeeze(1).double()
        asr = torch.tensor(scores, dtype=torch.float64).softmax(0)
        return ((1 - ALPHA) * asr + ALPHA * (100 * cosines).softmax(0)).numpy()


def test_every_test_utterance_equals_pytorch(
    pocket_asr: MultimodalASR, utterances: list[Utterance], references: list[Reference]
) -> None:
    assert len(utterances) >= 240
    for utterance, reference in zip(utterances, references, strict=True):
        ours = pocket_asr.generate_nbest(utterance.audio)
        _require_same_order(
            [h.text for h in ours], [h.score for h in ours], reference.texts, reference.scores
        )
        expected = dict(zip(reference.texts, reference.fused, strict=True))
        result = pocket_asr.transcribe(utterance.audio, image_path=utterance.image, alpha=ALPHA)
        assert result.mode == "multimodal"
        for hypothesis in result.hypotheses:
            assert abs(hypothesis.fused_score - expected[hypothesis.text]) < TOLERANCE, utterance.id
        order = sorted(expected, key=lambda text: -expected[text])
        fused = [hypothesis.fused_score for hypothesis in result.hypotheses]
        _require_same_order(
            [h.text for h in result.hypotheses], fused, order, [float(expected[text]) for text in order]
        )


def _require_same_order(
    ours: list[str], our_scores: list[float], theirs: list[str], their_scores: list[float]
) -> None:
    """Same texts, order and scores; neighbours closer than rounding may change places."""
    assert sorted(ours) == sorted(theirs)
    for text, score in zip(ours, our_scores, strict=True):
        assert abs(score - their_scores[theirs.index(text)]) < TOLERANCE
    for text, other, score in zip(ours, theirs, their_scores, strict=True):
        assert text == other or abs(their_scores[theirs.index(text)] - score) < 2e-6


def test_a_batch_gives_the_lists_of_one_by_one(
    pocket_asr: MultimodalASR, utterances: list[Utterance]
) -> None:
    # A larger batch may sum the rows of a product in another order: a few units in the last place.
    audios = [utterance.audio for utterance in utterances[:7]]
    for together, audio in zip(pocket_asr.generate_nbest_batch(audios), audios, strict=True):
        alone = pocket_asr.generate_nbest(audio)
        assert [h.tokens for h in together] == [h.tokens for h in alone]
        np.testing.assert_allclose([h.score for h in together], [h.score for h in alone], atol=1e-5)


def test_the_picture_lowers_the_error_rate_and_a_wrong_one_does_not(
    utterances: list[Utterance], references: list[Reference]
) -> None:
    # The demo's claim on PyTorch alone: at this alpha the right pictures help.
    from bench.text.scoring import count_word_errors

    speech = [reference.texts[0] for reference in references]
    fused = [reference.texts[int(reference.fused.argmax())] for reference in references]
    truth = [utterance.reference for utterance in utterances]
    errors = [int(count_word_errors(truth, texts).errors.sum()) for texts in (speech, fused)]
    assert errors[1] < 0.9 * errors[0]
