"""Make the channels of a product's input alike before they share a scale (SmoothQuant, Xiao et al. 2022).

Channels that are much larger than others take the range of int8 from them. So part of a channel's size moves
from the LayerNorm that made it into the weights that read it: `(x / f) @ (f · W) = x @ W`. It costs nothing
at run time.
"""

from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from export.graphs.quantization.graph_editor import GraphEditor

DEVIATIONS: Final = 3  # a normalised channel seldom lies farther from its mean

Factors = dict[str, NDArray[np.float32]]  # what the weights of each smoothed product were multiplied by


def smoothing_factors(
    largest: NDArray[np.float32], weights: list[NDArray[np.float32]], share: float
) -> NDArray[np.float32]:
    """Return by what each channel is divided, and its weights multiplied.

    Args:
        largest: Largest magnitude of each channel, (inner,).
        weights: Of the products that read the channels, each (inner, outer).
        share: How much of a channel's size moves into the weights, 0 to 1: equation 4's alpha.

    Returns:
        Factors (inner,) with geometric mean 1.
    """
    channel_weights = np.max([np.abs(each).max(axis=1) for each in weights], axis=0)
    factors = np.maximum(largest, 1e-3) ** share / np.maximum(channel_weights, 1e-5) ** (1 - share)
    normalised: NDArray[np.float32] = (factors / np.exp(np.log(factors).mean())).astype(np.float32)
    return normalised


def norm_of(graph: GraphEditor, name: str, products: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """Return the LayerNorm that makes the products' input, where nobody else reads it; else None."""
    norm = graph.producer(name)
    alone = len(graph.users(name)) == len(products)
    return norm if norm is not None and norm.op_type == "LayerNormalization" and alone else None


def divide_in_norm(graph: GraphEditor, norm: onnx.NodeProto, factors: NDArray[np.float32]) -> None:
    """Divide the channels that a LayerNorm makes, in its gains and biases."""
    for i, part in enumerate(norm.input[1:3], 1):
        # Under a name of its own: another node may read the old one.
        norm.input[i] = graph.constant(f"{norm.output[0]}_norm_{i}", graph.array(part) / factors)
        graph.drop_unread(part)


def smooth_products(graph: GraphEditor, share: float) -> Factors:
    """Move part of the channels' sizes from the LayerNorms into the products that read them.

    A LayerNorm's gains and biases say well enough how large each channel becomes, so nothing is measured.

    Args:
        graph: Changed in place.
        share: As of `smoothing_factors`.

    Returns:
        The factors (inner,) by the name of the weights (inner, outer), which stays.
    """
    smoothed: Factors = {}
    for name, products in graph.products().items():
        norm = norm_of(graph, name, products)
        if norm is None or any(len(graph.users(node.input[1])) > 1 for node in products):
            continue
        gains, biases = (np.abs(graph.array(part)) for part in norm.input[1:3])
        weights = [graph.array(node.input[1]) for node in products]
        factors = smoothing_factors(biases + DEVIATIONS * gains, weights, share)
        divide_in_norm(graph, norm, factors)
        for node, each in zip(products, weights, strict=True):
            smoothed[graph.constant(node.input[1], each * factors[:, None])] = factors
    return smoothed
