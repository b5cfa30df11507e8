"""Manifests: which audio belongs to which picture and which reference, as JSON Lines, CSV or TSV.

Every row has `audio` (path relative to the manifest) and `reference`, and may have `image` (path) or
`image_id` (key of the image-embedding cache), `id`, `speaker` and `group`. Other columns are left alone.
A row without a picture is transcribed by speech alone. The id defaults to the audio path as written,
because file names alone repeat in the usual folder-per-speaker layout.

The names that other tools give these columns are read as well (`bench.manifest.columns`): NeMo's manifests,
Hugging Face's `metadata.jsonl` and `metadata.csv`, Common Voice's TSV files. Rows that mean a part of their
file are refused (`bench.manifest.excerpts`).
"""

import difflib
import logging
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from bench.manifest.columns import EXPECTED_COLUMNS, columns_like_pictures, in_our_names, listed
from bench.manifest.excerpts import refuse_excerpt
from bench.manifest.rows import read_rows
from runtime.errors import ManifestError

CLIPS: Final = "clips"  # where Common Voice keeps the files that its tables name

logger = logging.getLogger(__name__)
T = TypeVar("T")


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


def read_manifest(path: str | Path, *, all_files: bool = True) -> list[Utterance]:
    """Read and verify a manifest.

    Args:
        path: A JSON Lines file (`.jsonl`, `.ndjson`, `.json`) or a CSV file with a header (`.csv`, `.tsv`,
            `.txt`; comma, semicolon or tab, which knows no quoting). Any other suffix is told by the first
            character. UTF-8, or UTF-16 with a byte order mark.
        all_files: Whether every file that a row names must be there.

    Returns:
        The utterances in file order, at least one.

    Raises:
        ManifestError: The file is missing, is not UTF-8, holds no row, or a row cannot be used; the
            message starts with `file:line`.
    """
    path = Path(path)
    utterances: list[Utterance] = []
    line_of: dict[str, int] = {}
    unread: dict[str, int] = {}
    for line, row in read_rows(path):
        utterance = _utterance(path, line, row, all_files)
        if utterance.id in line_of:
            raise ManifestError(
                f"{path}:{line}: id {utterance.id!r} was used before on line {line_of[utterance.id]}; "
                "ids must be unique (give the rows an `id` column)"
            )
        line_of[utterance.id] = line
        utterances.append(utterance)
        if utterance.image is None and utterance.image_id is None:
            for name in columns_like_pictures(row):
                unread[name] = unread.get(name, 0) + 1
    for name, count in unread.items():
        logger.warning(
            "%s: column %r looks like a picture and is not read: %d rows have none; call it image (a path) "
            "or image_id (a key of the cache)",
            path,
            name,
            count,
        )
    if not utterances:
        raise ManifestError(f"{path}: no rows; expected one utterance a line with {EXPECTED_COLUMNS}")
    return utterances


def evenly_spread(rows: Sequence[T], most: int | None) -> list[T]:
    """Return at most so many rows, evenly spread over all; None for all."""
    if most is None or len(rows) <= most:
        return list(rows)
    return [rows[place * len(rows) // most] for place in range(most)]


def _utterance(path: Path, line: int, row: Mapping[str, Any], all_files: bool) -> Utterance:
    place = f"{path}:{line}"
    cells = in_our_names(place, row)
    written_audio = _text(place, cells, "audio")
    reference = cells.get("reference")
    if written_audio is None or reference is None:
        missing = "audio" if written_audio is None else "reference"
        raise ManifestError(
            f"{place}: `{missing}` is missing; found {listed(row)}; expected {EXPECTED_COLUMNS}"
        )
    if not isinstance(reference, str) or "\0" in reference:
        raise ManifestError(f"{place}: `reference` must be a text, got {reference!r}")
    written_image = _text(place, cells, "image")
    audio = _file(place, path, "audio", written_audio, all_files)
    refuse_excerpt(place, row, audio)
    return Utterance(
        id=_text(place, cells, "id") or written_audio,
        audio=audio,
        reference=reference,
        image=_file(place, path, "image", written_image, all_files) if written_image else None,
        image_id=_text(place, cells, "image_id"),
        speaker=_text(place, cells, "speaker"),
        group=_text(place, cells, "group"),
        line=line,
    )


def _text(place: str, row: Mapping[str, Any], column: str) -> str | None:
    """Return a cell as stripped text, None where it is absent, null or blank."""
    value = row.get(column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int) or "\0" in str(value):
        raise ManifestError(f"{place}: `{column}` must be a text, got {value!r}")
    return str(value).strip() or None


def _file(place: str, manifest: Path, column: str, written: str, must_exist: bool) -> Path:
    """Return the file that a cell names: as written, else in another spelling or in Common Voice's folder."""
    target = manifest.parent / written
    try:
        if os.path.isfile(target):  # noqa: PTH113 - half the time of `Path.is_file`, twice for every row
            return target
        spellings = dict.fromkeys(
            form
            for name in (written, written.replace("\\", "/"))
            for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
        )
        for spelling in spellings:
            for found in (manifest.parent / spelling, manifest.parent / CLIPS / spelling):
                if found.is_file():
                    return found
        near = _nearest(manifest.parent / written.replace("\\", "/")) if must_exist else None
    except (OSError, ValueError) as error:  # too long a name, or a NUL byte in it
        raise ManifestError(f"{place}: `{column}` is no usable path ({error}): {written!r}") from error
    if not must_exist:
        return target
    hint = "leave the cell empty where there is no picture" if column == "image" else "correct the path"
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
