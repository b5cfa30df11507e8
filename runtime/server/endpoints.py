"""The small endpoints: pictures, rescoring, models, health."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.errors import EarsightError
from runtime.results import Hypothesis
from runtime.server.answers import alternatives_of
from runtime.server.asked import read_asked
from runtime.server.bodies import form_fields
from runtime.server.faults import Fault, fault_of
from runtime.server.fields import read_fields
from runtime.server.requests import HYPOTHESIS, MOST_TEXTS, PICTURES, RESCORE, require_model
from runtime.server.service import Service

# What an alternative of an answer holds besides; computed anew.
COMPUTED = frozenset(
    {"id", "asr_score", "clip_score", "fused_score", "alpha_from", "rank_without_picture", "diff"}
)


async def add_picture(request: Request) -> Response:
    """Keep the embedding of a picture; return its id.

    Raises:
        Fault: The request cannot be served.
    """
    service: Service = request.app.state.service
    with service.admission.request():
        async with form_fields(request, PICTURES, service.limits) as values:
            content = await values["file"].read()
        key, _ = await service.embed(content, "file", service.deadline())
    return JSONResponse({"id": key, "object": "picture", "bytes": len(content)})


async def remove_picture(request: Request) -> Response:
    """Forget a picture.

    Raises:
        Fault: There is none of this id.
    """
    service: Service = request.app.state.service
    key = request.path_params["picture_id"]
    if not service.pictures.remove(key):
        raise Fault(404, f"there is no picture {key[:80]!r} that was sent", code="picture_not_found")
    return JSONResponse({"id": key, "object": "picture", "deleted": True})


async def rescore(request: Request) -> Response:
    """Fuse texts that were recognised before with a picture, or with another weight.

    Raises:
        Fault: The request cannot be served.
    """
    service: Service = request.app.state.service
    with service.admission.request():
        asked = await read_asked(request, "hypotheses", _hypotheses, RESCORE)
        asr = service.asr
        alpha = asr.alpha if asked.values["alpha"] is None else asked.values["alpha"]
        try:
            rescored, confidence = await service.on_engine(
                lambda: asr.rescore_with_confidence(asked.texts, asked.picture, alpha), asked.deadline
            )
        except EarsightError as error:
            raise fault_of(error, "hypotheses") from error
    return JSONResponse(
        {
            "object": "rescoring",
            "text": rescored[0].display or rescored[0].text,
            "alpha": alpha,
            "confidence": confidence,
            "alternatives": alternatives_of(rescored, len(rescored)),
            "bundle": service.bundle,
        }
    )


def _hypotheses(given: object) -> list[Hypothesis]:
    if not isinstance(given, list) or not 1 <= len(given) <= MOST_TEXTS:
        raise Fault(
            400, f"hypotheses is no list of 1 to {MOST_TEXTS} alternatives of an answer", param="hypotheses"
        )
    return [_hypothesis(each) for each in given]


def _hypothesis(given: object) -> Hypothesis:
    if not isinstance(given, dict):
        raise Fault(400, "a hypothesis is no object; expected text and mean_logprob", param="hypotheses")
    values = read_fields([item for item in given.items() if item[0] not in COMPUTED], HYPOTHESIS)
    # Of the tokens only their number counts, where the fusion was tuned on sums of log-probabilities.
    tokens = (0,) * values["num_tokens"]
    return Hypothesis(values["text"], values["mean_logprob"], tokens, values["display"] or "")


async def list_models(request: Request) -> Response:
    """List the names that the model goes by."""
    service: Service = request.app.state.service
    return JSONResponse({"object": "list", "data": [_model(service, name) for name in service.models]})


async def show_model(request: Request) -> Response:
    """Describe the model by one of its names.

    Raises:
        Fault: There is none of this name.
    """
    service: Service = request.app.state.service
    name = request.path_params["model"]
    require_model(name, service.models)
    return JSONResponse(_model(service, name))


def _model(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.created,
        "owned_by": "earsight",
        "earsight": {
            "bundle": service.bundle,
            "precision": service.asr.precision,
            "provider": service.asr.sessions.provider,
        },
    }


async def live(request: Request) -> Response:
    """Whether the process is of any use: its engine's thread runs, or is about to."""
    service: Service = request.app.state.service
    return _health(service.engine.alive, "live", service.engine.why_not_ready)


async def ready(request: Request) -> Response:
    """Whether requests are answered: the engine is warm, and was heard of lately."""
    service: Service = request.app.state.service
    if service.admission.draining:
        return _health(False, "ready", "the server is stopping")
    return _health(service.engine.is_ready, "ready", service.engine.why_not_ready)


def _health(is_well: bool, name: str, reason: str) -> Response:
    if is_well:
        return JSONResponse({name: True})
    return JSONResponse({name: False, "reason": reason}, 503)
