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
            computed: Keys, values or states, (batch, computed, width).
            mean: What every position of the window holds on average, (positions, width).

        Returns:
            (batch, computed + cached, width).
        """
        kind = computed.dtype
        deviation = computed[:, -self.supports.shape[0] :] - mean[self.supports].to(kind)
        cached = mean[self.cached].to(kind) + self.interpolation.to(kind) @ deviation
        return torch.cat([computed, cached], dim=1)


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
