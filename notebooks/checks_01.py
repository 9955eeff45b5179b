"""Checks of the exercises in notebook 01."""

import jiwer
import numpy as np
from answers import described, function, items, number, numbers, whole_number

# Of exercise 1.1
REFERENCE = "podívej se na tu starou loď"
HYPOTHESIS = "podívej na tu tu stará loď"
KINDS = ("substitutions", "deletions", "insertions")

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
    assert isinstance(answer, dict), (
        'the answer must be a dictionary, {"substitutions": ..., "deletions": ..., "insertions": '
        f'..., "wer": ...}}, not {described(answer)}'
    )
    missing = {*KINDS, "wer"} - set(answer)
    assert not missing, f"the answer lacks {', '.join(sorted(missing))}"
    counts = [whole_number(answer[kind], kind) for kind in KINDS]
    substitutions, deletions, insertions = counts
    wer = number(answer["wer"], "wer")
    words = len(REFERENCE.split())
    fewest = sum(getattr(jiwer.process_words(REFERENCE, HYPOTHESIS), kind) for kind in KINDS)
    assert min(counts) >= 0, "a number of errors cannot be negative"
    assert sum(counts) <= fewest, (
        f"{sum(counts)} errors is not the shortest way. A deletion is a missing word of the "
        "reference, an insertion a word too many, a substitution one in the place of another"
    )
    assert sum(counts) == fewest, (
        f"{sum(counts)} errors are too few: the hypothesis cannot be reached from the reference"
    )
    assert deletions == insertions, (
        f"both sentences have {words} words, so there are as many deletions as insertions"
    )
    assert wer != fewest, f"{fewest} is the number of errors; the rate is asked for in per cent"
    assert wer > 1, "the rate is asked for in per cent"
    assert abs(wer - 100 * fewest / words) < 0.1, (
        f"the three kinds are right, their sum is {fewest}; "
        "divide it by the number of words in the reference"
    )
    return (
        "there are two shortest ways, (3, 0, 0) and (1, 1, 1), and both give the same WER. One "
        "wrong ending costs as much as a missing word: WER is hard on languages with rich endings"
    )


def made_up_errors() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the errors of two systems on 80 clips, the clips' words, and 500 draws of clips."""
    rng = np.random.default_rng(1)
    words = rng.integers(1, 12, 80)
    hard = rng.random(80)  # how hard each clip is, for both systems
    first = np.round(words * hard).astype(int)
    second = np.clip(first + rng.integers(0, 2, 80), 0, None)
    return first, second, words, rng.integers(0, 80, (500, 80))


def check_paired_interval(paired_interval) -> str:
    """Exercise 1.2: (low, high) of WER(first) - WER(second) over the same resampled clips."""
    paired_interval = function(paired_interval, "paired_interval(first, second, words, draws)")
    first, second, words, draws = made_up_errors()
    given = paired_interval(first.copy(), second.copy(), words.copy(), draws.copy())
    found = np.array(numbers(given, "low", "high"))
    rates = [100 * errors[draws].sum(1) / words[draws].sum(1) for errors in (first, second)]
    difference = rates[0] - rates[1]
    apart = [np.percentile(rate, [2.5, 97.5]) for rate in rates]
    single = (100 * (first - second) / words)[draws]  # (resamples, n)
    per_clip = (first - second)[draws].mean(1)
    wanted = np.percentile(difference, [2.5, 97.5])

    for bounds in (apart[0] - apart[1], apart[0] - apart[1][::-1]):
        assert not np.allclose(found, bounds), (
            "this subtracts two separate intervals: subtract within each resample, then take the "
            "percentiles"
        )
    assert not np.allclose(found, np.percentile(single.mean(1), [2.5, 97.5])), (
        "this averages the rates of single clips, so a clip of one word weighs as "
        "much as one of ten: sum the errors and the words of the drawn clips, then divide"
    )
    for scale in (1, 100):
        assert not np.allclose(found, scale * np.percentile(per_clip, [2.5, 97.5])), (
            "these are errors for each clip: a WER divides by the words of the drawn clips"
        )
    assert not np.allclose(found, -wanted[::-1]), (
        "the sign is the other way round: WER(first) - WER(second)"
    )
    assert not np.allclose(found, wanted[::-1]), "low comes first, then high"
    assert not np.allclose(100 * found, wanted), "the difference is asked for in points (per cent)"
    assert not np.allclose(found, np.percentile(difference, [0.025, 0.975])), (
        "np.percentile counts from 0 to 100: 2.5 and 97.5 (0.025 and 0.975 are for np.quantile)"
    )
    assert not np.allclose(found, np.percentile(difference, [5, 95])), (
        "that leaves out 5 % at each end, so it is a 90 % interval"
    )
    assert np.allclose(found, wanted), (
        f"expected {wanted.round(2)}, got {found.round(2)}: for each row of `draws` the WER of "
        "both systems on its clips, then the percentiles of the differences"
    )
    width = wanted[1] - wanted[0]
    alone = apart[0][1] - apart[0][0]
    return (
        f"the paired interval is {width:.1f} points wide, that of one system alone {alone:.1f}: "
        "what makes a clip hard for both cancels out"
    )


def check_reading(answer: set) -> str:
    """Exercise 1.3: the letters of the statements that the results allow."""
    wanted = 'give letters from a to e, such as {"a", "b"}'
    given = answer if isinstance(answer, str) else items(answer, wanted)
    assert all(isinstance(part, str) for part in given), f"these are no letters: {wanted}"
    letters = set("".join(given).lower()) - set(" ,;()")
    unknown = letters - set("abcde")
    assert not unknown, f"there is no statement {', '.join(sorted(unknown))}: {wanted}"
    wrong = [REASONS[letter] for letter in sorted(letters & set(REASONS))]
    assert not wrong, "; ".join(wrong)
    missing = [MISSING[letter] for letter in sorted(set(MISSING) - letters)]
    assert not missing, "; ".join(missing)
    return "read intervals, loops and conditions before you compare two numbers"
