"""What the first cell of a notebook installs, and what it leaves alone."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "notebooks"))
import lab_setup  # noqa: E402


@pytest.fixture
def calls(monkeypatch):
    """Collects (command, content of its constraints) instead of running pip."""
    found = []
    monkeypatch.setattr(lab_setup.subprocess, "run", lambda command, **_: found.append(
        (command, Path(command[command.index("-c") + 1]).read_text())))  # fmt: skip
    return found


def project(folder, *dependencies):
    (folder / "pyproject.toml").write_text(f"[project]\ndependencies = {list(dependencies)!r}\n")
    return folder


def test_only_what_is_missing_or_too_old_is_asked_for(tmp_path):
    here = importlib.metadata.version("jiwer")
    root = project(tmp_path, f"jiwer>={here}", "pandas", "peft>=999", "not-a-package-of-anyone>=1", "torch>=999", "numpy>=999")
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
