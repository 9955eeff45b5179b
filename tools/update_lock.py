"""Resolve pyproject.toml anew: requirements.lock, constraints.txt and environment.yml.

.venv/bin/python tools/update_lock.py             keeps the pins that still fit
.venv/bin/python tools/update_lock.py --upgrade   takes the newest of everything
.venv/bin/python tools/update_lock.py --conda     only writes environment.yml from the lock
.venv/bin/python tools/update_lock.py --book      resolves requirements-book.lock instead
.venv/bin/python tools/update_lock.py --demo      resolves requirements-demo.lock instead

requirements.lock holds the hashes of every file of each package, so that it serves all platforms;
constraints.txt has the same pins without hashes, and PyTorch's.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
BOOK_LOCK = ROOT / "requirements-book.lock"
DEMO_LOCK = ROOT / "requirements-demo.lock"
CONSTRAINTS = ROOT / "constraints.txt"
CONDA = ROOT / "environment.yml"
TORCH = "torch==2.13.0"

# Not declared by the project: what builds it without a download, and what installs.
TOOLS = ["setuptools>=77", "pip>=25", "uv>=0.8"]

# PyTorch and the CUDA libraries that its default build for Linux brings: their builds differ, and
# tools/setup_env.py chooses one.
APART = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")

ELSEWHERE = "sys_platform == 'emscripten'"  # packages for Python in a browser

HEADER = """\
# Every package of the course with its tests but PyTorch, with the hashes of all its files: for
# Python 3.11 and newer on Linux, macOS and Windows. Resolved by tools/update_lock.py, installed by
# tools/setup_env.py (which `make` calls) with --require-hashes and --no-deps.
"""
BOOK_HEADER = """\
# Every package that makes and tests the book and the slides, with the hashes of all its files: for
# Python 3.11 and newer on Linux, macOS and Windows. Resolved by `tools/update_lock.py --book`,
# installed into .venv-book by tools/setup_env.py with --require-hashes and --no-deps.
"""
DEMO_HEADER = """\
# Every package of the demo's page, with the hashes of all its files: for Python 3.11 and newer on
# Linux, macOS and Windows. Resolved by `tools/update_lock.py --demo`, installed into .venv-demo by
# tools/setup_env.py with --require-hashes and --no-deps. Models run in .venv.
"""
CONSTRAINTS_HEADER = """\
# The pins of requirements.lock and PyTorch's, without hashes: for an environment of your own,
#     pip install --constraint constraints.txt PACKAGE
"""
CONDA_HEADER = """\
# The environment of requirements.lock for conda users, written by tools/update_lock.py:
#     conda env create -f environment.yml
#     conda activate distilwhisper-lab
#     pip install --no-deps -e .
# On Linux this takes PyTorch's default build, for NVIDIA GPUs, with 5 GB of CUDA libraries. For the
# CPU build instead (after which `python tools/setup_env.py --here --gpu` changes to the other):
#     conda create -n distilwhisper-lab python=3.11 pip
#     conda activate distilwhisper-lab
#     python tools/setup_env.py --here
name: distilwhisper-lab
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def main() -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    parser.add_argument("--conda", action="store_true", help="only write environment.yml")
    parser.add_argument("--book", action="store_true", help="only write the book's lock")
    parser.add_argument("--demo", action="store_true", help="only write the demo's lock")
    options = parser.parse_args()
    if options.book:
        write_lock(BOOK_LOCK, BOOK_HEADER, resolve_book(not options.upgrade))
    if options.demo:
        write_lock(DEMO_LOCK, DEMO_HEADER, resolve_demo(not options.upgrade))
    if options.book or options.demo:
        return

    if not options.conda:
        lock = resolve(keep=not options.upgrade)
        LOCK.write_text(HEADER + lock, encoding="utf-8")
        CONSTRAINTS.write_text(constraints_text(read_pins(LOCK)), encoding="utf-8")
    pins = read_pins(LOCK)
    CONDA.write_text(conda_text(pins), encoding="utf-8")
    print(f"{len(pins)} pins in {LOCK.name}, {CONSTRAINTS.name} and {CONDA.name}")


def write_lock(lock: Path, header: str, entries: str) -> None:
    """Write the lock of an environment of its own."""
    lock.write_text(header + entries, encoding="utf-8")
    print(f"{len(read_pins(lock))} pins in {lock.name}")


def resolve(keep: bool) -> str:
    """Ask uv for every package that pyproject.toml needs, directly or not, on any platform.

    Args:
        keep: Whether the pins of the present lock file stay where they fit.

    Returns:
        "name==version ; where" of each package, with the hashes of its files on the lines below.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], TORCH, *TOOLS]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    return _resolve(wanted, LOCK, keep)


def resolve_book(keep: bool) -> str:
    """Do the same for what the group "book" of pyproject.toml needs."""
    return _resolve_group("book", BOOK_LOCK, keep)


def resolve_demo(keep: bool) -> str:
    """Do the same for what the group "demo" of pyproject.toml needs."""
    return _resolve_group("demo", DEMO_LOCK, keep)


def _resolve_group(name: str, lock: Path, keep: bool) -> str:
    """Return the entries of the lock of a group of pyproject.toml, and pip's."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return _resolve([*settings["dependency-groups"][name], "pip>=25"], lock, keep)


def _resolve(wanted: list[str], lock: Path, keep: bool) -> str:
    """Return the entries of a lock file, one version of each package for all platforms."""
    kept = read_pins(lock) if keep and lock.exists() else []
    text = _compile(wanted, kept)
    doubled = _doubled(text)
    if doubled:  # a pin that fits some versions of Python alone: a version for all may exist
        text = _compile(wanted, [pin for pin in kept if _name(pin) not in doubled])
        doubled = _doubled(text)
    if doubled:
        sys.exit(f"no single version of {', '.join(doubled)} fits all platforms: bound it")

    entries = re.findall(r"(?m)^[^\s#].*\n(?:[ ]+.*\n)*", text)
    return "".join(entry for entry in entries if not (APART.match(entry) or ELSEWHERE in entry))


def _compile(wanted: list[str], pins: list[str]) -> str:
    """Return what uv resolves, with hashes; `pins` are kept where they fit."""
    with tempfile.TemporaryDirectory() as folder:
        needs = Path(folder) / "needs.txt"
        output = Path(folder) / "lock.txt"
        needs.write_text("\n".join(wanted) + "\n", encoding="utf-8")
        output.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", str(needs), "-o", str(output)]
        command += ["--universal", "--python-version", "3.11", "--fork-strategy", "fewest"]
        command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        return output.read_text(encoding="utf-8")


def _doubled(text: str) -> list[str]:
    """Return the names that have several pins."""
    names = [_name(line) for line in text.splitlines() if "==" in line]
    return sorted({name for name in names if names.count(name) > 1})


def _name(pin: str) -> str:
    return pin.split("==")[0].strip().lower().replace("_", "-")


def read_pins(lock: Path) -> list[str]:
    """Return the pins of a lock file, "name==version" or with " ; where", without hashes."""
    lines = [line.rstrip(" \\") for line in lock.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith(("#", " "))]


def constraints_text(pins: list[str]) -> str:
    """Return constraints.txt for the pins."""
    lines = sorted([*(pin.split(" ;")[0] for pin in pins), TORCH])
    return CONSTRAINTS_HEADER + "".join(f"{line}\n" for line in lines)


def conda_text(pins: list[str]) -> str:
    """Return environment.yml for the pins."""
    installed = [pin for pin in pins if _name(pin) != "pip"]  # conda's own
    return CONDA_HEADER + "".join(f"      - {pin}\n" for pin in sorted([*installed, TORCH]))


if __name__ == "__main__":
    main()
