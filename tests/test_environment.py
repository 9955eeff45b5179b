"""The files of the environment agree with each other and with the code; make calls the programs."""

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

import distilwhisper_lib
from distilwhisper_lib.data.corpora.packages import download_size
from distilwhisper_lib.evaluation import testsets
from distilwhisper_lib.lab import course_steps
from distilwhisper_lib.method.model import DECODER_ASSISTS
from distilwhisper_lib.presets import get_preset

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FILES = [
    "pyproject.toml",
    "requirements.lock",
    "requirements-colab.lock",
    "constraints.txt",
    "environment.yml",
    "Makefile",
    ".ci/run",
    ".github/workflows/ci.yml",
    ".pre-commit-config.yaml",
    "tests/colab-versions.txt",
    "tools/colab_env.py",
    "tools/setup_env.py",
    "tools/update_lock.py",
]


def load_tool(name):
    """Import a file of tools/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load_tool("setup_env")
update_lock = load_tool("update_lock")
PINS = update_lock.read_pins(ROOT / "requirements.lock")
CONSTRAINTS = update_lock.read_pins(ROOT / "constraints.txt")
VERSIONS = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in CONSTRAINTS}
ON_COLAB = dict(
    pin.split("==") for pin in update_lock.read_pins(ROOT / "tests" / "colab-versions.txt")
)
SYSTEMS = [
    (system, machine, python)
    for system, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
    for python in ("3.11", "3.12", "3.13")
]


def test_every_package_of_the_lock_has_one_pin_and_the_hashes_of_its_files():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    entries = "\n".join(line for line in lines if not line.startswith("#"))
    entry = r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert re.fullmatch(rf"({entry}\n?)+", entries)
    assert len({pin.split("==")[0] for pin in PINS}) == len(PINS) > 50
    assert not [pin for pin in PINS if pin.startswith(("torch==", "nvidia", "cuda", "triton"))]


def test_constraints_are_the_pins_of_the_lock_and_pytorchs():
    assert (ROOT / "constraints.txt").read_text(encoding="utf-8") == update_lock.constraints_text(
        PINS
    )
    assert sorted(CONSTRAINTS) == sorted([*(pin.split(" ;")[0] for pin in PINS), update_lock.TORCH])


@pytest.mark.parametrize(("system", "machine", "python"), SYSTEMS)
def test_the_lock_serves_each_platform_that_is_named(system, machine, python):
    """Every requirement of the project is pinned there; what a platform lacks has a condition."""
    place = {"sys_platform": system, "platform_machine": machine, "python_version": python}
    place |= {"python_full_version": f"{python}.5", "os_name": "posix"}
    pinned = {
        canonicalize_name(requirement.name)
        for requirement in map(Requirement, [*PINS, update_lock.TORCH])
        if requirement.marker is None or requirement.marker.evaluate(place)
    }
    requirements = [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]
    assert {canonicalize_name(Requirement(text).name) for text in requirements} <= pinned
    assert ("appnope" in pinned) == (system == "darwin")
    assert "pywinpty" not in pinned


def test_conda_gets_the_pins_of_the_lock():
    assert (ROOT / "environment.yml").read_text(encoding="utf-8") == update_lock.conda_text(PINS)


def read_yaml(name):
    """Return the content of a YAML file."""
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_conda_file_is_well_formed():
    *conda, pip = read_yaml("environment.yml")["dependencies"]
    assert conda == ["python=3.11", "pip"]
    own = {pin for pin in PINS if pin.startswith("pip==")}  # conda's
    assert set(pip["pip"]) == set(PINS) - own | {update_lock.TORCH}


def test_pins_are_within_the_ranges_of_the_project():
    requirements = [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]
    for requirement in map(Requirement, requirements):
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


def test_every_folder_of_the_library_is_installed():
    folders = {path.parent for path in (ROOT / "distilwhisper_lib").rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = find_packages(ROOT, **settings["tool"]["setuptools"]["packages"]["find"])
    assert set(found) == {".".join(folder.relative_to(ROOT).parts) for folder in folders}


def test_library_imports_only_what_the_project_declares():
    requirements = [*PROJECT["dependencies"], *EXTRAS["course"]]
    declared = {canonicalize_name(Requirement(text).name) for text in requirements}
    # Of the extra "test": without them exports say what is missing, and a study leaves them out
    declared |= {"ctranslate2", "faster-whisper"}
    declared.add("gradio")  # of the group "demo": the page runs in an environment of its own
    distributions = packages_distributions()
    for path in sorted((ROOT / "distilwhisper_lib").rglob("*.py")):
        for name in set(imported(path)) - sys.stdlib_module_names - {"distilwhisper_lib"}:
            packages = {canonicalize_name(package) for package in distributions.get(name, [name])}
            assert packages & declared, (
                f"{path.name} imports {name}: add it to pyproject.toml and the lock"
            )


# ---- Colab's versions


def declared(*names):
    """Return the requirements of the project, with those of the extras that are named."""
    texts = [*PROJECT["dependencies"], *sum((EXTRAS[name] for name in names), [])]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def test_no_floor_is_above_what_colab_has():
    requirements = declared()
    assert {"datasets", "peft", "pyarrow", "transformers"} <= set(ON_COLAB) <= set(requirements)
    for name, version in ON_COLAB.items():
        requirement = requirements[name]
        assert requirement.specifier.contains(version), f"Colab has {version}, not {requirement}"


def test_the_lock_of_colab_has_its_versions_and_the_rest_within_the_ranges():
    pins = update_lock.read_pins(ROOT / "requirements-colab.lock")
    locked = dict(pin.split(" ;")[0].split("==") for pin in pins)
    without_torch = {name: version for name, version in ON_COLAB.items() if name != "torch"}
    assert {name: locked.get(name) for name in without_torch} == without_torch, (
        "run .venv/bin/python tools/colab_env.py --lock"
    )
    for name, requirement in declared("course", "test").items():
        assert name == "torch" or requirement.specifier.contains(locked[name]), requirement
    assert "torch" not in locked and {"pip", "setuptools", "uv"} <= set(locked)


def test_colabs_versions_are_installed_after_pytorch_and_with_their_hashes(monkeypatch, tmp_path):
    """PyTorch brings newer versions of what it needs."""
    commands = []
    monkeypatch.syspath_prepend(ROOT / "tools")
    colab_env = load_tool("colab_env")
    stand_in = SimpleNamespace(**vars(colab_env.setup_env))
    stand_in.pip = lambda _, what, *words: commands.append((what, *words))
    stand_in.pip_locked = lambda _, name, lock: commands.append((name, lock.name))
    stand_in.install_torch = lambda _: commands.append(("PyTorch",))
    stand_in.make_venv = stand_in.check_disk = lambda _: None
    monkeypatch.setattr(colab_env, "setup_env", stand_in)
    colab_env.set_up(tmp_path / "python")
    assert [words[0].split()[0] for words in commands[:3]] == ["pip", "uv", "PyTorch"]
    packages, ourselves = commands[3:]
    assert packages[1:3] == ("--require-hashes", "--no-deps")
    assert packages[-1] == str(ROOT / "requirements-colab.lock")
    assert "--no-deps" in ourselves and ourselves[-1] == str(ROOT)


def test_the_page_on_colab_names_the_versions_that_are_tested():
    page = (ROOT / "docs" / "colab.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^\| ([\w-]+) \| ([\d.]+) \|$", page))
    assert rows == ON_COLAB
    words = " ".join(page.split())
    assert f"with PyTorch {VERSIONS['torch']} for the CPU" in words
    assert "needs transformers {}.{} and".format(*DECODER_ASSISTS) in words


def test_environment_fits_the_lock():
    """What runs the tests is what the lock says (skipped in an environment of one's own)."""
    if Path(sys.prefix) != ROOT / ".venv":
        pytest.skip("not run from .venv")
    wrong = {}
    for name in ("torch", "transformers", "datasets", "peft", "jiwer", "numpy"):
        try:
            found = importlib.metadata.version(name).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found = None
        if found != VERSIONS[name]:
            wrong[name] = found
    assert not wrong, "run make setup"


# ---- what installs


def test_setup_installs_what_is_locked_and_checks_its_hashes(monkeypatch, tmp_path):
    commands = []

    def run(command, _):
        words = [str(word) for word in command]
        content = [
            Path(word).read_text(encoding="utf-8")
            for word in words
            if "require" in Path(word).name and "/" in word
        ]
        commands.append((" ".join(words[4:]), "".join(content)))

    monkeypatch.setattr(setup_env, "run", run)
    monkeypatch.setattr(setup_env, "make_venv", lambda _: None)
    monkeypatch.setattr(setup_env, "check_disk", lambda _: None)
    monkeypatch.setattr(setup_env, "install_torch", lambda *_: None)
    setup_env.set_up(tmp_path / "python", here=False, gpu=False)
    (pip, pip_file), (lock, lock_file), (torch, _), (ourselves, _) = commands

    for command in (pip, lock):
        assert "--require-hashes --no-deps -r " in command
    assert re.match(r"pip==[\d.]+ \\\n    --hash=sha256:", pip_file)
    assert pip_file.count("==") == 1
    assert lock_file == (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert torch.endswith(f"--constraint {ROOT}/constraints.txt {PIN}")
    assert "--no-deps --no-build-isolation -e" in ourselves


def test_a_package_that_is_not_the_locked_one_is_refused(monkeypatch, tmp_path):
    name = "colorama"
    other = tmp_path / f"{name}-{VERSIONS[name]}-py3-none-any.whl"
    with zipfile.ZipFile(other, "w") as wheel:
        about = f"{name}-{VERSIONS[name]}.dist-info"
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {VERSIONS[name]}\n"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "target"))
    with pytest.raises(SystemExit, match="a package is not the one that was locked"):
        setup_env.pip_locked(Path(sys.executable), name)
    assert not list((tmp_path / "target").glob("*"))


def test_a_version_for_some_pythons_alone_is_given_up(monkeypatch):
    """A kept pin that does not fit all of them would otherwise stand there twice."""
    asked = []

    def compile_pins(wanted, pins):
        asked.append(pins)
        hashes = "    --hash=sha256:00\n"
        torch = f"{PIN} \\\n{hashes}nvidia-x==1 ; sys_platform == 'linux' \\\n{hashes}"
        if "a-b==2" in pins:
            return f"a-b==1 ; python_version < '3.12' \\\n{hashes}a-b==2 \\\n{hashes}{torch}"
        return f"a-b==1 \\\n{hashes}{torch}"

    monkeypatch.setattr(update_lock, "_compile", compile_pins)
    monkeypatch.setattr(update_lock, "read_pins", lambda _: ["a-b==2", "c==1"])
    assert update_lock.resolve(keep=True) == "a-b==1 \\\n    --hash=sha256:00\n"
    assert asked == [["a-b==2", "c==1"], ["c==1"]]


# ---- the build of PyTorch


def test_cuda_builds_are_recognised():
    nvidia = 'nvidia-cublas==13; platform_system == "Linux"'
    assert setup_env.is_cuda_build("2.13.0", ["filelock", nvidia])
    assert setup_env.is_cuda_build("2.13.0+cu130", ["triton==3.7"])
    assert setup_env.is_cuda_build("2.13.0+cu130", [])
    assert not setup_env.is_cuda_build("2.13.0+cpu", ["filelock"])
    assert not setup_env.is_cuda_build("2.13.0", ["filelock"])


CPU, CUDA, NONE = ("+cpu", False), ("", True), None
PIN = f"torch=={VERSIONS['torch']}"
FOR_GPUS = ["-m pip install", "--force-reinstall --no-deps", PIN]


@pytest.fixture
def installs(monkeypatch):
    """Return a function that gives the commands by which PyTorch would be installed."""

    def install(there, gpu, version=VERSIONS["torch"], cuda_after=True):
        before = ("", False)
        if there is not None:
            suffix, cuda = there
            before = (version + suffix, cuda)
        states = iter([before, (version, cuda_after)])
        commands = []
        monkeypatch.setattr(setup_env, "installed_torch", lambda _: next(states))
        monkeypatch.setattr(setup_env, "brings_cuda", lambda *_: True)
        monkeypatch.setattr(setup_env.sys, "platform", "linux")
        monkeypatch.setattr(
            setup_env, "run", lambda command, _: commands.append(" ".join(map(str, command)))
        )
        setup_env.install_torch(Path("python"), gpu)
        return commands

    return install


@pytest.mark.parametrize(
    ("there", "gpu", "version", "expected"),
    [
        (NONE, False, None, ["--torch-backend=cpu", PIN]),
        (NONE, True, None, FOR_GPUS),
        (CPU, True, None, FOR_GPUS),
        (CPU, False, None, None),  # None: what is there stays
        (CUDA, False, None, None),
        (CUDA, True, None, None),
        (CPU, False, "1.0", ["--torch-backend=cpu", PIN]),
        (CUDA, False, "1.0", FOR_GPUS),
        (CUDA, True, "1.0", FOR_GPUS),
    ],
)
def test_torch_is_the_cpu_build_unless_that_for_gpus_is_asked_for_or_there(
    there, gpu, version, expected, installs
):
    commands = installs(there, gpu, version or VERSIONS["torch"])
    if expected is None:
        assert not commands
    else:
        assert all(words in commands[-1] for words in expected)
    asks_for_cpu = any("torch-backend" in command for command in commands)
    forces = any("force" in command for command in commands)
    assert not (asks_for_cpu and forces)


def test_a_cpu_build_in_place_of_that_for_gpus_is_an_error(installs):
    message = r"pip has found no build of torch==.* for GPUs: .*pip config list"
    with pytest.raises(SystemExit, match=message):
        installs(NONE, True, cuda_after=False)


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


def test_a_gpu_that_is_not_used_is_reported(monkeypatch):
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: name)
    monkeypatch.setattr(setup_env, "installed_torch", lambda _: ("2.13.0+cpu", False))
    remark = setup_env.about_gpu(Path("python"), gpu=False)
    assert "does not use the NVIDIA GPU: make setup GPU=1" in remark
    monkeypatch.setattr(setup_env, "installed_torch", lambda _: ("2.13.0", True))
    assert setup_env.about_gpu(Path("python"), gpu=False) == ""


@pytest.mark.parametrize(
    ("available", "expected"), [("True\n", ""), ("False\n", "sees none"), ("", "sees none")]
)
def test_a_gpu_that_torch_does_not_see_is_reported(available, expected, monkeypatch):
    done = subprocess.CompletedProcess([], 0, available, "")
    monkeypatch.setattr(setup_env.subprocess, "run", lambda *_, **__: done)
    remark = setup_env.about_gpu(Path("python"), gpu=True)
    assert expected in remark
    assert bool(remark) == bool(expected)


def test_build_for_gpus_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "platform", "darwin")
    monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py", "--gpu"])
    with pytest.raises(SystemExit, match="on Linux only"):
        setup_env.main()


# ---- what the installation says


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ERROR: [Errno 28] No space left on device", "disk is full"),
        ("NameResolutionError: Temporary failure in name resolution", "no network"),
        ("ERROR: No matching distribution found for torch==2.13.0", "another|3.12"),
        ("Failed to fetch from download.pytorch, dns error", "PyTorch's own index"),
        ("something new", "message above"),
    ],
)
def test_advice_fits_the_message_of_pip(message, expected):
    assert re.search(expected, setup_env.advice(message))


def test_failed_installation_stops_with_its_last_lines_and_an_advice():
    code = "print('a' * 5); print('No space left on device'); raise SystemExit(1)"
    message = r"(?s)No space left.*Installing torch failed: the disk is full"
    with pytest.raises(SystemExit, match=message):
        setup_env.run([sys.executable, "-c", code], "torch")


def test_the_needs_of_the_course_are_stated_before_the_installation():
    preset = get_preset("laptop")
    corpora = {test.corpus for test in testsets.test_sets(preset).values()}
    speech = sum(map(download_size, corpora))
    weights = course_steps.WEIGHTS[preset.student].strip(" ()")
    for fact in (
        preset.minutes,
        f"{preset.memory} of memory",
        f"{course_steps.DISK_GB} GB more of disk",
        "7 GB are free",
        f"{speech / 1e6:.0f} MB of speech",
        f"{weights} of weights",
    ):
        assert fact in setup_env.COURSE.format(free=7.2)


def test_old_python_and_full_disk_are_reported(monkeypatch):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"Python 3\.9\.2 is too old.*PYTHON="):
        setup_env.check_python()
    usage = SimpleNamespace(free=1.2e9)
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SystemExit, match=r"Only 1\.2 GB are free.*takes 2\.5 GB"):
        setup_env.check_disk()
    with pytest.raises(SystemExit, match=r"takes 8 GB"):
        setup_env.check_disk(setup_env.GPU_GB)


def test_missing_venv_module_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    done = subprocess.CompletedProcess(
        [], 1, "The virtual environment was not created because ensurepip is not\n", ""
    )
    monkeypatch.setattr(setup_env.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(SystemExit, match=r"apt-get install python3-venv"):
        setup_env.make_venv(tmp_path / "bin" / "python")


# ---- make


def make(*words, check=True, **environment):
    """Return what make prints, without the variables of a make around the tests."""
    ours = ("GPU", "PRESET", "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL")
    others = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        env=others | environment,
        capture_output=True,
        text=True,
        check=check,
    )
    return done.stdout + done.stderr


def test_help_lists_every_command():
    targets = re.search(r"(?m)^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"))
    listed = [line.split()[1] for line in make().splitlines() if line.startswith("make ")]
    assert listed == targets[1].split()


@pytest.mark.parametrize(
    ("words", "asked"), [([], False), (["GPU=1"], True), (["GPU=0"], False), (["GPU="], False)]
)
def test_make_asks_for_the_build_for_gpus_where_it_is_told(words, asked):
    for target in ("setup", "course"):
        commands = make("-n", target, *words)
        assert "setup_env.py" in commands
        assert ("setup_env.py --gpu" in commands) == asked


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["course"], "LAB_PRESET=laptop .venv/bin/python -m distilwhisper_lib course"),
        (["lab"], "LAB_PRESET=toy .venv/bin/python -m jupyter lab"),
        (["lab", "PRESET=laptop"], "LAB_PRESET=laptop .venv/bin/python -m jupyter lab"),
        (["toy", "ARGS=knobs clips"], "-m distilwhisper_lib toy knobs clips"),
        (["course", "PRESET=colab", "NOTEBOOKS=06 07"], "-m distilwhisper_lib course --only 06 07"),
        (
            ["study", "PRESET=smoke", "ARGS=tune --systems lora"],
            "LAB_PRESET=smoke .venv/bin/python -m distilwhisper_lib study tune --systems lora",
        ),
        (["smaller", "PRESET=smoke"], "LAB_PRESET=smoke .venv/bin/python -m"),
        (["convergence", "PRESET=smoke"], "LAB_PRESET=smoke .venv/bin/python -m"),
        (["grid", "ARGS=list"], "distilwhisper_lib grid  list"),
        (["grid", "ARGS=list", "PRESET=colab"], "distilwhisper_lib grid --preset colab list"),
        (["estimates", "ARGS=--preset colab"], "distilwhisper_lib estimates  --preset colab"),
        (["benchmark", "NAME=storage", "ARGS=--quick"], "-m benchmarks.storage --quick"),
        (["test", "ARGS=tests/test_losses.py"], "worksteal tests/test_losses.py"),
        (["test-colab"], "python3 tools/colab_env.py"),
        (["test-colab", "ARGS=tests/test_losses.py"], ".venv-colab/bin/python -m pytest -q -n 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_make_passes_preset_and_arguments_on(words, expected):
    assert expected in make("-n", *words)


def test_make_says_which_benchmarks_there_are():
    for name in ("", "NAME=storag"):
        said = make("-n", "benchmark", *name.split(), check=False, NAME="a-computer")
        assert "NAME is one of inference training memory storage" in said


def test_every_benchmark_has_its_name_in_make():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    names = re.search(r"(?m)^BENCHMARKS = (.*)$", makefile)[1].split()
    programs = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if "__main__" in path.read_text(encoding="utf-8")
    }
    assert set(names) == programs


# ---- what hosts read


def test_ci_runs_what_contributors_run():
    jobs = read_yaml(".github/workflows/ci.yml")["jobs"]
    steps = {name: job["steps"] for name, job in jobs.items()}
    commands = {name: [step["run"] for step in steps[name] if "run" in step] for name in steps}
    expected = {"checks": ".ci/run", "newer-python": "make test", "colab": "make test-colab"}
    assert commands == {name: [command] for name, command in expected.items()}
    versions = [jobs["checks"]["steps"][1]["with"]["python-version"]]
    versions += jobs["newer-python"]["strategy"]["matrix"]["python-version"]
    assert versions == ["3.11", "3.12", "3.13"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    used = [step["uses"] for step in sum(steps.values(), []) if "uses" in step]
    assert all(re.search(r"@v\d+$", name) for name in used)


def test_hooks_run_programs_of_the_environment_alone():
    (repository,) = read_yaml(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/")


def test_citation_names_the_kit_and_the_paper():
    citation = read_yaml("CITATION.cff")
    for field in ("cff-version", "message", "title", "authors", "version", "license"):
        assert citation[field], field
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    for field in ("type", "title", "authors", "year"):
        assert paper[field], field
    assert all(author["family-names"] and author["given-names"] for author in paper["authors"])
    assert "2311.01070" in paper["url"]


def test_one_version_is_given_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"(?m)^## (\d+\.\d+\.\d+)", changelog)[1]
    assert newest == PROJECT["version"] == read_yaml("CITATION.cff")["version"]
    assert distilwhisper_lib.__version__ == PROJECT["version"]
