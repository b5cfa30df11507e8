"""The n-best file: round trip, resuming after a crash, and what every unusable line says."""

import json
import resource
from pathlib import Path

import pytest

from bench.nbest.file import (
    NBestFile,
    NBestHeader,
    NBestHypothesis,
    NBestUtterance,
    read_nbest,
)
from bench.nbest.writer import NBestWriter
from runtime.errors import NBestFileError, OutputError

HEADER = NBestHeader({"sha256": "abc"}, {"num_beams": 5})
UTTERANCES = (
    NBestUtterance(
        "u1",
        "A cat\u2028sat",
        "s1",
        "mild",
        "a.png",
        1.5,
        (NBestHypothesis("a cat", -0.5, 0.3, -1.5, 3, 0.1), NBestHypothesis("", -0.7, 0.2, -2.1, 3, 0.2)),
    ),
    NBestUtterance("u2", "", hypotheses=(NBestHypothesis("ümlaut", -1e-300),)),
    NBestUtterance("u3", "nothing heard"),
)


def write(path: Path, header: NBestHeader = HEADER, resume: bool = False) -> NBestWriter:
    with NBestWriter(path, header, resume=resume) as writer:
        for utterance in UTTERANCES:
            if utterance.id not in writer.finished:
                writer.write(utterance)
    return writer


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "n.jsonl"
    write(path)
    assert read_nbest(path) == NBestFile(HEADER, UTTERANCES, path)
    first = json.loads(path.read_text().split("\n")[0])
    assert first == {"schema": "earsight.nbest/1", "bundle": {"sha256": "abc"}, "settings": {"num_beams": 5}}


def test_resume_from_every_byte_gives_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    write(path)
    whole = path.read_bytes()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        write(path, resume=True)
        assert path.read_bytes() == whole, length


def test_resume_refuses_another_header(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    write(path)
    before = path.read_bytes()
    with pytest.raises(NBestFileError, match="num_beams 5, not 4"):
        NBestWriter(path, NBestHeader({"sha256": "abc"}, {"num_beams": 4}), resume=True)
    assert path.read_bytes() == before


def test_writer_refuses_what_the_reader_would(tmp_path: Path) -> None:
    with NBestWriter(tmp_path / "n.jsonl", HEADER) as writer:
        writer.write(UTTERANCES[0])
        with pytest.raises(NBestFileError, match="already"):
            writer.write(UTTERANCES[0])
        with pytest.raises(NBestFileError, match="must be finite"):
            writer.write(NBestUtterance("x", "", hypotheses=(NBestHypothesis("a", float("nan")),)))
    assert [utterance.id for utterance in read_nbest(tmp_path / "n.jsonl").utterances] == ["u1"]


def hypothesis_line(hypothesis: str) -> str:
    return '{"id": "x", "reference": "r", "hypotheses": [' + hypothesis + "]}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            hypothesis_line('{"text": "a", "score": NaN}'),
            ":2: hypothesis 1: `score` must be finite, got nan",
        ),
        (
            hypothesis_line('{"text": "a", "score": -Infinity}'),
            ":2: hypothesis 1: `score` must be finite, got -inf",
        ),
        (
            hypothesis_line('{"text": "a", "score": -1e999}'),
            ":2: hypothesis 1: `score` must be finite, got -inf",
        ),
        (hypothesis_line('{"text": "a", "score": "-1"}'), ":2: hypothesis 1: `score` must be a number"),
        (hypothesis_line('{"text": "a"}'), ":2: hypothesis 1: `score` is missing"),
        (hypothesis_line('{"score": -1}'), ":2: hypothesis 1: `text` must be a text"),
        (hypothesis_line('{"text": "a", "score": -1, "clip_score": 27}'), "must be a cosine"),
        (
            hypothesis_line('{"text": "a", "score": -1, "clip_score": 0}, {"text": "b", "score": -2}'),
            "all or none",
        ),
        (hypothesis_line('{"text": "a", "score": -1, "num_tokens": 0}'), "must be a count above 0"),
        ('{"id": "", "reference": "r", "hypotheses": []}', ":2: `id` must be a text"),
        ('{"id": "x", "hypotheses": []}', ":2: `reference` must be a text"),
        ('{"id": "x", "reference": "r"}', ":2: `hypotheses` must be a list"),
        ("[]", ":2: expected a JSON object"),
        (hypothesis_line("") + "\n\n" + hypothesis_line(""), ":4: id 'x' was used before on line 2"),
        ("", "holds a header and no utterance"),
    ],
)
def test_unusable_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "n.jsonl"
    path.write_text(json.dumps(HEADER.to_dict()) + "\n" + line)
    with pytest.raises(NBestFileError) as caught:
        read_nbest(path)
    assert message in str(caught.value)


def test_other_schemas_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    for text in ('{"schema": "earsight.nbest/2"}\n', '{"audio": "a.wav", "reference": "x"}\n'):
        path.write_text(text)
        with pytest.raises(NBestFileError, match=r"n\.jsonl:1: schema is .*expected 'earsight\.nbest/1'"):
            read_nbest(path)
    for content in (b"", b"\n\n"):
        path.write_bytes(content)
        with pytest.raises(NBestFileError, match="empty"):
            read_nbest(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(NBestFileError, match="not UTF-8"):
        read_nbest(path)
    with pytest.raises(NBestFileError, match="no such"):
        read_nbest(tmp_path / "none.jsonl")


def test_a_second_writer_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    with NBestWriter(path, HEADER) as writer:
        writer.write(UTTERANCES[0])
        before = path.read_bytes()
        for resume in (True, False):
            with pytest.raises(OutputError, match="another run is writing it"):
                NBestWriter(path, HEADER, resume=resume)
        assert path.read_bytes() == before
    write(path, resume=True)
    assert read_nbest(path).utterances == UTTERANCES


def test_a_full_disk_is_named_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    write(path)
    whole = path.read_bytes()
    limit = len(whole) // 2  # in the middle of a line
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        with pytest.raises(OutputError, match=r"n\.jsonl: cannot be written: File too large"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert path.read_bytes() == whole[:limit]
    write(path, resume=True)
    assert path.read_bytes() == whole


def test_a_place_where_nobody_can_write_is_named(tmp_path: Path) -> None:
    for path in (Path("/proc/nowhere/n.jsonl"), tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            NBestWriter(path, HEADER)


def test_a_key_given_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "n.jsonl"
    write(path)
    whole = path.read_text()
    for key, line in (("reference", 3), ("schema", 1)):
        lines = whole.split("\n")
        lines[line - 1] = lines[line - 1].replace(f'"{key}"', f'"{key}": "", "{key}"')
        path.write_text("\n".join(lines))
        with pytest.raises(NBestFileError, match=rf"n\.jsonl:{line}: .*the key '{key}' is there twice"):
            read_nbest(path)
        with pytest.raises(NBestFileError, match=rf"n\.jsonl:{line}: .*the key '{key}' is there twice"):
            NBestWriter(path, HEADER, resume=True)
