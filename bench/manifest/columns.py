"""What the columns of a manifest are called, here and by other tools.

Names are compared without case, blanks, hyphens and underscores: `Image Path`, `image_path` and `imagePath`
are one.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Final

from runtime.errors import ManifestError

EXPECTED_COLUMNS: Final = "audio, reference, and optionally image or image_id, id, speaker, group"
# Our name first; then those of NeMo, Hugging Face, Common Voice, DeepSpeech, Kaldi's users and spreadsheets.
NAMES: Final = {
    "audio": (
        *("audio", "audio_file", "audio_path", "audio_filepath", "audio_filename", "file_name", "path"),
        *("file_path", "wav", "wav_file", "wav_path", "wav_filename"),
    ),
    "reference": ("reference", "text", "transcription", "transcript", "sentence"),
    "image": (
        *("image", "image_file", "image_path", "image_filepath", "image_filename", "img", "img_file"),
        *("img_path", "picture", "picture_file", "picture_path", "photo", "photo_file", "photo_path"),
    ),
    "image_id": ("image_id", "image_key", "img_id", "picture_id", "photo_id"),
    "id": ("id", "utt_id", "utterance_id"),
    "speaker": ("speaker", "speaker_id", "spk_id", "client_id"),
    "group": ("group",),
}
_LIKE_A_PICTURE: Final = re.compile(r"image|picture|photo|img|jpe?g|png")


def plain(name: str) -> str:
    """Return a column's name as it is compared."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold())


_FIELD_OF: Final = {plain(name): field for field, names in NAMES.items() for name in names}


def field_of(name: str) -> str | None:
    """Return our name of a column; None for a column that is not read."""
    return _FIELD_OF.get(plain(name))


def is_blank(value: object) -> bool:
    """Whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def in_our_names(place: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells that are read, by our names.

    Our own name goes first where another one stands beside it; cells that hold nothing give way.

    Raises:
        ManifestError: Two columns that may mean the same differ.
    """
    columns: dict[str, list[str]] = {}
    for name in row:
        if field := field_of(name):
            columns.setdefault(field, []).append(name)
    return {field: row[_chosen(place, row, field, names)] for field, names in columns.items()}


def _chosen(place: str, row: Mapping[str, Any], field: str, names: list[str]) -> str:
    filled = [name for name in names if not is_blank(row[name])] or names
    ours = [name for name in filled if plain(name) == plain(field)] or filled
    if len({str(row[name]) for name in ours}) > 1:
        raise ManifestError(
            f"{place}: {' and '.join(ours)} differ, and either may be the {field}; leave one of them, or "
            f"call it `{field}`"
        )
    return ours[0]


def columns_like_pictures(row: Mapping[str, Any]) -> Iterable[str]:
    """Return the filled columns that look like pictures and are not read."""
    return [
        name
        for name, value in row.items()
        if field_of(name) is None and _LIKE_A_PICTURE.search(plain(name)) and not is_blank(value)
    ]


def listed(names: Iterable[object]) -> str:
    """Return names for a message."""
    return ", ".join(map(str, names)) or "nothing"
