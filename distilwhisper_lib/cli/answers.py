"""What a command answers: text for a reader or one JSON object, and an exit status.

Exit status: 0 where all is done, 1 for a problem with the input or the result, 2 for wrong usage;
after a signal as `programs` says.
"""

import contextlib
import functools
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TextIO

import typer

from ..programs import explained, show_traceback


@dataclass
class Answer:
    """The answer of a command.

    Attributes:
        content: For `--json`.
        text: For a reader.
        status: The exit status.
        problems: Lines for standard error.
    """

    content: dict[str, Any]
    text: str
    status: int = 0
    problems: list[str] = field(default_factory=list)


def answered(command: Callable[..., Answer]) -> Callable[..., None]:
    """Return a command for typer that prints its answer and exits with its status.

    Whatever libraries print while the command runs goes to standard error, so that standard output
    holds the answer alone.

    Args:
        command: Takes `as_json` among its options.
    """

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        output = sys.stdout
        try:
            with contextlib.redirect_stdout(sys.stderr):
                answer = command(*args, **options)
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, BrokenPipeError):
                raise
            answer = _of_error(error)
        for problem in answer.problems:
            print(problem, file=sys.stderr, flush=True)
        _print(answer, options["as_json"], output)
        raise typer.Exit(answer.status)

    return run


def _of_error(error: BaseException) -> Answer:
    """Return the answer of a command that an error has ended.

    Raises:
        BaseException: The error itself, where it is a fault of the program.
    """
    sentence, status = explained(error)
    show_traceback(error)
    content = {"error": sentence.removeprefix("error: ")}
    return Answer(content, "", status, problems=[sentence])


def _print(answer: Answer, as_json: bool, output: TextIO) -> None:
    """Print an answer to standard output."""
    if as_json:
        print_json(answer.content, output)
    elif answer.text:
        print(answer.text, file=output, flush=True)


def print_json(content: dict[str, Any], output: TextIO | None = None) -> None:
    """Print a JSON object; without `output` to standard output."""
    print(json.dumps(_plain(content), ensure_ascii=False, indent=1), file=output, flush=True)


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it: numbers of numpy as Python's, NaN and infinity as null."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
