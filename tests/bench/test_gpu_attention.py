"""The three forms of a step's self-attention compute the same, on the provider that is here."""

import json

import numpy as np
import pytest

from runtime.sessions.factory import Provider, SessionSettings
from tests.tools.gpu_attention import (
    FILE_NAME,
    FORMS,
    TOKENS,
    AttentionWork,
    attention_model,
    bound_run,
    make_history,
    measure_attention,
    parse_args,
    run,
    table,
)

WORK = AttentionWork(batch=2, beams=3, prompt=4, tokens=5, layers=2, heads=2, head_dim=8, half=False)
SETTINGS = SessionSettings(threads=1)


def expected(work, history):
    """Attention written out, beam by beam along its line of ancestors."""
    queries, keys, values = history.now.astype(np.float64)
    output = np.empty((work.batch, work.beams, work.heads, work.head_dim))
    for n, b, h in np.ndindex(work.batch, work.beams, work.heads):
        line = history.ancestors[n, b]
        lines = [
            np.concatenate(
                [
                    history.prompt[kind, n, h],
                    [history.steps[kind, s, n, h, beam] for s, beam in enumerate(line)],
                    [now[n, h, b]],
                ]
            )
            for kind, now in enumerate((keys, values))
        ]
        state = queries[n, h, b]
        for _ in range(work.layers):
            weights = np.exp(lines[0] @ state)
            state = weights @ lines[1] / weights.sum()
        output[n, b, h] = state
    return output.reshape(work.batch, work.beams, -1)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_attends_along_the_ancestors(form):
    history = make_history(WORK)
    run = bound_run(form, WORK, history, Provider("cpu"), SETTINGS)
    # float32 sums of ten terms, through two layers
    np.testing.assert_allclose(run(), expected(WORK, history), rtol=0, atol=2e-6)
    np.testing.assert_array_equal(run(), run())  # a second run finds the same caches


def test_beams_die_and_split_in_the_history():
    ancestors = make_history(WORK).ancestors
    assert ancestors.shape == (2, 3, 5)
    assert (ancestors[:, :, -1] == np.arange(3)).all()
    assert any(len(set(ancestors[n, :, s])) < 3 for n in range(2) for s in range(5))


def test_the_forms_are_what_they_are_called():
    models = {form: attention_model(form, WORK) for form in FORMS}
    assert b"Concat" in models["growing"]
    assert b"ScatterElements" in models["fixed"]
    assert b"Concat" not in models["fixed"]
    assert b"DecoderMaskedMultiHeadAttention" in models["indirect"]
    # 2 tensors, 2 layers, 2 utterances; 19 shared entries, or 3 beams of 9 positions; 16 numbers of 4 bytes
    assert WORK.cache_bytes("growing") == WORK.cache_bytes("fixed") == 2 * 2 * 2 * 19 * 16 * 4
    assert WORK.cache_bytes("indirect") == 2 * 2 * 2 * 27 * 16 * 4


def test_times_are_measured_for_each():
    found = measure_attention(WORK, Provider("cpu"), SETTINGS, rounds=3)
    assert found["work"]["tokens"] == 5
    for form in FORMS:
        assert len(found["forms"][form]["seconds"]) == 3
        assert 0 < found["forms"][form]["median_s"] <= max(found["forms"][form]["seconds"])


def test_a_form_that_does_not_run_is_left_out_with_the_reason(monkeypatch):
    def refuse(form, *rest):
        raise RuntimeError("no\nkernel")

    monkeypatch.setattr("tests.tools.gpu_attention.bound_run", refuse)
    found = measure_attention(WORK, Provider("cpu"), SETTINGS, rounds=1)
    assert found["forms"] == {form: {"left_out": "no kernel"} for form in FORMS}
    lines = list(table([found]))
    assert [line for line in lines if "not measured" in line] == [
        f"  {form}: not measured (no kernel)" for form in FORMS
    ]


def test_the_command_measures_in_the_checkpoint_s_shapes(pocket_bundle, tmp_path, capsys):
    options = ["--provider", "cpu", "--batches", "1", "2", "--beams", "2", "--rounds", "2"]
    assert run(parse_args(["--bundle", str(pocket_bundle.folder), "--output", str(tmp_path), *options])) == 0
    found = json.loads((tmp_path / FILE_NAME).read_text())["attention"]
    works = [(entry["work"]["batch"], entry["work"]["tokens"]) for entry in found]
    assert works == [(batch, tokens) for batch in (1, 2) for tokens in TOKENS]
    for entry in found:
        assert entry["work"]["half"] is False
        assert all(len(state["seconds"]) == 2 for state in entry["forms"].values())
    assert "batch 2, after 256 tokens" in capsys.readouterr().out
