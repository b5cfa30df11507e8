"""The short encoder of a bundle: its graphs, the padding's statistics, and whether it may stand in.

Its gate compares it with PyTorch's full window, on made-up speech that the statistics have not seen: how far
do the keys and values differ that the decoder gets of the speech, and how far with the full window in the
same precision?
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperForConditionalGeneration

from export.graphs.configs import ShortEncoderConfig
from export.graphs.quantization.activation_ranges import Ranges
from export.graphs.write import GraphKind, remove_graphs, share_weights, write_graphs
from export.made_up_speech import examples
from export.modules.attention import AttentionForm
from export.modules.short_encoder import ShortEncoderGraph
from export.modules.whisper import EncoderGraph
from export.short_window.statistics import padding_statistics
from runtime.bundle.bundle import PADDING_FILE
from runtime.bundle.graph import SHORT_ENCODER, Graph
from runtime.sessions.factory import SessionFactory
from runtime.whisper.log_mel import LogMelExtractor
from runtime.whisper.short_encoder import ShortEncoder
from runtime.whisper.short_window import PaddingStatistics, ShortWindow

GRAPHS: Final = MappingProxyType({SHORT_ENCODER: GraphKind(ShortEncoderGraph, ShortEncoderConfig)})
# Relative error of keys and values at the speech. What int8 does to the encoder of whisper tiny.en is 0.08 to
# 0.11.
SPEECH_LIMIT: Final = 0.03
# A precision that costs more by itself may cost so much more together with the short encoder.
SHARE_OF_OWN: Final = 1.15
PROBES: Final = 3
PROBE_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class _Probe:
    """A made-up utterance, and what PyTorch's full window makes of it.

    Attributes:
        features: Log-mel, (1, mels, frames).
        end: First position of the padding.
        true: Keys and values of every decoder layer, as the encoder graph lays them out.
    """

    features: NDArray[np.float32]
    end: int
    true: list[NDArray[np.float32]]


def add_short_encoder(
    model: WhisperForConditionalGeneration,
    folder: Path,
    made: Sequence[str],
    wanted: Sequence[str],
    sessions: Mapping[str, SessionFactory],
    ranges: Ranges | None,
) -> dict[str, Any]:
    """Write the short encoder of a checkpoint in every precision, and measure it.

    Args:
        model: The checkpoint in float32.
        folder: The bundle that is being built, whose encoder and settings are there.
        made: Precisions that are made, the ones that others are made of first.
        wanted: Precisions that stay.
        sessions: How to open the graphs of each wanted precision.
        ranges: Of the encoder's products, as its int8 graph was made with them.

    Returns:
        For `bundle.json`: `short_window`, by precision the largest relative errors at speech and padding,
        that of the full window, the limit, and whether it was kept; besides, how many keys the decoder gets
        of a short utterance. Empty for a window that is short itself, which gains nothing.
    """
    extractor = LogMelExtractor.from_folder(folder / "whisper")
    statistics = padding_statistics(model, extractor)
    if statistics is None:
        return {"short_window": {}}
    statistics.save(folder / PADDING_FILE)
    for precision in made:
        write_graphs(model, GRAPHS, precision, folder, ranges)
        if precision in wanted:
            share_weights(folder, SHORT_ENCODER, "encoder_model", precision)
    if "fp32" not in wanted:
        remove_graphs(GRAPHS, "fp32", folder)
    probes = list(_probes(model, extractor))
    measured = {each: _measure(probes, statistics, folder, each, sessions[each]) for each in wanted}
    return {"short_window": measured}


def _probes(model: WhisperForConditionalGeneration, extractor: LogMelExtractor) -> Iterator[_Probe]:
    reference = EncoderGraph(model, AttentionForm.FUSED).eval()
    for features, end in examples(extractor, PROBES, PROBE_SEED):
        with torch.inference_mode():
            *keys_and_values, _ = reference(features)
            yield _Probe(features.numpy(), end, [each.numpy() for each in keys_and_values])


def _measure(
    probes: Sequence[_Probe],
    statistics: PaddingStatistics,
    folder: Path,
    precision: str,
    sessions: SessionFactory,
) -> dict[str, Any]:
    """Compare the short encoder, and the full window beside it, with PyTorch on unseen utterances."""
    window = ShortWindow(statistics, precision)
    full = sessions.open(Graph.in_folder(folder, "encoder_model", precision))
    short = ShortEncoder(sessions.open(Graph.in_folder(folder, SHORT_ENCODER, precision)), window, sessions)
    half = full.get_inputs()[0].type == "tensor(float16)"
    errors = []
    for probe in probes:
        positions = window.leading_positions(probe.end)
        if positions is None:
            continue  # half of a window of 10 s is too much: such an utterance has it computed whole
        plan = window.plan(positions)
        own = full.run(None, {"input_features": probe.features.astype(np.float16 if half else np.float32)})
        cross = short.encode(probe.features, positions)
        keys_and_values = list(cross.values.values())[: len(probe.true)]
        places = plan.keys_of_positions()
        got = [np.take(each.numpy(), places, _positions_axis(i)) for i, each in enumerate(keys_and_values)]
        speech, padding = slice(0, probe.end), slice(probe.end, None)
        cases = ((got, speech), (got, padding), (own[: len(probe.true)], speech))
        errors.append([_error(ours, probe.true, where) for ours, where in cases])
    speech_error, padding_error, own_error = np.max(errors, axis=0).tolist()
    limit = max(SPEECH_LIMIT, SHARE_OF_OWN * own_error)
    return {
        "speech_error": speech_error,
        "padding_error": padding_error,
        "full_window_error": own_error,
        "speech_limit": limit,
        "passed": bool(speech_error <= limit),  # "<=" refuses NaN as well
        "decoder_keys": window.keys(window.leading_positions(1)),
    }


def _positions_axis(output: int) -> int:
    """Return the axis of positions in the encoder's outputs: keys and values take turns."""
    return 3 if output % 2 == 0 else 2


def _error(got: Sequence[NDArray[Any]], true: Sequence[NDArray[np.float32]], where: slice) -> float:
    """Return ||got - true|| / ||true|| of all keys and values at some positions."""
    wrong = whole = 0.0
    for i, (ours, theirs) in enumerate(zip(got, true, strict=True)):
        cut = (..., where) if _positions_axis(i) == 3 else (..., where, slice(None))
        wrong += float(np.square(ours[cut].astype(np.float32) - theirs[cut]).sum())
        whole += float(np.square(theirs[cut]).sum())
    return float(np.sqrt(wrong / whole))
