"""Checks of the exercises of notebook 05."""

import numpy as np
import pandas as pd


def check_at_least_one(answer) -> str:
    """Exercise 5.1."""
    right = 1 - 0.95**8
    assert 0 <= answer <= 1, f"{answer} is not a probability: it lies between 0 and 1"
    assert abs(answer - 0.4) > 1e-6, ("0.4 = 8 * 0.05 counts twice the cases in which two intervals miss together; "
                                      "with 30 comparisons it would give more than 1")  # fmt: skip
    assert abs(answer - 0.95**8) > 1e-3, "that is the probability that none of them excludes zero: take the opposite"
    assert abs(answer - 0.05**8) > 1e-6, "that is the probability that all eight do, which is something else"
    assert abs(answer - right) < 5e-3, f"{answer} is not it: one minus the probability that none of the eight does"
    return f"about {right:.2f}: among eight comparisons of equals, one in three times something looks decided"


def check_paired_interval(paired_interval) -> str:
    """Exercise 5.2."""
    rng = np.random.default_rng(0)
    words = rng.integers(1, 20, 80)
    hard = rng.random(80)  # an utterance that is hard for one is hard for the other
    first, second = rng.binomial(words, 0.5 * hard), rng.binomial(words, 0.6 * hard)
    draws = rng.integers(0, 80, (500, 80))
    rates = [100 * errors[draws].sum(1) / words[draws].sum(1) for errors in (first, second)]
    right = np.percentile(rates[0] - rates[1], [2.5, 97.5])
    found = paired_interval(first.copy(), second.copy(), words.copy(), draws.copy())
    assert found is not None and np.shape(found) == (2,), "return two numbers, (low, high)"
    low, high = map(float, found)
    assert low <= high, "low is above high: the 2.5th percentile comes first"
    assert not np.allclose([low, high], right / 100), "the unit is points: multiply the rates by 100"
    assert not np.allclose([-high, -low], right), "the sign is the other way round: WER(first) - WER(second)"
    mean = np.percentile((100 * (first - second) / words)[draws].mean(1), [2.5, 97.5])
    assert not np.allclose([low, high], mean), (
        "you average the rates of the utterances, so that a clip of one word counts as much as one of twenty: "
        "WER is all errors over all words, so sum both over a row of `draws` before dividing")
    total = np.percentile(100 * (first - second)[draws].sum(1) / words.sum(), [2.5, 97.5])
    assert not np.allclose([low, high], total), "divide by the words of the same resample, not by those of the test set"
    assert np.allclose([low, high], right), (
        f"[{low:.2f}, {high:.2f}] is not it, [{right[0]:.2f}, {right[1]:.2f}] is; the same draws must go to errors "
        "of both systems and to words")
    return f"[{low:.1f}, {high:.1f}] points, as the library's paired bootstrap computes it"


def check_beaten(beaten) -> str:
    """Exercise 5.3."""
    rows = [("student", "in-domain", -12.0, -15.0, -9.0), ("student", "out-of-domain", -20.0, -31.0, -8.0),
            ("lora", "in-domain", -1.5, -4.0, 1.0), ("lora", "out-of-domain", -6.0, -11.0, -1.0),
            ("fine-tuning", "in-domain", 2.0, 0.5, 3.5), ("fine-tuning", "out-of-domain", -5.0, -9.0, -1.0),
            ("clsr-ft", "in-domain", 3.0, 1.0, 5.0), ("clsr-ft", "out-of-domain", 4.0, 1.0, 9.0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["other", "test_set", "difference", "low", "high"]).assign(first="distilwhisper")
    found = beaten(table.copy())
    assert not isinstance(found, str) and hasattr(found, "__iter__"), "return a set of names"
    found = set(found)
    assert "clsr-ft" not in found, "clsr-ft is ahead in both domains: a positive difference means more errors"
    assert "fine-tuning" not in found, ("fine-tuning is behind in one domain and ahead in the other: the claim needs "
                                        "every test set")  # fmt: skip
    assert "lora" not in found, ("lora: the difference is negative in both, but in-domain the interval reaches above "
                                 "zero, so it is not decided there: look at `high`")  # fmt: skip
    assert found == {"student"}, f"{sorted(found)} is not it: the student is beaten in both domains"
    return "only what is decided in every test set is claimed"
