"""How many bytes a decoder step has to read: weights, cross-attention, cache."""

from pathlib import Path
from typing import Any

DEFAULT_ITEM_BYTES = 4  # cache and cross-attention of fp32 and int8 graphs are float32


def weight_bytes(graph: Path) -> int:
    """Return the bytes of weights that one run of a graph reads.

    Tables that are only looked up by row (`Gather`) are left out: a step reads a row for each beam of them.

    Args:
        graph: An ONNX file; external data is not opened.
    """
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    sizes: dict[str, int] = {}
    readers: dict[str, list[tuple[str, int]]] = {}
    for inner in _graphs(model.graph):
        for tensor in inner.initializer:
            count = 1
            for dimension in tensor.dims:
                count *= dimension
            item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            # Types of 4 bits are held two to a byte.
            packed = tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)
            sizes[tensor.name] = (count + 1) // 2 if packed else count * item
        for node in inner.node:
            for place, name in enumerate(node.input):
                readers.setdefault(name, []).append((node.op_type, place))
    looked_up = {
        name for name in sizes if readers.get(name) and all(r == ("Gather", 0) for r in readers[name])
    }
    return sum(size for name, size in sizes.items() if name not in looked_up)


def _graphs(graph: Any) -> list[Any]:
    """Return a graph and all graphs inside its nodes (branches, loops)."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [graph, *(deeper for one in inner for deeper in _graphs(one))]


def cross_bytes(geometry: dict[str, Any], utterances: int) -> int:
    """Return the bytes of cross-attention keys and values of all decoder layers.

    Args:
        geometry: `layers`, `width` and encoder `positions`.
        utterances: In the batch; beams share what they read.
    """
    return int(
        2 * geometry["layers"] * geometry["width"] * geometry["positions"] * DEFAULT_ITEM_BYTES * utterances
    )


def cache_bytes(geometry: dict[str, Any], utterances: int, prompt: int, beams: int, steps: int) -> int:
    """Return the bytes of self-attention keys and values that the average step reads.

    Args:
        geometry: `layers` and `width`.
        utterances: In the batch.
        prompt: Tokens of the prompt, held once for all beams.
        beams: Entries that each step appends.
        steps: Generated tokens. The first comes out of the prompt; step t then reads t · beams entries more.
    """
    entries = prompt + beams * steps / 2
    return int(2 * geometry["layers"] * geometry["width"] * entries * DEFAULT_ITEM_BYTES * utterances)
