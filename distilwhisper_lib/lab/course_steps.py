"""The steps of `make course`: what it needs, downloads, the notebooks in order, the report."""

import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
from nbclient.exceptions import CellExecutionError

from ..data.corpora.packages import download_size
from ..device import mixed_precision, release_memory
from ..evaluation.testsets import load_for
from ..files import (
    REPOSITORY,
    cache_dir,
    can_write,
    check_writable,
    make_folder,
    read_json,
    resolve_folders,
    short_hash,
    write_json,
)
from ..presets import Preset
from ..programs import GOES_ON, Failed, Stopped, is_memory_error, out_of_memory
from ..training.methods import compared_methods
from ..whisper.loading import SHIPPED, load_processor, load_whisper
from .comparison import FIRST, main_table
from .lab import Lab
from .metadata import contents_now
from .notebook_runner import (
    KernelDied,
    Stopwatch,
    failed_copy,
    run_notebook,
    write_report,
)
from .preflight import preflight

NOTEBOOKS = REPOSITORY / "notebooks"
# numbers of the notebooks beyond the course: they run on request only
BEYOND = ("06", "07", "08", "09")
COMPARISON = "05"  # the notebook that becomes the report

WEIGHTS_GB = {  # downloads
    "openai/whisper-base": 0.29,
    "openai/whisper-small": 1,
    "openai/whisper-large-v2": 6,
}
WEIGHTS = {  # the same as text: " (290 MB)"
    name: f" ({size} GB)" if size >= 1 else f" ({1000 * size:.0f} MB)"
    for name, size in WEIGHTS_GB.items()
}

# Disk space at the preset `laptop`.
DISK_GB = 4.0  # corpora, weights and trained systems
TRAINED_GB = 3.0  # of these, the trained systems
SMALL_DISK_GB = 0.2  # everything, with the tiny Whisper or the toy ones

SMALL = ("tiny", *SHIPPED)  # models that nothing is downloaded for

LONG_ENOUGH = 30  # seconds of expected time after which the pace of this machine can be estimated


def make_course(preset: str | None = None, only: list[str] | None = None) -> None:
    """Run the whole course, or some of its notebooks; what exists is reused.

    Args:
        preset: The preset's name; None takes that of the variable LAB_PRESET, else `toy`.
        only: Numbers of the notebooks to run, such as "00"; None runs the course and writes its
            report.

    Raises:
        ValueError: For an unknown preset or number.
        OSError: Where the disk is too full.
        Failed: Where a notebook fails.
    """
    course_notebooks(only)  # an unknown number is told before anything is fetched
    resolve_folders()  # for the notebooks, which have another working directory
    lab = Lab(preset)
    os.environ["LAB_PRESET"] = lab.preset.name  # for the notebooks, which run in other processes
    announce(lab)
    prepare(lab)
    check(lab, only)
    release_memory()  # for the notebooks
    run_course(lab, only)
    if not only:
        finish(lab)


# ---- what the course needs


def gigabytes_needed(preset: Preset) -> float:
    """Return how many gigabytes a preset needs in the cache.

    The trained systems grow with the student's weights; the rest is that of the preset `laptop`.
    """
    if preset.student in SMALL:
        return SMALL_DISK_GB
    base = WEIGHTS_GB["openai/whisper-base"]
    times_base = WEIGHTS_GB.get(preset.student, base) / base
    return DISK_GB + TRAINED_GB * (times_base - 1)


def announce(lab: Lab) -> None:
    """Print how long the course takes, what it downloads and how much disk space it needs.

    Raises:
        OSError: Where the disk has less space than that.
    """
    preset = lab.preset
    print(f"preset {preset.name}: about {preset.minutes}, {preset.memory} of memory")
    if preset.student not in SMALL and mixed_precision(lab.device) == "no":
        print("this processor does not compute in bf16: expect two to four times as long")

    corpora = sorted({test.corpus for test in lab.test_sets.values()})
    megabytes = sum(download_size(corpus) for corpus in corpora) / 1e6
    models = [name for name in (preset.student, preset.teacher) if name and name not in SMALL]
    weights = " and ".join(name + WEIGHTS.get(name, "") for name in models)
    if models or megabytes:
        print(
            f"downloads, where not here yet: speech {megabytes:.0f} MB ({', '.join(corpora)}), "
            f"weights of {weights}"
        )
    else:
        print("nothing is downloaded: the speech is made up, the models lie here")

    cache = cache_dir()
    make_folder(cache)
    free = shutil.disk_usage(cache).free / 1e9
    needed = gigabytes_needed(preset)
    print(f"disk: about {needed:.1f} GB in {cache} ({free:.0f} GB free)", flush=True)

    # What an earlier run has left in the cache is reused, so it does not have to fit again.
    in_use = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e9
    if free + in_use < needed:
        raise OSError(
            f"{cache} has {free:.1f} GB free, the course needs about {needed:.1f} GB: "
            "free some, or set LAB_CACHE to a folder on another disk"
        )


def prepare(lab: Lab) -> None:
    """Download and prepare weights and speech, with progress bars on the terminal."""
    load_whisper(lab.preset.student)
    load_processor(lab.preset.student)
    for test in lab.test_sets.values():
        load_for(lab.preset, test.corpus, test.language)


def check(lab: Lab, only: list[str] | None = None) -> None:
    """Find out before the first notebook what would stop a later one.

    Args:
        lab: At the course's preset.
        only: Numbers of the notebooks that are to run; None: the course.

    Raises:
        ValueError: As `preflight` does, and OSError.
    """
    check_writable(lab.results)
    if only is None:
        preflight(lab, compared_methods(lab.preset))
        second = lab.preset.second_language
        preflight(lab, [FIRST], [f"{second}/second-language"], second)
    elif can_write(lab.folder):  # else they may have all they need; what they lack, they tell
        preflight(lab, ["student"], [f"{lab.preset.language}/in-domain"])


# ---- the notebooks


def course_notebooks(numbers: list[str] | None = None) -> list[Path]:
    """Return the paths of notebooks, in order.

    Args:
        numbers: Their numbers, such as "00"; None takes those of the course.

    Raises:
        ValueError: For an unknown number. The message lists the known ones.
    """
    every = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    if not numbers:
        return [path for number, path in every.items() if number not in BEYOND]
    unknown = sorted(set(numbers) - set(every))
    if unknown:
        raise ValueError(f"no notebook {', '.join(unknown)}: there are {', '.join(every)}")
    return [path for number, path in every.items() if number in numbers]


def run_course(lab: Lab, only: list[str] | None = None) -> None:
    """Run the notebooks of the course, or those with the numbers `only`.

    Prints the time left before each notebook. The seconds that each has taken are in timing.json
    in the preset's results.
    """
    folder = lab.results / "notebooks"
    make_folder(folder)
    timing = lab.results / "timing.json"
    expected = _expected_seconds(lab)
    paths = course_notebooks(only)
    contents = _contents_of(lab)

    began = time.perf_counter()
    spent: dict[str, float] = {}  # seconds of the notebooks that have run now
    planned = 0.0  # expected seconds of the same notebooks
    for index, path in enumerate(paths):
        left = sum(expected.get(later.stem, 0) for later in paths[index:])
        pace = (time.perf_counter() - began) / planned if planned > LONG_ENOUGH else 1.0
        time_left = f", about {left * pace / 60:.0f} min left" if left else ""
        print(f"[{index + 1}/{len(paths)}] {path.stem}{time_left}", flush=True)

        watch = Stopwatch(lab.results / "timing-so-far.json", path.stem)
        try:
            has_run = run_notebook(path, folder, watch, contents)
        except (CellExecutionError, KernelDied) as error:
            raise _failed(error, path, folder) from error
        if not has_run:
            continue  # it has run before
        seconds = watch.stop()
        spent[path.stem] = seconds
        planned += expected.get(path.stem, 0)
        write_json(timing, read_json(timing) | spent)
        # The padding at the end covers the last progress bar.
        print(f"\r  done in {seconds / 60:.1f} min: {folder / path.name} {'':<60}", flush=True)


def _contents_of(lab: Lab) -> str | None:
    """Return a hash of all that the notebooks' results depend on beside their source."""
    models_and_clips = contents_now(
        lab.preset, {(test.corpus, test.language) for test in lab.test_sets.values()}
    )
    if models_and_clips is None:
        return None
    settings = asdict(replace(lab.preset, minutes="", memory=""))
    return short_hash([settings, models_and_clips, lab.precision])


def _failed(error: CellExecutionError | KernelDied, path: Path, folder: Path) -> BaseException:
    """Return the error that a reader is told when a notebook has failed.

    Args:
        error: Of the runner.
        path: The notebook.
        folder: Of the executed notebooks.
    """
    if isinstance(error, KernelDied):
        if error.exit_status == -9:
            who = f"the kernel of {path.stem} was killed, most likely because memory ran out"
            return Failed(out_of_memory(who))
        return Failed(
            f"the kernel of {path.stem} has ended (exit status {error.exit_status}): {GOES_ON}"
        )

    if error.ename in ("KeyboardInterrupt", "Stopped"):
        return Stopped()  # the kernel alone was interrupted
    if is_memory_error(error.ename, error.evalue):
        return Failed(out_of_memory(f"{path.stem} has run out of memory"))
    return Failed(
        f"{path.stem} has failed: {error.ename}: {error.evalue}\n"
        f"the notebook with the error: {failed_copy(path, folder)}; once that is put right, "
        f"{GOES_ON}"
    )


def _expected_seconds(lab: Lab) -> dict[str, float]:
    """Return the seconds of each notebook: as it took here before, or else in the reference run."""
    reference = read_json(REPOSITORY / "results" / "reference" / lab.preset.name / "timing.json")
    return reference | read_json(lab.results / "timing.json")


# ---- the report


def finish(lab: Lab) -> None:
    """Write the report, then print the main table and where everything is.

    The report is the notebook of the comparison, as one HTML page without code.
    """
    report = lab.results / "report.html"
    comparison = course_notebooks([COMPARISON])[0]
    write_report(lab.results / "notebooks" / comparison.name, report)

    table = pd.read_csv(lab.results / "comparison.csv")
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(f"\n{main_table(table, lab.preset.language)}\n")
    normaliser = table["normaliser"].dropna().iloc[0]
    print(f"WER and CER in %, 95 % bootstrap intervals in brackets; normaliser {normaliser}")

    print("report, notebooks, tables, figures, run metadata:")
    print(f"  {report}")
    for name in ("notebooks", "comparison.csv", "paired.csv", "figures", "run.json"):
        print(f"  {lab.results / name}")
