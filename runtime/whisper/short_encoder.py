"""The encoder over the speech alone, for the short utterances of a long window."""

from typing import Final, Literal, get_args

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.bundle.bundle import Bundle
from runtime.bundle.graph import SHORT_ENCODER
from runtime.errors import BundleError, SettingsError
from runtime.sessions.factory import SessionFactory
from runtime.sessions.runs import run_bound
from runtime.whisper.cross_attention import CrossAttention, bind_cross_outputs
from runtime.whisper.short_window import PaddingStatistics, ShortWindow, WindowPlan

# "full" computes all of the window, "fast" the speech and little more where that is less, "auto" does so
# where the bundle has measured at export that it makes no more of a difference than it may.
Window = Literal["full", "auto", "fast"]
WINDOWS: Final[tuple[Window, ...]] = get_args(Window)
FRAMES_A_POSITION: Final = 2  # log-mel frames that an encoder position covers, in every Whisper


class ShortEncoder:
    """Session of the short encoder graph, with what it is fed besides the speech.

    Args:
        session: Of the graph `encoder_short_model`.
        window: Plans, and the statistics that the graph starts from.
        sessions: How the session was opened.

    Raises:
        BundleError: The statistics are of another checkpoint than the graph.
    """

    def __init__(self, session: ort.InferenceSession, window: ShortWindow, sessions: SessionFactory) -> None:
        self.session = session
        self.window = window
        self._device, self._device_id = sessions.device, sessions.device_id
        means = window.statistics.means
        wanted = {
            node.name: list(node.shape) for node in session.get_inputs() if node.name.startswith("mean_")
        }
        if len(wanted) != len(means) or any(shape != list(means.shape[1:]) for shape in wanted.values()):
            raise BundleError(
                f"the padding's statistics are {means.shape}, the short encoder takes {len(wanted)} tensors "
                f"{next(iter(wanted.values()), [])}: they belong to different checkpoints; export the bundle "
                "again"
            )
        self._half = session.get_inputs()[0].type == "tensor(float16)"
        self._means = {
            name: ort.OrtValue.ortvalue_from_numpy(mean, self._device, self._device_id)
            for name, mean in zip(wanted, means, strict=True)
        }
        self._outputs = [output.name for output in session.get_outputs()]

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, precision: str, sessions: SessionFactory, choice: Window
    ) -> "ShortEncoder | None":
        """Open the short encoder of a bundle, where the choice of window asks for one.

        Raises:
            SettingsError: An unknown choice, or "fast" and the bundle has no short encoder.
            BundleError: A file of it cannot be used.
        """
        if choice not in WINDOWS:
            raise SettingsError(f"window is {choice!r}; expected one of {', '.join(WINDOWS)}")
        gate = bundle.short_window(precision)
        if choice == "full" or (choice == "auto" and not (gate and gate["passed"])):
            return None
        if gate is None:
            raise SettingsError(
                f"the bundle {bundle.folder} has no short encoder in {precision}: its window is too short to "
                "gain from one; use window='full' or 'auto'"
            )
        graph, padding = bundle.short_encoder(precision)
        window = ShortWindow(PaddingStatistics.load(padding), precision)
        return cls(sessions.open(graph), window, sessions)

    def leading_positions(self, samples: int, samples_a_window: int) -> int | None:
        """Return how many positions an utterance of so many samples needs; None for all of the window."""
        speech = -(-samples * self.window.positions // samples_a_window)
        return self.window.leading_positions(speech)

    def encode(
        self, features: NDArray[np.float32], leading: int, into: CrossAttention | None = None
    ) -> CrossAttention:
        """Run the encoder on utterances of one length.

        Args:
            features: Log-mel of the whole window, (N, mels, frames).
            leading: Leading positions, as `leading_positions` gives them.
            into: Where to write the result; None for tensors of its own.

        Returns:
            Cross-attention keys and values, left on the provider's device.

        Raises:
            InferenceError: The graph failed.
        """
        plan = self.window.plan(leading)
        binding = self.session.io_binding()
        frames = features[:, :, : FRAMES_A_POSITION * (leading + 1)]
        kind = np.float16 if self._half else np.float32
        binding.bind_cpu_input("input_features", np.ascontiguousarray(frames, dtype=kind))
        self._bind_plan(binding, plan)
        bind_cross_outputs(binding, self._outputs, (self._device, self._device_id), into)
        run_bound(self.session, binding, SHORT_ENCODER)
        return CrossAttention(dict(zip(self._outputs, binding.get_outputs(), strict=True)), len(features))

    def _bind_plan(self, binding: ort.IOBinding, plan: WindowPlan) -> None:
        for name, array in plan.inputs().items():
            binding.bind_cpu_input(name, array)
        for name, mean in self._means.items():
            binding.bind_ortvalue_input(name, mean)
