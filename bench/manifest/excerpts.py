"""Rows that mean a part of their file: refused, because all of it would be recognised.

A part is named by where it starts (`offset`, `start_time`, `begin_ms`, …), where it ends (`end`, …), how long
it is (`duration`, …) or by its channel, in rows of NeMo, Kaldi's users, Praat and subtitles alike.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import soundfile

from bench.manifest.columns import is_blank, plain
from runtime.audio.files import open_audio
from runtime.errors import AudioError, ManifestError

SHORTEST_REST_S: Final = 0.5  # of a file behind the end of a row, from which the row means a part of it
_TIME: Final = re.compile(
    r"(?:audio|clip|segment|seg|utterance|utt|speech|frame|sample|t)?"
    r"(?:(?P<start>offset|start|begin|beginning|onset|xmin)|(?P<end>end|stop|xmax|duration|dur))"
    r"(?:timestamp|time|at)?(?:(?P<ms>ms|msecs?|millis|milliseconds?)|(?P<count>samples?|frames?)|s|secs?|seconds?)?"
)
_CHANNEL: Final = re.compile(r"(?:audio)?channel(?:id|index|selector|no|number)?")
_ALL_CHANNELS: Final = frozenset({"average", "mean", "mono", "all"})  # what is heard


class _Sound(NamedTuple):
    seconds: float
    rate: float
    channels: int


def refuse_excerpt(place: str, row: Mapping[str, Any], audio: Path) -> None:
    """Refuse a row that means a part of its file.

    Args:
        place: `file:line`, for the message.
        row: The row as it was written.
        audio: Its file.

    Raises:
        ManifestError: It starts behind the file's start, ends more than `SHORTEST_REST_S` before its end, or
            takes one of several channels; or one of these is no number.
    """
    told = {name: value for name, value in row.items() if not is_blank(value)}
    times = {name: match for name in told if (match := _TIME.fullmatch(plain(name)))}
    seconds = {name: _number(place, name, told[name]) for name in times}
    channels = [
        name
        for name in told
        if _CHANNEL.fullmatch(plain(name)) and str(told[name]).strip().lower() not in _ALL_CHANNELS
    ]
    part = [name for name in times if times[name]["start"] and seconds[name] > 0]
    length = ""
    if not part and (times or channels) and (sound := _sound(audio)):
        ends = {name: _in_seconds(seconds[name], times[name], sound) for name in times if times[name]["end"]}
        part = [name for name, end in ends.items() if sound.seconds - end > SHORTEST_REST_S]
        part += channels if sound.channels > 1 else []
        length = f" of {sound.seconds:.2f} s and {sound.channels} channel(s)"
    if part:
        means = ", ".join(f"{name} {told[name]}" for name in part)
        raise ManifestError(
            f"{place}: the row means a part of {audio}{length} ({means}), and only whole files are "
            "recognised; cut the parts into files of their own, or rename a column that means something else"
        )


def _number(place: str, name: str, value: object) -> float:
    try:
        number = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(value, bool) or not number >= 0.0 or math.isinf(number):
        raise ManifestError(
            f"{place}: `{name}` is {value!r}; expected seconds, from 0 on (rename the column if it means "
            "something else)"
        )
    return number


def _in_seconds(value: float, match: re.Match[str], sound: _Sound) -> float:
    if match["ms"]:
        return value / 1000
    return value / sound.rate if match["count"] else value


def _sound(audio: Path) -> _Sound | None:
    """Return how long a file is; None where nothing decodes it, of which whoever has to tells more."""
    try:
        info = soundfile.info(str(audio))
        if info.frames > 0:
            return _Sound(info.duration, info.samplerate, info.channels)
    except soundfile.LibsndfileError:
        pass
    try:
        with open_audio(audio) as file:
            seconds = sum(block.waveform.size / block.rate for block in file.blocks())
            return _Sound(seconds, file.rate, file.channels)
    except AudioError:
        return None
