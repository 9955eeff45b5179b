"""`python -m benchmarks.memory`: the peak of memory in two training steps, the library's against the plainest way.

Both as in `benchmarks.training`: the baseline holds the teacher and takes its losses at all positions over all words;
the library has the teacher's stored outputs alone. Each runs in a process of its own. On a CPU: the largest resident
set during the steps, less what the process held before it loaded a model (Linux alone can measure it so); on a GPU: the
most that torch has allocated. Floor: the student's weights, gradients and Adam's two states of experts and gates.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import psutil

from distilwhisper_lib.device import peak_memory_gb, pick_device, release_memory, reset_peak_memory

from .inference import SHAPES
from .measuring import report
from .training import Training, steps_here


def one(run: str, size: str, teacher: str, batch: int) -> dict:
    """Return the peak of one run in GB, and its floor; to be called in a fresh process."""
    device = pick_device()
    if device.type == "cpu" and not Path("/proc/self/clear_refs").exists():
        raise OSError(
            "this benchmark needs Linux, or a GPU: elsewhere the peak of memory can't begin anew"
        )
    before = 0.0 if device.type == "cuda" else psutil.Process().memory_info().rss / 1e9
    training, steps = Training(size, teacher, batch), ()
    if run == "library":
        steps = steps_here()
        del training.teacher, training.taught
    release_memory()
    reset_peak_memory(device)
    for _ in range(2):
        training.step(steps)
    peak = peak_memory_gb(device) - before
    parameters = list(training.model.parameters())
    floor = sum(p.nbytes + (3 * p.nbytes if p.requires_grad else 0) for p in parameters)
    return {"gb": peak, "floor": floor / 1e9}


def measure(size: str, teacher: str, batch: int) -> list[dict]:
    """Return a row per run: peak in GB, times the baseline's, floor."""
    rows = []
    for run in ("baseline", "library"):
        command = [
            sys.executable,
            "-m",
            "benchmarks.memory",
            "--one",
            run,
            "--size",
            size,
            "--teacher",
            teacher,
            "--batch",
            str(batch),
        ]
        found = subprocess.run(
            command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False
        )
        if found.returncode:
            raise RuntimeError(
                f"the run {run!r} of benchmarks.memory failed: {found.stderr.strip()[-500:]}"
            )
        rows.append(
            {"size": size, "teacher": teacher, "batch": batch, "run": run}
            | json.loads(found.stdout)
        )
        rows[-1]["times baseline"] = rows[-1]["gb"] / rows[0]["gb"]
        rows[-1]["times floor"] = rows[-1]["gb"] / rows[-1]["floor"]
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="whisper-base from itself, two clips: under a minute"
    )
    parser.add_argument("--size", choices=[*SHAPES, "tiny"], default="base")
    parser.add_argument("--teacher", choices=[*SHAPES, "tiny"], default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--one", choices=["baseline", "library"], help=argparse.SUPPRESS)
    a = parser.parse_args(arguments)
    if a.quick:
        a.teacher, a.batch = a.size, 2
    if a.one:
        print(json.dumps(one(a.one, a.size, a.teacher, a.batch)))
    else:
        report("memory", measure(a.size, a.teacher, a.batch), ("size", "teacher", "batch"))


if __name__ == "__main__":
    main()
