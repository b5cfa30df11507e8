"""The encoder over the speech alone: exact where it can be, refused where it must be."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration

from export import cli as export_cli
from export import random_checkpoints as architectures
from export.graphs.tensorrt_rules import check_tensorrt_operators
from export.made_up_speech import babble, examples
from export.modules.attention import AttentionForm
from export.modules.short_encoder import ShortEncoderGraph
from export.modules.whisper import EncoderGraph
from export.short_window.statistics import EXAMPLES, SEED, _covariance, _encode, _Padding, padding_statistics
from runtime import MultimodalASR
from runtime.bundle.bundle import MANIFEST, PADDING_FILE, Bundle
from runtime.bundle.graph import sha256_of
from runtime.errors import BundleError, SettingsError
from runtime.sessions.tensorrt.profiles import EngineLimits, build_profile, read_inputs
from runtime.whisper.short_encoder import ShortEncoder
from runtime.whisper.short_window import (
    GAP,
    GRID,
    PaddingStatistics,
    ShortWindow,
    anchors_behind,
    is_worthwhile,
)

POSITIONS = 1500
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


def statistics(width=8):
    distances = np.abs(np.subtract.outer(np.arange(POSITIONS), np.arange(POSITIONS)))
    means = np.zeros((3, POSITIONS, width), np.float16)
    return PaddingStatistics(means, np.exp(-distances / 200.0).astype(np.float16))


@pytest.mark.parametrize("leading", [25, 75, 225, 700])
def test_a_plan_accounts_for_every_position_once(leading):
    plan = ShortWindow(statistics(), "fp32").plan(leading)
    positions = np.concatenate([np.arange(leading), plan.supports[1:], plan.cached])
    np.testing.assert_array_equal(np.sort(positions), np.arange(POSITIONS))
    assert plan.supports[0] == leading - 1
    assert plan.supports[-1] == POSITIONS - 1
    np.testing.assert_array_equal(plan.supports[1:-1], plan.anchors)


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
        inputs = [torch.from_numpy(array) for array in plan.inputs().values()]
        got = short_graph(features[:, :, : 2 * 175 + 2], *inputs, own)
        expected = full_graph(features)
    order = np.argsort(np.concatenate([np.arange(175), plan.supports[1:], plan.cached]))
    for i, (ours, theirs) in enumerate(zip(got, expected, strict=True)):
        axis = 3 if i % 2 == 0 else 2
        # float32 sums in another order
        np.testing.assert_allclose(np.take(ours.numpy(), order, axis=axis), theirs.numpy(), atol=2e-5)


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
        means = [torch.from_numpy(mean) for mean in short_encoder.window.statistics.means]
        expected = module(torch.from_numpy(features[:, :, : 2 * 125 + 2]), *inputs, means)
    for ours, theirs in zip(short_encoder.encode(features, 125).values.values(), expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=2e-5)


def test_the_bundle_records_its_gate_and_shares_weights(miniature):
    bundle = Bundle.open(miniature / "bundle")
    for precision in bundle.precisions:
        gate = bundle.short_window(precision)
        assert gate["passed"] == (gate["speech_error"] <= gate["speech_limit"])
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
    np.savez(path, means=np.zeros((3, 20, 4), np.float16), covariance=np.zeros((20, 19), np.float16))
    with pytest.raises(BundleError, match="do not fit together"):
        PaddingStatistics.load(path)


def test_statistics_of_another_checkpoint_are_refused(miniature, tmp_path):
    """Every hash fits, and yet the numbers belong elsewhere: the session has other inputs."""
    folder = tmp_path / "bundle"
    shutil.copytree(miniature / "bundle", folder)
    statistics().save(folder / PADDING_FILE)
    manifest = json.loads((folder / MANIFEST).read_text())
    path = folder / PADDING_FILE
    manifest["files"][PADDING_FILE] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    (folder / MANIFEST).write_text(json.dumps(manifest))
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
    plan = ShortWindow(statistics(), "fp32").plan(225)
    assert frames == 2 * plan.leading + 2
    assert profile.inputs["cached"][0].smallest <= len(plan.cached) <= profile.inputs["cached"][0].largest
    assert profile.inputs["anchors"][0].smallest <= len(plan.anchors) <= profile.inputs["anchors"][0].largest


def test_an_unknown_encoder_is_no_live_encoder(miniature):
    bundle = Bundle.open(miniature / "bundle")
    with pytest.raises(SettingsError, match="window is 'half'"):
        ShortEncoder.of_bundle(bundle, "fp32", None, "half")
