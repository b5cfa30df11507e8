"""Training batches of the pocket CLIP, made as they are needed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.pocket.captions import Item, Scene, draw_scene
from bench.pocket.negatives import wrong_caption
from bench.pocket.pictures import HEIGHT, draw
from bench.pocket.vocabulary import NOUNS, OBJECT_COLOURS
from runtime.fusion import to_caption_style

IMAGE_SIZE: Final = 112  # pixels, after resizing the shorter side and cropping the middle
PATCH: Final = 14
GRID: Final = IMAGE_SIZE // PATCH
MEAN: Final = (0.48145466, 0.4578275, 0.40821073)  # CLIP's own normalisation
STD: Final = (0.26862954, 0.26130258, 0.27577711)
NOTHING: Final = len(NOUNS)  # label of a patch without an object
_NOUN_IDS: Final = {noun: i for i, noun in enumerate(NOUNS)}
_COLOUR_IDS: Final = {colour: i for i, colour in enumerate([None, *OBJECT_COLOURS])}

Placed = list[tuple[Item, int, int, int]]


@dataclass(frozen=True)
class Batch:
    """B pictures, each with one right caption and W wrong ones."""

    pixels: torch.Tensor  # (B, 3, 112, 112)
    input_ids: (
        torch.Tensor
    )  # (B * (1 + W), tokens): first the right captions, then the wrong ones picture by picture
    attention_mask: torch.Tensor  # like input_ids
    nouns: torch.Tensor  # (B, 64): what stands on every patch, `NOTHING` for background
    colours: torch.Tensor  # (B, 64): its tint, 0 for none


def shrink(picture: Image.Image) -> NDArray[np.uint8]:
    """What `CLIPImageProcessor` makes of a picture before normalising, shape (112, 112, 3)."""
    width = int(picture.width * IMAGE_SIZE / picture.height)
    small = picture.resize((width, IMAGE_SIZE), Image.Resampling.BICUBIC)
    left = (width - IMAGE_SIZE) // 2
    return np.asarray(small.crop((left, 0, left + IMAGE_SIZE, IMAGE_SIZE)), np.uint8)


def patch_labels(placed: Placed, width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Noun and colour of every patch, shape (64,) each; an object owns the patches of its inner part."""
    scale = IMAGE_SIZE / HEIGHT
    crop = (int(width * scale) - IMAGE_SIZE) // 2
    y, x = (np.mgrid[:GRID, :GRID] + 0.5) * PATCH
    nouns = np.full((GRID, GRID), NOTHING)
    colours = np.zeros((GRID, GRID), np.int64)
    for item, centre_x, centre_y, side in placed:
        distance = np.maximum(abs(x - (centre_x * scale - crop)), abs(y - centre_y * scale))
        inside = distance < 0.4 * side * scale
        nouns[inside] = _NOUN_IDS[item.noun]
        colours[inside] = _COLOUR_IDS[item.colour]
    return nouns.ravel(), colours.ravel()


def training_scene(rng: np.random.Generator) -> Scene:
    """A scene with a training caption."""
    return draw_scene(rng, "train")


def make_batch(
    rng: np.random.Generator,
    tokenizer: Callable[..., Any],
    size: int,
    wrong: int,
    draw_from: Callable[[np.random.Generator], Scene] = training_scene,
    write_down: Callable[[str, bool, np.random.Generator], str] | None = None,
) -> Batch:
    """A batch of fresh pictures of training sentences.

    Args:
        rng: source of chance.
        tokenizer: the pocket CLIP's.
        size: pictures.
        wrong: wrong captions for each.
        draw_from: where scenes come from.
        write_down: what a caption becomes on paper, told whether it is the right one; None leaves it alone.
    """
    pixels, right, others, nouns, colours = [], [], [], [], []
    for _ in range(size):
        scene = draw_from(rng)
        picture, placed = draw(scene, rng)
        pixels.append(shrink(picture))
        labels = patch_labels(placed, picture.width)
        nouns.append(labels[0])
        colours.append(labels[1])
        if rng.random() < 0.3:
            scene = replace(scene, opening=None)
        written = [scene.caption(), *(wrong_caption(scene, rng) for _ in range(wrong))]
        if write_down is not None:
            written = [write_down(text, i == 0, rng) for i, text in enumerate(written)]
        right.append(to_caption_style(written[0]))
        others += [to_caption_style(text) for text in written[1:]]
    tokens = tokenizer(right + others, padding=True, truncation=True, return_tensors="pt")
    scaled = (np.stack(pixels).astype(np.float32) / 255.0 - np.array(MEAN, np.float32)) / np.array(
        STD, np.float32
    )
    return Batch(
        torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))),
        tokens["input_ids"],
        tokens["attention_mask"],
        torch.from_numpy(np.stack(nouns)),
        torch.from_numpy(np.stack(colours)),
    )
