"""Checks of the exercises in notebook 05."""

import numpy as np
import pandas as pd
from answers import array, function, items, not_a_mistake, number, whole_number
from hashed import hashed
from made_up import made_up_errors

from distilwhisper_lib import statistics

AT_LEAST_ONE = hashed("5.2 at_least_one")


def check_at_least_one(answer) -> str:
    """Exercise 5.2: the probability that one of eight comparisons of equals looks decided."""
    answer = number(answer, "at_least_one")
    assert 0 <= answer <= 1, (
        f"{answer:g} is not a probability: it lies between 0 and 1 (not in per cent)"
    )
    return AT_LEAST_ONE.check(
        answer, f"{answer:g} is not it: ask first how likely it is that none of the eight does"
    )


# Of exercise 5.1: difference, low, high and n; the number that is right; and what three mistakes
# give: in proportion to n, with the whole width of the interval, upside down
CASES = (
    ((-2.0, -6.0, 2.0, 160), 640, 320, 2560, 40),
    ((1.5, -4.5, 7.5, 160), 2560, 640, 10240, 10),
    ((-10.0, -12.0, -8.0, 100), 4, 20, 16, 2500),
    ((-2.0, -6.0, 2.0, 100), 400, 200, 1600, 25),  # exact, in whatever order it is computed
    ((3.0, 0.0, 6.0, 250), 250, 250, 1000, 250),
    ((-3.0, -5.0, -1.0, 100), 45, 67, 178, 225),
)
EXACT = (CASES[3][0], CASES[5][0])  # cases in which rounding errors change nothing


def check_utterances_needed(utterances_needed) -> str:
    """Exercise 5.1: the utterances with which an interval would just exclude zero."""
    utterances_needed = function(utterances_needed, "utterances_needed(difference, low, high, n)")
    for case, right, linear, whole_width, upside_down in CASES:
        given = number(utterances_needed(*case), "the number of utterances")
        assert given > 0, f"{given:g} utterances: take the size of the difference, without its sign"
        found = whole_number(given, "the number of utterances (rounded up)")
        # Rounding errors may add one where the number is whole, as it is in all cases but the last
        if found == right or (found == right + 1 and case not in EXACT):
            continue
        assert found != right + 1, (
            f"{found} utterances for {case} are one too many: round up only what is not whole"
        )
        assert found != linear, (
            f"{found} would do if the interval shrank in proportion to the number of utterances; "
            "it shrinks with the square root: half as wide needs four times as many"
        )
        assert abs(found - whole_width) > 1, (
            "the interval reaches half its width to either side: (high - low) / 2"
        )
        assert abs(found - upside_down) > 1, (
            f"upside down: {found} for {case}; the wider the interval beside the difference, the "
            "more utterances are needed"
        )
        assert found != right - 1, f"{found} utterances for {case} are too few: round up"
        assert found != case[-1] or right > found, (
            f"{found} utterances are there in {case}, but fewer are enough: the difference is "
            "larger than half the interval"
        )
        raise AssertionError(f"{found} for {case} is not it, {right} is")
    return (
        "a difference of half the half-width needs four times the utterances; that is why small "
        "gains are hard to show"
    )


def _differences(rows: list[tuple]) -> pd.DataFrame:
    """Return a table of paired differences: DistilWhisper minus another system."""
    table = pd.DataFrame(rows, columns=["other", "test_set", "difference", "low", "high"])
    return table.assign(first="distilwhisper")


def _beaten_names(beaten, rows: list[tuple]) -> set[str]:
    """Return the names that the reader's function finds."""
    found = items(beaten(_differences(rows)), "return a set of names of systems")
    assert all(isinstance(name, str) for name in found), (
        "return a set of names: the texts in the column `other`"
    )
    return set(found)


ENDS = {"noise": -0.5, "rooms": 0.0, "calls": -0.5}  # upper ends of a system's intervals


def check_beaten(beaten) -> str:
    """Exercise 5.3: the systems that are beaten, with a decided difference, in every test set."""
    beaten = function(beaten, "beaten(differences)")
    rows = [
        ("student", "in-domain", -12.0, -15.0, -9.0),
        ("student", "out-of-domain", -20.0, -31.0, -8.0),
        ("lora", "in-domain", -1.5, -4.0, 1.0),
        ("lora", "out-of-domain", -6.0, -11.0, -1.5),
        ("fine-tuning", "in-domain", 2.0, 0.5, 3.5),
        ("fine-tuning", "out-of-domain", -5.0, -9.0, -1.0),
        ("clsr-ft", "in-domain", 3.0, 1.0, 5.0),
        ("clsr-ft", "out-of-domain", 4.0, 1.0, 9.0),
    ]
    found = _beaten_names(beaten, rows)
    assert found <= {row[0] for row in rows}, (
        f"{sorted(found)}: names from the column `other` are asked for"
    )
    assert "clsr-ft" not in found, (
        "clsr-ft is ahead in both domains: a positive difference means more errors"
    )
    assert "fine-tuning" not in found, (
        "fine-tuning is behind in one domain and ahead in the other: the claim needs every test set"
    )
    assert "lora" not in found, (
        "lora: the difference is negative in both, but in-domain the interval reaches above "
        "zero, so it is not decided there: look at `high`"
    )
    assert found == {"student"}, f"{sorted(found)} is not it: the student is beaten in both domains"
    rows = [
        ("one", "noise", -3.0, -5.0, -1.0),
        ("two", "noise", -9.0, -19.0, 1.0),
        ("three", "noise", -1.0, -1.5, -0.5),
        ("one", "rooms", -3.0, -4.0, -2.0),
        ("two", "rooms", -9.0, -12.0, -6.0),
        ("three", "rooms", -1.0, -1.9, -0.1),
        ("one", "calls", -3.0, -5.0, -1.0),
        ("two", "calls", -9.0, -12.0, -6.0),
        ("three", "calls", -1.0, -1.5, -0.5),
    ]
    touching = [("four", test, -2.0, -4.0, high) for test, high in ENDS.items()]
    found = _beaten_names(beaten, [*rows, *touching])
    assert "four" not in found, (
        "four: an interval that ends at zero does not lie below zero, so it is not decided there"
    )
    assert found == {"one", "three"}, (
        f"in another table, with other names and three test sets, {sorted(found)} is not it: one "
        "and three have their whole interval below zero in every test set"
    )
    return "only what is decided in every test set is claimed"


# ---- what the reader builds


def _resampled(errors, other_errors, words, seed: int = 0) -> np.ndarray:
    """Return 2,000 differences of WER in points, drawn as the library does."""
    draws = np.random.default_rng(seed).integers(0, len(words), (2000, len(words)))
    return 100 * (errors[draws].sum(1) - other_errors[draws].sum(1)) / words[draws].sum(1)


def _alike(given: np.ndarray, right: np.ndarray) -> bool:
    """Whether two lists of resampled differences scatter alike, whatever was drawn."""
    near = abs(given.mean() - right.mean()) < 0.15 * right.std()
    return near and abs(given.std() / right.std() - 1) < 0.1


def built_paired_bootstrap(paired_bootstrap) -> str:
    """Section 2: resampled differences of two systems on the same draws."""
    form = "paired_bootstrap(errors, other_errors, words, seed)"
    paired_bootstrap = function(paired_bootstrap, form)
    first, second, words, _ = made_up_errors()
    given = array(paired_bootstrap(first, second, words), (2000,), "the differences")
    right = _resampled(first, second, words)
    rates = 100 * (first - second) / words
    apart = [np.std(_resampled(one, 0 * one, words)) for one in (first, second)]
    assert not _alike(-given, right), "the sign is the other way round: errors - other_errors"
    assert not _alike(100 * given, right), "the difference is asked for in points (per cent)"
    assert not _alike(given, _resampled(rates, 0 * rates, np.ones(len(words))) / 100), (
        "that is a mean of the clips' own rates: sum errors and words of a draw, then divide"
    )
    assert not abs(given.std() / np.hypot(*apart) - 1) < 0.1, (
        "each system has draws of its own: draw once, and use the same draws for both"
    )
    assert _alike(given, right), (
        f"the differences lie around {given.mean():.2f} +- {given.std():.2f}, not around "
        f"{right.mean():.2f} +- {right.std():.2f}: a draw takes as many clips as there are, with "
        "replacement"
    )
    again = array(paired_bootstrap(first, second, words, 1), (2000,), "the differences")
    assert not np.array_equal(given, again), "another seed gives the same draws: `seed` is not used"
    assert np.allclose(given, right), (
        "right, but drawn in another way than the library's: draw as the hint says, so that the "
        "next cell can compare both"
    )
    return "2,000 differences, as the library draws them"


def built_room_bootstrap(room_bootstrap) -> str:
    """Section 3: the same with whole rooms."""
    form = "room_bootstrap(errors, other_errors, words, rooms, seed)"
    room_bootstrap = function(room_bootstrap, form)
    first, second, words, _ = made_up_errors()
    rooms = np.array(["kitchen", "cave", "wreck", "attic", "deck", "bar"] * 3).repeat(5)[:80]
    order = list(dict.fromkeys(rooms))  # as they appear
    sums = [[one[rooms == room].sum() for room in order] for one in (first, second, words)]
    sorted_sums = [
        [one[rooms == room].sum() for room in sorted(order)] for one in (first, second, words)
    ]
    right = _resampled(*map(np.array, sums))
    given = array(room_bootstrap(first, second, words, rooms), (2000,), "the differences")
    assert not np.allclose(given, _resampled(first, second, words)), (
        "clips are drawn: sum up the clips of each room first"
    )
    assert not np.allclose(given, _resampled(*map(np.array, sorted_sums))), (
        "right, but the rooms are sorted by name: keep the order in which they appear, as the "
        "library does (`sort=False`)"
    )
    assert np.allclose(given, right), (
        "not so: the sums of errors, other errors and words of each room take the place of clips "
        "in paired_bootstrap"
    )
    again = array(room_bootstrap(first, second, words, rooms, 1), (2000,), "the differences")
    assert not np.array_equal(given, again), "another seed gives the same draws: hand `seed` on"
    return "whole rooms are drawn"


def built_corrected(corrected) -> str:
    """Section 4: Holm's correction."""
    corrected = function(corrected, "corrected(p_values)")
    for p_values in ([0.011, 0.2, 0.012, 0.9, 0.03], [0.6, 0.021, 0.7, 0.04]):
        p, m = np.array(p_values), len(p_values)
        given = array(corrected(p.copy()), (m,), "the corrected p values")
        right = np.array(list(statistics.holm({str(i): one for i, one in enumerate(p)}).values()))
        assert given.max() <= 1, f"none exceeds 1, yours goes up to {given.max():g}"
        places = p.argsort().argsort()
        unordered = (m - places) * p
        not_a_mistake(
            given,
            [
                (np.minimum(1, m * p), "all are multiplied by m: that is Bonferroni's correction"),
                (np.sort(right), "they come sorted: give them in the order of `p_values`"),
                (np.minimum(1, unordered), "none may become smaller than the one before it"),
                (p, "nothing is corrected: the smallest is multiplied by m, the next by m - 1"),
            ],
        )
        assert np.allclose(given, right), (
            f"for {p_values} the corrected values are {right.round(3).tolist()}, yours "
            f"{given.round(3).tolist()}"
        )
    return "in their order, never smaller than the one before, at most 1"
