"""int8 products of a handful of rows: those of a decoder step, limited by reading the weights.

Weights and activations both have one scale per block of the inner axis (`MatMulNBits`), which costs nothing
more than one scale a row.

Their number of rows is made even, so that an utterance does not depend on its batch: `even_rows`.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from export.graphs.quantization.even_rows import EvenRows, count_rows, even_name, stay_even
from export.graphs.quantization.graph_editor import MICROSOFT, GraphEditor, make_node
from export.graphs.quantization.scales import symmetric_scales

# Numbers that share a scale. Over a step of whisper-base, blocks of 256 are 1 % quicker and err a third more;
# blocks of 64 are 6 % slower (docs/research/levers.md).
BLOCK: Final = 128


def quantize_in_blocks(graph: GraphEditor) -> None:
    """Turn the products with constant weights into `MatMulNBits` of 8 bits, of an even number of rows.

    Args:
        graph: A decoder, whose last product is the vocabulary's: it has rows for the wanted positions alone,
            the others have one for each token that goes in.
    """
    found = graph.products()
    steps: EvenRows | None = None
    for place, (name, products) in enumerate(found.items(), 1):
        if steps is None or place == len(found):
            rows = count_rows(graph, name, products[0])
            steps = steps or rows
        graph.insert_before(products[0], [rows.filled(name)])
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
            inputs = [even_name(name), *names, *(["", "", *bias] if bias else [])]
            sizes = {"K": inner, "N": outer, "bits": 8, "block_size": BLOCK}
            # Level 4: activations become int8 too.
            product = make_node(
                "MatMulNBits", inputs, even_name(output), MICROSOFT, accuracy_level=4, **sizes
            )
            graph.replace(node, [product, rows.cut(output)])
    assert steps is not None  # a decoder has products
    stay_even(graph, steps)
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
    scales = symmetric_scales(parts, axis=2)
    return (np.rint(parts / scales) + 128).astype(np.uint8), scales[:, :, 0]
