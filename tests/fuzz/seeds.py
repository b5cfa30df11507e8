"""Sound inputs to mutate: small files of every readable format, made anew each time."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from PIL import Image

from runtime.clip.cache import save_image_cache

Seed = tuple[
    str, bytes
]  # what the target must know besides the bytes (a suffix, a file's name), and the bytes

AUDIO_FORMATS = [
    ("WAV", "PCM_16", 16000, 1), ("WAV", "PCM_24", 44100, 2), ("WAV", "PCM_U8", 8000, 1),
    ("WAV", "FLOAT", 16000, 1), ("WAV", "DOUBLE", 48000, 1), ("WAV", "ULAW", 8000, 1),
    ("WAV", "IMA_ADPCM", 16000, 1), ("WAV", "MS_ADPCM", 16000, 1), ("WAV", "GSM610", 8000, 1),
    ("WAVEX", "PCM_32", 16000, 8), ("RF64", "PCM_16", 16000, 1), ("W64", "PCM_16", 16000, 1),
    ("FLAC", "PCM_16", 16000, 1), ("FLAC", "PCM_24", 96000, 2), ("OGG", "VORBIS", 16000, 1),
    ("OGG", "OPUS", 48000, 1), ("MP3", "MPEG_LAYER_III", 16000, 1), ("MP3", "MPEG_LAYER_III", 44100, 2),
    ("AIFF", "PCM_16", 16000, 1), ("AIFF", "FLOAT", 16000, 2), ("AU", "PCM_16", 16000, 1),
    ("AU", "ULAW", 8000, 1), ("CAF", "PCM_16", 16000, 1), ("CAF", "ALAC_16", 16000, 1),
    ("NIST", "PCM_16", 16000, 1),
]  # fmt: skip


def audio_file(container: str, subtype: str, rate: int, channels: int, seconds: float = 0.5) -> bytes:
    """Encode a chirp with noise; values within ±0.6."""
    rng = np.random.default_rng(0)
    t = np.arange(int(rate * seconds)) / rate
    tone = 0.5 * np.sin(2 * np.pi * (200 + 400 * t) * t) + 0.02 * rng.standard_normal(t.size)
    samples = np.repeat(tone[:, None], channels, axis=1)
    stream = io.BytesIO()
    with soundfile.SoundFile(stream, "w", rate, channels, subtype=subtype, format=container) as sound:
        for start in range(0, len(samples), 4096):  # libsndfile overflows its stack on long Vorbis writes
            sound.write(samples[start : start + 4096])
    return stream.getvalue()


def audio_seeds() -> list[bytes]:
    return [audio_file(*settings) for settings in AUDIO_FORMATS]


def picture(mode: str = "RGB", size: tuple[int, int] = (48, 36)) -> Image.Image:
    """A gradient with noise in any of Pillow's modes."""
    rng = np.random.default_rng(0)
    base = np.linspace(0, 200, size[0] * size[1]).reshape(size[1], size[0])
    pixels = np.clip(base[..., None] + rng.integers(0, 55, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    rgb = Image.fromarray(pixels)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    if mode in ("F", "I"):
        return Image.fromarray(pixels[:, :, 0].astype(np.float32 if mode == "F" else np.int32))
    if mode in ("RGBA", "LA"):
        rgb.putalpha(Image.fromarray(pixels[:, :, 1]))
    return rgb.convert(mode) if rgb.mode != mode else rgb


def encoded(image: Image.Image, container: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, container, **options)
    return stream.getvalue()


def image_seeds() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [picture(), picture().rotate(90), picture().rotate(180)]
    seeds = [
        encoded(picture(), "JPEG", exif=exif), encoded(picture(), "JPEG", progressive=True),
        encoded(picture("CMYK"), "JPEG"), encoded(picture("L"), "JPEG"), encoded(picture("P"), "GIF"),
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), encoded(picture(), "BMP"),
        encoded(picture(), "WEBP"), encoded(picture("RGBA"), "WEBP", lossless=True),
        encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), encoded(picture(), "AVIF"),
        encoded(picture(), "PPM"), encoded(picture("I"), "PPM"), encoded(picture("P"), "PNG", transparency=3),
        encoded(picture(), "MPO", save_all=True, append_images=frames[1:]),
    ]  # fmt: skip
    seeds += [encoded(picture(mode), "PNG") for mode in ("RGB", "RGBA", "LA", "L", "1", "I;16")]
    seeds += [encoded(picture(mode), "TIFF") for mode in ("RGB", "CMYK", "F", "I;16", "P")]
    seeds += [
        encoded(picture(), "TIFF", compression=name)
        for name in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")
    ]
    return seeds


def cache_seeds() -> list[bytes]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    embeddings = {f"img_{index}.png": vector for index, vector in enumerate(vectors)}
    seeds = []
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cache.npz"
        save_image_cache(path, embeddings)
        seeds.append(path.read_bytes())
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(stream, **embeddings)
        seeds.append(stream.getvalue())
    return seeds


def unlabelled(contents: list[bytes]) -> list[Seed]:
    return [("", content) for content in contents]
