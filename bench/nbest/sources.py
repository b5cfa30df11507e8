"""What the rows of an n-best file were made of, and whether the manifest still says so.

An id alone does not tell: it may be a path that another folder has as well, and recordings, pictures and
references are mended between two runs. So each row keeps a digest of its files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from bench.manifest import Utterance
from bench.nbest.records import NBestUtterance


def source_of(utterance: Utterance) -> str | None:
    """Return a digest of a row's audio and picture files; None where one cannot be read."""
    audio = file_digest(utterance.audio)
    picture = "" if utterance.image is None else _picture_digest(utterance.image)
    if audio is None or picture is None:
        return None
    return hashlib.sha256(f"{audio} {picture}".encode()).hexdigest()[:32]


def file_digest(path: Path) -> str | None:
    """Return the digest of a file's content; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


@lru_cache(maxsize=20_000)  # many rows may describe one picture
def _picture_digest(path: Path) -> str | None:
    return file_digest(path)


def picture_key(utterance: Utterance) -> str | None:
    """Return the name of an utterance's picture; None where it has none."""
    return utterance.image_id or (utterance.image.name if utterance.image else None)


@dataclass(slots=True)
class Revision:
    """Compares the rows of an n-best file with those of a manifest.

    Attributes:
        rows: The manifest's, by id.
        drop_others: Whether rows that the manifest does not have leave the file.
        again: Ids whose audio or picture is another one: they are to be recognised again.
        retold: Ids that take another reference, speaker or group.
        others: Ids that the manifest does not have.
    """

    rows: dict[str, Utterance]
    drop_others: bool = False
    again: list[str] = field(default_factory=list)
    retold: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @classmethod
    def by(cls, utterances: Sequence[Utterance], *, drop_others: bool = False) -> "Revision":
        """Compare with these rows, and with their files as they are now."""
        _picture_digest.cache_clear()
        return cls({utterance.id: utterance for utterance in utterances}, drop_others)

    def __call__(self, known: NBestUtterance) -> NBestUtterance | None:
        """Return what the file is to hold in place of a row; None where that is nothing."""
        row = self.rows.get(known.id)
        if row is None:
            self.others.append(known.id)
            return None if self.drop_others else known
        told = replace(known, reference=row.reference, speaker=row.speaker, group=row.group)
        retold = told != known
        source = source_of(row)
        other_files = source is not None and known.source not in (None, source)
        # A file of an older version has no digests: where it tells something else, it may be of other files.
        unknown = known.source is None and retold
        if other_files or unknown or known.image_id != picture_key(row):
            self.again.append(known.id)
            return None
        if retold:
            self.retold.append(known.id)
            return told
        return known

    def changes(self) -> list[str]:
        """Say what was found, a sentence each."""
        fate = "leave" if self.drop_others else "stay in"
        said = (
            (self.again, "recognised again: their audio or picture changed"),
            (self.retold, "given the manifest's reference, speaker and group"),
            (self.others, f"not in the manifest: they {fate} it"),
        )
        return [f"{len(ids)} utterances are {what} (the first: {ids[0]})" for ids, what in said if ids]
