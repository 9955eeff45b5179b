"""Resolve pyproject.toml anew and write the pins into requirements.lock and environment.yml.

.venv/bin/python tools/update_lock.py             keeps the pins that still fit
.venv/bin/python tools/update_lock.py --upgrade   takes the newest of everything
.venv/bin/python tools/update_lock.py --conda     only writes environment.yml from the lock
"""

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, CONDA = ROOT / "requirements.lock", ROOT / "environment.yml"
TORCH = "torch==2.13.0"
BUILD = "setuptools>=77"  # builds our own package without a download
HEADER = """\
# Every package of the course with its tests, as resolved by tools/update_lock.py for Python 3.11 on Linux.
# PyTorch comes in its CPU build: see tools/setup_env.py, which `make` calls.
"""
CONDA_HEADER = """\
# The environment of requirements.lock for conda users, written by tools/update_lock.py:
#     conda env create -f environment.yml && conda activate distilwhisper-lab && pip install --no-deps -e .
# On Linux this takes PyTorch's default build, for NVIDIA GPUs, with 5 GB of CUDA libraries. For the CPU build instead
# (after which `python tools/setup_env.py --here --gpu` changes to the other):
#     conda create -n distilwhisper-lab python=3.11 pip && conda activate distilwhisper-lab
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
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--upgrade", action="store_true")
    parser.add_argument("--conda", action="store_true")
    options = parser.parse_args()
    if not options.conda:
        LOCK.write_text(
            HEADER + "".join(f"{pin}\n" for pin in resolve(keep=not options.upgrade)),
            encoding="utf-8",
        )
    CONDA.write_text(conda_text(read_pins(LOCK)), encoding="utf-8")
    print(f"{len(read_pins(LOCK))} pins in {LOCK.name} and {CONDA.name}")


def resolve(keep: bool) -> list[str]:
    """Ask pip for everything that pyproject.toml needs, as "name==version", sorted by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *sum(project["optional-dependencies"].values(), []),
        TORCH,
        BUILD,
    ]
    constraints = ["--constraint", str(LOCK)] if keep and LOCK.exists() else []
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--quiet",
            "--report",
            "-",
            *constraints,
            *wanted,
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    found = [package["metadata"] for package in json.loads(done.stdout)["install"]]
    return sorted(
        (f"{one['name']}=={one['version'].split('+')[0]}" for one in found), key=str.lower
    )


def read_pins(lock: Path) -> list[str]:
    """Return the pins of a lock file, without its comments."""
    lines = (line.strip() for line in lock.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def conda_text(pins: list[str]) -> str:
    """Return environment.yml for the pins."""
    return CONDA_HEADER + "".join(f"      - {pin}\n" for pin in pins)


if __name__ == "__main__":
    main()
