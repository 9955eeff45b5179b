"""What the first cell of every notebook calls: install what is missing, then open the laboratory.

Standard library only, as it runs before anything is installed. numpy and torch are never installed
or changed: a running kernel (Colab's, say) has its own. Nor is a package that the kernel has
imported: half of it would be old, half new. `import pandas` loads pyarrow, and a newer pyarrow
under it breaks.
"""

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UNTOUCHED = ("numpy", "torch")
RESTART = "restart the runtime, then run this cell again, before you import anything"
COMMITTED_PRESET = "laptop"  # of the outputs that are stored in the notebooks
FOLDER_VARIABLES = (
    "LAB_CACHE",
    "LAB_DATA",
    "LAB_RESULTS",
)  # as in distilwhisper_lib/files/folders.py


def missing_requirements(root: Path = ROOT) -> list[str]:
    """Return the requirements that are not installed, or too old; never numpy or torch."""
    return [
        requirement
        for requirement in requirements(root)
        if _name(requirement) not in UNTOUCHED and not _is_satisfied(requirement)
    ]


def requirements(root: Path = ROOT) -> list[str]:
    """Return what pyproject.toml requires of the library."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["dependencies"]


def _name(requirement: str) -> str:
    """Return the package's name, without versions, as pip compares names."""
    name = re.match(r"[\w.-]+", requirement).group().lower()
    return re.sub(r"[-_.]+", "-", name)


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


def _pins(root: Path = ROOT) -> dict[str, str]:
    """Return the lines of constraints.txt by the package's name."""
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {_name(line): line for line in lines if line and not line.startswith("#")}


def pins_of(missing: list[str], root: Path = ROOT) -> list[str]:
    """Return the pins of constraints.txt for what is installed now: the missing, and their needs.

    What is there already, and new enough, keeps its version.
    """
    names = {_name(requirement) for requirement in missing}
    pins = _pins(root)
    return [pin for name, pin in pins.items() if name in names or not _is_installed(name)]


def imported_packages() -> set[str]:
    """Return the names of the installed packages of which the kernel has imported a module."""
    packages_of = importlib.metadata.packages_distributions()  # module -> packages
    return {
        _name(package)
        for module, packages in packages_of.items()
        if module in sys.modules
        for package in packages
    }


def kept_versions(imported: set[str], root: Path = ROOT) -> list[str]:
    """Return constraints that keep numpy, torch and what is imported as they are.

    Only packages of constraints.txt are named: pip installs no others here.
    """
    others = sorted(imported & set(_pins(root)) - set(UNTOUCHED))
    return [
        f"{name}=={importlib.metadata.version(name)}"
        for name in (*UNTOUCHED, *others)
        if _is_installed(name)
    ]


def install_missing() -> None:
    """Install what is missing in the pinned versions; numpy, torch and what is imported stay.

    Raises:
        RuntimeError: Where that needs another version of a package that is imported.
    """
    missing = missing_requirements()
    if not missing:
        return
    imported = imported_packages()
    refuse_imported(missing, imported)
    kept = kept_versions(imported)
    print("installing", *missing)
    try:
        _install(missing, [*kept, *pins_of(missing)])
    except subprocess.CalledProcessError:
        print("the pinned versions do not fit what is installed here: installing those that fit")
        install_unpinned(missing, kept, imported)
    importlib.invalidate_caches()  # so that this kernel finds what is new


def refuse_imported(missing: list[str], imported: set[str]) -> None:
    """Raise where a package that is too old is imported: it can't be replaced under the kernel."""
    loaded = [requirement for requirement in missing if _name(requirement) in imported]
    if not loaded:
        return
    names = ", ".join(
        f"{_name(requirement)} {importlib.metadata.version(_name(requirement))}"
        for requirement in loaded
    )
    raise RuntimeError(f"imported already: {names}, but {', '.join(loaded)} is needed: {RESTART}")


def install_unpinned(missing: list[str], kept: list[str], imported: set[str]) -> None:
    """Install the versions that fit what is kept.

    Raises:
        RuntimeError: Where none do, and packages that we use are imported: a fresh kernel may help.
        subprocess.CalledProcessError: Where none do in a fresh kernel; pip has said why.
    """
    try:
        _install(missing, kept)
    except subprocess.CalledProcessError as error:
        ours = sorted(imported & {_name(line) for line in requirements()} - set(UNTOUCHED))
        if not ours:
            raise
        raise RuntimeError(
            f"pip can't install {', '.join(missing)}, for the reason above. If it is a package "
            f"that is imported already ({', '.join(ours)}), {RESTART}"
        ) from error


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
        RuntimeError: Where torch is not installed, or a package that is imported is too old.
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
    # peft asks transformers by a name that is being replaced: nothing that a reader could mend
    warnings.filterwarnings("ignore", ".is_gradient_checkpointing. is deprecated", FutureWarning)

    from distilwhisper_lib import open_lab as open_lab_of_library

    lab = open_lab_of_library(preset, **changes)
    if lab.preset.name != COMMITTED_PRESET:
        print(f'"Read, at {COMMITTED_PRESET}" speaks of real speech: your output may differ')
    offer_gpu(preset)
    return lab


def offer_gpu(preset: str | None) -> None:
    """Say which preset is for a GPU, where there is one and no preset is chosen.

    It is not chosen here: what a notebook computes by default does not depend on the machine.
    """
    import torch

    from distilwhisper_lib import get_preset

    if preset is None and not os.environ.get("LAB_PRESET") and torch.cuda.is_available():
        print(f'a GPU is here: set PRESET = "colab" above for {get_preset("colab").student}')
