"""The pocket Whisper: its shape, its generation settings, and how it is written."""

import copy
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.pocket.pool import MEL_BINS, WINDOW_SECONDS, feature_extractor
from bench.pocket.whisper_tokenizer import END, MAX_TOKENS, NO_TIMESTAMPS, SPECIALS, START, timestamp
from runtime.files.write_whole import write_whole_folder

WIDTH: Final = 128
FRAMES: Final = 100 * WINDOW_SECONDS  # of the log-mel window


def make_model(tokenizer: Any) -> Any:
    """An untrained `WhisperForConditionalGeneration`."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    ids = tokenizer.convert_tokens_to_ids
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=MEL_BINS, d_model=WIDTH,
        encoder_layers=4, encoder_attention_heads=4, encoder_ffn_dim=4 * WIDTH,
        decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=4 * WIDTH,
        max_source_positions=FRAMES // 2, max_target_positions=MAX_TOKENS, dropout=0.0,
        # The usual 0.02 suits widths of 384 and more: here it drowns the sound in the position embeddings.
        init_std=0.08,
        bos_token_id=ids(END), eos_token_id=ids(END), pad_token_id=ids(END),
        decoder_start_token_id=ids(START),
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.set_attn_implementation("eager")  # on a CPU the backward pass of the fused attention is slow
    model.generation_config = generation_config(tokenizer)
    return model


def generation_config(tokenizer: Any) -> Any:
    """Whisper's generation settings with this vocabulary's ids.

    Suppressed are digits and signs, which no caption has, and the special tokens that only a prompt may
    contain; at the beginning also the lone space.
    """
    from transformers import GenerationConfig

    ids = tokenizer.convert_tokens_to_ids
    signs = [ids(character) for character in '0123456789!"#$%&()*+-/:;<=>@[]_{|}~']
    prompt_only = [ids(token) for token in SPECIALS if token != NO_TIMESTAMPS]
    return GenerationConfig(
        bos_token_id=ids(END), eos_token_id=ids(END), pad_token_id=ids(END),
        decoder_start_token_id=ids(START),
        no_timestamps_token_id=ids(NO_TIMESTAMPS), prev_sot_token_id=ids("<|startofprev|>"),
        suppress_tokens=sorted(signs + prompt_only), begin_suppress_tokens=[ids("\u0120")],
        max_length=MAX_TOKENS, max_initial_timestamp_index=50, return_timestamps=False, is_multilingual=False,
    )  # fmt: skip


def encode(encoder: Any, features: Tensor) -> Tensor:
    """The encoder on fewer frames than a whole window, which Hugging Face's `forward` refuses.

    Args:
        encoder: a `WhisperEncoder`.
        features: log-mel, shape (N, mel bins, frames), an even number of frames.

    Returns:
        Shape (N, frames / 2, width).
    """
    hidden = nn.functional.gelu(encoder.conv1(features))
    hidden = nn.functional.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden = hidden + encoder.embed_positions.weight[: hidden.shape[1]]
    hidden = nn.functional.dropout(hidden, encoder.dropout, encoder.training)
    for layer in encoder.layers:
        hidden = layer(hidden, attention_mask=None, layer_head_mask=None)[0]
    normed: Tensor = encoder.layer_norm(hidden)
    return normed


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write the checkpoint as Hugging Face does, weights in half precision."""
    from transformers import WhisperProcessor

    assert tokenizer.convert_tokens_to_ids(timestamp(WINDOW_SECONDS)) == model.config.vocab_size - 1
    with write_whole_folder(folder) as beside:
        with torch.no_grad():
            copy.deepcopy(model).half().save_pretrained(beside)
        WhisperProcessor(feature_extractor(), tokenizer).save_pretrained(beside)
