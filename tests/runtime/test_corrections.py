"""Corrections on the disk: what was acknowledged is there, whole, whatever happens to whoever wrote it."""

import errno
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.manifest import read_manifest
from runtime.errors import OutputError, SettingsError
from runtime.server import correction_store as module
from runtime.server.correction_store import DAY_S, Correction, CorrectionStore, SentFile, read_rows
from tests.conftest import ROOT
from tests.tools.correction_writer import run_killed, utterance

SHOWN = ({"text": "a red tree", "display": "A red tree."}, {"text": "a red three", "display": "A red three."})
AUDIO = SentFile(b"one", "clip.WAV")
PICTURE = SentFile(b"picture", "../p.png")


def manifest(folder):
    return read_rows(folder / "manifest.jsonl")


def rejected(folder):
    return read_rows(folder / "rejected.jsonl")


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def writer(folder, speaker, count):
    command = [sys.executable, "-m", "tests.tools.correction_writer", str(folder), speaker, str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def require_sound(folder, acknowledged):
    """Every row is whole with its files, and of what was acknowledged none is missing."""
    rows = manifest(folder)
    assert {row["id"] for row in rows} >= set(acknowledged)
    for row in rows:
        speaker, number = row["speaker"], int(row["reference"].split()[1])
        correction, audio, picture = utterance(speaker, number)
        assert row["reference"] == correction.reference
        assert (folder / row["audio"]).read_bytes() == audio.content
        assert (folder / row["image"]).read_bytes() == picture.content
    if rows:
        assert len(read_manifest(folder / "manifest.jsonl")) == len(rows)


def require_nothing_left_over(folder):
    CorrectionStore(folder)
    named = {row[column] for row in manifest(folder) for column in ("audio", "image")}
    assert set(files(folder)) - {".lock", "manifest.jsonl"} == named


def test_a_row_is_what_bench_tune_reads(tmp_path):
    store = CorrectionStore(tmp_path / "c", now=lambda: 0.0)
    bundle = {"name": "b", "sha256": "0"}
    picked = Correction("ann", "picked", "A red three.", SHOWN, 1, seconds=2.5, taps=1, bundle=bundle)
    key, is_new = store.add(picked, AUDIO, PICTURE)
    assert is_new
    (row,) = manifest(store.folder)
    assert row == {
        "id": key,
        "audio": f"audio/{module.hashlib.sha256(b'one').hexdigest()}.wav",
        "image": f"images/{module.hashlib.sha256(b'picture').hexdigest()}.png",
        "reference": "A red three.",
        "speaker": "ann",
        "group": "picked",
        "rank": 1,
        "seconds": 2.5,
        "taps": 1,
        "shown": [dict(each) for each in SHOWN],
        "bundle": bundle,
        "consent": True,
        "time": "1970-01-01T00:00:00.000000+00:00",
    }
    (read,) = read_manifest(store.folder / "manifest.jsonl")
    assert (read.id, read.speaker, read.group, read.reference) == (key, "ann", "picked", "A red three.")
    assert read.audio.read_bytes() == b"one"
    assert read.image is not None
    assert read.image.read_bytes() == b"picture"
    assert store.folder.stat().st_mode & 0o077 == 0


def test_what_has_no_reference_stays_out_of_the_manifest(tmp_path):
    store = CorrectionStore(tmp_path)
    store.add(Correction("ann", "none", "", SHOWN), AUDIO, PICTURE)
    assert manifest(tmp_path) == []
    (row,) = rejected(tmp_path)
    assert "reference" not in row
    assert row["group"] == "none"


def test_the_last_word_about_a_recording_counts(tmp_path):
    store = CorrectionStore(tmp_path, now=iter(range(100)).__next__)
    confirmed, picked = (
        Correction("ann", how, SHOWN[r]["text"], SHOWN, r) for r, how in enumerate(("confirmed", "picked"))
    )
    none, typed = Correction("ann", "none", "", SHOWN), Correction("ann", "typed", "a red thread", SHOWN)
    assert store.add(Correction("bob", "typed", "the same recording"), AUDIO)[1]
    assert store.add(confirmed, AUDIO)[1]
    for correction in (confirmed, picked, none, typed, none, confirmed):
        # The suffix of a name does not make it another recording.
        assert not store.add(correction, AUDIO._replace(name="other.mp3"))[1]
        place, other = (rejected, manifest) if correction.how == "none" else (manifest, rejected)
        (row,) = (row for row in place(tmp_path) if row["speaker"] == "ann")
        assert (row["group"], row.get("reference", "")) == (correction.how, correction.reference)
        assert not any(row["speaker"] == "ann" for row in other(tmp_path))
    assert [row["speaker"] for row in manifest(tmp_path)].count("bob") == 1


def test_a_speaker_is_forgotten_with_all_files_that_nobody_else_needs(tmp_path):
    store = CorrectionStore(tmp_path)
    for number, speaker in enumerate(("ann", "bob", "ann")):
        store.add(Correction(speaker, "typed", "x"), SentFile(b"%d" % number), PICTURE)
    store.add(Correction("ann", "none", ""), SentFile(b"none"), SentFile(b"hers alone"))
    assert store.forget("nobody") == 0
    assert store.forget("ann") == 3
    (row,) = manifest(tmp_path)
    assert row["speaker"] == "bob"
    assert rejected(tmp_path) == []
    assert files(tmp_path) == sorted(
        [".lock", "manifest.jsonl", "rejected.jsonl", row["audio"], row["image"]]
    )


def test_what_is_too_old_goes_at_the_start_and_with_a_sweep(tmp_path):
    clock = [0.0]
    store = CorrectionStore(tmp_path, 2, now=lambda: clock[0])
    for day in range(4):
        clock[0] = day * DAY_S
        store.add(Correction("ann", "typed", f"day {day}"), SentFile(b"%d" % day))
    assert store.sweep() == 1
    assert [row["reference"] for row in manifest(tmp_path)] == ["day 1", "day 2", "day 3"]
    clock[0] = 4.5 * DAY_S
    CorrectionStore(tmp_path, 2, now=lambda: clock[0])
    assert [row["reference"] for row in manifest(tmp_path)] == ["day 3"]
    assert len(list((tmp_path / "audio").iterdir())) == 1


def test_a_picture_that_is_kept_can_be_named(tmp_path):
    store = CorrectionStore(tmp_path)
    name = module.hashlib.sha256(PICTURE.content).hexdigest()
    assert store.picture(name) is None
    store.add(Correction("ann", "typed", "x"), AUDIO, PICTURE)
    assert store.picture(name) == SentFile(PICTURE.content, f"{name}.png")
    assert store.picture("*") is None
    assert store.picture("../manifest.jsonl") is None


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"speaker": "Ann Smith"}, "pseudonym"),
        ({"speaker": "../ann"}, "pseudonym"),
        ({"how": "guessed"}, "expected confirmed, picked, typed, none"),
        ({"how": "none"}, "there is a reference"),
        ({"how": "typed", "rank": None, "reference": " "}, "reference is empty"),
        ({"how": "typed", "rank": 1}, "expected no rank"),
        ({"rank": None}, "rank is None"),
        ({"rank": 2}, "rank is 2"),
        ({"how": "confirmed"}, "expected 0, or picked"),
        ({"reference": "a red tree"}, "not the text at rank 1"),
    ],
)
def test_a_correction_that_contradicts_itself_is_refused(changes, match):
    fields = {"speaker": "ann", "how": "picked", "reference": "A red three.", "shown": SHOWN, "rank": 1}
    Correction(**fields)
    with pytest.raises(SettingsError, match=match):
        Correction(**(fields | changes))


def test_folders_and_rows_of_others_are_refused_and_left_alone(tmp_path):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "mine.wav").write_bytes(b"mine")
    with pytest.raises(SettingsError, match="holds other things"):
        CorrectionStore(tmp_path)
    assert files(tmp_path) == ["audio/mine.wav"]
    store = CorrectionStore(tmp_path / "c")
    store.add(Correction("ann", "typed", "secret"), AUDIO)
    before = (store.folder / "manifest.jsonl").read_bytes()
    for line in (b"{", b"[]", b'{"id": "1"}', before.replace(b'"typed"', b"7"), b"\xff"):
        (store.folder / "manifest.jsonl").write_bytes(before + line)
        with pytest.raises(SettingsError, match=r"manifest\.jsonl.*no (file of )?correction") as refused:
            CorrectionStore(store.folder)
        assert "secret" not in str(refused.value)
        assert len(files(store.folder)) == 3
    with pytest.raises(SettingsError, match="at least 1"):
        CorrectionStore(tmp_path / "c", 0)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        CorrectionStore(tmp_path / "file")


def test_two_processes_write_at_a_time(tmp_path):
    writers = [writer(tmp_path, speaker, 25) for speaker in ("ann", "bob")]
    store = CorrectionStore(tmp_path)
    seen = 0
    while any(each.poll() is None for each in writers):
        store.sweep()  # removes only what nobody is about to name
        rows = manifest(tmp_path)
        assert len(rows) >= seen  # a reader sees whole files alone
        seen = len(rows)
    acknowledged = [key for each in writers for key in each.communicate()[0].split()]
    assert [each.returncode for each in writers] == [0, 0]
    assert len(acknowledged) == len(manifest(tmp_path)) == 50
    require_sound(tmp_path, acknowledged)
    require_nothing_left_over(tmp_path)


def test_killed_at_any_step_nothing_is_half_and_nothing_lost(tmp_path):
    step, survived = 0, False
    while not survived:
        folder = tmp_path / str(step)
        acknowledged, survived = run_killed(folder, "ann", 2, step)
        require_sound(folder, acknowledged)
        # Whoever comes next goes on, and what was not acknowledged can be sent again.
        store = CorrectionStore(folder)
        keys = [store.add(*utterance("ann", number))[0] for number in range(3)]
        assert [row["id"] for row in manifest(folder)] == keys
        require_sound(folder, keys)
        require_nothing_left_over(folder)
        step += 1
    # Three files of the first utterance and two of the second: begun, half, synced, renamed, name synced.
    assert step > 5 * 5


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_any_moment_beside_another_writer(tmp_path, seed):
    other, killed = writer(tmp_path, "bob", 15), writer(tmp_path, "ann", 10_000)
    acknowledged = [killed.stdout.readline().strip()]
    time.sleep(random.Random(seed).uniform(0.0, 0.2))
    killed.kill()
    rest, kept = killed.communicate()[0], other.communicate()[0].split()
    acknowledged += [line for line in rest.splitlines() if len(line) == 32]
    assert killed.returncode == -signal.SIGKILL
    assert other.returncode == 0
    require_sound(tmp_path, [*acknowledged, *kept])
    assert len(kept) == 15
    require_nothing_left_over(tmp_path)


def test_a_disk_that_is_full_at_any_write(tmp_path, monkeypatch):
    """The n-th file is written half and fails: the utterance is not kept, the others are."""
    write = Path.write_bytes
    for failing in range(3):
        folder = tmp_path / str(failing)
        store = CorrectionStore(folder)
        key, _ = store.add(*utterance("ann", 0))
        left = [failing]

        def full(path, content, left=left):
            left[0] -= 1
            if left[0] < 0:
                write(path, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(path, content)

        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="No space left"):
            store.add(*utterance("bob", 4))
        monkeypatch.undo()
        assert [row["id"] for row in manifest(folder)] == [key]
        assert len(files(folder)) == 4
        store.add(*utterance("bob", 4))
        require_sound(folder, [key])
        require_nothing_left_over(folder)


def test_a_disk_that_is_really_full(tmp_path):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(tmp_path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        store = CorrectionStore(tmp_path / "c")
        kept: list[str] = []
        with pytest.raises(OutputError, match="No space left"):
            kept.extend(store.add(*utterance("ann", number))[0] for number in range(1000))
        assert len(kept) > 3
        for number in range(50, 60):
            with pytest.raises(OutputError, match="No space left"):
                store.add(*utterance("ann", number))
        assert [row["id"] for row in manifest(store.folder)] == kept
        require_sound(store.folder, kept)
        require_nothing_left_over(store.folder)
        assert store.forget("ann") == len(kept)
        assert store.add(*utterance("ann", 1))[1]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_new_recording_makes_nobody_read_the_old_rows(tmp_path, monkeypatch):
    """With many rows that takes seconds; it is for recordings that were corrected before."""
    store = CorrectionStore(tmp_path)
    store.add(*utterance("ann", 0))
    read = []

    def reading(path):
        read.append(path.name)
        return read_rows(path)

    monkeypatch.setattr(module, "read_rows", reading)
    assert store.add(*utterance("ann", 1))[1]
    assert read == []
    assert not store.add(*utterance("ann", 0))[1]
    assert read == ["manifest.jsonl", "rejected.jsonl"]
    assert len(manifest(tmp_path)) == 2
