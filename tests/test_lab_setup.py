"""The first cell of a notebook: what it installs, and what it leaves alone."""

import importlib.metadata
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "notebooks"))
import lab_setup

CELL = (Path(lab_setup.__file__).parent / "source" / "setup_cell.py").read_text(encoding="utf-8")
NEEDED = [lab_setup._name(requirement) for requirement in lab_setup.requirements()]
AGAIN = "restart the runtime, then run this cell again"

LISTED = (Path(__file__).parent / "colab-versions.txt").read_text(encoding="utf-8").splitlines()
ON_COLAB = dict(line.split("==") for line in LISTED if not line.startswith("#"))
ON_COLAB["torch"] += "+cu128"

# Packages of an older runtime, which are too old for us
OLDER = {"datasets": "3.6.0", "pyarrow": "17.0.0", "transformers": "5.14.1"}


@pytest.fixture
def calls(monkeypatch):
    """Collects (command, its constraints) instead of running pip; nothing is imported."""
    found = []

    def run(command, **_):
        constraints = Path(command[command.index("-c") + 1])
        found.append((command, constraints.read_text(encoding="utf-8")))

    monkeypatch.setattr(lab_setup.subprocess, "run", run)
    monkeypatch.setattr(lab_setup, "imported_packages", set)
    return found


@pytest.fixture
def colab(monkeypatch):
    """A function that runs the installation with Colab's packages, some modules imported.

    It returns the constraints of each call of pip. `older`: other versions than Colab's.
    `fails`: how many calls fail. `install.asked`: what the last call was to install.
    """

    def install(*imported, older=None, fails=0):
        versions = dict.fromkeys(NEEDED, "999") | ON_COLAB | (older or {})
        missing = {"jiwer", "sacrebleu"}
        tried = []

        def version(name):
            if name in missing or name not in versions:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name]

        def run(command, check):
            place = command.index("-c") + 1
            tried.append(command[place].read_text(encoding="utf-8").splitlines())
            install.asked = command[place + 1 :]
            if len(tried) <= fails:
                raise subprocess.CalledProcessError(1, command)

        modules = {name.replace("-", "_"): [name] for name in versions}
        kernel = SimpleNamespace(modules=dict.fromkeys(imported), executable=sys.executable)
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "version", version)
            patch.setattr(importlib.metadata, "packages_distributions", lambda: modules)
            patch.setattr(lab_setup.subprocess, "run", run)
            patch.setattr(lab_setup, "sys", kernel)
            lab_setup.install_missing()
        return tried

    return install


def project(folder, *dependencies):
    """Write a pyproject.toml with these dependencies, and return its folder."""
    text = f"[project]\ndependencies = {list(dependencies)!r}\n"
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")
    return folder


def test_only_what_is_missing_or_too_old_is_installed(tmp_path):
    here = importlib.metadata.version("jiwer")
    present = [f"jiwer>={here}", "pandas"]
    missing = ["peft>=999", "not-a-package-of-anyone>=1"]
    never_installed = ["torch>=999", "numpy>=999"]
    root = project(tmp_path, *present, *missing, *never_installed)
    assert lab_setup.missing_requirements(root) == missing


def test_this_environment_lacks_nothing(calls):
    assert lab_setup.missing_requirements() == []
    lab_setup.install_missing()
    assert calls == []


def test_numpy_and_torch_keep_their_versions(monkeypatch, calls):
    monkeypatch.setattr(lab_setup, "missing_requirements", lambda: ["peft>=999"])
    lab_setup.install_missing()
    command, constraints = calls[0]
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-1] == "peft>=999"
    version = importlib.metadata.version
    start = f"numpy=={version('numpy')}\ntorch=={version('torch')}\n"
    assert constraints.startswith(start)
    pins = constraints.removeprefix(start).splitlines()
    assert lab_setup._pins()["peft"] in pins
    assert not [pin for pin in pins if pin.startswith(("numpy=", "torch=", "jiwer="))]


def test_pins_that_do_not_fit_are_left_out_and_it_is_said(monkeypatch, capsys):
    tried = []

    def run(command, check):
        constraints = Path(command[command.index("-c") + 1]).read_text(encoding="utf-8")
        tried.append(constraints.splitlines())
        if len(tried) == 1:
            raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(lab_setup.subprocess, "run", run)
    monkeypatch.setattr(lab_setup, "imported_packages", set)
    monkeypatch.setattr(lab_setup, "missing_requirements", lambda: ["peft>=999"])
    lab_setup.install_missing()
    with_pins, without = tried
    assert [line.split("==")[0] for line in without] == ["numpy", "torch"] and with_pins > without
    assert "the pinned versions do not fit what is installed here" in capsys.readouterr().out


def test_a_name_is_found_however_it_is_written():
    pins = lab_setup.pins_of(["huggingface_hub>=999"])
    assert [pin for pin in pins if pin.startswith("huggingface-hub==")]


def test_a_fresh_kernel_on_colab_gets_what_colab_lacks(colab):
    (constraints,) = colab("os", "numpy")
    assert [lab_setup._name(requirement) for requirement in colab.asked] == ["jiwer", "sacrebleu"]
    assert constraints[:2] == ["numpy==2.1.3", "torch==2.11.0+cu128"]
    pinned = {line.split("==")[0] for line in constraints[2:]}
    assert {"jiwer", "sacrebleu"} <= pinned
    assert not set(ON_COLAB) & pinned  # new enough there: the kernel's stay


def test_a_fresh_kernel_of_an_older_runtime_gets_the_pins_of_what_is_too_old(colab):
    (constraints,) = colab("os", "numpy", older=OLDER)
    assert {lab_setup._name(text) for text in colab.asked} == {"jiwer", "sacrebleu", *OLDER}
    pinned = {line.split("==")[0] for line in constraints[2:]}
    assert {"jiwer", "sacrebleu", *OLDER} <= pinned
    assert not (set(ON_COLAB) - set(OLDER)) & pinned


@pytest.mark.parametrize(
    ("imported", "named"),
    [
        (["pandas", "pyarrow"], "pyarrow 17.0.0, but pyarrow>="),
        (["transformers", "huggingface_hub"], "transformers 5.14.1, but transformers>="),
        (["datasets", "pyarrow"], "datasets 3.6.0, pyarrow 17.0.0, but datasets>="),
    ],
)
def test_nothing_is_installed_under_a_module_that_is_imported(imported, named, colab, capsys):
    with pytest.raises(RuntimeError, match=f"imported already: {named}.*: {AGAIN}"):
        colab(*imported, older=OLDER)
    assert "installing" not in capsys.readouterr().out


def test_what_is_imported_and_new_enough_keeps_its_version(colab):
    (constraints,) = colab("pandas", "huggingface_hub")
    assert {"pandas==2.2.3", "huggingface-hub==1.27.0"} <= set(constraints)
    names = [line.split("==")[0] for line in constraints]
    assert len(names) == len(set(names))  # pip refuses two pins of one package


def test_where_nothing_fits_what_is_imported_a_restart_is_advised(colab, capsys):
    message = re.escape("is imported already (huggingface-hub, pandas), ") + AGAIN
    with pytest.raises(RuntimeError, match=message):
        colab("pandas", "huggingface_hub", "numpy", fails=2)
    assert "the pinned versions do not fit" in capsys.readouterr().out
    with pytest.raises(subprocess.CalledProcessError):  # a restart would not help
        colab("numpy", fails=2)


def test_without_torch_nothing_is_installed(monkeypatch, calls):
    monkeypatch.setattr(lab_setup, "_is_installed", lambda name: name != "torch")
    monkeypatch.setattr(lab_setup, "missing_requirements", lambda: ["peft>=999"])
    with pytest.raises(RuntimeError, match="torch is not installed in this kernel"):
        lab_setup.open_lab("smoke")
    assert calls == []


def test_settings_can_be_changed_after_the_first_cell(calls):
    lab = lab_setup.open_lab("smoke", epochs=3, teacher="tiny")
    assert lab.preset.name == "smoke"
    assert lab.preset.epochs == 3
    assert lab.preset.teacher == "tiny"
    assert calls == []


@pytest.mark.parametrize(
    ("preset", "variable", "gpu", "offered"),
    [
        (None, None, True, True),
        (None, "", True, True),
        (None, None, False, False),
        ("smoke", None, True, False),
        (None, "smoke", True, False),
    ],
)
def test_where_a_gpu_is_and_no_preset_is_chosen_colab_is_offered(
    preset, variable, gpu, offered, monkeypatch, capsys
):
    import torch

    monkeypatch.delenv("LAB_PRESET", raising=False)
    if variable is not None:
        monkeypatch.setenv("LAB_PRESET", variable)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    lab_setup.offer_gpu(preset)
    line = 'a GPU is here: set PRESET = "colab" above for openai/whisper-small\n'
    assert capsys.readouterr().out == (line if offered else "")
    assert re.search(r"^PRESET = None  # .*\"colab\"", CELL, flags=re.M)


def test_a_reader_is_not_told_what_peft_calls_by_its_old_name(calls):
    from peft import get_peft_model

    from distilwhisper_lib import lora_config

    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        lab = lab_setup.open_lab("smoke")
        get_peft_model(lab.student(), lora_config())
        with pytest.raises(FutureWarning):
            warnings.warn("another", FutureWarning, stacklevel=1)


@pytest.mark.parametrize("preset", ["smoke", "toy", "laptop"])
def test_where_the_committed_outputs_are_of_another_preset_it_is_said(preset, calls, capsys):
    lab_setup.open_lab(preset)
    line = '"Read, at laptop" speaks of real speech: your output may differ\n'
    assert (line in capsys.readouterr().out) == (preset != "laptop")


def test_without_a_choice_the_lab_opens_at_toy_and_then_offers(monkeypatch, calls, capsys):
    monkeypatch.delenv("LAB_PRESET", raising=False)
    monkeypatch.setattr(lab_setup, "offer_gpu", lambda preset: print(f"offered at {preset}"))
    assert lab_setup.open_lab().preset.name == "toy"
    assert capsys.readouterr().out.endswith("offered at None\n")


def test_the_first_cell_clones_the_project_where_it_is_missing(tmp_path, monkeypatch):
    project = tmp_path / "project"
    files = {
        "distilwhisper_lib/__init__.py": "",
        "notebooks/lab_setup.py": "def open_lab(preset): return __file__",
    }
    for name, text in files.items():
        path = project / name
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    author = ["-c", "user.name=a", "-c", "user.email=a"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=project, check=True)

    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("LAB_REPOSITORY", str(project))
    monkeypatch.delitem(sys.modules, "lab_setup")
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict = {}
    for _ in range(2):  # the second time it is there
        exec(CELL, names)
        assert names["lab"] == str(empty / "distilwhisper-lab" / "notebooks" / "lab_setup.py")


@pytest.mark.parametrize(("inside", "base"), [(True, "project"), (False, "elsewhere")])
def test_relative_folders_are_those_of_make(inside, base, tmp_path, monkeypatch):
    project = tmp_path / "project"
    for folder in (project / "notebooks", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(project / "notebooks" if inside else tmp_path / "elsewhere")
    monkeypatch.setenv("LAB_CACHE", "own-cache")
    monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "absolute"))
    monkeypatch.delenv("LAB_DATA", raising=False)
    lab_setup.resolve_folders(project)
    assert lab_setup.os.environ["LAB_CACHE"] == str(tmp_path / base / "own-cache")
    assert lab_setup.os.environ["LAB_RESULTS"] == str(tmp_path / "absolute")
    assert "LAB_DATA" not in lab_setup.os.environ


def test_the_variables_of_folders_are_those_of_the_library():
    from distilwhisper_lib import files

    assert lab_setup.FOLDER_VARIABLES == files.FOLDER_VARIABLES
