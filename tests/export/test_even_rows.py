"""Rows filled up once: the same numbers as filled for every product, with fewer nodes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from export.graphs.quantization import block_products
from export.graphs.quantization.block_products import quantize_in_blocks
from export.graphs.quantization.graph_editor import GraphEditor

WIDTH, VOCABULARY = 128, 256


@pytest.fixture
def decoder():
    """Two residual products, something that mixes rows, a third product, and a vocabulary."""
    random = np.random.default_rng(0)

    def weights(name, *shape):
        return onnx.numpy_helper.from_array(random.normal(0, 0.1, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("LayerNormalization", ["x", "scale", "bias"], ["normed"], axis=-1),
        helper.make_node("MatMul", ["normed", "first"], ["up"]),
        helper.make_node("Mul", ["up", "half"], ["halved"]),
        helper.make_node("MatMul", ["halved", "second"], ["down"]),
        helper.make_node("Add", ["x", "down"], ["states"]),
        helper.make_node("Softmax", ["states"], ["mixed"], axis=1),  # over the rows
        helper.make_node("MatMul", ["mixed", "third"], ["attended"]),
        helper.make_node("Add", ["states", "attended"], ["last"]),
        helper.make_node("Gather", ["last", "wanted"], ["chosen"], axis=1),
        helper.make_node("MatMul", ["chosen", "words"], ["logits"]),
    ]
    constants = [
        weights("scale", WIDTH),
        weights("bias", WIDTH),
        weights("first", WIDTH, WIDTH),
        weights("second", WIDTH, WIDTH),
        weights("third", WIDTH, WIDTH),
        weights("words", WIDTH, VOCABULARY),
        onnx.numpy_helper.from_array(np.float32(0.5), "half"),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "rows", WIDTH]),
        helper.make_tensor_value_info("wanted", TensorProto.INT64, ["outputs"]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "outputs", VOCABULARY]),
        helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "rows", WIDTH]),
    ]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def quantized(decoder):
    model = onnx.ModelProto.FromString(decoder.SerializeToString())
    quantize_in_blocks(GraphEditor(model))
    onnx.checker.check_model(model)
    return model


def run(model, batch, rows):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(batch * 100 + rows).normal(size=(batch, rows, WIDTH)).astype(np.float32)
    return session.run(None, {"x": x, "wanted": np.array([rows - 1])})


def count(model, kind):
    return sum(node.op_type == kind for node in model.graph.node)


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (1, 4), (1, 5), (2, 5), (3, 5)])
def test_numbers_are_those_of_rows_filled_for_every_product(decoder, monkeypatch, batch, rows):
    once = quantized(decoder)
    monkeypatch.setattr(block_products, "stay_even", lambda graph, rows: None)
    always = quantized(decoder)
    for ours, theirs in zip(run(once, batch, rows), run(always, batch, rows), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_array_equal(ours, theirs)


def test_rows_are_filled_where_something_mixes_them_and_nowhere_else(decoder, monkeypatch):
    once = quantized(decoder)
    monkeypatch.setattr(block_products, "stay_even", lambda graph, rows: None)
    always = quantized(decoder)
    assert (count(always, "Pad"), count(always, "Slice")) == (4, 4)
    # Filled: the first product's input, the states that are added to, what the rows were mixed into, the
    # vocabulary's. Cut: the states where they leave or are mixed, the chosen row's source, the logits.
    assert (count(once, "Pad"), count(once, "Slice")) == (4, 3)
    assert all("MatMulNBits" in kinds for kinds in ({node.op_type for node in once.graph.node},))
