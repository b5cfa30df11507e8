"""int8 for CPUs: the products with constant weights, and the table of tokens.

Encoders (`row_products`): weights with one scale per output channel, activations with one a row or one fixed
at export. Decoder (`block_products`): both with one scale per block. Nothing that one utterance holds changes
the scale of another. Attention products stay float32: their operands are both activations. So do
convolutions: they are few, and their inputs are what all else depends on.
"""

from pathlib import Path
from typing import Final

import onnx

from export.graphs.quantization.activation_ranges import Ranges
from export.graphs.quantization.block_products import quantize_in_blocks
from export.graphs.quantization.graph_editor import GraphEditor
from export.graphs.quantization.row_products import quantize_rows
from export.graphs.quantization.smoothing import smooth_products
from export.graphs.quantization.token_tables import quantize_rows_of_tables, share_with_vocabulary
from export.graphs.storage import save_graph

# How much of a channel's size moves into the weights: what errs least on real whisper-base. Values of its
# encoder err by 0.101 without, 0.091 with 0.5 and 0.080 with 0.7; the decoder's vocabulary likes 0.5 best.
ENCODER_SHARE: Final = 0.7
DECODER_SHARE: Final = 0.5


def quantize(source: Path, target: Path, *, few_rows: bool, ranges: Ranges | None = None) -> None:
    """Write the int8 form of a float32 graph.

    Args:
        source: Graph as exported.
        target: Where the int8 graph goes.
        few_rows: Whether its products have a handful of rows (a decoder step) rather than hundreds (an
            encoder). Few rows are limited by reading weights, and there block-wise products cost nothing
            more than one scale a row of activations; many rows are limited by arithmetic, where plain integer
            products are quicker.
        ranges: Of the inputs of products with many rows, as far as they are known.
    """
    model = onnx.load(source)
    graph = GraphEditor(model)
    if few_rows:
        share_with_vocabulary(graph, smooth_products(graph, DECODER_SHARE))
        quantize_rows_of_tables(graph)
        quantize_in_blocks(graph)
    else:
        if ranges is None:
            smooth_products(graph, ENCODER_SHARE)
        quantize_rows(graph, ranges)
        quantize_rows_of_tables(graph)
    save_graph(model, target)
