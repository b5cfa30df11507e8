"""What a request is answered with when it cannot be served: OpenAI's error object.

Source of the object and of its types: https://platform.openai.com/docs/guides/error-codes, and what
the package `openai` makes of each status.
"""

from collections.abc import Mapping
from typing import Any, Final

from runtime.errors import (
    AudioFormatError,
    AudioTooLongError,
    EarsightError,
    ImageFormatError,
    ImageTooLargeError,
    InferenceError,
    OutputError,
)

# Status -> OpenAI's type of error, and what it means here.
STATUSES: Final[Mapping[int, tuple[str, str]]] = {
    400: ("invalid_request_error", "A field is unknown, missing or out of its range, or a file is damaged."),
    401: ("invalid_request_error", "The token is missing or unknown."),
    403: (
        "invalid_request_error",
        "The request comes from a page of another origin, or by a name that is not the server's.",
    ),
    404: ("invalid_request_error", "There is no such model, picture or path, or nothing is kept here."),
    405: ("invalid_request_error", "The path does not take this method."),
    408: ("invalid_request_error", "The body took too long to arrive."),
    413: ("invalid_request_error", "The body, the recording or the picture is too large."),
    415: ("invalid_request_error", "The format of the recording or the picture is not read here."),
    429: ("requests", "The token has used up its quota of requests a minute."),
    500: ("server_error", "A defect of the server."),
    503: ("server_error", "The server is full, stopping, or its engine does not run; try again later."),
    504: ("server_error", "The answer would have come too late."),
    507: ("server_error", "The disk is full, or fails: nothing was kept."),
}


class Fault(Exception):  # noqa: N818 - it is what is answered, not what went wrong
    """A request that is not served.

    Attributes:
        status: HTTP status, one of `STATUSES`.
        message: What was received, what was expected, and how to mend it.
        param: The field that is at fault; None where it is none.
        code: For programs; None where the status says enough.
        retry_after_s: After how many seconds to try again; None where that would not help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> dict[str, Any]:
        """Return OpenAI's object."""
        kind, _ = STATUSES[self.status]
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that the status asks for."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def fault_of(error: EarsightError, param: str | None = None) -> Fault:
    """Return what an error of the runtime means for the one who asked.

    Args:
        error: What was raised.
        param: The field that it stems from.
    """
    if isinstance(error, InferenceError):
        return Fault(500, str(error), code="inference_failed")
    if isinstance(error, (AudioFormatError, ImageFormatError)):
        return Fault(415, str(error), param=param, code="unsupported_format")
    if isinstance(error, (AudioTooLongError, ImageTooLargeError)):
        return Fault(413, str(error), param=param, code="too_large")
    if isinstance(error, OutputError):
        # Where it was to be written is nobody's business but the server's.
        why = error.__cause__.strerror if isinstance(error.__cause__, OSError) else None
        return Fault(507, f"nothing was kept: {why or 'the disk fails'}", code="not_kept")
    return Fault(400, str(error), param=param)
