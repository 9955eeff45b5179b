"""`python -m distilwhisper_lib.experiments.convergence`: our variant trained without one of the steps that make training cheap and could
change what comes out.

    as it is        16 bits where the hardware has them, batches of clips of similar length
    fp32            computed in 32 bits
    random batches  clips drawn at random

All with the same stand-in and its stored outputs, scored on the validation split in the machine's precision. The table
is studies/convergence.csv in the folder of results; a stopped run goes on. The teacher's 256 likeliest words against all
of them: `python -m distilwhisper_lib.experiments.study top-k`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pandas as pd
import torch

from ..evaluation.scoring import paired_difference
from ..lab.comparison import counts, score
from ..lab.lab import Lab
from ..training import trainer as train
from .study import OURS, write_study


class RandomOrder(train.LengthOrder):
    """Indices shuffled anew for each epoch, whatever the clips' lengths."""

    def __iter__(self) -> Iterator[int]:
        draw = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        return iter(torch.randperm(len(self), generator=draw).tolist())


@contextmanager
def fp32() -> Iterator[None]:
    """Let the library compute in 32 bits within the block."""
    before = os.environ.get("LAB_PRECISION")
    os.environ["LAB_PRECISION"] = "no"
    try:
        yield
    finally:
        del os.environ["LAB_PRECISION"]
        os.environ |= {} if before is None else {"LAB_PRECISION": before}


@contextmanager
def random_batches() -> Iterator[None]:
    """Let the library train on batches drawn at random within the block."""
    before, train.LengthOrder = train.LengthOrder, RandomOrder
    try:
        yield
    finally:
        train.LengthOrder = before


TRIALS = {"as it is": nullcontext, "fp32": fp32, "random batches": random_batches}


def beside(lab: Lab, name: str) -> Lab:
    """Return a lab with a folder of its own, in which the stand-in and its outputs are those of `lab`."""
    own = Lab(replace(lab.preset, name=f"{lab.preset.name}-{name.replace(' ', '-')}"))
    for folder in (lab.teacher_distributions().folder, lab.train_teacher()):
        link = own.folder / folder.relative_to(lab.folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(folder.resolve(), target_is_directory=True)
    return own


def convergence(lab: Lab) -> pd.DataFrame:
    """Train our variant in each of TRIALS; return scores on validation, differences of WER to the first in pairs."""
    rows, base, key = [], None, f"{lab.preset.language}/validation"
    for name, changed in TRIALS.items():
        own = lab if changed is nullcontext else beside(lab, name)
        with changed():
            own.train(OURS)
        row, table = score(own, OURS, key), counts(own, OURS, key)
        base = table if base is None else base
        row["validation_loss"] = own.run_log(OURS)[-1]["eval_loss"]
        rows.append({"training": name} | row | paired_difference(table, base))
        write_study(lab, "convergence", rows)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(convergence(Lab(test_clips=None)).to_string(index=False))
