"""The bundled corpus: whole, readable, and with splits that share nothing."""

import hashlib
import json

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from bench.pocket.captions import MAX_WORDS, draw_scene, split_of
from bench.pocket.corpus import MAX_SECONDS
from bench.pocket.degradation import GROUPS, SEVERITIES, degrade
from bench.pocket.negatives import wrong_caption
from bench.pocket.speech import SAMPLE_RATE, VARIANTS, draw_voice, hesitate, speakers
from bench.pocket.vocabulary import NOUNS, ROWS
from tests.conftest import POCKET

SPLITS = ("dev", "test")
LEAST = {"dev": 120, "test": 240}
BYTES_LIMIT = 20 * 2**20  # half of what the repository may take


def rows(split: str) -> list[dict[str, str]]:
    lines = (POCKET / "data" / split / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("split", SPLITS)
def test_split_is_large_and_even_enough(split: str) -> None:
    found = rows(split)
    assert len(found) >= LEAST[split]
    assert len({row["id"] for row in found}) == len(found)
    assert len({row["speaker"] for row in found}) >= 8
    assert {row["group"] for row in found} == set(GROUPS)
    sizes = [sum(row["group"] == group for row in found) for group in GROUPS]
    assert max(sizes) - min(sizes) <= 0.15 * len(found)


@pytest.mark.parametrize("split", SPLITS)
def test_every_clip_and_picture_can_be_read(split: str) -> None:
    for row in rows(split):
        wave, rate = sf.read(POCKET / "data" / split / row["audio"], dtype="float32")
        assert rate == SAMPLE_RATE
        assert wave.ndim == 1
        # Opus hands back a few samples more or fewer at the ends.
        assert 0.3 * rate < len(wave) <= (MAX_SECONDS + 0.1) * rate
        assert 0.05 < np.abs(wave).max() <= 1.0
        with Image.open(POCKET / "data" / split / row["image"]) as picture:
            assert picture.convert("RGB").size == (144, 128)


def test_decoding_a_clip_twice_gives_the_same_samples() -> None:
    path = POCKET / "data" / "test" / rows("test")[0]["audio"]
    np.testing.assert_array_equal(sf.read(path)[0], sf.read(path)[0])


def test_splits_share_no_sentence_and_all_stand_where_their_hash_puts_them() -> None:
    sentences = {split: [row["reference"] for row in rows(split)] for split in SPLITS}
    for split, said in sentences.items():
        assert len(set(said)) == len(said)
        assert {split_of(sentence) for sentence in said} == {split}  # so none can be in train
        assert all(len(sentence.split()) <= MAX_WORDS for sentence in said)
    assert not set(sentences["dev"]) & set(sentences["test"])


def test_splits_share_no_voice() -> None:
    names = {split: set(variants) for split, variants in VARIANTS.items()}
    assert not names["train"] & names["dev"]
    assert not names["train"] & names["test"]
    assert not names["dev"] & names["test"]
    rng = np.random.default_rng(0)
    training = {draw_voice(rng).name for _ in range(3000)}
    for split in SPLITS:
        used = {row["speaker"] for row in rows(split)}
        assert used == {voice.name for voice in speakers(split)}  # type: ignore[arg-type]
        assert not used & training


def test_no_picture_occurs_twice() -> None:
    digests = [
        hashlib.sha256((POCKET / "data" / split / row["image"]).read_bytes()).hexdigest()
        for split in SPLITS
        for row in rows(split)
    ]
    assert len(set(digests)) == len(digests)


def test_there_are_many_nouns_that_sound_alike() -> None:
    assert len({noun.name for noun in NOUNS}) == len(NOUNS) >= 40
    assert all(len(row) >= 3 for row in ROWS)


def test_the_same_seed_draws_the_same_scene() -> None:
    first, second = (draw_scene(np.random.default_rng(3), "test") for _ in range(2))
    assert first == second


def test_wrong_captions_are_wrong() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        scene = draw_scene(rng, "train")
        assert wrong_caption(scene, rng) != scene.caption()


def test_hesitations_are_heard_and_leave_the_words_in_order() -> None:
    spoken = hesitate("a bear and a pear", np.random.default_rng(0), filler=1.0, repeat=0.0)
    words = spoken.replace(",", "").split()
    assert len(words) == 6
    assert [word for word in words if word not in {"um", "uh", "er", "hmm"}] == [
        "a",
        "bear",
        "and",
        "a",
        "pear",
    ]


@pytest.mark.parametrize("group", GROUPS)
def test_degradation_is_seeded_and_stays_in_range(group: str) -> None:
    wave = np.sin(np.arange(SAMPLE_RATE) * 0.1).astype(np.float32) * np.float32(0.5)
    first, second = (degrade(wave, SEVERITIES[group], np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.float32
    assert np.isfinite(first).all()
    assert np.abs(first).max() == pytest.approx(0.5, abs=1e-6)  # float32 rounding of the scaling
    assert len(first) >= len(wave)


def test_severer_groups_are_noisier() -> None:
    """The same tone keeps less of its energy in place, group by group."""
    wave = np.sin(np.arange(2 * SAMPLE_RATE) * 0.2).astype(np.float32) * np.float32(0.5)
    bin_of_tone = 0.2 / (2 * np.pi)

    def purity(group: str) -> float:
        shares = []
        for seed in range(12):
            found = degrade(wave, SEVERITIES[group], np.random.default_rng(seed))
            power = np.abs(np.fft.rfft(found)) ** 2
            near = abs(np.fft.rfftfreq(len(found)) - bin_of_tone) < 0.01
            shares.append(power[near].sum() / power.sum())
        return float(np.mean(shares))

    assert purity("mild") > purity("moderate") > purity("severe")


def test_data_and_checkpoints_are_small() -> None:
    for name in ("data", "models"):
        size = sum(path.stat().st_size for path in (POCKET / name).rglob("*") if path.is_file())
        assert size < BYTES_LIMIT
    for name in ("whisper", "clip"):
        assert sum(p.stat().st_size for p in (POCKET / "models" / name).iterdir()) < 8 * 2**20
