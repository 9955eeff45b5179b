"""One attempt: a kind of work in a process of its own, perhaps disturbed, and what came of it."""

import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from .work import KINDS, ROOT, contents, count_units, folders_of, make_data

LIBRARY = str(ROOT / "distilwhisper_lib")
OURS = (ValueError, TypeError, OSError)  # FileNotFoundError and others are kinds of OSError
FORK = multiprocessing.get_context("fork")
PATIENCE = 240  # seconds after which an attempt hangs

tqdm.monitor_interval = 0  # no thread in the process that forks


@dataclass
class Attempt:
    """What came of an attempt.

    Attributes:
        code: The exit code: 0; 1 after an error; negative after a signal; None where it hung.
        result: What the work gave back.
        error: The error's type, message and last line of code.
        is_clear: Whether the error is one of OURS and raised by the library itself.
        seconds: That it took.
        log: What it printed, warnings and messages included.
    """

    code: int | None = None
    result: dict | None = None
    error: str = ""
    is_clear: bool = False
    seconds: float = 0.0
    log: str = ""

    @property
    def printed_traceback(self) -> bool:
        """Whether a traceback was printed."""
        return "Traceback (most recent call last)" in self.log


@dataclass
class Running:
    """An attempt under way."""

    process: multiprocessing.Process
    notes: Path  # folder of its log and its result
    began: float = field(default_factory=time.perf_counter)

    def wait(self, seconds: float) -> bool:
        """Wait at most so long; return whether it has ended."""
        self.process.join(max(0.0, seconds))
        return self.process.exitcode is not None

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self, patience: float = PATIENCE) -> Attempt:
        """Wait for its end, and return what came of it."""
        if not self.wait(patience):
            self.send(signal.SIGKILL)
            self.process.join()
            log = (self.notes / "log").read_text(errors="replace")
            shutil.rmtree(self.notes)
            return Attempt(None, error="it hung", seconds=patience, log=log)
        attempt = Attempt(self.process.exitcode, seconds=time.perf_counter() - self.began)
        attempt.log = (self.notes / "log").read_text(errors="replace")
        noted = self.notes / "end.json"
        if noted.is_file() and noted.stat().st_size:
            for name, value in json.loads(noted.read_text()).items():
                setattr(attempt, name, value)
        shutil.rmtree(self.notes)
        return attempt


def start(
    work: Callable[[], dict],
    folder: Path | None = None,
    environment: dict[str, str] | None = None,
    prepare: Callable[[], None] | None = None,
    units: Path | None = None,
) -> Running:
    """Start some work in a process of its own.

    Args:
        work: What is done; what it returns must go into JSON.
        folder: With cache, data and results; None: the environment says more.
        environment: Further variables; an empty value removes one.
        prepare: Called in the process before the work.
        units: A file for the units of work that are begun.
    """
    notes = Path(tempfile.mkdtemp(prefix="attempt-"))
    (notes / "log").touch()
    notes.chmod(0o777)
    variables = (folders_of(folder) if folder else {}) | (environment or {})
    process = FORK.Process(target=_child, args=(work, variables, prepare, units, notes))
    process.start()
    return Running(process, notes)


def _child(work, variables: dict[str, str], prepare, units: Path | None, notes: Path) -> None:
    log = os.open(notes / "log", os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    end = open(notes / "end.json", "w")  # noqa: SIM115 (before rights and limits are given up)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, value in variables.items():
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value
    torch.set_num_threads(1)
    torch.manual_seed(os.getpid())  # nothing may depend on what was drawn before
    found: dict = {}
    code = 1
    try:
        if units:
            count_units(units)
        if prepare:
            prepare()
        found["result"] = work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except SystemExit as stop:  # of a program, with its message on stderr
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        found |= {"error": f"SystemExit: {stop.code}", "is_clear": True}
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException as error:
        found |= _told(error)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2
    ) if not os.getuid() else 0
    sys.stdout.flush()
    json.dump(found, end)
    end.flush()
    os._exit(code)


def _told(error: BaseException) -> dict:
    """Return an error's text, and whether it is clear."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    ours = [frame for frame in frames if frame.filename.startswith(LIBRARY)]
    where = f"{Path(last.filename).name}:{last.lineno}"
    if ours and last.filename != ours[-1].filename:
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} -> {where}"
    text = f"{type(error).__name__}: {str(error)[:600]} [{where}]"
    raised = last.filename.startswith(LIBRARY) and (last.line or "").startswith("raise")
    # of Python itself, for a name that a function does not have: it names function and argument
    unknown = isinstance(error, TypeError) and "unexpected keyword argument" in str(error)
    clear = isinstance(error, OURS) and bool(str(error)) and (raised or unknown)
    return {"error": text, "is_clear": clear}


def begun(units: Path) -> Counter:
    """Return how many units of work were begun, by kind."""
    return Counter(units.read_text().split()) if units.exists() else Counter()


# ---- states: folders in which some kinds of work are done


@dataclass(frozen=True)
class Undisturbed:
    """A kind of work done alone.

    Attributes:
        result: What it gives back.
        files: The finished files, as `contents` gives them.
        units: Of work.
        seconds: That it takes.
    """

    result: dict
    files: dict[str, str]
    units: Counter
    seconds: float


class Workshop:
    """A temporary folder with the states from which work starts, each made once.

    Args:
        root: The folder.
        kinds: Of the work that is disturbed.
    """

    def __init__(self, root: Path, kinds: Iterable[str] = KINDS):
        self.root = root
        self.kinds = tuple(kinds)
        self._states: dict[tuple[str, ...], Path] = {}
        self._alone: dict[str, Undisturbed] = {}
        self._count = 0

    def new_folder(self) -> Path:
        """Return the path of a folder that does not exist."""
        self._count += 1
        return self.root / f"at-{self._count}"

    def state(self, kinds: tuple[str, ...]) -> Path:
        """Return a folder in which these kinds of work are done; it must not be changed."""
        if kinds not in self._states:
            folder = self.new_folder()
            if kinds:
                shutil.copytree(self.state(kinds[:-1]), folder)
                attempt = start(KINDS[kinds[-1]].run, folder).end()
                if attempt.code != 0:
                    raise RuntimeError(f"{kinds[-1]} fails alone: {attempt.error}\n{attempt.log}")
            else:
                make_data(folder / "data")
                (folder / "cache").mkdir()
                (folder / "results").mkdir()
            self._states[kinds] = folder
        return self._states[kinds]

    def fresh(self, kind: str) -> Path:
        """Return a folder of its own, in the state from which a kind starts."""
        return self.copy(self.state(KINDS[kind].start))

    def copy(self, state: Path) -> Path:
        """Return a copy of a folder."""
        folder = self.new_folder()
        shutil.copytree(state, folder, symlinks=True)
        return folder

    def alone(self, kind: str) -> Undisturbed:
        """Return what a kind of work gives without any disturbance."""
        if kind not in self._alone:
            folder = self.fresh(kind)
            units = self.root / "units"
            units.unlink(missing_ok=True)
            attempt = start(KINDS[kind].run, folder, units=units).end()
            if attempt.code != 0:
                raise RuntimeError(f"{kind} fails alone: {attempt.error}\n{attempt.log}")
            found = contents(folder)
            self._alone[kind] = Undisturbed(attempt.result, found, begun(units), attempt.seconds)
            shutil.rmtree(folder)
        return self._alone[kind]


def differing(files: dict[str, str], expected: dict[str, str]) -> list[str]:
    """Return the files that are missing, other or too many."""
    return sorted(name for name in files.keys() | expected if files.get(name) != expected.get(name))
