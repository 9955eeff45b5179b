"""`make claims ARGS=...`: the paper's claims with real speech, in folds and with several seeds.

    tune    three learning rates for every kind of method, and fewer epochs, on validation
    run     every system, fold and seed that is missing; the hypotheses' systems come first
    causes  our variant and experts without a teacher, one change at a time
    curve   every kind of method used in part: its language against the others
    tables  scores, differences and verdicts of what there is

The systems learn one speaker's voice and are tested on it and on the other's; then the other way
round: two folds. docs/statistics.md has the hypotheses. What is computed is kept in --folder, a
table of predictions and a record per cell, so that a stopped study goes on, there or on another
machine. One that computes in another precision begins anew: LAB_PRECISION=bf16 makes it the same.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import pandas as pd

from ..checks import check_choice
from ..evaluation.scoring import COUNTS, count_errors
from ..evaluation.statistics import rate
from ..evaluation.testsets import DOMAINS
from ..files import (
    atomic_file,
    file_sha256,
    one_at_a_time,
    read_json,
    results_dir,
    short_hash,
    write_json,
)
from ..lab.comparison import fingerprints
from ..lab.lab import Lab
from ..lab.metadata import run_metadata
from ..lab.plots import label_of, plot_differences, plot_tradeoff, save_figure
from ..presets import LAPTOP
from ..programs import cores, number_option, run_program
from ..training.methods import Weights, get_method
from .cells import compute, errors_of_tests, name_of, write_table
from .claims_curve import OTHERS, TARGET, write_curve
from .claims_tables import STRESS, power_table, write_tables

# The systems of the hypotheses, and those that explain them.
TESTED = ("fine-tuning", "lora", "experts", "distilwhisper")
FURTHER = (
    *("fine-tuning-teacher", "lora-teacher", "clsr-ft", "distilwhisper-released"),
    *("experts-open", "experts-open-teacher"),
)
SYSTEMS = (*TESTED, *FURTHER)
UNTRAINED = ("student", "teacher")

SEEDS = (77, 78, 79, 80, 81)
FURTHER_SEEDS = SEEDS[:2]
CAUSE_SEEDS = SEEDS[:1]  # of the causes; what they show is exploratory

# Learning rates that are tried, three for each kind of method.
RATES = {
    "fine-tuning": (2.5e-5, 5e-5, 1e-4),
    "lora": (1e-3, 2e-3, 4e-3),
    "experts": (1e-4, 2e-4, 4e-4),
    "clsr-ft": (1.5e-4, 3e-4, 6e-4),
}
# Who takes a kind's learning rate: nothing is tuned again with a teacher or without gates.
TUNED_AS = {
    "fine-tuning": ("fine-tuning-teacher",),
    "lora": ("lora-teacher",),
    "experts": ("distilwhisper", "experts-open", "experts-open-teacher"),
    "clsr-ft": ("distilwhisper-released",),
}
FEWER_EPOCHS = 3  # tried beside the preset's, at the middle rate

VOICES = ("font_small", "font_big")  # a fold each

STUDY = replace(
    LAPTOP,
    name="study",
    voice=VOICES[0],
    test_clips=None,
    retention_clips=120,
    further_systems=SYSTEMS,
)

KEPT = ("translation", *(language for _, language in STUDY.retention))


@dataclass(frozen=True)
class Cell:
    """A system with one seed in one fold.

    Attributes:
        system: Name of a method.
        voice: The speaker that is trained on.
        seed: Of the training.
        tests: Names of the tests that are scored.
        label: Of what is changed; "" where nothing is.
        preset: Fields of the preset with other values.
        training: Changes for `Lab.train`.
    """

    system: str
    voice: str
    seed: int
    tests: tuple[str, ...] = DOMAINS
    label: str = ""
    preset: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)

    @property
    def changes(self) -> dict:
        """All changes for `Lab.train`."""
        return self.training | {"seed": self.seed} if self._is_trained else {}

    @property
    def _is_trained(self) -> bool:
        return get_method(self.system).is_trained

    @property
    def name(self) -> str:
        """Of its files, such as font_small-lora-seed77."""
        label = [self.label.replace(" ", "-")] if self.label else []
        seed = [f"seed{self.seed}"] if self._is_trained else []
        return "-".join([self.voice, self.system, *label, *seed])


def scored_tests(system: str, seed: int) -> tuple[str, ...]:
    """Return the tests of a system with a seed.

    Other languages and tasks are scored where they can change: experts are off there. What belongs
    to no hypothesis, such as the stress test, is scored with the further systems' seeds alone.
    """
    method = get_method(system)
    is_early = seed in FURTHER_SEEDS or not method.is_trained
    tests = [*DOMAINS]
    if is_early:
        tests.append(STRESS)
    if system == "fine-tuning" or (is_early and not method.has_experts):
        tests += KEPT
    return tuple(tests)


def cells_of_study(folds: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells of the study: the hypotheses' systems with every seed, then the others.

    Args:
        folds: The speakers.
        seeds: Of the trainings; the further systems have the first of them.
    """
    asked = [(system, seeds[0]) for system in UNTRAINED]
    asked += [(system, seed) for seed in seeds for system in TESTED]
    asked += [(system, seed) for seed in seeds if seed in FURTHER_SEEDS for system in FURTHER]
    cells = [
        Cell(system, voice, seed, scored_tests(system, seed))
        for system, seed in dict.fromkeys(asked)
        for voice in folds
    ]
    # what is compared is computed together
    order = {name: number for number, name in enumerate((*UNTRAINED, *SYSTEMS))}
    return sorted(
        cells,
        key=lambda cell: (
            cell.system in FURTHER,
            cell.seed,
            folds.index(cell.voice),
            order[cell.system],
        ),
    )


def _fewer_clips(voice: str) -> dict[str, dict]:
    """Return the fields of the preset for fewer training clips of a voice, by label."""
    clips = len(Lab(STUDY, voice=voice).rows("train"))
    few = {"train_clips": 50, "epochs": STUDY.epochs}
    return {f"50 clips {STUDY.epochs} epochs": few} | {
        f"{count} clips": {
            "train_clips": count,
            "epochs": STUDY.epochs_of_as_many_steps(count, clips),
        }
        for count in (50, 100)
    }


def cells_of_causes(folds: Sequence[str], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells that change one thing: clips, and how the teacher is learned from.

    Fewer clips are learned from in as many steps as all clips; the fewest also in as many epochs.

    Args:
        folds: The speakers.
        seeds: Of the trainings and of the choice of clips.
    """
    losses: dict[str, dict] = {
        "KL": {"divergence": "kl"},
        "temperature 2": {"temperature": 2.0},
        "weight 4": {"divergence_weight": 4.0},
        "KL weight 4": {"divergence": "kl", "divergence_weight": 4.0},
    }
    cells = []
    for seed in seeds:
        for voice in folds:
            for label, fields in _fewer_clips(voice).items():
                fewer = fields | {"draw": seed}
                for system in TESTED:
                    cells.append(Cell(system, voice, seed, DOMAINS, label, fewer))
            for label, changes in losses.items():
                cells.append(Cell("distilwhisper", voice, seed, DOMAINS, label, training=changes))
    return cells


def lab_of(cell: Cell) -> Lab:
    """Return the laboratory of a cell's fold."""
    return Lab(STUDY, voice=cell.voice, **cell.preset)


def keys_of(lab: Lab, cell: Cell) -> list[str]:
    """Return the keys of the tests of a cell."""
    return [key for key, test in lab.test_sets.items() if name_of(test) in cell.tests]


# ---- a cell's files


def compute_cell(folder: Path, cell: Cell) -> None:
    """Train and transcribe what a cell lacks, and write its table and record.

    Args:
        folder: Of the study.
        cell: What is computed.
    """
    path = _path_of(folder, cell)
    with one_at_a_time(path):
        lab = lab_of(cell)
        if is_stored(folder, cell, lab):
            return
        began = time.perf_counter()
        table = errors_of(cell, lab)
        seconds = round(time.perf_counter() - began)
        with atomic_file(path) as part:
            table.to_csv(part, index=False, float_format="%g")
        record = {
            "cell": asdict(cell),
            "depends": depends_on(lab, cell),
            "table": file_sha256(path),
            "seconds": seconds,
        }
        write_json(
            path.with_suffix(".json"),
            record | _record(lab, cell.system, **cell.changes),
            sealed=True,
        )


def errors_of(cell: Cell, lab: Lab | None = None) -> pd.DataFrame:
    """Return the errors of a cell's predictions, computed at the first call.

    Args:
        cell: What is computed.
        lab: Of the cell; None: a new one.

    Returns:
        A row per utterance: test, id, unit, prediction, loop and COUNTS.
    """
    lab = lab_of(cell) if lab is None else lab
    keys = keys_of(lab, cell)
    table = errors_of_tests(lab, cell.system, keys, **cell.changes)
    names = {key: name_of(lab.test_set(key)) for key in keys}
    table = table.assign(test=table["key"].map(names))
    return table[["test", "id", "unit", "prediction", "loop", *COUNTS]]


def is_stored(folder: Path, cell: Cell, lab: Lab) -> bool:
    """Return whether the folder has a cell's table, whole, of the settings and clips of now."""
    path = _path_of(folder, cell)
    record = read_json(path.with_suffix(".json"), needs=("depends", "table"))
    return (
        record.get("depends") == depends_on(lab, cell)
        and path.is_file()
        and record["table"] == file_sha256(path)
    )


def depends_on(lab: Lab, cell: Cell) -> str:
    """Return a hash of all that a cell's table depends on: precision included, the machine not."""
    weights = get_method(cell.system).weights
    if weights is Weights.STUDENT:
        model = lab.student_identity.content
    else:
        model = lab.run_config(cell.system, **cell.changes).name
    clips = {key: lab.test_clips(key).digests for key in keys_of(lab, cell)}
    return short_hash([model, clips, asdict(lab.decoding), lab.precision])


def _path_of(folder: Path, cell: Cell) -> Path:
    return folder / "cells" / f"{cell.name}.csv"


def _record(lab: Lab, system: str | None = None, **changes) -> dict:
    """Return by what, with which weights and on what something was computed.

    Args:
        lab: Where the weights are.
        system: Name of the method whose weights are meant.
        changes: As for `Lab.train`.
    """
    folders: dict[str, Path | None] = {}
    if system is not None:
        method = get_method(system)
        if method.weights is Weights.TEACHER or method.distils:
            folders["teacher"] = lab.train_teacher() / "model"
        if method.is_trained:
            folders[system] = lab.train(system, **changes) / "model"
    _, models = fingerprints(set(), folders)
    return run_metadata(lab.preset, lab.steps(), {}, models)


# ---- the parts


def run(cells: Sequence[Cell], folder: Path, jobs: int, minutes: float | None) -> None:
    """Compute the cells that the folder lacks.

    Args:
        cells: In the order in which they are begun.
        folder: Of the study.
        jobs: Number of processes.
        minutes: After which no further cell begins; None: never.
    """
    until = None if minutes is None else time.time() + 60 * minutes
    compute(partial(_compute_in_time, folder, until), cells, jobs)


def _compute_in_time(folder: Path, until: float | None, cell: Cell) -> None:
    if until is None or time.time() < until:
        compute_cell(folder, cell)


def tune(kinds: Sequence[str], jobs: int, folder: Path) -> None:
    """Try learning rates and fewer epochs, as many for each kind of method; write tuning.csv.

    Rows of other kinds stay in tuning.csv, and of other pairs in power.csv.

    Args:
        kinds: Names of methods, of RATES.
        jobs: Number of processes.
        folder: Where the tables are written.
    """
    cells = [Cell("teacher", VOICES[0], SEEDS[0], ("validation",))]
    for kind in kinds:
        settings = [(value, STUDY.epochs) for value in RATES[kind]]
        settings.append((RATES[kind][1], FEWER_EPOCHS))
        for learning_rate, epochs in settings:
            changes = {"learning_rate": learning_rate, "epochs": epochs}
            cells.append(Cell(kind, VOICES[0], SEEDS[0], ("validation",), training=changes))
    tables = compute(errors_of, cells, jobs)
    trials = [
        {"system": cell.system, "learning_rate": None, "epochs": None} | cell.training | rate(table)
        for cell, table in zip(cells, tables, strict=True)
    ]
    _write_over(folder / "tuning.csv", pd.DataFrame(trials), ["system"])
    pilot = {
        cell.system: table
        for cell, table in zip(cells, tables, strict=True)
        if cell.training == _settings_of(cell.system)
    }
    power = power_table(pilot, _words_of_tests())
    _write_over(folder / "power.csv", power, ["first", "other"])
    about = {"voice": STUDY.voice, "seed": SEEDS[0]}
    write_json(folder / "tuning.json", about | _record(Lab(STUDY)))


def _write_over(path: Path, rows: pd.DataFrame, keys: list[str]) -> None:
    """Write rows into a table; rows of it that have other keys stay, before them."""
    if path.is_file() and not rows.empty:
        earlier = pd.read_csv(path)
        known = set(rows[keys].itertuples(index=False, name=None))
        stays = [row not in known for row in earlier[keys].itertuples(index=False, name=None)]
        rows = pd.concat([earlier[stays], rows])
    if not rows.empty:
        write_table(path, rows)


def _settings_of(system: str) -> dict:
    """Return the learning rate and the epochs that the study trains a system with."""
    return {"learning_rate": STUDY.learning_rate(system), "epochs": STUDY.epochs}


def _words_of_tests() -> dict[str, float]:
    """Return how many words the folds' tests have, by domain."""
    words = dict.fromkeys(DOMAINS, 0.0)
    for voice in VOICES:
        lab = Lab(STUDY, voice=voice)
        for domain in DOMAINS:
            texts = lab.test_clips(f"{STUDY.language}/{domain}").texts
            words[domain] += count_errors(texts, texts, STUDY.normaliser)["words"].sum()
    return words


def _english() -> dict[str, str]:
    """Return the references of the translation test by id, of all folds."""
    found: dict[str, str] = {}
    for voice in VOICES:
        lab = Lab(STUDY, voice=voice)
        rows = lab.test_rows(f"{STUDY.language}/translation")
        found |= dict(zip(rows["id"][:], rows["translation_en"][:], strict=True))
    return found


def draw(folder: Path) -> None:
    """Draw the hypotheses and the curve, as far as their tables are there."""
    hypotheses, curve = (folder / f"{name}.csv" for name in ("hypotheses", "curve"))
    if hypotheses.is_file():
        table = pd.read_csv(hypotheses)
        # the others are far larger, and would leave no room for these
        of_gain = table["difference"].notna() & table["test"].isin(DOMAINS)
        if of_gain.any():
            labels = [
                f"{row.name}: {label_of(row.first)} − {label_of(row.other)}"
                for row in table.itertuples(index=False)
            ]
            drawn = table.assign(label=labels)[of_gain]
            save_figure(plot_differences(drawn), folder / "figures" / "hypotheses.png")
    if curve.is_file():
        figure = plot_tradeoff(pd.read_csv(curve), TARGET, OTHERS)
        save_figure(figure, folder / "figures" / "curve.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a part of the study from the command line.

    Args:
        arguments: Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="make claims ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=["tune", "run", "causes", "curve", "tables"])
    parser.add_argument("names", nargs="*", help="tune: kinds of methods; run: systems")
    count = number_option(low=1, whole=True)
    parser.add_argument("--seeds", type=count, help="how many; default: 5, of causes 1")
    parser.add_argument("--jobs", type=count, default=cores(), help="processes")
    parser.add_argument("--minutes", type=number_option(above=0), help="then no cell begins")
    parser.add_argument("--folder", type=Path, help="default: results/study")
    given = parser.parse_intermixed_args(arguments)  # names may follow options
    folder = given.folder or results_dir(STUDY.name)
    known = {"tune": list(RATES), "run": [*UNTRAINED, *SYSTEMS]}.get(given.part, [])
    for name in given.names:
        check_choice(f"a name of {given.part}", name, known)
    names = given.names or known

    if given.part == "tune":
        tune(names, given.jobs, folder)
    elif given.part == "run":
        cells = cells_of_study(VOICES, SEEDS[: given.seeds])
        cells = [cell for cell in cells if cell.system in names]
        run(cells, folder, given.jobs, given.minutes)
    elif given.part == "causes":
        cells = cells_of_causes(VOICES, SEEDS[: given.seeds or len(CAUSE_SEEDS)])
        run(cells, folder, given.jobs, given.minutes)
    elif given.part == "curve":
        write_curve(STUDY, SEEDS[0], given.jobs, folder)
        write_json(
            folder / "curve.json", {"voice": STUDY.voice, "seed": SEEDS[0]} | _record(Lab(STUDY))
        )
    if given.part in ("run", "causes", "tables"):
        write_tables(folder, _english(), len(VOICES) * len(SEEDS))
    draw(folder)
    print(folder)


if __name__ == "__main__":
    run_program(main)
