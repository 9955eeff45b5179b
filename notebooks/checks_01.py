"""Checks of the exercises in notebook 01."""

import jiwer
import numpy as np

# Of exercise 1.1
REFERENCE = "podívej se na tu starou loď"
HYPOTHESIS = "podívej na tu tu stará loď"

# Exercise 1.3: why a statement is wrong
REASONS = {
    "a": "(a) is wrong: insertions count as errors but not as reference words, so WER has no upper "
    "end; a loop of fifty words in a clip of three alone adds fifty errors",
    "c": "(c) is wrong: two overlapping intervals do not mean that there is no difference. Both "
    "systems heard the same clips, so the paired difference is the test, and its interval can be "
    "far narrower",
    "e": "(e) is wrong: a stand-in shares its student's weaknesses, and was tuned on clips of the "
    "same game. What it leaves of the gap says nothing about what whisper-large-v2 would leave",
}

# Exercise 1.3: why a statement belongs into the answer
MISSING = {
    "b": "(b) is right as well: a few looping clips can hold most of a test's errors, so the share "
    "of loops stands in a column of its own",
    "d": "(d) is right as well: with the same model and text, other voices and effects are what "
    "differs",
}


def check_wer_by_hand(answer: dict) -> str:
    """Exercise 1.1: substitutions, deletions, insertions and wer (in per cent) of a sentence."""
    missing = {"substitutions", "deletions", "insertions", "wer"} - set(answer)
    assert not missing, f"the answer lacks {', '.join(sorted(missing))}"
    found = jiwer.process_words(reference=REFERENCE, hypothesis=HYPOTHESIS)
    for kind in ("substitutions", "deletions", "insertions"):
        wanted = getattr(found, kind)
        assert answer[kind] == wanted, (
            f"{kind}: {answer[kind]} is not the shortest way. A deletion is a missing word of the "
            "reference, an insertion a word too many, a substitution one in the place of another"
        )
    errors = found.substitutions + found.deletions + found.insertions
    words = len(REFERENCE.split())
    assert answer["wer"] > 1, "the rate is asked for in per cent"
    assert abs(answer["wer"] - 100 * errors / words) < 0.1, (
        f"the three kinds are right, their sum is {errors}; "
        "divide it by the number of words in the reference"
    )
    return (
        "one wrong ending costs as much as a missing word: WER is hard on languages with rich "
        "endings"
    )


def check_paired_interval(paired_interval) -> str:
    """Exercise 1.2: (low, high) of WER(first) - WER(second) over the same resampled clips."""
    rng = np.random.default_rng(1)
    words = rng.integers(1, 12, 80)
    hard = rng.random(80)  # how hard each clip is, for both systems
    first = np.round(words * hard).astype(int)
    second = np.clip(first + rng.integers(0, 2, 80), 0, None)
    draws = rng.integers(0, 80, (500, 80))
    found = np.asarray(paired_interval(first, second, words, draws), float)
    assert found.shape == (2,), "return two numbers: low and high"
    rates = [100 * errors[draws].sum(1) / words[draws].sum(1) for errors in (first, second)]
    apart = [np.percentile(rate, [2.5, 97.5]) for rate in rates]
    assert not np.allclose(found, [apart[0][0] - apart[1][1], apart[0][1] - apart[1][0]]), (
        "this subtracts two separate intervals: subtract within each resample, then take the "
        "percentiles"
    )
    mean = np.percentile((100 * (first - second) / words)[draws].mean(1), [2.5, 97.5])
    assert not np.allclose(found, mean), (
        "this averages the rates of single clips, so a clip of one word weighs as "
        "much as one of ten: sum the errors and the words of the drawn clips, then divide"
    )
    wanted = np.percentile(rates[0] - rates[1], [2.5, 97.5])
    assert not np.allclose(found, -wanted[::-1]), (
        "the sign is the other way round: WER(first) - WER(second)"
    )
    assert not np.allclose(100 * found, wanted), "the difference is asked for in points (per cent)"
    assert np.allclose(found, wanted), f"expected {wanted.round(2)}, got {found.round(2)}"
    width = wanted[1] - wanted[0]
    alone = apart[0][1] - apart[0][0]
    return (
        f"the paired interval is {width:.1f} points wide, that of one system alone {alone:.1f}: "
        "what makes a clip hard for both cancels out"
    )


def check_reading(answer: set) -> str:
    """Exercise 1.3: the letters of the statements that the results allow."""
    letters = {letter.lower() for letter in answer}
    unknown = letters - set("abcde")
    assert not unknown, (
        f"there is no statement {', '.join(sorted(unknown))}: give letters from a to e"
    )
    wrong = [REASONS[letter] for letter in sorted(letters & set(REASONS))]
    assert not wrong, "; ".join(wrong)
    missing = [MISSING[letter] for letter in sorted(set(MISSING) - letters)]
    assert not missing, "; ".join(missing)
    return "read intervals, loops and conditions before you compare two numbers"
