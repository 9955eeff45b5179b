"""Errors of the disk, as one sentence that says what to do; folders are made."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .folders import cache_dir, data_dir, results_dir

# How the messages of `disk_errors` begin.
_NO_SPACE = "no space left under"
_NOT_ALLOWED = "cannot write under"
_TOO_LARGE = "a file is too large under"

_KINDS = {
    errno.ENOSPC: (_NO_SPACE, "free some"),
    errno.EDQUOT: (_NO_SPACE, "free some"),
    errno.EROFS: (_NOT_ALLOWED, "make the folder writable"),
    errno.EACCES: (_NOT_ALLOWED, "make the folder writable"),
    errno.EPERM: (_NOT_ALLOWED, "make the folder writable"),
    errno.EFBIG: (_TOO_LARGE, "raise the limit on the size of files (`ulimit -f`)"),
}

# Libraries with exceptions of their own state the number as text.
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")


@contextmanager
def disk_errors(folder: Path, variable: str | None = None) -> Iterator[None]:
    """Raise one clear OSError for a disk that takes no more, whichever library reports it.

    That is: a full disk, a used-up quota, a folder or file system that is read-only, a limit on the
    size of files. When nested, the innermost message is used. Other errors pass through unchanged.

    Args:
        folder: The folder that the message names.
        variable: The environment variable by which a reader can choose another folder; None: that
            of results, of data or of the cache, where the folder is in one of them.

    Raises:
        OSError: With `errno.ENOSPC` (a used-up quota as well), EROFS, EACCES (PermissionError; for
            EPERM as well) or EFBIG.
    """
    try:
        yield
    except Exception as error:  # safetensors and torch have exceptions of their own
        number = disk_error(error)
        if number is None or str(error).startswith(f"[Errno {number}] {_KINDS[number][0]}"):
            raise

        begins, remedy = _KINDS[number]
        variable = variable or _variable_of(folder)
        other = f"set {variable} to" if variable else "choose"
        where = getattr(error, "filename", None)
        detail = f" ({os.strerror(number)}: {where})" if where and begins != _NO_SPACE else ""
        message = (
            f"{begins} {folder}{detail}: {remedy}, or {other} a folder on another disk; "
            "then run it again, it goes on where it was"
        )
        raise OSError(_reported_as(number), message) from error


def _variable_of(folder: Path) -> str:
    """Return the environment variable that names the folder in which another folder is, or ""."""
    chosen = {
        "LAB_RESULTS": results_dir(""),
        "LAB_DATA": data_dir(),
        "LAB_CACHE": cache_dir(),
    }
    for variable, parent in chosen.items():
        if folder.absolute().is_relative_to(parent):
            return variable
    return ""


def _reported_as(number: int) -> int:
    """Return the number that stands for its kind: ENOSPC for EDQUOT, EACCES for EPERM."""
    return {errno.EDQUOT: errno.ENOSPC, errno.EPERM: errno.EACCES}.get(number, number)


def disk_error(error: Exception) -> int | None:
    """Return the number of an error in `_KINDS`, by the exception's number or by its text."""
    number = getattr(error, "errno", None)
    if number in _KINDS:
        return number
    if isinstance(error, OSError) and number is not None:
        return None

    text = str(error)
    stated = _NUMBER_IN_TEXT.search(text)
    if stated and int(stated[1]) in _KINDS:
        return int(stated[1])
    if "unexpected pos" in text:  # torch.save, which does not say why it could not write
        return errno.EFBIG if _file_size_is_limited() else errno.ENOSPC
    return errno.ENOSPC if "No space left" in text else None


def _file_size_is_limited() -> bool:
    """Return whether this process may write files up to some size only (`ulimit -f`)."""
    try:
        import resource  # not on every system
    except ImportError:
        return False
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return soft != resource.RLIM_INFINITY


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, where they are missing; return it.

    Raises:
        OSError: As `disk_errors` does; and for a path where no folder can be, such as one below a
            file (NotADirectoryError, FileExistsError) or in /proc (FileNotFoundError).
    """
    with disk_errors(folder.parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
            variable = _variable_of(folder)
            by = f" (by {variable}, if that has chosen this one)" if variable else ""
            raise OSError(
                error.errno,
                f"the folder {folder} cannot be made ({os.strerror(error.errno)}: "
                f"{error.filename}): remove what is in its way, or choose a folder elsewhere{by}",
            ) from error
    return folder


def can_write(folder: Path) -> bool:
    """Return whether this process may write to a folder, or make it where it does not exist."""
    for parent in (folder, *folder.absolute().parents):
        if os.path.lexists(parent):
            return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    return False
