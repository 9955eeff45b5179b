"""Callbacks of the trainer: gate noise, progress, whole checkpoints."""

import shutil
import time
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ..device import RANK, release_memory
from ..files import atomic_file
from ..method.attach import clsr_blocks, set_noise


class GateNoise(TrainerCallback):
    """Raises the gates' noise linearly from 0 to its final value over the run (CLSR; release).

    at_start: in step 0 it has the final value at once, as released.
    """

    def __init__(self, at_start: bool = False):
        self.at_start = at_start

    def on_step_begin(self, args, state, control, model=None, **_):
        blocks = clsr_blocks(model)
        if blocks:
            step = (
                state.max_steps if self.at_start and state.global_step == 0 else state.global_step
            )
            set_noise(model, blocks[0].routing.settings.noise * step / state.max_steps)


class Progress(TrainerCallback):
    """A bar in plain text with the time left; it goes on from the step that a run resumes at. Every few steps freed
    memory is given back, or a run would take half as much again."""

    def __init__(self, label: str):
        self.label, self.bar = label, None

    def on_train_begin(self, args, state, control, **_):
        self.bar = tqdm(
            None,
            self.label,
            state.max_steps,
            initial=state.global_step,
            unit="step",
            disable=RANK > 0,
        )

    def on_step_end(self, args, state, control, **_):
        self.bar.update(state.global_step - self.bar.n)
        if state.global_step % 4 == 0:
            release_memory()

    def on_train_end(self, args, state, control, **_):
        self.bar.close()


class MarkComplete(TrainerCallback):
    """Marks a checkpoint once all of it is written, then removes all others but the best: whenever a run is killed, a
    marked checkpoint is whole. The mark holds the seconds that the run has taken up to there, over all its parts."""

    def __init__(self, resumed: str | None):
        self.seconds = float((Path(resumed) / "complete").read_text()) if resumed else 0.0
        self.began = time.perf_counter()

    def elapsed(self) -> float:
        """Return the seconds of training so far, earlier parts included."""
        return self.seconds + time.perf_counter() - self.began

    def on_epoch_end(self, args, state, control, **_):
        control.should_log = (
            True  # what is logged starts anew at a checkpoint, in a resumed run as in another
        )

    def on_save(self, args, state, control, **_):
        """Mark the checkpoint that has just been written, then remove the others."""
        args.distributed_state.wait_for_everyone()  # each process has written its random numbers
        if RANK:
            return
        folder, newest = Path(args.output_dir), f"checkpoint-{state.global_step}"
        with atomic_file(folder / newest / "complete") as part:
            part.write_text(f"{self.elapsed():.1f}")
        for path in folder.glob("checkpoint-*"):
            if path.name not in (newest, Path(state.best_model_checkpoint or newest).name):
                (path / "complete").unlink(missing_ok=True)
                shutil.rmtree(path)


def last_complete_checkpoint(folder: Path) -> str | None:
    """Return the newest whole checkpoint in `folder`, or None; half-written ones are removed."""
    for path in folder.glob("checkpoint-*"):
        if not (path / "complete").exists():
            shutil.rmtree(path)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None
