"""The files that make the environment agree with each other, and with what the code imports."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from distilwhisper_lib.data.corpora.packages import download_size
from distilwhisper_lib.lab import course
from distilwhisper_lib.presets import get_preset

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
FILES = [
    "pyproject.toml",
    "requirements.lock",
    "environment.yml",
    "Makefile",
    ".ci/run",
    "tools/setup_env.py",
    "tools/update_lock.py",
]


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
    assert names == set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )


def test_library_imports_only_what_the_project_declares():
    declared = {
        canonicalize_name(Requirement(text).name)
        for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["course"]]
    }
    declared.add(
        "ctranslate2"
    )  # of the extra "test"; without it export_ctranslate2 says what is missing
    distributions = packages_distributions()
    for path in sorted((ROOT / "distilwhisper_lib").rglob("*.py")):
        for name in set(imported(path)) - sys.stdlib_module_names - {"distilwhisper_lib"}:
            packages = {canonicalize_name(package) for package in distributions.get(name, [name])}
            assert packages & declared, (
                f"{path.name} imports {name}: add it to pyproject.toml and the lock"
            )


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
    assert setup_env.is_cuda_build(
        "2.13.0", ["filelock", 'nvidia-cublas==13; platform_system == "Linux"']
    )
    assert setup_env.is_cuda_build("2.13.0+cu130", ["triton==3.7"]) and setup_env.is_cuda_build(
        "2.13.0+cu130", []
    )
    assert not setup_env.is_cuda_build("2.13.0+cpu", ["filelock"])
    assert not setup_env.is_cuda_build("2.13.0", ["filelock"])


CPU, CUDA, NONE = ("+cpu", False), ("", True), None
PIN = f"torch=={VERSIONS['torch']}"
FOR_GPUS = ["-m pip install", "--force-reinstall --no-deps", PIN]


@pytest.fixture
def installs(monkeypatch):
    """Return a function from what is there and what is asked for to the installations, none of which is done."""

    def install(there, gpu, version=VERSIONS["torch"], after=True):
        said, states = (
            [],
            iter(
                [("", False) if there is None else (version + there[0], there[1]), (version, after)]
            ),
        )
        monkeypatch.setattr(setup_env, "installed_torch", lambda _: next(states))
        monkeypatch.setattr(setup_env, "brings_cuda", lambda *_: True)
        monkeypatch.setattr(setup_env.sys, "platform", "linux")
        monkeypatch.setattr(
            setup_env, "run", lambda command, _: said.append(" ".join(map(str, command)))
        )
        setup_env.install_torch(Path("python"), gpu)
        return said

    return install


@pytest.mark.parametrize(
    ("there", "gpu", "version", "expected"),
    [
        (NONE, False, None, ["--torch-backend=cpu", PIN]),
        (NONE, True, None, FOR_GPUS),
        (CPU, True, None, FOR_GPUS),
        (CPU, False, None, None),
        (CUDA, False, None, None),
        (CUDA, True, None, None),  # None: what is there stays
        (CPU, False, "1.0", ["--torch-backend=cpu", PIN]),
        (CUDA, False, "1.0", FOR_GPUS),
        (CUDA, True, "1.0", FOR_GPUS),
    ],
)
def test_torch_is_the_cpu_s_build_unless_that_for_gpus_is_asked_for_or_there(
    there, gpu, version, expected, installs
):
    said = installs(there, gpu, version or VERSIONS["torch"])
    assert bool(said) == (expected is not None)
    assert all(words in said[-1] for words in expected or [])
    assert not any("torch-backend" in line for line in said) or not any(
        "force" in line for line in said
    )


def test_a_cpu_build_in_place_of_that_for_gpus_is_told(installs):
    with pytest.raises(
        SystemExit, match=r"pip has found no build of torch==.* for GPUs: .*pip config list"
    ):
        installs(NONE, True, after=False)


def test_build_of_torch_is_read_from_what_is_installed():
    version, cuda = setup_env.installed_torch(Path(sys.executable))
    assert version.split("+")[0] == importlib.metadata.version("torch").split("+")[0]
    assert cuda == setup_env.is_cuda_build(version, importlib.metadata.requires("torch") or [])
    assert setup_env.installed_torch(Path(shutil.which("false"))) == ("", False)


@pytest.mark.parametrize(
    ("words", "cuda", "again"),
    [
        ([], False, False),
        ([], True, False),
        (["--gpu"], True, False),
        (["--gpu"], False, True),
    ],
)
def test_an_environment_that_is_ready_is_set_up_again_for_a_gpu_alone(
    words, cuda, again, monkeypatch, tmp_path
):
    called = []
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    (tmp_path / ".course-stamp").write_text("as it is")
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    monkeypatch.setattr(setup_env.sys, "platform", "linux")
    monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py", *words])
    monkeypatch.setattr(setup_env, "fingerprint", lambda _: "as it is")
    monkeypatch.setattr(setup_env, "installed_torch", lambda _: ("2.13.0", cuda))
    monkeypatch.setattr(setup_env, "about_gpu", lambda *_: "")
    monkeypatch.setattr(setup_env, "set_up", lambda *options: called.append(options[1:]))
    setup_env.main()
    assert called == ([(False, True)] if again else [])


def test_a_gpu_that_is_not_used_or_not_seen_is_told(monkeypatch):
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: name)
    monkeypatch.setattr(setup_env, "installed_torch", lambda _: ("2.13.0+cpu", False))
    assert "does not use the NVIDIA GPU: make setup GPU=1" in setup_env.about_gpu(
        Path("python"), gpu=False
    )
    monkeypatch.setattr(setup_env, "installed_torch", lambda _: ("2.13.0", True))
    assert setup_env.about_gpu(Path("python"), gpu=False) == ""
    for sees, expected in (("True\n", ""), ("False\n", "sees none"), ("", "sees none")):
        done = subprocess.CompletedProcess([], 0, sees, "")
        monkeypatch.setattr(setup_env.subprocess, "run", lambda *_, done=done, **__: done)
        assert expected in (said := setup_env.about_gpu(Path("python"), gpu=True)) and bool(
            said
        ) == bool(expected)


def test_build_for_gpus_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "platform", "darwin")
    monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py", "--gpu"])
    with pytest.raises(SystemExit, match="on Linux only"):
        setup_env.main()


@pytest.mark.parametrize(
    ("words", "asked"), [([], False), (["GPU=1"], True), (["GPU=0"], False), (["GPU="], False)]
)
def test_make_asks_for_the_build_for_gpus_where_it_is_told(words, asked):
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GPU", "MAKEFLAGS", "MAKEOVERRIDES")
    }
    for target in ("setup", "course"):
        command = ["make", "-n", target, *words]
        done = subprocess.run(
            command, cwd=ROOT, env=own, capture_output=True, text=True, check=True
        )
        assert ("setup_env.py --gpu" in done.stdout) == asked and "setup_env.py" in done.stdout


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ERROR: [Errno 28] No space left on device", "disk is full"),
        ("NameResolutionError: Temporary failure in name resolution", "no network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "another|3.12"),
        ("Failed to fetch from download.pytorch, dns error", "PyTorch's own index"),
        ("something new", "message above"),
    ],
)
def test_advice_fits_what_pip_says(said, expected):
    assert re.search(expected, setup_env.advice(said))


def test_failed_installation_stops_with_its_last_lines_and_an_advice():
    command = [
        sys.executable,
        "-c",
        "print('a' * 5); print('No space left on device'); raise SystemExit(1)",
    ]
    with pytest.raises(
        SystemExit, match=r"(?s)No space left.*Installing torch failed: the disk is full"
    ):
        setup_env.run(command, "torch")


def test_what_the_course_needs_is_said_before_the_installation():
    p, speech = get_preset("laptop"), sum(map(download_size, ("fillets", "stamps")))
    weights = course.WEIGHTS[p.student].strip(" ()")
    for fact in (
        p.minutes,
        f"{p.memory} of memory",
        f"{course.DISK_GB} GB more of disk",
        "7 GB are free",
        f"{speech / 1e6:.0f} MB of speech",
        f"{weights} of weights",
    ):
        assert fact in setup_env.COURSE.format(free=7.2)


def test_old_python_and_full_disk_are_told(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"Python 3\.9\.2 is too old.*PYTHON="):
        setup_env.check_python()
    monkeypatch.setattr(
        setup_env.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1.2e9})
    )
    with pytest.raises(SystemExit, match=r"Only 1\.2 GB are free.*takes 2\.5 GB"):
        setup_env.check_disk()
    with pytest.raises(SystemExit, match=r"takes 8 GB"):
        setup_env.check_disk(setup_env.GPU_GB)


def test_missing_venv_module_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    done = subprocess.CompletedProcess(
        [], 1, "The virtual environment was not created because ensurepip is not\n", ""
    )
    monkeypatch.setattr(setup_env.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SystemExit, match=r"apt-get install python3-venv"):
        setup_env.make_venv(tmp_path / "bin" / "python")


def test_help_lists_every_command():
    done = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [line.split()[1] for line in done.stdout.splitlines()[:-1]] == [
        "help",
        "setup",
        "course",
        "test",
        "lab",
        "clean",
        "distclean",
    ]
