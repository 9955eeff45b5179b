"""The page's side of the worker: starts it, asks it, and says so where it has ended."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent.parent

ENDED = (
    "the process that computes has ended: the terminal may say why, and where it does not, memory "
    "was short. Try again: it starts anew"
)


class WorkerError(Exception):
    """What a worker says instead of an answer, as a sentence for the page."""


class Worker:
    """A worker process, started when it is first asked and again where it has ended.

    Args:
        command: That starts it.
    """

    def __init__(self, command: list[str]):
        self.command = command
        self._lock = Lock()  # one question at a time
        self._process: subprocess.Popen | None = None

    def ask(self, **question: Any) -> Iterator[dict[str, Any]]:
        """Yield the answers to a question as they come.

        Raises:
            WorkerError: Where there is an error, or the process has ended.
        """
        with self._lock:
            process = self._running()
            try:
                process.stdin.write(json.dumps(question) + "\n")
                process.stdin.flush()
            except OSError:
                self.close()
                raise WorkerError(ENDED) from None
            yield from self._answers(process)

    def _answers(self, process: subprocess.Popen) -> Iterator[dict[str, Any]]:
        """Yield answers; where the reader has gone, the rest is read all the same."""
        is_done = False
        try:
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # it has ended within the line
                answer = json.loads(line)
                is_done = "answer" not in answer
                if "error" in answer:
                    raise WorkerError(answer["error"])
                if is_done:
                    return
                yield answer["answer"]
            is_done = True  # its output has ended, and so has it
            self.close()
            raise WorkerError(ENDED)
        finally:
            while not is_done:
                line = process.stdout.readline()
                is_done = not line.endswith("\n") or "answer" not in json.loads(line)

    def _running(self) -> subprocess.Popen:
        """Return the process, started where there is none."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                self.command,
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is the page's, which then closes the input
                text=True,
                encoding="utf-8",
            )
        return self._process

    def close(self) -> None:
        """End the process: with its input, and where that takes long by a signal."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):  # a question that it has not read
            process.stdin.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
