"""This project itself, measured by the same protocol as its peers."""

import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from bench.measure.timing import Stopwatch
from bench.peers.base import Features, NBest, Workload
from bench.peers.clip_text import TextWork
from runtime.bundle.bundle import Bundle
from runtime.clip.encoders import TextEncoder
from runtime.sessions.factory import SessionFactory, SessionSettings, select_provider
from runtime.whisper.beam_search import beam_search
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.cross_attention import CrossAttention
from runtime.whisper.model import WhisperModel
from runtime.whisper.short_encoder import Window
from runtime.whisper.token_rules import TokenRules


class TimedSession:
    """A session whose runs are timed; everything else is the session's own.

    Args:
        session: What does the work.

    Attributes:
        raw: Seconds of every run since the last `clear`.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.raw: list[float] = []

    def clear(self) -> None:
        """Forget the runs so far."""
        self.raw = []

    def run_with_iobinding(self, binding: Any, run_options: Any = None) -> None:
        """Run and note how long it took."""
        start = time.perf_counter()
        self._session.run_with_iobinding(binding, run_options)
        self.raw.append(time.perf_counter() - start)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def add_decoding_stages(watch: Stopwatch, runs: list[float], decoding: float) -> None:
    """Split one decoding into prompt, steps and what happened outside ONNX Runtime.

    Args:
        watch: Takes stages "prompt", "step" (a value for each) and "bookkeeping".
        runs: Seconds of every run of the decoder graph, the prompt first.
        decoding: Seconds of the whole decoding.
    """
    watch.add("prompt", runs[0])
    for seconds in runs[1:]:
        watch.add("step", seconds)
    watch.add("bookkeeping", decoding - sum(runs))


def cpu_sessions(threads: int | None) -> SessionFactory:
    """Return a session factory on the CPU provider with a fixed number of threads."""
    return SessionFactory(select_provider("cpu"), SessionSettings(threads=threads))


class _OfBundle:
    """What is measured of a bundle.

    Args:
        precision: Of its graphs.
    """

    system = "earsight"

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.name = f"{self.system}-{precision}"
        self.bundle: Bundle | None = None

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Note where the bundle lies; here `checkpoint` is the bundle folder."""
        (folder / "bundle").symlink_to(checkpoint.resolve(), target_is_directory=True)

    def details(self) -> dict[str, Any]:
        """Return the bundle's name and hash."""
        assert self.bundle is not None, "load comes before details"
        return {"bundle": self.bundle.name, "bundle_sha256": self.bundle.digest}


class EarsightSpeech(_OfBundle):
    """`runtime.whisper.model.WhisperModel` with the checkpoint's token rules."""

    window: Window = "full"
    model: Any = None

    def load(self, folder: Path, workload: Workload) -> None:
        """Verify the bundle and create the sessions of encoder and decoder."""
        provider = select_provider("openvino" if self.precision == "bf16" else "cpu")
        sessions = SessionFactory(provider, SessionSettings(threads=workload.threads))
        self.open(Bundle.open(folder / "bundle"), sessions)

    def open(self, bundle: Bundle, sessions: SessionFactory, kind: type[WhisperModel] = WhisperModel) -> Self:
        """Create the sessions of encoder and decoder on a provider of choice."""
        self.bundle = bundle
        self.model = kind.of_bundle(bundle, self.precision, sessions, self.window)
        self.model.decoder = TimedSession(self.model.decoder)
        return self

    def run(self, features: Features, workload: Workload, watch: Stopwatch) -> NBest:
        """Encode, then search; stages of the decoding come with it."""
        model, tokens = self.model, self.model.tokens
        never = (workload.end_of_text,) if workload.fixed_length else ()
        suppress = (*tokens.suppress_tokens, *never)
        rules = TokenRules(tokens.vocab_size, suppress, tokens.begin_suppress_tokens)
        settings = BeamSearchSettings(num_beams=workload.beams, max_new_tokens=workload.steps)
        prompts = [list(workload.prompt)] * len(features)
        model.decoder.clear()
        with watch.lap("encoder"):
            cross = self.encode(features, workload)
        with watch.lap("decoding"):
            finished = beam_search(
                model.step_decoder(cross),
                prompts,
                settings,
                rules,
                eos_token_id=workload.end_of_text,
                max_length=tokens.max_length,
            )
        add_decoding_stages(watch, model.decoder.raw, watch.raw("decoding")[-1])
        sequences = [[list(hypothesis.tokens) for hypothesis in entries] for entries in finished]
        return NBest(sequences, [[hypothesis.score for hypothesis in entries] for entries in finished])

    def encode(self, features: Features, workload: Workload) -> CrossAttention:  # noqa: ARG002
        """Encode the whole window."""
        cross: CrossAttention = self.model.encode(features)
        return cross

    def details(self) -> dict[str, Any]:
        """Return the providers really used and the bundle's hash."""
        return {
            "encoder_providers": list(self.model.encoder.get_providers()),
            "decoder_providers": list(self.model.decoder.get_providers()),
            **super().details(),
        }


class EarsightShortWindow(EarsightSpeech):
    """The same with the encoder over the speech alone."""

    system = "earsight_short"
    window: Window = "fast"

    def encode(self, features: Features, workload: Workload) -> CrossAttention:
        """Encode what the speech needs of the window."""
        samples = round(workload.speech * self.model.features.n_samples)
        cross: CrossAttention = self.model.encode(features, self.model.leading_positions(samples))
        return cross


class EarsightText(_OfBundle):
    """`runtime.clip.encoders.TextEncoder`, its tokeniser included."""

    encoder: Any = None

    def load(self, folder: Path, threads: int) -> None:
        """Verify the bundle and create the session of the text encoder."""
        self.bundle = Bundle.open(folder / "bundle")
        self.encoder = TextEncoder(self.bundle, self.precision, cpu_sessions(threads))

    def run(self, work: TextWork, watch: Stopwatch) -> NDArray[np.float32]:
        """Tokenise, deduplicate, sort, embed."""
        with watch.lap("whole"):
            embeddings: NDArray[np.float32] = self.encoder(list(work.texts))
        return embeddings

    def details(self) -> dict[str, Any]:
        """Return the providers really used and the bundle's hash."""
        return {"providers": list(self.encoder.session.get_providers()), **super().details()}
