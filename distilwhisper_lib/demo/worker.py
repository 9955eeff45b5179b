"""The part of the demo that computes: a process of its own, which a page asks by lines of JSON.

Gradio needs other versions of packages than the library, so that the page runs in .venv-demo and
this program in .venv (`make demo` starts both). A line on standard input is a question, such as

    {"ask": "about"}
    {"ask": "clip", "test": "cs/in-domain", "clip": "id", "systems": ["student"]}
    {"ask": "file", "path": "a.wav", "reference": "", "systems": ["student"]}

and lines on standard output are its answers: any number of {"answer": ...}, then {"done": true}, or
{"error": "a sentence"}. It ends with its input.
"""

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from ..programs import explained, run_program

# Nothing is fetched from the hub, and nothing by pip
OFFLINE = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}

UNEXPECTED = "this went wrong, and is the demo's fault: the terminal has the details"


def main(arguments: list[str] | None = None) -> None:
    """Answer questions until the input ends."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    os.environ.update(OFFLINE)  # before the hub's library is imported, which reads it then
    output = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):  # libraries print
        from ..lab.lab import Lab
        from .worked import Demo

        serve(Demo(Lab()), sys.stdin, output)


def serve(demo: Any, questions: Iterable[str], output: TextIO) -> None:
    """Answer each question.

    Args:
        demo: A `Demo`.
        questions: Lines of JSON.
        output: Where the answers are written.
    """
    for line in questions:
        for answer in _answers(demo, json.loads(line)):
            print(json.dumps(answer), file=output, flush=True)


def _answers(demo: Any, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answers to a question, "done" or "error" as the last one."""
    try:
        for answer in _asked(demo, **question):
            yield {"answer": answer}
    except Exception as error:
        yield {"error": _sentence(error)}
    else:
        yield {"done": True}


def _asked(demo: Any, ask: str, **options: Any) -> Iterator[dict[str, Any]]:
    """Yield what `Demo` has to say."""
    if ask == "about":
        yield demo.about()
        return
    systems = options.pop("systems")
    if ask == "clip":
        sound = demo.clip(options["test"], options["clip"])
    else:
        sound = demo.own(options["path"], options["reference"])
    yield from demo.work(sound, systems)


def _sentence(error: Exception) -> str:
    """Return an error as a sentence for the page; the terminal gets what a reader cannot mend."""
    try:
        sentence, _ = explained(error)
    except Exception:
        traceback.print_exception(error)
        return UNEXPECTED
    return sentence.removeprefix("error: ")


if __name__ == "__main__":
    run_program(main)
