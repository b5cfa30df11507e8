"""Settings of a tuning run."""

from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import numpy as np

from bench.text.normalizers import DEFAULT_NORMALIZER, NORMALIZER_NAMES, checked_language
from runtime.errors import SettingsError
from runtime.fusion import CLIP_LOGIT_SCALE
from runtime.fusion_settings import AsrScore

# The notebook's 21 values, 0.00 … 1.00, rounded as it rounds them.
GRID: Final = tuple(np.round(np.arange(0.0, 1.05, 0.05), 2).tolist())

# ASR temperature and CLIP scale of the notebook's formula.
NOTEBOOK_SCALES: Final = (1.0, CLIP_LOGIT_SCALE)

Selection = Literal["exact", "grid"]


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """Settings of a tuning run.

    Attributes:
        normalizer: Text normaliser for scoring: words, notebook, basic or english.
        language: Of the texts, for `words`; None takes that of the n-best file's settings, if it has one.
        asr_score: ASR score of a hypothesis: mean or sum of its token log-probabilities.
        select: Which alpha is taken to the test set and assessed: "exact" or the notebook's "grid".
        tune_scale: Whether ASR temperature and CLIP logit scale are tuned with alpha.
        replicates: Bootstrap replicas.
        level: Coverage of the confidence intervals.
        folds: Folds of the cross-validation where it is not one a speaker.
        seed: Of bootstrap, folds and permutations.
    """

    normalizer: str = DEFAULT_NORMALIZER
    language: str | None = None
    asr_score: AsrScore = "mean"
    select: Selection = "exact"
    tune_scale: bool = False
    replicates: int = 10_000
    level: float = 0.95
    folds: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("normalizer", NORMALIZER_NAMES),
            ("asr_score", ("mean", "sum")),
            ("select", ("exact", "grid")),
        ):
            if getattr(self, name) not in allowed:
                raise SettingsError(
                    f"{name} is {getattr(self, name)!r}; expected one of {', '.join(allowed)}"
                )
        if self.language is not None:
            checked_language(self.language)
        for name, lowest in (("replicates", 100), ("folds", 2), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise SettingsError(f"{name} is {getattr(self, name)}; expected at least {lowest}")
        if not 0.5 <= self.level < 1.0:
            raise SettingsError(f"level is {self.level}; expected a coverage of 0.5 or more and below 1")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        return asdict(self)
