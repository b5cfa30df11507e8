"""The client's side: what is asked, sent over kept connections, and what came of each request."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx

from bench.manifest import Utterance
from runtime.audio.load import load_audio
from runtime.errors import EarsightError

TRANSCRIPTIONS: Final = "/v1/audio/transcriptions"
PICTURES: Final = "/v1/pictures"
ANSWERED: Final = 200
# The status of a request that got no answer at all: a connection refused, cut or silent.
NO_ANSWER: Final = 0
TIMEOUT_S: Final = 120.0
SAMPLING_RATE: Final = 16_000


class ServerUnavailableError(EarsightError, RuntimeError):
    """The server does not answer, or not as this project's does."""


@dataclass(frozen=True, slots=True)
class Query:
    """A request, ready to be sent as often as is wanted.

    Attributes:
        id: Of the utterance.
        seconds: Length of the recording.
        content_type: Of the body.
        body: The form, encoded once.
    """

    id: str
    seconds: float
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a request.

    Attributes:
        query: Its place among the queries.
        due_s: When it was to be sent, seconds of `time.perf_counter`.
        ended_s: When the last byte of its answer had come.
        status: HTTP status, or `NO_ANSWER`.
        answer: The object of a status 200, else None.
    """

    query: int
    due_s: float
    ended_s: float
    status: int
    answer: Any = None

    @property
    def latency_s(self) -> float:
        """Seconds from when it was to be sent: a client that falls behind makes no server look quick."""
        return self.ended_s - self.due_s


class Client:
    """Sends queries to one server; an asynchronous context manager.

    Args:
        url: Of the server, such as http://127.0.0.1:8000.
        token: What it asks for, or None.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        # Every request that is under way has a connection of its own, which is kept for the next.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self.http = httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=TIMEOUT_S)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def model(self) -> dict[str, Any]:
        """Return the first model that the server lists.

        Raises:
            ServerUnavailableError: It does not answer, or lists none.
        """
        answer = await self._asked("GET", "/v1/models")
        models = answer.get("data") if isinstance(answer, dict) else None
        if not models:
            raise ServerUnavailableError(f"{self.http.base_url} lists no models; expected an earsight server")
        first: dict[str, Any] = models[0]
        return first

    async def keep_picture(self, picture: Path) -> str:
        """Send a picture once and return its id.

        Raises:
            ServerUnavailableError: The server does not take it.
        """
        answer = await self._asked("POST", PICTURES, files={"file": (picture.name, picture.read_bytes())})
        return str(answer["id"])

    async def send(self, query: Query, place: int, due_s: float | None = None) -> Outcome:
        """Send a query and wait for its answer, whatever that is.

        Args:
            query: What to ask.
            place: Of the query among all.
            due_s: When it was to be sent, `time.perf_counter`; None for now.
        """
        due_s = time.perf_counter() if due_s is None else due_s
        try:
            response = await self.http.post(
                TRANSCRIPTIONS, content=query.body, headers={"content-type": query.content_type}
            )
        except httpx.TransportError:
            return Outcome(place, due_s, time.perf_counter(), NO_ANSWER)
        ended_s = time.perf_counter()
        answer = response.json() if response.status_code == ANSWERED else None
        return Outcome(place, due_s, ended_s, response.status_code, answer)

    async def _asked(self, method: str, path: str, **content: Any) -> Any:
        try:
            response = await self.http.request(method, path, **content)
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ServerUnavailableError(
                f"{self.http.base_url} does not answer ({error or type(error).__name__}); start it with "
                "`python -m runtime serve --bundle DIR`, or give --bundle instead of --url"
            ) from error
        if response.status_code != ANSWERED:
            raise ServerUnavailableError(
                f"{self.http.base_url}{path} answers {response.status_code}: {response.text[:200]}"
            )
        return response.json()


async def make_queries(
    client: Client, model: str, utterances: Sequence[Utterance], *, pictures: bool
) -> list[Query]:
    """Read the recordings and encode their requests.

    Args:
        client: Where pictures are sent before.
        model: Name of the model.
        utterances: Rows of the manifest.
        pictures: Whether a request names the picture of its row.

    Raises:
        AudioError: A recording cannot be used.
        ServerUnavailableError: The server does not take a picture.
    """
    queries = []
    for utterance in utterances:
        content = utterance.audio.read_bytes()
        seconds = load_audio(content).size / SAMPLING_RATE
        fields = {"model": model, "response_format": "json"}
        if pictures and utterance.image is not None:
            fields["image_id"] = await client.keep_picture(utterance.image)
        elif pictures and utterance.image_id is not None:
            fields["image_id"] = utterance.image_id
        queries.append(make_query(utterance.id, seconds, fields, {"file": (utterance.audio.name, content)}))
    return queries


def make_query(name: str, seconds: float, fields: dict[str, str], files: dict[str, Any]) -> Query:
    """Encode one request; `fields` and `files` as httpx takes them."""
    request = httpx.Request("POST", f"http://server{TRANSCRIPTIONS}", data=fields, files=files)
    return Query(name, seconds, request.headers["content-type"], request.read())
