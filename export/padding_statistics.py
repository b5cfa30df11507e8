"""What a checkpoint's encoder makes of the padding behind an utterance.

The padding of a window holds one value, and the encoder's states there depend on the utterance but a little:
on its length, its level, what was said. We take their mean over made-up utterances (`export.babble`) of many
lengths and levels, for the keys and values of every layer and for the final states. How an utterance deviates
from the mean is interpolated from a few positions (`export.live_encoder`).
"""

import sys
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from export.attention import AttentionForm
from export.babble import babble
from export.live_encoder import LiveEncoderGraph
from runtime.features import LogMelExtractor
from runtime.live_window import GAP, PaddingStatistics, is_worthwhile

EXAMPLES: Final = 32
SHORTEST_S, LONGEST_S = 0.5, 9.0  # of an example
QUIETEST, LOUDEST = 1.0, 1.8  # level of an example: the largest log10 of its mel power
SEED: Final = 0

Example = tuple[Tensor, int]  # log-mel features (1, mels, frames), and the first position of the padding


def padding_statistics(
    model: WhisperForConditionalGeneration, extractor: LogMelExtractor
) -> PaddingStatistics | None:
    """Take the statistics from a checkpoint.

    Args:
        model: The checkpoint in float32.
        extractor: Its log-mel features.

    Returns:
        The statistics; None for a window that is too short to gain from them.
    """
    if not is_worthwhile(model.config.max_source_positions):
        return None
    graph = LiveEncoderGraph(model, AttentionForm.FUSED).eval()
    means = _means(graph, list(examples(extractor, EXAMPLES, SEED)))
    return PaddingStatistics(np.stack([mean.numpy().astype(np.float16) for mean in means]))


def examples(extractor: LogMelExtractor, count: int, seed: int) -> Iterator[Example]:
    """Yield made-up utterances from short to long."""
    random = np.random.default_rng(seed)
    positions = extractor.n_frames // 2
    longest = min(LONGEST_S, extractor.window_s / 2)
    for seconds in np.linspace(SHORTEST_S, longest, count):
        samples = int(seconds * extractor.sampling_rate)
        features = extractor([babble(samples, extractor.sampling_rate, random)])[0]
        # A gain adds one number to all of log-mel: features are (log10 of the power + 4) / 4.
        features += np.float32((random.uniform(QUIETEST, LOUDEST) + 4.0) / 4.0) - features.max()
        yield torch.from_numpy(features)[None], -(-samples * positions // extractor.n_samples)


def _encode(graph: LiveEncoderGraph, features: Tensor) -> Iterator[Tensor]:
    """Yield keys and values of every layer, then the final states, each (positions, width)."""
    states = graph.convolve(features) + graph.positions
    for layer in graph.layers:
        _, key, value = layer.heads.parts(layer.qkv(layer.attention_norm(states)))
        yield key[0]
        yield value[0]
        states = layer(states)
    yield graph.norm(states)[0]


def _means(graph: LiveEncoderGraph, utterances: list[Example]) -> list[Tensor]:
    """Return the mean of each position, (positions, width) a tensor, over the examples that ended before it.

    Positions that no example leaves to the padding hold zeros: they are live in every utterance.
    """
    positions, width = graph.positions.shape
    sums = [torch.zeros(positions, width) for _ in range(2 * len(graph.layers) + 1)]
    counts = torch.zeros(positions, 1)
    for features, end in tqdm(
        utterances, desc="padding", unit="example", disable=None, leave=False, file=sys.stderr
    ):
        first = end + GAP
        counts[first:] += 1
        with torch.inference_mode():
            for total, states in zip(sums, _encode(graph, features), strict=True):
                total[first:] += states[first:]
    return [total / counts.clamp(min=1) for total in sums]
