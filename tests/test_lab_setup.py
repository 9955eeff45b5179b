"""What the first cell of a notebook installs, and what it leaves alone."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "notebooks"))
import lab_setup

CELL = (Path(lab_setup.__file__).parent / "source" / "setup_cell.py").read_text()


@pytest.fixture
def calls(monkeypatch):
    """Collects (command, content of its constraints) instead of running pip."""
    found = []
    monkeypatch.setattr(
        lab_setup.subprocess,
        "run",
        lambda command, **_: found.append(
            (command, Path(command[command.index("-c") + 1]).read_text())
        ),
    )
    return found


def project(folder, *dependencies):
    (folder / "pyproject.toml").write_text(f"[project]\ndependencies = {list(dependencies)!r}\n")
    return folder


def test_only_what_is_missing_or_too_old_is_asked_for(tmp_path):
    here = importlib.metadata.version("jiwer")
    root = project(
        tmp_path,
        f"jiwer>={here}",
        "pandas",
        "peft>=999",
        "not-a-package-of-anyone>=1",
        "torch>=999",
        "numpy>=999",
    )
    assert lab_setup.missing_requirements(root) == ["peft>=999", "not-a-package-of-anyone>=1"]


def test_this_environment_lacks_nothing(calls):
    assert lab_setup.missing_requirements() == []
    lab_setup.install_missing()
    assert calls == []


def test_numpy_and_torch_are_held_at_their_versions(monkeypatch, calls):
    monkeypatch.setattr(lab_setup, "missing_requirements", lambda: ["peft>=999"])
    lab_setup.install_missing()
    (command, held), version = calls[0], importlib.metadata.version
    assert command[:4] == [sys.executable, "-m", "pip", "install"] and command[-1] == "peft>=999"
    assert held == f"numpy=={version('numpy')}\ntorch=={version('torch')}\n"


def test_without_torch_nothing_is_installed(monkeypatch, calls):
    monkeypatch.setattr(lab_setup, "_here", lambda name: name != "torch")
    monkeypatch.setattr(lab_setup, "missing_requirements", lambda: ["peft>=999"])
    with pytest.raises(RuntimeError, match="torch is not installed in this kernel"):
        lab_setup.open_lab("smoke")
    assert calls == []


def test_settings_can_be_changed_where_the_first_cell_has_run(calls):
    lab = lab_setup.open_lab("smoke", epochs=3, teacher="tiny")
    assert (lab.preset.name, lab.preset.epochs, lab.preset.teacher) == (
        "smoke",
        3,
        "tiny",
    ) and calls == []


def test_the_first_cell_clones_the_project_where_it_is_not_there(tmp_path, monkeypatch):
    project, empty = tmp_path / "project", tmp_path / "empty"
    for path, text in (
        ("distilwhisper_lib/__init__.py", ""),
        ("notebooks/lab_setup.py", "def open_lab(preset): return __file__"),
    ):
        (project / path).parent.mkdir(parents=True)
        (project / path).write_text(text)
    me = ["-c", "user.name=a", "-c", "user.email=a"]
    for words in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=project, check=True)
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("LAB_REPOSITORY", str(project))
    monkeypatch.delitem(sys.modules, "lab_setup")
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict = {}
    for _ in range(2):  # the second time it is there
        exec(CELL, names)
        assert names["lab"] == str(empty / "distilwhisper-lab" / "notebooks" / "lab_setup.py")
