"""Damage to a file, as a disk, a stopped copy or an editor does it."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

# What stands in a JSON file instead of an object.
OTHER_JSON = [b"[]", b"null", b"1", b'"text"', b"{}", b"[" * 100_000, b"\xff"]

# What stands instead of a value of a JSON object.
OTHER_VALUES = [None, [], {}, -1, 10**20, "x"]


def damages(path: Path, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yield damaged contents of a file, each with a name for messages.

    Args:
        path: The whole file; a JSON file must hold an object.
        seed: Of the places that are damaged.
    """
    draw = random.Random(seed)
    whole = path.read_bytes()
    yield f"{path.name}: empty", b""
    yield f"{path.name}: zeros", bytes(len(whole))
    yield f"{path.name}: a byte too long", whole + b"x"
    for length in (8, len(whole) // 2, len(whole) - 2):
        yield f"{path.name}: cut to {length} bytes", whole[:length]
    for end in (8, 200, len(whole) - 2):  # a length, a header, all of it
        place = draw.randrange(end)
        yield f"{path.name}: bit changed at {place}", flipped(whole, place, draw.randrange(8))

    if path.suffix == ".json":
        for content in OTHER_JSON:
            yield f"{path.name}: {content[:9]!r}", content
        for key in json.loads(whole):
            yield f"{path.name}: {key} renamed", _renamed(whole, key)
            value = draw.choice(OTHER_VALUES)
            if json.loads(whole)[key] != value:
                yield f"{path.name}: {key} is {value!r}", _with_value(whole, key, value)


def damaged(content: bytes, way: str) -> bytes:
    """Return a content that is "cut" or "flipped" in its middle, or "emptied"."""
    middle = len(content) // 2
    return {"cut": content[:middle], "flipped": flipped(content, middle), "emptied": b""}[way]


def flipped(content: bytes, place: int, bit: int = 0) -> bytes:
    """Return a content with one bit changed."""
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def _renamed(content: bytes, key: str) -> bytes:
    """Return a JSON object with another name of a key."""
    values = json.loads(content)
    values[f"{key}_"] = values.pop(key)
    return json.dumps(values).encode()


def _with_value(content: bytes, key: str, value: object) -> bytes:
    """Return a JSON object with another value of a key."""
    return json.dumps(json.loads(content) | {key: value}).encode()
