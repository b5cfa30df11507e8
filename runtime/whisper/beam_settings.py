"""The options of the beam search, verified in one place."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from runtime.errors import SettingsError

_LARGEST_PENALTY = 10

Distinct = Literal["tokens", "words"]
DISTINCT: Final[tuple[Distinct, ...]] = get_args(Distinct)


@dataclass(frozen=True, slots=True)
class BeamSearchSettings:
    """How to search; verified on construction, and against the model by `beam_search`.

    Attributes:
        num_beams: Beams K per utterance, at least 1; with one beam the first hypothesis is the greedy one.
        num_hypotheses: Length of the n-best list, 1 to K; None for K.
        max_new_tokens: Most tokens to generate, end-of-text included; None for what the model allows.
        length_penalty: The sum of log-probabilities is divided by the number of generated tokens, end-of-text
            included, to this power.
        early_stopping: False: done when the best running beam, at its present length, is no better than the
            worst of K finished hypotheses. True: done as soon as K hypotheses are finished. "never": as
            False, but the running beam is scored at the length most favourable to it.
        distinct: What hypotheses of a list differ in: "tokens", as in the reference, or "words": case,
            punctuation, hyphens and spacing aside (`runtime.whisper.word_search`).
    """

    num_beams: int = 5
    num_hypotheses: int | None = None
    max_new_tokens: int | None = None
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    distinct: Distinct = "tokens"

    def __post_init__(self) -> None:
        _require_positive("num_beams", self.num_beams)
        if self.distinct not in DISTINCT:
            raise SettingsError(f"distinct is {self.distinct!r}; expected {' or '.join(map(repr, DISTINCT))}")
        if self.num_hypotheses is not None:
            _require_positive("num_hypotheses", self.num_hypotheses)
            if self.num_hypotheses > self.num_beams:
                raise SettingsError(
                    f"num_hypotheses is {self.num_hypotheses}, but {self.num_beams} beams yield at most "
                    f"{self.num_beams} hypotheses; raise num_beams"
                )
        if self.max_new_tokens is not None:
            _require_positive("max_new_tokens", self.max_new_tokens)
        # Beyond this, 448 ** length_penalty leaves the range of float32. Written so that nan is refused, too.
        if not abs(self.length_penalty) <= _LARGEST_PENALTY:
            raise SettingsError(
                f"length_penalty is {self.length_penalty!r}; expected a number from -{_LARGEST_PENALTY} "
                f"to {_LARGEST_PENALTY}, such as 1.0"
            )
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise SettingsError(f'early_stopping is {self.early_stopping!r}; expected False, True or "never"')

    @property
    def count(self) -> int:
        """Length of the n-best list."""
        return self.num_hypotheses or self.num_beams

    def new_token_limit(self, prompt_length: int, max_length: int, vocab_size: int) -> int:
        """Verify the settings against the model.

        Args:
            prompt_length: Tokens of the prompt, P.
            max_length: Most tokens that the model takes, prompt included.
            vocab_size: Tokens of the model, V.

        Returns:
            The most tokens to generate, at least 1.

        Raises:
            SettingsError: More beams than the vocabulary can feed, or no room for the wanted tokens.
        """
        if 2 * self.num_beams > vocab_size:
            raise SettingsError(
                f"num_beams is {self.num_beams}, but a vocabulary of {vocab_size} tokens allows at most "
                f"{vocab_size // 2} beams (two candidates per beam)"
            )
        room = max_length - prompt_length
        if prompt_length < 1 or room < 1:
            raise SettingsError(
                f"the prompt has {prompt_length} tokens; expected 1 to {max_length - 1}, "
                f"because the model takes {max_length} tokens, prompt included"
            )
        if self.max_new_tokens is None:
            return room
        if self.max_new_tokens > room:
            raise SettingsError(
                f"max_new_tokens is {self.max_new_tokens}, but after a prompt of {prompt_length} tokens "
                f"the model has room for {room}"
            )
        return self.max_new_tokens


def _require_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SettingsError(f"{name} is {value!r}; expected a whole number of at least 1")
