"""Make the course's environment: `.venv` with the packages of requirements.lock and PyTorch for the CPU (or GPUs).

    python3 tools/setup_env.py            what `make` calls; a second call takes no time
    python3 tools/setup_env.py --gpu      with PyTorch's build for NVIDIA GPUs (make setup GPU=1), which then stays
    python3 tools/setup_env.py --here     into the environment that runs this file (conda, or one of your own)

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
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements.lock"
OLDEST = (3, 11)
NEEDED_GB, GPU_GB = 2.5, 8  # the second with the build for GPUs: not measured
DOWNLOAD_MB, GPU_MB = 450, 3000  # the second by the sizes of the packages
COURSE = (
    "`make course` then takes about 58 min on 2 cores, 6 GB of memory and 4.0 GB more of disk ({free:.0f} GB are free "
    "here); it downloads 303 MB of speech and 290 MB of weights"
)
# What pip says -> what to do; the first that fits
ADVICE = {
    "No space left": f"the disk is full: free {NEEDED_GB} GB, then start again (what is there already is kept)",
    "Errno 28": f"the disk is full: free {NEEDED_GB} GB, then start again (what is there already is kept)",
    "download.pytorch": "PyTorch's own index can't be reached: connect, then start again; or put the pinned torch "
    "into .venv by other means, which is then left alone",
    "name resolution": "there is no network: connect, then start again",
    "Name or service not known": "there is no network: connect, then start again",
    "NewConnectionError": "the package index can't be reached: check the network and the proxy settings of pip",
    "ConnectTimeout": "the package index does not answer: check the network and the proxy settings of pip",
    "CERTIFICATE_VERIFY_FAILED": "the package index's certificate is not trusted here: give pip yours (PIP_CERT)",
    "No matching distribution": "a package is not to be had for this Python: try Python 3.11, 3.12 or 3.13 "
    "(make PYTHON=python3.12), and check the network",
}


def main() -> None:
    """Set up what is missing; exits with a message that says what to do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--here", action="store_true", help="use the running Python's environment, not .venv"
    )
    parser.add_argument(
        "--gpu", action="store_true", help="PyTorch's build for NVIDIA GPUs instead of the CPU's"
    )
    options = parser.parse_args()
    here, gpu = options.here, options.gpu
    check_python()
    if gpu and not sys.platform.startswith("linux"):
        sys.exit(
            "PyTorch's build for NVIDIA GPUs is installed on Linux only (Windows: inside WSL): leave out GPU=1"
        )
    python = Path(sys.executable) if here else venv_python()
    stamp = (Path(sys.prefix) if here else VENV) / ".course-stamp"
    wanted = fingerprint(python)
    ready = python.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted
    if not ready or gpu and not installed_torch(python)[1]:
        set_up(python, here, gpu)
        stamp.write_text(wanted, encoding="utf-8")
        print("The environment is ready.", flush=True)
    if remark := about_gpu(python, gpu):
        print(remark, flush=True)


def set_up(python: Path, here: bool, gpu: bool) -> None:
    """Install everything, saying before what it takes."""
    size, download = (GPU_GB, GPU_MB) if gpu else (NEEDED_GB, DOWNLOAD_MB)
    check_disk(size)
    print(
        f"Setting up {sys.prefix if here else VENV} (about {download} MB to download, {size} GB of disk, "
        "3 to 10 minutes; only this once)",
        flush=True,
    )
    print(COURSE.format(free=shutil.disk_usage(ROOT).free / 1e9), flush=True)
    if not here:
        make_venv(python)
    pip(python, "pip", "--upgrade", "pip")
    install_torch(python, gpu)
    pip(python, f"the packages of {LOCK.name}", "-r", str(LOCK))
    pip(
        python, "distilwhisper_lib, from here", "--no-deps", "--no-build-isolation", "-e", str(ROOT)
    )


def check_python() -> None:
    """Stop where Python is too old."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"Python {found} is too old: the course needs {OLDEST[0]}.{OLDEST[1]} or newer. Install one and name "
            "it: make course PYTHON=python3.12"
        )


def check_disk(needed: float = NEEDED_GB) -> None:
    """Stop where the disk has no room for the packages."""
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        sys.exit(
            f"Only {free:.1f} GB are free at {ROOT}, the environment takes {needed} GB: free some space, then "
            "start again"
        )


def venv_python() -> Path:
    """Return where the interpreter of `.venv` is, or will be."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(python: Path) -> str:
    """Return what the environment depends on: the pins, our project file, Python's version, and where it is."""
    parts = [
        LOCK.read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
        Path(__file__).read_bytes(),
        sys.version.encode(),
        str(python).encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def make_venv(python: Path) -> None:
    """Make `.venv`, anew if the one that is there is of another Python or does not start."""
    ask = "import sys, pip; print(sys.version)"
    if python.exists():
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == sys.version:
            return
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(VENV)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stdout + done.stderr
        if "ensurepip" in said or "No module named venv" in said:
            sys.exit(
                "Python's venv module is missing: on Debian and Ubuntu install it with "
                f"`apt-get install python3-venv` (or python{sys.version_info[0]}.{sys.version_info[1]}-venv), "
                "then start again"
            )
        sys.exit(f"{VENV} could not be made:\n{said}\n{advice(said)}")


def install_torch(python: Path, gpu: bool = False) -> None:
    """Install the pinned PyTorch: in its CPU build, as the default one for Linux brings 5 GB of CUDA libraries, or with
    gpu in that one. What is there already in the pinned version stays, but for a CPU build where gpu is asked for.

    pip is asked what it would install; only where that is a CUDA build, uv fetches the CPU build, for it knows where
    PyTorch keeps them.
    """
    pin = next(
        line for line in LOCK.read_text(encoding="utf-8").splitlines() if line.startswith("torch==")
    )
    there, cuda = installed_torch(python)
    if there.split("+")[0] == pin.split("==")[1] and (cuda or not gpu):
        return
    if (
        gpu or cuda
    ):  # pip takes a CPU build of the same version for what is wanted, unless it is forced
        pip(
            python,
            f"{pin} (build for NVIDIA GPUs; its libraries come with the packages below)",
            "--force-reinstall",
            "--no-deps",
            pin,
        )
        if not installed_torch(python)[1]:
            sys.exit(
                f"pip has found no build of {pin} for GPUs: is an index or a folder with CPU builds among its "
                "settings (pip config list)? Leave that out, then start again"
            )
    elif sys.platform.startswith("linux") and brings_cuda(python, pin):
        pip(python, "uv, which knows the CPU builds of PyTorch", "uv>=0.8")
        run(
            [
                python,
                "-m",
                "uv",
                "pip",
                "install",
                "--python",
                str(python),
                "--torch-backend=cpu",
                pin,
            ],
            f"{pin} (CPU build, 200 MB)",
        )
    else:
        pip(python, f"{pin} (CPU build, 200 MB)", pin)


def installed_torch(python: Path) -> tuple[str, bool]:
    """Return the version of the PyTorch that is there, "" where there is none, and whether it is a CUDA build."""
    ask = (
        "import importlib.metadata, json; torch = importlib.metadata.distribution('torch'); "
        "print(json.dumps([torch.version, torch.requires]))"
    )
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=False)
    version, requires = json.loads(done.stdout) if done.returncode == 0 else ("", None)
    return version, is_cuda_build(version, requires or [])


def about_gpu(python: Path, gpu: bool) -> str:
    """Return what to know of the GPU: one that is not used, or, where one is asked for, that PyTorch sees none."""
    if gpu:
        ask = [python, "-c", "import torch; print(torch.cuda.is_available())"]
        sees = (
            subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip()
            == "True"
        )
        return (
            ""
            if sees
            else (
                "PyTorch is the build for GPUs here, but sees none: does `nvidia-smi` list one, and is "
                "its driver new enough?"
            )
        )
    unused = shutil.which("nvidia-smi") and not installed_torch(python)[1]
    return (
        "PyTorch is the CPU's build here, and does not use the NVIDIA GPU: make setup GPU=1"
        if unused
        else ""
    )


def brings_cuda(python: Path, pin: str) -> bool:
    """Ask pip whether the PyTorch that it would install is a CUDA build."""
    done = subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--no-deps",
            "--ignore-installed",
            "--quiet",
            "--report",
            "-",
            pin,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"pip can't find {pin}:\n{done.stderr[-2000:]}\n{advice(done.stderr)}")
    torch = json.loads(done.stdout)["install"][0]["metadata"]
    return is_cuda_build(torch["version"], torch.get("requires_dist", []))


def is_cuda_build(version: str, requires: list[str]) -> bool:
    """Tell a CUDA build of PyTorch by its version, or by what it needs."""
    needs = any(name.startswith(("nvidia-", "cuda-", "triton")) for name in requires)
    return "+cu" in version or "+cpu" not in version and needs


def pip(python: Path, what: str, *arguments: str) -> None:
    """Install with pip, saying what."""
    run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--progress-bar",
            "off",
            *arguments,
        ],
        what,
    )


def run(command: list, what: str) -> None:
    """Run an installation, showing what it downloads; exits with its last lines and an advice where it fails."""
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


def advice(said: str) -> str:
    """Return what to do about an installer's message."""
    return next(
        (text for sign, text in ADVICE.items() if sign in said),
        "see the message above, then start again",
    )


if __name__ == "__main__":
    main()
