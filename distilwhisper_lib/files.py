"""Folders, JSON, hashes, atomic writes, locks and damaged files."""

import errno
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

# ---- folders

REPOSITORY = Path(__file__).resolve().parent.parent

FOLDER_VARIABLES = ("LAB_CACHE", "LAB_DATA", "LAB_RESULTS")


def resolve_folders() -> None:
    """Make relative folders in the environment absolute, for this process and those it starts.

    They are relative to the working directory of the first call. Every function below calls this
    first, so that a later change of the working directory, such as a notebook's own folder,
    changes nothing.

    Raises:
        NotADirectoryError: Where a variable names something that is no folder, or lies below it.
    """
    for variable in FOLDER_VARIABLES:
        value = os.environ.get(variable)
        if not value:
            continue
        folder = Path(value).expanduser().absolute()
        for parent in (folder, *folder.parents):
            if os.path.exists(parent) and not os.path.isdir(parent):
                below = "" if parent == folder else f"below {str(parent)!r}, "
                raise NotADirectoryError(
                    errno.ENOTDIR, f"{variable} is {value!r}, {below}which is no folder: name one"
                )
        if str(folder) != value:
            os.environ[variable] = str(folder)


def _named_folder(variable: str) -> Path | None:
    """Return the absolute folder that an environment variable names; None where it is not set."""
    resolve_folders()
    value = os.environ.get(variable)
    return Path(value) if value else None


def cache_dir() -> Path:
    """Return the folder for weights, corpora and training runs.

    The environment variable LAB_CACHE names it; without it, it is `cache/` in the repository.

    Raises:
        NotADirectoryError: As `resolve_folders` does.
    """
    return _named_folder("LAB_CACHE") or REPOSITORY / "cache"


def data_dir() -> Path:
    """Return the folder of speech data that was downloaded by hand.

    The environment variable LAB_DATA names it; without it, it is `data/` in the cache.

    Raises:
        NotADirectoryError: As `resolve_folders` does.
    """
    return _named_folder("LAB_DATA") or cache_dir() / "data"


def results_dir(preset: str) -> Path:
    """Return the folder for the tables and figures of the preset with this name.

    The environment variable LAB_RESULTS names its parent; without it, that is `results/` in the
    repository.

    Raises:
        NotADirectoryError: As `resolve_folders` does.
    """
    parent = _named_folder("LAB_RESULTS") or REPOSITORY / "results"
    return parent / preset


# ---- JSON


SEAL = "check"  # key in a sealed JSON object: the hash of all its other keys


def write_json(path: Path, value: Any, sealed: bool = False) -> None:
    """Write `value` as JSON, atomically.

    Args:
        path: The file. Its folder is made where it is missing.
        value: Anything that `json` can write; other objects are written as their `str`.
        sealed: Add a hash of the content, so that `read_json` notices damage: for objects that
            results are taken from.

    Raises:
        OSError: As `disk_errors` does.
    """
    if sealed:
        content = json.loads(json.dumps(value, default=str))  # as it will be read
        value = content | {SEAL: seal(content)}
    text = json.dumps(value, indent=1, ensure_ascii=False, default=str)
    with atomic_file(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def seal(content: dict) -> str:
    """Return the hash of a JSON object without its seal."""
    return short_hash({key: value for key, value in content.items() if key != SEAL})


def read_json(path: Path, strict: bool = False, needs: Sequence[str] = ()) -> dict:
    """Return the content of a JSON file, or an empty dict where the file does not exist.

    Args:
        path: The file. A damaged one is set aside and counts as absent.
        strict: Refuse a damaged file instead: for files that the library has not written.
        needs: Keys without which the file is damaged.

    Raises:
        ValueError: Where `strict` is set and the file is damaged.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return {}

    value, problem = parse_json(content, needs)
    if not problem:
        return value
    if strict:
        raise ValueError(f"{path} is damaged ({problem}): get it again")
    set_aside(path, problem)
    return {}


def parse_json(content: bytes, needs: Sequence[str] = ()) -> tuple[dict, str]:
    """Return the JSON object in the bytes of a file, without its seal, and what is wrong with it.

    Args:
        content: The bytes.
        needs: Keys that the object must have.

    Returns:
        The object, and ""; or an empty one, and the problem.
    """
    try:
        value = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # both decoders raise a ValueError
        return {}, f"no valid JSON: {error}" if content.strip() else "it is empty"
    if not isinstance(value, dict):
        return {}, f"a JSON object is needed, not {type(value).__name__}"
    if SEAL in value and value[SEAL] != seal(value):
        return {}, "it is not what was written"
    missing = [key for key in needs if key not in value]
    if missing:
        return {}, f"it lacks {', '.join(missing)}"
    value.pop(SEAL, None)
    return value, ""


# ---- hashes


def short_hash(value: Any) -> str:
    """Return the first eight hexadecimal digits of the SHA-256 of `value`, written as JSON.

    Args:
        value: Anything that `json` can write; other objects count by their `str`. The order of a
            dict's keys does not count.
    """
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---- damaged files


def set_aside(path: Path, reason: str) -> Path:
    """Rename a damaged file or folder to NAME.damaged-N beside it, and tell it in one line.

    Args:
        path: The file or folder.
        reason: What is wrong with it, for the message.

    Returns:
        The new path; `path` itself where it cannot be renamed (a read-only folder).
    """
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1

    try:
        path.rename(kept)
    except FileNotFoundError:
        return kept  # another process has set it aside
    except OSError as error:
        tell(f"{path} is damaged ({reason}): left there ({error.strerror}), computed anew")
        return path
    tell(f"{path} is damaged ({reason}): kept as {kept.name}, computed anew")
    return kept


def tell(line: str) -> None:
    """Print a line for the reader, on stderr: tables on stdout stay as they are."""
    print(line, file=sys.stderr, flush=True)


# ---- errors of the disk

# How the messages of `disk_errors` begin.
_NO_SPACE = "no space left under"
_NOT_ALLOWED = "cannot write under"
_TOO_LARGE = "a file is too large under"

_KINDS = {
    errno.ENOSPC: (_NO_SPACE, "free some"),
    errno.EDQUOT: (_NO_SPACE, "free some"),
    errno.EROFS: (_NOT_ALLOWED, "make the folder writable"),
    errno.EACCES: (_NOT_ALLOWED, "make the folder writable"),
    errno.EPERM: (_NOT_ALLOWED, "make the folder writable"),
    errno.EFBIG: (_TOO_LARGE, "raise the limit on the size of files (`ulimit -f`)"),
}

# Libraries with exceptions of their own state the number as text.
_NUMBER_IN_TEXT = re.compile(r"\(os error (\d+)\)")


@contextmanager
def disk_errors(folder: Path, variable: str | None = None) -> Iterator[None]:
    """Raise one clear OSError for a disk that takes no more, whichever library reports it.

    That is: a full disk, a used-up quota, a folder or file system that is read-only, a limit on the
    size of files. When nested, the innermost message is used. Other errors pass through unchanged.

    Args:
        folder: The folder that the message names.
        variable: The environment variable by which a reader can choose another folder; None: that
            of results, of data or of the cache, by where the folder is.

    Raises:
        OSError: With `errno.ENOSPC` (a used-up quota as well), EROFS, EACCES (PermissionError; for
            EPERM as well) or EFBIG.
    """
    try:
        yield
    except Exception as error:  # safetensors and torch have exceptions of their own
        number = _disk_error(error)
        if number is None or str(error).startswith(f"[Errno {number}] {_KINDS[number][0]}"):
            raise

        begins, remedy = _KINDS[number]
        variable = variable or _variable_of(folder)
        where = getattr(error, "filename", None)
        detail = f" ({os.strerror(number)}: {where})" if where and begins != _NO_SPACE else ""
        message = (
            f"{begins} {folder}{detail}: {remedy}, or set {variable} to a folder on another disk; "
            "then run it again, it goes on where it was"
        )
        raise OSError(_reported_as(number), message) from error


def _variable_of(folder: Path) -> str:
    """Return the environment variable that names the folder in which another folder is."""
    chosen = {
        "LAB_RESULTS": results_dir(""),
        "LAB_DATA": data_dir(),
    }
    for variable, parent in chosen.items():
        if folder.absolute().is_relative_to(parent):
            return variable
    return "LAB_CACHE"


def _reported_as(number: int) -> int:
    """Return the number that stands for its kind: ENOSPC for EDQUOT, EACCES for EPERM."""
    return {errno.EDQUOT: errno.ENOSPC, errno.EPERM: errno.EACCES}.get(number, number)


def _disk_error(error: Exception) -> int | None:
    """Return the number of an error in `_KINDS`, by the exception's number or by its text."""
    number = getattr(error, "errno", None)
    if number in _KINDS:
        return number
    if isinstance(error, OSError) and number is not None:
        return None

    text = str(error)
    stated = _NUMBER_IN_TEXT.search(text)
    if stated and int(stated[1]) in _KINDS:
        return int(stated[1])
    if "unexpected pos" in text:  # torch.save, which does not say why it could not write
        return errno.EFBIG if _file_size_is_limited() else errno.ENOSPC
    return errno.ENOSPC if "No space left" in text else None


def _file_size_is_limited() -> bool:
    """Return whether this process may write files up to some size only (`ulimit -f`)."""
    try:
        import resource  # not on every system
    except ImportError:
        return False
    soft, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return soft != resource.RLIM_INFINITY


def make_folder(folder: Path) -> Path:
    """Make a folder and those above it, where they are missing; return it.

    Raises:
        OSError: As `disk_errors` does; and for a path where no folder can be, such as one below a
            file (NotADirectoryError, FileExistsError) or in /proc (FileNotFoundError).
    """
    with disk_errors(folder.parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileNotFoundError, NotADirectoryError, FileExistsError) as error:
            raise OSError(
                error.errno,
                f"the folder {folder} cannot be made ({os.strerror(error.errno)}: "
                f"{error.filename}): remove what is in its way, or set {_variable_of(folder)} to a "
                "folder elsewhere",
            ) from error
    return folder


# ---- atomic writes

PART_DAYS = 1  # after which the unfinished part of another machine's process counts as left over

_PART = re.compile(r"\.(?P<name>.+)\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.part")

_parts_in_use: set[str] = set()  # paths of parts that this process is writing


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path, renamed to `path` on success.

    A file with the name `path` is therefore always complete. The temporary name is unique, so that
    two processes do not write to the same part. Where the block fails, the part is removed; parts
    of processes that were killed are removed at the next write to the folder.

    Args:
        path: The file to write. Its folder is made where it is missing.

    Raises:
        OSError: As `disk_errors` does.
    """
    temporary = _new_part(path)
    try:
        with disk_errors(path.parent):
            make_folder(path.parent)
            _remove_leftovers(path.parent)
            _remove_old_part(path.with_name(path.name + ".part"))
            mode = _usual_mode(temporary)
            yield temporary
            _give_mode(temporary, mode)
            os.replace(temporary, path)
    finally:
        _drop_part(temporary)


@contextmanager
def atomic_folder(path: Path, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path for a folder, renamed to `path` on success.

    The block makes the folder. An existing folder `path` is replaced. What a failed block or a
    killed run has left under a temporary name is removed.

    Args:
        path: The folder to write. Its parents are made where they are missing.
        new: Refuse to replace an existing folder.

    Raises:
        FileExistsError: Where `new` is set and `path` exists.
        OSError: As `disk_errors` does.
    """
    exists = f"{path} exists: give a new folder, or remove that one first"
    if new and path.exists():
        raise FileExistsError(exists)

    temporary = _new_part(path)
    try:
        with disk_errors(path.parent):
            make_folder(path.parent)
            _remove_leftovers(path.parent)
            _remove_old_part(path.with_name(f".{path.name}.partial"))
            mode = _usual_mode(temporary)
            yield temporary
            if new and path.exists():
                raise FileExistsError(exists)
            for written in temporary.rglob("*"):
                _give_mode(written, mode)
            _replace_folder(temporary, path)
    finally:
        _drop_part(temporary)


def _usual_mode(path: Path) -> int:
    """Return the mode that a new file gets here, by making one and removing it."""
    path.touch()
    mode = path.stat().st_mode
    path.unlink()
    return stat.S_IMODE(mode)


def _give_mode(path: Path, mode: int) -> None:
    """Let those read a file who can read others beside it: safetensors writes private ones."""
    found = path.lstat().st_mode
    if stat.S_ISREG(found) and found & mode != mode:
        path.chmod(stat.S_IMODE(found) | mode)


def _replace_folder(temporary: Path, path: Path) -> None:
    """Rename a complete folder to `path`; what was there is moved away first, then removed."""
    for _ in range(10):
        replaced = _new_part(path)
        try:
            if os.path.lexists(path):
                path.rename(replaced)
            temporary.rename(path)
            return
        except FileNotFoundError:
            if not temporary.exists():
                raise
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        finally:
            _drop_part(replaced)
    raise OSError(errno.EBUSY, f"{path} is written by another process over and over")


def _new_part(path: Path) -> Path:
    """Return a temporary name beside `path` that no other process and no other thread has."""
    part = path.with_name(f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")
    _parts_in_use.add(str(part))
    return part


def _drop_part(part: Path) -> None:
    """Remove a part, if it is still there."""
    _remove(part)
    _parts_in_use.discard(str(part))


def _remove(path: Path) -> None:
    """Remove a file, a link or a folder; do nothing where that fails."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # a folder
        shutil.rmtree(path, ignore_errors=True)


def _remove_old_part(part: Path) -> None:
    """Remove a part by the name that all processes shared in earlier versions."""
    if os.path.lexists(part):
        _remove(part)


def _remove_leftovers(folder: Path) -> None:
    """Remove the parts in a folder whose processes have ended."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.endswith(".part")]
    for name in names:
        found = _PART.fullmatch(name)
        part = folder / name
        if found and not _is_in_use(part, found["host"], int(found["pid"])):
            _remove(part)


def _is_in_use(part: Path, host: str, pid: int) -> bool:
    """Return whether the process that writes a part may still run."""
    if host == _host():
        if pid == os.getpid():
            return str(part) in _parts_in_use
        return process_runs(pid)
    try:
        return time.time() - part.stat().st_mtime < PART_DAYS * 24 * 3600
    except OSError:
        return False


def process_runs(pid: int) -> bool:
    """Return whether a process of this machine runs."""
    if os.name != "posix":
        return True  # signal 0 would end it there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True


def _host() -> str:
    """Return eight hexadecimal digits for this machine and its space of process numbers."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    return short_hash([platform.node(), processes])


# ---- folders that cannot be written


def can_write(folder: Path) -> bool:
    """Return whether this process may write to a folder, or make it where it does not exist."""
    for parent in (folder, *folder.absolute().parents):
        if os.path.lexists(parent):
            return parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)
    return False


def check_writable(folder: Path) -> None:
    """Find out before a long computation whether its result can be written.

    Args:
        folder: Where it is to be written. It is made where it is missing.

    Raises:
        OSError: As `disk_errors` does.
    """
    probe = _new_part(folder / "probe")
    try:
        with disk_errors(folder):
            make_folder(folder)
            probe.write_bytes(b"probe")
    finally:
        _drop_part(probe)


# ---- one process at a time

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
        number = _disk_error(error)
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
