"""Trains systems on random clips, in as many processes as `accelerate launch` has started.

python several_processes.py FOLDER [N]: the last process is killed (SIGKILL) before its N-th step of training.
"""

import os
import signal
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import torch
from random_data import RandomClips

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.device import PROCESSES, RANK
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.systems import SYSTEMS
from distilwhisper_lib.training.trainer import LabTrainer, train_system
from distilwhisper_lib.whisper.tiny import tiny_processor

PRESET = replace(get_preset("smoke"), batch_size=2, accumulation=2)


def die_at_step(number: int) -> None:
    original, calls = LabTrainer.training_step, count(1)

    def training_step(self, *args, **kwargs):
        if next(calls) == number and RANK == PROCESSES - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)

    LabTrainer.training_step = training_step


def main(folder: Path) -> None:
    """Train without anything drawn in a step, then experts, whose noise is; the best epoch is kept of the first."""
    torch.set_num_threads(1)
    processor = tiny_processor()
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))
    collator = Collator(processor.tokenizer, PRESET.margin_seconds)
    for name, preset in (("fine-tuning", replace(PRESET, keep="best")), ("clsr-ft", PRESET)):
        train_system(
            SYSTEMS[name],
            folder / name,
            preset,
            Objective(),
            clips,
            clips,
            collator,
            "cs",
            1e-3,
            2,
            77,
        )
    if PROCESSES > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        die_at_step(int(sys.argv[2]))
    main(Path(sys.argv[1]))
