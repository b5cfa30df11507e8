"""The utterances that the report shows: what the picture mended, what it broke, what stays wrong."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps

from bench.nbest.records import NBestFile
from bench.nbest.table import build_table
from bench.tuning import TuneResult
from bench.tuning.explain import Explanation, explain

SHOWN: Final = 14
MOST_IMPROVED: Final = 7
MOST_WORSENED: Final = 3
THUMBNAIL_PIXELS: Final = 240


@dataclass(frozen=True, slots=True)
class Example:
    """One utterance of the report.

    Attributes:
        explanation: Its scores and choices.
        kind: "improved", "worsened", "still wrong" or "right".
        thumbnail: The picture as a data URI, or None.
        without_picture: Why there is no thumbnail, empty if there is one.
    """

    explanation: Explanation
    kind: str
    thumbnail: str | None
    without_picture: str


def select_examples(result: TuneResult, nbest: NBestFile, images: Mapping[str, Path]) -> list[Example]:
    """Choose utterances to show, in the order of kinds, each kind in file order.

    Args:
        result: The tuning run; its fusion, normaliser and ASR score apply.
        nbest: The lists to show, of the test data or of the tuning data.
        images: Picture file of each utterance id.
    """
    table = build_table(nbest.utterances, result.normalizer, result.options.asr_score)
    by_kind: dict[str, list[Explanation]] = {"improved": [], "worsened": [], "still wrong": [], "right": []}
    for explanation in explain(table, result.fusion):
        by_kind[_kind(explanation)].append(explanation)
    limits = {"improved": MOST_IMPROVED, "worsened": MOST_WORSENED, "still wrong": SHOWN, "right": SHOWN}
    chosen = [(kind, item) for kind, items in by_kind.items() for item in items[: limits[kind]]]
    return [_example(item, kind, images.get(item.id)) for kind, item in chosen[:SHOWN]]


def _kind(explanation: Explanation) -> str:
    if not explanation.hypotheses:
        return "still wrong" if explanation.reference.strip() else "right"
    before = explanation.hypotheses[explanation.before].errors
    after = explanation.hypotheses[explanation.after].errors
    if after != before:
        return "improved" if after < before else "worsened"
    return "still wrong" if after else "right"


def _example(explanation: Explanation, kind: str, image: Path | None) -> Example:
    if image is None:
        return Example(explanation, kind, None, "no picture")
    try:
        return Example(explanation, kind, thumbnail(image), "")
    except OSError as error:
        return Example(explanation, kind, None, f"picture {image.name} cannot be read: {error}")


def thumbnail(path: Path) -> str:
    """Return a picture as a JPEG data URI of at most 240 x 240 pixels.

    Raises:
        OSError: The file is missing or is no picture.
    """
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGBA")
    upright.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    ground = Image.new("RGB", upright.size, "white")
    ground.paste(upright, mask=upright.getchannel("A"))
    buffer = BytesIO()
    ground.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
