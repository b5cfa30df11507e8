"""Runs that are killed or interrupted at random moments: what was there stays, what was done is kept.

The slow tests do it 50 times each (`pytest -m slow tests/export/test_kills.py`); KILLS and SEED in the
environment change number and seed.
"""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from runtime.audio.files import AudioFile
from runtime.bundle.bundle import Bundle
from tests.conftest import POCKET, ROOT

KILLS = int(os.environ.get("KILLS", "50"))
SEED = int(os.environ.get("SEED", "0"))
INTERRUPTED = 130
UTTERANCES = 40


def start(*arguments):
    # A background job ignores Ctrl-C, and its children would, too.
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def stopped(process, kind, after):
    """Send a signal after so many seconds; return status and standard error."""
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(kind)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def duration(*arguments):
    begin = time.monotonic()
    process = start(*arguments)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return time.monotonic() - begin


def came_before_us(kind, errors):
    """Whether Python itself answered an interrupt, with a traceback, before our first line."""
    ours = (str(ROOT / package) for package in ("export", "runtime", "bench"))
    return kind == signal.SIGINT and "Traceback" in errors and not any(path in errors for path in ours)


def require_stopped(kind, status, errors):
    """A kill says nothing; an interrupt is one line and status 130, or the signal's own before main began."""
    if kind == signal.SIGKILL:
        assert status == -signal.SIGKILL
        return
    assert status in (INTERRUPTED, -signal.SIGINT), (status, errors)
    assert "Traceback" not in errors, errors
    if status == INTERRUPTED:
        assert "interrupted" in errors


def export(output, precision):
    models = POCKET / "models"
    sources = ("--whisper", models / "whisper", "--clip", models / "clip")
    return ("export", *sources, "--output", output, "--precision", precision)


def nbest(bundle, manifest, output):
    options = ("--precision", "int8", "--threads", "1", "--provider", "cpu", "--num-beams", "2")
    return ("bench", "nbest", "--bundle", bundle, "--data", manifest, "--output", output, *options)


def manifest_of(folder, count):
    rows = [json.loads(line) for line in (POCKET / "data/test/manifest.jsonl").read_text().splitlines()]
    places = [{key: str(POCKET / "data/test" / row[key]) for key in ("audio", "image")} for row in rows]
    path = folder / "manifest.jsonl"
    path.write_text(
        "".join(json.dumps({**row, **place}) + "\n" for row, place in zip(rows[:count], places, strict=False))
    )
    return path


def whole(folder):
    bundle = Bundle.open(folder)
    for name in bundle.manifest["files"]:
        bundle.verified(name)
    return bundle


def check_export(pocket_bundle, folder, kind, times, seed):
    """Stop exports that would replace a bundle; it must load each time. Return what was seen."""
    target = folder / "pocket"
    shutil.copytree(pocket_bundle.folder, target)
    usual = duration(*export(folder / "once", "fp32"))
    moments, seen = random.Random(seed), Counter()
    while seen["stopped"] < times:
        status, errors = stopped(start(*export(target, "fp32")), kind, moments.uniform(0.0, 1.1 * usual))
        bundle = whole(target)
        if status == 0:
            assert bundle.precisions == ("fp32",)
            seen["done before the signal"] += 1
        elif came_before_us(kind, errors):
            seen["stopped before our first line"] += 1
        else:
            require_stopped(kind, status, errors)
            seen["stopped"] += 1
            seen["stopped after the exchange"] += "int8" not in bundle.precisions
        if bundle.precisions == ("fp32",):  # begin again with the old one
            shutil.rmtree(target)
            shutil.copytree(pocket_bundle.folder, target)
    assert duration(*export(target, "fp32")) > 0
    assert whole(target).precisions == ("fp32",)
    left = {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
    assert left == {"pocket", "once"}, left
    return seen


def check_nbest(pocket_bundle, folder, kind, times, seed, count=UTTERANCES):
    """Stop runs that go on with one file; it must hold a beginning of the undisturbed file each time."""
    manifest = manifest_of(folder, count)
    usual = duration(*nbest(pocket_bundle.folder, manifest, folder / "undisturbed.jsonl"))
    expected = (folder / "undisturbed.jsonl").read_bytes()
    assert expected.count(b"\n") == count + 1
    output = folder / "nbest.jsonl"
    run = nbest(pocket_bundle.folder, manifest, output)
    moments, seen = random.Random(seed), Counter()
    while seen["stopped"] < times:
        status, errors = stopped(start(*run), kind, moments.uniform(0.0, usual))
        content = output.read_bytes() if output.exists() else b""
        assert expected.startswith(content)
        if status == 0:
            assert content == expected
            seen["done before the signal"] += 1
            output.unlink()
        elif came_before_us(kind, errors):
            seen["stopped before our first line"] += 1
        else:
            require_stopped(kind, status, errors)
            seen["stopped"] += 1
            seen["stopped in the middle of a line"] += bool(content) and not content.endswith(b"\n")
            seen["files that were gone on with"] += bool(content)
    duration(*run)
    assert output.read_bytes() == expected
    return seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_the_old_bundle_loads_after_every_stopped_export(pocket_bundle, tmp_path, kind):
    print(kind.name, KILLS, SEED, dict(check_export(pocket_bundle, tmp_path, kind, KILLS, SEED)))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_nbest_loses_and_doubles_no_line(pocket_bundle, tmp_path, kind):
    print(kind.name, KILLS, SEED, dict(check_nbest(pocket_bundle, tmp_path, kind, KILLS, SEED)))


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_nbest_goes_on_after_a_few_stops(pocket_bundle, tmp_path, kind):
    assert check_nbest(pocket_bundle, tmp_path, kind, 3, seed=1, count=30)["stopped"] == 3


def test_an_interrupted_tune_leaves_what_it_recognised(pocket_bundle, tmp_path):
    """`tune` recognises, then tunes; interrupted in between, it goes on with its n-best file."""
    manifest = manifest_of(tmp_path, 30)
    duration(*nbest(pocket_bundle.folder, manifest, tmp_path / "undisturbed.jsonl"))
    options = nbest(pocket_bundle.folder, manifest, tmp_path / "tuned")[2:]
    output = tmp_path / "tuned" / "nbest.jsonl"
    process = start("bench", "tune", *options)
    while process.poll() is None and not (output.exists() and output.read_bytes().count(b"\n") > 2):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, errors
    assert errors.count("\n") == 1, errors
    assert (tmp_path / "undisturbed.jsonl").read_bytes().startswith(output.read_bytes())
    assert not (tmp_path / "tuned" / "tune.json").exists()
    duration("bench", "tune", *options)
    assert output.read_bytes() == (tmp_path / "undisturbed.jsonl").read_bytes()
    assert json.loads((tmp_path / "tuned" / "tune.json").read_text())["num_samples"] == 30


def test_an_interrupted_export_is_one_line(pocket_bundle, tmp_path):
    """While graphs are built, and a bundle of other precisions is there."""
    target = shutil.copytree(pocket_bundle.folder, tmp_path / "pocket")
    process = start(*export(target, "fp32"))
    while process.poll() is None and not (tmp_path / ".pocket.building" / "whisper" / "onnx").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, errors
    assert errors.count("\n") == 1, errors
    assert whole(target).precisions == ("fp32", "int8")
    assert {path.name for path in tmp_path.iterdir()} == {"pocket", ".pocket.lock"}


@pytest.mark.parametrize("number", range(1, 7))
def test_an_interrupt_within_a_decoder_callback_is_raised(number):
    """libsndfile calls back for bytes; what is raised there would be swallowed, and the sound cut short."""
    calls = 0

    class Interrupted(io.BytesIO):
        def readinto(self, buffer):
            nonlocal calls
            calls += 1
            if calls == number:
                raise KeyboardInterrupt
            return super().readinto(buffer)

    content = (POCKET / "data/test/audio/test-0000.ogg").read_bytes()
    with pytest.raises(KeyboardInterrupt), AudioFile(Interrupted(content), "audio") as audio:
        list(audio.blocks())
