"""The stored results as README and docs state them: tables, differences, and their wording.

A difference is in points of WER; negative means that the first system makes fewer errors. It is
called decided where its 95 % interval excludes zero.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from distilwhisper_lib.evaluation.scoring import COUNTS
from distilwhisper_lib.evaluation.statistics import capped, difference

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference" / "laptop"
STUDIES = ROOT / "results" / "reference" / "both-voices"  # made with an earlier design
BENCHMARKS = ROOT / "results" / "reference" / "benchmarks"
OURS = "distilwhisper"
POOLED = "distilwhisper-released"


@cache
def read(name: str) -> pd.DataFrame:
    """Return a stored table of the laptop run, such as "paired"."""
    return pd.read_csv(REFERENCE / f"{name}.csv")


@cache
def study(name: str) -> pd.DataFrame:
    """Return a stored study of single settings, such as "variants"."""
    return pd.read_csv(STUDIES / f"{name}.csv")


@cache
def benchmark(name: str) -> pd.DataFrame:
    """Return a stored table of the benchmarks, such as "inference"."""
    return pd.read_csv(BENCHMARKS / f"{name}.csv")


def run_metadata(folder: Path = REFERENCE) -> dict:
    """Return run.json of a reference run."""
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


def read_timing(folder: Path = REFERENCE) -> dict[str, float]:
    """Return the seconds that each notebook took, by its name."""
    return json.loads((folder / "timing.json").read_text(encoding="utf-8"))


# ---- wording


def points(found) -> str:
    """Return a difference with its interval, as "+2.4 [-0.6, +5.4]".

    Args:
        found: a mapping or row with difference, low and high.
    """
    return f"{_signed(found['difference'])} [{_signed(found['low'])}, {_signed(found['high'])}]"


def _signed(value: float) -> str:
    rounded = round(value, 1)
    return "0.0" if rounded == 0 else f"{rounded:+.1f}"


def with_interval(row, score: str = "wer") -> str:
    """Return a score with its interval, as "64.5 [60.6, 68.3]"."""
    low, high = row[f"{score}_low"], row[f"{score}_high"]
    return f"{row[score]:.1f} [{low:.1f}, {high:.1f}]"


def is_decided(found) -> bool:
    """Return whether the interval of a mapping or row with low and high excludes zero."""
    return bool(found["low"] > 0 or found["high"] < 0)


def verdict(found) -> str:
    """Return "decided" or "not decided"."""
    return "decided" if is_decided(found) else "not decided"


def stated(found) -> str:
    """Return difference, interval and verdict."""
    return f"{points(found)}, {verdict(found)}"


# ---- scores and differences


def score_of(system: str, test: str, language: str = "cs") -> pd.Series:
    """Return one row of the comparison."""
    table = read("comparison")
    chosen = (table["system"] == system) & (table["test_set"] == test)
    return table[chosen & (table["language"] == language)].iloc[0]


def paired(other: str, test: str) -> pd.Series:
    """Return the stored difference of our variant to another system."""
    table = read("paired")
    return table[(table["other"] == other) & (table["test_set"] == test)].iloc[0]


def variant(**changed) -> pd.Series:
    """Return the row of the one-change study that differs from its first row as given."""
    table = study("variants")
    wanted = table.loc[0, list(table.columns[: table.columns.get_loc("system")])].to_dict()
    wanted |= {"seed": 77} | changed
    chosen = np.logical_and.reduce([table[name] == value for name, value in wanted.items()])
    return table[chosen].iloc[0]


def clips_of(system: str, test: str) -> pd.DataFrame:
    """Return the error counts of a system's stored predictions, one row per clip."""
    table = read("predictions")
    chosen = (table["system"] == system) & (table["test_set"] == test) & (table["language"] == "cs")
    return table.loc[chosen, ["id", "unit", *COUNTS, "loop"]].reset_index(drop=True)


def by_room(first: str, other: str, test: str) -> dict:
    """Return the difference of two systems, computed from the stored predictions."""
    return difference(clips_of(first, test), clips_of(other, test))


def by_clip(first: str, other: str, test: str) -> dict:
    """Return the same with clips resampled instead of rooms."""
    return difference(*(clips_of(name, test).drop(columns="unit") for name in (first, other)))


def by_room_capped(first: str, other: str, test: str) -> dict:
    """Return the same with each clip's errors capped at its number of words."""
    return difference(*(capped(clips_of(name, test)) for name in (first, other)))


WAYS = {"by room": by_room, "by clip": by_clip, "by room, capped": by_room_capped}
