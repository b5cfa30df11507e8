"""What a checkpoint's encoder makes of the padding behind an utterance.

The padding of a window holds one value, and the encoder's states there depend on the utterance but a little:
on its length, its level, what was said. We take their mean over made-up utterances
(`export.made_up_speech`) of many lengths and levels, for the keys and values of every layer and for the final
states, and how the deviations from it vary together over the positions. That covariance is much the same in
all layers, so that one serves all: with it, a few positions tell the others (`runtime.whisper.short_window`).
The means of the final states tell besides which neighbours are so alike that the decoder may take them for
one (`export.short_window.boundaries`).
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
from export.short_window.boundaries import MOST_LOST, boundaries, share_lost
from runtime.whisper.log_mel import LogMelExtractor
from runtime.whisper.short_window import GAP, PaddingStatistics, is_worthwhile

# 48 are no better, 16 err a little more on real base (docs/research/short-utterances.md).
EXAMPLES: Final = 24
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
    means, covariances = [], []
    with torch.inference_mode():
        for states in _encode(graph, utterances):
            means.append(_mean(states))
            covariances.append(_covariance(states, means[-1]))
    # The first layer is left out: its keys and values do not depend on the speech.
    covariance = torch.stack(covariances[2:]).mean(dim=0)
    statistics = PaddingStatistics(
        np.stack([mean.numpy().astype(np.float16) for mean in means]),
        covariance.numpy().astype(np.float16),
        boundaries(means[-1].numpy()),
    )
    if share_lost(statistics) <= MOST_LOST:
        return statistics
    return replace(statistics, boundaries=np.zeros(0, np.int32))


@dataclass(frozen=True, slots=True)
class _Padding:
    """What the encoder holds of an example.

    Attributes:
        states: (positions, width).
        first: First position that counts as padding.
    """

    states: Tensor
    first: int


def _encode(graph: ShortEncoderGraph, utterances: list[Example]) -> Iterator[list[_Padding]]:
    """Yield keys and values of every layer, then the final states, each of all examples.

    All examples take a layer before any takes the next, so that nothing is computed twice or kept longer.
    """
    firsts = [end + GAP for _, end in utterances]

    def padding(states: list[Tensor]) -> list[_Padding]:
        return [_Padding(each[0], first) for each, first in zip(states, firsts, strict=True)]

    states = [graph.convolve(features) + graph.positions for features, _ in utterances]
    for layer in tqdm(graph.layers, desc="padding", unit="layer", disable=None, leave=False, file=sys.stderr):
        assert isinstance(layer, EncoderLayer)
        projected = [layer.project(each) for each in states]
        yield padding([key for _, key, _ in projected])
        yield padding([value for _, _, value in projected])
        states = [layer.attend(each, *parts) for each, parts in zip(states, projected, strict=True)]
    yield padding([graph.norm(each) for each in states])


def _mean(examples: list[_Padding]) -> Tensor:
    """Return the mean of each position, (positions, width), over the examples that ended before it.

    Positions that no example leaves to the padding hold zeros: they lead in every utterance.
    """
    total = torch.zeros_like(examples[0].states)
    count = torch.zeros(len(total), 1)
    for each in examples:
        total[each.first :] += each.states[each.first :]
        count[each.first :] += 1
    return total / count.clamp(min=1)


def _covariance(examples: list[_Padding], mean: Tensor) -> Tensor:
    """Return the covariance of deviations over positions, (positions, positions), of mean variance 1.

    Early positions are padding in the short examples alone. The products of two positions are divided by the
    geometric mean of how many examples each has: divided by how many they share, they make a matrix that has
    negative variances, and an estimate by it may go astray.
    """
    products = torch.zeros(len(mean), len(mean))
    count = torch.zeros(len(mean))
    for each in examples:
        deviation = each.states[each.first :] - mean[each.first :]
        products[each.first :, each.first :] += deviation @ deviation.T
        count[each.first :] += 1
    scale = count.clamp(min=1).rsqrt()
    covariance = products * scale * scale[:, None]
    return covariance / covariance.diagonal().mean()
