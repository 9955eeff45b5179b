"""Downloading packages of Debian or Ubuntu by the system's own apt-get, without root."""

import os
import shutil
import subprocess
import time
from pathlib import Path

from tqdm import tqdm

UNKNOWN_PACKAGE = "Unable to locate"  # what apt-get says of it


def apt_download(title: str, names: list[str], size: int, folder: Path) -> list[Path]:
    """Download packages by `apt-get download`, which needs no root and checks signatures.

    Args:
        title: The corpus that they are for.
        names: Names of the packages.
        size: Bytes to expect, for the progress bar.
        folder: Where the packages are put.

    Returns:
        The .deb files.

    Raises:
        OSError: If there is no apt-get, it does not know a package, or the network fails. The
            message says what to do.
    """
    advice = (
        f"install {' '.join(names)}, or give the .deb files, an archive or the unpacked folder as "
        f"source (load_corpus({title!r}, ..., source=...))"
    )
    if not shutil.which("apt-get"):
        raise OSError(
            f"{title} is not on this machine, and there is no apt-get to download it with: {advice}"
        )

    problem = _apt(title, size, folder, "download", *names)
    if UNKNOWN_PACKAGE in problem or "404" in problem:
        problem = _download_with_own_lists(title, names, size, folder)

    debs = sorted(folder.glob("*.deb"))
    if problem or len(debs) < len(names):
        if UNKNOWN_PACKAGE in problem:
            hint = "run `sudo apt-get update` (Ubuntu: with `universe` enabled)"
        else:
            hint = "check the network (and the disk) and run it again"
        reason = problem or "no reason given"
        raise OSError(f"apt-get could not fetch {' '.join(names)} ({reason}): {hint}; or {advice}")
    return debs


def _download_with_own_lists(title: str, names: list[str], size: int, folder: Path) -> str:
    """Download new package lists into `folder`, then the packages; return "" or the errors.

    The system has no lists (a fresh container) or old ones, and changing them needs root.
    """
    lists = folder / "lists"
    (lists / "partial").mkdir(parents=True)
    options = (
        "-o",
        f"Dir::State::Lists={lists.resolve()}",
        "-o",
        f"Dir::Cache={folder.resolve()}",
    )
    problem = _apt(title, size, folder, *options, "update")
    if problem:
        return problem
    return _apt(title, size, folder, *options, "download", *names)


def _apt(title: str, size: int, folder: Path, *arguments: str) -> str:
    """Run apt-get in `folder` with a progress bar; return "" or its errors."""
    log = folder / "log"
    command = ["apt-get", "-q", *arguments]
    with (
        open(log, "w") as output,
        tqdm(total=size, desc=f"downloading {title}", unit="B", unit_scale=True) as bar,
    ):
        in_english = os.environ | {"LC_ALL": "C.UTF-8"}  # its messages are looked at
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, env=in_english
        )
        while process.poll() is None:
            time.sleep(0.3)
            bar.update(_downloaded_bytes(folder) - bar.n)
    if process.returncode == 0:
        return ""

    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("E:")]
    return " / ".join(errors) or f"exit status {process.returncode}"


def _downloaded_bytes(folder: Path) -> int:
    """Return the size of the packages that are, in whole or in part, in a folder."""
    debs = (path for path in folder.rglob("*.deb") if path.exists())
    return sum(path.stat().st_size for path in debs)
