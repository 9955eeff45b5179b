"""`python -m tests.faults`: run the parts of the harness, print the table, write JSON."""

import argparse
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from distilwhisper_lib.files import REPOSITORY, results_dir

from . import damage, disks, inputs, kills, pairs
from .attempts import Workshop
from .report import COLUMNS, as_table, counts, write_report
from .work import KINDS, SHORT

PARTS: dict[str, tuple[Callable, int, int]] = {  # part -> generator of outcomes, count, short count
    "kills": (kills.kills, kills.COUNT, 4),
    "pairs": (pairs.pairs, pairs.COUNT, 2),
    "damage": (damage.damaged, damage.COUNT, 4),
    "inputs": (inputs.wrong_inputs, inputs.COUNT, 12),
    "disks": (disks.short_of_disk, disks.COUNT, 3),
}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Disturb every kind of work, and count what goes wrong.",
        epilog="; ".join(f"{name}: {what}" for name, what in COLUMNS.items()),
    )
    parser.add_argument("--part", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--count", type=int, help="attempts of each part; default: as documented")
    parser.add_argument("--seed", type=int, default=29, help="of all that is drawn; default: 29")
    parser.add_argument("--short", action="store_true", help="a few attempts of each part")
    parser.add_argument("--results", type=Path, help="default: results/faults")
    parser.add_argument(
        "--publish", action="store_true", help="copy the results into results/reference/faults"
    )
    return parser.parse_args(arguments)


def run_part(part: str, workshop: Workshop, given: argparse.Namespace) -> dict:
    """Run one part, write its JSON, and return its row of the table."""
    run, usual, short = PARTS[part]
    count = given.count or (short if given.short else usual)
    draw = random.Random(f"{part} {given.seed}")
    outcomes = []
    try:
        for outcome in tqdm(run(workshop, count, draw), part, count, unit="attempt"):
            outcomes.append(outcome)
            if outcome.fault:
                tqdm.write(f"{outcome.fault}: {outcome.kind}, {outcome.how}: {outcome.told}")
    except KeyboardInterrupt:  # what has been tried counts
        print(f"\n{part}: stopped after {len(outcomes)} of {count}", flush=True)

    about = {"seed": given.seed, "count": count, "short": given.short}
    path = write_report(given.results or results_dir("faults"), part, outcomes, about)
    print(f"{part}: written to {path}", flush=True)
    return counts(part, outcomes)


def publish(parts: list[str], results: Path) -> None:
    """Copy the results of parts into results/reference/faults.

    After the last part: run metadata says whether the checkout has changes, and this is one.
    """
    published = REPOSITORY / "results" / "reference" / "faults"
    published.mkdir(parents=True, exist_ok=True)
    for part in parts:
        shutil.copy(results / f"{part}.json", published)


def main() -> int:
    """Run the parts; return 1 where anything went wrong."""
    given = parse_arguments()
    warnings.filterwarnings("ignore", category=DeprecationWarning)  # of fork beside threads
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    workshop = Workshop(root, SHORT if given.short else KINDS)
    try:
        rows = [run_part(part, workshop, given) for part in given.part]
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if given.publish and not given.short:
        publish(given.part, given.results or results_dir("faults"))
    print(f"\n{as_table(rows)}")
    return int(any(row[name] for row in rows for name in COLUMNS))


if __name__ == "__main__":
    sys.exit(main())
