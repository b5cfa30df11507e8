"""Manifests: what is read, and what every unusable row says."""

from pathlib import Path

import pytest

from bench.manifest import Utterance, read_manifest
from runtime.errors import ManifestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clips").mkdir()
    for name in ("clips/a.wav", "clips/b.wav", "a.png"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder: Path, text: str | bytes, name: str = "m.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_jsonl_row_with_everything(folder: Path) -> None:
    row = (
        '{"audio": "clips/a.wav", "reference": "A cat", "image": "a.png", "image_id": "k", "id": "u1", '
        '"speaker": 7, "group": "mild", "licence": "other columns stay out of the way"}'
    )
    assert read_manifest(write(folder, "\ufeff\r\n" + row + "\r\n\n")) == [
        Utterance("u1", folder / "clips/a.wav", "A cat", folder / "a.png", "k", "7", "mild", 2)
    ]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (
            '{"audio": "clips/a.wav", "reference": "x"}\n{"audio": "clips/b.wav", "reference": "y, z"}',
            "m.txt2",
        ),
        ('audio,reference\nclips/a.wav,x\n\nclips/b.wav,"y, z"\n', "m.csv"),
        ("audio;reference\nclips/a.wav;x\nclips/b.wav;y, z\n", "m.csv"),
        ("\ufeffaudio\treference\r\nclips/a.wav\tx\r\nclips/b.wav\ty, z\r\n", "m.tsv"),
        ("audio,reference\nclips/a.wav,x\nclips/b.wav,'y'\n".replace("'y'", '"y, z"'), "sniffed"),
    ],
)
def test_formats_and_default_ids(folder: Path, text: str, name: str) -> None:
    rows = read_manifest(write(folder, text, name))
    assert [(row.id, row.reference, row.image) for row in rows] == [
        ("clips/a.wav", "x", None),
        ("clips/b.wav", "y, z", None),
    ]


def test_quoted_newlines_keep_the_line_numbers(folder: Path) -> None:
    path = write(folder, 'audio,reference\nclips/a.wav,"x\ny"\nclips/b.wav,\n', "m.csv")
    with pytest.raises(ManifestError, match=r"m\.csv:4: `reference` is missing"):
        read_manifest(path)


def test_empty_reference_is_silence_in_jsonl(folder: Path) -> None:
    assert read_manifest(write(folder, '{"audio": "clips/a.wav", "reference": ""}'))[0].reference == ""


GOOD = '{"audio": "clips/a.wav", "reference": "x"}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD + '{"audio": "clips/b.wav"}', ":2: `reference` is missing; found audio"),
        (GOOD + '{"audio": "clips/b.wav", "reference": null}', ":2: `reference` is missing"),
        (GOOD + '{"audio": "clips/b.wav", "reference": 3}', ":2: `reference` must be a text, got 3"),
        (GOOD + '{"path": "clips/b.wav", "sentence": "y"}', ":2: `audio` is missing; found path, sentence"),
        (GOOD + '{"audio": "clips/c.wav", "reference": "y"}', ":2: audio file not found"),
        (GOOD + '{"audio": "clips", "reference": "y"}', ":2: audio file not found"),
        (GOOD + '{"audio": "a\\u0000b", "reference": "y"}', ":2: "),
        (GOOD + '{"audio": "' + "a" * 5000 + '", "reference": "y"}', ":2: "),
        (GOOD + '{"audio": "clips/b.wav", "reference": "y", "image": "no.png"}', ":2: image file not found"),
        (GOOD + GOOD, ":2: id 'clips/a.wav' was used before on line 1"),
        (GOOD + "{", ":2: not JSON"),
        (GOOD + "[" * 100_000, ":2: not JSON"),
        ('[{"audio": "clips/a.wav", "reference": "x"}]', ":1: expected one JSON object a line"),
        (GOOD.encode() + b'{"audio": "caf\xe9.wav"}', ":2: byte 0xe9 is not UTF-8"),
        ("", ": no rows"),
    ],
)
def test_unusable_jsonl_rows_are_named(folder: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(folder, text))
    assert f"m.jsonl{message}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,sentence\na,b\n", ":1: the header lacks audio and reference; found file, sentence"),
        ("audio,reference\nclips/a.wav,a, b\n", ":2: more cells"),
        ("audio,reference,audio\n", ":1: the header names a column twice"),
        ("audio,reference\nclips/a.wav\n", ":2: `reference` is missing"),
        ('audio,reference\nclips/a.wav,"x\n', "not CSV"),
        ("", ": the header lacks"),
    ],
)
def test_unusable_csv_rows_are_named(folder: Path, text: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_manifest(write(folder, text, "m.csv"))
    assert message in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "no.jsonl", tmp_path):
        with pytest.raises(ManifestError, match="no such manifest file"):
            read_manifest(path)
