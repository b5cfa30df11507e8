"""Decoding in fixed shapes at fixed addresses, so that CUDA can replay a step as one recorded graph.

The cache is a buffer of some capacity instead of a tensor that grows; `cache_index` says which of its entries
a run writes, and the lineage mask hides what nobody has written yet. A step therefore has the same shapes
until the capacity is used up, then twice the capacity. Buffers outlive an utterance: the next one of the same
shape finds the same addresses, and with them the recorded graph.

The graph is `export.graphs.fixed_decoder`'s. On the CPU everything works alike, but nothing is recorded.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.bundle.bundle import Bundle
from runtime.errors import SettingsError
from runtime.sessions.factory import SessionFactory
from runtime.sessions.runs import run_bound
from runtime.whisper.cross_attention import CrossAttention
from runtime.whisper.decoder import DecoderGeometry
from runtime.whisper.lineage import HIDDEN, Candidates, LineageDecoder, Run
from runtime.whisper.model import WhisperModel
from runtime.whisper.short_encoder import ShortEncoder, Window

SMALLEST_CAPACITY: Final = 256  # entries: a prompt and 50 steps of 5 beams
GRAPHS_LIMIT: Final = 64  # recorded graphs of a session; each holds device memory until the session ends
_UNRECORDED: Final = -1  # onnxruntime's `gpu_graph_id` of a run that is neither recorded nor replayed

Cache = list[ort.OrtValue]


@dataclass(frozen=True, slots=True)
class RunShape:
    """All that has to be equal for a recorded run to fit.

    Attributes:
        batch: Utterances N.
        queries: Tokens of an utterance: the prompt's, or one a beam.
        outputs: Queries whose continuations are wanted.
        capacity: Entries of the cache.
        token_mask: Shape of the token mask.
        top_k: Continuations of an output.
    """

    batch: int
    queries: int
    outputs: int
    capacity: int
    token_mask: tuple[int, ...]
    top_k: int


class FixedRun:
    """One run of the decoder: inputs and outputs bound once, contents exchanged at every call.

    Args:
        session: The decoder.
        device: Name and number of the device, for onnxruntime.
        shape: Of the run.
        half: Whether the mask of the self-attention is float16.
        cache: Keys and values by layer; read and written in place.
        cross: Cross-attention. It is bound by address and not kept alive: the caller holds it.
        graph_id: Number of the recorded graph, or `_UNRECORDED`.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: tuple[str, int],
        shape: RunShape,
        half: bool,
        cache: Mapping[str, ort.OrtValue],
        cross: Mapping[str, ort.OrtValue],
        graph_id: int,
    ) -> None:
        self._session = session
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph_id))
        self._binding = session.io_binding()
        self._sent: dict[str, NDArray[Any]] = {}

        def room(sizes: tuple[int, ...], kind: Any) -> ort.OrtValue:
            return ort.OrtValue.ortvalue_from_shape_and_type(sizes, kind, *device)

        queries, found = (shape.queries,), (shape.batch, shape.outputs, shape.top_k)
        mask = (shape.batch, shape.queries, shape.capacity)
        self._inputs = {
            "input_ids": room((shape.batch, shape.queries), np.int64),
            "positions": room(queries, np.int64),
            "cache_index": room(queries, np.int64),
            "attention_mask": room(mask, np.float16 if half else np.float32),
            "output_index": room((shape.outputs,), np.int64),
            "token_mask": room(shape.token_mask, np.float32),
        }
        self._outputs = {"log_probs": room(found, np.float32), "tokens": room(found, np.int64)}
        # TopK reads its k on the host, on every provider.
        self._top_k = ort.OrtValue.ortvalue_from_numpy(np.array([shape.top_k]))
        self._binding.bind_ortvalue_input("top_k", self._top_k)
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in cross.items():
            kind = np.float16 if half else np.float32
            self._binding.bind_input(name, *device, kind, value.shape(), value.data_ptr())
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        for name, value in cache.items():
            # One buffer for both: ScatterElements then writes the new entries and copies nothing.
            self._binding.bind_ortvalue_input(f"past_{name}", value)
            self._binding.bind_ortvalue_output(f"present_{name}", value)

    def __call__(self, **contents: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Run with new contents of the small inputs, by name; those that are the last call's stay."""
        for name, array in contents.items():
            known = self._sent.get(name)
            if known is not None and np.array_equal(known, array):
                continue
            sent = self._sent[name] = np.array(
                array, order="C"
            )  # a copy: the caller may go on writing into its own
            self._inputs[name].update_inplace(sent)
        run_bound(self._session, self._binding, "decoder_model", self._options)
        # Copied, because the next call writes into the same memory.
        return np.array(self._outputs["log_probs"].numpy()), np.array(self._outputs["tokens"].numpy())


class FixedBuffers:
    """The caches and runs of one decoder session, kept from one utterance to the next.

    Not for several threads at once, as recorded graphs are not.

    Args:
        session: The decoder, in fixed shapes.
        geometry: Its shapes.
        device: Name and number of the device, for onnxruntime.
    """

    def __init__(
        self, session: ort.InferenceSession, geometry: DecoderGeometry, device: tuple[str, int]
    ) -> None:
        self.session = session
        self.geometry = geometry
        self.device = device
        self._free: dict[tuple[int, int], list[Cache]] = {}
        self._runs: dict[Any, FixedRun] = {}
        self._names = [f"{kind}_{i}" for i in range(geometry.layers) for kind in ("key", "value")]

    def borrow(self, batch: int, capacity: int) -> Cache:
        """Return a cache that nobody uses: a (batch, heads, capacity, head_dim) for every key and value."""
        if free := self._free.get((batch, capacity)):
            return free.pop()
        geometry = self.geometry
        shape = (batch, geometry.heads, capacity, geometry.head_dim)
        # What is hidden counts with a weight of 0, and must be finite all the same.
        zeros = np.zeros(shape, np.float16 if geometry.half else np.float32)
        room = ort.OrtValue.ortvalue_from_shape_and_type
        cache = [room(shape, zeros.dtype, *self.device) for _ in self._names]
        for value in cache:
            value.update_inplace(zeros)
        return cache

    def give_back(self, cache: Cache) -> None:
        """Let the next utterance have a cache."""
        batch, _, capacity, _ = cache[0].shape()
        self._free.setdefault((batch, capacity), []).append(cache)

    def run(self, shape: RunShape, cache: Cache, cross: CrossAttention, record: bool) -> FixedRun:
        """Return the run of this shape on these buffers; a known one where there is one.

        Args:
            shape: Of the run.
            cache: A borrowed cache.
            cross: Cross-attention of the utterances. The encoder's allocator gives the same addresses to one
                request after another; where it does not, another graph is recorded, up to `GRAPHS_LIMIT`.
            record: Whether it is worth a graph.
        """
        bound = (*cache, *cross.values.values())
        places = tuple((value.data_ptr(), *value.shape()) for value in bound)
        key = (shape, places)
        if (known := self._runs.get(key)) is not None:
            return known
        keep = record and len(self._runs) < GRAPHS_LIMIT
        number = len(self._runs) + 1 if keep else _UNRECORDED
        made = FixedRun(
            self.session,
            self.device,
            shape,
            self.geometry.half,
            dict(zip(self._names, cache, strict=True)),
            cross.values,
            number,
        )
        if keep:
            self._runs[key] = made
        return made


class FixedStepDecoder(LineageDecoder):
    """`StepDecoder` in fixed shapes."""

    def __init__(self, buffers: FixedBuffers, cross: CrossAttention) -> None:
        super().__init__(cross.batch, np.float16 if buffers.geometry.half else np.float32)
        self._buffers = buffers
        self._cross = cross
        self._cache: Cache = []
        self._capacity = 0
        self._used = 0
        # A cache is given back however the search ends.
        self._held: list[Cache] = []
        weakref.finalize(self, _give_back_all, buffers, self._held)

    def _reserve(self, entries: int) -> None:
        """Have room for so many entries: a cache that is too small is exchanged for a larger one."""
        if entries <= self._capacity:
            return
        capacity = SMALLEST_CAPACITY
        while capacity < entries:
            capacity *= 2
        cache = self._buffers.borrow(self._batch, capacity)
        for old, new in zip(self._cache, cache, strict=False):  # by way of the host, but only at a doubling
            values = np.zeros(new.shape(), self._lineage.dtype)
            values[:, :, : self._used] = old.numpy()[:, :, : self._used]
            new.update_inplace(values)
        _give_back_all(self._buffers, self._held)
        self._held.append(cache)
        self._cache, self._capacity = cache, capacity

    def _run(self, run: Run) -> Candidates:
        queries, entries = run.mask.shape[1:]
        self._reserve(entries)
        whole = np.full((self._batch, queries, self._capacity), HIDDEN, run.mask.dtype)
        whole[:, :, :entries] = run.mask
        outputs = len(run.wanted)
        shape = RunShape(self._batch, queries, outputs, self._capacity, run.token_mask.shape, run.top_k)
        # Prompts come in many lengths and once an utterance: only steps are worth recording.
        bound = self._buffers.run(shape, self._cache, self._cross, record=self._used > 0)
        candidates = bound(
            input_ids=run.tokens,
            attention_mask=whole,
            positions=run.positions,
            cache_index=np.arange(self._used, self._used + queries),
            output_index=run.wanted,
            token_mask=run.token_mask,
        )
        self._used += queries
        return candidates


class FixedWhisperModel(WhisperModel):
    """`WhisperModel` whose decoder runs in fixed shapes."""

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, precision: str, sessions: SessionFactory, window: Window = "full"
    ) -> "FixedWhisperModel":
        """Open the Whisper of a bundle.

        Raises:
            SettingsError: TensorRT, or a precision without such a decoder.
            BundleError: The bundle was exported without `--fixed-steps`.
        """
        if sessions.provider == "tensorrt":
            raise SettingsError("fixed_steps is for cpu and cuda; TensorRT engines have a range of shapes")
        decoder = bundle.fixed_decoder(precision)
        short_encoder = ShortEncoder.of_bundle(bundle, precision, sessions, window)
        return cls(bundle.whisper, bundle.graph("encoder_model", precision), decoder, sessions, short_encoder)

    @cached_property
    def buffers(self) -> FixedBuffers:
        """What the decoder's runs are bound to."""
        return FixedBuffers(self.decoder, self.geometry, (self.device, self.device_id))

    def step_decoder(
        self,
        cross: CrossAttention,
        *,
        last_use: bool = False,  # noqa: ARG002 - it only reads them
    ) -> FixedStepDecoder:
        """Return a decoder of these utterances, at its beginning."""
        return FixedStepDecoder(self.buffers, cross)


def _give_back_all(buffers: FixedBuffers, held: list[Cache]) -> None:
    while held:
        buffers.give_back(held.pop())
