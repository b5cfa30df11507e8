"""Really exported graphs of tiny random checkpoints: names and axes as in a bundle, a few kilobytes each."""

from pathlib import Path

from transformers import CLIPConfig, CLIPModel, WhisperConfig, WhisperForConditionalGeneration

from export.graphs.write import CLIP_GRAPHS, WHISPER_GRAPHS, write_graphs

VOCABULARY = 200


def write_tiny_graphs(folder: Path, precisions: tuple[str, ...]) -> Path:
    """Write the four graphs in some precisions and return the folder."""
    for precision in precisions:
        write_graphs(_whisper(), WHISPER_GRAPHS, precision, folder)
        write_graphs(_clip(), CLIP_GRAPHS, precision, folder)
    return folder


def _whisper() -> WhisperForConditionalGeneration:
    config = WhisperConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_source_positions=20,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    return WhisperForConditionalGeneration(config).eval()


def _clip() -> CLIPModel:
    common = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
    vision = {"image_size": 32, "patch_size": 16}
    config = CLIPConfig(text_config=common | text, vision_config=common | vision, projection_dim=16)
    return CLIPModel(config).eval()
