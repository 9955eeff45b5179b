"""Run notebooks from the terminal: a stopwatch that continues, the runner, the report."""

import hashlib
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from ..files import atomic_file, read_json, write_json

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
    """

    watch: Stopwatch | None = None

    def output(self, outs, msg, display_id, cell_index):
        """Pass progress bars on to the terminal, as one line that is overwritten."""
        if self.watch is not None:
            self.watch.tick()
        content = msg["content"]
        if msg["msg_type"] == "stream" and content["name"] == "stderr" and "\r" in content["text"]:
            line = content["text"].rstrip().rsplit("\r", 1)[-1]
            print(f"\r  {line[:BAR_WIDTH]:<{BAR_WIDTH}}", end="", file=sys.stderr, flush=True)
        return super().output(outs, msg, display_id, cell_index)


def run_notebook(path: Path, folder: Path, watch: Stopwatch | None = None) -> bool:
    """Execute a notebook, unless a copy that has run with the same source exists.

    Args:
        path: The notebook. It runs in its own folder.
        folder: Where the executed copy is written, atomically and under the same name.
        watch: Saves the seconds that the notebook takes.

    Returns:
        Whether the notebook was executed.

    Raises:
        CellExecutionError: Where a cell fails. The notebook, with the error in it, is then in
            `folder` as <name>.failed.ipynb.
    """
    notebook = nbformat.read(path, as_version=4)
    source = _source_hash(notebook)
    target = folder / path.name
    failed = target.with_suffix(".failed.ipynb")
    if target.exists():
        executed = nbformat.read(target, as_version=4)
        if executed.metadata.get("lab", {}).get("source") == source:
            return False

    runner = Runner(
        notebook,
        timeout=None,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--log-level=ERROR"],  # else every kernel that starts prints a warning
    )
    runner.watch = watch
    try:
        runner.execute()
    except CellExecutionError:
        nbformat.write(notebook, failed)
        raise

    notebook.metadata["lab"] = {"source": source}
    with atomic_file(target) as temporary:
        nbformat.write(notebook, temporary)
    failed.unlink(missing_ok=True)
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
