"""int8 products of a handful of rows: those of a decoder step, limited by reading the weights.

Weights and activations both have one scale per block of the inner axis (`MatMulNBits`), which costs nothing
more than one scale a row.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.quantization.graph_editor import MICROSOFT, GraphEditor, make_node

# Numbers that share a scale. Over a step of whisper-base, blocks of 256 are 1 % quicker and err a third more;
# blocks of 64 are 6 % slower (docs/performance.md).
BLOCK: Final = 128


def quantize_in_blocks(graph: GraphEditor) -> None:
    """Turn the products with constant weights into `MatMulNBits` of 8 bits."""
    for products in graph.products().values():
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
            inputs = [node.input[0], *names, *(["", "", *bias] if bias else [])]
            sizes = {"K": inner, "N": outer, "bits": 8, "block_size": BLOCK}
            # Level 4: activations become int8 too.
            product = make_node("MatMulNBits", inputs, output, MICROSOFT, accuracy_level=4, **sizes)
            graph.replace(node, [product])
    graph.use_microsoft_operators()


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
    scales = np.maximum(np.abs(parts).max(axis=2) / 127, np.finfo(np.float32).tiny)
    return (np.rint(parts / scales[:, :, None]) + 128).astype(np.uint8), scales.astype(np.float32)
