"""The files that make the environment agree with each other, and with what the code imports."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from distilwhisper_lib import course
from distilwhisper_lib.corpora import download_size
from distilwhisper_lib.presets import get_preset
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = ["pyproject.toml", "requirements.lock", "environment.yml", "Makefile", ".ci/run", "tools/setup_env.py",
         "tools/update_lock.py"]  # fmt: skip


def load_tool(name):
    """Import a file of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env, update_lock = load_tool("setup_env"), load_tool("update_lock")
PINS = update_lock.read_pins(ROOT / "requirements.lock")
VERSIONS = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in PINS}


def test_every_line_of_the_lock_is_one_pin():
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", pin) for pin in PINS)
    assert len(VERSIONS) == len(PINS) > 50
    assert not [name for name in VERSIONS if name.startswith(("nvidia", "cuda", "triton"))]


def test_conda_gets_the_pins_of_the_lock():
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == update_lock.conda_text(PINS)


def test_conda_file_is_well_formed():
    yaml = pytest.importorskip("yaml")
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = content["dependencies"]
    assert conda == ["python=3.11", "pip"] and pip == {"pip": PINS}


def test_pins_are_within_the_ranges_of_the_project():
    extras = sum(PROJECT["optional-dependencies"].values(), [])
    for requirement in map(Requirement, [*PROJECT["dependencies"], *extras]):
        version = VERSIONS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} does not admit {version}"


def test_no_file_names_an_index():
    for name in FILES:
        text = (ROOT / name).read_text(encoding="utf-8")
        found = re.findall(r"https?:|file:|\w+\.(?:org|com|io|dev)\b|index-url|find-links", text)
        assert not found, f"{name} names {found}"


def imported(path):
    """Return the top-level names of what a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def test_every_package_of_the_library_is_installed():
    folders = {path.parent for path in (ROOT / "distilwhisper_lib").rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert names == set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])


def test_library_imports_only_what_the_project_declares():
    declared = {canonicalize_name(Requirement(text).name)
                for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["course"]]}  # fmt: skip
    declared.add("ctranslate2")  # of the extra "test"; without it export_ctranslate2 says what is missing
    distributions = packages_distributions()
    for path in sorted((ROOT / "distilwhisper_lib").rglob("*.py")):
        for name in set(imported(path)) - sys.stdlib_module_names - {"distilwhisper_lib"}:
            packages = {canonicalize_name(package) for package in distributions.get(name, [name])}
            assert packages & declared, f"{path.name} imports {name}: add it to pyproject.toml and the lock"


def test_environment_fits_the_lock():
    """What runs the tests is what the lock says (skipped in an environment of one's own)."""
    from importlib.metadata import PackageNotFoundError, version

    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("not run from .venv")
    wrong = {}
    for name in ("torch", "transformers", "datasets", "peft", "jiwer", "numpy"):
        try:
            found = version(name).split("+")[0]
        except PackageNotFoundError:
            found = None
        if found != VERSIONS[name]:
            wrong[name] = found
    assert not wrong, "run make setup"


def test_cuda_builds_are_told():
    assert setup_env.is_cuda_build("2.13.0", ["filelock", 'nvidia-cublas==13; platform_system == "Linux"'])
    assert setup_env.is_cuda_build("2.13.0+cu130", ["triton==3.7"])
    assert not setup_env.is_cuda_build("2.13.0+cpu", ["filelock"])
    assert not setup_env.is_cuda_build("2.13.0", ["filelock"])


@pytest.mark.parametrize(("said", "expected"), [
    ("ERROR: [Errno 28] No space left on device", "disk is full"),
    ("NameResolutionError: Temporary failure in name resolution", "no network"),
    ("ERROR: No matching distribution found for torch==2.13.0", "another|3.12"),
    ("Failed to fetch from download.pytorch, dns error", "PyTorch's own index"),
    ("something new", "message above"),
])  # fmt: skip
def test_advice_fits_what_pip_says(said, expected):
    assert re.search(expected, setup_env.advice(said))


def test_failed_installation_stops_with_its_last_lines_and_an_advice():
    command = [sys.executable, "-c", "print('a' * 5); print('No space left on device'); raise SystemExit(1)"]
    with pytest.raises(SystemExit, match=r"(?s)No space left.*Installing torch failed: the disk is full"):
        setup_env.run(command, "torch")


def test_what_the_course_needs_is_said_before_the_installation():
    p, speech = get_preset("laptop"), sum(map(download_size, ("fillets", "stamps")))
    weights = course.WEIGHTS[p.student].strip(" ()")
    for fact in (p.minutes, f"{p.memory} of memory", f"{course.DISK_GB} GB more of disk", "7 GB are free",
                 f"{speech / 1e6:.0f} MB of speech", f"{weights} of weights"):  # fmt: skip
        assert fact in setup_env.COURSE.format(free=7.2)


def test_old_python_and_full_disk_are_told(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"Python 3\.9\.2 is too old.*PYTHON="):
        setup_env.check_python()
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1.2e9}))
    with pytest.raises(SystemExit, match=r"Only 1\.2 GB are free.*takes 2\.5 GB"):
        setup_env.check_disk()


def test_missing_venv_module_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    done = subprocess.CompletedProcess([], 1, "The virtual environment was not created because ensurepip is not\n", "")
    monkeypatch.setattr(setup_env.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SystemExit, match=r"apt-get install python3-venv"):
        setup_env.make_venv(tmp_path / "bin" / "python")


def test_help_lists_every_command():
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line.split()[1] for line in done.stdout.splitlines()[:-1]] == [
        "help", "setup", "course", "test", "lab", "clean", "distclean"]  # fmt: skip
