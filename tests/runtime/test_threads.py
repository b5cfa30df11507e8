"""One pipeline on many threads, over many requests, and what is left when it is dropped."""

import gc
import json
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.manifest import read_manifest
from runtime.pipeline import MultimodalASR
from tests.conftest import ROOT
from tests.tools.long_run import DATA, answer, answers


def test_four_threads_give_the_serial_answers(pocket_asr):
    utterances = read_manifest(DATA)[:8]
    serial = [answer(pocket_asr, utterance) for utterance in utterances]
    with ThreadPoolExecutor(4) as pool:
        given = answers(pocket_asr, utterances, 40, pool)
    assert given == [serial[number % 8] for number in range(40)]


def test_a_dropped_pipeline_frees_its_sessions(pocket_bundle):
    asr = MultimodalASR(pocket_bundle, precision="fp32", providers="cpu", threads=1)
    answer(asr, read_manifest(DATA)[0])
    sessions = (
        asr.whisper.encoder,
        asr.whisper.decoder,
        asr.text_encoder.session,
        asr.image_encoder.session,
    )
    references = [weakref.ref(session) for session in sessions]
    gc.collect()
    gc.disable()  # nothing may hang in a cycle, which would keep the weights until some later collection
    try:
        del asr, sessions
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()


def long_run(bundle, *options):
    command = [sys.executable, "-m", "tests.tools.long_run", "--bundle", str(bundle.folder), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    print(done.stdout)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_eight_threads_of_200_requests_give_the_serial_answers(pocket_bundle):
    assert long_run(pocket_bundle, "--workers", "8", "--requests", "1600")["answers_that_differ"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_after_1000_requests_is_that_after_100(pocket_bundle):
    """Read at rest, in a process of its own; 2 % is what the allocator keeps now and then."""
    report = long_run(pocket_bundle, "--workers", "1", "--requests", "1000")
    assert report["answers_that_differ"] == 0
    assert report["growth"] < 0.02


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_opening_and_dropping_pipelines_does_not_add_up(pocket_bundle):
    """Memory after 40 pipelines is near that after 10: sessions give their weights back."""
    code = (
        "import sys; from tests.tools.long_run import resident_mib\n"
        "from runtime.pipeline import MultimodalASR\n"
        "def use():\n"
        "    MultimodalASR(sys.argv[1], precision='fp32', providers='cpu', threads=1).encode_texts(['a'])\n"
        "for _ in range(10): use()\n"
        "before = resident_mib()\n"
        "for _ in range(30): use()\n"
        "print(resident_mib() - before)"
    )
    command = [sys.executable, "-c", code, str(pocket_bundle.folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    print(done.stdout)
    assert float(done.stdout) < 13.0  # MiB; one pipeline's weights are 13 MiB, 30 leaked ones would be 390
