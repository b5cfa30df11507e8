"""A bundle and a home folder that nobody can write to, root included: both are mounted read-only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import POCKET, ROOT

AUDIO = next(iter(sorted((POCKET / "data" / "test" / "audio").iterdir())))
IMAGE = next(iter(sorted((POCKET / "data" / "test" / "images").iterdir())))
# In a mount namespace of its own, which ends with the process. The shell tries to write first.
READ_ONLY = """
set -e
for folder in "$BUNDLE" "$HOME"; do
    mount --bind "$folder" "$folder"
    mount -o remount,bind,ro "$folder"
    ! touch "$folder/probe" 2>/dev/null
done
exec "$@"
"""
NAMESPACE = ("unshare", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))


def run(
    bundle: Path, home: Path, *arguments: str, read_only: bool = True
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    if read_only:
        command = [*NAMESPACE, "sh", "-c", READ_ONLY, "sh", *command]
    places = {"BUNDLE": str(bundle), "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | places, check=False
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, pocket_bundle) -> Path:
    folder = tmp_path_factory.mktemp("home")
    try:
        probe = subprocess.run(
            [*NAMESPACE, "sh", "-c", READ_ONLY, "sh", "true"],
            env=os.environ | {"BUNDLE": str(pocket_bundle.folder), "HOME": str(folder)},
            capture_output=True,
            check=False,
        )
    except OSError:
        pytest.skip("there is no unshare")
    if probe.returncode:
        pytest.skip(f"this process may mount nothing: {probe.stderr.decode().strip()}")
    return folder


def test_recognition_needs_no_place_to_write(home: Path, pocket_bundle) -> None:
    arguments = (
        *("runtime", "transcribe", str(AUDIO), "--image", str(IMAGE), "--json", "--provider", "cpu"),
        *("--bundle", str(pocket_bundle.folder)),
    )
    fixed, free = (run(pocket_bundle.folder, home, *arguments, read_only=only) for only in (True, False))
    assert fixed.returncode == 0, fixed.stderr
    assert json.loads(fixed.stdout) == json.loads(free.stdout)
    assert json.loads(fixed.stdout)["transcription"]


@pytest.mark.parametrize(
    "command",
    [
        ("runtime", "embed-images", str(IMAGE), "--output", "{folder}/cache.npz", "--bundle", "{bundle}"),
        (
            *("bench", "nbest", "--data", str(POCKET / "data" / "test" / "manifest.jsonl")),
            *("--output", "{folder}/nbest.jsonl", "--bundle", "{bundle}"),
        ),
        (
            *("export", "--whisper", str(POCKET / "models" / "whisper"), "--clip"),
            *(str(POCKET / "models" / "clip"), "--output", "{folder}/model", "--precision", "fp32"),
        ),
    ],
    ids=["embed-images", "nbest", "export"],
)
def test_what_cannot_be_written_there_is_one_line(
    home: Path, pocket_bundle, command: tuple[str, ...]
) -> None:
    places = {"folder": home, "bundle": pocket_bundle.folder}
    answer = run(pocket_bundle.folder, home, *(part.format(**places) for part in command))
    assert answer.returncode == 2, answer.stderr
    last = answer.stderr.strip().splitlines()[-1]
    assert str(home) in last
    assert "Read-only file system" in last
    assert "Traceback" not in answer.stderr
