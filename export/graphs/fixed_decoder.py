"""The decoder in fixed shapes: the cache is a buffer of one length, and a step writes its entries into it.

`decoder_model` returns a cache that has grown, so that every step has shapes and addresses of its own, and a
CUDA graph cannot replay it. Here the growing (Concat) is exchanged for writing (ScatterElements) at the
entries that a further input names, `cache_index` (queries,) int64. Where input and output of the cache are
bound to one buffer, ONNX Runtime's kernels notice it and copy nothing: a step writes its own entries alone.
Everything else, the mask that tells which entries a beam descends from included, is as before.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.graphs.storage import refer_to_weights
from runtime.errors import CheckpointError

_INDEX = "cache_index"


def write_fixed_decoder(decoder: Path, target: Path) -> None:
    """Rewrite a decoder graph for fixed shapes.

    Args:
        decoder: An exported `decoder_model` of any precision but int8.
        target: Where the rewritten graph goes, in the same folder. It holds next to no weights: it refers
            to their bytes inside `decoder`, which therefore has to stay as it is.

    Raises:
        CheckpointError: The graph does not grow its cache in the expected way.
    """
    assert target.parent == decoder.parent  # references lead to files of the same folder
    model = onnx.load(str(decoder), load_external_data=False)
    _write_in_place(model.graph, decoder.name)
    refer_to_weights(model.graph, decoder)
    onnx.save(model, str(target))


def _write_in_place(graph: onnx.GraphProto, name: str) -> None:
    """Exchange every Concat that grows a cache for a ScatterElements that writes into it."""
    caches = [each.name for each in graph.input if each.name.startswith("past_")]
    growing = {
        node.input[0]: node for node in graph.node if node.op_type == "Concat" and len(node.input) == 2
    }
    unknown = [past for past in caches if past not in growing]
    if not caches or unknown:
        what = ", ".join(unknown) or "a cache"
        raise CheckpointError(f"{name} is no decoder_model of this version: no Concat grows {what}")
    queries = next(each for each in graph.input if each.name == "positions")
    graph.input.append(helper.make_tensor_value_info(_INDEX, TensorProto.INT64, [_sizes(queries)[0]]))
    shape = f"{_INDEX}_shape"
    entries = growing[caches[0]].input[1]  # all caches take entries of one shape: the indices serve all
    # (queries,) -> (1, 1, queries, 1) -> the shape of the new entries
    axes = helper.make_tensor(f"{_INDEX}_axes", TensorProto.INT64, [3], [0, 1, 3])
    graph.initializer.append(axes)
    spread = [
        helper.make_node("Unsqueeze", [_INDEX, axes.name], [f"{_INDEX}_rows"], f"/{_INDEX}/Unsqueeze"),
        helper.make_node("Shape", [entries], [shape], f"/{_INDEX}/Shape"),
        helper.make_node("Expand", [f"{_INDEX}_rows", shape], [f"{_INDEX}_spread"], f"/{_INDEX}/Expand"),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Concat" and node.input[0] in caches:
            graph.node.extend(spread)
            spread = []  # once, before its first use
            past, new = node.input
            graph.node.append(
                helper.make_node(
                    "ScatterElements", [past, f"{_INDEX}_spread", new], node.output, node.name, axis=2
                )
            )
        else:
            graph.node.append(node)
    for each in [*graph.input, *graph.output]:
        if each.name.startswith(("past_", "present_")) or each.name == "attention_mask":
            each.type.tensor_type.shape.dim[2].dim_param = "capacity"
    del graph.value_info[:]  # what tools noted of shapes inside no longer holds


def _sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
