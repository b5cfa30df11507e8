"""Settings of Whisper's features: whether they are those of the weights."""

from pathlib import Path
from typing import Final

from transformers import WhisperConfig, WhisperFeatureExtractor

from runtime.errors import CheckpointError

KIND: Final = "WhisperFeatureExtractor"


def require_fitting_features(
    path: Path | str, extractor: WhisperFeatureExtractor, config: WhisperConfig, mend: str
) -> None:
    """Refuse settings of another model.

    Args:
        path: Where they come from, for messages.
        extractor: As loaded.
        config: Of the model.
        mend: How to get the right ones, for messages.

    Raises:
        CheckpointError: They are of another kind of features, or their features have another shape than the
            encoder takes.
    """
    kind = getattr(extractor, "feature_extractor_type", None) or KIND
    if kind != KIND:
        raise CheckpointError(f"{path} holds settings of {kind}; expected those of {KIND}: {mend}")
    stated = (extractor.feature_size, extractor.nb_max_frames)
    wanted = (config.num_mel_bins, 2 * config.max_source_positions)
    if stated != wanted:
        raise CheckpointError(
            f"{path} says {stated[0]} mel bands and {stated[1]} frames, the weights {wanted[0]} and "
            f"{wanted[1]}; {mend}"
        )
