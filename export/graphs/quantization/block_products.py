"""int8 products of a handful of rows: those of a decoder step, limited by reading the weights.

Weights and activations both have one scale per block of the inner axis (`MatMulNBits`), which costs nothing
more than one scale a row.

onnxruntime's kernel takes rows two by two, and adds up the blocks of a single last one in another order. The
difference of 1e-6 decides now and then how a later number is rounded to int8, and that moves scores by up to
0.01. So the number of rows is made even: an utterance comes out the same whatever it shares a batch with.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graphs.quantization.graph_editor import MICROSOFT, GraphEditor, make_node
from export.graphs.quantization.scales import symmetric_scales

# Numbers that share a scale. Over a step of whisper-base, blocks of 256 are 1 % quicker and err a third more;
# blocks of 64 are 6 % slower (docs/performance.md).
BLOCK: Final = 128


def quantize_in_blocks(graph: GraphEditor) -> None:
    """Turn the products with constant weights into `MatMulNBits` of 8 bits, of an even number of rows.

    Args:
        graph: A decoder, whose last product is the vocabulary's: it has rows for the wanted positions alone,
            the others have one for each token that goes in.
    """
    found = graph.products()
    rows: _Rows | None = None
    for place, (name, products) in enumerate(found.items(), 1):
        if rows is None or place == len(found):
            rows = _count_rows(graph, name, products[0])
        filled = f"{name}_even"
        graph.insert_before(products[0], [make_node("Pad", [name, rows.pads], filled)])
        for node in products:
            table = node.input[1]
            matrix = graph.array(table)
            inner, outer = matrix.shape
            names = block_names(table)
            numbers, scales = _in_blocks(matrix.T)
            graph.constant(names[0], numbers)
            graph.constant(names[1], scales)
            output, bias = graph.take_bias(node)
            # Behind the weights: zero points and group index, which symmetric blocks do without.
            inputs = [filled, *names, *(["", "", *bias] if bias else [])]
            sizes = {"K": inner, "N": outer, "bits": 8, "block_size": BLOCK}
            whole = f"{output}_even"
            # Level 4: activations become int8 too.
            product = make_node("MatMulNBits", inputs, whole, MICROSOFT, accuracy_level=4, **sizes)
            cut = make_node("Slice", [whole, rows.start, rows.count, rows.axis], output)
            graph.replace(node, [product, cut])
    graph.use_microsoft_operators()


@dataclass(frozen=True, slots=True)
class _Rows:
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


def _count_rows(graph: GraphEditor, name: str, before: onnx.NodeProto) -> _Rows:
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
    return _Rows(pads, start, count, axis)


def block_names(table: str) -> tuple[str, str]:
    """Return the names of the numbers and the scales of a product's weights."""
    return f"{table}_blocks_int8", f"{table}_block_scales"


def _in_blocks(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise each row in blocks, symmetrically around 128.

    Args:
        rows: (outer, inner).

    Returns:
        Numbers (outer, blocks, block), the last block filled up with zeros, and scales (outer, blocks).
    """
    outer, inner = rows.shape
    blocks = -(-inner // BLOCK)
    padded = np.zeros((outer, blocks * BLOCK), np.float32)
    padded[:, :inner] = rows
    parts = padded.reshape(outer, blocks, BLOCK)
    scales = symmetric_scales(parts, axis=2)
    return (np.rint(parts / scales) + 128).astype(np.uint8), scales[:, :, 0]
