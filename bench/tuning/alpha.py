"""Tuning of alpha from an n-best file: the notebook's grid, the exact surface, and what both are worth."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from bench.nbest.file import NBestFile
from bench.nbest.table import NBestTable, build_table, rescored
from bench.text.normalizers import NOTEBOOK, Normalizer, language_code, normalizer
from bench.text.scoring import IntArray, error_rate
from bench.tuning.assessment import Assessment, assess, scales_are_tuned
from bench.tuning.correctness import assess_correctness, fit_confidence, fused_samples
from bench.tuning.cross_validation import HeldOut, hold_out
from bench.tuning.evaluation import corpus_wer
from bench.tuning.fusion_lines import FusionLines, Steps, fusion_lines, trace_steps
from bench.tuning.interpretation import count_shared_ids, describe_alpha, describe_scales, describe_test
from bench.tuning.notebook_figures import notebook_grid
from bench.tuning.options import GRID, TuneOptions
from bench.tuning.resampling import resampling_units
from bench.tuning.scale_search import TunedScale, tune_scale
from bench.tuning.selection import exact_alpha, grid_errors, runtime_choices, smallest_alpha_within_one_error
from bench.tuning.surface import ErrorSurface, error_surface
from runtime.fusion_settings import FusionSettings

SCHEMA: Final = "earsight.tune/1"


@dataclass(frozen=True, slots=True)
class TuneResult:
    """Outcome of a tuning run.

    Attributes:
        grid_wer: WER at the 21 alphas of the notebook's grid.
        best_alpha: First alpha of the grid with the lowest WER.
        notebook: The same grid as the notebook scores it.
        surface: WER over all alphas.
        exact: Breakpoints, intervals and the alphas chosen by the exact rules, as JSON.
        chosen_alpha: The best alpha at the notebook's scales, by the rule of `options.select`.
        development: Assessment of the tuning data at `fusion`.
        test: Assessment of the test data at `fusion`, or None.
        cross_validation: See `bench.tuning.cross_validation`; None where nothing can be held out.
        scale: Joint tuning of the scales, or None.
        interpretation: What the best alpha means, and at which scales the figures are, in words.
        options: The settings.
        normalizer: The text normaliser.
        source: Header of the n-best file.
        test_source: Header of the test data, or None.
        table: The n-best lists as arrays.
        steps: Where choices change, at the notebook's scales.
        fusion: What `fusion.json` holds: the chosen alpha, or the jointly tuned scales with theirs where they
            were asked for and did better on held-out folds.
        held_out: int64, shape (N,): word errors of every utterance with settings that were chosen as those
            of `fusion`, but without its fold; None where nothing can be held out.
        correctness: What the confidence is worth, on `development` and `test`, each None where there is none;
            `reason`, why there is none.
    """

    grid_wer: tuple[float, ...]
    best_alpha: float
    notebook: dict[str, Any]
    surface: ErrorSurface
    exact: dict[str, Any]
    chosen_alpha: float
    development: Assessment
    test: Assessment | None
    cross_validation: dict[str, Any] | None
    scale: dict[str, Any] | None
    interpretation: str
    options: TuneOptions
    normalizer: Normalizer
    source: dict[str, Any]
    test_source: dict[str, Any] | None
    table: NBestTable
    steps: Steps
    fusion: FusionSettings
    held_out: IntArray | None
    correctness: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return what `tune.json` holds: the notebook's keys first."""
        baseline_wer = self.grid_wer[0]
        best_wer = self.grid_wer[GRID.index(self.best_alpha)]
        return {
            "schema": SCHEMA,
            "grid_results": [{"alpha": a, "wer": w} for a, w in zip(GRID, self.grid_wer, strict=True)],
            "best_alpha": self.best_alpha,
            "best_wer": best_wer,
            "baseline_wer": baseline_wer,
            "wer_reduction": baseline_wer - best_wer,
            "exact": self.exact,
            "chosen_alpha": self.chosen_alpha,
            **self.development.summary,
            "notebook": self.development.summary["notebook"] | self.notebook,
            "cross_validation": self.cross_validation,
            "scale": self.scale,
            "fusion": asdict(self.fusion),
            "correctness": self.correctness,
            "test": None if self.test is None else self.test.summary | {"statements": self.test.statements},
            "test_nbest": self.test_source,
            "interpretation": self.interpretation,
            "statements": self.development.statements,
            "options": self.options.to_dict(),
            "nbest": self.source,
        }


def tune(nbest: NBestFile, options: TuneOptions | None = None, test: NBestFile | None = None) -> TuneResult:
    """Tune alpha on an n-best file.

    Args:
        nbest: What alpha is chosen on.
        options: Settings; the defaults are the notebook's formula, scored by words.
        test: Another n-best file, on which what was tuned is assessed without being changed.

    Raises:
        SettingsError: The normaliser is not installed.
        NBestFileError: Sums of log-probabilities are asked for and not in the file.
    """
    options = options or TuneOptions()
    language = options.language or language_code(nbest.header.settings.get("language"))
    scorer = normalizer(options.normalizer, language)
    table = build_table(nbest.utterances, scorer, options.asr_score)
    notebook = rescored(table, normalizer(NOTEBOOK))
    lines = fusion_lines(table)
    steps = trace_steps(lines)
    surface = error_surface(steps, table.errors, table.reference_words)
    on_grid = grid_errors(table, lines, GRID).sum(axis=0)
    best_alpha = GRID[int(on_grid.argmin())]  # the first of equals, as the notebook's min()
    chosen_alpha = exact_alpha(surface) if options.select == "exact" else best_alpha
    held_out = hold_out(table, lines, steps, options)
    scale = tune_scale(table, options) if options.tune_scale else None
    fusion, held_out_errors = _fusion(nbest, options, chosen_alpha, scale, held_out)
    cross_validation = None if held_out is None else held_out.to_dict(table, table.errors[steps.at_zero])
    samples = fused_samples(table, fusion)
    confidence, reason = fit_confidence(samples)
    test_table = None if test is None else build_table(test.utterances, scorer, options.asr_score)
    tested = None if test_table is None else assess(test_table, fusion, chosen_alpha, options)
    return TuneResult(
        grid_wer=tuple(error_rate(int(errors), table.total_words) for errors in on_grid),
        best_alpha=best_alpha,
        notebook=notebook_grid(notebook, lines),
        surface=surface,
        exact=_exact_section(table, lines, steps, surface),
        chosen_alpha=chosen_alpha,
        development=assess(table, fusion, chosen_alpha, options),
        test=None if test is None or tested is None else _beside(nbest, test, tested),
        cross_validation=cross_validation,
        scale=None if scale is None else scale.to_dict(),
        interpretation=_interpretation(fusion, chosen_alpha, scale, cross_validation),
        options=options,
        normalizer=scorer,
        source=nbest.header.to_dict(),
        test_source=None if test is None else test.header.to_dict(),
        table=table,
        steps=steps,
        fusion=replace(fusion, confidence=confidence),
        held_out=held_out_errors,
        correctness={
            "reason": reason,
            "development": assess_correctness(samples, confidence),
            "test": None
            if test_table is None
            else assess_correctness(fused_samples(test_table, fusion), confidence),
        },
    )


def _fusion(
    nbest: NBestFile,
    options: TuneOptions,
    alpha: float,
    scale: TunedScale | None,
    held_out: HeldOut | None,
) -> tuple[FusionSettings, IntArray | None]:
    """Return what is to be used, with its own scales only where they do better, and its held-out errors."""
    settings = FusionSettings(
        alpha=alpha,
        asr_score=options.asr_score,
        distinct=nbest.header.settings.get("distinct", "tokens"),
        normalizer=options.normalizer,
        bundle=dict(nbest.header.bundle) or None,
    )
    if held_out is None:
        return settings, None
    if scale is None or scale.held_out is None or scale.held_out.sum() >= held_out.errors.sum():
        return settings, held_out.errors
    scaled = replace(
        settings,
        alpha=scale.alpha,
        asr_temperature=scale.asr_temperature,
        clip_scale=scale.clip_scale,
    )
    return scaled, scale.held_out


def _exact_section(
    table: NBestTable, lines: FusionLines, steps: Steps, surface: ErrorSurface
) -> dict[str, Any]:
    alpha = exact_alpha(surface)
    chosen = lines.choices(alpha)
    rechecked = runtime_choices(table, alpha)
    widest = surface.widest_best_range()
    units = resampling_units(table.utterances)
    return surface.to_dict() | {
        "alpha": alpha,
        "midpoint_of_widest": widest.midpoint,
        "smallest_within_one_standard_error": smallest_alpha_within_one_error(
            table, steps, surface, units, chosen
        ),
        "choice_changes": len(steps.alpha),
        "runtime_check": {
            "alpha": alpha,
            "wer": corpus_wer(table, rechecked),
            "different_choices": int(np.count_nonzero(rechecked != chosen)),
        },
    }


def _beside(nbest: NBestFile, test: NBestFile, assessed: Assessment) -> Assessment:
    """Add to the assessment of the test data what tells them from the tuning data, and what does not."""
    return Assessment(
        assessed.alpha,
        assessed.summary | {"shared_ids": count_shared_ids(nbest, test)},
        [*describe_test(nbest, test), *assessed.statements],
    )


def _interpretation(
    fusion: FusionSettings,
    chosen_alpha: float,
    scale: TunedScale | None,
    cross_validation: dict[str, Any] | None,
) -> str:
    if not scales_are_tuned(fusion, chosen_alpha):
        return describe_alpha(chosen_alpha)
    # Scales are taken only where both were held out.
    assert scale is not None
    assert scale.held_out_wer is not None
    assert cross_validation is not None
    return describe_scales(fusion, chosen_alpha, scale.held_out_wer, cross_validation["wer"])
