"""The exported Whisper graphs and the search over them against `GenerationMixin.generate`."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from export.graphs.write import WHISPER_GRAPHS, write_graphs
from runtime.bundle.bundle import Bundle
from runtime.bundle.graph import Graph
from runtime.errors import BundleError
from runtime.sessions.factory import SessionFactory, SessionSettings, select_provider
from runtime.whisper import model as whisper
from runtime.whisper.beam_search import beam_search
from runtime.whisper.model import WhisperModel
from tests.tools.reference_generate import compare_nbest, random_case, reference_nbest

SEEDS = range(20)


def cpu(threads: int = 1) -> SessionFactory:
    return SessionFactory(select_provider("cpu"), SessionSettings(threads=threads))


def exported(case, folder, monkeypatch, *precisions):
    """Export a random model, which has no tokenizer, and open the last of the precisions."""
    for precision in precisions:
        write_graphs(case.model, WHISPER_GRAPHS, precision, folder)
    tokens = SimpleNamespace(vocab_size=case.model.config.vocab_size)
    monkeypatch.setattr(whisper.WhisperTokens, "from_folder", lambda _: tokens)
    window = SimpleNamespace(n_mels=case.features.shape[1], n_frames=case.features.shape[2])
    monkeypatch.setattr(whisper.LogMelExtractor, "from_folder", lambda _: window)
    graphs = (Graph.in_folder(folder, name, precisions[-1]) for name in ("encoder_model", "decoder_model"))
    return WhisperModel(folder, *graphs, cpu())


def search(model, case, rows=slice(None)):
    return beam_search(
        model.step_decoder(model.encode(case.features[rows])),
        case.prompts[rows],
        case.settings,
        case.rules,
        eos_token_id=case.model.config.eos_token_id,
        max_length=case.model.config.max_target_positions,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_nbest_equals_generate_in_a_batch_and_one_by_one(seed, tmp_path, monkeypatch):
    """1 to 7 utterances of unequal length, so that rows are dropped on the way."""
    case = random_case(seed)
    model = exported(case, tmp_path, monkeypatch, "fp32")
    together = search(model, case)
    faults = compare_nbest(together, reference_nbest(case))
    assert not faults, (str(case), faults)
    alone = [search(model, case, slice(i, i + 1))[0] for i in range(len(case.prompts))]
    # The same graph on other batch sizes: the order of sums may change, the hypotheses may not.
    faults = compare_nbest(together, alone, tolerance=1e-4)
    assert not faults, (str(case), faults)


def test_the_random_cases_drop_rows(monkeypatch, tmp_path):
    """Without this, the test above would say nothing of `keep`."""
    dropped = []
    original = whisper.OnnxStepDecoder.keep
    monkeypatch.setattr(
        whisper.OnnxStepDecoder,
        "keep",
        lambda self, rows: (dropped.append(len(rows)), original(self, rows))[1],
    )
    for seed in SEEDS:
        case = random_case(seed)
        if len(case.prompts) > 3 and case.settings.max_new_tokens > 5:
            search(exported(case, tmp_path / str(seed), monkeypatch, "fp32"), case)
        if dropped:
            return
    pytest.fail("no case dropped an utterance")


@pytest.mark.parametrize("last_use", [False, True])
@pytest.mark.parametrize("rows", [[0], [2], [0, 1], [0, 2], [1, 2], [2, 0]])
def test_keep_goes_on_with_the_rows_that_it_names(rows, last_use, tmp_path, monkeypatch):
    """Three utterances, two beams that change places; after `keep` the steps are those of the kept alone."""
    case = random_case(3)
    random = np.random.default_rng(5)
    config = case.model.config
    features = random.normal(size=(3, config.num_mel_bins, 2 * config.max_source_positions))
    features = features.astype(np.float32)
    prompts = random.integers(config.vocab_size, size=(3, 2))
    steps = [random.integers(config.vocab_size, size=(3, 2)) for _ in range(4)]
    parents = [np.zeros((3, 2), np.int64), *(random.integers(2, size=(3, 2)) for _ in range(3))]
    mask = np.zeros((1, config.vocab_size), np.float32)
    model = exported(case, tmp_path, monkeypatch, "fp32")

    cross = model.encode(features)
    given = {name: value.numpy().copy() for name, value in cross.values.items()}
    narrowed = model.step_decoder(cross, last_use=last_use)
    narrowed.prefill(prompts, mask, 5)
    for tokens, parent in zip(steps[:2], parents[:2], strict=True):
        narrowed.step(tokens, parent, mask, 5)
    narrowed.keep(np.array(rows))
    alone = model.step_decoder(model.encode(features[rows]))
    alone.prefill(prompts[rows], mask, 5)
    for tokens, parent in zip(steps[:2], parents[:2], strict=True):
        alone.step(tokens[rows], parent[rows], mask, 5)
    for tokens, parent in zip(steps[2:], parents[2:], strict=True):
        ours = narrowed.step(tokens[rows], parent[rows], mask, 5)
        theirs = alone.step(tokens[rows], parent[rows], mask, 5)
        np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)  # batch size may reorder sums
        np.testing.assert_array_equal(ours[1], theirs[1])
    if len(rows) == 2:  # once more: what now moves lies in memory of the decoder's own, or of the caller's
        narrowed.keep(np.array([1]))
        narrowed.step(steps[3][rows[1:]], parents[3][rows[1:]], mask, 5)
    unchanged = all(np.array_equal(value.numpy(), given[name]) for name, value in cross.values.items())
    assert unchanged or last_use, "the encoded utterances belong to the caller"


@pytest.mark.parametrize("seed", [0, 4])
def test_hidden_cache_entries_change_nothing(seed, tmp_path, monkeypatch):
    """What a provider needs that takes no empty cache."""
    case = random_case(seed)
    model = exported(case, tmp_path, monkeypatch, "fp32")
    plain = search(model, case)
    monkeypatch.setattr(model, "_hidden_entries", 3)
    faults = compare_nbest(search(model, case), plain, tolerance=1e-5)  # a hidden entry weighs exp(-1e4) = 0
    assert not faults, (str(case), faults)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_int8_graphs_stay_near(seed, tmp_path, monkeypatch):
    """Eight bits on models of width 16 with wild weights: near is all that can be asked of the scores."""
    case = random_case(seed)
    case = dataclasses.replace(case, settings=dataclasses.replace(case.settings, length_penalty=1.0))
    fp32 = search(exported(case, tmp_path, monkeypatch, "fp32"), case)
    int8 = search(exported(case, tmp_path, monkeypatch, "int8"), case)
    for ours, theirs in zip(int8, fp32, strict=True):
        scores = [hypothesis.score for hypothesis in ours]
        assert len(ours) == len(theirs)
        assert np.isfinite(scores).all()
        assert scores == sorted(scores, reverse=True)
        assert max(scores) <= 0.0
        assert abs(ours[0].score - theirs[0].score) < 0.5 * abs(theirs[0].score) + 0.2


def test_a_decoder_of_another_checkpoint_is_refused(pocket_bundle: Bundle, tmp_path):
    case = random_case(0)
    write_graphs(case.model, WHISPER_GRAPHS, "fp32", tmp_path)
    own, foreign = pocket_bundle.folder, tmp_path
    encoder, decoder = "encoder_model", "decoder_model"
    with pytest.raises(BundleError, match="export the bundle again"):
        WhisperModel(
            own / "whisper",
            Graph.in_folder(own, encoder, "fp32"),
            Graph.in_folder(foreign, decoder, "fp32"),
            cpu(),
        )
    with pytest.raises(BundleError, match="export the bundle again"):
        WhisperModel(
            own / "whisper",
            Graph.in_folder(own, decoder, "fp32"),
            Graph.in_folder(own, encoder, "fp32"),
            cpu(),
        )
