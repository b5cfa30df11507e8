"""`/v1/corrections`: what people confirmed, picked or typed, kept where the server was told to."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.bundle.json_files import parse_json
from runtime.errors import EarsightError, ImageNotFoundError, OutputError, SettingsError
from runtime.server.bodies import form_fields
from runtime.server.correction_store import DAY_S, Correction, CorrectionStore, SentFile
from runtime.server.faults import Fault, fault_of
from runtime.server.fields import read_fields
from runtime.server.requests import CORRECTION, MOST_BEAMS, SHOWN
from runtime.server.service import Service

logger = logging.getLogger(__name__)

T = TypeVar("T")
OFF: Final = "this server keeps no corrections; it was started without --corrections DIR"


async def describe_corrections(request: Request) -> Response:
    """Tell whether corrections are kept, and for how long."""
    store = _service(request).corrections
    days = None if store is None else store.retention_days
    return JSONResponse({"enabled": store is not None, "retention_days": days})


async def add_correction(request: Request) -> Response:
    """Keep an utterance with its reference; it is on the disk before the answer is sent.

    Raises:
        Fault: The request cannot be served.
    """
    service = _service(request)
    store = _store(service)
    with service.admission.request():
        async with form_fields(request, CORRECTION, service.limits) as values:
            if not values["consent"]:
                raise Fault(400, "consent is false; nothing is kept without it", param="consent")
            correction = _correction(values, service)
            audio = await _sent(values["file"])
            picture = None if values["image"] is None else await _sent(values["image"])
        # What cannot be read would stop every later run over the folder.
        await service.waveform(audio.content)
        if picture is not None:
            await service.image(picture.content, "image")
        elif values["image_id"] is not None and correction.image_id is None:
            picture = await _picture(service, store, values["image_id"])
            if picture is None:
                raise Fault(
                    404, f"the file of picture {values['image_id'][:80]!r} is not kept; send it as image",
                    param="image_id", code="picture_not_found",
                )  # fmt: skip
        key, is_new = await _kept(lambda: store.add(correction, audio, picture))
    return JSONResponse({"id": key, "object": "correction", "new": is_new}, 201 if is_new else 200)


async def _picture(service: Service, store: CorrectionStore, key: str) -> SentFile | None:
    """Return a picture that was named, of the gallery or of an earlier correction; None without one."""
    shown = service.gallery.get(key)
    if shown is None:
        return await _kept(lambda: store.picture(key))
    try:
        return SentFile(await run_in_threadpool(shown.read), shown.path.name)
    except ImageNotFoundError as error:
        raise Fault(404, str(error), param="image_id", code="picture_not_found") from error


async def forget_speaker(request: Request) -> Response:
    """Remove all that is kept of a speaker.

    Raises:
        Fault: Nothing is kept here, or the disk fails.
    """
    store = _store(_service(request))
    speaker = request.path_params["speaker"]
    removed = await _kept(lambda: store.forget(speaker))
    return JSONResponse({"object": "speaker", "speaker": speaker, "deleted": removed})


async def sweep_daily(store: CorrectionStore) -> None:
    """Remove every day what is older than is allowed; the first time was when the folder was opened."""
    while True:
        await asyncio.sleep(DAY_S)
        try:
            await run_in_threadpool(store.sweep)
        except EarsightError:
            logger.exception("corrections that are too old could not be removed")


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _store(service: Service) -> CorrectionStore:
    if service.corrections is None:
        raise Fault(404, OFF, code="corrections_off")
    return service.corrections


def _correction(values: dict[str, Any], service: Service) -> Correction:
    """Verify what was sent, before any file is decoded."""
    if values["image"] is not None and values["image_id"] is not None:
        raise Fault(400, "image and image_id were sent; expected one of them", param="image_id")
    key = values["image_id"]
    bundle = service.asr.bundle
    try:
        return Correction(
            speaker=values["speaker"],
            how=values["how"],
            reference=values["reference"],
            shown=_shown(values["shown"]),
            rank=values["rank"],
            image_id=key if key in service.asr.image_embeddings else None,
            seconds=values["seconds"],
            taps=values["taps"],
            bundle=bundle.identity,
        )
    except EarsightError as error:
        raise fault_of(error) from error


def _shown(text: str) -> tuple[dict[str, Any], ...]:
    try:
        shown = parse_json(text)
    except ValueError as error:
        raise Fault(400, f"shown is no JSON ({error}); expected a list", param="shown") from error
    if not isinstance(shown, list) or len(shown) > MOST_BEAMS or not all(isinstance(a, dict) for a in shown):
        raise Fault(400, f"shown is no list of at most {MOST_BEAMS} alternatives of an answer", param="shown")
    return tuple(_alternative(alternative) for alternative in shown)


def _alternative(given: dict[str, Any]) -> dict[str, Any]:
    told = [(name, value) for name, value in given.items() if value is not None and name != "diff"]
    return {name: value for name, value in read_fields(told, SHOWN).items() if value is not None}


async def _sent(file: UploadFile) -> SentFile:
    return SentFile(await file.read(), file.filename or "")


async def _kept(work: Callable[[], T]) -> T:
    """Let the disk work without holding up other requests."""
    try:
        return await run_in_threadpool(work)
    except OutputError as error:
        logger.error("corrections: %s", error)
        raise fault_of(error) from error
    except SettingsError as error:
        logger.error("corrections: %s", error)
        raise Fault(500, "the folder of the corrections is damaged; the log says where") from error
