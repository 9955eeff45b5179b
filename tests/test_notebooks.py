"""The notebooks and their solutions run at the smoke preset, and are what their sources give."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import nbformat
import pytest
from IPython.display import display

from distilwhisper_lib.lab.course_steps import BEYOND, course_notebooks

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "notebooks")]

import notebooks as tool  # noqa: E402 (tools/notebooks.py)

SOURCES = tool.sources()
NAMES = [path.stem for path in SOURCES]
WITH_EXERCISES = [path for path in SOURCES if tool.has_exercises(path)]
each_with_exercises = pytest.mark.parametrize(
    "source", WITH_EXERCISES, ids=[path.stem for path in WITH_EXERCISES]
)
PARTS = {"exercise", "stub", "solution", "also", "wrong", "check"}
WRONG_ANSWERS = 5  # at least, for each exercise
OTHER_KINDS = (
    "'text'",
    "True",
    "-1",
    "float('nan')",
    "float('inf')",
    "(1, None)",
    "[[1, 2], 'a']",
    "{}",
    "{3: 'a', 6: None}",
    "object()",
    "print",
    "__import__('numpy').zeros((2, 2))",
    "__import__('pandas').DataFrame({'a': [1]})",
    "__import__('torch').zeros(2, 3)",
)
SAYS = "# says: "  # what follows must be in the check's message


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


def exercises(source: Path) -> list[dict[str, list[str]]]:
    """Return the exercises of a source: the texts of their cells by tag."""
    found: list[dict[str, list[str]]] = []
    for cell in tool.read_source(source):
        for tag in tool.tags(cell) & PARTS:
            if tag == "exercise":
                found.append({part: [] for part in PARTS})
            found[-1][tag].append(cell.source)
    return found


def words_of(wrong: str) -> str:
    """Return what the check's message must contain, from the first line of a wrong answer."""
    first = wrong.splitlines()[0]
    assert first.startswith(SAYS), f"a wrong answer begins with {SAYS!r}:\n{wrong}"
    return first.removeprefix(SAYS)


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
    course = [name for name in NAMES if name[:2] not in BEYOND]
    assert sorted(path.stem for path in executed) == course
    run_course(tmp_path)
    assert {path: path.stat().st_mtime for path in executed} == executed

    run_course(tmp_path, *BEYOND)
    assert sorted(path.stem for path in folder.glob("*.ipynb")) == NAMES


def test_an_unknown_notebook_is_named():
    with pytest.raises(ValueError, match="no notebook 12: there are 00, 01, "):
        course_notebooks(["00", "12"])


@each_with_exercises
def test_solutions_run(source, smoke_settings, monkeypatch, capsys):
    monkeypatch.chdir(ROOT / "notebooks")
    names = {"__name__": "__main__", "display": display}  # as a kernel has them
    for cell in tool.code_cells(tool.build_solutions(source)):
        exec(cell.source, names)
    printed = capsys.readouterr().out
    assert printed.count("correct:") == len(exercises(source)), printed


@pytest.fixture
def outcome(smoke_settings, monkeypatch, capsys):
    """A function that runs cells, the last of them a check, and returns what the check prints."""
    monkeypatch.chdir(ROOT / "notebooks")
    setup: dict = {}
    exec(tool.setup_cell(), setup)

    def run(*cells: str) -> str:
        names = dict(setup)
        for cell in cells[:-1]:
            exec(cell, names)
        capsys.readouterr()
        exec(cells[-1], names)
        return capsys.readouterr().out

    return run


@each_with_exercises
def test_each_check_passes_right_answers_and_helps_with_wrong_ones(source, outcome):
    for part in exercises(source):
        title = part["exercise"][0][:80]
        stub, solution, check = ("\n".join(part[tag]) for tag in ("stub", "solution", "check"))
        assert "not attempted yet" in outcome(stub, check), title
        for also in ("", *part["also"]):
            printed = outcome(solution, also, check)
            assert "correct: " in printed, (title, also, printed)
        for number, wrong in enumerate(part["wrong"]):
            printed = outcome(solution, wrong, check)
            assert "not yet: " in printed, (title, wrong, printed)
            assert "your code raised" not in printed, (title, wrong, printed)
            if number > 0:
                assert words_of(wrong) in printed, (title, wrong, printed)


@each_with_exercises
def test_no_check_stumbles_over_an_answer_of_another_kind(source, outcome):
    for part in exercises(source):
        solution, check = part["solution"][0], part["check"][0]
        answers = re.search(r"^check\(\w+, (.+)\)$", check, re.MULTILINE)[1].split(", ")
        for name in answers:
            for other in OTHER_KINDS:
                for answer in (other, f"lambda *given: {other}"):
                    printed = outcome(solution, f"{name} = {answer}", check)
                    assert "not yet: " in printed, (name, answer, printed)
                    assert "your code raised" not in printed, (name, answer, printed)


@each_with_exercises
def test_each_exercise_has_enough_wrong_answers_and_a_solution_that_says_why(source):
    for part in exercises(source):
        title = part["exercise"][0][:80]
        assert len(set(part["wrong"])) >= WRONG_ANSWERS, title
        assert any("#" in solution for solution in part["solution"]), title


def test_a_notebook_has_three_exercises_and_the_appendix_none():
    numbers = {source.stem[:2]: len(exercises(source)) for source in SOURCES}
    assert numbers.pop("90") == 0
    assert set(numbers.values()) == {3}


# ---- committed notebooks


@each_with_exercises
def test_answers_for_the_tests_are_in_neither_notebook(source):
    built = (tool.build_notebook(source), tool.build_solutions(source))
    tags = {tag for notebook in built for cell in notebook.cells for tag in tool.tags(cell)}
    assert "check" in tags
    assert not tags & {"also", "wrong"}


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_each_prediction_has_a_line_for_it(source):
    cells = tool.build_notebook(source).cells
    asked = 0
    for cell, following in zip(cells, cells[1:], strict=False):
        if cell.cell_type == "markdown" and "**Predict:**" in cell.source:
            asked += 1
            assert "predict" in tool.tags(following), cell.source
            assert following.source.startswith("prediction = ...  # ")
    assert asked >= 4


def test_the_output_that_answers_a_prediction_is_folded():
    predict = partial(nbformat.v4.new_code_cell, "prediction = ...", metadata={"tags": ["predict"]})
    printed = [nbformat.v4.new_output("stream", text="1")]
    silent, first, second = (
        nbformat.v4.new_code_cell(outputs=out) for out in ([], printed, printed)
    )
    notebook = nbformat.v4.new_notebook(cells=[predict(), silent, first, second, predict()])
    tool.fold_what_is_predicted(notebook)
    folded = [cell for cell in notebook.cells if "hide-output" in tool.tags(cell)]
    assert folded == [first]


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_what_the_reader_builds_is_open_and_has_a_hint_and_a_folded_version(source):
    cells = tool.build_notebook(source).cells
    for number, cell in enumerate(cells):
        if "build" not in tool.tags(cell):
            continue
        assert "raise NotImplementedError  # your code here" in cell.source
        hint, fold = cells[number + 1 : number + 3]
        assert "hint" in tool.tags(hint)
        assert {"fold", "hide-input"} <= tool.tags(fold)
        assert fold.metadata["jupyter"]["source_hidden"]
        assert fold.source.startswith("if is_open(")


def test_outputs_stay_where_only_cells_that_print_nothing_come_or_go():
    def cell(source, tag=None, output=None):
        outputs = [nbformat.v4.new_output("stream", text=output)] if output else []
        made = nbformat.v4.new_code_cell(source, outputs=outputs)
        made.metadata = {"tags": [tag]} if tag else {}
        return made

    old = nbformat.v4.new_notebook(cells=[cell("a", output="1"), cell("b", output="2")])
    new = nbformat.v4.new_notebook(cells=[cell("a"), cell("p", "predict"), cell("b"), cell("c")])
    tool.keep_outputs(new, old)
    assert [len(one.outputs) for one in new.cells] == [1, 0, 1, 0]
    changed = nbformat.v4.new_notebook(cells=[cell("A"), cell("b")])
    tool.keep_outputs(changed, old)
    assert not any(one.outputs for one in changed.cells)


def test_outputs_stay_where_the_setup_cell_has_changed():
    """A new address of publication, say; a changed cell after it ends what is kept."""

    def cells(*sources, output=""):
        outputs = [nbformat.v4.new_output("stream", text=output)] if output else []
        made = [nbformat.v4.new_code_cell(source, outputs=outputs) for source in sources]
        made[0].metadata = {"tags": ["setup"]}
        return nbformat.v4.new_notebook(cells=made)

    new = cells("new address", "a", "B", "c")
    tool.keep_outputs(new, cells("old address", "a", "b", "c", output="1"))
    assert [len(one.outputs) for one in new.cells] == [1, 1, 0, 0]


def test_a_function_is_open_until_it_does_something():
    from exercise import is_open

    def stub(first):
        """Return something."""
        raise NotImplementedError  # your code here

    def half_written(first):
        total = sum(first)
        raise NotImplementedError(total)

    assert is_open(stub)
    assert not is_open(half_written)
    assert not is_open(lambda: 1)


@pytest.mark.parametrize("source", SOURCES, ids=NAMES)
def test_committed_notebooks_are_those_of_their_source(source):
    folder = ROOT / "notebooks"
    expected = {folder / f"{source.stem}.ipynb": tool.build_notebook(source)}
    solutions = folder / "solutions" / f"{source.stem}_solutions.ipynb"
    if source in WITH_EXERCISES:
        expected[solutions] = tool.build_solutions(source)
    else:
        assert not solutions.exists()
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
