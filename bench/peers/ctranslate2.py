"""CTranslate2, the engine of faster-whisper."""

from pathlib import Path
from typing import Any

from bench.measure.timing import Stopwatch
from bench.peers.base import Features, NBest, Workload

MODEL_FILE = "model.bin"
LINK = "checkpoint"
COMPUTE_TYPES = {"fp32": "float32", "int8": "int8"}


class CTranslate2:
    """`ctranslate2.models.Whisper` on a CPU, converted from the same checkpoint."""

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.name = f"ctranslate2-{precision}"
        self._model: Any = None

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Convert the transformers checkpoint with CTranslate2's own converter.

        A folder of CTranslate2 is taken as it is: the engine converts its weights when it loads them.
        """
        if (checkpoint / MODEL_FILE).is_file():
            (folder / LINK).symlink_to(checkpoint.resolve(), target_is_directory=True)
            return
        from ctranslate2.converters import TransformersConverter

        converter = TransformersConverter(str(checkpoint))
        converter.convert(str(folder), quantization=COMPUTE_TYPES[self.precision], force=True)

    def load(self, folder: Path, workload: Workload) -> None:
        """Load the converted model with all threads inside one operator."""
        import ctranslate2

        self._model = ctranslate2.models.Whisper(
            str(folder / LINK if (folder / LINK).is_dir() else folder),
            device="cpu",
            compute_type=COMPUTE_TYPES[self.precision],
            intra_threads=workload.threads,
            inter_threads=1,
        )

    def run(self, features: Features, workload: Workload, watch: Stopwatch) -> NBest:
        """Encode, then search; where all hypotheses have one length, end-of-text is forbidden."""
        import ctranslate2

        # -1 stands for the list of the checkpoint.
        suppressed = [-1, workload.end_of_text] if workload.fixed_length else [-1]

        with watch.lap("encoder"):
            encoded = self._model.encode(ctranslate2.StorageView.from_array(features), to_cpu=False)
        with watch.lap("decoding"):
            results = self._model.generate(
                encoded,
                [list(workload.prompt)] * len(features),
                beam_size=workload.beams,
                num_hypotheses=workload.beams,
                return_scores=True,
                # Half of it is what the engine generates at most.
                max_length=2 * workload.steps,
                suppress_tokens=suppressed,
            )
        sequences = [[list(tokens) for tokens in result.sequences_ids] for result in results]
        return NBest(sequences, [list(result.scores) for result in results])

    def details(self) -> dict[str, Any]:
        """Return the compute type in force and the device."""
        return {"compute_type": self._model.compute_type, "device": self._model.device}
