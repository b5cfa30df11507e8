"""What an encoder hands to the decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import onnxruntime as ort


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Keys and values of every decoder layer for N utterances, where the decoder's provider wants them.

    Attributes:
        values: By graph name: `cross_key_{i}` (N, heads, head_dim, positions) and `cross_value_{i}`
            (N, heads, positions, head_dim).
        batch: N.
    """

    values: dict[str, ort.OrtValue]
    batch: int

    def first_of(self, batch: int) -> Self:
        """Return one of `batch` utterances, in the processor's memory: this one, then zeros."""
        values = {}
        for name, value in self.values.items():
            array = value.numpy()
            together = np.zeros((batch, *array.shape[1:]), array.dtype)
            together[: self.batch] = array
            values[name] = ort.OrtValue.ortvalue_from_numpy(together)
        return type(self)(values, batch)

    def row(self, utterance: int) -> Self:
        """Return the part of one utterance; it shares the memory of the whole."""
        rows = {name: value.numpy()[utterance : utterance + 1] for name, value in self.values.items()}
        return type(self)({name: ort.OrtValue.ortvalue_from_numpy(row) for name, row in rows.items()}, 1)


def bind_cross_outputs(
    binding: ort.IOBinding, names: Sequence[str], device: tuple[str, int], into: CrossAttention | None
) -> None:
    """Say where an encoder shall write: into given tensors, or into new ones on a device."""
    for name in names:
        if into is not None:
            binding.bind_ortvalue_output(name, into.values[name])
        else:
            binding.bind_output(name, *device)
