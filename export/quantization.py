"""int8 for CPUs: dynamic quantisation of the products with constant weights, and one for the embedding.

Weights are int8 with one scale per output channel; activations are quantised at run time (uint8, one scale
per tensor). Attention products stay float32: their operands are both activations.
"""

import logging
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

# Protocol buffers end at 2 GiB; larger graphs keep their weights in a file beside.
EXTERNAL_DATA_FROM = 1_900_000_000


def quantize(source: Path, target: Path) -> None:
    """Write the int8 form of a float32 graph.

    Args:
        source: Graph as exported.
        target: Where the int8 graph goes.
    """
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
    _quantize_embedding(target)


def _is_no_preprocessing_hint(record: logging.LogRecord) -> bool:
    # quantize_dynamic tells everybody to run symbolic shape inference first; our graphs carry their shapes.
    return "pre-processing" not in record.getMessage()


def _quantize_embedding(path: Path) -> None:
    """Store tables that rows are gathered from by `input_ids` as int8 with one scale a row."""
    model = onnx.load(path)
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
    onnx.save(model, path)
