"""What the first cell of every notebook calls: install what is missing, then open the laboratory.

Standard library only, as it runs before anything is installed. numpy and torch are never installed
or changed: a running kernel (Colab's, say) has its own.
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
FOLDER_VARIABLES = ("LAB_CACHE", "LAB_DATA", "LAB_RESULTS")  # as in distilwhisper_lib/files.py


def missing_requirements(root: Path = ROOT) -> list[str]:
    """Return the requirements that are not installed, or too old; never numpy or torch."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [
        requirement
        for requirement in project["dependencies"]
        if _name(requirement) not in UNTOUCHED and not _is_satisfied(requirement)
    ]


def _name(requirement: str) -> str:
    """Return the package's name, without versions."""
    return re.match(r"[\w.-]+", requirement).group().lower()


def _is_satisfied(requirement: str) -> bool:
    """Whether the package is installed, in at least the lowest version that is allowed."""
    name = _name(requirement)
    if not _is_installed(name):
        return False
    lowest = re.search(r">=\s*([\d.]+)", requirement)
    if lowest is None:
        return True
    return _numbers(importlib.metadata.version(name)) >= _numbers(lowest.group(1))


def _is_installed(name: str) -> bool:
    """Whether a package is installed."""
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def _numbers(version: str) -> list[int]:
    """Return the first three numbers of a version."""
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def pins_of(missing: list[str], root: Path = ROOT) -> list[str]:
    """Return the pins of constraints.txt for what is installed now: the missing, and their needs.

    What is there already, and new enough, keeps its version.
    """
    names = {_name(requirement) for requirement in missing}
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    return [pin for pin in pins if _name(pin) in names or not _is_installed(_name(pin))]


def install_missing() -> None:
    """Install what is missing in the pinned versions; numpy and torch keep theirs."""
    missing = missing_requirements()
    if not missing:
        return
    kept = [
        f"{name}=={importlib.metadata.version(name)}" for name in UNTOUCHED if _is_installed(name)
    ]
    print("installing", *missing)
    try:
        _install(missing, [*kept, *pins_of(missing)])
    except subprocess.CalledProcessError:
        print("the pinned versions do not fit what is installed here: installing those that fit")
        _install(missing, kept)


def _install(missing: list[str], constraints: list[str]) -> None:
    """Install packages by pip, under constraints; raises CalledProcessError where that fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("".join(f"{line}\n" for line in constraints), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "-c", path, *missing]
        subprocess.run(command, check=True)


def resolve_folders(root: Path = ROOT) -> None:
    """Make relative folders in the environment absolute: relative to the project, as for `make`.

    A kernel's working directory is that of its notebook, so that LAB_CACHE=lab-cache would be
    another folder there than in the terminal. Outside the project (on Colab) they are relative to
    the working directory.
    """
    here = Path.cwd()
    base = root if here.is_relative_to(root) else here
    for variable in FOLDER_VARIABLES:
        value = os.environ.get(variable)
        if value:
            os.environ[variable] = str(base / Path(value).expanduser())


def open_lab(preset: str | None = None, **changes):
    """Install what is missing, print where the notebook runs and what that means, open the Lab.

    Args:
        preset: Name of the preset; None takes the variable LAB_PRESET, else toy.
        **changes: Settings instead of the preset's, such as teacher="openai/whisper-small".

    Returns:
        The `Lab` that the notebook works with.

    Raises:
        RuntimeError: Where torch is not installed.
    """
    if not _is_installed("torch"):
        raise RuntimeError(
            "torch is not installed in this kernel: run `make course` or `make lab` in the "
            "project's folder and choose its kernel, or open the notebook on Colab"
        )
    install_missing()
    resolve_folders()
    folders = [str(ROOT), str(ROOT / "notebooks")]
    sys.path[:0] = [folder for folder in folders if folder not in sys.path]
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    from distilwhisper_lib import open_lab as open_lab_of_library

    return open_lab_of_library(preset, **changes)
