"""Whatever is killed (SIGKILL), and wherever, ends with the same files as what was left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from resumable import RESUMED

TIMES = {"seconds", "peak_memory_gb", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(part) for name, part in value.items() if name not in TIMES}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def contents(folder):
    """Return the content of every file below a folder: bytes, and run.json without times."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: without_times(json.loads(data)) if name == "run.json" else data for name, data in found.items()}


@pytest.mark.parametrize("what", ["fine-tuning", "lora", "distilwhisper", "best", "teacher-outputs", "transcribe"])
def test_killed_runs_end_with_the_same_files(what, tmp_path):
    root = Path(__file__).resolve().parent
    precision = "bf16" if what == "distilwhisper" else "no"  # both
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root.parent), "LAB_PRECISION": precision}
    done = subprocess.run([sys.executable, str(root / "resumable.py"), what, str(tmp_path)], capture_output=True,
                          text=True, env=environment, timeout=300)  # fmt: skip
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, f"{done.stderr[-500:]}\n{log[-3000:]}"
    expected = contents(tmp_path / "uninterrupted")
    others = ("uninterrupted", "teacher-outputs")
    folders = [path for path in tmp_path.iterdir() if path.is_dir() and path.name not in others]
    assert len(folders) >= 4 and len(expected) >= 1
    for folder in folders:
        found = contents(folder)
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        assert not differing, f"killed {folder.name}: {differing} differ"
    steps = {path.stem: [int(line) for line in path.read_text().split()] for path in tmp_path.glob("*.steps")}
    if steps:  # of a training; that it goes on where it was is what all of this is for
        assert min(steps.pop("from outside")[1:], default=2) >= 2
        assert steps == {name: RESUMED[name] for name in steps}
        assert ["eval_loss" in row for row in expected["run.json"]["log"]].count(True) == 3
