"""The GPU script: refused without a GPU, right where it can be tried without one."""

import json
import subprocess
import sys

import onnxruntime as ort
import pytest

from bench.commands.gpu_check import FILE_NAME, numbers
from bench.commands.latency import write_report
from bench.commands.main import main
from bench.gpu_check.check import Plan, check
from bench.gpu_check.measurements import TOLERANCES, Work
from bench.gpu_check.table import render
from bench.gpu_check.trace import read_copies
from bench.peers.models import make_workload
from runtime.errors import OutputError, SettingsError
from runtime.sessions.factory import Provider, SessionSettings
from tests.conftest import POCKET


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "pocket"
    sources = ["--whisper", str(POCKET / "models" / "whisper"), "--clip", str(POCKET / "models" / "clip")]
    command = [sys.executable, "-m", "export", *sources, "--output", str(folder), "--precision", "fp32"]
    command.append("--fixed-steps")
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def report(bundle):
    """Everything but what needs a GPU, on the CPU provider."""
    work = Work(bundle, make_workload(bundle / "whisper", steps=4, beams=2, threads=1), rounds=2)
    plan = Plan(work, ("fp32",), batches=(1, 2), texts=(1, 3))
    found = check(plan, Provider("cpu"), SessionSettings(threads=1))
    return {"provider": "cpu", "gpu": None, "workload": work.workload.to_dict(), "rounds": 2, **found}


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="the wheel has CUDA")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_without_a_gpu_it_ends_with_status_2_and_the_reason(tmp_path, capsys, provider):
    arguments = ["--architecture", "whisper-small", "--output", str(tmp_path / "out"), "--provider", provider]
    assert main(["gpu_check", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"provider {provider} cannot run here" in line
    assert "To mend it" in line
    assert not (tmp_path / "out").exists()


def test_the_same_provider_and_precision_is_in_parity_with_itself(report):
    (entry,) = report["parity"]
    assert entry["prompt_difference"] == 0.0  # the same kernels on the same input
    assert (entry["identical_hypotheses"], entry["identical_best"], entry["passed"]) == (1.0, 1.0, True)
    assert entry["tolerance"] == TOLERANCES["fp32"]


def test_every_batch_is_timed_by_stage(report):
    assert [entry["batch"] for entry in report["speech"]] == [1, 2]
    for entry in report["speech"]:
        assert set(entry["stages"]) >= {"encoder", "prompt", "step", "decoding"}
        assert len(entry["stages"]["encoder"]["raw_s"]) == 2
        assert len(entry["stages"]["step"]["raw_s"]) == 2 * 3  # 4 tokens: the first comes out of the prompt
        assert entry["step_bytes"] > 0
        assert entry["floor_s"] is None  # the bandwidth of a CPU is not known here
        assert entry["memory_bytes"] is None


def test_the_forms_of_a_step_are_compared(report):
    (steps,) = report["steps"]
    assert steps["forms"]["fixed"] == {"identical_hypotheses": 1.0, "passed": True}
    assert "records no graphs" in steps["forms"]["recorded"]["left_out"]
    assert [row["batch"] for row in steps["rows"]] == [1, 2]
    for row, entry in zip(steps["rows"], report["speech"], strict=True):
        assert row["raw_s"]["growing"] == entry["stages"]["step"]["raw_s"]
        assert len(row["raw_s"]["fixed"]) == 2 * 3
        assert (row["step_bytes"], row["floor_s"]) == (entry["step_bytes"], None)
    text = render(report)
    assert "fp32 fixed: 100% of the hypotheses as with a growing cache  passed" in text
    assert "fp32 recorded: not measured (the provider cpu records no graphs)" in text


def test_a_step_is_set_against_its_floor(report):
    (steps,) = report["steps"]
    row = {**steps["rows"][0], "floor_s": 0.001, "median_s": {"growing": 0.004, "fixed": 0.002}}
    (line,) = [
        line
        for line in render({**report, "steps": [{**steps, "rows": [row]}]}).splitlines()
        if line.startswith("fp32") and "4.000" in line
    ]
    assert line.split() == ["fp32", "1", "4.000", "2.000", "-", "1.000", "2.0"]


def test_a_bundle_without_fixed_shapes_leaves_them_out(bundle, pocket_bundle):
    work = Work(
        pocket_bundle.folder, make_workload(bundle / "whisper", steps=2, beams=2, threads=1), rounds=1
    )
    plan = Plan(work, ("fp32",), batches=(1,), texts=(1,))
    found = check(plan, Provider("cpu"), SessionSettings(threads=1))
    assert "--fixed-steps" in found["steps"][0]["forms"]["fixed"]["left_out"]
    assert found["passed"] is True


def test_nothing_is_copied_between_host_and_device_on_the_cpu(report):
    (entry,) = report["copies"]
    assert (entry["on_device"], entry["copies"], entry["passed"]) == (True, [], True)


def test_placement_texts_and_verdict_are_reported(report):
    assert set(report["placement"]) == {"encoder_model.onnx", "decoder_model.onnx", "text_model.onnx"}
    assert {count: len(raw) for count, raw in report["texts"]["raw_s"].items()} == {"1": 2, "3": 2}
    assert report["passed"] is True


def test_the_table_and_the_file(report, tmp_path):
    text = render(report)
    assert "parity with CPU fp32" in text
    assert "passed: yes" in text
    assert "PyTorch float16 on this GPU: not measured" in text
    assert json.loads(write_report(report, tmp_path / "a" / "b", FILE_NAME).read_text()) == json.loads(
        json.dumps(report)
    )
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=FILE_NAME):
        write_report(report, tmp_path / "file", FILE_NAME)


def test_a_failed_check_shows():
    gpu = {"name": "NVIDIA L4"}
    ratio = {
        "what": "n-best, batch 1",
        "value": 1.5,
        "interval_95": [1.4, 1.6],
        "wanted": 3.0,
        "passed": False,
    }
    text = render(
        {
            "provider": "cuda",
            "gpu": gpu,
            "workload": {"beams": 5, "steps": 32},
            "rounds": 1,
            "parity": [],
            "speech": [],
            "steps": [],
            "texts": {"precision": "fp16", "raw_s": {"64": [0.001]}},
            "copies": [],
            "placement": {},
            "torch": {"ratios": [ratio]},
            "passed": False,
        }
    )
    assert "passed: NO" in text
    assert "wanted 3  FAILED" in text
    assert "64000 texts/s" in text


def test_copies_are_read_from_a_trace(tmp_path):
    def event(name, operator, shape, category="Node"):
        args = {"op_name": operator, "input_type_shape": [{"float16": shape}], "output_type_shape": []}
        return {"cat": category, "name": name, "dur": 3, "args": args}

    trace = [
        event("Memcpy_0_kernel_time", "MemcpyToHost", [1, 12, 5, 64]),
        event("Memcpy_0_kernel_time", "MemcpyToHost", [1, 12, 9, 64]),
        event("Memcpy_1_kernel_time", "MemcpyFromHost", [1]),
        event("Memcpy_1_fence_before", "MemcpyFromHost", [1]),
        event("MatMul_kernel_time", "MatMul", [1, 12, 9, 64]),
        {"cat": "Session", "name": "model_run", "dur": 1},
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace))
    cache, other = read_copies(path)
    assert (cache.node, cache.count, cache.shape, cache.microseconds) == ("Memcpy_0", 2, (1, 12, 9, 64), 6)
    assert (cache.is_cache, other.is_cache, other.count) == (True, False, 1)


@pytest.mark.parametrize("text", ["", "0", "1,x", "-1", "1.5", "1,,2"])
def test_lists_of_numbers_are_verified(text):
    with pytest.raises(SettingsError, match="--batches"):
        numbers("--batches", text)


def test_lists_of_numbers():
    assert numbers("--batches", "1, 4,16,4") == (1, 4, 16)
