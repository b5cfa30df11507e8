"""What an encoder hands to the decoder."""

from dataclasses import dataclass

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
