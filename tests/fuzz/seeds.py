"""Sound inputs to mutate: small files of every readable format, made anew each time."""

import io
import struct
from fractions import Fraction
from importlib.util import find_spec
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


AV_FORMATS = [
    ("webm", "libopus", 48000, 1), ("matroska", "aac", 16000, 1), ("mp4", "aac", 16000, 1),
    ("ipod", "aac", 44100, 2), ("mov", "alac", 16000, 1), ("mp4, in fragments", "aac", 16000, 1),
    ("webm, live", "libopus", 48000, 1), ("3gp", "libopencore_amrnb", 8000, 1),
    ("amr", "libopencore_amrnb", 8000, 1), ("adts", "aac", 16000, 1), ("caf", "aac", 16000, 1),
    ("asf", "wmav2", 44100, 1), ("wv", "wavpack", 44100, 2), ("matroska", "pcm_s16le", 16000, 1),
    ("ogg", "flac", 16000, 1), ("mp2", "mp2", 16000, 1),
]  # fmt: skip
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "200000"}


class Pipe(io.RawIOBase):
    """Takes bytes and cannot go back, as a browser's recorder."""

    def __init__(self) -> None:
        super().__init__()
        self.content = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, content: bytes) -> int:
        self.content += bytes(content)
        return len(content)


def av_file(container: str, codec: str, rate: int, channels: int, seconds: float = 0.5) -> bytes:
    """Encode a tone with FFmpeg, as phones and browsers do; needs the package av."""
    import av

    if container == "caf":
        return caf_of_aac(av_file("adts", codec, rate, channels, seconds), rate, channels)
    kind, _, manner = container.partition(", ")
    stream = Pipe() if manner else io.BytesIO()
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate).astype(np.float32)
    layout = "mono" if channels == 1 else "stereo"
    with av.open(stream, "w", format=kind, options=FRAGMENTS if manner == "in fragments" else {}) as file:
        track = file.add_stream(codec, rate=rate)
        track.codec_context.layout = layout
        track.codec_context.bit_rate = 12_200 if codec == "libopencore_amrnb" else 64_000
        track.codec_context.open()
        frame = av.AudioFrame.from_ndarray(np.tile(tone, (channels, 1)), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        own = track.codec_context
        resampler = av.AudioResampler(own.format.name, layout, rate, frame_size=own.frame_size or None)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(track.encode(piece))
        file.mux(track.encode(None))
    return bytes(stream.content) if isinstance(stream, Pipe) else stream.getvalue()


def caf_of_aac(adts: bytes, rate: int, channels: int) -> bytes:
    """Put AAC into Apple's CAF, which FFmpeg reads and does not write."""
    packets = []
    while adts:
        length = (adts[3] & 3) << 11 | adts[4] << 3 | adts[5] >> 5
        packets.append(adts[7:length])
        adts = adts[length:]
    rates = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
    settings = (2 << 11 | rates.index(rate) << 7 | channels << 3).to_bytes(2)  # AudioSpecificConfig, AAC-LC
    decoder = b"\x04" + bytes([13 + 2 + len(settings)]) + b"\x40\x15" + bytes(11) + b"\x05\x02" + settings
    cookie = bytes(4) + b"\x03" + bytes([3 + len(decoder)]) + bytes(3) + decoder
    sizes = b"".join(bytes([len(packet) >> 7 | 0x80, len(packet) & 0x7F]) for packet in packets)
    table = struct.pack(">qqii", len(packets), 1024 * len(packets), 0, 0) + sizes
    describe = struct.pack(">d4sIIIII", rate, b"aac ", 0, 0, 1024, channels, 0)
    chunks = {b"desc": describe, b"kuki": cookie, b"pakt": table, b"data": bytes(4) + b"".join(packets)}
    return b"caff\0\1\0\0" + b"".join(
        name + struct.pack(">q", len(content)) + content for name, content in chunks.items()
    )


def joined_seeds() -> list[bytes]:
    """Two recordings one behind the other, tags between them, and a WAV that nobody closed."""
    mp3, ogg = audio_file("MP3", "MPEG_LAYER_III", 16000, 1), audio_file("OGG", "VORBIS", 16000, 1)
    wav, flac = audio_file("WAV", "PCM_16", 16000, 1), audio_file("FLAC", "PCM_16", 16000, 1)
    at = wav.find(b"data") + 4
    tags = b"TAG" + bytes(125) + b"ID3\4\0\0\0\0\0\x0a" + bytes(10)
    return [mp3 + tags + mp3, ogg + ogg, flac + tags + flac, wav[:at] + bytes(4) + wav[at + 4 :], wav + ogg]


def audio_seeds() -> list[bytes]:
    seeds = [audio_file(*settings) for settings in AUDIO_FORMATS] + joined_seeds()
    if find_spec("av") is not None:
        seeds += [av_file(*settings) for settings in AV_FORMATS]
    return seeds


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


def qoi(image: Image.Image) -> bytes:
    """Write the Quite OK Image Format (qoiformat.org) plainly; older Pillows only read it."""
    bands = len(image.getbands())
    op = bytes([0xFE if bands == 3 else 0xFF])
    pixels = b"".join(op + bytes(pixel) for pixel in np.asarray(image).reshape(-1, bands))
    return b"qoif" + struct.pack(">IIBB", *image.size, bands, 0) + pixels + bytes(7) + b"\1"


def psd(image: Image.Image) -> bytes:
    """Write Photoshop's format without layers: header, three empty sections, planes as they are."""
    head = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, image.height, image.width, 8, 3) + bytes(12)
    return head + struct.pack(">H", 0) + np.asarray(image).transpose(2, 0, 1).tobytes()


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
        encoded(picture(), "MPO", save_all=True, append_images=frames[1:]), encoded(picture(), "JPEG2000"),
        encoded(picture("RGBA"), "JPEG2000", no_jp2=True), encoded(picture("I;16"), "JPEG2000"),
        encoded(picture("L"), "JPEG2000", tile_size=(16, 16), irreversible=True), encoded(picture(), "SGI"),
        encoded(picture(), "DDS"), encoded(picture("RGBA"), "DDS", pixel_format="DXT5"), qoi(picture("RGBA")),
        qoi(picture()), psd(picture()),
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
