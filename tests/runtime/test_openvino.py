"""OpenVINO's plugin: when it is chosen, what is refused, and that its graphs compute what they should.

What needs the plugin itself is left out where it is not installed or does not take the processor.
"""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from runtime.bundle.bundle import MANIFEST, Bundle
from runtime.bundle.graph import FIXED_DECODER, SHORT_ENCODER, Graph, graph_path
from runtime.errors import ProviderError, SettingsError
from runtime.pipeline import MultimodalASR
from runtime.sessions import openvino
from runtime.sessions.choice import PROBE_MODEL, Provider, select_provider
from runtime.sessions.factory import SessionFactory, SessionSettings
from runtime.sessions.obstacles import find_obstacles
from runtime.sessions.opening import default_precision, open_sessions
from runtime.sessions.openvino import DISTRIBUTION, PROVIDER, OpenVino, openvino_options, read_openvino
from tests.tools.machines import CPU, CPU_WHEEL, gpu_machine, openvino_machine

OFFERED = read_openvino()
needs_plugin = pytest.mark.skipif(OFFERED.processor is None, reason="the plugin does not run here")
needs_bf16 = pytest.mark.skipif(not OFFERED.bf16, reason="the plugin computes no bf16 here")


@pytest.fixture
def bf16_bundle(pocket_bundle, tmp_path):
    """The pocket bundle as an export on a processor with bf16 would have written it."""
    folder = shutil.copytree(pocket_bundle.folder, tmp_path / "bundle")
    manifest = {**pocket_bundle.manifest, "precisions": ["fp32", "int8", "bf16"]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return Bundle.open(folder)


# -- choice --------------------------------------------------------------------------------------------------


def test_it_is_automatic_where_bf16_passed_its_gate_and_the_processor_has_amx():
    assert select_provider(machine=openvino_machine(), bf16=True).name == "openvino"
    assert select_provider(machine=openvino_machine(), bf16=True).bf16
    assert select_provider(machine=openvino_machine(), bf16=False).name == "cpu"
    assert select_provider(machine=gpu_machine(), bf16=True).name == "cuda"


def test_without_amx_it_is_passed_over_with_the_reason_and_runs_when_named():
    machine = openvino_machine(amx_bf16=False)
    chosen = select_provider(machine=machine, bf16=True)
    assert chosen.name == "cpu"
    assert "without AMX" in str(dict(chosen.passed_over)["openvino"][0])
    named = select_provider("OpenVINOExecutionProvider", machine=machine)
    assert (named.name, named.device, named.gpu, named.ort_name) == ("openvino", "cpu", None, PROVIDER)


@pytest.mark.parametrize(
    ("facts", "reason", "remedy"),
    [
        (OpenVino(), f"{DISTRIBUTION} is not installed", "pip install 'earsight[openvino]'"),
        (OpenVino("1.8.1", "libtbb.so.12: cannot open"), "libtbb.so.12", "--force-reinstall"),
        (OpenVino("1.8.1"), "does not take this processor", "--provider cpu"),
    ],
)
def test_each_obstacle_has_its_reason_and_remedy(facts, reason, remedy):
    machine = openvino_machine(openvino=facts)
    (obstacle,) = find_obstacles("openvino", machine)
    assert reason in obstacle.reason
    assert remedy in obstacle.remedy
    with pytest.raises(ProviderError, match="provider openvino cannot run here"):
        select_provider("openvino", machine=machine)


def test_a_missing_wheel_is_told(monkeypatch):
    monkeypatch.setattr(openvino, "DISTRIBUTION", "no-such-distribution")
    assert read_openvino() == OpenVino()


@pytest.mark.parametrize("content", [None, b"no library"])
def test_a_broken_wheel_is_told(monkeypatch, tmp_path, content):
    library = tmp_path / "plugin.so"
    if content is not None:
        library.write_bytes(content)
    module = SimpleNamespace(get_library_path=lambda: library)
    monkeypatch.setitem(sys.modules, "broken_plugin", module)
    monkeypatch.setattr(openvino, "_MODULE", "broken_plugin")
    monkeypatch.setattr(openvino.importlib.metadata, "version", lambda name: "9.9")
    found = read_openvino()
    assert (found.version, found.processor) == ("9.9", None)
    assert "plugin.so" in found.fault


# -- precision -----------------------------------------------------------------------------------------------


def test_bf16_is_computed_from_the_files_that_are_there(bf16_bundle):
    for name in ("encoder_model", "text_model", "vision_model"):
        graph = bf16_bundle.graph(name, "bf16")
        assert (graph.precision, graph.path.name) == ("bf16", f"{name}.onnx")
    decoder = bf16_bundle.graph("decoder_model", "bf16")
    assert (decoder.precision, decoder.path.name) == ("int8", "decoder_model_int8.onnx")
    exact = replace(bf16_bundle, manifest={**bf16_bundle.manifest, "precisions": ["fp32", "bf16"]})
    assert exact.graph("decoder_model", "bf16").precision == "fp32"


def test_a_bundle_without_bf16_says_how_to_get_it(pocket_bundle):
    with pytest.raises(SettingsError, match="--precision bf16"):
        pocket_bundle.graph("encoder_model", "bf16")


def test_the_fastest_precision_depends_on_the_processor(bf16_bundle):
    assert default_precision(bf16_bundle, Provider("openvino", bf16=True)) == "bf16"
    assert default_precision(bf16_bundle, Provider("openvino")) == "fp32"
    assert default_precision(bf16_bundle, Provider("cpu")) == "int8"


def test_the_bundle_s_gate_decides_whether_it_is_automatic(bf16_bundle, pocket_bundle):
    machine = openvino_machine()
    assert open_sessions(bf16_bundle, machine=machine).provider == "openvino"
    assert open_sessions(bf16_bundle, machine=machine, precision="int8").provider == "cpu"
    assert open_sessions(pocket_bundle, machine=machine).provider == "cpu"
    assert open_sessions(bf16_bundle, machine=CPU_WHEEL).provider == "cpu"


def test_bf16_on_another_provider_is_refused(bf16_bundle):
    with pytest.raises(SettingsError, match="openvino alone, and cpu was chosen"):
        MultimodalASR(bf16_bundle, precision="bf16", providers="cpu")


def test_bf16_without_units_for_it_is_refused(bf16_bundle):
    sessions = SessionFactory(Provider("openvino"))
    with pytest.raises(SettingsError, match="no units for it"):
        sessions.open(bf16_bundle.graph("encoder_model", "bf16"))


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_other_precisions_are_refused(precision, tmp_path):
    graph = Graph("encoder_model", precision, tmp_path / "graph.onnx", "")
    with pytest.raises(SettingsError, match="takes fp32 and bf16"):
        SessionFactory(Provider("openvino", bf16=True)).open(graph)


def test_options_name_precision_and_threads():
    options = json.loads(openvino_options("bf16", 3)["load_config"])["CPU"]
    assert (options["INFERENCE_PRECISION_HINT"], options["INFERENCE_NUM_THREADS"]) == ("bf16", 3)
    fewer = json.loads(openvino_options("fp32", None)["load_config"])["CPU"]
    assert fewer == {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}


@pytest.mark.parametrize("name", ["decoder_model", FIXED_DECODER])
def test_the_decoder_runs_beside_it_on_the_processor(pocket_bundle, name):
    sessions = SessionFactory(Provider("openvino", bf16=True), SessionSettings(threads=1))
    graph = replace(pocket_bundle.graph("decoder_model", "int8"), name=name)
    assert sessions.open(graph).get_providers() == [CPU]
    assert sessions.describe()["placement"][graph.path.name]["precision"] == "int8"


def test_file_names_know_no_bf16():
    assert graph_path(SHORT_ENCODER, "fp32") == "whisper/onnx/encoder_short_model.onnx"


# -- the plugin itself ---------------------------------------------------------------------------------------


@needs_plugin
def test_float32_is_float32(tmp_path):
    path = tmp_path / "probe.onnx"
    path.write_bytes(PROBE_MODEL)
    session = SessionFactory(select_provider("openvino")).open(Graph("probe", "fp32", path, ""))
    x = np.array([[1.0, 2.0**-12], [2.0**-12, 1.0]], np.float32)
    np.testing.assert_allclose(session.run(None, {"x": x})[0], x @ x, rtol=1e-6)


@needs_plugin
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
def test_a_whole_recognition_beside_the_cpu_provider(bf16_bundle, precision):
    speech = np.random.default_rng(0).normal(0, 0.1, 32_000).astype(np.float32)
    exact = MultimodalASR(bf16_bundle, precision="fp32", providers="cpu", threads=1)
    ours = MultimodalASR(bf16_bundle, precision=precision, providers="openvino", threads=1)
    features = exact.whisper.features([speech])
    limit = {"fp32": 1e-3, "bf16": 0.08}[precision]
    for name, value in exact.whisper.encode(features).values.items():
        theirs, got = value.numpy(), ours.whisper.encode(features).values[name].numpy()
        assert np.linalg.norm(got - theirs) <= limit * np.linalg.norm(theirs), name
    assert ours.generate_nbest(speech)
    placement = ours.sessions.describe()["placement"]
    assert placement["encoder_model.onnx"]["nodes"].keys() == {PROVIDER}
    assert placement["encoder_model.onnx"]["precision"] == precision
    assert isinstance(ours.whisper.encoder, ort.InferenceSession)
