"""Several processes that decode parts of a corpus, each one part at a time.

They are `python -m` of `decoding_worker`, asked by lines of JSON. Not by multiprocessing: it runs
the caller's own script again in each process, which fails where that script does not guard against
it, and a fork beside threads can hang. A process ends when the one that asks it ends, however that
ends.
"""

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from ...files import REPOSITORY
from ...programs import cores, out_of_memory

WORKER = "distilwhisper_lib.data.corpora.decoding_worker"

# Fewer clips for a process are decoded sooner without it: it takes some 2 s to begin.
CLIPS_EACH = 1_000
MOST_PROCESSES = 32


def processes_for(clips: int) -> int:
    """Return how many processes decode some clips: as many as there are cores, 1 for few clips."""
    if not sys.executable:  # Python within another program
        return 1
    return max(1, min(cores(), clips // CLIPS_EACH, MOST_PROCESSES))


def answers(
    questions: list[dict], here: Callable[[int], dict], processes: int
) -> Iterator[tuple[int, dict]]:
    """Have questions answered, and yield the index of each and its answer, as they come.

    This process answers too: it has begun already.

    Args:
        questions: JSON objects that `shards.answer` takes.
        here: Answers the question with an index in this process.
        processes: How many at once, with this one.

    Raises:
        OSError: Of the disk, as a process has raised it.
        RuntimeError: Where a process has ended, or raised anything else.
    """
    waiting = deque(range(len(questions)))
    done: SimpleQueue[tuple[int, dict | Exception]] = SimpleQueue()
    workers = [_Worker() for _ in range(min(processes, len(questions)) - 1)]
    threads = [Thread(target=_ask, args=(worker, questions, waiting, done)) for worker in workers]
    try:
        for thread in threads:
            thread.start()
        for _ in questions:
            if done.empty():
                with suppress(IndexError):  # none is waiting
                    index = waiting.popleft()
                    done.put((index, here(index)))
            index, answer = done.get()
            if isinstance(answer, Exception):
                raise answer
            yield index, answer
    finally:
        waiting.clear()
        for worker in workers:
            worker.end()


def _ask(worker: "_Worker", questions: list[dict], waiting: deque[int], done: SimpleQueue) -> None:
    """Have a process answer questions as long as any is waiting."""
    try:
        while True:
            index = waiting.popleft()
            try:
                done.put((index, worker.ask(questions[index])))
            except Exception as error:  # raised again in the thread that asked
                done.put((index, error))
                return
    except IndexError:
        return


class _Worker:
    """A process that answers one question after another."""

    def __init__(self):
        search_path = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", WORKER],  # -P: no module of the working directory
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search_path))},
            start_new_session=True,  # Ctrl-C reaches it through this process alone
        )

    def ask(self, question: dict) -> dict:
        """Return the answer to a question; raises as of `answers`."""
        line = ""
        with suppress(BrokenPipeError, ValueError):  # ValueError: `end` has closed the pipe
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise RuntimeError(_end_of(self._process.wait()))

        answer = json.loads(line)
        if "errno" in answer:
            raise OSError(answer["errno"], answer["error"])
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def end(self) -> None:
        """End the process at once; what it was writing is left incomplete under another name."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()


def _end_of(code: int) -> str:
    """Return the message about a process that has ended, by its exit status."""
    if code == -9:
        return out_of_memory("a process that decodes was killed, most likely for lack of memory")
    how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
    return f"a process that decodes has ended {how}: run it again, it goes on where it was"
