"""The peak of memory in two training steps: the library compared with a plain implementation.

    make benchmark NAME=memory [ARGS=--quick]

Both are those of `benchmarks.training`: the baseline holds the teacher and computes its losses at
all positions over all tokens; the library has cached teacher distributions alone. Each runs in a
process of its own. On a CPU the peak is the largest resident set during the steps, less what the
process held before it loaded a model (only Linux can measure it so); on a GPU it is the most that
torch has allocated. Floor, a lower bound: the student's weights, and gradients and Adam's two
states of experts and gates.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import psutil

from distilwhisper_lib.device import peak_memory_gb, pick_device, release_memory, reset_peak_memory
from distilwhisper_lib.programs import Failed, number_option, run_program

from .inference import SHAPES
from .measuring import report
from .training import Training, check_teacher, steps_here

ROOT = Path(__file__).resolve().parent.parent


def measure_here(run: str, size: str, teacher: str, batch: int) -> dict[str, float]:
    """Return the peak of one run and its floor; to be called in a fresh process.

    Args:
        run: "baseline" or "library".
        size: Of the student.
        teacher: Size of the teacher.
        batch: Clips.

    Returns:
        "gb" and "floor", both in gigabytes (10^9 bytes).

    Raises:
        OSError: On a CPU where the peak cannot be reset, which is everywhere but on Linux.
    """
    device = pick_device()
    if device.type == "cpu" and not Path("/proc/self/clear_refs").exists():
        raise OSError(
            "this benchmark needs Linux, or a GPU: elsewhere the peak of memory can't be reset"
        )
    before = 0.0 if device.type == "cuda" else psutil.Process().memory_info().rss / 1e9

    training = Training(size, teacher, batch)
    steps: tuple[str, ...] = ()
    if run == "library":
        steps = steps_here()
        del training.teacher, training.teacher_logits
    release_memory()
    reset_peak_memory(device)
    for _ in range(2):
        training.step(steps)
    peak = peak_memory_gb(device) - before

    floor = 0
    for parameter in training.model.parameters():
        copies = 4 if parameter.requires_grad else 1  # weight, gradient, two states of Adam
        floor += copies * parameter.nbytes
    return {"gb": peak, "floor": floor / 1e9}


def measure(size: str, teacher: str, batch: int) -> list[dict]:
    """Return a row per run: peak in GB, its ratio to the baseline's, floor.

    Raises:
        Failed: Where the process of a run fails; the message holds the end of its errors.
    """
    rows: list[dict] = []
    for run in ("baseline", "library"):
        command = [sys.executable, "-m", "benchmarks.memory", "--one", run]
        command += ["--size", size, "--teacher", teacher, "--batch", str(batch)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode == -9:  # SIGKILL
            killed = f"the run {run!r} of benchmarks.memory was killed"
            raise Failed(f"{killed}, most likely because memory ran out: lower --batch")
        if done.returncode:
            errors = done.stderr.strip()[-500:] or f"exit status {done.returncode}"
            raise Failed(f"the run {run!r} of benchmarks.memory failed: {errors}")

        row = {"size": size, "teacher": teacher, "batch": batch, "run": run}
        row |= json.loads(done.stdout)
        rows.append(row)
        row["times baseline"] = row["gb"] / rows[0]["gb"]
        row["times floor"] = row["gb"] / row["floor"]
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        prog="make benchmark NAME=memory ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole = number_option(low=1, whole=True)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a teacher of the student's size, two clips unless other options say otherwise: under "
        "a minute",
    )
    parser.add_argument("--size", choices=[*SHAPES, "tiny"], default="base")
    parser.add_argument("--teacher", choices=[*SHAPES, "tiny"], default="small")
    parser.add_argument("--batch", type=whole, default=8, help="clips")
    parser.add_argument("--one", choices=["baseline", "library"], help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(teacher=options.size, batch=2)
        options = parser.parse_args(arguments)
    size, teacher, batch = options.size, options.teacher, options.batch
    check_teacher(parser, size, teacher)

    if options.one:
        print(json.dumps(measure_here(options.one, size, teacher, batch)))
    else:
        report("memory", measure(size, teacher, batch), ("size", "teacher", "batch"))


if __name__ == "__main__":
    run_program(main)
