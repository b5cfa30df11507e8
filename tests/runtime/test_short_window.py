"""The encoder over the speech alone: exact where it can be, refused where it must be."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from export import cli as export_cli
from export import random_checkpoints as architectures
from export.bundle_writer import ExportRequest, write_bundle
from export.checkpoints import Source
from export.graphs.tensorrt_rules import check_tensorrt_operators
from export.made_up_speech import babble, examples
from export.modules.attention import AttentionForm
from export.modules.short_encoder import ShortEncoderGraph
from export.modules.whisper import EncoderGraph
from export.short_window.boundaries import boundaries
from export.short_window.statistics import EXAMPLES, SEED, _covariance, _encode, _Padding, padding_statistics
from runtime import MultimodalASR
from runtime.bundle.bundle import MANIFEST, PADDING_FILE, Bundle
from runtime.bundle.graph import sha256_of
from runtime.errors import BundleError, SettingsError
from runtime.sessions.tensorrt.profiles import EngineLimits, build_profile, read_inputs
from runtime.whisper.cross_attention import CrossAttention
from runtime.whisper.short_encoder import ShortEncoder
from runtime.whisper.short_window import (
    GAP,
    GRID,
    PaddingStatistics,
    ShortWindow,
    anchors_behind,
    is_worthwhile,
)
from tests.conftest import POCKET
from tests.tools.padding_examples import POSITIONS, alike, statistics

RATE = 16000


@pytest.fixture(scope="module")
def miniature(tmp_path_factory):
    """A bundle with a real window and vocabulary, and next to no weights."""
    folder = tmp_path_factory.mktemp("miniature")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "WHISPER", {"whisper-mini": architectures.WhisperDimensions(64, 2, 1)})
        patch.setattr(architectures, "CLIP", {"clip-mini": (64, 1, 64, 1, 32, 64)})
        architectures.make_whisper_checkpoint("whisper-mini", folder / "whisper")
        architectures.make_clip_checkpoint("clip-mini", folder / "clip")
    arguments = ["--whisper", str(folder / "whisper"), "--clip", str(folder / "clip")]
    args = export_cli.parse_args(
        [*arguments, "--output", str(folder / "bundle"), "--precision", "fp32,int8,fp16"]
    )
    assert export_cli.run(args) == 0
    return folder


def vouch_for(folder, name):
    """Let the bundle's manifest say what is in a file now."""
    manifest = json.loads((folder / MANIFEST).read_text())
    path = folder / name
    manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("leading", [25, 75, 225, 700])
def test_a_plan_accounts_for_every_position_once(leading):
    plan = ShortWindow(statistics(), "fp32").plan(leading)
    positions = np.concatenate([np.arange(leading), plan.supports[1:], plan.cached])
    np.testing.assert_array_equal(np.sort(positions), np.arange(POSITIONS))
    assert plan.supports[0] == leading - 1
    assert plan.supports[-1] == POSITIONS - 1
    np.testing.assert_array_equal(plan.supports[1:-1], plan.anchors)


@pytest.mark.parametrize("leading", [25, 75, 225, 425])
def test_the_decoder_gets_half_as_many_keys_which_stand_for_all_positions(leading):
    plan = ShortWindow(alike(), "fp32").plan(leading)
    assert plan.keys == 768
    keys = plan.keys_of_positions()
    sizes = np.bincount(keys)
    np.testing.assert_allclose(np.exp(plan.memory_bias), sizes, rtol=1e-6)
    assert sizes.sum() == POSITIONS
    computed = np.concatenate([np.arange(leading), plan.supports[1:]])
    np.testing.assert_array_equal(keys[computed], np.arange(len(computed)))  # none of them is in a group
    assert (sizes[: len(computed)] == 1).all()
    np.testing.assert_array_equal(plan.groups, np.sort(plan.groups))  # neighbours alone
    states = alike().means[-1].astype(np.float32)
    for group in (0, 7, plan.groups[-1]):
        members = plan.groups == group
        np.testing.assert_allclose(
            plan.memory_interpolation[group], plan.interpolation[members].mean(axis=0), atol=1e-6
        )
        expected = states[plan.cached[members]].mean(axis=0)
        np.testing.assert_allclose(plan.memory_mean[group], expected, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("leading", [450, 700])
def test_where_too_little_padding_is_left_every_position_has_its_key(leading):
    plan = ShortWindow(alike(), "fp32").plan(leading)
    assert plan.keys == POSITIONS
    assert not plan.memory_bias.any()
    np.testing.assert_array_equal(plan.memory_interpolation, plan.interpolation)
    np.testing.assert_array_equal(plan.memory_mean, alike().means[-1][plan.cached])


@pytest.mark.parametrize(("most_lost", "keys"), [(1.0, 768), (-1.0, POSITIONS)])
def test_the_export_makes_groups_where_they_lose_little(miniature, monkeypatch, most_lost, keys):
    monkeypatch.setattr("export.short_window.statistics.MOST_LOST", most_lost)
    model = WhisperForConditionalGeneration.from_pretrained(miniature / "whisper").eval()
    extractor = MultimodalASR(miniature / "bundle", precision="fp32", providers="cpu").whisper.features
    window = ShortWindow(padding_statistics(model, extractor), "fp32")
    assert window.plan(125).keys == keys
    assert window.has_groups == (keys == 768)


def test_a_bundle_without_a_bias_is_refused_when_it_is_opened(miniature, tmp_path):
    """As exporters before revision 16 made them: one utterance would work, a batch would not."""
    folder = tmp_path / "bundle"
    shutil.copytree(miniature / "bundle", folder)
    name = "whisper/onnx/decoder_model.onnx"
    decoder = onnx.load(folder / name)
    for node in decoder.graph.node:
        node.input[:] = ["zeros" if each == "cross_bias" else each for each in node.input]
    decoder.graph.initializer.append(
        onnx.numpy_helper.from_array(np.zeros((1, POSITIONS), np.float32), "zeros")
    )
    kept = [each for each in decoder.graph.input if each.name != "cross_bias"]
    del decoder.graph.input[:]
    decoder.graph.input.extend(kept)
    onnx.save(decoder, folder / name)
    vouch_for(folder, name)
    with pytest.raises(BundleError, match=r"cross_bias.*export the bundle again"):
        MultimodalASR(folder, precision="fp32", providers="cpu", language="en")


def test_the_estimate_is_that_of_the_textbook():
    """Rasmussen & Williams 2006, (2.25): k(x*, X) (K + s I)^-1, written out position by position."""
    plan = ShortWindow(statistics(), "fp32").plan(225)
    covariance = statistics().covariance.astype(np.float64) + 10.0
    inner = covariance[np.ix_(plan.supports, plan.supports)] + 1e-3 * np.eye(len(plan.supports))
    for row in (0, 100, len(plan.cached) - 1):
        expected = np.linalg.solve(inner, covariance[plan.supports, plan.cached[row]])
        np.testing.assert_allclose(plan.interpolation[row], expected, atol=1e-5)


def test_smooth_deviations_are_recovered():
    plan = ShortWindow(statistics(), "fp32").plan(225)
    for deviation in (np.ones(POSITIONS), np.cos(np.arange(POSITIONS) / 150.0)):
        estimated = plan.interpolation @ deviation[plan.supports]
        assert np.abs(estimated - deviation[plan.cached]).max() < 0.01


def test_int8_trusts_its_anchors_less():
    """Each anchor is rounded by itself: what the estimate makes of that must be small, constants stay."""
    exact, rounded = (ShortWindow(statistics(), precision).plan(225) for precision in ("fp32", "int8"))
    amplified = [np.square(plan.interpolation).sum(axis=1).mean() for plan in (exact, rounded)]
    assert amplified[1] < 0.6 * amplified[0]
    np.testing.assert_allclose(rounded.interpolation.sum(axis=1), 1.0, atol=0.02)


def test_leading_positions_come_in_steps_and_end_where_nothing_is_gained():
    window = ShortWindow(statistics(), "fp32")
    found = [window.leading_positions(speech) for speech in range(1, POSITIONS, 7)]
    short = [leading for leading in found if leading is not None]
    assert all(leading % GRID == 0 for leading in short)
    assert found[: len(short)] == sorted(short)
    assert set(found[len(short) :]) == {None}
    computed = short[-1] + len(anchors_behind(short[-1], POSITIONS)) + 1
    assert 0.5 * POSITIONS < computed <= 0.6 * POSITIONS


def test_only_long_windows_are_worth_it():
    assert is_worthwhile(1500)
    assert not is_worthwhile(300)


def test_with_an_utterances_own_padding_it_is_the_full_window(miniature):
    """If the mean is what the utterance holds itself, nothing is estimated: both graphs compute the same."""
    model = WhisperForConditionalGeneration.from_pretrained(miniature / "whisper").eval()
    short_graph, full_graph = (kind(model, AttentionForm.FUSED) for kind in (ShortEncoderGraph, EncoderGraph))
    asr = MultimodalASR(miniature / "bundle", precision="fp32", providers="cpu", language="en")
    waveform = babble(3 * RATE, RATE, np.random.default_rng(5))
    features = torch.from_numpy(asr.whisper.features([waveform]))
    plan = ShortWindow(statistics(), "fp32").plan(175)
    with torch.inference_mode():
        own = [each.states for (each,) in _encode(short_graph, [(features, 150)])]
        inputs = {name: torch.from_numpy(array) for name, array in plan.inputs().items()}
        inputs["memory_mean"] = own[-1][plan.cached]
        *got, bias = short_graph(features[:, :, : 2 * 175 + 2], *inputs.values(), own)
        *expected, full_bias = full_graph(features)
    for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        axis = 3 if i % 2 == 0 else 2
        # float32 sums in another order
        in_order = np.take(ours.numpy(), plan.keys_of_positions(), axis=axis)
        np.testing.assert_allclose(in_order, theirs.numpy(), atol=2e-5)
    assert bias.shape == full_bias.shape == (1, POSITIONS)
    assert not bias.any()
    assert not full_bias.any()


def test_a_group_is_the_mean_of_its_positions(miniature):
    """Keys and values are linear in the states: those of a group are the mean of its members' own."""
    asr = MultimodalASR(miniature / "bundle", precision="fp32", providers="cpu", window="fast", language="en")
    short_encoder = asr.whisper.short_encoder
    features = asr.whisper.features([babble(2 * RATE, RATE, np.random.default_rng(6))])
    grouped = alike_for(short_encoder)
    short_encoder.window = ShortWindow(grouped, "fp32")
    plan = short_encoder.window.plan(125)
    assert plan.keys == 768
    few = short_encoder.encode(features, 125).values
    short_encoder.window = ShortWindow(dataclasses.replace(grouped, boundaries=np.zeros(0, np.int32)), "fp32")
    every = short_encoder.encode(features, 125).values
    keys = plan.keys_of_positions()
    positions = short_encoder.window.plan(125).keys_of_positions()
    for name in ("cross_key_0", "cross_value_0"):
        ours, theirs = (
            np.moveaxis(each[name].numpy(), 3 if "key" in name else 2, 0) for each in (few, every)
        )
        for key in (0, 300, 500, 767):
            expected = theirs[positions[keys == key]].mean(axis=0)
            np.testing.assert_allclose(ours[key], expected, atol=2e-3)  # their mean is kept in float16


def alike_for(short_encoder):
    """The statistics of a bundle with groups, whatever its own states say."""
    found = short_encoder.window.statistics
    return dataclasses.replace(found, boundaries=boundaries(found.means[-1].astype(np.float32)))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_key_counts_as_often_as_it_has_positions(miniature, precision):
    """One key with a bias of log n is n equal keys, at the prompt and at every step."""
    asr = MultimodalASR(miniature / "bundle", precision=precision, providers="cpu", language="en")
    model = asr.whisper
    features = model.features([babble(2 * RATE, RATE, np.random.default_rng(9))])
    cross = model.encode(features)
    sizes = np.random.default_rng(3).integers(1, 4, size=600)
    sizes[-1] += POSITIONS - sizes.sum()
    first = np.cumsum(sizes) - sizes
    few, many = {}, {}
    for name, value in cross.values.items():
        axis = {"cross_k": 3, "cross_v": 2, "cross_b": 1}[name[:7]]
        few[name] = np.take(value.numpy(), first, axis=axis)
        many[name] = np.repeat(few[name], sizes, axis=axis)
    few["cross_bias"] = np.log(sizes)[None].astype(np.float32)
    found = []
    for values in (few, many):
        decoder = model.step_decoder(
            CrossAttention({name: ort.OrtValue.ortvalue_from_numpy(each) for name, each in values.items()}, 1)
        )
        mask = np.zeros((1, model.geometry.vocab_size), np.float32)
        prompt = np.array([model.tokens.prompt("en")])
        found.append(
            [
                decoder.prefill(prompt, mask, 50),
                decoder.step(np.array([[7, 9]]), np.zeros((1, 2), int), mask, 50),
            ]
        )
    for (ours, our_tokens), (theirs, their_tokens) in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
        if precision == "fp32":
            np.testing.assert_array_equal(our_tokens, their_tokens)


def test_the_means_are_those_of_transformers_encoder(miniature):
    """Keys of the last layer and final states, of the examples that leave a position to the padding."""
    model = WhisperForConditionalGeneration.from_pretrained(miniature / "whisper").eval()
    extractor = MultimodalASR(miniature / "bundle", precision="fp32", providers="cpu").whisper.features
    found = padding_statistics(model, extractor)
    layer = model.model.encoder.layers[-1]
    sums = np.zeros((2, POSITIONS, 64))
    count = np.zeros((POSITIONS, 1))
    for features, end in examples(extractor, EXAMPLES, SEED):
        with torch.inference_mode():
            states = model.model.encoder(features, output_hidden_states=True)
            keys = layer.self_attn.k_proj(layer.self_attn_layer_norm(states.hidden_states[-2]))
        sums[0, end + GAP :] += keys[0, end + GAP :].numpy()
        sums[1, end + GAP :] += states.last_hidden_state[0, end + GAP :].numpy()
        count[end + GAP :] += 1
    expected = sums / np.maximum(count, 1)
    # float16 keeps 11 bits
    np.testing.assert_allclose(found.means[[-3, -1]].astype(np.float64), expected, rtol=1e-3, atol=1e-4)


def test_the_covariance_has_no_negative_variance_however_few_examples():
    random = torch.Generator().manual_seed(0)
    waves = torch.cumsum(torch.randn(4, 300, 6, generator=random), dim=1)
    found = [_Padding(states, first) for states, first in zip(waves, (5, 90, 170, 240), strict=True)]
    covariance = _covariance(found, torch.zeros(300, 6)).double()
    assert covariance.diagonal().mean() == pytest.approx(1.0)
    assert torch.linalg.eigvalsh(covariance).min() > -1e-5  # rounding of float32
    every = torch.cat([waves[0], waves[1], waves[2], waves[3]], dim=1)[260:].double()
    true = every @ every.T
    np.testing.assert_allclose(  # where all examples are padding it is the plain one
        (covariance[260:, 260:] / covariance[299, 299]).numpy(), (true / true[-1, -1]).numpy(), atol=1e-5
    )


def test_the_exported_graph_is_the_traced_module(miniature):
    asr = MultimodalASR(miniature / "bundle", precision="fp32", providers="cpu", window="fast", language="en")
    short_encoder = asr.whisper.short_encoder
    assert short_encoder is not None
    model = WhisperForConditionalGeneration.from_pretrained(miniature / "whisper").eval()
    module = ShortEncoderGraph(model, AttentionForm.FUSED)
    features = asr.whisper.features([babble(2 * RATE, RATE, np.random.default_rng(6))])
    plan = short_encoder.window.plan(125)
    with torch.inference_mode():
        inputs = [torch.from_numpy(array) for array in plan.inputs().values()]
        assert inputs[-1].shape == (plan.keys,)
        means = [torch.from_numpy(mean) for mean in short_encoder.window.statistics.means]
        expected = module(torch.from_numpy(features[:, :, : 2 * 125 + 2]), *inputs, means)
    found = short_encoder.encode(features, 125)
    assert list(found.values)[-1] == "cross_bias"
    assert found.keys == plan.keys
    for ours, theirs in zip(found.values.values(), expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-5)


def test_the_bundle_records_its_gate_and_shares_weights(miniature):
    bundle = Bundle.open(miniature / "bundle")
    for precision in bundle.precisions:
        gate = bundle.short_window(precision)
        assert gate["passed"] == (gate["speech_error"] <= gate["speech_limit"])
        assert gate["decoder_keys"] == 768
        _, padding = bundle.short_encoder(precision)
        assert padding.is_file()
    sizes = {name: entry["bytes"] for name, entry in bundle.manifest["files"].items()}
    assert sizes["whisper/onnx/encoder_short_model.onnx"] < sizes["whisper/onnx/encoder_model.onnx"] / 2


# int8 takes one scale for the activations of all utterances that are encoded together.
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("int8", 5e-3)])
def test_an_utterance_does_not_depend_on_its_batch(miniature, precision, tolerance):
    asr = MultimodalASR(
        miniature / "bundle", precision=precision, providers="cpu", window="fast", language="en",
        num_beams=2, max_new_tokens=4,
    )  # fmt: skip
    random = np.random.default_rng(7)
    waveforms = [babble(int(seconds * RATE), RATE, random) for seconds in (0.6, 3.9, 0.7, 20.0, 3.8)]
    groups = asr.whisper.encode_speech(waveforms, len(waveforms))
    assert [(places, cross.keys) for places, cross in groups] == [([0, 1, 2, 4], 768), ([3], POSITIONS)]
    together = asr.generate_nbest_batch(waveforms)
    for waveform, found in zip(waveforms, together, strict=True):
        alone = asr.generate_nbest(waveform)
        assert [each.text for each in alone] == [each.text for each in found]
        np.testing.assert_allclose(
            [each.score for each in alone], [each.score for each in found], atol=tolerance
        )


def test_a_long_utterance_has_the_full_window(miniature):
    options = {"precision": "fp32", "providers": "cpu", "language": "en", "num_beams": 2, "max_new_tokens": 4}
    waveform = babble(26 * RATE, RATE, np.random.default_rng(8))
    full, fast = (
        MultimodalASR(miniature / "bundle", window=window, **options).generate_nbest(waveform)
        for window in ("full", "fast")
    )
    assert full == fast


def test_short_windows_have_none(pocket_bundle):
    assert MultimodalASR(pocket_bundle, window="auto", providers="cpu").whisper.short_encoder is None
    with pytest.raises(SettingsError, match="no short encoder"):
        MultimodalASR(pocket_bundle, window="fast", providers="cpu")
    with pytest.raises(SettingsError, match="expected one of full, auto, fast"):
        MultimodalASR(pocket_bundle, window="wide", providers="cpu")


@pytest.mark.parametrize("seconds", [10, 11])
def test_the_shortest_windows_that_have_one_are_measured(seconds, miniature, tmp_path):
    """The longest made-up utterance, half of the window, has no short form in them."""
    folder = Path(shutil.copytree(POCKET / "models" / "whisper", tmp_path / "whisper"))
    config = WhisperConfig.from_pretrained(folder, max_source_positions=50 * seconds)
    config.update({"d_model": 64, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 2})
    generation = GenerationConfig.from_pretrained(folder)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = generation
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=64, chunk_length=seconds).save_pretrained(folder)
    clip = Source(str(miniature / "clip"))
    bundle, _ = write_bundle(ExportRequest(Source(str(folder)), clip, tmp_path / "bundle", ("fp32",)))
    measured = bundle.short_window("fp32")
    assert 0 <= measured["speech_error"] < 1
    options = {"precision": "fp32", "providers": "cpu", "num_beams": 2, "max_new_tokens": 4}
    full, fast = (MultimodalASR(bundle, window=window, **options) for window in ("full", "fast"))
    waveform = babble(seconds * RATE // 2, RATE, np.random.default_rng(8))
    assert full.generate_nbest(waveform) == fast.generate_nbest(waveform)
    assert fast.whisper.short_encoder.window.leading_positions(50) is not None


def test_auto_heeds_the_gate(miniature, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(miniature / "bundle", folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    for passed in (True, False):
        manifest["short_window"]["fp32"]["passed"] = passed
        (folder / MANIFEST).write_text(json.dumps(manifest))
        asr = MultimodalASR(folder, precision="fp32", providers="cpu", window="auto", language="en")
        assert (asr.whisper.short_encoder is not None) == passed
    manifest["short_window"] = {"fp32": 1}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="short_window"):
        MultimodalASR(folder, precision="fp32", providers="cpu", window="auto", language="en")


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 no archive", b"\x93NUMPY"],
    ids=["empty", "zip", "npy"],
)
def test_damaged_statistics_are_refused(miniature, tmp_path, content):
    path = tmp_path / "padding.npz"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="export the bundle again"):
        PaddingStatistics.load(path)


def test_statistics_of_impossible_shapes_are_refused(tmp_path):
    path = tmp_path / "padding.npz"
    means, covariance = np.zeros((3, 20, 4), np.float16), np.zeros((20, 20), np.float16)
    np.savez(path, means=means, covariance=covariance, boundaries=np.zeros(19, np.int32))
    PaddingStatistics.load(path)
    for wrong in (
        {"covariance": covariance[:, :19]},
        {"boundaries": np.zeros(20, np.int32)},
        {"boundaries": np.zeros(19)},
    ):
        arrays = {"means": means, "covariance": covariance, "boundaries": np.zeros(19, np.int32)}
        np.savez(path, **arrays | wrong)
        with pytest.raises(BundleError, match="do not fit together"):
            PaddingStatistics.load(path)
    np.savez(path, means=means, covariance=covariance)
    with pytest.raises(BundleError, match=r"no padding statistics.*boundaries"):
        PaddingStatistics.load(path)


def test_statistics_of_another_checkpoint_are_refused(miniature, tmp_path):
    """Every hash fits, and yet the numbers belong elsewhere: the session has other inputs."""
    folder = tmp_path / "bundle"
    shutil.copytree(miniature / "bundle", folder)
    statistics().save(folder / PADDING_FILE)
    vouch_for(folder, PADDING_FILE)
    with pytest.raises(BundleError, match="export the bundle again"):
        MultimodalASR(folder, precision="fp32", providers="cpu", window="fast", language="en")


def test_tensorrt_gets_standard_operators_and_a_range_for_every_dynamic_dimension(miniature):
    """The export has checked the operators of the fp16 graph; its profile leaves no dimension open."""
    graph, _ = Bundle.open(miniature / "bundle").short_encoder("fp16")
    check_tensorrt_operators(graph.path)
    inputs = read_inputs(graph.path)
    profile = build_profile(graph.name, inputs, EngineLimits())
    assert set(profile.inputs) == {each.name for each in inputs if each.is_dynamic}
    (frames,) = {profile.inputs["input_features"][2].usual}
    plan = ShortWindow(alike(), "fp32").plan(225)
    assert frames == 2 * plan.leading + 2
    assert profile.inputs["memory_bias"][0].usual == plan.keys
    (groups,) = {profile.inputs[name][0] for name in ("memory_mean", "memory_interpolation")}
    usual = [profile.inputs[name][0].usual for name in ("anchors", "cached")]
    assert [*usual, groups.usual] == [len(plan.anchors), len(plan.cached), len(plan.memory_mean)]
    assert groups.largest == POSITIONS
    assert profile.inputs["cached"][0].smallest <= len(plan.cached) <= profile.inputs["cached"][0].largest
    assert profile.inputs["anchors"][0].smallest <= len(plan.anchors) <= profile.inputs["anchors"][0].largest


def test_an_unknown_encoder_is_no_live_encoder(miniature):
    bundle = Bundle.open(miniature / "bundle")
    with pytest.raises(SettingsError, match="window is 'half'"):
        ShortEncoder.of_bundle(bundle, "fp32", None, "half")
