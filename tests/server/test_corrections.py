"""`/v1/corrections` over HTTP: what is kept, what is refused, and that nobody reads it in a log."""

import asyncio
import errno
import json
import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path

import httpx
import pytest

from bench.manifest import read_manifest
from runtime.commands.main import main
from runtime.errors import OutputError
from runtime.pipeline import MultimodalASR
from runtime.server import corrections as endpoints
from runtime.server.access import Access
from runtime.server.app import create_app
from runtime.server.correction_store import DAY_S, Correction, CorrectionStore, SentFile, read_rows
from runtime.server.limits import Limits
from runtime.server.openapi import document
from runtime.server.service import Service
from tests.conftest import POCKET, ROOT

DATA = POCKET / "data" / "test"
SHOWN = [
    {"id": 0, "text": "a red tree", "display": "A red tree.", "mean_logprob": -0.5, "num_tokens": 4,
     "asr_score": None, "clip_score": 0.25, "rank_without_picture": 1, "diff": []},
    {"id": 1, "text": "a red three", "display": "", "mean_logprob": -0.25, "rank_without_picture": 0},
]  # fmt: skip
TYPED = {"speaker": "ann", "how": "typed", "reference": "a red thread", "shown": "[]", "consent": "true"}


@pytest.fixture
def row():
    return read_manifest(DATA / "manifest.jsonl")[0]


@pytest.fixture
def store(tmp_path):
    return CorrectionStore(tmp_path / "corrections", 30)


def client(asr: MultimodalASR, store: CorrectionStore | None) -> httpx.AsyncClient:
    """A client of the application itself; its engine is not started, because no correction needs it."""
    app = create_app(Service(asr, Limits(), Access(), corrections=store))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


def ask(asr, store, method, path, **request):
    async def once():
        async with client(asr, store) as session:
            return await session.request(method, path, **request)

    return asyncio.run(once())


def post(asr, store, fields, **files):
    return ask(asr, store, "POST", "/v1/corrections", data=fields, files=files)


def test_it_is_off_unless_told_where(pocket_asr, row):
    assert ask(pocket_asr, None, "GET", "/v1/corrections").json() == {
        "enabled": False,
        "retention_days": None,
    }
    for answer in (
        post(pocket_asr, None, TYPED, file=row.audio.read_bytes()),
        ask(pocket_asr, None, "DELETE", "/v1/corrections/speakers/ann"),
    ):
        assert answer.status_code == 404
        assert "--corrections DIR" in answer.json()["error"]["message"]


def test_what_is_sent_is_kept_for_bench_tune(pocket_asr, store, row):
    assert ask(pocket_asr, store, "GET", "/v1/corrections").json() == {"enabled": True, "retention_days": 30}
    fields = {
        **TYPED, "how": "picked", "reference": "a red three", "shown": json.dumps(SHOWN), "rank": 1,
        "taps": 2, "seconds": 3.5,
    }  # fmt: skip
    audio, picture = row.audio.read_bytes(), row.image.read_bytes()
    files = {"file": ("clip.ogg", audio), "image": ("p.png", picture)}
    answer = post(pocket_asr, store, fields, **files)
    assert answer.status_code == 201, answer.text
    (kept,) = read_rows(store.folder / "manifest.jsonl")
    assert answer.json() == {"id": kept["id"], "object": "correction", "new": True}
    (read,) = read_manifest(store.folder / "manifest.jsonl")
    assert (read.audio.suffix, read.audio.read_bytes(), read.image.read_bytes()) == (".ogg", audio, picture)
    assert (read.id, read.reference, read.speaker, read.group) == (kept["id"], "a red three", "ann", "picked")
    assert (kept["rank"], kept["taps"], kept["seconds"]) == (1, 2, 3.5)
    assert kept["shown"][0] == {k: v for k, v in SHOWN[0].items() if k not in ("asr_score", "diff")}
    assert kept["bundle"] == {"name": pocket_asr.bundle.name, "sha256": pocket_asr.bundle.digest}

    del fields["rank"]
    again = post(pocket_asr, store, {**fields, "how": "none", "reference": ""}, **files)
    assert (again.status_code, again.json()["new"]) == (200, False)
    assert read_rows(store.folder / "manifest.jsonl") == []
    assert len(read_rows(store.folder / "rejected.jsonl")) == 1
    forgotten = ask(pocket_asr, store, "DELETE", "/v1/corrections/speakers/ann")
    assert forgotten.json() == {"object": "speaker", "speaker": "ann", "deleted": 1}
    assert [path.name for path in store.folder.rglob("*/*")] == []


def test_pictures_by_name(pocket_asr, pocket_bundle, store, row):
    picture, audio = row.image.read_bytes(), row.audio.read_bytes()
    cached = MultimodalASR(
        pocket_bundle, precision="fp32", providers="cpu", threads=1,
        image_cache={"tree.png": pocket_asr.encode_images([row.image])[0]},
    )  # fmt: skip
    assert post(cached, store, {**TYPED, "image_id": "tree.png"}, file=audio).status_code == 201
    (kept,) = read_rows(store.folder / "manifest.jsonl")
    assert kept["image_id"] == "tree.png"
    assert "image" not in kept

    answer = post(pocket_asr, store, {**TYPED, "image_id": "tree.png"}, file=audio)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "picture_not_found"
    assert "send it as image" in answer.json()["error"]["message"]
    # By the id that /v1/pictures tells, once its file came with a correction.
    assert post(pocket_asr, store, {**TYPED, "speaker": "bob"}, file=audio, image=picture).status_code == 201
    name = Path(read_rows(store.folder / "manifest.jsonl")[1]["image"]).stem
    assert post(pocket_asr, store, {**TYPED, "image_id": name}, file=audio).status_code == 200
    assert read_rows(store.folder / "manifest.jsonl")[1]["image"].endswith(name)


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"consent": "false"}, "consent", "nothing is kept without it"),
        ({"consent": None}, "consent", "consent is missing"),
        ({"how": "guessed"}, "how", "expected one of confirmed, picked, typed, none"),
        ({"reference": " "}, None, "reference is empty"),
        ({"speaker": "Ann Smith"}, None, "pseudonym"),
        ({"speaker": None}, "speaker", "speaker is missing"),
        ({"rank": "-1"}, "rank", "from 0 to"),
        ({"rank": "1"}, None, "expected no rank"),
        ({"how": "picked", "rank": "1"}, None, "0 that were shown"),
        ({"shown": "{"}, "shown", "no JSON"),
        ({"shown": "{}"}, "shown", "no list"),
        ({"shown": json.dumps(SHOWN * 6)}, "shown", "at most 10"),
        ({"shown": '["a red tree"]'}, "shown", "no list"),
        ({"shown": '[{"text": "x"}]'}, "mean_logprob", "missing"),
        ({"shown": '[{"text": "x", "mean_logprob": NaN}]'}, "mean_logprob", "expected a number"),
        ({"shown": r'[{"text": "\ud800", "mean_logprob": 0}]'}, "shown", "surrogate"),
        ({"shown": '[{"text": "x", "mean_logprob": 0, "other": 1}]'}, "other", "no field"),
        ({"seconds": "inf"}, "seconds", "expected a number"),
        ({"image_id": "p", "image": b"x"}, "image_id", "expected one of them"),
        ({"name": "Ann"}, "name", "no field of this request"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_kept(pocket_asr, store, row, changes, param, message):
    fields = {name: value for name, value in (TYPED | changes).items() if value is not None}
    files = {"file": row.audio.read_bytes(), **({"image": fields.pop("image")} if "image" in fields else {})}
    answer = post(pocket_asr, store, fields, **files)
    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]["message"]
    assert answer.json()["error"]["param"] == param
    assert [path.name for path in store.folder.rglob("*/*")] == []


def test_files_that_no_run_could_read_are_refused(pocket_asr, store, row):
    audio = row.audio.read_bytes()
    for status, param, files in (
        (415, "file", {"file": b"no recording"}),
        (415, "image", {"file": audio, "image": b"no picture"}),
        (400, "file", {}),
    ):
        answer = post(pocket_asr, store, {**TYPED, "taps": 1}, **(files or {"image": audio}))
        assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
    assert [path.name for path in store.folder.rglob("*/*")] == []


def test_a_full_disk_is_told_without_a_path_and_nothing_is_in_the_log(
    pocket_asr, store, row, monkeypatch, caplog
):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    caplog.set_level(logging.INFO, logger="runtime")
    monkeypatch.setattr(Path, "write_bytes", full)
    answer = post(pocket_asr, store, TYPED, file=("secret name.ogg", row.audio.read_bytes()))
    monkeypatch.undo()
    assert answer.status_code == 507
    assert answer.json()["error"]["message"] == "nothing was kept: No space left on device"
    assert "No space left" in caplog.text
    (store.folder / "manifest.jsonl").write_text('{"reference": "a red thread"}\n')
    answer = ask(pocket_asr, store, "DELETE", "/v1/corrections/speakers/secret-speaker")
    assert answer.status_code == 500
    assert "damaged" in answer.json()["error"]["message"]
    (store.folder / "manifest.jsonl").unlink()
    assert post(pocket_asr, store, TYPED, file=row.audio.read_bytes()).status_code == 201
    ours = [record for record in caplog.records if record.name.startswith("runtime")]
    logged = "".join(str(record.__dict__) for record in ours)
    assert len(ours) >= 5
    assert not any(word in logged for word in ("a red thread", "secret name", "secret-speaker"))


LONG = {"text": "x" * 200, "mean_logprob": -1.0}
CONFIRMED = Correction("ann", "confirmed", LONG["text"], (LONG,), 0)
REJECTED = Correction("ann", "none", "", (LONG,))


@pytest.mark.parametrize("earlier", [CONFIRMED, REJECTED])
@pytest.mark.parametrize("failing", range(3))
def test_the_disk_is_full_when_a_correction_is_changed(tmp_path, monkeypatch, earlier, failing):
    """The n-th of the picture and the two manifests cannot be written: the earlier correction stands."""
    store = CorrectionStore(tmp_path / "c")
    recording, picture = SentFile(b"audio", "a.wav"), SentFile(b"picture", "p.png")
    first, _ = store.add(earlier, recording)
    store.add(Correction("bob", "typed", "another"), recording)
    write, left = Path.write_bytes, [failing]

    def full(path, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    def rows():
        return [read_rows(store.folder / name) for name in ("manifest.jsonl", "rejected.jsonl")]

    before = rows()
    later = REJECTED if earlier is CONFIRMED else CONFIRMED
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left"):
        store.add(later, recording, picture)
    monkeypatch.undo()
    assert rows() == before
    assert list((store.folder / "images").iterdir()) == []
    second, is_new = store.add(later, recording, picture)
    assert not is_new
    kept = [row["id"] for found in rows() for row in found if row["speaker"] == "ann"]
    assert kept == [second] != [first]


def test_a_later_correction_counts_although_the_clock_went_back(tmp_path):
    clock = [1000.0]
    store = CorrectionStore(tmp_path / "c", now=lambda: clock[0])
    store.add(CONFIRMED, SentFile(b"audio"))
    clock[0] = 10.0
    key, is_new = store.add(Correction("ann", "typed", "said"), SentFile(b"audio"))
    assert [row["id"] for row in read_rows(store.folder / "manifest.jsonl")] == [key]
    assert not is_new


def open_to_others(folder: Path) -> list[str]:
    return [str(path) for path in (folder, *folder.rglob("*")) if path.stat().st_mode & 0o077]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_nobody_else_reads_the_folder(tmp_path, caplog, monkeypatch):
    folder = tmp_path / "c"
    folder.mkdir(mode=0o755)
    store = CorrectionStore(folder)
    assert "others could read it; it is now closed" in caplog.text
    store.add(CONFIRMED, SentFile(b"audio"), SentFile(b"picture"))
    store.add(REJECTED, SentFile(b"more"))
    assert open_to_others(folder) == []
    caplog.clear()
    CorrectionStore(folder)
    assert caplog.text == ""

    # As an earlier version left its files, which nobody could reach.
    (folder / "manifest.jsonl").chmod(0o644)
    CorrectionStore(folder)
    assert (open_to_others(folder), caplog.text) == ([], "")

    folder.chmod(0o750)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)  # a file system without modes
    CorrectionStore(folder)
    assert "others can read 1 of its files and folders" in caplog.text


def test_old_ones_go_every_day(pocket_asr, tmp_path, monkeypatch):
    clock = [0.0]
    store = CorrectionStore(tmp_path / "c", 1, now=lambda: clock[0])
    store.add(Correction("ann", "typed", "x"), SentFile(b"audio"))
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        clock[0] += seconds + 1.0
        if len(slept) > 2:
            raise asyncio.CancelledError
        if len(slept) == 1:
            (store.folder / "manifest.jsonl").rename(tmp_path / "kept")
            (store.folder / "manifest.jsonl").write_text("damaged")
        else:
            (tmp_path / "kept").rename(store.folder / "manifest.jsonl")

    monkeypatch.setattr(endpoints.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(endpoints.sweep_daily(store))
    assert slept == [DAY_S] * 3  # a day on which it fails is not the last
    assert read_rows(store.folder / "manifest.jsonl") == []
    assert list((store.folder / "audio").iterdir()) == []


def test_options_of_serve(pocket_bundle, tmp_path, capsys):
    bundle = str(pocket_bundle.folder)
    assert main(["serve", "--bundle", bundle, "--retention-days", "3"]) != 0
    assert "--corrections DIR" in capsys.readouterr().err
    folder = str(tmp_path / "c")
    assert main(["serve", "--bundle", bundle, "--corrections", folder, "--retention-days", "0"]) != 0
    assert "at least 1" in capsys.readouterr().err


def test_the_document_names_every_field():
    paths = document("0", with_tokens=True)["paths"]
    form = paths["/v1/corrections"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    named = {"file", "image", "image_id", "reference", "speaker", "how", "rank", "shown", "seconds", "taps"}
    assert set(form["properties"]) == {*named, "consent"}
    assert set(form["required"]) == {"file", "speaker", "how", "shown", "consent"}
    assert {"201", "200", "404", "507"} <= set(paths["/v1/corrections"]["post"]["responses"])
    assert "delete" in paths["/v1/corrections/speakers/{speaker}"]


def test_sessions_through_a_running_server(pocket_bundle, tmp_path):
    """The lists of real answers are taken as they are, and what a person does with them is kept."""
    folder = tmp_path / "corrections"
    command = [
        "--bundle", str(pocket_bundle.folder), "--data", str(DATA / "manifest.jsonl"),
        "--normalizer", "words", "--sessions", "4", "--pictures", "3",
        "--corrections", str(folder), "--threads", "1",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.tools.simulated_sessions", *command],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts.pop("sessions") == 4
    assert counts.pop("utterances") == 12
    rows = read_rows(folder / "manifest.jsonl") + read_rows(folder / "rejected.jsonl")
    assert Counter(row["group"] for row in rows) == counts
    assert len({row["speaker"] for row in rows}) == 4
    references = {row.reference for row in read_manifest(DATA / "manifest.jsonl")}
    assert all(row["reference"] in references for row in rows if row["group"] == "typed")
    assert all(isinstance(each["clip_score"], float) for row in rows for each in row["shown"])
