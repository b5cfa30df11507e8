"""The text of a manifest → its rows, as they were written: JSON Lines, or a table with a header.

What a spreadsheet leaves behind is passed over; rows that a stray quotation mark would swallow are refused.
"""

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench.manifest.columns import EXPECTED_COLUMNS, field_of, listed, plain
from runtime.bundle.json_files import parse_row
from runtime.errors import ManifestError
from runtime.files.given import text_encoding

JSONL_SUFFIXES: Final = frozenset({".jsonl", ".ndjson", ".json"})
CSV_SUFFIXES: Final = frozenset({".csv", ".tsv", ".txt"})
_SEPARATOR_LINE: Final = re.compile(r"sep=(.)", re.IGNORECASE)  # Excel's first line
# Where a line ends, for csv as well. Not str.splitlines(), which also breaks at U+2028 and U+0085: these may
# stand inside a text.
_LINE_END: Final = re.compile(r"\r\n|\r|\n")
_AUDIO_NAME: Final = re.compile(
    r".*\.(?:wav|wave|flac|mp3|ogg|oga|opus|m4a|aac|aiff?|caf|webm|3gp|amr|wma|sph|au)", re.IGNORECASE
)

Rows = Iterator[tuple[int, Mapping[str, Any]]]


def read_rows(path: Path) -> Rows:
    """Yield the number of the line, from 1, and the cells of every row.

    Raises:
        ManifestError: The file is missing, is no text, or no such table; the message starts with `file:line`.
    """
    text = _read_text(path)
    return _jsonl_rows(path, text) if _is_jsonl(path, text) else _csv_rows(path, text)


def _read_text(path: Path) -> str:
    """Return the decoded file without a byte order mark."""
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read: {error.strerror}") from error
    encoding = text_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(_LINE_END.findall(data[: error.start].decode("latin-1"))) + 1
        raise ManifestError(
            f"{path}:{line}: byte 0x{data[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}; "
            "save the manifest as UTF-8"
        ) from error
    if (place := text.find("\0")) >= 0:
        line = len(_LINE_END.findall(text[:place])) + 1
        raise ManifestError(
            f"{path}:{line}: holds a NUL character, as UTF-16 without a byte order mark does, and damaged "
            "files; save the manifest as UTF-8"
        )
    return text


def _is_jsonl(path: Path, text: str) -> bool:
    suffix = path.suffix.lower()
    if suffix in JSONL_SUFFIXES:
        return True
    if suffix in CSV_SUFFIXES:
        return False
    return text.lstrip()[:1] in {"{", "["}


def _jsonl_rows(path: Path, text: str) -> Rows:
    for line, content in enumerate(_LINE_END.split(text), start=1):
        if not content.strip():
            continue
        expected = f"one JSON object a line with {EXPECTED_COLUMNS}"
        yield line, parse_row(f"{path}:{line}", content, ManifestError, expected)


def _csv_rows(path: Path, text: str) -> Rows:
    lines = list(io.StringIO(text, newline=""))
    skipped, delimiter = _csv_start(lines)
    # Tables of tabs, Common Voice's among them, know no quoting: a quotation mark is part of the text.
    reader = csv.reader(
        lines[skipped:],
        delimiter=delimiter,
        strict=True,
        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
    )
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
            _refuse_swallowed_rows(path, line, cells, delimiter, len(columns))
            if len(cells) > len(columns):
                raise ManifestError(
                    f"{path}:{line}: more cells than the header's {len(columns)} columns; "
                    "put quotes around a text that holds the delimiter"
                )
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


def _csv_start(lines: list[str]) -> tuple[int, str]:
    """Return how many lines stand before the header, and the delimiter."""
    told = None
    skipped = 0
    for skipped, line in enumerate(lines):
        content = line.strip("\r\n \ufeff")
        if match := _SEPARATOR_LINE.fullmatch(content):
            told = match[1]
        elif content.strip(";,\t "):
            return skipped, told or max("\t;,", key=line.count)
    return skipped, told or ","


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    while cells and not cells[-1]:
        cells.pop()
    columns = [cell.removeprefix("\ufeff") for cell in cells]
    fields = {field_of(column) for column in columns}
    if missing := [name for name in ("audio", "reference") if name not in fields]:
        raise ManifestError(
            f"{path}:{line}: the header lacks {' and '.join(missing)}; "
            f"found {listed(columns)}; expected {EXPECTED_COLUMNS}"
        )
    named = [plain(column) or column for column in columns if column]
    if len(set(named)) != len(named) or columns.count("") > 1:
        raise ManifestError(f"{path}:{line}: the header names a column twice: {', '.join(columns)}")
    return columns


def _refuse_swallowed_rows(path: Path, line: int, cells: list[str], delimiter: str, columns: int) -> None:
    """Refuse a cell over several lines of which one looks like a row: its quotation mark is a stray one.

    It looks like one by as many delimiters as the header has, or by the name of an audio file between them;
    for rows may be shorter than the header.
    """
    begins = line
    for cell in cells:
        contents = _LINE_END.split(cell)
        for offset, content in enumerate(contents):
            whole = offset > 0 and columns > 1 and content.count(delimiter) >= columns - 1
            if len(contents) > 1 and (whole or _names_audio(path, content, delimiter)):
                raise ManifestError(
                    f"{path}:{line}: a quotation mark opens a cell over several lines, of which line "
                    f"{begins + offset} looks like a row of its own; double the quotation marks that belong "
                    "to a text, and write the text on one line"
                )
        begins += len(contents) - 1


def _names_audio(path: Path, content: str, delimiter: str) -> bool:
    pieces = [piece.strip(' "') for piece in content.split(delimiter)]
    # os.path.isfile: False for what cannot be a path, too.
    return any(
        piece and (_AUDIO_NAME.fullmatch(piece) or os.path.isfile(path.parent / piece))  # noqa: PTH113
        for piece in pieces
    )
