"""What a user installs: the runtime alone, without anything of torch."""

import json
import subprocess
import sys
import tomllib

import pytest
from setuptools import find_packages

from tests.conftest import ROOT

TEST_SET = ROOT / "bench" / "pocket" / "data" / "test"
FOREIGN = ("torch", "transformers", "optimum", "onnx", "jiwer", "matplotlib")


@pytest.mark.slow
def test_the_runtime_alone_transcribes(pocket_bundle, tmp_path):
    """A fresh virtual environment, the package index, and one file; run away from the checkout."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{ROOT}[cpu]"]
    subprocess.run(install, check=True)
    found = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    present = subprocess.run(
        [python, "-c", found, *FOREIGN], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert present.stdout.strip() == "[]"
    row = json.loads((TEST_SET / "manifest.jsonl").read_text().splitlines()[0])
    done = subprocess.run(
        [
            *(python, "-m", "runtime", "transcribe", str(TEST_SET / row["audio"])),
            *("--bundle", str(pocket_bundle.folder), "--image", str(TEST_SET / row["image"]), "--json"),
        ],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert answer["mode"] == "multimodal"
    assert answer["transcription"]


def test_what_makes_the_pocket_models_is_not_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    found = find_packages(str(ROOT), include=settings["include"], exclude=settings["exclude"])
    assert {"runtime.server", "export.graphs", "bench.tuning"} <= set(found)
    assert not [name for name in found if "pocket" in name or "tests" in name]
