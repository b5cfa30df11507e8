"""faster-whisper, asked over a pipe; run by a Python that has it, and which has nothing of this project.

Ways to serve eight clients: one worker with two threads, two workers with one each, or eight recordings
joined and cut again as the clips of one call of its batched pipeline. int8, five beams, no timestamps.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import version

import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.audio import decode_audio

CLIENTS = 8
RATE = 16000
OPTIONS = {
    "language": "en", "beam_size": 5, "temperature": 0.0, "without_timestamps": True, "vad_filter": False,
}  # fmt: skip
WORKERS = {"one_worker": (2, 1), "two_workers": (1, 2), "batched": (2, 1)}


@cache
def model(threads, workers):
    return WhisperModel(
        sys.argv[1], device="cpu", compute_type="int8", cpu_threads=threads, num_workers=workers
    )


def one_by_one(whisper, file):
    began = time.perf_counter()
    segments, _ = whisper.transcribe(file, condition_on_previous_text=False, **OPTIONS)
    text = "".join(segment.text for segment in segments).strip()
    return text, time.perf_counter() - began


def batched(whisper, files):
    """Recognise eight recordings in one call."""
    began = time.perf_counter()
    clips, joined, at = [], [], 0.0
    for file in files:
        audio = decode_audio(file, sampling_rate=RATE)
        clips.append({"start": at, "end": at + audio.size / RATE})
        joined.append(audio)
        at += audio.size / RATE
    segments, _ = BatchedInferencePipeline(whisper).transcribe(
        np.concatenate(joined), clip_timestamps=clips, batch_size=CLIENTS, **OPTIONS
    )
    texts = [segment.text.strip() for segment in segments]
    return texts, [time.perf_counter() - began] * len(files)


def run(way, files):
    whisper = model(*WORKERS[way])
    began = time.perf_counter()
    texts, latencies = [], []
    if way == "batched":
        for first in range(0, len(files), CLIENTS):
            found, seconds = batched(whisper, files[first : first + CLIENTS])
            texts += found
            latencies += seconds
    else:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for text, seconds in pool.map(lambda file: one_by_one(whisper, file), files):
                texts.append(text)
                latencies.append(seconds)
    return {"texts": texts, "latencies": latencies, "seconds": time.perf_counter() - began}


for line in sys.stdin:
    asked = json.loads(line)
    answer = run(asked["way"], asked["files"])
    answer["versions"] = {name: version(name) for name in ("faster-whisper", "ctranslate2")}
    print(json.dumps(answer), flush=True)
