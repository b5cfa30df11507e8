"""A model repository for Triton: its configurations, and its model run against a stand-in for its module.

Triton itself is not at hand: it has never loaded what is written here.
"""

import importlib.util
import json
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import yaml
from google.protobuf import text_format

from runtime.bundle.bundle import Bundle
from runtime.clip.cache import save_image_cache
from runtime.clip.encoders import ImageEncoder
from runtime.commands.main import main
from runtime.commands.triton.repository import requirements
from runtime.errors import BundleError
from runtime.pipeline import MultimodalASR
from tests.conftest import POCKET

TEST_SET = POCKET / "data" / "test"
ROWS = [json.loads(line) for line in (TEST_SET / "manifest.jsonl").read_text().splitlines()][:4]
OPTIONS = (
    "--precision",
    "fp32",
    "--threads",
    "1",
    "--num-beams",
    "4",
    "--silence-dbfs",
    "-60",
    "--alpha",
    "0.5",
)


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model_config():
    """Triton's message of a model configuration; the gRPC client around it is not needed."""
    places = {Path(file.locate()) for file in metadata.files("tritonclient")}
    (place,) = (place for place in places if place.match("tritonclient/grpc/model_config_pb2.py"))
    return load("model_config_pb2", place)


class Tensor:
    def __init__(self, name, values):
        self._name, self._values = name, values

    def name(self):
        return self._name

    def as_numpy(self):
        return self._values


class InferenceResponse:
    def __init__(self, output_tensors, error=None):
        self.error = error
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}


class TritonError(Exception):
    def message(self):
        return str(self)


def get_input_tensor_by_name(request, name):
    return Tensor(name, request[name]) if name in request else None


@pytest.fixture
def stub(monkeypatch):
    """What `triton_python_backend_utils` offers to a model (python_backend: README)."""
    module = types.ModuleType("triton_python_backend_utils")
    for part in (Tensor, InferenceResponse, TritonError, get_input_tensor_by_name):
        setattr(module, part.__name__, part)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)
    monkeypatch.delitem(sys.modules, "runtime.commands.triton.model", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield module
    sys.modules.pop("runtime.commands.triton.model", None)


def write(bundle, output, *options):
    assert main(["triton", "--bundle", str(bundle.folder), "--output", str(output), *options]) == 0
    return output


@pytest.fixture(scope="module")
def repository(pocket_bundle, tmp_path_factory):
    return write(pocket_bundle, tmp_path_factory.mktemp("triton") / "models", *OPTIONS)


def config_of(repository, name, model_config):
    text = (repository / name / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config.ModelConfig())


def triton_arguments(repository, config):
    """The arguments of `initialize`: Triton hands the configuration as JSON, with its own field names."""
    parameters = {key: {"string_value": value.string_value} for key, value in config.parameters.items()}
    return {
        "model_config": json.dumps({"name": config.name, "parameters": parameters}),
        "model_repository": str(repository / config.name),
        "model_version": "1",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


def opened(repository, model_config):
    model = load("earsight_model", repository / "earsight" / "1" / "model.py").TritonPythonModel()
    model.initialize(triton_arguments(repository, config_of(repository, "earsight", model_config)))
    return model


def bytes_of(path):
    return np.array([Path(path).read_bytes()], dtype=np.object_)


def request_of(row, **more):
    return {"AUDIO": bytes_of(TEST_SET / row["audio"]), "IMAGE": bytes_of(TEST_SET / row["image"]), **more}


def test_the_lists_are_those_of_the_process(repository, pocket_bundle, stub, model_config):
    model = opened(repository, model_config)
    asr = MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1, num_beams=4, alpha=0.5)
    responses = model.execute([request_of(row) for row in ROWS])
    for row, response in zip(ROWS, responses, strict=True):
        expected = asr.transcribe(TEST_SET / row["audio"], image_path=TEST_SET / row["image"])
        assert response.error is None
        assert json.loads(response.outputs["RESULT"][0]) == expected.to_dict()
        assert [text.decode() for text in response.outputs["HYPOTHESES"]] == [
            h.text for h in expected.hypotheses
        ]
        assert response.outputs["TRANSCRIPTION"].tolist() == [expected.transcription.encode()]
    assert model.asr.recognizer.gate.silence_dbfs == -60


def test_alpha_of_a_request_and_speech_alone(repository, pocket_asr, stub, model_config):
    model, row = opened(repository, model_config), ROWS[0]
    (response,) = model.execute([request_of(row, ALPHA=np.array([0.9], dtype=np.float32))])
    result = json.loads(response.outputs["RESULT"][0])
    assert (result["mode"], result["alpha"]) == ("multimodal", float(np.float32(0.9)))
    (response,) = model.execute([{"AUDIO": bytes_of(TEST_SET / row["audio"])}])
    result = json.loads(response.outputs["RESULT"][0])
    assert result["mode"] == "asr_only"
    assert {"text", "score"} == set(result["hypotheses"][0])


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"AUDIO": np.array([b"no sound"], dtype=np.object_)}, "audio"),
        ({"IMAGE": np.array([b"no picture"], dtype=np.object_)}, "picture"),
        ({"ALPHA": np.array([1.5], dtype=np.float32)}, "alpha is 1.5"),
        ({"AUDIO": np.array([b"a", b"b"], dtype=np.object_)}, "AUDIO holds 2 values"),
        ({"IMAGE_ID": np.array([b"\xff"], dtype=np.object_)}, "IMAGE_ID is no UTF-8"),
    ],
)
def test_a_bad_request_fails_alone(repository, stub, model_config, broken, message):
    model = opened(repository, model_config)
    bad, good = model.execute([{**request_of(ROWS[0]), **broken}, request_of(ROWS[1])])
    assert message in bad.error.message()
    assert good.error is None
    assert good.outputs["TRANSCRIPTION"][0]


def test_a_request_without_audio_is_told_what_is_missing(repository, stub, model_config):
    (response,) = opened(repository, model_config).execute([{}])
    assert "AUDIO is missing" in response.error.message()


def test_the_repository_needs_nothing_of_this_checkout(repository, model_config, tmp_path):
    """`model.py` takes the package that lies beside it, wherever Triton was started."""
    arguments = triton_arguments(repository, config_of(repository, "earsight", model_config))
    code = f"""
import importlib.util, sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
spec = importlib.util.spec_from_file_location("model", {str(repository / "earsight/1/model.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model = module.TritonPythonModel()
model.initialize({arguments!r})
import runtime
print(runtime.__file__, [name for name in ("bench", "export", "torch", "onnx") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(repository / "earsight/1/runtime/__init__.py"), "[]"]


def test_pictures_of_the_cache(pocket_bundle, pocket_asr, stub, model_config, tmp_path):
    embedding = pocket_asr.encode_images([TEST_SET / ROWS[0]["image"]])
    save_image_cache(tmp_path / "pictures.npz", {"key": embedding[0]})
    output = write(pocket_bundle, tmp_path / "m", *OPTIONS, "--image-cache", str(tmp_path / "pictures.npz"))
    (tmp_path / "pictures.npz").unlink()
    request = {
        "AUDIO": bytes_of(TEST_SET / ROWS[0]["audio"]),
        "IMAGE_ID": np.array([b"key"], dtype=np.object_),
    }
    (response,) = opened(output, model_config).execute([request])
    assert json.loads(response.outputs["RESULT"][0])["mode"] == "multimodal"


def test_the_vision_model_embeds_as_the_pipeline(repository, pocket_bundle, pocket_asr, model_config):
    config = config_of(repository, "clip_vision", model_config)
    session = ort.InferenceSession(
        repository / "clip_vision" / "1" / config.default_model_filename, providers=["CPUExecutionProvider"]
    )
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert (config.input[0].name, list(config.input[0].dims)) == (given.name, given.shape[1:])
    assert (config.output[0].name, list(config.output[0].dims)) == (returned.name, returned.shape[1:])
    assert config.input[0].data_type == config.output[0].data_type == model_config.TYPE_FP32
    encoder = pocket_asr.image_encoder
    assert isinstance(encoder, ImageEncoder)
    assert config.output[0].dims[0] == encoder.dimension
    assert config.max_batch_size == 64


@pytest.mark.parametrize(
    ("provider", "kind", "extra"), [("cpu", 2, "cpu"), ("cuda", 1, "gpu"), ("tensorrt", 1, "gpu")]
)
def test_configurations_of_every_provider(provider, kind, extra, pocket_bundle, model_config, tmp_path):
    output = write(pocket_bundle, tmp_path / "m", "--provider", provider, "--instances", "2")
    pipeline, vision = (config_of(output, name, model_config) for name in ("earsight", "clip_vision"))
    assert (pipeline.backend, vision.backend) == ("python", "onnxruntime")
    for config in (pipeline, vision):
        assert config.name == (output / config.name).name
        assert (
            config.instance_group[0].kind
            == kind
            == getattr(model_config.ModelInstanceGroup, "KIND_CPU" if provider == "cpu" else "KIND_GPU")
        )
    assert pipeline.instance_group[0].count == 2
    assert f"--provider {provider}" in pipeline.parameters["options"].string_value
    assert [port.optional for port in pipeline.input] == [False, True, True, True]
    accelerators = vision.optimization.execution_accelerators.gpu_execution_accelerator
    assert [a.name for a in accelerators] == (["tensorrt"] if provider == "tensorrt" else [])
    assert (output / "requirements.txt").read_text().splitlines() == requirements(extra)
    service = yaml.safe_load((output / "compose.yaml").read_text())["services"]["triton"]
    assert ("deploy" in service) == (provider != "cpu")
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "TRITON_IMAGE" in service["build"]["args"]
    assert "Never run in Triton" in (output / "compose.yaml").read_text()


def test_requirements_are_those_of_the_package():
    cpu, gpu = requirements("cpu"), requirements("gpu")
    assert any(line.startswith("numpy") for line in cpu)
    assert [line for line in cpu if "onnxruntime" in line] != [line for line in gpu if "onnxruntime" in line]
    assert not any("torch" in line or "extra" in line for line in cpu + gpu)


def test_other_models_stay_and_a_foreign_folder_is_refused(repository, pocket_bundle, tmp_path, capsys):
    output = write(pocket_bundle, tmp_path / "m", *OPTIONS)
    (output / "other").mkdir()
    (output / "other" / "config.pbtxt").write_text('name: "other"')
    write(pocket_bundle, output, *OPTIONS, "--instances", "3")  # again
    assert (output / "other" / "config.pbtxt").is_file()
    assert "count: 3" in (output / "earsight" / "config.pbtxt").read_text()
    (tmp_path / "n" / "earsight").mkdir(parents=True)
    (tmp_path / "n" / "earsight" / "mine.txt").write_text("mine")
    capsys.readouterr()
    command = ["triton", "--bundle", str(pocket_bundle.folder), "--output", str(tmp_path / "n")]
    assert main(command) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "n" / "earsight" / "mine.txt").read_text() == "mine"
    assert main([*command[:-1], str(tmp_path / "o"), "--instances", "0"]) == 2
    assert not (tmp_path / "o").exists()


def test_a_damaged_bundle_is_not_written(pocket_bundle, tmp_path, capsys):
    import shutil

    damaged = Bundle.open(shutil.copytree(pocket_bundle.folder, tmp_path / "pocket"))
    graph = damaged.whisper / "onnx" / "decoder_model_int8.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError):
        damaged.graphs("int8")
    assert main(["triton", "--bundle", str(damaged.folder), "--output", str(tmp_path / "m")]) == 2
    assert not (tmp_path / "m").exists()
