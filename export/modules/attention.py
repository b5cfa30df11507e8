"""Scaled dot-product attention that leaves PyTorch as standard ONNX operators or as one fused operator.

The fused form is `com.microsoft.MultiHeadAttention`: on CPU it is a flash attention that never writes the
(positions x positions) score matrix to memory. TensorRT parses standard operators only.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor


class AttentionForm(Enum):
    """How an attention block is written into the graph."""

    STANDARD = "standard"  # MatMul, Softmax, MatMul: every provider, TensorRT included
    FUSED = "fused"  # com.microsoft.MultiHeadAttention: CPU and CUDA providers of ONNX Runtime


class _FusedAttention(torch.autograd.Function):
    """`com.microsoft.MultiHeadAttention` in the graph, `scaled_dot_product_attention` in PyTorch."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ARG004
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: "Heads",
        causal: bool,
    ) -> Tensor:
        query, key, value = (heads.split(part) for part in (query, key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return heads.merge(attended)

    @staticmethod
    def symbolic(g: Any, query: Any, key: Any, value: Any, heads: "Heads", causal: bool) -> Any:
        attended = g.op(
            "com.microsoft::MultiHeadAttention",
            query,
            key,
            value,
            num_heads_i=heads.count,
            unidirectional_i=int(causal),
        )
        attended.setType(query.type())  # the exporter knows no shape rule for this operator
        return attended


class _ReshapeTail(torch.autograd.Function):
    """Reshape everything behind (batch, length) with a constant shape.

    PyTorch's exporter rebuilds the two dynamic sizes with Shape, Gather and Concat at every reshape, which
    costs a decoder step more than its arithmetic on small models. ONNX's Reshape keeps the size at a 0 and
    works out the one at -1.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, tail: tuple[int, ...]) -> Tensor:  # noqa: ARG004
        return states.reshape(*states.shape[:2], *tail)

    @staticmethod
    def symbolic(g: Any, states: Any, tail: tuple[int, ...]) -> Any:
        shape = g.op("Constant", value_t=torch.tensor([0, -1, *tail]))
        reshaped = g.op("Reshape", states, shape)
        batch, length = states.type().varyingSizes()[:2]
        reshaped.setType(states.type().with_sizes([batch, length, *tail]))
        return reshaped


@dataclass(frozen=True)
class Heads:
    """The head geometry of an attention block: Python numbers, so that traced graphs hold constants."""

    count: int
    size: int

    @property
    def width(self) -> int:
        """Size of all heads side by side."""
        return self.count * self.size

    def split(self, states: Tensor) -> Tensor:
        """Turn (batch, length, width) into (batch, count, length, size)."""
        heads: Tensor = _ReshapeTail.apply(states, (self.count, self.size))
        return heads.transpose(1, 2)

    def merge(self, states: Tensor) -> Tensor:
        """Turn (batch, count, length, size) into (batch, length, width)."""
        merged: Tensor = _ReshapeTail.apply(states.transpose(1, 2), (self.width,))
        return merged

    def parts(self, states: Tensor) -> tuple[Tensor, ...]:
        """Cut (batch, length, n * width) into n tensors (batch, length, width)."""
        parts: tuple[Tensor, ...] = torch.split(states, self.width, dim=-1)
        return parts


def self_attention(
    query: Tensor, key: Tensor, value: Tensor, heads: Heads, form: AttentionForm, causal: bool = False
) -> Tensor:
    """Attend over the whole sequence.

    Args:
        query: (batch, length, width), not yet scaled.
        key: Same shape.
        value: Same shape.
        heads: Head geometry.
        form: How it is written into the graph.
        causal: A position sees itself and the positions before it only.

    Returns:
        (batch, length, width).
    """
    if form is AttentionForm.FUSED:
        attended: Tensor = _FusedAttention.apply(query, key, value, heads, causal)
        return attended
    scores = heads.split(query * heads.size**-0.5) @ heads.split(key).transpose(2, 3)
    if causal:
        length = query.shape[1]
        above = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(above, torch.finfo(scores.dtype).min)
    return heads.merge(scores.softmax(dim=-1) @ heads.split(value))


def cross_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, form: AttentionForm) -> Tensor:
    """Attend with a handful of queries over a long memory that all of them share.

    Args:
        query: (batch, heads, queries, size), already scaled.
        key: (batch, heads, size, memory).
        value: (batch, heads, memory, size).
        bias: (batch, memory), added to the scores: the logarithm of how many positions each key stands for.
        form: How it is written into the graph. The fused operator is no use here; its place is taken by
            products of single rows. ONNX Runtime's CPU product repacks the memory before it multiplies,
            except for a single row: that one streams it from where it lies, and the other queries find it
            in the cache.

    Returns:
        (batch, heads, queries, size).
    """
    if form is AttentionForm.STANDARD:
        return (query @ key + bias[:, None, None]).softmax(dim=-1) @ value
    weights = (query.unsqueeze(3) @ key.unsqueeze(2) + bias[:, None, None, None]).softmax(dim=-1)
    return (weights @ value.unsqueeze(2)).squeeze(3)
