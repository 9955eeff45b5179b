"""Callbacks of the trainer: gate noise, progress, and checkpoints to resume from."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from ..device import RANK, release_memory
from ..files import parse_json, set_aside, write_json
from ..method.blocks import clsr_blocks, set_noise
from .stored import HASHES, changed_file, folder_hashes, folder_problem

MARK = "complete"  # the file that marks a checkpoint
CHECKPOINT = re.compile(r"checkpoint-(\d+)")


class GateNoise(TrainerCallback):
    """Raises alpha, the strength of the gates' noise, linearly from 0 to its final value.

    Args:
        final_from_start: In step 0 alpha has its final value already, as released.

    Source: CLSR (Zhang et al. 2021); the release, CLSRFFN.forward.
    """

    def __init__(self, final_from_start: bool = False):
        self.final_from_start = final_from_start

    def on_step_begin(self, args, state, control, model=None, **_):
        """Set alpha of this step."""
        blocks = clsr_blocks(model)
        if not blocks:
            return
        step = state.global_step
        if self.final_from_start and step == 0:
            step = state.max_steps
        set_noise(model, blocks[0].routing.settings.noise * step / state.max_steps)


class Progress(TrainerCallback):
    """Shows a progress bar with the time left; a resumed run's bar goes on at its step.

    Every few steps it gives freed memory back to the system, without which a run takes half as much
    again.

    Args:
        label: What stands in front of the bar.
    """

    steps_between_releases = 4

    def __init__(self, label: str):
        self.label = label
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **_):
        """Open the bar."""
        self.bar = tqdm(
            desc=self.label,
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            disable=RANK > 0,
        )

    def on_step_end(self, args, state, control, **_):
        """Move the bar on, and now and then give memory back."""
        self.bar.update(state.global_step - self.bar.n)
        if state.global_step % self.steps_between_releases == 0:
            release_memory()

    def on_train_end(self, args, state, control, **_):
        """Close the bar."""
        self.bar.close()


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all of it is on disk, then removes the others but the best.

    Whenever a run is killed, a marked checkpoint is complete. The mark is the file `complete`; it
    holds the seconds of training so far, the run that it belongs to, and hashes of its files.

    Args:
        resumed: The checkpoint that the run goes on from, None for a new run.
        run: What the run is known by, see `last_complete_checkpoint`.
    """

    def __init__(self, resumed: str | None, run: str = ""):
        self.seconds_before = float(_read_mark(Path(resumed))["seconds"]) if resumed else 0.0
        self.run = run
        self.began = time.perf_counter()

    def elapsed(self) -> float:
        """Return the seconds of training so far, those before the run was stopped included."""
        return self.seconds_before + time.perf_counter() - self.began

    def on_train_begin(self, args, state, control, **_):
        """Look for the best checkpoint where the run is now, should its folder have been moved."""
        if state.best_model_checkpoint:
            best = Path(state.best_model_checkpoint).name
            state.best_model_checkpoint = str(Path(args.output_dir) / best)

    def on_epoch_end(self, args, state, control, **_):
        """Log at each checkpoint: the running means start anew there, resumed or not."""
        control.should_log = True

    def on_save(self, args, state, control, **_):
        """Mark the checkpoint that has just been written, then remove the others."""
        args.distributed_state.wait_for_everyone()  # each process has written its random state
        if RANK:
            return
        folder = Path(args.output_dir)
        newest = f"checkpoint-{state.global_step}"
        mark = {
            "seconds": round(self.elapsed(), 1),
            "run": self.run,
            HASHES: folder_hashes(folder / newest),
        }
        write_json(folder / newest / MARK, mark, sealed=True)

        best = Path(state.best_model_checkpoint or newest).name
        for path in folder.glob("checkpoint-*"):
            if path.name not in (newest, best):
                (path / MARK).unlink(missing_ok=True)
                shutil.rmtree(path)


# ---- the checkpoints of a run that was stopped


def last_complete_checkpoint(folder: str | Path, run: str = "") -> str | None:
    """Return the newest checkpoint of `train_run` that is complete and intact, or None.

    Incomplete ones beside complete ones are removed. Damaged ones, and those of another run, are
    set aside. A folder without any complete one stays as it is: it may be another trainer's.

    Args:
        folder: Of the checkpoints.
        run: What the run is known by; "", also in a mark: any run.
    """
    folder = Path(folder)
    if last_marked(folder) is None:
        return None
    found = None
    for checkpoint in _by_step(folder):
        if not (checkpoint / MARK).exists():
            shutil.rmtree(checkpoint)
            continue
        problem = _problem(checkpoint, run)
        if problem:
            set_aside(checkpoint, problem)
        else:
            found = checkpoint

    # A checkpoint without the best one that it refers to would end in other weights.
    if found is not None and not _has_its_best(found):
        set_aside(found, "the best checkpoint that it refers to is gone")
        return last_complete_checkpoint(folder, run)
    return None if found is None else str(found)


def last_marked(folder: Path) -> Path | None:
    """Return the newest checkpoint in `folder` that is complete; nothing is removed or checked."""
    marked = [path for path in _by_step(folder) if (path / MARK).exists()]
    return marked[-1] if marked else None


def _by_step(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest last."""
    steps = {}
    for path in folder.glob("checkpoint-*"):
        name = CHECKPOINT.fullmatch(path.name)
        if name:
            steps[path] = int(name[1])
    return sorted(steps, key=lambda path: steps[path])


def _read_mark(checkpoint: Path) -> dict[str, Any]:
    """Return the content of a mark, which in earlier versions was the seconds alone.

    Raises:
        ValueError: For a damaged mark.
    """
    content = (checkpoint / MARK).read_bytes()
    try:
        return {"seconds": float(content)}
    except ValueError:
        mark, problem = parse_json(content, ("seconds",))
    if problem or not isinstance(mark["seconds"], int | float):
        raise ValueError(problem or "no seconds")
    return mark


def _problem(checkpoint: Path, run: str) -> str:
    """Return what is wrong with a marked checkpoint, or ""."""
    try:
        mark = _read_mark(checkpoint)
    except (ValueError, RecursionError) as error:
        return f"its mark cannot be read: {error}"
    if run and mark.get("run") and mark["run"] != run:
        return "it is of a run with another configuration"
    if HASHES not in mark:  # of an earlier version
        return folder_problem(checkpoint) or _state_problem(checkpoint)
    if not isinstance(mark[HASHES], dict):
        return "its mark has no hashes"
    return changed_file(checkpoint, mark[HASHES])


def _state_problem(checkpoint: Path) -> str:
    """Return what is wrong with the trainer's state in a checkpoint, or ""."""
    try:
        _read_state(checkpoint)
    except (ValueError, RecursionError) as error:
        return f"trainer_state.json cannot be read: {error}"
    return ""


def _read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the trainer's state in a checkpoint, empty where there is none."""
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_bytes()) if path.exists() else {}
    if not isinstance(state, dict):
        raise ValueError("no JSON object")
    return state


def _has_its_best(checkpoint: Path) -> bool:
    """Return whether the best checkpoint that a checkpoint refers to, if any, is beside it."""
    best = _read_state(checkpoint).get("best_model_checkpoint")
    return best is None or (checkpoint.parent / Path(best).name).is_dir()
