"""Run metadata: versions, machine, hashes of data and weights, settings, times and memory."""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from ..data.corpora.reports import corpus_report
from ..device import RANK, describe_machine, peak_memory_gb, pick_device, reset_peak_memory
from ..evaluation.greedy import overridden_in
from ..evaluation.testsets import load_for
from ..files import REPOSITORY, can_write, disk_errors, make_folder, read_json, short_hash
from ..presets import Preset
from ..training.config import identify
from ..whisper.hub import REVISIONS
from ..whisper.loading import find_weights

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

_STEP = {"step", "result", "seconds", "peak_memory_gb"}  # what is noted of a step


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
    if not RANK:  # of several processes the first notes it
        _append_line(folder / "steps.jsonl", json.dumps(row))


def note_missing_step(folder: Path, name: str, run: Path) -> None:
    """Note the step of a finished run by its run.json, where a kill came before `timed_step` could.

    Args:
        folder: Of a lab's runs.
        name: Of the step.
        run: The run's folder.
    """
    if RANK or read_steps(folder, {run.name}) or not can_write(folder):
        return
    facts = read_json(run / "run.json")
    row = {"step": name, "result": run.name}
    row |= {key: facts.get(key) for key in ("seconds", "peak_memory_gb")}
    _append_line(folder / "steps.jsonl", json.dumps(row))


def contents_now(preset: Preset, corpora: Iterable[tuple[str, str]]) -> str | None:
    """Return a hash of the models and the prepared corpora that results depend on, as they are.

    Args:
        preset: Names the models.
        corpora: (corpus, language) pairs.

    Returns:
        None where any of them is gone: nobody can say whether it has changed.
    """
    names = [name for name in (preset.student, preset.teacher) if name]
    try:
        found: list = [identify(name).content for name in names]
        for corpus, language in sorted(corpora):
            if corpus == "recordings":
                load_for(preset, corpus, language)  # follows its table and sounds
            report = corpus_report(corpus, language)
            found.append([report.get(part) for part in ("fingerprint", "splits", "tables")])
    except (ValueError, OSError):
        return None
    return short_hash(found)


def _append_line(path: Path, line: str) -> None:
    """Append a line to a file, by one write; after a line that was cut off by a kill, a new one."""
    with disk_errors(path.parent):
        make_folder(path.parent)
        with open(path, "a+b", buffering=0) as lines:
            cut_off = False
            if lines.tell():
                lines.seek(-1, os.SEEK_END)
                cut_off = lines.read(1) != b"\n"
            lines.write(("\n" * cut_off + line + "\n").encode())


def read_steps(folder: Path, results: set[str]) -> list[dict]:
    """Return what `timed_step` has noted of these results; damaged lines are left out."""
    path = folder / "steps.jsonl"
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    rows = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            rows.append(json.loads(line))
    whole = [row for row in rows if isinstance(row, dict) and row.keys() >= _STEP]
    return [row for row in whole if str(row["result"]) in results]


def overridden_of(preset: Preset) -> dict[str, dict]:
    """Return the settings of generation that checkpoints have and evaluation does not use.

    Args:
        preset: Names the checkpoints. Those that this kit pins to a commit are known to have none
            that matter, and are not fetched for it.

    Returns:
        Settings by name, for "student" and "teacher"; a checkpoint without any is left out.
    """
    found = {}
    for role, name in {"student": preset.student, "teacher": preset.teacher}.items():
        if name is None or (name in REVISIONS and not Path(name).expanduser().is_dir()):
            continue
        settings = overridden_in(find_weights(name).folder)
        # `generate` ignores them where it is told language and task, as here
        settings.pop("forced_decoder_ids", None)
        if settings:
            found[role] = settings
    return found


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
    weights = {"student": identify(preset.student).content}
    if preset.teacher:
        weights["teacher"] = identify(preset.teacher).content
    decoding = {
        "greedy": True,
        "timestamps": False,
        "fallback": False,
        "max_new_tokens": preset.max_new_tokens,
        "window_margin_seconds": preset.margin_seconds,
        "overridden": overridden_of(preset),
    }
    return {
        "commit": commit(),
        "machine": describe_machine(),
        "versions": {name: version(name) for name in PACKAGES} | {"torch": torch.__version__},
        "preset": asdict(preset),
        "decoding": decoding,
        "weights": weights,
        "data": data,
        "models": models,
        "steps": steps,
    }
