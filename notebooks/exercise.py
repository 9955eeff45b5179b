"""Runs a reader's attempt at an exercise against its check; used by the notebooks and the tests."""

from collections.abc import Callable

NOT_YET = "not attempted yet"


def attempt(check: Callable, *answer) -> tuple[str, str]:
    """Check a reader's answer.

    Args:
        check: Raises AssertionError with a hint where the answer is wrong, else returns a sentence.
        *answer: The reader's functions or values. None, `...`, or a function that raises
            NotImplementedError counts as not attempted.

    Returns:
        "passed", "failed" or "open", and a message for the reader.
    """
    if any(part is None or part is ... for part in answer):
        return "open", NOT_YET
    try:
        message = check(*answer)
    except NotImplementedError:
        return "open", NOT_YET
    except AssertionError as error:
        return "failed", f"not yet: {error}"
    except Exception as error:  # a reader's code can raise anything; the notebook goes on
        return "failed", f"not yet: your code raised {type(error).__name__}: {error}"
    return "passed", f"correct: {message}"


def is_open(function: Callable) -> bool:
    """Whether a function that the reader builds is still open: it does nothing but raise."""
    return function.__code__.co_names == ("NotImplementedError",)


def check(exercise: Callable, *answer) -> None:
    """Print the outcome of an attempt."""
    _, message = attempt(exercise, *answer)
    print(message)
