"""JSON files: written atomically, sealed where results are taken from them, read with care."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .atomic import atomic_file
from .damaged import set_aside
from .hashes import short_hash

SEAL = "check"  # key in a sealed JSON object: the hash of all its other keys


def write_json(path: Path, value: Any, sealed: bool = False) -> None:
    """Write `value` as JSON, atomically.

    Args:
        path: The file. Its folder is made where it is missing.
        value: Anything that `json` can write; other objects are written as their `str`.
        sealed: Add a hash of the content, so that `read_json` notices damage: for objects that
            results are taken from.

    Raises:
        OSError: As `disk_errors` does.
    """
    if sealed:
        content = json.loads(json.dumps(value, default=str))  # as it will be read
        value = content | {SEAL: seal(content)}
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def seal(content: dict) -> str:
    """Return the hash of a JSON object without its seal."""
    return short_hash({key: value for key, value in content.items() if key != SEAL})


def read_json(path: Path, strict: bool = False, needs: Sequence[str] = ()) -> dict:
    """Return the content of a JSON file, or an empty dict where the file does not exist.

    Args:
        path: The file. A damaged one is set aside and counts as absent.
        strict: Refuse a damaged file instead: for files that the library has not written.
        needs: Keys without which the file is damaged.

    Raises:
        ValueError: Where `strict` is set and the file is damaged.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}

    value, problem = parse_json(content, needs)
    if not problem:
        return value
    if strict:
        raise ValueError(f"{path} is damaged ({problem}): get it again")
    set_aside(path, problem)
    return {}


def parse_json(content: bytes, needs: Sequence[str] = ()) -> tuple[dict, str]:
    """Return the JSON object in the bytes of a file, without its seal, and what is wrong with it.

    Args:
        content: The bytes.
        needs: Keys that the object must have.

    Returns:
        The object, and ""; or an empty one, and the problem.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # both decoders raise a ValueError
        return {}, f"no valid JSON: {error}" if content.strip() else "it is empty"
    if not isinstance(value, dict):
        return {}, f"a JSON object is needed, not {type(value).__name__}"
    if SEAL in value and value[SEAL] != seal(value):
        return {}, "it is not what was written"
    missing = [key for key in needs if key not in value]
    if missing:
        return {}, f"it lacks {', '.join(missing)}"
    value.pop(SEAL, None)
    return value, ""
