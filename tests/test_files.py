"""Folders, atomic writes, locks, damaged files, and disks that take no more."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from other_user import run_as_another_user
from safetensors.torch import save_file

from distilwhisper_lib import files
from distilwhisper_lib.files import (
    atomic_file,
    atomic_folder,
    cache_dir,
    can_write,
    check_writable,
    data_dir,
    disk_errors,
    one_at_a_time,
    read_json,
    results_dir,
    set_aside,
    write_json,
)

ROOT = files.REPOSITORY


def start(code, *arguments, **options):
    """Start a Python process that has imported everything of `files`."""
    begin = (
        "import sys, time, os\nfrom pathlib import Path\nfrom distilwhisper_lib.files import *\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", begin + textwrap.dedent(code), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# ---- folders


def test_relative_folders_are_those_of_the_first_call_here_and_in_processes_that_are_started(
    tmp_path, monkeypatch
):
    for name in ("CACHE", "DATA", "RESULTS"):
        monkeypatch.setenv(f"LAB_{name}", f"my/{name.lower()}")
    monkeypatch.chdir(tmp_path)
    assert cache_dir() == tmp_path / "my" / "cache"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert cache_dir() == tmp_path / "my" / "cache"
    assert data_dir() == tmp_path / "my" / "data"
    assert results_dir("smoke") == tmp_path / "my" / "results" / "smoke"
    child = start("print(data_dir(), results_dir('smoke'))", cwd=tmp_path / "elsewhere")
    printed, _ = child.communicate()
    assert printed.split() == [f"{tmp_path}/my/data", f"{tmp_path}/my/results/smoke"]


def test_folders_in_the_home_folder_are_found(monkeypatch):
    monkeypatch.setenv("LAB_CACHE", "~/lab")
    assert cache_dir() == Path.home() / "lab"


def test_a_file_in_place_of_a_folder_is_named(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("")
    with pytest.raises(NotADirectoryError, match="LAB_CACHE is .*cache.*, which is no folder"):
        cache_dir()


# ---- JSON

DAMAGED_JSON = {
    "emptied": b"",
    "cut": b'{"a": 1, "b": [1, 2',
    "NUL bytes": bytes(20),
    "no UTF-8": b'{"a": "\xff\xfe"}',
    "a list": b"[1, 2]",
    "a word": b"null\n",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", DAMAGED_JSON)
def test_damaged_json_counts_as_absent_and_is_kept(name, tmp_path, capsys):
    path = tmp_path / "run.json"
    path.write_bytes(DAMAGED_JSON[name])
    with pytest.raises(ValueError, match="run.json is damaged"):
        read_json(path, strict=True)
    assert read_json(path) == {}
    assert names(tmp_path) == ["run.json.damaged-1"]
    assert (tmp_path / "run.json.damaged-1").read_bytes() == DAMAGED_JSON[name]
    told = capsys.readouterr().err
    assert told.startswith(f"{path} is damaged (") and told.count("\n") == 1
    assert "kept as run.json.damaged-1, computed anew" in told
    assert read_json(path) == {}  # absent
    write_json(path, {"a": "kůň"})
    assert read_json(path) == {"a": "kůň"} == json.loads(path.read_text(encoding="utf-8"))


def test_a_sealed_file_tells_any_change(tmp_path, capsys):
    path = tmp_path / "run.json"
    value = {"log": [{"loss": 0.1, "step": 1}], 3: (1, 2), "none": None, "path": tmp_path}
    write_json(path, value, sealed=True)
    written = path.read_text()
    assert read_json(path) == json.loads(json.dumps(value, default=str))  # without the seal
    for changed in (written.replace("0.1", "0.2"), written.replace('"log"', '"lob"')):
        path.write_text(changed)
        assert read_json(path) == {}
        assert "it is not what was written" in capsys.readouterr().err
    path.write_text(written.replace('"check"', '"chick"'))  # what it holds is whole
    assert read_json(path)["log"] == value["log"]


def test_a_file_without_a_key_that_is_needed_counts_as_absent(tmp_path, capsys):
    path = tmp_path / "results.json"
    write_json(path, {"rowr": []})
    assert read_json(path) == {"rowr": []}
    assert read_json(path, needs=("rows", "record")) == {}
    assert "it lacks rows, record" in capsys.readouterr().err


@pytest.mark.parametrize("below", ["file/cache", "file/a/cache"])
def test_a_folder_below_a_file_is_told_by_its_variable(below, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for variable in files.FOLDER_VARIABLES:
        with monkeypatch.context() as patch:
            patch.setenv(variable, str(tmp_path / below))
            message = f"{variable} is .*, below .*file', which is no folder: name one"
            with pytest.raises(NotADirectoryError, match=message):
                files.cache_dir()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    for call in (
        lambda: files.make_folder(tmp_path / "file" / "below"),
        lambda: write_json(tmp_path / "file" / "below" / "run.json", {}),
        lambda: files.make_folder(tmp_path / "file"),
    ):
        with pytest.raises(OSError, match="the folder .*file.* cannot be made .*elsewhere$"):
            call()


def test_who_makes_a_result_is_seen_from_outside(tmp_path):
    result = tmp_path / "run"
    assert not files.is_being_made(result)
    with files.one_at_a_time(result):
        assert files.is_being_made(result)
    assert not files.is_being_made(result)


def test_each_damaged_file_or_folder_has_a_name_of_its_own(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_text(str(number))
        kept = set_aside(tmp_path / "model", "cut")
        assert kept == tmp_path / f"model.damaged-{number}"
        assert (kept / "weights").read_text() == str(number)
    assert set_aside(tmp_path / "model", "cut") == tmp_path / "model.damaged-4"  # gone already
    assert names(tmp_path) == ["model.damaged-1", "model.damaged-2", "model.damaged-3"]


# ---- atomic writes


def test_a_failed_write_leaves_what_was_there_and_no_part(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("before")
    with pytest.raises(KeyError), atomic_file(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise KeyError
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "b") as part:
        part.mkdir()
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a.txt", "b"]
    assert (tmp_path / "a.txt").read_text() == (tmp_path / "b" / "c").read_text() == "before"


def test_two_writers_of_one_file_do_not_share_a_part(tmp_path):
    with atomic_file(tmp_path / "a") as first, atomic_file(tmp_path / "a") as second:
        assert first != second and first.suffix == second.suffix == ".part"
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"  # the outer one ends last
    with atomic_folder(tmp_path / "b") as first, atomic_folder(tmp_path / "b") as second:
        for number, part in enumerate((first, second)):
            part.mkdir()
            (part / "x").write_text(str(number))
    assert (tmp_path / "b" / "x").read_text() == "0"
    assert names(tmp_path) == ["a", "b"]


def test_parts_of_killed_processes_are_removed_and_those_of_living_ones_stay(tmp_path):
    code = """
    folder = Path(sys.argv[1])
    with atomic_file(folder / "a") as part, atomic_folder(folder / "b") as other:
        part.write_text("half")
        other.mkdir()
        (other / "c").write_text("half")
        print(part.name, other.name, flush=True)
        time.sleep(60)
    """
    children = [start(code, tmp_path) for _ in range(2)]
    parts = [child.stdout.readline().split() for child in children]
    children[0].kill()
    children[0].wait()
    write_json(tmp_path / "other", {})
    assert names(tmp_path) == sorted([*parts[1], "other"])

    children[1].kill()
    children[1].wait()
    with atomic_folder(tmp_path / "b") as part:
        part.mkdir()
    assert names(tmp_path) == ["b", "other"]


def test_parts_of_other_machines_are_removed_when_they_are_old(tmp_path):
    old = tmp_path / ".a.0123abcd-1-0123abcd.part"
    new = tmp_path / ".a.0123abcd-2-0123abcd.part"
    for path in (old, new):
        path.write_text("half")
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    write_json(tmp_path / "a", {})
    assert names(tmp_path) == [new.name, "a"]


def test_what_earlier_versions_left_is_removed(tmp_path):
    (tmp_path / "a.part").write_text("half")
    (tmp_path / ".b.partial").mkdir()
    write_json(tmp_path / "a", {})
    with atomic_folder(tmp_path / "b") as part:
        part.mkdir()
    assert names(tmp_path) == ["a", "b"]


def test_folders_written_by_many_processes_at_once_are_always_whole(tmp_path):
    code = """
    folder = Path(sys.argv[1])
    for _ in range(40):
        with atomic_folder(folder) as part:
            part.mkdir()
            for name in "abc":
                (part / name).write_text(sys.argv[2])
    """
    children = [start(code, tmp_path / "f", number) for number in range(4)]
    errors = [child.communicate()[1] for child in children]
    assert errors == [""] * 4
    assert names(tmp_path) == ["f"]
    assert len({(tmp_path / "f" / name).read_text() for name in "abc"}) == 1


def test_an_existing_folder_is_not_replaced_where_a_new_one_was_asked_for(tmp_path):
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(FileExistsError, match="a exists: give a new folder"),
        atomic_folder(tmp_path / "a", new=True),
    ):
        pass
    with (
        pytest.raises(FileExistsError, match="b exists: give a new folder"),
        atomic_folder(tmp_path / "b", new=True) as part,
    ):
        part.mkdir()
        (tmp_path / "b").mkdir()  # another process was faster
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_weights_can_be_read_by_those_who_can_read_other_files(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", {})
        with atomic_file(tmp_path / "a.safetensors") as part:
            save_file({"a": torch.zeros(1)}, part)
        with atomic_folder(tmp_path / "model") as part:
            (part / "deep").mkdir(parents=True)
            save_file({"a": torch.zeros(1)}, part / "deep" / "a.safetensors")
    finally:
        os.umask(before)
    usual = (tmp_path / "a.json").stat().st_mode
    assert usual & 0o777 == 0o666 & ~mask
    assert (tmp_path / "a.safetensors").stat().st_mode == usual
    assert (tmp_path / "model" / "deep" / "a.safetensors").stat().st_mode == usual


# ---- locks


def test_the_second_process_waits_with_a_message_and_finds_what_the_first_made(tmp_path):
    code = """
    path = Path(sys.argv[1])
    with one_at_a_time(path):
        if path.exists():
            print("found")
        else:
            print("makes", flush=True)
            time.sleep(2)
            write_json(path, {})
    """
    first = start(code, tmp_path / "r")
    assert first.stdout.readline() == "makes\n"
    second = start(code, tmp_path / "r")
    printed, told = second.communicate()
    assert printed == "found\n"
    assert told == f"waiting for another process that makes {tmp_path / 'r'} ...\n"
    assert first.communicate() == ("", "")


def test_a_lock_ends_with_its_process(tmp_path):
    code = """
    with one_at_a_time(Path(sys.argv[1])):
        print("has it", flush=True)
        time.sleep(60)
    """
    child = start(code, tmp_path / "r")
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    with one_at_a_time(tmp_path / "r"):
        pass
    assert names(tmp_path) == []


def test_a_thread_may_enter_again_and_another_waits(tmp_path):
    order = []

    def enter():
        with one_at_a_time(tmp_path / "r"):
            order.append("second")

    thread = threading.Thread(target=enter)
    with one_at_a_time(tmp_path / "r"), one_at_a_time(tmp_path / "r"):
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_processes_of_one_training_do_not_wait_for_the_first(tmp_path, monkeypatch):
    with one_at_a_time(tmp_path / "r"):
        child = start(
            'os.environ["RANK"] = "1"\nwith one_at_a_time(Path(sys.argv[1])): print("in")',
            tmp_path / "r",
        )
        assert child.communicate()[0] == "in\n"


def test_without_locks_in_the_file_system_there_is_none_and_no_wait(tmp_path, monkeypatch):
    import fcntl

    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    for _ in range(2):
        with one_at_a_time(tmp_path / "r"):
            write_json(tmp_path / "r", {})
    assert names(tmp_path) == ["r"]


# ---- disks that take no more


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_cannot_be_written_gives_one_message(number, tmp_path):
    message = "cannot write under .*: make the folder writable, or choose a folder .*goes on where"
    with pytest.raises(OSError, match=message) as caught, atomic_file(tmp_path / "a" / "b"):
        raise OSError(number, os.strerror(number), "some/file")
    assert f"{os.strerror(number)}: some/file" in str(caught.value)
    assert caught.value.errno == (errno.EROFS if number == errno.EROFS else errno.EACCES)


def test_the_message_names_the_variable_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "speech"))
    folders = {"LAB_RESULTS": results_dir("smoke"), "LAB_DATA": data_dir() / "cv"}
    folders["LAB_CACHE"] = cache_dir() / "runs"
    for variable, folder in folders.items():
        with pytest.raises(OSError, match=f"or set {variable} to"), disk_errors(folder):
            raise OSError(errno.ENOSPC, "full")
    with pytest.raises(OSError, match="or set TMPDIR to"), disk_errors(tmp_path, "TMPDIR"):
        raise OSError(errno.ENOSPC, "full")


@pytest.fixture
def small_files():
    """Let this process write files of 100 kB at most."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_on_the_size_of_files_gives_one_message_whatever_library_meets_it(
    tmp_path, small_files
):
    tensor = torch.zeros(100_000)
    writers = {
        "python": lambda part: part.write_bytes(bytes(400_000)),
        "torch": lambda part: torch.save(tensor, part),
        "safetensors": lambda part: save_file({"a": tensor}, part),
    }
    for name, write in writers.items():
        message = f"a file is too large under .*{name}.*raise the limit .*ulimit -f.*goes on where"
        with (
            pytest.raises(OSError, match=message) as caught,
            atomic_file(tmp_path / name / "weights") as part,
        ):
            write(part)
        assert caught.value.errno == errno.EFBIG
        assert names(tmp_path / name) == []


# ---- another owner's folder


@pytest.fixture
def shared():
    """Return a folder that everybody can read (pytest's own are private)."""
    with tempfile.TemporaryDirectory(prefix="shared-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_in_another_owner_s_folder_reading_needs_no_lock_and_writing_is_refused_clearly(
    shared,
):
    folder = shared
    write_json(folder / "run.json", {"a": 1})
    (folder / "cut.json").write_text("{")

    def work():
        with one_at_a_time(folder / "run.json"), one_at_a_time(folder / "new" / "run.json"):
            assert read_json(folder / "run.json") == {"a": 1}
        assert not can_write(folder) and not can_write(folder / "new" / "deep")
        assert read_json(folder / "cut.json") == {}  # told, left there
        with pytest.raises(PermissionError, match="cannot write under .*shared"):
            write_json(folder / "run.json", {})
        with pytest.raises(PermissionError, match="cannot write under .*new"):
            check_writable(folder / "new")

    run_as_another_user(work)
    assert names(folder) == ["cut.json", "run.json"]
    assert can_write(folder / "new" / "deep")
    check_writable(folder)
    assert names(folder) == ["cut.json", "run.json"]


def test_the_variable_that_names_a_folder_is_told_with_it(tmp_path):
    (files.cache_dir() / "runs").mkdir(parents=True)
    (files.cache_dir() / "runs" / "file").touch()
    with pytest.raises(OSError, match="elsewhere .by LAB_CACHE, if that has chosen this one"):
        files.make_folder(files.cache_dir() / "runs" / "file" / "below")


@pytest.mark.parametrize("name", ["~$0.wav", "~nobody-of-this-name/x"])
def test_a_name_that_begins_as_a_home_folder_is_taken_as_it_is(name):
    assert str(files.expanded(name)) == name
    assert files.expanded("~/x").is_absolute()


def test_a_folder_whose_name_datasets_takes_apart_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "a::b"))
    with pytest.raises(ValueError, match="LAB_CACHE is .*a::b.*name a folder without it"):
        files.cache_dir()
