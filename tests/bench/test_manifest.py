"""Manifests: what is read, and what every unusable row says."""

import json
import logging
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


# -- parts of files ----------------------------------------------------------------------------------------


@pytest.fixture
def sound(folder: Path) -> Path:
    """Two seconds, one channel; and the same with two channels."""
    soundfile.write(folder / "clips" / "two.wav", np.zeros(32000), 16000)
    soundfile.write(folder / "clips" / "stereo.wav", np.zeros((32000, 2)), 16000)
    return folder


PARTS = [
    *(("offset", 0.5), ("start", 0.1), ("Start Time", "0.3"), ("begin_time", 1), ("beginMs", 5)),
    *(("onset", 1), ("segment_start", 1), ("xmin", 0.2), ("frame_offset", 800), ("start_sample", 1)),
    *(("t_start", 1), ("duration", 0.7), ("Duration_s", "1.2"), ("duration_ms", 900), ("end", 1.4)),
    *(("end_time", "1"), ("stop", 0), ("End Sec", 1.49), ("end_ms", 1400), ("end_sample", 16000)),
    *(("xmax", 1.2), ("audio_duration", 1)),
]  # fmt: skip
WHOLE = [
    *(("offset", 0), ("start", "0.0"), ("duration", 2), ("duration", 2.0004), ("duration", 1.9)),
    *(("end", "2.0"), ("duration_ms", 2000), ("end_sample", 32000), ("duration", 9), ("end", "")),
    *(("start", None), ("channel", 0), ("channels", 1)),
    *(("ending", "happy"), ("started_by", "me"), ("duration_model", "x")),
]  # fmt: skip


@pytest.mark.parametrize("audio", ["audio", "audio_filepath", "Path", "wav"])
@pytest.mark.parametrize(("column", "value"), PARTS)
def test_a_part_is_refused_whatever_the_audio_column_is_called(
    sound: Path, audio: str, column: str, value: object
) -> None:
    row = {audio: "clips/two.wav", "text": "x", column: value}
    with pytest.raises(ManifestError, match=r"m\.jsonl:1: the row means a part of .*two\.wav"):
        read_manifest(write(sound, json.dumps(row)))
    table = f"{audio},text,{column}\nclips/two.wav,x,{value}\n"
    with pytest.raises(ManifestError, match=r"m\.csv:2: the row means a part of .*two\.wav"):
        read_manifest(write(sound, table, "m.csv"))


@pytest.mark.parametrize(("column", "value"), WHOLE)
def test_times_of_the_whole_file_are_fine(sound: Path, column: str, value: object) -> None:
    row = {"audio": "clips/two.wav", "reference": "x", column: value}
    assert [utterance.reference for utterance in read_manifest(write(sound, json.dumps(row)))] == ["x"]


def test_a_duration_is_compared_with_files_that_libsndfile_cannot_read(sound: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(sound / "clips" / "two.webm"), "w") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 96000), np.int16), layout="mono")
        silence.sample_rate = 48000
        container.mux([*stream.encode(silence), *stream.encode(None)])
    assert len(rows(sound, "audio,text,duration\nclips/two.webm,x,2\n")) == 1
    with pytest.raises(ManifestError, match=r"a part of .*two\.webm of 2\.\d+ s"):
        rows(sound, "audio,text,duration\nclips/two.webm,x,1\n")


def test_an_unclosed_wav_is_as_long_as_its_samples(sound: Path) -> None:
    path = sound / "clips" / "two.wav"
    data = bytearray(path.read_bytes())
    data[40:44] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=r"a part of .*two\.wav of 2\.00 s"):
        rows(sound, "audio,text,duration\nclips/two.wav,x,1\n")


@pytest.mark.parametrize("value", [0, 1, "left"])
def test_one_of_several_channels_is_refused(sound: Path, value: object) -> None:
    row = {"audio": "clips/stereo.wav", "text": "x", "channel_selector": value}
    with pytest.raises(ManifestError, match=r"a part of .*stereo\.wav .*2 channel"):
        read_manifest(write(sound, json.dumps(row)))
    row["channel_selector"] = "average"
    assert len(read_manifest(write(sound, json.dumps(row)))) == 1


# -- rows that vanish ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize(
    "rest",
    [
        ["clips/b.wav,y", 'clips/a.wav,z"'],
        ["clips/b.wav,y", 'clips/a.wav,z",,s'],
        ["no.wav,y", "no.mp3,z", '",,s'],
        ['clips/b.wav",y'],
        ["clips/b.wav,y,,s", 'clips/a.wav,"'],
    ],
)
def test_rows_shorter_than_the_header_are_not_swallowed(folder: Path, rest: list[str], end: str) -> None:
    lines = ["audio,reference,image,speaker", 'clips/a.wav,"x', *rest, ""]
    with pytest.raises(ManifestError, match=r"m\.csv:2: .*quotation mark"):
        read_manifest(write(folder, end.join(lines), "m.csv"))


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_texts_over_several_lines_are_read(folder: Path, end: str) -> None:
    lines = ["reference,audio,image,speaker", '"x, and', 'then y",clips/a.wav,,s', '"y",clips/b.wav', ""]
    text = end.join(lines)
    assert rows(folder, text) == [("a.wav", f"x, and{end}then y"), ("b.wav", "y")]
    assert [utterance.line for utterance in read_manifest(write(folder, text, "m.csv"))] == [2, 4]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_lines_may_end_in_carriage_returns_alone(folder: Path, name: str) -> None:
    table = "audio,reference\rclips/a.wav,x\rclips/b.wav,y\r"
    objects = '{"audio": "clips/a.wav", "text": "x"}\r{"audio": "clips/b.wav", "text": "y"}\r'
    text = table if name == "m.csv" else objects
    assert rows(folder, text, name) == BOTH
    with pytest.raises(ManifestError, match=r":3: audio file not found"):
        rows(
            folder,
            text.replace("b.wav", "none") if name == "m.csv" else "\r" + text.replace("b.", "c."),
            name,
        )


# -- columns under other names -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    ["Image", "IMAGE", "image_path", "imagePath", "Image File", "image-filepath", "picture", "Photo", "img"],
)
def test_pictures_under_other_names_are_not_dropped(folder: Path, column: str) -> None:
    row = json.dumps({"audio": "clips/a.wav", "reference": "x", column: "a.png"})
    assert read_manifest(write(folder, row))[0].image == folder / "a.png"
    table = f"Audio;Reference;{column}\nclips/a.wav;x;a.png\n"
    assert read_manifest(write(folder, table, "m.csv"))[0].image == folder / "a.png"


def test_case_and_aliases_of_every_column(folder: Path) -> None:
    table = "Utt_ID,Audio File,Transcript,Picture,Image ID,Speaker-ID,GROUP\nu,clips/a.wav,x,a.png,k,s,g\n"
    assert read_manifest(write(folder, table, "m.csv")) == [
        Utterance("u", folder / "clips/a.wav", "x", folder / "a.png", "k", "s", "g", 2)
    ]


def test_a_column_like_a_picture_that_is_not_read_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"audio": "clips/a.wav", "reference": "x", "image_url": "http://x/a.png"}
    with caplog.at_level(logging.WARNING):
        read_manifest(write(folder, json.dumps(row)))
    assert "column 'image_url' looks like a picture and is not read: 1 rows have none" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        read_manifest(write(folder, json.dumps(row | {"image": "a.png"})))
        read_manifest(write(folder, json.dumps(row | {"image_url": None})))
    assert not caplog.records


def test_an_empty_cell_gives_way_to_a_full_one(folder: Path) -> None:
    row = '{"audio": "clips/a.wav", "reference": null, "text": "x", "image": "", "picture": "a.png"}'
    (utterance,) = read_manifest(write(folder, row))
    assert (utterance.reference, utterance.image) == ("x", folder / "a.png")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"audio": "clips/a.wav", "text": "x", "text": "y"}', "the key 'text' is there twice"),
        ('{"audio": "clips/a.wav", "text": "x", "Text": "y"}', "text and Text differ"),
        ('{"audio": "clips/a.wav", "text": "x", "img": "a.png", "photo": "b.png"}', "img and photo differ"),
        ('{"audio": "clips/a.wav", "text": "a\\u0000b"}', "`reference` must be a text"),
        ('{"audio": "clips/a.wav", "text": "x", "id": "a\\u0000b"}', "`id` must be a text"),
        ('{"audio": "clips/a.wav", "text": "x\0"}', "NUL character"),
    ],
)
def test_ambiguous_and_damaged_rows_are_refused(folder: Path, row: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(folder, row))


def test_a_header_in_two_spellings_is_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match="names a column twice"):
        read_manifest(write(folder, "audio,Reference,reference\nclips/a.wav,x,y\n", "m.csv"))


def test_utf_16_without_a_mark_is_told(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"m\.csv:1: holds a NUL character, as UTF-16 without"):
        read_manifest(write(folder, "audio,reference\nclips/a.wav,x\n".encode("utf-16-le"), "m.csv"))
