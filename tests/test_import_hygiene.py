"""Which package may import which, and what importing the runtime loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

HEAVY = (
    "torch",
    "transformers",
    "optimum",
    "onnx",
    "matplotlib",
    "jiwer",
    "jinja2",
    "psutil",
    "av",
    "export",
    "bench",
)


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    loaded = f"print([name for name in {HEAVY!r} if name in sys.modules])"
    code = f"import runtime, runtime.commands.main, sys; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        (
            "runtime",
            {"export", "bench", "torch", "transformers", "optimum", "onnx", "jiwer", "matplotlib", "scipy"},
        ),
        ("export", {"bench"}),
    ],
)
def test_data_flows_one_way(package: str, forbidden: set[str]) -> None:
    sources = sorted((ROOT / package).rglob("*.py"))
    assert sources
    for path in sources:
        found = {name.split(".")[0] for name in _imports(path)}
        assert not found & forbidden, f"{path.name} imports {sorted(found & forbidden)}"


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module)
    return names
