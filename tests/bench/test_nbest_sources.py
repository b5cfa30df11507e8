"""An n-best file is gone on with as far as its rows are still those of the manifest, and no further."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.manifest import read_manifest
from bench.nbest import recognition
from bench.nbest.blocks import PartFolder, blocks_of
from bench.nbest.corpus import write_nbest
from bench.nbest.file import read_nbest
from bench.nbest.recognition import tasks_of
from bench.nbest.records import NBestUtterance
from runtime.clip.cache import save_image_cache
from runtime.errors import NBestFileError
from runtime.pipeline import MultimodalASR
from tests.bench.test_fleet import TEST_SET, manifest_of, nbest
from tests.bench.test_nbest_recognition import ROWS

COUNT = 3


@pytest.fixture
def corpus(tmp_path):
    """A folder with recordings, pictures and a manifest of its own."""
    return copy_of(tmp_path / "corpus", range(COUNT))


def copy_of(folder, places):
    """Copy rows of the test set to files named 0.ogg, 0.webp, 1.ogg, …, which are their ids as well."""
    folder.mkdir()
    rows = []
    for name, place in enumerate(places):
        row = {key: ROWS[place][key] for key in ("reference", "speaker", "group")}
        for column, suffix in (("audio", ".ogg"), ("image", Path(ROWS[place]["image"]).suffix)):
            row[column] = f"{name}{suffix}"
            shutil.copyfile(TEST_SET / ROWS[place][column], folder / row[column])
        rows.append(row)
    return told(folder, rows)


def told(folder, rows):
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


@pytest.fixture
def recognised(monkeypatch):
    """The ids that are recognised, as they are."""
    ids: list[str] = []
    original = recognition.recognise

    def noted(asr, task, shelf):
        ids.append(task.utterance.id)
        return original(asr, task, shelf)

    monkeypatch.setattr(recognition, "recognise", noted)
    return ids


def write(asr, manifest, output, **how):
    return write_nbest(asr, read_manifest(manifest), output, progress=False, **how)


def test_rows_of_the_same_names_in_another_folder_are_recognised(
    corpus, pocket_asr, recognised, tmp_path, caplog
):
    output = tmp_path / "n.jsonl"
    write(pocket_asr, corpus, output)
    other = copy_of(tmp_path / "other", [3, 4, 2])
    recognised.clear()
    with caplog.at_level(logging.WARNING):
        found = write(pocket_asr, other, output)
    assert recognised == ["0.ogg", "1.ogg"]  # the third is the same recording and picture
    assert "2 utterances are recognised again" in caplog.text
    fresh = write(pocket_asr, other, tmp_path / "fresh.jsonl").utterances
    assert found.utterances[:2] == fresh[:2]
    # Its wrong picture, the control, is still one of the other folder.
    assert [h.clip_score for h in found.utterances[2].hypotheses] == [
        h.clip_score for h in fresh[2].hypotheses
    ]
    assert [row["id"] for row in rows_of(output)[1:]] == ["0.ogg", "1.ogg", "2.ogg"]


def test_a_mended_reference_counts_and_costs_nothing(corpus, pocket_asr, recognised, tmp_path):
    output = tmp_path / "n.jsonl"
    before = write(pocket_asr, corpus, output).utterances
    rows = rows_of(corpus)
    rows[1] |= {"reference": "something else", "speaker": "s", "group": "g"}
    recognised.clear()
    found = write(pocket_asr, told(corpus.parent, rows), output)
    assert recognised == []
    assert found.utterances[1] == replace(before[1], reference="something else", speaker="s", group="g")
    assert read_nbest(output).utterances == found.utterances


@pytest.mark.parametrize("column", ["audio", "image"])
def test_a_file_that_was_replaced_is_looked_at_again(column, corpus, pocket_asr, recognised, tmp_path):
    output = tmp_path / "n.jsonl"
    before = write(pocket_asr, corpus, output).utterances
    first, last = (corpus.parent / rows_of(corpus)[place][column] for place in (0, 2))
    shutil.copyfile(last, first)
    recognised.clear()
    found = write(pocket_asr, corpus, output)
    assert recognised == ["0.ogg"]
    assert found.utterances[0] != before[0]
    assert found.utterances[1:] == before[1:]


def test_rows_of_another_manifest_are_not_counted(corpus, pocket_asr, tmp_path, caplog):
    output = tmp_path / "n.jsonl"
    write(pocket_asr, corpus, output)
    fewer = told(corpus.parent, rows_of(corpus)[1:2])
    with caplog.at_level(logging.WARNING):
        assert [each.id for each in write(pocket_asr, fewer, output).utterances] == ["1.ogg"]
    assert "2 utterances are not in the manifest: they stay in it" in caplog.text
    assert len(read_nbest(output).utterances) == COUNT
    write(pocket_asr, fewer, output, drop_others=True)
    assert [each.id for each in read_nbest(output).utterances] == ["1.ogg"]


def test_a_file_without_digests_is_believed_while_it_says_the_same(corpus, pocket_asr, recognised, tmp_path):
    """As versions wrote it that knew none."""
    output = tmp_path / "n.jsonl"
    write(pocket_asr, corpus, output)
    header, *lines = rows_of(output)
    for line in lines:
        del line["source"]
    lines[0]["reference"] = "of other files, or mended since"
    output.write_text("".join(json.dumps(line) + "\n" for line in (header, *lines)))
    recognised.clear()
    write(pocket_asr, corpus, output)
    assert recognised == ["0.ogg"]


def test_another_image_cache_is_refused(corpus, pocket_asr, pocket_bundle, tmp_path):
    rows = [{**row, "image_id": row.pop("image")} for row in rows_of(corpus)]
    manifest, output = told(corpus.parent, rows), tmp_path / "n.jsonl"
    dimension = pocket_asr.encode_texts(["a bear"]).shape[1]
    with_cache = {}
    for name, sign in (("one", 1), ("two", -1)):
        unit = sign * np.eye(dimension, dtype=np.float32)[: len(rows)]
        save_image_cache(
            tmp_path / f"{name}.npz", {row["image_id"]: unit[place] for place, row in enumerate(rows)}
        )
        with_cache[name] = MultimodalASR(
            pocket_bundle,
            precision="fp32",
            providers="cpu",
            threads=1,
            image_cache=tmp_path / f"{name}.npz",
        )
    write(with_cache["one"], manifest, output)
    with pytest.raises(NBestFileError, match="was written with image_cache"):
        write(with_cache["two"], manifest, output)


def test_starting_afresh_takes_nothing_that_workers_left(pocket_bundle, pocket_asr, tmp_path):
    manifest, output = manifest_of(tmp_path, 10), tmp_path / "n.jsonl"
    assert nbest(pocket_bundle, manifest, output, "--workers", "1") == 0
    whole = output.read_bytes()
    parts = PartFolder(output, read_nbest(output).header)
    first = blocks_of(tasks_of(read_manifest(manifest)))[0]
    parts.write(first, [NBestUtterance(task.utterance.id, "left by another run") for task in first.tasks])
    record = tmp_path / "record.json"
    options = ("--workers", "1", "--restart", "--record", str(record))
    assert nbest(pocket_bundle, manifest, output, *options) == 0
    assert output.read_bytes() == whole
    assert json.loads(record.read_text())["utterances"] == 10


def test_the_record_counts_what_the_run_recognised(pocket_bundle, tmp_path):
    output, record = tmp_path / "n.jsonl", tmp_path / "record.json"
    assert nbest(pocket_bundle, manifest_of(tmp_path, 3), output) == 0
    manifest = manifest_of(tmp_path, 5)
    assert nbest(pocket_bundle, manifest, output, "--record", str(record)) == 0
    found, new = json.loads(record.read_text()), read_nbest(output).utterances[3:]
    assert (found["rows"], found["utterances"]) == (5, 2)
    assert found["speech_s"] == pytest.approx(sum(each.duration_s for each in new))
    assert found["audio_bytes"] == sum(row.audio.stat().st_size for row in read_manifest(manifest)[3:])


def test_a_manifest_is_not_overwritten(pocket_bundle, tmp_path, capsys):
    manifest = manifest_of(tmp_path, 2)
    before = manifest.read_bytes()
    assert nbest(pocket_bundle, manifest, manifest, "--restart") == 2
    assert "is no n-best file and is not overwritten" in capsys.readouterr().err
    assert manifest.read_bytes() == before
