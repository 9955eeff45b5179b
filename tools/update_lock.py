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
LOCK = ROOT / "requirements.lock"
CONDA = ROOT / "environment.yml"
TORCH = "torch==2.13.0"
BUILD = "setuptools>=77"  # builds our own package without a download

HEADER = """\
# Every package of the course with its tests, resolved by tools/update_lock.py for Python 3.11 on
# Linux. PyTorch comes in its CPU build: see tools/setup_env.py, which `make` calls.
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
    """Write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrade", action="store_true", help="take the newest of everything")
    parser.add_argument("--conda", action="store_true", help="only write environment.yml")
    options = parser.parse_args()

    if not options.conda:
        pins = resolve(keep=not options.upgrade)
        LOCK.write_text(HEADER + "".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    pins = read_pins(LOCK)
    CONDA.write_text(conda_text(pins), encoding="utf-8")
    print(f"{len(pins)} pins in {LOCK.name} and {CONDA.name}")


def resolve(keep: bool) -> list[str]:
    """Ask pip for every package that pyproject.toml needs, directly or not.

    Args:
        keep: Whether the pins of the present lock file stay where they fit.

    Returns:
        "name==version" of each package, sorted by name.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], TORCH, BUILD]
    for extra in project["optional-dependencies"].values():
        wanted += extra

    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--report", "-"]
    if keep and LOCK.exists():
        command += ["--constraint", str(LOCK)]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)

    packages = [package["metadata"] for package in json.loads(done.stdout)["install"]]
    pins = [f"{package['name']}=={package['version'].split('+')[0]}" for package in packages]
    return sorted(pins, key=str.lower)


def read_pins(lock: Path) -> list[str]:
    """Return the pins of a lock file, without its comments."""
    lines = [line.strip() for line in lock.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def conda_text(pins: list[str]) -> str:
    """Return environment.yml for the pins."""
    return CONDA_HEADER + "".join(f"      - {pin}\n" for pin in pins)


if __name__ == "__main__":
    main()
