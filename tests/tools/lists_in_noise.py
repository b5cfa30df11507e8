"""How much better is the best of a list of words than the best of a list of tokens, in other voices' babble?

    python -m tests.tools.lists_in_noise --bundle models/base --data MANIFEST [MANIFEST ...] --output FILE

Every recording is recognised whole in each kind of list, in random order, with six others of its manifest at
the levels said below its own. What the gate takes for no speech counts as an empty list. FILE keeps every
list. Printed are WERs by words, the change of the errors with a 95 % interval (recordings drawn anew, 2,000
times), how many hypotheses differ in words, lists of one text, and the median ratio of processor time.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bench.manifest import read_manifest
from bench.text.normalizers import normalizer
from bench.text.scoring import count_word_errors
from runtime.audio.load import Waveform, load_audio
from runtime.audio.segmentation import Segment
from runtime.pipeline import MultimodalASR
from runtime.recognizer import Utterance
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.short_encoder import WINDOWS

VOICES: Final = 6
DRAWS: Final = 2000
SYSTEMS: Final = {
    "tokens, 5 beams": BeamSearchSettings(5),
    "words, 5 beams": BeamSearchSettings(5, distinct="words"),
    "words, 6 beams": BeamSearchSettings(6, num_hypotheses=5, distinct="words"),
}
REFERENCE: Final = "tokens, 5 beams"


def in_babble(
    waveforms: Sequence[Waveform], place: int, below_db: float, rng: np.random.Generator
) -> Waveform:
    """Return a recording with others, turned round and repeated, so many dB below its own level (RMS)."""
    speech = waveforms[place]
    others = [other for other in range(len(waveforms)) if other != place]
    noise = np.zeros(speech.size)
    for other in rng.choice(others, VOICES, replace=False):
        voice = waveforms[other]
        noise += np.resize(np.roll(voice, int(rng.integers(voice.size))), speech.size)
    level = np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-below_db / 20)
    return (speech + level * noise).astype(np.float32)


def recognised(
    asr: MultimodalASR, manifest: Path, level: float, seed: int, limit: int | None
) -> Iterator[dict[str, Any]]:
    """Yield of every recording of a manifest what each system makes of it."""
    search = {name: replace(asr.recognizer, search=settings) for name, settings in SYSTEMS.items()}
    rows = read_manifest(manifest)
    waveforms = [load_audio(row.audio) for row in rows]
    rng = np.random.default_rng([seed, int(level)])
    for place, row in enumerate(tqdm(rows[:limit], desc=f"{manifest.parent.name} {level:g} dB", unit="clip")):
        heard = Utterance(Segment(0, in_babble(waveforms, place, level, rng)), "en")
        lists, times = {}, {}
        for name in rng.permutation(list(SYSTEMS)).tolist():
            began = time.process_time()
            (found,) = search[name].recognise([heard])
            times[name] = time.process_time() - began
            lists[name] = [hypothesis.text for hypothesis in found.hypotheses]
        about = {"set": manifest.parent.name, "level": level, "seed": seed, "id": row.id}
        yield {**about, "reference": row.reference, "lists": lists, "times": times}


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each system."""
    words = normalizer("words", "en").apply
    lines, errors = [], {}
    for name in SYSTEMS:
        best, first, spoken, distinct = [], [], [], []
        for row in rows:
            texts = [words(text) for text in row["lists"][name]]
            counts = count_word_errors([words(row["reference"])] * max(1, len(texts)), texts or [""])
            first.append(int(counts.errors[0]))
            best.append(int(counts.errors.min()))
            spoken.append(int(counts.reference_length[0]))
            distinct.append(len(set(texts)))
        errors[name] = np.array(best)
        times = [row["times"][name] / row["times"][REFERENCE] for row in rows]
        full = [number for number in distinct if number]
        lines.append(
            f"{name}: first {sum(first) / sum(spoken):.2%}, best {sum(best) / sum(spoken):.2%} "
            f"({_change(errors[REFERENCE], errors[name])}), differ {statistics.mean(full):.2f}, "
            f"one text {full.count(1) / len(full):.1%}, time {statistics.median(times):.2f}"
        )
    return lines


def _change(before: NDArray[np.int64], after: NDArray[np.int64]) -> str:
    drawn = np.random.default_rng(0).integers(0, len(before), (DRAWS, len(before)))
    low, high = np.percentile(after[drawn].sum(1) / before[drawn].sum(1) - 1, [2.5, 97.5])
    return f"{after.sum() / before.sum() - 1:+.1%}, interval {low:+.1%} to {high:+.1%}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="manifests")
    parser.add_argument("--output", type=Path, required=True, help="JSON Lines; rows of earlier runs stay")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--window", choices=WINDOWS, default="auto")
    parser.add_argument("--levels", type=float, nargs="+", default=[10.0, 5.0], help="dB below the speech")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--limit", type=int, help="recordings of each manifest")
    args = parser.parse_args(argv)
    asr = MultimodalASR(args.bundle, precision=args.precision, providers="cpu", window=args.window, threads=1)
    system = {"bundle": args.bundle.name, "precision": args.precision, "window": args.window}
    rows: list[dict[str, Any]] = []
    with args.output.open("a", encoding="utf-8") as file:
        for manifest, seed, level in itertools.product(args.data, args.seeds, args.levels):
            for row in recognised(asr, manifest, level, seed, args.limit):
                rows.append(row)
                file.write(json.dumps({**system, **row}, ensure_ascii=False) + "\n")
                file.flush()
    kinds = sorted({(row["set"], row["level"]) for row in rows})
    for name, level in kinds:
        print(f"{name}, {level:g} dB")
        print(*summary([row for row in rows if (row["set"], row["level"]) == (name, level)]), sep="\n")
    print("together", *summary(rows), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
