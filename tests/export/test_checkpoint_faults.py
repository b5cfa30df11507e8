"""Checkpoints as trainings leave them: what is wrong is named with its mend, what is right transcribes."""

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperForConditionalGeneration

from export import random_checkpoints as architectures
from export.bundle_writer import ExportRequest, write_bundle
from export.checkpoints import Source, load_clip, load_whisper, save_whisper_settings
from export.random_checkpoints import make_whisper_checkpoint
from runtime.errors import CheckpointError
from runtime.pipeline import MultimodalASR
from runtime.whisper.tokens import WhisperTokens
from tests.conftest import POCKET, ROOT

WHISPER, CLIP = POCKET / "models" / "whisper", POCKET / "models" / "clip"
AUDIO = POCKET / "data" / "test" / "audio" / "test-0000.ogg"


@pytest.fixture
def checkpoint(tmp_path):
    return Path(shutil.copytree(WHISPER, tmp_path / "checkpoint"))


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory):
    """A miniature with the real vocabulary of 99 languages."""
    folder = tmp_path_factory.mktemp("multilingual") / "mini"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "WHISPER", {"mini": architectures.WhisperDimensions(64, 1, 1)})
        make_whisper_checkpoint("mini", folder)
    return folder


def change(path, **changes):
    """Set keys of a JSON file; ... takes one out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def rewrite(folder, edit, name="model.safetensors"):
    weights = edit(load_file(folder / name))
    save_file(weights, folder / name, metadata={"format": "pt"})


def refused(folder, *mentions, load=load_whisper):
    with pytest.raises(CheckpointError) as caught:
        load(Source(str(folder)))
    message = str(caught.value)
    assert "\n" not in message
    for mention in (str(folder), *mentions):
        assert mention in message
    return message


def tokens_of(folder, tmp_path):
    source = Source(str(folder))
    save_whisper_settings(source, load_whisper(source), tmp_path / "settings")
    return WhisperTokens.from_folder(tmp_path / "settings")


# -- the names of weights ---------------------------------------------------------------


def prefixed(prefix):
    return lambda weights: {f"{prefix}{name}": value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("prefix", "mend"),
    [
        ("module.", "model.module.save_pretrained(folder)"),
        ("base_model.model.", "merge_and_unload()"),
        ("_orig_mod.", "model._orig_mod.save_pretrained(folder)"),
        ("student.", "model.save_pretrained(folder)"),
    ],
)
@pytest.mark.parametrize("load", [load_whisper, load_clip])
def test_weights_under_a_prefix_are_refused(prefix, mend, load, tmp_path):
    folder = Path(shutil.copytree(WHISPER if load is load_whisper else CLIP, tmp_path / "c"))
    rewrite(folder, prefixed(prefix))
    refused(folder, "missing", f"unknown ({prefix}", mend, load=load)


def test_an_adapter_that_was_not_merged_is_refused(checkpoint):
    place = "model.encoder.layers.0.self_attn.q_proj"

    def add(weights):
        weights[f"{place}.lora_A.default.weight"] = torch.zeros(4, 128)
        weights[f"{place}.base_layer.weight"] = weights.pop(f"{place}.weight")
        return weights

    rewrite(checkpoint, add)
    refused(checkpoint, f"1 missing ({place}.weight)", "2 unknown", "lora_A", "merge_and_unload()")


@pytest.mark.parametrize("load", [load_whisper, load_clip])
def test_a_layer_left_out_is_refused(load, tmp_path):
    folder = Path(shutil.copytree(WHISPER if load is load_whisper else CLIP, tmp_path / "c"))
    rewrite(folder, lambda weights: {name: v for name, v in weights.items() if ".layers.1." not in name})
    message = refused(folder, "missing (", ".layers.1.", ", …)", "model.save_pretrained(folder)", load=load)
    assert "unknown" not in message


def test_a_weight_of_another_shape_is_refused(checkpoint):
    name = "model.decoder.layers.0.fc1.weight"
    rewrite(checkpoint, lambda weights: weights | {name: torch.zeros(256, 128)})
    refused(checkpoint, f"1 of another shape ({name}, expected (512, 128))")


def test_a_vocabulary_that_was_not_resized_is_refused(checkpoint):
    change(checkpoint / "config.json", vocab_size=730)
    refused(checkpoint, "embed_tokens.weight, expected (730, 128)")


@pytest.mark.parametrize("load", [load_whisper, load_clip])
def test_weights_that_newer_versions_compute_or_tie_are_fine(load, tmp_path):
    folder = Path(shutil.copytree(WHISPER if load is load_whisper else CLIP, tmp_path / "c"))
    if load is load_whisper:
        tied = "model.decoder.embed_tokens.weight"
        rewrite(folder, lambda weights: weights | {"proj_out.weight": weights[tied].clone()})
    else:
        positions = torch.arange(77)[None]
        rewrite(folder, lambda weights: weights | {"text_model.embeddings.position_ids": positions})
    load(Source(str(folder)))


OUTPUT, EMBEDDING = "proj_out.weight", "model.decoder.embed_tokens.weight"


def save_with_output(folder, how):
    """Save the pocket checkpoint with an output layer of its own, in one file, in shards or pickled."""
    weights = load_file(WHISPER / "model.safetensors")
    weights[OUTPUT] = weights[EMBEDDING].flip(0).clone()
    if how == "one file":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return weights[OUTPUT]
    (folder / "model.safetensors").unlink()
    if how == "pickled":
        torch.save(weights, folder / "pytorch_model.bin")
        return weights[OUTPUT]
    output = {OUTPUT: weights.pop(OUTPUT)}
    shards = {"model-00001-of-00002.safetensors": weights, "model-00002-of-00002.safetensors": output}
    for name, shard in shards.items():
        save_file(shard, folder / name, metadata={"format": "pt"})
    places = {key: name for name, shard in shards.items() for key in shard}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return output[OUTPUT]


@pytest.mark.parametrize("how", ["one file", "shards", "pickled"])
def test_a_trained_output_layer_is_kept_or_refused(how, checkpoint):
    output = save_with_output(checkpoint, how)
    refused(checkpoint, "proj_out.weight differs from the embedding", '"tie_word_embeddings": false')
    change(checkpoint / "config.json", tie_word_embeddings=False)
    model = load_whisper(Source(str(checkpoint)))
    assert torch.equal(model.proj_out.weight, output.float())
    assert not model.config.tie_word_embeddings


def test_an_output_layer_of_its_own_that_is_missing_is_refused(checkpoint):
    change(checkpoint / "config.json", tie_word_embeddings=False)
    refused(checkpoint, "1 missing (proj_out.weight)", '"tie_word_embeddings": true')


def test_an_ordinary_output_layer_is_the_embedding():
    model = load_whisper(Source(str(WHISPER)))
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert model.config.tie_word_embeddings


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("load", "name"),
    [(load_whisper, "model.encoder.conv1.weight"), (load_clip, "visual_projection.weight")],
)
def test_weights_that_are_no_numbers_are_refused(value, load, name, tmp_path):
    folder = Path(shutil.copytree(WHISPER if load is load_whisper else CLIP, tmp_path / "c"))

    def spoil(weights):
        weights[name].view(-1)[5] = value
        return weights

    rewrite(folder, spoil)
    refused(folder, f"1 weights hold NaN or infinity ({name})", "earlier checkpoint", load=load)


# -- folders that are not whole ---------------------------------------------------------


def test_an_adapter_folder_says_how_to_merge(tmp_path):
    adapter = {"base_model_name_or_path": "openai/whisper-small", "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(adapter))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    refused(tmp_path, "an adapter of openai/whisper-small", "merge_and_unload()")
    (tmp_path / "adapter_config.json").write_text("{")
    refused(tmp_path, "it is an adapter, no whole", "merge_and_unload()", load=load_clip)


@pytest.mark.parametrize("missing", ["tokenizer.json", "preprocessor_config.json"])
def test_a_folder_of_a_trainer_without_a_processor_is_named(missing, checkpoint):
    for name in ("vocab.json", "merges.txt", missing):
        (checkpoint / name).unlink()
    refused(checkpoint, f"has no {missing}", "WhisperProcessor.from_pretrained(base).save_pretrained(folder)")


def test_a_slow_tokenizer_alone_is_enough(checkpoint, tmp_path):
    expected = tokens_of(WHISPER, tmp_path / "original")
    (checkpoint / "tokenizer.json").unlink()
    found = tokens_of(checkpoint, tmp_path)
    assert found.decode(list(range(256, 416))) == expected.decode(list(range(256, 416)))


def test_a_tokenizer_of_a_newer_version_is_named(checkpoint):
    content = json.loads((checkpoint / "tokenizer.json").read_text())
    content["model"]["type"] = "BPE2"
    (checkpoint / "tokenizer.json").write_text(json.dumps(content))
    change(checkpoint / "config.json", transformers_version="6.1.0")
    refused(
        checkpoint, "saved by a newer version than tokenizers", "transformers 6.1.0", "save it again with"
    )


# -- features ---------------------------------------------------------------------------


def settings_of(source):
    """Load a checkpoint and write its settings, as an export does."""
    with tempfile.TemporaryDirectory() as folder:
        save_whisper_settings(source, load_whisper(source), Path(folder))


@pytest.mark.parametrize(
    ("changes", "mention"),
    [
        (
            {"feature_size": 80},
            "says 80 mel bands and 600 frames, the weights 64 and 600; save the",
        ),
        (
            {"chunk_length": 30},
            "says 64 mel bands and 3000 frames, the weights 64 and 600; save the",
        ),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor"}, "settings of Wav2Vec2FeatureExtractor"),
        ({"dither": 0.1}, ": preprocessor_config.json: dither is 0.1"),
        ({"n_fft": 401}, ": preprocessor_config.json: n_fft is 401"),
        ({"padding_side": "left"}, ": preprocessor_config.json: padding_side is 'left'"),
    ],
)
def test_features_that_are_not_the_weights_are_refused(changes, mention, checkpoint):
    change(checkpoint / "preprocessor_config.json", **changes)
    message = refused(checkpoint, mention, load=settings_of)
    assert tempfile.gettempdir() not in message.replace(str(checkpoint), "")


def test_a_processor_may_hold_the_features_and_must_hold_them(checkpoint, tmp_path):
    features = json.loads((checkpoint / "preprocessor_config.json").read_text())
    (checkpoint / "preprocessor_config.json").unlink()
    path = checkpoint / "processor_config.json"
    path.write_text(json.dumps({"processor_class": "WhisperProcessor", "feature_extractor": features}))
    source = Source(str(checkpoint))
    save_whisper_settings(source, load_whisper(source), tmp_path / "settings")
    found = json.loads((tmp_path / "settings" / "preprocessor_config.json").read_text())
    assert (found["feature_size"], found["chunk_length"]) == (64, 6)
    path.write_text(json.dumps({"processor_class": "WhisperProcessor"}))
    refused(checkpoint, "has no preprocessor_config.json", "save_pretrained(folder)")
    path.write_text("{")
    refused(checkpoint, "processor_config.json cannot be read", "save_pretrained(folder)")


# -- settings ---------------------------------------------------------------------------


def transcribes_as_before(folder, pocket_asr, output):
    bundle, _ = write_bundle(ExportRequest(Source(str(folder)), Source(str(CLIP)), output, ("fp32",)))
    found = MultimodalASR(bundle, providers="cpu", threads=1).generate_nbest(AUDIO)
    expected = pocket_asr.generate_nbest(AUDIO)
    assert [h.text for h in found] == [h.text for h in expected]
    np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=1e-5)


def test_variants_that_mean_the_same_transcribe_the_same(checkpoint, pocket_asr, tmp_path):
    settings = json.loads((checkpoint / "generation_config.json").read_text())
    change(
        checkpoint / "generation_config.json",
        eos_token_id=[5, 416],
        suppress_tokens=[*settings["suppress_tokens"], -1, 99999],
        num_beams=3,
        temperature=0.4,
        is_multilingual=...,
        no_timestamps_token_id=...,
        decoder_start_token_id=...,
    )
    change(checkpoint / "config.json", eos_token_id=[416])
    transcribes_as_before(checkpoint, pocket_asr, tmp_path / "b")


@pytest.mark.parametrize(
    ("stated", "expected"), [([416, 5], 416), ([5, 7], 5), ([-1, 5, 99999], 5), (416, 416)]
)
def test_of_several_ends_the_first_sensible_one_counts(stated, expected, checkpoint, tmp_path):
    change(checkpoint / "generation_config.json", eos_token_id=stated)
    assert tokens_of(checkpoint, tmp_path).eos_token_id == expected


def test_an_end_that_is_no_token_is_refused(checkpoint):
    change(checkpoint / "generation_config.json", eos_token_id=[99999])
    refused(checkpoint, "eos_token_id is [99999]; expected a token id from 0 to 725")


@pytest.mark.parametrize(
    "content",
    [
        '{"max_length": 64,}',
        '{"max_length": 6',
        "version https://git-lfs.github.com/spec/v1\noid",
        "[]",
    ],
)
def test_damaged_generation_settings_are_not_taken_for_absent_ones(content, checkpoint):
    (checkpoint / "generation_config.json").write_text(content)
    refused(checkpoint, "generation_config.json cannot be read: ", "or remove it")
    (checkpoint / "generation_config.json").unlink()
    load_whisper(Source(str(checkpoint)))


@pytest.mark.parametrize("stated", [[-1], None, []])
def test_nothing_may_be_suppressed(stated, checkpoint, tmp_path):
    change(checkpoint / "generation_config.json", suppress_tokens=stated, begin_suppress_tokens=stated)
    tokens = tokens_of(checkpoint, tmp_path)
    assert (tokens.suppress_tokens, tokens.begin_suppress_tokens) == ((), ())


def test_suppressed_tokens_that_are_no_list_are_refused(checkpoint):
    change(checkpoint / "generation_config.json", suppress_tokens="all")
    refused(checkpoint, "suppress_tokens is 'all'; expected a list")


@pytest.mark.parametrize("left", ["nothing", "no languages", "config only"])
def test_a_multilingual_checkpoint_is_known_by_its_tokens(left, multilingual, tmp_path):
    expected = tokens_of(multilingual, tmp_path / "original")
    folder = Path(shutil.copytree(multilingual, tmp_path / "c"))
    if left == "no languages":
        unknown = dict.fromkeys(
            ["lang_to_id", "task_to_id", "is_multilingual", "no_timestamps_token_id"], ...
        )
        change(folder / "generation_config.json", **unknown)
    else:
        (folder / "generation_config.json").unlink()
    if left == "nothing":  # as old checkpoints state it
        change(folder / "config.json", forced_decoder_ids=[[1, None], [2, 50359]])
    tokens = tokens_of(folder, tmp_path)
    assert tokens.is_multilingual
    assert len(tokens.languages) == 99
    for field in (
        "languages",
        "tasks",
        "no_timestamps_id",
        "start_token_id",
        "eos_token_id",
        "timestamp_begin",
    ):
        assert getattr(tokens, field) == getattr(expected, field), field
    assert tokens.prompt("de") == expected.prompt("de")
    assert tokens.detects_language


def test_an_english_checkpoint_is_known_by_its_tokens_although_it_has_those_of_languages(
    tmp_path, monkeypatch
):
    mini = architectures.WhisperDimensions(64, 1, 1, english=True)
    monkeypatch.setattr(architectures, "WHISPER", {"mini": mini})
    make_whisper_checkpoint("mini", tmp_path / "c")
    (tmp_path / "c" / "generation_config.json").unlink()
    tokens = tokens_of(tmp_path / "c", tmp_path)
    assert not tokens.is_multilingual
    assert tokens.prompt(None) == [50257, 50362]


def test_the_language_of_the_settings_is_the_default(multilingual, tmp_path):
    folder = Path(shutil.copytree(multilingual, tmp_path / "c"))
    change(folder / "generation_config.json", language="german", task="translate")
    tokens = tokens_of(folder, tmp_path)
    assert tokens.prompt(None) == tokens.prompt("de", "translate")
    assert tokens.prompt("fr") == tokens.prompt("fr", "translate")
    change(folder / "generation_config.json", language="klingon")
    refused(folder, "language is 'klingon'; expected one of af, am")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"lang_to_id": {"english": 5}}, "generation_config.json: lang_to_id names 'english'"),
        ({"max_length": -3}, "generation_config.json: max_length is -3"),
    ],
)
def test_settings_that_the_runtime_would_refuse_are_refused_at_once(changes, match, multilingual, tmp_path):
    folder = Path(shutil.copytree(multilingual, tmp_path / "c"))
    change(folder / "generation_config.json", **changes)
    with pytest.raises(CheckpointError, match=match) as caught:
        tokens_of(folder, tmp_path)
    assert str(caught.value).startswith(f"{folder}: ")
    assert str(caught.value).endswith("; correct it in the checkpoint")


LARGE_V3 = {"task_to_id": {"transcribe": 50360, "translate": 50359}, "no_timestamps_token_id": 50364}


@pytest.mark.parametrize(
    ("changes", "mention"),
    [
        (LARGE_V3, "no_timestamps_token_id is 50364, by the tokenizer <|notimestamps|> is 50363"),
        ({"task_to_id": LARGE_V3["task_to_id"]}, "task_to_id['transcribe'] is 50360, by the tokenizer"),
        ({"task_to_id": {"translate": "50358"}}, "task_to_id['translate'] is '50358', by the tokenizer"),
        (
            {"lang_to_id": {"<|de|>": 50260}},
            "lang_to_id['<|de|>'] is 50260, by the tokenizer",
        ),
        ({"lang_to_id": {"<|yue|>": 50358}}, "by the tokenizer 50358 is '<|translate|>'"),
        ({"eos_token_id": 50256}, "eos_token_id is 50256, by the tokenizer <|endoftext|> is 50257"),
        ({"decoder_start_token_id": 50257}, "by the tokenizer <|startoftranscript|> is 50258"),
        ({"decoder_start_token_id": 99999}, "decoder_start_token_id is 99999"),
    ],
)
def test_the_tokenizer_of_another_whisper_is_refused(changes, mention, multilingual, tmp_path):
    """As of large-v3 with the tokenizer of large-v2, whose <|transcribe|> is large-v3's <|translate|>."""
    folder = Path(shutil.copytree(multilingual, tmp_path / "c"))
    change(folder / "generation_config.json", **changes)
    refused(
        folder, "the tokenizer is of another Whisper", mention, "WhisperTokenizerFast.from_pretrained(base)"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"lang_to_id": {"<|de|>": 50261}, "task_to_id": {"transcribe": 50359}},
        {"lang_to_id": ..., "task_to_id": ..., "no_timestamps_token_id": ...},
        {"task_to_id": {"transcribe": 50359, "summarise": 5}},
        {"is_multilingual": False, "lang_to_id": {"<|de|>": 50260}, "task_to_id": {"transcribe": 7}},
    ],
)
def test_ids_that_agree_are_left_open_or_are_not_used_are_fine(changes, multilingual, tmp_path):
    folder = Path(shutil.copytree(multilingual, tmp_path / "c"))
    change(folder / "generation_config.json", **changes)
    load_whisper(Source(str(folder)))


@pytest.mark.parametrize("key", ["lang_to_id", "task_to_id"])
def test_ids_that_are_no_object_are_named(key, multilingual, tmp_path):
    folder = Path(shutil.copytree(multilingual, tmp_path / "c"))
    change(folder / "generation_config.json", **{key: [1, 2]})
    refused(folder, f"{key} is '[1, 2]'; expected an object of names and token ids")


def test_a_config_of_ctranslate2_without_its_weights_says_what_is_missing(tmp_path):
    (tmp_path / "config.json").write_text('{"suppress_ids": []}')
    refused(tmp_path, "model_type", "a folder that holds model.bin")


def test_forced_tokens_that_are_none_of_a_prompt_are_named(multilingual, tmp_path, caplog):
    folder = Path(shutil.copytree(multilingual, tmp_path / "c"))
    change(folder / "generation_config.json", forced_decoder_ids=[[1, 50261], [2, 50359], [3, 1234]])
    with caplog.at_level(logging.WARNING, "export"):
        tokens = tokens_of(folder, tmp_path)
    assert tokens.prompt(None) == tokens.prompt("de")
    (record,) = caplog.records
    assert "forced_decoder_ids=[1234]" in record.getMessage()


def test_an_ordinary_checkpoint_is_exported_without_a_word(caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "export"):
        warnings.simplefilter("error")
        load_whisper(Source(str(WHISPER)))
    assert not caplog.records


def test_settings_that_are_not_followed_are_one_line(checkpoint, tmp_path):
    change(
        checkpoint / "generation_config.json",
        num_beams=4,
        repetition_penalty=1.2,
        no_repeat_ngram_size=3,
        temperature=0.7,
        do_sample=True,
        bad_words_ids=[[5]],
        num_beam_groups=2,
        length_penalty=0.8,
    )
    change(checkpoint / "config.json", forced_decoder_ids=[[1, 424]])
    sources = ["--whisper", str(checkpoint), "--clip", str(CLIP)]
    done = subprocess.run(
        [sys.executable, "-m", "export", *sources, "--output", str(tmp_path / "b"), "--precision", "fp32"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    for mention in (
        "num_beams=4", "repetition_penalty=1.2", "no_repeat_ngram_size=3", "temperature=0.7",
        "do_sample=true", "bad_words_ids=[[5]]", "num_beam_groups=2", "length_penalty=0.8",
    ):  # fmt: skip
        assert mention in line
    written = json.loads((tmp_path / "b" / "whisper" / "generation_config.json").read_text())
    assert not {"num_beams", "temperature", "bad_words_ids"} & set(written)


def test_a_sharded_or_pickled_checkpoint_is_whole(checkpoint):
    model = WhisperForConditionalGeneration.from_pretrained(WHISPER)
    (checkpoint / "model.safetensors").unlink()
    model.save_pretrained(checkpoint, max_shard_size="1MB")
    assert len(list(checkpoint.glob("model-*.safetensors"))) > 1
    load_whisper(Source(str(checkpoint)))
    for shard in checkpoint.glob("model*"):
        shard.unlink()
    refused(checkpoint, "cannot be loaded")
    torch.save(model.state_dict(), checkpoint / "pytorch_model.bin")
    load_whisper(Source(str(checkpoint)))
