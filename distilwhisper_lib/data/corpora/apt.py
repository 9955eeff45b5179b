"""Downloading packages of a Debian or Ubuntu without root, by the system's own apt-get."""

import shutil
import subprocess
import time
from pathlib import Path

from tqdm import tqdm


def apt_download(title: str, names: list[str], size: int, folder: Path) -> list[Path]:
    """Fetch packages into `folder` by `apt-get download`, which needs no root and checks signatures.

    title: what they are for; size: the bytes to expect, for the progress bar.
    Raises OSError that says what to do if there is no apt-get, a package is not known, or the network fails.
    """
    advice = (
        f"install {' '.join(names)}, or give the .deb files, an archive or the unpacked folder as source "
        f"(load_corpus({title!r}, ..., source=...))"
    )
    if not shutil.which("apt-get"):
        raise OSError(
            f"{title} is not on this machine, and there is no apt-get to download it with: {advice}"
        )
    words = _apt(title, size, folder, "download", *names)
    if (
        "Unable to locate" in words or "404" in words
    ):  # no lists (a fresh container) or old ones: fetch our own
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        own = ("-o", f"Dir::State::Lists={lists.resolve()}", "-o", f"Dir::Cache={folder.resolve()}")
        words = _apt(title, size, folder, *own, "update") or _apt(
            title, size, folder, *own, "download", *names
        )
    found = sorted(folder.glob("*.deb"))
    if words or len(found) < len(names):
        hint = (
            "run `sudo apt-get update` (Ubuntu: with `universe` enabled)"
            if "Unable to locate" in words
            else "check the network (and the disk) and run it again"
        )
        raise OSError(
            f"apt-get could not fetch {' '.join(names)} ({words or 'no reason given'}): {hint}; or {advice}"
        )
    return found


def _apt(title: str, size: int, folder: Path, *arguments: str) -> str:
    """Run apt-get in `folder` with a progress bar; return "" or its error messages."""
    log = folder / "log"
    with (
        open(log, "w") as output,
        tqdm(total=size, desc=f"downloading {title}", unit="B", unit_scale=True) as bar,
    ):
        process = subprocess.Popen(
            ["apt-get", "-q", *arguments], cwd=folder, stdout=output, stderr=output
        )
        while process.poll() is None:
            time.sleep(0.3)
            bar.update(
                sum(path.stat().st_size for path in folder.rglob("*.deb") if path.exists()) - bar.n
            )
    lines = log.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("E:")] or [
        f"exit status {process.returncode}"
    ]
    return " / ".join(errors) if process.returncode else ""
