"""Positions of the padding: which the encoder computes, and how the others follow from them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PaddedPositions:
    """Which positions were computed, and how the others follow from them.

    Attributes:
        supports: The last computed positions, which the others follow, (supports,) int64.
        cached: The positions that are not computed, (cached,) int64.
        interpolation: Weights of the supports' deviations from the mean, (cached, supports).
    """

    supports: Tensor
    cached: Tensor
    interpolation: Tensor

    def append(self, computed: Tensor, mean: Tensor) -> Tensor:
        """Put the positions that are not computed behind those that are; attention knows no order.

        Args:
            computed: Keys or values, (batch, computed, width).
            mean: What every position of the window holds on average, (positions, width).

        Returns:
            (batch, computed + cached, width).
        """
        return append_estimates(computed, mean[self.supports], mean[self.cached], self.interpolation)


def append_estimates(computed: Tensor, at_supports: Tensor, mean: Tensor, interpolation: Tensor) -> Tensor:
    """Put what is estimated behind what was computed.

    Args:
        computed: (batch, computed, width); the last of them are the supports.
        at_supports: What the supports hold on average, (supports, width).
        mean: What the estimated ones hold on average, (estimated, width).
        interpolation: Weights of the supports' deviations from their mean, (estimated, supports).

    Returns:
        (batch, computed + estimated, width).
    """
    kind = computed.dtype
    deviation = computed[:, -at_supports.shape[0] :] - at_supports.to(kind)
    return torch.cat([computed, mean.to(kind) + interpolation.to(kind) @ deviation], dim=1)


@dataclass(frozen=True)
class LayerPadding:
    """The padding in one encoder layer.

    Attributes:
        positions: Which are computed.
        mean_key: What every position of the window holds on average, (positions, width).
        mean_value: Likewise.
    """

    positions: PaddedPositions
    mean_key: Tensor
    mean_value: Tensor

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Complete keys and values (batch, computed, width) to (batch, computed + cached, width)."""
        return self.positions.append(key, self.mean_key), self.positions.append(value, self.mean_value)
