"""Files and folders that are written whole or not at all."""

import errno
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .disk import disk_errors, make_folder
from .hashes import short_hash

LONGEST_NAME = 200  # bytes of a file's name that may stand in its part's; file systems take 255
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
    name = path.name
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = short_hash(name)
    part = path.with_name(f".{name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")
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
