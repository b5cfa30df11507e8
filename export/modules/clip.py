"""The two CLIP towers with projection and normalisation, as PyTorch modules of the checkpoint's weights."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel

from export.modules.attention import AttentionForm, Heads, self_attention
from export.modules.whisper import merged_linear

# transformers reads this id as "an old checkpoint whose config names the wrong end-of-text token": the text
# is then pooled at its highest id. https://github.com/huggingface/transformers/pull/24773
LEGACY_EOS_TOKEN_ID = 2


class ClipLayer(nn.Module):
    """One transformer layer with queries, keys and values projected in a single product."""

    def __init__(self, layer: Any, form: AttentionForm, causal: bool) -> None:
        super().__init__()
        attention = layer.self_attn
        self.form, self.causal = form, causal
        self.heads = Heads(attention.num_heads, attention.head_dim)
        self.norm1, self.norm2, self.mlp = layer.layer_norm1, layer.layer_norm2, layer.mlp
        self.qkv = merged_linear([attention.q_proj, attention.k_proj, attention.v_proj])
        self.out = attention.out_proj

    def forward(self, states: Tensor) -> Tensor:
        """Map hidden states (batch, length, width) to hidden states of the same shape."""
        query, key, value = self.heads.parts(self.qkv(self.norm1(states)))
        attended = self_attention(query, key, value, self.heads, self.form, self.causal)
        states = states + self.out(attended)
        mlp: Tensor = self.mlp(self.norm2(states))
        return states + mlp


def unit_norm(features: Tensor) -> Tensor:
    """Scale each row of (batch, dim) to length one, computed in float32."""
    features = features.float()
    unit: Tensor = features / features.norm(dim=-1, keepdim=True)
    return unit


class TextGraph(nn.Module):
    """Token ids in, unit-norm text embeddings out.

    There is no attention mask: attention is causal and the text is pooled at its first end-of-text token,
    so that nothing which is padded behind it can reach the result.
    """

    def __init__(self, model: CLIPModel, form: AttentionForm) -> None:
        super().__init__()
        text = model.text_model
        self.config = model.config
        self.eos_token_id: int = text.eos_token_id
        self.tokens = text.embeddings.token_embedding
        self.positions = text.embeddings.position_embedding
        self.layers = nn.ModuleList(ClipLayer(layer, form, causal=True) for layer in text.encoder.layers)
        self.norm = text.final_layer_norm
        self.projection = model.text_projection

    def forward(self, input_ids: Tensor) -> Tensor:
        """Encode (batch, length) int64 into (batch, projection_dim) float32 of unit norm."""
        states = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        for layer in self.layers:
            states = layer(states)
        if self.eos_token_id == LEGACY_EOS_TOKEN_ID:
            end = input_ids.to(torch.int32).argmax(dim=-1)
        else:
            end = (input_ids == self.eos_token_id).to(torch.int32).argmax(dim=-1)
        pooled = states.gather(1, end[:, None, None].expand(-1, 1, states.shape[-1]))[:, 0]
        return unit_norm(self.projection(self.norm(pooled)))


class VisionGraph(nn.Module):
    """Preprocessed pixels in, unit-norm image embeddings out."""

    def __init__(self, model: CLIPModel, form: AttentionForm) -> None:
        super().__init__()
        vision = model.vision_model
        self.config = model.config
        self.image_size: int = vision.embeddings.image_size
        self.class_embedding = vision.embeddings.class_embedding
        self.patches = vision.embeddings.patch_embedding
        self.positions = vision.embeddings.position_embedding
        self.pre_norm = vision.pre_layrnorm  # the attribute is spelt so in transformers
        self.layers = nn.ModuleList(ClipLayer(layer, form, causal=False) for layer in vision.encoder.layers)
        self.post_norm = vision.post_layernorm
        self.projection = model.visual_projection

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode (batch, 3, image_size, image_size) into (batch, projection_dim) float32 of unit norm."""
        patches = self.patches(pixel_values).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(pixel_values.shape[0], 1, -1)
        states = self.pre_norm(torch.cat([first, patches], dim=1) + self.positions.weight)
        for layer in self.layers:
            states = layer(states)
        return unit_norm(self.projection(self.post_norm(states[:, 0])))
