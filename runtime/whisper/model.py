"""Whisper on ONNX Runtime: features to cross-attention, cross-attention to n-best tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.bundle.bundle import Bundle
from runtime.bundle.graph import Graph
from runtime.errors import BundleError
from runtime.sessions.factory import SessionFactory
from runtime.sessions.runs import require_input_shape, run_bound
from runtime.whisper.beam_search import FinishedHypothesis, StepDecoder, beam_search
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.cross_attention import CrossAttention
from runtime.whisper.log_mel import LogMelExtractor, Waveform
from runtime.whisper.short_encoder import ShortEncoder, Window
from runtime.whisper.token_rules import TokenRules, allow_only
from runtime.whisper.tokens import WhisperTokens

# Added to an attention score that must not count. Finite, so that a row of nothing else gives no NaN, and
# within float16's range.
HIDDEN: Final = -1e4


@dataclass(frozen=True, slots=True)
class FirstPosition:
    """What the decoder says right after `<|startoftranscript|>`.

    Attributes:
        no_speech_prob: Probability of `<|nospeech|>` for each utterance, (N,); NaN where the checkpoint has
            no such token.
        languages: Most probable language code of each utterance; None for an English-only checkpoint.
    """

    no_speech_prob: NDArray[np.float32]
    languages: list[str] | None


class WhisperModel:
    """Encoder and decoder sessions, with the tokens and features that belong to them.

    Args:
        settings: Folder of the checkpoint's settings and tokenizer.
        encoder: The encoder graph.
        decoder: The decoder graph.
        sessions: How to open them.
        short_encoder: The encoder over the speech alone; None computes the whole window of every utterance.
    """

    def __init__(
        self,
        settings: Path,
        encoder: Graph,
        decoder: Graph,
        sessions: SessionFactory,
        short_encoder: ShortEncoder | None = None,
    ) -> None:
        self.short_encoder = short_encoder
        self.tokens = WhisperTokens.from_folder(settings)
        self.features = LogMelExtractor.from_folder(settings)
        self.device = sessions.device
        self.device_id = sessions.device_id
        self._hidden_entries = sessions.minimum_cache
        self.encoder = sessions.open(encoder)
        self.decoder = sessions.open(decoder)
        self._cross_names = [output.name for output in self.encoder.get_outputs()]
        self.geometry = DecoderGeometry.of_session(self.decoder)
        window = (self.features.n_mels, self.features.n_frames)
        require_input_shape(self.encoder, "input_features", window, "whisper/preprocessor_config.json")
        _require_names(self.decoder, set(self._cross_names), "decoder_model")
        if self.tokens.vocab_size != self.geometry.vocab_size:
            raise BundleError(
                f"whisper/config.json speaks of {self.tokens.vocab_size} tokens, the decoder graph of "
                f"{self.geometry.vocab_size}: they belong to different checkpoints; export the bundle again"
            )
        self._float = np.float16 if self.geometry.half else np.float32

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, precision: str, sessions: SessionFactory, window: Window = "full"
    ) -> "WhisperModel":
        """Open the Whisper of a bundle.

        Raises:
            SettingsError: The bundle lacks the precision, or what `window` asks for.
            BundleError: A file of it cannot be used.
            ProviderError: The provider does not take a graph.
        """
        encoder, decoder = (bundle.graph(name, precision) for name in ("encoder_model", "decoder_model"))
        short_encoder = ShortEncoder.of_bundle(bundle, precision, sessions, window)
        return cls(bundle.whisper, encoder, decoder, sessions, short_encoder)

    def encode(self, features: NDArray[np.float32], leading: int | None = None) -> CrossAttention:
        """Run the encoder.

        Args:
            features: Log-mel, (N, mels, frames), as `self.features` makes it.
            leading: How many positions to compute, as `leading_positions` says; None for the whole window.

        Returns:
            Cross-attention keys and values, left on the provider's device.
        """
        if leading is not None:
            assert self.short_encoder is not None  # it said how many
            return self.short_encoder.encode(features, leading)
        binding = self.encoder.io_binding()
        binding.bind_cpu_input("input_features", np.ascontiguousarray(features, dtype=self._float))
        for name in self._cross_names:
            binding.bind_output(name, self.device, self.device_id)
        run_bound(self.encoder, binding, "encoder_model")
        return CrossAttention(dict(zip(self._cross_names, binding.get_outputs(), strict=True)), len(features))

    def encode_speech(self, waveforms: Sequence[Waveform]) -> list[tuple[list[int], CrossAttention]]:
        """Encode utterances that fit the window, with no more of it than they need.

        Args:
            waveforms: Mono, float, (samples,), at `self.features.sampling_rate`.

        Returns:
            Groups that need as much of the window as each other: their places in `waveforms`, and their
            cross-attention. What an utterance gets does not depend on the others.
        """
        groups: dict[int | None, list[int]] = {}
        for place, waveform in enumerate(waveforms):
            groups.setdefault(self.leading_positions(waveform.size), []).append(place)
        encoded = []
        for leading, places in groups.items():
            features = self.features([waveforms[place] for place in places])
            encoded.append((places, self.encode(features, leading)))
        return encoded

    def leading_positions(self, samples: int) -> int | None:
        """Return how many positions an utterance of so many samples needs; None for the whole window."""
        return (
            self.short_encoder.leading_positions(samples, self.features.n_samples)
            if self.short_encoder
            else None
        )

    def step_decoder(self, cross: CrossAttention) -> StepDecoder:
        """Return a decoder of these utterances, at its beginning."""
        device = (self.device, self.device_id)
        return OnnxStepDecoder(self.decoder, self.geometry, cross, device, self._hidden_entries)

    def first_position(self, cross: CrossAttention) -> FirstPosition:
        """Read language and no-speech probability off one decoder step; the encoder does not run again."""
        tokens = self.tokens
        languages = (
            {token: code for code, token in tokens.languages.items()} if tokens.is_multilingual else {}
        )
        watched = [*languages] + ([tokens.no_speech_id] if tokens.no_speech_id is not None else [])
        batch = cross.batch
        if not watched:
            return FirstPosition(np.full(batch, np.nan, np.float32), None)
        prompt = np.full((batch, 1), tokens.start_token_id, np.int64)
        mask = allow_only(tokens.vocab_size, watched)
        log_probs, ids = self.step_decoder(cross).prefill(prompt, mask, len(watched))
        no_speech = np.full(batch, np.nan, np.float32)
        found: list[str] = []
        for row in range(batch):
            best = dict(zip(ids[row, 0].tolist(), log_probs[row, 0].tolist(), strict=True))
            if tokens.no_speech_id is not None:
                no_speech[row] = np.exp(best.pop(tokens.no_speech_id))
            if languages:
                found.append(languages[max(best, key=best.__getitem__)])
        return FirstPosition(no_speech, found or None)

    def nbest(
        self,
        cross: CrossAttention,
        prompts: Sequence[Sequence[int]],
        settings: BeamSearchSettings,
        *,
        timestamps: bool = False,
    ) -> list[list[FinishedHypothesis]]:
        """Beam search over encoded utterances; see `runtime.whisper.beam_search.beam_search`.

        Args:
            cross: Encoded utterances.
            prompts: One prompt per utterance, all of one length (`self.tokens.prompt`).
            settings: How to search.
            timestamps: Whether the prompt asks for timestamps, whose rules then apply.
        """
        return beam_search(
            self.step_decoder(cross),
            prompts,
            settings,
            TokenRules.of_checkpoint(self.tokens, timestamps=timestamps),
            eos_token_id=self.tokens.eos_token_id,
            max_length=self.tokens.max_length,
        )


@dataclass(frozen=True, slots=True)
class DecoderGeometry:
    """Shapes of the decoder graph, read from the graph itself.

    Attributes:
        layers: Number of decoder layers.
        heads: Attention heads.
        head_dim: Size of a head.
        vocab_size: Number of tokens.
        half: Whether cache and cross-attention are float16.
    """

    layers: int
    heads: int
    head_dim: int
    vocab_size: int
    half: bool

    @classmethod
    def of_session(cls, session: ort.InferenceSession) -> "DecoderGeometry":
        """Read the geometry.

        Raises:
            BundleError: The graph is not a decoder of this project.
        """
        inputs = {node.name: node for node in session.get_inputs()}
        layers = sum(name.startswith("past_key_") for name in inputs)
        if not layers or "token_mask" not in inputs:
            raise BundleError("decoder_model is not a decoder graph of this version; export the bundle again")
        _, heads, _, head_dim = inputs["past_key_0"].shape
        vocab_size = inputs["token_mask"].shape[2]
        return cls(layers, heads, head_dim, vocab_size, inputs["past_key_0"].type == "tensor(float16)")


class OnnxStepDecoder:
    """`StepDecoder` over the decoder graph; cache and cross-attention stay on the provider's device.

    The cache of an utterance is append-only: the prompt's P entries, then K entries a step, one of each beam.
    Which of them a beam descends from is a row of `_lineage`, an additive mask over the cache. Reordering
    beams reorders these rows and nothing else.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        geometry: DecoderGeometry,
        cross: CrossAttention,
        device: tuple[str, int],
        hidden_entries: int = 0,
    ) -> None:
        self._session = session
        self._geometry = geometry
        self._device = device
        self._float = np.float16 if geometry.half else np.float32
        self._batch = cross.batch
        self._rows = np.arange(cross.batch)  # batch row of each utterance that is still wanted
        self._next_position = 0
        # TensorRT takes no empty cache: it begins with entries that nobody may see.
        self._lineage = np.full((cross.batch, 1, hidden_entries), HIDDEN, self._float)
        self._binding = session.io_binding()
        self._cache_names = [f"{kind}_{i}" for i in range(geometry.layers) for kind in ("key", "value")]
        empty = np.zeros((cross.batch, geometry.heads, hidden_entries, geometry.head_dim), self._float)
        self._cache = [ort.OrtValue.ortvalue_from_numpy(empty, *device) for _ in self._cache_names]
        self._bind_cross(cross.values)

    def prefill(
        self, prompts: NDArray[np.int64], token_mask: NDArray[np.float32], top_k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Read the prompts once per utterance; see `StepDecoder.prefill`."""
        length = prompts.shape[1]
        causal = np.where(np.tri(length, dtype=bool), 0.0, HIDDEN)
        own = np.broadcast_to(causal, (self._batch, length, length)).astype(self._float)
        hidden = np.repeat(self._lineage, length, axis=1)
        mask = np.concatenate([hidden, own], axis=2)
        outputs = self._run(prompts, np.arange(length), mask, np.array([length - 1]), token_mask, top_k)
        self._lineage = mask[:, -1:]  # the last token of the prompt sees all of it
        self._next_position = length
        return outputs

    def step(
        self,
        tokens: NDArray[np.int64],
        parents: NDArray[np.int64],
        token_mask: NDArray[np.float32],
        top_k: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Append one token to every beam; see `StepDecoder.step`."""
        utterances, beams = tokens.shape
        own = np.where(np.eye(beams, dtype=bool), 0.0, HIDDEN).astype(self._float)
        inherited = self._lineage[np.arange(utterances)[:, None], parents]
        self._lineage = np.concatenate([inherited, np.broadcast_to(own, (utterances, beams, beams))], axis=2)
        positions = np.full(beams, self._next_position)
        log_probs, best = self._run(
            self._spread(tokens),
            positions,
            self._spread(self._lineage),
            np.arange(beams),
            self._spread_mask(token_mask, utterances, beams),
            top_k,
        )
        self._next_position += 1
        if self._batch != utterances:
            return log_probs[self._rows], best[self._rows]
        return log_probs, best

    def keep(self, utterances: NDArray[np.int64]) -> None:
        """Go on with these utterances only.

        On the CPU their cache and cross-attention are copied together. On a device the finished rows stay in
        the batch and are computed for nothing, which is cheaper there than a round trip through the host.
        """
        self._lineage = self._lineage[utterances]
        self._rows = self._rows[utterances]
        if self._device[0] != "cpu":
            return
        rows, self._rows = self._rows, np.arange(len(utterances))
        self._batch = len(utterances)
        self._cache = [ort.OrtValue.ortvalue_from_numpy(value.numpy()[rows]) for value in self._cache]
        self._bind_cross(
            {
                name: ort.OrtValue.ortvalue_from_numpy(value.numpy()[rows])
                for name, value in self._cross.items()
            }
        )

    def _bind_cross(self, values: dict[str, ort.OrtValue]) -> None:
        self._cross = values  # the binding does not keep them alive
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)

    def _spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Put the rows of the wanted utterances where they stand in the batch; zeros elsewhere."""
        if len(values) == self._batch:
            return values
        spread = np.zeros((self._batch, *values.shape[1:]), values.dtype)
        spread[self._rows] = values
        return spread

    def _spread_mask(
        self, token_mask: NDArray[np.float32], utterances: int, beams: int
    ) -> NDArray[np.float32]:
        if len(token_mask) == 1:
            return token_mask
        spread: NDArray[np.float32] = self._spread(token_mask.reshape(utterances, beams, -1))
        return spread

    def _run(
        self,
        input_ids: NDArray[np.int64],
        positions: NDArray[np.int64],
        attention_mask: NDArray[Any],
        output_index: NDArray[np.int64],
        token_mask: NDArray[np.float32],
        top_k: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        binding = self._binding
        small = {
            "input_ids": np.ascontiguousarray(input_ids),
            "positions": positions,
            "attention_mask": np.ascontiguousarray(attention_mask),
            "output_index": output_index,
            "token_mask": token_mask if token_mask.ndim == 3 else token_mask[None],
            "top_k": np.array([top_k]),
        }
        for name, array in small.items():
            binding.bind_cpu_input(name, array)
        for name, value in zip(self._cache_names, self._cache, strict=True):
            binding.bind_ortvalue_input(f"past_{name}", value)
        binding.clear_binding_outputs()
        binding.bind_output("log_probs", "cpu")
        binding.bind_output("tokens", "cpu")
        for name in self._cache_names:
            binding.bind_output(f"present_{name}", *self._device)
        run_bound(self._session, binding, "decoder_model")
        log_probs, tokens, *self._cache = binding.get_outputs()
        return log_probs.numpy(), tokens.numpy()


def _require_names(session: ort.InferenceSession, expected: Iterable[str], graph: str) -> None:
    missing = sorted(set(expected) - {node.name for node in session.get_inputs()})
    if missing:
        raise BundleError(
            f"{graph} has no input {', '.join(missing)}: encoder and decoder are of different models or "
            "versions; export the bundle again"
        )
