"""Pictures of scenes, drawn with the Noto Color Emoji font."""

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.pocket.captions import Item, Scene
from bench.pocket.vocabulary import BACKGROUNDS, OBJECT_COLOURS
from runtime.errors import ImageError

FONT: Final = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE: Final = 109  # the one size of the font's bitmaps
WIDTH, HEIGHT = 144, 128  # pixels; wider than high, so that cropping to a square does something
MARGIN: Final = 10  # left and right, pixels: about what the square crop cuts off


@lru_cache(maxsize=512)
def sprite(emoji: str, colour: str | None) -> Image.Image:
    """The emoji cut to its outline, RGBA, longest side about 128 pixels; tinted if `colour` is given.

    Raises:
        ImageError: the font is not installed, or has no such emoji.
    """
    if not FONT.is_file():
        raise ImageError(f"font {FONT} is not there; install the package fonts-noto-color-emoji")
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    canvas = Image.new("RGBA", (180, 180), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((20, 20), emoji, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ImageError(f"font {FONT} draws nothing for {emoji!r}; expected a colour glyph")
    drawn = canvas.crop(box)
    if colour is None:
        return drawn
    pixels = np.asarray(drawn).astype(np.float32)
    light = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) / 255.0
    shade = (0.35 + 0.65 * light)[..., None]
    pixels[..., :3] = shade * np.array(OBJECT_COLOURS[colour], np.float32)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8), "RGBA")


def _centres(scene: Scene, rng: np.random.Generator) -> list[tuple[float, float]]:
    """A centre for every single object, in fractions of the inner picture, in the items' order."""
    total = sum(item.count for item in scene.items)
    if total == 1:
        return [(0.5, 0.5)]
    if total == 3:
        corners = [(0.24, 0.27), (0.76, 0.27), (0.5, 0.75)]
        if rng.random() < 0.5:
            corners = [(x, 1 - y) for x, y in corners]
        return [corners[i] for i in rng.permutation(3)]
    ends = {
        "left of": [(0.25, 0.5), (0.75, 0.5)],
        "right of": [(0.75, 0.5), (0.25, 0.5)],
        "above": [(0.5, 0.25), (0.5, 0.75)],
        "under": [(0.5, 0.75), (0.5, 0.25)],
    }
    if scene.relation in ends:
        return ends[scene.relation]
    return ends["left of"] if rng.random() < 0.5 else ends["right of"]


def _background(scene: Scene, rng: np.random.Generator) -> NDArray[np.float32]:
    """The empty picture: one colour, lighter towards one side, with some grain; (height, width, 3)."""
    taken = {item.colour for item in scene.items}
    name = scene.background or str(rng.choice([b for b in BACKGROUNDS if b not in taken]))
    base = np.array(BACKGROUNDS[name], np.float32) + rng.uniform(-8, 8, 3).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * x + np.sin(angle) * y) * rng.uniform(0, 8)
    grain = rng.normal(0, 1.5, (HEIGHT, WIDTH)).astype(np.float32)
    return np.asarray(base + (slope + grain)[..., None], np.float32)


def place(scene: Scene, rng: np.random.Generator) -> list[tuple[Item, int, int, int]]:
    """Where every object stands: (item, centre x, centre y, longest side), pixels."""
    objects = [item for item in scene.items for _ in range(item.count)]
    low, high = {1: (62, 92), 2: (46, 58), 3: (40, 50)}[len(objects)]
    placed = []
    for item, (fx, fy) in zip(objects, _centres(scene, rng), strict=True):
        side = int(rng.integers(low, high + 1))
        slack = 14 if len(objects) == 1 else 5
        x = MARGIN + fx * (WIDTH - 2 * MARGIN) + rng.uniform(-slack, slack)
        y = fy * HEIGHT + rng.uniform(-slack, slack)
        placed.append((item, round(x), round(y), side))
    return placed


def draw(scene: Scene, rng: np.random.Generator) -> tuple[Image.Image, list[tuple[Item, int, int, int]]]:
    """Draw a scene.

    Args:
        scene: what to show.
        rng: source of positions, sizes, slight turns and the background.

    Returns:
        The picture, RGB, `WIDTH` x `HEIGHT` pixels, and where every object stands (see `place`).
    """
    picture = Image.fromarray(_background(scene, rng).clip(0, 255).astype(np.uint8), "RGB")
    placed = place(scene, rng)
    for item, x, y, side in placed:
        glyph = sprite(item.noun.emoji, item.colour)
        scale = side / max(glyph.size)
        size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
        small = glyph.resize(size, Image.Resampling.BILINEAR)
        small = small.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR, expand=True)
        picture.paste(small, (x - small.width // 2, y - small.height // 2), small)
    return picture, placed
