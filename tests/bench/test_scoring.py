"""Error counts against jiwer, normalisers against Whisper's."""

import json
import re
import subprocess
import sys
from importlib.resources import files

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.text.normalizers import normalizer
from bench.text.scoring import count_character_errors, count_word_errors, error_rate
from runtime.errors import SettingsError
from tests.conftest import ROOT

# Both sides divide the same two integers: equal to the last bit; 1e-12 is what is promised.
TOLERANCE = 1e-12

WIDE_TEXTS = st.text(alphabet="ab \u00a0\u3000\u2028\t\n\x1f\u0085", max_size=12)
TEXTS = st.lists(st.sampled_from(["a", "b", "cat", "", " ", "\u00fc"]), max_size=6).map(" ".join)


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_rates_equal_jiwer(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [p[0] for p in pairs], [p[1] for p in pairs]
    for count, rate in ((count_word_errors, jiwer.wer), (count_character_errors, jiwer.cer)):
        counts = count(references, hypotheses)
        ours = error_rate(int(counts.errors.sum()), int(counts.reference_length.sum()))
        assert ours == pytest.approx(rate(references, hypotheses), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("", "", (0, 0, 0, 0)),
        ("", "a b", (0, 0, 2, 0)),
        ("a b", "", (0, 2, 0, 2)),
        ("a", "b c d", (1, 0, 2, 1)),
    ],
)
def test_empty_texts_and_rates_above_one(
    reference: str, hypothesis: str, expected: tuple[int, int, int, int]
) -> None:
    counts = count_word_errors([reference], [hypothesis])
    assert (
        counts.substitutions[0],
        counts.deletions[0],
        counts.insertions[0],
        counts.reference_length[0],
    ) == expected
    assert error_rate(3, 1) == 3.0
    assert error_rate(2, 0) == 2.0


def test_no_pairs() -> None:
    assert count_word_errors([], []).errors.shape == (0,)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["atis", "chime4", "ls_other"])
def test_rates_on_real_hypotheses_equal_jiwer(name: str) -> None:
    path = ROOT.parent / "shared/data/hyporadise" / f"test_{name}.json"
    if not path.is_file():
        pytest.skip("no HyPoradise lists beside the checkout")
    rows = json.loads(path.read_text())
    clean = normalizer("notebook").apply
    references = [clean(row["output"]) for row in rows]
    for depth in range(5):
        texts = [clean(row["input"][depth]) for row in rows]
        for count, rate in ((count_word_errors, jiwer.wer), (count_character_errors, jiwer.cer)):
            counts = count(references, texts)
            ours = error_rate(int(counts.errors.sum()), int(counts.reference_length.sum()))
            assert ours == pytest.approx(rate(references, texts), abs=TOLERANCE)


SENTENCES = [
    "  Hello, World! ",
    "It's [noise] a (quiet) day…",
    "<unk> 3.5% of $20",
    "ﬁne naïve CAFÉ",
    "",
    "?!",
]


def test_basic_equals_whispers() -> None:
    whispers = pytest.importorskip("transformers.models.whisper.english_normalizer")
    theirs, ours = whispers.BasicTextNormalizer(), normalizer("basic")
    for sentence in SENTENCES:
        assert ours.apply(sentence) == theirs(sentence).strip()


def test_english_equals_whispers() -> None:
    whispers = pytest.importorskip("transformers.models.whisper.english_normalizer")
    spellings = json.loads((files("whisper_normalizer") / "normalizers/english.json").read_text())
    theirs, ours = whispers.EnglishTextNormalizer(spellings), normalizer("english")
    for sentence in (*SENTENCES, "Mr. Smith won't pay twenty dollars for the grey colours, um"):
        assert ours.apply(sentence) == theirs(sentence).strip()


def test_english_needs_no_transformers() -> None:
    code = (
        "import sys; from bench.text.normalizers import normalizer; english = normalizer('english').apply; "
        "assert english('Mr. Smith won’t pay twenty dollars, um') == 'mister smith will not pay $20'; "
        "assert english('Colour') == 'color'; "
        "assert not {'transformers', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SettingsError, match="expected one of words, notebook, basic, english"):
        normalizer("none")
    with pytest.raises(SettingsError, match="language is 'klingon'"):
        normalizer("words", "klingon")


@pytest.mark.parametrize("language", ["tr", "TR", "turkish", "<|tr|>"])
def test_a_language_may_be_a_code_a_name_or_a_token(language: str) -> None:
    found = normalizer("words", language)
    assert (found.apply("IŞIK"), found.language) == ("ışık", "tr")
    assert found.to_dict()["language"] == "tr"


@given(st.lists(st.tuples(WIDE_TEXTS, WIDE_TEXTS), min_size=1, max_size=8))
def test_any_white_space_is_as_a_space(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = ([pair[side] for pair in pairs] for side in (0, 1))
    plain = [[" ".join(text.split()) for text in side] for side in (references, hypotheses)]
    counts = count_word_errors(references, hypotheses)
    ours = error_rate(int(counts.errors.sum()), int(counts.reference_length.sum()))
    assert ours == pytest.approx(jiwer.wer(*plain), abs=TOLERANCE)
    alike = [[re.sub(r"\s", " ", text) for text in side] for side in (references, hypotheses)]
    for one, other in zip(
        count_character_errors(references, hypotheses).errors,
        count_character_errors(*alike).errors,
        strict=True,
    ):
        assert one == other


def test_counts_do_not_depend_on_repetition() -> None:
    once = count_word_errors(["a b", "c"], ["a", "c d"])
    twice = count_word_errors(["a b", "c", "a b", "c"], ["a", "c d", "a", "c d"])
    assert np.array_equal(twice.errors, np.tile(once.errors, 2))
