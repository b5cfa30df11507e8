"""Tuning on corrections: what is better on people who did not choose it is proposed, and nothing else."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from bench.nbest.file import NBestFile
from bench.nbest.table import NBestTable
from bench.text.scoring import IntArray, error_rate
from bench.tuning.alpha import TuneResult, tune
from bench.tuning.options import TuneOptions
from bench.tuning.resampling import MIN_UNITS_FOR_STUDENTISING, Interval, bootstrap, resampling_units
from bench.tuning.selection import runtime_choices
from runtime.fusion_settings import FusionSettings

SCHEMA: Final = "earsight.retune/1"
FEWEST_UNITS: Final = MIN_UNITS_FOR_STUDENTISING
TYPED: Final = "typed"
LISTED: Final = ("confirmed", "picked")
BIAS: Final = (
    "A confirmed or picked reference is a text of the list that was shown: it counts as right what the "
    "person let pass, favours the order that was shown, and says nothing of what no list held. Typed "
    "references are free of that, but they are of the hard utterances alone."
)


@dataclass(frozen=True, slots=True)
class Gain:
    """Settings that were chosen without an utterance's fold, against those in use, on some utterances.

    Attributes:
        utterances: How many.
        words: Of their references.
        speech_only: WER without the picture.
        current: WER with the settings in use.
        held_out: WER with those chosen without the utterance's fold.
        right_first: How many first texts are right: without the picture, in use, held out.
        difference: `held_out` - `current`, with its interval.
        unit: What was resampled: speakers or utterances.
        units: How many.
    """

    utterances: int
    words: int
    speech_only: float
    current: float
    held_out: float
    right_first: tuple[int, int, int]
    difference: Interval
    unit: str
    units: int


@dataclass(frozen=True, slots=True)
class Retuning:
    """Outcome of tuning on corrections.

    Attributes:
        current: The settings in use.
        result: The tuning run.
        overall: The gain on all corrections; None where nothing can be held out.
        by_how: The gain by how the references came about.
        refusal: Why nothing is proposed; None where something is.
    """

    current: FusionSettings
    result: TuneResult
    overall: Gain | None
    by_how: dict[str, Gain]
    refusal: str | None

    @property
    def proposal(self) -> FusionSettings | None:
        """The settings to use from now on; None to stay with those in use."""
        return None if self.refusal else self.result.fusion

    def to_dict(self) -> dict[str, Any]:
        """Return what `retune.json` holds of it."""
        return {
            "proposed": self.refusal is None,
            "reason": self.refusal,
            "current": asdict(self.current),
            "candidate": asdict(self.result.fusion),
            "overall": None if self.overall is None else asdict(self.overall),
            "by_how": {how: asdict(gain) for how, gain in self.by_how.items()},
            "bias": BIAS,
            "cross_validation": self.result.cross_validation,
            "correctness": self.result.correctness,
            "statements": self.result.development.statements,
            "options": self.result.options.to_dict(),
            "normalizer": self.result.normalizer.to_dict(),
            "nbest": self.result.source,
        }

    def lines(self) -> Iterator[str]:
        """Yield the report for people at a terminal."""
        yield f"WER: texts are {self.result.normalizer.description}."
        yield f"in use: α = {self.current.alpha:.4g}"
        yield f"tuned on all corrections: α = {self.result.fusion.alpha:.4g}"
        yield ""
        columns = f"{'utterances':>11}{'words':>7}{'speech only':>13}{'in use':>9}{'held out':>10}"
        yield f"{'references':<12}{columns}  difference"
        rows = {"all": self.overall, **self.by_how}
        for name, gain in rows.items():
            if gain is not None:
                yield (
                    f"{name:<12}{gain.utterances:>11}{gain.words:>7}{gain.speech_only:>13.2%}"
                    f"{gain.current:>9.2%}{gain.held_out:>10.2%}  {_interval(gain)}"
                )
        yield BIAS
        yield ""
        yield f"nothing is proposed: {self.refusal}" if self.refusal else "other settings are proposed"


def retune(nbest: NBestFile, current: FusionSettings, options: TuneOptions) -> Retuning:
    """Tune on corrections, and compare with the settings in use.

    Args:
        nbest: The lists of the corrections; `group` is how the reference came about.
        current: The settings in use; the ASR score of `options` must be theirs.
        options: Of the tuning run.

    Raises:
        SettingsError: The normaliser is not installed.
        NBestFileError: Sums of log-probabilities are asked for and not in the file.
    """
    result = tune(nbest, options)
    table = result.table
    in_use = table.errors[
        runtime_choices(
            table,
            current.alpha,
            asr_temperature=current.asr_temperature,
            clip_scale=current.clip_scale,
        )
    ]
    if result.held_out is None:
        return Retuning(current, result, None, {}, "there is one correction, and nothing to hold out")
    groups = np.array([utterance.group or "" for utterance in table.utterances])
    comparisons = {
        how: _gain(result, in_use, result.held_out, np.flatnonzero(groups == how))
        for how in (*LISTED, TYPED)
        if (groups == how).any()
    }
    overall = _gain(result, in_use, result.held_out, np.arange(table.size))
    return Retuning(current, result, overall, comparisons, _refusal(table, overall, comparisons.get(TYPED)))


def _gain(result: TuneResult, in_use: IntArray, held_out: IntArray, rows: IntArray) -> Gain:
    table, options = result.table, result.options
    utterances = [table.utterances[row] for row in rows]
    units = resampling_units(utterances)
    words = table.reference_words[rows]
    choices = table.errors[result.steps.at_zero][rows], in_use[rows], held_out[rows]
    difference = units.sums(choices[2] - choices[1])[:, np.newaxis]
    replicas = bootstrap(difference, units.sums(words), options.replicates, options.seed)
    rates = [error_rate(int(errors.sum()), int(words.sum())) for errors in choices]
    first = [int(np.count_nonzero(errors == 0)) for errors in choices]
    return Gain(
        utterances=len(rows),
        words=int(words.sum()),
        speech_only=rates[0],
        current=rates[1],
        held_out=rates[2],
        right_first=(first[0], first[1], first[2]),
        difference=replicas.interval(0, options.level),
        unit=units.kind,
        units=units.count,
    )


def _refusal(table: NBestTable, overall: Gain, typed: Gain | None) -> str | None:
    """Return why nothing is proposed, None where something is."""
    high = overall.difference.high
    if not table.has_image.any():
        return "no correction has a picture"
    if overall.units < FEWEST_UNITS:
        return (
            f"{overall.units} {overall.unit}s are too few to tell a gain from chance; {FEWEST_UNITS} are "
            "needed, or the corrections of one speaker alone (--speaker)"
        )
    if high is None or high >= 0.0:
        return (
            f"the word error rate of the tuned settings, held out, differs from that of those in use by "
            f"{_interval(overall)}, and this interval does not lie below 0"
        )
    if typed is not None and typed.difference.low is not None and typed.difference.low > 0.0:
        return f"the typed references alone, which no list has coloured, get worse by {_interval(typed)}"
    return None


def _interval(gain: Gain) -> str:
    difference = gain.difference
    if difference.low is None or difference.high is None:
        return f"{difference.estimate:+.2%}"
    ends = f"[{difference.low:+.2%}, {difference.high:+.2%}]"
    return f"{difference.estimate:+.2%} {ends} over {gain.units} {gain.unit}s"
