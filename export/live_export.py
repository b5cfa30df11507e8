"""The live encoder of a bundle: its graphs, the padding's statistics, and whether it may stand in.

Its gate compares it with PyTorch's full window, on made-up speech that the statistics have not seen: how far
do the keys and values differ that the decoder gets of the speech, and how far with the full window in the
same precision?
"""

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration

from export.attention import AttentionForm
from export.graph_files import GraphKind, remove_graphs, share_weights, write_graphs
from export.live_encoder import LiveEncoderGraph
from export.onnx_configs import LiveEncoderConfig
from export.padding_statistics import examples, padding_statistics
from export.whisper_graphs import EncoderGraph
from runtime.bundle import LIVE_ENCODER, PADDING_FILE, graph_path
from runtime.cross_attention import CrossAttention
from runtime.features import LogMelExtractor
from runtime.live_encoder import LiveEncoder
from runtime.live_window import LiveWindow, PaddingStatistics
from runtime.providers import SessionFactory
from runtime.whisper import WhisperModel

GRAPHS: Final = MappingProxyType({LIVE_ENCODER: GraphKind(LiveEncoderGraph, LiveEncoderConfig)})
# Relative error of keys and values at the speech. What int8 does to the encoder of whisper tiny.en is 0.08 to
# 0.11.
SPEECH_LIMIT: Final = 0.03
# A precision that costs more by itself may cost so much more together with the live encoder.
SHARE_OF_OWN: Final = 1.15
PROBES: Final = 3
PROBE_SEED: Final = 1


def write_live_encoder(
    model: WhisperForConditionalGeneration, folder: Path, made: Sequence[str], wanted: Sequence[str]
) -> bool:
    """Write the live encoder of a checkpoint in every precision.

    Args:
        model: The checkpoint in float32.
        folder: The bundle that is being built, whose encoder and settings are there.
        made: Precisions that are made, the ones that others are made of first.
        wanted: Precisions that stay.

    Returns:
        Whether there is one: short windows gain nothing from it.
    """
    statistics = padding_statistics(model, LogMelExtractor.from_folder(folder / "whisper"))
    if statistics is None:
        return False
    statistics.save(folder / PADDING_FILE)
    for precision in made:
        write_graphs(model, GRAPHS, precision, folder)
        if precision in wanted:
            share_weights(folder, LIVE_ENCODER, "encoder_model", precision)
    if "fp32" not in wanted:
        remove_graphs(GRAPHS, "fp32", folder)
    return True


def measure_live_encoder(
    model: WhisperForConditionalGeneration, folder: Path, precision: str, sessions: SessionFactory
) -> dict[str, Any]:
    """Compare the live encoder, and the full window beside it, with PyTorch on unseen utterances.

    Args:
        model: The checkpoint in float32.
        folder: The bundle that is being built.
        precision: Of both graphs.
        sessions: How to open them.

    Returns:
        For `bundle.json`: largest relative errors at speech and padding, that of the full window, the limit,
        and whether it was kept.
    """
    reference = EncoderGraph(model, AttentionForm.FUSED).eval()
    encoder, decoder = (folder / graph_path(name, precision) for name in ("encoder_model", "decoder_model"))
    full = WhisperModel(folder / "whisper", encoder, decoder, sessions)
    window = LiveWindow(PaddingStatistics.load(folder / PADDING_FILE))
    live = LiveEncoder(sessions.open(folder / graph_path(LIVE_ENCODER, precision)), window, sessions)
    errors = []
    for features, end in examples(full.features, PROBES, PROBE_SEED):
        positions = window.live_positions(end)
        assert positions is not None  # the examples are short
        plan = window.plan(positions)
        with torch.inference_mode():
            true = [each.numpy() for each in reference(features)]
        own = _arrays(full.encode(features.numpy()))
        order = np.argsort(np.concatenate([np.arange(plan.live), plan.supports[1:], plan.cached]))
        got = _arrays(live.encode(features.numpy(), positions))
        got = [np.take(each, order, axis=_positions_axis(i)) for i, each in enumerate(got)]
        speech, padding = slice(0, end), slice(end, None)
        errors.append((_error(got, true, speech), _error(got, true, padding), _error(own, true, speech)))
    speech_error, padding_error, own_error = np.max(errors, axis=0).tolist()
    limit = max(SPEECH_LIMIT, SHARE_OF_OWN * own_error)
    return {
        "speech_error": speech_error,
        "padding_error": padding_error,
        "full_window_error": own_error,
        "speech_limit": limit,
        "passed": bool(speech_error <= limit),  # "<=" refuses NaN as well
    }


def _arrays(cross: CrossAttention) -> list[NDArray[np.float32]]:
    return [value.numpy().astype(np.float32) for value in cross.values.values()]


def _positions_axis(output: int) -> int:
    """Return the axis of positions in the encoder's outputs: keys and values take turns."""
    return 3 if output % 2 == 0 else 2


def _error(got: list[NDArray[np.float32]], true: list[NDArray[np.float32]], where: slice) -> float:
    """Return ||got - true|| / ||true|| of all keys and values at some positions."""
    wrong = whole = 0.0
    for i, (ours, theirs) in enumerate(zip(got, true, strict=True)):
        cut = (..., where) if _positions_axis(i) == 3 else (..., where, slice(None))
        wrong += float(np.square(ours[cut] - theirs[cut]).sum())
        whole += float(np.square(theirs[cut]).sum())
    return float(np.sqrt(wrong / whole))
