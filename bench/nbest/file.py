"""The n-best file: hypotheses with their scores, one utterance a line, so that tuning needs no model.

The first line is a header, `{"schema": "earsight.nbest/1", "bundle": {…}, "settings": {…}}`; every
further line is one utterance. `bench/nbest/writer.py` writes it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench.nbest.records import SCHEMA, NBestFile, NBestHeader, NBestHypothesis, NBestUtterance
from runtime.bundle.json_files import parse_row
from runtime.errors import NBestFileError

LARGEST_NUMBER: Final = 1e6  # of scores, cosines and seconds; what is larger is damaged, and overflows sums

__all__ = [
    "SCHEMA",
    "NBestFile",
    "NBestHeader",
    "NBestHypothesis",
    "NBestUtterance",
    "read_nbest",
]


def read_nbest(path: str | Path) -> NBestFile:
    """Read and verify an n-best file.

    Raises:
        NBestFileError: Not there, not UTF-8, of another schema, no utterance, or a line that cannot be
            used (NaN or infinite scores, duplicate id, a clip score for some hypotheses only); the
            message starts with `file:line`.
    """
    path = Path(path)
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        raise NBestFileError(f'{path}: empty; expected a header line with "schema": "{SCHEMA}"')
    header = header_from(path, *first)
    utterances: list[NBestUtterance] = []
    line_of: dict[str, int] = {}
    for line, content in lines:
        place = f"{path}:{line}"
        utterance = utterance_from(place, parse_row(place, content, NBestFileError))
        if utterance.id in line_of:
            raise NBestFileError(
                f"{place}: id {utterance.id!r} was used before on line {line_of[utterance.id]}"
            )
        line_of[utterance.id] = line
        utterances.append(utterance)
    if not utterances:
        raise NBestFileError(
            f"{path}: holds a header and no utterance; run `python -m bench nbest` to its end"
        )
    return NBestFile(header, tuple(utterances), path)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, content) of all lines that are not blank."""
    if not path.is_file():
        raise NBestFileError(f"{path}: no such n-best file")
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise NBestFileError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise NBestFileError(f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8") from error
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            yield line, content


def header_from(path: Path, line: int, content: str) -> NBestHeader:
    """Read the first line.

    Raises:
        NBestFileError: It is no header of this schema; the message starts with `file:line`.
    """
    row = parse_row(f"{path}:{line}", content, NBestFileError)
    if row.get("schema") != SCHEMA:
        raise NBestFileError(
            f"{path}:{line}: schema is {row.get('schema')!r}, expected {SCHEMA!r}; "
            "write the file with `python -m bench nbest` of this version"
        )
    bundle, settings = row.get("bundle", {}), row.get("settings", {})
    if not isinstance(bundle, dict) or not isinstance(settings, dict):
        raise NBestFileError(f"{path}:{line}: `bundle` and `settings` must be JSON objects")
    try:
        json.dumps((bundle, settings), allow_nan=False)
    except ValueError as error:
        raise NBestFileError(f"{path}:{line}: `bundle` and `settings` must hold finite numbers") from error
    return NBestHeader(bundle, settings)


def utterance_from(place: str, row: Mapping[str, Any]) -> NBestUtterance:
    """Restore what `NBestUtterance.to_dict` returned.

    Raises:
        NBestFileError: It is something else; the message starts with `place`.
    """
    identifier = row.get("id")
    if not isinstance(identifier, str) or not identifier:
        raise NBestFileError(f"{place}: `id` must be a text that is not empty, got {identifier!r}")
    reference = row.get("reference")
    if not isinstance(reference, str):
        raise NBestFileError(f"{place}: `reference` must be a text, got {reference!r}")
    listed = row.get("hypotheses")
    if not isinstance(listed, list):
        raise NBestFileError(f"{place}: `hypotheses` must be a list, got {listed!r}")
    hypotheses = tuple(
        _hypothesis(f"{place}: hypothesis {i}", item) for i, item in enumerate(listed, start=1)
    )
    if len({h.clip_score is None for h in hypotheses}) > 1:
        raise NBestFileError(
            f"{place}: some hypotheses have a clip_score and some have none; expected all or none"
        )
    if len({h.clip_score_shuffled is None for h in hypotheses}) > 1:
        raise NBestFileError(f"{place}: some hypotheses have a clip_score_shuffled and some have none")
    return NBestUtterance(
        id=identifier,
        reference=reference,
        speaker=_optional_text(place, row, "speaker"),
        group=_optional_text(place, row, "group"),
        image_id=_optional_text(place, row, "image_id"),
        duration_s=_number(place, row, "duration_s"),
        source=_optional_text(place, row, "source"),
        hypotheses=hypotheses,
    )


def _hypothesis(place: str, item: object) -> NBestHypothesis:
    if not isinstance(item, dict):
        raise NBestFileError(f"{place}: expected an object with text, score and clip_score, got {item!r}")
    text = item.get("text")
    if not isinstance(text, str):
        raise NBestFileError(f"{place}: `text` must be a text, got {text!r}")
    score = _number(place, item, "score")
    if score is None:
        raise NBestFileError(f"{place}: `score` is missing; expected the mean log-probability per token")
    num_tokens = item.get("num_tokens")
    if num_tokens is not None and (type(num_tokens) is not int or num_tokens < 1):
        raise NBestFileError(f"{place}: `num_tokens` must be a count above 0, got {num_tokens!r}")
    return NBestHypothesis(
        text=text,
        score=score,
        clip_score=_cosine(place, item, "clip_score"),
        asr_sum=_number(place, item, "asr_sum"),
        num_tokens=num_tokens,
        clip_score_shuffled=_cosine(place, item, "clip_score_shuffled"),
    )


def _optional_text(place: str, row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise NBestFileError(f"{place}: `{key}` must be a text or null, got {value!r}")
    return value


def _number(place: str, row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if type(value) is float and -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        return value  # what the writer writes, checked first: a corpus has millions of them
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NBestFileError(f"{place}: `{key}` must be a number, got {value!r}")
    if not math.isfinite(value):
        raise NBestFileError(f"{place}: `{key}` must be finite, got {value}")
    if abs(value) > LARGEST_NUMBER:
        raise NBestFileError(f"{place}: `{key}` is {value}; expected at most {LARGEST_NUMBER:g} in size")
    return float(value)


def _cosine(place: str, row: Mapping[str, Any], key: str) -> float | None:
    value = _number(place, row, key)
    # Unit vectors in float32 give cosines that pass 1 by a few units in the last place.
    if value is not None and abs(value) > 1.0 + 1e-5:
        raise NBestFileError(f"{place}: `{key}` must be a cosine in [-1, 1], got {value}")
    return value
