"""CLIP's two towers on ONNX Runtime: texts and pictures to unit-norm embeddings."""

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from runtime.bundle.bundle import Bundle
from runtime.clip.pictures import ImageSource
from runtime.clip.pixels import ImagePreprocessor
from runtime.clip.tokens import ClipTokens, unique_texts
from runtime.sessions.factory import SessionFactory
from runtime.sessions.runs import require_input_shape, run


class TextEncoder:
    """Texts to embeddings: duplicates once, sorted by length, padded to the longest of a batch."""

    def __init__(self, bundle: Bundle, precision: str, sessions: SessionFactory) -> None:
        self.tokens = ClipTokens.from_folder(bundle.clip)
        self.session: ort.InferenceSession = sessions.open(bundle.graph("text_model", precision))
        self.dimension = int(self.session.get_outputs()[0].shape[1])

    def __call__(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Encode texts.

        Args:
            texts: Any number of texts; longer ones than the checkpoint's limit are truncated.
            batch_size: Most texts in one run of the graph.

        Returns:
            float32 (len(texts), dimension), each row of unit norm.
        """
        distinct, place = unique_texts(texts)
        embeddings = np.empty((len(distinct), self.dimension), np.float32)
        for batch in self.tokens.batches(distinct, batch_size):
            embeddings[batch.indices] = run(self.session, "text_embeds", {"input_ids": batch.input_ids})
        return embeddings[place]


class ImageEncoder:
    """Pictures to embeddings."""

    def __init__(self, bundle: Bundle, precision: str, sessions: SessionFactory) -> None:
        self.preprocess = ImagePreprocessor.from_folder(bundle.clip)
        self.session: ort.InferenceSession = sessions.open(bundle.graph("vision_model", precision))
        self.dimension = int(self.session.get_outputs()[0].shape[1])
        if (size := self.preprocess.output_size) is not None:
            require_input_shape(self.session, "pixel_values", (3, *size), "clip/preprocessor_config.json")
        self._float = np.float16 if self.session.get_inputs()[0].type == "tensor(float16)" else np.float32

    def __call__(self, images: Sequence[ImageSource], batch_size: int = 16) -> NDArray[np.float32]:
        """Encode pictures.

        Args:
            images: Paths, bytes, arrays or PIL images.
            batch_size: Most pictures in memory and in one run of the graph.

        Returns:
            float32 (len(images), dimension), each row of unit norm.
        """
        embeddings = np.empty((len(images), self.dimension), np.float32)
        for start in range(0, len(images), batch_size):
            pixels = self.preprocess(images[start : start + batch_size]).astype(self._float, copy=False)
            rows = run(self.session, "image_embeds", {"pixel_values": pixels})
            embeddings[start : start + len(rows)] = rows
        return embeddings
