"""`fusion.json`: how hypotheses and picture are to be fused, as it was tuned on data.

`python -m bench tune` writes it; `MultimodalASR(fusion=…)` and `--fusion` use it. It names the bundle that it
was tuned with, because another recogniser's probabilities, or another CLIP's cosines, want another weight.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from runtime.bundle.json_files import read_json_object
from runtime.errors import SettingsError
from runtime.files.write_whole import write_json
from runtime.fusion import CLIP_LOGIT_SCALE, DEFAULT_ALPHA, FusedScores, checked_alpha, fuse, rank
from runtime.whisper.beam_settings import DISTINCT, Distinct

SCHEMA: Final = "earsight.fusion/1"
AsrScore = Literal["mean", "sum"]
# What the confidence looks at: see `confidence_features`.
FEATURES: Final = ("asr_score", "log_fused", "margin", "asr_probability", "clip_probability")


@dataclass(frozen=True, slots=True)
class Confidence:
    """Logistic regression from features of a fused list to the probability that its first text is right.

    Attributes:
        weights: One for each of `FEATURES`.
        bias: Added to the weighted features.
    """

    weights: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        """Verify.

        Raises:
            SettingsError: Another number of weights, or one that is no finite number.
        """
        numbers = (*self.weights, self.bias)
        if len(self.weights) != len(FEATURES) or not all(map(_is_number, numbers)):
            raise SettingsError(
                f"confidence has weights {list(self.weights)!r} and bias {self.bias!r}; expected "
                f"{len(FEATURES)} finite weights ({', '.join(FEATURES)}) and a bias: tune again"
            )

    def probability(self, features: Sequence[float]) -> float:
        """Return the probability for one list's features, in (0, 1)."""
        total = self.bias + sum(w * f for w, f in zip(self.weights, features, strict=True))
        return 1.0 / (1.0 + math.exp(-min(max(total, -500.0), 500.0)))


def confidence_features(scores: npt.ArrayLike, fused: FusedScores) -> tuple[float, ...]:
    """Return what the confidence looks at, in the order of `FEATURES`.

    Args:
        scores: ASR scores of the list, shape (n,), n at least 1.
        fused: Their fusion with the picture.

    Returns:
        Of the first text: its ASR score, the log of its fused score, what that is ahead of the second's (1
        where there is none), and its probabilities by sound and by picture.
    """
    order = rank(fused.fused)
    first = int(order[0])
    ahead = float(fused.fused[first] - fused.fused[order[1]]) if len(order) > 1 else 1.0
    score = float(np.asarray(scores, dtype=np.float64)[first])
    return (
        score,
        math.log(max(float(fused.fused[first]), 1e-300)),
        ahead,
        float(fused.asr[first]),
        float(fused.clip[first]),
    )


@dataclass(frozen=True, slots=True)
class FusionSettings:
    """How a list is fused.

    Attributes:
        alpha: Weight of the picture, in [0, 1].
        asr_score: "mean" or "sum" of the log-probabilities of a hypothesis' tokens.
        asr_temperature: Divides the ASR scores before the softmax.
        clip_scale: Multiplies the cosines before the softmax.
        distinct: What the lists differed in that it was tuned on.
        normalizer: How texts were compared.
        bundle: Name and SHA-256 of the bundle that it was tuned with; empty where nobody has tuned it.
        confidence: How sure the first text is; None without calibration.
    """

    alpha: float = DEFAULT_ALPHA
    asr_score: AsrScore = "mean"
    asr_temperature: float = 1.0
    clip_scale: float = CLIP_LOGIT_SCALE
    distinct: Distinct = "tokens"
    normalizer: str | None = None
    bundle: Mapping[str, Any] | None = None
    confidence: Confidence | None = None

    def __post_init__(self) -> None:
        """Verify.

        Raises:
            SettingsError: A value is out of its range.
        """
        checked_alpha(self.alpha)
        for name, allowed in (("asr_score", get_args(AsrScore)), ("distinct", DISTINCT)):
            if getattr(self, name) not in allowed:
                raise SettingsError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(allowed)}")
        for name in ("asr_temperature", "clip_scale"):
            value = getattr(self, name)
            if not _is_number(value) or value <= 0.0:
                raise SettingsError(f"{name} is {value!r}; expected a positive number")

    def fuse(self, scores: npt.ArrayLike, cosines: npt.ArrayLike, alpha: float) -> FusedScores:
        """Fuse one list; see `runtime.fusion.fuse`."""
        return fuse(scores, cosines, alpha, asr_temperature=self.asr_temperature, clip_scale=self.clip_scale)

    def save(self, path: Path) -> Path:
        """Write `fusion.json`.

        Raises:
            OutputError: It cannot be written.
        """
        return write_json(path, {"schema": SCHEMA, **asdict(self)})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "FusionSettings":
        """Read `fusion.json`.

        Raises:
            SettingsError: The file is missing, of another schema, or a value is out of its range.
            BundleError: It is no JSON.
        """
        place = Path(path)
        if not place.is_file():
            raise SettingsError(
                f"{place}: no such file; expected a fusion.json as `python -m bench tune` writes it"
            )
        content = read_json_object(place)
        if content.pop("schema", None) != SCHEMA:
            raise SettingsError(f"{place} is no fusion.json of this version ({SCHEMA}): tune again")
        confidence = content.pop("confidence", None)
        try:
            if confidence is not None:
                confidence = Confidence(tuple(confidence["weights"]), confidence["bias"])
            return cls(**content, confidence=confidence)
        except (TypeError, KeyError) as error:
            raise SettingsError(
                f"{place} does not hold what a fusion.json holds ({error}): tune again"
            ) from error
        except SettingsError as error:
            raise SettingsError(f"{place}: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
