"""What is done with a case: load it as the project would, and hold the result to its promise."""

import functools
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from bench.manifest import read_manifest
from bench.nbest.file import NBestUtterance, read_nbest
from bench.nbest.writer import NBestWriter
from bench.tuning import TuneOptions, tune
from runtime.audio.load import level_dbfs, load_audio
from runtime.audio.segmentation import Splitter
from runtime.bundle.bundle import MANIFEST, Bundle
from runtime.bundle.graph import GRAPH_FOLDERS
from runtime.clip.cache import load_image_cache
from runtime.clip.pictures import load_image
from runtime.errors import EarsightError, NBestFileError
from runtime.pipeline import MultimodalASR
from runtime.sessions.factory import SessionFactory, SessionSettings, select_provider
from tests.fuzz.text_seeds import NBEST_HEADER

Target = Callable[[str, bytes], None]


def use_audio(label: str, content: bytes) -> None:
    waveform = load_audio(content)
    assert waveform.ndim == 1
    assert waveform.dtype == np.float32
    assert waveform.size > 0
    assert np.isfinite(waveform).all()
    assert not math.isnan(level_dbfs(waveform))
    segments = list(Splitter(16000, 6.0).split(iter([waveform])))
    assert sum(segment.waveform.size for segment in segments) == waveform.size


def use_image(label: str, content: bytes) -> None:
    picture = load_image(content)
    assert picture.mode == "RGB"
    assert picture.resize((8, 8), Image.Resampling.BICUBIC).size == (8, 8)


def use_cache(label: str, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        file.write(content)
        file.flush()
        embeddings = load_image_cache(file.name)
    assert all(abs(np.linalg.norm(vector) - 1) < 2e-3 for vector in embeddings.values())


class Workplace:
    """A folder with what manifests name and with a bundle whose files are exchanged one at a time."""

    def __init__(self, folder: Path, bundle: Path | None) -> None:
        self.folder = folder
        for name in ("a.wav", "b.wav", "a.png"):
            (folder / name).write_bytes(b"x")
        self.bundle = folder / "bundle"
        if bundle is not None:
            shutil.copytree(bundle, self.bundle)
            self._manifest = (self.bundle / MANIFEST).read_bytes()
        self._speech = (0.1 * np.random.default_rng(0).standard_normal(8000)).astype(np.float32)
        self._picture = Image.new("RGB", (40, 30), (200, 10, 10))

    def use_manifest(self, label: str, content: bytes) -> None:
        path = self.folder / f"manifest{label}"
        path.write_bytes(content)
        utterances = read_manifest(path)
        assert len({utterance.id for utterance in utterances}) == len(utterances)
        for utterance in utterances:  # what is accepted can be recognised and written down
            assert utterance.audio.is_file()
            assert utterance.image is None or utterance.image.is_file()
            row = NBestUtterance(utterance.id, utterance.reference, utterance.speaker, utterance.group)
            json.dumps(row.to_dict(), ensure_ascii=False).encode()

    def use_nbest(self, label: str, content: bytes) -> None:
        path = self.folder / "nbest.jsonl"
        path.write_bytes(content)
        self._resume(path)
        path.write_bytes(content)
        result = tune(read_nbest(path), TuneOptions(replicates=100, folds=2)).to_dict()
        json.dumps(result, ensure_ascii=False, allow_nan=False).encode()

    @staticmethod
    def _resume(path: Path) -> None:
        """Go on with the file, if it is one to go on with; it must then be readable."""
        try:
            writer = NBestWriter(path, NBEST_HEADER, resume=True)
        except NBestFileError:
            return
        with writer:
            writer.write(NBestUtterance("another one", ""))
        assert read_nbest(path).utterances[-1].id == "another one"

    def use_bundle(self, label: str, content: bytes) -> None:
        try:
            (self.bundle / MANIFEST).write_bytes(content)
            bundle = Bundle.open(self.bundle)
            for name in bundle.manifest["files"]:
                assert bundle.verified(name).resolve().is_relative_to(self.bundle.resolve())
            for graph in GRAPH_FOLDERS:
                assert bundle.graph(graph, bundle.precisions[0]).path.is_file()
            json.dumps([bundle.name, bundle.digest], ensure_ascii=False).encode()
        finally:
            (self.bundle / MANIFEST).write_bytes(self._manifest)

    def use_settings(self, label: str, content: bytes) -> None:
        path = self.bundle / label
        sound = path.read_bytes()
        manifest = json.loads(self._manifest)
        manifest["files"][label] = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        try:
            path.write_bytes(content)
            (self.bundle / MANIFEST).write_text(json.dumps(manifest))
            self._recognise()
        finally:
            path.write_bytes(sound)
            (self.bundle / MANIFEST).write_bytes(self._manifest)

    def _recognise(self) -> None:
        asr = MultimodalASR(self.bundle, precision="fp32", providers="cpu", threads=1, num_beams=3)
        answer = asr.transcribe(self._speech, image_path=self._picture).to_dict()
        json.dumps(answer, ensure_ascii=False).encode()
        asr.encode_texts(["a long caption " * 50])


@contextmanager
def targets(bundle: Path | None) -> Iterator[dict[str, Target]]:
    """Give the target of every kind; those of a bundle's files only where there is one."""
    # The graphs are never mutated, so that they are opened once and not for every case.
    once = functools.cache(SessionFactory(select_provider("cpu"), SessionSettings(threads=1)).open)
    with (
        tempfile.TemporaryDirectory(prefix="earsight-fuzz-") as folder,
        mock.patch.object(SessionFactory, "open", lambda self, graph: once(graph)),
    ):
        place = Workplace(Path(folder), bundle)
        yield {
            "audio": use_audio,
            "image": use_image,
            "cache": use_cache,
            "manifest": place.use_manifest,
            "nbest": place.use_nbest,
            "bundle": place.use_bundle,
            "settings": place.use_settings,
        }


def outcome(target: Target, label: str, content: bytes) -> str:
    """Return "loaded", the name of the project's error, or a line that begins with FAULT."""
    try:
        target(label, content)
    except EarsightError as error:
        return type(error).__name__ if str(error) else "FAULT an error without a message"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - this is what is looked for; Rust panics are no Exception
        return f"FAULT {type(error).__name__}: {str(error)[:200]}"
    return "loaded"
