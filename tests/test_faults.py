"""The short form of the fault harness (`python -m tests.faults`): nothing goes wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ("lost", "crashed", "bare traceback", "silently other")


@pytest.fixture(scope="module")
def short_form(tmp_path_factory):
    """Return the folder with the results of all parts, each with a few attempts.

    In a process of its own: it forks, which a process with threads had better not do.
    """
    folder = tmp_path_factory.mktemp("faults")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LAB_")}
    subprocess.run(
        [sys.executable, "-m", "tests.faults", "--short", "--results", str(folder)],
        cwd=ROOT,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return folder


@pytest.mark.parametrize("part", ["kills", "pairs", "damage", "inputs", "disks"])
def test_nothing_is_lost_or_wrong_in_silence(part, short_form):
    found = json.loads((short_form / f"{part}.json").read_text())
    assert found["tried"] > 0
    assert {name: found[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0), found["wrong"]
