"""What is damaged is set aside, and the reader is told."""

import sys
from pathlib import Path


def set_aside(path: Path, reason: str) -> Path:
    """Rename a damaged file or folder to NAME.damaged-N beside it, and tell it in one line.

    Args:
        path: The file or folder.
        reason: What is wrong with it, for the message.

    Returns:
        The new path; `path` itself where it cannot be renamed (a read-only folder).
    """
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1

    try:
        path.rename(kept)
    except FileNotFoundError:
        return kept  # another process has set it aside
    except OSError as error:
        tell(f"{path} is damaged ({reason}): left there ({error.strerror}), computed anew")
        return path
    tell(f"{path} is damaged ({reason}): kept as {kept.name}, computed anew")
    return kept


def tell(line: str) -> None:
    """Print a line for the reader, on stderr: tables on stdout stay as they are."""
    print(line, file=sys.stderr, flush=True)
