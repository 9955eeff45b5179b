"""Notebooks from their sources: one file in notebooks/source gives the notebook and its solutions.

    python tools/notebooks.py build      write notebooks/*.ipynb (keeping outputs that still fit) and solutions
    python tools/notebooks.py publish    take over what a course run at the laptop preset gave: the notebooks' outputs,
                                         cleaned, and tables and figures as results/reference/laptop

A source is in jupytext's percent format. Tags say where a cell goes: "stub" and "hint" only into the notebook,
"solution" only into the solutions, "exercise" and "check" into both, "wrong" into neither (a plausible wrong
answer, for the tests), "setup" into both. Everything else is in the notebook only.
"""

import copy
import hashlib
import re
import shutil
import sys
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
IN_SOLUTIONS = {"setup", "exercise", "solution", "check"}
NOT_IN_NOTEBOOK = {"solution", "wrong"}
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar that only lives while the notebook runs
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[Path]:
    """Return the sources in the order of the course."""
    return sorted((NOTEBOOKS / "source").glob("[0-9]*.py"))


def setup_cell() -> str:
    """Return the text of the first cell, one for all notebooks."""
    return (NOTEBOOKS / "source" / "setup_cell.py").read_text().strip()


def read_source(path: Path) -> list:
    """Return the cells of a source; a cell tagged "setup" is filled with the common text."""
    cells = jupytext.read(path, fmt="py:percent").cells
    for cell in cells:
        if "setup" in tags(cell):
            cell.source = setup_cell()
    return cells


def tags(cell) -> set[str]:
    """Return the tags of a cell."""
    return set(cell.metadata.get("tags", []))


def build_notebook(path: Path):
    """Return the notebook of a source, without outputs."""
    return _notebook(path, [cell for cell in read_source(path) if not tags(cell) & NOT_IN_NOTEBOOK])


def build_solutions(path: Path):
    """Return the solutions of a source: setup, the exercises, solutions and checks."""
    title = nbformat.v4.new_markdown_cell(
        f"# Solutions: {path.stem}\n\nGenerated from `notebooks/source/{path.name}`."
    )
    return _notebook(
        path, [title, *(cell for cell in read_source(path) if tags(cell) & IN_SOLUTIONS)]
    )


def _notebook(path: Path, cells: list):
    notebook = nbformat.v4.new_notebook(metadata=copy.deepcopy(METADATA))
    for number, cell in enumerate(cells):
        cell = copy.deepcopy(cell)
        cell.metadata = {"tags": sorted(tags(cell))} if tags(cell) else {}
        cell["id"] = hashlib.sha256(f"{path.stem}/{number}/{cell.source}".encode()).hexdigest()[:8]
        notebook.cells.append(cell)
    return notebook


def keep_outputs(new, old) -> None:
    """Copy the outputs of `old` into `new` where all the code up to and including the cell is the same."""
    codes = [
        [cell for cell in notebook.cells if cell.cell_type == "code"] for notebook in (new, old)
    ]
    for mine, theirs in zip(*codes, strict=False):
        if mine.source != theirs.source:
            return
        mine.outputs, mine.execution_count = theirs.outputs, theirs.execution_count


def clean_outputs(notebook) -> None:
    """Take out what must not be committed: sound, progress bars, this machine's paths, widget state."""
    notebook.metadata = copy.deepcopy(METADATA)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata.pop("execution", None)
        cell.outputs = [
            output
            for output in cell.outputs
            if output.get("name") != "stderr" and WIDGET not in output.get("data", {})
        ]
        for output in cell.outputs:
            data = output.get("data", {})
            if "<audio" in str(data.get("text/html", "")):
                data["text/html"] = "<i>(a sound player, filled in when the notebook runs)</i>"
            for holder, key in ((output, "text"), (data, "text/plain"), (data, "text/html")):
                if key in holder:
                    holder[key] = _without_paths("".join(holder[key]))


def _without_paths(text: str) -> str:
    text = (
        text.replace(f"{ROOT}/", "").replace(str(ROOT), ".").replace(str(Path.home()) + "/", "~/")
    )
    return re.sub(r"<IPython.lib.display.Audio object>", "(sound)", text)


def build() -> None:
    """Write every notebook and its solutions."""
    for path in sources():
        target = NOTEBOOKS / f"{path.stem}.ipynb"
        notebook = build_notebook(path)
        if target.exists():
            keep_outputs(notebook, nbformat.read(target, as_version=4))
        nbformat.write(notebook, target)
        (NOTEBOOKS / "solutions").mkdir(exist_ok=True)
        nbformat.write(
            build_solutions(path), NOTEBOOKS / "solutions" / f"{path.stem}_solutions.ipynb"
        )


def publish(results: Path = ROOT / "results", preset: str = "laptop") -> None:
    """Write the notebooks that a run has executed with their outputs, and its tables and figures as the reference."""
    for path in sources():
        if not (executed := results / preset / "notebooks" / f"{path.stem}.ipynb").exists():
            continue
        notebook = build_notebook(path)
        keep_outputs(notebook, nbformat.read(executed, 4))
        clean_outputs(notebook)
        nbformat.write(notebook, NOTEBOOKS / f"{path.stem}.ipynb")
    reference = results / "reference" / preset
    shutil.rmtree(reference / "figures", ignore_errors=True)
    hidden = shutil.ignore_patterns("notebooks", "*.html", "*.part", "timing-so-far.json")
    shutil.copytree(
        results / preset, reference, ignore=hidden, dirs_exist_ok=True
    )  # studies made earlier stay


if __name__ == "__main__":
    {"build": build, "publish": publish}[sys.argv[1] if len(sys.argv) > 1 else "build"]()
