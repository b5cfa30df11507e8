"""The export's gate: graphs that are whole pass, graphs broken on purpose do not."""

import itertools
import shutil

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.checkpoints import Source, load_clip, load_whisper
from export.parity import check_clip, check_whisper, clip_reference, whisper_reference
from runtime.bundle.graph import graph_path
from runtime.errors import ParityError
from runtime.sessions.factory import SessionFactory, SessionSettings, select_provider
from tests.conftest import POCKET

WHISPER_GRAPHS = ("encoder_model", "decoder_model")
SUFFIXES = {  # numbers and scales of a product's weights
    "encoder_model": ("_int8", "_scales"),
    "text_model": ("_int8", "_scales"),
    "vision_model": ("_int8", "_scales"),
    "decoder_model": ("_blocks_int8", "_block_scales"),
}


@pytest.fixture(scope="module")
def sessions():
    return SessionFactory(select_provider("cpu"), SessionSettings(threads=2))


@pytest.fixture(scope="module")
def references(pocket_bundle):
    whisper = load_whisper(Source(str(POCKET / "models" / "whisper")))
    clip = load_clip(Source(str(POCKET / "models" / "clip")))
    folder = pocket_bundle.folder
    return whisper_reference(whisper, folder), clip_reference(clip, folder)


def check(folder, graph, references, sessions):
    whisper, clip = references
    if graph in WHISPER_GRAPHS:
        return check_whisper(folder, "int8", whisper, sessions)
    return check_clip(folder, "int8", clip, sessions)


def weights_of(model, suffix):
    """The initializers of one kind that belong to products: matrices, not a table's rows or a row's scale."""
    return [
        tensor
        for tensor in model.graph.initializer
        if tensor.name.endswith(suffix) and "row" not in tensor.name and tensor.dims
    ]


def zero_a_product(model, graph):
    table = weights_of(model, SUFFIXES[graph][0])[1]
    middle = 128 if graph == "decoder_model" else 0
    values = numpy_helper.to_array(table)
    table.CopyFrom(numpy_helper.from_array(np.full_like(values, middle), table.name))


def exchange_scales(model, graph):
    """Exchange the scales of the two products of one shape that differ most."""
    scales = weights_of(model, SUFFIXES[graph][1])
    pairs = [(a, b) for a, b in itertools.combinations(scales, 2) if a.dims == b.dims]

    def unlikeness(pair):
        a, b = (np.log(numpy_helper.to_array(each)) for each in pair)
        return np.abs(a - b).mean()

    first, other = max(pairs, key=unlikeness)
    first.raw_data, other.raw_data = other.raw_data, first.raw_data


@pytest.mark.parametrize("damage", [zero_a_product, exchange_scales])
@pytest.mark.parametrize("graph", SUFFIXES)
def test_a_broken_graph_is_refused(pocket_bundle, tmp_path, references, sessions, graph, damage):
    folder = tmp_path / "broken"
    shutil.copytree(pocket_bundle.folder, folder)
    path = folder / graph_path(graph, "int8")
    model = onnx.load(path)
    damage(model, graph)
    onnx.save(model, path)
    with pytest.raises(ParityError, match=r"int8: .* differ from PyTorch by .*, more than"):
        check(folder, graph, references, sessions)


@pytest.mark.parametrize("graph", ["encoder_model", "text_model"])
def test_whole_graphs_stay_far_below_the_limit(pocket_bundle, references, sessions, graph):
    for difference in check(pocket_bundle.folder, graph, references, sessions):
        assert difference.relative < difference.tolerance / 2, difference
