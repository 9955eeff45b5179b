"""Folders, JSON, hashes and atomic writes."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# ---- folders

REPOSITORY = Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Return the folder for weights, corpora and training runs.

    The environment variable LAB_CACHE names it; without it, it is `cache/` in the repository.
    """
    return Path(os.environ.get("LAB_CACHE") or REPOSITORY / "cache").expanduser()


def data_dir() -> Path:
    """Return the folder of speech data that was downloaded by hand.

    The environment variable LAB_DATA names it; without it, it is `data/` in the cache.
    """
    return Path(os.environ.get("LAB_DATA") or cache_dir() / "data").expanduser()


def results_dir(preset: str) -> Path:
    """Return the folder for the tables and figures of the preset with this name.

    The environment variable LAB_RESULTS names its parent; without it, that is `results/` in the
    repository.
    """
    parent = Path(os.environ.get("LAB_RESULTS") or REPOSITORY / "results").expanduser()
    return parent / preset


# ---- JSON


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically.

    Args:
        path: The file. Its folder is made where it is missing.
        value: Anything that `json` can write; other objects are written as their `str`.

    Raises:
        OSError: As `disk_errors` does.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """Return the content of a JSON file, or an empty dict where the file does not exist."""
    if not path.is_file():
        return {}
    return json.loads(path.read_text(encoding="utf-8"))


# ---- hashes


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


# ---- atomic writes

_NO_SPACE = "no space left under"  # how the error message of `disk_errors` begins


@contextmanager
def disk_errors(folder: Path, variable: str = "LAB_CACHE") -> Iterator[None]:
    """Raise one clear OSError for a full disk, whichever library reports it in the block.

    When nested, the innermost message is used. Other errors pass through unchanged.

    Args:
        folder: The folder that the message names.
        variable: The environment variable by which a reader can choose another folder.

    Raises:
        OSError: With `errno.ENOSPC`, where the disk is full or the user's quota is used up.
    """
    try:
        yield
    except Exception as error:  # safetensors and torch have exceptions of their own
        if not _is_disk_full(error) or _NO_SPACE in str(error):
            raise
        message = (
            f"{_NO_SPACE} {folder}: free some, or set {variable} to a folder on another disk; "
            "then run it again, it goes on where it was"
        )
        raise OSError(errno.ENOSPC, message) from error


def _is_disk_full(error: Exception) -> bool:
    """Return whether an exception reports a full disk, by its number or by its text."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return True
    text = str(error)
    of_safetensors = "No space left" in text
    of_torch_save = "unexpected pos" in text
    return of_safetensors or of_torch_save


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, renamed to `path` on success.

    A file with the name `path` is therefore always complete. Where the block fails, the temporary
    file stays (`<name>.part`) and the next attempt overwrites it.

    Args:
        path: The file to write. Its folder is made where it is missing.

    Raises:
        OSError: As `disk_errors` does.
    """
    temporary = path.with_name(path.name + ".part")
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)


@contextmanager
def atomic_folder(path: Path, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path for a folder, renamed to `path` on success.

    The block makes the folder. An existing folder `path` is replaced. What a failed block or a
    killed run has left under the temporary name is removed.

    Args:
        path: The folder to write. Its parents are made where they are missing.
        new: Refuse to replace an existing folder.

    Raises:
        FileExistsError: Where `new` is set and `path` exists.
        OSError: As `disk_errors` does.
    """
    if new and path.exists():
        raise FileExistsError(f"{path} exists: give a new folder, or remove that one first")

    temporary = path.with_name(f".{path.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
