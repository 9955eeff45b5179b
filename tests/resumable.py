"""Runs something once without interruption, and once per moment with a SIGKILL, then to its end.

python resumable.py WHAT FOLDER: WHAT is a method, "best" (experts, the best epoch kept),
"teacher-outputs" or "transcribe"; FOLDER/<moment> gets the results. Each attempt is a process of
its own, forked from this one, which computes nothing itself.
"""

import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
from random_data import RandomClips
from runs import train

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.evaluation import transcription
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.training import run, teacher, trainer
from distilwhisper_lib.training.methods import METHODS
from distilwhisper_lib.whisper.tiny import tiny_processor, tiny_whisper

PRESET = replace(get_preset("smoke"), batch_size=4, eval_batch_size=4)
EPOCHS = 3


def die():
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(owner, name, call, after=False):
    """Kill this process in the `call`-th call of owner.name: before it, or after it."""
    original = getattr(owner, name)
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == call and not after:
            die()
        result = original(*args, **kwargs)
        if len(calls) == call:
            die()
        return result

    setattr(owner, name, wrapped)


def die_in_file(owner, name, call):
    """Kill this process when owner.name has written half of its `call`-th file.

    It is called with data and a path, or, of `Path` itself, with the path first.
    """
    original = getattr(owner, name)
    calls = []

    def wrapped(first, second, *args, **kwargs):
        result = original(first, second, *args, **kwargs)
        calls.append(1)
        if len(calls) == call:
            path = first if owner is Path else second
            whole = Path(path).read_bytes()
            Path(path).write_bytes(whole[: len(whole) // 2])
            die()
        return result

    setattr(owner, name, wrapped)


def die_removing(call):
    """Kill this process when the first file of the `call`-th checkpoint to be removed is gone."""
    original = shutil.rmtree
    calls = []

    def half(path, *args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            sorted(Path(path).iterdir())[0].unlink()
            die()
        original(path, *args, **kwargs)

    shutil.rmtree = half


# Two steps and two evaluations an epoch. Moments in one list follow one another in one run.
TRAINING = {
    "in the second epoch": [lambda: die_at(trainer.LabTrainer, "compute_loss", 6)],
    "in the second checkpoint": [
        lambda: die_at(trainer.LabTrainer, "_save_optimizer_and_scheduler", 2)
    ],
    "before the metadata has its name": [lambda: die_at(os, "replace", EPOCHS + 1)],
    "before the last checkpoint is removed": [lambda: die_at(run, "_tell_of_shut_gates", 1)],
}
MORE = {
    "in the first epoch": [lambda: die_at(trainer.LabTrainer, "compute_loss", 2)],
    "in evaluation, and again": [lambda: die_at(trainer.LabTrainer, "compute_loss", 8)] * 2,
    "in its last file": [lambda: die_at(trainer.LabTrainer, "_save_rng_state", 2, after=True)],
    "before its mark": [lambda: die_at(os, "replace", 2)],
    "when the first is being removed": [lambda: die_removing(1)],
    "before the trained model has its name": [lambda: die_at(Path, "rename", 1)],
}
BEST = {
    "in the second validation": [lambda: die_at(transcription, "generate_batch", 4)],
    "before the kept model has its name": [lambda: die_at(Path, "rename", 1)],
    "before the metadata of it": [lambda: die_at(run, "_run_facts", 1)],
}
# The step from which each attempt goes on: steps that were done are not done again.
RESUMED = {
    "in the second epoch": [0, 2],
    "in the second checkpoint": [0, 2],
    "before the metadata has its name": [0, 6],
    "before the last checkpoint is removed": [0],
    "in the first epoch": [0, 0],
    "in evaluation, and again": [0, 2, 4],
    "in its last file": [0, 2],
    "before its mark": [0, 2],
    "when the first is being removed": [0, 4],
    "before the trained model has its name": [0, 6],
    "uninterrupted": [0],
    "in the second validation": [0, 2],
    "before the kept model has its name": [0, 6],
    "before the metadata of it": [0, 6],
}
TEACHER = {
    "before the first batch": [lambda: die_at(teacher, "_teacher_batch", 1)],
    "in the second file": [lambda: die_in_file(teacher, "save_file", 2)],
    "before the third has its name, then again": [
        lambda: die_at(os, "replace", 3),
        lambda: die_at(os, "replace", 1),
    ],
}
TRANSCRIBE = {
    "before the first batch": [lambda: die_at(transcription, "generate_batch", 1)],
    "in the second table": [lambda: die_in_file(Path, "write_bytes", 2)],
    "before the third has its name, then again": [
        lambda: die_at(os, "replace", 3),
        lambda: die_at(os, "replace", 1),
    ],
}


def note_steps(folder):
    """Write into FOLDER.steps at which step a training begins or goes on; log every five steps."""
    original = trainer.LabTrainer.train

    def noting(self, resume_from_checkpoint=None):
        self.args.logging_steps = 5  # so that running means cross the ends of epochs
        step = resume_from_checkpoint.rsplit("-", 1)[1] if resume_from_checkpoint else "0"
        with open(f"{folder}.steps", "a") as lines:
            lines.write(f"{step}\n")
        return original(self, resume_from_checkpoint=resume_from_checkpoint)

    trainer.LabTrainer.train = noting


def work(what, folder):
    """Do everything into `folder`, or what is left to do there."""
    torch.set_num_threads(1)
    torch.manual_seed(os.getpid())  # nothing may depend on what was drawn before
    name = "clsr-ft" if what == "best" else what
    method = METHODS.get(name)
    processor = tiny_processor()
    clips = RandomClips(processor.tokenizer, 8 if method else 14, seconds=(0.3, 0.6))
    collator = Collator(processor.tokenizer, PRESET.margin_seconds)

    if what == "transcribe":
        table = folder / "table.csv"
        transcription.transcribe(tiny_whisper(), clips, collator, PRESET, table, "cs")
        return

    distributions = None
    if method is None or method.distils:
        where = folder if method is None else folder.parent / "teacher-outputs"
        distributions = teacher.cache_teacher_distributions(
            tiny_whisper(seed=1), clips, collator, where, 8, PRESET.eval_batch_size
        )
    if method is not None:
        note_steps(folder)
        preset = replace(PRESET, keep="best" if what == "best" else "last")
        settings = {"teacher": distributions, "rate": 1e-2, "epochs": EPOCHS}
        train(name, folder, preset, clips, collator, **settings)


def attempt(what, folder, prepare=None, watch=None):
    """Work in a process of its own and return its exit code, -9 for SIGKILL.

    prepare: Called first in that process. watch: Kill it when a file of this pattern appears.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with open(folder.parent / "log.txt", "a") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            if prepare:
                prepare()
            work(what, folder)
            code = 0
        finally:
            os._exit(code)
    while watch and not list(folder.glob(watch)):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:  # on a busy machine it may have finished in the meantime
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    if watch:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def main(what, folder):
    """Run without interruption, then with each kill, then with a kill from outside."""
    os.environ.setdefault("LAB_PRECISION", "no")
    moments = {"teacher-outputs": TEACHER, "transcribe": TRANSCRIBE, "best": BEST}.get(
        what, TRAINING
    )
    if what == "distilwhisper":
        moments = moments | MORE

    assert attempt(what, folder / "uninterrupted") == 0, "uninterrupted"
    for moment, preparations in moments.items():
        for prepare in preparations:
            code = attempt(what, folder / moment, prepare)
            assert code == -signal.SIGKILL, f"not killed {moment}"
        assert attempt(what, folder / moment) == 0, f"not resumed after a kill {moment}"

    files = {"teacher-outputs": "batch-*.safetensors", "transcribe": "table.csv"}
    watch = files.get(what, "checkpoints/checkpoint-4/*")
    assert attempt(what, folder / "from outside", watch=watch) in (-signal.SIGKILL, 0)
    assert attempt(what, folder / "from outside") == 0, "not resumed after a kill from outside"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
