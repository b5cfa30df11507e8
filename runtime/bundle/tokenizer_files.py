"""Opening `tokenizer.json`, and what the tokenizers library raises, as an error of the project."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from runtime.errors import BundleError, BundleNotFoundError

# What `clean_up_tokenization_spaces` of the tokenizer's configuration means in transformers.
_CLEAN_UP = [
    (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"),
    (" n't", "n't"), (" 'm", "'m"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
]  # fmt: skip


def clean_up(text: str) -> str:
    """Remove the blanks before punctuation that some tokenizers' configuration asks to remove."""
    for artefact, clean in _CLEAN_UP:
        text = text.replace(artefact, clean)
    return text


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`.

    Raises:
        BundleNotFoundError: There is no such file.
        BundleError: It is no tokenizer.
    """
    if not path.is_file():
        raise BundleNotFoundError(f"{path} is missing; expected a checkpoint or bundle")
    with tokenizer_faults(f"{path} is no tokenizer"):
        return Tokenizer.from_file(str(path))


@contextmanager
def tokenizer_faults(what: str) -> Iterator[None]:
    """Turn the faults of the tokenizers library into `BundleError`.

    It raises the bare `Exception` for files that are malformed, and panics on some that contradict themselves
    (merges of empty tokens); a panic of Rust arrives as a `BaseException` that cannot be imported.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise BundleError(f"{what}: {error}; export the bundle again from an intact checkpoint") from error
