"""Pictures by their content: an embedding for each, in a bounded store. The bytes are not kept."""

import hashlib
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from runtime.pipeline import ImageCache

Embedding = NDArray[np.float32]


def picture_id(content: bytes) -> str:
    """Return the id of a picture: the SHA-256 of its file, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


class PictureStore:
    """Embeddings of pictures that were sent, the least recently used of which goes first.

    Args:
        most: How many are kept.
        lasting: Embeddings that are there for good, by key: the image cache of the pipeline.
    """

    def __init__(self, most: int, lasting: ImageCache) -> None:
        self._most = most
        self._lasting = lasting
        self._sent: OrderedDict[str, Embedding] = OrderedDict()

    def get(self, key: str) -> Embedding | None:
        """Return an embedding, unit norm, (d,); None where there is none."""
        if key in self._sent:
            self._sent.move_to_end(key)
            return self._sent[key]
        return self._lasting.get(key)

    def put(self, key: str, embedding: Embedding) -> None:
        """Keep an embedding."""
        self._sent[key] = embedding
        self._sent.move_to_end(key)
        while len(self._sent) > self._most:
            self._sent.popitem(last=False)

    def remove(self, key: str) -> bool:
        """Forget a picture that was sent; return whether there was one."""
        return self._sent.pop(key, None) is not None

    def __len__(self) -> int:
        return len(self._sent)
