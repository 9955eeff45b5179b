"""`python -m distilwhisper_lib.lab.course`: weights, speech, the notebooks in order, then the main table.

What exists is reused: a notebook that has run with its present source is skipped, and inside a notebook every
training, teacher and evaluation goes on where it was stopped.
"""

import argparse
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

from ..data.corpora.loading import load_corpus
from ..data.corpora.packages import download_size
from ..device import mixed_precision, release_memory
from ..files import REPOSITORY, atomic_file, cache_dir, read_json, write_json
from ..presets import Preset
from ..whisper.loading import load_processor, load_whisper
from .comparison import main_table
from .lab import Lab

NOTEBOOKS = REPOSITORY / "notebooks"

BEYOND = (
    "06",
    "07",
    "08",
)  # notebooks beyond the paper in miniature: run when they are asked for by number

WEIGHTS_GB = {"openai/whisper-base": 0.29, "openai/whisper-small": 1, "openai/whisper-large-v2": 6}

WEIGHTS = {
    name: f" ({size} GB)" if size >= 1 else f" ({1000 * size:.0f} MB)"
    for name, size in WEIGHTS_GB.items()
}

DISK_GB, TRAINED_GB = (
    4.0,
    3.0,
)  # at the laptop preset: corpora, weights and trained systems; the latter alone


class Stopwatch:
    """Seconds that each notebook has taken, those of runs that were stopped included: noted in a file on the way."""

    def __init__(self, path: Path, name: str):
        self.path, self.name, self.noted = path, name, read_json(path).get(name, 0.0)
        self.start = time.perf_counter() - self.noted

    def __call__(self, done: bool = False) -> float:
        """Return the seconds so far; every few of them are noted, and forgotten when all is done."""
        seconds = round(time.perf_counter() - self.start, 1)
        if done or seconds > self.noted + 5:
            self.noted, others = seconds, read_json(self.path)
            others.pop(self.name, None)
            write_json(self.path, others if done else others | {self.name: seconds})
        return seconds


class Runner(NotebookClient):
    """Runs a notebook and shows, on the terminal, the progress bar of what runs in it; `watch` is called at each."""

    watch: Stopwatch

    def output(self, outs, msg, display_id, cell_index):
        """Pass progress bars on to the terminal, as one line that is written over."""
        self.watch()
        content = msg["content"]
        if msg["msg_type"] == "stream" and content["name"] == "stderr" and "\r" in content["text"]:
            line = content["text"].rstrip().rsplit("\r", 1)[-1]
            print(f"\r  {line[:110]:<110}", end="", file=sys.stderr, flush=True)
        return super().output(outs, msg, display_id, cell_index)


def course_notebooks(numbers: list[str] | None = None) -> list[Path]:
    """Return the notebooks with these numbers, or those of the course, in order; ValueError for an unknown number."""
    every = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if unknown := set(numbers or ()) - set(every):
        raise ValueError(f"no notebook {', '.join(sorted(unknown))}: there are {', '.join(every)}")
    return [
        path
        for number, path in every.items()
        if (number in numbers if numbers else number not in BEYOND)
    ]


def prepare(lab: Lab) -> None:
    """Fetch and prepare weights and speech, with the terminal's own progress bars."""
    load_whisper(lab.preset.student)
    load_processor(lab.preset.student)
    for test in lab.test_sets.values():
        load_corpus(test.corpus, test.language)


def disk_needed(preset: Preset) -> float:
    """Return the gigabytes that a preset's cache takes: what is trained grows with the student's weights."""
    base = WEIGHTS_GB["openai/whisper-base"]
    return (
        0.2
        if preset.student == "tiny"
        else DISK_GB + TRAINED_GB * (WEIGHTS_GB.get(preset.student, base) / base - 1)
    )


def announce(lab: Lab) -> None:
    """Say what will be downloaded, how long it takes and what it needs; raises OSError where the disk is too full."""
    p = lab.preset
    corpora = {test.corpus for test in lab.test_sets.values()}
    megabytes = sum(download_size(corpus) for corpus in corpora) / 1e6
    print(f"preset {p.name}: about {p.minutes}, {p.memory} of memory")
    if p.student != "tiny" and mixed_precision(lab.device) == "no":
        print("this processor does not compute in bf16: expect two to four times as long")
    print(
        f"downloads, where not here yet: speech {megabytes:.0f} MB ({', '.join(sorted(corpora))}), "
        f"weights of {' and '.join(name + WEIGHTS.get(name, '') for name in (p.student, p.teacher) if name)}"
    )
    cache_dir().mkdir(parents=True, exist_ok=True)
    free, needed = shutil.disk_usage(cache_dir()).free / 1e9, disk_needed(p)
    print(f"disk: about {needed:.1f} GB in {cache_dir()} ({free:.0f} GB free)", flush=True)
    held = (
        sum(path.stat().st_size for path in cache_dir().rglob("*") if path.is_file()) / 1e9
    )  # reused
    if free + held < needed:
        raise OSError(
            f"{cache_dir()} has {free:.1f} GB free, the course needs about {needed:.1f} GB: "
            "free some, or set LAB_CACHE to a folder on another disk"
        )


def run_notebook(path: Path, folder: Path, watch: Stopwatch) -> bool:
    """Execute one notebook into `folder`; returns False where a copy that has run with this source is there.

    Raises CellExecutionError after the notebook, with the error in it, is written as <name>.failed.ipynb.
    """
    notebook = nbformat.read(path, as_version=4)
    source = hashlib.sha256("\0".join(cell.source for cell in notebook.cells).encode()).hexdigest()
    done = folder / path.name
    if (
        done.exists()
        and nbformat.read(done, as_version=4).metadata.get("lab", {}).get("source") == source
    ):
        return False
    runner = Runner(
        notebook,
        timeout=None,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        extra_arguments=["--log-level=ERROR"],
    )  # no warning for every kernel that starts
    runner.watch = watch
    try:
        runner.execute()
    except CellExecutionError:
        nbformat.write(notebook, done.with_suffix(".failed.ipynb"))
        raise
    notebook.metadata["lab"] = {"source": source}
    with atomic_file(done) as part:
        nbformat.write(notebook, part)
    done.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    return True


def run_course(lab: Lab, only: list[str] | None = None) -> None:
    """Run the course's notebooks (or those whose number is in `only`), and print the time left after each."""
    folder = lab.results / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    reference = REPOSITORY / "results" / "reference" / lab.preset.name / "timing.json"
    expected = read_json(reference) | read_json(
        lab.results / "timing.json"
    )  # seconds: here before, or else there
    paths = course_notebooks(only)
    began, spent, planned = time.perf_counter(), {}, 0.0
    for number, path in enumerate(paths, 1):
        left = sum(expected.get(later.stem, 0) for later in paths[number - 1 :])
        pace = (time.perf_counter() - began) / planned if planned > 30 else 1.0
        print(
            f"[{number}/{len(paths)}] {path.stem}"
            + (f", about {left * pace / 60:.0f} min left" if left else ""),
            flush=True,
        )
        watch = Stopwatch(lab.results / "timing-so-far.json", path.stem)
        if run_notebook(path, folder, watch):
            spent[path.stem] = watch(done=True)
            planned += expected.get(path.stem, 0)
            print(
                f"\r  done in {spent[path.stem] / 60:.1f} min: {folder / path.name} {'':<60}",
                flush=True,
            )
            write_json(lab.results / "timing.json", read_json(lab.results / "timing.json") | spent)


def finish(lab: Lab) -> None:
    """Write the report, which is the comparison notebook as it ran, as one HTML page; print the main table and where
    everything is."""
    notebook = nbformat.read(lab.results / "notebooks" / course_notebooks()[-1].name, as_version=4)
    page, _ = HTMLExporter(exclude_input=True).from_notebook_node(notebook)
    report = lab.results / "report.html"
    with atomic_file(report) as part:
        part.write_text(page, encoding="utf-8")
    table = pd.read_csv(lab.results / "comparison.csv")
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(f"\n{main_table(table, lab.preset.language)}\n")
    print(
        f"WER and CER in %, 95 % bootstrap intervals in brackets; normaliser {table['normaliser'].dropna().iloc[0]}"
    )
    parts = ("notebooks", "comparison.csv", "paired.csv", "figures", "run.json")
    print(
        "report, notebooks, tables, pictures, record:",
        report,
        *(lab.results / part for part in parts),
        sep="\n  ",
    )


def main() -> None:
    """Run the course from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--preset", help="smoke, laptop or colab (default: the variable LAB_PRESET, else laptop)"
    )
    parser.add_argument("--only", nargs="*", help="numbers of notebooks to run, such as 00 01")
    arguments = parser.parse_args()
    lab = Lab(arguments.preset)
    os.environ["LAB_PRESET"] = lab.preset.name  # the notebooks' kernels open the same one
    try:
        announce(lab)
        prepare(lab)
        release_memory()  # for the notebooks
        run_course(lab, arguments.only)
        if not arguments.only:
            finish(lab)
    except KeyboardInterrupt:
        raise SystemExit("\nstopped: the same command goes on from here") from None


if __name__ == "__main__":
    main()
