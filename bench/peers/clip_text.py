"""CLIP text encoders of PyTorch and Optimum, for the second stage of rescoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.measure.timing import Stopwatch

TokenIds = Sequence[Sequence[int]]
FULL_LENGTH = 77  # positions of every published CLIP text encoder


@dataclass(frozen=True, slots=True)
class TextWork:
    """The same work for every text encoder.

    Attributes:
        texts: What to embed.
        token_ids: The same, tokenised: one list for each text, start and end of text included. Peers are
            given these, so that their time holds no tokeniser.
        pad_to: Positions that peers pad to; None for the longest text.
    """

    texts: Sequence[str]
    token_ids: TokenIds
    pad_to: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, JSON-serialisable."""
        return {
            "texts": list(self.texts),
            "token_ids": [list(ids) for ids in self.token_ids],
            "pad_to": self.pad_to,
        }


class TextPeer(Protocol):
    """One measured text encoder.

    Attributes:
        name: As in the report.
    """

    name: str

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Write into `folder` what `load` needs. Nothing of this is measured."""

    def load(self, folder: Path, threads: int) -> None:
        """Load the model."""

    def run(self, work: TextWork, watch: Stopwatch) -> NDArray[np.float32]:
        """Embed texts and time stage "whole".

        Returns:
            (texts, dimensions), unit norm.
        """

    def details(self) -> dict[str, Any]:
        """Return what was really in force."""


def padded(
    token_ids: TokenIds, pad_to: int | None, padding: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pad texts on the right.

    Returns:
        Token ids and attention mask, both (texts, positions).
    """
    length = pad_to if pad_to is not None else max(len(ids) for ids in token_ids)
    ids = np.full((len(token_ids), length), padding, np.int64)
    mask = np.zeros((len(token_ids), length), np.int64)
    for row, tokens in enumerate(token_ids):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


class TorchText:
    """The notebook's text encoder: `CLIPTextModelWithProjection` in float32."""

    name = "transformers"

    def __init__(self) -> None:
        self._model: Any = None

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Note where the checkpoint lies; PyTorch reads it as it is."""
        (folder / "checkpoint").symlink_to(checkpoint.resolve(), target_is_directory=True)

    def load(self, folder: Path, threads: int) -> None:
        """Load the text half of the checkpoint."""
        import torch
        from transformers import CLIPTextModelWithProjection

        torch.set_num_threads(threads)
        self._model = CLIPTextModelWithProjection.from_pretrained(
            folder / "checkpoint", dtype=torch.float32, local_files_only=True
        ).eval()

    def run(self, work: TextWork, watch: Stopwatch) -> NDArray[np.float32]:
        """Embed and normalise."""
        import torch

        with torch.inference_mode(), watch.lap("whole"):
            ids, mask = padded(work.token_ids, work.pad_to, self._model.config.eos_token_id)
            output = self._model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            embeddings = output.text_embeds / output.text_embeds.norm(dim=-1, keepdim=True)
        return np.asarray(embeddings, np.float32)

    def details(self) -> dict[str, Any]:
        """Return threads and the attention kernel in force."""
        import torch

        return {"threads": torch.get_num_threads(), "attention": self._model.config._attn_implementation}


class OptimumText:
    """Optimum's ONNX Runtime graph of the same text encoder."""

    name = "optimum"

    def __init__(self) -> None:
        self._session: Any = None
        self._padding = 0

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Export `CLIPTextModelWithProjection` through Optimum's own configuration."""
        import json

        from optimum.exporters.onnx import export
        from optimum.exporters.onnx.model_configs import CLIPTextWithProjectionOnnxConfig
        from transformers import CLIPTextModelWithProjection

        model = CLIPTextModelWithProjection.from_pretrained(checkpoint, local_files_only=True).eval()
        config = CLIPTextWithProjectionOnnxConfig(model.config, task="feature-extraction")
        export(model, config, folder / "model.onnx", opset=17)
        (folder / "padding.json").write_text(json.dumps(model.config.eos_token_id), encoding="utf-8")

    def load(self, folder: Path, threads: int) -> None:
        """Create the session."""
        import json

        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = str(folder / "model.onnx")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._padding = json.loads((folder / "padding.json").read_text(encoding="utf-8"))

    def run(self, work: TextWork, watch: Stopwatch) -> NDArray[np.float32]:
        """Embed and normalise."""
        with watch.lap("whole"):
            ids, mask = padded(work.token_ids, work.pad_to, self._padding)
            given = {"input_ids": ids, "attention_mask": mask}
            wanted = {entry.name for entry in self._session.get_inputs()}
            feed = {name: value for name, value in given.items() if name in wanted}
            (output,) = self._session.run(["text_embeds"], feed)
            embeddings = output / np.linalg.norm(output, axis=-1, keepdims=True)
        return np.asarray(embeddings, np.float32)

    def details(self) -> dict[str, Any]:
        """Return the providers really used."""
        return {"providers": list(self._session.get_providers())}
