"""How a program ends: with one sentence and an exit status, whatever stops it, never a traceback.

Exit status: 0 where all went well, 1 for an error, 2 for a wrong option, 130 after Ctrl-C, 143
after SIGTERM, 129 after SIGHUP. The environment variable LAB_TRACEBACK, set to anything, shows the
traceback of an error as well.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import NoReturn

from .checks import number_in

# What ends a program in order. Each raises `Stopped` in the main thread.
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

GOES_ON = "the same command goes on where it was"
LOWER = (
    "close other programs, or lower batch_size and eval_batch_size (distilwhisper_lib/presets.py), "
    "or take a smaller model or preset"
)

# How errors of memory begin or what they hold, of libraries that raise a plain RuntimeError.
MEMORY_TEXTS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",
    "bad_alloc",
)
MEMORY_NAMES = ("MemoryError", "OutOfMemoryError", "_ArrayMemoryError", "ArrowMemoryError")


class Stopped(KeyboardInterrupt):
    """A signal that ends the program.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int = signal.SIGINT):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


class Failed(Exception):
    """An error whose text is the sentence for the reader."""


def cores() -> int:
    """Return the number of cores that this process may use: of a job on a cluster, its own."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Run a program and exit with its status; errors and signals become one sentence.

    Args:
        main: The program; it returns its exit status, None for 0.

    Raises:
        SystemExit: Always.
    """
    _handle_signals(_stop)
    sys.unraisablehook = _raise_again
    try:
        try:
            status = main()
            sys.stdout.flush()
        finally:
            _handle_signals(_leave)  # what comes now is over soon
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(_told(error))
    sys.exit(status)


def number_option(whole: bool = False, **limits: float) -> Callable[[str], float]:
    """Return a type for argparse: a number, checked by `check_number`.

    Args:
        whole: Whether it must be a whole number.
        limits: `low`, `high`, `above`, `below`, as for `check_number`.
    """

    def number(text: str) -> float:
        try:
            return number_in("it", text, whole=whole, **limits)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return number


def _stop(number, frame) -> NoReturn:
    """Raise `Stopped` where the program is."""
    raise Stopped(number)


def _leave(number, frame) -> NoReturn:
    """End the process at once, without clean-up."""
    os._exit(128 + number)


def _raise_again(unraisable) -> None:
    """Send a signal again whose exception was raised where Python drops it, such as a finaliser."""
    if not isinstance(unraisable.exc_value, Stopped):
        sys.__unraisablehook__(unraisable)
        return
    number = unraisable.exc_value.number
    if hasattr(signal, "pthread_kill"):  # so that the main thread wakes up
        later = threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, number])
    else:
        later = threading.Timer(0.1, signal.raise_signal, [number])
    later.daemon = True
    later.start()


def _handle_signals(handler) -> None:
    """Set what happens at the signals that end a program; ignored ones (nohup) stay ignored."""
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            with contextlib.suppress(ValueError):  # not in the main thread
                signal.signal(number, handler)


def _told(error: BaseException) -> int:
    """Print the sentence for an error; return the exit status."""
    if isinstance(error, BrokenPipeError):  # `| head` has read enough
        _close_output()
        return 128 + 13

    sentence, status = explained(error)
    show_traceback(error)
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        sys.stdout.flush()
    with contextlib.suppress(OSError, ValueError):
        print(f"\n{sentence}" if status > 128 else sentence, file=sys.stderr, flush=True)
    return status


def show_traceback(error: BaseException) -> None:
    """Print the traceback of an error where the variable LAB_TRACEBACK asks for it."""
    if os.environ.get("LAB_TRACEBACK"):
        traceback.print_exception(error)


def explained(error: BaseException) -> tuple[str, int]:
    """Return the sentence for an error, and the exit status.

    Raises:
        BaseException: The error itself where it is none that a reader can do anything about: its
            traceback is what is needed then.
    """
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
        return f"stopped{by}: {GOES_ON}", 128 + number
    if isinstance(error, Failed):
        return str(error), 1
    if is_memory_error(type(error).__name__, str(error)):
        return out_of_memory(), 1
    if isinstance(error, ValueError | OSError):
        return f"error: {_text_of(error)}", 1
    raise error


def is_memory_error(name: str, text: str) -> bool:
    """Return whether an error says that memory is short.

    Args:
        name: Of its class.
        text: Its message.
    """
    if name in MEMORY_NAMES:
        return True
    is_plain = name in ("RuntimeError", "AcceleratorError", "OSError")
    return is_plain and any(part in text.lower() for part in MEMORY_TEXTS)


def out_of_memory(who: str = "") -> str:
    """Return the sentence for a lack of memory.

    Args:
        who: What was ended for it; "" for this program.
    """
    return f"{who or 'out of memory'}: {LOWER}; {GOES_ON}"


def _text_of(error: Exception) -> str:
    """Return the message of an error; of the operating system's without its number."""
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return ": ".join([str(error.strerror), *names])
    return str(error) or type(error).__name__


def _close_output() -> None:
    """Let nothing be written to a closed pipe at the end of the process."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
