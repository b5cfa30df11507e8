"""The decoder graph with a cache that grows."""

from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.errors import BundleError
from runtime.sessions.runs import run_bound
from runtime.whisper.cross_attention import CrossAttention
from runtime.whisper.lineage import Candidates, LineageDecoder, Run


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


class OnnxStepDecoder(LineageDecoder):
    """`StepDecoder` over the decoder graph; cache and cross-attention stay on the provider's device.

    Args:
        session: The decoder.
        geometry: Its shapes.
        cross: The encoded utterances.
        device: Name and number of the device, for onnxruntime.
        hidden_entries: Entries that the cache begins with and nobody may see: TensorRT takes no empty one.
        last_use: Whether nobody needs `cross` afterwards, so that rows of it may be written over.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        geometry: DecoderGeometry,
        cross: CrossAttention,
        device: tuple[str, int],
        hidden_entries: int = 0,
        *,
        last_use: bool = False,
    ) -> None:
        kind = np.float16 if geometry.half else np.float32
        super().__init__(cross.batch, kind, hidden_entries)
        self._session = session
        self._device = device
        self._binding = session.io_binding()
        self._cache_names = [f"{kind}_{i}" for i in range(geometry.layers) for kind in ("key", "value")]
        empty = np.zeros((cross.batch, geometry.heads, hidden_entries, geometry.head_dim), kind)
        self._cache = [ort.OrtValue.ortvalue_from_numpy(empty, *device) for _ in self._cache_names]
        # Tensors whose memory others share, which these do not keep alive by themselves.
        self._cross_lies_in: list[CrossAttention | dict[str, ort.OrtValue]] = [cross]
        self._cache_lies_in: list[list[ort.OrtValue]] = []
        self._owns_cross = last_use
        self._bind_cross(cross.values)

    def keep(self, utterances: NDArray[np.int64]) -> None:
        """Go on with these utterances only.

        On the CPU the others leave the batch: who stays in place is not touched, who changes place is written
        over one that leaves. On a device the finished rows stay in the batch and are computed for nothing,
        which is cheaper there than a round trip through the host.
        """
        super().keep(utterances)
        if self._device[0] != "cpu":
            return
        rows, self._rows = self._rows, np.arange(len(utterances))
        self._batch = len(utterances)
        self._cross_lies_in.append(self._cross)
        self._cache_lies_in.append(self._cache)
        self._cache = [_leading(value, rows, in_place=True) for value in self._cache]
        self._bind_cross(
            {name: _leading(value, rows, in_place=self._owns_cross) for name, value in self._cross.items()}
        )
        self._owns_cross |= not np.array_equal(rows, self._rows)  # else it shares the memory of the given

    def _bind_cross(self, values: dict[str, ort.OrtValue]) -> None:
        self._cross = values  # the binding does not keep them alive
        for name, value in values.items():
            self._binding.bind_ortvalue_input(name, value)

    def _run(self, run: Run) -> Candidates:
        binding = self._binding
        small = {
            "input_ids": np.ascontiguousarray(run.tokens),
            "positions": run.positions,
            "attention_mask": np.ascontiguousarray(run.mask),
            "output_index": run.wanted,
            "token_mask": run.token_mask,
            "top_k": np.array([run.top_k]),
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
        log_probs, best, *self._cache = binding.get_outputs()
        self._cache_lies_in.clear()  # what the graph wrote is whole
        return log_probs.numpy(), best.numpy()


def _leading(value: ort.OrtValue, rows: NDArray[np.int64], *, in_place: bool) -> ort.OrtValue:
    """Return these rows of a tensor on the CPU, first ones in its memory where they may be moved there."""
    array = value.numpy()
    moved = np.flatnonzero(rows != np.arange(len(rows)))
    if len(moved) and not in_place:
        return ort.OrtValue.ortvalue_from_numpy(array[rows])
    array[moved] = array[rows[moved]]
    return ort.OrtValue.ortvalue_from_numpy(array[: len(rows)])
