"""Manifests: what is read, and what every unusable row says."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

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
        (GOOD + '{"file": "clips/b.wav", "words": "y"}', ":2: `audio` is missing; found file, words"),
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
        ("file,words\na,b\n", ":1: the header lacks audio and reference; found file, words"),
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


# -- what other tools write --------------------------------------------------------------------------------


def rows(folder: Path, text: str | bytes, name: str = "m.csv") -> list[tuple[str, str]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(utterance.audio.name, utterance.reference) for utterance in read_manifest(path)]


BOTH = [("a.wav", "x"), ("b.wav", "y")]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("audio,reference,,\nclips/a.wav,x,,\nclips/b.wav,y,,\n,,,\n,,,\n", "m.csv"),
        ("\ufeff\r\n;;\r\naudio;reference\r\nclips/a.wav;x\r\n;\r\nclips/b.wav;y\r\n", "m.csv"),
        ("sep=;\r\naudio;reference\r\nclips/a.wav;x\r\nclips/b.wav;y\r\n", "m.csv"),
        ("\ufeffSEP=,\naudio,reference\nclips/a.wav,x\nclips/b.wav,y\n", "m.csv"),
        ("audio\treference\r\nclips/a.wav\tx\r\nclips/b.wav\ty\r\n".encode("utf-16"), "m.tsv"),
        ("file_name,transcription\nclips/a.wav,x\nclips/b.wav,y\n", "metadata.csv"),
        ('{"file_name": "clips/a.wav", "text": "x"}\n{"file_name": "clips/b.wav", "text": "y"}', "m.jsonl"),
        (
            '{"audio_filepath": "clips/a.wav", "text": "x", "duration": 9.0, "offset": 0}\n'
            '{"audio_filepath": "clips/b.wav", "text": "y", "duration": 9.0}',
            "nemo.json",
        ),
        ("client_id\tpath\tsentence\nme\ta.wav\tx\nme\tb.wav\ty\n", "validated.tsv"),
        ("audio,reference\nclips\\\\a.wav,x\nclips\\\\b.wav,y\n".replace("\\\\", "\\"), "m.csv"),
    ],
)
def test_manifests_of_other_tools_are_read(folder: Path, text: str | bytes, name: str) -> None:
    assert rows(folder, text, name) == BOTH


def test_speakers_of_common_voice_are_kept(folder: Path) -> None:
    path = write(folder, "client_id\tpath\tsentence\nme\ta.wav\tx\n", "m.tsv")
    assert read_manifest(path)[0].speaker == "me"


def test_a_quotation_mark_in_a_table_of_tabs_is_a_character(folder: Path) -> None:
    text = 'audio\treference\nclips/a.wav\t"Hello, he said\nclips/b.wav\tthe "end"\n'
    assert rows(folder, text, "m.tsv") == [("a.wav", '"Hello, he said'), ("b.wav", 'the "end"')]


@pytest.mark.parametrize(
    "rest",
    [
        "clips/b.wav,y\n",
        'clips/b.wav,"y"\n',
        'clips/b.wav,y"\n',
        'clips/b.wav,y\nclips/a.wav,z"\n',
    ],
)
def test_a_stray_quotation_mark_names_its_own_line(folder: Path, rest: str) -> None:
    with pytest.raises(ManifestError, match=r"m\.csv:2: .*quotation mark"):
        read_manifest(write(folder, f'audio,reference\nclips/a.wav,"x\n{rest}', "m.csv"))


@pytest.mark.parametrize("more", ['"offset": 1.5, "duration": 0.1', '"duration": 0.001, "offset": 0'])
def test_a_part_of_a_file_is_refused_and_not_heard_whole(folder: Path, more: str) -> None:
    soundfile.write(folder / "clips" / "long.wav", np.zeros(16000), 16000)
    row = f'{{"audio_filepath": "clips/long.wav", "text": "x", {more}}}'
    with pytest.raises(ManifestError, match=r":1: the row means a part of .*long\.wav"):
        read_manifest(write(folder, row))


@pytest.mark.parametrize("value", ['"soon"', "-1", "true", "[1]"])
def test_an_offset_that_is_no_time_is_refused(folder: Path, value: str) -> None:
    row = f'{{"audio_filepath": "clips/a.wav", "text": "x", "offset": {value}}}'
    with pytest.raises(ManifestError, match=r":1: `offset` is .*expected seconds"):
        read_manifest(write(folder, row))


def test_two_columns_that_may_be_the_reference_must_agree(folder: Path) -> None:
    with pytest.raises(ManifestError, match="text and transcription differ"):
        read_manifest(write(folder, '{"audio": "clips/a.wav", "text": "x", "transcription": "X!"}'))
    path = write(folder, '{"audio": "clips/a.wav", "text": "x", "reference": "z"}')
    assert read_manifest(path)[0].reference == "z"


def test_names_in_either_unicode_form_are_found(folder: Path) -> None:
    (folder / "clips" / unicodedata.normalize("NFD", "é.wav")).write_bytes(b"1")
    for form in ("NFC", "NFD"):
        text = f"audio,reference\nclips/{unicodedata.normalize(form, 'é.wav')},x\n"
        assert len(rows(folder, text)) == 1


def test_a_missing_file_hints_at_the_one_that_is_there(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"there is .*clips/a\.wav"):
        read_manifest(write(folder, "audio,reference\nclips/A.wav,x\n", "m.csv"))


def test_a_cell_without_a_column_is_not_lost(folder: Path) -> None:
    with pytest.raises(ManifestError, match=":2: a cell stands in a column without a name"):
        read_manifest(write(folder, "audio,,reference\nclips/a.wav,noted,x\n", "m.csv"))
