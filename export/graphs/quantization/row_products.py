"""int8 products of many rows: those of the encoders, whose activations are quantised row by row.

Weights have one scale per output channel. For activations there are two ways, and in neither does a row
depend on another one, so that an utterance comes out the same whatever it shares a batch with:

- **Ranges known** (inputs that a LayerNorm bounds, `activation_ranges`): one scale for all, fixed at export,
  after making the channels alike (`smoothing`).
- **Ranges unknown**: each row is divided by its largest magnitude, multiplied as integers, and multiplied
  back.

The integer product is onnxruntime's own kernel, the one behind `quantize_dynamic`. That has one scale for the
whole tensor, taken at run time, and errs 2.5 times as much on whisper-base.
"""

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graphs.quantization.activation_ranges import Ranges, digest
from export.graphs.quantization.graph_editor import MICROSOFT, GraphEditor, make_node
from export.graphs.quantization.scales import LEVELS, symmetric_scales
from export.graphs.quantization.smoothing import divide_in_norm, norm_of, smoothing_factors

SMOOTHING: Final = 0.8  # share of a channel's size that moves into the weights; 0.5 to 0.9 tried
HEADROOM: Final = 1.1  # of a fixed range above what was measured; what lies beyond is cut off
MIDDLE: Final = 128  # activations are unsigned: the form for which processors have instructions
SMALLEST: Final = 1e-20  # a row of zeros stays one


def quantize_rows(graph: GraphEditor, ranges: Ranges | None = None) -> None:
    """Turn the products with constant weights of a float32 graph into integer products.

    Args:
        graph: Changed in place.
        ranges: Of the products' inputs, as far as they are known.
    """
    for name, products in graph.products().items():
        known = [(ranges or {}).get(digest(graph.array(node.input[1]))) for node in products]
        if all(each is not None for each in known):
            largest = np.max([each for each in known if each is not None], axis=0)
            _with_fixed_range(graph, name, products, largest)
        else:
            _with_row_scales(graph, name, products)
    graph.use_microsoft_operators()


def _with_fixed_range(
    graph: GraphEditor, name: str, products: list[onnx.NodeProto], largest: NDArray[np.float32]
) -> None:
    """Quantise an input with one scale that is known now, after making its channels alike."""
    weights = [graph.array(node.input[1]) for node in products]
    factors = smoothing_factors(largest, weights, SMOOTHING)
    for node, each in zip(products, weights, strict=True):
        table = node.input[1]
        # Named after the product: another one may read the same weights.
        node.input[1] = graph.constant(f"{node.output[0]}_weights", each * factors[:, None])
        graph.drop_unread(table)
    scale = graph.constant(f"{name}_scale", np.float32((largest / factors).max() * HEADROOM / LEVELS))
    middle = graph.constant("int8_middle", np.uint8(MIDDLE))
    smoothed, quantized = name, f"{name}_int8"
    norm = norm_of(graph, name, products)
    if norm is not None:
        divide_in_norm(graph, norm, factors)
    else:
        smoothed = f"{name}_smoothed"
        gains = graph.constant(f"{name}_gains", 1 / factors)
        graph.insert_before(products[0], [make_node("Mul", [name, gains], smoothed)])
    graph.insert_before(products[0], [make_node("QuantizeLinear", [smoothed, scale, middle], quantized)])
    for node in products:
        output, bias = graph.take_bias(node)
        graph.replace(node, [_integer_product(graph, node, quantized, scale, output, bias)])


def _with_row_scales(graph: GraphEditor, name: str, products: list[onnx.NodeProto]) -> None:
    """Quantise each row of an input by its own largest magnitude, found at run time."""
    scale = graph.constant("int8_row_step", np.float32(1 / LEVELS))
    middle = graph.constant("int8_middle", np.uint8(MIDDLE))
    last = graph.constant("int8_last_axis", np.array([-1], np.int64))
    smallest = graph.constant("int8_smallest", np.float32(SMALLEST))
    rows, quantized = f"{name}_rows", f"{name}_int8"
    graph.insert_before(
        products[0],
        [
            make_node("Abs", [name], f"{name}_magnitudes"),
            make_node("ReduceMax", [f"{name}_magnitudes", last], f"{name}_largest", keepdims=1),
            make_node("Max", [f"{name}_largest", smallest], rows),
            make_node("Div", [name, rows], f"{name}_unit"),
            make_node("QuantizeLinear", [f"{name}_unit", scale, middle], quantized),
        ],
    )
    for node in products:
        output = node.output[0]
        unit = f"{output}_unit"
        product = _integer_product(graph, node, quantized, scale, unit, [])
        graph.replace(node, [product, make_node("Mul", [unit, rows], output)])


def _integer_product(
    graph: GraphEditor, node: onnx.NodeProto, quantized: str, scale: str, output: str, bias: list[str]
) -> onnx.NodeProto:
    """Quantise the weights of a product, one scale per output channel, and return its integer form."""
    table = node.input[1]
    weights = graph.array(table)
    scales = symmetric_scales(weights, axis=0)
    graph.constant(f"{table}_int8", np.rint(weights / scales).astype(np.int8))
    graph.constant(f"{table}_scales", scales[0])
    graph.constant(f"{table}_zero", np.zeros(scales.size, np.int8))
    inputs = [quantized, f"{table}_int8", scale, f"{table}_scales", "int8_middle", f"{table}_zero", *bias]
    return make_node("MatMulIntegerToFloat", inputs, output, domain=MICROSOFT)
