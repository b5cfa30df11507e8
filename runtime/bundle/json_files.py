"""Reading JSON that others wrote, and a bundle's settings, with errors that name file and key."""

import json
import math
import re
from pathlib import Path
from typing import Any, Final

from runtime.errors import BundleError, BundleNotFoundError, EarsightError

MAX_CONFIG_BYTES: Final = 1 << 24  # settings are kilobytes; 16 MiB are no settings
MAX_INTEGER: Final = 2**63 - 1  # what fits numpy and every float
_SURROGATE_ESCAPE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, *, constants: bool = True) -> Any:
    r"""Parse JSON; whatever is wrong with it is a `ValueError`.

    Beyond the grammar this refuses a key that an object has twice, nesting deeper than Python's stack, whole
    numbers of more than 64 bits, and half a surrogate pair (`"\ud800"`), which no file, terminal or report
    could repeat.

    Args:
        text: The JSON.
        constants: Whether NaN and the infinities, which Python writes, are numbers.

    Raises:
        ValueError: It cannot be used; the message says why.
    """
    try:
        content = (_DECODER if constants else _STRICT_DECODER).decode(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if _SURROGATE_ESCAPE.search(text):  # most often a whole pair, which is a character
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text holds half a surrogate pair, which is no character") from error
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice; leave one of them")
    return content


def _integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > MAX_INTEGER:
        raise ValueError(f"{digits[:20]}… is too large a number; put an identifier in quotes")
    return int(digits)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


# Made once: `json.loads` would make one for every line.
_DECODER: Final = json.JSONDecoder(parse_int=_integer, object_pairs_hook=_object)
_STRICT_DECODER: Final = json.JSONDecoder(
    parse_int=_integer, object_pairs_hook=_object, parse_constant=_refuse_constant
)


def parse_row(
    place: str, text: str, fault: type[EarsightError], expected: str = "a JSON object"
) -> dict[str, Any]:
    """Parse a line that holds one object.

    Args:
        place: Of the line, with which messages begin.
        text: The line.
        fault: Raised where it is none.
        expected: What it should be, for messages.
    """
    try:
        row = parse_json(text)
    except ValueError as error:
        raise fault(f"{place}: not JSON ({error}); expected {expected}") from error
    if not isinstance(row, dict):
        raise fault(f"{place}: expected {expected}, got a {type(row).__name__}")
    return row


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        BundleNotFoundError: The file does not exist.
        BundleError: It cannot be read, is no JSON, or holds something other than an object.
    """
    try:
        size = path.stat().st_size
        content = parse_json(path.read_text(encoding="utf-8")) if size <= MAX_CONFIG_BYTES else None
    except FileNotFoundError as error:
        raise BundleNotFoundError(f"{path} is missing; export the bundle again") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}; export the bundle again") from error
    if size > MAX_CONFIG_BYTES:
        raise BundleError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; expected a settings file")
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def number_from(
    config: dict[str, Any], key: str, default: float, lowest: float, highest: float, path: Path
) -> float:
    """A finite number within bounds, or the default where the key is absent or null.

    Raises:
        BundleError: The value is no number or out of bounds.
    """
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BundleError(f"{path}: {key} is {value!r}; expected a number")
    if not lowest <= value <= highest:
        raise BundleError(f"{path}: {key} is {value}; expected {lowest:g} to {highest:g}")
    return value


def whole_number_from(
    config: dict[str, Any], key: str, default: int, lowest: int, highest: int, path: Path
) -> int:
    """As `number_from`, for whole numbers.

    Raises:
        BundleError: The value is no whole number or out of bounds.
    """
    value = number_from(config, key, default, lowest, highest, path)
    if value != int(value):
        raise BundleError(f"{path}: {key} is {value}; expected a whole number")
    return int(value)
