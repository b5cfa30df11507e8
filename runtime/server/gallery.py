"""The pictures that the server offers to describe: a folder or a manifest of them."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from runtime.bundle.json_files import parse_row
from runtime.clip.pictures import MAX_FILE_BYTES
from runtime.errors import ImageError, ImageNotFoundError, ManifestError
from runtime.files.given import text_encoding

# What browsers show, by the suffix. No SVG: it may hold scripts.
MEDIA_TYPES: Final = {
    ".avif": "image/avif",
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}
MANIFESTS: Final = (".jsonl", ".ndjson", ".json")
MOST_PICTURES: Final = 10_000
NAMED: Final = 10  # files that are not offered and named; of the others the number is told

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GalleryPicture:
    """One picture.

    Attributes:
        id: SHA-256 of its bytes, as `picture_id` gives it.
        name: What it is called beside it.
        path: Its file.
    """

    id: str
    name: str
    path: Path

    @property
    def media_type(self) -> str:
        """Its type, by the suffix of its file."""
        return MEDIA_TYPES[self.path.suffix.lower()]

    def read(self) -> bytes:
        """Return the bytes that the id stands for.

        Raises:
            ImageNotFoundError: The file has gone or been changed since the server started.
        """
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise ImageNotFoundError(f"{self.name}: the picture cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.id:
            raise ImageNotFoundError(f"{self.name}: the picture was changed; start the server again")
        return content


def read_gallery(source: Path) -> dict[str, GalleryPicture]:
    """Find the pictures of a gallery; every file is read once for its id.

    Args:
        source: A folder, whose pictures are offered by name (the log names its other files), or a manifest:
            JSON Lines with `image`, a path relative to it, and perhaps `name`. Rows without a picture are
            passed over.

    Returns:
        The pictures by their ids, each once, at least one.

    Raises:
        ManifestError: The manifest cannot be used, or there is no picture.
        ImageNotFoundError: There is no such folder or picture.
        ImageError: A file is of a type that browsers do not show, or too large.
    """
    rows: Iterable[tuple[Path, str]]
    if source.is_dir():
        rows = _folder(source)
    elif source.is_file():
        rows = _rows(source)
    else:
        raise ImageNotFoundError(f"--gallery {source}: no such folder or manifest")
    pictures: dict[str, GalleryPicture] = {}
    for path, name in rows:
        picture = GalleryPicture(_digest(path), name, path)
        pictures.setdefault(picture.id, picture)
        if len(pictures) > MOST_PICTURES:
            raise ManifestError(
                f"--gallery {source}: more than {MOST_PICTURES} pictures; offer a part of them"
            )
    if not pictures:
        raise ManifestError(f"--gallery {source}: no picture; expected {', '.join(MEDIA_TYPES)}")
    return pictures


def _folder(folder: Path) -> list[tuple[Path, str]]:
    """Return the pictures of a folder; the log names what else is there, hidden files aside."""
    found = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    shown = [path for path in found if path.suffix.lower() in MEDIA_TYPES and path.is_file()]
    if others := [path for path in found if path not in set(shown)]:
        names = ", ".join(f"{path.name}/" if path.is_dir() else path.name for path in others[:NAMED])
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        logger.warning(
            "--gallery %s: %d not offered: %s%s; expected %s",
            folder, len(others), names, more, ", ".join(MEDIA_TYPES),
        )  # fmt: skip
    return [(path, path.stem) for path in shown]


def _rows(manifest: Path) -> Iterator[tuple[Path, str]]:
    if manifest.suffix.lower() not in MANIFESTS:
        raise ManifestError(f"--gallery {manifest}: expected a folder or JSON Lines ({', '.join(MANIFESTS)})")
    try:
        data = manifest.read_bytes()
        lines = data.decode(text_encoding(data)).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"--gallery {manifest}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place, expected = f"{manifest}:{number}", "an object whose image and name are texts"
        row = parse_row(place, line, ManifestError, expected)
        if not all(isinstance(row.get(key) or "", str) for key in ("image", "name")):
            raise ManifestError(f"{place}: expected {expected}")
        if row.get("image"):
            path = manifest.parent / row["image"]
            yield path, row.get("name") or path.stem


def _digest(path: Path) -> str:
    if path.suffix.lower() not in MEDIA_TYPES:
        raise ImageError(f"{path}: browsers do not show this type; expected {', '.join(MEDIA_TYPES)}")
    try:
        with path.open("rb") as file:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ImageError(f"{path}: larger than {MAX_FILE_BYTES} bytes; scale it down")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageNotFoundError(f"{path}: the picture cannot be read: {error.strerror}") from error
