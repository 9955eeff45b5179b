"""Every program and tool prints its help when asked for it, and does nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tools", "benchmarks", "distilwhisper_lib")


def programs():
    """Return the files that can be run, relative to the repository."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    runnable = [path for path in paths if 'if __name__ == "__main__":' in path.read_text("utf-8")]
    return [str(path.relative_to(ROOT)) for path in runnable]


# Runs in a process of its own, which imports torch once for all programs. Files that are opened for
# writing are reported by an audit hook.
RUN_ALL = """
import contextlib, io, json, os, runpy, sys

root, *programs = sys.argv[1:]
written = []


def watch(event, arguments):
    if event == "open":
        path, _, flags = arguments
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "subprocess.Popen"):
        path = arguments[0]
    else:
        return
    written.append(f"{event} {path}")


sys.path.insert(0, root)
sys.path.insert(0, os.path.join(root, "tools"))
import torch, transformers, peft, datasets, pandas, matplotlib.figure

sys.addaudithook(watch)
results = {}
for program in programs:
    written.clear()
    output, code, problem = io.StringIO(), None, ""
    sys.argv = [program, "--help"]
    try:
        with contextlib.redirect_stdout(output):
            if program.startswith("tools"):
                runpy.run_path(os.path.join(root, program), run_name="__main__")
            else:
                module = program.removesuffix(".py").replace("/", ".")
                runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        problem = repr(error)
    results[program] = [code, output.getvalue(), problem, list(written)]
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return what became of each program that was called with --help."""
    folder = tmp_path_factory.mktemp("help")
    environment = os.environ | {
        "LAB_CACHE": str(folder / "cache"),
        "LAB_RESULTS": str(folder / "results"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL, str(ROOT), *programs()],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not list(folder.iterdir())
    results = json.loads(done.stdout.splitlines()[-1])
    for result in results.values():
        # Libraries may fill caches of their own elsewhere
        result[3] = [line for line in result[3] if str(ROOT) in line or str(folder) in line]
    return results


@pytest.mark.parametrize("program", programs())
def test_help_is_printed_and_nothing_else_is_done(program, results):
    code, output, problem, written = results[program]
    assert not problem
    assert code == 0
    assert output.startswith("usage:")
    assert len(output.splitlines()) > 3, "no description"
    assert not written, written


def test_every_kind_of_program_is_found():
    found = programs()
    for program in (
        "tools/notebooks.py",
        "benchmarks/inference.py",
        "distilwhisper_lib/lab/course.py",
        "distilwhisper_lib/experiments/grid.py",
    ):
        assert program in found


def test_clean_follows_the_folders_that_are_chosen_and_keeps_speech_of_ones_own(tmp_path):
    for name in ("cache/runs/x", "cache/weights", "cache/data/recordings/gl", "results/laptop"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "results" / "reference").mkdir()
    chosen = {"LAB_CACHE": str(tmp_path / "cache"), "LAB_RESULTS": str(tmp_path / "results")}
    shutil.copy(ROOT / "Makefile", tmp_path)

    def make(target):
        command = ["make", "-s", target]
        subprocess.run(command, cwd=tmp_path, env=os.environ | chosen, check=True)
        return {path.name for path in (tmp_path / "cache").iterdir()}

    assert make("clean") == {"runs", "weights", "data"} - {"runs"}
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["reference"]
    assert make("distclean") == {"data"}
    assert (tmp_path / "cache" / "data" / "recordings" / "gl").is_dir()
