"""The two Whisper graphs, as PyTorch modules that hold the checkpoint's own weights.

They compute what `WhisperForConditionalGeneration` computes, cut where the runtime wants it:

- the encoder hands out the cross-attention keys and values of every decoder layer, so that the decoder
  never projects them again;
- the decoder folds the beams into the query axis of both attentions. Keys and values of an utterance are
  read once, not once a beam, and its self-attention cache is append-only: which beam descends from which
  cached entry is told by `attention_mask`, so that reordering beams copies nothing;
- log-softmax, token mask and TopK are part of the decoder, so that a step hands out a few numbers and not
  a vocabulary of logits.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperAttention

from export.modules.attention import AttentionForm, Heads, cross_attention, self_attention
from export.modules.padding import LayerPadding


def merged_linear(parts: list[nn.Linear], scales: list[float] | None = None) -> nn.Linear:
    """Stack linear layers of one input into a single one; a missing bias counts as zero.

    Args:
        parts: Layers of the same input size.
        scales: A factor for each layer's weight and bias (attention's 1/sqrt(head_dim), for instance).

    Returns:
        A layer whose output is the concatenation of the (scaled) outputs.
    """
    scales = scales or [1.0] * len(parts)
    weights = [part.weight * scale for part, scale in zip(parts, scales, strict=True)]
    biases = [
        (part.bias if part.bias is not None else part.weight.new_zeros(part.out_features)) * scale
        for part, scale in zip(parts, scales, strict=True)
    ]
    merged = nn.Linear(parts[0].in_features, sum(part.out_features for part in parts))
    merged.weight = nn.Parameter(torch.cat(weights), requires_grad=False)
    merged.bias = nn.Parameter(torch.cat(biases), requires_grad=False)
    return merged


class EncoderLayer(nn.Module):
    """One encoder layer."""

    def __init__(self, layer: Any, form: AttentionForm) -> None:
        super().__init__()
        attention: WhisperAttention = layer.self_attn
        self.form = form
        self.heads = Heads(attention.num_heads, attention.head_dim)
        self.attention_norm = layer.self_attn_layer_norm
        self.query, self.key, self.value = attention.q_proj, attention.k_proj, attention.v_proj
        self.out = attention.out_proj
        self.mlp_norm = layer.final_layer_norm
        self.fc1, self.fc2, self.activation = layer.fc1, layer.fc2, layer.activation_fn

    def forward(self, states: Tensor, padding: LayerPadding | None = None) -> Tensor:
        """Run the layer.

        Args:
            states: Hidden states of the computed positions, (batch, computed, width).
            padding: Keys and values of the positions that are not computed; None where there are none.

        Returns:
            Hidden states of the computed positions, (batch, computed, width).
        """
        query, key, value = self.project(states)
        if padding is not None:
            key, value = padding.append(key, value)
        return self.attend(states, query, key, value)

    def project(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of hidden states.

        A product of its own for each: what a common one makes of a whole window is copied to cut it in three.
        """
        normed = self.attention_norm(states)
        return self.query(normed), self.key(normed), self.value(normed)

    def attend(self, states: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the layer's hidden states, given what `project` made of those before."""
        states = states + self.out(self_attention(query, key, value, self.heads, self.form))
        mlp: Tensor = self.fc2(self.activation(self.fc1(self.mlp_norm(states))))
        return states + mlp


class EncoderGraph(nn.Module):
    """Log-mel features in, cross-attention keys and values of every decoder layer out."""

    def __init__(self, model: WhisperForConditionalGeneration, form: AttentionForm) -> None:
        super().__init__()
        encoder, decoder = model.model.encoder, model.model.decoder
        self.config = model.config
        self.conv1, self.conv2 = encoder.conv1, encoder.conv2
        self.positions = encoder.embed_positions.weight
        self.layers = nn.ModuleList(EncoderLayer(layer, form) for layer in encoder.layers)
        self.norm = encoder.layer_norm
        attention: WhisperAttention = decoder.layers[0].encoder_attn
        self.heads = Heads(attention.num_heads, attention.head_dim)
        self.cross_keys = nn.ModuleList(layer.encoder_attn.k_proj for layer in decoder.layers)
        self.cross_values = nn.ModuleList(layer.encoder_attn.v_proj for layer in decoder.layers)

    def forward(self, input_features: Tensor) -> tuple[Tensor, ...]:
        """Encode.

        Args:
            input_features: (batch, mels, 2 * positions), log-mel.

        Returns:
            For every decoder layer the key, already transposed for its product, (batch, heads, head_dim,
            positions) and the value (batch, heads, positions, head_dim). Then their bias (batch, positions):
            zeros, since each key stands for one position.
        """
        states = self.convolve(input_features) + self.positions
        for layer in self.layers:
            states = layer(states)
        bias = input_features.new_zeros(input_features.shape[0], self.positions.shape[0])
        return (*self.project(self.norm(states)), bias)

    def convolve(self, input_features: Tensor) -> Tensor:
        """Turn log-mel (batch, mels, 2 * positions) into (batch, positions, width)."""
        gelu = nn.functional.gelu
        return gelu(self.conv2(gelu(self.conv1(input_features)))).transpose(1, 2)

    def project(self, states: Tensor) -> tuple[Tensor, ...]:
        """Turn the encoder's output (batch, memory, width) into the decoder's keys and values.

        A product of its own for each: behind a common one OpenVINO copies all of it to cut it in two.
        """
        outputs: list[Tensor] = []
        for keys, values in zip(self.cross_keys, self.cross_values, strict=True):
            outputs += [self.heads.split(keys(states)).transpose(2, 3), self.heads.split(values(states))]
        return tuple(outputs)


class DecoderLayer(nn.Module):
    """One decoder layer over the append-only cache, beams folded into the query axis."""

    def __init__(self, layer: Any, form: AttentionForm) -> None:
        super().__init__()
        own: WhisperAttention = layer.self_attn
        self.form = form
        cross: WhisperAttention = layer.encoder_attn
        self.heads = Heads(own.num_heads, own.head_dim)
        self.self_norm = layer.self_attn_layer_norm
        self.qkv = merged_linear([own.q_proj, own.k_proj, own.v_proj], [own.scaling, 1.0, 1.0])
        self.self_out = own.out_proj
        self.cross_norm = layer.encoder_attn_layer_norm
        self.cross_query = merged_linear([cross.q_proj], [cross.scaling])
        self.cross_out = cross.out_proj
        self.mlp_norm = layer.final_layer_norm
        self.fc1, self.fc2, self.activation = layer.fc1, layer.fc2, layer.activation_fn

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        past_key: Tensor,
        past_value: Tensor,
        cross_key: Tensor,
        cross_value: Tensor,
        cross_bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the layer.

        Args:
            states: (batch, queries, width).
            mask: (batch, 1, queries, cached + queries), added to the self-attention scores.
            past_key: (batch, heads, cached, head_dim).
            past_value: Same shape.
            cross_key: (batch, heads, head_dim, memory).
            cross_value: (batch, heads, memory, head_dim).
            cross_bias: (batch, memory), added to the scores of the cross-attention.

        Returns:
            The new states (batch, queries, width), and key and value grown to
            (batch, heads, cached + queries, head_dim).
        """
        heads = self.heads
        query, key, value = (heads.split(part) for part in heads.parts(self.qkv(self.self_norm(states))))
        key, value = torch.cat([past_key, key], dim=2), torch.cat([past_value, value], dim=2)
        scores = query @ key.transpose(2, 3) + mask
        states = states + self.self_out(heads.merge(scores.softmax(dim=-1) @ value))
        query = heads.split(self.cross_query(self.cross_norm(states)))
        attended = cross_attention(query, cross_key, cross_value, cross_bias, self.form)
        states = states + self.cross_out(heads.merge(attended))
        states = states + self.fc2(self.activation(self.fc1(self.mlp_norm(states))))
        return states, key, value


class DecoderGraph(nn.Module):
    """Prompt and step in one graph: tokens in, the best continuations with their log-probabilities out."""

    def __init__(self, model: WhisperForConditionalGeneration, form: AttentionForm) -> None:
        super().__init__()
        decoder = model.model.decoder
        self.config = model.config
        self.embedding = decoder.embed_tokens
        self.positions = decoder.embed_positions
        self.layers = nn.ModuleList(DecoderLayer(layer, form) for layer in decoder.layers)
        self.norm = decoder.layer_norm
        self.vocabulary = model.proj_out

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        attention_mask: Tensor,
        output_index: Tensor,
        token_mask: Tensor,
        top_k: Tensor,
        past: list[Tensor],
        cross: list[Tensor],
    ) -> tuple[Tensor, ...]:
        """Decode the prompt, or one token of every beam.

        Args:
            input_ids: (batch, queries) int64: the prompt's tokens, or one token a beam.
            positions: (queries,) int64: position of each query in its text.
            attention_mask: (batch, queries, cached + queries), added to the scores: 0 where a query may
                look, a large negative number where not.
            output_index: (outputs,) int64: the queries whose continuations are wanted.
            token_mask: (1 or batch, 1 or outputs, vocabulary) float32, added to the log-probabilities
                after the log-softmax; minus infinity forbids a token.
            top_k: (1,) int64: how many continuations of each output.
            past: Cached key and value of every layer, each (batch, heads, cached, head_dim).
            cross: Cross-attention key (batch, heads, head_dim, memory) and value
                (batch, heads, memory, head_dim) of every layer, then the bias (batch, memory) of their
                scores.

        Returns:
            log_probs float32 and tokens int64, each (batch, outputs, top_k), best first, then the grown
            key and value of every layer (batch, heads, cached + queries, head_dim).
        """
        states = self.embedding(input_ids) + self.positions.weight[positions]
        mask = attention_mask.unsqueeze(1)
        present: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            states, key, value = layer(
                states, mask, past[2 * i], past[2 * i + 1], cross[2 * i], cross[2 * i + 1], cross[-1]
            )
            present += [key, value]
        chosen = self.norm(states.index_select(1, output_index))
        log_probs = self.vocabulary(chosen).float().log_softmax(dim=-1)
        best, tokens = (log_probs + token_mask).topk(top_k, dim=-1)
        return best, tokens, *present
