"""Image-grounded speech recognition: Whisper n-best lists rescored by CLIP, on ONNX Runtime.

Needs numpy, onnxruntime (or onnxruntime-gpu), tokenizers, soundfile, soxr and pillow; nothing of torch.

    from runtime import MultimodalASR
    asr = MultimodalASR("models/whisper-small", alpha=0.1)
    print(asr.transcribe("speech.wav", image_path="picture.png").transcription)
"""

import runtime.sessions.telemetry  # noqa: F401 - takes effect before onnxruntime is imported
from runtime.pipeline import MultimodalASR
from runtime.results import Hypothesis, RescoredHypothesis, Transcription

__all__ = ["Hypothesis", "MultimodalASR", "RescoredHypothesis", "Transcription"]
