"""How large the inputs of an encoder's products become, channel by channel, on made-up sounds.

A LayerNorm bounds what it hands on, whatever was said and however loud: each of its channels has a range
of its own that hardly depends on the sound. So the range can be measured once, at export, and int8 needs no
look at the numbers at run time (`export.graphs.quantization.row_products`).
"""

import hashlib
import sys
from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from export.made_up_speech import examples
from export.modules.attention import AttentionForm
from export.modules.whisper import EncoderGraph, EncoderLayer
from runtime.whisper.log_mel import LogMelExtractor

EXAMPLES: Final = 8
SEED: Final = 5
# What people also record: a range must not be passed by the first noise.
NOISE_LEVELS: Final = (0.0, 1e-3, 0.3)

# Largest magnitude of each channel (inner,), by digest of the weights.
Ranges = Mapping[str, NDArray[np.float32]]


def digest(weights: NDArray[np.float32]) -> str:
    """Return what identifies the weights (inner, outer) of a product, in whatever graph they stand."""
    return hashlib.sha256(np.ascontiguousarray(weights).tobytes()).hexdigest()


def encoder_ranges(model: WhisperForConditionalGeneration, extractor: LogMelExtractor) -> Ranges:
    """Measure the products of a Whisper encoder whose input is a LayerNorm's output.

    Args:
        model: The checkpoint in float32.
        extractor: Its log-mel features.
    """
    graph = EncoderGraph(model, AttentionForm.FUSED).eval()
    watched = {digest(linear.weight.detach().numpy().T): linear for linear in _behind_norms(graph)}
    ranges = {key: np.zeros(linear.in_features, np.float32) for key, linear in watched.items()}

    def note(key: str, inputs: Tensor) -> None:
        np.maximum(ranges[key], inputs.detach().abs().amax(dim=(0, 1)).numpy(), out=ranges[key])

    handles = [
        linear.register_forward_pre_hook(lambda _, inputs, key=key: note(key, inputs[0]))
        for key, linear in watched.items()
    ]
    sounds = list(_sounds(extractor))
    with torch.inference_mode():
        for features in tqdm(
            sounds, desc="int8: ranges", unit="sound", disable=None, leave=False, file=sys.stderr
        ):
            graph(features)
    for handle in handles:
        handle.remove()
    return ranges


def _behind_norms(graph: EncoderGraph) -> Iterator[nn.Linear]:
    for layer in graph.layers:
        assert isinstance(layer, EncoderLayer)
        yield from (layer.query, layer.key, layer.value, layer.fc1)
    for projection in (*graph.cross_keys, *graph.cross_values):
        assert isinstance(projection, nn.Linear)
        yield projection


def _sounds(extractor: LogMelExtractor) -> Iterator[Tensor]:
    """Yield log-mel (1, mels, frames) of made-up speech, of noise that fills the window, and of silence."""
    yield from (features for features, _ in examples(extractor, EXAMPLES, SEED))
    random = np.random.default_rng(SEED)
    for level in NOISE_LEVELS:
        noise = (level * random.normal(size=extractor.n_samples)).clip(-1, 1).astype(np.float32)
        yield torch.from_numpy(extractor([noise]))
