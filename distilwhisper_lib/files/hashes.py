"""Hashes of values and of files."""

import hashlib
import json
from pathlib import Path
from typing import Any


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
