"""`python -m runtime engines`: planning works anywhere, building needs TensorRT and says so."""

import argparse
from types import SimpleNamespace

import onnxruntime as ort
import pytest

from runtime.bundle.graph import GRAPH_FOLDERS, Graph
from runtime.commands import engines
from runtime.errors import ProviderError, SettingsError
from tests.tools.tiny_graphs import write_tiny_graphs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_graphs(tmp_path_factory.mktemp("engines"), ("fp32",))


@pytest.fixture
def parse(folder, monkeypatch):
    bundle = SimpleNamespace(
        graphs=lambda precision: [Graph.in_folder(folder, name, "fp32") for name in GRAPH_FOLDERS]
    )
    monkeypatch.setattr(engines.Bundle, "open", lambda path: bundle)

    def arguments(*given):
        parser = argparse.ArgumentParser()
        engines.add_arguments(parser)
        return parser.parse_args(["--bundle", str(folder), *given])

    return arguments


def test_the_plan_names_every_graph_and_input(parse, capsys):
    assert engines.run(parse("--plan", "--beams", "3", "--batch", "3")) == 0
    printed = capsys.readouterr().out
    for graph in ("encoder_model.onnx", "decoder_model.onnx", "text_model.onnx", "vision_model.onnx"):
        assert graph in printed
    (line,) = (line for line in printed.splitlines() if line.split()[:1] == ["output_index"])
    assert line.split() == ["output_index", "1", "3", "3"]
    (line,) = (line for line in printed.splitlines() if line.split()[:1] == ["pixel_values"])
    assert line.split()[1:] == ["1x3x32x32", "1x3x32x32", "16x3x32x32"]


def test_building_without_tensorrt_is_unusable_input(parse):
    if "TensorrtExecutionProvider" in ort.get_available_providers():
        pytest.skip("the installed wheel has TensorRT")
    with pytest.raises(ProviderError, match="provider tensorrt cannot run here"):
        engines.run(parse())


@pytest.mark.parametrize("given", [("--batch", "0"), ("--tokens", "500"), ("--optimization-level", "9")])
def test_arguments_out_of_range_are_refused(parse, given):
    with pytest.raises(SettingsError, match=given[0].strip("-").replace("-", "_")):
        engines.run(parse("--plan", *given))


def test_arguments_become_settings_that_allow_building(parse, tmp_path):
    settings = engines.engine_settings(
        parse("--folder", str(tmp_path), "--workspace-mib", "2", "--context-model", "--text-length", "40")
    )
    assert settings.allow_build
    assert settings.context_model
    assert (settings.folder, settings.workspace_bytes, settings.limits.text_length) == (tmp_path, 2 << 20, 40)
