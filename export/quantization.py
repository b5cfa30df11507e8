"""int8 for CPUs: the products with constant weights, and the embedding.

Encoders: weights with one scale per output channel, activations with one a row or one fixed at export
(`export.row_products`). Decoder: both with one scale per block of 128 or 256 numbers. Nothing that one
utterance holds changes the scale of another. Attention products stay float32: their operands are both
activations. So do convolutions: they are few, and their inputs are what all else depends on.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.activation_ranges import Ranges
from export.graph_storage import save_graph
from export.row_products import quantize_rows

# Weights that share a scale in a block-wise product, the quickest first. The last one serves lengths that
# none of them divides, for filling up a block costs more than a smaller one.
BLOCKS = (256, 128)


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
    if few_rows:
        _share_embedding(model)
        _quantize_embedding(model)
        _quantize_in_blocks(model)
        if not any(opset.domain == "com.microsoft" for opset in model.opset_import):
            model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    else:
        quantize_rows(model, ranges)
        _quantize_embedding(model)
    save_graph(model, target)


def _quantize_in_blocks(model: onnx.ModelProto) -> None:
    """Turn products with constant weights into MatMulNBits: int8, one scale per block of the inner axis."""
    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    for node in [n for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights]:
        table = weights[node.input[1]]
        matrix = numpy_helper.to_array(table)
        inner, outer = matrix.shape
        quantized, scales = _in_blocks(matrix.T)
        graph.initializer.remove(table)
        names_of = _block_names(table.name)
        graph.initializer.extend(
            numpy_helper.from_array(array, name)
            for array, name in zip((quantized, scales), names_of, strict=True)
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
            block_size=quantized.shape[2],
            accuracy_level=4,
        )
        graph.node.insert(place, product)


def _in_blocks(rows: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Quantise each row in blocks, symmetrically around 128.

    Args:
        rows: (outer, inner).

    Returns:
        Numbers (outer, blocks, block), the last block filled up with zeros, and scales (outer, blocks).
    """
    outer, inner = rows.shape
    block = next((size for size in BLOCKS if inner % size == 0), BLOCKS[-1])
    blocks = -(-inner // block)
    padded = np.zeros((outer, blocks * block), np.float32)
    padded[:, :inner] = rows
    parts = padded.reshape(outer, blocks, block)
    scales = np.maximum(np.abs(parts).max(axis=2) / 127, np.finfo(np.float32).tiny)
    return (np.rint(parts / scales[:, :, None]) + 128).astype(np.uint8), scales.astype(np.float32)


def _block_names(table: str) -> list[str]:
    return [f"{table}_blocks_int8", f"{table}_block_scales"]


def _share_embedding(model: onnx.ModelProto) -> None:
    """Let token rows be looked up in the blocks of the vocabulary product, where both are one table.

    Whisper ties its output projection to its embedding; the exporter writes the table twice.
    """
    graph = model.graph
    tables = {t.name: t for t in graph.initializer}
    products = {n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in tables}
    for gather in [n for n in graph.node if n.op_type == "Gather" and n.input[1] == "input_ids"]:
        table = tables[gather.input[0]]
        rows = numpy_helper.to_array(table)
        for name in products:
            product = tables[name]
            if list(product.dims) != list(table.dims)[::-1]:
                continue
            if np.array_equal(numpy_helper.to_array(product).T, rows):
                graph.initializer.remove(table)
                _replace_gather(graph, gather, _block_lookup(graph, gather, name, rows.shape[1]))
                break


def _block_lookup(
    graph: onnx.GraphProto, gather: onnx.NodeProto, product: str, width: int
) -> list[onnx.NodeProto]:
    """Return nodes that look rows up in the blocks of a product's weights and scale them back."""
    blocks, scales = _block_names(product)
    result = gather.output[0]
    constants = {
        f"{result}_middle": np.array(128, np.float32),
        f"{result}_last": np.array([3]),
        f"{result}_shape": np.array([0, 0, -1]),
        f"{result}_from": np.array([0]),
        f"{result}_to": np.array([width]),
        f"{result}_axis": np.array([2]),
    }
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    steps = [
        ("Gather", [blocks, "input_ids"], "numbers"),
        ("Gather", [scales, "input_ids"], "scales"),
        ("Cast", [f"{result}_numbers"], "floats"),
        ("Sub", [f"{result}_floats", f"{result}_middle"], "centred"),
        ("Unsqueeze", [f"{result}_scales", f"{result}_last"], "scales_wide"),
        ("Mul", [f"{result}_centred", f"{result}_scales_wide"], "blocks"),
        ("Reshape", [f"{result}_blocks", f"{result}_shape"], "filled"),
    ]
    nodes = [helper.make_node(kind, inputs, [f"{result}_{output}"]) for kind, inputs, output in steps]
    nodes[2].attribute.append(helper.make_attribute("to", TensorProto.FLOAT))
    cut = [f"{result}_filled", f"{result}_from", f"{result}_to", f"{result}_axis"]
    return [*nodes, helper.make_node("Slice", cut, [result])]


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
        _replace_gather(graph, gather, replacement)


def _replace_gather(
    graph: onnx.GraphProto, gather: onnx.NodeProto, replacement: list[onnx.NodeProto]
) -> None:
    place = list(graph.node).index(gather)
    graph.node.remove(gather)
    for offset, node in enumerate(replacement):
        node.name = f"{gather.name}_quantized_{offset}"
        graph.node.insert(place + offset, node)
