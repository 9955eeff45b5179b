"""Checks of the exercises in notebook 05."""

import numpy as np
import pandas as pd


def check_at_least_one(answer) -> str:
    """Exercise 5.1: the probability that one of eight comparisons of equals looks decided."""
    right = 1 - 0.95**8
    assert 0 <= answer <= 1, f"{answer} is not a probability: it lies between 0 and 1"
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
    assert abs(answer - right) < 5e-3, (
        f"{answer} is not it: one minus the probability that none of the eight does"
    )
    return (
        f"about {right:.2f}: among eight comparisons of equals, one in three times something "
        "looks decided"
    )


def check_utterances_needed(utterances_needed) -> str:
    """Exercise 5.2: the utterances with which an interval would just exclude zero."""
    cases = [
        (-2.0, -6.0, 2.0, 160),
        (1.5, -4.5, 7.5, 160),
        (-10.0, -12.0, -8.0, 100),
        (3.0, 0.0, 6.0, 250),
    ]
    for difference, low, high, n in cases:
        found = utterances_needed(difference, low, high, n)
        half = (high - low) / 2
        assert found is not None and found == int(found), "return a whole number: round up"
        assert found > 0, f"{found} utterances: take the size of the difference, without its sign"
        right = int(np.ceil(n * (half / difference) ** 2 - 1e-9))
        linear = int(np.ceil(n * half / abs(difference) - 1e-9))
        assert found == right or found != linear, (
            f"{found} would do if the interval shrank in proportion to the number of utterances; "
            "it shrinks with the square root: half as wide needs four times as many"
        )
        full = int(np.ceil(n * (2 * half / difference) ** 2 - 1e-9))
        assert found == right or found != full, (
            "the interval reaches half its width to either side: (high - low) / 2"
        )
        assert abs(found - right) <= 1, (
            f"{found} for {(difference, low, high, n)} is not it, {right} is"
        )
    return (
        "a difference of half the half-width needs four times the utterances; that is why small "
        "gains are hard to show"
    )


def check_beaten(beaten) -> str:
    """Exercise 5.3: the systems that are beaten, with a decided difference, in every test set."""
    rows = [
        ("student", "in-domain", -12.0, -15.0, -9.0),
        ("student", "out-of-domain", -20.0, -31.0, -8.0),
        ("lora", "in-domain", -1.5, -4.0, 1.0),
        ("lora", "out-of-domain", -6.0, -11.0, -1.0),
        ("fine-tuning", "in-domain", 2.0, 0.5, 3.5),
        ("fine-tuning", "out-of-domain", -5.0, -9.0, -1.0),
        ("clsr-ft", "in-domain", 3.0, 1.0, 5.0),
        ("clsr-ft", "out-of-domain", 4.0, 1.0, 9.0),
    ]
    table = pd.DataFrame(rows, columns=["other", "test_set", "difference", "low", "high"]).assign(
        first="distilwhisper"
    )
    found = beaten(table.copy())
    assert not isinstance(found, str) and hasattr(found, "__iter__"), "return a set of names"
    found = set(found)
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
    return "only what is decided in every test set is claimed"
