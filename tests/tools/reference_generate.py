"""The reference n-best: small random Whisper models and `GenerationMixin.generate` of transformers.

Used by the parity tests of the beam search and of the exported graphs:

    case = random_case(seed)
    ours = ...                       # list of hypotheses per utterance
    reference = reference_nbest(case)
    faults = compare_nbest(ours, reference)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
from transformers.generation import GenerationMixin, LogitsProcessorList, WhisperTimeStampLogitsProcessor
from transformers.generation.configuration_utils import GenerationMode

from runtime.whisper.beam_search import BeamSearchSettings, FinishedHypothesis, beam_search
from runtime.whisper.token_rules import TimestampRules, TokenRules

# Scores of unused places of the reference's pool; sums of real hypotheses are nowhere near.
UNREAL = -1e8

# The reference and the search add the same float32 numbers, but the decoders round differently
# (with and without a cache, other batch sizes): 1e-6 per log-probability, of which a score is the mean or,
# at length_penalty 0, the sum of a dozen.
SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """One random model with one random task."""

    seed: int
    model: WhisperForConditionalGeneration
    features: NDArray[np.float32]  # (N, mels, 2 * max_source_positions)
    prompts: NDArray[np.int64]  # (N, P)
    settings: BeamSearchSettings
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    timestamps: TimestampRules | None = None

    @property
    def rules(self) -> TokenRules:
        return TokenRules(self.model.config.vocab_size, self.suppress, self.begin_suppress, self.timestamps)

    def __str__(self) -> str:
        return (
            f"seed {self.seed}: N={len(self.prompts)} P={self.prompts.shape[1]} "
            f"V={self.model.config.vocab_size} suppress={len(self.suppress)} {self.settings}"
        )


def random_whisper(
    seed: int, *, vocab_size: int | None = None, eos_shift: float | None = None, timestamps: int = 0
) -> WhisperForConditionalGeneration:
    """Return a Whisper of random shape and weights (1-2 layers, d_model 16 or 32, 20 encoder positions).

    Args:
        seed: Fixes everything.
        vocab_size: Tokens, 20 to 60 by default: text, end-of-text (which also pads), start of prompt, and,
            where there are timestamps, `<|notimestamps|>` and those.
        eos_shift: Roughly what is added to the logit of end-of-text: ends early where positive.
        timestamps: Number of timestamp tokens.
    """
    random = np.random.default_rng(seed)
    size = int(random.integers(20, 61)) if vocab_size is None else vocab_size
    start = size - 1 - (timestamps + 1 if timestamps else 0)
    eos = start - 1
    heads = int(random.choice([2, 4]))
    width = int(random.choice([16, 32]))
    config = WhisperConfig(
        vocab_size=size,
        num_mel_bins=8,
        d_model=width,
        encoder_layers=1,
        decoder_layers=int(random.integers(1, 3)),
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=2 * width,
        decoder_ffn_dim=2 * width,
        max_source_positions=20,
        max_target_positions=32,
        init_std=float(random.uniform(0.2, 0.6)),  # far above Whisper's 0.02, for logits that differ
        pad_token_id=eos,
        bos_token_id=eos,
        eos_token_id=eos,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config).eval()
    model.generation_config = GenerationConfig(
        pad_token_id=eos,
        bos_token_id=eos,
        eos_token_id=eos,
        decoder_start_token_id=start,
        max_length=config.max_target_positions,
    )
    shift = float(random.choice([-2.0, 1.0, 4.0, 7.0])) if eos_shift is None else eos_shift
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
        # The row of the padding token, which is end-of-text here as in Whisper, starts as zeros.
        row = model.model.decoder.embed_tokens.weight[eos].normal_(0.0, config.init_std)
        model.model.decoder.layer_norm.bias += shift * row / (row @ row)
    return model


def random_case(seed: int, *, num_beams: int | None = None, timestamps: bool = False) -> Case:
    """Return a random model with random audio, prompts, settings and token rules, all fixed by `seed`."""
    random = np.random.default_rng([seed, 1])
    # Half the vocabulary are timestamps, so that the rules, which forbid many of them, starve no beam.
    model = random_whisper(seed, vocab_size=100, timestamps=50) if timestamps else random_whisper(seed)
    config = model.config
    eos = config.eos_token_id
    utterances = int(random.integers(1, 8))
    beams = int(random.integers(1, 5 if timestamps else 9)) if num_beams is None else num_beams
    prompt_length = int(random.integers(1, 5))
    features = random.normal(size=(utterances, config.num_mel_bins, 2 * config.max_source_positions))
    features *= random.choice([0.3, 1.0, 3.0], size=(utterances, 1, 1))  # of unequal difficulty
    prompts = random.integers(0, eos, size=(utterances, prompt_length))
    prompts[:, 0] = config.decoder_start_token_id
    # At least 2 x 8 tokens stay permitted, so that no beam is starved and ties of -inf decide nothing.
    suppress = random.choice(eos, size=int(random.choice([0, 2, (eos - 16) // 2])), replace=False)
    begin = random.choice(eos + 1, size=int(random.choice([0, 1, (eos - 16) // 2])), replace=False)
    never_ends = random.random() < 0.15
    limit = min(int(random.integers(1, 20)), config.max_target_positions - prompt_length)
    rules = None
    if timestamps:
        rules = TimestampRules(eos + 2, eos + 3, eos, int(random.integers(10, 30)))
    return Case(
        seed=seed,
        model=model,
        features=features.astype(np.float32),
        prompts=prompts.astype(np.int64),
        settings=BeamSearchSettings(
            num_beams=beams,
            num_hypotheses=None if random.random() < 0.7 else int(random.integers(1, beams + 1)),
            max_new_tokens=limit,
            length_penalty=float(random.choice([1.0, 0.0, 0.6, 2.0])),
            early_stopping=[False, True, "never"][int(random.integers(3))],
        ),
        suppress=tuple(sorted({*suppress.tolist(), *([eos] if never_ends else [])})),
        begin_suppress=tuple(sorted(begin.tolist())),
        timestamps=rules,
    )


def reference_nbest(case: Case) -> list[list[FinishedHypothesis]]:
    """Return what `GenerationMixin.generate` gives, one n-best list per utterance.

    One beam would take transformers' greedy path, which gives no scores; it is made to take the beam search.
    """
    settings = case.settings
    with (
        mock.patch.object(GenerationConfig, "get_generation_mode", return_value=GenerationMode.BEAM_SEARCH),
        torch.no_grad(),
    ):
        output = GenerationMixin.generate(
            case.model,
            torch.from_numpy(case.features),
            decoder_input_ids=torch.from_numpy(case.prompts),
            num_beams=settings.num_beams,
            num_return_sequences=settings.num_hypotheses or settings.num_beams,
            max_new_tokens=settings.max_new_tokens,
            length_penalty=settings.length_penalty,
            early_stopping=settings.early_stopping,
            suppress_tokens=list(case.suppress) or None,
            begin_suppress_tokens=list(case.begin_suppress) or None,
            logits_processor=_timestamp_processor(case),
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
    eos = case.model.config.eos_token_id
    generated = output.sequences[:, case.prompts.shape[1] :].tolist()
    found = [
        _finished(
            tokens[: tokens.index(eos) + 1] if eos in tokens else tokens, score, settings.length_penalty
        )
        for tokens, score in zip(generated, output.sequences_scores.tolist(), strict=True)
    ]
    count = len(found) // len(case.prompts)
    lists = [found[start : start + count] for start in range(0, len(found), count)]
    return [[entry for entry in nbest if entry.score > UNREAL] for nbest in lists]


def _timestamp_processor(case: Case) -> LogitsProcessorList:
    rules = case.timestamps
    if rules is None:
        return LogitsProcessorList()
    config = GenerationConfig(
        eos_token_id=rules.eos_token_id,
        no_timestamps_token_id=rules.no_timestamps_id,
        max_initial_timestamp_index=rules.max_initial_index,
    )
    return LogitsProcessorList([WhisperTimeStampLogitsProcessor(config, begin_index=case.prompts.shape[1])])


def _finished(tokens: list[int], score: float, length_penalty: float) -> FinishedHypothesis:
    return FinishedHypothesis(tuple(tokens), score, score * len(tokens) ** length_penalty)


def compare_nbest(
    ours: Sequence[Sequence[FinishedHypothesis]],
    reference: Sequence[Sequence[FinishedHypothesis]],
    tolerance: float = SCORE_TOLERANCE,
) -> list[str]:
    """Return every difference beyond ties, in words; empty where the lists agree.

    Scores must agree place by place. Within a tie (scores closer than twice the tolerance) the order is free,
    and at the end of the list it is free which of the tied hypotheses made it into the list.
    """
    faults = []
    if len(ours) != len(reference):
        return [f"{len(ours)} lists instead of {len(reference)}"]
    for utterance, (mine, theirs) in enumerate(zip(ours, reference, strict=True)):
        if len(mine) != len(theirs):
            faults.append(f"utterance {utterance}: {len(mine)} hypotheses instead of {len(theirs)}")
            continue
        for place, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            if not abs(a.score - b.score) < tolerance:
                faults.append(f"utterance {utterance}, place {place}: score {a.score} instead of {b.score}")
            tied = [entry.tokens for entry in theirs if abs(entry.score - a.score) < 2 * tolerance]
            cut_off = abs(theirs[-1].score - a.score) < 2 * tolerance
            if a.tokens not in tied and not (cut_off and len(tied) > 1):
                faults.append(f"utterance {utterance}, place {place}: {a.tokens} instead of {b.tokens}")
    return faults


class TorchStepDecoder:
    """A `StepDecoder` that recomputes everything at every step with PyTorch: slow, but plainly right."""

    def __init__(self, model: WhisperForConditionalGeneration, features: NDArray[np.float32]) -> None:
        self._model = model
        with torch.no_grad():
            self._encoded = model.model.encoder(torch.from_numpy(features)).last_hidden_state
        self._sequences = np.empty((0, 0, 0), np.int64)  # (N, K, length)
        self.row_counts: list[int] = []  # of every call

    def prefill(
        self, prompts: NDArray[np.int64], token_mask: NDArray[np.float32], top_k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        self._sequences = prompts[:, None, :]
        return self._best(token_mask, top_k)

    def step(
        self,
        tokens: NDArray[np.int64],
        parents: NDArray[np.int64],
        token_mask: NDArray[np.float32],
        top_k: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        history = np.take_along_axis(self._sequences, parents[:, :, None], axis=1)
        self._sequences = np.concatenate([history, tokens[:, :, None]], axis=2)
        return self._best(token_mask, top_k)

    def keep(self, utterances: NDArray[np.int64]) -> None:
        self._encoded = self._encoded[torch.from_numpy(utterances)]
        self._sequences = self._sequences[utterances]

    def _best(
        self, token_mask: NDArray[np.float32], top_k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        rows, beams, length = self._sequences.shape
        self.row_counts.append(rows)
        with torch.no_grad():
            logits = self._model(
                encoder_outputs=(self._encoded.repeat_interleave(beams, dim=0),),
                decoder_input_ids=torch.from_numpy(self._sequences.reshape(rows * beams, length)),
                use_cache=False,
            ).logits[:, -1]
        log_probs = torch.log_softmax(logits.float(), dim=-1).numpy() + token_mask
        order = np.argsort(-log_probs, axis=1, kind="stable")[:, :top_k]
        best = np.take_along_axis(log_probs, order, axis=1)
        return best.reshape(rows, beams, -1), order.reshape(rows, beams, -1)


def search(case: Case) -> list[list[FinishedHypothesis]]:
    """Return the n-best lists of the search under test, over PyTorch."""
    return beam_search(
        TorchStepDecoder(case.model, case.features),
        case.prompts,
        case.settings,
        case.rules,
        eos_token_id=case.model.config.eos_token_id,
        max_length=case.model.config.max_target_positions,
    )
