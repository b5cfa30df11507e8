"""The command lines: answers, and one line with status 2 for everything that cannot be used."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import bench.commands.main
import export.cli
import runtime.commands.main
from bench.manifest import read_manifest
from runtime.bundle.bundle import Bundle
from runtime.clip.cache import load_image_cache
from tests.conftest import POCKET

MANIFEST = POCKET / "data" / "test" / "manifest.jsonl"
FIRST = read_manifest(MANIFEST)[0]


def transcribe(bundle: Bundle, *options: str, audio: str | None = None) -> list[str]:
    return [
        "transcribe",
        audio or str(FIRST.audio),
        "--bundle",
        str(bundle.folder),
        "--threads",
        "1",
        *options,
    ]


def test_json_answer_has_the_keys_of_the_contract(
    pocket_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime.commands.main.main(transcribe(pocket_bundle, "--image", str(FIRST.image), "--json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["mode"] == "multimodal"
    assert answer["alpha"] == 0.3
    assert answer["transcription"] == answer["hypotheses"][0]["text"]
    assert set(answer["hypotheses"][0]) == {"text", "asr_score", "clip_score", "fused_score"}


def test_without_a_picture_the_speech_alone_decides(
    pocket_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert runtime.commands.main.main(transcribe(pocket_bundle, "--json", "--precision", "fp32")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["mode"] == "asr_only"
    assert "alpha" not in answer
    assert set(answer["hypotheses"][0]) == {"text", "score"}


def test_cached_pictures_give_the_answer_of_the_file(
    pocket_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, folder = tmp_path / "cache.npz", str(pocket_bundle.folder)
    assert (
        runtime.commands.main.main(
            ["embed-images", str(FIRST.image), "--bundle", folder, "--output", str(cache)]
        )
        == 0
    )
    capsys.readouterr()
    options = ("--json", "--image-id", FIRST.image.name, "--image-cache", str(cache))
    assert runtime.commands.main.main(transcribe(pocket_bundle, *options)) == 0
    cached = json.loads(capsys.readouterr().out)
    assert runtime.commands.main.main(transcribe(pocket_bundle, "--json", "--image", str(FIRST.image))) == 0
    assert cached == json.loads(capsys.readouterr().out)


def test_one_bad_picture_does_not_cost_the_others(
    pocket_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(FIRST.image, folder / "good.png")
    (folder / "bad.png").write_text("no picture")
    (folder / "worse.png").write_bytes(b"")
    cache = tmp_path / "cache.npz"
    arguments = ["embed-images", str(folder), "--bundle", str(pocket_bundle.folder), "--output", str(cache)]
    fault(runtime.commands.main.main(arguments), capsys, "2 of 3", "bad.png", "worse.png")
    assert list(load_image_cache(cache)) == ["good.png"]
    (folder / "good.png").unlink()
    cache.unlink()
    fault(runtime.commands.main.main(arguments), capsys, "2 of 2")
    assert not cache.exists()
    arguments[-1] = str(tmp_path / "nowhere" / "cache.npz")
    fault(runtime.commands.main.main(arguments), capsys, "nowhere", "--output")


def test_an_unknown_key_warns_and_speech_decides(
    pocket_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache.npz"
    runtime.commands.main.main(
        ["embed-images", str(FIRST.image), "--bundle", str(pocket_bundle.folder), "--output", str(cache)]
    )
    capsys.readouterr()
    options = ("--json", "--image-id", "nobody.png", "--image-cache", str(cache))
    assert runtime.commands.main.main(transcribe(pocket_bundle, *options)) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["mode"] == "asr_only"
    assert "nobody.png" in answer["warning"]


def fault(status: int, capsys: pytest.CaptureFixture[str], *mentions: str) -> None:
    captured = capsys.readouterr()
    assert status == 2, captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    for mention in mentions:
        assert mention in lines[0]


def test_faults_of_what_is_given(
    pocket_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runtime.commands.main.main
    fault(run(transcribe(pocket_bundle, audio="nowhere.wav")), capsys, "nowhere.wav")
    text = tmp_path / "text.png"
    text.write_text("no picture")
    fault(run(transcribe(pocket_bundle, "--image", str(text))), capsys, "text.png")
    fault(run(transcribe(pocket_bundle, "--image", "nowhere.png")), capsys, "nowhere.png")
    fault(run(transcribe(pocket_bundle, "--alpha", "1.5")), capsys, "alpha", "1.5")
    fault(run(transcribe(pocket_bundle, "--alpha", "nan")), capsys, "alpha")
    fault(run(transcribe(pocket_bundle, "--num-beams", "0")), capsys, "num_beams")
    fault(run(transcribe(pocket_bundle, "--num-beams", "100000")), capsys, "num_beams", "vocabulary")
    fault(run(transcribe(pocket_bundle, "--language", "de")), capsys, "language")
    fault(run(transcribe(pocket_bundle, "--precision", "fp16")), capsys, "fp16", "export it")
    fault(run(transcribe(pocket_bundle, "--precision", "fp64")), capsys, "fp64", "expected one of")
    fault(
        run(["transcribe", str(FIRST.audio), "--bundle", str(tmp_path / "none")]),
        capsys,
        "none",
        "make export",
    )
    cache = tmp_path / "cache.npz"
    cache.write_bytes(b"PK\x03\x04 torn")
    options = ("--image-id", "a", "--image-cache", str(cache))
    fault(run(transcribe(pocket_bundle, *options)), capsys, "cache.npz")
    np.savez(cache, a=np.eye(1, 7, dtype=np.float32)[0])
    fault(run(transcribe(pocket_bundle, *options)), capsys, "7")
    fault(run(transcribe(pocket_bundle, "--image-id", "a")), capsys, "--image-cache")


def test_gpu_providers_are_refused_with_the_reason(
    pocket_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine may have a GPU; the refusal is about those without")
    for provider in ("cuda", "tensorrt"):
        fault(
            runtime.commands.main.main(transcribe(pocket_bundle, "--provider", provider)),
            capsys,
            "onnxruntime-gpu",
        )


def test_a_manifest_row_without_a_reference_is_named(
    pocket_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "data.jsonl"
    manifest.write_text(json.dumps({"audio": str(FIRST.audio)}) + "\n")
    arguments = ["nbest", "--bundle", str(pocket_bundle.folder), "--data", str(manifest)]
    status = bench.commands.main.main([*arguments, "--output", str(tmp_path / "n.jsonl")])
    fault(status, capsys, "data.jsonl:1", "reference")


def test_export_refuses_what_is_no_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    output, clip = str(tmp_path / "out"), str(POCKET / "models" / "clip")
    whisper = str(POCKET / "models" / "whisper")
    run = export.cli.main
    fault(
        run(["--whisper", str(tmp_path / "bert"), "--clip", clip, "--output", output]),
        capsys,
        "bert",
        "whisper",
    )
    fault(
        run(["--whisper", "/no/such/folder", "--clip", clip, "--output", output]), capsys, "/no/such/folder"
    )
    fault(
        run(["--whisper", whisper, "--clip", clip, "--output", output, "--precision", "int4"]),
        capsys,
        "int4",
        "int8",
    )
    fault(
        run(["--architecture", "whisper-huge", "--output", output]), capsys, "whisper-huge", "whisper-small"
    )
    assert not Path(output).exists()


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for main, commands in (
        (runtime.commands.main.main, ("transcribe", "embed-images", "doctor")),
        (bench.commands.main.main, tuple(bench.commands.main.COMMANDS)),
        (export.cli.main, ("engines",)),
    ):
        for command in (None, *commands):
            with pytest.raises(SystemExit) as stopped:
                main([*([command] if command else []), "--help"])
            assert stopped.value.code == 0
            assert "usage" in capsys.readouterr().out


def test_what_is_passed_over_in_a_folder_is_named(pocket_bundle, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    content = FIRST.image.read_bytes()
    for name in ("a.webp", "B.JFIF", "c.jp2", "._a.webp", "notes.docx", "Thumbs.db"):
        (pictures / name).write_bytes(content)
    (pictures / "inner.png").mkdir()
    cache = tmp_path / "c.npz"
    given = ["embed-images", str(pictures), "--bundle", str(pocket_bundle.folder), "--output", str(cache)]
    assert runtime.commands.main.main(given) == 0
    streams = capsys.readouterr()
    assert "3 pictures" in streams.out
    assert (
        "4 passed over, no pictures by their names: ._a.webp, Thumbs.db, inner.png/, notes.docx"
        in streams.err
    )
