"""Checks of the exercises in notebook 05."""

import numpy as np
import pandas as pd
from answers import function, items, number, whole_number


def check_at_least_one(answer) -> str:
    """Exercise 5.1: the probability that one of eight comparisons of equals looks decided."""
    right = 1 - 0.95**8
    answer = number(answer, "at_least_one")
    assert 0 <= answer <= 1, (
        f"{answer:g} is not a probability: it lies between 0 and 1 (not in per cent)"
    )
    assert abs(answer - 0.4) > 1e-6, (
        "0.4 = 8 * 0.05 counts twice the cases in which two intervals miss together; "
        "with 30 comparisons it would give more than 1"
    )
    assert abs(answer - 0.95**8) > 1e-3, (
        "that is the probability that none of them excludes zero: take the opposite"
    )
    assert abs(answer - 0.05**8) > 1e-6, (
        "that is the probability that all eight do, which is something else"
    )
    assert abs(answer - 8 * 0.05 * 0.95**7) > 1e-3, "that is the probability of exactly one"
    assert abs(answer - 0.05) > 1e-6, "0.05 is for a single comparison; here there are eight"
    assert abs(answer - right) < 5e-3, (
        f"{answer:g} is not it: one minus the probability that none of the eight does"
    )
    return (
        f"about {right:.2f}: among eight comparisons of equals, one in three times something "
        "looks decided"
    )


def check_utterances_needed(utterances_needed) -> str:
    """Exercise 5.2: the utterances with which an interval would just exclude zero."""
    utterances_needed = function(utterances_needed, "utterances_needed(difference, low, high, n)")
    cases = [
        (-2.0, -6.0, 2.0, 160),
        (1.5, -4.5, 7.5, 160),
        (-10.0, -12.0, -8.0, 100),
        (3.0, 0.0, 6.0, 250),
        (-3.0, -5.0, -1.0, 100),
    ]
    for difference, low, high, n in cases:
        half = (high - low) / 2
        exact = n * (half / difference) ** 2
        given = number(utterances_needed(difference, low, high, n), "the number of utterances")
        assert given > 0, f"{given:g} utterances: take the size of the difference, without its sign"
        found = whole_number(given, "the number of utterances (rounded up)")
        right = int(np.ceil(exact - 1e-9))
        linear = int(np.ceil(n * half / abs(difference) - 1e-9))
        assert found == right or found != linear, (
            f"{found} would do if the interval shrank in proportion to the number of utterances; "
            "it shrinks with the square root: half as wide needs four times as many"
        )
        assert found == right or abs(found - 4 * exact) > 1, (
            "the interval reaches half its width to either side: (high - low) / 2"
        )
        assert found == right or abs(found - n * n / exact) > 1, (
            f"upside down: {found} for {(difference, low, high, n)}; the wider the interval beside "
            "the difference, the more utterances are needed"
        )
        assert abs(found - exact) > 1e-6 + 1 or found > exact - 1e-6, (
            f"{exact:.2f} utterances are needed, {found} are too few: round up"
        )
        whole = abs(exact - right) < 1e-6  # where rounding errors may add one
        assert found == right or (whole and found == right + 1), (
            f"{found} for {(difference, low, high, n)} is not it, {right} is"
        )
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
    found = _beaten_names(beaten, rows)
    assert found == {"one", "three"}, (
        f"in another table, with other names and three test sets, {sorted(found)} is not it: one "
        "and three have their whole interval below zero in every test set"
    )
    return "only what is decided in every test set is claimed"
