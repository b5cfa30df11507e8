"""int8 products of many rows: those of the encoders, whose activations are quantised row by row.

Weights have one scale per output channel. For activations there are two ways, and in neither does a row
depend on another one, so that an utterance comes out the same whatever it shares a batch with:

- **Ranges known** (inputs that a LayerNorm bounds, `export.activation_ranges`): one scale for all, fixed at
  export. Channels that are much larger than others would take the range from them, so part of their size
  first moves from the LayerNorm into the weights, which changes nothing of the product (SmoothQuant, Xiao et
  al. 2022, equation 4, with more of it in the weights).
- **Ranges unknown**: each row is divided by its largest magnitude, multiplied as integers, and multiplied
  back.

The integer product is onnxruntime's own kernel, the one behind `quantize_dynamic`. That has one scale for the
whole tensor, taken at run time, and errs 2.5 times as much on whisper-base.
"""

from collections import defaultdict
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.activation_ranges import Ranges, digest

SMOOTHING: Final = 0.8  # share of a channel's size that moves into the weights; 0.5 to 0.9 tried
HEADROOM: Final = 1.1  # of a fixed range above what was measured; what lies beyond is cut off
LEVELS: Final = 127.0
MIDDLE: Final = 128  # activations are unsigned: the form for which processors have instructions
SMALLEST: Final = 1e-20  # a row of zeros stays one


def quantize_rows(model: onnx.ModelProto, ranges: Ranges | None = None) -> None:
    """Turn the products with constant weights of a float32 graph into integer products.

    Args:
        model: Changed in place.
        ranges: Of the products' inputs, as far as they are known.
    """
    graph = _Graph(model.graph)
    for name, products in graph.products().items():
        known = [(ranges or {}).get(digest(graph.array(node.input[1]))) for node in products]
        if all(each is not None for each in known):
            _with_fixed_range(
                graph, name, products, np.max([each for each in known if each is not None], axis=0)
            )
        else:
            _with_row_scales(graph, name, products)
    if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


class _Graph:
    """A graph with its constants at hand."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}

    def products(self) -> dict[str, list[onnx.NodeProto]]:
        """Return the products with constant weights by their input, in the order of the graph."""
        found = defaultdict(list)
        for node in self.graph.node:
            if node.op_type == "MatMul" and node.input[1] in self.tensors:
                found[node.input[0]].append(node)
        return dict(found)

    def array(self, name: str) -> NDArray[Any]:
        """Return a constant."""
        values: NDArray[Any] = numpy_helper.to_array(self.tensors[name])
        return values

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Add a constant, or replace the one of that name; return the name."""
        if name in self.tensors:
            self.graph.initializer.remove(self.tensors[name])
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        self.tensors[name] = self.graph.initializer[-1]
        return name

    def drop_unread(self, name: str) -> None:
        """Remove a constant that no node reads."""
        if name in self.tensors and not self.users(name):
            self.graph.initializer.remove(self.tensors.pop(name))

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Return the node that makes a tensor; None for an input of the graph."""
        return next((node for node in self.graph.node if name in node.output), None)

    def users(self, name: str) -> list[onnx.NodeProto]:
        """Return the nodes that read a tensor."""
        return [node for node in self.graph.node if name in node.input]

    def insert_before(self, node: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
        """Put nodes where they can be read by `node`."""
        place = list(self.graph.node).index(node)
        for offset, each in enumerate(new):
            self.graph.node.insert(place + offset, each)


def _node(kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=output, domain=domain, **attributes)


def _with_fixed_range(
    graph: _Graph, name: str, products: list[onnx.NodeProto], largest: NDArray[np.float32]
) -> None:
    """Quantise an input with one scale that is known now, after making its channels alike."""
    weights = [graph.array(node.input[1]) for node in products]
    channel_weights = np.max([np.abs(each).max(axis=1) for each in weights], axis=0)
    factors = np.maximum(largest, 1e-3) ** SMOOTHING / np.maximum(channel_weights, 1e-5) ** (1 - SMOOTHING)
    factors = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    for node, each in zip(products, weights, strict=True):
        table = node.input[1]
        node.input[1] = graph.constant(f"{table}_smoothed", each * factors[:, None])
        graph.drop_unread(table)
    scale = graph.constant(f"{name}_scale", np.float32((largest / factors).max() * HEADROOM / LEVELS))
    middle = graph.constant("int8_middle", np.uint8(MIDDLE))
    smoothed, before = _divided(graph, name, products, 1 / factors)
    quantized = f"{name}_int8"
    graph.insert_before(products[0], [*before, _node("QuantizeLinear", [smoothed, scale, middle], quantized)])
    for node in products:
        output, bias = node.output[0], []
        added = _added_bias(graph, node)
        if added is not None:
            addition, vector = added
            output, bias = addition.output[0], [vector]
            graph.graph.node.remove(addition)
        _replace(graph, node, [_integer_product(graph, node, quantized, scale, output, bias)])


def _divided(
    graph: _Graph, name: str, products: list[onnx.NodeProto], gains: NDArray[np.float32]
) -> tuple[str, list[onnx.NodeProto]]:
    """Multiply the channels of an input: in the LayerNorm that makes it, where nobody else reads it."""
    norm = graph.producer(name)
    if norm is not None and norm.op_type == "LayerNormalization" and len(graph.users(name)) == len(products):
        for i, part in enumerate(norm.input[1:3], 1):
            # Under a name of its own: another node may read the old one.
            norm.input[i] = graph.constant(f"{name}_norm_{i}", graph.array(part) * gains)
            graph.drop_unread(part)
        return name, []
    return f"{name}_smoothed", [
        _node("Mul", [name, graph.constant(f"{name}_gains", gains)], f"{name}_smoothed")
    ]


def _with_row_scales(graph: _Graph, name: str, products: list[onnx.NodeProto]) -> None:
    """Quantise each row of an input by its own largest magnitude, found at run time."""
    scale = graph.constant("int8_row_step", np.float32(1 / LEVELS))
    middle = graph.constant("int8_middle", np.uint8(MIDDLE))
    last = graph.constant("int8_last_axis", np.array([-1], np.int64))
    smallest = graph.constant("int8_smallest", np.float32(SMALLEST))
    rows, quantized = f"{name}_rows", f"{name}_int8"
    graph.insert_before(
        products[0],
        [
            _node("Abs", [name], f"{name}_magnitudes"),
            _node("ReduceMax", [f"{name}_magnitudes", last], f"{name}_largest", keepdims=1),
            _node("Max", [f"{name}_largest", smallest], rows),
            _node("Div", [name, rows], f"{name}_unit"),
            _node("QuantizeLinear", [f"{name}_unit", scale, middle], quantized),
        ],
    )
    for node in products:
        unit = f"{node.output[0]}_unit"
        _replace(
            graph,
            node,
            [
                _integer_product(graph, node, quantized, scale, unit, []),
                _node("Mul", [unit, rows], node.output[0]),
            ],
        )


def _integer_product(
    graph: _Graph, node: onnx.NodeProto, quantized: str, scale: str, output: str, bias: list[str]
) -> onnx.NodeProto:
    """Quantise the weights of a product, one scale per output channel, and return its integer form."""
    table = node.input[1]
    weights = graph.array(table)
    scales = np.maximum(np.abs(weights).max(axis=0) / LEVELS, np.finfo(np.float32).tiny).astype(np.float32)
    graph.constant(f"{table}_int8", np.rint(weights / scales).astype(np.int8))
    graph.constant(f"{table}_scales", scales)
    graph.constant(f"{table}_zero", np.zeros(len(scales), np.int8))
    inputs = [quantized, f"{table}_int8", scale, f"{table}_scales", "int8_middle", f"{table}_zero", *bias]
    return _node("MatMulIntegerToFloat", inputs, output, domain="com.microsoft")


def _added_bias(graph: _Graph, product: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
    """Return the addition of a constant vector that follows a product alone, and the vector's name."""
    users = graph.users(product.output[0])
    if len(users) != 1 or users[0].op_type != "Add":
        return None
    (other,) = [name for name in users[0].input if name != product.output[0]]
    constant = other in graph.tensors and len(graph.tensors[other].dims) == 1
    return (users[0], other) if constant else None


def _replace(graph: _Graph, node: onnx.NodeProto, new: list[onnx.NodeProto]) -> None:
    graph.insert_before(node, new)
    graph.graph.node.remove(node)
    for name in node.input:
        graph.drop_unread(name)
