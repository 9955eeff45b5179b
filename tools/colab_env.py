"""Make `.venv-colab`: the course's packages in the versions that Colab has.

    python3 tools/colab_env.py               what `make test-colab` calls; then it does nothing
    .venv/bin/python tools/colab_env.py --lock
                                             resolves requirements-colab.lock anew, instead

tests/colab-versions.txt says which versions these are. requirements-colab.lock has them, what the
project needs beside them as in requirements.lock where that fits, and the hashes of all files.
PyTorch is not Colab's: it is the course's own, in its CPU build.
"""

import argparse
import tomllib
from pathlib import Path

import setup_env
import update_lock

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ROOT / "tests" / "colab-versions.txt"
LOCK = ROOT / "requirements-colab.lock"
VENV = ROOT / ".venv-colab"
HEADER = """\
# Every package of the tests but PyTorch, in the versions of tests/colab-versions.txt and what fits
# them, with the hashes of all its files. Resolved by `tools/colab_env.py --lock`, installed into
# .venv-colab by `make test-colab` with --require-hashes and --no-deps.
"""


def main() -> None:
    """Make the environment, or resolve its lock."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lock", action="store_true", help="resolve requirements-colab.lock")
    options = parser.parse_args()
    if options.lock:
        update_lock.write_lock(LOCK, HEADER, resolve())
        return

    setup_env.check_python()
    python = setup_env.venv_python(VENV)
    stamp = VENV / ".colab-stamp"
    wanted = f"{setup_env.lock_fingerprint(LOCK, python)} {setup_env.torch_pin()}"
    if python.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return
    set_up(python)
    stamp.write_text(wanted, encoding="utf-8")
    print("The environment with Colab's versions is ready.", flush=True)


def versions() -> list[str]:
    """Return Colab's pins, "name==version", without PyTorch's."""
    pins = update_lock.read_pins(VERSIONS)
    return [pin for pin in pins if not pin.startswith("torch==")]


def resolve() -> str:
    """Return the entries of the lock: Colab's versions, and the rest as in requirements.lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["course"], *extras["test"]]
    wanted += [*versions(), update_lock.TORCH, *update_lock.TOOLS]
    return update_lock._resolve(wanted, update_lock.LOCK, keep=True)


def set_up(python: Path) -> None:
    """Install everything into the environment of an interpreter.

    PyTorch comes first: it brings newer versions of what it needs, and the lock has the last word.
    """
    size, download = setup_env.NEEDED_GB, setup_env.DOWNLOAD_MB
    setup_env.check_disk(size)
    print(
        f"Setting up {VENV} with Colab's versions (about {download} MB to download, {size} GB of "
        "disk; only this once)",
        flush=True,
    )
    setup_env.make_venv(python)
    setup_env.pip_locked(python, "pip", LOCK)
    setup_env.pip_locked(python, "uv", LOCK)
    setup_env.install_torch(python)
    packages = [*setup_env.CHECKED, "-r", str(LOCK)]
    setup_env.pip(python, f"the packages of {LOCK.name}", *packages)
    ourselves = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    setup_env.pip(python, "distilwhisper_lib, from here", *ourselves)


if __name__ == "__main__":
    main()
