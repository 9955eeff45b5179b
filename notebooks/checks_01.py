"""Checks of the exercises in notebook 01."""

from answers import described, function, items, number, numbers, whole_number
from hashed import hashed
from made_up import made_up_errors

KINDS = ("substitutions", "deletions", "insertions")
WORDS = 6  # of the reference, and of the hypothesis, in exercise 1.1

ERRORS = hashed("1.1 errors")
WER = hashed("1.1 wer")
INTERVAL = hashed("1.2 interval")
STATEMENTS = hashed("1.3 statements")


def check_wer_by_hand(answer: dict) -> str:
    """Exercise 1.1: substitutions, deletions, insertions and wer (in per cent) of a sentence."""
    assert isinstance(answer, dict), (
        'the answer must be a dictionary, {"substitutions": ..., "deletions": ..., "insertions": '
        f'..., "wer": ...}}, not {described(answer)}'
    )
    missing = {*KINDS, "wer"} - set(answer)
    assert not missing, f"the answer lacks {', '.join(sorted(missing))}"
    counts = [whole_number(answer[kind], kind) for kind in KINDS]
    wer = number(answer["wer"], "wer")
    assert min(counts) >= 0, "a number of errors cannot be negative"
    ERRORS.check(
        sum(counts),
        f"{sum(counts)} errors is not the shortest way. A deletion is a missing word of the "
        "reference, an insertion a word too many, a substitution one in the place of another",
    )
    _, deletions, insertions = counts
    assert deletions == insertions, (
        f"both sentences have {WORDS} words, so there are as many deletions as insertions"
    )
    assert wer != sum(counts), f"{wer:g} is the number of errors; the rate is asked for in per cent"
    assert wer > 1, "the rate is asked for in per cent"
    return WER.check(
        wer,
        f"the three kinds are right, their sum is {sum(counts)}; divide it by the number of words "
        "in the reference",
    )


def check_paired_interval(paired_interval) -> str:
    """Exercise 1.2: (low, high) of WER(first) - WER(second) over the same resampled clips."""
    paired_interval = function(paired_interval, "paired_interval(first, second, words, draws)")
    first, second, words, draws = made_up_errors()
    given = paired_interval(first.copy(), second.copy(), words.copy(), draws.copy())
    low, high = numbers(given, "low", "high")
    return INTERVAL.check(
        (low, high),
        f"({low:.2f}, {high:.2f}) is not it: for each row of `draws` the WER of both systems on "
        "its clips, then the percentiles of the differences",
    )


def check_reading(answer: set) -> str:
    """Exercise 1.3: the letters of the statements that the results allow."""
    wanted = 'give letters from a to e, such as {"a", "b"}'
    given = answer if isinstance(answer, str) else items(answer, wanted)
    assert all(isinstance(part, str) for part in given), f"these are no letters: {wanted}"
    letters = set("".join(given).lower()) - set(" ,;()")
    unknown = letters - set("abcde")
    assert not unknown, f"there is no statement {', '.join(sorted(unknown))}: {wanted}"
    return STATEMENTS.check("".join(sorted(letters)), wanted)
