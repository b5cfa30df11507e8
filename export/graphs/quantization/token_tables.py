"""The table of token embeddings in int8: shared with the vocabulary's product, or with one scale a row."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.graphs.quantization.block_products import block_names
from export.graphs.quantization.graph_editor import GraphEditor, make_node
from export.graphs.quantization.scales import symmetric_scales
from export.graphs.quantization.smoothing import Factors


def share_with_vocabulary(graph: GraphEditor, smoothed: Factors) -> None:
    """Let token rows be looked up in the blocks of the vocabulary's product, where both are one table.

    Whisper ties its output projection to its embedding; the exporter writes the table twice.

    Args:
        graph: Before its products become blocks.
        smoothed: By what the weights of products were multiplied since.
    """
    products = {node.input[1] for nodes in graph.products().values() for node in nodes}
    for gather in _lookups(graph):
        table = gather.input[0]
        rows = graph.array(table)
        for name in products:
            factors = smoothed.get(name, np.ones(rows.shape[1], np.float32))
            if list(graph.tensors[name].dims) == list(rows.shape)[::-1] and np.array_equal(
                graph.array(name), rows.T * factors[:, None]
            ):
                graph.replace(gather, _block_lookup(graph, gather, name, np.reciprocal(factors)))
                break


def quantize_rows_of_tables(graph: GraphEditor) -> None:
    """Store tables that rows are gathered from by `input_ids` as int8 with one scale a row."""
    for gather in _lookups(graph):
        table, result = gather.input[0], gather.output[0]
        if graph.tensors[table].data_type != TensorProto.FLOAT:
            continue
        weights = graph.array(table)
        scales = symmetric_scales(weights, axis=1)
        rows = graph.constant(f"{table}_rows_int8", np.rint(weights / scales).astype(np.int8))
        scale = graph.constant(f"{table}_row_scales", scales)
        graph.replace(
            gather,
            [
                make_node("Gather", [rows, "input_ids"], f"{result}_int8"),
                make_node("Gather", [scale, "input_ids"], f"{result}_scale"),
                make_node("Cast", [f"{result}_int8"], f"{result}_float", to=TensorProto.FLOAT),
                make_node("Mul", [f"{result}_float", f"{result}_scale"], result),
            ],
        )


def _lookups(graph: GraphEditor) -> list[onnx.NodeProto]:
    """Return the nodes that gather rows of a constant table by token."""
    return [
        node
        for node in graph.graph.node
        if node.op_type == "Gather" and node.input[1] == "input_ids" and node.input[0] in graph.tensors
    ]


def _block_lookup(
    graph: GraphEditor, gather: onnx.NodeProto, product: str, gains: NDArray[np.float32]
) -> list[onnx.NodeProto]:
    """Return nodes that look rows up in the blocks of a product's weights and scale them back."""
    blocks, scales = block_names(product)
    result = gather.output[0]
    constants = {
        "middle": np.array(128, np.float32),
        "last": np.array([3]),
        "shape": np.array([0, 0, -1]),
        "from": np.array([0]),
        "to": np.array([gains.size]),
        "axis": np.array([2]),
        "gains": gains,
    }
    name = {key: graph.constant(f"{result}_{key}", value) for key, value in constants.items()}
    return [
        make_node("Gather", [blocks, "input_ids"], f"{result}_numbers"),
        make_node("Gather", [scales, "input_ids"], f"{result}_scales"),
        make_node("Cast", [f"{result}_numbers"], f"{result}_floats", to=TensorProto.FLOAT),
        make_node("Sub", [f"{result}_floats", name["middle"]], f"{result}_centred"),
        make_node("Unsqueeze", [f"{result}_scales", name["last"]], f"{result}_scales_wide"),
        make_node("Mul", [f"{result}_centred", f"{result}_scales_wide"], f"{result}_blocks"),
        make_node("Reshape", [f"{result}_blocks", name["shape"]], f"{result}_filled"),
        make_node(
            "Slice", [f"{result}_filled", name["from"], name["to"], name["axis"]], f"{result}_smoothed"
        ),
        make_node("Mul", [f"{result}_smoothed", name["gains"]], result),
    ]
