"""Where the nodes of a graph run: read from the session, compared with what was asked for.

onnxruntime gives a node that its provider cannot run to the next one, at last to the CPU, without a word.
Shape arithmetic belongs there; a matrix product there makes the GPU slower than no GPU at all.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from runtime.errors import ProviderError

# Session configuration entry that makes `get_provider_graph_assignment_info` answer.
RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"

# Operators that hold practically all arithmetic of Whisper and CLIP: none may fall to another provider.
HEAVY_OPERATORS = frozenset(
    {
        "Attention",
        "BiasGelu",
        "Conv",
        "DecoderMaskedMultiHeadAttention",
        "DynamicQuantizeMatMul",
        "FusedConv",
        "FusedMatMul",
        "Gelu",
        "Gemm",
        "LayerNormalization",
        "LogSoftmax",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MultiHeadAttention",
        "QAttention",
        "SkipLayerNormalization",
        "Softmax",
        "TopK",
    }
)
_LISTED = 8  # nodes named in an error message


@dataclass(frozen=True, slots=True)
class Placement:
    """Which provider runs how many nodes, after onnxruntime's graph optimisation.

    Attributes:
        wanted: The provider that was asked for, in onnxruntime's name.
        counts: Provider, in onnxruntime's name, to its number of nodes.
        fallen: The nodes that another provider runs, as (provider, operator, node name).
        precision: What the products are computed in.
    """

    wanted: str
    counts: Mapping[str, int]
    fallen: tuple[tuple[str, str, str], ...] = ()
    precision: str | None = None

    @property
    def total(self) -> int:
        """Number of nodes."""
        return sum(self.counts.values())

    @property
    def fallen_share(self) -> float:
        """Share of the nodes that another provider runs, in [0, 1]."""
        return len(self.fallen) / self.total if self.total else 0.0

    @property
    def heavy_fallen(self) -> tuple[tuple[str, str, str], ...]:
        """Those of the fallen nodes that hold real arithmetic."""
        return tuple(node for node in self.fallen if node[1] in HEAVY_OPERATORS)

    def to_dict(self) -> dict[str, Any]:
        """Return counts, share and fallen operators, for reports."""
        return {
            "precision": self.precision,
            "nodes": dict(self.counts),
            "fallen_share": self.fallen_share,
            "fallen_operators": dict(
                Counter(f"{node[1]} on {node[0]}" for node in self.fallen).most_common()
            ),
            "heavy_fallen": [
                f"{operator} ({name}) on {place}" for place, operator, name in self.heavy_fallen
            ],
        }


def read_placement(session: ort.InferenceSession, wanted: str, precision: str | None = None) -> Placement:
    """Read the placement from a session that was created with `RECORD_PLACEMENT` set to "1".

    Args:
        session: The session.
        wanted: The provider that was asked for, in onnxruntime's name.
        precision: What the products are computed in.
    """
    counts: Counter[str] = Counter()
    fallen: list[tuple[str, str, str]] = []
    for part in session.get_provider_graph_assignment_info():
        nodes = part.get_nodes()
        counts[part.ep_name] += len(nodes)
        if part.ep_name != wanted:
            fallen += [(part.ep_name, node.op_type, node.name) for node in nodes]
    return Placement(wanted, dict(counts), tuple(fallen), precision)


def check_placement(placement: Placement, graph: str, limit: float) -> None:
    """Refuse a session that left the work to another provider.

    Args:
        placement: What the session does.
        graph: Name of the graph, for the message.
        limit: Largest share of nodes that may run elsewhere, in [0, 1].

    Raises:
        ProviderError: More nodes than that, or a node of `HEAVY_OPERATORS`, run elsewhere.
    """
    heavy = placement.heavy_fallen
    if not heavy and placement.fallen_share <= limit:
        return
    named = ", ".join(
        f"{operator} ({name}) on {place}" for place, operator, name in (heavy or placement.fallen)[:_LISTED]
    )
    raise ProviderError(
        f"{graph}: {placement.wanted} was asked for, and {len(placement.fallen)} of {placement.total} nodes "
        f"run elsewhere ({placement.fallen_share:.0%}, allowed {limit:.0%}"
        f"{', and none that computes' if heavy else ''}): {named}. "
        "Quantised operators have no GPU kernels, and TensorRT takes standard operators alone: use the fp16 "
        "graphs (--precision fp16), or another provider (--provider cpu)"
    )
