"""How a sound input becomes a case: edits of bytes for every kind, edits of values for JSON."""

import json
import random
from collections.abc import Sequence
from typing import Any

INTERESTING = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFE,
    0xFFFFFFFF,
)

# What JSON can say and readers forget: each is put in the place of a value. Written as JSON, because some of
# it cannot be made of Python objects (json.dumps refuses or recurses).
EXTREMES = (
    "null", "true", "false", "0", "-1", "1", "2", "0.5", "-0.0", "1e308", "-1e308", "1e999", "NaN",
    "Infinity", "-Infinity", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808",
    "18446744073709551616", "1" + "0" * 400, "-1" + "0" * 400, "1" * 5000, '""', '" "', '"x"', '"\\ud800"',
    '"\\u0000"', '"' + "a" * 5000 + '"', '"../../secret"', '"/etc/passwd"', '"\\u202e\\u0085"', "[]", "{}",
    "[null]", "[[]]", '{"": 0}', "[" * 200 + "]" * 200, "[" * 100_000, '"fp32"', '"a.png"', "\ufeff",
)  # fmt: skip
_HOLE = "\x1a hole"


def mutate_bytes(content: bytes, donors: Sequence[bytes], rng: random.Random) -> bytes:
    """Apply one to eight edits: bits, bytes, sizes, cuts, repeats, splices."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        if not data:
            break
        # Half of the edits fall into the first 128 bytes: headers decide most.
        at = rng.randrange(min(len(data), 128) if rng.random() < 0.5 else len(data))
        span = rng.choice((1, 2, 4, 16, 64, 512))
        edit = rng.randrange(9)
        if edit == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif edit == 1:
            data[at : at + span] = rng.randbytes(len(data[at : at + span]))
        elif edit in (2, 3):
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(INTERESTING) & (256**width - 1)
            data[at : at + width] = value.to_bytes(width, rng.choice(("little", "big")))
        elif edit == 4:
            del data[at : at + span]
        elif edit == 5:
            data[at:at] = data[at : at + span] * rng.choice((1, 2, 50))
        elif edit == 6:
            data[at:at] = rng.randbytes(span)
        elif edit == 7:
            del data[rng.randrange(len(data)) :]
        else:
            donor = rng.choice(donors)
            start = rng.randrange(len(donor))
            data[at : at + span] = donor[start : start + span]
    return bytes(data)


def mutate_text(content: bytes, rng: random.Random) -> bytes:
    """Exchange one to three values of a JSON document, JSON Lines or CSV file for extreme ones."""
    lines = content.decode().split("\n")
    documents = [content.decode()] if content.startswith(b"{\n") else lines
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(len(documents))
        try:
            documents[place] = _with_extreme(documents[place], rng)
        except (ValueError, RecursionError):  # not JSON: a line of CSV, or one that was edited before
            cells = documents[place].split(",")
            cells[rng.randrange(len(cells))] = rng.choice(EXTREMES)
            documents[place] = ",".join(cells)
    return "\n".join(documents).encode("utf-8", "surrogatepass")


def _with_extreme(document: str, rng: random.Random) -> str:
    """Exchange, delete, rename or copy one value anywhere in a JSON document."""
    tree = json.loads(document)
    node, path = tree, []
    while isinstance(node, (dict, list)) and node and (not path or rng.random() < 0.6):
        path.append(rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node)))
        node = node[path[-1]]
    if not path:
        return rng.choice(EXTREMES)
    holder: Any = tree
    for step in path[:-1]:
        holder = holder[step]
    edit = rng.randrange(8)
    if edit == 0:
        del holder[path[-1]]
    elif edit == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "id", "\ud800", "../x", "files", "content"))] = holder.pop(path[-1])
    elif edit == 2:
        holder[path[-1]] = rng.choice(list(holder.values()) if isinstance(holder, dict) else holder)
    else:
        holder[path[-1]] = _HOLE
    indent = 2 if document.startswith("{\n") else None
    return json.dumps(tree, indent=indent).replace(json.dumps(_HOLE), rng.choice(EXTREMES))
