"""PyTorch through transformers: the reference n-best, and the call of the original notebook."""

from pathlib import Path
from typing import Any

import numpy as np

from bench.measure.timing import Stopwatch
from bench.peers.base import Features, NBest, Workload, rows


class Transformers:
    """`GenerationMixin.generate` on a `WhisperForConditionalGeneration`: the reference n-best, fp32."""

    name = "transformers"
    precision = "fp32"

    def __init__(self) -> None:
        self._model: Any = None
        self._folder = Path()

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Note where the checkpoint lies; PyTorch reads it as it is."""
        (folder / "checkpoint").symlink_to(checkpoint.resolve(), target_is_directory=True)

    def load(self, folder: Path, workload: Workload) -> None:
        """Load the checkpoint in float32."""
        import torch
        from transformers import WhisperForConditionalGeneration

        torch.set_num_threads(workload.threads)
        self._model = WhisperForConditionalGeneration.from_pretrained(
            folder / "checkpoint", dtype=torch.float32, local_files_only=True
        ).eval()

    def run(self, features: Features, workload: Workload, watch: Stopwatch) -> NBest:
        """Encode, then search with the encoder's output given."""
        import torch

        with torch.inference_mode():
            inputs = torch.from_numpy(features)
            with watch.lap("encoder"):
                encoded = self._model.get_encoder()(inputs)
            with watch.lap("decoding"):
                output = mixin_generate(self._model, encoded, len(features), workload)
        return n_best(output, workload, len(workload.prompt))

    def details(self) -> dict[str, Any]:
        """Return threads and the attention kernel in force."""
        import torch

        return {"threads": torch.get_num_threads(), "attention": self._model.config._attn_implementation}


class Notebook(Transformers):
    """Whisper's own `generate` as the notebook calls it.

    It repeats the audio once a beam, decodes beams x beams rows and returns copies of one hypothesis
    (https://github.com/huggingface/transformers/issues/33445).
    """

    name = "notebook"

    def run(self, features: Features, workload: Workload, watch: Stopwatch) -> NBest:
        """Call it as the notebook does; only the number of tokens is fixed."""
        import torch

        with torch.inference_mode(), watch.lap("whole"):
            output = self._model.generate(
                torch.from_numpy(features),
                num_beams=workload.beams,
                num_return_sequences=workload.beams,
                min_new_tokens=workload.steps,
                max_new_tokens=workload.steps,
                return_dict_in_generate=True,
                output_scores=True,
            )
        # The language is detected here, so the prompt is the engine's own, but as long as the asked one.
        return n_best(output, workload, output.sequences.shape[1] - workload.steps)


def mixin_generate(model: Any, encoder_outputs: Any, utterances: int, workload: Workload) -> Any:
    """Call the mixin's `generate` (not Whisper's)."""
    import torch
    from transformers.generation import GenerationMixin

    return GenerationMixin.generate(
        model,
        encoder_outputs=encoder_outputs,
        decoder_input_ids=torch.tensor([list(workload.prompt)] * utterances, device=model.device),
        num_beams=workload.beams,
        num_return_sequences=workload.beams,
        min_new_tokens=workload.steps if workload.fixed_length else None,
        max_new_tokens=workload.steps,
        return_dict_in_generate=True,
        output_scores=True,
    )


def n_best(output: Any, workload: Workload, prompt_length: int) -> NBest:
    """Convert a beam-search output of transformers."""
    tokens = [_ended(ids, workload) for ids in np.asarray(output.sequences)[:, prompt_length:].tolist()]
    scores = np.asarray(output.sequences_scores, np.float64).tolist()
    return NBest(rows(tokens, workload.beams), rows(scores, workload.beams))


def _ended(tokens: list[int], workload: Workload) -> list[int]:
    """Cut the padding off that follows the end of a text."""
    if workload.fixed_length or workload.end_of_text not in tokens:
        return tokens
    return tokens[: tokens.index(workload.end_of_text) + 1]
