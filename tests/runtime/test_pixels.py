"""Pictures: preprocessing against `CLIPImageProcessor`, decoding of every mode, memory, clear refusals."""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from runtime.clip.pictures import MAX_PIXELS, picture_suffixes
from runtime.clip.pixels import ImagePreprocessor, load_image
from runtime.errors import BundleError, BundleNotFoundError, ImageError, ImageNotFoundError
from tests.conftest import SHARED
from tests.fuzz.seeds import encoded, image_seeds, picture, psd, qoi

# Demanded. Both sides resize with Pillow and compute the rest in float32: measured 0.
TOLERANCE = 1e-4
SIZES = [(224, 224), (1, 1), (300, 200), (201, 301), (31, 500), (500, 7), (640, 480), (2, 3), (1, 90)]


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def original(folder: Path, **options):
    """Transformers' processor, its settings saved into the folder."""
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(**options)
    processor.save_pretrained(folder)
    return lambda image: processor(image, return_tensors="np", input_data_format="channels_last")[
        "pixel_values"
    ]


def settings_file(folder: Path, settings: object) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


# -- parity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"shortest_edge": 64}, "crop_size": 64},
        {"size": 96, "crop_size": {"height": 64, "width": 48}, "resample": 2},
        {"size": {"height": 50, "width": 70}, "crop_size": 101},
        {"size": 64, "crop_size": 81, "resample": 1},
        {"do_resize": False, "crop_size": 30},
        {"do_center_crop": False, "size": {"height": 33, "width": 44}, "resample": 0},
        {"do_normalize": False, "size": 40, "crop_size": 40, "resample": 5},
        {"do_rescale": False, "size": 40, "crop_size": 40},
        {
            "rescale_factor": 1 / 127.5,
            "image_mean": [1.0, 1.0, 1.0],
            "image_std": 0.5,
            "size": 40,
            "crop_size": 40,
        },
    ],
    ids=str,
)
def test_equals_transformers(tmp_path, options):
    expected = original(tmp_path, **options)
    preprocess = ImagePreprocessor.from_folder(tmp_path)
    for size in SIZES:
        image = noise(size)
        pixels = preprocess([image])
        assert pixels.dtype == np.float32
        np.testing.assert_allclose(pixels, expected(image), rtol=0, atol=TOLERANCE, err_msg=str(size))


@pytest.mark.parametrize("size", [(80, 70), (1, 1)])
@pytest.mark.parametrize(
    "mode", ["RGB", "RGBA", "RGBX", "L", "LA", "P", "PA", "CMYK", "1", "YCbCr", "HSV", "LAB"]
)
def test_every_mode_equals_transformers(tmp_path, mode, size):
    expected = original(tmp_path, size=64, crop_size=64)
    image = Image.new("LAB", size, (120, 90, 200)) if mode == "LAB" else picture(mode, size)
    np.testing.assert_allclose(
        ImagePreprocessor.from_folder(tmp_path)([image]), expected(image), rtol=0, atol=TOLERANCE
    )


@pytest.mark.parametrize("mode", ["I;16", "F", "I"])
def test_deep_modes_equal_transformers_on_their_8_bits(tmp_path, mode):
    """CLIPImageProcessor clips 16 bits to 8 (nearly white); it gets the same picture with 8 bits."""
    expected = original(tmp_path, size=64, crop_size=64)
    image = picture(mode, (80, 70))
    values = np.asarray(image, np.float64)
    eight_bits = Image.fromarray(np.round(values / 257 if values.max() > 255 else values).astype(np.uint8))
    np.testing.assert_allclose(
        ImagePreprocessor.from_folder(tmp_path)([image]),
        expected(eight_bits.convert("RGB")),
        rtol=0,
        atol=TOLERANCE,
    )


def test_turned_and_animated_files_equal_transformers(tmp_path):
    expected = original(tmp_path, size=64, crop_size=64)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(picture(size=(80, 70)), "JPEG", exif=exif)
    frames = [picture(size=(80, 70)), Image.new("RGB", (80, 70), "blue")]
    animated = [
        encoded(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "PNG", "WEBP")
    ]
    preprocess = ImagePreprocessor.from_folder(tmp_path)
    for content in (turned, *animated):
        with Image.open(io.BytesIO(content)) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
        np.testing.assert_allclose(preprocess([content]), expected(upright), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(1000, 3), (3, 1000), (777, 5), (5, 2001)])
def test_extreme_strips_resized_in_part_equal_the_whole(tmp_path, monkeypatch, size):
    expected = original(tmp_path, size=224, crop_size=224)(noise(size))
    monkeypatch.setattr("runtime.clip.pixels.MAX_RESIZED_PIXELS", 1)
    pixels = ImagePreprocessor.from_folder(tmp_path)([noise(size)])
    # The part's place is held in float32, so that on noise some values round the other way, in either pass.
    level = 1 / 255 / 0.26  # one of 255 levels after normalisation by the smallest standard deviation
    difference = np.abs(pixels - expected)
    assert difference.max() < 2.1 * level
    assert (difference > TOLERANCE).mean() < 0.005


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (20_000, 30)])
def test_strips_whose_whole_would_not_fit(tmp_path, size):
    settings_file(tmp_path, {})
    assert ImagePreprocessor.from_folder(tmp_path)([noise(size)]).shape == (1, 3, 224, 224)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.exists(), reason="real pictures lie beside the checkout only on some machines")
def test_real_pictures_equal_transformers(tmp_path):
    expected = original(tmp_path)
    preprocess = ImagePreprocessor.from_folder(tmp_path)
    for path in sorted((SHARED / "flickr8k-spoken" / "images").iterdir())[:10]:
        with Image.open(path) as image:
            np.testing.assert_allclose(
                preprocess([path]), expected(image.convert("RGB")), rtol=0, atol=TOLERANCE
            )


def test_batch_equals_one_by_one(tmp_path):
    preprocess = ImagePreprocessor.from_folder(settings_file(tmp_path, {"size": 32, "crop_size": 32}))
    images = [noise(size) for size in SIZES]
    np.testing.assert_array_equal(
        preprocess(images), np.concatenate([preprocess([image]) for image in images])
    )
    assert preprocess([]).shape == (0, 3, 32, 32)


# -- decoding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", image_seeds(), ids=lambda content: f"{content[:12]!r} {len(content)}")
def test_every_format_equals_pillow(content):
    loaded = load_image(content)
    with Image.open(io.BytesIO(content)) as opened:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode in ("I;16", "I", "F"):
            expected = np.asarray(upright, np.float64) / (257.0 if np.asarray(upright).max() > 255 else 1.0)
            # Rounded to the nearest of 256 levels.
            np.testing.assert_allclose(np.asarray(loaded)[:, :, 0], expected, rtol=0, atol=0.5001)
        else:
            np.testing.assert_array_equal(np.asarray(loaded), np.asarray(upright.convert("RGB")))
    assert loaded.mode == "RGB"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("container", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_phone_pictures_are_upright(orientation, container):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture(), container, exif=exif)
    with Image.open(io.BytesIO(content)) as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    loaded = load_image(content)
    np.testing.assert_array_equal(np.asarray(loaded), expected)
    assert loaded.size == ((36, 48) if orientation >= 5 else (48, 36))
    np.testing.assert_array_equal(np.asarray(load_image(loaded)), expected)  # not turned a second time


@pytest.mark.parametrize("value", [0, 9, 65535, "x"])
def test_nonsense_orientation_is_upright(value):
    image = picture()
    image.getexif()[0x0112] = value
    np.testing.assert_array_equal(np.asarray(load_image(image)), np.asarray(picture()))


def test_alpha_is_dropped_as_convert_does():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[:, :, 0] = 200  # red, fully transparent
    loaded = np.asarray(load_image(encoded(Image.fromarray(pixels), "PNG")))
    assert (loaded[:, :, 0] == 200).all()


def test_16_bit_is_scaled_not_clipped():
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    loaded = np.asarray(load_image(encoded(Image.fromarray(grey), "PNG")))
    np.testing.assert_array_equal(loaded[:, :, 0].ravel(), np.arange(256))
    np.testing.assert_array_equal(np.asarray(load_image(grey)), loaded)


def test_float_grey_goes_by_its_range():
    unit = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    for scale in (1.0, 255.0, 65535.0):
        loaded = np.asarray(load_image(Image.fromarray((unit * scale).astype(np.float32))))
        np.testing.assert_array_equal(loaded[:, :, 0].ravel(), np.arange(256))


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue")]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(content).getpixel((5, 5)) == (255, 0, 0)


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 5), 128, np.uint8),
        np.full((4, 5, 1), 128, np.uint8),
        np.full((4, 5, 3), 128, np.uint8),
        np.full((4, 5, 4), 128, np.uint8),
        np.full((4, 5, 3), 128 * 257, np.uint16),
        np.full((4, 5, 3), 128 / 255, np.float64),
        np.full((5, 4, 3), 128, np.uint8).transpose(1, 0, 2),
    ],
)
def test_arrays(array):
    loaded = np.asarray(load_image(array))
    assert loaded.shape == (4, 5, 3)
    assert (loaded == 128).all()


def test_path_bytes_and_file_objects_are_the_same(tmp_path):
    content = encoded(picture(), "PNG")
    path = tmp_path / "bild ü.jpg"  # of a wrong extension, too
    path.write_bytes(content)
    expected = np.asarray(picture())
    with path.open("rb") as file:
        np.testing.assert_array_equal(np.asarray(load_image(file)), expected)
    for source in (path, str(path), content, bytearray(content), io.BytesIO(content), picture(), expected):
        np.testing.assert_array_equal(np.asarray(load_image(source)), expected)


# -- memory -------------------------------------------------------------------------------------------------


def peak_mib(*arguments: str) -> int:
    """Peak memory of a process that loads a picture, less that of one that loads none."""
    script = (
        "import sys; from bench.measure.system_info import peak_memory\n"
        "from runtime.clip.pixels import load_image\n"
        "try:\n    [print(load_image(path).size, file=sys.stderr) for path in sys.argv[1:]]\n"
        "except ValueError: pass\n"
        "print(peak_memory() // 2**20)"
    )
    runs = [[], list(arguments)]
    outputs = [
        subprocess.run([sys.executable, "-c", script, *run], check=True, capture_output=True) for run in runs
    ]
    return int(outputs[1].stdout) - int(outputs[0].stdout)


def test_large_jpeg_is_decoded_at_a_reduced_size(tmp_path):
    size = (20_001, 5_001)  # 100 million pixels, 400 MB as Pillow holds them
    Image.new("L", size, 90).save(tmp_path / "wide.jpg")
    loaded = load_image(tmp_path / "wide.jpg")
    assert loaded.size == (10_001, 2_501)
    assert loaded.getpixel((5000, 1000)) == (90, 90, 90)
    assert peak_mib(str(tmp_path / "wide.jpg")) < 300


def test_20000_pixels_wide_png(tmp_path):
    Image.new("RGB", (20_000, 500), "red").save(tmp_path / "wide.png")
    assert load_image(tmp_path / "wide.png").size == (20_000, 500)
    assert peak_mib(str(tmp_path / "wide.png")) < 150


@pytest.mark.parametrize("container", ["PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_decompression_bombs_are_refused_before_memory_is_taken(tmp_path, container):
    path = tmp_path / "bomb"
    if container == "WEBP":
        content = bytearray(
            encoded(picture("RGBA"), "WEBP", save_all=True, append_images=[picture("RGBA").rotate(9)])
        )
        assert content[12:16] == b"VP8X"
        content[24:30] = (16_000 - 1).to_bytes(3, "little") * 2
    elif container == "GIF":
        content = bytearray(encoded(picture("P"), "GIF"))
        content[6:10] = (16_000).to_bytes(2, "little") * 2
    elif container == "BMP":
        content = bytearray(encoded(picture(), "BMP"))
        content[18:26] = (16_000).to_bytes(4, "little") * 2
    else:
        options = {"compression": "group4"} if container == "TIFF" else {}
        content = bytearray(encoded(Image.new("1", (16_000, 6_000)), container, **options))
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"16000 x \d+ are \d+ million|exceeds limit"):
        load_image(path)
    assert peak_mib(str(path)) < 100


def test_jpeg_beyond_reduction():
    content = bytearray(encoded(picture(), "JPEG"))
    at = content.find(b"\xff\xc0")  # start of frame: precision, height, width
    content[at + 5 : at + 9] = (60_000).to_bytes(2, "big") * 2
    with pytest.raises(ImageError, match="3600 million pixels"):
        load_image(bytes(content))


def test_large_progressive_jpeg_is_refused():
    content = bytearray(encoded(picture(), "JPEG", progressive=True))
    at = content.find(b"\xff\xc2")
    content[at + 5 : at + 9] = (12_000).to_bytes(2, "big") * 2  # 144 million: fine if it were baseline
    with pytest.raises(ImageError, match="144 million"):
        load_image(bytes(content))


def test_large_arrays_and_images_are_refused():
    huge = np.broadcast_to(np.zeros((1, 1), np.uint8), (MAX_PIXELS // 1000 + 1, 1000))
    with pytest.raises(ImageError, match="million pixels"):
        load_image(huge)


# -- faults -------------------------------------------------------------------------------------------------


def test_missing_picture_is_named(tmp_path):
    with pytest.raises(ImageNotFoundError, match="nowhere") as caught:
        load_image(tmp_path / "nowhere.png")
    assert isinstance(caught.value, FileNotFoundError)


def test_folder_and_pipe_are_refused(tmp_path):
    with pytest.raises(ImageError, match="folder"):
        load_image(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError, match="device or pipe"):
        load_image(tmp_path / "pipe")
    with pytest.raises(ImageError):
        load_image("\0")


@pytest.mark.parametrize("content", image_seeds(), ids=lambda content: f"{content[:12]!r} {len(content)}")
def test_half_uploaded_pictures_are_refused(content):
    with Image.open(io.BytesIO(content)) as opened:
        several = getattr(opened, "n_frames", 1) > 1  # the first frame may lie in the first half
    with pytest.raises(ImageError):
        load_image(content[: len(content) // (10 if several else 2)])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"no picture", "no picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),  # would start Ghostscript
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no picture"),
        (b"\xff\xd8\xff\xe0", "no picture"),
        (b"\x89PNG\r\n\x1a\n", "no picture"),
        (b"P6\n0 0\n255\n", "no picture"),
    ],
)
def test_what_is_no_picture_is_said(content, words):
    with pytest.raises(ImageError, match=words):
        load_image(content)


@pytest.mark.parametrize("container", ["JPEG2000", "QOI", "PSD", "DDS", "SGI"])
def test_further_formats_of_absurd_sizes_are_refused_before_memory_is_taken(tmp_path, container):
    side = 60_000 if container != "PSD" else 29_000
    content, place, order = {
        "JPEG2000": (encoded(picture(), "JPEG2000", no_jp2=True), 8, ">"),
        "QOI": (qoi(picture()), 4, ">"),
        "PSD": (psd(picture()), 14, ">"),
        "DDS": (encoded(picture(), "DDS"), 12, "<"),
        "SGI": (encoded(picture(), "SGI"), 6, ">"),
    }[container]
    sides = struct.pack(f"{order}{'HH' if container == 'SGI' else 'II'}", side, side)
    path = tmp_path / "bomb"
    path.write_bytes(content[:place] + sides + content[place + len(sides) :])
    with pytest.raises(ImageError, match=r"\d+ x \d+ are \d+ million|exceeds limit|can be decoded"):
        load_image(path)
    assert peak_mib(str(path)) < 100


def test_a_large_qoi_is_refused_because_its_decoder_is_slow():
    content = bytearray(qoi(picture()))
    content[4:12] = struct.pack(">II", 4000, 3000)
    with pytest.raises(ImageError, match=r"12 million pixels; at most 11 million"):
        load_image(bytes(content))


def test_a_large_jpeg_2000_is_decoded_at_a_reduced_size():
    content = encoded(picture(), "JPEG2000")
    small = load_image(content, max_pixels=48 * 36)
    assert small.size == (24, 18)
    plain = np.asarray(picture().resize((24, 18), Image.Resampling.BOX), np.float32)
    assert np.abs(np.asarray(small, np.float32) - plain).mean() < 20  # of noise of 55 levels
    assert load_image(content).size == (48, 36)


@pytest.mark.parametrize("container", ["TGA", "PCX"])
def test_formats_without_a_mark_are_believed_by_their_name_alone(tmp_path, container):
    content = encoded(picture(), container)
    path = tmp_path / f"p.{container}"
    path.write_bytes(content)
    np.testing.assert_array_equal(np.asarray(load_image(path)), np.asarray(picture()))
    for other in (content, tmp_path / "p.jpg"):
        if isinstance(other, Path):
            other.write_bytes(content)
        with pytest.raises(ImageError, match="no picture that can be decoded"):
            load_image(other)


def test_every_suffix_of_a_readable_format_is_one_of_a_picture():
    suffixes = picture_suffixes()
    for suffix in (
        "jpg",
        "jfif",
        "png",
        "apng",
        "webp",
        "avif",
        "heic",
        "jp2",
        "j2k",
        "qoi",
        "psd",
        "tga",
        "mpo",
    ):
        assert f".{suffix}" in suffixes
    for suffix in ("eps", "ps", "pdf", "wmf", "mpg", "txt", "ico"):
        assert f".{suffix}" not in suffixes


def test_pictures_of_iphones_are_read_where_their_package_is(monkeypatch):
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    written = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(written, format="HEIF")
    content = written.getvalue()
    picture = load_image(content)
    assert picture.size == (64, 48)
    assert np.abs(np.asarray(picture, int) - (200, 30, 30)).max() < 12
    with pytest.raises(ImageError):
        load_image(content[: len(content) // 2])
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError, match=r"HEIC cannot be read.*JPEG.*earsight\[heic\]"):
        load_image(content)


@pytest.mark.parametrize("brand", [b"avif", b"mif1", b"msf1"])
def test_avif_of_any_brand_is_no_heic(brand):
    written = io.BytesIO()
    Image.new("RGB", (16, 12), (10, 200, 30)).save(written, format="AVIF")
    content = written.getvalue()
    assert content[8:12] == b"avif"
    assert b"mif1" in content[16:40]
    content = content[:8] + brand + content[12:]  # the brands that are compatible still name avif
    assert load_image(content).size == (16, 12)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((3, 8, 9), np.uint8), "transpose"),
        (np.zeros((8, 9, 2), np.uint8), "expected"),
        (np.zeros(8, np.uint8), "expected"),
        (np.zeros((0, 5, 3), np.uint8), "at least one"),
        (np.zeros((4, 5, 3), np.int64), "uint8"),
        (np.full((4, 5, 3), 128.0), "divide by 255"),
        (np.full((4, 5, 3), np.nan), "outside"),
        (np.array([[None]]), "uint8"),
    ],
)
def test_wrong_arrays_are_explained(array, words):
    with pytest.raises(ImageError, match=words):
        load_image(array)


@pytest.mark.parametrize("values", [[[0.0, np.nan]], [[-1.0, 5.0]], [[0.0, 1e9]]])
def test_grey_without_a_defined_brightness(values):
    with pytest.raises(ImageError, match="grey"):
        load_image(Image.fromarray(np.array(values, np.float32)))


@pytest.mark.parametrize(
    ("source", "words"), [(42, "int"), (None, "None"), (io.StringIO("x"), "binary mode")]
)
def test_sources_of_no_use(source, words):
    with pytest.raises(ImageError, match=words):
        load_image(source)


def test_pillow_image_whose_file_is_truncated(tmp_path):
    (tmp_path / "half.png").write_bytes(encoded(noise((90, 90)), "PNG")[:5000])
    with Image.open(tmp_path / "half.png") as lazy, pytest.raises(ImageError, match=r"truncated|broken"):
        load_image(lazy)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 0}, "size"),
        ({"size": {"longest_edge": 5}}, "height"),
        ({"size": "224"}, "size"),
        ({"crop_size": {"shortest_edge": 5}}, "crop_size height"),
        ({"crop_size": 10**9}, "crop_size"),
        ({"resample": 9}, "resample"),
        ({"resample": "bicubic"}, "resample"),
        ({"resample": 2.5}, "resample"),
        ({"do_resize": "yes"}, "do_resize"),
        ({"image_std": [1, 0, 1]}, "image_std"),
        ({"image_mean": [1, 2]}, "three"),
        ({"image_mean": [1, 2, "x"]}, "image_mean"),
        ({"rescale_factor": None, "image_std": [1, 1, float("inf")]}, "image_std"),
        ([], "object"),
    ],
)
def test_impossible_settings_are_named(tmp_path, settings, words):
    with pytest.raises(BundleError, match=words):
        ImagePreprocessor.from_folder(settings_file(tmp_path, settings))


def test_missing_settings(tmp_path):
    with pytest.raises(BundleNotFoundError, match="missing"):
        ImagePreprocessor.from_folder(tmp_path)


def test_sizes_that_do_not_stack(tmp_path):
    preprocess = ImagePreprocessor.from_folder(
        settings_file(tmp_path, {"do_resize": False, "do_center_crop": False})
    )
    with pytest.raises(ImageError, match="one by one"):
        preprocess([noise((4, 5)), noise((5, 4))])
    uncropped = ImagePreprocessor.from_folder(settings_file(tmp_path, {"do_center_crop": False}))
    with pytest.raises(ImageError, match="crop it first"):
        uncropped([noise((1, 20_000))])
