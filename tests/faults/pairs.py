"""Pairs of processes at one cache: both end well, with the results of one alone."""

import random
import shutil
from collections.abc import Iterator

from .attempts import Workshop, begun, differing, start
from .kills import chosen_kinds
from .report import Outcome
from .work import KINDS, contents

COUNT = 100


def pairs(workshop: Workshop, count: int, draw: random.Random) -> Iterator[Outcome]:
    """Let two processes do the same work, from the same moment or from a random one."""
    for kind in chosen_kinds(workshop.kinds, count, draw):
        yield _pair(workshop, kind, draw.choice((0.0, draw.random())))


def _pair(workshop: Workshop, kind: str, moment: float) -> Outcome:
    alone = workshop.alone(kind)
    folder = workshop.fresh(kind)
    units = folder.with_name(f"{folder.name}.units")
    seconds = alone.seconds * moment
    outcome = Outcome(kind, f"the second after {seconds:.2f} of {alone.seconds:.2f} s")

    first = start(KINDS[kind].run, folder, units=units)
    first.wait(seconds)
    second = start(KINDS[kind].run, folder, units=units)
    attempts = [first.end(), second.end()]
    work = begun(units)
    attempts.append(start(KINDS[kind].run, folder, units=units).end())  # the cache is whole

    failed = [attempt for attempt in attempts if attempt.code != 0]
    files = {} if failed else contents(folder)
    others = [name for name in differing(files, alone.files) if name in alone.files]
    names = ("the first", "the second", "the call after them")
    if failed:
        outcome.fault = "crashed" if failed[0].is_clear or not failed[0].error else "bare traceback"
        told = [
            f"{name}: {attempt.error or attempt.log[-1500:]}"
            for name, attempt in zip(names, attempts, strict=True)
            if attempt.code != 0
        ]
        outcome.told = "; ".join(told)
    elif any(attempt.printed_traceback for attempt in attempts):
        outcome.fault = "bare traceback"
        outcome.told = "\n".join(attempt.log[-1500:] for attempt in attempts)
    elif any(attempt.result != alone.result for attempt in attempts) or others:
        same = [attempt.result == alone.result for attempt in attempts]
        outcome.fault = "silently other"
        outcome.told = f"same results: {same}, other files: {others}"
    elif begun(units) != work:
        outcome.fault = "lost"
        outcome.told = f"the call after them does work: {begun(units) - work}"
    if work != alone.units and not failed:
        outcome.notes.append(f"done twice: {kind}")
    shutil.rmtree(folder)
    units.unlink(missing_ok=True)
    return outcome
