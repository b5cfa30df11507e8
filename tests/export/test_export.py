import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, WhisperForConditionalGeneration

from export import bundle_writer
from export import cli as export_cli
from export import random_checkpoints as architectures
from export.bundle_writer import ExportRequest, write_bundle
from export.checkpoints import Source
from export.parity import TOLERANCE
from export.random_checkpoints import (
    CLIP,
    WHISPER,
    make_clip_checkpoint,
    make_whisper_checkpoint,
    whisper_config,
)
from runtime.bundle.bundle import MANIFEST, Bundle
from runtime.bundle.graph import graph_path
from runtime.errors import CheckpointError, OutputError, ParityError, ProviderError, SettingsError
from runtime.files import write_whole
from runtime.files.write_whole import exchange
from runtime.pipeline import MultimodalASR
from runtime.sessions.openvino import read_openvino
from tests.conftest import ROOT

MODELS = ROOT / "bench" / "pocket" / "models"
WHISPER_MODEL, CLIP_MODEL = Source(str(MODELS / "whisper")), Source(str(MODELS / "clip"))


def request(output, precisions=("fp32",), **options):
    return ExportRequest(WHISPER_MODEL, CLIP_MODEL, output, precisions, **options)


def command(output, *more):
    sources = ["--whisper", WHISPER_MODEL.name, "--clip", CLIP_MODEL.name]
    return [sys.executable, "-m", "export", *sources, "--output", str(output), *more]


def state_of(folder):
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def whole(folder):
    """Open a bundle and verify every file of it."""
    bundle = Bundle.open(folder)
    for name in bundle.manifest["files"]:
        bundle.verified(name)
    return bundle


@pytest.fixture
def copied_bundle(pocket_bundle, tmp_path):
    return Path(shutil.copytree(pocket_bundle.folder, tmp_path / "pocket"))


# -- what is written --------------------------------------------------------------------


def test_every_graph_was_compared_with_pytorch(pocket_bundle):
    parity = pocket_bundle.manifest["parity"]
    assert set(parity) == {"fp32", "int8"}
    for precision, differences in parity.items():
        compared = {difference["output"].split()[0] for difference in differences}
        assert compared == {"encoder_model", "decoder_model", "text_model", "vision_model"}
        for difference in differences:
            assert difference["tolerance"] in TOLERANCE[precision].values()
            assert 0.0 <= difference["relative"] <= difference["tolerance"]


def test_int8_is_smaller_and_runs(pocket_bundle):
    for graph in ("encoder_model", "decoder_model", "text_model", "vision_model"):
        sizes = [
            (pocket_bundle.folder / graph_path(graph, precision)).stat().st_size
            for precision in ("fp32", "int8")
        ]
        assert sizes[1] < 0.6 * sizes[0], graph  # a quarter of the weights, and the pocket graphs are small
    asr = MultimodalASR(pocket_bundle, precision="int8", providers="cpu", threads=1)
    nbest = asr.generate_nbest(ROOT / "bench" / "pocket" / "data" / "test" / "audio" / "test-0000.ogg")
    assert all(np.isfinite(hypothesis.score) and hypothesis.score <= 0.0 for hypothesis in nbest)
    embeddings = asr.encode_texts(["a bear", "a pear"])
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-3)  # int8, yet unit norm


def test_a_second_export_leaves_every_file_alone(copied_bundle):
    before = state_of(copied_bundle)
    bundle, written = write_bundle(request(copied_bundle, ("fp32", "int8")))
    assert not written
    assert bundle.precisions == ("fp32", "int8")
    assert state_of(copied_bundle) == before


def test_int8_alone_keeps_no_float32_graph(tmp_path):
    bundle, _ = write_bundle(request(tmp_path / "b", ("int8",)))
    assert bundle.precisions == ("int8",)
    assert sorted(path.name for path in bundle.folder.rglob("*.onnx")) == [
        "decoder_model_int8.onnx",
        "encoder_model_int8.onnx",
        "text_model_int8.onnx",
        "vision_model_int8.onnx",
    ]
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["b"]


def test_a_damaged_bundle_is_written_again(copied_bundle):
    graph = copied_bundle / graph_path("text_model", "fp32")
    graph.write_bytes(b"damaged")
    _, written = write_bundle(request(copied_bundle))
    assert written
    assert whole(copied_bundle).precisions == ("fp32",)


def test_a_foreign_folder_is_replaced_only_when_asked(tmp_path):
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "chapter.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists and is no bundle"):
        write_bundle(request(target))
    assert (target / "chapter.txt").read_text() == "years of work"
    _, written = write_bundle(request(target, overwrite=True))
    assert written
    assert not (target / "chapter.txt").exists()
    whole(target)


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_bundle(request(tmp_path / "file"))
    with pytest.raises(OutputError):
        write_bundle(request(tmp_path / "file" / "inside"))


def test_a_graph_out_of_tolerance_leaves_nothing_behind(tmp_path, monkeypatch):
    def differ(*_):
        raise ParityError("fp32: the decoder differs")

    monkeypatch.setattr(bundle_writer, "check_whisper", differ)
    with pytest.raises(ParityError):
        write_bundle(request(tmp_path / "b"))
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


# -- what is killed, and what runs twice ------------------------------------------------


def test_a_killed_export_leaves_the_old_bundle(copied_bundle):
    """An export of other precisions replaces the bundle, unless it is killed: then the old one loads."""
    before = state_of(copied_bundle)
    wait = random.Random(0)
    for _ in range(2):
        process = subprocess.Popen(
            command(copied_bundle, "--precision", "fp32"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        building = copied_bundle.parent / f".{copied_bundle.name}.building"
        deadline = time.monotonic() + 120
        while not building.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        status = process.wait()
        if status == -signal.SIGKILL and state_of(copied_bundle) == before:
            assert whole(copied_bundle).precisions == ("fp32", "int8")
        else:  # it was quicker than the kill
            assert whole(copied_bundle).precisions == ("fp32",)
    _, _ = write_bundle(request(copied_bundle))
    assert whole(copied_bundle).precisions == ("fp32",)
    left = {path.name for path in copied_bundle.parent.iterdir() if not path.name.endswith(".lock")}
    assert left == {copied_bundle.name}


def test_a_kill_between_the_two_renames_is_mended(copied_bundle):
    copied_bundle.rename(copied_bundle.parent / f".{copied_bundle.name}.old")
    _, written = write_bundle(request(copied_bundle, ("fp32", "int8")))
    assert not written
    whole(copied_bundle)


def test_two_exports_into_one_folder_both_succeed(tmp_path):
    target = tmp_path / "b"
    both = [
        subprocess.Popen(
            command(target, "--precision", "fp32"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    answers = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert sum("up to date" in out for out, _ in answers) == 1
    whole(target)


# -- what cannot be written -------------------------------------------------------------


def one_line(done, *mentions):
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    for mention in mentions:
        assert mention in done.stderr


def run(*arguments, **options):
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("largest", [1 << 10, 3_000_000])  # bytes: of a settings file, of a graph
def test_an_export_that_may_not_write_more_leaves_the_old_bundle(copied_bundle, largest):
    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    before = state_of(copied_bundle)
    one_line(run(copied_bundle, "--precision", "fp32", preexec_fn=limited), "cannot be written", "large")
    assert state_of(copied_bundle) == before
    left = {path.name for path in copied_bundle.parent.iterdir() if not path.name.endswith(".lock")}
    assert left == {copied_bundle.name}


@pytest.mark.parametrize("size", ["100k", "9m"])  # full at the tokenizer; full at a graph, within a library
def test_a_full_disk_is_named(tmp_path, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here (that takes root)")
    try:
        one_line(run(disk / "b"), "cannot be written", "o space left")
        assert [path.name for path in disk.iterdir() if not path.name.endswith(".lock")] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_place_where_nobody_can_write_is_named():
    with pytest.raises(OutputError, match="/proc/bundle cannot be written"):
        write_bundle(request(Path("/proc/bundle")))


def test_two_folders_change_places_in_one_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot swap folders")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["a"]
    assert not exchange(tmp_path / "a", tmp_path / "nowhere")


def test_without_a_swap_the_bundle_is_replaced_by_two_renames(copied_bundle, monkeypatch):
    monkeypatch.setattr(write_whole, "exchange", lambda one, other: False)
    _, written = write_bundle(request(copied_bundle))
    assert written
    assert whole(copied_bundle).precisions == ("fp32",)
    left = {path.name for path in copied_bundle.parent.iterdir() if not path.name.endswith(".lock")}
    assert left == {copied_bundle.name}


# -- what cannot be exported ----------------------------------------------------------


@pytest.mark.parametrize("precisions", [(), ("fp8",), ("fp32", "")])
def test_unknown_precisions_are_refused(precisions, tmp_path):
    with pytest.raises(SettingsError, match="expected some of fp32,int8,fp16"):
        request(tmp_path, precisions)


def test_a_checkpoint_of_another_type_is_refused(tmp_path):
    BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1).save_pretrained(tmp_path / "bert")
    bert = Source(str(tmp_path / "bert"))
    with pytest.raises(CheckpointError, match=r"type 'bert'; expected 'whisper'"):
        write_bundle(ExportRequest(bert, CLIP_MODEL, tmp_path / "b", ("fp32",)))
    with pytest.raises(CheckpointError, match=r"type 'whisper'; expected 'clip'"):
        write_bundle(ExportRequest(WHISPER_MODEL, WHISPER_MODEL, tmp_path / "b", ("fp32",)))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_checkpoint_is_named(broken, tmp_path):
    shutil.copytree(MODELS / "whisper", tmp_path / "checkpoint")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "checkpoint" / name).unlink(missing_ok=True)
    (tmp_path / "checkpoint" / broken).write_bytes(b"{")
    source = Source(str(tmp_path / "checkpoint"))
    with pytest.raises(CheckpointError, match="checkpoint: the"):
        write_bundle(ExportRequest(source, CLIP_MODEL, tmp_path / "b", ("fp32",)))


def test_an_unreachable_hub_id_is_one_line(tmp_path):
    arguments = command(tmp_path / "b", "--clip", CLIP_MODEL.name)
    arguments[arguments.index("--whisper") + 1] = "nobody/whisper-that-is-nowhere"
    done = subprocess.run(
        arguments,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "nobody/whisper-that-is-nowhere" in done.stderr


def test_a_folder_changed_by_fine_tuning_is_exported_again(tmp_path):
    """The content decides, not the name: merged weights in the same folder make another bundle."""
    shutil.copytree(MODELS / "whisper", tmp_path / "tuned")
    source = Source(str(tmp_path / "tuned"))
    before = source.fingerprint()
    assert before == WHISPER_MODEL.fingerprint()
    model = WhisperForConditionalGeneration.from_pretrained(source.name)
    with torch.no_grad():
        model.model.decoder.layer_norm.bias += 0.1
    model.save_pretrained(source.name)
    assert source.fingerprint() != before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--architecture", "whisper-tiny", "--whisper-revision", "v1"],
        ["--architecture", "whisper-tiny", "--clip-revision", "v1"],
        ["--clip-architecture", "clip-vit-base-patch32", "--clip-revision", "v1"],
    ],
)
def test_random_weights_have_no_revision(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        export_cli.parse_args([*arguments, "--output", "b"])
    assert caught.value.code == 2
    assert f"{arguments[2]} " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("name", ["whisper", "clip"])
def test_a_folder_has_no_revision(name, tmp_path, capsys):
    folders = ["--whisper", str(MODELS / "whisper"), "--clip", str(MODELS / "clip")]
    arguments = [*folders, f"--{name}-revision", "v1", "--output", str(tmp_path / "b")]
    assert export_cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert f"--{name}-revision is 'v1', but {MODELS / name} is a folder" in error
    assert not (tmp_path / "b").exists()


# -- architectures --------------------------------------------------------------------

# Parameters of the published checkpoints in millions, from their model cards (the tied output counted once).
PUBLISHED = {
    "whisper-tiny": 37.8,
    "whisper-base": 72.6,
    "whisper-small": 241.7,
    "whisper-medium": 763.9,
    "whisper-large-v2": 1543.3,
    "whisper-large-v3": 1543.5,
    "whisper-large-v3-turbo": 808.9,
    "distil-large-v3": 756.2,
    "distil-small.en": 166.1,
}


@pytest.mark.parametrize("name", WHISPER)
def test_whisper_dimensions_are_the_published_ones(name):
    dimensions = WHISPER[name]
    config = whisper_config(dimensions)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    expected = 51864 if dimensions.english else 51866 if dimensions.languages == 100 else 51865
    assert model.model.decoder.embed_tokens.weight.shape == (expected, dimensions.width)
    assert model.model.encoder.conv1.weight.shape == (dimensions.width, dimensions.mels, 3)
    assert model.model.encoder.embed_positions.weight.shape == (1500, dimensions.width)
    assert len(model.model.decoder.layers) == dimensions.decoder_layers
    if name in PUBLISHED:
        # transformers keeps the sinusoidal positions of the encoder as parameters, as the cards count them.
        count = sum(parameter.numel() for parameter in model.model.parameters()) / 1e6
        assert count == pytest.approx(PUBLISHED[name], rel=2e-3)


def test_a_random_architecture_runs_end_to_end(tmp_path, monkeypatch):
    """The path of `--architecture`, on miniatures of the real tables: real vocabulary, real window."""
    tiny = architectures.WhisperDimensions(64, 1, 1)
    monkeypatch.setattr(architectures, "WHISPER", {"whisper-miniature": tiny})
    monkeypatch.setattr(architectures, "CLIP", {"clip-miniature": (64, 1, 64, 1, 32, 64)})
    output = tmp_path / "b"
    arguments = ["--architecture", "whisper-miniature", "--clip-architecture", "clip-miniature"]
    args = export_cli.parse_args([*arguments, "--output", str(output), "--precision", "fp32"])
    assert export_cli.run(args) == 0
    asr = MultimodalASR(output, providers="cpu", threads=1, num_beams=2, language="en")
    assert asr.whisper.tokens.is_multilingual
    assert asr.whisper.tokens.vocab_size == 51865
    cross = asr.whisper.encode(asr.whisper.features([np.zeros(16000, np.float32)]))
    assert cross.values["cross_key_0"].shape()[3] == 1500
    assert asr.whisper.first_position(cross).languages is not None
    assert asr.encode_texts(["a bear"]).shape == (1, 64)


@pytest.mark.parametrize("make", [make_whisper_checkpoint, make_clip_checkpoint])
def test_an_unknown_architecture_is_refused_with_the_known_ones(make, tmp_path):
    known = next(iter(WHISPER if make is make_whisper_checkpoint else CLIP))
    with pytest.raises(SettingsError, match=known):
        make("whisper-enormous", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_manifest_is_plain_json(pocket_bundle):
    manifest = json.loads((pocket_bundle.folder / MANIFEST).read_text(encoding="utf-8"))
    assert {"schema", "sources", "graphs", "opset", "versions", "files", "parity"} <= set(manifest)
    assert manifest["versions"]["onnxruntime"]


def test_bf16_needs_the_files_it_is_computed_from(tmp_path):
    with pytest.raises(SettingsError, match="put fp32 in as well"):
        request(tmp_path / "b", ("int8", "bf16"))


@pytest.mark.skipif(read_openvino().bf16, reason="bf16 can be checked here")
def test_bf16_that_cannot_be_checked_is_not_written(tmp_path):
    with pytest.raises((ProviderError, SettingsError), match=r"openvino|bf16"):
        write_bundle(request(tmp_path / "b", ("fp32", "bf16")))
    assert not (tmp_path / "b").exists()


@pytest.mark.skipif(not read_openvino().bf16, reason="the plugin computes no bf16 here")
def test_bf16_is_checked_like_every_precision_and_has_no_files(tmp_path):
    bundle, _ = write_bundle(request(tmp_path / "b", ("fp32", "int8", "bf16")))
    assert bundle.precisions == ("fp32", "int8", "bf16")
    assert not [name for name in bundle.manifest["files"] if "bf16" in name]
    checked = {entry["output"]: entry["relative"] for entry in bundle.manifest["parity"]["bf16"]}
    exact = {entry["output"]: entry["relative"] for entry in bundle.manifest["parity"]["fp32"]}
    keys = "encoder_model cross-attention keys"
    assert exact[keys] < 1e-4 < checked[keys]  # it was computed in fewer bits
