"""Whisper on ONNX Runtime: features to cross-attention, cross-attention to n-best tokens."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.bundle.bundle import Bundle
from runtime.bundle.graph import Graph
from runtime.errors import BundleError
from runtime.sessions.factory import SessionFactory
from runtime.sessions.runs import require_input_shape, run_bound
from runtime.whisper.beam_search import Finished, FinishedHypothesis, GivenUp, StepDecoder, beam_search
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.cross_attention import CROSS_BIAS, CrossAttention, Rooms, bind_cross_outputs
from runtime.whisper.decoder import DecoderGeometry, OnnxStepDecoder
from runtime.whisper.first_position import FirstPosition, ReadWithPrompt, read_first_position
from runtime.whisper.lineage import LineageDecoder
from runtime.whisper.log_mel import LogMelExtractor, Waveform
from runtime.whisper.short_encoder import FRAMES_A_POSITION, ShortEncoder, Window
from runtime.whisper.short_window import grouped_keys
from runtime.whisper.token_rules import TokenRules
from runtime.whisper.tokens import WhisperTokens
from runtime.whisper.word_keys import WordKeys
from runtime.whisper.word_search import word_beam_search
from runtime.whisper.words import DOTLESS_I_LANGUAGES


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
        self._word_keys: dict[str | None, WordKeys] = {}
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
        # An encoder of an older version gives no bias: asked for here, it is missed before the first batch.
        _require_names(self.decoder, {*self._cross_names, CROSS_BIAS}, "decoder_model")
        if self.tokens.vocab_size != self.geometry.vocab_size:
            raise BundleError(
                f"whisper/config.json speaks of {self.tokens.vocab_size} tokens, the decoder graph of "
                f"{self.geometry.vocab_size}: they belong to different checkpoints; export the bundle again"
            )
        self._float = np.float16 if self.geometry.half else np.float32
        shapes = {node.name: node.shape[1:] for node in self.decoder.get_inputs()}
        self._rooms = Rooms({name: shapes[name] for name in self._cross_names}, self._float)

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

    def encode(
        self,
        features: NDArray[np.float32],
        leading: int | None = None,
        into: CrossAttention | None = None,
    ) -> CrossAttention:
        """Run the encoder.

        Args:
            features: Log-mel, (N, mels, frames), as `self.features` makes it.
            leading: How many positions to compute, as `leading_positions` says; None for the whole window.
            into: Where to write the result; None for tensors of its own.

        Returns:
            Cross-attention keys and values, left on the provider's device.
        """
        if leading is not None:
            assert self.short_encoder is not None  # it said how many
            return self.short_encoder.encode(features, leading, into)
        binding = self.encoder.io_binding()
        binding.bind_cpu_input("input_features", np.ascontiguousarray(features, dtype=self._float))
        bind_cross_outputs(binding, self._cross_names, (self.device, self.device_id), into)
        run_bound(self.encoder, binding, "encoder_model")
        return CrossAttention(dict(zip(self._cross_names, binding.get_outputs(), strict=True)), len(features))

    def encode_speech(
        self, waveforms: Iterable[Waveform], most: int, given_up: GivenUp = tuple
    ) -> list[tuple[list[int], CrossAttention]]:
        """Encode utterances that fit the window, with no more of it than they need.

        Args:
            waveforms: Mono, float, (samples,), at `self.features.sampling_rate`. On a CPU the next one is
                asked for when those before it are encoded.
            most: How many there may be.
            given_up: Asked before each but the first for utterances that need not be encoded: their part
                is set to zero.

        Returns:
            Groups to be decoded together: their places in `waveforms`, and their cross-attention. On a CPU,
            where utterances are encoded one by one, which takes no longer there, a group is what has as many
            keys as each other, fewer keys first. Elsewhere it is what needs as much of the window as each
            other. What an utterance gets does not depend on the others.
        """
        if self.device == "cpu":
            return self._encode_one_by_one(waveforms, most, given_up)
        known = list(waveforms)
        groups: dict[int | None, list[int]] = {}
        for place, waveform in enumerate(known):
            groups.setdefault(self.leading_positions(waveform.size), []).append(place)
        encoded = []
        for leading, places in groups.items():
            features = self.features([known[place] for place in places])
            encoded.append((places, self.encode(features, leading)))
        return encoded

    def _encode_one_by_one(
        self, waveforms: Iterable[Waveform], most: int, given_up: GivenUp
    ) -> list[tuple[list[int], CrossAttention]]:
        groups: dict[int, list[int]] = {}
        rooms: dict[int, CrossAttention] = {}
        for place, waveform in enumerate(waveforms):
            assert place < most, f"more than {most} utterances"
            leading = self.leading_positions(waveform.size)
            keys = self._keys(leading)
            group = groups.setdefault(keys, [])
            if most == 1:
                rooms[keys] = self.encode(self.features([waveform]), leading)
            else:
                if not group:
                    rooms[keys] = self._rooms.borrow(most, keys)
                into = rooms[keys].rows(len(group), len(group) + 1)
                if place and place in given_up():
                    into.clear()
                else:
                    self.encode(self.features([waveform]), leading, into)
            group.append(place)
        # Those with fewer keys first: nobody waits for a longer utterance than their own.
        found = [(groups[keys], rooms[keys]) for keys in sorted(groups)]
        return [(places, room if most == 1 else room.rows(0, len(places))) for places, room in found]

    def _keys(self, leading: int | None) -> int:
        """Return how many keys the decoder gets of an utterance that needs so many positions."""
        if self.short_encoder is None:
            return self.features.n_frames // FRAMES_A_POSITION
        return self.short_encoder.window.keys(leading)

    def share_rooms(self, other: "WhisperModel") -> None:
        """Take the memory of batches from another model of the same checkpoint, and give it back there."""
        self._rooms = other._rooms

    @property
    def cross_bytes(self) -> int:
        """Bytes that one utterance's cross-attention takes in a batch.

        With a short window a batch has memory for both numbers of keys, whichever its utterances turn out to
        need.
        """
        geometry = self.geometry
        keys = self._keys(None)
        if self.short_encoder is not None and self.short_encoder.window.has_groups:
            keys += grouped_keys(keys)
        numbers = 2 * geometry.layers * geometry.heads * geometry.head_dim * keys
        return numbers * np.dtype(self._float).itemsize

    def leading_positions(self, samples: int) -> int | None:
        """Return how many positions an utterance of so many samples needs; None for the whole window."""
        return (
            self.short_encoder.leading_positions(samples, self.features.n_samples)
            if self.short_encoder
            else None
        )

    def step_decoder(self, cross: CrossAttention, *, last_use: bool = False) -> LineageDecoder:
        """Return a decoder of these utterances, at its beginning.

        Args:
            cross: Encoded utterances.
            last_use: Whether nobody needs them afterwards, so that the decoder may write over them.
        """
        device = (self.device, self.device_id)
        return OnnxStepDecoder(
            self.decoder, self.geometry, cross, device, self._hidden_entries, last_use=last_use
        )

    def first_position(self, cross: CrossAttention) -> FirstPosition:
        """Read language and no-speech probability off one decoder step; the encoder does not run again."""
        return read_first_position(self.step_decoder(cross), self.tokens, cross.batch)

    def word_keys(self, language: str | None) -> WordKeys:
        """Return the keys of a language's words; made once for languages of the same rules of case."""
        rules = language if language in DOTLESS_I_LANGUAGES else None
        if rules not in self._word_keys:
            self._word_keys[rules] = self.tokens.word_keys(rules)
        return self._word_keys[rules]

    def nbest(
        self,
        cross: CrossAttention,
        prompts: Sequence[Sequence[int]],
        settings: BeamSearchSettings,
        *,
        timestamps: bool = False,
        languages: Sequence[str | None] | None = None,
        most_tokens: Sequence[int] | None = None,
        given_up: GivenUp = tuple,
        finished: Finished | None = None,
        no_speech_into: NDArray[np.float32] | None = None,
        last_use: bool = False,
    ) -> list[list[FinishedHypothesis]]:
        """Beam search over encoded utterances; see `runtime.whisper.beam_search.beam_search`.

        Args:
            cross: Encoded utterances.
            prompts: One prompt per utterance, all of one length (`self.tokens.prompt`).
            settings: How to search.
            timestamps: Whether the prompt asks for timestamps, whose rules then apply.
            languages: Code of the language of each utterance, for `distinct="words"`; None where unknown.
            most_tokens: Most tokens to generate of each utterance, within those of the settings.
            given_up: Asked between two steps for utterances that are not worth another one.
            finished: Told of every utterance once, while the others go on.
            no_speech_into: Where to write the probability of `<|nospeech|>` for each utterance, (N,), before
                anything is told. A checkpoint without such a token leaves it alone.
            last_use: Whether nobody needs `cross` afterwards; see `step_decoder`.
        """
        rules = TokenRules.of_checkpoint(self.tokens, timestamps=timestamps)
        eos, max_length = self.tokens.eos_token_id, self.tokens.max_length
        search = beam_search
        if settings.distinct == "words":
            keys = [self.word_keys(language) for language in languages or [None] * cross.batch]
            search = partial(word_beam_search, keys=keys)
        own_decoder = self.step_decoder(cross, last_use=last_use)
        decoder: StepDecoder = own_decoder
        if no_speech_into is not None and self.tokens.no_speech_id is not None:
            decoder = ReadWithPrompt(own_decoder, self.tokens.no_speech_id, no_speech_into)
        lists = search(
            decoder,
            prompts,
            settings,
            rules,
            eos_token_id=eos,
            max_length=max_length,
            most_tokens=most_tokens,
            given_up=given_up,
            finished=finished,
        )
        if last_use:
            self._rooms.give_back(cross)
        return lists


def _require_names(session: ort.InferenceSession, expected: Iterable[str], graph: str) -> None:
    missing = sorted(set(expected) - {node.name for node in session.get_inputs()})
    if missing:
        raise BundleError(
            f"{graph} has no input {', '.join(missing)}: encoder and decoder are of different models or "
            "versions; export the bundle again"
        )
