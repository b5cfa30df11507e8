"""What all endpoints share: the pipeline behind its engine, and what is kept between requests."""

import asyncio
import base64
import binascii
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from PIL import Image

from runtime.audio.limits import AudioLimits
from runtime.audio.load import Waveform
from runtime.bundle.bundle import MANIFEST
from runtime.errors import EarsightError
from runtime.pipeline import MultimodalASR
from runtime.server.access import Access
from runtime.server.admission import Admission
from runtime.server.correction_store import CorrectionStore
from runtime.server.decoding import Decoders, decode_audio, decode_picture
from runtime.server.engine import Engine
from runtime.server.faults import Fault, fault_of
from runtime.server.gallery import GalleryPicture
from runtime.server.jobs import TOO_LATE
from runtime.server.limits import Limits
from runtime.server.metrics import Metrics
from runtime.server.pictures import Embedding, PictureStore, picture_id
from runtime.server.stopping import Stopping

logger = logging.getLogger(__name__)

T = TypeVar("T")
OPENAI_MODEL: Final = "whisper-1"  # what OpenAI's clients ask for unless told


@dataclass(frozen=True, slots=True)
class PictureChoice:
    """The picture of a request.

    Attributes:
        embedding: Unit norm, (d,); None where there is none.
        warning: Why there is none although one was named.
    """

    embedding: Embedding | None = None
    warning: str | None = None


class Service:
    """One process of the server.

    Args:
        asr: The pipeline; its settings are the defaults of requests.
        limits: What it takes on.
        access: Who may ask.
        decode_processes: How many processes decode files; 0 for threads.
        corrections: Where corrections are kept; None to keep none.
        gallery: Pictures that are offered to describe, by id; each is encoded when it is first named.
        beside: The same pipeline on a lane's share of the cores; None for one lane.
    """

    def __init__(
        self,
        asr: MultimodalASR,
        limits: Limits,
        access: Access,
        decode_processes: int = 0,
        corrections: CorrectionStore | None = None,
        gallery: Mapping[str, GalleryPicture] | None = None,
        beside: MultimodalASR | None = None,
    ) -> None:
        self.asr = asr
        self.limits = limits
        self.access = access
        self.corrections = corrections
        self.gallery = gallery or {}
        self.metrics = Metrics()
        self.engine = Engine(asr, limits, self.metrics, beside)
        self.admission = Admission(limits, self.metrics, self.engine.work_s)
        self.stopping = Stopping()
        self.pictures = PictureStore(limits.pictures, asr.image_embeddings)
        self.created = int((asr.bundle.folder / MANIFEST).stat().st_mtime)
        self._decoders = Decoders(decode_processes)
        self._unreadable: set[str] = set()  # pictures of the gallery that the log told of

    @property
    def models(self) -> tuple[str, ...]:
        """Names that a request may call the model by."""
        return self.asr.bundle.name, OPENAI_MODEL

    @property
    def bundle(self) -> dict[str, str]:
        """What answers tell of the bundle."""
        return {"name": self.asr.bundle.name, "sha256": self.asr.bundle.digest[:12]}

    def deadline(self) -> float:
        """Return the time of the event loop after which nobody waits for a request that is whole now."""
        return asyncio.get_running_loop().time() + self.limits.deadline_s

    def close(self) -> None:
        """End the threads."""
        self.engine.stop(self.limits.drain_s)
        self._decoders.close()

    async def waveform(self, content: bytes) -> Waveform:
        """Decode a recording.

        Raises:
            Fault: It cannot be used.
        """
        limits = AudioLimits(self.limits.audio_s, self.limits.audio_values)
        rate = self.asr.recognizer.sampling_rate
        with _told_of("file"):
            return await self._decoders.run(decode_audio, content, rate, limits)

    async def picture(self, values: dict[str, Any], deadline: float) -> PictureChoice:
        """Return the picture of a request: sent, named, or in a `data:` URL.

        Args:
            values: Fields of the request.
            deadline: Time of the event loop after which nobody waits.

        Raises:
            Fault: Two of them, a picture that cannot be used, or one that is named strictly and not there.
        """
        given = [name for name in ("image", "image_id", "image_url") if values.get(name) is not None]
        if len(given) > 1:
            raise Fault(400, f"{' and '.join(given)} were sent; expected one of them", param=given[1])
        if not given:
            return PictureChoice()
        if given == ["image_id"]:
            strict = bool(values.get("strict_image"))
            return await self._named_picture(values["image_id"], strict, deadline)
        image = values.get("image")
        content = _data_url(values["image_url"]) if image is None else await image.read()
        _, embedding = await self.embed(content, given[0], deadline)
        return PictureChoice(embedding)

    async def required_picture(self, values: dict[str, Any], deadline: float) -> Embedding:
        """Return the embedding of the picture of a request that makes no sense without one.

        Raises:
            Fault: There is none, or `picture` raises it.
        """
        picture = await self.picture({**values, "strict_image": True}, deadline)
        if picture.embedding is None:
            raise Fault(400, "a picture is missing; expected image_id or image_url", param="image_id")
        return picture.embedding

    async def embed(self, content: bytes, param: str, deadline: float) -> tuple[str, Embedding]:
        """Return id and embedding of a picture, which are kept.

        Raises:
            Fault: It cannot be used.
        """
        key = picture_id(content)
        kept = self.pictures.get(key)
        if kept is not None:
            return key, kept
        picture = await self.image(content, param)
        embedding = await self.on_engine(lambda: self.asr.encode_images([picture])[0], deadline)
        self.pictures.put(key, embedding)
        return key, embedding

    async def image(self, content: bytes, param: str) -> Image.Image:
        """Decode a picture.

        Raises:
            Fault: It cannot be used; it names the field `param`.
        """
        with _told_of(param):
            return await self._decoders.run(decode_picture, content, self.limits.picture_pixels)

    async def on_engine(self, function: Callable[[], T], deadline: float) -> T:
        """Run something short on the engine's thread.

        Raises:
            Fault: The engine has stopped, or the deadline is over.
        """
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.wrap_future(self.engine.call(function))
        except TimeoutError as error:
            raise Fault(504, TOO_LATE, code="deadline_exceeded") from error

    async def gallery_embedding(self, key: str, deadline: float) -> Embedding:
        """Return the embedding of a picture of the gallery, which is kept.

        Raises:
            Fault: Its file has gone, or is no picture.
        """
        kept = self.pictures.get(key)
        if kept is not None:
            return kept
        with _told_of("image_id"):
            content = await asyncio.to_thread(self.gallery[key].read)
        return (await self.embed(content, "image_id", deadline))[1]

    async def gallery_embedding_or_none(self, key: str, deadline: float) -> Embedding | None:
        """Return the embedding of a picture of the gallery; None, told once in the log, where it has none.

        Raises:
            Fault: The server cannot look at it now.
        """
        try:
            return await self.gallery_embedding(key, deadline)
        except Fault as fault:
            if fault.status >= 500:
                raise
            if key not in self._unreadable:
                self._unreadable.add(key)
                name = self.gallery[key].name
                logger.warning("gallery: %s is left out of comparisons: %s", name, fault.message)
            return None

    async def _named_picture(self, key: str, strict: bool, deadline: float) -> PictureChoice:
        shown = key in self.gallery
        embedding = await self.gallery_embedding(key, deadline) if shown else self.pictures.get(key)
        if embedding is None and strict:
            raise Fault(
                404, f"there is no picture {key[:80]!r}; send it to /v1/pictures", param="image_id",
                code="picture_not_found",
            )  # fmt: skip
        warning = f"Image not found (id={key})" if embedding is None else None
        return PictureChoice(embedding, warning)


@contextmanager
def _told_of(param: str) -> Iterator[None]:
    """Turn an error of the runtime into what is told of a field.

    Raises:
        Fault: There was one.
    """
    try:
        yield
    except EarsightError as error:
        raise fault_of(error, param) from error


def _data_url(url: str) -> bytes:
    """Return the bytes of a `data:` URL. The server fetches nothing.

    Raises:
        Fault: It is another kind of URL, or its base64 is damaged.
    """
    head, comma, content = url.partition(",")
    if not head.startswith("data:") or not comma:
        raise Fault(
            400, f"image_url is {url[:40]!r}…; expected data:image/…;base64,…: this server fetches nothing",
            param="image_url",
        )  # fmt: skip
    if not head.endswith(";base64"):
        raise Fault(400, "image_url is a data: URL without ;base64", param="image_url")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Fault(400, f"image_url holds no base64 ({error})", param="image_url") from error
