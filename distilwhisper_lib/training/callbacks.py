"""Callbacks of the trainer: gate noise, progress, and checkpoints to resume from."""

import shutil
import time
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ..device import RANK, release_memory
from ..files import atomic_file
from ..method.blocks import clsr_blocks, set_noise


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
    holds the seconds of training so far.

    Args:
        resumed: The checkpoint that the run goes on from, None for a new run.
    """

    def __init__(self, resumed: str | None):
        self.seconds_before = float((Path(resumed) / "complete").read_text()) if resumed else 0.0
        self.began = time.perf_counter()

    def elapsed(self) -> float:
        """Return the seconds of training so far, those before the run was stopped included."""
        return self.seconds_before + time.perf_counter() - self.began

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
        with atomic_file(folder / newest / "complete") as part:
            part.write_text(f"{self.elapsed():.1f}")

        best = Path(state.best_model_checkpoint or newest).name
        for path in folder.glob("checkpoint-*"):
            if path.name not in (newest, best):
                (path / "complete").unlink(missing_ok=True)
                shutil.rmtree(path)


def last_complete_checkpoint(folder: Path) -> str | None:
    """Return the newest complete checkpoint in `folder`, or None; incomplete ones are removed."""
    for path in folder.glob("checkpoint-*"):
        if not (path / "complete").exists():
            shutil.rmtree(path)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None
