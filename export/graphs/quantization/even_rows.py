"""An even number of rows for the products of a decoder, filled up once and not for each product.

onnxruntime's `MatMulNBits` takes rows two by two, and adds up the blocks of a single last one in another
order. The difference of 1e-6 decides now and then how a later number is rounded to int8, and that moves
scores by up to 0.01. So the number of rows is made even: an utterance comes out the same whatever it shares
a batch with.

A row is filled in front of a product and cut off behind it. Where what lies between two products treats each
row by itself, cutting and filling are left out: the row that fills is computed along, and nobody reads it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from export.graphs.quantization.graph_editor import GraphEditor, make_node

# Operators that compute each row of (batch, rows, channels) by itself.
ROW_BY_ROW: Final = frozenset({"Add", "Div", "Erf", "LayerNormalization", "Mul"})


@dataclass(frozen=True, slots=True)
class EvenRows:
    """Names of tensors that tell how rows are filled up and cut off.

    Attributes:
        pads: For `Pad`: one more row at the end of each sequence, where all together are odd.
        start: Of the rows that count, (1,): zero.
        count: How many there are in a sequence, (1,).
        axis: Theirs in (batch, rows, channels), (1,).
    """

    pads: str
    start: str
    count: str
    axis: str

    def filled(self, name: str) -> onnx.NodeProto:
        """Return the node that fills up the rows of a tensor."""
        return make_node("Pad", [name, self.pads], even_name(name))

    def cut(self, name: str) -> onnx.NodeProto:
        """Return the node that makes a tensor of its filled form."""
        return make_node("Slice", [even_name(name), self.start, self.count, self.axis], name)


def even_name(name: str) -> str:
    """Return the name of a tensor's form of evenly many rows."""
    return f"{name}_even"


def count_rows(graph: GraphEditor, name: str, before: onnx.NodeProto) -> EvenRows:
    """Put nodes in front of one that count the rows of a tensor (batch, rows, channels)."""
    start = graph.constant("even_start", np.array([0]))
    two = graph.constant("even_two", np.array([2]))
    axis = graph.constant("even_axis", np.array([1]))
    shape, product, odd, pads, count = (
        f"{name}_{part}" for part in ("shape", "all_rows", "odd", "pads", "count")
    )
    nodes = [
        make_node("Shape", [name], shape, start=0, end=2),
        make_node("ReduceProd", [shape], product, keepdims=1),
        make_node("Mod", [product, two], odd),
        make_node("Concat", [start, start, start, start, odd, start], pads, axis=0),
        make_node("Gather", [shape, axis], count),
    ]
    graph.insert_before(before, nodes)
    return EvenRows(pads, start, count, axis)


def stay_even(graph: GraphEditor, rows: EvenRows) -> None:
    """Leave out what cuts a row off and fills it up again, with only operators of `ROW_BY_ROW` in between.

    Args:
        graph: Products with `EvenRows.filled` in front and `EvenRows.cut` behind; changed in place.
        rows: Theirs.
    """
    constants = {name for node in graph.graph.node if node.op_type == "Constant" for name in node.output}
    constants |= set(graph.tensors)
    even: set[str] = set()  # tensors that are there in their even form as well
    nodes: list[onnx.NodeProto] = []
    for node in graph.graph.node:
        name = node.output[0]
        if node.op_type == "Pad" and node.input[1] == rows.pads:
            if node.input[0] not in even:
                nodes.append(node)
                even.add(node.input[0])
            continue
        nodes.append(node)
        if node.op_type == "Slice" and rows.count in node.input:
            even.add(name)
        elif node.op_type in ROW_BY_ROW and even.intersection(node.input):
            computed = [each for each in node.input if each not in constants]
            nodes[-1:-1] = [rows.filled(each) for each in computed if each not in even]
            for i, each in enumerate(node.input):
                if each in computed:
                    node.input[i] = even_name(each)
            node.output[0] = even_name(name)
            nodes.append(rows.cut(name))
            even.update(computed, [name])
    _replace_all(graph, _read(nodes, {output.name for output in graph.graph.output}))


def _read(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """Return the nodes whose results somebody reads, in their order."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _replace_all(graph: GraphEditor, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(copies)
