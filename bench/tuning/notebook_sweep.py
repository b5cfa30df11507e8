"""The notebook's `tune_alpha`: same arguments and keys, every text encoded once, not once an alpha."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bench.nbest.records import NBestHypothesis, NBestUtterance
from bench.nbest.table import build_table
from bench.text.normalizers import normalizer
from bench.tuning.evaluation import corpus_wer
from bench.tuning.fusion_lines import fusion_lines
from bench.tuning.options import GRID
from runtime.errors import SettingsError
from runtime.fusion import to_caption_style
from runtime.results import Hypothesis


class NBestPipeline(Protocol):
    """What `tune_alpha` needs of `runtime.MultimodalASR`."""

    def generate_nbest(self, audio: Any, sr: int = 16000) -> list[Hypothesis]:
        """Recognise one utterance."""

    def image_embedding(self, image_id: Any = None, image_path: Any = None) -> tuple[Any, str | None]:
        """Return the picture's embedding, or None and why there is none."""

    def clip_similarity(self, image_embedding: Any, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the cosine of the picture with each text."""


def tune_alpha(
    pipeline: NBestPipeline,
    test_samples: Sequence[Mapping[str, Any]],
    alpha_range: Sequence[float] | npt.NDArray[np.float64] = GRID,
) -> dict[str, Any]:
    """Search alpha on a grid over paired audio and pictures.

    Args:
        pipeline: A `runtime.MultimodalASR`.
        test_samples: Dictionaries with `audio_array` (or `audio`), `reference`, optionally `sr` (default
            16000), `image_id` and `image_path`. A picture that is not found leaves its sample to
            recognition alone, as in the notebook.
        alpha_range: Values to try, each in [0, 1].

    Returns:
        `grid_results`, `best_alpha` (first minimum), `best_wer`, `baseline_wer` (at alpha = 0, whether or
        not the range holds it), `wer_reduction`, `num_samples`.

    Raises:
        SettingsError: No sample, no alpha, an alpha out of [0, 1], or a sample without audio or reference.
    """
    alphas = [float(alpha) for alpha in alpha_range]
    if not test_samples or not alphas:
        raise SettingsError(
            f"got {len(test_samples)} samples and {len(alphas)} alphas; expected at least one of each"
        )
    outside = [alpha for alpha in alphas if not 0.0 <= alpha <= 1.0]
    if outside:
        raise SettingsError(f"alpha_range holds {outside[0]}; expected values from 0 to 1")
    utterances = [_recognise(pipeline, number, sample) for number, sample in enumerate(test_samples)]
    table = build_table(utterances, normalizer("notebook"))
    lines = fusion_lines(table)

    def wer(alpha: float) -> float:
        return corpus_wer(table, lines.choices(alpha))

    grid_results = [{"alpha": alpha, "wer": wer(alpha)} for alpha in alphas]
    best = min(grid_results, key=lambda result: result["wer"])
    baseline = wer(0.0)
    return {
        "grid_results": grid_results,
        "best_alpha": best["alpha"],
        "best_wer": best["wer"],
        "baseline_wer": baseline,
        "wer_reduction": baseline - best["wer"],
        "num_samples": len(utterances),
    }


def _recognise(pipeline: NBestPipeline, number: int, sample: Mapping[str, Any]) -> NBestUtterance:
    audio = sample.get("audio_array", sample.get("audio"))
    reference = sample.get("reference")
    if audio is None or not isinstance(reference, str):
        raise SettingsError(
            f"sample {number} has {', '.join(map(str, sample)) or 'nothing'}; "
            "expected audio_array and reference (a text)"
        )
    hypotheses = pipeline.generate_nbest(audio, sample.get("sr", 16000))
    image_id, image_path = sample.get("image_id"), sample.get("image_path")
    embedding = None
    if image_id is not None or image_path is not None:
        embedding, _reason = pipeline.image_embedding(image_id, image_path)
    cosines: list[float | None] = [None] * len(hypotheses)
    if embedding is not None and hypotheses:
        texts = [to_caption_style(hypothesis.text) for hypothesis in hypotheses]
        cosines = [float(cosine) for cosine in pipeline.clip_similarity(embedding, texts)]
    listed = tuple(
        NBestHypothesis(hypothesis.text, hypothesis.score, cosine)
        for hypothesis, cosine in zip(hypotheses, cosines, strict=True)
    )
    return NBestUtterance(str(number), reference, hypotheses=listed)
