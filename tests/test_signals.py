"""Programs end with one sentence and an exit status: real signals, errors, a lack of memory."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from distilwhisper_lib.experiments.jobs import make_jobs
from distilwhisper_lib.files import read_json

ROOT = Path(__file__).resolve().parent.parent
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


def environment():
    """Return the variables of a program, the test's own folders among them."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def heed_signals():
    """Let a program get the signals that the tests themselves may ignore, under nohup for one."""
    for number, _ in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def start(command, **options):
    """Start a program whose output is kept."""
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment(),
        preexec_fn=heed_signals,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def program(body):
    """Return the command of a program with this body of `main`."""
    text = textwrap.dedent(body)
    code = f"from distilwhisper_lib.programs import *\ndef main():\n{textwrap.indent(text, '    ')}"
    return ["-c", f"{code}\nrun_program(main)"]


def ended(process, seconds=60):
    """Return exit status and stderr of a program, which must end in time and without traceback."""
    try:
        _, errors = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert "Traceback" not in errors, errors
    return process.returncode, errors


def wait_for(condition, process, seconds=60):
    """Wait until a condition holds; fail where the program ends before."""
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.02)


# ---- signals


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_ends_a_program_with_one_sentence_and_its_clean_up_done(number, status, tmp_path):
    body = f"""
        import pathlib, time
        try:
            pathlib.Path({str(tmp_path / "begun")!r}).touch()
            time.sleep(60)
        finally:
            pathlib.Path({str(tmp_path / "cleaned-up")!r}).touch()
        """
    process = start(program(body))
    wait_for((tmp_path / "begun").exists, process)
    process.send_signal(number)
    found, errors = ended(process)
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert found == status
    assert errors.strip() == f"stopped{by}: the same command goes on where it was"
    assert (tmp_path / "cleaned-up").exists()


def test_a_second_signal_ends_a_program_that_cleans_up_for_long(tmp_path):
    body = f"""
        import pathlib, time
        try:
            pathlib.Path({str(tmp_path / "begun")!r}).touch()
            time.sleep(60)
        finally:
            pathlib.Path({str(tmp_path / "cleaning-up")!r}).touch()
            time.sleep(60)
        """
    process = start(program(body))
    for name in ("begun", "cleaning-up"):
        wait_for((tmp_path / name).exists, process)
        process.send_signal(signal.SIGINT)
    assert ended(process)[0] == 130


def test_a_signal_that_python_drops_in_a_finaliser_is_sent_again(tmp_path):
    body = f"""
        import pathlib, time
        class Slow:
            def __del__(self):
                pathlib.Path({str(tmp_path / "begun")!r}).touch()
                time.sleep(1)
        slow = Slow()
        del slow
        time.sleep(60)
        """
    process = start(program(body))
    wait_for((tmp_path / "begun").exists, process)
    process.send_signal(signal.SIGTERM)
    assert ended(process, 20)[0] == 143


def test_an_ignored_signal_stays_ignored():
    body = """
        import os
        os.kill(os.getpid(), signal.SIGHUP)
        """
    command = program(body)
    command[1] = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{command[1]}"
    assert ended(start(command)) == (0, "")  # nohup


def test_a_program_is_stopped_in_order_while_it_still_imports():
    process = start(["-m", "distilwhisper_lib", "study", "tune", "--preset", "smoke"])
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    status, errors = ended(process)
    assert (status, errors.strip()) == (130, "stopped: the same command goes on where it was")


# ---- errors


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        ("ValueError('no such thing: take another')", "error: no such thing: take another"),
        (
            "FileNotFoundError(2, 'No such file', '/a/b')",
            "error: No such file: /a/b",
        ),
        ("OSError(28, 'no space left under /a: free some')", "error: no space left under /a: "),
        ("MemoryError()", "out of memory: close other programs, or lower batch_size and eval_"),
        (
            'RuntimeError("[enforce fail] DefaultCPUAllocator: can\'t allocate memory: you tried")',
            "out of memory: close other programs, or lower batch_size",
        ),
        ("Failed('the notebook 03 has failed')", "the notebook 03 has failed"),
    ],
)
def test_an_error_is_one_sentence_and_exit_status_1(raised, sentence):
    status, errors = ended(start(program(f"raise {raised}")))
    assert status == 1
    assert errors.startswith(sentence)
    assert len(errors.splitlines()) == 1


def test_a_fault_of_the_program_itself_keeps_its_traceback():
    process = start(program("{}['key']"))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" in errors and "KeyError: 'key'" in errors


def test_a_closed_pipe_is_no_error():
    process = start(program("print('line\\n' * 1_000_000)"))
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 141
    assert not errors


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["course", "--preset", "laptop2"], 1, "error: unknown preset 'laptop2'.*mean laptop?"),
        (["course", "--only", "99"], 1, "error: no notebook 99: there are 00, 01"),
        (["grid", "list", "--seeds", "-1"], 2, "--seeds: it is -1: a whole number from 0 to"),
        (["study", "tune", "--epochs", "0"], 2, "--epochs: it is 0: a whole number from 1 on is"),
        (["studies"], 2, "invalid choice: 'studies'"),
    ],
)
def test_wrong_options_are_told_in_one_sentence(arguments, status, sentence):
    found, errors = ended(start(["-m", "distilwhisper_lib", *arguments]))
    assert found == status
    assert re.search(sentence, errors.splitlines()[-1])


# ---- notebooks


@pytest.fixture
def notebook(tmp_path):
    """A notebook whose kernel writes its process number and then waits."""
    waits = (
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n"
        "time.sleep(60)"
    )
    for name, source in (("00_short", "1 + 1"), ("01_long", waits)):
        cell = nbformat.v4.new_code_cell(source)
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / f"{name}.ipynb")
    return tmp_path


def course(folder):
    """Return the command of a course of the two notebooks."""
    body = f"""
        from pathlib import Path
        from distilwhisper_lib.lab import course_steps
        course_steps.NOTEBOOKS = Path({str(folder)!r})
        course_steps.run_course(course_steps.Lab("smoke"))
        """
    return program(body)


def kernel_of(folder, process):
    """Return the kernel that runs the long notebook."""
    path = folder / "pid"
    wait_for(lambda: path.exists() and path.read_text(), process)
    return psutil.Process(int(path.read_text()))


@pytest.mark.parametrize(("number", "status"), SIGNALS[:2])
def test_a_course_that_is_stopped_ends_its_kernel_and_goes_on(number, status, notebook):
    process = start(course(notebook))
    kernel = kernel_of(notebook, process)
    process.send_signal(number)
    found, errors = ended(process)
    assert found == status
    assert errors.strip().endswith(": the same command goes on where it was")
    assert len(errors.strip().splitlines()) == 1
    psutil.wait_procs([kernel], timeout=10)
    assert not kernel.is_running()
    results = Path(os.environ["LAB_RESULTS"]) / "smoke" / "notebooks"
    assert [path.name for path in results.glob("*.ipynb")] == ["00_short.ipynb"]


def test_a_kernel_that_is_killed_is_told_with_what_to_lower(notebook):
    process = start(course(notebook))
    kernel_of(notebook, process).kill()  # as the system does where memory is short
    status, errors = ended(process)
    assert status == 1
    assert errors.startswith("the kernel of 01_long was killed, most likely because memory ran out")
    assert "lower batch_size and eval_batch_size" in errors
    assert errors.strip().endswith("the same command goes on where it was")
    assert len(errors.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        ("ValueError('no such clip')", "01_long has failed: ValueError: no such clip"),
        ("MemoryError()", "01_long has run out of memory: close other programs, or lower"),
    ],
)
def test_a_cell_that_fails_is_told_without_its_traceback(raised, told, notebook):
    cell = nbformat.v4.new_code_cell(f"raise {raised}")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), notebook / "01_long.ipynb")
    status, errors = ended(start(course(notebook)))
    assert status == 1
    assert errors.startswith(told)
    assert list(Path(os.environ["LAB_RESULTS"]).rglob("01_long.failed.ipynb"))


# ---- the grid


def test_a_grid_that_is_stopped_ends_its_jobs_and_goes_on():
    options = ["--preset", "smoke", "--sizes", "4", "--systems", "student"]
    (job,) = make_jobs("smoke", sizes=["4"], rows=["student"])
    process = start(["-m", "distilwhisper_lib", "grid", "run", *options])
    wait_for(lambda: job.state()["state"] == "running", process, 120)
    child = psutil.Process(job.state()["pid"])
    process.send_signal(signal.SIGINT)  # jobs do not get it themselves: they are other sessions
    status, errors = ended(process)
    assert status == 130
    assert errors.strip().endswith(": the same command goes on where it was")
    assert not child.is_running()
    noted = read_json(job.folder / "state.json")
    assert (noted["state"], noted["exit_code"]) == ("killed", 143)
    assert noted["error"] == "stopped: `run` goes on from there"
    assert "Traceback" not in (job.folder / "log.txt").read_text()

    process = start(["-m", "distilwhisper_lib", "grid", "run", *options])
    assert ended(process, 120)[0] == 0
    assert job.done
