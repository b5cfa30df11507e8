"""Whether a graph is fit for TensorRT: standard ONNX operators alone, all of them known to its parser.

One node that TensorRT cannot take cuts the graph into pieces with copies between them; a decoder merged by
`If` cannot be parsed at all. Both show up only on the GPU, so they are refused at export.
"""

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

import onnx

from runtime.errors import ProviderError

STANDARD_DOMAINS: Final = frozenset({"", "ai.onnx"})
CONTROL_FLOW: Final = frozenset({"If", "Loop", "Scan"})
OPSETS: Final = range(13, 21)  # TensorRT 10 reads 9 to 20; from 13 on, axes are inputs
# Input that must be a constant, counted from 0: the axes of these operators.
CONSTANT_INPUTS: Final = MappingProxyType(
    {
        "ReduceL2": 1,
        "ReduceMax": 1,
        "ReduceMean": 1,
        "ReduceMin": 1,
        "ReduceSum": 1,
        "Slice": 3,
        "Squeeze": 1,
        "Unsqueeze": 1,
    }
)
_LISTED: Final = 8  # operators named in a message

# Operators of transformers that the parser of TensorRT 10 takes (onnx-tensorrt 10.1, docs/operators.md). This
# is what the graphs may need, not all that TensorRT can do.
# fmt: off
TENSORRT_OPERATORS: Final = frozenset({
    "Add", "And", "ArgMax", "Cast", "Ceil", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "Div", "Einsum", "Equal", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements",
    "GatherND", "Gelu", "Gemm", "Greater", "GreaterOrEqual", "Identity", "LayerNormalization", "Less",
    "LessOrEqual", "Log", "LogSoftmax", "MatMul", "Max", "Mean", "Min", "Mod", "Mul", "Neg", "Not",
    "Or", "Pad", "Pow", "Range", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceSum", "Relu", "Reshape", "ScatterElements", "ScatterND", "Shape", "Sigmoid", "Slice",
    "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Tile", "TopK", "Transpose", "Trilu",
    "Unsqueeze", "Where",
})
# fmt: on


def check_tensorrt_operators(model: str | Path | onnx.ModelProto) -> None:
    """Refuse a graph that TensorRT could not run whole.

    Args:
        model: A model, or the path of one (external data is not read).

    Raises:
        ProviderError: It has control flow, an operator of another domain or one that is not known to run,
            axes that are computed, or an opset that TensorRT's parser does not read. The message names all
            that is in the way.
    """
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(str(model), load_external_data=False)
    name = proto.graph.name if isinstance(model, onnx.ModelProto) else Path(model).name
    faults = [*_opset_faults(proto), *_operator_faults(proto), *_computed_axes(proto)]
    if faults:
        raise ProviderError(
            f"{name} is not fit for TensorRT: {'; '.join(faults)}. Export it in the standard form "
            "(`--precision fp16`), without conditional branches"
        )


def _opset_faults(proto: onnx.ModelProto) -> Iterator[str]:
    for entry in proto.opset_import:
        if entry.domain in STANDARD_DOMAINS and entry.version not in OPSETS:
            yield f"opset {entry.version}, known are {OPSETS.start} to {OPSETS.stop - 1}"


def _operator_faults(proto: onnx.ModelProto) -> Iterator[str]:
    found: dict[str, list[str]] = {"control flow": [], "other domain": [], "unknown operator": []}
    for node in _all_nodes(proto):
        if node.op_type in CONTROL_FLOW and node.domain in STANDARD_DOMAINS:
            kind, label = "control flow", node.op_type
        elif node.domain not in STANDARD_DOMAINS:
            kind, label = "other domain", f"{node.domain}.{node.op_type}"
        elif node.op_type not in TENSORRT_OPERATORS:
            kind, label = "unknown operator", node.op_type
        else:
            continue
        if label not in found[kind]:
            found[kind].append(label)
    for kind, labels in found.items():
        if labels:
            yield f"{kind}: {', '.join(labels[:_LISTED])}{', …' if len(labels) > _LISTED else ''}"


def _computed_axes(proto: onnx.ModelProto) -> Iterator[str]:
    nodes = list(_all_nodes(proto))
    constant = {initializer.name for initializer in proto.graph.initializer}
    constant |= {name for node in nodes if node.op_type == "Constant" for name in node.output}
    for node in nodes:
        place = CONSTANT_INPUTS.get(node.op_type, len(node.input))
        if place < len(node.input) and node.input[place] and node.input[place] not in constant:
            yield f"the axes of {node.op_type} ({node.name}) are computed, not constant"


def _all_nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield every node: of the graph, of the branches inside it, and of the model's own functions."""
    yield from _nodes_below(proto.graph.node)
    for function in proto.functions:
        yield from _nodes_below(function.node)


def _nodes_below(nodes: list[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for branch in [attribute.g, *attribute.graphs]:
                yield from _nodes_below(branch.node)
