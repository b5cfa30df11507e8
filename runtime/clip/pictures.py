"""Pictures of any origin → 8-bit RGB, within bounded memory.

Differences from `Image.open(path).convert("RGB")`, on purpose: the EXIF orientation is applied (a phone's
portrait is upright), 16-bit grey is scaled rather than clipped to white, only formats of `FORMATS` are tried
(no PostScript, which would start an interpreter; none of games, instruments and icons), and pictures too
large for memory are refused. Alpha is dropped and palettes are resolved as `convert` does it; of an animation
the first frame is taken.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, JpegImagePlugin, UnidentifiedImageError

from runtime.errors import ImageError, ImageFormatError, ImageNotFoundError, ImageTooLargeError
from runtime.files.given import open_file, read_object

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray

FORMATS: Final = (
    *("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "HEIF", "JPEG2000", "QOI", "PSD"),
    *("DDS", "SGI"),
)
# Their files begin with nothing that tells them from others: they are believed where the name says so.
NAMED_FORMATS: Final = ("TGA", "PCX")
READABLE: Final = "JPEG, PNG, GIF, BMP, TIFF, WebP, AVIF, PNM, JPEG 2000, QOI, PSD, DDS, SGI, TGA or PCX"
# Of formats that Pillow reads in one build and not in the next: so that a missing package is named.
OPTIONAL_SUFFIXES: Final = frozenset({".heic", ".heif", ".hif", ".avif", ".avifs", ".mpo"})
MAX_PIXELS: Final = 89_478_485  # decoded at once; 4 bytes each make 341 MiB. Pillow warns from here on
MOST_REDUCED: Final = 3  # times as many pixels may a JPEG have, which libjpeg decodes at a half or less
JPEG2000_SHARE: Final = 4  # of the pixels: its decoder takes 4 bytes for each of 3 colours beside them
QOI_SHARE: Final = 8  # of the pixels: its decoder is written in Python, and takes seconds for each million
MAX_FILE_BYTES: Final = 2**30
ORIENTATION_TAG: Final = 0x0112  # of EXIF
UPRIGHT: Final = {  # orientation → what turns the picture upright (EXIF 2.3, section 4.6.4)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
HEAD_BYTES: Final = 96  # holds the brands of a file of boxes
HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
AVIF_BRANDS: Final = frozenset({b"avif", b"avis"})


def picture_suffixes() -> frozenset[str]:
    """Return the endings of file names, in lower case, that `load_image` has a decoder for."""
    Image.init()
    readable = {*FORMATS, *NAMED_FORMATS}
    registered = {suffix for suffix, name in Image.EXTENSION.items() if name in readable}
    return frozenset(registered | OPTIONAL_SUFFIXES)


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a picture to RGB.

    Args:
        source: A path, the bytes of a file, an open binary file, a Pillow image, or an array of shape
            (height, width) or (height, width, 1, 3 or 4) with uint8, uint16, bool or floats in [0, 1].
        max_pixels: Most pixels that are decoded of a file.

    Returns:
        A Pillow image of mode "RGB", upright. JPEGs of more than `max_pixels` come at a reduced size.

    Raises:
        ImageNotFoundError: The path does not exist.
        ImageError: No picture, truncated, damaged, too large, or of an array shape or range that is none.
    """
    if isinstance(source, Image.Image):
        with _fenced("picture"):
            return _to_rgb(source, "picture")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    stream, name = _open_stream(source)
    with stream:
        return _decode(stream, name, max_pixels)


def _open_stream(source: str | os.PathLike[str] | bytes | BinaryIO) -> tuple[BinaryIO, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), "picture bytes"
    if isinstance(source, (str, os.PathLike)):
        return open_file(source, "picture", ImageError, ImageNotFoundError), str(source)
    expected = "a path, bytes, a binary file, a Pillow image or a numpy array"
    content = read_object(source, "picture", expected, MAX_FILE_BYTES, ImageError)
    return io.BytesIO(content), "picture bytes"


def _decode(stream: BinaryIO, name: str, max_pixels: int) -> Image.Image:
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    if not head:
        raise ImageError(f"{name}: empty file; expected {READABLE}")
    if _is_heic(head):
        _read_heic_too(name)
    with _fenced(name), _opened(stream, head, name, max_pixels) as picture:
        return _to_rgb(picture, name)


def _is_heic(head: bytes) -> bool:
    """Tell HEIC from AVIF, which comes in the same boxes, by all brands of the file."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    return not brands & AVIF_BRANDS and bool(brands & HEIF_BRANDS)


def _read_heic_too(name: str) -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ImageFormatError(
            f"{name}: HEIC cannot be read; expected {READABLE}: export the picture as JPEG, or install "
            "what reads it: pip install 'earsight[heic]'"
        ) from error
    register_heif_opener()


@contextlib.contextmanager
def _fenced(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise ImageTooLargeError(f"{name}: too large to decode ({error}); scale it down") from error
    except UnidentifiedImageError as error:
        raise ImageFormatError(
            f"{name}: no picture that can be decoded ({error}); expected {READABLE}"
        ) from error
    except (
        Exception
    ) as error:  # decoders of damaged files raise whatever they meet, from struct.error to KeyError
        raise ImageError(
            f"{name}: no picture that can be decoded ({error or type(error).__name__}); expected {READABLE}, "
            "complete: copy the file again"
        ) from error


def _opened(stream: BinaryIO, head: bytes, name: str, max_pixels: int) -> ImageFile.ImageFile:
    """Open without decoding, and refuse what would not fit into memory."""
    _require_size(_webp_canvas(head), max_pixels, name)
    if head[:3] == b"\xff\xd8\xff":
        # Not through Image.open, whose size limit leaves libjpeg no chance to reduce.
        picture: ImageFile.ImageFile = JpegImagePlugin.JpegImageFile(stream)
        # Progressive files hold all coefficients in memory whatever the reduction.
        progressive = "progressive" in picture.info
        _require_size(picture.size, max_pixels if progressive else MOST_REDUCED * max_pixels, name)
        factor = 1
        while picture.width * picture.height > max_pixels * factor * factor:
            factor *= 2
        if factor > 1:
            # Rounded down, since Pillow rounds the quotient of the sizes down.
            picture.draft("RGB", (max(1, picture.width // factor), max(1, picture.height // factor)))
    else:
        Image.init()
        named = Image.EXTENSION.get(Path(name).suffix.lower())
        formats = [*FORMATS, *(format_ for format_ in NAMED_FORMATS if format_ == named)]
        # Pillow before 11.3 has no AVIF, and raises KeyError for a format that it does not know.
        picture = Image.open(stream, formats=[format_ for format_ in formats if format_ in Image.OPEN])
        if picture.format == "QOI":
            _require_size(picture.size, max_pixels // QOI_SHARE, name)
        elif picture.format == "JPEG2000":
            reduction = 0  # halvings, of both sides
            while picture.width * picture.height > max_pixels // JPEG2000_SHARE << 2 * reduction:
                reduction += 1
            picture.reduce = reduction  # type: ignore[method-assign,assignment]  # this plugin's own setting
    _require_size(picture.size, max_pixels, name)
    return picture


def _webp_canvas(head: bytes) -> tuple[int, int]:
    """Width and height of an extended WebP: its decoder takes memory as soon as the file is opened."""
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) >= 30:
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return 1, 1


def _require_size(size: tuple[int, int], limit: int, name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width} x {height} pixels; expected at least one")
    if width * height > limit:
        raise ImageTooLargeError(
            f"{name}: {width} x {height} are {width * height / 1e6:.0f} million pixels; "
            f"at most {limit / 1e6:.0f} million are decoded: scale it down"
        )


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    _require_size(picture.size, MAX_PIXELS, name)
    picture.load()
    if picture.mode.startswith("I;16"):
        rgb = _grey(np.asarray(picture).astype(np.float32) / np.float32(257.0))  # 65535 = 257 · 255
    elif picture.mode in ("I", "F"):
        rgb = _grey(_grey_levels(np.asarray(picture), name))
    elif picture.mode in ("La", "RGBa"):  # colours multiplied by alpha: only their opaque form converts
        rgb = picture.convert(picture.mode[:-1] + "A").convert("RGB")
    else:
        rgb = picture.convert("RGB")
    turn = UPRIGHT.get(_orientation(picture))
    upright = rgb if turn is None else rgb.transpose(turn)
    upright.info = {}  # a copy's own: without the orientation, which would be applied again
    return upright


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - damaged metadata of a sound picture: upright, as every viewer shows it
        return 1
    return value if isinstance(value, int) else 1


def _grey_levels(values: npt.NDArray[np.generic], name: str) -> npt.NDArray[np.float32]:
    """Bring 32-bit integer or float grey to 0 … 255, going by its range."""
    levels = values.astype(np.float32)
    lowest, highest = float(levels.min()), float(levels.max())
    if not (lowest >= 0.0 and highest <= 65_535.0):  # also true of NaN
        raise ImageError(
            f"{name}: 32-bit grey from {lowest:g} to {highest:g}; "
            "expected 0 to 1, 255 or 65535: convert it to 8 bits"
        )
    if values.dtype.kind == "f" and highest <= 1.0:
        levels *= 255.0
    elif highest > 255.0:  # Pillow opens 16-bit PNM as 32-bit integers scaled to 65535
        levels /= 257.0
    return levels


def _grey(levels: npt.NDArray[np.float32]) -> Image.Image:
    return Image.fromarray(np.rint(levels, out=levels).astype(np.uint8)).convert("RGB")


def _from_array(array: npt.NDArray[np.generic]) -> Image.Image:
    name = f"picture array of shape {array.shape} and dtype {array.dtype}"
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        hint = (
            " (transpose it: array.transpose(1, 2, 0))"
            if array.ndim == 3 and array.shape[0] in (1, 3, 4)
            else ""
        )
        raise ImageError(f"{name}; expected (height, width) or (height, width, 1, 3 or 4){hint}")
    _require_size((array.shape[1], array.shape[0]), MAX_PIXELS, name)
    if array.dtype == np.uint8:
        pixels = np.ascontiguousarray(array).astype(np.uint8, copy=False)
    elif array.dtype == np.uint16:
        pixels = np.rint(array.astype(np.float32) / 257.0).astype(np.uint8)
    elif array.dtype == np.bool_:
        pixels = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype.kind == "f":
        floats = array.astype(np.float32)
        # NaN fails both comparisons.
        if not (float(floats.min()) >= 0.0 and float(floats.max()) <= 1.0):
            raise ImageError(f"{name} with values outside [0, 1]; divide by 255 or pass uint8")
        pixels = np.rint(floats * 255.0).astype(np.uint8)
    else:
        raise ImageError(f"{name}; expected uint8, uint16, bool, or floats in [0, 1]")
    if pixels.ndim == 3 and channels == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
