"""Manifests: which audio belongs to which picture and which reference, as JSON Lines or CSV.

Every row has `audio` (path relative to the manifest) and `reference`, and may have `image` (path) or
`image_id` (key of the image-embedding cache), `id`, `speaker` and `group`. Other columns are left alone.
A row without a picture is transcribed by speech alone. The id defaults to the audio path as written,
because file names alone repeat in the usual folder-per-speaker layout.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.bundle.json_files import parse_json
from runtime.errors import ManifestError

JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
CSV_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
EXPECTED_COLUMNS = "audio, reference, and optionally image or image_id, id, speaker, group"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row of a manifest.

    Attributes:
        id: Unique name of the utterance.
        audio: Existing audio file.
        reference: What was said; may be empty where the recording holds no speech.
        image: Existing picture file, or None.
        image_id: Key of the image-embedding cache, or None.
        speaker: Who spoke, or None.
        group: A class to report separately (for example a severity), or None.
        line: Line of the manifest, from 1.
    """

    id: str
    audio: Path
    reference: str
    image: Path | None = None
    image_id: str | None = None
    speaker: str | None = None
    group: str | None = None
    line: int = 0


def read_manifest(path: str | Path) -> list[Utterance]:
    """Read and verify a manifest.

    Args:
        path: A JSON Lines file (`.jsonl`, `.ndjson`, `.json`) or a CSV file with a header (`.csv`, `.tsv`,
            `.txt`; comma, semicolon or tab). Any other suffix is told by the first character.

    Returns:
        The utterances in file order, at least one.

    Raises:
        ManifestError: The file is missing, is not UTF-8, holds no row, or a row cannot be used; the
            message starts with `file:line`.
    """
    path = Path(path)
    text = _read_text(path)
    rows = _jsonl_rows(path, text) if _is_jsonl(path, text) else _csv_rows(path, text)
    utterances: list[Utterance] = []
    line_of: dict[str, int] = {}
    for line, row in rows:
        utterance = _utterance(path, line, row)
        if utterance.id in line_of:
            raise ManifestError(
                f"{path}:{line}: id {utterance.id!r} was used before on line {line_of[utterance.id]}; "
                "ids must be unique (give the rows an `id` column)"
            )
        line_of[utterance.id] = line
        utterances.append(utterance)
    if not utterances:
        raise ManifestError(f"{path}: no rows; expected one utterance a line with {EXPECTED_COLUMNS}")
    return utterances


def _read_text(path: Path) -> str:
    """Return the decoded file without a byte order mark."""
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not UTF-8; save the manifest as UTF-8"
        ) from error


def _is_jsonl(path: Path, text: str) -> bool:
    suffix = path.suffix.lower()
    if suffix in JSONL_SUFFIXES:
        return True
    if suffix in CSV_SUFFIXES:
        return False
    return text.lstrip()[:1] in {"{", "["}


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    # Not str.splitlines(): it also breaks at U+2028 and U+0085, which may stand inside a JSON string.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = parse_json(content)
        except ValueError as error:
            raise ManifestError(
                f"{path}:{line}: not JSON ({error}); expected one object a line with {EXPECTED_COLUMNS}"
            ) from error
        if not isinstance(row, dict):
            raise ManifestError(
                f"{path}:{line}: expected one JSON object a line with {EXPECTED_COLUMNS}, "
                f"got a {type(row).__name__}"
            )
        yield line, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    lines = text.lstrip("\r\n").split("\n", 1)
    header = lines[0]
    delimiter = max("\t;,", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip() for column in reader.fieldnames or []]
        missing = [name for name in ("audio", "reference") if name not in columns]
        if missing:
            raise ManifestError(
                f"{path}:{reader.line_num}: the header lacks {' and '.join(missing)}; "
                f"found {', '.join(columns) or 'nothing'}; expected {EXPECTED_COLUMNS}"
            )
        if len(set(columns)) != len(columns):
            raise ManifestError(
                f"{path}:{reader.line_num}: the header names a column twice: {', '.join(columns)}"
            )
        reader.fieldnames = columns
        for row in reader:
            if None in row:
                raise ManifestError(
                    f"{path}:{reader.line_num}: more cells than the header's {len(columns)} columns; "
                    "put quotes around a text that holds the delimiter"
                )
            yield reader.line_num, {name: cell for name, cell in row.items() if cell and cell.strip()}
    except csv.Error as error:
        raise ManifestError(f"{path}:{reader.line_num}: not CSV ({error})") from error


def _utterance(path: Path, line: int, row: Mapping[str, Any]) -> Utterance:
    place = f"{path}:{line}"
    written_audio = _text(place, row, "audio")
    if not written_audio:
        raise ManifestError(
            f"{place}: `audio` is missing; found {_columns(row)}; expected {EXPECTED_COLUMNS}"
        )
    reference = row.get("reference")
    if reference is None:
        raise ManifestError(
            f"{place}: `reference` is missing; found {_columns(row)}; expected {EXPECTED_COLUMNS}"
        )
    if not isinstance(reference, str):
        raise ManifestError(f"{place}: `reference` must be a text, got {reference!r}")
    written_image = _text(place, row, "image")
    return Utterance(
        id=_text(place, row, "id") or written_audio,
        audio=_existing_file(place, path, "audio", written_audio),
        reference=reference,
        image=_existing_file(place, path, "image", written_image) if written_image else None,
        image_id=_text(place, row, "image_id"),
        speaker=_text(place, row, "speaker"),
        group=_text(place, row, "group"),
        line=line,
    )


def _text(place: str, row: Mapping[str, Any], column: str) -> str | None:
    """Return a cell as stripped text, None where it is absent, null or blank."""
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ManifestError(f"{place}: `{column}` must be a text, got {value!r}")
    return str(value).strip() or None


def _existing_file(place: str, manifest: Path, column: str, written: str) -> Path:
    hint = "leave the cell empty where there is no picture" if column == "image" else "correct the path"
    target = manifest.parent / written
    try:
        found = target.is_file()
    except (OSError, ValueError) as error:  # too long a name, or a NUL byte in it
        raise ManifestError(f"{place}: `{column}` is no usable path ({error}): {written!r}") from error
    if not found:
        raise ManifestError(
            f"{place}: {column} file not found: {target} (paths are relative to the manifest; {hint})"
        )
    return target


def _columns(row: Mapping[str, Any]) -> str:
    return ", ".join(str(column) for column in row) or "nothing"
