"""What the first cell of every notebook calls: install what is missing, then open the laboratory.

Standard library only: it runs before anything is installed. numpy and torch are never installed or changed:
a running kernel (Colab's, say) has its own.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNTOUCHED = ("numpy", "torch")


def missing_requirements(root: Path = ROOT) -> list[str]:
    """Return the project's requirements that are not installed, or too old; never numpy or torch."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return [
        line
        for line in project["dependencies"]
        if _name(line) not in UNTOUCHED and not _installed(line)
    ]


def _name(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement).group().lower()


def _installed(requirement: str) -> bool:
    try:
        version = importlib.metadata.version(_name(requirement))
    except importlib.metadata.PackageNotFoundError:
        return False
    floor = re.search(r">=\s*([\d.]+)", requirement)
    return floor is None or _numbers(version) >= _numbers(floor.group(1))


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def install_missing() -> None:
    """Install what is missing, holding numpy and torch at the versions that are here."""
    missing = missing_requirements()
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "held.txt"
        held.write_text(
            "".join(
                f"{name}=={importlib.metadata.version(name)}\n" for name in UNTOUCHED if _here(name)
            )
        )
        print("installing", *missing)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "-c", held, *missing], check=True
        )


def _here(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def open_lab(preset: str | None = None, **changes):
    """Install what is missing, print where the notebook runs and what that means, and return the Lab.

    changes: settings instead of the preset's, such as teacher="openai/whisper-small".
    """
    if not _here("torch"):
        raise RuntimeError(
            "torch is not installed in this kernel: run `make course` or `make lab` in the project's "
            "folder and choose its kernel, or open the notebook on Colab"
        )
    install_missing()
    sys.path[:0] = [str(path) for path in (ROOT, ROOT / "notebooks") if str(path) not in sys.path]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from distilwhisper_lib import open_lab as opened

    return opened(preset, **changes)
