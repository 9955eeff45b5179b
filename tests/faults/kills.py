"""Kills at random moments: afterwards the same call goes on, and ends as if undisturbed."""

import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence

from .attempts import Workshop, begun, differing, start
from .report import Outcome
from .work import KINDS, UNDER_WAY, contents

COUNT = 100
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED = {signal.SIGKILL: (-9,), signal.SIGTERM: (-15, 143), signal.SIGINT: (130,)}


def chosen_kinds(names: Sequence[str], count: int, draw: random.Random) -> list[str]:
    """Return `count` of the kinds of work, by their shares; where there is room, each of them."""
    shares = [KINDS[name].share for name in names]
    chosen = list(names) if count >= len(names) else []
    chosen += draw.choices(names, shares, k=count - len(chosen))
    draw.shuffle(chosen)
    return chosen


def kills(workshop: Workshop, count: int, draw: random.Random) -> Iterator[Outcome]:
    """Kill work at random moments, then let it go on."""
    for kind in chosen_kinds(workshop.kinds, count, draw):
        yield _killed(workshop, kind, draw.choice(SIGNALS), draw.random())


def _killed(workshop: Workshop, kind: str, number: signal.Signals, moment: float) -> Outcome:
    alone = workshop.alone(kind)
    folder = workshop.fresh(kind)
    units = folder.with_name(f"{folder.name}.units")
    seconds = 1.05 * alone.seconds * moment
    outcome = Outcome(kind, f"{number.name} after {seconds:.2f} of {alone.seconds:.2f} s")

    running = start(KINDS[kind].run, folder, units=units)
    running.wait(seconds)
    running.send(number)
    stopped = running.end()
    time.sleep(0.01)
    again = start(KINDS[kind].run, folder, units=units).end()

    files = contents(folder) if again.code == 0 else {}
    more = {name: done - alone.units[name] - UNDER_WAY[name] for name, done in begun(units).items()}
    lost = [f"{excess} {name} more than needed" for name, excess in more.items() if excess > 0]
    missing = [name for name in alone.files if name not in files]
    others = [name for name in differing(files, alone.files) if name in alone.files]
    if stopped.code not in (0, *STOPPED[number]):
        outcome.fault = "crashed"
        outcome.told = f"exit code {stopped.code} when stopped: {stopped.error}"
    elif stopped.printed_traceback:
        outcome.fault = "bare traceback"
        outcome.told = stopped.log[-1500:]
    elif again.code != 0:
        outcome.fault = "crashed" if again.is_clear else "bare traceback"
        outcome.told = f"the call after it: {again.error or again.log[-1500:]}"
    elif again.result != alone.result or (others and not missing):
        outcome.fault = "silently other"
        outcome.told = f"{_other(again.result, alone.result)} {others}"
    elif lost or missing:
        outcome.fault = "lost"
        outcome.told = f"{lost} missing: {missing}"
    outcome.notes = [f"left behind by {kind}" for name in files if name not in alone.files][:1]
    shutil.rmtree(folder)
    units.unlink(missing_ok=True)
    return outcome


def _other(result: dict, expected: dict) -> list[str]:
    """Return the parts of a result that differ."""
    return [name for name in expected if result.get(name) != expected[name]]
