"""Checks of the exercises in notebook 06."""

import pandas as pd
from answers import function, items, number
from hashed import hashed


def _chosen(choose, table: pd.DataFrame, n: int) -> list[str]:
    """Return the paths that the reader's function chooses."""
    given = items(choose(table.copy(), n), "return a list of paths")
    assert all(isinstance(path, str) for path in given), "return a list of paths, which are texts"
    assert len(given) == n, f"{len(given)} clips instead of {n}"
    return given


def check_choose(choose) -> str:
    """Exercise 6.1: most up-votes, then fewest down-votes, then the order of the file."""
    choose = function(choose, "choose(table, n)")
    votes = [(2, 1), (2, 0), (5, 4), (2, 0), (3, 0), (2, 0), (3, 2), (0, 0)]
    table = pd.DataFrame(votes, columns=["up_votes", "down_votes"])
    table.insert(0, "path", [f"{letter}.mp3" for letter in "zyxwvuts"])
    given = _chosen(choose, table, 5)
    assert given[0] == "x.mp3", f"{given}: x has the most up-votes, 5, and must come first"
    assert given[:3] != ["x.mp3", "t.mp3", "v.mp3"], (
        "among equals the fewest down-votes come first: v (3 up, 0 down) before t (3 up, 2 down)"
    )
    assert given[:3] == ["x.mp3", "v.mp3", "t.mp3"], (
        f"{given[:3]}: first by up-votes, the most first; t (3 up, 2 down) comes before all with "
        "two up-votes, and after v, which has as many up-votes and fewer down-votes"
    )
    assert given[3:] == ["y.mp3", "w.mp3"], (
        f"{given[3:]}: among equals the earlier rows of the file come first, here y and w, which "
        "have 2 up and 0 down"
    )
    _chosen(choose, table, 3)
    long = pd.DataFrame({"path": [f"{i}.mp3" for i in range(400)], "up_votes": 2, "down_votes": 0})
    assert _chosen(choose, long, 100) == list(long["path"][:100]), (
        "400 equal clips are not taken in the order of the file: the sort is not stable"
    )
    return "the same rule gives everyone the same clips"


def _student_numbers(to_student, ids, teacher: list[str], student: list[str]) -> list:
    """Return what the reader's function gives for these ids."""
    try:
        given = to_student(list(ids), list(teacher), list(student))
    except (KeyError, ValueError, IndexError) as error:
        raise AssertionError(
            f"your code stops with {type(error).__name__} at a token that the student does not "
            "have: such a token becomes -1"
        ) from None
    given = items(given, "return a list of numbers")
    assert len(given) == len(ids), (
        f"{len(ids)} ids go in and {len(given)} come out: a token that the student does not have "
        "becomes -1, so that the places stay the same"
    )
    return given


def check_to_student(to_student) -> str:
    """Exercise 6.2: token numbers by the text of the tokens."""
    to_student = function(to_student, "to_student(ids, teacher_tokens, student_tokens)")
    student = ["a", "b", "<|cs|>", "<|translate|>", "<|transcribe|>"]
    teacher = ["a", "b", "<|cs|>", "<|yue|>", "<|translate|>", "<|transcribe|>"]
    given = _student_numbers(to_student, [0, 2, 3, 4, 5], teacher, student)
    assert given != [0, 2, 3, 4, -1], (
        "that keeps the numbers: the teacher's 4 is <|translate|>, the student's 4 is "
        "<|transcribe|>"
    )
    assert not any(isinstance(token, str) for token in given), (
        "these are the texts of the tokens: the student's numbers are asked for"
    )
    assert given[2] == -1, f"<|yue|> is not in the student's vocabulary: -1, not {given[2]}"
    assert given == [0, 2, -1, 3, 4], f"{given} is not it: look each token up by its text"
    given = _student_numbers(to_student, [3, 1, 1, 0, 2], ["x", "a", "b", "y"], ["b", "y", "a"])
    assert given == [1, 2, 2, -1, 0], (
        f"{given} for two other vocabularies, whose order differs, is not it: look each token up "
        "by its text"
    )
    within = ["other", " the", "The", "the"]
    given = _student_numbers(to_student, [0, 1], ["the", "he"], within)
    assert given == [3, -1], (
        f"{given} where the student has {within}: two tokens are one only if their whole texts "
        'are equal, spaces and capitals too; here "the" is 3, and "he" is -1'
    )
    return "one language more in the middle, and every later token would have been another one"


FINE_TUNING_GB = hashed("6.3 fine_tuning_gb")
EXPERTS_GB = hashed("6.3 experts_gb")


def check_memory(fine_tuning_gb, experts_gb) -> str:
    """Exercise 6.3: weights, gradients and Adam's means of whisper-small."""
    fine_tuning_gb = number(fine_tuning_gb, "fine_tuning_gb")
    experts_gb = number(experts_gb, "experts_gb")
    assert max(fine_tuning_gb, experts_gb) < 1000, "in gigabytes: 10^9 bytes each"
    FINE_TUNING_GB.check(
        fine_tuning_gb,
        f"fine-tuning is not {fine_tuning_gb:.2f} GB: it trains all parameters of whisper-small, "
        "and a trained one takes 16 bytes",
    )
    return EXPERTS_GB.check(
        experts_gb,
        f"experts are not {experts_gb:.2f} GB: which parameters are trained here, which are "
        "frozen, and what does one of each take?",
    )
