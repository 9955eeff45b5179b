"""`python -m distilwhisper_lib NAME ...`: run a program of the library, as the Makefile does.

course       fetch weights and speech, run the notebooks, print the main table
study        tuning, variants, fidelity, seeds, top-k
grid         the paper's experiments as jobs
estimates    hours and memory, computed
claims       the paper's claims with real speech: folds, seeds, hypotheses
toy          the paper with toy languages: models, ten seeds, one cause at a time
demo         the page of the demo, with Gradio (make demo)
smaller      smaller forms of experts
convergence  what cheap training changes

check, train, evaluate, transcribe, compare, share: the command line `distilwhisper` (NAME --help)
"""

import argparse
import importlib
import sys

from .programs import run_program

PROGRAMS = {
    "course": "lab.course",
    "study": "experiments.study",
    "grid": "experiments.grid",
    "estimates": "experiments.estimates",
    "claims": "experiments.claims",
    "toy": "experiments.toy_study",
    "demo": "demo.page",
    "smaller": "experiments.smaller",
    "convergence": "experiments.convergence",
}

COMMANDS = ("check", "train", "evaluate", "transcribe", "compare", "share")  # of `distilwhisper`


def main() -> int | None:
    """Run the program that the first argument names with the others.

    Its module is imported here, so that a signal while torch is being imported ends it in order.
    """
    parser = argparse.ArgumentParser(
        prog="python -m distilwhisper_lib",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("program", choices=[*PROGRAMS, *COMMANDS], metavar="NAME")
    given = parser.parse_args(sys.argv[1:2])
    arguments = sys.argv[2:]
    if given.program in COMMANDS:
        from .cli.app import app

        return app(prog_name="python -m distilwhisper_lib")
    module = importlib.import_module(f"distilwhisper_lib.{PROGRAMS[given.program]}")
    return module.main(arguments)


if __name__ == "__main__":
    run_program(main)
