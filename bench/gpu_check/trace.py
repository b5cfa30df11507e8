"""What onnxruntime's trace says of copies between host and device."""

import json
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

COPIES: Final = ("MemcpyFromHost", "MemcpyToHost")
CACHE_RANK: Final = 4  # keys and values are (batch, heads, length, head size); nothing else of a decoder is
_RUN: Final = "_kernel_time"  # ends the name of a node's run; the name of a wait for it ends otherwise


@dataclass(slots=True)
class Copy:
    """One kind of copy, of one tensor in one graph.

    Attributes:
        node: Name of the node that copies.
        direction: "MemcpyFromHost" or "MemcpyToHost".
        count: How often it ran.
        shape: The largest shape that it copied.
        microseconds: Spent in all of them.
    """

    node: str
    direction: str
    count: int = 0
    shape: tuple[int, ...] = ()
    microseconds: int = 0

    @property
    def is_cache(self) -> bool:
        """Whether the tensor is a key or a value of an attention."""
        return len(self.shape) == CACHE_RANK and prod(self.shape) > 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name, and the verdict."""
        return asdict(self) | {"is_cache": self.is_cache}


def read_copies(trace: Path) -> list[Copy]:
    """Collect the copies between host and device from a trace.

    Args:
        trace: The JSON file that `InferenceSession.end_profiling` named.

    Returns:
        One entry for each copying node, in the order of their first run.
    """
    found: dict[str, Copy] = {}
    for event in json.loads(trace.read_text(encoding="utf-8")):
        details = event.get("args", {})
        if event.get("cat") != "Node" or details.get("op_name") not in COPIES:
            continue
        if not event["name"].endswith(_RUN):
            continue
        node = event["name"].removesuffix(_RUN)
        copy = found.setdefault(node, Copy(node, details["op_name"]))
        copy.count += 1
        copy.microseconds += int(event.get("dur", 0))
        # Lists like [{"float16": [1, 12, 5, 64]}].
        typed = [*details.get("input_type_shape", []), *details.get("output_type_shape", [])]
        shapes = [tuple(shape) for entry in typed for shape in entry.values()]
        copy.shape = max(copy.shape, *shapes, key=lambda sizes: (len(sizes) > 0, prod(sizes)))
    return list(found.values())
