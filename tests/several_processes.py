"""Trains methods on random clips, in as many processes as `accelerate launch` has started.

python several_processes.py FOLDER [N]: the last process is killed (SIGKILL) before its N-th step.
"""

import os
import signal
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from random_data import RandomClips
from runs import train

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.device import PROCESSES, RANK
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.training.teacher import cache_teacher_distributions
from distilwhisper_lib.training.trainer import LabTrainer
from distilwhisper_lib.whisper.tiny import tiny_processor, tiny_whisper

PRESET = replace(get_preset("smoke"), batch_size=2, accumulation=2)


def die_at_step(number: int) -> None:
    """Kill the last process at the beginning of its step with this number."""
    original = LabTrainer.training_step
    steps = count(1)

    def training_step(self, *args, **kwargs):
        if next(steps) == number and RANK == PROCESSES - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    LabTrainer.training_step = training_step


def main(folder: Path) -> None:
    """Train without random draws in a step, keeping the best epoch; then experts, with noise.

    A single process computes a teacher's distributions before.
    """
    torch.set_num_threads(1)
    processor = tiny_processor()
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))
    collator = Collator(processor.tokenizer, PRESET.margin_seconds)
    if PROCESSES == 1:
        teacher = tiny_whisper(seed=1)
        cache_teacher_distributions(teacher, clips, collator, folder / "teacher", 8, 2)
    for name, keep in (("fine-tuning", "best"), ("clsr-ft", "last")):
        preset = replace(PRESET, keep=keep)
        train(name, folder / name, preset, clips, collator, rate=1e-3, epochs=2)
    if PROCESSES > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        die_at_step(int(sys.argv[2]))
    main(Path(sys.argv[1]))
