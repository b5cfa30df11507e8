"""OpenAI's weights from packages: how they are found, what is refused, and that they are the originals."""

import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from export import real
from export.checkpoints import Source, load_whisper, save_whisper_settings
from export.cli import main
from export.sources import packages as packaged_models
from export.sources.packages import MODELS, PackagedModel, assemble, known_model, origin
from runtime.errors import CheckpointError, OutputError, SettingsError
from runtime.whisper.tokens import WhisperTokens
from tests.conftest import ROOT, SHARED, weights_installed
from tests.tools.ctranslate2_files import whisper_variables

PARTS = (b"first part, ", b"second part")


def package(site, name, files):
    """An installed package, as pip leaves it, whose code must not run."""
    module = name.replace("-", "_")
    (site / module).mkdir(parents=True)
    (site / module / "__init__.py").write_text("raise SystemExit('imported')")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for path, content in files.items():
        (site / path).parent.mkdir(exist_ok=True)
        (site / path).write_bytes(content)


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A model in two packages, in place of those that there are."""
    settings = {f"part_one/data/{name}": name.encode() for name in packaged_models.SETTINGS}
    package(tmp_path / "site", "part-one", settings | {"part_one/data/model.bin.part1": PARTS[0]})
    package(tmp_path / "site", "part-two", {"part_two/data/model.bin.part2": PARTS[1]})
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    model = PackagedModel(
        "small",
        (("part-one", "part_one/data/model.bin.part1"), ("part-two", "part_two/data/model.bin.part2")),
        hashlib.sha256(b"".join(PARTS)).hexdigest(),
    )
    monkeypatch.setattr(packaged_models, "MODELS", {"small": model})
    monkeypatch.setattr(real, "MODELS", {"small": model})
    return model


# -- packages ---------------------------------------------------------------------------


def test_parts_are_joined_and_no_package_is_imported(packaged, tmp_path):
    assemble(packaged, tmp_path / "c")
    assert (tmp_path / "c" / "model.bin").read_bytes() == b"".join(PARTS)
    for name in packaged_models.SETTINGS:
        assert (tmp_path / "c" / name).read_bytes() == name.encode()
    assert not {"part_one", "part_two"} & set(sys.modules)
    assert origin(packaged) == (
        "small: OpenAI's Whisper small (MIT licence), in CTranslate2's format, "
        "from part-one 1.0, part-two 1.0"
    )


def test_other_weights_are_refused(packaged, tmp_path):
    (tmp_path / "site" / "part_two" / "data" / "model.bin.part2").write_bytes(b"other")
    with pytest.raises(CheckpointError, match=rf"has the SHA-256 .*, expected {packaged.sha256}.*reinstall"):
        assemble(packaged, tmp_path / "c")


def test_a_package_without_its_file_is_refused(packaged, tmp_path):
    (tmp_path / "site" / "part_one" / "data" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"part-one 1\.0 has no file part_one/data/config\.json"):
        assemble(packaged, tmp_path / "c")


def test_a_place_that_cannot_be_written_is_named(packaged):
    with pytest.raises(OutputError, match="cannot be put together in /proc/c"):
        assemble(packaged, Path("/proc/c"))


def test_a_package_that_is_not_installed_is_one_line(packaged, monkeypatch, tmp_path, capsys):
    missing = PackagedModel("large", (("earsight-nowhere", "a/model.bin"),), "")
    monkeypatch.setitem(packaged_models.MODELS, "large", missing)
    assert main(["real", "--only", "large", "--output", str(tmp_path / "m")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "earsight-nowhere" in err
    assert "pip install 'earsight[real]'" in err
    assert "make real" in err
    assert not (tmp_path / "m").exists()


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(SettingsError, match=r"'large' is not packaged; expected one of tiny\.en, base"):
        known_model("large")


def test_the_versions_of_the_extra_are_pinned():
    text = (ROOT / "pyproject.toml").read_text()
    for model in MODELS.values():
        for name in model.packages:
            assert f'"{name}==' in text


# -- the real ones ----------------------------------------------------------------------


REAL = [
    pytest.param(
        name,
        marks=[
            pytest.mark.real,
            pytest.mark.skipif(not weights_installed(name), reason=f"no package of {name}: make real"),
        ],
    )
    for name in MODELS
]


@pytest.fixture(scope="module", params=REAL)
def unpacked(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real") / request.param
    assemble(MODELS[request.param], folder)
    return folder, load_whisper(Source(str(folder)))


def stored(path):
    """Read `model.bin` once more, in the shortest way there is."""
    data = path.read_bytes()
    at = 4

    def take(code):
        nonlocal at
        values = struct.unpack_from(f"<{code}", data, at)
        at += struct.calcsize(f"<{code}")
        return values

    def text():
        return take(f"{take('H')[0]}s")[0][:-1].decode()

    assert text() == "WhisperSpec"
    _, count = take("2I")
    for _ in range(count):
        name, rank = text(), take("B")[0]
        shape, (kind, size) = take(f"{rank}I"), take("BI")
        array = np.frombuffer(data, {1: "i1", 2: "<i2", 4: "<f2"}[kind], size // (1 if kind == 1 else 2), at)
        at += size
        yield name, array.reshape(shape)


def test_every_weight_is_the_original_in_float16(unpacked):
    folder, model = unpacked
    found = whisper_variables(model)
    original = dict(stored(folder / "model.bin"))
    halves = {name for name, array in original.items() if array.dtype == np.float16}
    assert len(halves) > 130
    assert halves == {name for name, array in found.items() if array.dtype == np.float32}
    for name in halves:
        np.testing.assert_array_equal(found[name], original[name].astype(np.float32), err_msg=name)
    assert found["encoder/num_heads"] == original["encoder/num_heads"]


# Published in generation_config.json of openai/whisper-tiny.en and openai/whisper-base.
PUBLISHED = {
    "tiny.en": {"eos": 50256, "start": 50257, "no_timestamps": 50362, "no_speech": 50361, "languages": 0},
    "base": {"eos": 50257, "start": 50258, "no_timestamps": 50363, "no_speech": 50362, "languages": 99},
}


def test_settings_are_the_published_ones(unpacked, tmp_path):
    folder, model = unpacked
    save_whisper_settings(Source(str(folder)), model, tmp_path)
    tokens = WhisperTokens.from_folder(tmp_path)
    assert PUBLISHED[folder.name] == {
        "eos": tokens.eos_token_id,
        "start": tokens.start_token_id,
        "no_timestamps": tokens.no_timestamps_id,
        "no_speech": tokens.no_speech_id,
        "languages": len(tokens.languages),
    }
    assert tokens.is_multilingual == (folder.name == "base")
    assert (tokens.max_length, tokens.max_initial_timestamp_index) == (448, 50)
    assert tokens.prompt(None if folder.name == "tiny.en" else "en")[-1] == tokens.no_timestamps_id
    config = model.config
    expected = {"tiny.en": (51864, 384, 4, 6, 80), "base": (51865, 512, 6, 8, 80)}[folder.name]
    heads = config.encoder_attention_heads
    found = (config.vocab_size, config.d_model, config.decoder_layers, heads, config.num_mel_bins)
    assert found == expected


TEXTS = (
    " And so, my fellow Americans: ask not what your country can do for you.",
    "the  tab\t and\n a line; isn't it 3.14 %?",
    " Größe, naïve, 你好, مرحبا, ☃ 🙂",
    "<|startoftranscript|><|en|><|transcribe|><|notimestamps|> to<|endoftext|>",
    "<|0.00|> two<|29.98|>",
)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no published tokenizers at {SHARED}")
def test_the_tokenizer_behaves_as_the_published_one(unpacked, tmp_path):
    folder, model = unpacked
    save_whisper_settings(Source(str(folder)), model, tmp_path)
    found = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    name = {"tiny.en": "whisper-en", "base": "whisper-multilingual"}[folder.name]
    published = Tokenizer.from_file(str(SHARED / "tokenizers" / name / "tokenizer.json"))
    assert found.get_vocab(with_added_tokens=True) == published.get_vocab(with_added_tokens=True)
    for text in TEXTS:
        ids = published.encode(text).ids
        assert found.encode(text).ids == ids
        for skip in (False, True):
            decoded = [t.decode(ids, skip_special_tokens=skip) for t in (found, published)]
            assert decoded[0] == decoded[1]
    rng = np.random.default_rng(0)
    for ids in rng.integers(0, model.config.vocab_size, (50, 20)).tolist():
        assert found.decode(ids) == published.decode(ids)
