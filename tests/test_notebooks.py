"""The notebooks and their solutions run at the smoke preset, and are what their sources give."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from IPython.display import display

from distilwhisper_lib.lab.course_steps import course_notebooks

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "notebooks")]

import notebooks as tool  # noqa: E402 (tools/notebooks.py)

SOURCES = tool.sources()
NAMES = [path.stem for path in SOURCES]
PARTS = {"exercise", "stub", "solution", "wrong", "check"}


def smoke(tmp_path: Path) -> dict[str, str]:
    """Return the settings with which everything is kept in `tmp_path`, at the smoke preset."""
    return {
        "LAB_PRESET": "smoke",
        "LAB_CACHE": str(tmp_path / "cache"),
        "LAB_RESULTS": str(tmp_path / "results"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture
def smoke_settings(tmp_path, monkeypatch):
    """The smoke preset in the environment of the test."""
    for name, value in smoke(tmp_path).items():
        monkeypatch.setenv(name, value)


def run_course(tmp_path: Path, *numbers: str) -> str:
    """Run the course as `make course` does, and return what it prints."""
    command = [sys.executable, "-m", "distilwhisper_lib.lab.course"]
    if numbers:
        command += ["--only", *numbers]
    environment = os.environ | smoke(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def exercises(source: Path) -> list[dict[str, str]]:
    """Return the exercises of a source: their code and text by tag."""
    found: list[dict[str, str]] = []
    for cell in tool.read_source(source):
        for tag in tool.tags(cell) & PARTS:
            if tag == "exercise":
                found.append({})
            found[-1][tag] = found[-1].get(tag, "") + "\n" + cell.source
    return found


# ---- notebooks run


def test_the_course_runs_at_smoke_and_a_second_run_reuses_everything(tmp_path):
    printed = run_course(tmp_path)
    results = tmp_path / "results" / "smoke"
    for name in ("comparison.csv", "paired.csv", "run.json", "report.html"):
        assert (results / name).is_file(), name
        assert str(results / name) in printed
    assert list((results / "figures").glob("*.png"))
    assert "DistilWhisper" in printed  # the main table
    assert "WER" in printed

    folder = results / "notebooks"
    executed = {path: path.stat().st_mtime for path in folder.glob("*.ipynb")}
    assert sorted(path.stem for path in executed) == [name for name in NAMES if name < "06"]
    run_course(tmp_path)
    assert {path: path.stat().st_mtime for path in executed} == executed

    run_course(tmp_path, "06", "07", "08")
    assert sorted(path.stem for path in folder.glob("*.ipynb")) == NAMES


def test_an_unknown_notebook_is_named():
    with pytest.raises(ValueError, match="no notebook 12: there are 00, 01, "):
        course_notebooks(["00", "12"])


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_solutions_run(source, smoke_settings, monkeypatch, capsys):
    monkeypatch.chdir(ROOT / "notebooks")
    names = {"__name__": "__main__", "display": display}  # as a kernel has them
    for cell in tool.code_cells(tool.build_solutions(source)):
        exec(cell.source, names)
    printed = capsys.readouterr().out
    assert printed.count("correct:") == len(exercises(source)), printed


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_each_check_passes_the_solution_and_helps_with_the_others(
    source, smoke_settings, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT / "notebooks")
    setup: dict = {}
    exec(tool.setup_cell(), setup)
    parts = exercises(source)
    assert parts
    outcomes = {"stub": "not attempted yet", "solution": "correct: ", "wrong": "not yet: "}
    for part in parts:
        title = part.get("exercise", "")[:80]
        assert set(part) == PARTS, title
        for answer, outcome in outcomes.items():
            names = dict(setup)
            exec(part[answer], names)
            capsys.readouterr()
            exec(part["check"], names)
            printed = capsys.readouterr().out
            assert outcome in printed, (answer, title, printed)
            assert "your code raised" not in printed, printed


# ---- committed notebooks


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_committed_notebooks_are_those_of_their_source(source):
    folder = ROOT / "notebooks"
    expected = {
        folder / f"{source.stem}.ipynb": tool.build_notebook(source),
        folder / "solutions" / f"{source.stem}_solutions.ipynb": tool.build_solutions(source),
    }
    for path, built in expected.items():
        committed = nbformat.read(path, as_version=4)
        nbformat.validate(committed)
        wanted = [(cell.cell_type, cell.source) for cell in built.cells]
        found = [(cell.cell_type, cell.source) for cell in committed.cells]
        assert found == wanted, (
            f"{path.name} is not what its source gives: "
            "run .venv/bin/python tools/notebooks.py build"
        )


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_committed_notebook_holds_outputs_that_may_be_published(source):
    text = (ROOT / "notebooks" / f"{source.stem}.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    assert "widgets" not in notebook.metadata
    assert tool.WIDGET not in text
    assert not re.search(r"[\"' (]/(home|root|tmp|work|Users)/", text), "a path of one machine"
    assert "audio/" not in text, "sound of the corpora"
    assert "base64,UklG" not in text, "sound of the corpora"
    code = tool.code_cells(notebook)
    assert code[0].source == tool.setup_cell()
    outputs = [output for cell in code for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    assert outputs
