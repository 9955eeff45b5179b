"""Run notebooks from the terminal: a stopwatch that continues, the runner, the report."""

import asyncio
import atexit
import contextlib
import hashlib
import logging
import sys
import threading
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbclient.util import run_sync
from nbconvert import HTMLExporter

from ..files import atomic_file, read_json, resolve_folders, set_aside, tell, write_json

# nbclient logs what it raises as well.
SILENT = logging.getLogger(f"{__name__}.nbclient")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False

PATIENCE = 10  # seconds in which a stopped kernel is waited for

BAR_WIDTH = 110  # columns of a progress bar on the terminal


class Stopwatch:
    """The seconds that a notebook has taken, those of stopped runs included.

    A file keeps the seconds so far by notebook, so that the next run can continue to count.
    """

    SAVE_EVERY = 5  # seconds

    def __init__(self, path: Path, name: str):
        """Start to count.

        Args:
            path: The file (JSON).
            name: The notebook's name, the key in the file.
        """
        self.path = path
        self.name = name
        self.saved = read_json(path).get(name, 0.0)
        self.start = time.perf_counter() - self.saved

    def tick(self) -> float:
        """Return the seconds so far; save them where the saved ones are a few seconds old."""
        seconds = self._seconds()
        if seconds > self.saved + self.SAVE_EVERY:
            self.saved = seconds
            write_json(self.path, read_json(self.path) | {self.name: seconds})
        return seconds

    def stop(self) -> float:
        """Return the seconds of the whole notebook, and remove them from the file."""
        seconds = self._seconds()
        others = read_json(self.path)
        others.pop(self.name, None)
        write_json(self.path, others)
        return seconds

    def _seconds(self) -> float:
        return round(time.perf_counter() - self.start, 1)


class Runner(NotebookClient):
    """Executes a notebook and shows its progress bars on the terminal.

    Attributes:
        watch: Called at every output of the notebook; None for none.
        exit_status: Of a kernel that has ended by itself: negative for a signal; None else.
    """

    watch: Stopwatch | None = None
    exit_status: int | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _task: asyncio.Task | None = None

    def output(self, outs, msg, display_id, cell_index):
        """Pass progress bars on to the terminal, as one line that is overwritten."""
        if self.watch is not None:
            self.watch.tick()
        content = msg["content"]
        if msg["msg_type"] == "stream" and content["name"] == "stderr" and "\r" in content["text"]:
            line = content["text"].rstrip().rsplit("\r", 1)[-1]
            print(f"\r  {line[:BAR_WIDTH]:<{BAR_WIDTH}}", end="", file=sys.stderr, flush=True)
        return super().output(outs, msg, display_id, cell_index)

    async def async_execute(self, reset_kc=False, **kwargs):
        """Execute the notebook, and remember what `stop` needs."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        try:
            return await super().async_execute(reset_kc, **kwargs)
        finally:
            await _end_other_tasks()

    execute = run_sync(async_execute)

    async def _async_check_alive(self):
        try:
            await super()._async_check_alive()
        except DeadKernelError:
            process = getattr(self.km.provisioner, "process", None)
            self.exit_status = process.poll() if process is not None else None
            raise

    def stop(self) -> None:
        """End the execution, from another thread; the kernel is killed."""
        self.shutdown_kernel = "immediate"
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._task.cancel)

    def kill(self) -> None:
        """Kill the kernel where it is still there."""
        atexit.unregister(self._cleanup_kernel)
        process = getattr(getattr(self.km, "provisioner", None), "process", None)
        if process is not None and process.poll() is None:
            process.kill()


async def _end_other_tasks() -> None:
    """End what nbclient has left in this loop: it waits for replies of a kernel that is gone."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _execute(runner: Runner) -> None:
    """Execute a notebook on a thread of its own; what ends this thread ends the kernel too.

    On the main thread nbclient would put handlers of its own in place of the program's, and leave
    none behind: after the first notebook SIGTERM would kill the program where it stands.
    """
    errors: list[BaseException] = []

    def work() -> None:
        try:
            runner.execute()
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=work, name="notebook", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)  # Windows sees a signal between two waits only
    except BaseException:
        try:
            runner.kill()  # first: one that is interrupted before would complain on the terminal
            runner.stop()
            thread.join(PATIENCE)
        finally:
            runner.kill()  # one that has just begun
        raise
    if errors:
        raise errors[0]


class KernelDied(RuntimeError):
    """A notebook's kernel has ended by itself.

    Attributes:
        notebook: Its name.
        exit_status: Of the kernel: negative for a signal; None where it is not known.
    """

    def __init__(self, notebook: str, exit_status: int | None):
        super().__init__(f"the kernel of {notebook} has ended, exit status {exit_status}")
        self.notebook = notebook
        self.exit_status = exit_status


def failed_copy(path: Path, folder: Path) -> Path:
    """Return where the copy of a notebook is written in which a cell has failed."""
    return (folder / path.name).with_suffix(".failed.ipynb")


def run_notebook(
    path: Path, folder: Path, watch: Stopwatch | None = None, contents: str | None = None
) -> bool:
    """Execute a notebook, unless a copy that has run with the same source and contents exists.

    Args:
        path: The notebook. It runs in its own folder.
        folder: Where the executed copy is written, atomically and under the same name.
        watch: Saves the seconds that the notebook takes.
        contents: A hash of the settings, models and clips that its results depend on; None: these
            are not known.

    Returns:
        Whether the notebook was executed.

    Raises:
        CellExecutionError: Where a cell fails. The notebook, with the error in it, is then in
            `folder` as <name>.failed.ipynb.
        KernelDied: Where the kernel ends by itself, killed for memory say.
    """
    resolve_folders()  # the kernel has another working directory
    notebook = nbformat.read(path, as_version=4)
    source = _source_hash(notebook)
    target = folder / path.name
    failed = failed_copy(path, folder)
    if _has_run(target, source, contents):
        return False

    runner = Runner(
        notebook,
        timeout=None,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # else every kernel that starts prints a warning
    )
    runner.log = SILENT
    runner.watch = watch
    try:
        _execute(runner)
    except CellExecutionError:
        with atomic_file(failed) as temporary:
            nbformat.write(notebook, temporary)
        raise
    except DeadKernelError as error:
        raise KernelDied(path.stem, runner.exit_status) from error

    notebook.metadata["lab"] = {"source": source, "contents": contents}
    with atomic_file(target) as temporary:
        nbformat.write(notebook, temporary)
    failed.unlink(missing_ok=True)
    return True


def _has_run(path: Path, source: str, contents: str | None) -> bool:
    """Return whether a notebook has run with a source and contents, of these hashes.

    A damaged one is set aside.
    """
    if not path.exists():
        return False
    try:
        executed = nbformat.read(path, as_version=4)
        ran_with = executed.metadata.get("lab", {})
        if ran_with.get("source") != source:
            return False
    except Exception as error:  # nbformat has no error of its own for all that may be wrong
        lines = str(error).splitlines() or [type(error).__name__]
        set_aside(path, lines[0][:100])
        return False

    before = ran_with.get("contents")
    if None not in (before, contents) and before != contents:
        tell(f"{path.stem}: settings, models or clips have changed since it ran: it is run again")
        return False
    return True


def _source_hash(notebook: nbformat.NotebookNode) -> str:
    """Return the SHA-256 of the source of all cells."""
    source = "\0".join(cell.source for cell in notebook.cells)
    return hashlib.sha256(source.encode()).hexdigest()


def write_report(notebook: Path, path: Path) -> None:
    """Write an executed notebook as one HTML page, without code, progress bars and warnings."""
    executed = nbformat.read(notebook, as_version=4)
    for cell in executed.cells:
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = shown
    page, _ = HTMLExporter(exclude_input=True).from_notebook_node(executed)
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
