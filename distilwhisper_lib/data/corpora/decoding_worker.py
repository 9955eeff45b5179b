"""A process of `decoding`, which asks it by lines of JSON; nothing to start by hand.

A line on standard input is a part of a corpus, as `shards` describes it; the line on standard
output that answers it is what is known of the shard that was written, or {"error": "a sentence"},
with "errno" where the operating system gave one. It ends with its input.
"""

import argparse
import json
import os
import sys
import threading
import traceback
from queue import SimpleQueue

from ...programs import run_program
from .shards import answer


def main(arguments: list[str] | None = None) -> None:
    """Answer until the process that asks has ended, and then end at once.

    Another process may do the same work by then, so nothing is finished.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints is no answer
    questions: SimpleQueue[str] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            questions.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        answers.write(json.dumps(_answered(json.loads(questions.get()))) + "\n")
        answers.flush()


def _answered(question: dict) -> dict:
    """Return the answer to a question, or what has gone wrong."""
    try:
        return answer(question)
    except OSError as error:
        if error.errno is None:
            return {"error": f"{type(error).__name__}: {error}"}
        return {"errno": error.errno, "error": error.strerror or str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    run_program(main)
