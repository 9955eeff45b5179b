"""Disks that are full, read-only, another owner's or limited: told, and afterwards it goes on."""

import ctypes
import os
import random
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .attempts import Attempt, Workshop, differing, start
from .kills import chosen_kinds
from .report import Outcome
from .work import KINDS, contents

COUNT = 80
NOBODY = 65_534  # the other owner
SCRATCH = (f"{tempfile.gettempdir()}/distilwhisper-lab",)  # where archives are unpacked
CAPABILITIES = 0x20080522  # version of the sets
OVER_OTHERS = 0b1110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
FRACTION = 1.1  # of the space that work needs, at most


def short_of_disk(workshop: Workshop, count: int, draw: random.Random) -> Iterator[Outcome]:
    """Let work meet a disk that takes no more, in turns of four ways."""
    ways = [_limited]
    if os.getuid() == 0:
        ways += [_finished_of_another, _of_another]
        if _can_mount(workshop):
            ways += [_full, _full, _read_only]
    for number, kind in enumerate(chosen_kinds(workshop.kinds, count, draw)):
        yield ways[number % len(ways)](workshop, kind, draw.random())


def _can_mount(workshop: Workshop) -> bool:
    folder = workshop.new_folder()
    folder.mkdir()
    mounted = _mount(folder, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    if mounted:
        _unmount(folder)
    return mounted


def _mount(folder: Path, *words: str) -> bool:
    return not subprocess.run(["mount", *words, folder], capture_output=True).returncode


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", folder], capture_output=True, check=False)


def _size(folder: Path) -> int:
    """Return the bytes of a folder's files as a tmpfs counts them."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return sum(4096 * (1 + -(-path.stat().st_size // 4096)) for path in paths)


def _full(workshop: Workshop, kind: str, share: float) -> Outcome:
    """A small file system, which is made larger afterwards."""
    state = workshop.state(KINDS[kind].start)
    done = workshop.fresh(kind)
    _finish(kind, done)
    room = int(_size(state) + FRACTION * share * (_size(done) - _size(state))) + 16_384
    shutil.rmtree(done)
    folder = workshop.new_folder()
    folder.mkdir()
    _mount(folder, "-t", "tmpfs", "-o", f"size={room}", "tmpfs")
    try:
        shutil.copytree(state, folder, dirs_exist_ok=True)
        first = start(KINDS[kind].run, folder).end()
        _mount(folder, "-o", "remount,size=200m")
        second = start(KINDS[kind].run, folder).end()
        files = contents(folder) if second.code == 0 else {}
    finally:
        _unmount(folder)
    how = f"full, with {share:.2f} of the room"
    return _judged(workshop, kind, how, first, second, files, str(folder))


def _limited(workshop: Workshop, kind: str, share: float) -> Outcome:
    """A limit on the size of files (`ulimit -f`), which is gone afterwards."""
    folder = workshop.fresh(kind)
    limit = int(2 ** (8 + 12 * share))  # 256 bytes to 1 MB

    def prepare() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))

    first = start(KINDS[kind].run, folder, prepare=prepare).end()
    second = start(KINDS[kind].run, folder).end()
    files = contents(folder) if second.code == 0 else {}
    return _judged(workshop, kind, f"files up to {limit} bytes", first, second, files, str(folder))


def _read_only(workshop: Workshop, kind: str, share: float) -> Outcome:
    """A file system that is read-only; in half of the cases everything is there already."""
    folder = workshop.fresh(kind)
    finished = share < 0.5
    if finished:
        _finish(kind, folder)
    mounted = workshop.new_folder()
    mounted.mkdir()
    _mount(mounted, "--bind", str(folder))
    _mount(mounted, "-o", "remount,ro,bind")
    try:
        first = start(KINDS[kind].run, mounted, _own_results(workshop, folder)).end()
    finally:
        _unmount(mounted)
    second = start(KINDS[kind].run, folder).end()
    files = contents(folder) if second.code == 0 else {}
    how = "read-only, finished" if finished else "read-only"
    return _judged(workshop, kind, how, first, second, files, str(mounted), finished)


def _finished_of_another(workshop: Workshop, kind: str, share: float) -> Outcome:
    """A finished folder of another owner."""
    return _of_another(workshop, kind, share, finished=True)


def _of_another(workshop: Workshop, kind: str, share: float, finished: bool = False) -> Outcome:
    """A folder of another owner, which may only be read."""
    folder = workshop.fresh(kind)
    workshop.root.chmod(0o755)
    if finished:
        _finish(kind, folder)
    results = _own_results(workshop, folder)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)

    first = start(KINDS[kind].run, folder, results, _without_rights).end()
    second = start(KINDS[kind].run, folder).end()
    files = contents(folder) if second.code == 0 else {}
    how = "another owner's, finished" if finished else "another owner's"
    return _judged(workshop, kind, how, first, second, files, str(folder), finished)


def _own_results(workshop: Workshop, folder: Path) -> dict[str, str]:
    """Return the environment of one who reads a cache of others, and writes results of his own."""
    return {"LAB_RESULTS": str(workshop.copy(folder / "results"))}


def _without_rights() -> None:
    """Give up the rights over others' files: this process stays the owner of its own alone.

    Another user's number would do as well, but not every Python is readable to all users.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)  # version, this process
    sets = (ctypes.c_uint32 * 6)()  # twice effective, permitted, inheritable
    libc.capget(header, sets)
    for place in (0, 1):
        sets[place] &= ~OVER_OTHERS
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "cannot give up rights")


def _finish(kind: str, folder: Path) -> None:
    attempt = start(KINDS[kind].run, folder).end()
    if attempt.code != 0:
        raise RuntimeError(f"{kind} fails with room enough: {attempt.error}")


def _judged(
    workshop: Workshop,
    kind: str,
    how: str,
    first: Attempt,
    second: Attempt,
    files: dict[str, str],
    named: str,
    must_work: bool = False,
) -> Outcome:
    """Compare a hindered attempt, and the next one, with what an undisturbed one gives."""
    alone = workshop.alone(kind)
    outcome = Outcome(kind, how)
    others = [name for name in differing(files, alone.files) if name in alone.files]
    told = first.error + first.log  # a program says it on stderr
    is_told = first.is_clear and any(place in told for place in (named, *SCRATCH))
    if first.code == 0 and first.result != alone.result:
        outcome.fault = "silently other"
        outcome.told = "another result where the disk takes no more"
    elif first.code != 0 and must_work:
        outcome.fault = "crashed"
        outcome.told = first.error or first.log[-1500:]
    elif first.code != 0 and not is_told:
        outcome.fault = "bare traceback"
        outcome.told = first.error or f"exit code {first.code}: {first.log[-1500:]}"
    elif first.printed_traceback:
        outcome.fault = "bare traceback"
        outcome.told = first.log[-1500:]
    elif second.code != 0:
        outcome.fault = "crashed"
        outcome.told = f"with room again: {second.error or second.log[-1500:]}"
    elif second.result != alone.result or others:
        outcome.fault = "silently other"
        outcome.told = f"with room again: {others}"
    return outcome
