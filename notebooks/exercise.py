"""Runs a reader's attempt at an exercise against its check; used by the notebooks and the tests."""

import inspect
import traceback
from collections.abc import Callable

import torch

NOT_YET = "not attempted yet"

# What an error of Python's or of a library's means for a reader, by words of its message
_TRUTH = (
    "`if`, `and`, `or` and `not` ask for one truth value, and a tensor, an array or a column has "
    "many: use a mask, with `&`, `|` and `~` and brackets around each comparison"
)
_NUMBERS = "a comparison gives True and False: make numbers of them first, with .float()"
ADVICE = {
    "is ambiguous": _TRUTH,
    "with a bool tensor": _NUMBERS,
    "Got: Bool": _NUMBERS,
    "context manager protocol": "are the brackets of a call, `()`, missing?",
    "NoneType": "something is None there: is a `return` missing?",
    "cannot be multiplied": "print the shapes of both: is a `.T` missing, or is the order another?",
    "converted to Python scalars": "math and float() take one number: use the function of torch",
    "only integer scalar arrays": "a list takes no array as an index: leave it an array",
    "is not defined": "import it, or run the cell that defines it",
}


def attempt(check: Callable, *answer) -> tuple[str, str]:
    """Check a reader's answer.

    Args:
        check: Raises AssertionError with a hint where the answer is wrong, else returns a sentence.
        *answer: The reader's functions or values. None, `...`, or a function that raises
            NotImplementedError counts as not attempted.

    Returns:
        "passed", "failed" or "open", and a message for the reader.
    """
    still_open = [_is_missing(part) for part in answer]
    if any(still_open):
        return "open", _not_yet(check, still_open)
    try:
        message = check(*answer)
    except NotImplementedError:
        return "open", NOT_YET
    except AssertionError as error:
        return "failed", f"not yet: {error}"
    except Exception as error:  # a reader's code can raise anything; the notebook goes on
        return "failed", f"not yet: your code raised {_told(error, answer)}"
    return "passed", f"correct: {message}"


def is_open(function: Callable) -> bool:
    """Whether a function that the reader builds is still open: it does nothing but raise."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_names == ("NotImplementedError",)


def check(exercise: Callable, *answer) -> None:
    """Print the outcome of an attempt."""
    _, message = attempt(exercise, *answer)
    print(message)


def check_if_built(exercise: Callable, *built) -> None:
    """Print the outcome of an attempt at what a reader may build; nothing while it is open.

    The notebook's random numbers are not touched: what follows prints the same with and without it.
    """
    with torch.random.fork_rng(devices=[]):
        outcome, message = attempt(exercise, *built)
    if outcome != "open":
        print(message)


def _is_missing(part) -> bool:
    """Whether a part of an answer is still as the notebook has it: {3: ..., 6: ...} too."""
    values = list(part.values()) if isinstance(part, dict) else [part]
    is_blank = bool(values) and all(value is ... for value in values)
    return part is None or is_blank or is_open(part)


def _not_yet(check: Callable, still_open: list[bool]) -> str:
    """Return what is said where parts of an answer are open: which, if others are not."""
    if all(still_open):
        return NOT_YET
    names = list(inspect.signature(check).parameters)
    missing = [name for name, is_missing in zip(names, still_open, strict=True) if is_missing]
    return f"{NOT_YET}: still open is {', '.join(missing)}"


def _told(error: Exception, answer: tuple) -> str:
    """Return an error in words: its message, the reader's line, and what to do about it."""
    parts = [f"{type(error).__name__}: {error}"]
    parts_of = [vars(part).values() if isinstance(part, type) else [part] for part in answer]
    functions = [inspect.unwrap(one) for some in parts_of for one in some if callable(one)]
    files = {one.__code__.co_filename for one in functions if hasattr(one, "__code__")}
    lines = [at for at in traceback.extract_tb(error.__traceback__) if at.filename in files]
    if lines:
        code = f", `{lines[-1].line}`" if lines[-1].line else ""
        parts.append(f"(line {lines[-1].lineno}{code})")
    advice = next((text for words, text in ADVICE.items() if words in str(error)), None)
    if advice:
        parts.append(f"- {advice}")
    return " ".join(parts)
