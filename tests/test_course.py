"""The course's clock, which counts the runs of a notebook that were stopped; and notebooks that are whole or not there."""

import json
from types import SimpleNamespace

import nbformat
import pytest

from distilwhisper_lib.lab import course
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.presets import get_preset


@pytest.fixture
def clock(monkeypatch):
    """The time that the course sees, in a list of one number."""
    now = [100.0]
    monkeypatch.setattr(course.time, "perf_counter", lambda: now[0])
    return now


def test_a_stopped_notebook_goes_on_with_its_seconds(clock, tmp_path):
    path = tmp_path / "so-far.json"
    watch = course.Stopwatch(path, "01")
    clock[0] += 3
    assert watch() == 3 and not path.exists()  # noted every few seconds
    clock[0] += 17
    assert watch() == 20
    clock[0] += 2  # here it is killed: two seconds are lost
    again = course.Stopwatch(path, "01")
    clock[0] += 10
    assert again() == 30 and course.Stopwatch(path, "02")() == 0
    assert again(done=True) == 30 and json.loads(path.read_text()) == {}


def test_the_time_of_a_notebook_counts_its_stopped_run(clock, tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path))
    lab, stops = Lab("smoke"), iter([True, False])

    def run(path, folder, watch):
        clock[0] += 40
        watch()
        if next(stops):
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(course, "run_notebook", run)
    with pytest.raises(KeyboardInterrupt):
        course.run_course(lab, ["03"])
    assert not (lab.results / "timing.json").exists()
    course.run_course(lab, ["03"])
    assert json.loads((lab.results / "timing.json").read_text()) == {"03_distillation": 80}


def test_a_notebook_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, folder = tmp_path / "00_a.ipynb", tmp_path / "results"
    nbformat.write(nbformat.v4.new_notebook(), path)
    monkeypatch.setattr(course.Runner, "execute", lambda self: None)

    def killed(notebook, target):
        target.write_text('{"cells": ')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(course.nbformat, "write", killed)
        course.run_notebook(path, folder, None)
    assert not (folder / path.name).exists()
    assert course.run_notebook(path, folder, None) and not course.run_notebook(path, folder, None)
    assert sorted(file.name for file in folder.iterdir()) == [path.name]


def test_the_disk_that_a_preset_needs_grows_with_its_student(monkeypatch):
    needed = {
        name: course.disk_needed(get_preset(name)) for name in ("smoke", "laptop", "colab", "paper")
    }
    assert needed["smoke"] < 1 and needed["laptop"] == course.DISK_GB == 4.0
    assert 10 < needed["colab"] == needed["paper"] < 13  # systems three times as large
    for free, enough in ((needed["colab"] + 0.1, True), (needed["colab"] - 0.1, False)):
        monkeypatch.setattr(
            course.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free * 1e9)
        )
        if enough:
            course.announce(Lab("colab"))
        else:
            with pytest.raises(
                OSError, match=r"GB free, the course needs about 1\d.\d GB: free some"
            ):
                course.announce(Lab("colab"))


def test_a_course_that_is_stopped_says_that_it_goes_on(monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("LAB_PRESET", "smoke")  # put back afterwards: it is set for the kernels
    monkeypatch.setattr(course.sys, "argv", ["course"])
    for name in ("announce", "prepare", "release_memory"):
        monkeypatch.setattr(course, name, lambda *_: None)
    monkeypatch.setattr(course, "run_course", stopped)
    with pytest.raises(SystemExit, match="stopped: the same command goes on from here"):
        course.main()
