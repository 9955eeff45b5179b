"""`python -m distilwhisper_lib course`: run the whole course, as `make course` does.

It fetches weights and speech, runs the notebooks in order, writes a report and prints the main
table.
"""

import argparse
from collections.abc import Sequence

from ..programs import run_program

DESCRIPTION = "Fetch weights and speech, run the notebooks in order, then print the main table."

EPILOG = (
    "What exists is reused: a notebook is skipped if it has run and its source is the same, and a "
    "training or transcription that was stopped goes on there. The variables LAB_CACHE and "
    "LAB_RESULTS name folders for downloads and training runs, and for results."
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        arguments: The words after the program's name; None takes those of this process.

    Returns:
        preset (a name, or None) and only (numbers of notebooks, or None).
    """
    parser = argparse.ArgumentParser(
        prog="make course ARGS=...", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="smoke, toy, laptop, colab or paper (default: the variable LAB_PRESET, else toy)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NUMBER",
        help="numbers of the notebooks to run, such as 00 01 (default: the course: 00 to 05, 90); "
        "no report is written and no table printed",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the course from the command line."""
    parsed = parse_arguments(arguments)

    # Imported after parsing: torch, datasets and the notebooks' machinery take seconds.
    from .course_steps import make_course

    make_course(parsed.preset, parsed.only)


if __name__ == "__main__":
    run_program(main)
