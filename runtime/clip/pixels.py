"""RGB pictures → the tensor that CLIP's vision tower takes, equal to `transformers.CLIPImageProcessor`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from runtime.bundle.json_files import number_from, read_json_object, whole_number_from
from runtime.clip.pictures import ImageSource, load_image
from runtime.errors import BundleError, ImageError

__all__ = ["ImagePreprocessor", "ImageSource", "load_image"]

CONFIG_FILE: Final = "preprocessor_config.json"
MAX_EDGE: Final = 4_096  # pixels of a tensor's side; CLIP models take 224 to 448
# The picture is resized whole and then cropped, as the original does, up to this many pixels (48 MB).
# Beyond (a strip of 1 x 20,000 pixels would become 224 x 4,480,000) only the part that is kept is computed.
MAX_RESIZED_PIXELS: Final = 1 << 24
CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)  # of the 400 million pictures that CLIP was trained on
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class ImagePreprocessor:
    """Resize, centre crop, rescale, normalise, in this order, each if asked for.

    Attributes:
        resize_shortest: Pixels of the shorter edge after resizing, or None.
        resize_to: (height, width) after resizing, or None; used where `resize_shortest` is None.
        crop_to: (height, width) of the centre crop, padded with black where the picture is smaller, or None.
        resample: Pillow's filter.
        levels: What each 8-bit value becomes, float32, shape (3, 256): rescaling and normalisation in one.
    """

    resize_shortest: int | None
    resize_to: tuple[int, int] | None
    crop_to: tuple[int, int] | None
    resample: Image.Resampling
    levels: npt.NDArray[np.float32]

    @classmethod
    def from_folder(cls, folder: Path) -> "ImagePreprocessor":
        """Read `folder/preprocessor_config.json`, with CLIP's defaults where a key is absent.

        `do_convert_rgb` is not read: the vision tower takes three channels, so RGB it is in any case.

        Raises:
            BundleNotFoundError: There is no such file.
            BundleError: A setting has the wrong type or an impossible value.
        """
        path = Path(folder) / CONFIG_FILE
        config = read_json_object(path)
        shortest: int | None = None
        resize_to: tuple[int, int] | None = None
        if _flag(config, "do_resize", path):
            shortest, resize_to = _resize_settings(config, path)
        crop_to = _crop_settings(config, path) if _flag(config, "do_center_crop", path) else None
        code = whole_number_from(config, "resample", Image.Resampling.BICUBIC, 0, 5, path)
        return cls(shortest, resize_to, crop_to, Image.Resampling(code), _levels(config, path))

    @property
    def output_size(self) -> tuple[int, int] | None:
        """Return (height, width) of every tensor, None where it depends on the picture."""
        return self.crop_to or self.resize_to

    def __call__(self, images: Sequence[ImageSource]) -> npt.NDArray[np.float32]:
        """Preprocess pictures.

        Args:
            images: Whatever `load_image` takes.

        Returns:
            float32, shape (len(images), 3, height, width), values within 1e-4 of `CLIPImageProcessor`.

        Raises:
            ImageError: A picture is unusable, or sizes differ and nothing brings them to one.
        """
        tensors = [self._tensor(load_image(image)) for image in images]
        if not tensors:
            height, width = self.output_size or (0, 0)
            return np.zeros((0, 3, height, width), np.float32)
        sizes = {tensor.shape[1:] for tensor in tensors}
        if len(sizes) > 1:
            raise ImageError(
                f"pictures of sizes {sorted(sizes)} cannot share a batch; the checkpoint neither crops nor "
                "resizes to one size: pass them one by one"
            )
        return np.stack(tensors)

    def _tensor(self, picture: Image.Image) -> npt.NDArray[np.float32]:
        target = self._resized_size(picture.size)
        if target is not None:
            picture = self._resized(picture, target)
        pixels = np.asarray(picture)
        if self.crop_to is not None:
            pixels = _centre_crop(pixels, self.crop_to)
        # One table look-up a channel stands for rescaling and normalising every pixel.
        return np.stack([self.levels[channel][pixels[:, :, channel]] for channel in range(3)])

    def _resized_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """(height, width) after resizing, None if there is none."""
        if self.resize_shortest is None:
            return self.resize_to
        width, height = size
        short, long = min(size), max(size)
        stretched = int(self.resize_shortest * long / short)
        if width <= height:
            return stretched, self.resize_shortest
        return self.resize_shortest, stretched

    def _resized(self, picture: Image.Image, target: tuple[int, int]) -> Image.Image:
        height, width = target
        if height * width <= MAX_RESIZED_PIXELS:
            return picture.resize((width, height), resample=self.resample)
        if self.crop_to is None:
            raise ImageError(
                f"picture of {picture.width} x {picture.height} pixels would be resized to "
                f"{width} x {height}; crop it first"
            )
        # Resize the box that becomes the crop; Pillow's filters still see the pixels around it.
        # Rows first, then columns, as Pillow does with the whole: each pass rounds and clips to 8 bits.
        # The box is held in float32, so that in 0.1 % of the values the last bit or two differ.
        kept_height, kept_width = min(self.crop_to[0], height), min(self.crop_to[1], width)
        top, left = (height - kept_height) // 2, (width - kept_width) // 2
        down, across = picture.height / height, picture.width / width
        columns = (left * across, 0, (left + kept_width) * across, picture.height)
        narrow = picture.resize((kept_width, picture.height), resample=self.resample, box=columns)
        rows = (0, top * down, kept_width, (top + kept_height) * down)
        return narrow.resize((kept_width, kept_height), resample=self.resample, box=rows)


def _centre_crop(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Crop (height, width, 3) around the centre; where the picture is smaller, pad with black."""
    height, width = size
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    cropped = np.zeros((height, width, 3), np.uint8)
    # Negative offsets are margins of the crop, positive ones of the picture.
    rows = slice(max(0, -top), max(0, -top) + min(height, pixels.shape[0]))
    columns = slice(max(0, -left), max(0, -left) + min(width, pixels.shape[1]))
    cropped[rows, columns] = pixels[max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
    return cropped


def _levels(config: dict[str, Any], path: Path) -> npt.NDArray[np.float32]:
    values = np.arange(256, dtype=np.float64)
    if _flag(config, "do_rescale", path):
        values = values * number_from(config, "rescale_factor", 1 / 255, -1e6, 1e6, path)
    levels = np.repeat(values.astype(np.float32)[None], 3, axis=0)
    if _flag(config, "do_normalize", path):
        mean = _three(config, "image_mean", CLIP_MEAN, path)
        std = _three(config, "image_std", CLIP_STD, path)
        if not (std != 0.0).all():
            raise BundleError(f"{path}: image_std is {std.tolist()}; expected numbers other than 0")
        levels = (levels - mean[:, None]) / std[:, None]
    return levels


def _three(
    config: dict[str, Any], key: str, default: tuple[float, float, float], path: Path
) -> npt.NDArray[np.float32]:
    value = config.get(key)
    if value is None:
        value = list(default)
    elements = value if isinstance(value, list) else [value] * 3
    if len(elements) != 3:
        raise BundleError(f"{path}: {key} is {value!r}; expected three numbers, one a channel")
    named = {f"{key}[{index}]": element for index, element in enumerate(elements)}
    return np.array([number_from(named, name, 0.0, -1e6, 1e6, path) for name in named], np.float32)


def _resize_settings(config: dict[str, Any], path: Path) -> tuple[int | None, tuple[int, int] | None]:
    size = config.get("size")
    if size is None:
        return 224, None
    if isinstance(size, dict) and "shortest_edge" in size:
        return _edge(size, "shortest_edge", "size", path), None
    if isinstance(size, dict):
        return None, (_edge(size, "height", "size", path), _edge(size, "width", "size", path))
    return _edge({"size": size}, "size", "size", path), None


def _crop_settings(config: dict[str, Any], path: Path) -> tuple[int, int]:
    size = config.get("crop_size")
    if size is None:
        return 224, 224
    if isinstance(size, dict):
        return _edge(size, "height", "crop_size", path), _edge(size, "width", "crop_size", path)
    edge = _edge({"crop_size": size}, "crop_size", "crop_size", path)
    return edge, edge


def _edge(sizes: dict[str, Any], key: str, setting: str, path: Path) -> int:
    value = sizes.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_EDGE:
        raise BundleError(f"{path}: {setting} {key} is {value!r}; expected 1 to {MAX_EDGE} pixels")
    return value


def _flag(config: dict[str, Any], key: str, path: Path) -> bool:
    value = config.get(key, True)
    if value is None:
        return True
    if not isinstance(value, bool):
        raise BundleError(f"{path}: {key} is {value!r}; expected true or false")
    return value
