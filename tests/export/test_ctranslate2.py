"""Whisper folders of CTranslate2: the weights as stored, and what is refused."""

import json
import resource
import shutil
import struct

import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from export.bundle_writer import ExportRequest, write_bundle
from export.checkpoints import Source, load_whisper, save_whisper_settings
from runtime.errors import CheckpointError
from runtime.pipeline import MultimodalASR
from runtime.whisper.tokens import WhisperTokens
from tests.conftest import POCKET
from tests.tools.ctranslate2_files import ALIASES, SUPPRESSED, model_bytes, whisper_variables, write_folder

WHISPER, CLIP = POCKET / "models" / "whisper", POCKET / "models" / "clip"
QUERIES = "encoder/layer_0/self_attention/linear_0/weight"


@pytest.fixture(scope="module")
def pocket():
    return WhisperForConditionalGeneration.from_pretrained(WHISPER, dtype=torch.float32)


@pytest.fixture
def variables(pocket):
    return whisper_variables(pocket)


@pytest.fixture(scope="module")
def small():
    """As few bytes as a Whisper can have, in the vocabulary of the pocket checkpoint."""
    torch.manual_seed(0)
    return WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=726, d_model=4, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, num_mel_bins=3,
            max_source_positions=50, max_target_positions=8, pad_token_id=416, bos_token_id=416,
            eos_token_id=416, decoder_start_token_id=417,
        )
    )  # fmt: skip


def loaded(folder):
    return load_whisper(Source(str(folder)))


def states(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def assert_same(model, pocket, compare=np.testing.assert_array_equal):
    found, expected = states(model), states(pocket)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        compare(found[name], value, err_msg=name)


# -- what is read -----------------------------------------------------------------------


def test_every_weight_and_dimension_is_the_checkpoints(variables, pocket, tmp_path):
    model = loaded(write_folder(tmp_path / "c", WHISPER, model_bytes(variables, ALIASES)))
    assert_same(model, pocket)
    assert model.proj_out.weight is model.model.decoder.embed_tokens.weight
    assert not model.training
    for key in (
        "vocab_size", "num_mel_bins", "d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim",
        "decoder_ffn_dim", "encoder_attention_heads", "decoder_attention_heads", "max_source_positions",
        "max_target_positions", "eos_token_id", "pad_token_id", "decoder_start_token_id",
        "activation_function", "scale_embedding",
    ):  # fmt: skip
        assert getattr(model.config, key) == getattr(pocket.config, key), key


@pytest.mark.parametrize("version", [4, 5, 6])
def test_versions_that_share_the_layout_are_read(version, variables, pocket, tmp_path):
    data = model_bytes(variables, ALIASES, version=version)
    assert_same(loaded(write_folder(tmp_path / "c", WHISPER, data)), pocket)


def test_settings_that_the_folder_lacks_follow_from_the_tokenizer(variables, pocket, tmp_path):
    folder = write_folder(tmp_path / "c", WHISPER, model_bytes(variables, ALIASES))
    model = loaded(folder)
    save_whisper_settings(Source(str(folder)), model, tmp_path / "settings")
    pocket.config.save_pretrained(tmp_path / "reference")
    pocket.generation_config.save_pretrained(tmp_path / "reference")
    shutil.copy(WHISPER / "tokenizer.json", tmp_path / "reference")
    found, expected = (WhisperTokens.from_folder(tmp_path / name) for name in ("settings", "reference"))
    for field in (
        "vocab_size", "eos_token_id", "start_token_id", "is_multilingual", "languages", "tasks",
        "no_timestamps_id", "no_speech_id", "timestamp_begin", "max_initial_timestamp_index",
        "begin_suppress_tokens", "max_target_positions", "max_length",
    ):  # fmt: skip
        assert getattr(found, field) == getattr(expected, field), field
    assert list(found.suppress_tokens) == SUPPRESSED
    assert model.generation_config.alignment_heads == [[1, 0]]
    features = json.loads((tmp_path / "settings" / "preprocessor_config.json").read_text())
    original = json.loads((WHISPER / "preprocessor_config.json").read_text())
    assert {key: features[key] for key in original if key != "processor_class"} == {
        key: value for key, value in original.items() if key != "processor_class"
    }


def test_a_bundle_of_it_transcribes_as_the_original(variables, pocket_asr, tmp_path):
    settings = {
        "suppress_ids": json.loads((WHISPER / "generation_config.json").read_text())["suppress_tokens"],
        "suppress_ids_begin": [220],
    }
    data = model_bytes(variables, ALIASES)
    folder = write_folder(tmp_path / "c", WHISPER, data, settings=settings)
    request = ExportRequest(Source(str(folder)), Source(str(CLIP)), tmp_path / "b", ("fp32",))
    bundle, _ = write_bundle(request)
    audio = POCKET / "data" / "test" / "audio" / "test-0000.ogg"
    found = MultimodalASR(bundle, providers="cpu", threads=1).generate_nbest(audio)
    expected = pocket_asr.generate_nbest(audio)
    assert [h.text for h in found] == [h.text for h in expected]
    np.testing.assert_allclose([h.score for h in found], [h.score for h in expected], atol=1e-5)


def test_half_precision_is_read_exactly(variables, pocket, tmp_path):
    floats = {name: value for name, value in variables.items() if value.dtype == np.float32}
    half = variables | {name: value.astype(np.float16) for name, value in floats.items()}
    model = loaded(write_folder(tmp_path / "half", WHISPER, model_bytes(half, ALIASES)))
    assert_same(model, pocket)  # the pocket weights are stored in float16
    brain = variables | {
        name: ((value.view(np.uint32) >> 16).astype(np.uint16), "bfloat16") for name, value in floats.items()
    }
    model = loaded(write_folder(tmp_path / "brain", WHISPER, model_bytes(brain, ALIASES)))
    cut = (pocket.model.decoder.embed_tokens.weight.detach().numpy().view(np.uint32) & 0xFFFF0000).view("f4")
    np.testing.assert_array_equal(model.model.decoder.embed_tokens.weight.detach().numpy(), cut)


def quantised(variables, kind):
    """As CTranslate2: int8 with a scale for each row, int16 with one for all."""
    found = dict(variables)
    for name, value in variables.items():
        if name.endswith("/weight"):
            rows = value.reshape(len(value), -1)
            if kind == "int8":
                scale = (127.0 / np.abs(rows).max(axis=1)).astype(np.float32)
                stored = np.rint(rows * scale[:, None])
            else:
                scale = np.float32(2**10 / np.abs(rows).max())
                stored = np.rint(rows * scale)
            found[name] = stored.astype(kind).reshape(value.shape)
            found[f"{name}_scale"] = scale
    return found


@pytest.mark.parametrize("kind", ["int8", "int16"])
def test_quantised_weights_are_divided_by_their_scale(kind, variables, pocket, tmp_path):
    stored = quantised(variables, kind)
    floats = dict(variables)
    for name, scale in stored.items():
        if name.endswith("_scale"):
            values = stored[name.removesuffix("_scale")]
            rows = scale.reshape(-1, *[1] * (values.ndim - 1))
            floats[name.removesuffix("_scale")] = values.astype(np.float32) / rows
    reference = loaded(write_folder(tmp_path / "f", WHISPER, model_bytes(floats, ALIASES)))
    model = loaded(write_folder(tmp_path / "q", WHISPER, model_bytes(stored, ALIASES)))
    assert_same(model, reference)
    embeddings = [m.model.decoder.embed_tokens.weight.detach() for m in (model, pocket)]
    half = 0.5 * embeddings[1].abs().max() / {"int8": 127, "int16": 1024}[kind]
    assert 0 < (embeddings[0] - embeddings[1]).abs().max() <= 1.001 * half


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8", "int8_float16", "int16"])
def test_what_the_converter_itself_writes_is_read(kind, pocket, tmp_path):
    converters = pytest.importorskip("ctranslate2.converters")
    converter = converters.TransformersConverter(str(WHISPER), copy_files=["tokenizer.json"])
    converter.convert(str(tmp_path / "c"), quantization=kind)
    model = loaded(tmp_path / "c")
    tolerance = {"float32": 0, "float16": 0, "bfloat16": 2**-8, "int16": 2**-11}.get(kind, 1 / 254)

    largest = max(p.abs().max().item() for p in pocket.parameters())

    def compare(found, expected, err_msg):
        # The scale of int16 is that of queries, keys and values together: none is larger than the largest.
        limit = 1.001 * tolerance * (largest if kind == "int16" else np.abs(expected).max())
        np.testing.assert_allclose(found, expected, atol=limit, rtol=0, err_msg=err_msg)

    assert_same(model, pocket, compare)
    assert model.generation_config.suppress_tokens == pocket.generation_config.suppress_tokens


def test_a_converted_bfloat16_row_is_rounded_to_the_nearest_and_read_exactly(pocket, tmp_path):
    converters = pytest.importorskip("ctranslate2.converters")
    converter = converters.TransformersConverter(str(WHISPER), copy_files=["tokenizer.json"])
    converter.convert(str(tmp_path / "c"), quantization="bfloat16")
    expected = pocket.state_dict()["model.encoder.conv1.weight"].bfloat16().float()
    assert torch.equal(loaded(tmp_path / "c").model.encoder.conv1.weight, expected)


def test_the_fingerprint_covers_every_file(variables, tmp_path):
    folder = write_folder(tmp_path / "c", WHISPER, model_bytes(variables, ALIASES))
    source, seen = Source(str(folder)), set()
    for name in ("", "model.bin", "config.json", "tokenizer.json", "vocabulary.json"):
        if name:
            (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        seen.add(source.fingerprint())
    assert len(seen) == 5


def test_a_folder_of_transformers_is_none_of_ctranslate2(tmp_path, pocket):
    """Its `config.json` names a model type, whatever else lies beside it."""
    shutil.copytree(WHISPER, tmp_path / "c")
    (tmp_path / "c" / "model.bin").write_bytes(b"stray")
    assert_same(loaded(tmp_path / "c"), pocket)
    (tmp_path / "c" / "model.bin").unlink()
    (tmp_path / "c" / "model.safetensors").unlink()
    torch.save(pocket.state_dict(), tmp_path / "c" / "pytorch_model.bin")
    assert_same(loaded(tmp_path / "c"), pocket)


# -- what is refused --------------------------------------------------------------------


def refused(folder, match):
    with pytest.raises(CheckpointError, match=match) as caught:
        loaded(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_cut_short_at_any_byte_is_refused(small, tmp_path):
    found = whisper_variables(small)
    found["decoder/embeddings/weight"] = found["decoder/embeddings/weight"][:8]
    found["encoder/position_encodings/encodings"] = found["encoder/position_encodings/encodings"][:8]
    data = model_bytes(found, ALIASES)
    folder = write_folder(tmp_path / "c", WHISPER, data)
    assert len(data) < 6000
    for cut in range(len(data)):
        (folder / "model.bin").write_bytes(data[:cut])
        with pytest.raises(CheckpointError, match="ends within"):
            loaded(folder)


def test_a_changed_byte_is_refused_or_read_without_a_traceback_and_without_memory(small, tmp_path):
    """Every byte that is no weight, set to its extremes: counts, sizes, ranks, types, names."""
    data = model_bytes(whisper_variables(small), ALIASES)
    folder = write_folder(tmp_path / "c", WHISPER, data)
    name = data.index(QUERIES.encode())
    places = [*range(60), *range(name - 2, name + len(QUERIES) + 16), *range(len(data) - 60, len(data))]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"read": 0, "refused": 0}
    for place in places:
        for value in (0x00, 0x7F, 0xFF):
            if data[place] == value:
                continue
            (folder / "model.bin").write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            try:
                loaded(folder)
                outcomes["read"] += 1
            except CheckpointError:
                outcomes["refused"] += 1
    assert outcomes["refused"] > 400
    assert outcomes["read"] < 20  # the weight after its head, and no more
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kB


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "ends within the version"),
        (b"PK\x03\x04 a zip of PyTorch", "starts with binary version"),
        (model_bytes({}, {}, version=7), "starts with binary version 7; expected one of 4, 5, 6"),
        (model_bytes({}, {}, version=3), "starts with binary version 3"),
        (model_bytes({}, {}, spec="TransformerSpec"), "'TransformerSpec'; expected 'WhisperSpec'"),
        (model_bytes({}, {}, revision=2), "revision 2 of WhisperSpec; expected 3"),
        (model_bytes({}, {}), "encoder/conv1/weight is missing among 0 variables"),
        (model_bytes({}, {}) + b"more", "4 bytes follow"),
        (model_bytes({}, {})[:-8] + struct.pack("<I", HUGE), "ends within the length of a name"),
        (model_bytes({}, {})[:-4] + struct.pack("<I", HUGE), "ends within the length of a name"),
        (model_bytes({"a": np.zeros([1] * 9, np.int8)}, {}), "a has rank 9; expected at most 8"),
        (model_bytes({"a": np.zeros((0, 4), np.int8)}, {}), "holds nothing"),
        (model_bytes({}, {"a": "b"}), "stands for 'b', which is not there"),
        (model_bytes({"a": np.int8(1)}, {"a": "a"}), "'a' is there twice"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_named(data, match, tmp_path):
    refused(write_folder(tmp_path / "c", WHISPER, data), match)


def test_a_size_that_does_not_fit_the_shape_is_refused(tmp_path):
    huge = model_bytes({"a": np.zeros((2, 2), np.float32)}, {})
    at = huge.index(struct.pack("<II", 2, 2))
    data = huge[:at] + struct.pack("<II", HUGE, HUGE) + huge[at + 8 :]
    refused(write_folder(tmp_path / "c", WHISPER, data), f"has 16 bytes; expected {4 * HUGE * HUGE}")


def broken(variables, **changes):
    found = dict(variables)
    for name, value in changes.items():
        found[name.replace("__", "/")] = value
    return {name: value for name, value in found.items() if value is not None}


def with_value(array, value):
    changed = array.copy()
    changed.flat[7] = value
    return changed


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: {"encoder__conv2__bias": None}, "encoder/conv2/bias is missing"),
        (lambda v: {"decoder__num_heads": None}, "decoder/num_heads is missing"),
        (lambda v: {"decoder__num_heads": np.int16(5)}, "num_heads is 5; expected a divisor of"),
        (lambda v: {"decoder__num_heads": np.int16(0)}, "num_heads is 0"),
        (lambda v: {"decoder__num_heads": np.float32(4)}, "num_heads is float32"),
        (lambda v: {"decoder__num_heads": np.ones(2, np.int16)}, "num_heads is int16 of shape"),
        (lambda v: {"encoder__conv2__bias": np.zeros(5, np.float32)}, r"has shape \(5,\); the other weights"),
        (lambda v: {"encoder__conv1__weight": np.zeros((8, 8), np.float32)}, "expected 3 dimensions"),
        (lambda v: {"encoder__layer_norm__beta": with_value(v["encoder/layer_norm/beta"], np.nan)}, "finite"),
        (lambda v: {"encoder__layer_norm__beta": with_value(v["encoder/layer_norm/beta"], np.inf)}, "finite"),
        (lambda v: {QUERIES: v[QUERIES].astype(np.int32)}, "has type int32; expected a float, int8 or int16"),
        (lambda v: {QUERIES: v[QUERIES].astype(np.int8)}, "weight_scale is missing"),
        (lambda v: {"decoder__activation": np.int8(0)}, "decoder/activation is 0; expected 3"),
        (lambda v: {"decoder__pre_norm": np.int8(0)}, "decoder/pre_norm is 0; expected 1"),
        (lambda v: {"decoder__alibi": np.int8(1)}, "unknown in Whisper, the first 'decoder/alibi'"),
        (lambda v: {"encoder__layer_0__lora": np.zeros(3, np.float32)}, "unknown in Whisper"),
        (lambda v: {"encoder__layer_x__w": np.zeros(3, np.float32)}, "encoder/layer_4/"),
        (lambda v: {QUERIES.replace("weight", "bias"): np.ones(384, np.float32)}, "bias of the keys"),
        (lambda v: {"decoder__projection__weight": v["decoder/embeddings/weight"] + 1}, "differs from"),
    ],
)  # fmt: skip
def test_weights_that_make_no_whisper_are_named(change, match, variables, tmp_path):
    changed = broken(variables, **change(variables))
    aliases = {} if "decoder/projection/weight" in changed else ALIASES
    refused(write_folder(tmp_path / "c", WHISPER, model_bytes(changed, aliases)), match)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-45])
def test_scales_that_are_no_numbers_are_refused(scale, variables, tmp_path):
    changed = quantised(variables, "int8")
    changed[f"{QUERIES}_scale"] = changed[f"{QUERIES}_scale"] * 0 + np.float32(scale)
    data = model_bytes(changed, ALIASES)
    refused(write_folder(tmp_path / "c", WHISPER, data), "positive numbers|not finite")


def test_a_scale_of_another_shape_is_refused(variables, tmp_path):
    changed = quantised(variables, "int8") | {f"{QUERIES}_scale": np.ones(3, np.float32)}
    refused(
        write_folder(tmp_path / "c", WHISPER, model_bytes(changed, ALIASES)), r"\(3,\); expected 1 or 384"
    )


def test_aliases_do_not_blow_a_small_file_up(small, tmp_path):
    found, aliases = whisper_variables(small), dict(ALIASES)
    for name in [name for name in found if name.startswith("encoder/layer_0/")]:
        aliases |= {name.replace("layer_0", f"layer_{i}"): name for i in range(1, 500)}
    folder = write_folder(tmp_path / "c", WHISPER, model_bytes(found, aliases))
    refused(folder, "aliases repeat most of the weights")


def test_a_folder_without_a_tokenizer_says_how_to_get_one(variables, tmp_path):
    folder = write_folder(tmp_path / "c", WHISPER, model_bytes(variables, ALIASES), tokenizer=False)
    assert "--copy_files tokenizer.json" in refused(folder, "has no tokenizer.json")
    (folder / "tokenizer.json").write_text("{")
    refused(folder, "tokenizer.json cannot be read as a tokenizer")


def test_a_tokenizer_of_another_checkpoint_is_refused(small, tmp_path):
    found = whisper_variables(small)
    found["decoder/embeddings/weight"] = found["decoder/embeddings/weight"][:400]
    folder = write_folder(tmp_path / "c", WHISPER, model_bytes(found, ALIASES))
    refused(folder, "knows .* tokens, but the embedding has 400 rows")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"suppress_ids": 3}, "suppress_ids is 3; expected a list of token ids from 0 to 725"),
        ({"suppress_ids": [726]}, "suppress_ids is"),
        ({"suppress_ids_begin": [True]}, "suppress_ids_begin is"),
    ],
)
def test_settings_out_of_range_are_named(settings, match, variables, tmp_path):
    data = model_bytes(variables, ALIASES)
    refused(write_folder(tmp_path / "c", WHISPER, data, settings=settings), match)


def test_a_language_that_is_none_by_the_tokenizer_is_refused(variables, tmp_path):
    """As of large-v3 with the tokenizer of large-v2, whose <|translate|> is large-v3's last language."""
    data = model_bytes(variables, ALIASES)
    folder = write_folder(tmp_path / "c", WHISPER, data, settings={"lang_ids": [418, 419]})
    refused(folder, r"another Whisper: by .*config\.json 419 is a language, by the tokenizer it is <\|transl")
    (folder / "config.json").write_text(json.dumps({"lang_ids": [418]}))
    loaded(folder)


@pytest.mark.parametrize("heads", [[[9, 9]], [1], 1, None])
def test_alignment_heads_of_another_model_are_left_out(heads, variables, tmp_path):
    data = model_bytes(variables, ALIASES)
    model = loaded(write_folder(tmp_path / "c", WHISPER, data, settings={"alignment_heads": heads}))
    assert not hasattr(model.generation_config, "alignment_heads")


def test_settings_may_be_null_or_minus_one(variables, tmp_path):
    settings = {"suppress_ids": [-1], "suppress_ids_begin": None}
    data = model_bytes(variables, ALIASES)
    model = loaded(write_folder(tmp_path / "c", WHISPER, data, settings=settings))
    assert model.generation_config.suppress_tokens == []
    assert model.generation_config.begin_suppress_tokens == []


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_missing_or_damaged_config_is_named(content, variables, tmp_path):
    folder = write_folder(tmp_path / "c", WHISPER, model_bytes(variables, ALIASES))
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    refused(folder, r"config\.json")


def test_features_that_do_not_fit_the_weights_are_refused(variables, tmp_path):
    folder = write_folder(tmp_path / "c", WHISPER, model_bytes(variables, ALIASES))
    source, model = Source(str(folder)), loaded(folder)
    settings = json.loads((WHISPER / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    save_whisper_settings(source, model, tmp_path / "s")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings | {"feature_size": 80}))
    with pytest.raises(CheckpointError, match="says 80 mel bands and 600 frames, the weights 64 and 600"):
        save_whisper_settings(source, model, tmp_path / "s")
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        save_whisper_settings(source, model, tmp_path / "s")
