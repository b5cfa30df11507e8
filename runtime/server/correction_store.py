"""Corrections: what people confirmed, picked or typed after a recognition, kept to tune on.

A folder of two manifests with the files that they name:

    manifest.jsonl    utterances with a reference; `python -m bench tune --data` reads it as it is
    rejected.jsonl    utterances of which none of the texts was right and none was typed: no reference
    audio/  images/   recordings and pictures as they were sent, named by their SHA-256

Whoever writes holds the folder's lock. An utterance's files are written first; the manifest, replaced as a
whole, is what makes it be there. So a process that is killed or finds the disk full leaves no row without its
files and no half row. What no manifest names was never acknowledged, and the next sweep removes it.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, get_args

from runtime.bundle.json_files import parse_json
from runtime.errors import EarsightError, OutputError, SettingsError
from runtime.files.write_whole import lock, sync_names, write_whole

logger = logging.getLogger(__name__)

MANIFEST: Final = "manifest.jsonl"
REJECTED: Final = "rejected.jsonl"
AUDIO: Final = "audio"
IMAGES: Final = "images"
LOCK: Final = ".lock"
DAY_S: Final = 86_400.0
OURS_ALONE: Final = 0o600  # mode of a file
OTHERS: Final = 0o077  # what a mode allows to all but the owner
How = Literal["confirmed", "picked", "typed", "none"]
HOWS: Final = get_args(How)
PSEUDONYM: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,5}")
# Columns that a row must have, and may have, with their types.
_NEEDED: Final[Mapping[str, type]] = dict.fromkeys(("id", "audio", "speaker", "group", "time"), str)
_OPTIONAL: Final[Mapping[str, Any]] = {
    "reference": str, "image": str, "image_id": str, "rank": int, "seconds": (int, float), "taps": int,
    "shown": list, "bundle": dict,
}  # fmt: skip

Row = dict[str, Any]


class SentFile(NamedTuple):
    """A file as it was sent: its bytes, and its name, of which the suffix is kept."""

    content: bytes
    name: str = ""


@dataclass(frozen=True, slots=True)
class Correction:
    """What a person did with a recognition.

    Attributes:
        speaker: Pseudonym.
        how: The first text was confirmed, another one picked, the text typed, or none was right.
        reference: What was said; empty for "none" alone.
        shown: The list as it was shown, first text first: `text`, `mean_logprob` and whatever else an answer
            tells of an alternative.
        rank: Place of the chosen text in it, from 0; None where none was chosen.
        image_id: Key of the image cache where the picture is one of those, else None.
        seconds: How long the person needed.
        taps: How many taps the person needed.
        bundle: Name and SHA-256 of the bundle that recognised it.
    """

    speaker: str
    how: How
    reference: str
    shown: tuple[Mapping[str, Any], ...] = ()
    rank: int | None = None
    image_id: str | None = None
    seconds: float | None = None
    taps: int | None = None
    bundle: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Verify that its parts agree: a reference that was not chosen as it says would be tuned on.

        Raises:
            SettingsError: They do not.
        """
        if not PSEUDONYM.fullmatch(self.speaker):
            raise SettingsError(
                f"speaker is {self.speaker[:80]!r}; expected a pseudonym of 1 to 64 letters, digits, . _ or -"
            )
        if self.how not in HOWS:
            raise SettingsError(f"how is {self.how!r}; expected {', '.join(HOWS)}")
        if self.how == "none" and self.reference.strip():
            raise SettingsError("how is none and there is a reference; expected none, or typed")
        if self.how != "none" and not self.reference.strip():
            raise SettingsError(f"how is {self.how} and the reference is empty; expected what was said")
        if self.how in ("typed", "none"):
            if self.rank is not None:
                raise SettingsError(f"how is {self.how} and rank is {self.rank}; expected no rank")
            return
        if self.rank is None or not 0 <= self.rank < len(self.shown):
            raise SettingsError(
                f"how is {self.how} and rank is {self.rank}; expected the place of the text in the "
                f"{len(self.shown)} that were shown, from 0"
            )
        if self.how == "confirmed" and self.rank != 0:
            raise SettingsError(f"how is confirmed and rank is {self.rank}; expected 0, or picked")
        chosen = self.shown[self.rank]
        if self.reference.strip() not in (chosen.get("text"), chosen.get("display")):
            raise SettingsError(
                f"reference is not the text at rank {self.rank} of those shown; expected that text, or typed"
            )


class CorrectionStore:
    """The folder of the corrections; any number of processes may write to it at a time.

    Args:
        folder: Made if missing. It, and what is in it, is closed to all but its owner, whoever made it.
        retention_days: After how many days an utterance is removed; None to keep them.
        now: Seconds since 1970.

    Raises:
        SettingsError: `retention_days` is below 1, the folder holds other things, or a row of it is none.
        OutputError: The folder cannot be written.
    """

    def __init__(
        self, folder: Path, retention_days: int | None = None, now: Callable[[], float] = time.time
    ) -> None:
        if retention_days is not None and retention_days < 1:
            raise SettingsError(f"corrections are kept for {retention_days} days; expected at least 1")
        self.folder = folder
        self.retention_days = retention_days
        self._now = now
        with _refused(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # A sweep removes what no manifest names: nobody else's folder may be taken for ours.
            if any(folder.iterdir()) and not (folder / LOCK).exists():
                raise SettingsError(f"{folder} holds other things than corrections; expected a new folder")
            (folder / LOCK).touch(OURS_ALONE)
            for name in (AUDIO, IMAGES):
                (folder / name).mkdir(mode=0o700, exist_ok=True)
        with self._locked():  # else another server's files come and go meanwhile
            _close_to_others(folder)
        self.sweep()

    def add(
        self, correction: Correction, audio: SentFile, picture: SentFile | None = None
    ) -> tuple[str, bool]:
        """Keep an utterance; it is on the disk when this returns.

        A later correction of the same recording by the same speaker takes the place of the earlier one: the
        last word counts, and a request that is sent again keeps nothing twice.

        Returns:
            Its id, and whether the recording is new.

        Raises:
            OutputError: The disk is full, or fails. The utterance is not kept.
        """
        row = {"id": uuid.uuid4().hex, "audio": _path(AUDIO, audio), **_columns(correction)}
        if picture is not None:
            row["image"] = _path(IMAGES, picture)
        target = REJECTED if correction.how == "none" else MANIFEST
        with self._locked():
            row["time"] = self._time()
            contents = {place: self._content(place) for place in (MANIFEST, REJECTED)}
            # Every row is read only where one may be of this recording: with many that takes long.
            recording = Path(row["audio"]).stem.encode()
            earlier = any(recording in content for content in contents.values())
            known = self._rows() if earlier else {}
            changed, others = _kept(known, lambda other: _recording(other) != _recording(row))
            is_new = not changed
            # What is put last takes its place first: a process that is killed in between leaves both rows,
            # of which the next sweep keeps the later one.
            content = changed.pop(target, contents[target]) + _line(row)
            try:
                self._put(row["audio"], audio.content)
                if picture is not None:
                    self._put(row["image"], picture.content)
                self._replace({**changed, target: content})
            except OSError:
                rows = (read_rows(self.folder / place) for place in (MANIFEST, REJECTED))
                self._remove_unnamed(itertools.chain.from_iterable(rows))
                raise
            if not is_new:
                try:
                    self._remove_unnamed([*others, row])
                except OSError as error:  # the utterance is kept, and the next sweep tries again
                    logger.warning("%s: a file that no row names stays: %s", self.folder, error.strerror)
            return row["id"], is_new

    def picture(self, image_id: str) -> SentFile | None:
        """Return a picture that came with an utterance, by its SHA-256; None where it is not kept."""
        if re.fullmatch(r"[0-9a-f]{64}", image_id):
            for path in (self.folder / IMAGES).glob(f"{image_id}*"):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile, with its speaker
                    return SentFile(path.read_bytes(), path.name)
        return None

    def forget(self, speaker: str) -> int:
        """Remove all that is kept of a speaker; return how many utterances that were.

        Raises:
            OutputError: The manifest cannot be written, for which a full disk needs some space again.
        """
        with self._locked():
            return self._rewrite(lambda row: row["speaker"] != speaker)

    def sweep(self) -> int:
        """Remove what is older than is allowed, and what a killed process left; return how many utterances.

        Raises:
            OutputError: The folder cannot be written.
        """
        oldest = "" if self.retention_days is None else self._time(-self.retention_days * DAY_S)
        with self._locked():
            return self._rewrite(lambda row: row["time"] >= oldest)

    def _rewrite(self, keeps: Callable[[Row], bool]) -> int:
        """Keep the rows that are to be kept, the latest of each recording; return how many go."""
        rows = self._rows()
        in_time = sorted((row for found in rows.values() for row in found), key=lambda row: row["time"])
        latest = {_recording(row): row["id"] for row in in_time}
        changed, staying = _kept(rows, lambda row: keeps(row) and latest[_recording(row)] == row["id"])
        self._replace(changed)
        self._remove_unnamed(staying)
        return len(in_time) - len(staying)

    def _rows(self) -> dict[str, list[Row]]:
        return {place: read_rows(self.folder / place) for place in (MANIFEST, REJECTED)}

    def _remove_unnamed(self, rows: Iterable[Row]) -> None:
        """Remove recordings and pictures that no row names, and what a killed process left half written."""
        named = {row.get(column) for row in rows for column in ("audio", "image")}
        for folder in (AUDIO, IMAGES):
            for path in (self.folder / folder).iterdir():
                if f"{folder}/{path.name}" not in named:
                    path.unlink()
        for path in self.folder.glob(".*.tmp"):
            path.unlink()

    def _time(self, later_s: float = 0.0) -> str:
        """Return the time as text that sorts."""
        return datetime.fromtimestamp(self._now() + later_s, UTC).isoformat(timespec="microseconds")

    def _put(self, path: str, content: bytes) -> None:
        """Write a file that is named by its content."""
        place = self.folder / path
        if not place.is_file():
            with write_whole(place) as beside:
                _write(beside, content)
            sync_names(place.parent)

    def _replace(self, contents: Mapping[str, bytes]) -> None:
        """Replace manifests: all are on the disk before the first takes its place, which needs no room."""
        with contextlib.ExitStack() as replacing:
            for place, content in contents.items():
                _write(replacing.enter_context(write_whole(self.folder / place)), content)
        sync_names(self.folder)

    def _content(self, place: str) -> bytes:
        path = self.folder / place
        content = path.read_bytes() if path.is_file() else b""
        return content if content.endswith(b"\n") or not content else content + b"\n"  # somebody edited it

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with _refused(self.folder), (self.folder / LOCK).open("ab") as file:
            lock(file, wait=True)
            yield


def read_rows(path: Path) -> list[Row]:
    """Read the rows of one of the manifests; none where it is not there.

    Raises:
        SettingsError: A line is none of this module's; the message starts with `file:line`.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    except ValueError as error:
        raise SettingsError(f"{path}: no file of corrections ({error})") from error
    return [_row(f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line]


def _row(place: str, line: str) -> Row:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise SettingsError(f"{place}: no correction of this version ({error})") from error
    if not isinstance(row, dict):
        raise SettingsError(f"{place}: no correction of this version: a JSON {type(row).__name__}")
    for columns, default in ((_NEEDED, None), (_OPTIONAL, ...)):
        for name, kind in columns.items():
            value = row.get(name, default)
            if value is not ... and (not isinstance(value, kind) or isinstance(value, bool)):
                raise SettingsError(
                    f"{place}: no correction of this version: {name} is a {type(value).__name__}"
                )
    shown = row.get("shown", [])
    if not all(isinstance(each, dict) for each in shown) or not 0 <= row.get("rank", 0) < max(1, len(shown)):
        raise SettingsError(f"{place}: no correction of this version: rank is not that of a text in shown")
    return row


def _columns(correction: Correction) -> Row:
    """Return the columns of a correction; `group` lets every report of `bench tune` tell the kinds apart."""
    row: Row = {
        "reference": None if correction.how == "none" else correction.reference.strip(),
        "image_id": correction.image_id,
        "speaker": correction.speaker,
        "group": correction.how,
        "rank": correction.rank,
        "seconds": correction.seconds,
        "taps": correction.taps,
        "shown": [dict(alternative) for alternative in correction.shown],
        "bundle": None if correction.bundle is None else dict(correction.bundle),
        "consent": True,
    }
    return {name: value for name, value in row.items() if value is not None}


def _path(folder: str, file: SentFile) -> str:
    suffix = Path(file.name).suffix.lower()
    return f"{folder}/{hashlib.sha256(file.content).hexdigest()}{suffix if _SUFFIX.fullmatch(suffix) else ''}"


def _recording(row: Row) -> tuple[str, str]:
    """Return whose recording a row is about; the suffix of its file says nothing."""
    return row["speaker"], Path(row["audio"]).stem


def _kept(rows: Mapping[str, list[Row]], keeps: Callable[[Row], bool]) -> tuple[dict[str, bytes], list[Row]]:
    """Return what the manifests that lose rows become, and the rows of all that stay."""
    changed: dict[str, bytes] = {}
    staying: list[Row] = []
    for place, found in rows.items():
        kept = [row for row in found if keeps(row)]
        if len(kept) < len(found):
            changed[place] = b"".join(map(_line, kept))
        staying += kept
    return changed, staying


def _line(row: Row) -> bytes:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    """Write a new file that its owner alone reads, and have the disk take it."""
    path.touch(OURS_ALONE, exist_ok=False)
    path.write_bytes(content)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _close_to_others(folder: Path) -> None:
    """Let the owner alone read a folder and what is in it; say so where that was not so, or cannot be."""
    if sys.platform == "win32":  # which has lists of access in the place of modes
        return
    was_open = folder.stat().st_mode & OTHERS
    inside = [path for path in folder.rglob("*") if not path.is_symlink()]
    opened = [path for path in (folder, *inside) if path.stat().st_mode & OTHERS]
    for path in opened:
        with contextlib.suppress(PermissionError):  # somebody else's
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~OTHERS)
    if left := [path for path in opened if path.stat().st_mode & OTHERS]:
        logger.warning(
            "%s: others can read %d of its files and folders, which this user or file system cannot change; "
            "close it to them: it holds recordings of people",
            folder,
            len(left),
        )
    elif was_open:
        logger.warning("%s: others could read it; it is now closed to all but its owner", folder)


@contextlib.contextmanager
def _refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except EarsightError:
        raise
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}") from error
