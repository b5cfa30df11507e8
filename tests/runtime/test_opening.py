"""Where a bundle runs: TensorRT where its engines are built, and nothing is read that need not be."""

from dataclasses import replace

import onnxruntime as ort
import pytest

from runtime import MultimodalASR
from runtime.bundle.bundle import Bundle
from runtime.errors import ProviderError, SettingsError
from runtime.sessions.factory import SessionFactory, SessionSettings, select_provider
from runtime.sessions.opening import open_sessions
from runtime.sessions.tensorrt.engines import EngineSettings, plan_engine
from runtime.sessions.tensorrt.profiles import EngineLimits
from tests.runtime.test_tensorrt import TENSORRT_VERSION, build
from tests.tools.machines import L4, ORIN, gpu_machine


@pytest.fixture
def gpu_bundle(tmp_path, pocket_bundle):
    """The pocket bundle as a GPU would have it; float32 alone, because no float16 is exported for tests."""
    return replace(pocket_bundle, manifest={**pocket_bundle.manifest, "precisions": ["fp32"]})


def build_engines(bundle, folder, gpu=L4):
    settings = EngineSettings(folder=folder, limits=EngineLimits(beams=3))
    for graph in bundle.graphs("fp32"):
        build(plan_engine(graph, settings, gpu, TENSORRT_VERSION))
    return SessionSettings(engines=EngineSettings(folder=folder))


def test_the_automatic_choice_takes_tensorrt_where_engines_are_built(gpu_bundle, tmp_path):
    settings = build_engines(gpu_bundle, tmp_path / "engines")
    chosen = open_sessions(gpu_bundle, settings=settings, machine=gpu_machine())
    assert chosen.provider == "tensorrt"
    assert open_sessions(gpu_bundle, machine=gpu_machine()).provider == "cuda"
    assert (
        open_sessions(gpu_bundle, settings=settings, providers="cuda", machine=gpu_machine()).provider
        == "cuda"
    )


def test_engines_of_another_gpu_are_passed_over_with_the_reason(gpu_bundle, tmp_path):
    settings = build_engines(gpu_bundle, tmp_path / "engines", gpu=ORIN)
    chosen = open_sessions(gpu_bundle, settings=settings, machine=gpu_machine())
    assert chosen.provider == "cuda"
    ((name, (obstacle,)),) = chosen.choice.passed_over
    assert name == "tensorrt"
    assert "NVIDIA L4" in str(obstacle)
    assert "runtime engines" in str(obstacle)


def test_the_product_opens_its_graphs_with_the_engines_that_were_built(gpu_bundle, tmp_path, monkeypatch):
    """Up to the session itself, which needs a GPU: a graph is asked of TensorRT, with its engine."""
    settings = build_engines(gpu_bundle, tmp_path / "engines")
    asked = []

    class Opened(Exception):
        pass

    def session(graph, options, providers, enable_fallback):
        asked.append((graph.name, dict(providers)))
        raise Opened

    sessions = open_sessions(gpu_bundle, settings=settings, machine=gpu_machine())
    monkeypatch.setattr(ort, "InferenceSession", session_or(session, ort.InferenceSession))
    with pytest.raises(ProviderError, match="TensorrtExecutionProvider"):
        MultimodalASR(gpu_bundle, sessions=sessions)
    ((graph, providers),) = asked
    assert graph == "encoder_model.onnx"
    assert next(iter(providers)) == "TensorrtExecutionProvider"
    options = providers["TensorrtExecutionProvider"]
    assert str(tmp_path / "engines") in options["trt_engine_cache_path"]


def session_or(refuse, real):
    """`refuse` where TensorRT is asked for, the real session where the inputs of a graph are read."""

    def make(graph, options=None, providers=(), enable_fallback=0):
        if any(isinstance(each, tuple) and each[0].startswith("Tensorrt") for each in providers):
            return refuse(graph, options, providers, enable_fallback)
        return real(graph, options, providers=providers, enable_fallback=enable_fallback)

    return make


def test_sessions_exclude_what_they_decide(pocket_bundle):
    with pytest.raises(SettingsError, match="settings of the sessions"):
        MultimodalASR(pocket_bundle, sessions=SessionFactory(select_provider("cpu")), threads=1)


def test_without_engines_no_graph_is_read_for_the_choice(pocket_bundle, monkeypatch):
    """Hashing graphs that may never run would cost a start seconds a gigabyte."""

    def read(self, precision):
        raise AssertionError("the choice of a provider reads graphs")

    monkeypatch.setattr(Bundle, "graphs", read)
    assert open_sessions(pocket_bundle, precision="fp32", machine=gpu_machine()).provider == "cuda"
    assert open_sessions(pocket_bundle, providers="cpu").provider == "cpu"
