"""Intervals and tests of a study: whole rooms and whole seeds are resampled, not clips alone.

A table here has a row per utterance, with the columns of `count_errors` and up to four more:

    fold    which of the study's trainings on other data the row belongs to (absent: one fold)
    seed    the seed of the training (absent: one seed)
    unit    what is resampled together, such as a room or a speaker (absent: each `id` by itself,
            and without `id` each row)
    id      the utterance; once within a fold and a seed

How a resample is drawn follows from which units the seeds and folds have in common. The same name
means the same unit:

    crossed    All seeds of a fold have the same units: one test, scored after each training. Seeds
               and units are drawn independently of each other; the resample is every drawn unit at
               every drawn seed. With one seed this is the bootstrap over units; without `unit` too,
               it is the bootstrap over utterances.
    nested     No seed of a fold shares a unit with another: each drew a test of its own. Seeds are
               drawn, then units within each drawn seed.

Seeds are drawn within each fold, for each fold has trainings of its own. Units are drawn within
each fold too, or once for all folds where folds share some: a room that both folds are tested in
is one room. The WER of a resample is

    100 * (sum over folds f, seeds s, units u of  a[f, s] * b[f, u] * errors[f, s, u])
        / (the same sum of words),

where a and b count how often seed s and unit u were drawn; nested, b counts within each drawn seed.

What the intervals do not cover: the choice of the folds, of the training clips and of the language.
With few seeds or units they are too narrow, as every bootstrap is. Crossed they are wider than
needed where chance at each single unit and seed is most of the scatter: the price of drawing whole
rows and columns.

Source:
    Utterances: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance
    evaluation", ICASSP 2004. Units: Liu and Peng, "Statistical testing on ASR performance via
    blockwise bootstrap", Interspeech 2020. Seeds and units: Owen, "The pigeonhole bootstrap",
    Annals of Applied Statistics 2007.
"""

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
import pandas as pd

from ..checks import check_number
from .scoring import (
    CAPPED,
    ERRORS,
    PERCENTILES,
    RESAMPLES,
    chrf_of,
    chrf_statistics,
    word_errors,
)

BLOCK = 2000  # draws that are counted at once: a limit of memory

KEY = ["fold", "seed", "id"]  # what names a row
OPTIONAL = [*KEY, "unit", CAPPED]  # columns that both tables of a difference have, or neither


# ---- error rates and their differences


def rate(counts: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Return the WER of a system over all its folds, seeds and units, in per cent.

    Args:
        counts: A row per utterance, as the module says. Utterances that cannot be scored (NaN
            words) are left out.
        seed: Of the bootstrap.

    Returns:
        wer; wer_low and wer_high, its 95 % bootstrap interval; n_units, n_seeds (of the fold that
        has the fewest) and n_folds.

    Raises:
        ValueError: For a table that is not of the module's kind, or with fewer than two units; the
            message names the row, the column or the unit.
    """
    table = _prepared(counts)
    totals = _resampled_totals(table, ["errors", "words"], seed)
    low, high = np.percentile(100 * totals[:, 0] / totals[:, 1], PERCENTILES)
    return {
        "wer": 100 * table["errors"].sum() / table["words"].sum(),
        "wer_low": low,
        "wer_high": high,
        "n_units": table["unit"].nunique(),
        "n_seeds": int(table.groupby("fold")["seed"].nunique().min()),
        "n_folds": table["fold"].nunique(),
    }


def difference(first: pd.DataFrame, second: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Compare the WER of two systems on the same utterances, at the same seeds and folds.

    Both systems are resampled together, so what makes a unit hard for both cancels out. The p value
    turns the interval round: it is the smallest level at which the interval excludes zero,

        p = min(1, 2 * (1 + min(resamples <= 0, resamples >= 0)) / (1 + resamples)).

    The two ones keep it above zero: no number of resamples shows that something is impossible.

    Args:
        first: The table of the first system, as the module says.
        second: That of the second; its rows may be in another order where there is an `id`.
        seed: Of the bootstrap.

    Returns:
        difference (WER of the first less that of the second, in points); low and high, its 95 %
        bootstrap interval; p, two-sided; better, the share of resamples in which the first system's
        WER is below the second's (probability of improvement); standard_error, the standard
        deviation of the resampled differences, in points.

    Raises:
        ValueError: As `rate` does, and where the tables differ in their rows, units or words; the
            message names what differs.

    Source:
        Probability of improvement: Bisani and Ney, ICASSP 2004. Plus one: Phipson and Smyth,
        "Permutation p-values should never be zero", Statistical Applications in Genetics and
        Molecular Biology 2010.
    """
    ordered = _in_order_of(first, second)
    table = _prepared(first)
    table["other_errors"] = _prepared(ordered)["errors"]

    totals = _resampled_totals(table, ["errors", "other_errors", "words"], seed)
    resampled = 100 * (totals[:, 0] - totals[:, 1]) / totals[:, 2]
    low, high = np.percentile(resampled, PERCENTILES)
    more_errors = table["errors"].sum() - table["other_errors"].sum()
    return {
        "difference": 100 * more_errors / table["words"].sum(),
        "low": low,
        "high": high,
        "p": two_sided_p(resampled),
        "better": np.mean(resampled < 0),
        "standard_error": np.std(resampled, ddof=1),
    }


def difference_or_nan(first: pd.DataFrame, second: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Compare as `difference` does; where all scored rows are of one unit, without an interval.

    Args:
        first: As for `difference`.
        second: As for `difference`.
        seed: As for `difference`.

    Returns:
        As `difference`; of a single unit NaN beside the difference.

    Raises:
        ValueError: As `difference` does, but not for a single unit.
    """
    scored = first.dropna(subset=["words"])
    if len(scored) and pd.Series(_units(scored)).nunique() < 2:
        other = _in_order_of(first, second).dropna(subset=["words"])
        more_errors = _errors_of(scored).sum() - _errors_of(other).sum()
        nothing = dict.fromkeys(("low", "high", "p", "better", "standard_error"), np.nan)
        return {"difference": 100 * more_errors / scored["words"].sum()} | nothing
    return difference(first, second, seed)


def chrf_difference(first: pd.DataFrame, second: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Compare the chrF of two systems on the same utterances, as `difference` compares WER.

    Args:
        first: A row per utterance: text (the reference), prediction, and fold, seed, unit and id as
            the module says.
        second: That of the second system.
        seed: Of the bootstrap.

    Returns:
        As `difference`, in points of chrF; better is the share of resamples in which the first
        system's chrF is above the second's.

    Raises:
        ValueError: As `difference` does, and where the references differ.
    """
    blank = dict.fromkeys(ERRORS, 0) | {"words": 1}
    ordered = _in_order_of(first.assign(**blank), second.assign(**blank))
    differing = np.flatnonzero(first["text"].to_numpy() != ordered["text"].to_numpy())
    if len(differing):
        raise ValueError(
            f"the references of {_name_of(first.iloc[differing[0]])} differ: both systems must be "
            "scored on the same texts"
        )
    table = _prepared(first.assign(**blank))
    counts = [
        chrf_statistics(list(rows["text"]), list(rows["prediction"])) for rows in (first, ordered)
    ]
    width = counts[0].shape[1]
    columns = [f"count {number}" for number in range(2 * width)]
    table[columns] = np.hstack(counts)

    totals = _resampled_totals(table, columns, seed)
    sums = np.vstack([table[columns].sum().to_numpy(), totals])
    scores = np.array([[chrf_of(row[:width]), chrf_of(row[width:])] for row in sums])
    found, *resampled = scores[:, 0] - scores[:, 1]
    low, high = np.percentile(resampled, PERCENTILES)
    return {
        "difference": found,
        "low": low,
        "high": high,
        "p": two_sided_p(np.array(resampled)),
        "better": np.mean(np.array(resampled) > 0),
        "standard_error": np.std(resampled, ddof=1),
    }


def two_sided_p(resampled: np.ndarray) -> float:
    """Return the two-sided p value of resampled differences, (R,)."""
    against = min(np.sum(resampled <= 0), np.sum(resampled >= 0))
    return min(1.0, 2 * (1 + against) / (1 + len(resampled)))


def capped(counts: pd.DataFrame) -> pd.DataFrame:
    """Return a table in which no utterance has more errors than its reference has words.

    A text that repeats itself then costs no more than an empty one.

    Returns:
        The table with a column `word_errors` in place of insertions, deletions and substitutions,
        into which a capped number cannot be split. `rate` and `difference` take it; functions that
        need the three columns refuse it.
    """
    limited = counts.drop(columns=ERRORS, errors="ignore")
    errors = _errors_of(counts)
    limited[CAPPED] = np.minimum(errors, counts["words"])  # NaN where there are no words
    return limited


def _errors_of(counts: pd.DataFrame) -> pd.Series:
    """Return the word errors of each utterance, capped if the table is."""
    return counts[CAPPED] if CAPPED in counts else word_errors(counts)


# ---- several tests, and what a test can show


def holm(p_values: dict[str, float]) -> dict[str, float]:
    """Return p values adjusted for being several, by Holm's method.

    With the m values in rising order, p[1] <= ... <= p[m],

        adjusted[i] = min(1, max over j <= i of (m - j + 1) * p[j]).

    Whoever calls those at or below 0.05 decided errs in one or more of them with a probability of
    at most 5 %, however the tests depend on each other.

    Args:
        p_values: The p value of each hypothesis, by its name.

    Returns:
        The adjusted values, in the order given.

    Raises:
        ValueError: For a value that is no number from 0 to 1.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
        Statistics 1979.
    """
    for name, value in p_values.items():
        check_number(f"the p value of {name}", value, low=0, high=1)
    rising = sorted(p_values, key=lambda name: p_values[name])
    adjusted = {}
    highest = 0.0
    for place, name in enumerate(rising):
        highest = max(highest, (len(rising) - place) * p_values[name])
        adjusted[name] = min(1.0, highest)
    return {name: adjusted[name] for name in p_values}


def detectable(standard_error: float, power: float = 0.8, level: float = 0.05) -> float:
    """Return how large a true difference must be for a two-sided test to show it, in points.

    In the normal approximation, with z the quantiles of the normal distribution,

        difference = (z[1 - level / 2] + z[power]) * standard_error.

    A difference of this size is found with the probability `power`, a smaller one more rarely.

    Args:
        standard_error: Of the difference, in points, such as that of `difference` in a pilot.
        power: The probability to find the difference.
        level: Of the test. One of m tests under Holm's method may have to hold at level / m.

    Raises:
        ValueError: For a negative standard error, a level outside 0 to 1, or a power that is not
            between level and 1.
    """
    check_number("standard_error", standard_error, low=0)
    check_number("level", level, above=0, below=1)
    check_number("power", power, above=level, below=1)
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * standard_error


# ---- reading the tables


def _prepared(counts: pd.DataFrame) -> pd.DataFrame:
    """Return fold, seed, unit, errors and words of the utterances that can be scored."""
    _check_rows(counts)
    scored = counts.dropna(subset=["words"])
    if scored.empty:
        reason = "every reference is empty after normalisation" if len(counts) else "no utterances"
        raise ValueError(f"nothing to score: {reason}")
    _check_numbers(counts)

    table = pd.DataFrame({"errors": _errors_of(scored), "words": scored["words"]}, dtype=float)
    for name in ("fold", "seed"):
        table[name] = scored.get(name, 0)
    table["unit"] = _units(scored)
    if table["unit"].nunique() < 2:
        raise ValueError(
            f"all rows are of one unit, {table['unit'].iloc[0]}: at least two are needed to "
            "resample units"
        )
    return table.reset_index(drop=True)


def _check_rows(counts: pd.DataFrame) -> None:
    """Raise ValueError for a row without fold, seed, id or unit, or one that is there twice."""
    for name in [name for name in (*KEY, "unit") if name in counts]:
        if counts[name].isna().any():
            row = np.flatnonzero(counts[name].isna())[0]
            raise ValueError(f"the column {name!r} has no value in row {row}")
    if "id" not in counts:
        return
    repeated = counts[counts.duplicated(_key_of(counts))]
    if len(repeated):
        raise ValueError(
            f"{_name_of(repeated.iloc[0])} is there twice: give the rows of one system and one "
            "test, with the columns seed and fold where there are several"
        )


def _check_numbers(counts: pd.DataFrame) -> None:
    """Raise ValueError for numbers of words or errors that cannot be."""
    words, errors = counts["words"].astype(float), _errors_of(counts).astype(float)
    possible = words.isna() | (np.isfinite(errors) & (errors >= 0) & (words > 0))
    if not possible.all():
        row = np.flatnonzero(~possible)[0]
        raise ValueError(
            f"row {row} has {errors.iloc[row]:g} errors and {words.iloc[row]:g} words: errors are "
            "counted from 0, words from 1, and an empty reference has NaN words"
        )


def _key_of(table: pd.DataFrame) -> list[str]:
    """Return those columns of KEY that a table has."""
    return [name for name in KEY if name in table]


def _name_of(row: pd.Series) -> str:
    """Return how a message names a row: "fold 0, seed 1, id game/room/3"."""
    return ", ".join(f"{name} {row[name]}" for name in KEY if name in row)


def _units(scored: pd.DataFrame) -> pd.Series | np.ndarray:
    """Return the unit of each row: the column `unit`, else `id`, else the number of the row."""
    for name in ("unit", "id"):
        if name in scored:
            return scored[name]
    if "seed" in scored and scored["seed"].nunique() > 1:
        raise ValueError(
            "with several seeds a column `unit` or `id` is needed: it says which utterances the "
            "seeds have in common"
        )
    return np.arange(len(scored))


def _in_order_of(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the second table with its rows in the order of the first.

    Raises:
        ValueError: Where they differ in anything but their errors.
    """
    for table in (first, second):
        _check_rows(table)
    for name in OPTIONAL:
        if (name in first) != (name in second):
            which = "first" if name in first else "second"
            raise ValueError(f"only the {which} table has the column {name!r}")

    ordered = _matched(first, second) if "id" in first else second
    if len(first) != len(ordered):
        raise ValueError(
            f"the first table has {len(first)} rows, the second {len(second)}: both systems must "
            "be scored on the same utterances"
        )
    for name in [name for name in ("fold", "seed", "unit", "words") if name in first]:
        one = first[name].reset_index(drop=True)
        other = ordered[name].reset_index(drop=True)
        differs = (one != other) & ~(one.isna() & other.isna())
        if differs.any():
            place = int(np.flatnonzero(differs)[0])
            row = _name_of(first.iloc[place]) or f"row {place}"
            raise ValueError(
                f"{row}: {name} is {one[place]} in the first table and {other[place]} in the second"
            )
    return ordered


def _matched(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the second table that have the first's fold, seed and id, in its order."""
    tables = (first, second)
    indexes = [pd.MultiIndex.from_frame(table[_key_of(table)]) for table in tables]
    for one, other, has, lacks in ((0, 1, "first", "second"), (1, 0, "second", "first")):
        missing = ~indexes[one].isin(indexes[other])
        if missing.any():
            row = tables[one][missing].iloc[0]
            raise ValueError(
                f"{_name_of(row)} is in the {has} table and not in the {lacks} ({missing.sum()} "
                "such rows): both systems must be scored on the same utterances"
            )
    return second.iloc[indexes[1].get_indexer(indexes[0])]


# ---- resampling


def _resampled_totals(table: pd.DataFrame, columns: list[str], seed: int) -> np.ndarray:
    """Return the totals of each resample over all folds.

    Args:
        table: As `_prepared` returns it.
        columns: The C columns to sum, such as errors and words.
        seed: Of the bootstrap.

    Returns:
        The totals, (RESAMPLES, C).

    Raises:
        ValueError: Where seeds share some units but not all, or folds share nested ones.
    """
    generator = np.random.default_rng(seed)
    totals = np.zeros((RESAMPLES, len(columns)))
    for part in _parts(table):
        if all(_is_crossed(fold) for _, fold in part.groupby("fold")):
            totals += _crossed_totals(part, columns, generator)
        else:
            totals += _nested_totals(part, columns, generator)
    return totals


def _parts(table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the parts of a table whose units are drawn apart: each fold, or all in one."""
    folds_of_unit = table.groupby("unit")["fold"].nunique()
    if folds_of_unit.max() > 1:
        yield table
    else:
        for _, fold in table.groupby("fold", sort=False):
            yield fold


def _is_crossed(fold: pd.DataFrame) -> bool:
    """Return whether all seeds of a fold have the same units (True) or none in common (False).

    Raises:
        ValueError: Where it is neither, or where a unit's words differ between seeds.
    """
    words = fold.pivot_table(values="words", index="unit", columns="seed", aggfunc="sum")
    seeds_of_unit = words.notna().sum(axis=1)
    if (seeds_of_unit == 1).all() and len(words.columns) > 1:
        return False

    name = fold["fold"].iloc[0]
    advice = "where each seed has utterances of its own, give them names of their own"
    lacking = seeds_of_unit[seeds_of_unit < len(words.columns)]
    if len(lacking):
        raise ValueError(
            f"fold {name}: unit {lacking.index[0]} is there for {lacking.iloc[0]} of "
            f"{len(words.columns)} seeds; seeds must have all units in common, or none ({advice})"
        )
    differing = words[words.max(axis=1) != words.min(axis=1)]
    if len(differing):
        found = differing.iloc[0]
        raise ValueError(
            f"fold {name}: unit {differing.index[0]} has {found.min():g} words at one seed and "
            f"{found.max():g} at another: it is not the same unit ({advice})"
        )
    return True


def _crossed_totals(
    part: pd.DataFrame, columns: list[str], generator: np.random.Generator
) -> np.ndarray:
    """Return the totals (RESAMPLES, C) of a part, units and seeds drawn independently."""
    unit, names = pd.factorize(part["unit"])
    unit_weights = _weights(RESAMPLES, len(names), generator)  # (RESAMPLES, U)

    totals = np.zeros((RESAMPLES, len(columns)))
    for rows in part.groupby("fold", sort=False).indices.values():
        fold = part.iloc[rows]
        seed, seeds = pd.factorize(fold["seed"])
        cells = np.zeros((len(names), len(seeds), len(columns)))  # (U, S, C)
        np.add.at(cells, (unit[rows], seed), fold[columns].to_numpy(float))

        of_seeds = np.tensordot(unit_weights, cells, axes=1)  # (RESAMPLES, S, C)
        seed_weights = _weights(RESAMPLES, len(seeds), generator)  # (RESAMPLES, S)
        totals += np.einsum("rs,rsc->rc", seed_weights, of_seeds)
    return totals


def _nested_totals(
    part: pd.DataFrame, columns: list[str], generator: np.random.Generator
) -> np.ndarray:
    """Return the totals (RESAMPLES, C) of a fold, seeds drawn, then units within each of them."""
    if part["fold"].nunique() > 1:
        raise ValueError(
            "folds share units, but the seeds of a fold do not: give the units of each fold names "
            "of their own"
        )
    by_seed = part.groupby("seed", sort=False)
    seed_weights = _weights(RESAMPLES, by_seed.ngroups, generator)  # (RESAMPLES, S)

    totals = np.zeros((RESAMPLES, len(columns)))
    for (_, rows), times in zip(by_seed, seed_weights.T.astype(int), strict=True):
        cells = rows.groupby("unit", sort=False)[columns].sum().to_numpy(float)  # (U, C)
        # A seed that a resample has drawn twice is a row of it twice, with units of its own.
        resample = np.repeat(np.arange(RESAMPLES), times)  # (D,): of each drawn seed
        drawn = _weights(len(resample), len(cells), generator) @ cells  # (D, C)
        np.add.at(totals, resample, drawn)
    return totals


def _weights(draws: int, n: int, generator: np.random.Generator) -> np.ndarray:
    """Return how often each of n things is drawn when n are drawn with replacement: (draws, n)."""
    weights = np.empty((draws, n))
    for start in range(0, draws, BLOCK):
        rows = min(BLOCK, draws - start)
        drawn = generator.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        counted = np.bincount(drawn.ravel(), minlength=rows * n)
        weights[start : start + rows] = counted.reshape(rows, n)
    return weights
