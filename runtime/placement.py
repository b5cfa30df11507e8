"""Where the nodes of a graph run: read from the session, compared with what was asked for.

onnxruntime gives a node that its provider cannot run to the CPU without a word. Shape arithmetic belongs
there; a matrix product there makes the GPU slower than no GPU at all.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort

from runtime.errors import ProviderError

# Session configuration entry that makes `get_provider_graph_assignment_info` answer.
RECORD_PLACEMENT = "session.record_ep_graph_assignment_info"

CPU_NAME = "CPUExecutionProvider"
# Operators that hold practically all arithmetic of Whisper and CLIP. None of them may fall to the CPU.
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
        counts: Provider, in onnxruntime's name, to its number of nodes.
        on_cpu: The nodes that run on the CPU, as (operator, node name).
    """

    counts: Mapping[str, int]
    on_cpu: tuple[tuple[str, str], ...]

    @property
    def total(self) -> int:
        """Number of nodes."""
        return sum(self.counts.values())

    @property
    def cpu_share(self) -> float:
        """Share of the nodes that run on the CPU, in [0, 1]."""
        return self.counts.get(CPU_NAME, 0) / self.total if self.total else 0.0

    @property
    def heavy_on_cpu(self) -> tuple[tuple[str, str], ...]:
        """Those nodes on the CPU that hold real arithmetic."""
        return tuple(node for node in self.on_cpu if node[0] in HEAVY_OPERATORS)

    def to_dict(self) -> dict[str, Any]:
        """Return counts, share and the operators on the CPU, for reports; the counts alone for the CPU."""
        nodes = {"nodes": dict(self.counts)}
        if set(self.counts) <= {CPU_NAME}:
            return nodes
        return {
            **nodes,
            "cpu_share": self.cpu_share,
            "cpu_operators": dict(Counter(operator for operator, _ in self.on_cpu).most_common()),
            "heavy_on_cpu": [f"{operator} {name}" for operator, name in self.heavy_on_cpu],
        }


def read_placement(session: ort.InferenceSession) -> Placement:
    """Read the placement from a session that was created with `RECORD_PLACEMENT` set to "1"."""
    counts: Counter[str] = Counter()
    on_cpu: list[tuple[str, str]] = []
    for part in session.get_provider_graph_assignment_info():
        nodes = part.get_nodes()
        counts[part.ep_name] += len(nodes)
        if part.ep_name == CPU_NAME:
            on_cpu += [(node.op_type, node.name) for node in nodes]
    return Placement(dict(counts), tuple(on_cpu))


def check_placement(placement: Placement, provider: str, graph: str, limit: float) -> None:
    """Refuse a session that left the work to the CPU.

    Args:
        placement: What the session does.
        provider: What was asked for, in onnxruntime's name; the CPU itself passes always.
        graph: Name of the graph, for the message.
        limit: Largest share of nodes that may run on the CPU, in [0, 1].

    Raises:
        ProviderError: More nodes than that, or a node of `HEAVY_OPERATORS`, run on the CPU.
    """
    if provider == CPU_NAME:
        return
    heavy = placement.heavy_on_cpu
    if not heavy and placement.cpu_share <= limit:
        return
    named = ", ".join(f"{operator} ({name})" for operator, name in (heavy or placement.on_cpu)[:_LISTED])
    fallen = placement.counts.get(CPU_NAME, 0)
    raise ProviderError(
        f"{graph}: {provider} was asked for and {fallen} of {placement.total} nodes run on the CPU "
        f"({placement.cpu_share:.0%}, allowed {limit:.0%}"
        f"{', and none that computes' if heavy else ''}): {named}. "
        "Quantised operators have no GPU kernels: use the fp16 or fp32 graphs (--precision fp16), "
        "or ask for the CPU (--provider cpu)."
    )
