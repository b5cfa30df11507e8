"""Graphs for TensorRT: what is refused, and that the exported fp16 graphs pass."""

import onnx
import pytest
from onnx import TensorProto, helper

from export.graphs.tensorrt_rules import OPSETS, TENSORRT_OPERATORS, check_tensorrt_operators
from runtime.errors import ProviderError
from tests.tools.tiny_graphs import write_tiny_graphs

FLOAT = TensorProto.FLOAT


def model_of(nodes, *, opset=18, functions=(), domains=()):
    values = [helper.make_tensor_value_info(name, FLOAT, ["n", 2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "made_up", values[:1], values[1:])
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, functions=list(functions))


def branch(kind):
    value = helper.make_tensor_value_info("inner", FLOAT, ["n", 2])
    return helper.make_graph([helper.make_node(kind, ["x"], ["inner"])], "branch", [], [value])


@pytest.fixture(scope="module")
def half_graphs(tmp_path_factory):
    return write_tiny_graphs(tmp_path_factory.mktemp("half"), ("fp16",))


@pytest.mark.parametrize("graph", ["encoder_model", "decoder_model", "text_model", "vision_model"])
def test_every_exported_fp16_graph_passes(half_graphs, graph):
    (path,) = half_graphs.rglob(f"{graph}_fp16.onnx")
    check_tensorrt_operators(path)
    model = onnx.load(path)
    assert {node.op_type for node in model.graph.node} <= TENSORRT_OPERATORS
    assert not {node.domain for node in model.graph.node} - {"", "ai.onnx"}


def test_a_fit_model_passes():
    check_tensorrt_operators(model_of([helper.make_node("Relu", ["x"], ["y"])]))


@pytest.mark.parametrize("opset", [OPSETS.start - 1, OPSETS.stop])
def test_another_opset_is_refused(opset):
    with pytest.raises(ProviderError, match=f"opset {opset}, known are 13 to 20"):
        check_tensorrt_operators(model_of([helper.make_node("Relu", ["x"], ["y"])], opset=opset))


@pytest.mark.parametrize("kind", ["If", "Loop", "Scan"])
def test_control_flow_is_refused(kind):
    node = helper.make_node(kind, ["x"], ["y"], then_branch=branch("Relu"))
    with pytest.raises(ProviderError, match=f"control flow: {kind}"):
        check_tensorrt_operators(model_of([node]))


def test_operators_of_other_domains_are_refused():
    node = helper.make_node("MultiHeadAttention", ["x"], ["y"], domain="com.microsoft")
    with pytest.raises(ProviderError, match=r"other domain: com\.microsoft\.MultiHeadAttention"):
        check_tensorrt_operators(model_of([node], domains=["com.microsoft"]))


@pytest.mark.parametrize("kind", ["DynamicQuantizeLinear", "NonZero", "Unique"])
def test_operators_that_the_parser_lacks_are_refused(kind):
    with pytest.raises(ProviderError, match=f"unknown operator: {kind}"):
        check_tensorrt_operators(model_of([helper.make_node(kind, ["x"], ["y"])]))


def test_a_branch_and_a_function_are_looked_into():
    inner = helper.make_node("If", ["x"], ["y"], then_branch=branch("NonZero"))
    with pytest.raises(ProviderError, match="unknown operator: NonZero"):
        check_tensorrt_operators(model_of([inner]))
    function = helper.make_function(
        "", "Relu", ["x"], ["y"], [helper.make_node("Unique", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    with pytest.raises(ProviderError, match="Unique"):
        check_tensorrt_operators(model_of([helper.make_node("Relu", ["x"], ["y"])], functions=[function]))


def test_axes_must_be_constant():
    computed = [helper.make_node("Shape", ["x"], ["axes"]), helper.make_node("Squeeze", ["x", "axes"], ["y"])]
    with pytest.raises(ProviderError, match="the axes of Squeeze"):
        check_tensorrt_operators(model_of(computed))
    value = helper.make_tensor("value", TensorProto.INT64, [1], [1])
    constant = [helper.make_node("Constant", [], ["axes"], value=value), computed[1]]
    check_tensorrt_operators(model_of(constant))


def test_all_faults_are_named_at_once(tmp_path):
    path = tmp_path / "decoder_model_fp16.onnx"
    nodes = [helper.make_node("NonZero", ["x"], ["m"]), helper.make_node("Foo", ["m"], ["y"], domain="a")]
    onnx.save(model_of(nodes), path)
    with pytest.raises(ProviderError, match=r"_fp16\.onnx.*other domain: a\.Foo; unknown operator: NonZ"):
        check_tensorrt_operators(path)
