"""Set up the course's environment: `.venv` with the packages of requirements.lock and PyTorch.

The lock has the hashes of all packages but PyTorch, and pip checks them.

    python3 tools/setup_env.py            what `make` calls; the second time it does nothing
    python3 tools/setup_env.py --gpu      with PyTorch's build for NVIDIA GPUs (make setup GPU=1)
    python3 tools/setup_env.py --here     into the environment of this Python (conda, or your own)
    python3 tools/setup_env.py --book     `.venv-book` instead: what makes the book and the slides
    python3 tools/setup_env.py --demo     `.venv-demo` instead: what shows the demo's page

PyTorch comes in its CPU build unless --gpu is given; once installed, the build for GPUs stays.
Needs nothing but Python and its venv module; works on Linux, macOS and Windows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
BOOK_VENV = ROOT / ".venv-book"
BOOK_LOCK = ROOT / "requirements-book.lock"
DEMO_VENV = ROOT / ".venv-demo"
DEMO_LOCK = ROOT / "requirements-demo.lock"
CONSTRAINTS = ROOT / "constraints.txt"  # the same pins without hashes, and PyTorch's
OLDEST = (3, 11)

# The lock is complete: nothing is installed that it does not name.
CHECKED = ("--require-hashes", "--no-deps")

# Disk and download of the environment: with the CPU build of PyTorch (measured), and with the build
# for GPUs (GB not measured, MB by the sizes of the packages).
NEEDED_GB, DOWNLOAD_MB = 2.5, 450
GPU_GB, GPU_MB = 8, 3000
BOOK_GB, BOOK_MB = 0.5, 100
DEMO_GB, DEMO_MB = 0.4, 85

COURSE = (
    "`make course` then takes about 40 min on 2 cores, 6 GB of memory and 4.0 GB more of disk "
    "({free:.0f} GB are free here); it downloads 561 MB of speech and 290 MB of weights"
)

DISK_FULL = f"the disk is full: free {NEEDED_GB} GB, then start again (finished downloads are kept)"
NO_NETWORK = "there is no network: connect, then start again"

# Part of pip's message -> what to do; the first match counts
ADVICE = {
    "No space left": DISK_FULL,
    "Errno 28": DISK_FULL,
    "download.pytorch": "PyTorch's own index can't be reached: connect, then start again; or put "
    "the pinned torch into .venv by other means, which is then left alone",
    "name resolution": NO_NETWORK,
    "Name or service not known": NO_NETWORK,
    "NewConnectionError": "the package index can't be reached: check the network and the proxy "
    "settings of pip",
    "ConnectTimeout": "the package index does not answer: check the network and the proxy settings "
    "of pip",
    "CERTIFICATE_VERIFY_FAILED": "the package index's certificate is not trusted here: give pip "
    "yours (PIP_CERT)",
    "DO NOT MATCH THE HASHES": "a package is not the one that was locked: start again; if it stays "
    "so, the index or a proxy between gives another file, which must not be used",
    "No matching distribution": "a package is not available for this Python: try Python 3.11, 3.12 "
    "or 3.13 (make PYTHON=python3.12), and check the network",
}


def main() -> None:
    """Install what is missing; exits with a message that says what to do where that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--here", action="store_true", help="use the running Python's environment, not .venv"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="PyTorch's build for NVIDIA GPUs instead of the CPU's"
    )
    parser.add_argument(
        "--book", action="store_true", help="the environment of the book, .venv-book, instead"
    )
    parser.add_argument(
        "--demo", action="store_true", help="the environment of the demo, .venv-demo, instead"
    )
    options = parser.parse_args()
    here, gpu = options.here, options.gpu
    apart = [f"--{name}" for name in ("book", "demo") if getattr(options, name)]
    if len(apart) > 1:
        sys.exit(f"{' and '.join(apart)} are two environments: make one after the other")
    if apart and (here or gpu):
        sys.exit(f"{apart[0]} makes an environment of its own: leave out --here and --gpu")

    check_python()
    if options.book:
        set_up_apart("book", BOOK_VENV, BOOK_LOCK, BOOK_GB, BOOK_MB)
        return
    if options.demo:
        set_up_apart("demo", DEMO_VENV, DEMO_LOCK, DEMO_GB, DEMO_MB)
        return
    if gpu and not sys.platform.startswith("linux"):
        sys.exit(
            "PyTorch's build for NVIDIA GPUs is installed on Linux only (Windows: inside WSL): "
            "leave out GPU=1"
        )

    # The stamp holds the fingerprint of what was installed last
    python = Path(sys.executable) if here else venv_python()
    stamp = (Path(sys.prefix) if here else VENV) / ".course-stamp"
    wanted = fingerprint(python)
    ready = python.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted
    if ready and gpu:
        _, ready = installed_torch(python)

    if not ready:
        set_up(python, here, gpu)
        stamp.write_text(wanted, encoding="utf-8")
        print("The environment is ready.", flush=True)

    remark = about_gpu(python, gpu)
    if remark:
        print(remark, flush=True)


def set_up(python: Path, here: bool, gpu: bool) -> None:
    """Install everything, after a message that says how much time and space it takes."""
    size, download = (GPU_GB, GPU_MB) if gpu else (NEEDED_GB, DOWNLOAD_MB)
    check_disk(size)
    print(
        f"Setting up {sys.prefix if here else VENV} (about {download} MB to download, {size} GB of "
        "disk, 3 to 10 minutes; only this once)",
        flush=True,
    )
    print(COURSE.format(free=shutil.disk_usage(ROOT).free / 1e9), flush=True)

    if not here:
        make_venv(python)
    pip_locked(python, "pip")
    pip(python, f"the packages of {LOCK.name}", *CHECKED, "-r", str(LOCK))
    install_torch(python, gpu)
    pip(python, "what PyTorch needs", "--constraint", str(CONSTRAINTS), torch_pin())
    ourselves = ["--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    pip(python, "distilwhisper_lib, from here", *ourselves)


def set_up_apart(what: str, venv: Path, lock: Path, gigabytes: float, megabytes: int) -> None:
    """Install the packages of a lock into an environment of their own, where that is not done.

    Args:
        what: The environment is for, "book" say.
        venv: Its folder.
        lock: Its packages.
        gigabytes: Of disk that it takes.
        megabytes: That are downloaded.
    """
    python = venv_python(venv)
    stamp = venv / f".{what}-stamp"
    wanted = lock_fingerprint(lock, python)
    if python.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return

    check_disk(gigabytes)
    print(
        f"Setting up {venv} for the {what} (about {megabytes} MB to download, {gigabytes} GB of "
        "disk, a minute or two; only this once)",
        flush=True,
    )
    make_venv(python)
    pip_locked(python, "pip", lock)
    pip(python, f"the packages of {lock.name}", *CHECKED, "-r", str(lock))
    stamp.write_text(wanted, encoding="utf-8")
    print(f"The environment of the {what} is ready.", flush=True)


def check_python() -> None:
    """Exit where Python is too old."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"Python {found} is too old: the course needs {OLDEST[0]}.{OLDEST[1]} or newer. "
            "Install one and name it: make course PYTHON=python3.12"
        )


def check_disk(needed: float = NEEDED_GB) -> None:
    """Exit where the disk has less than `needed` GB free."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        sys.exit(
            f"Only {free:.1f} GB are free at {ROOT}, the environment takes {needed} GB: "
            "free some space, then start again"
        )


def venv_python(venv: Path | None = None) -> Path:
    """Return the path of the interpreter of `.venv` or another, whether it exists or not."""
    return (venv or VENV) / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(python: Path) -> str:
    """Return a hash of what the environment depends on: pins, project file, Python, its path."""
    parts = [
        LOCK.read_bytes(),
        CONSTRAINTS.read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
        Path(__file__).read_bytes(),
        sys.version.encode(),
        str(python).encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def lock_fingerprint(lock: Path, python: Path) -> str:
    """Return a hash of what an environment of a lock alone depends on."""
    parts = [lock.read_bytes(), sys.version.encode(), str(python).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def make_venv(python: Path) -> None:
    """Create the environment of an interpreter.

    It is made anew where the existing one has another Python version or does not start.
    """
    venv = python.parent.parent
    if python.exists():
        version = _output_of([python, "-c", "import sys, pip; print(sys.version)"])
        if version.strip() == sys.version:
            return

    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(venv)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        message = done.stdout + done.stderr
        if "ensurepip" in message or "No module named venv" in message:
            package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
            sys.exit(
                "Python's venv module is missing: on Debian and Ubuntu install it with "
                f"`apt-get install python3-venv` (or {package}), then start again"
            )
        sys.exit(f"{venv} could not be made:\n{message}\n{advice(message)}")


def install_torch(python: Path, gpu: bool = False) -> None:
    """Install the pinned PyTorch, as its CPU build or, with `gpu`, as the build for NVIDIA GPUs.

    The default build for Linux brings 5 GB of CUDA libraries. pip is asked what it would install;
    only where that is a CUDA build, uv (of the lock) fetches the CPU build: it knows where PyTorch
    keeps them. An
    installed PyTorch of the pinned version stays, unless it is a CPU build and `gpu` is set.
    """
    pin = torch_pin()
    installed, cuda = installed_torch(python)
    if installed.split("+")[0] == pin.split("==")[1] and (cuda or not gpu):
        return

    if gpu or cuda:
        # Without --force-reinstall pip is content with a CPU build of the same version
        what = f"{pin} (build for NVIDIA GPUs; its libraries come with what PyTorch needs, below)"
        pip(python, what, "--force-reinstall", "--no-deps", pin)
        _, cuda = installed_torch(python)
        if not cuda:
            sys.exit(
                f"pip has found no build of {pin} for GPUs: is an index or a folder with CPU "
                "builds among its settings (pip config list)? Leave that out, then start again"
            )
    elif sys.platform.startswith("linux") and brings_cuda(python, pin):
        command = [python, "-m", "uv", "pip", "install", "--python", str(python)]
        command += ["--torch-backend=cpu", "--constraint", str(CONSTRAINTS)]
        run([*command, pin], f"{pin} (CPU build, 200 MB)")
    else:
        pip(python, f"{pin} (CPU build, 200 MB)", "--constraint", str(CONSTRAINTS), pin)


def torch_pin() -> str:
    """Return the requirement of the pinned PyTorch."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def installed_torch(python: Path) -> tuple[str, bool]:
    """Return the installed PyTorch's version, "" where there is none, and if it has CUDA."""
    code = (
        "import importlib.metadata, json; torch = importlib.metadata.distribution('torch'); "
        "print(json.dumps([torch.version, torch.requires]))"
    )
    answer = _output_of([python, "-c", code])
    version, requires = json.loads(answer) if answer else ("", None)
    return version, is_cuda_build(version, requires or [])


def about_gpu(python: Path, gpu: bool) -> str:
    """Return a warning about the GPU: not used, or asked for but not seen by PyTorch; else ""."""
    if gpu:
        answer = _output_of([python, "-c", "import torch; print(torch.cuda.is_available())"])
        if answer.strip() == "True":
            return ""
        return (
            "PyTorch is the build for GPUs here, but sees none: does `nvidia-smi` list one, and is "
            "its driver new enough?"
        )

    if not shutil.which("nvidia-smi"):
        return ""
    _, cuda = installed_torch(python)
    if cuda:
        return ""
    return "PyTorch is the CPU's build here, and does not use the NVIDIA GPU: make setup GPU=1"


def brings_cuda(python: Path, pin: str) -> bool:
    """Ask pip whether the PyTorch that it would install is a CUDA build."""
    command = [python, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed"]
    done = subprocess.run(
        [*command, "--quiet", "--report", "-", pin], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"pip can't find {pin}:\n{done.stderr[-2000:]}\n{advice(done.stderr)}")
    metadata = json.loads(done.stdout)["install"][0]["metadata"]
    return is_cuda_build(metadata["version"], metadata.get("requires_dist", []))


def is_cuda_build(version: str, requires: list[str]) -> bool:
    """Recognise a CUDA build of PyTorch by its version, or by the packages that it requires."""
    if "+cu" in version:
        return True
    if "+cpu" in version:
        return False
    return any(name.startswith(("nvidia-", "cuda-", "triton")) for name in requires)


def pip(python: Path, what: str, *arguments: str) -> None:
    """Install with pip; `what` is shown to the user."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    run([*command, "--progress-bar", "off", *arguments], what)


def pip_locked(python: Path, name: str, lock: Path | None = None) -> None:
    """Install one package of a lock, by default the course's, its hashes checked."""
    lines = (lock or LOCK).read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(f"{name}=="))
    entry = [lines[first]]
    for line in lines[first + 1 :]:
        if not line.startswith(" "):
            break
        entry.append(line)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text("\n".join(entry) + "\n", encoding="utf-8")
        pip(python, lines[first].rstrip(" \\"), *CHECKED, "-r", str(path))


def run(command: list, what: str) -> None:
    """Run an installation and show what it downloads.

    Exits with the last lines of its output and an advice where it fails.
    """
    print(f"- installing {what}", flush=True)
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout:
            lines.append(line)
            if line.strip().startswith("Downloading") and "MB)" in line:
                print(f"    {line.strip().split('/')[-1]}", flush=True)
    if process.returncode:
        sys.exit(f"{''.join(lines[-15:])}\nInstalling {what} failed: {advice(''.join(lines))}")


def advice(message: str) -> str:
    """Return what to do about an installer's message."""
    for part, text in ADVICE.items():
        if part in message:
            return text
    return "see the message above, then start again"


def _output_of(command: list) -> str:
    """Return a command's standard output, "" where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


if __name__ == "__main__":
    main()
