"""The described corpus and the human clips: whole, readable, with splits that share nothing."""

import hashlib
import json

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from bench.manifest import read_manifest
from bench.pocket.adapt_clip import as_recognised
from bench.pocket.captions import split_of
from bench.pocket.degradation import GROUPS
from bench.pocket.described_corpus import SEED, SIZES, utterances
from bench.pocket.descriptions import MAX_WORDS, OPENINGS, draw_description
from bench.pocket.impairment import IMPAIRMENTS
from bench.pocket.speech import SAMPLE_RATE
from bench.pocket.strangers import STRANGERS
from bench.pocket.vocabulary import NOUNS
from bench.pocket.voices import BASES, Half, speakers
from tests.conftest import POCKET

HALVES: tuple[Half, ...] = ("dev", "test")
LONGEST = 14.0  # seconds
BYTES_LIMIT = {"described": 8 * 2**20, "human": 1_500_000}


def rows(half: Half) -> list[dict[str, str]]:
    lines = (POCKET / "described" / half / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("half", HALVES)
def test_groups_and_speakers_are_even(half: Half) -> None:
    found = rows(half)
    assert len(found) == SIZES[half]
    assert len({row["id"] for row in found}) == len(found)
    for key, names in (("group", set(GROUPS)), ("speaker", {speaker.name for speaker in speakers(half)})):
        sizes = [sum(row[key] == name for row in found) for name in names]
        assert {row[key] for row in found} == names
        assert max(sizes) - min(sizes) <= len(speakers(half))


@pytest.mark.parametrize("half", HALVES)
def test_every_clip_and_picture_can_be_read(half: Half) -> None:
    for row in rows(half):
        wave, rate = sf.read(POCKET / "described" / half / row["audio"], dtype="float32")
        assert rate == SAMPLE_RATE
        assert wave.ndim == 1
        assert 0.5 * rate < len(wave) < LONGEST * rate
        assert 0.05 < np.abs(wave).max() <= 1.0
        with Image.open(POCKET / "described" / half / row["image"]) as picture:
            assert picture.convert("RGB").size == (144, 128)


def test_splits_share_no_voice() -> None:
    assert not set(BASES["dev"]) & set(BASES["test"])
    for half in HALVES:
        assert len({speaker.name for speaker in speakers(half)}) == 8
        assert {row["speaker"].split("-")[0] for row in rows(half)} == set(BASES[half])


@pytest.mark.parametrize("half", HALVES)
def test_manifests_say_what_the_seed_draws_and_scenes_stand_where_their_hash_puts_them(half: Half) -> None:
    drawn = list(utterances(half, SIZES[half], SEED))
    scenes = [description.plain() for description, _, _ in drawn]
    assert [row["reference"] for row in rows(half)] == [description.caption() for description, _, _ in drawn]
    assert len(set(scenes)) == len(scenes)
    assert {split_of(scene) for scene in scenes} == {half}  # so no scene is in both, nor in the adaptation


def test_sentences_are_words_in_lower_case() -> None:
    sentences = {half: [row["reference"] for row in rows(half)] for half in HALVES}
    assert not set(sentences["dev"]) & set(sentences["test"])
    for sentence in [*sentences["dev"], *sentences["test"]]:
        assert len(sentence.split()) <= MAX_WORDS
        assert sentence.replace(" ", "").isalpha()
        assert sentence == sentence.lower()


def test_no_picture_occurs_twice() -> None:
    pictures = [
        path.read_bytes() for half in HALVES for path in (POCKET / "described" / half).rglob("*.webp")
    ]
    assert (
        len({hashlib.sha256(data).hexdigest() for data in pictures}) == len(pictures) == sum(SIZES.values())
    )


def test_openings_agree_with_the_number() -> None:
    rng = np.random.default_rng(0)
    assert sum(share for share, _, _ in OPENINGS) == pytest.approx(1.0)
    for _ in range(200):
        sentence = draw_description(rng, "train").caption()
        if "there is" in sentence:
            assert "there is a" in sentence
        if "there are" in sentence:
            assert "there are t" in sentence  # two, three


def test_degrees_go_upwards() -> None:
    mild, moderate, severe = (IMPAIRMENTS[group] for group in GROUPS)
    for less, more in ((mild, moderate), (moderate, severe)):
        assert less.slowness[1] < more.slowness[1]
        assert less.melody[1] > more.melody[1]
        assert less.pause < more.pause
        assert less.sound.snr[0] > more.sound.snr[0]
        assert less.lost[1] < more.lost[1]


def test_strangers_name_nothing_that_pictures_show() -> None:
    assert not set(STRANGERS) & {name for noun in NOUNS for name in (noun.name, noun.plural)}
    rng = np.random.default_rng(0)
    written = {as_recognised("two bears and a pear", False, rng) for _ in range(200)}
    assert any(text.startswith("2 ") for text in written)
    assert any(text.endswith(".") for text in written)


def test_human_clips_name_their_source_and_licence() -> None:
    path = POCKET / "human" / "manifest.jsonl"
    clips = read_manifest(path)
    assert len(clips) >= 8
    for clip, line in zip(clips, path.read_text(encoding="utf-8").splitlines(), strict=True):
        row = json.loads(line)
        assert row["licence"] in {"CC-BY-4.0", "public domain"}
        assert row["source"]
        wave, rate = sf.read(clip.audio, dtype="float32")
        assert rate == SAMPLE_RATE
        assert 1.0 < len(wave) / rate < 30.0
        assert clip.reference == clip.reference.lower() != ""


@pytest.mark.parametrize("name", BYTES_LIMIT)
def test_folders_are_small(name: str) -> None:
    assert sum(p.stat().st_size for p in (POCKET / name).rglob("*") if p.is_file()) < BYTES_LIMIT[name]
