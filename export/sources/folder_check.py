"""What a folder lacks, told before transformers trips over it in words of its own."""

from importlib.metadata import version
from pathlib import Path
from typing import Final

from export.sources.source import Source
from export.sources.weight_check import MERGE
from export.sources.whisper_tokenizer import reason
from runtime.bundle.json_files import read_json_object
from runtime.bundle.tokenizer_files import load_tokenizer
from runtime.errors import BundleError, BundleNotFoundError, CheckpointError

ADAPTER: Final = "adapter_config.json"
TOKENIZER: Final = "tokenizer.json"
FEATURES: Final = ("preprocessor_config.json", "processor_config.json")
SAVE: Final = (
    "`WhisperProcessor.from_pretrained(base).save_pretrained(folder)`, base being the checkpoint that "
    "training began with"
)


def require_no_adapter(source: Source) -> None:
    """Refuse a folder that holds an adapter for another checkpoint.

    Raises:
        CheckpointError: It does; says how to merge.
    """
    path = Path(source.name) / ADAPTER
    if not path.is_file():
        return
    try:
        base = read_json_object(path).get("base_model_name_or_path")
    except BundleError:
        base = None
    of = f" of {base}" if isinstance(base, str) else ""
    raise CheckpointError(
        f"{source.name} holds {ADAPTER}: it is an adapter{of}, no whole checkpoint; {MERGE}"
    )


def require_whisper_files(source: Source) -> None:
    """Refuse a folder of bare weights, as a Trainer leaves them that was given no processor.

    Raises:
        CheckpointError: Names the missing file and how to write it.
    """
    folder = Path(source.name)
    if not folder.is_dir():
        return
    slow = (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()
    if not (slow or (folder / TOKENIZER).is_file()):
        raise CheckpointError(f"{source.name} has no {TOKENIZER}; save the processor into it: {SAVE}")
    if not ((folder / FEATURES[0]).is_file() or _has_features(folder / FEATURES[1])):
        raise CheckpointError(f"{source.name} has no {FEATURES[0]}; save the processor into it: {SAVE}")


def _has_features(path: Path) -> bool:
    """Tell whether a processor's settings hold the features', for which transformers has silent defaults."""
    try:
        return isinstance(read_json_object(path).get("feature_extractor"), dict)
    except BundleNotFoundError:
        return False
    except BundleError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}; save it again: {SAVE}") from error


def require_readable_tokenizer(source: Source) -> None:
    """Refuse a `tokenizer.json` that this version of tokenizers cannot read.

    Raises:
        CheckpointError: Names the versions and the mend.
    """
    path = Path(source.name) / TOKENIZER
    if not path.is_file():
        return
    try:
        load_tokenizer(path)
    except BundleError as error:
        here = version("tokenizers")
        raise CheckpointError(
            f"{source.name}: the tokenizer cannot be loaded: {TOKENIZER} is damaged, or was saved by a newer "
            f"version than tokenizers {here}{_writer(path.parent)}: {reason(error)}; save it again with "
            f"transformers {version('transformers')}: {SAVE}"
        ) from error


def _writer(folder: Path) -> str:
    try:
        found = read_json_object(folder / "config.json").get("transformers_version")
    except BundleError:
        return ""
    return f" (config.json: transformers {found})" if isinstance(found, str) else ""
