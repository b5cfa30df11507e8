"""A pipeline whose process writes down every row that it recognises: what was done, and done again."""

import os
import sys
from functools import partial
from pathlib import Path

from bench.manifest import read_manifest
from bench.nbest import recognition
from bench.nbest.corpus import CorpusSettings, write_corpus
from bench.nbest.local_crew import LocalCrew
from runtime.pipeline import MultimodalASR


def open_logged(bundle: str, log: str) -> MultimodalASR:
    """Open a pipeline on one thread; the process appends the id of every row that it recognises to `log`."""
    original = recognition.recognise

    def logged(asr, task, pictures):
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(f"{task.utterance.id}\n")
        return original(asr, task, pictures)

    recognition.recognise = logged
    return MultimodalASR(bundle, precision="int8", providers="cpu", threads=1, num_beams=2)


def end_process(_: str) -> MultimodalASR:
    """Die while a pipeline is opened, as for want of memory."""
    os._exit(9)


def broken(_: str) -> MultimodalASR:
    """A defect while a pipeline is opened."""
    raise KeyError("a defect")


def main() -> None:
    """Be a driver: BUNDLE MANIFEST OUTPUT LOG WORKERS."""
    bundle, manifest, output, log, workers = sys.argv[1:]
    with LocalCrew(partial(open_logged, bundle, log), int(workers), Path(output)) as crew:
        write_corpus(crew, read_manifest(manifest), Path(output), CorpusSettings(progress=False))


if __name__ == "__main__":
    main()
