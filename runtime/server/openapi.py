"""The OpenAPI document: paths here, fields from the table that also reads them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from runtime.server.faults import STATUSES
from runtime.server.fields import MOST_TEXT, Field
from runtime.server.requests import (
    CORRECTION,
    FIT,
    HYPOTHESIS,
    MOST_TEXTS,
    PICTURES,
    RESCORE,
    TRANSCRIPTION,
)

Schema = dict[str, Any]
TITLE: Final = "earsight"
TEXTS: Final = ("text/plain", "application/x-subrip", "text/vtt", "text/event-stream")
ASKED: Final = (400, 401, 403, 408, 413, 415, 429, 500, 503, 504)  # what an endpoint with a body may answer
LOOKED_UP: Final = (400, 401, 403, 404, 429, 500)


def document(version: str, *, with_tokens: bool) -> Schema:
    """Return the OpenAPI 3.1 document.

    Args:
        version: Of the package.
        with_tokens: Whether requests need a token.
    """
    security: list[Schema] = [{"token": []}] if with_tokens else []
    return {
        "openapi": "3.1.0",
        "info": {
            "title": TITLE,
            "version": version,
            "description": "Speech recognition that looks at the picture which the speaker describes.",
        },
        "paths": {
            "/v1/audio/transcriptions": {"post": _transcription()},
            "/v1/pictures": {"post": _pictures()},
            "/v1/pictures/{picture_id}": {"delete": _picture_removal()},
            "/v1/rescore": {"post": _rescoring()},
            "/v1/corrections": {"get": _corrections_state(), "post": _correction()},
            "/v1/corrections/speakers/{speaker}": {"delete": _speaker_removal()},
            "/v1/fit": {"post": _fitting()},
            "/v1/gallery": {"get": _get("The pictures that are offered to describe.", "Gallery")},
            "/gallery/{picture_id}": {
                "get": _file(
                    "A picture of the gallery, by its id.", "image/*", 403, 404, 500, parameter="picture_id"
                )
            },
            "/v1/models": {"get": _get("The names of the model.", "ModelList")},
            "/v1/models/{model}": {
                "get": _get("The model by one of its names.", "Model", "model", *LOOKED_UP)
            },
            **{path: {"get": _health(text)} for path, text in HEALTH.items()},
            "/": {"get": _file("The page for people.", "text/html", 403, 500)},
            "/page/{name}": {"get": _file("What the page loads.", "text/*", 403, 404, 500, parameter="name")},
        },
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": security,
    }


HEALTH: Final = {
    "/livez": "Whether the process is of any use.",
    "/readyz": "Whether requests are answered.",
    "/v2/health/live": "As /livez, for clients of KServe.",
    "/v2/health/ready": "As /readyz, for clients of KServe.",
}


def _transcription() -> Schema:
    answers = {
        "application/json": {"schema": {"anyOf": [_ref("VerboseTranscription"), _ref("Transcription")]}},
        **{
            kind: {"schema": {"type": "string"}}
            for kind in ("text/plain", "application/x-subrip", "text/vtt")
        },
        "text/event-stream": {"schema": {"type": "string"}},
    }
    return {
        "summary": "Recognise a recording, with the picture that it describes where there is one.",
        "requestBody": _form(TRANSCRIPTION),
        "responses": {"200": {"description": "The text, in the format asked for.", "content": answers}}
        | _faults(*ASKED, 404),
    }


def _pictures() -> Schema:
    return {
        "summary": "Keep the embedding of a picture, to be named by its id.",
        "requestBody": _form(PICTURES),
        "responses": _json("The picture's id.", "Picture") | _faults(*ASKED),
    }


def _picture_removal() -> Schema:
    return {
        "summary": "Forget a picture.",
        "parameters": [_path_parameter("picture_id")],
        "responses": _json("The picture that was forgotten.", "RemovedPicture") | _faults(*LOOKED_UP),
    }


def _rescoring() -> Schema:
    computed = {"type": "object", "description": "An alternative of an answer; its scores are computed anew."}
    hypotheses = {
        "type": "array",
        "minItems": 1,
        "maxItems": MOST_TEXTS,
        "items": computed | _object(HYPOTHESIS),
    }
    schema = _object(RESCORE)
    schema["properties"]["hypotheses"] = hypotheses
    schema["required"].append("hypotheses")
    return {
        "summary": "Fuse alternatives with a picture, or with another weight; nothing is listened to again.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _json("The alternatives in their new order.", "Rescoring") | _faults(*ASKED, 404),
    }


def _corrections_state() -> Schema:
    return {
        "summary": "Whether corrections are kept, and for how many days.",
        "responses": _json("The state.", "CorrectionsState") | _faults(*LOOKED_UP[:3], 429, 500),
    }


def _correction() -> Schema:
    kept = _json("It was corrected before; this takes its place.", "Correction")
    return {
        "summary": "Keep a recording with what was said, to tune on, where the server was told where.",
        "requestBody": _form(CORRECTION),
        "responses": kept | {"201": _json("It is kept.", "Correction")["200"]} | _faults(*ASKED, 404, 507),
    }


def _speaker_removal() -> Schema:
    return {
        "summary": "Remove all that is kept of a speaker.",
        "parameters": [_path_parameter("speaker")],
        "responses": _json("How many utterances there were.", "RemovedSpeaker") | _faults(*LOOKED_UP, 507),
    }


def _fitting() -> Schema:
    schema = _object(FIT)
    text = {"type": "string", "minLength": 1, "maxLength": MOST_TEXT}
    schema["properties"]["texts"] = {"type": "array", "minItems": 1, "maxItems": MOST_TEXTS, "items": text}
    schema["required"].append("texts")
    return {
        "summary": "How many pictures of the gallery fit one of the texts better than this picture fits any.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
        "responses": _json("How it fits.", "Fit") | _faults(*ASKED, 404),
    }


def _file(summary: str, kind: str, *faults: int, parameter: str | None = None) -> Schema:
    """Describe what browsers load, without a token."""
    answer = {"description": summary, "content": {kind: {"schema": {"type": "string"}}}}
    return {
        "summary": summary,
        "security": [],
        "parameters": [] if parameter is None else [_path_parameter(parameter)],
        "responses": {"200": answer} | _faults(*faults),
    }


def _get(summary: str, schema: str, parameter: str | None = None, *faults: int) -> Schema:
    parameters = [] if parameter is None else [_path_parameter(parameter)]
    responses = _json(summary, schema) | _faults(*(faults or LOOKED_UP[:3]), 429, 500)
    return {"summary": summary, "parameters": parameters, "responses": responses}


def _health(summary: str) -> Schema:
    responses = _json("It is.", "Health") | {"503": _json("It is not.", "Health")["200"]}
    return {"summary": summary, "security": [], "responses": responses | _faults(403, 500)}


def _form(table: Sequence[Field]) -> Schema:
    return {"required": True, "content": {"multipart/form-data": {"schema": _object(table)}}}


def _object(table: Sequence[Field]) -> Schema:
    return {
        "type": "object",
        "properties": {field.name: field.schema() for field in table},
        "required": [field.name for field in table if field.required],
        "additionalProperties": False,
    }


def _json(description: str, schema: str) -> Schema:
    return {"200": {"description": description, "content": {"application/json": {"schema": _ref(schema)}}}}


def _faults(*statuses: int) -> Schema:
    content = {"application/json": {"schema": _ref("Error")}}
    return {
        str(status): {"description": STATUSES[status][1], "content": content}
        for status in sorted(set(statuses))
    }


def _path_parameter(name: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _fields(**kinds: str | Schema) -> Schema:
    """Return an object whose fields are all there; "number?" is a number or null."""
    return {
        "type": "object",
        "properties": {name: _kind(kind) for name, kind in kinds.items()},
        "required": list(kinds),
    }


def _kind(kind: str | Schema) -> Schema:
    if isinstance(kind, dict):
        return kind
    return {"type": [kind[:-1], "null"]} if kind.endswith("?") else {"type": kind}


def _list(item: Schema | str) -> Schema:
    return {"type": "array", "items": _kind(item)}


_BLOCK: Final[Mapping[str, str | Schema]] = {
    "confidence": "number?",
    "no_speech": "object?",
    "alternatives": _list(_ref("Alternative")),
}
SCHEMAS: Final[Schema] = {
    "Error": _fields(error=_fields(message="string", type="string", param="string?", code="string?")),
    "Alternative": _fields(
        id="integer",
        text="string",
        display="string",
        mean_logprob="number",
        num_tokens="integer",
        asr_score="number?",
        clip_score="number?",
        fused_score="number?",
        alpha_from="number?",
        rank_without_picture="integer",
        diff=_list(_fields(at="integer", instead_of="string", word="string")),
    ),
    "Transcription": _fields(
        text="string",
        usage=_fields(type="string", seconds="number"),
        earsight=_fields(
            mode={"enum": ["asr_only", "multimodal"]},
            alpha="number?",
            warning="string?",
            **_BLOCK,
            bundle="object",
            timing_ms="object",
        ),
    ),
    "VerboseTranscription": {
        "allOf": [
            _ref("Transcription"),
            _fields(
                task="string",
                language="string?",
                duration="number",
                segments=_list(
                    _fields(
                        id="integer",
                        seek="integer",
                        start="number",
                        end="number",
                        text="string",
                        tokens=_list("integer"),
                        temperature="number",
                        avg_logprob="number?",
                        compression_ratio="number?",
                        no_speech_prob="number?",
                        earsight=_fields(**_BLOCK),
                    )
                ),
            ),
        ]
    },
    "Picture": _fields(id="string", object="string", bytes="integer"),
    "RemovedPicture": _fields(id="string", object="string", deleted="boolean"),
    "CorrectionsState": _fields(enabled="boolean", retention_days="integer?"),
    "Correction": _fields(id="string", object="string", new="boolean"),
    "RemovedSpeaker": _fields(object="string", speaker="string", deleted="integer"),
    "Rescoring": _fields(
        object="string",
        text="string",
        alpha="number",
        confidence="number?",
        alternatives=_list(_ref("Alternative")),
        bundle="object",
    ),
    "Fit": _fields(object="string", clip_score="number", compared="integer", better="integer"),
    "Gallery": _fields(object="string", data=_list(_fields(id="string", name="string", url="string"))),
    "Model": _fields(id="string", object="string", created="integer", owned_by="string", earsight="object"),
    "ModelList": _fields(object="string", data=_list(_ref("Model"))),
    "Health": {
        "type": "object",
        "properties": {
            "live": {"type": "boolean"},
            "ready": {"type": "boolean"},
            "reason": {"type": "string"},
        },
    },
}  # fmt: skip
