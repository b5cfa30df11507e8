"""Manifests: which audio belongs to which picture and which reference, as JSON Lines, CSV or TSV.

Every row has `audio` (path relative to the manifest) and `reference`, and may have `image` (path) or
`image_id` (key of the image-embedding cache), `id`, `speaker` and `group`. Other columns are left alone.
A row without a picture is transcribed by speech alone. The id defaults to the audio path as written,
because file names alone repeat in the usual folder-per-speaker layout.

The names that other tools give these columns are read as well (`OTHER_NAMES`): NeMo's manifests, Hugging
Face's `metadata.jsonl` and `metadata.csv`, Common Voice's TSV files. What a spreadsheet leaves behind is
passed over.
"""

import codecs
import csv
import difflib
import io
import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import soundfile

from runtime.bundle.json_files import parse_json
from runtime.errors import ManifestError

T = TypeVar("T")
JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
CSV_SUFFIXES = frozenset({".csv", ".tsv", ".txt"})
# The columns as NeMo, Hugging Face's audio folders and Common Voice call them.
OTHER_NAMES = {
    "audio": ("audio_filepath", "file_name", "path"),
    "reference": ("text", "transcription", "sentence"),
    "speaker": ("client_id",),
}
_SEPARATOR_LINE: Final = re.compile(r"sep=(.)", re.IGNORECASE)  # Excel's first line
CLIPS = "clips"  # where Common Voice keeps the files that its tables name
SHORTEST_REST_S = 0.5  # of a file behind a row's `duration`, from which the row means a part of it
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
            `.txt`; comma, semicolon or tab, which knows no quoting). Any other suffix is told by the first
            character. UTF-8, or UTF-16 with a byte order mark.

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


def evenly_spread(rows: Sequence[T], most: int | None) -> list[T]:
    """Return at most so many rows, evenly spread over all; None for all."""
    if most is None or len(rows) <= most:
        return list(rows)
    return [rows[place * len(rows) // most] for place in range(most)]


def _read_text(path: Path) -> str:
    """Return the decoded file without a byte order mark."""
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ManifestError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}; "
            "save the manifest as UTF-8"
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
    skipped, delimiter, body = _csv_start(text)
    # Tables of tabs, Common Voice's among them, know no quoting: a quotation mark is part of the text.
    reader = csv.reader(
        io.StringIO(body, newline=""),
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
    )
    lines = body.split("\n")
    columns: list[str] = []
    begins = 0
    try:
        for cells in reader:
            line, begins = skipped + begins + 1, reader.line_num
            cells = [cell.strip() if not columns else cell for cell in cells]
            if not any(cell.strip() for cell in cells):
                continue  # an empty row of a spreadsheet
            if not columns:
                columns = _header(path, line, cells)
                continue
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()
            if len(cells) > len(columns):
                raise ManifestError(
                    f"{path}:{line}: more cells than the header's {len(columns)} columns; "
                    "put quotes around a text that holds the delimiter"
                )
            _refuse_swallowed_rows(path, line, lines[line - skipped : begins], delimiter, len(columns))
            row = dict(zip(columns, cells, strict=False))
            if row.pop("", "").strip():
                raise ManifestError(
                    f"{path}:{line}: a cell stands in a column without a name; name the column"
                )
            yield line, {name: cell for name, cell in row.items() if cell.strip()}
        if not columns:
            _header(path, skipped + 1, [])
    except csv.Error as error:
        line = skipped + begins + 1
        raise ManifestError(
            f"{path}:{line}: not CSV ({error}); is there a quotation mark that no other closes? Double those "
            "that belong to a text, and put quotes around it"
        ) from error


def _csv_start(text: str) -> tuple[int, str, str]:
    """Return how many lines stand before the header, the delimiter, and the text from the header on."""
    skipped = 0
    told = None
    while True:
        line, newline, rest = text.partition("\n")
        content = line.strip("\r \ufeff")
        if match := _SEPARATOR_LINE.fullmatch(content):
            told = match[1]
        elif content.strip(";,\t ") or not newline:
            break
        text, skipped = rest, skipped + 1
    return skipped, told or max("\t;,", key=line.count), text


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    while cells and not cells[-1]:
        cells.pop()
    columns = [cell.removeprefix("\ufeff") for cell in cells]
    missing = [name for name in ("audio", "reference") if not {name, *OTHER_NAMES[name]} & set(columns)]
    if missing:
        raise ManifestError(
            f"{path}:{line}: the header lacks {' and '.join(missing)}; "
            f"found {', '.join(columns) or 'nothing'}; expected {EXPECTED_COLUMNS}"
        )
    named = [column for column in columns if column]
    if len(set(named)) != len(named) or columns.count("") > 1:
        raise ManifestError(f"{path}:{line}: the header names a column twice: {', '.join(columns)}")
    return columns


def _refuse_swallowed_rows(path: Path, line: int, more: list[str], delimiter: str, columns: int) -> None:
    """Refuse a cell over several lines of which one looks like a row: its quotation mark is a stray one."""
    for offset, content in enumerate(more, start=1):
        if columns > 1 and content.count(delimiter) >= columns - 1:
            raise ManifestError(
                f"{path}:{line}: a quotation mark opens here and closes on or behind line {line + offset}, "
                "which looks like a row of its own; double the quotation marks that belong to a text"
            )


def _utterance(path: Path, line: int, row: Mapping[str, Any]) -> Utterance:
    place = f"{path}:{line}"
    row = _with_our_names(place, row)
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
    audio = _existing_file(place, path, "audio", written_audio)
    _refuse_part(place, row, audio)
    return Utterance(
        id=_text(place, row, "id") or written_audio,
        audio=audio,
        reference=reference,
        image=_existing_file(place, path, "image", written_image) if written_image else None,
        image_id=_text(place, row, "image_id"),
        speaker=_text(place, row, "speaker"),
        group=_text(place, row, "group"),
        line=line,
    )


def _with_our_names(place: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give the columns of other tools our names; ours go first where both are there."""
    renamed = dict(row)
    for ours, others in OTHER_NAMES.items():
        theirs = [name for name in others if name in row]
        if ours in row or not theirs:
            continue
        if len({str(row[name]) for name in theirs}) > 1:
            raise ManifestError(
                f"{place}: {' and '.join(theirs)} differ, and either may be the {ours}; name one "
                f"of them `{ours}`"
            )
        renamed[ours] = row[theirs[0]]
    return renamed


def _refuse_part(place: str, row: Mapping[str, Any], audio: Path) -> None:
    """Refuse a row of NeMo's that means a part of its file: all of it would be recognised."""
    if "audio_filepath" not in row:
        return
    offset, duration = (_seconds(place, row, name) for name in ("offset", "duration"))
    rest = 0.0
    if duration is not None and not offset:
        try:
            rest = soundfile.info(str(audio)).duration - duration
        except soundfile.LibsndfileError:
            return  # no sound file that libsndfile knows: whoever decodes it tells more
    if offset or rest > SHORTEST_REST_S:
        raise ManifestError(
            f"{place}: the row means a part of {audio} (offset {offset or 0:g} s, duration {duration} s), "
            "and only whole files are recognised; cut the parts into files of their own"
        )


def _seconds(place: str, row: Mapping[str, Any], column: str) -> float | None:
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(value, bool) or not seconds >= 0.0 or math.isinf(seconds):
        raise ManifestError(f"{place}: `{column}` is {value!r}; expected seconds, from 0 on")
    return seconds


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
    spellings = dict.fromkeys(
        form
        for name in (written, written.replace("\\", "/"))
        for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    )
    target = manifest.parent / written
    try:
        for spelling in spellings:
            for found in (manifest.parent / spelling, manifest.parent / CLIPS / spelling):
                if found.is_file():
                    return found
        near = _nearest(manifest.parent / written.replace("\\", "/"))
    except (OSError, ValueError) as error:  # too long a name, or a NUL byte in it
        raise ManifestError(f"{place}: `{column}` is no usable path ({error}): {written!r}") from error
    if near:
        hint = f"there is {near}"
    raise ManifestError(
        f"{place}: {column} file not found: {target} (paths are relative to the manifest; {hint})"
    )


def _nearest(missing: Path) -> Path | None:
    """Return the file beside a missing one whose name is most like it, if one is."""
    if not missing.parent.is_dir():
        return None
    names = {path.name.casefold(): path for path in missing.parent.iterdir()}
    found = difflib.get_close_matches(missing.name.casefold(), names, n=1, cutoff=0.75)
    return names[found[0]] if found else None


def _columns(row: Mapping[str, Any]) -> str:
    return ", ".join(str(column) for column in row) or "nothing"
