"""int8 lists do not depend on what else is in the batch: not one text, and no score."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from bench.manifest import read_manifest
from runtime.audio.load import load_audio
from runtime.audio.segmentation import Segment
from runtime.pipeline import MultimodalASR
from runtime.recognizer import Utterance
from tests.conftest import POCKET
from tests.tools.batch_parity import random_batches

UTTERANCES = 40


@pytest.fixture(scope="module")
def asr(pocket_bundle):
    return MultimodalASR(pocket_bundle, precision="int8", providers="cpu", threads=2)


@pytest.fixture(scope="module")
def waveforms():
    rows = read_manifest(POCKET / "data" / "test" / "manifest.jsonl")[:UTTERANCES]
    return [load_audio(row.audio, 16000, 16000) for row in rows]


@pytest.fixture(scope="module")
def alone(asr, waveforms):
    return [asr.generate_nbest(waveform) for waveform in waveforms]


@pytest.mark.parametrize("seed", range(4))
def test_lists_are_those_of_the_utterance_alone(asr, waveforms, alone, seed):
    for batch in random_batches(seed, len(waveforms)):
        for place, hypotheses in zip(
            batch, asr.generate_nbest_batch([waveforms[place] for place in batch]), strict=True
        ):
            assert [h.text for h in hypotheses] == [h.text for h in alone[place]], (place, batch)
            scores = [[h.score for h in each] for each in (hypotheses, alone[place])]
            np.testing.assert_allclose(*scores, rtol=0, atol=1e-4, err_msg=str((place, batch)))


def test_log_probabilities_are_the_same_bits(asr, waveforms):
    """A difference of 1e-6 would be one in a later rounding to int8, and grow to 0.01."""
    model = asr.whisper
    vocabulary = model.tokens.vocab_size
    mask = np.zeros((1, vocabulary), np.float32)
    prompt = model.tokens.prompt(None)
    tokens = np.random.default_rng(0).integers(0, vocabulary, (3, 16, 5))

    def decode(places):
        decoder = model.step_decoder(model.encode(model.features([waveforms[place] for place in places])))
        yield decoder.prefill(np.array([prompt] * len(places)), mask, vocabulary)
        parents = np.zeros((len(places), 5), np.int64)
        for step in tokens:
            yield decoder.step(step[places], parents, mask, vocabulary)

    single = [list(decode([place])) for place in range(16)]
    for size in range(2, 17):
        for step, (log_probs, ids) in enumerate(decode(list(range(size)))):
            for place in range(size):
                np.testing.assert_array_equal(ids[place], single[place][step][1][0])
                np.testing.assert_array_equal(log_probs[place], single[place][step][0][0])


def test_memory_of_the_last_batch_leaves_no_trace(asr, waveforms, alone):
    """Nor does what lies there where an utterance was given up before it was encoded."""
    model = asr.whisper
    spoilt = model._rooms.borrow(4, model._keys(None))
    for value in spoilt.values.values():
        value.numpy()[:] = np.nan
    model._rooms.give_back(spoilt)
    utterances = [Utterance(Segment(0, waveform)) for waveform in waveforms[:4]]
    delivered = {}
    found = replace(asr.recognizer, gate=None).recognise(
        utterances, given_up=lambda: [2], deliver=delivered.__setitem__
    )
    assert [delivered[place] for place in range(4)] == found
    for place in (0, 1, 3):
        assert found[place].hypotheses == alone[place]
    taken = model._rooms.borrow(3, model._keys(None))
    assert taken.room is spoilt.room, "the memory was used, and given back"


def test_batches_at_a_time_have_memory_of_their_own(asr, waveforms, alone):
    together = threading.Barrier(2)

    def recognise(lane):
        places = range(lane, UTTERANCES, 2)
        together.wait()
        for first in range(0, len(places), 4):
            batch = places[first : first + 4]
            lists = asr.generate_nbest_batch([waveforms[place] for place in batch])
            assert lists == [alone[place] for place in batch]

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(recognise, range(2)))
