"""Runs a reader's attempt at an exercise against its check; used by the notebooks and by the tests."""

from collections.abc import Callable

NOT_YET = "not attempted yet"


def attempt(check: Callable, *answer) -> tuple[str, str]:
    """Return ("passed" | "failed" | "open", message) for `answer`: the reader's functions or values.

    An answer of None, `...`, or a function that raises NotImplementedError counts as not attempted.
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


def check(exercise: Callable, *answer) -> None:
    """Print what became of an attempt."""
    print(attempt(exercise, *answer)[1])
