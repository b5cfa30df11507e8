"""People who describe pictures to a server, and correct it: `python -m tests.tools.simulated_sessions`.

    --bundle models/demo --data bench/pocket/described/test/manifest.jsonl --corrections DIR [--OF-SERVE]

A session is one speaker with a few pictures. Each is described by a recording of the manifest, and the
simulated person decides by the reference: confirms the first text where it is right, picks another one that
is, else types; a tenth of the latter is given up ("none of these"). Seconds are those of the keystroke-level
model (Card, Moran and Newell 1980: a decision 1.35 s, a pointing 1.1 s, a key 0.28 s), not of people. What is
not an option here is one of `python -m runtime serve`. Prints one line of JSON.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.manifest import Utterance, read_manifest
from bench.text.normalizers import Normalizer, normalizer

DECISION_S, POINTING_S, KEY_S = 1.35, 1.1, 0.28


def sessions(utterances: list[Utterance], count: int, pictures: int) -> Iterator[list[Utterance]]:
    """Give each session the next few utterances of its speaker; the speakers take turns."""
    waiting: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        waiting.setdefault(utterance.speaker or "", []).append(utterance)
    speakers = sorted(waiting)
    for number in range(count):
        queue = waiting[speakers[number % len(speakers)]]
        yield [queue.pop(0) for _ in range(pictures)]


def decide(reference: str, shown: list[dict], scorer: Normalizer, gives_up: bool) -> dict[str, object]:
    """Return what the person does with a list: the fields of the correction."""
    right = scorer.apply(reference)
    rank = next((i for i, each in enumerate(shown) if scorer.apply(each["text"]) == right), None)
    if rank is not None:
        seconds = DECISION_S * (rank + 1) + POINTING_S
        how = "picked" if rank else "confirmed"
        return {"how": how, "reference": shown[rank]["display"], "rank": rank, "taps": 1, "seconds": seconds}
    looked = DECISION_S * max(1, len(shown)) + POINTING_S
    if gives_up:
        return {"how": "none", "taps": 1, "seconds": looked}
    keys = len(reference) + 1
    return {"how": "typed", "reference": reference, "taps": 1 + keys, "seconds": looked + KEY_S * keys}


def hold(
    client: httpx.Client, session: list[Utterance], scorer: Normalizer, chance: random.Random
) -> Counter:
    """Let one speaker describe pictures and correct what is heard; count how."""
    done: Counter = Counter()
    for utterance in session:
        assert utterance.image is not None
        audio, picture = utterance.audio.read_bytes(), utterance.image.read_bytes()
        files = {"file": (utterance.audio.name, audio), "image": (utterance.image.name, picture)}
        answer = client.post("/v1/audio/transcriptions", data={"model": "whisper-1", "n": "5"}, files=files)
        answer.raise_for_status()
        shown = answer.json()["earsight"]["alternatives"]
        decision = decide(utterance.reference, shown, scorer, chance.random() < 0.1)
        speaker = re.sub("[^A-Za-z0-9._-]", "-", utterance.speaker or "")
        fields = {"speaker": speaker, "shown": json.dumps(shown), "consent": "true", **decision}
        kept = client.post("/v1/corrections", data={k: str(v) for k, v in fields.items()}, files=files)
        assert kept.status_code == 201, kept.text
        done[str(decision["how"])] += 1
    return done


def main() -> None:
    """Start a server, hold the sessions, stop it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--corrections", required=True)
    parser.add_argument("--sessions", type=int, default=60)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--normalizer", default="english")
    args, of_server = parser.parse_known_args()
    command = ["-m", "runtime", "serve", "--port", "0", "--bundle", args.bundle]
    server = subprocess.Popen(
        [sys.executable, *command, "--corrections", args.corrections, *of_server],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stderr is not None
    try:
        address = next(match[0] for line in server.stderr if (match := re.search(r"http://\S+:\d+", line)))
        threading.Thread(target=lambda: deque(server.stderr or (), 0), daemon=True).start()
        scorer, chance, done = normalizer(args.normalizer), random.Random(0), Counter()
        with httpx.Client(base_url=address, timeout=120) as client:
            while client.get("/readyz").status_code != 200:
                time.sleep(0.2)
            for session in sessions(read_manifest(args.data), args.sessions, args.pictures):
                done += hold(client, session, scorer, chance)
    finally:
        server.terminate()
        server.wait()
    print(json.dumps({"sessions": args.sessions, "utterances": done.total(), **done}))


if __name__ == "__main__":
    main()
