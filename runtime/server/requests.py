"""The fields of every endpoint, and what a transcription is asked for by them."""

from dataclasses import dataclass, replace
from typing import Any, Final

from runtime.errors import SettingsError
from runtime.fusion import checked_alpha
from runtime.pipeline import MultimodalASR
from runtime.server.answers import FORMATS
from runtime.server.correction_store import HOWS
from runtime.server.faults import Fault, fault_of
from runtime.server.fields import Field
from runtime.whisper.beam_settings import BeamSearchSettings
from runtime.whisper.language_names import AUTO

MOST_BEAMS: Final = 10
MOST_TOKENS: Final = 65_536  # of the largest decoder; the model's own limit is lower
LONGEST_URL: Final = 2**25  # characters; the body's limit is lower
MOST_TEXTS: Final = 100

MODEL: Final = Field(
    "model", "string", "the model's name, as /v1/models lists it", required=True, longest=200
)
PICTURE: Final = (
    Field("image", "file", "the picture that the speaker describes"),
    Field("image_id", "string", "id of a picture sent before, or key of the image cache", longest=1000),
    Field("image_url", "string", "the picture as a data: URL; nothing is fetched", longest=LONGEST_URL),
    Field(
        "strict_image",
        "boolean",
        "refuse an image_id that is not there",
        default=False,
    ),
)
ALPHA: Final = Field(
    "alpha", "number", "weight of the picture; the server's own where it is absent", least=0, most=1
)
TRANSCRIPTION: Final = (
    Field("file", "file", "the recording", required=True),
    MODEL,
    Field("language", "string", "language code or name; detected where it is absent or auto", longest=100),
    Field("response_format", "string", "form of the answer", default="json", choices=FORMATS),
    Field(
        "timestamp_granularities[]", "string", "times in verbose_json; segments alone are timed",
        choices=("segment",),
    ),
    Field("temperature", "number", "0: the search does not sample", least=0, most=0),
    Field("stream", "boolean", "send every segment as an event as soon as it is recognised", default=False),
    *PICTURE,
    ALPHA,
    Field("n", "integer", "most alternatives in the answer", least=1, most=MOST_BEAMS),
    Field("num_beams", "integer", "beams of the search", least=1, most=MOST_BEAMS),
    Field("max_new_tokens", "integer", "most tokens of a hypothesis", least=1, most=MOST_TOKENS),
)  # fmt: skip
PICTURES: Final = (Field("file", "file", "the picture", required=True),)
RESCORE: Final = (
    MODEL,
    Field("image_id", "string", PICTURE[1].help, longest=1000),
    Field("image_url", "string", PICTURE[2].help, longest=LONGEST_URL),
    ALPHA,
)
SCORES: Final = ("asr_score", "clip_score", "fused_score", "alpha_from")
FIT: Final = RESCORE[:3]
# One of the hypotheses of a rescoring: an alternative of an answer, whose scores are computed anew.
HYPOTHESIS: Final = (
    Field("text", "string", "what was said", required=True),
    Field("mean_logprob", "number", "mean log-probability per token", required=True, least=-1e6, most=1e6),
    Field("display", "string", "the text as written"),
    Field("num_tokens", "integer", "tokens of the hypothesis", least=0, most=MOST_TOKENS, default=0),
)
# An alternative of an answer as it was shown; what was not computed is null and left out.
SHOWN: Final = (
    *HYPOTHESIS,
    Field("id", "integer", "number of the alternative", least=0, most=MOST_TEXTS),
    *(Field(name, "number", "as in the answer", least=-1e6, most=1e6) for name in SCORES),
    Field("rank_without_picture", "integer", "its place without the picture", least=0, most=MOST_TEXTS),
)
CORRECTION: Final = (
    Field("file", "file", "the recording", required=True),
    PICTURE[0],
    Field("image_id", "string", "key of the image cache, or id of a picture kept before", longest=1000),
    Field("speaker", "string", "pseudonym: letters, digits, . _ or -", required=True, longest=64),
    Field("how", "string", "how the reference came about", required=True, choices=HOWS),
    Field("reference", "string", "what was said; empty for none alone", default=""),
    Field(
        "shown", "string", "the alternatives as they were shown, a JSON list of an answer's", required=True,
        longest=100_000,
    ),
    Field("rank", "integer", "place of the chosen text among them", least=0, most=MOST_TEXTS),
    Field("seconds", "number", "how long the person needed", least=0, most=86_400),
    Field("taps", "integer", "how many taps the person needed", least=0, most=100_000),
    Field("consent", "boolean", "the person agrees that this is kept; must be true", required=True),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a transcription is asked for, verified.

    Attributes:
        search: How to search.
        language: Language code or name; None for the checkpoint's own or a detected one.
        alpha: Weight of the picture.
        alternatives: Most alternatives in the answer.
        response_format: One of `FORMATS`.
        stream: Whether to send every segment by itself.
    """

    search: BeamSearchSettings
    language: str | None
    alpha: float
    alternatives: int
    response_format: str
    stream: bool


def read_wishes(values: dict[str, Any], asr: MultimodalASR) -> Wishes:
    """Verify what a transcription is asked for before anything is decoded.

    Args:
        values: Fields of `TRANSCRIPTION`.
        asr: The pipeline, whose settings stand for what is absent.

    Raises:
        Fault: Something contradicts something else, or the model cannot do it.
    """
    has_picture = any(values[name] is not None for name in ("image", "image_id", "image_url"))
    if values["alpha"] is not None and not has_picture:
        raise Fault(400, "alpha weighs a picture, and none was sent; expected one as well", param="alpha")
    if values["stream"] and values["response_format"] != "json":
        raise Fault(
            400, f"a stream of {values['response_format']}; expected response_format json", param="stream"
        )
    if values["timestamp_granularities[]"] is not None and values["response_format"] != "verbose_json":
        raise Fault(
            400, "times are in response_format verbose_json, srt and vtt alone",
            param="timestamp_granularities[]",
        )  # fmt: skip
    search = _search(values, asr.search)
    language = values["language"]
    if language is None:
        language = asr.language
    elif language.strip().lower() == AUTO:
        language = None
    for param, changes in (("language", {"language": language}), ("max_new_tokens", {"search": search})):
        try:
            replace(asr.recognizer, **changes)
        except SettingsError as error:
            raise fault_of(error, param) from error
    return Wishes(
        search=search,
        language=language,
        alpha=asr.alpha if values["alpha"] is None else checked_alpha(values["alpha"]),
        alternatives=values["n"] or search.count,
        response_format=values["response_format"],
        stream=values["stream"],
    )


def _search(values: dict[str, Any], default: BeamSearchSettings) -> BeamSearchSettings:
    wanted, beams = values["n"], values["num_beams"]
    if beams is None:
        beams = max(default.num_beams, wanted or 0)
    elif wanted is not None and wanted > beams:
        raise Fault(
            400, f"n is {wanted}, but {beams} beams yield {beams} alternatives at most; raise num_beams",
            param="n",
        )  # fmt: skip
    tokens = values["max_new_tokens"] or default.max_new_tokens
    is_default = values["num_beams"] is None and (wanted or 0) <= default.count
    hypotheses = default.num_hypotheses if is_default else None
    return replace(default, num_beams=beams, num_hypotheses=hypotheses, max_new_tokens=tokens)


def require_model(name: str, models: tuple[str, ...]) -> None:
    """Refuse a model that is not served.

    Raises:
        Fault: It is none of them.
    """
    if name not in models:
        raise Fault(
            404, f"there is no model {name[:80]!r}; expected {' or '.join(models)}", param="model",
            code="model_not_found",
        )  # fmt: skip
