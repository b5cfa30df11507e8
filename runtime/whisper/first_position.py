"""What the decoder says right after `<|startoftranscript|>`: is anybody speaking, and in which language?

Where the language is to be detected, a run of its own asks for both: the prompt depends on it. Else the
run that reads the prompt tells the probability of no speech as well.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.whisper.lineage import Candidates, LineageDecoder
from runtime.whisper.token_rules import allow_only
from runtime.whisper.tokens import WhisperTokens


@dataclass(frozen=True, slots=True)
class FirstPosition:
    """What the decoder says at the first position.

    Attributes:
        no_speech_prob: Probability of `<|nospeech|>` for each utterance, (N,); NaN where the checkpoint has
            no such token.
        languages: Most probable language code of each utterance; None for an English-only checkpoint.
    """

    no_speech_prob: NDArray[np.float32]
    languages: list[str] | None


def read_first_position(decoder: LineageDecoder, tokens: WhisperTokens, batch: int) -> FirstPosition:
    """Read both off one run of a decoder at its beginning, which is of no use afterwards."""
    languages = {token: code for code, token in tokens.languages.items()} if tokens.is_multilingual else {}
    watched = [*languages] + ([tokens.no_speech_id] if tokens.no_speech_id is not None else [])
    if not watched:
        return FirstPosition(np.full(batch, np.nan, np.float32), None)
    prompt = np.full((batch, 1), tokens.start_token_id, np.int64)
    log_probs, ids = decoder.prefill(prompt, allow_only(tokens.vocab_size, watched), len(watched))
    no_speech = np.full(batch, np.nan, np.float32)
    found: list[str] = []
    for row in range(batch):
        best = dict(zip(ids[row, 0].tolist(), log_probs[row, 0].tolist(), strict=True))
        if tokens.no_speech_id is not None:
            no_speech[row] = np.exp(best.pop(tokens.no_speech_id))
        if languages:
            found.append(languages[max(best, key=best.__getitem__)])
    return FirstPosition(no_speech, found or None)


class ReadWithPrompt:
    """`StepDecoder` that reads the probability of a token at the first position along with the prompt.

    Args:
        decoder: The decoder, at its beginning.
        token: The token, `<|nospeech|>`.
        into: Where to write its probability for each utterance, (N,).
    """

    def __init__(self, decoder: LineageDecoder, token: int, into: NDArray[np.float32]) -> None:
        self.step = decoder.step
        self.keep = decoder.keep
        self._decoder = decoder
        self._token = token
        self._into = into

    def prefill(self, prompts: NDArray[np.int64], token_mask: NDArray[np.float32], top_k: int) -> Candidates:
        """Read the prompts; see `StepDecoder.prefill`."""
        masks = np.concatenate([allow_only(token_mask.shape[1], [self._token]), token_mask])
        log_probs, tokens = self._decoder.read(prompts, [0, prompts.shape[1] - 1], masks, top_k)
        self._into[:] = np.exp(log_probs[:, 0, 0])
        return log_probs[:, 1:], tokens[:, 1:]
