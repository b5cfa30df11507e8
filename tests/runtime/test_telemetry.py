"""onnxruntime reports nothing and leaves nothing behind."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CODE = """
import sys
{first}
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


def left_behind(home, graph, first, **environment):
    """Open a graph in a home of its own; return the files that onnxruntime left there."""
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    home.mkdir()
    environment = kept | {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **environment}
    code = CODE.format(first=first)
    subprocess.run([sys.executable, "-c", code, str(graph)], check=True, env=environment, cwd=ROOT)
    return [path for path in home.rglob("*") if path.is_file()]


def test_what_opens_graphs_keeps_no_identifier_for_reports(pocket_bundle, tmp_path):
    graph = pocket_bundle.graph("text_model", "int8").path
    if not left_behind(tmp_path / "a", graph, ""):
        pytest.skip("this onnxruntime, or this machine, makes no reports")
    assert not left_behind(tmp_path / "b", graph, "import runtime")
    assert left_behind(tmp_path / "c", graph, "import runtime", ORT_DISABLE_TELEMETRY="0")
