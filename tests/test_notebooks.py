"""Every notebook and every solution runs at the smoke preset, exercises check what they should, nothing drifts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from distilwhisper_lib.lab.course import course_notebooks

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "notebooks")]

import notebooks as tool  # noqa: E402  tools/notebooks.py

SOURCES = tool.sources()
NAMES = [path.stem for path in SOURCES]


def smoke(tmp_path: Path) -> dict:
    """Return an environment in which everything is kept in `tmp_path`, at the smoke preset."""
    return os.environ | {
        "LAB_PRESET": "smoke",
        "LAB_CACHE": str(tmp_path / "cache"),
        "LAB_RESULTS": str(tmp_path / "results"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def run_course(tmp_path: Path, *numbers: str) -> str:
    command = [
        sys.executable,
        "-m",
        "distilwhisper_lib.lab.course",
        *(["--only", *numbers] if numbers else []),
    ]
    done = subprocess.run(command, cwd=ROOT, env=smoke(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def test_the_course_runs_at_smoke_and_a_second_run_reuses_everything(tmp_path):
    first = run_course(tmp_path)
    results = tmp_path / "results" / "smoke"
    for name in ("comparison.csv", "paired.csv", "run.json", "report.html"):
        assert (results / name).is_file(), name
        assert str(results / name) in first
    assert list((results / "figures").glob("*.png"))
    assert "DistilWhisper" in first and "WER" in first  # the main table
    executed = {path: path.stat().st_mtime for path in (results / "notebooks").glob("*.ipynb")}
    assert sorted(path.stem for path in executed) == [name for name in NAMES if name < "06"]
    run_course(tmp_path)
    assert {path: path.stat().st_mtime for path in executed} == executed
    run_course(tmp_path, "06", "07", "08")
    assert sorted(path.stem for path in (results / "notebooks").glob("*.ipynb")) == NAMES
    with pytest.raises(ValueError, match="no notebook 12: there are 00, 01, "):
        course_notebooks(["00", "12"])


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_solutions_run(source, tmp_path, monkeypatch):
    for name, value in smoke(tmp_path).items():
        monkeypatch.setenv(name, value)
    notebook = tool.build_solutions(source)
    NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(ROOT / "notebooks")}}
    ).execute()
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert printed.count("correct:") == 3, printed


def exercises(source: Path) -> list[dict[str, str]]:
    """Return the exercises of a source: code by tag."""
    found = []
    for cell in tool.read_source(source):
        for tag in tool.tags(cell) & {"exercise", "stub", "solution", "wrong", "check"}:
            if tag == "exercise":
                found.append({})
            found[-1][tag] = found[-1].get(tag, "") + "\n" + cell.source
    return found


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_each_check_passes_the_solution_and_helps_with_the_others(
    source, tmp_path, monkeypatch, capsys
):
    for name, value in smoke(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT / "notebooks")
    setup: dict = {}
    exec(tool.setup_cell(), setup)
    parts = exercises(source)
    assert len(parts) == 3
    for part in parts:
        assert set(part) == {"exercise", "stub", "solution", "wrong", "check"}, part.get(
            "exercise", ""
        )[:80]
        assert re.search(r"[●○]{3}", part["exercise"]) and "minutes" in part["exercise"]
        for answer, outcome in (
            ("stub", "not attempted yet"),
            ("solution", "correct: "),
            ("wrong", "not yet: "),
        ):
            names = dict(setup)
            exec(part[answer], names)
            capsys.readouterr()
            exec(part["check"], names)
            printed = capsys.readouterr().out
            assert outcome in printed, (answer, part["exercise"][:80], printed)
            assert "your code raised" not in printed, printed


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_committed_notebooks_are_those_of_their_source(source):
    folder = ROOT / "notebooks"
    for built, path in (
        (tool.build_notebook(source), folder / f"{source.stem}.ipynb"),
        (tool.build_solutions(source), folder / "solutions" / f"{source.stem}_solutions.ipynb"),
    ):
        committed = nbformat.read(path, as_version=4)
        nbformat.validate(committed)
        cells = [
            [(cell.cell_type, cell.source) for cell in notebook.cells]
            for notebook in (built, committed)
        ]
        assert cells[0] == cells[1], (
            f"{path.name} is not what its source gives: run python tools/notebooks.py build"
        )


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_a_notebook_can_be_read_on_the_web(source):
    text = (ROOT / "notebooks" / f"{source.stem}.ipynb").read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert "widgets" not in notebook.metadata and tool.WIDGET not in text
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code[0].source == tool.setup_cell()
    assert all(len(cell.source.splitlines()) <= 22 for cell in code[1:])
    assert not re.search(r"[\"' (]/(home|root|tmp|work|Users)/", text), "a path of one machine"
    assert "audio/" not in text and "base64,UklG" not in text, "sound of the corpora"
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    first = notebook.cells[0].source
    for words in (
        "**Goal",
        "**You will be able to**",
        "**Prerequisites",
        "| smoke ",
        "| laptop ",
        "| colab ",
    ):
        assert words in first, words
    rest = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    ends = ("## Summary", "## Glossary", "## Where in the library, where in the paper")
    for words in (*ends, "**Predict", "<details>"):
        assert words in rest, words
