"""What an encoder hands to the decoder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike

LARGEST_KEPT: Final = 8  # utterances
CROSS_BIAS: Final = "cross_bias"


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Keys and values of every decoder layer for N utterances, where the decoder's provider wants them.

    Attributes:
        values: By graph name: `cross_key_{i}` (N, heads, head_dim, keys), `cross_value_{i}` (N, heads, keys,
            head_dim), and `cross_bias` (N, keys), which is added to the scores. There are as many keys as
            the window has positions, or fewer where some stand for several of them.
        batch: N.
        room: What of `Rooms` its memory is part of; None where the memory is its own.
    """

    values: dict[str, ort.OrtValue]
    batch: int
    room: "CrossAttention | None" = None

    @property
    def keys(self) -> int:
        """Number of keys of an utterance."""
        return int(self.values[CROSS_BIAS].shape()[1])

    def rows(self, first: int, end: int) -> Self:
        """Return the part of some utterances; it shares the memory of the whole."""
        arrays = {name: value.numpy()[first:end] for name, value in self.values.items()}
        parts = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        return type(self)(parts, end - first, self.room)

    def clear(self) -> None:
        """Set all to zero."""
        for value in self.values.values():
            value.numpy()[:] = 0


class Rooms:
    """The processor's memory for batches of utterances, handed from one batch to the next.

    The system clears what it hands out, page by page. For 37 MB an utterance (whisper-base) that takes 6 ms
    and more, a sixth of the decoder's work for it. Larger batches than `LARGEST_KEPT` decode for so long that
    it does not matter; their memory is not kept.

    Args:
        shapes: By graph name, of one utterance; a name stands where the number of keys goes.
        kind: Type of the numbers.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int | str]], kind: DTypeLike) -> None:
        self._shapes = shapes
        self._kind = np.dtype(kind)
        self._free: dict[int, list[CrossAttention]] = {}  # as many as there are batches at a time

    def borrow(self, batch: int, keys: int) -> CrossAttention:
        """Return memory for so many utterances of so many keys; what lies in it is of no meaning."""
        try:
            room = self._free.setdefault(keys, []).pop()
        except IndexError:  # none, or another thread was quicker
            room = self._build(batch, keys)
        if room.batch < batch:
            room = self._build(batch, keys)
        part = room.rows(0, batch)
        return CrossAttention(part.values, batch, room)

    def give_back(self, cross: CrossAttention) -> None:
        """Take back what nobody needs any more; nothing to do where it was not borrowed here."""
        if cross.room is None or cross.room.batch > LARGEST_KEPT:
            return
        free = self._free[cross.room.keys]
        assert all(room is not cross.room for room in free), "given back twice"
        free.append(cross.room)

    def _build(self, batch: int, keys: int) -> CrossAttention:
        def room(shape: Sequence[int | str]) -> ort.OrtValue:
            sizes = (keys if isinstance(size, str) else size for size in shape)
            return ort.OrtValue.ortvalue_from_numpy(np.empty((batch, *sizes), self._kind))

        return CrossAttention({name: room(shape) for name, shape in self._shapes.items()}, batch)


def bind_cross_outputs(
    binding: ort.IOBinding, names: Sequence[str], device: tuple[str, int], into: CrossAttention | None
) -> None:
    """Say where an encoder shall write: into given tensors, or into new ones on a device."""
    for name in names:
        if into is not None:
            binding.bind_ortvalue_output(name, into.values[name])
        else:
            binding.bind_output(name, *device)
