"""How a graph lies on the disk."""

import mmap
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto

# Weights of larger graphs go to a file beside, which onnxruntime maps into memory: while it repacks them, the
# process holds one copy less than with weights inside the graph.
EXTERNAL_FROM_BYTES: Final = 32 << 20
# Small tensors stay in the graph, where shape inference and constant folding read them.
INSIDE_BELOW_BYTES: Final = 4096


def save_graph(model: onnx.ModelProto, target: Path) -> None:
    """Write a graph, its weights beside it (`<name>_data`) where they are large.

    Args:
        model: With all weights in memory.
        target: The ONNX file; one that is there is replaced, its data file too.
    """
    data = target.with_name(target.name + "_data")
    data.unlink(missing_ok=True)  # onnx appends to what is there
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) >= EXTERNAL_FROM_BYTES
    onnx.save(
        model,
        target,
        save_as_external_data=large,
        all_tensors_to_one_file=True,
        location=data.name,
        size_threshold=INSIDE_BELOW_BYTES,
    )
    if large:
        data.chmod(target.stat().st_mode)  # onnx gives it to its owner alone


def refer_to_weights(graph: onnx.GraphProto, owner: Path) -> None:
    """Turn weights that another file holds into references to their bytes there.

    Args:
        graph: With all weights in memory; to be saved into the folder of `owner`.
        owner: An ONNX file, which has to stay as it is. Weights that lie beside it are found there.
    """
    data = owner.with_name(owner.name + "_data")
    holder = data if data.exists() else owner
    with holder.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        place = 0
        for tensor in graph.initializer:
            size = len(tensor.raw_data)
            if size < INSIDE_BELOW_BYTES:
                continue
            # Weights are written in their order as a rule; the search goes on where the last one ended.
            found = content.find(tensor.raw_data, place)
            if found < 0:
                found = content.find(tensor.raw_data)
            if found < 0:
                continue
            place = found + size
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", holder.name), ("offset", found), ("length", size)):
                tensor.external_data.add(key=key, value=str(value))
