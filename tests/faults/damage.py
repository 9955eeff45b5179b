"""Damaged files: the same call again gives the same result, or an error that names the file."""

import random
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from .attempts import Attempt, Workshop, start
from .report import Outcome
from .work import KINDS, all_of, die_at

COUNT = 160
COURSE = "course step"  # asked for where its own files are damaged
SLOW = (COURSE, "grid run")  # else not asked for
FLIPS = 3  # of each kind of file

# Work that is stopped before a unit, so that its unfinished files are there.
STOPPED = {
    "train clsr-ft": ("training_step", 5),
    "train fine-tuning": ("training_step", 5),
    "train lora": ("training_step", 3),
    "train, best epoch": ("training_step", 5),
    "teacher outputs": ("teacher_forced_logits", 3),
    "transcribe": ("generate_batch", 7),
    "recordings": ("read_rows", 3),
}


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(1, max(2, len(content)))]


def _emptied(content: bytes, draw: random.Random) -> bytes:
    return b""


def _flipped(content: bytes, draw: random.Random) -> bytes:
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def _other(content: bytes, draw: random.Random) -> bytes:
    return draw.choice((b'{"other": [1, 2]}\n', b"[]\n", b"null\n", b'{"builder": 1, "log": {}}\n'))


WAYS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "cut": _cut,
    "emptied": _emptied,
    "other JSON": _other,
    **{f"a flipped bit, {number + 1}": _flipped for number in range(FLIPS)},
}


def damaged(workshop: Workshop, count: int, draw: random.Random) -> Iterator[Outcome]:
    """Damage a file of each kind in each way, as many as are wanted; then make the same call."""
    # (kind of file, its files, way, state, kinds that are asked for)
    cases: list[tuple[str, list[Path], str, Path, tuple[str, ...]]] = []
    finished = _finished(workshop)
    quick = tuple(kind for kind in workshop.kinds if kind not in SLOW)
    for name, paths in _kinds_of_files(finished).items():
        asked = (COURSE,) if "/notebooks/" in name or "timing" in name else quick
        cases += [(name, paths, way, finished, asked) for way in WAYS]
    for kind in STOPPED.keys() & set(workshop.kinds):
        state = _stopped(workshop, kind)
        before = {path.name for path in workshop.state(KINDS[kind].start).rglob("*")}
        for name, paths in _kinds_of_files(state).items():
            new = [path for path in paths if path.name not in before]
            if new:
                cases += [(f"{kind}, stopped: {name}", new, way, state, (kind,)) for way in WAYS]

    cases.sort(key=lambda case: (case[0], case[2]))
    draw.shuffle(cases)
    expected: dict[tuple, dict] = {}
    for case in cases[:count]:
        asked = case[-1]
        if asked not in expected:
            folder = workshop.copy(finished)
            expected[asked] = _checked(start(partial(all_of, asked), folder).end()).result
        yield _damaged(workshop, *case, expected[asked], draw)


def _finished(workshop: Workshop) -> Path:
    """Return a folder in which everything is done."""
    done: tuple[str, ...] = ()
    for kind in workshop.kinds:
        done += tuple(name for name in (*KINDS[kind].start, kind) if name not in done)
    return workshop.state(done)


def _stopped(workshop: Workshop, kind: str) -> Path:
    """Return a folder in which a kind of work was killed half-way."""
    folder = workshop.fresh(kind)
    attempt = start(KINDS[kind].run, folder, prepare=partial(die_at, *STOPPED[kind])).end()
    if attempt.code != -9:
        raise RuntimeError(f"{kind} was not killed: {attempt.code} {attempt.error}")
    return folder


def _checked(attempt: Attempt) -> Attempt:
    if attempt.code != 0:
        raise RuntimeError(f"it fails undamaged: {attempt.error}\n{attempt.log}")
    return attempt


def _kinds_of_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files below cache and results, relative to the folder, by their kind."""
    kinds: dict[str, list[Path]] = {}
    for top in ("cache", "results"):
        for path in sorted((folder / top).rglob("*")):
            if not path.is_file() or path.name.endswith("lock") or not path.stat().st_size:
                continue
            relative = path.relative_to(folder)
            name = re.sub(r"(smoke/(runs|predictions|jobs))/[^/]+", r"\1/*", str(relative))
            name = re.sub(r"(predictions/\*)/.*", r"\1/*.csv", name)
            name = re.sub(r"(toy|distributions/\w\w)-\w+", r"\1-*", name)
            name = re.sub(r"[0-9a-f]{8,}|\d+", "#", name)
            kinds.setdefault(name, []).append(relative)
    return kinds


def _damaged(
    workshop: Workshop,
    name: str,
    paths: list[Path],
    way: str,
    state: Path,
    asked: tuple[str, ...],
    expected: dict,
    draw: random.Random,
) -> Outcome:
    folder = workshop.copy(state)
    relative = draw.choice(paths)
    path = folder / relative
    content = path.read_bytes()
    wrong = WAYS[way](content, draw)
    path.write_bytes(wrong)
    attempt = start(partial(all_of, asked), folder).end()

    outcome = Outcome(name, f"{way}: {relative}")
    if attempt.code == 0 and attempt.result != expected:
        parts = [part for part in expected if attempt.result.get(part) != expected[part]]
        outcome.fault = "silently other"
        outcome.told = f"other: {parts}; {_difference(content, wrong)}"
    elif attempt.code != 0:
        named = any(part in attempt.error for part in (path.name, path.parent.name))
        if not attempt.is_clear or not named:
            outcome.fault = "bare traceback" if attempt.error else "crashed"
            outcome.told = attempt.error or f"exit code {attempt.code}: {attempt.log[-1500:]}"
        else:
            outcome.notes.append("refused by an error that names the file")
    elif attempt.printed_traceback:
        outcome.fault = "bare traceback"
        outcome.told = attempt.log[-1500:]
    elif path.is_file() and path.read_bytes() == wrong:
        outcome.notes.append(f"not noticed, and without effect: {name}")
    shutil.rmtree(folder)
    return outcome


def _difference(content: bytes, wrong: bytes) -> str:
    """Return where a damaged file begins to differ."""
    pairs = zip(content, wrong, strict=False)
    place = next((i for i, pair in enumerate(pairs) if pair[0] != pair[1]), len(wrong))
    around = slice(max(0, place - 20), place + 20)
    return f"byte {place}: {content[around]!r} -> {wrong[around]!r}"
