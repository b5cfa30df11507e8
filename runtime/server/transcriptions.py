"""`POST /v1/audio/transcriptions`: a recording and perhaps a picture in, text and alternatives out."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from runtime.audio.load import Waveform
from runtime.results import SegmentTranscription
from runtime.server.answers import MEDIA_TYPES, Answer, done_event, segment_event
from runtime.server.bodies import form_fields
from runtime.server.faults import Fault
from runtime.server.jobs import TOO_LATE, Job
from runtime.server.requests import TRANSCRIPTION, Wishes, read_wishes, require_model
from runtime.server.service import PictureChoice, Service

Arrivals = asyncio.Queue[SegmentTranscription | Fault | None]


class Transcribing:
    """One recording that is being recognised.

    Args:
        service: The server.
        waveform: The recording.
        wishes: What is asked for.
        picture: The picture.
        deadline: Time of the event loop after which nobody waits.
        timing_ms: What was measured before.
    """

    def __init__(
        self,
        service: Service,
        waveform: Waveform,
        wishes: Wishes,
        picture: PictureChoice,
        deadline: float,
        timing_ms: dict[str, float],
    ) -> None:
        self._service = service
        self._wishes = wishes
        self._picture = picture
        self._timing_ms = timing_ms
        self._arrivals: Arrivals = asyncio.Queue()
        self._deadline = deadline
        self._started = time.perf_counter()
        asr, loop = service.asr, asyncio.get_running_loop()
        self._seconds = waveform.size / asr.recognizer.sampling_rate
        self._job = Job(
            utterances=asr.recognizer.utterances(iter([waveform]), wishes.language),
            search=wishes.search,
            fuse=lambda asr, segment: asr.fuse_segment(segment, picture.embedding, wishes.alpha),
            deliver=lambda arrival: loop.call_soon_threadsafe(self._arrivals.put_nowait, arrival),
            deadline=time.monotonic() + deadline - loop.time(),
        )

    async def segments(self, request: Request | None) -> AsyncIterator[SegmentTranscription]:
        """Let it be recognised, segment by segment; its work ends when nobody asks for more.

        Args:
            request: Watched for a client that goes away; None where somebody else watches.

        Raises:
            Fault: It failed, or took too long.
            ClientDisconnect: The client has gone.
        """
        gone = None if request is None else asyncio.ensure_future(_gone(request))
        try:
            self._service.engine.put(self._job)
            while (arrival := await self._next(gone)) is not None:
                if isinstance(arrival, Fault):
                    raise arrival
                yield arrival
        finally:
            self._job.dropped = True
            if gone is not None:
                gone.cancel()

    async def _next(self, gone: asyncio.Future[None] | None) -> SegmentTranscription | Fault | None:
        arrival = asyncio.ensure_future(self._arrivals.get())
        try:
            left = self._deadline - asyncio.get_running_loop().time()
            waited: set[asyncio.Future[Any]] = {arrival} if gone is None else {arrival, gone}
            await asyncio.wait(waited, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            if arrival.done():
                return arrival.result()
            if gone is not None and gone.done():
                raise ClientDisconnect
            raise Fault(504, TOO_LATE, code="deadline_exceeded")
        finally:
            arrival.cancel()

    def answer(self, segments: list[SegmentTranscription]) -> Answer:
        """Return the answer to the whole."""
        picture, wishes = self._picture, self._wishes
        alpha = None if picture.embedding is None else wishes.alpha
        result = self._service.asr.join_segments(segments, alpha, picture.warning, count=wishes.search.count)
        recognised_ms = (time.perf_counter() - self._started) * 1000
        timing_ms = {**self._timing_ms, "recognise": recognised_ms}
        return Answer(
            result,
            self._seconds,
            wishes.alternatives,
            self._service.bundle,
            {**timing_ms, "total": sum(timing_ms.values())},
        )

    async def events(self, held: AsyncExitStack) -> AsyncIterator[str]:
        """Give server-sent events: every segment, then the whole; a fault is the last event."""
        async with held:
            segments: list[SegmentTranscription] = []
            try:
                with self._service.stopping.telling(self._arrivals.put_nowait):
                    async for segment in self.segments(None):
                        yield _event(segment_event(len(segments), segment, self._wishes.alternatives))
                        segments.append(segment)
                yield _event(done_event(self.answer(segments)))
            except Fault as fault:
                yield _event(fault.body())


async def transcribe(request: Request) -> Response:
    """Answer a transcription.

    Raises:
        Fault: The request cannot be served.
        ClientDisconnect: The client has gone.
    """
    service: Service = request.app.state.service
    async with AsyncExitStack() as held:
        held.enter_context(service.admission.request())
        async with form_fields(request, TRANSCRIPTION, service.limits) as values:
            require_model(values["model"], service.models)
            wishes = read_wishes(values, service.asr)
            deadline = service.deadline()
            started = time.perf_counter()
            waveform = await service.waveform(await values["file"].read())
            decoded = time.perf_counter()
            picture = await service.picture(values, deadline)
        timing_ms = {
            "decode": (decoded - started) * 1000,
            "picture": (time.perf_counter() - decoded) * 1000,
        }
        held.enter_context(service.admission.audio(waveform.size / service.asr.recognizer.sampling_rate))
        work = Transcribing(service, waveform, wishes, picture, deadline, timing_ms)
        if wishes.stream:
            # The places are given back when the last event is sent, or the client has gone.
            return StreamingResponse(work.events(held.pop_all()), media_type="text/event-stream")
        segments = [segment async for segment in work.segments(request)]
        body = work.answer(segments).render(wishes.response_format)
    if isinstance(body, str):
        return PlainTextResponse(body, media_type=MEDIA_TYPES[wishes.response_format])
    return JSONResponse(body)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"
