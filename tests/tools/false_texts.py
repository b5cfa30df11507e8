"""Sounds without words, and speech: how many of the first get a text, how many of the second get none?

    python -m tests.tools.false_texts --bundle models/base --data MANIFEST

Prints JSON: of every kind of sound the number of recordings with a text, and the clips that were dropped.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.manifest import read_manifest
from runtime.pipeline import MultimodalASR
from runtime.whisper.short_encoder import WINDOWS
from tests.tools.sounds import KINDS, sound


def false_texts(asr: MultimodalASR, data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    invented = {
        kind: [text for seed in seeds if (text := asr.transcribe(sound(kind, seed)).transcription)]
        for kind in tqdm(KINDS, unit="kind")
    }
    clips = read_manifest(data)
    dropped = [
        clip.id for clip in tqdm(clips, unit="clip") if asr.transcribe(clip.audio).no_speech is not None
    ]
    return {
        "recordings": len(KINDS) * len(seeds),
        "with_text": sum(map(len, invented.values())),
        "texts": {kind: texts for kind, texts in invented.items() if texts},
        "clips": len(clips),
        "dropped": dropped,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="manifest of speech")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--window", choices=WINDOWS, default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--first-seed", type=int, default=20000)
    parser.add_argument("--seeds", type=int, default=6, help="recordings of every kind")
    args = parser.parse_args(argv)
    asr = MultimodalASR(
        args.bundle, precision=args.precision, providers="cpu", window=args.window, threads=args.threads
    )
    found = false_texts(asr, args.data, range(args.first_seed, args.first_seed + args.seeds))
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
