"""What a server takes on: sizes, times and numbers, verified in one place."""

import math
from dataclasses import dataclass, fields

from runtime.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one server process.

    Attributes:
        body_bytes: Largest body of a request.
        fields: Most fields of a form.
        audio_s: Longest recording, seconds.
        audio_values: Most samples × channels of a recording as it is decoded.
        picture_pixels: Largest picture; JPEGs of three times as many are decoded at a half.
        queue_s: Most seconds of audio that wait for the engine or are in it.
        requests: Most requests that are read, wait or are answered at a time.
        upload_s: Longest time that the body of a request may take to arrive, seconds.
        deadline_s: Longest time from the last byte of a request to its answer, seconds.
        drain_s: Longest time that requests are still answered after SIGTERM, seconds.
        batch: Most utterances that the engine decodes together.
        batch_bytes: Most bytes that the cross-attention of the batches at work may take.
        lanes: Batches that are worked on at a time, where each has its share of the cores.
        pictures: Most pictures whose embeddings are kept; the least recently used goes.
        stall_s: Silence of the engine, seconds, after which the server is not ready.
    """

    body_bytes: int = 25 * 2**20
    fields: int = 20
    audio_s: float = 600.0
    audio_values: int = 64_000_000
    picture_pixels: int = 24_000_000
    queue_s: float = 1200.0  # a recording of the longest kind leaves room for others
    requests: int = 32
    upload_s: float = 30.0
    deadline_s: float = 60.0
    drain_s: float = 30.0
    batch: int = 8
    batch_bytes: int = 2**30
    lanes: int = 2
    pictures: int = 10_000
    stall_s: float = 10.0

    def __post_init__(self) -> None:
        """Verify.

        Raises:
            SettingsError: A limit is not positive.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{field.name} is {value!r}; expected a positive number")
