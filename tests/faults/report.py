"""What came of each attempt, counted, as a table and as JSON."""

import re
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from distilwhisper_lib.device import describe_machine
from distilwhisper_lib.files import REPOSITORY, write_json
from distilwhisper_lib.lab.metadata import commit

COLUMNS = {
    "lost": "work that was finished is gone, or done again",
    "crashed": "an attempt, or the call after it, that should work ends in an error or hangs",
    "bare traceback": "an error that is not ours, or names nothing; a printed traceback",
    "silently other": "another result, or a wrong value taken, without a word",
}


@dataclass
class Outcome:
    """What came of one attempt.

    Attributes:
        kind: Of work, file or input.
        how: It was disturbed.
        fault: A name in COLUMNS, or "" where all went well.
        told: What was found, in words.
        notes: What is no fault, but worth knowing: work done twice, files left behind.
    """

    kind: str
    how: str
    fault: str = ""
    told: str = ""
    notes: list[str] = field(default_factory=list)


def counts(part: str, outcomes: list[Outcome]) -> dict:
    """Return one row of the table."""
    found = Counter(outcome.fault for outcome in outcomes)
    return {"part": part, "tried": len(outcomes)} | {name: found[name] for name in COLUMNS}


def write_report(folder: Path, part: str, outcomes: list[Outcome], about: dict) -> Path:
    """Write what came of a part as JSON: its row, and every attempt that went wrong."""
    wrong = [_without_paths(asdict(outcome)) for outcome in outcomes if outcome.fault]
    notes = Counter(note for outcome in outcomes for note in outcome.notes)
    row = counts(part, outcomes)
    kinds = {
        kind: counts(kind, [each for each in outcomes if each.kind == kind])
        for kind in dict.fromkeys(outcome.kind for outcome in outcomes)
    }
    when = datetime.now(UTC).isoformat(timespec="seconds")
    about |= {"when": when, "commit": commit(), "machine": describe_machine()}
    path = folder / f"{part}.json"
    write_json(path, row | {"about": about, "notes": notes, "wrong": wrong, "kinds": kinds})
    return path


def _without_paths(outcome: dict) -> dict:
    """Return an outcome whose texts do not name the folders of this machine."""
    places = rf"({re.escape(str(REPOSITORY))}|{re.escape(tempfile.gettempdir())}(/[\w.-]+)?)"
    return {
        name: re.sub(places, "...", value) if isinstance(value, str) else value
        for name, value in outcome.items()
    }


def as_table(rows: list[dict]) -> str:
    """Return the rows of several parts as text."""
    return pd.DataFrame(rows).to_string(index=False)
