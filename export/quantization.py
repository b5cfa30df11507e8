"""int8 for CPUs: the products with constant weights, and the embedding.

Encoders: weights with one scale per output channel, activations with one per tensor, taken at run time.
Decoder: both with one scale per block of `BLOCK` numbers. Attention products stay float32: their operands are
both activations. So do convolutions: they are few, and their inputs are what all else depends on.
"""

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

# Protocol buffers end at 2 GiB; larger graphs keep their weights in a file beside.
EXTERNAL_DATA_FROM = 1_900_000_000
BLOCK = 128  # weights that share a scale in a block-wise product; a multiple of the kernels' width


def quantize(source: Path, target: Path, *, few_rows: bool) -> None:
    """Write the int8 form of a float32 graph.

    Args:
        source: Graph as exported.
        target: Where the int8 graph goes.
        few_rows: Whether its products have a handful of rows (a decoder step) rather than hundreds (an
            encoder). Few rows are limited by reading weights, and there block-wise products cost nothing
            more than one scale per tensor of activations, which is less accurate; many rows are limited by
            arithmetic, where plain integer products are quicker.
    """
    if few_rows:
        model = onnx.load(source)
        _quantize_in_blocks(model)
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    else:
        _quantize_dynamically(source, target)
        model = onnx.load(target)
    _quantize_embedding(model)
    onnx.save(model, target)


def _quantize_dynamically(source: Path, target: Path) -> None:
    data = source.with_name(source.name + "_data")
    size = source.stat().st_size + (data.stat().st_size if data.exists() else 0)
    root = logging.getLogger()
    root.addFilter(_is_no_preprocessing_hint)
    try:
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            # An estimate: nearly all of a graph is float32 weights, of which a quarter stays.
            use_external_data_format=size / 4 > EXTERNAL_DATA_FROM,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        root.removeFilter(_is_no_preprocessing_hint)


def _is_no_preprocessing_hint(record: logging.LogRecord) -> bool:
    # quantize_dynamic tells everybody to run symbolic shape inference first; our graphs carry their shapes.
    return "pre-processing" not in record.getMessage()


def _quantize_in_blocks(model: onnx.ModelProto) -> None:
    """Turn products with constant weights into MatMulNBits: int8, one scale per block of the inner axis."""
    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights]:
        table = weights[node.input[1]]
        matrix = numpy_helper.to_array(table)
        inner, outer = matrix.shape
        blocks = -(-inner // BLOCK)
        padded = np.zeros((outer, blocks * BLOCK), np.float32)
        padded[:, :inner] = matrix.T
        parts = padded.reshape(outer, blocks, BLOCK)
        scales = np.maximum(np.abs(parts).max(axis=2) / 127, np.finfo(np.float32).tiny)
        quantized = (np.rint(parts / scales[:, :, None]) + 128).astype(np.uint8)
        names_of = [f"{table.name}_blocks_int8", f"{table.name}_block_scales"]
        graph.initializer.remove(table)
        graph.initializer.extend(
            [
                numpy_helper.from_array(quantized, names_of[0]),
                numpy_helper.from_array(scales.astype(np.float32).reshape(-1), names_of[1]),
            ]
        )
        inputs, outputs = [node.input[0], *names_of], list(node.output)
        added = _added_bias(graph, node, weights)
        if added is not None:
            addition, bias = added
            inputs += ["", "", bias]  # behind zero points and group index, which symmetric blocks do without
            outputs = list(addition.output)
            graph.node.remove(addition)
        place = list(graph.node).index(node)
        graph.node.remove(node)
        product = helper.make_node(
            "MatMulNBits",
            inputs,
            outputs,
            name=node.name,
            domain="com.microsoft",
            K=inner,
            N=outer,
            bits=8,
            block_size=BLOCK,
            accuracy_level=4,
        )
        graph.node.insert(place, product)


def _added_bias(
    graph: onnx.GraphProto, product: onnx.NodeProto, weights: dict[str, onnx.TensorProto]
) -> tuple[onnx.NodeProto, str] | None:
    """Return the addition of a constant vector that follows a product alone, and the vector's name."""
    users = [node for node in graph.node if product.output[0] in node.input]
    if len(users) != 1 or users[0].op_type != "Add":
        return None
    (other,) = [name for name in users[0].input if name != product.output[0]]
    constant = other in weights and len(weights[other].dims) == 1
    return (users[0], other) if constant else None


def _quantize_embedding(model: onnx.ModelProto) -> None:
    """Store tables that rows are gathered from by `input_ids` as int8 with one scale a row."""
    graph = model.graph
    gathers = [n for n in graph.node if n.op_type == "Gather" and n.input[1] == "input_ids"]
    tables = {t.name: t for t in graph.initializer}
    for gather in gathers:
        table = tables.get(gather.input[0])
        if table is None or table.data_type != TensorProto.FLOAT:
            continue
        weights = numpy_helper.to_array(table)
        scales = np.maximum(np.abs(weights).max(axis=1, keepdims=True) / 127, np.finfo(np.float32).tiny)
        rows, scale = f"{table.name}_rows_int8", f"{table.name}_row_scales"
        graph.initializer.remove(table)
        graph.initializer.extend(
            [
                numpy_helper.from_array(np.rint(weights / scales).astype(np.int8), rows),
                numpy_helper.from_array(scales.astype(np.float32), scale),
            ]
        )
        result = gather.output[0]
        replacement = [
            helper.make_node("Gather", [rows, "input_ids"], [f"{result}_int8"]),
            helper.make_node("Gather", [scale, "input_ids"], [f"{result}_scale"]),
            helper.make_node("Cast", [f"{result}_int8"], [f"{result}_float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{result}_float", f"{result}_scale"], [result]),
        ]
        place = list(graph.node).index(gather)
        graph.node.remove(gather)
        for offset, node in enumerate(replacement):
            node.name = f"{gather.name}_quantized_{offset}"
            graph.node.insert(place + offset, node)
