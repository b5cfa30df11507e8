"""Image-grounded speech recognition: Whisper n-best lists rescored by CLIP, on ONNX Runtime.

Needs numpy, onnxruntime (or onnxruntime-gpu), tokenizers, soundfile, soxr and pillow; nothing of torch.

    from runtime import MultimodalASR
    asr = MultimodalASR("models/whisper-small", alpha=0.1)
    print(asr.transcribe("speech.wav", image_path="picture.png").transcription)
"""

from typing import TYPE_CHECKING, Any

import runtime.sessions.telemetry  # noqa: F401 - takes effect before onnxruntime is imported

if TYPE_CHECKING:
    from runtime.pipeline import MultimodalASR
    from runtime.results import Hypothesis, RescoredHypothesis, Transcription

__all__ = ["Hypothesis", "MultimodalASR", "RescoredHypothesis", "Transcription"]


def __getattr__(name: str) -> Any:
    """Load the pipeline when it is asked for, so that a command line can say what is missing.

    Raises:
        PackageMissingError: onnxruntime is not installed.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from runtime.extras import missing_packages_named

    with missing_packages_named():
        from runtime import pipeline, results
    return getattr(pipeline if name == "MultimodalASR" else results, name)
