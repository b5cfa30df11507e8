"""Hostile uploads: the fuzz corpora, and files that are small and want much."""

import asyncio
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import soundfile
from PIL import Image

from bench.serving.client import ANSWERED, PICTURES, TRANSCRIPTIONS, Client
from tests.fuzz.runner import case_input, make_seeds, processor_s
from tests.tools.server_checks.common import Setup, query_of, resident_mib, with_client

MOST_PROCESSOR_S = 2.0
MOST_MIB = 2048.0
EXPECTED = {200, 400, 413, 415}


def fuzz_corpora(setup: Setup) -> dict[str, Any]:
    """Mutated recordings and pictures, one after the other, so that the processor time is each one's own."""
    count = setup.count or 10_000
    cases = [("audio", number) for number in range(count * 7 // 10)]
    cases += [("image", number) for number in range(count - len(cases))]
    seeds = {kind: make_seeds(kind) for kind in ("audio", "image")}

    def contents() -> Iterator[tuple[str, str, bytes]]:
        for kind, number in cases:
            yield f"{kind} {number}", kind, case_input(kind, seeds[kind], setup.seed, number)[1]

    return _uploaded(setup, contents())


def bombs(setup: Setup) -> dict[str, Any]:
    """Small files that decode to much, and rates that are none."""
    return _uploaded(setup, iter([*_audio_bombs(), *_picture_bombs()]))


def _uploaded(setup: Setup, contents: Iterator[tuple[str, str, bytes]]) -> dict[str, Any]:
    """Send every content; find the slowest, the statuses, and what the server's memory came to."""
    statuses: Counter[str] = Counter()
    slow: list[tuple[float, str, int]] = []
    wrong: list[tuple[str, int]] = []

    async def run(client: Client) -> None:
        good = query_of(setup.utterances[0])
        assert (await client.send(good, 0)).status == ANSWERED
        for name, kind, content in contents:
            before = processor_s(pid)
            status, known_s = await _upload(client, kind, content)
            spent = processor_s(pid) - before if known_s is None else known_s
            statuses[f"{kind} {status}"] += 1
            slow.append((spent, name, status))
            if status not in EXPECTED:
                wrong.append((name, status))
        assert (await client.send(good, 0)).status == ANSWERED

    with setup.server() as server:
        pid = server.process.pid
        with_client(server, run)
        peak = resident_mib(pid, "VmHWM")
        alive = server.process.poll() is None
    slow.sort(reverse=True)
    return {
        "passed": alive and not wrong and slow[0][0] <= MOST_PROCESSOR_S and peak < MOST_MIB,
        "uploads": len(slow), "statuses": dict(sorted(statuses.items())), "unexpected": wrong[:10],
        "slowest": slow[:5], "peak_mib": peak, "alive": alive,
    }  # fmt: skip


async def _upload(client: Client, kind: str, content: bytes) -> tuple[int, float | None]:
    """Return the status, and the seconds before the engine where the answer tells them."""
    try:
        if kind == "image":
            response = await client.http.post(PICTURES, files={"file": ("a.png", content)})
            return response.status_code, None
        response = await client.http.post(
            TRANSCRIPTIONS, data={"model": "whisper-1"}, files={"file": ("a.wav", content)}
        )
    except httpx.TransportError:
        await asyncio.sleep(0.1)
        return 0, None
    if response.status_code != ANSWERED:
        return response.status_code, None
    return ANSWERED, response.json()["earsight"]["timing_ms"]["decode"] / 1000


def _audio_bombs() -> list[tuple[str, str, bytes]]:
    found = []
    for name, container, subtype, rate, channels, seconds in (
        ("an hour of silence", "FLAC", "PCM_16", 16_000, 1, 3600),
        ("eight channels", "FLAC", "PCM_16", 48_000, 8, 590),
        ("ten minutes, stereo", "FLAC", "PCM_16", 48_000, 2, 599),
        ("opus of silence", "OGG", "OPUS", 48_000, 1, 3000),
        ("a fast rate", "FLAC", "PCM_16", 655_350, 1, 90), ("ten minutes", "OGG", "VORBIS", 44_100, 1, 599),
    ):  # fmt: skip
        stream = io.BytesIO()
        block = np.zeros((rate, channels), np.int16)
        with soundfile.SoundFile(stream, "w", rate, channels, subtype=subtype, format=container) as sound:
            for _ in range(seconds):
                for start in range(0, rate, 4096):
                    sound.write(block[start : start + 4096])
        found.append((name, "audio", stream.getvalue()))
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(16_000, np.int16), 16_000, format="WAV")
    for rate in (0, 1, 7, 192_001, 2**31, 2**32 - 1):
        forged = bytearray(wav.getvalue())
        forged[24:28] = rate.to_bytes(4, "little")
        found.append((f"a rate of {rate}", "audio", bytes(forged)))
    return found


def _picture_bombs() -> list[tuple[str, str, bytes]]:
    found = []
    for name, size, form in (
        ("a large PNG", (12_000, 12_000), "PNG"), ("a large JPEG", (12_000, 12_000), "JPEG"),
        ("24 megapixels, PNG", (6_000, 4_000), "PNG"), ("24 megapixels, JPEG", (6_000, 4_000), "JPEG"),
        ("72 megapixels, JPEG", (9_000, 8_000), "JPEG"), ("24 megapixels, WEBP", (6_000, 4_000), "WEBP"),
    ):  # fmt: skip
        stream = io.BytesIO()
        Image.new("RGB", size, (90, 10, 10)).save(stream, form)
        found.append((name, "image", stream.getvalue()))
    header = bytearray(found[2][2])
    header[16:24] = (2**31 - 1).to_bytes(4, "big") * 2  # width and height of the IHDR, its checksum made good
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    found.append(("a forged size", "image", bytes(header)))
    return found
