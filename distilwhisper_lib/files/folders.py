"""The folders of cache, data and results."""

import errno
import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent

FOLDER_VARIABLES = ("LAB_CACHE", "LAB_DATA", "LAB_RESULTS")


def resolve_folders() -> None:
    """Make relative folders in the environment absolute, for this process and those it starts.

    They are relative to the working directory of the first call. Every function below calls this
    first, so that a later change of the working directory, such as a notebook's own folder,
    changes nothing.

    Raises:
        NotADirectoryError: Where a variable names something that is no folder, or lies below it.
        ValueError: For a folder with "::" in its path.
    """
    for variable in FOLDER_VARIABLES:
        value = os.environ.get(variable)
        if not value:
            continue
        folder = expanded(value).absolute()
        if "::" in str(folder):
            raise ValueError(
                f"{variable} is {value!r}: datasets takes '::' in a path for two paths, name a "
                "folder without it"
            )
        for parent in (folder, *folder.parents):
            if os.path.exists(parent) and not os.path.isdir(parent):
                below = "" if parent == folder else f"below {str(parent)!r}, "
                raise NotADirectoryError(
                    errno.ENOTDIR, f"{variable} is {value!r}, {below}which is no folder: name one"
                )
        if str(folder) != value:
            os.environ[variable] = str(folder)


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder for "~"; as it is where "~" begins a name, as in "~$a"."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # there is no such user
        return Path(path)


def _named_folder(variable: str) -> Path | None:
    """Return the absolute folder that an environment variable names; None where it is not set."""
    resolve_folders()
    value = os.environ.get(variable)
    return Path(value) if value else None


def cache_dir() -> Path:
    """Return the folder for weights, corpora and training runs.

    The environment variable LAB_CACHE names it; without it, it is `cache/` in the repository.

    Raises:
        NotADirectoryError: As `resolve_folders` does.
    """
    return _named_folder("LAB_CACHE") or REPOSITORY / "cache"


def data_dir() -> Path:
    """Return the folder of speech data that was downloaded by hand.

    The environment variable LAB_DATA names it; without it, it is `data/` in the cache.

    Raises:
        NotADirectoryError: As `resolve_folders` does.
    """
    return _named_folder("LAB_DATA") or cache_dir() / "data"


def results_dir(preset: str) -> Path:
    """Return the folder for the tables and figures of the preset with this name.

    The environment variable LAB_RESULTS names its parent; without it, that is `results/` in the
    repository.

    Raises:
        NotADirectoryError: As `resolve_folders` does.
    """
    parent = _named_folder("LAB_RESULTS") or REPOSITORY / "results"
    return parent / preset
