"""The decoder in fixed shapes: the n-best lists of the growing one, on buffers that stay where they are."""

import dataclasses
import json

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bench.manifest import read_manifest
from export.bundle_writer import ExportRequest, write_bundle
from export.checkpoints import Source
from export.graphs.fixed_decoder import write_fixed_decoder
from runtime import MultimodalASR
from runtime.audio.load import load_audio
from runtime.bundle.bundle import Bundle
from runtime.bundle.graph import FIXED_DECODER, graph_path
from runtime.commands.main import main
from runtime.errors import BundleError, CheckpointError, SettingsError
from runtime.sessions.cuda_driver import Gpu
from runtime.sessions.factory import Provider, SessionFactory, SessionSettings
from runtime.whisper import fixed_decoder
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.fixed_decoder import (
    SMALLEST_CAPACITY,
    FixedBuffers,
    FixedStepDecoder,
    FixedWhisperModel,
)
from runtime.whisper.model import WhisperModel
from tests.conftest import POCKET

BEAMS, TOKENS = 3, 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    models = POCKET / "models"
    sources = Source(str(models / "whisper")), Source(str(models / "clip"))
    folder = tmp_path_factory.mktemp("fixed") / "pocket"
    written, _ = write_bundle(ExportRequest(*sources, folder, ("fp32", "fp16"), fixed_steps=True))
    return written


@pytest.fixture(scope="module")
def sessions():
    return SessionFactory(Provider("cpu"), SessionSettings(threads=1))


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def models(request, bundle, sessions):
    """The growing decoder and the one of fixed shapes, on one encoder's features."""
    kinds = (WhisperModel, FixedWhisperModel)
    growing, fixed = (kind.of_bundle(bundle, request.param, sessions) for kind in kinds)
    return growing, fixed


@pytest.fixture(scope="module")
def features(models):
    utterances = read_manifest(POCKET / "data" / "test" / "manifest.jsonl")[:6]
    return models[0].features([load_audio(utterance.audio) for utterance in utterances])


def nbest(model, features, **settings):
    cross = model.encode(features)
    prompts = [model.tokens.prompt(None)] * len(features)
    wanted = BeamSearchSettings(num_beams=BEAMS, max_new_tokens=TOKENS, **settings)
    return [
        [(hypothesis.tokens, hypothesis.score) for hypothesis in hypotheses]
        for hypotheses in model.nbest(cross, prompts, wanted)
    ]


def assert_same(expected, found):
    for ours, theirs in zip(expected, found, strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        # Hidden entries weigh nothing; float32 sums over more zeros may only be split otherwise.
        np.testing.assert_allclose([s for _, s in ours], [s for _, s in theirs], rtol=0, atol=2e-5)


@pytest.mark.parametrize("batch", [1, 6])
def test_the_same_nbest_as_the_growing_cache(models, features, batch):
    growing, fixed = models
    assert_same(nbest(growing, features[:batch]), nbest(fixed, features[:batch]))


def test_the_same_nbest_when_the_cache_has_to_double_and_utterances_end(models, features, monkeypatch):
    growing, fixed = models
    monkeypatch.setattr(fixed_decoder, "SMALLEST_CAPACITY", 4)
    capacities = set()
    borrow = FixedBuffers.borrow

    def noted(self, batch, capacity):
        capacities.add(capacity)
        return borrow(self, batch, capacity)

    monkeypatch.setattr(FixedBuffers, "borrow", noted)
    found = nbest(fixed, features, early_stopping=True)
    assert_same(nbest(growing, features, early_stopping=True), found)
    assert {4, 8, 16, 32} <= capacities


class Recorder:
    """A session that notes the graph number and the addresses of every run."""

    def __init__(self, session):
        self.session = session
        self.runs = []

    def run_with_iobinding(self, binding, options):
        places = tuple(binding.recorded[name].data_ptr() for name in sorted(binding.recorded))
        self.runs.append((int(options.get_run_config_entry("gpu_graph_id")), places))
        self.session.run_with_iobinding(binding, options)

    def io_binding(self):
        binding = self.session.io_binding()
        binding.recorded = {}
        bind = binding.bind_ortvalue_input

        def noted(name, value):
            binding.recorded[name] = value
            bind(name, value)

        binding.bind_ortvalue_input = noted
        return binding

    def __getattr__(self, name):
        return getattr(self.session, name)


@pytest.fixture
def recorded(bundle, sessions):
    model = FixedWhisperModel.of_bundle(bundle, "fp32", sessions)
    model.decoder = Recorder(model.decoder)
    return model


def test_a_graph_number_stands_for_one_set_of_addresses_and_is_met_again(recorded, features):
    first = nbest(recorded, features[:1])
    known = recorded.decoder.runs
    recorded.decoder.runs = []
    assert nbest(recorded, features[:1]) == first
    steps = [run for run in known if run[0] > 0]
    assert len(steps) == len(known) - 1, "every run but the prompt is recorded"
    assert known[0][0] == -1
    assert len({number for number, _ in steps}) == 1, "one capacity, one graph"
    for number, places in recorded.decoder.runs:
        # The encoder's allocator may answer otherwise; then it is another graph, and never the same number.
        same = [other for other, there in steps if there == places]
        assert number == -1 or number in same or number not in {other for other, _ in steps}


def test_the_same_address_in_another_shape_is_another_run(models, features):
    _, fixed = models
    cross = fixed.encode(features[:1])
    buffers = FixedBuffers(fixed.decoder, fixed.geometry, ("cpu", 0))
    cache = buffers.borrow(1, SMALLEST_CAPACITY)
    shape = fixed_decoder.RunShape(1, BEAMS, BEAMS, SMALLEST_CAPACITY, (1, 1, fixed.geometry.vocab_size), 2)
    arrays = {name: value.numpy().copy() for name, value in cross.values.items()}

    def bound(view):
        values = {name: ort.OrtValue.ortvalue_from_numpy(view(array)) for name, array in arrays.items()}
        return buffers.run(shape, cache, dataclasses.replace(cross, values=values), record=True)

    first = bound(lambda array: array)
    assert bound(lambda array: array) is first
    assert bound(lambda array: array.swapaxes(0, 1).reshape(1, 1, *array.shape[2:], -1)[0]) is not first


def test_beyond_the_limit_nothing_is_recorded_and_the_result_is_the_same(recorded, features, monkeypatch):
    expected = nbest(recorded, features[:1])
    monkeypatch.setattr(fixed_decoder, "GRAPHS_LIMIT", 0)
    recorded.buffers._runs.clear()
    recorded.decoder.runs = []
    assert nbest(recorded, features[:1]) == expected
    assert {number for number, _ in recorded.decoder.runs} == {-1}


def test_a_step_writes_its_own_entries_in_place(models, features):
    _, fixed = models
    fresh = FixedBuffers(fixed.decoder, fixed.geometry, ("cpu", 0))  # nothing of earlier utterances in it
    decoder = FixedStepDecoder(fresh, fixed.encode(features[:1]))
    mask = np.zeros((1, fixed.geometry.vocab_size), np.float32)
    prompt = np.array([fixed.tokens.prompt(None)])
    length = prompt.shape[1]
    _, tokens = decoder.prefill(prompt, mask, BEAMS)
    before = [np.array(value.numpy()) for value in decoder._cache]
    places = [value.data_ptr() for value in decoder._cache]
    decoder.step(tokens[:, 0], np.zeros((1, BEAMS), np.int64), mask, 2)
    assert [value.data_ptr() for value in decoder._cache] == places
    for old, value in zip(before, decoder._cache, strict=True):
        new = value.numpy()
        assert new.shape[2] == SMALLEST_CAPACITY
        changed = np.flatnonzero((old != new).any(axis=(0, 1, 3)))
        assert changed.tolist() == list(range(length, length + BEAMS))


def test_two_decoders_at_a_time_share_no_cache_and_later_ones_find_it(models, features):
    _, fixed = models
    cross = fixed.encode(features[:1])
    mask = np.zeros((1, fixed.geometry.vocab_size), np.float32)
    prompt = np.array([fixed.tokens.prompt(None)])

    def places(decoder):
        decoder.prefill(prompt, mask, 1)
        return {value.data_ptr() for value in decoder._cache}

    one, two = FixedStepDecoder(fixed.buffers, cross), FixedStepDecoder(fixed.buffers, cross)
    first, second = places(one), places(two)
    assert not first & second
    assert len(first) == 2 * fixed.geometry.layers
    del one
    assert places(FixedStepDecoder(fixed.buffers, cross)) == first


def test_the_pipeline_takes_it(bundle, models, features):
    utterance = read_manifest(POCKET / "data" / "test" / "manifest.jsonl")[0]
    settings = {"precision": "fp32", "providers": "cpu", "threads": 1}
    texts = [
        MultimodalASR(bundle, fixed_steps=fixed, **settings).transcribe(utterance.audio).to_dict()
        for fixed in (False, True)
    ]
    assert texts[0] == texts[1]


def test_the_command_line_takes_it(bundle, pocket_bundle, capsys):
    utterance = read_manifest(POCKET / "data" / "test" / "manifest.jsonl")[0]
    options = ["--bundle", str(bundle.folder), "--precision", "fp32", "--provider", "cpu", "--threads", "1"]
    printed = []
    for more in ([], ["--fixed-steps"]):
        assert main(["transcribe", str(utterance.audio), *options, "--json", *more]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    options[1] = str(pocket_bundle.folder)
    assert main(["transcribe", str(utterance.audio), *options, "--fixed-steps"]) == 2
    assert "export with `--fixed-steps`" in capsys.readouterr().err


# -- the graph and the bundle --------------------------------------------------------------------------------


def test_the_graph_shares_the_weights_of_the_decoder(bundle):
    path = bundle.fixed_decoder("fp32").path
    assert path.stat().st_size < bundle.graph("decoder_model", "fp32").path.stat().st_size / 10
    kinds = [node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node]
    layers = json.loads((bundle.whisper / "config.json").read_text())["decoder_layers"]
    assert kinds.count("ScatterElements") == 2 * layers
    assert "Concat" not in kinds


def test_a_decoder_that_does_not_fit_spoils_the_shared_weights(bundle, tmp_path):
    manifest = dict(bundle.manifest)
    files = dict(manifest["files"])
    files["whisper/onnx/decoder_model.onnx"] = {**files["whisper/onnx/decoder_model.onnx"], "sha256": "0"}
    spoiled = dataclasses.replace(bundle, manifest={**manifest, "files": files})
    with pytest.raises(BundleError, match="decoder_model"):
        spoiled.fixed_decoder("fp32")


def test_a_graph_without_a_cache_is_refused(bundle):
    encoder = bundle.graph("encoder_model", "fp32").path
    with pytest.raises(CheckpointError, match=r"encoder_model\.onnx is no decoder_model"):
        write_fixed_decoder(encoder, encoder.with_name("fixed.onnx"))


def test_a_bundle_without_it_says_how_to_get_it(pocket_bundle, sessions):
    assert graph_path(FIXED_DECODER, "fp32") not in pocket_bundle.manifest["files"]
    with pytest.raises(SettingsError, match="--fixed-steps"):
        FixedWhisperModel.of_bundle(pocket_bundle, "fp32", sessions)


def test_int8_and_tensorrt_are_refused(bundle):
    with pytest.raises(SettingsError, match="int8"):
        ExportRequest(Source("a"), Source("b"), bundle.folder, ("int8",), fixed_steps=True)
    gpu = Gpu(0, "NVIDIA L4", "8.9", 1 << 34)
    with pytest.raises(SettingsError, match="TensorRT"):
        FixedWhisperModel.of_bundle(
            bundle, "fp32", SessionFactory(Provider("tensorrt", gpu=gpu, tensorrt="10.9.0"))
        )


def test_an_export_with_it_is_another_export(bundle):
    request = ExportRequest(
        Source(str(POCKET / "models/whisper")), Source(str(POCKET / "models/clip")), bundle.folder
    )
    assert "fixed_steps" not in request.identity()
    assert dataclasses.replace(request, fixed_steps=True).identity()["fixed_steps"] is True
    assert Bundle.open(bundle.folder).manifest["identity"]["fixed_steps"] is True


@pytest.mark.parametrize(("wanted", "expected"), [(True, ["0", "1"]), (False, ["0", "0"])])
def test_cuda_records_the_fixed_shapes_alone(bundle, monkeypatch, wanted, expected):
    """What onnxruntime is asked for; without a GPU the session itself cannot be made."""
    asked = []

    def refuse(graph, options, providers, enable_fallback):
        asked.append(dict(providers)["CUDAExecutionProvider"]["enable_cuda_graph"])
        raise RuntimeError("no GPU in this test")

    monkeypatch.setattr(ort, "InferenceSession", refuse)
    provider = Provider("cuda", gpu=Gpu(1, "NVIDIA L4", "8.9", 1 << 34))
    factory = SessionFactory(provider, SessionSettings(cuda_graph=wanted))
    for graph in (
        bundle.graph("decoder_model", "fp32"),
        bundle.fixed_decoder("fp32"),
    ):
        with pytest.raises(Exception, match="no GPU in this test"):
            factory.open(graph)
    assert asked == expected
    assert factory.device_id == 1
