"""Reading the JSON settings that lie in a bundle, with errors that name file and key."""

import json
import math
from pathlib import Path
from typing import Any, Final

from runtime.errors import BundleError, BundleNotFoundError

MAX_CONFIG_BYTES: Final = 1 << 24  # settings are kilobytes; 16 MiB are no settings


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Raises:
        BundleNotFoundError: The file does not exist.
        BundleError: It cannot be read, is no JSON, or holds something other than an object.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise BundleError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; expected a settings file")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleNotFoundError(f"{path} is missing; export the bundle again") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}; export the bundle again") from error
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
