"""Ground: folders, JSON, atomic writes and hashes."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_json(path: Path, value) -> None:
    """Write `value` as JSON, whole or not at all."""
    with atomic_file(path) as part:
        part.write_text(
            json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8"
        )


def read_json(path: Path) -> dict:
    """Return the content of a JSON file, or {} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def short_hash(value) -> str:
    """Return eight hexadecimal digits that change with any part of `value` (anything JSON can hold)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


REPOSITORY = Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Return the folder for weights, corpora and training runs (variable LAB_CACHE, else `cache/` here)."""
    return Path(os.environ.get("LAB_CACHE") or REPOSITORY / "cache").expanduser()


def data_dir() -> Path:
    """Return the folder of speech data that was downloaded by hand (variable LAB_DATA, else `data/` in the cache)."""
    return Path(os.environ.get("LAB_DATA") or cache_dir() / "data").expanduser()


def results_dir(preset: str) -> Path:
    """Return the folder of a preset's tables and pictures (variable LAB_RESULTS, else `results/` here)."""
    return Path(os.environ.get("LAB_RESULTS") or REPOSITORY / "results").expanduser() / preset


@contextmanager
def disk_errors(folder: Path, variable: str = "LAB_CACHE") -> Iterator[None]:
    """Turn a full disk, however a library reports it, into an OSError that names the folder and says what to do.

    variable: what names another folder. Of blocks in each other the innermost speaks.
    """
    try:
        yield
    except Exception as error:  # safetensors and torch have errors of their own
        full = getattr(error, "errno", None) in (
            errno.ENOSPC,
            errno.EDQUOT,
        ) or "No space left" in str(error)
        if (
            not full and "unexpected pos" not in str(error) or "left under" in str(error)
        ):  # torch.save; ours
            raise
        raise OSError(
            errno.ENOSPC,
            f"no space left under {folder}: free some, or set {variable} to a folder on "
            "another disk; then run it again, it goes on where it was",
        ) from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; it becomes `path` where the block ends well: no half file has that name.

    The folder is made where it is missing. Raises OSError as `disk_errors` does.
    """
    part = path.with_name(path.name + ".part")
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        os.replace(part, path)


@contextmanager
def atomic_folder(path: Path, new: bool = False) -> Iterator[Path]:
    """The same for a folder, which the block makes; it takes the place of what is there.

    What a block that failed or a killed run has left is removed. new: raise FileExistsError where something is there.
    """
    if new and path.exists():
        raise FileExistsError(f"{path} exists: give a new folder, or remove that one first")
    part = path.with_name(f".{path.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with disk_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            shutil.rmtree(path, ignore_errors=True)
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
