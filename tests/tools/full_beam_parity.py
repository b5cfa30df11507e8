"""The whole comparison with `GenerationMixin.generate`, in one command:

    python tests/tools/full_beam_parity.py [--cases 1000] [--timestamp-cases 200] [--first-seed 0]

Prints what was covered, every difference beyond ties, and the largest difference in score. Exit status 1 on
any difference. `tests/runtime/test_beam_search.py` runs a share of the same cases.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
import transformers
from tqdm import tqdm

from runtime.whisper.beam_search import FinishedHypothesis
from tests.tools.reference_generate import Case, compare_nbest, random_case, reference_nbest, search


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Compare the beam search with transformers on random models."
    )
    parser.add_argument("--cases", type=int, default=1000, help="models x settings without timestamps")
    parser.add_argument("--timestamp-cases", type=int, default=200, help="the same with timestamp rules")
    parser.add_argument("--first-seed", type=int, default=0)
    args = parser.parse_args(argv)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)

    counts: Counter[str] = Counter()
    largest = 0.0
    faults = []
    start = time.monotonic()
    for case in tqdm(list(_seeds(args)), disable=None, unit="case"):
        built = random_case(case[0], timestamps=case[1])
        ours, reference = search(built), reference_nbest(built)
        faults += [f"{built}: {fault}" for fault in compare_nbest(ours, reference)]
        largest = max([largest, *_score_differences(ours, reference)])
        _count(counts, built, ours, reference)
    for fault in faults:
        print(fault)
    seconds = time.monotonic() - start
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {seconds:.0f} s")
    for name, count in sorted(counts.items()):
        print(f"  {name:45} {count:6}")
    print(f"differences beyond ties: {len(faults)}; largest |score difference|: {largest:.2e}")
    return 1 if faults else 0


def _seeds(args: argparse.Namespace) -> Iterator[tuple[int, bool]]:
    for number in range(args.cases):
        yield args.first_seed + number, False
    for number in range(args.timestamp_cases):
        yield args.first_seed + number, True


def _score_differences(
    ours: list[list[FinishedHypothesis]], reference: list[list[FinishedHypothesis]]
) -> Iterator[float]:
    for mine, theirs in zip(ours, reference, strict=True):
        for a, b in zip(mine, theirs, strict=False):
            yield abs(a.score - b.score)


def _count(
    counts: Counter[str],
    case: Case,
    ours: list[list[FinishedHypothesis]],
    reference: list[list[FinishedHypothesis]],
) -> None:
    """Add up what a case covers, so that a generator that tests nothing shows."""
    eos, limit = case.model.config.eos_token_id, case.settings.max_new_tokens
    counts["cases"] += 1
    counts[f"cases with timestamps: {case.timestamps is not None}"] += 1
    counts[f"cases with beams: {case.settings.num_beams}"] += 1
    counts[f"cases with early_stopping: {case.settings.early_stopping}"] += 1
    counts[f"cases with length_penalty: {case.settings.length_penalty}"] += 1
    counts[f"cases with prompt length: {case.prompts.shape[1]}"] += 1
    counts[f"cases with batch size: {len(case.prompts)}"] += 1
    counts["cases that suppress tokens"] += bool(case.suppress)
    counts["cases that suppress tokens at the beginning"] += bool(case.begin_suppress)
    counts["cases that never end by themselves"] += eos in case.suppress
    for mine, theirs in zip(ours, reference, strict=True):
        counts["utterances"] += 1
        for a, b in zip(mine, theirs, strict=False):
            counts["hypotheses"] += 1
            counts["hypotheses ended by end-of-text"] += a.tokens[-1] == eos
            counts["hypotheses ended before the length limit"] += len(a.tokens) < (limit or 0)
            counts["hypotheses in another order within a tie"] += a.tokens != b.tokens


if __name__ == "__main__":
    sys.exit(main())
