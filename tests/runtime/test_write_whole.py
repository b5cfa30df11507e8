"""The one way to write: all of it, or what was there before."""

import errno
import json
import logging
import os
import subprocess
import sys

import pytest

from bench.nbest.file import NBestHeader, NBestUtterance, read_nbest
from bench.nbest.writer import NBestWriter
from runtime.errors import OutputError
from runtime.files import write_whole as module
from runtime.files.write_whole import (
    lock,
    replace_folder,
    write_json,
    write_text,
    write_whole,
    write_whole_folder,
)
from tests.conftest import ROOT


def leftovers(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    place = tmp_path / "new" / "t.txt"
    assert write_text(place, "é") == place
    assert place.read_bytes() == "é".encode()

    def broken():
        with write_whole(place) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert place.read_text() == "é"
    assert leftovers(place.parent) == []


def test_json_has_no_number_that_is_none(tmp_path):
    assert json.loads(write_json(tmp_path / "a.json", {"é": [1.5, None]}).read_text()) == {"é": [1.5, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"é": [1.5, None]}


def test_what_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "file" / "t.txt", "x")
    with (
        pytest.raises(OutputError, match="cannot be written"),
        write_whole(tmp_path / "none" / "t") as beside,
    ):
        beside.write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "folder", "x")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_replaces_another(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(module, "exchange", lambda one, other: False)
    place = tmp_path / "f"
    for content in ("first", "second"):
        with write_whole_folder(place) as beside:
            (beside / "inner").mkdir()
            (beside / "inner" / "t").write_text(content)
        assert (place / "inner" / "t").read_text() == content
        assert leftovers(tmp_path) == []

    def broken():
        with write_whole_folder(place) as beside:
            (beside / "t").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert (place / "inner" / "t").read_text() == "second"
    assert leftovers(tmp_path) == []


def test_a_folder_comes_where_there_was_none(tmp_path):
    (tmp_path / "new").mkdir()
    replace_folder(tmp_path / "new", tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_one_process_at_a_time_has_a_file(tmp_path):
    code = (
        "import sys; from runtime.files.write_whole import lock\n"
        "with open(sys.argv[1], 'r+') as file: print(lock(file, wait=False))"
    )

    def other():
        command = [sys.executable, "-c", code, str(tmp_path / "f")]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()

    with (tmp_path / "f").open("w") as file:
        assert lock(file, wait=True)
        assert other() == "False"
    assert other() == "True"


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_without_locks_it_says_so_and_goes_on(tmp_path, monkeypatch, caplog, number, wait):
    def none(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module.fcntl, "flock", none)
    with (tmp_path / "f").open("w") as file, caplog.at_level(logging.WARNING):
        assert lock(file, wait=wait)
    assert f"{tmp_path / 'f'}: its file system has no locks ({os.strerror(number)})" in caplog.text
    header = NBestHeader({"sha256": "abc"}, {})
    with NBestWriter(tmp_path / "n.jsonl", header) as writer:
        writer.write(NBestUtterance("u", "x"))
    assert [utterance.id for utterance in read_nbest(tmp_path / "n.jsonl").utterances] == ["u"]


def test_a_lock_that_fails_is_an_output_error(tmp_path, monkeypatch):
    def broken(file, operation):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module.fcntl, "flock", broken)
    with (tmp_path / "f").open("w") as file, pytest.raises(OutputError, match=r"f cannot be locked: Input"):
        lock(file, wait=True)
