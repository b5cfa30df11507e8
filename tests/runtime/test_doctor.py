"""`python -m runtime doctor`: right about machines with and without a GPU."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import onnxruntime as ort
import pytest

from runtime.bundle.graph import GRAPH_FOLDERS, Graph
from runtime.commands import doctor
from runtime.commands.doctor import add_arguments, diagnose, render, run
from runtime.errors import BundleNotFoundError, ProviderError
from runtime.sessions.openvino import OpenVino
from tests.tools.machines import CPU, CPU_WHEEL, gpu_machine, openvino_machine
from tests.tools.tiny_graphs import write_tiny_graphs


def parse(*given):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(given)


def test_a_cpu_machine():
    diagnosis = diagnose(machine=CPU_WHEEL)
    assert diagnosis.provider.name == "cpu"
    assert diagnosis.obstacles["cpu"] == ()
    assert len(diagnosis.obstacles["cuda"]) == 2
    text = render(diagnosis)
    assert "would use    cpu" in text
    assert "no NVIDIA driver" in text
    assert "mend: pip uninstall" in text


def test_a_gpu_server():
    text = render(diagnose(machine=gpu_machine()))
    assert "NVIDIA L4 (compute capability 8.9, 24 GiB)" in text
    assert "driver for CUDA 13.1" in text
    assert "TensorRT     10.9.0" in text
    assert "would use    cuda on NVIDIA L4" in text
    assert [line.split()[0] for line in text.splitlines() if line.endswith("cannot run here")] == ["openvino"]
    assert "pip install 'earsight[openvino]'" in text


def test_openvino_and_what_the_processor_has():
    text = render(diagnose(machine=openvino_machine()))
    assert "OpenVINO     1.8.1 on Intel Xeon (AMX)" in text
    assert "would use    cpu" in text  # without a bundle nobody knows whether bf16 is good enough
    text = render(diagnose(machine=openvino_machine(amx_bf16=False), provider="openvino"))
    assert "OpenVINO     1.8.1 on Intel Xeon (bf16)" in text
    assert "would use    openvino" in text
    passed_over = openvino_machine(openvino=OpenVino("1.8.1"))
    assert "OpenVINO     1.8.1, of no use here" in render(diagnose(machine=passed_over))


def test_two_wheels_are_noted_even_where_the_cpu_is_used():
    both = {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}
    diagnosis = diagnose(machine=gpu_machine(distributions=both))
    assert diagnosis.provider.name == "cpu"
    assert "more than one distribution of onnxruntime" in diagnosis.notes[0]
    assert "note         onnxruntime 1.32.0, onnxruntime-gpu 1.31.1" in render(diagnosis)


def test_a_provider_asked_for_by_name_is_there_or_an_error():
    assert diagnose(machine=gpu_machine(), provider="tensorrt").provider.name == "tensorrt"
    with pytest.raises(ProviderError, match="cuda cannot run here"):
        diagnose(machine=CPU_WHEEL, provider="cuda")


def test_the_report_is_json(capsys):
    assert run(parse("--json", "--provider", "cpu")) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == doctor.SCHEMA
    assert report["provider"] == "cpu"
    assert report["machine"]["providers"] == ort.get_available_providers()
    assert report["providers"]["cpu"] == {"runs": True, "obstacles": []}
    assert report["bundle"] is None


def test_a_missing_bundle_is_an_error(tmp_path):
    with pytest.raises(BundleNotFoundError):
        run(parse("--provider", "cpu", "--bundle", str(tmp_path / "none")))


def test_a_bundle_s_graphs_are_opened_and_counted(tmp_path, monkeypatch, capsys):
    folder = write_tiny_graphs(tmp_path, ("fp32",))
    bundle = SimpleNamespace(
        folder=folder,
        name="tiny",
        precisions=("fp32",),
        graphs=lambda precision: [Graph.in_folder(folder, name, precision) for name in GRAPH_FOLDERS],
    )
    monkeypatch.setattr(doctor.Bundle, "open", lambda path: bundle)
    assert run(parse("--provider", "cpu", "--bundle", str(folder))) == 0
    printed = capsys.readouterr().out
    assert "tiny: fp32; fp32 would run" in printed
    found = diagnose(Path(folder), provider="cpu").bundle
    assert set(found.placement) == {f"{name}.onnx" for name in GRAPH_FOLDERS}
    assert all(set(each["nodes"]) == {CPU} for each in found.placement.values())
    assert found.graph_bytes == sum(path.stat().st_size for path in folder.rglob("*.onnx"))
