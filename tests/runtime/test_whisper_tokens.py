"""The vocabulary of a checkpoint: parity with transformers' tokenizer, then prompts, then faults."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from runtime.errors import BundleError, BundleNotFoundError, SettingsError
from runtime.whisper import language_names as module
from runtime.whisper.language_names import NAME_OF_CODE, language_code, language_hint
from runtime.whisper.tokens import WhisperTokens
from tests.conftest import SHARED

LANGUAGES = ["en", "de", "yue"]


def write_checkpoint(folder: Path, *, multilingual: bool, timestamps: bool = True, **changes: Any) -> Path:
    """Write a checkpoint of the 256 bytes and Whisper's special tokens; `changes`: generation_config.json.

    Every change to None leaves the key out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|startoftranscript|>"]
    if multilingual:
        special += [f"<|{code}|>" for code in LANGUAGES]
    special += ["<|translate|>", "<|transcribe|>", "<|startofprev|>", "<|nospeech|>"]
    special += ["<|notimestamps|>"] if timestamps else []
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if timestamps:
        steps = [AddedToken(f"<|{step / 50:.2f}|>", special=False) for step in range(50)]
        tokenizer.add_tokens(steps)
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    config = {"vocab_size": size + 3, "max_target_positions": 64, "decoder_start_token_id": 257}
    generation = {
        "eos_token_id": 256,
        "decoder_start_token_id": 257,
        "is_multilingual": multilingual,
        "max_length": 64,
        "no_timestamps_token_id": tokenizer.token_to_id("<|notimestamps|>"),
        "max_initial_timestamp_index": 50,
        "suppress_tokens": [1, 2, 257],
        "begin_suppress_tokens": [220, 256],
    }
    if multilingual:
        generation["lang_to_id"] = {f"<|{code}|>": 258 + place for place, code in enumerate(LANGUAGES)}
    generation |= changes
    stated = {key: value for key, value in generation.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps(stated))
    return folder


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("multilingual"), multilingual=True)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("english"), multilingual=False)


# ---------------------------------------------------------------------------------------------- parity


@pytest.fixture(scope="module")
def pair(multilingual: Path) -> tuple[WhisperTokens, WhisperTokenizerFast]:
    reference = WhisperTokenizerFast(tokenizer_file=str(multilingual / "tokenizer.json"))
    return WhisperTokens.from_folder(multilingual), reference


@hypothesis_settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(text=st.text(max_size=12), data=st.data())
def test_decode_equals_the_tokenizer_of_transformers(
    pair: tuple[WhisperTokens, WhisperTokenizerFast], text: str, data: st.DataObject
) -> None:
    """Also where bytes are no text, and where special tokens and timestamps lie between them."""
    tokens, reference = pair
    ids = reference(text, add_special_tokens=False).input_ids
    others = data.draw(st.lists(st.integers(0, tokens.vocab_size - 4), max_size=6))
    for token in others:
        ids.insert(data.draw(st.integers(0, len(ids))), token)
    if ids and ids[0] == reference.convert_tokens_to_ids("<|startofprev|>"):
        ids = ids[1:]  # transformers then drops a whole prompt, of which generated tokens have none
    assert tokens.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_decode_cleans_up_spaces_where_the_tokenizer_says_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, multilingual=False)
    text = "we do n't , he 's here . and ' so ' they 've ? no !"
    reference = WhisperTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    ids = reference(text, add_special_tokens=False).input_ids
    assert WhisperTokens.from_folder(folder).decode(ids) == text == reference.decode(ids)
    (folder / "tokenizer_config.json").write_text('{"clean_up_tokenization_spaces": true}')
    cleaned = reference.decode(ids, clean_up_tokenization_spaces=True)
    assert cleaned != text
    assert WhisperTokens.from_folder(folder).decode(ids) == cleaned


@pytest.mark.shared
@pytest.mark.parametrize("name", ["whisper-multilingual", "whisper-en"])
def test_decode_of_the_real_vocabulary_equals_transformers(name: str, tmp_path: Path) -> None:
    source = SHARED / "tokenizers" / name / "tokenizer.json"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    (tmp_path / "tokenizer.json").write_bytes(source.read_bytes())
    reference = WhisperTokenizerFast(tokenizer_file=str(source))
    eos, start = reference.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    config = {"vocab_size": len(reference), "max_target_positions": 448}
    generation = {
        "eos_token_id": eos,
        "decoder_start_token_id": start,
        "is_multilingual": name != "whisper-en",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    tokens = WhisperTokens.from_folder(tmp_path)
    for text in [
        " Ask not what your country can do for you.",
        " Größe, 你好世界 ¿qué? 😀",
        "a  b\n c 's n't .",
    ]:
        ids = reference(text).input_ids
        ids = [*ids[:-3], tokens.timestamp_begin, tokens.timestamp_begin + 77, *ids[-3:], 200, 201, 50000]
        assert tokens.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert tokens.timestamp_begin == reference.convert_tokens_to_ids("<|0.00|>")
    no_speech = "<|nospeech|>" if "<|nospeech|>" in reference.get_vocab() else "<|nocaptions|>"
    assert tokens.no_speech_id == reference.convert_tokens_to_ids(no_speech)
    if name != "whisper-en":
        reference.set_prefix_tokens(language="german", task="translate", predict_timestamps=False)
        assert tokens.prompt("german", "translate") == reference.prefix_tokens
        reference.set_prefix_tokens(language="yo", task="transcribe", predict_timestamps=True)
        assert tokens.prompt("yo", timestamps=True) == reference.prefix_tokens


# ---------------------------------------------------------------------------------------------- prompts


def test_reads_every_id_of_a_multilingual_checkpoint(multilingual: Path) -> None:
    tokens = WhisperTokens.from_folder(multilingual)
    assert tokens.languages == {"en": 258, "de": 259, "yue": 260}
    assert tokens.tasks == {"translate": 261, "transcribe": 262}
    assert (tokens.no_speech_id, tokens.no_timestamps_id, tokens.timestamp_begin) == (264, 265, 266)
    assert tokens.language_of(259) == "de"
    assert tokens.vocab_size == 319


@pytest.mark.parametrize("language", ["de", "DE", "german", " German ", "<|de|>"])
def test_multilingual_prompts_name_language_and_task(multilingual: Path, language: str) -> None:
    tokens = WhisperTokens.from_folder(multilingual)
    assert tokens.prompt(language) == [257, 259, 262, 265]
    assert tokens.prompt(language, "translate") == [257, 259, 261, 265]
    assert tokens.prompt(language, timestamps=True) == [257, 259, 262]


@pytest.mark.parametrize("name", ["cantonese", "yue"])
def test_languages_have_several_names(multilingual: Path, name: str) -> None:
    assert WhisperTokens.from_folder(multilingual).prompt(name)[1] == 260


@pytest.mark.parametrize("language", [None, "en", "english", "<|en|>"])
def test_english_only_prompts_name_neither(english: Path, language: str | None) -> None:
    tokens = WhisperTokens.from_folder(english)
    no_timestamps = tokens.no_timestamps_id
    assert tokens.prompt(language) == [257, no_timestamps]
    assert tokens.prompt(language, timestamps=True) == [257]
    assert (tokens.languages, tokens.tasks) == ({}, {})


def test_a_checkpoint_without_timestamps_has_the_shorter_prompt(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, multilingual=False, timestamps=False)
    tokens = WhisperTokens.from_folder(folder)
    assert (tokens.no_timestamps_id, tokens.timestamp_begin) == (None, None)
    assert tokens.max_initial_timestamp_index is None
    assert tokens.prompt(None) == [257]
    with pytest.raises(SettingsError, match="no timestamp tokens"):
        tokens.prompt(None, timestamps=True)


def test_what_generation_config_leaves_out_comes_from_the_other_files(tmp_path: Path) -> None:
    left_out = dict.fromkeys(
        ["lang_to_id", "no_timestamps_token_id", "decoder_start_token_id", "suppress_tokens", "max_length"]
    )
    folder = write_checkpoint(tmp_path, multilingual=True, **left_out)
    tokens = WhisperTokens.from_folder(folder)
    assert tokens.languages == {"en": 258, "de": 259, "yue": 260}
    assert (tokens.no_timestamps_id, tokens.start_token_id, tokens.max_length) == (265, 257, 64)
    assert tokens.suppress_tokens == ()


def test_lengths_beyond_the_positions_are_cut(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, multilingual=False, max_length=448)
    assert WhisperTokens.from_folder(folder).max_length == 64


@pytest.mark.parametrize(("stated", "expected"), [([1, 256], 256), ([3, 1], 3), ([256], 256)])
def test_of_several_ends_whispers_own_comes_first(tmp_path: Path, stated: list[int], expected: int) -> None:
    folder = write_checkpoint(tmp_path, multilingual=True, eos_token_id=stated)
    assert WhisperTokens.from_folder(folder).eos_token_id == expected


def test_minus_one_suppresses_nothing_as_in_transformers(tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path, multilingual=True, suppress_tokens=[-1], begin_suppress_tokens=[-1, 5]
    )
    tokens = WhisperTokens.from_folder(folder)
    assert (tokens.suppress_tokens, tokens.begin_suppress_tokens) == ((), (5,))


# Languages from 258: en, de, yue; then translate, transcribe, …, and <|notimestamps|> at 265.
DEFAULTS: list[dict[str, Any]] = [
    {},
    {"language": "de"},
    {"language": "German", "task": "translate"},
    {"language": "<|yue|>", "forced_decoder_ids": [[1, 258], [2, 261]]},
    {"task": "translate"},
    {"forced_decoder_ids": [[1, None], [2, 262]]},
    {"forced_decoder_ids": [[1, None], [2, 261]]},
    {"forced_decoder_ids": [[1, 259], [2, 261]]},
    {"forced_decoder_ids": [[2, 261]]},
    {"forced_decoder_ids": [[1, 259], [2, 262], [3, 265]]},
]


@pytest.mark.parametrize("place", ["generation_config.json", "config.json"])
@pytest.mark.parametrize("changes", DEFAULTS)
def test_prompts_name_what_transformers_would(tmp_path: Path, changes: dict[str, Any], place: str) -> None:
    """Without a language, with one that was detected, and with one that the caller asks for."""
    if place == "config.json" and set(changes) != {"forced_decoder_ids"}:
        pytest.skip("an old config.json states forced_decoder_ids alone")
    folder = write_checkpoint(tmp_path, multilingual=True)
    stated = json.loads((folder / place).read_text()) | changes
    (folder / place).write_text(json.dumps(stated))
    tokens = WhisperTokens.from_folder(folder)
    config = WhisperConfig(**json.loads((folder / "config.json").read_text()))
    generation = GenerationConfig(**json.loads((folder / "generation_config.json").read_text()))
    generation.task_to_id, generation.return_timestamps = {"translate": 261, "transcribe": 262}, False

    def prompt(**asked: str) -> list[int]:
        model = SimpleNamespace(config=config, device="cpu", detect_language=lambda **_: torch.tensor([260]))
        settings = copy.deepcopy(generation)
        for key, value in asked.items():
            setattr(settings, key, value)
        tensor = WhisperForConditionalGeneration._retrieve_init_tokens(
            model, torch.zeros(1, 1, 1), 1, settings, config, 100, {}
        )
        return list(tensor[0].tolist())

    if tokens.detects_language:
        assert tokens.prompt("yue", tokens.defaults.task) == with_task(prompt())
    else:
        assert tokens.prompt(None) == with_task(prompt())
    assert tokens.prompt("en") == prompt(language="en")
    assert tokens.prompt("en", "translate") == prompt(language="en", task="translate")


def with_task(prompt: list[int]) -> list[int]:
    """Where neither task nor language is stated, transformers leaves the task to the model; not here."""
    return prompt if {261, 262} & set(prompt) else [*prompt[:2], 262, *prompt[2:]]


def test_an_english_checkpoint_has_no_defaults(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, multilingual=False, language="de", forced_decoder_ids=[[1, 262]])
    assert WhisperTokens.from_folder(folder).prompt(None) == [257, 262]


# ---------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("language", "task", "message"),
    [
        (None, "transcribe", r"needs a language: one of de \(german\), en \(english\), yue \(cantonese\)"),
        ("fr", "transcribe", r"language is 'fr'.*de \(german\), en"),
        ("klingon", "transcribe", "language is 'klingon'"),
        ("de", "summarise", "expected one of transcribe, translate"),
    ],
)
def test_a_multilingual_checkpoint_says_what_it_has(
    multilingual: Path, language: str | None, task: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        WhisperTokens.from_folder(multilingual).prompt(language, task)


@pytest.mark.parametrize(("language", "task"), [("de", "transcribe"), (None, "translate")])
def test_an_english_checkpoint_refuses_the_rest(english: Path, language: str | None, task: str) -> None:
    with pytest.raises(SettingsError, match="English-only"):
        WhisperTokens.from_folder(english).prompt(language, task)


def test_language_of_refuses_other_tokens(multilingual: Path) -> None:
    with pytest.raises(SettingsError, match="token 5 is no language"):
        WhisperTokens.from_folder(multilingual).language_of(5)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json"])
def test_names_a_missing_or_broken_file(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path, multilingual=True)
    for content in ["", "{", "[]", '{"model": 5}' if name == "tokenizer.json" else "3"]:
        (folder / name).write_text(content)
        with pytest.raises(BundleError, match=name):
            WhisperTokens.from_folder(folder)
    (folder / name).unlink()
    with pytest.raises(BundleNotFoundError, match=f"{name} is missing"):
        WhisperTokens.from_folder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token_id": None}, "eos_token_id is None"),
        ({"eos_token_id": []}, r"eos_token_id is \[\]"),
        ({"eos_token_id": [319, 2]}, "eos_token_id is 319"),
        ({"eos_token_id": 319}, "eos_token_id is 319; expected a token id from 0 to 318"),
        ({"is_multilingual": "yes"}, "is_multilingual is 'yes'"),
        ({"lang_to_id": {}}, "lang_to_id is {}"),
        ({"lang_to_id": {"english": 5}}, "lang_to_id names 'english'"),
        ({"lang_to_id": {"<|en|>": 99999}}, "99999"),
        ({"suppress_tokens": 7}, "suppress_tokens is 7"),
        ({"suppress_tokens": [-2]}, "suppress_tokens is -2"),
        ({"language": "fr"}, "language is 'fr'; expected one of de, en, yue"),
        ({"language": ["de"]}, "language is"),
        ({"task": "summarise"}, "task is 'summarise'; expected one of transcribe, translate"),
        ({"forced_decoder_ids": [[1, 5], [3, 5]]}, "forced_decoder_ids is"),
        ({"forced_decoder_ids": 7}, "forced_decoder_ids is 7"),
        ({"max_length": True}, "max_length is True"),
    ],
)
def test_names_a_value_that_cannot_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = write_checkpoint(tmp_path, multilingual=True, **changes)
    with pytest.raises(BundleError, match=message):
        WhisperTokens.from_folder(folder)


def test_names_a_tokenizer_of_another_checkpoint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, multilingual=True)
    (folder / "config.json").write_text('{"vocab_size": 261, "max_target_positions": 64}')
    with pytest.raises(BundleError, match="expected a token id from 0 to 260"):
        WhisperTokens.from_folder(folder)


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("en-US", "en"),
        ("pt_BR", "pt"),
        ("PT-br", "pt"),
        ("zh-Hant-TW", "zh"),
        (" Turkish ", "tr"),
        ("haitian_creole", "ht"),
        ("Haitian  Creole", "ht"),
        ("<|de|>", "de"),
        ("iw", "he"),
        ("nb-NO", "no"),
        ("fil", "tl"),
        ("english", "en"),
        *(
            ("zh-yue", "yue"),
            ("yue-Hant-HK", "yue"),
            ("zh_YUE", "yue"),
            ("Cantonese", "yue"),
            ("粵語", "yue"),
        ),
        *(("zh-HK", "yue"), ("zh-Hant-HK", "yue"), ("zh-Hant-TW", "zh"), ("zh-CN", "zh"), ("zh-cmn", "zh")),
        *(("粵語", "yue"), ("zh-nan", "nan"), ("cmn-Hans", "zh"), ("中文", "zh"), ("Mandarin", "zh")),
        *(("Deutsch", "de"), ("deu", "de"), ("GER", "de"), ("deu-DE", "de"), ("español", "es")),
        *(("Espan\u0303ol", "es"), ("espanol", "es"), ("spa", "es"), ("FRANÇAIS", "fr"), ("fre", "fr")),
        *(("Русский", "ru"), ("日本語", "ja"), ("한국어", "ko"), ("हिन्दी", "hi"), ("العربية", "ar")),
        *(
            ("de_DE.UTF-8", "de"),
            ("de_CH@euro", "de"),
            ("Haitian Creole", "ht"),
            ("haitian_creole", "ht"),
            ("Kreyòl ayisyen", "ht"),
            ("lao", "lo"),
        ),
    ],
)
def test_languages_are_understood_as_people_write_them(written, code):
    assert language_code(written) == code


@pytest.mark.parametrize(("written", "near"), [("Turkisch", "turkish"), ("englsh", "english"), ("xx-yy", "")])
def test_the_nearest_language_is_named(written, near):
    assert language_code(written) not in NAME_OF_CODE
    assert near in language_hint(written)


def test_no_name_and_no_code_means_two_languages():
    names: dict[str, set[str]] = {}
    for table in (module._TABLE, module._OWN_NAMES, module._OTHER_CODES):
        for name, code in module._pairs(table):
            names.setdefault(module._folded(name), set()).add(code)
            assert language_code(name) == code
    assert {name: codes for name, codes in names.items() if len(codes) > 1} == {}
    assert all(language_code(code) == code for code in NAME_OF_CODE)
    assert len(NAME_OF_CODE) == 100
    three = {code for name, code in module._pairs(module._OTHER_CODES) if len(name) == 3}
    assert three | {code for code in NAME_OF_CODE if len(code) == 3} == set(NAME_OF_CODE)


@pytest.mark.parametrize("language", ["yue", "zh-yue", "cantonese", "zh-HK"])
def test_cantonese_is_not_taken_for_mandarin(tmp_path, multilingual, language):
    assert WhisperTokens.from_folder(multilingual).prompt(language)[1] == 260
    folder = write_checkpoint(
        tmp_path / "older", multilingual=True, lang_to_id={"<|en|>": 258, "<|zh|>": 259}
    )
    older = WhisperTokens.from_folder(folder)
    assert older.prompt("zh-TW")[1] == 259
    with pytest.raises(SettingsError, match=rf"'{language}', which .* \(older .*'zh'"):
        older.prompt(language)


@pytest.mark.parametrize("language", [5, 0, False, 1.5, ["en"], b"en"])
def test_a_language_that_is_no_text_is_one_clear_error(multilingual, english, language):
    for folder in (multilingual, english):
        with pytest.raises(SettingsError, match=r"language is .*expected a code or name in quotes"):
            WhisperTokens.from_folder(folder).prompt(language)


def test_a_known_language_that_is_lacking_gets_no_false_hint(multilingual):
    with pytest.raises(SettingsError) as caught:
        WhisperTokens.from_folder(multilingual).prompt("fr")
    assert "did you mean" not in str(caught.value)
