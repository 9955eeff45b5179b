"""Checks of the exercises in notebook 05."""

import pandas as pd
from answers import function, items, number, whole_number
from hashed import hashed

AT_LEAST_ONE = hashed("5.1 at_least_one")


def check_at_least_one(answer) -> str:
    """Exercise 5.1: the probability that one of eight comparisons of equals looks decided."""
    answer = number(answer, "at_least_one")
    assert 0 <= answer <= 1, (
        f"{answer:g} is not a probability: it lies between 0 and 1 (not in per cent)"
    )
    return AT_LEAST_ONE.check(
        answer, f"{answer:g} is not it: ask first how likely it is that none of the eight does"
    )


# Of exercise 5.2: difference, low, high and n; the number that is right; and what three mistakes
# give: in proportion to n, with the whole width of the interval, upside down
CASES = (
    ((-2.0, -6.0, 2.0, 160), 640, 320, 2560, 40),
    ((1.5, -4.5, 7.5, 160), 2560, 640, 10240, 10),
    ((-10.0, -12.0, -8.0, 100), 4, 20, 16, 2500),
    ((3.0, 0.0, 6.0, 250), 250, 250, 1000, 250),
    ((-3.0, -5.0, -1.0, 100), 45, 67, 178, 225),
)


def check_utterances_needed(utterances_needed) -> str:
    """Exercise 5.2: the utterances with which an interval would just exclude zero."""
    utterances_needed = function(utterances_needed, "utterances_needed(difference, low, high, n)")
    for case, right, linear, whole_width, upside_down in CASES:
        given = number(utterances_needed(*case), "the number of utterances")
        assert given > 0, f"{given:g} utterances: take the size of the difference, without its sign"
        found = whole_number(given, "the number of utterances (rounded up)")
        # Rounding errors may add one where the number is whole, as it is in all cases but the last
        if found == right or (found == right + 1 and case is not CASES[-1]):
            continue
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
