"""`make claims ARGS=...`: the paper's claims with real speech, in folds and with several seeds.

    tune    three learning rates for every kind of method, and fewer epochs, on validation
    run     every system, fold and seed that is missing; the hypotheses' systems come first

The systems learn one speaker's voice and are tested on it and on the other's; then the other way
round: two folds. docs/statistics.md has the hypotheses. What is computed is kept in --folder, a
table of predictions and a record per training, so that a stopped study goes on, there or on another
machine.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..checks import check_choice
from ..evaluation.statistics import rate
from ..evaluation.testsets import DOMAINS, TestSet, is_retention
from ..files import results_dir, write_json
from ..lab.lab import Lab
from ..lab.metadata import run_metadata
from ..presets import LAPTOP
from ..programs import number_option, run_program
from ..training.methods import get_method
from .cells import compute, errors_of_tests, write_table

# The systems of the hypotheses, and those that explain them.
TESTED = ("fine-tuning", "lora", "experts", "distilwhisper")
FURTHER = (
    *("fine-tuning-teacher", "lora-teacher", "clsr-ft", "distilwhisper-released"),
    *("experts-open", "experts-open-teacher"),
)
SYSTEMS = (*TESTED, *FURTHER)
UNTRAINED = ("student", "teacher")

SEEDS = (77, 78, 79, 80, 81)
FURTHER_SEEDS = SEEDS[:2]

# Whose learning rate a method takes: with a teacher or without gates nothing is tuned again, so
# that every kind of method had the same number of trials.
TUNED_AS = {
    "fine-tuning": ("fine-tuning-teacher",),
    "lora": ("lora-teacher",),
    "experts": ("distilwhisper", "experts-open", "experts-open-teacher"),
    "clsr-ft": ("distilwhisper-released",),
}
RATES = {
    "fine-tuning": (2.5e-5, 5e-5, 1e-4),
    "lora": (1e-3, 2e-3, 4e-3),
    "experts": (1e-4, 2e-4, 4e-4),
    "clsr-ft": (1.5e-4, 3e-4, 6e-4),
}
FEWER_EPOCHS = 3  # tried beside the preset's, at the middle rate

STUDY = replace(
    LAPTOP,
    name="study",
    voice="font_small",
    epochs=6,
    teacher_epochs=4,
    test_clips=None,
    retention_clips=120,
    retention=(
        ("fillets", "nl"),
        ("festvox", "ru"),
        ("asterisk", "es"),
        ("asterisk", "fr"),
        ("asterisk", "it"),
    ),
    learning_rates={
        system: rates[1] for kind, rates in RATES.items() for system in (kind, *TUNED_AS[kind])
    }
    | {"teacher": 5e-5},
    further_systems=SYSTEMS,
)
TESTS = (*DOMAINS, "other-characters")  # of every system


@dataclass(frozen=True)
class Cell:
    """A system with one seed in one fold.

    Attributes:
        system: Name of a method.
        voice: The speaker that is trained on; None where the fold has all.
        seed: Of the training.
        rate: The learning rate; None: the preset's.
        epochs: None: the preset's.
        tests: Names of the tests that are scored.
    """

    system: str
    voice: str | None
    seed: int
    rate: float | None = None
    epochs: int | None = None
    tests: tuple[str, ...] = TESTS

    @property
    def changes(self) -> dict:
        """Changes for `Lab.train`."""
        if not get_method(self.system).is_trained:
            return {}
        given = {"seed": self.seed, "learning_rate": self.rate, "epochs": self.epochs}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def name(self) -> str:
        """Of its files, such as font_small-lora-seed77."""
        seed = [f"seed{self.seed}"] if get_method(self.system).is_trained else []
        return "-".join([*filter(None, [self.voice]), self.system, *seed])


def lab_of(cell: Cell) -> Lab:
    """Return the laboratory of a cell's fold."""
    return Lab(STUDY, voice=cell.voice)


def errors_of(cell: Cell) -> pd.DataFrame:
    """Return the errors of a cell's predictions, computed at the first call.

    Returns:
        A row per utterance: test, fold, seed, unit (the room or group of the line; each utterance
        by itself where all have one), and the columns of `comparison.counts`.
    """
    lab = lab_of(cell)
    keys = [key for key, test in lab.test_sets.items() if _name_of(test) in cell.tests]
    table = errors_of_tests(lab, cell.system, keys, **cell.changes)
    names = {key: _name_of(lab.test_set(key)) for key in keys}
    units = pd.concat([_units(lab, key) for key in keys], ignore_index=True)
    return table.assign(
        test=table["key"].map(names), fold=cell.voice or "", seed=cell.seed, unit=units
    )


def _name_of(test: TestSet) -> str:
    """Return what the study calls a test: another language by its code."""
    return test.language if is_retention(test.name) else test.name


def _units(lab: Lab, key: str) -> pd.Series:
    """Return what each utterance of a test is resampled with."""
    rows = lab.test_rows(key)
    rooms = pd.Series(rows["room_or_category"][:])
    return rooms if rooms.nunique() > 1 else pd.Series(rows["id"][:])


# ---- tuning


def tune(kinds: Sequence[str], jobs: int, folder: Path) -> None:
    """Try learning rates and fewer epochs, as many for each kind of method; write tuning.csv.

    Args:
        kinds: Names of methods, of RATES.
        jobs: Number of processes.
        folder: Where the table is written.
    """
    fold = STUDY.voice
    cells = [Cell("teacher", fold, SEEDS[0], tests=("validation",))]
    for kind in kinds:
        trials = [(rate, STUDY.epochs) for rate in RATES[kind]]
        trials.append((RATES[kind][1], FEWER_EPOCHS))
        cells += [
            Cell(kind, fold, SEEDS[0], rate, epochs, ("validation",)) for rate, epochs in trials
        ]
    rows = [
        {"system": cell.system, "learning_rate": cell.rate, "epochs": cell.epochs, **rate(errors)}
        for cell, errors in zip(cells, compute(errors_of, cells, jobs), strict=True)
    ]
    write_table(folder / "tuning.csv", pd.DataFrame(rows))
    write_json(folder / "tuning.json", {"fold": fold, "seed": SEEDS[0]} | _record())


def _record() -> dict:
    """Return by what and on what something was computed."""
    return run_metadata(STUDY, [], {}, {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a part of the study from the command line.

    Args:
        arguments: Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="make claims ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=["tune"])
    parser.add_argument("names", nargs="*", help="of methods")
    count = number_option(low=1, whole=True)
    parser.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--folder", type=Path, help="default: results/study")
    given = parser.parse_args(arguments)
    folder = given.folder or results_dir(STUDY.name)
    known = list(RATES)
    for name in given.names:
        check_choice(f"a name of {given.part}", name, known)
    tune(given.names or known, given.jobs, folder)
    print(folder)


if __name__ == "__main__":
    run_program(main)
