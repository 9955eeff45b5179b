"""Run metadata: versions, machine, hashes of data and weights, settings, times and memory."""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from ..device import RANK, describe_machine, peak_memory_gb, pick_device, reset_peak_memory
from ..files import REPOSITORY
from ..presets import Preset

PACKAGES = (
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "jiwer",
    "sacrebleu",
    "soundfile",
    "numpy",
)


@contextlib.contextmanager
def timed_step(folder: Path, name: str, result: str) -> Iterator[None]:
    """Note the seconds and the peak memory of the block in folder/steps.jsonl, if it succeeds.

    Args:
        folder: Of a lab's runs.
        name: Of the step, such as "train lora cs".
        result: The name on disk of what the block computes.
    """
    device = pick_device()
    began = time.perf_counter()
    reset_peak_memory(device)
    yield
    row = {
        "step": name,
        "result": result,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_gb": round(peak_memory_gb(device), 2),
    }
    if RANK:  # of several processes the first notes it
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "steps.jsonl", "a") as lines:
        lines.write(json.dumps(row) + "\n")


def read_steps(folder: Path, results: set[str]) -> list[dict]:
    """Return what `timed_step` has noted of these results; a line cut off by a kill is left out."""
    path = folder / "steps.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if row["result"] in results]


def commit() -> str | None:
    """Return this checkout's commit, "+changes" where files differ; None outside git."""
    try:
        head = _git("rev-parse", "HEAD")
        changes = _git("status", "--porcelain", "-uno")
    except OSError:  # there is no git
        return None
    if not head:
        return None
    return f"{head}+changes" if changes else head


def _git(*words: str) -> str:
    """Return what a git command prints, "" where it fails."""
    command = ["git", "-C", str(REPOSITORY), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run_metadata(preset: Preset, steps: list[dict], data: dict, models: dict) -> dict:
    """Return what a table of results needs beside it.

    Args:
        preset: At which it was made.
        steps: As `read_steps` gives them.
        data: Fingerprint by corpus and language.
        models: SHA-256 of each file of weights, by role.
    """
    decoding = {
        "greedy": True,
        "timestamps": False,
        "fallback": False,
        "max_new_tokens": preset.max_new_tokens,
        "window_margin_seconds": preset.margin_seconds,
    }
    return {
        "commit": commit(),
        "machine": describe_machine(),
        "versions": {name: version(name) for name in PACKAGES},
        "preset": asdict(preset),
        "decoding": decoding,
        "data": data,
        "models": models,
        "steps": steps,
    }
