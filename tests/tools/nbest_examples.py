"""Made-up n-best lists for tests."""

import numpy as np

from bench.nbest.file import NBestFile, NBestHeader, NBestHypothesis, NBestUtterance

WORDS = ("bear", "pear", "boat", "coat", "red", "two")


def random_utterances(rng: np.random.Generator) -> list[NBestUtterance]:
    """A small n-best file full of ties: repeated texts, equal scores and cosines, no pictures, no words."""
    coarse = bool(rng.integers(2))
    utterances = []
    for number in range(int(rng.integers(2, 9))):
        pictured = rng.random() < 0.85
        hypotheses = []
        for _ in range(int(rng.integers(0, 7))):
            score = float(rng.normal(-1.0, 0.5))
            cosine = float(rng.uniform(0.15, 0.35))
            if coarse:
                score, cosine = round(score * 2) / 2, round(cosine, 2)
            text = " ".join(rng.choice(WORDS, size=int(rng.integers(0, 5))))
            hypotheses.append(NBestHypothesis(text, score, cosine if pictured else None))
        hypotheses.sort(key=lambda h: -h.score)
        reference = " ".join(rng.choice(WORDS, size=int(rng.integers(0, 5))))
        utterances.append(NBestUtterance(str(number), reference, hypotheses=tuple(hypotheses)))
    return utterances


def corpus(seed: int, count: int = 40, speakers: int = 4) -> NBestFile:
    """Utterances in which the picture knows better more often than not."""
    rng = np.random.default_rng(seed)
    utterances = []
    for number in range(count):
        words = rng.choice(["bear", "pear", "boat", "coat", "red", "two"], size=4)
        hypotheses = []
        for position in range(5):
            text = words.copy()
            text[rng.random(4) < 0.3] = "mouse"
            right = float(np.mean(text == words))
            hypotheses.append(
                NBestHypothesis(
                    " ".join(text),
                    -0.3 - 0.05 * position,
                    0.2 + 0.06 * right + 0.02 * float(rng.normal()),
                    asr_sum=-3.0 - position,
                    num_tokens=10,
                    clip_score_shuffled=0.2 + 0.03 * float(rng.normal()),
                )
            )
        utterances.append(
            NBestUtterance(
                str(number),
                " ".join(words),
                f"s{number % speakers}",
                "even" if number % 2 else "odd",
                hypotheses=tuple(hypotheses),
            )
        )
    return NBestFile(NBestHeader(), tuple(utterances))
