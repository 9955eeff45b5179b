"""Cells of a study: a system with one seed at one setting, computed in several processes."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from ..evaluation.scoring import word_errors
from ..evaluation.statistics import difference
from ..evaluation.testsets import TestSet, is_retention
from ..files import atomic_file
from ..lab.comparison import counts
from ..lab.lab import Lab
from ..training.methods import get_method

# What the hypotheses of docs/statistics.md compare, and what explains them: first less other.
PAIRS = (
    ("distilwhisper", "fine-tuning"),
    ("distilwhisper", "lora"),
    ("distilwhisper", "experts"),
    ("distilwhisper", "fine-tuning-teacher"),
    ("distilwhisper", "lora-teacher"),
    ("fine-tuning-teacher", "fine-tuning"),
    ("lora-teacher", "lora"),
    ("experts", "experts-open"),
    ("distilwhisper", "experts-open-teacher"),
    ("clsr-ft", "fine-tuning"),
    ("distilwhisper-released", "fine-tuning"),
    ("distilwhisper-released", "clsr-ft"),
)


def is_used_with_experts(lab: Lab, system: str, key: str) -> bool:
    """Return whether a test is scored with a system's experts on: in the language they are for.

    Of a system without experts it is True.
    """
    test = lab.test_set(key)
    is_adapted = (test.language, test.task) == (lab.preset.language, "transcribe")
    return is_adapted or not get_method(system).has_experts


def name_of(test: TestSet) -> str:
    """Return what a study calls a test: that of another language by its code."""
    return test.language if is_retention(test.name) else test.name


def errors_of_tests(lab: Lab, system: str, keys: Sequence[str], **changes) -> pd.DataFrame:
    """Return the errors of a system on tests; experts are off in other languages and tasks.

    Args:
        lab: Where predictions are kept.
        system: Name of a method.
        keys: Of the tests, such as "cs/in-domain".
        changes: As for `Lab.train`.

    Returns:
        A row per utterance: key, and the columns of `comparison.counts`.
    """
    tables = []
    for key in keys:
        is_on = is_used_with_experts(lab, system, key)
        tables.append(counts(lab, system, key, is_on, **changes).assign(key=key))
    return pd.concat(tables, ignore_index=True)


# ---- many cells


def compute(function: Callable, cells: Sequence, jobs: int) -> list:
    """Return what a function makes of cells, in several processes of one thread each.

    One thread, so that the order of sums and with it every bit is the same with any number of
    processes.

    Args:
        function: Of a cell; a function of a module, which another process can import.
        cells: In the order in which they are begun.
        jobs: Number of processes.
    """
    with ProcessPoolExecutor(jobs, get_context("spawn"), _use_one_thread) as pool:
        waiting = [pool.submit(partial(_without_bars, function), cell) for cell in cells]
        try:
            for done in tqdm(as_completed(waiting), "cells", len(waiting), unit="cell"):
                done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # what has not begun never does
            raise
    return [done.result() for done in waiting]


def _use_one_thread() -> None:
    torch.set_num_threads(1)


def _without_bars(function: Callable, cell):
    """Return what a function makes of a cell; its progress bars are not shown."""
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere), redirect_stdout(nowhere):
        return function(cell)


# ---- tables


def by_system(systems: Sequence[str], tables: Sequence[pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the errors of each system, all its cells together.

    Args:
        systems: Of each table.
        tables: The errors of the cells.
    """
    parts: dict[str, list[pd.DataFrame]] = {}
    for system, table in zip(systems, tables, strict=True):
        parts.setdefault(system, []).append(table)
    return {system: pd.concat(own, ignore_index=True) for system, own in parts.items()}


def differences(
    errors: dict[str, pd.DataFrame], pairs: Sequence[tuple[str, str]], tests: Sequence[str]
) -> list[dict]:
    """Return the differences of pairs on each test, as far as both systems are there.

    Args:
        errors: Of each system, with the column test.
        pairs: Names of systems; the first less the other.
        tests: Names of the tests.
    """
    rows = []
    for first, other in pairs:
        for test in tests:
            if first in errors and other in errors:
                pair = [errors[name][errors[name]["test"] == test] for name in (first, other)]
                rows.append({"first": first, "other": other, "test": test, **difference(*pair)})
    return rows


def errors_side_by_side(errors: dict[str, pd.DataFrame], test: str) -> pd.DataFrame:
    """Return the word errors of each utterance of a test, a column per system and seed.

    Args:
        errors: Of each system, with the columns test and seed.
        test: Its name.
    """
    columns = {}
    for system, table in errors.items():
        here = table[table["test"] == test]
        for seed, part in here.groupby("seed"):
            by_id = part.set_index("id")
            columns.setdefault("words", by_id["words"])
            columns[f"{system} {seed}"] = word_errors(by_id)
    return pd.DataFrame(columns).astype(int).reset_index()


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table of figures, six digits each."""
    with atomic_file(path) as part:
        table.to_csv(part, index=False, float_format="%.6g")
