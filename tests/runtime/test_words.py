"""The normaliser `words` on scripts and spellings that others break."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.text.normalizers import NORMALIZER_NAMES, normalizer
from bench.text.scoring import count_word_errors
from runtime.whisper.words import word_text

LETTERS_THAT_FOLD = "aIİıi\u0307ßẞſςΣσŉŀﬁＡǰΐᾳ\u0345\u0301\u0327'’´·\u00ad\u200d\u200c\ufe0f12²½1.,-"


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        # Hindi: vowel signs (Mc, Mn) and virama stay; the danda is punctuation.
        ("वह क्षत्रिय हिन्दी में, लिखता है।", "hi", "वह क्षत्रिय हिन्दी में लिखता है"),
        # Thai writes no spaces; vowels and tone marks above and below stay in the word.
        ("ที่นี่ “น้ำ” ครับ", "th", "ที่นี่ น้ํา ครับ"),
        ("İstanbul'da IŞIK, ılık", "tr", "istanbulda ışık ılık"),
        ("I\u0307stanbul", "tr", "istanbul"),
        ("i\u0307stanbul", None, "istanbul"),  # what Python makes of İ in lower case
        ("Bakı, İÇ", "az", "bakı iç"),
        ("IŞIK", None, "işik"),
        ("Die STRASSE, die Straße, die STRAẞE!", "de", "die strasse die strasse die strasse"),
        ("Ο ΛΌΓΟΣ, ο λόγος", "el", "ο λόγοσ ο λόγοσ"),
        ("كَتَبَ الطَّالِبُ، كتـــاب؟", "ar", "كَتَبَ الطَّالِبُ كتاب"),
        ("می\u200cخواهم", "fa", "میخواهم"),
        ("П'ять п’ять пʼять", "uk", "пять пять пять"),
        ('צה"ל צה״ל', "he", "צהל צהל"),
        ("Ինչպե՞ս", "hy", "ինչպես"),
        ("col·lecció coŀlecció", "ca", "collecció collecció"),
        ("L'homme a dit : « oui »", "fr", "lhomme a dit oui"),
        ("Don't DON’T don`t don´t donʼt", "en", "dont dont dont dont dont"),
        ("the dogs' 'tails' \"wag\"", "en", "the dogs tails wag"),
        ("well-known, state\u2010of—the\u2011art", "en", "well known state of the art"),
        ("co\u00adoperate", "en", "cooperate"),
        ("$1,000 and 3.5% of 10² or 3½; 5'6\", H₂O", "en", "1 000 and 3 5 of 10 2 or 3 1 2 5 6 h2o"),
        ("Lego™ ＡＢＣ ﬁne", "en", "lego abc fine"),
        (
            "one\u00a0two\u3000three\u2028four\tfive\u200bsix\u0085seven",
            None,
            "one two three four five six seven",
        ),
        ("❤️ 👩\u200d👩\u200d👧 🇩🇪 😀\U0001fae8 ¿?…", None, ""),
        ("", None, ""),
        ("\ud800 x\udfff", None, "x"),  # a JSON escape can make a lone surrogate
    ],
)
def test_words_of_a_text(text: str, language: str | None, expected: str) -> None:
    assert word_text(text, language) == expected


@given(st.text(), st.sampled_from([None, "tr"]))
@example("e'\u0301", None)
@example("1'\u00ad'2", None)
@example("ŀ²½", "tr")
def test_normalising_is_idempotent(text: str, language: str | None) -> None:
    once = word_text(text, language)
    assert word_text(once, language) == once


@given(st.text(alphabet=LETTERS_THAT_FOLD), st.sampled_from([None, "tr"]))
def test_normalising_what_folds_is_idempotent(text: str, language: str | None) -> None:
    once = word_text(text, language)
    assert word_text(once, language) == once


@given(st.text())
def test_words_are_joined_by_single_spaces_and_begin_with_no_mark(text: str) -> None:
    normalized = word_text(text)
    assert normalized == " ".join(normalized.split())
    assert all(unicodedata.category(word[0])[0] != "M" for word in normalized.split())


@given(st.text(alphabet=st.characters(categories=["Lu", "Ll", "Lo", "Mn", "Mc", "Zs"])))
def test_composed_and_decomposed_are_the_same_words(text: str) -> None:
    assert word_text(unicodedata.normalize("NFD", text)) == word_text(unicodedata.normalize("NFC", text))


def test_no_letter_or_mark_splits_a_word() -> None:
    # The ligatures U+FDFA and U+FDFB stand for phrases of several words.
    phrases = {"\ufdfa", "\ufdfb"}
    split = [
        character
        for character in map(chr, range(0x20000))
        if unicodedata.category(character)[0] in "LM"
        and character not in phrases
        and " " in word_text(f"a{character}b")
    ]
    assert split == []


@pytest.mark.parametrize("name", NORMALIZER_NAMES)
def test_white_space_of_any_kind_separates_words(name: str) -> None:
    clean = normalizer(name).apply
    counts = count_word_errors(
        [clean("Two\u00a0words\u3000and\ta\u2028line")], [clean("two words and a  line\u2003")]
    )
    assert (counts.errors[0], counts.reference_length[0]) == (0, 5)


def test_commas_and_case_cost_nothing_in_words_and_something_in_the_notebooks_scoring() -> None:
    reference, hypothesis = "A cat, a dog.", "a cat a dog"
    errors = {
        name: int(
            count_word_errors(
                [normalizer(name).apply(reference)], [normalizer(name).apply(hypothesis)]
            ).errors[0]
        )
        for name in ("words", "notebook", "basic")
    }
    assert errors == {"words": 0, "notebook": 2, "basic": 0}


def test_basic_is_whispers_and_splits_hindi() -> None:
    assert normalizer("basic").apply("हिन्दी") == "ह न द"
    assert "splits words at combining marks" in normalizer("basic").description
