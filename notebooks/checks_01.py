"""Checks of the exercises in notebook 01."""

import numpy as np
from answers import (
    array,
    described,
    function,
    items,
    not_a_mistake,
    number,
    numbers,
    whole_number,
)
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


# ---- what the reader builds


def built_edit_table(edit_table) -> str:
    """Section 1: the table of edit distances."""
    edit_table = function(edit_table, "edit_table(reference, hypothesis)")
    for reference, hypothesis in (("a b c d", "a c x d e"), ("a b", "b"), ("a", "b a c")):
        r, h = reference.split(), hypothesis.split()
        name = f"the table of {r} and {h}"
        table = array(edit_table(list(r), list(h)), (len(r) + 1, len(h) + 1), name)
        assert table[:, 0].tolist() == list(range(len(r) + 1)), (
            f"the first column of {name} is {table[:, 0]}: there all words of the reference so far "
            "are deleted"
        )
        assert table[0].tolist() == list(range(len(h) + 1)), (
            f"the first row of {name} is {table[0]}: there all words of the hypothesis so far are "
            "inserted"
        )
        for i in range(1, len(r) + 1):
            for j in range(1, len(h) + 1):
                differ = r[i - 1] != h[j - 1]
                ways = (table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + differ)
                assert table[i, j] == min(ways), (
                    f"cell ({i}, {j}) of {name} is {table[i, j]:g}; a deletion leads there at a "
                    f"cost of {ways[0]:g}, an insertion of {ways[1]:g}, and a substitution, which "
                    f"costs nothing where both words are equal, of {ways[2]:g}"
                )
    return "its last cell is the number of errors"


def built_interval(interval) -> str:
    """Section 4: the interval of a WER from given draws."""
    interval = function(interval, "interval(errors, words, draws)")
    errors, _, words, draws = made_up_errors()
    low, high = numbers(interval(errors.copy(), words.copy(), draws.copy()), "low", "high")
    rates = 100 * errors[draws].sum(1) / words[draws].sum(1)
    of_units = (100 * errors / words)[draws].mean(1)
    ends = [2.5, 97.5]
    right = np.percentile(rates, ends)
    not_a_mistake(
        (low, high),
        [
            (right[::-1], "low comes first, then high"),
            (right / 100, "the WER is asked for in per cent"),
            (
                np.percentile(of_units, ends),
                "that is a mean of rates: sum errors and words of a draw before you divide",
            ),
            (np.percentile(rates, [5, 95]), "that leaves out 5 % at each end"),
            (np.percentile(rates, [0.025, 0.975]), "np.percentile counts from 0 to 100"),
        ],
    )
    assert np.allclose((low, high), right, atol=0.2), (
        f"({low:.2f}, {high:.2f}) is not it: a row of `draws` is one resample, and has one WER"
    )
    return "the middle 95 % of the resampled rates"
