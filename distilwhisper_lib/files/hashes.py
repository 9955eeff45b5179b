"""Hashes of values and of files."""

import hashlib
import json
from pathlib import Path
from typing import Any

_known: dict[tuple, str] = {}  # SHA-256 of files that this process has read, by `file_state`


def short_hash(value: Any) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of `value`, written as JSON.

    Args:
        value: Anything that `json` can write; other objects count by their `str`. The order of a
            dict's keys does not count.
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def remembered_sha256(path: Path) -> str:
    """Return the SHA-256 of a file; one that has not been written to since is not read again."""
    state = file_state(path)
    if state not in _known:
        _known[state] = file_sha256(path)
    return _known[state]


def file_state(path: Path) -> tuple:
    """Return what changes where a file is written to: its number, size and times, and its path."""
    found = path.stat()
    times = (found.st_mtime_ns, found.st_ctime_ns)
    return (str(path.absolute()), found.st_dev, found.st_ino, found.st_size, *times)
