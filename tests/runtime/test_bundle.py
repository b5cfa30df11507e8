import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import onnx
import pytest

import runtime.bundle.bundle
from runtime.bundle.bundle import MANIFEST, SETTINGS_FILES, Bundle
from runtime.bundle.graph import GRAPH_FOLDERS, graph_path
from runtime.errors import BundleError, BundleNotFoundError, InferenceError, SettingsError
from runtime.pipeline import MultimodalASR
from runtime.sessions.choice import Provider
from runtime.sessions.opening import default_precision
from tests.conftest import ROOT


@pytest.fixture
def copied_bundle(pocket_bundle, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(pocket_bundle.folder, tmp_path / "bundle"))


def edit_manifest(folder, change):
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def open_pipeline(folder):
    return MultimodalASR(folder, precision="fp32", providers="cpu", threads=1)


def test_an_export_opens_and_names_its_parts(pocket_bundle):
    folder, bundle = pocket_bundle.folder, Bundle.open(pocket_bundle.folder)
    assert bundle.name == "pocket"
    assert bundle.precisions == ("fp32", "int8")
    for graph in GRAPH_FOLDERS:
        for precision in bundle.precisions:
            assert bundle.graph(graph, precision).path.is_file()
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert on_disk == {*bundle.manifest["files"], MANIFEST}
    assert default_precision(bundle, Provider("cpu")) == "int8"
    assert default_precision(bundle, Provider("cuda")) == "fp32"  # it holds no fp16


def test_the_manifest_carries_no_path_of_the_machine_that_wrote_it(pocket_bundle):
    text = (pocket_bundle.folder / MANIFEST).read_text()
    assert str(ROOT) not in text
    assert str(pocket_bundle.folder.parent) not in text


@pytest.mark.parametrize("graph", GRAPH_FOLDERS)
def test_a_truncated_graph_is_refused_by_name(copied_bundle, graph):
    path = copied_bundle / graph_path(graph, "fp32")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match=rf"{graph}\.onnx has \d+ bytes, expected \d+"):
        open_pipeline(copied_bundle)


@pytest.mark.parametrize("name", [*SETTINGS_FILES, graph_path("decoder_model", "fp32")])
def test_one_flipped_bit_is_refused(copied_bundle, name):
    path = copied_bundle / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="does not match its hash") as caught:
        open_pipeline(copied_bundle)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", [*SETTINGS_FILES, graph_path("encoder_model", "fp32")])
def test_a_missing_file_is_named(copied_bundle, name):
    (copied_bundle / name).unlink()
    with pytest.raises(BundleNotFoundError, match="is missing") as caught:
        open_pipeline(copied_bundle)
    assert str(copied_bundle / name) in str(caught.value)


def test_no_bundle_at_all(tmp_path):
    with pytest.raises(BundleNotFoundError, match="no such folder"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleNotFoundError, match=r"no bundle\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("schema", ["earsight.bundle/2", None, 1])
def test_another_schema_is_refused(copied_bundle, schema):
    edit_manifest(copied_bundle, lambda manifest: manifest.update(schema=schema))
    with pytest.raises(BundleError, match=r"has schema .* but this version reads"):
        Bundle.open(copied_bundle)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"schema": "earsight.bundle/1"}', "\x00"])
def test_a_manifest_that_says_nothing_is_refused(copied_bundle, text):
    (copied_bundle / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match=r"bundle\.json"):
        Bundle.open(copied_bundle)


def test_a_key_given_twice_is_named(copied_bundle):
    path = copied_bundle / MANIFEST
    path.write_text(path.read_text().replace("{", '{"files": {}, ', 1))
    with pytest.raises(BundleError, match=r"bundle\.json cannot be read .*the key 'files' is there twice"):
        Bundle.open(copied_bundle)


def test_a_key_given_twice_in_settings_is_named(copied_bundle):
    path = copied_bundle / "whisper" / "generation_config.json"
    path.write_text(path.read_text().replace("{", '{"eos_token_id": 1, ', 1))
    rehash(copied_bundle, "whisper/generation_config.json")
    with pytest.raises(BundleError, match=r"generation_config\.json .*the key 'eos_token_id' is there twice"):
        open_pipeline(copied_bundle)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "whisper/../../secret", "..\\secret"])
def test_a_name_that_leads_out_is_refused(copied_bundle, name):
    entry = {"bytes": 1, "sha256": "0" * 64}
    edit_manifest(copied_bundle, lambda manifest: manifest["files"].update({name: entry}))
    with pytest.raises(BundleError, match="leads out of the bundle"):
        Bundle.open(copied_bundle)


def test_a_link_that_leads_out_is_refused(copied_bundle, tmp_path):
    path = copied_bundle / "clip" / "config.json"
    path.rename(tmp_path / "outside.json")
    path.symlink_to(tmp_path / "outside.json")
    with pytest.raises(BundleError, match="link that leads out"):
        Bundle.open(copied_bundle)


def test_a_linked_bundle_folder_is_taken(pocket_bundle, tmp_path):
    (tmp_path / "link").symlink_to(pocket_bundle.folder, target_is_directory=True)
    assert Bundle.open(tmp_path / "link").name == "pocket"


def test_files_of_two_bundles_do_not_mix(copied_bundle):
    """The int8 graph in the fp32 one's place is of the same model, and still not the one vouched for."""
    shutil.copy(
        copied_bundle / graph_path("decoder_model", "int8"),
        copied_bundle / graph_path("decoder_model", "fp32"),
    )
    with pytest.raises(BundleError, match=r"decoder_model\.onnx"):
        open_pipeline(copied_bundle)


@pytest.mark.parametrize(
    "entry", [None, {}, {"bytes": "1", "sha256": "0"}, {"bytes": 1}, {"sha256": "0" * 64}]
)
def test_a_file_without_hash_or_size_is_refused(copied_bundle, entry):
    edit_manifest(copied_bundle, lambda m: m["files"].update({"clip/config.json": entry}))
    with pytest.raises(BundleError, match=r"no sha256 and bytes for 'clip/config\.json'"):
        Bundle.open(copied_bundle)


def test_a_file_that_is_not_listed_is_refused(copied_bundle):
    edit_manifest(copied_bundle, lambda m: m["files"].pop("whisper/tokenizer.json"))
    with pytest.raises(BundleError, match=r"does not list whisper/tokenizer\.json"):
        Bundle.open(copied_bundle)


@pytest.mark.parametrize("precisions", [[], "fp32", ["fp64"], None, [["fp32"]]])
def test_unknown_precisions_in_the_manifest_are_refused(copied_bundle, precisions):
    edit_manifest(copied_bundle, lambda m: m.update(precisions=precisions))
    with pytest.raises(BundleError, match="incomplete"):
        Bundle.open(copied_bundle)


@pytest.mark.parametrize("precision", ["fp16", "int4", ""])
def test_a_precision_that_is_not_there_is_refused(pocket_bundle, precision):
    with pytest.raises(SettingsError, match="fp32, int8"):
        pocket_bundle.graph("text_model", precision)


def test_the_digest_tells_bundles_apart(copied_bundle, pocket_bundle):
    assert Bundle.open(copied_bundle).digest == pocket_bundle.digest
    edit_manifest(copied_bundle, lambda m: m.update(name="other"))
    assert Bundle.open(copied_bundle).digest != pocket_bundle.digest


def rehash(folder, name):
    """Make `bundle.json` vouch for a file as it is now."""
    content = (folder / name).read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: entry}))


def test_a_linked_subfolder_that_leads_out_is_refused(copied_bundle, tmp_path):
    (copied_bundle / "clip").rename(tmp_path / "outside")
    (copied_bundle / "clip").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(BundleError, match="link that leads out"):
        Bundle.open(copied_bundle)


def test_settings_of_another_bundle_are_refused_even_with_their_hash(copied_bundle):
    """Hashes prove that files are whole, not that they belong together: shapes are compared, too."""
    path = copied_bundle / "whisper" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "feature_size": 80}))
    rehash(copied_bundle, "whisper/preprocessor_config.json")
    with pytest.raises(BundleError, match=r"shape \(80, 600\), the graph takes \(64, 600\)"):
        open_pipeline(copied_bundle)


def test_a_tokenizer_of_another_bundle_is_refused_even_with_its_hash(copied_bundle):
    name = "whisper/config.json"
    path = copied_bundle / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 51865}))
    rehash(copied_bundle, name)
    with pytest.raises(BundleError, match=r"51865 tokens, the decoder graph of 726"):
        open_pipeline(copied_bundle)


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x0a" * 50])
def test_a_graph_that_is_none_is_refused_even_with_its_hash(copied_bundle, content):
    name = graph_path("text_model", "fp32")
    (copied_bundle / name).write_bytes(content)
    rehash(copied_bundle, name)
    with pytest.raises(BundleError, match=r"text_model\.onnx: onnxruntime cannot load it"):
        open_pipeline(copied_bundle)


@pytest.mark.parametrize(
    ("location", "is_inside"),
    [("weights.bin", True), ("../weights.bin", False), ("{outside}/weights.bin", False), ("link.bin", False)],
)
def test_weights_outside_the_bundle_are_never_read(copied_bundle, tmp_path, location, is_inside):
    """An ONNX graph may name a file that holds its weights; it must lie in the bundle."""
    name = graph_path("text_model", "fp32")
    path = copied_bundle / name
    model = onnx.load(path)
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    for folder in (path.parent, path.parent.parent, tmp_path):
        (folder / "weights.bin").write_bytes(tensor.raw_data)
    (path.parent / "link.bin").symlink_to(tmp_path / "weights.bin")
    entries = {"location": location.format(outside=tmp_path), "length": str(len(tensor.raw_data))}
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.extend(onnx.StringStringEntryProto(key=k, value=v) for k, v in entries.items())
    path.write_bytes(model.SerializeToString())
    rehash(copied_bundle, name)
    if is_inside:
        assert open_pipeline(copied_bundle).encode_texts(["a bear"]).shape == (1, 128)
        return
    with pytest.raises(BundleError, match="cannot load it"):
        open_pipeline(copied_bundle)


def test_a_disk_that_fails_is_named(copied_bundle, monkeypatch):
    def fail(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(runtime.bundle.bundle, "sha256_of", fail)
    with pytest.raises(BundleError, match=r"config\.json cannot be read: Input/output error"):
        Bundle.open(copied_bundle)


def test_a_read_only_bundle_is_used_and_left_alone(copied_bundle, tmp_path):
    for path in sorted(copied_bundle.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    copied_bundle.chmod(0o555)
    before = {path: path.stat().st_mtime_ns for path in copied_bundle.rglob("*")}
    assert open_pipeline(copied_bundle).encode_texts(["a bear"]).shape == (1, 128)
    assert {path: path.stat().st_mtime_ns for path in copied_bundle.rglob("*")} == before
    for path in [copied_bundle, *copied_bundle.rglob("*")]:
        path.chmod(0o755)  # so that the folder can be removed


def test_a_graph_that_fails_while_it_runs_is_an_error_of_ours(copied_bundle):
    path = copied_bundle / "clip" / "config.json"
    content = json.loads(path.read_text())
    content["text_config"]["max_position_embeddings"] = 512  # more positions than the graph has
    path.write_text(json.dumps(content))
    rehash(copied_bundle, "clip/config.json")
    with pytest.raises(InferenceError, match="text_embeds failed while it ran"):
        open_pipeline(copied_bundle).encode_texts(["bear " * 500])
