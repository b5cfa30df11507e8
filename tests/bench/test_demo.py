"""The demo: real weights where the package is there, loudly the pocket models where not, no third way."""

import hashlib
import json
from functools import partial

import pytest

import export.bundle_writer
from bench.commands import demo
from bench.commands.main import main
from bench.latency.bundle import BundleSettings
from bench.manifest import read_manifest
from bench.nbest import human_clips
from bench.nbest.corpus import write_nbest
from bench.nbest.human_clips import attribution, hear
from bench.text.normalizers import normalizer
from bench.tuning import tune
from bench.tuning.options import TuneOptions
from export.sources import packages as packaged_models
from export.sources.packages import PackagedModel
from runtime.errors import ManifestError, OutputError, WeightsUnavailableError
from runtime.pipeline import MultimodalASR
from tests.conftest import POCKET, weights_installed

HUMAN_CLIPS = 10


@pytest.fixture
def small(monkeypatch):
    """Few utterances, and each measured once."""
    monkeypatch.setattr(demo, "read_manifest", lambda path: read_manifest(path)[:6])
    monkeypatch.setattr(human_clips, "read_manifest", lambda path: read_manifest(path)[6:9])
    monkeypatch.setattr(demo, "LATENCY_UTTERANCES", 2)
    monkeypatch.setattr(demo, "BundleSettings", partial(BundleSettings, warm_up=0, cold_runs=0, threads=1))


@pytest.fixture
def exported(pocket_bundle, monkeypatch):
    """The pocket bundle in place of every export; what was asked for."""
    asked = []

    def write(request):
        asked.append(request)
        return pocket_bundle, False

    monkeypatch.setattr(export.bundle_writer, "write_bundle", write)
    return asked


def package(folder, monkeypatch, model, sha256):
    """A package that holds some weights, in place of the one with Whisper's."""
    (folder / "weights").mkdir(parents=True)
    for name in packaged_models.SETTINGS:
        (folder / "weights" / name).write_text(name)
    (folder / "weights" / "model.bin").write_bytes(model)
    info = folder / "weights-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: weights\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(folder))
    found = PackagedModel("tiny.en", (("weights", "weights/model.bin"),), sha256)
    monkeypatch.setattr(demo, "known_model", lambda name: {"tiny.en": found}[name])


def written(folder):
    reports = [json.loads((folder / name).read_text()) for name in ("tune.json", "latency.json")]
    return *reports, (folder / "index.html").read_text()


def test_with_the_weights_the_described_corpus_is_recognised(
    small, exported, monkeypatch, tmp_path, capsys, pocket_bundle
):
    package(tmp_path / "site", monkeypatch, b"weights", hashlib.sha256(b"weights").hexdigest())
    assert main(["demo", "--models", str(tmp_path / "models"), "--output", str(tmp_path / "out")]) == 0
    (request,) = exported
    assert request.output == tmp_path / "models" / "demo"
    assert request.clip.name == str(POCKET / "models" / "clip_described")
    out, err = capsys.readouterr()
    assert "FALLBACK" not in out + err
    assert out.count("recogniser: real: tiny.en: OpenAI's Whisper tiny.en") == 2
    assert "from weights 1.0" in out
    assert "corpus: bench/pocket/described" in out
    assert "3 clips of people reading, without pictures: WER " in out
    assert "lj002-0020 (LJ Speech, public domain), 2 words" in out
    tuned, latency, page = written(tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "test.jsonl").read_text().splitlines()[1:]]
    described = read_manifest(POCKET / "described" / "test" / "manifest.jsonl")[:6]
    assert [row["reference"] for row in rows] == [utterance.reference for utterance in described]
    assert tuned["normalizer"]["name"] == "english"
    assert latency["settings"]["max_new_tokens"] == demo.MOST_TOKENS
    for report in (tuned, latency):
        assert report["demo"]["fallback"] is None
        assert report["demo"]["recogniser"].startswith("real: ")
        assert report["demo"]["corpus"].startswith("bench/pocket/described")
        assert report["demo"]["bundle"]["sha256"] == pocket_bundle.digest
    clips = tuned["demo"]["human_clips"]
    assert clips["utterances"] == 3
    assert (clips["normalizer"], clips["wer"] > 0, clips["words_wer"] > 0) == ("english", True, True)
    assert "LibriSpeech" in clips["attribution"]
    assert 'class="fallback"' not in page
    assert "People reading" in page
    assert "CC BY 4.0" in page


@pytest.mark.parametrize("fault", ["not installed", "other weights"])
def test_without_the_weights_the_pocket_models_are_named_as_such(
    fault, small, exported, monkeypatch, tmp_path, capsys
):
    if fault == "not installed":
        missing = PackagedModel("tiny.en", (("earsight-nowhere", "a/model.bin"),), "")
        monkeypatch.setattr(demo, "known_model", lambda name: missing)
        why = "the package earsight-nowhere, which holds Whisper's weights, is not installed"
    else:
        package(tmp_path / "site", monkeypatch, b"weights", "0" * 64)
        why = "these are not the weights of Whisper tiny.en"
    assert main(["demo", "--models", str(tmp_path / "models"), "--output", str(tmp_path / "out")]) == 0
    (request,) = exported
    assert request.output == tmp_path / "models" / "pocket"
    assert request.whisper.name == str(POCKET / "models" / "whisper")
    assert request.clip.name == str(POCKET / "models" / "clip")
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == demo.RULE
    assert err.splitlines()[1].startswith("FALLBACK: Whisper tiny.en's weights are not to be had")
    assert why in err
    assert len([line for line in out.splitlines() if line.startswith("FALLBACK, because")]) == 2
    assert out.count("corpus: bench/pocket/data") == 2
    assert "The clips of people are left out: the pocket Whisper knows no speech" in out
    tuned, latency, page = written(tmp_path / "out")
    assert tuned["normalizer"]["name"] == "words"
    assert tuned["demo"]["human_clips"] is None
    for report in (tuned, latency):
        assert why in report["demo"]["fallback"]
        assert report["demo"]["recogniser"].startswith("FALLBACK")
        assert report["demo"]["corpus"].startswith("bench/pocket/data")
    assert [row["batch"] for row in latency["throughput"]] == [1, 2]
    assert '<div class="fallback" role="alert">' in page
    assert page.index('class="fallback" role') < page.index("<h1>")
    assert "left out: the pocket Whisper" in page
    assert "CC BY" not in page


def test_no_other_fault_leads_to_the_pocket_models(monkeypatch, tmp_path, capsys):
    package(tmp_path / "site", monkeypatch, b"weights", hashlib.sha256(b"weights").hexdigest())

    def full(request):
        raise OutputError("models/demo cannot be written: no space left")

    monkeypatch.setattr(export.bundle_writer, "write_bundle", full)
    assert main(["demo", "--models", str(tmp_path / "models"), "--output", str(tmp_path / "out")]) == 2
    _, err = capsys.readouterr()
    assert err == "python -m bench demo: models/demo cannot be written: no space left\n"
    assert not (tmp_path / "out").exists()


def test_the_clips_are_not_shown_without_their_notice(monkeypatch, tmp_path):
    assert attribution().startswith("Recordings of human speech, clips of public corpora")
    monkeypatch.setattr(human_clips, "NOTICE", tmp_path / "NOTICE")
    with pytest.raises(ManifestError, match="no entry for human"):
        attribution()


def test_numbers_are_the_only_words_of_the_references_that_the_scoring_changes():
    changed = set()
    for split in ("dev", "test"):
        for utterance in read_manifest(POCKET / "described" / split / "manifest.jsonl"):
            scored = normalizer("english").apply(utterance.reference).split()
            changed |= set(zip(utterance.reference.split(), scored, strict=True))
    assert {pair for pair in changed if pair[0] != pair[1]} == {("two", "2"), ("three", "3")}


# -- the real ones ----------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(not weights_installed(demo.MODEL), reason="the package of tiny.en is missing: make demo")
def test_real_weights_hear_people_and_gain_from_the_picture(tmp_path):
    cast = demo.choose(tmp_path / "models")
    assert cast.fallback is None
    asr = MultimodalASR(cast.bundle, max_new_tokens=cast.max_new_tokens)
    clips = hear(MultimodalASR(cast.bundle), tmp_path / "human.jsonl", cast.normalizer)
    assert len(clips.clips) == HUMAN_CLIPS
    assert clips.wer < 0.1
    dev = read_manifest(cast.data / "dev" / "manifest.jsonl")[::2]
    result = tune(
        write_nbest(asr, dev, tmp_path / "dev.jsonl"), TuneOptions(normalizer=cast.normalizer, replicates=200)
    ).to_dict()
    assert result["baseline_wer"] < 0.3
    assert result["chosen"]["wer"] < result["baseline_wer"] - 0.02
    assert result["controls"]["image_shuffle"]["wer"] > result["baseline_wer"]


def test_a_missing_package_is_its_own_kind_of_fault():
    with pytest.raises(WeightsUnavailableError, match="is not installed"):
        packaged_models.origin(PackagedModel("large", (("earsight-nowhere", "a/model.bin"),), ""))
