"""Profiles cover every dynamic input of really exported graphs; engine keys change with each ingredient."""

import dataclasses
import json
import logging
import os
import time
from dataclasses import replace

import numpy as np
import pytest

from runtime.bundle.graph import Graph, external_data, graph_path
from runtime.errors import BundleError, OutputError, ProviderError, SettingsError
from runtime.sessions.factory import Provider, SessionFactory, SessionSettings, select_provider
from runtime.sessions.tensorrt.engines import EngineSettings, plan_engine
from runtime.sessions.tensorrt.profiles import (
    MINIMUM_CACHE,
    TOP_K_LIMIT,
    EngineLimits,
    GraphInput,
    Range,
    build_profile,
    limits_of,
    read_inputs,
)
from runtime.sessions.tensorrt.store import EngineKey, EngineStore
from tests.tools.machines import CPU, L4, ORIN
from tests.tools.tiny_graphs import VOCABULARY, write_tiny_graphs

GRAPHS = ("encoder_model", "decoder_model", "text_model", "vision_model")
CORNERS = ("smallest", "usual", "largest")
TENSORRT_VERSION = "10.9.0"


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    folder = write_tiny_graphs(tmp_path_factory.mktemp("graphs"), ("fp32",))
    return {name: Graph.in_folder(folder, name, "fp32") for name in GRAPHS}


@pytest.fixture
def plan(graphs, tmp_path):
    def make(graph="decoder_model", gpu=L4, tensorrt=TENSORRT_VERSION, onnxruntime="1.31.1", **settings):
        chosen = EngineSettings(**({"folder": tmp_path / "engines"} | settings))
        return plan_engine(graphs[graph], chosen, gpu, tensorrt, onnxruntime=onnxruntime)

    return make


# -- profiles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(
    "limits",
    [EngineLimits(), EngineLimits(batch=1, beams=1, tokens=1, prompt=1, texts=1, text_length=1, images=1),
     EngineLimits(batch=16, beams=10, tokens=448, prompt=200, texts=1024)],
)  # fmt: skip
def test_every_dynamic_dimension_of_an_exported_graph_has_a_range(graphs, graph, limits):
    inputs = read_inputs(graphs[graph].path)
    profile = build_profile(graph, inputs, limits)
    dynamic = {each.name: each for each in inputs if each.is_dynamic}
    assert dynamic
    assert set(profile.inputs) == set(dynamic)
    for name, sizes in profile.inputs.items():
        assert len(sizes) == len(dynamic[name].shape)
        for size, declared in zip(sizes, dynamic[name].shape, strict=True):
            if isinstance(declared, int) and name != "top_k":
                assert size == Range(declared, declared, declared)


def test_every_input_of_the_decoder_is_dynamic(graphs):
    """top_k too, although its shape is fixed: TensorRT needs its values."""
    profile = build_profile("decoder_model", read_inputs(graphs["decoder_model"].path), EngineLimits())
    assert {each.name for each in read_inputs(graphs["decoder_model"].path)} == set(profile.inputs)


def test_the_corners_of_the_decoder_fit_together(graphs):
    limits = EngineLimits(batch=4, beams=5, tokens=64, prompt=4)
    shapes = build_profile("decoder_model", read_inputs(graphs["decoder_model"].path), limits).inputs
    for corner in CORNERS:
        batch, queries, total = (getattr(size, corner) for size in shapes["attention_mask"])
        _, _, cached, _ = (getattr(size, corner) for size in shapes["past_key_0"])
        assert total == cached + queries
        assert [getattr(size, corner) for size in shapes["input_ids"]] == [batch, queries]
        assert getattr(shapes["output_index"][0], corner) <= queries
        assert getattr(shapes["cross_key_1"][0], corner) == batch


def test_whatever_a_search_asks_for_lies_within_the_limits(graphs):
    limits = EngineLimits(batch=4, beams=5, tokens=64, prompt=4)
    shapes = build_profile("decoder_model", read_inputs(graphs["decoder_model"].path), limits).inputs
    cached = shapes["past_value_1"][2]
    assert cached.smallest == MINIMUM_CACHE == 1
    last_step = MINIMUM_CACHE + 4 + 5 * 63  # the prompt, and all beams of the 63 steps before the 64th
    assert cached.largest >= last_step
    assert shapes["input_ids"][1].smallest <= 1  # language detection reads one token
    assert shapes["input_ids"][1].largest >= 5
    assert shapes["top_k"][0].largest >= 100  # languages of Whisper large-v3, all at once
    assert shapes["token_mask"][0].largest == 4


def test_a_prompt_has_two_outputs_even_where_there_is_one_beam(graphs):
    """Its last place, and its first for the probability of no speech."""
    limits = EngineLimits(beams=1)
    shapes = build_profile("decoder_model", read_inputs(graphs["decoder_model"].path), limits).inputs
    assert shapes["output_index"][0].largest == 2
    assert shapes["token_mask"][1].largest == 2


def test_no_more_continuations_than_tokens(graphs):
    limits = EngineLimits(continuations=1000)
    shapes = build_profile("decoder_model", read_inputs(graphs["decoder_model"].path), limits).inputs
    assert shapes["top_k"][0].largest == VOCABULARY


def test_no_dimension_is_zero_and_option_texts_follow_the_documented_form(graphs):
    for graph in GRAPHS:
        profile = build_profile(graph, read_inputs(graphs[graph].path), EngineLimits())
        for corner in profile.options().values():
            for part in corner.split(","):
                name, shape = part.split(":")
                assert name in profile.inputs
                assert all(int(size) >= 1 for size in shape.split("x"))


def test_a_dimension_without_a_range_is_an_error():
    stranger = GraphInput("pixel_values", "tensor(float)", ("batch", 3, "height", "width"))
    with pytest.raises(SettingsError, match=r"'height'.*no range.*export the bundle again"):
        build_profile("vision_model", [stranger], EngineLimits())


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0},
        {"beams": -1},
        {"tokens": 449},
        {"texts": 1.5},
        {"images": True},
        {"continuations": TOP_K_LIMIT + 1},
    ],
)
def test_limits_out_of_range_are_refused(change):
    with pytest.raises(SettingsError, match=next(iter(change))):
        EngineLimits(**change)


def test_similar_limits_share_a_profile(graphs):
    inputs = read_inputs(graphs["decoder_model"].path)
    digest = build_profile("decoder_model", inputs, EngineLimits(batch=5, tokens=200)).digest()
    assert digest == build_profile("decoder_model", inputs, EngineLimits(batch=8, tokens=224)).digest()
    assert digest != build_profile("decoder_model", inputs, EngineLimits(batch=9, tokens=224)).digest()


def test_bucketing_never_rounds_down_and_is_stable():
    for size in (1, 2, 3, 7, 8, 9, 31, 33, 100, 224, 225, 448):
        limits = EngineLimits(batch=size, tokens=size, prompt=size, texts=size, images=size)
        bucketed = limits.bucketed()
        for name in ("batch", "tokens", "prompt", "texts", "images"):
            assert getattr(bucketed, name) >= getattr(limits, name)
        assert bucketed.bucketed() == bucketed


def test_a_range_is_ordered():
    with pytest.raises(SettingsError, match="no range"):
        Range(1, 5, 4)


def test_text_lengths_end_where_the_checkpoint_s_positions_end(tmp_path):
    graph = Graph("text_model", "fp16", tmp_path / "clip" / "onnx" / "text_model_fp16.onnx", "")
    assert limits_of(graph, EngineLimits()).text_length == 77
    graph.path.parent.mkdir(parents=True)
    config = tmp_path / "clip" / "config.json"
    config.write_text('{"text_config": {"max_position_embeddings": 32}}')
    assert limits_of(graph, EngineLimits()).text_length == 32
    assert limits_of(graph, EngineLimits(text_length=20)).text_length == 20
    assert limits_of(replace(graph, name="vision_model"), EngineLimits()).text_length == 77
    config.write_text("{")
    with pytest.raises(BundleError):
        limits_of(graph, EngineLimits())


def test_inputs_of_a_broken_file(tmp_path):
    path = tmp_path / "text_model.onnx"
    path.write_bytes(b"x")
    with pytest.raises(BundleError):
        read_inputs(path)


# -- the hidden first entry --------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [-1e4, -1e30])
def test_a_hidden_cache_entry_changes_nothing(graphs, hidden):
    """TensorRT decodes from a cache of one entry that nothing may look at, instead of an empty one."""
    session = SessionFactory(select_provider("cpu")).open(graphs["decoder_model"])
    random_source = np.random.default_rng(0)
    batch, prompt = 2, 3
    shapes = {node.name: node.shape for node in session.get_inputs()}
    feeds = {
        "input_ids": random_source.integers(0, VOCABULARY, (batch, prompt)),
        "positions": np.arange(prompt),
        "output_index": np.array([prompt - 1]),
        "token_mask": np.zeros((1, 1, VOCABULARY), np.float32),
        "top_k": np.array([7]),
    }
    for name, shape in shapes.items():
        if name.startswith("cross_"):
            sizes = [30 if size == "memory" else size for size in shape[1:]]
            feeds[name] = random_source.standard_normal([batch, *sizes]).astype(np.float32)
    causal = np.where(np.tri(prompt, dtype=bool), 0.0, hidden)
    found = []
    for entries in (0, MINIMUM_CACHE):
        mask = np.concatenate([np.full((prompt, entries), hidden), causal], axis=1)
        feeds["attention_mask"] = np.broadcast_to(mask, (batch, *mask.shape)).astype(np.float32)
        for name, (_, heads, _, size) in ((n, s) for n, s in shapes.items() if n.startswith("past_")):
            feeds[name] = random_source.standard_normal((batch, heads, entries, size)).astype(np.float32)
        found.append(session.run(["log_probs", "tokens"], feeds))
    # exp(hidden) is 0 in float32, so that only the order of the sums differs.
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-5)
    np.testing.assert_array_equal(found[0][1], found[1][1])


# -- keys and caches ---------------------------------------------------------------------------------------

KEY = EngineKey(
    "NVIDIA L4", "8.9", "10.9.0", "1.31.1", "decoder_model", "ab", "fp16", "p1", (("level", "3"),)
)


@pytest.mark.parametrize("field", [each.name for each in dataclasses.fields(EngineKey)])
def test_a_key_changes_with_each_ingredient(field):
    other = (("level", "4"),) if field == "build" else "other"
    assert dataclasses.replace(KEY, **{field: other}).digest() != KEY.digest()


def test_the_timing_cache_depends_on_gpu_and_tensorrt_alone():
    for field in ("gpu", "capability", "tensorrt"):
        assert dataclasses.replace(KEY, **{field: "other"}).timing_digest() != KEY.timing_digest()
    for field in ("graph_hash", "profile", "precision", "onnxruntime", "graph"):
        assert dataclasses.replace(KEY, **{field: "other"}).timing_digest() == KEY.timing_digest()


def test_every_setting_that_changes_the_engine_changes_its_folder(plan, graphs):
    base = plan().store.folder(plan().key)
    others = [
        plan(gpu=ORIN),
        plan(tensorrt="10.10.0"),
        plan(onnxruntime="1.30.0"),
        plan(limits=EngineLimits(beams=4)),
        plan(limits=EngineLimits(batch=16)),
        plan(optimization_level=5),
        plan(workspace_bytes=1 << 30),
        plan("encoder_model"),
    ]
    folders = {other.store.folder(other.key) for other in others}
    assert len(folders | {base}) == len(others) + 1
    assert plan(allow_build=True).store.folder(plan().key) == base  # how it is built does not matter


def test_another_graph_of_the_same_name_has_another_key(plan, graphs, tmp_path):
    place = tmp_path / graph_path("decoder_model", "fp32")
    place.parent.mkdir(parents=True)
    place.write_bytes(graphs["decoder_model"].path.read_bytes())
    same = Graph.in_folder(tmp_path, "decoder_model", "fp32")
    again = plan_engine(same, EngineSettings(), L4, TENSORRT_VERSION, onnxruntime="1.31.1")
    assert again.key == plan().key
    external_data(place).write_bytes(b"weights kept outside")
    assert Graph.in_folder(tmp_path, "decoder_model", "fp32").sha256 != same.sha256


def test_an_engine_counts_as_built_only_when_it_is_whole(tmp_path):
    store = EngineStore(tmp_path)
    assert not store.is_built(KEY)
    store.prepare(KEY)
    engine = store.folder(KEY) / "part.engine"
    engine.write_bytes(b"1234")
    assert not store.is_built(KEY)  # the mark is missing: the build was cut off
    record = json.loads(store.mark_built(KEY, EngineLimits(), {"build_seconds": 1.0}).read_text())
    assert record["key"]["gpu"] == KEY.gpu
    assert store.is_built(KEY)
    engine.write_bytes(b"123")
    assert not store.is_built(KEY)
    (store.folder(KEY) / "engine.json").write_text("{")
    assert not store.is_built(KEY)


def test_a_build_that_leaves_no_engine_is_an_error(tmp_path):
    store = EngineStore(tmp_path)
    store.prepare(KEY)
    with pytest.raises(OutputError, match="did not"):
        store.mark_built(KEY, EngineLimits(), {})


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot create"):
        EngineStore(tmp_path / "file").prepare(KEY)


# -- plans -------------------------------------------------------------------------------------------------


def test_a_missing_engine_is_an_error_unless_building_is_allowed(plan):
    with pytest.raises(
        ProviderError, match=r"NVIDIA L4.*TensorRT 10\.9\.0.*python -m runtime engines --bundle"
    ):
        plan().require_built()
    plan(allow_build=True).require_built()
    made = plan()
    made.store.prepare(made.key)
    (made.store.folder(made.key) / "x.engine").write_bytes(b"1")
    made.store.mark_built(made.key, made.limits, {})
    made.require_built()


def test_a_session_without_its_engine_never_starts_a_build(graphs, tmp_path):
    provider = Provider("tensorrt", gpu=L4, tensorrt=TENSORRT_VERSION)
    factory = SessionFactory(provider, SessionSettings(engines=EngineSettings(folder=tmp_path / "none")))
    with pytest.raises(ProviderError, match="no TensorRT engine of text_model"):
        factory.open(graphs["text_model"])
    assert not (tmp_path / "none").exists()
    assert factory.minimum_cache == MINIMUM_CACHE
    assert SessionFactory(select_provider("cpu")).minimum_cache == 0


def test_options_name_caches_profile_and_precision(plan):
    made = plan(workspace_bytes=1 << 30, context_model=True)
    options = made.options()
    folder = made.store.folder(made.key)
    assert all(isinstance(value, str) for value in options.values())
    assert options["trt_engine_cache_path"] == "."  # beside the context model; see the next assertions
    assert plan().options()["trt_engine_cache_path"] == str(plan().store.folder(plan().key))
    assert options["trt_timing_cache_path"] == str(made.store.timing_folder(made.key))
    assert (options["trt_engine_cache_enable"], options["trt_timing_cache_enable"]) == ("True", "True")
    assert options["trt_fp16_enable"] == "False"
    assert options["trt_max_workspace_size"] == str(1 << 30)
    assert options["trt_ep_context_file_path"].startswith(str(folder))
    assert options["trt_profile_min_shapes"] == made.profile.options()["trt_profile_min_shapes"]
    assert "trt_max_workspace_size" not in plan().options()
    half = dataclasses.replace(made, key=dataclasses.replace(made.key, precision="fp16")).options()
    assert (half["trt_fp16_enable"], half["trt_layer_norm_fp32_fallback"]) == ("True", "True")


# What onnxruntime-gpu 1.31.1 reads (its Python binding), and of that what it reads as "True" or "False" only.
SWITCHES = {
    "trt_dump_ep_context_model",
    "trt_engine_cache_enable",
    "trt_fp16_enable",
    "trt_layer_norm_fp32_fallback",
    "trt_timing_cache_enable",
}
OTHERS = {
    "device_id",
    "trt_builder_optimization_level",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_ep_context_embed_mode",
    "trt_ep_context_file_path",
    "trt_max_workspace_size",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_timing_cache_path",
}


def test_every_option_is_one_that_onnxruntime_reads(plan):
    options = plan(workspace_bytes=1 << 30, context_model=True).options()
    assert set(options) == SWITCHES | OTHERS
    assert {options[name] for name in SWITCHES} <= {"True", "False"}


def test_the_gpu_s_number_reaches_the_options(plan):
    assert plan(gpu=ORIN).options()["device_id"] == "1"


def test_quantised_graphs_are_refused(tmp_path):
    with pytest.raises(ProviderError, match="--precision fp16"):
        plan_engine(
            Graph("decoder_model", "int8", tmp_path / "d.onnx", ""), EngineSettings(), L4, TENSORRT_VERSION
        )


@pytest.mark.parametrize(
    "change", [{"optimization_level": 6}, {"optimization_level": -1}, {"workspace_bytes": 0}]
)
def test_engine_settings_out_of_range_are_refused(change):
    with pytest.raises(SettingsError, match=next(iter(change))):
        EngineSettings(**change)


def test_a_machine_with_engines_describes_them(tmp_path):
    settings = SessionSettings(engines=EngineSettings(folder=tmp_path)).to_dict()
    assert json.loads(json.dumps(settings))["engines"]["folder"] == str(tmp_path)
    assert CPU not in settings


# -- engines that are there --------------------------------------------------------------------------------


def build(plan_):
    """What a build leaves: an engine and its record."""
    plan_.store.prepare(plan_.key)
    (plan_.store.folder(plan_.key) / "x.engine").write_bytes(b"1")
    plan_.store.mark_built(plan_.key, plan_.limits, {})


def test_limits_are_those_of_the_engine_that_is_there(plan):
    assert not plan().is_built
    wide = EngineLimits(beams=7, batch=2)
    build(plan(limits=wide))
    assert plan().is_built
    assert plan().limits == wide
    assert not plan(gpu=ORIN).is_built
    assert not plan(limits=EngineLimits(beams=9)).is_built


def test_the_engine_that_was_built_last_is_taken(plan):
    for age, beams in ((9, 5), (1, 3), (5, 4)):
        made = plan(limits=EngineLimits(beams=beams))
        build(made)
        then = time.time() - age
        os.utime(made.store.folder(made.key) / "engine.json", (then, then))
    assert plan().limits.beams == 3


def test_a_damaged_record_counts_as_no_engine(plan, caplog):
    made = plan(limits=EngineLimits(beams=7))
    build(made)
    (made.store.folder(made.key) / "engine.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        assert plan().limits == EngineLimits()
    assert "no record of an engine" in caplog.text
