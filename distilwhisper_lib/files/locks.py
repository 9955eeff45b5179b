"""One process at a time makes a result; the others wait."""

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from .damaged import tell
from .disk import disk_error, disk_errors

PATIENCE = 1  # seconds that a process waits before it says for what


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process, and one thread of it, at a time make a result; the others wait.

    The lock is the file `.NAME.lock` beside the result; the system releases it when its process
    ends, however that ends. A thread may enter again for a result that it holds. There is no lock
    where the folder cannot be written (a read-only cache) or the file system has no locks, and none
    for the second and later processes of one training, which wait for one another anyway.

    Whoever enters looks again whether the result is there: another process may have made it.

    Args:
        path: The result, a file or a folder. Its parents are made where they are missing.

    Raises:
        OSError: As `disk_errors` does, for a full disk.
    """
    lock = None if int(os.environ.get("RANK") or 0) else _acquired_lock(path)
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def is_being_made(path: Path) -> bool:
    """Return whether a process, or another thread, is in `one_at_a_time` for a result.

    Where the folder cannot be written, nobody here can tell: False.
    """
    name = _lock_of(path)
    if not name.exists():
        return False
    try:
        with warnings.catch_warnings(), FileLock(str(name), timeout=0):
            return False
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False


def _lock_of(path: Path) -> Path:
    """Return the file that is locked while a result is made."""
    return path.absolute().with_name(f".{path.name}.lock")


def _acquired_lock(path: Path):
    """Return the lock of a result once this thread holds it; None where there can be none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(_lock_of(path)), is_singleton=True)
        _acquire(lock, path)
    except NotImplementedError:
        return None
    except OSError as error:
        number = disk_error(error)
        if number not in (errno.ENOSPC, errno.EDQUOT):
            return None
        with disk_errors(path.parent):
            raise
    if isinstance(lock, SoftFileLock):
        # A file system without locks: filelock would leave a mark there when the process is killed.
        lock.release()
        return None
    return lock


def _acquire(lock: FileLock, path: Path) -> None:
    """Wait for a lock; say so where it takes longer than a moment."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of filelock, about a file system without locks
            lock.acquire(timeout=PATIENCE)
    except Timeout:
        if isinstance(lock, SoftFileLock):
            raise  # a mark that may be left over: not waited for
        tell(f"waiting for another process that makes {path} ...")
        lock.acquire(timeout=-1, poll_interval=0.2)
