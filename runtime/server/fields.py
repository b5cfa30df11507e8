"""The fields of every request: one table that reads them, refuses what is not in it, and documents itself."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile

from runtime.server.faults import Fault

Kind = Literal["file", "string", "integer", "number", "boolean"]
TRUE: Final = ("true", "1")
FALSE: Final = ("false", "0")
MOST_TEXT: Final = 10_000  # characters of a field that is text
MOST_SHOWN: Final = 40  # characters of a value that a message repeats
MOST_NAMED: Final = 10  # fields of a query that a message names


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a form or of a JSON object.

    Attributes:
        name: As it is sent; "[]" at its end where it may come several times.
        kind: What its values are.
        help: What it does, for the document.
        required: Whether it must be there.
        default: What stands for it where it is absent.
        least: Smallest number.
        most: Largest number.
        choices: All values that it may have; any where empty.
        longest: Most characters of a string.
    """

    name: str
    kind: Kind
    help: str
    required: bool = False
    default: Any = None
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()
    longest: int = MOST_TEXT

    @property
    def repeats(self) -> bool:
        """Whether it may come several times."""
        return self.name.endswith("[]")

    def schema(self) -> dict[str, Any]:
        """Return its JSON schema."""
        schema: dict[str, Any] = {"type": self.kind}
        if self.kind == "file":
            schema = {"type": "string", "format": "binary"}
        elif self.kind == "string" and not self.choices:
            schema["maxLength"] = self.longest
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.least is not None:
            schema["minimum"] = self.least
        if self.most is not None:
            schema["maximum"] = self.most
        if self.repeats:
            schema = {"type": "array", "items": schema}
        if self.default is not None:
            schema["default"] = self.default
        return schema | {"description": self.help}

    def read(self, value: object) -> Any:
        """Return a value as its kind.

        Args:
            value: Text or a file of a form, or a value of a JSON object.

        Raises:
            Fault: It is none, or out of its range.
        """
        read = self._converted(value)
        if read is None:
            raise self._fault(value)
        if self.choices and read not in self.choices:
            raise self._fault(value)
        if self.kind == "string" and len(read) > self.longest:
            raise self._fault(value)
        if (self.least is not None and read < self.least) or (self.most is not None and read > self.most):
            raise self._fault(value)
        return read

    def _converted(self, value: object) -> Any:
        if self.kind == "file" or isinstance(value, UploadFile):
            return value if self.kind == "file" and isinstance(value, UploadFile) else None
        if self.kind == "string":
            return value if isinstance(value, str) else None
        if self.kind == "boolean":
            if isinstance(value, str):
                value = {True: value.lower() in TRUE}.get(value.lower() in (*TRUE, *FALSE))
            return value if isinstance(value, bool) else None
        return _number(value, whole=self.kind == "integer")

    def _fault(self, value: object) -> Fault:
        wanted = f"one of {', '.join(self.choices)}" if self.choices else self._wanted()
        return Fault(400, f"{self.name} is {_shown(value)}; expected {wanted}", param=self.name)

    def _wanted(self) -> str:
        if self.kind == "file":
            return f"a file, sent as a part of the form with a file name (curl: -F {self.name}=@PATH)"
        if self.kind == "string":
            return f"text of at most {self.longest} characters"
        if self.kind == "boolean":
            return "true or false"
        number = "a whole number" if self.kind == "integer" else "a number"
        return number if self.least is None else f"{number} from {self.least:g} to {self.most:g}"


def _shown(value: object) -> str:
    """Return what a message repeats of a value: it may be a whole recording that was sent as text."""
    if isinstance(value, UploadFile):
        return "a file"
    if isinstance(value, str):
        return (
            repr(value) if len(value) <= MOST_SHOWN else f"{value[:MOST_SHOWN]!r}… ({len(value)} characters)"
        )
    shown = repr(value)
    return shown if len(shown) <= MOST_SHOWN else f"{shown[:MOST_SHOWN]}…"


def _number(value: object, *, whole: bool) -> float | int | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or (whole and not number.is_integer()):
        return None
    return int(number) if whole else number


def read_fields(items: Iterable[tuple[str, object]], table: Sequence[Field]) -> dict[str, Any]:
    """Read the fields of a request.

    Args:
        items: Names and values as they came.
        table: The fields that there are.

    Returns:
        The value of every field of the table by its name, defaults for those that did not come; a list
        for one that repeats.

    Raises:
        Fault: A field is unknown, comes twice, is missing, or has a value that is none.
    """
    known = {field.name: field for field in table}
    values: dict[str, Any] = {}
    for name, value in items:
        field = known.get(name)
        if field is None:
            raise _unknown(name, known)
        if field.repeats:
            values.setdefault(name, []).append(field.read(value))
        elif name in values:
            raise Fault(400, f"{name} comes twice; expected it once", param=name)
        else:
            values[name] = field.read(value)
    for field in table:
        if field.required and field.name not in values:
            raise Fault(400, f"{field.name} is missing: {field.help}", param=field.name)
    return {field.name: values.get(field.name, field.default) for field in table}


def refuse_query(query: str, *, has_body: bool) -> None:
    """Refuse fields in the query of an address, where none is read.

    Args:
        query: What stands behind the question mark.
        has_body: Whether there is a body that they belong into.

    Raises:
        Fault: There are some, or what is none.
    """
    if not query:
        return
    names = list(dict.fromkeys(name[:80] for name, _ in parse_qsl(query, keep_blank_values=True)))
    told = ", ".join(names[:MOST_NAMED]) or "something"
    mend = "send it in the form, or in the JSON object" if has_body else "leave it away"
    raise Fault(
        400, f"{told} in the query of the address, which is not read: {mend}", param=next(iter(names), None)
    )


def _unknown(name: str, known: Mapping[str, Field]) -> Fault:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return Fault(
        400, f"{name[:80]} is no field of this request{hint}; expected {', '.join(known)}", param=name[:80]
    )
