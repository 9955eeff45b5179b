"""Checks of the exercises in notebook 06."""

import numpy as np
import pandas as pd


def check_choose(choose) -> str:
    """Exercise 6.1: most up-votes, then fewest down-votes, then the order of the file."""
    votes = [(2, 1), (2, 0), (5, 4), (2, 0), (3, 0), (2, 0), (3, 2), (0, 0)]
    table = pd.DataFrame(votes, columns=["up_votes", "down_votes"])
    table.insert(0, "path", [f"{letter}.mp3" for letter in "abcdefgh"])
    given = list(choose(table.copy(), 5))
    assert len(given) == 5, f"{len(given)} clips instead of 5"
    assert given[:3] == ["c.mp3", "e.mp3", "g.mp3"], (
        f"{given[:3]}: first by up-votes, the most first; g (3 up, 2 down) comes before all with "
        "two up-votes, and after e, which has as many up-votes and fewer down-votes"
    )
    assert given[3:] == ["b.mp3", "d.mp3"], (
        f"{given[3:]}: among equals the earlier rows of the file come first"
    )
    long = pd.DataFrame({"path": [f"{i}.mp3" for i in range(400)], "up_votes": 2, "down_votes": 0})
    assert list(choose(long, 100)) == list(long["path"][:100]), (
        "400 equal clips are not taken in the order of the file: the sort is not stable"
    )
    return "the same rule gives everyone the same clips"


def check_to_student(to_student) -> str:
    """Exercise 6.2: token numbers by the text of the tokens."""
    student = ["a", "b", "<|cs|>", "<|translate|>", "<|transcribe|>"]
    teacher = ["a", "b", "<|cs|>", "<|yue|>", "<|translate|>", "<|transcribe|>"]
    given = list(to_student([0, 2, 3, 4, 5], teacher, student))
    assert given != [0, 2, 3, 4, -1], (
        "that keeps the numbers: the teacher's 4 is <|translate|>, the student's 4 is "
        "<|transcribe|>"
    )
    assert given[2] == -1, "<|yue|> is not in the student's vocabulary: -1"
    assert given == [0, 2, -1, 3, 4], f"{given} is not it: look each token up by its text"
    return "one language more in the middle, and every later token would have been another one"


def check_memory(fine_tuning_gb, experts_gb) -> str:
    """Exercise 6.3: weights, gradients and Adam's means of whisper-small."""
    small = 241.7e6
    experts = 114.5e6
    assert np.isclose(fine_tuning_gb, 16 * small / 1e9, atol=0.01), (
        f"fine-tuning is not {fine_tuning_gb:.2f} GB: all 241.7 million parameters are trained, "
        "16 bytes each"
    )
    assert not np.isclose(experts_gb, 16 * (small + experts) / 1e9, atol=0.01), (
        "that trains Whisper as well: a frozen parameter has no gradient and no means, only its "
        "4 bytes"
    )
    assert not np.isclose(experts_gb, 16 * experts / 1e9, atol=0.01), (
        "the frozen Whisper is there too: 4 bytes each"
    )
    right = (4 * small + 16 * experts) / 1e9
    assert np.isclose(experts_gb, right, atol=0.01), (
        f"experts are not {experts_gb:.2f} GB but {right:.2f}"
    )
    return (
        "experts take less than fine-tuning, although model and experts together are half as "
        "large again"
    )
