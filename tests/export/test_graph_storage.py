"""Large graphs keep their weights in a file beside, and graphs of equal weights share them."""

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graphs import storage as graph_storage
from export.graphs.storage import INSIDE_BELOW_BYTES, refer_to_weights, save_graph

WIDTH = 64  # a square of it is 16 KiB of float32


def product(*names: str) -> onnx.ModelProto:
    """Return a graph that multiplies by one random matrix after another; equal names, equal matrices."""
    weights = {
        name: np.random.default_rng(ord(name)).normal(size=(WIDTH, WIDTH)).astype(np.float32)
        for name in names
    }
    assert all(matrix.nbytes > INSIDE_BELOW_BYTES for matrix in weights.values())
    states = ["x", *(f"after_{name}" for name in names)]
    nodes = [
        helper.make_node("MatMul", [before, name], [after])
        for name, before, after in zip(names, states, states[1:], strict=False)
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in (states[0], states[-1])
    ]
    tensors = [numpy_helper.from_array(matrix, name) for name, matrix in weights.items()]
    graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def result(path):
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.fixture(params=["beside", "inside"])
def limit(request, monkeypatch):
    """Count the graphs as large, or as small."""
    monkeypatch.setattr(
        graph_storage, "EXTERNAL_FROM_BYTES", 1 << 12 if request.param == "beside" else 1 << 30
    )
    return request.param


def test_weights_lie_where_their_size_says(limit, tmp_path):
    path = tmp_path / "graph.onnx"
    save_graph(product("a", "b"), path)
    data = tmp_path / "graph.onnx_data"
    assert data.exists() == (limit == "beside")
    if data.exists():
        assert path.stat().st_size < INSIDE_BELOW_BYTES < 2 * WIDTH * WIDTH * 4 <= data.stat().st_size
        assert data.stat().st_mode == path.stat().st_mode  # whoever may read the graph may read its weights
    expected = onnx.reference.ReferenceEvaluator(product("a", "b"))
    x = np.linspace(-1, 1, WIDTH, dtype=np.float32)[None]
    np.testing.assert_allclose(result(path), expected.run(None, {"x": x})[0], rtol=1e-4, atol=1e-4)


def test_saving_again_leaves_nothing_of_the_old_weights(limit, tmp_path):
    path = tmp_path / "graph.onnx"
    save_graph(product("a", "b"), path)
    before = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    save_graph(product("a", "b"), path)
    assert {file.name: file.stat().st_size for file in tmp_path.iterdir()} == before


def test_a_graph_that_became_small_takes_its_weights_back(tmp_path, monkeypatch):
    path = tmp_path / "graph.onnx"
    monkeypatch.setattr(graph_storage, "EXTERNAL_FROM_BYTES", 1 << 12)
    save_graph(product("a", "b"), path)
    monkeypatch.setattr(graph_storage, "EXTERNAL_FROM_BYTES", 1 << 30)
    save_graph(product("a"), path)
    assert [file.name for file in tmp_path.iterdir()] == ["graph.onnx"]
    assert np.isfinite(result(path)).all()


@pytest.mark.usefixtures("limit")
@pytest.mark.parametrize("names", [("a", "b"), ("b", "a"), ("b",), ("a", "c")])
def test_equal_weights_are_shared_and_others_stay(names, tmp_path):
    owner, alone, sharing = (tmp_path / name for name in ("owner.onnx", "alone.onnx", "sharing.onnx"))
    save_graph(product("a", "b"), owner)
    onnx.save(product(*names), alone)
    model = product(*names)
    refer_to_weights(model.graph, owner)
    onnx.save(model, sharing)
    np.testing.assert_array_equal(result(sharing), result(alone))
    own = sum(WIDTH * WIDTH * 4 for name in names if name not in ("a", "b"))
    assert own <= sharing.stat().st_size < own + 2 * INSIDE_BELOW_BYTES
