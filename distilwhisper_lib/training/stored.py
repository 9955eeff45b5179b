"""What trainings have written: hashes of it, whether it is intact, and finished runs found again.

A disk, a copy or a synchronised folder can cut a file, empty it or flip a byte in it. The hashes in
`run.json`, and those in the mark of a checkpoint, tell. Runs and checkpoints of earlier versions
have none: their weights must be readable and finite.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..files import (
    file_state,
    one_at_a_time,
    parse_json,
    read_json,
    remembered_sha256,
    set_aside,
)

HASHES = "files"  # in run.json and in the mark of a checkpoint: SHA-256 by path

# What is wrong with files that this process has read (""), by their states.
_known_problems: dict[tuple, str] = {}


# ---- hashes


def folder_hashes(folder: Path, under: str = "") -> dict[str, str]:
    """Return the SHA-256 of each file below a folder.

    Args:
        folder: The folder; the paths in the result are relative to it.
        under: A folder in it, to which the files are limited.
    """
    paths = [path for path in sorted((folder / under).rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): remembered_sha256(path) for path in paths}


def changed_file(folder: Path, hashes: dict[str, str]) -> str:
    """Return what is wrong with the files in a folder, "" where they are those of the hashes."""
    for name, expected in hashes.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if remembered_sha256(path) != expected:
            return f"{name} is not what was written"
    return ""


# ---- finite weights


def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return the name of the first tensor with a value that is infinite or NaN; None without one.

    Args:
        tensors: Names and tensors. On a GPU all are checked before the CPU waits for the result.
    """
    names = []
    finite = []
    for name, tensor in tensors:
        if tensor.is_floating_point():
            names.append(name)
            finite.append(torch.isfinite(tensor).all())
    if not finite:
        return None

    device = finite[0].device
    results = torch.stack([result.to(device) for result in finite]).tolist()
    return next((name for name, good in zip(names, results, strict=True) if not good), None)


def weights_problem(path: Path) -> str:
    """Return what is wrong with a file of weights, "" where it is readable and all are finite."""
    state = file_state(path)
    if state not in _known_problems:
        _known_problems[state] = _read_weights(path)
    return _known_problems[state]


def _read_weights(path: Path) -> str:
    """Read a file of weights; return what is wrong with it, or ""."""
    try:
        with safe_open(path, "pt") as file:
            bad = not_finite((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, RuntimeError, ValueError) as error:
        return f"{path.name} cannot be read: {error}"
    return f"{bad} in {path.name} is not finite" if bad else ""


def folder_problem(folder: Path) -> str:
    """Return what is wrong with a folder of weights without hashes, or ""."""
    if not folder.is_dir() or not any(folder.iterdir()):
        return f"{folder.name} is missing or empty"
    problems = (weights_problem(path) for path in sorted(folder.glob("*.safetensors")))
    return next((problem for problem in problems if problem), "")


# ---- finished runs


def stored_run(folder: Path) -> bool:
    """Return whether a folder holds a finished run that is intact.

    Checkpoints that are left of it, where the process was killed while it removed them, are
    removed. A damaged run is set aside, told in one line, and counts as absent. The files of a run
    are read once in a process, unless they are written to.

    Args:
        folder: Of the run, as `train_run` writes it.
    """
    if not (folder / "run.json").exists():
        return False
    if _run_problem(folder):
        with one_at_a_time(folder):  # another process may have set it aside, and trained it anew
            if not (folder / "run.json").exists():
                return False
            problem = _run_problem(folder)
            if problem:
                set_aside(folder, problem)
                return False
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return True


def _run_problem(folder: Path) -> str:
    """Return what is wrong with a finished run, or ""."""
    try:
        return _problem_of_files(folder)
    except FileNotFoundError as error:  # another process sets it aside at this moment
        return f"{error.filename} is missing"


def _problem_of_files(folder: Path) -> str:
    """Return what is wrong with the files of a finished run, or ""."""
    facts, problem = parse_json((folder / "run.json").read_bytes(), ("identity", "config", "log"))
    if problem:
        return f"run.json: {problem}"

    hashes = facts.get(HASHES)
    if hashes is None:  # of an earlier version
        return folder_problem(folder / "model")
    if not isinstance(hashes, dict):
        return f"run.json has no hashes under {HASHES}"
    return changed_file(folder, hashes)


def differing_settings(folder: Path, config: dict[str, Any]) -> list[str]:
    """Return the settings in which the run in a folder differs from a configuration, as "a: 1".

    Args:
        folder: Of a finished run.
        config: As `dataclasses.asdict` gives it.
    """
    stored = flat(read_json(folder / "run.json").get("config") or {})
    wanted = flat(json.loads(json.dumps(config, default=str)))
    names = sorted(name for name in stored | wanted if stored.get(name) != wanted.get(name))
    return [f"{name}: {stored.get(name)}" for name in names if name != "student.name"]


def flat(facts: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries by their joined names."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            found |= flat(value, f"{above}{name}.")
        else:
            found[f"{above}{name}"] = value
    return found
