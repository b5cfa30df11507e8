"""From a manifest to an n-best file, and from that to error rates."""

import json
import shutil
from pathlib import Path

import jiwer
import numpy as np
import pytest

from bench.commands import wer
from bench.commands.main import main as bench_main
from bench.commands.wer import chosen_text
from bench.manifest import read_manifest
from bench.nbest import recognition
from bench.nbest.corpus import write_nbest
from bench.nbest.file import read_nbest
from bench.nbest.records import NBestHypothesis, NBestUtterance
from runtime.clip.cache import save_image_cache
from runtime.errors import ImageCacheError, ManifestError, NBestFileError
from runtime.fusion import to_caption_style
from runtime.fusion_settings import FusionSettings
from runtime.pipeline import MultimodalASR
from tests.conftest import ROOT

TEST_SET = ROOT / "bench" / "pocket" / "data" / "test"
ROWS = [json.loads(line) for line in (TEST_SET / "manifest.jsonl").read_text().splitlines()][:6]


def write_manifest(folder, rows):
    """A manifest whose files are named absolutely, so that it can lie anywhere."""
    path = folder / "manifest.jsonl"
    lines = []
    for row in rows:
        places = {key: str(TEST_SET / row[key]) for key in ("audio", "image") if key in row}
        lines.append(json.dumps({**row, **places}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def nbest(pocket_asr, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nbest")
    utterances = read_manifest(write_manifest(folder, ROWS))
    return write_nbest(pocket_asr, utterances, folder / "nbest.jsonl", progress=False)


def test_the_file_says_what_the_pipeline_says(nbest, pocket_asr):
    assert [utterance.id for utterance in nbest.utterances] == [row["id"] for row in ROWS]
    for utterance, row in zip(nbest.utterances, ROWS, strict=True):
        expected = pocket_asr.generate_nbest(TEST_SET / row["audio"])
        picture = pocket_asr.encode_images([TEST_SET / row["image"]])[0]
        cosines = pocket_asr.clip_similarity(picture, [to_caption_style(h.text) for h in expected])
        assert [h.text for h in utterance.hypotheses] == [h.text for h in expected]
        # JSON keeps every digit of a float64; the cosines are a float32 product summed in another order.
        assert [h.score for h in utterance.hypotheses] == [h.score for h in expected]
        np.testing.assert_allclose([h.clip_score for h in utterance.hypotheses], cosines, atol=1e-6)
        assert [h.num_tokens for h in utterance.hypotheses] == [len(h.tokens) for h in expected]
        for hypothesis in utterance.hypotheses:
            assert hypothesis.asr_sum == pytest.approx(hypothesis.score * hypothesis.num_tokens)
        assert utterance.reference == row["reference"]
        assert (utterance.speaker, utterance.group) == (row["speaker"], row["group"])
        assert utterance.image_id == Path(row["image"]).name
        assert 0.2 < utterance.duration_s < 30


def test_the_header_names_bundle_and_settings(nbest, pocket_asr):
    assert nbest.header.bundle == {"name": "pocket", "sha256": pocket_asr.bundle.digest}
    assert nbest.header.settings["precision"] == "fp32"
    assert nbest.header.settings["num_beams"] == 5
    assert nbest.header.settings["max_new_tokens"] is None
    assert nbest.header.settings["token_limit"] == {"least": 40, "en": 20.0, "other": 80.0}


def test_the_control_picture_is_never_the_own_one(nbest, pocket_asr):
    manifest = write_manifest(nbest.path.parent, ROWS)
    shelf = recognition.PictureShelf(pocket_asr)
    for task in recognition.tasks_of(read_manifest(manifest)):
        assert not np.array_equal(shelf.of(task.utterance), shelf.of(task.control))
    for utterance in nbest.utterances:
        assert all(h.clip_score_shuffled is not None for h in utterance.hypotheses)


def test_utterances_that_share_one_picture_have_no_control(pocket_asr, tmp_path):
    rows = [{**row, "image": ROWS[0]["image"]} for row in ROWS[:2]]
    written = write_nbest(pocket_asr, read_manifest(write_manifest(tmp_path, rows)), tmp_path / "n.jsonl")
    for utterance in written.utterances:
        assert all(h.clip_score is not None for h in utterance.hypotheses)
        assert all(h.clip_score_shuffled is None for h in utterance.hypotheses)


def test_an_interrupted_run_goes_on(nbest, pocket_asr, tmp_path, monkeypatch):
    lines = nbest.path.read_text().splitlines(keepends=True)
    started = tmp_path / "nbest.jsonl"
    started.write_text("".join(lines[:3]) + lines[3][:20])  # killed in the middle of a line
    recognised = []
    original = recognition.recognise
    monkeypatch.setattr(
        recognition,
        "recognise",
        lambda asr, task, shelf: (
            recognised.append(task.utterance.id),
            original(asr, task, shelf),
        )[1],
    )
    finished = write_nbest(pocket_asr, read_manifest(write_manifest(tmp_path, ROWS)), started)
    assert recognised == [row["id"] for row in ROWS[2:]]
    assert finished.utterances == nbest.utterances
    assert started.read_text() == nbest.path.read_text()


def test_a_file_of_other_settings_is_not_continued(nbest, pocket_bundle, tmp_path):
    shutil.copy(nbest.path, tmp_path / "nbest.jsonl")
    other = MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1, num_beams=2)
    utterances = read_manifest(write_manifest(tmp_path, ROWS))
    with pytest.raises(NBestFileError):
        write_nbest(other, utterances, tmp_path / "nbest.jsonl")
    assert (tmp_path / "nbest.jsonl").read_text() == nbest.path.read_text()
    written = write_nbest(other, utterances[:1], tmp_path / "nbest.jsonl", resume=False)
    assert len(written.utterances) == 1


def test_rows_without_a_picture_have_no_cosine(pocket_asr, tmp_path):
    row = {key: value for key, value in ROWS[0].items() if key != "image"}
    written = write_nbest(pocket_asr, read_manifest(write_manifest(tmp_path, [row])), tmp_path / "n.jsonl")
    (utterance,) = written.utterances
    assert not utterance.has_image
    assert utterance.image_id is None
    assert chosen_text(utterance, FusionSettings(1.0)) == utterance.hypotheses[0].text


def test_keys_of_the_cache_give_the_cosines_of_the_files(nbest, pocket_bundle, pocket_asr, tmp_path):
    names = [Path(row["image"]).name for row in ROWS]
    embeddings = pocket_asr.encode_images([TEST_SET / row["image"] for row in ROWS])
    save_image_cache(tmp_path / "cache.npz", dict(zip(names, embeddings, strict=True)))
    rows = [
        {**{key: value for key, value in row.items() if key != "image"}, "image_id": name}
        for row, name in zip(ROWS, names, strict=True)
    ]
    utterances = read_manifest(write_manifest(tmp_path, rows))
    cached = MultimodalASR(
        pocket_bundle,
        precision="fp32",
        providers="cpu",
        threads=1,
        image_cache=tmp_path / "cache.npz",
    )
    written = write_nbest(cached, utterances, tmp_path / "n.jsonl")
    for ours, theirs in zip(written.utterances, nbest.utterances, strict=True):
        assert [h.text for h in ours.hypotheses] == [h.text for h in theirs.hypotheses]
        np.testing.assert_allclose(
            [h.clip_score for h in ours.hypotheses],
            [h.clip_score for h in theirs.hypotheses],
            atol=1e-6,  # pictures encoded together instead of one by one
        )
    with pytest.raises(ImageCacheError, match="line 1 "):
        write_nbest(pocket_asr, utterances, tmp_path / "other.jsonl")


@pytest.mark.parametrize("column", ["audio", "image"])
def test_a_file_that_cannot_be_used_names_its_row(column, pocket_asr, tmp_path):
    (tmp_path / "note.txt").write_text("neither sound nor picture")
    rows = [ROWS[0], {**ROWS[1], column: str(tmp_path / "note.txt")}]
    with pytest.raises(ManifestError, match=rf"line 2 \({ROWS[1]['id']}\)"):
        write_nbest(pocket_asr, read_manifest(write_manifest(tmp_path, rows)), tmp_path / "n.jsonl")


def test_wer_command(nbest, pocket_bundle, tmp_path, capsys):
    manifest = write_manifest(tmp_path, ROWS)
    output = tmp_path / "o"
    options = ["--bundle", str(pocket_bundle.folder), "--data", str(manifest), "--output", str(output)]
    more = ["--precision", "fp32", "--threads", "1", "--alpha", "0.5", "--provider", "cpu"]
    assert bench_main(["wer", *options, *more]) == 0
    report = json.loads((output / "wer.json").read_text())
    assert read_nbest(output / "nbest.jsonl").utterances == nbest.utterances
    references = [row["reference"] for row in ROWS]
    for key, alpha in (("speech_only", 0.0), ("with_picture", 0.5)):
        texts = [chosen_text(utterance, FusionSettings(alpha)) for utterance in nbest.utterances]
        # The notebook strips and lower-cases references; jiwer then counts. The corpus has no punctuation, so
        # that words are the same.
        for rates in (report["notebook"][key], report[key]):
            assert rates["wer"] == pytest.approx(jiwer.wer(references, texts))
            assert rates["cer"] == pytest.approx(jiwer.cer(references, texts))
    assert (report["normalizer"]["name"], report["notebook"]["normalizer"]["name"]) == ("words", "notebook")
    assert report["alpha"] == 0.5
    assert f"{report['with_picture']['wer']:.1%}" in capsys.readouterr().out


@pytest.mark.parametrize("alpha", ["-0.1", "1.5", "nan"])
def test_wer_command_refuses_alpha(alpha, pocket_bundle, tmp_path, capsys):
    options = ["--bundle", str(pocket_bundle.folder), "--data", "nowhere.jsonl", "--output", str(tmp_path)]
    assert bench_main(["wer", *options, f"--alpha={alpha}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_chosen_text_follows_alpha():
    hypotheses = (
        NBestHypothesis("heard", -0.1, clip_score=0.1),
        NBestHypothesis("seen", -0.2, clip_score=0.9),
    )
    utterance = NBestUtterance("u", "seen", hypotheses=hypotheses)
    assert chosen_text(utterance, FusionSettings(0.0)) == "heard"
    assert chosen_text(utterance, FusionSettings(1.0)) == "seen"
    assert chosen_text(NBestUtterance("u", "seen"), FusionSettings(1.0)) == ""
    assert wer.SCHEMA.startswith("earsight.")
