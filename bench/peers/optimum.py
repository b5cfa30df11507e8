"""Optimum's ONNX Runtime model for speech, exported from the same checkpoint."""

from pathlib import Path
from typing import Any

from bench.measure.timing import Stopwatch
from bench.peers.base import Features, NBest, Workload
from bench.peers.transformers import mixin_generate, n_best


class Optimum:
    """`ORTModelForSpeechSeq2Seq` on the CPU provider with the mixin's `generate`, fp32."""

    name = "optimum"
    precision = "fp32"

    def __init__(self) -> None:
        self._model: Any = None

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Export encoder and merged decoder with past key values, as `optimum-cli export onnx` does."""
        from optimum.exporters.onnx import main_export

        main_export(
            str(checkpoint),
            folder,
            task="automatic-speech-recognition-with-past",
            device="cpu",
            do_validation=False,
            local_files_only=True,
        )

    def load(self, folder: Path, workload: Workload) -> None:
        """Create the sessions."""
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForSpeechSeq2Seq

        torch.set_num_threads(workload.threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = workload.threads
        self._model = ORTModelForSpeechSeq2Seq.from_pretrained(
            folder, provider="CPUExecutionProvider", session_options=options, local_files_only=True
        )

    def run(self, features: Features, workload: Workload, watch: Stopwatch) -> NBest:
        """Encode, then search with the encoder's output given."""
        import torch

        with torch.inference_mode():
            inputs = torch.from_numpy(features)
            with watch.lap("encoder"):
                encoded = self._model.get_encoder()(input_features=inputs, attention_mask=None)
            with watch.lap("decoding"):
                output = mixin_generate(self._model, encoded, len(features), workload)
        return n_best(output, workload, len(workload.prompt))

    def details(self) -> dict[str, Any]:
        """Return the providers really used and whether buffers are bound."""
        return {"providers": list(self._model.providers), "io_binding": bool(self._model.use_io_binding)}
