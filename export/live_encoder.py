"""The Whisper encoder over the speech alone: of the 30-second window only some positions are computed.

Behind a short utterance the window holds padding, and what the encoder makes of padding hardly depends on
the utterance: computed are the live positions (the speech and a margin) and a few anchors in the padding.
All other positions get what they hold on average (`export.padding_statistics`), and a correction that the
anchors tell: how far an utterance's padding is from the average varies smoothly with the position, so that
it can be interpolated.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from export.whisper_graphs import EncoderGraph


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


class LiveEncoderGraph(EncoderGraph):
    """The encoder of `EncoderGraph`, with most of the padding inferred instead of computed."""

    def forward(  # type: ignore[override]  # traced with inputs of its own
        self,
        input_features: Tensor,
        anchors: Tensor,
        supports: Tensor,
        cached: Tensor,
        interpolation: Tensor,
        means: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Encode.

        Args:
            input_features: (batch, mels, 2 * live + 2), log-mel of the live positions, from the first on,
                and of one position of padding behind them.
            anchors: (anchors,) int64, the positions in the padding that are computed besides the last one
                of the window.
            supports: (supports,) int64, some of the last live positions, the anchors, the last position.
            cached: (cached,) int64, all other positions.
            interpolation: (cached, supports), weights of the supports' deviations from the mean.
            means: What the positions hold on average, (positions, width) each: key and value of every
                layer, then the final states.

        Returns:
            For every decoder layer the key, already transposed for its product, (batch, heads, head_dim,
            window) and the value (batch, heads, window, head_dim). The window holds the live positions,
            the anchors, the last position, then the others.
        """
        convolved = self.convolve(input_features)
        # The convolutions see a few frames only: padding looks alike to them wherever it is, except at the
        # end of the window, behind which there is nothing. So it is behind the features given here.
        live, silence, last = convolved[:, :-1], convolved[:, -2:-1], convolved[:, -1:]
        states = torch.cat(
            [
                live + self.positions[: live.shape[1]],
                silence + self.positions[anchors],
                last + self.positions[-1:],
            ],
            dim=1,
        )
        padding = PaddedPositions(supports, cached, interpolation)
        for i, layer in enumerate(self.layers):
            states = layer(states, LayerPadding(padding, means[2 * i], means[2 * i + 1]))
        return self.project(padding.append(self.norm(states), means[-1]))
