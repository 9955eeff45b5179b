"""The stored results as README and docs state them: tables, differences, and their wording.

A difference is in points of WER; negative means that the first system makes fewer errors. It is
called decided where its 95 % interval excludes zero.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from distilwhisper_lib import paired_difference, word_errors
from distilwhisper_lib.evaluation.testsets import is_retention
from distilwhisper_lib.lab.comparison import is_off_beside_on

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference" / "laptop"
BENCHMARKS = ROOT / "results" / "reference" / "benchmarks"
OURS = "distilwhisper"
POOLED = "distilwhisper-released"
NO_TEACHER = "clsr-ft"
ERRORS = ["insertions", "deletions", "substitutions"]


@cache
def read(name: str) -> pd.DataFrame:
    """Return a stored table of the laptop run, such as "paired" or "studies/variants"."""
    return pd.read_csv(REFERENCE / f"{name}.csv")


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


def mean_of_other_languages(system: str) -> float:
    """Return a system's mean WER over the languages that no system was trained on."""
    table = read("comparison")
    chosen = (table["system"] == system) & table["test_set"].map(is_retention)
    return table[chosen & ~is_off_beside_on(table)]["wer"].mean()


def paired(other: str, test: str) -> pd.Series:
    """Return the stored difference of our variant to another system."""
    return pair_in("paired", OURS, other, test)


def pair_in(name: str, first: str, other: str, test: str) -> pd.Series:
    """Return the difference of two systems from a stored table of differences."""
    table = read(name)
    chosen = (table["first"] == first) & (table["other"] == other) & (table["test_set"] == test)
    return table[chosen].iloc[0]


def variant(**changed) -> pd.Series:
    """Return the row of the one-change study that differs from its first row as given."""
    table = read("studies/variants")
    wanted = table.loc[0, list(table.columns[: table.columns.get_loc("system")])].to_dict()
    wanted |= {"seed": 77} | changed
    chosen = np.logical_and.reduce([table[name] == value for name, value in wanted.items()])
    return table[chosen].iloc[0]


def clips_of(system: str, test: str) -> pd.DataFrame:
    """Return the error counts of a system's stored predictions, one row per clip."""
    table = read("predictions")
    chosen = (table["system"] == system) & (table["test_set"] == test) & (table["language"] == "cs")
    return table[chosen].set_index("id")


def by_clip(first: str, other: str, test: str) -> dict:
    """Return the paired difference of two systems, computed from the stored predictions."""
    return paired_difference(clips_of(first, test), clips_of(other, test))


def without_loops(first: str, other: str, test: str) -> dict:
    """Return the same without the clips on which either system loops; `left_out` counts these."""
    one, two = clips_of(first, test), clips_of(other, test)
    looping = one["loop"].astype(bool) | two["loop"].astype(bool)
    return paired_difference(one[~looping], two[~looping]) | {"left_out": int(looping.sum())}


def by_room(first: str, other: str, test: str) -> dict:
    """Return the same with rooms of the game resampled instead of clips; `rooms` counts them."""
    tables = [_room_sums(clips_of(system, test)) for system in (first, other)]
    return paired_difference(*tables) | {"rooms": len(tables[0])}


def _room_sums(clips: pd.DataFrame) -> pd.DataFrame:
    rooms = clips.index.str.split("/").str[1]
    return clips[["words", *ERRORS]].groupby(rooms).sum()


def capped(clips: pd.DataFrame) -> pd.DataFrame:
    """Return error counts in which no clip has more errors than its reference has words."""
    errors = word_errors(clips).clip(upper=clips["words"])
    return clips[["words"]].assign(substitutions=errors, insertions=0, deletions=0)


def capped_wer(system: str, test: str) -> float:
    """Return a system's WER with every clip's errors capped at its number of words."""
    clips = capped(clips_of(system, test))
    return 100 * clips["substitutions"].sum() / clips["words"].sum()


def capped_difference(first: str, other: str, test: str) -> dict:
    """Return the paired difference with each clip's errors capped at its number of words."""
    return paired_difference(capped(clips_of(first, test)), capped(clips_of(other, test)))


def robust_ways() -> tuple:
    """Return the four ways in which docs/statistics.md computes a difference."""
    return by_clip, by_room, without_loops, capped_difference


def holm(table: pd.DataFrame, level: float = 0.05) -> pd.DataFrame:
    """Return the differences that stay decided when all are tested together (Holm's method).

    Args:
        table: rows with `share`: of the resamples, how many have the first system at or above
            the other.
        level: the chance of one false verdict or more among all rows.
    """
    chance = 2 * np.minimum(table["share"], 1 - table["share"])
    ordered = table.assign(chance=chance).sort_values("chance", kind="stable")
    limits = level / np.arange(len(ordered), 0, -1)
    holds = np.logical_and.accumulate(ordered["chance"].to_numpy() <= limits)
    return ordered[holds]
