"""What a user installs: the runtime alone, without anything of torch."""

import json
import os
import re
import subprocess
import sys
import tomllib

import pytest
from setuptools import find_packages

from runtime.extras import EXTRA_OF
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


def test_no_version_of_python_is_claimed_that_nobody_has_tried():
    claimed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    untried = re.findall(r"nobody has tried it .* with (3\.\d+)", (ROOT / "README.md").read_text())
    assert not [name for name in claimed if name.split(" :: ")[-1] in untried]


@pytest.mark.parametrize("image", ["cpu", "gpu"])
def test_the_images_hold_the_runtime_alone_and_say_how_it_is_called(image):
    text = (ROOT / f"Dockerfile.{image}").read_text()
    assert re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) == [
        "pyproject.toml README.md LICENSE NOTICE",
        "runtime",
    ]
    examples = re.sub(r" \\\n#", "", text)
    called = re.findall(rf"^# +docker run .* earsight:(?:{image}|tensorrt) +(\S+)", examples, re.MULTILINE)
    commands = {"cpu": ["#", "transcribe"], "gpu": ["#", "transcribe", "engines"]}  # "#": the server
    assert called == commands[image]
    written_by_make = {"models/demo", "models/whisper-small"}
    assert set(re.findall(r"models/[\w-]+", text)) <= written_by_make


def test_what_makes_the_pocket_models_is_not_installed():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    found = find_packages(str(ROOT), include=settings["include"], exclude=settings["exclude"])
    assert {"runtime.server", "export.graphs", "bench.tuning"} <= set(found)
    assert not [name for name in found if "pocket" in name or "tests" in name]


# Finders that do not find some modules, as where they are not installed.
HIDING = """
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name in MISSING else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Hiding, sys.meta_path)
"""


def run_without(missing, code, **environment):
    """Run Python code in a process in which some packages cannot be imported."""
    return subprocess.run(
        [sys.executable, "-c", f"MISSING = {missing!r}{HIDING}{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def command(line):
    words = line.split()
    return f"import runpy; sys.argv = {words!r}; runpy.run_module({words[0]!r}, run_name='__main__')"


@pytest.mark.parametrize(
    "line", ["runtime doctor", "runtime transcribe a.wav --bundle b", "bench", "export engines"]
)
def test_without_an_engine_every_command_says_what_to_install(line):
    done = run_without(["onnxruntime"], command(line))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"python -m {line.split()[0]}")
    assert "pip install 'earsight[cpu]', or 'earsight[gpu]'" in done.stderr
    assert "never both" in done.stderr


def test_without_an_engine_the_pipeline_is_refused_and_the_errors_can_be_imported():
    done = run_without(
        ["onnxruntime"],
        "from runtime.errors import PackageMissingError\n"
        "try:\n    from runtime import MultimodalASR\nexcept PackageMissingError as error:\n    print(error)",
    )
    assert "'earsight[gpu]'" in done.stdout, done.stderr


def test_the_remains_of_an_engine_are_none(tmp_path):
    """What pip leaves of two wheels when one is uninstalled: a folder without `__init__.py`."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    elsewhere = "sys.path[:] = [p for p in sys.path if 'site-packages' not in p]; "
    done = run_without([], elsewhere + command("runtime doctor"), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install 'earsight[cpu]'" in done.stderr


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("jiwer", "bench tune --nbest a --output b"),
        ("psutil", "bench latency --help"),
        ("httpx", "bench serve"),
        ("transformers", "export --output a"),
        ("optimum.exporters.onnx", "export --output a"),
        ("transformers", "bench demo"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(missing, line):
    done = run_without([missing], command(line))
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"python -m {line.split()[0]}")
    assert missing in done.stderr
    assert f"pip install 'earsight[{EXTRA_OF[missing]}]'" in done.stderr


@pytest.mark.parametrize("package", ["bench", "export"])
def test_help_needs_no_extra(package):
    done = run_without(["onnxruntime", *EXTRA_OF], command(f"{package} --help"))
    assert done.returncode == 0, done.stderr
    assert "usage: python -m" in done.stdout
    assert package != "bench" or "tiny.en, or else the pocket models" in " ".join(done.stdout.split())


def test_the_extras_of_packages_are_those_that_are_declared():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    modules = {"optimum-onnx": "optimum.exporters.onnx"}
    for extra in set(EXTRA_OF.values()):
        names = [re.match(r"[\w-]+", requirement)[0] for requirement in declared[extra]]
        expected = {modules.get(name, name.replace("-", "_")) for name in names}
        assert expected == {module for module, brings in EXTRA_OF.items() if brings == extra}
