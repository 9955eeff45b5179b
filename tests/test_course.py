"""The course from the command line: its stopwatch, notebooks written atomically, disk, stopping."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.lab import course, course_steps, notebook_runner
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.lab.notebook_runner import Stopwatch, run_notebook, write_report
from distilwhisper_lib.presets import get_preset

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def clock(monkeypatch):
    """The time that the course sees, in a list of one number."""
    now = [100.0]
    monkeypatch.setattr(course_steps.time, "perf_counter", lambda: now[0])
    return now


def test_a_stopped_notebook_continues_to_count_its_seconds(clock, tmp_path):
    path = tmp_path / "so-far.json"
    watch = Stopwatch(path, "01")
    clock[0] += 3
    assert watch.tick() == 3
    assert not path.exists()  # saved every few seconds
    clock[0] += 17
    assert watch.tick() == 20
    clock[0] += 2  # here it is killed: two seconds are lost
    again = Stopwatch(path, "01")
    clock[0] += 10
    assert again.tick() == 30
    assert Stopwatch(path, "02").tick() == 0
    assert again.stop() == 30
    assert json.loads(path.read_text()) == {}


def test_the_time_of_a_notebook_includes_its_stopped_run(clock, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    lab = Lab("smoke")
    stops = iter([True, False])

    def run(path, folder, watch, contents):
        clock[0] += 40
        watch.tick()
        if next(stops):
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(course_steps, "run_notebook", run)
    with pytest.raises(KeyboardInterrupt):
        course_steps.run_course(lab, ["03"])
    assert not (lab.results / "timing.json").exists()
    course_steps.run_course(lab, ["03"])
    assert json.loads((lab.results / "timing.json").read_text()) == {"03_distillation": 80}


def test_a_notebook_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "00_a.ipynb"
    folder = tmp_path / "results"
    nbformat.write(nbformat.v4.new_notebook(), path)
    monkeypatch.setattr(notebook_runner.Runner, "execute", lambda self: None)

    def killed(notebook, target):
        target.write_text('{"cells": ')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(notebook_runner.nbformat, "write", killed)
        run_notebook(path, folder)
    assert not (folder / path.name).exists()
    assert run_notebook(path, folder)
    assert not run_notebook(path, folder)
    assert sorted(file.name for file in folder.iterdir()) == [path.name]


def test_a_notebook_runs_again_where_settings_models_or_clips_have_changed(
    tmp_path, monkeypatch, capsys
):
    path = tmp_path / "00_a.ipynb"
    folder = tmp_path / "results"
    nbformat.write(nbformat.v4.new_notebook(), path)
    monkeypatch.setattr(notebook_runner.Runner, "execute", lambda self: None)
    assert run_notebook(path, folder, contents="first")
    assert not run_notebook(path, folder, contents="first")
    assert not run_notebook(path, folder)  # not known
    assert run_notebook(path, folder, contents="second")
    assert "00_a: settings, models or clips have changed since it ran" in capsys.readouterr().err

    lab = Lab("smoke")
    assert course_steps._contents_of(lab) is None  # nothing is prepared
    for test in lab.test_sets.values():
        load_corpus(test.corpus, test.language)
    usual = course_steps._contents_of(lab)
    assert usual == course_steps._contents_of(Lab("smoke", minutes="9 min"))
    assert usual != course_steps._contents_of(Lab("smoke", batch_size=2))


@pytest.mark.parametrize("content", ["", '{"cells": ', "{}", "[]", "null", '{"cells": 3}'])
def test_a_damaged_executed_notebook_is_set_aside_and_run_again(
    content, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "00_a.ipynb"
    folder = tmp_path / "results"
    nbformat.write(nbformat.v4.new_notebook(), path)
    monkeypatch.setattr(notebook_runner.Runner, "execute", lambda self: None)
    run_notebook(path, folder)
    executed = (folder / path.name).read_text()
    (folder / path.name).write_text(content)
    assert run_notebook(path, folder)
    assert (folder / path.name).read_text() == executed
    assert (folder / "00_a.ipynb.damaged-1").read_text() == content
    assert "kept as 00_a.ipynb.damaged-1, computed anew" in capsys.readouterr().err
    assert not run_notebook(path, folder)


def test_the_disk_that_a_preset_needs_grows_with_its_student(monkeypatch):
    needed = {}
    for name in ("smoke", "toy", "laptop", "colab", "paper"):
        needed[name] = course_steps.gigabytes_needed(get_preset(name))
    assert needed["smoke"] == needed["toy"] < 1
    assert needed["laptop"] == course_steps.DISK_GB == 4.0
    assert 10 < needed["colab"] == needed["paper"] < 13  # trained systems of three times the size


@pytest.mark.parametrize(("spare", "enough"), [(0.1, True), (-0.1, False)])
def test_a_disk_that_is_too_full_is_told_before_the_course_begins(spare, enough, monkeypatch):
    free = course_steps.gigabytes_needed(get_preset("colab")) + spare
    usage = SimpleNamespace(free=free * 1e9)
    monkeypatch.setattr(course_steps.shutil, "disk_usage", lambda _: usage)
    if enough:
        course_steps.announce(Lab("colab"))
        return
    with pytest.raises(OSError, match=r"GB free, the course needs about 1\d.\d GB: free some"):
        course_steps.announce(Lab("colab"))


@pytest.mark.parametrize("only", [None, ["00", "01"]])
def test_the_command_runs_every_step_with_the_preset_that_it_is_given(only, monkeypatch):
    monkeypatch.setenv("LAB_PRESET", "laptop")  # restored afterwards: the command sets it
    steps = []
    for name in ("announce", "prepare", "check", "run_course", "finish"):
        monkeypatch.setattr(
            course_steps, name, lambda *given, name=name: steps.append((name, given))
        )
    course.main(["--preset", "smoke", *(["--only", *only] if only else [])])
    names = ["announce", "prepare", "check", "run_course"]
    assert [name for name, _ in steps] == (names if only else [*names, "finish"])
    lab, numbers = dict(steps)["run_course"]
    assert lab.preset.name == course_steps.os.environ["LAB_PRESET"] == "smoke"
    assert numbers == only


def test_what_would_stop_a_later_notebook_is_told_before_the_first(monkeypatch):
    lab = Lab("smoke", learning_rates={"teacher": 1e-3, "lora": 1e-3})
    message = "nothing was computed.*no learning rate for 'fine-tuning'.*no learning rate for 'expe"
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        course_steps.check(lab)
    course_steps.check(lab, ["00"])  # a notebook that trains nothing


def test_notebooks_with_a_finished_cache_that_cannot_be_written_are_not_refused(monkeypatch):
    monkeypatch.setattr(course_steps, "can_write", lambda folder: False)
    monkeypatch.setattr(course_steps, "preflight", lambda *_: pytest.fail("it was looked for more"))
    course_steps.check(Lab("smoke"), ["00"])


def test_a_relative_folder_reaches_the_kernels_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAB_CACHE", "own-cache")
    code = (
        "import os\n"
        "from distilwhisper_lib.files import cache_dir\n"
        "print(os.environ['LAB_CACHE'], cache_dir())"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / "00_a.ipynb")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert run_notebook(tmp_path / "notebooks" / "00_a.ipynb", tmp_path / "results")
    executed = nbformat.read(tmp_path / "results" / "00_a.ipynb", as_version=4)
    folder = tmp_path / "own-cache"
    assert executed.cells[0].outputs[0].text.split() == [str(folder), str(folder)]


def test_help_is_printed_without_importing_what_the_course_needs():
    program = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "from distilwhisper_lib.lab import course\n"
        "try:\n    course.main()\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'datasets', 'nbclient'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--preset" in done.stdout and "--only" in done.stdout


def test_the_report_shows_results_without_code_progress_bars_and_warnings(tmp_path):
    cell = nbformat.v4.new_code_cell("print('a')")
    outputs = (("stdout", "the table"), ("stderr", "100%|####| 3/3 batches"))
    cell.outputs = [
        nbformat.v4.new_output("stream", name=name, text=text) for name, text in outputs
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "run.ipynb")
    write_report(tmp_path / "run.ipynb", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the table" in page and "batches" not in page and "print(" not in page
