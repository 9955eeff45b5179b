"""Build the notebooks: each file in notebooks/source gives a notebook, and its solutions.

    .venv/bin/python tools/notebooks.py build      write notebooks/*.ipynb, with the outputs that
                                                   still fit, and notebooks/solutions; the appendix
                                                   has no exercises, so it has no solutions
    .venv/bin/python tools/notebooks.py publish    take over the results of a course run at the
                                                   laptop preset: the notebooks with their outputs,
                                                   and tables and figures as the reference results

A source is in jupytext's percent format. Tags say where a cell goes: "stub" and "hint" only into
the notebook, "solution" and "answer" (to an open question) only into the solutions, "setup",
"exercise" and "check" into both, "also" (another right answer) and "wrong" (a plausible mistake)
are for the tests and go into neither.
Without a tag a cell goes into the notebook only, and so do three kinds for the reader's own work:

    predict    a line for the reader's prediction; the book folds the output of the cell after it
    build      an open function that the reader writes
    fold       our version of it, folded, and used only where the reader's is still open
"""

import argparse
import copy
import hashlib
import shutil
from pathlib import Path

import jupytext
import nbformat
import publication

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
IN_SOLUTIONS = {"setup", "exercise", "solution", "answer", "check"}
NOT_IN_NOTEBOOK = {"solution", "answer", "also", "wrong"}

# Cells for the reader's own work: they print nothing, so outputs are kept where they come or go
WITHOUT_OUTPUT = {"predict", "build"}

# The MIME type of a progress bar, which only lives while the notebook runs
WIDGET = "application/vnd.jupyter.widget-view+json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# What Colab reads in the one notebook that is for a GPU: it starts a runtime with a T4
ON_GPU = {"accelerator": "GPU", "colab": {"gpuType": "T4", "provenance": []}}


def sources() -> list[Path]:
    """Return the sources in the order of the course."""
    return sorted((NOTEBOOKS / "source").glob("[0-9]*.py"))


def setup_cell() -> str:
    """Return the text of the first code cell, which all notebooks share.

    It clones the project from the address of publication; without one it asks.
    """
    text = (NOTEBOOKS / "source" / "setup_cell.py").read_text(encoding="utf-8").strip()
    return publication.with_default(text)


def read_source(path: Path) -> list:
    """Return the cells of a source; a cell tagged "setup" is filled with the shared text."""
    cells = jupytext.read(path, fmt="py:percent").cells
    for cell in cells:
        if "setup" in tags(cell):
            cell.source = setup_cell()
    return cells


def tags(cell) -> set[str]:
    """Return the tags of a cell."""
    return set(cell.metadata.get("tags", []))


def has_exercises(path: Path) -> bool:
    """Whether a source has exercises: all have, but for the appendix."""
    return any("exercise" in tags(cell) for cell in read_source(path))


def build_notebook(path: Path):
    """Return the notebook of a source, without outputs.

    Its first cell has a badge for Colab where the project is published.
    """
    cells = [cell for cell in read_source(path) if not tags(cell) & NOT_IN_NOTEBOOK]
    cells[0].source = publication.with_badge(cells[0].source, path.stem)
    notebook = _notebook(path, cells)
    if path.stem == publication.FOR_GPU:
        notebook.metadata.update(copy.deepcopy(ON_GPU))
    return notebook


def build_solutions(path: Path):
    """Return the solutions of a source: setup, exercises, solutions and checks."""
    title = nbformat.v4.new_markdown_cell(
        f"# Solutions: {path.stem}\n\nGenerated from `notebooks/source/{path.name}`."
    )
    chosen = [cell for cell in read_source(path) if tags(cell) & IN_SOLUTIONS]
    return _notebook(path, [title, *chosen])


def _notebook(path: Path, cells: list):
    """Return a notebook of copies of the cells, with our metadata and ids that stay the same."""
    notebook = nbformat.v4.new_notebook(metadata=copy.deepcopy(METADATA))
    for number, original in enumerate(cells):
        cell = copy.deepcopy(original)
        cell.metadata = {"tags": sorted(tags(cell))} if tags(cell) else {}
        if "fold" in tags(cell):
            add_tag(cell, "hide-input")  # for the book
            cell.metadata["jupyter"] = {"source_hidden": True}
        identity = f"{path.stem}/{number}/{cell.source}"
        cell["id"] = hashlib.sha256(identity.encode()).hexdigest()[:8]
        notebook.cells.append(cell)
    return notebook


def code_cells(notebook) -> list:
    """Return the code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def cells_with_outputs(notebook) -> list:
    """Return the code cells of a notebook without those that never print."""
    return [cell for cell in code_cells(notebook) if not tags(cell) & WITHOUT_OUTPUT]


def keep_outputs(new, old) -> None:
    """Copy outputs of `old` into `new`, up to the first code cell whose code has changed.

    A setup cell may have changed. It finds the project and opens the lab; what the cells after it
    compute depends on their own code and on the preset, which the address of publication or a
    comment in the setup cell doesn't change.
    """
    for new_cell, old_cell in zip(cells_with_outputs(new), cells_with_outputs(old), strict=False):
        both_set_up = "setup" in tags(new_cell) & tags(old_cell)
        if new_cell.source != old_cell.source and not both_set_up:
            return
        new_cell.outputs = old_cell.outputs
        new_cell.execution_count = old_cell.execution_count


def add_tag(cell, tag: str) -> None:
    """Add a tag to a cell."""
    cell.metadata["tags"] = sorted(tags(cell) | {tag})


def fold_what_is_predicted(notebook) -> None:
    """Let the book fold the output that answers each prediction: the first one after it."""
    is_open = False
    for cell in code_cells(notebook):
        if "predict" in tags(cell):
            is_open = True
        elif is_open and cell.outputs:
            add_tag(cell, "hide-output")
            is_open = False


def clean_outputs(notebook) -> None:
    """Remove what is not committed: sound, progress bars, this machine's paths."""
    for cell in code_cells(notebook):
        cell.metadata.pop("execution", None)
        cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
        for output in cell.outputs:
            data = output.get("data", {})
            if "<audio" in str(data.get("text/html", "")):
                data["text/html"] = "<i>(a sound player, filled in when the notebook runs)</i>"
            for holder, key in ((output, "text"), (data, "text/plain"), (data, "text/html")):
                if key in holder:
                    holder[key] = _without_paths("".join(holder[key]))


def _is_progress(output) -> bool:
    """Whether an output is a progress bar or a message on standard error."""
    return output.get("name") == "stderr" or WIDGET in output.get("data", {})


def _without_paths(text: str) -> str:
    """Return a text with paths relative to the repository or the home folder."""
    text = text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")
    text = text.replace(f"{Path.home()}/", "~/")
    return text.replace("<IPython.lib.display.Audio object>", "(sound)")


def build() -> None:
    """Write every notebook and its solutions."""
    solutions = NOTEBOOKS / "solutions"
    solutions.mkdir(exist_ok=True)
    for path in sources():
        target = NOTEBOOKS / f"{path.stem}.ipynb"
        notebook = build_notebook(path)
        if target.exists():
            keep_outputs(notebook, nbformat.read(target, as_version=4))
        fold_what_is_predicted(notebook)
        nbformat.write(notebook, target)
        if has_exercises(path):
            nbformat.write(build_solutions(path), solutions / f"{path.stem}_solutions.ipynb")


def publish(results: Path = ROOT / "results", preset: str = "laptop") -> None:
    """Write the executed notebooks with their outputs, and tables and figures as the reference."""
    for path in sources():
        executed = results / preset / "notebooks" / f"{path.stem}.ipynb"
        if not executed.exists():
            continue
        notebook = build_notebook(path)
        keep_outputs(notebook, nbformat.read(executed, as_version=4))
        clean_outputs(notebook)
        fold_what_is_predicted(notebook)
        nbformat.write(notebook, NOTEBOOKS / f"{path.stem}.ipynb")

    # Studies of earlier runs stay
    reference = results / "reference" / preset
    shutil.rmtree(reference / "figures", ignore_errors=True)
    hidden = shutil.ignore_patterns("notebooks", "*.html", "*.part", "timing-so-far.json")
    shutil.copytree(results / preset, reference, ignore=hidden, dirs_exist_ok=True)


def main(arguments: list[str] | None = None) -> None:
    """Build or publish, from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["build", "publish"])
    options = parser.parse_args(arguments)
    if options.command == "build":
        build()
    else:
        publish()


if __name__ == "__main__":
    main()
