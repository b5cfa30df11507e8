"""Is the list of every utterance the same alone and in any batch of 1 to 16?

    python -m tests.tools.batch_parity --bundle models/base --data MANIFEST

Prints what differs, and the largest difference in score. Exit status 1 where a list differs.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.manifest import read_manifest
from runtime.audio.load import load_audio
from runtime.pipeline import MultimodalASR
from runtime.whisper.beam_settings import DISTINCT
from runtime.whisper.short_encoder import WINDOWS

LARGEST_BATCH = 16


def random_batches(seed: int, number: int) -> Iterator[NDArray[np.int64]]:
    """Yield places 0 to number - 1 in any order, in batches of 1 to 16."""
    random = np.random.default_rng(seed)
    places = random.permutation(number)
    while places.size:
        batch, places = np.split(places, [min(places.size, int(random.integers(1, LARGEST_BATCH + 1)))])
        yield batch


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="manifest")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--window", choices=WINDOWS, default="fast")
    parser.add_argument("--distinct", choices=DISTINCT, default="tokens")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    asr = MultimodalASR(
        args.bundle,
        precision=args.precision,
        providers="cpu",
        window=args.window,
        distinct=args.distinct,
        threads=args.threads,
    )
    waveforms = [load_audio(row.audio) for row in read_manifest(args.data)]
    alone = [asr.generate_nbest(waveform) for waveform in waveforms]
    differ, largest, batches = [], 0.0, 0
    for batch in random_batches(args.seed, len(waveforms)):
        batches += 1
        lists = asr.generate_nbest_batch([waveforms[place] for place in batch])
        for place, hypotheses in zip(batch.tolist(), lists, strict=True):
            if [h.text for h in hypotheses] != [h.text for h in alone[place]]:
                differ.append(place)
                continue
            scores = zip(hypotheses, alone[place], strict=True)
            largest = max([largest, *(abs(ours.score - own.score) for ours, own in scores)])
    print(f"{len(waveforms)} utterances in {batches} batches: {len(differ)} lists differ {differ or ''}")
    print(f"largest |score difference| {largest:.2e}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
