"""The Whisper encoder over the speech alone: of the 30-second window only some positions are computed.

Behind a short utterance the window holds padding, and what the encoder makes of padding hardly depends on
the utterance: computed are the leading positions (the speech and a margin) and a few anchors in the padding.
All other positions get what they hold on average (`export.short_window.statistics`), and a correction that
the anchors tell: how far an utterance's padding is from the average varies smoothly with the position, so
that it can be interpolated.

The decoder reads what comes out at every step. So neighbours in the padding that hold nearly the same are
handed to it as a group: one key and one value, the group's mean, that counts as often as it has positions.
"""

import torch
from torch import Tensor

from export.modules.padding import LayerPadding, PaddedPositions, append_estimates
from export.modules.whisper import EncoderGraph


class ShortEncoderGraph(EncoderGraph):
    """The encoder of `EncoderGraph`, with most of the padding inferred instead of computed."""

    def forward(  # type: ignore[override]  # traced with inputs of its own
        self,
        input_features: Tensor,
        anchors: Tensor,
        supports: Tensor,
        cached: Tensor,
        interpolation: Tensor,
        memory_mean: Tensor,
        memory_interpolation: Tensor,
        memory_bias: Tensor,
        means: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Encode.

        Args:
            input_features: (batch, mels, 2 * leading + 2), log-mel of the leading positions, from the first
                on, and of one position of padding behind them.
            anchors: (anchors,) int64, the positions in the padding that are computed besides the last one
                of the window.
            supports: (supports,) int64, some of the last leading positions, the anchors, the last position.
            cached: (cached,) int64, all other positions.
            interpolation: (cached, supports), weights of the supports' deviations from the mean.
            memory_mean: (groups, width), what the groups of the other positions hold on average of the
                final states.
            memory_interpolation: (groups, supports), `interpolation` of the groups.
            memory_bias: (memory,), logarithm of how many positions each key of the result stands for.
            means: What the positions hold on average, (positions, width) each: key and value of every
                layer, then the final states.

        Returns:
            For every decoder layer the key, already transposed for its product, (batch, heads, head_dim,
            memory) and the value (batch, heads, memory, head_dim). The memory holds the leading positions,
            the anchors, the last position, then the groups of the others. Last their bias (batch, memory).
        """
        convolved = self.convolve(input_features)
        # The convolutions see a few frames only: padding looks alike to them wherever it is, except at the
        # end of the window, behind which there is nothing. So it is behind the features given here.
        leading, silence, last = convolved[:, :-1], convolved[:, -2:-1], convolved[:, -1:]
        states = torch.cat(
            [
                leading + self.positions[: leading.shape[1]],
                silence + self.positions[anchors],
                last + self.positions[-1:],
            ],
            dim=1,
        )
        padding = PaddedPositions(supports, cached, interpolation)
        for i, layer in enumerate(self.layers):
            states = layer(states, LayerPadding(padding, means[2 * i], means[2 * i + 1]))
        memory = append_estimates(self.norm(states), means[-1][supports], memory_mean, memory_interpolation)
        bias = memory_bias.to(memory.dtype).expand(input_features.shape[0], -1)
        return (*self.project(memory), bias)
