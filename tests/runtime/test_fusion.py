"""Fusion: text clean-up and formulas as in the tuning notebook, then their properties and limits."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingsError
from runtime.fusion import (
    CLIP_LOGIT_SCALE,
    FILLERS,
    alphas_from,
    fuse,
    normalize_transcript,
    rank,
    softmax,
    to_caption_style,
)
from tests.conftest import ROOT

NOTEBOOK = ROOT.parent / "shared" / "seed" / "fusion_tuning.md"
needs_notebook = pytest.mark.skipif(
    not NOTEBOOK.exists(), reason="the notebook lies beside the checkout only on some machines"
)

# Raw words and separators; doubled ones are there to meet each other by chance.
WORDS = """Um, UH you know i mean the The THE a a I it's don't don t hot hotter hot-hot uh- -huh 1 1 11
- -- _ __ ٣ so. so well, . !? ' так Так ну ΑΣ ΑΣ σ ς İ i̇ ß ẞ ﬁ é naïve 你好 你 好 はい नमस्ते مرحبا 🐻 🐻"""
SEPARATORS = [
    "",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\x1c",
    "\x85",
    "\u180e",
    "\u200b",
    "\u200d",
]
PIECES = [*sorted(FILLERS), *WORDS.split(), *SEPARATORS, "e\u0301", "\ud800"]


def random_text(source: random.Random) -> str:
    """Fillers, repeats, punctuation and scripts in any order."""
    words = [source.choice(PIECES) for _ in range(source.randrange(0, 10))]
    if words and source.random() < 0.5:  # an immediate repeat, once or more often
        at = source.randrange(len(words))
        words[at:at] = [words[at]] * source.randrange(1, 4)
    return "".join(word + source.choice(["", " ", " ", " ", " ", "  ", ", "]) for word in words)


def notebook_functions():
    """Run the cell of the notebook that defines the text functions, up to where it needs torch."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    cell = text[text.index("FILLER_WORDS = ") : text.index("class MultimodalASR")]
    names = {"re": re, "np": np}
    exec(cell, names)
    return names


@needs_notebook
@pytest.mark.shared
def test_text_functions_equal_the_notebook_on_100000_strings():
    notebook = notebook_functions()
    assert notebook["FILLER_WORDS"] == FILLERS
    source = random.Random(0)
    changed = 0
    for _ in range(100_000):
        text = random_text(source)
        expected = notebook["normalize_transcript"](text)
        assert normalize_transcript(text) == expected, repr(text)
        assert to_caption_style(text) == notebook["to_caption_style"](text), repr(text)
        changed += expected != text.strip().lower()
    assert changed > 30_000  # the strings do exercise the functions


@needs_notebook
@pytest.mark.shared
def test_fusion_equals_the_notebook():
    softmax_of_notebook = notebook_functions()["_softmax"]
    source = np.random.default_rng(0)
    for _ in range(500):
        n = int(source.integers(1, 10))
        scores, cosines = -source.exponential(1, n), source.uniform(-0.2, 0.5, n).astype(np.float32)
        alpha = float(source.uniform())
        asr, clip = softmax_of_notebook(scores), softmax_of_notebook(cosines * 100.0)
        fused = fuse(scores, cosines, alpha)
        # The notebook's cosines and their softmax are float32: 2^-24 relative, times the factor 100.
        np.testing.assert_allclose(fused.asr, asr, rtol=0, atol=1e-12)
        np.testing.assert_allclose(fused.clip, clip, rtol=0, atol=1e-5)
        np.testing.assert_allclose(fused.fused, (1 - alpha) * asr + alpha * clip, rtol=0, atol=1e-5)


# What the notebook's functions gave, kept for where the notebook is not at hand.
FROZEN = {
    "": ("", ""),
    "   ": ("", ""),
    "Um": ("", ""),
    "um uh you know": ("", ""),
    "Um, a dog": ("um, a dog", "um, a dog"),
    "a bear": ("a bear", "an image showing a bear"),
    "BEAR": ("bear", "an image showing bear"),
    "um the the dog": ("the dog", "an image showing the dog"),
    "the the the big big dog": ("the big dog", "the big dog"),
    "the  the dog": ("the the dog", "the the dog"),  # two spaces: no immediate repeat
    "the the\tthe dog": ("the the dog", "the the dog"),
    "you you know a dog": ("a dog", "an image showing a dog"),
    "you know know a dog": ("a dog", "an image showing a dog"),
    "i mean you know so well": ("", ""),
    "i mean it": ("it", "an image showing it"),
    "do you know you": ("do you", "an image showing do you"),
    "you i mean know it": ("you know it", "you know it"),  # what is left is not looked at again
    "i mean mean what i mean": ("what", "an image showing what"),
    "uh-huh a cat": ("a cat", "an image showing a cat"),
    "uh -huh a cat": ("-huh a cat", "-huh a cat"),
    "well well well": ("", ""),
    "hot hotter dog": ("hot hotter dog", "hot hotter dog"),
    "x-hot hot dog": ("x-hot dog", "an image showing x-hot dog"),
    "don't t": ("don't", "an image showing don't"),
    "Так так медведь": ("так медведь", "an image showing так медведь"),
    "熊 熊": ("熊", "an image showing 熊"),
    "🐻 🐻 bear": ("🐻 🐻 bear", "🐻 🐻 bear"),  # no word characters
    "1 1 11 1": ("1 11 1", "1 11 1"),
    "a\u00a0a": ("a a", "an image showing a a"),
}


@pytest.mark.parametrize(("text", "expected"), FROZEN.items(), ids=[json.dumps(text) for text in FROZEN])
def test_frozen_examples(text, expected):
    assert (normalize_transcript(text), to_caption_style(text)) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_comes_out_clean(text):
    normalized = normalize_transcript(text)
    assert normalized == " ".join(normalized.split())
    assert all(word not in FILLERS for word in normalized.split())
    caption = to_caption_style(text)
    assert caption in (normalized, f"an image showing {normalized}")
    assert (caption == "") == (normalized == "")


def test_long_words_take_linear_time():
    normalize_transcript("a" * 1_000_000)
    normalize_transcript("ab " * 300_000)
    normalize_transcript("a " * 300_000)


lists = st.lists(st.tuples(st.floats(-50, 0), st.floats(-1, 1)), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(pairs=lists, alpha=st.floats(0, 1))
def test_fused_scores_are_a_distribution_between_both(pairs, alpha):
    scores, cosines = map(list, zip(*pairs, strict=True))
    result = fuse(scores, cosines, alpha)
    for vector in (result.asr, result.clip, result.fused):
        assert vector.shape == (len(pairs),)
        assert vector.min() >= 0
        assert vector.sum() == pytest.approx(1.0)
    assert (result.fused <= np.maximum(result.asr, result.clip) + 1e-12).all()
    assert (result.fused >= np.minimum(result.asr, result.clip) - 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(pairs=lists)
def test_the_ends_of_alpha(pairs):
    scores, cosines = map(np.array, zip(*pairs, strict=True))
    np.testing.assert_array_equal(fuse(scores, cosines, 0.0).fused, softmax(scores))
    np.testing.assert_array_equal(fuse(scores, cosines, 1.0).fused, softmax(CLIP_LOGIT_SCALE * cosines))


def test_softmax_is_safe_at_the_extremes():
    np.testing.assert_allclose(softmax([-1e6, 0.0, -1e6]), [0, 1, 0])
    np.testing.assert_allclose(softmax([1e6, 1e6]), [0.5, 0.5])
    assert softmax([]).shape == (0,)


def test_temperature_flattens():
    sharp = fuse([-0.1, -1.0], [0.2, 0.3], 0.0)
    flat = fuse([-0.1, -1.0], [0.2, 0.3], 0.0, asr_temperature=10.0)
    assert flat.asr[0] < sharp.asr[0]
    np.testing.assert_allclose(flat.asr, softmax([-0.01, -0.1]))
    np.testing.assert_allclose(fuse([-1, -1], [0.2, 0.3], 1.0, clip_scale=10.0).clip, softmax([2.0, 3.0]))


def test_ranking_keeps_the_order_of_ties():
    assert rank([0.2, 0.4, 0.2, 0.4]).tolist() == [1, 3, 0, 2]
    assert rank([]).tolist() == []
    values = np.random.default_rng(0).integers(0, 4, 200) / 4
    expected = sorted(range(200), key=lambda index: values[index], reverse=True)  # as in the notebook
    assert rank(values).tolist() == expected


def test_empty_list_gives_empty_scores():
    result = fuse([], [], 0.3)
    assert (result.asr.size, result.clip.size, result.fused.size) == (0, 0, 0)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, float("nan"), float("inf"), -float("inf")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(SettingsError, match="alpha"):
        fuse([-1.0], [0.1], alpha)


@pytest.mark.parametrize(
    ("scores", "cosines", "words"),
    [
        ([float("nan")], [0.1], "recognition score 0 is nan"),
        ([-1.0, -2.0], [0.1, float("inf")], "cosine 1 is inf"),
        ([-1.0], [0.1, 0.2], "1 recognition scores and 2 cosines"),
        ([[-1.0]], [0.1], "shape"),
        (["x"], [0.1], "no numbers"),
    ],
)
def test_unusable_scores(scores, cosines, words):
    with pytest.raises(SettingsError, match=words):
        fuse(scores, cosines, 0.3)


@pytest.mark.parametrize(
    "settings_", [{"asr_temperature": 0}, {"clip_scale": -1}, {"clip_scale": float("nan")}]
)
def test_unusable_temperatures(settings_):
    with pytest.raises(SettingsError, match=next(iter(settings_))):
        fuse([-1.0], [0.1], 0.3, **settings_)


@pytest.mark.parametrize("seed", range(30))
def test_alphas_from_which_an_entry_is_first(seed):
    generator = np.random.default_rng(seed)
    # Few levels, so that equal scores are among them.
    scores, cosines = generator.integers(-3, 1, 5) / 2, generator.integers(0, 4, 5) / 100
    grid = np.linspace(0, 1, 2001)
    first = np.array([rank(fuse(scores, cosines, alpha).fused)[0] for alpha in grid])
    for place, least in enumerate(alphas_from(fuse(scores, cosines, 0.3))):
        winning = grid[first == place]
        if winning.size:
            assert least == pytest.approx(winning[0], abs=1e-3)
        else:
            assert least is None
