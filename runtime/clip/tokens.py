"""Texts → batches of token ids for CLIP's text tower, as `transformers.CLIPTokenizerFast` makes them.

Short texts should not pay for long ones: they are sorted by length and each batch is padded to its own
longest. Padding has no influence on the embedding, since CLIP's text tower attends backwards only and reads
the position of the end token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from runtime.bundle.json_files import read_json_object, whole_number_from
from runtime.bundle.tokenizer_files import load_tokenizer, tokenizer_faults
from runtime.errors import BundleError, SettingsError

TOKENIZER_FILE: Final = "tokenizer.json"
CONFIG_FILE: Final = "config.json"
MAX_CONTEXT: Final = 8_192  # tokens; CLIP's published checkpoints take 77 to 248
# Characters that are looked at for one token of context: a pre-token is split into tokens only as a whole, so
# a book given as one "text" would cost seconds for 77 tokens.
MAX_CHARACTERS: Final = 1 << 20

Ids = npt.NDArray[np.int64]


class TextBatch(NamedTuple):
    """One batch for the text tower.

    Attributes:
        indices: Which of the texts these rows are, shape (B,).
        input_ids: Token ids, shape (B, T).
        attention_mask: 1 for a token, 0 for padding, shape (B, T).
    """

    indices: Ids
    input_ids: Ids
    attention_mask: Ids


@dataclass(frozen=True, slots=True)
class ClipTokens:
    """The vocabulary of one CLIP checkpoint.

    Attributes:
        tokenizer: Set to truncate at `context_length` and not to pad.
        context_length: Most tokens of a text, start and end included.
        start_id: Token that opens every text.
        end_id: Token that closes every text, also a truncated one.
        pad_id: Token that fills a row of a batch.
    """

    tokenizer: Tokenizer
    context_length: int
    start_id: int
    end_id: int
    pad_id: int

    @classmethod
    def from_folder(cls, folder: Path) -> "ClipTokens":
        """Read `tokenizer.json` and `config.json` of a bundle's `clip` folder.

        The ids come from the tokenizer, not from `text_config`: OpenAI's published configurations state
        wrong ones (bos 0, eos 2). https://github.com/huggingface/transformers/pull/24773

        Raises:
            BundleNotFoundError: One of the files is missing.
            BundleError: A file is damaged, or the tokenizer is no CLIP tokenizer.
        """
        path, config_path = Path(folder) / TOKENIZER_FILE, Path(folder) / CONFIG_FILE
        config = read_json_object(config_path)
        text_config = config.get("text_config", config)
        if not isinstance(text_config, dict):
            raise BundleError(f"{config_path}: text_config is no object")
        length = whole_number_from(text_config, "max_position_embeddings", 77, 3, MAX_CONTEXT, config_path)
        tokenizer = load_tokenizer(path)
        padding = tokenizer.padding
        tokenizer.no_padding()
        tokenizer.no_truncation()
        with tokenizer_faults(f"{path} cannot encode the empty text"):
            bare = tokenizer.encode("").ids
        if len(bare) != 2:
            raise BundleError(
                f"{path}: the empty text has {len(bare)} tokens; expected two, start and end, as CLIP has"
            )
        tokenizer.enable_truncation(length)
        pad_id = padding["pad_id"] if padding is not None else bare[1]
        return cls(tokenizer, length, start_id=bare[0], end_id=bare[1], pad_id=int(pad_id))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise.

        Args:
            texts: Any strings; lone surrogates count as U+FFFD.

        Returns:
            For each text: start token, tokens, end token; at most `context_length` of them.

        Raises:
            SettingsError: A text is no string.
            BundleError: The vocabulary lacks a character and has no token for unknown ones.
        """
        cleaned = [_clean(text) for text in texts]
        with tokenizer_faults(f"{TOKENIZER_FILE} cannot encode a text"):
            return [encoding.ids for encoding in self.tokenizer.encode_batch(cleaned)]

    def batches(self, texts: Sequence[str], batch_size: int = 64) -> Iterator[TextBatch]:
        """Tokenise and group by length, shortest first.

        Args:
            texts: Any strings; pass those of `unique_texts`, so that none is encoded twice.
            batch_size: Most texts of a batch.

        Yields:
            Batches that hold every text once, each padded to its longest.

        Raises:
            SettingsError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise SettingsError(f"batch_size is {batch_size}; expected 1 or more")
        encoded = self.encode(texts)
        lengths = np.array([len(ids) for ids in encoded], np.int64)
        order = np.argsort(lengths, kind="stable").astype(np.int64)
        for first in range(0, order.size, batch_size):
            indices = order[first : first + batch_size]
            columns = np.arange(lengths[indices].max())
            mask = (columns[None, :] < lengths[indices][:, None]).astype(np.int64)
            rows = np.full(mask.shape, self.pad_id, np.int64)
            rows[mask == 1] = np.concatenate([encoded[index] for index in indices])
            yield TextBatch(indices, rows, mask)


def unique_texts(texts: Sequence[str]) -> tuple[list[str], Ids]:
    """Leave out duplicates.

    Args:
        texts: Any strings.

    Returns:
        The different texts in order of first appearance, and for each of `texts` its index among them,
        shape (len(texts),): `embeddings_of_unique[index_map]` are the embeddings of `texts`.
    """
    position: dict[str, int] = {}
    index_map = np.array([position.setdefault(text, len(position)) for text in texts], np.int64)
    return list(position), index_map


def _clean(text: str) -> str:
    if not isinstance(text, str):
        raise SettingsError(f"text of type {type(text).__name__}; expected str")
    # UTF-16 joins surrogate pairs, which JSON escapes may leave apart, and replaces lone ones.
    return text[:MAX_CHARACTERS].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
