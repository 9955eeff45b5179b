"""The book's environment: its lock, how it is made, and the commands that use it.

The pages themselves are tested in tests/book, in that environment (make test-all).
"""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = [Requirement(text) for text in SETTINGS["dependency-groups"]["book"]]


def load_tool(name):
    """Import a file of tools/, which is not a package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load_tool("setup_env")
update_lock = load_tool("update_lock")
LOCK = update_lock.BOOK_LOCK.read_text(encoding="utf-8")
PINS = [Requirement(pin) for pin in update_lock.read_pins(update_lock.BOOK_LOCK)]


def test_every_package_has_one_pin_and_the_hashes_of_its_files():
    entries = "\n".join(line for line in LOCK.splitlines() if not line.startswith("#"))
    entry = r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*( ; [^\\\n]+)?( \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert re.fullmatch(rf"({entry}\n?)+", entries)
    assert len({pin.name for pin in PINS}) == len(PINS) > 30
    assert not re.search(r"https?:|file:|index-url|find-links", LOCK)


def test_pins_fit_what_the_book_needs():
    versions = {canonicalize_name(pin.name): str(pin.specifier).lstrip("=") for pin in PINS}
    for requirement in NEEDED:
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])
    assert not {"torch", "transformers", "datasets"} & set(versions)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_what_a_platform_lacks_has_a_condition(system):
    place = {"sys_platform": system, "python_version": "3.12", "python_full_version": "3.12.1"}
    taken = {pin.name for pin in PINS if pin.marker is None or pin.marker.evaluate(place)}
    assert {requirement.name for requirement in NEEDED} <= taken
    assert ("appnope" in taken) == (system == "darwin")
    assert ("pexpect" in taken) == (system != "win32")


def test_the_lock_is_resolved_from_the_group(monkeypatch):
    asked = []

    def compile_pins(wanted, pins):
        asked.append((wanted, pins))
        return "sphinx==9.0.4 \\\n    --hash=sha256:00\n"

    monkeypatch.setattr(update_lock, "_compile", compile_pins)
    assert update_lock.resolve_book(keep=True) == "sphinx==9.0.4 \\\n    --hash=sha256:00\n"
    (wanted, pins), *_ = asked
    assert set(SETTINGS["dependency-groups"]["book"]) < set(wanted)
    assert any(pin.startswith("sphinx==") for pin in pins)
    assert not any(text.startswith("torch") for text in wanted)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Replace what installs by notes of what was asked for, in a folder of the test's own."""
    asked = []
    monkeypatch.setattr(setup_env, "BOOK_VENV", tmp_path / "venv")
    monkeypatch.setattr(setup_env, "BOOK_LOCK", tmp_path / "lock")
    (tmp_path / "lock").write_text("sphinx==9\n", encoding="utf-8")

    def make_venv(python):
        asked.append("venv")
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    monkeypatch.setattr(setup_env, "make_venv", make_venv)
    monkeypatch.setattr(setup_env, "pip_locked", lambda *words: asked.append(words[1:]))
    monkeypatch.setattr(setup_env, "pip", lambda *words: asked.append(words[2:]))
    return asked


def call(monkeypatch, *words):
    monkeypatch.setattr(setup_env.sys, "argv", ["setup_env.py", *words])
    setup_env.main()


def test_the_environment_is_made_once_and_again_with_another_lock(
    installed, monkeypatch, tmp_path, capsys
):
    call(monkeypatch, "--book")
    lock = tmp_path / "lock"
    checked = ("--require-hashes", "--no-deps", "-r", str(lock))
    assert installed == ["venv", ("pip", lock), checked]
    said = capsys.readouterr().out
    assert "for the book" in said and "MB to download" in said and "is ready" in said

    call(monkeypatch, "--book")
    assert len(installed) == 3 and not capsys.readouterr().out
    lock.write_text("sphinx==10\n", encoding="utf-8")
    call(monkeypatch, "--book")
    assert len(installed) == 6


def test_an_installation_that_failed_is_tried_again(installed, monkeypatch):
    def fail(*_):
        raise SystemExit("no network")

    monkeypatch.setattr(setup_env, "pip", fail)
    for _ in range(2):
        with pytest.raises(SystemExit, match="no network"):
            call(monkeypatch, "--book")
    assert installed.count("venv") == 2


@pytest.mark.parametrize("other", ["--gpu", "--here"])
def test_options_of_the_other_environment_are_refused(other, installed, monkeypatch):
    with pytest.raises(SystemExit, match="leave out --here and --gpu"):
        call(monkeypatch, "--book", other)
    assert not installed


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("book", ["setup_env.py --book", ".venv-book/bin/python tools/book.py pages"]),
        ("slides", ["setup_env.py --book", ".venv-book/bin/python tools/book.py slides"]),
        (
            "test-all",
            [
                "-m pytest -q -n",
                "tools/book.py pages",
                "tools/book.py browser",
                "tools/book.py slides",
                "-m pytest -q --confcutdir=tests/book tests/book",
            ],
        ),
    ],
)
def test_make_calls_the_steps_in_order(target, expected):
    command = ["make", "-n", "--no-print-directory", target]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    places = [said.index(words) for words in expected]
    assert places == sorted(places)


def test_ci_runs_the_tests_of_the_book_and_make_test_does_not():
    assert "\nmake test-all\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "book" in SETTINGS["tool"]["pytest"]["ini_options"]["norecursedirs"]


def test_the_address_of_publication_is_well_formed_or_empty():
    text = (ROOT / "docs" / "book" / "publication.toml").read_text(encoding="utf-8")
    publication = tomllib.loads(text)
    assert set(publication) == {"address", "branch"}
    assert re.fullmatch(r"(https://[\w.-]+/\S+[^/])?", publication["address"])
