"""Run metadata: versions, machine, hashes of data and weights, settings, times and memory."""

import contextlib
import json
import os
import subprocess
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from ..device import RANK, describe_machine, peak_memory_gb, pick_device, reset_peak_memory
from ..files import REPOSITORY

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
def timed_step(folder: Path, name: str, result: str):
    """Note the seconds and the peak memory of the block in folder/steps.jsonl, if it ends well.

    result: the name on disk of what the block computes.
    """
    began, device = time.perf_counter(), pick_device()
    reset_peak_memory(device)
    yield
    row = {
        "step": name,
        "result": result,
        "seconds": round(time.perf_counter() - began, 1),
        "peak_memory_gb": round(peak_memory_gb(device), 2),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with open(
        os.devnull if RANK else folder / "steps.jsonl", "a"
    ) as lines:  # of several processes one notes it
        lines.write(json.dumps(row) + "\n")


def read_steps(folder: Path, results: set[str]) -> list[dict]:
    """Return what `timed_step` has noted of these results; a line cut off by a kill is left out."""
    path = folder / "steps.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return [row for row in rows if row["result"] in results]


def commit() -> str | None:
    """Return this checkout's commit, "+changes" where files differ; None outside git."""

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True
        ).stdout.strip()

    with contextlib.suppress(OSError):
        head = git("rev-parse", "HEAD")
        return head + ("+changes" if git("status", "--porcelain", "-uno") else "") if head else None
    return None


def run_metadata(preset, steps: list[dict], data: dict, models: dict) -> dict:
    """Return the record of a comparison: everything but the figures themselves.

    steps: as `read_steps` gives them; data: fingerprint by corpus and language; models: fingerprint
        by role.
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
