"""`make convergence`: does what makes training cheap change its result?

Our variant is trained without one of these steps at a time:

    as it is        16 bits where the hardware has them, batches of clips of similar length
    fp32            computed in 32 bits
    random batches  clips drawn at random

All learn from the same stand-in and are scored on the validation split in the machine's precision.
The table is studies/convergence.csv in the folder of results; a stopped run goes on. The teacher's
256 most likely tokens against all of them: `make study ARGS=top-k`.
"""

import argparse
from collections.abc import Sequence

import pandas as pd

from ..evaluation.scoring import paired_difference
from ..lab.comparison import counts, score
from ..lab.lab import Lab
from ..lab.preflight import preflight
from ..programs import run_program
from .study import OURS, write_study

TRIALS = {"as it is": {}, "fp32": {"precision": "no"}, "random batches": {"batches": "random"}}


def convergence(lab: Lab) -> pd.DataFrame:
    """Train our variant in each of TRIALS.

    Returns:
        Scores on validation, with the paired difference of WER to the first trial.
    """
    key = f"{lab.preset.language}/validation"
    rows = []
    first = None
    for name, changes in TRIALS.items():
        row = {"training": name} | score(lab, OURS, key, **changes)
        row["validation_loss"] = lab.run_log(OURS, **changes)[-1]["eval_loss"]
        table = counts(lab, OURS, key, **changes)
        first = table if first is None else first
        rows.append(row | paired_difference(table, first))
        write_study(lab, "convergence", rows)
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials from the command line.

    Args:
        arguments: Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="make convergence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", help="default: the variable LAB_PRESET, else toy")
    given = parser.parse_args(arguments)
    lab = Lab(given.preset, test_clips=None)
    preflight(lab, [OURS], [f"{lab.preset.language}/validation"])
    print(convergence(lab).to_string(index=False))


if __name__ == "__main__":
    run_program(main)
