"""What a checkpoint's encoder makes of the padding behind an utterance.

The padding of a window holds one value, and the encoder's states there depend on the utterance but a little:
on its length, its level, what was said. We take their mean over made-up utterances
(`export.made_up_speech`) of many lengths and levels, for the keys and values of every layer and for the final
states, and how the deviations from it vary together over the positions. That covariance is much the same in
all layers, so that one serves all: with it, a few positions tell the others (`runtime.whisper.short_window`).
"""

import sys
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import WhisperForConditionalGeneration

from export.made_up_speech import Example, examples
from export.modules.attention import AttentionForm
from export.modules.short_encoder import ShortEncoderGraph
from export.modules.whisper import EncoderLayer
from runtime.whisper.log_mel import LogMelExtractor
from runtime.whisper.short_window import GAP, PaddingStatistics, is_worthwhile

EXAMPLES: Final = 48
SEED: Final = 0


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
    graph = ShortEncoderGraph(model, AttentionForm.FUSED).eval()
    utterances = list(examples(extractor, EXAMPLES, SEED))
    means = _means(graph, utterances)
    covariance = _covariance(graph, utterances[::2], means)
    return PaddingStatistics(
        np.stack([mean.numpy().astype(np.float16) for mean in means]), covariance.numpy().astype(np.float16)
    )


def _encode(graph: ShortEncoderGraph, features: Tensor) -> Iterator[Tensor]:
    """Yield keys and values of every layer, then the final states, each (positions, width)."""
    states = graph.convolve(features) + graph.positions
    for layer in graph.layers:
        assert isinstance(layer, EncoderLayer)
        query, key, value = layer.project(states)
        yield key[0]
        yield value[0]
        states = layer.attend(states, query, key, value)
    yield graph.norm(states)[0]


def _means(graph: ShortEncoderGraph, utterances: list[Example]) -> list[Tensor]:
    """Return the mean of each position, (positions, width) a tensor, over the examples that ended before it.

    Positions that no example leaves to the padding hold zeros: they lead in every utterance.
    """
    positions, width = graph.positions.shape
    sums = [torch.zeros(positions, width) for _ in range(2 * len(graph.layers) + 1)]
    counts = torch.zeros(positions, 1)
    for features, end in _shown(utterances, "padding: means"):
        first = end + GAP
        counts[first:] += 1
        with torch.inference_mode():
            for total, states in zip(sums, _encode(graph, features), strict=True):
                total[first:] += states[first:]
    return [total / counts.clamp(min=1) for total in sums]


def _covariance(graph: ShortEncoderGraph, utterances: list[Example], means: list[Tensor]) -> Tensor:
    """Return the covariance of deviations over positions, (positions, positions), of mean variance 1.

    Each tensor's is scaled to that, then they are averaged. The first layer is left out: its keys and values
    do not depend on the speech.
    """
    positions = graph.positions.shape[0]
    products = torch.zeros(len(means), positions, positions)
    pairs = torch.zeros(positions, positions)
    for features, end in _shown(utterances, "padding: covariance"):
        first = end + GAP
        pairs[first:, first:] += 1
        with torch.inference_mode():
            for i, states in enumerate(_encode(graph, features)):
                deviation = states[first:] - means[i][first:]
                products[i, first:, first:] += deviation @ deviation.T
    later = products[2:] / pairs.clamp(min=1)
    variances = later.diagonal(dim1=1, dim2=2).mean(dim=1)
    return (later / variances[:, None, None]).mean(dim=0)


def _shown(utterances: list[Example], what: str) -> Iterator[Example]:
    return iter(tqdm(utterances, desc=what, unit="example", disable=None, leave=False, file=sys.stderr))
