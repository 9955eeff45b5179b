"""`make toy ARGS=...`: the paper with toy languages, with many seeds and one cause at a time.

    tune    five learning rates for every method, on validation
    models  train the Whispers of the preset toy again, into data/toy
    seeds   every method with ten seeds; differences with intervals over seeds and clips
    knobs   one cause at a time: how well the student knows the language, how good the teacher is,
            how many labelled clips, which loss, how near the languages are, how far the other voice

Trainings and predictions are kept as those of a course, so that a stopped study goes on.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from ..checks import check_choice
from ..data.batches import Clips
from ..data.corpora.items import to_row
from ..data.corpora.preparing import dataset_of
from ..data.corpora.world import SAME_VOICE, Voice, spoken_by
from ..device import use_precision
from ..evaluation.predictions import stored_predictions
from ..evaluation.scoring import count_errors
from ..evaluation.statistics import rate
from ..evaluation.testsets import DOMAINS
from ..evaluation.transcription import transcribe
from ..files import make_folder, one_at_a_time, results_dir, short_hash, write_json
from ..lab.lab import Lab
from ..lab.metadata import run_metadata
from ..lab.plots import plot_knob, save_figure
from ..presets import PRESETS
from ..programs import cores, number_option, run_program
from ..training.methods import get_method
from .cells import (
    PAIRS,
    by_system,
    compute,
    differences,
    errors_of_tests,
    errors_side_by_side,
    name_of,
    write_table,
)
from .toy_models import RECIPES, Recipe, ship, train_toy

SYSTEMS = (  # the ten arms
    *("fine-tuning", "fine-tuning-teacher", "lora", "lora-teacher"),
    *("clsr-ft", "distilwhisper-released", "experts", "distilwhisper"),
    *("experts-open", "experts-open-teacher"),
)
KNOB_SYSTEMS = (
    *("fine-tuning", "fine-tuning-teacher", "lora", "lora-teacher"),
    *("experts", "distilwhisper", "experts-open"),
)
WITH_TEACHER = tuple(name for name in KNOB_SYSTEMS if get_method(name).distils)
UNTRAINED = ("student", "teacher")

SEEDS = tuple(range(10))
KNOB_SEEDS = (0, 1)
TEST_CLIPS = 1024  # of each domain, in the study of seeds
KNOB_TEST_CLIPS = 512
RETENTION_CLIPS = 256

TESTS = (*DOMAINS, "translation", "retention")

# Learning rates that are tried in tuning, five for every method.
RATES = {
    **dict.fromkeys(SYSTEMS[:2], (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3)),
    **dict.fromkeys(SYSTEMS[2:4], (2.5e-3, 5e-3, 1e-2, 2e-2, 4e-2)),
    **dict.fromkeys(SYSTEMS[4:], (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)),
}
TUNING_SEEDS = (100, 101)  # of no study


@dataclass(frozen=True)
class Setting:
    """A position of a knob.

    Attributes:
        knob: Its name; "" where nothing is changed.
        label: Of the position.
        preset: Fields of the preset `toy` with other values.
        training: As for `Lab.train`.
        student: A recipe that is trained first and takes the student's place.
        teacher: The same of the teacher.
        voice: Of the test, where it is another one.
        systems: Methods that are trained here.
    """

    knob: str
    label: str
    preset: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    student: Recipe | None = None
    teacher: Recipe | None = None
    voice: Voice | None = None
    systems: tuple[str, ...] = KNOB_SYSTEMS


PLAIN = Setting("", "")  # the preset as it is


def heard(share: float) -> Recipe:
    """Return the recipe of a student that has heard a share of each little-known language."""
    known, mixed = RECIPES["student"].stages
    return replace(RECIPES["student"], stages=(known, replace(mixed, share=share)))


def with_clips(count: int) -> dict:
    """Return the fields of the preset for as many labelled clips, with as many steps as ever."""
    toy = PRESETS["toy"]
    epochs = toy.epochs_of_as_many_steps(count, toy.train_clips or count)
    return {"train_clips": count, "epochs": epochs}


FEW = with_clips(48)

LOSSES = {
    "JS, as in the paper": {},
    "JS, weight 4": {"divergence_weight": 4.0},
    "JS, temperature 2": {"temperature": 2.0},
    "KL": {"divergence": "kl"},
    "KL, weight 4": {"divergence": "kl", "divergence_weight": 4.0},
}

KNOBS: dict[str, tuple[Setting, ...]] = {
    # how well the student knows the language
    "student": tuple(
        Setting("student", f"{share:.0%}", student=heard(share)) for share in (0.0, 0.02, 0.05, 0.1)
    ),
    # how good the teacher is: the student itself, better students, the teacher
    "teacher": (
        Setting("teacher", "the student itself", {"teacher": "toy-student"}, systems=WITH_TEACHER),
        *(
            Setting(
                "teacher", f"a student with {share:.0%}", teacher=heard(share), systems=WITH_TEACHER
            )
            for share in (0.1, 0.25)
        ),
        Setting("teacher", "the teacher", systems=WITH_TEACHER),
    ),
    "clips": tuple(Setting("clips", str(count), with_clips(count)) for count in (24, 48, 96, 192)),
    "loss": tuple(
        Setting("loss", label, FEW, changes, systems=WITH_TEACHER)
        for label, changes in LOSSES.items()
    ),
    # how many letters of the language sound as in one that the student knows
    "nearness": tuple(
        Setting("nearness", label, {"language": code, "second_language": other})
        for label, code, other in (("none", "cs", "hu"), ("half", "hu", "cs"), ("all", "uk", "cs"))
    ),
    # how far the voice of the test is from the one that is trained on
    "voice": tuple(
        Setting(
            "voice", f"{pitch:.2f}", voice=replace(SAME_VOICE, name=f"pitch-{pitch}", pitch=pitch)
        )
        for pitch in (0.95, 1.0, 1.04, 1.08, 1.12, 1.16)
    ),
}


@dataclass(frozen=True)
class Cell:
    """A method with one seed at one setting.

    Attributes:
        setting: Of the knobs.
        system: Name of the method.
        seed: Of the training and of the choice of its clips.
        test_clips: Of each domain.
        tests: Names of the tests that are scored.
    """

    setting: Setting
    system: str
    seed: int
    test_clips: int
    tests: tuple[str, ...] = TESTS


def lab_of(cell: Cell) -> Lab:
    """Return the laboratory of a cell; a student or teacher of its own is trained first."""
    changes = dict(cell.setting.preset)
    for role in ("student", "teacher"):
        recipe = getattr(cell.setting, role)
        if recipe is not None:
            changes[role] = str(train_toy(recipe))
    return Lab(
        "toy",
        seed=cell.seed,
        draw=cell.seed,
        test_clips=cell.test_clips,
        retention_clips=RETENTION_CLIPS,
        **changes,
    )


def errors_of(cell: Cell) -> pd.DataFrame:
    """Return the errors of a cell's predictions, computed at the first call.

    Returns:
        A row per utterance: test, seed, and the columns of `comparison.counts`.
    """
    lab = lab_of(cell)
    changes = cell.setting.training if get_method(cell.system).is_trained else {}
    if cell.setting.voice is not None:
        table = _errors_with_voice(lab, cell.system, cell.setting.voice, cell.test_clips)
        return table.assign(test="other voice", seed=cell.seed)
    names = {key: name_of(test) for key, test in lab.test_sets.items() if test.name in cell.tests}
    table = errors_of_tests(lab, cell.system, list(names), **changes)
    return table.assign(test=table["key"].map(names), seed=cell.seed).drop(columns="key")


def _errors_with_voice(lab: Lab, system: str, voice: Voice, count: int) -> pd.DataFrame:
    """Return the errors on test lines that are spoken by another voice."""
    language = lab.preset.language
    rows = [to_row(item) for item in spoken_by(language, voice, count)]
    clips = Clips(
        dataset_of([row for row in rows if isinstance(row, dict)]), lab.processor, language
    )
    depends = lab.settings_of_test(lab.test_set(f"{language}/in-domain"), clips)
    file = f"{voice.name}-{short_hash(depends)}.csv"
    path = lab.folder / "predictions" / lab.weights_name(system) / file
    with one_at_a_time(path):
        table = stored_predictions(clips, path)
        if table is None:
            model = lab.model(system)
            label = f"{system}: {voice.name}"
            with use_precision(lab.preset.precision):
                table = transcribe(
                    model, clips, lab.collator, lab.decoding, path, language, label=label
                )
    predictions = list(table["prediction"])
    errors = count_errors(clips.texts, predictions, lab.preset.normaliser)
    return errors.assign(id=clips.ids)


def tune(systems: Sequence[str], jobs: int) -> None:
    """Try learning rates, the same number for each method; write tuning.csv.

    Args:
        systems: Names of methods.
        jobs: Number of processes.
    """
    trials: list[tuple[str, float]] = []
    cells: list[Cell] = []
    for system in systems:
        for value in RATES[system]:
            setting = replace(PLAIN, training={"learning_rate": value})
            for seed in TUNING_SEEDS:
                trials.append((system, value))
                cells.append(Cell(setting, system, seed, KNOB_TEST_CLIPS, ("validation",)))
    tables: dict[tuple[str, float], list[pd.DataFrame]] = {}
    for trial, table in zip(trials, compute(errors_of, cells, jobs), strict=True):
        tables.setdefault(trial, []).append(table)
    rows = [
        {"system": system, "learning_rate": value, **rate(pd.concat(parts))}
        for (system, value), parts in tables.items()
    ]
    write_table(study_folder() / "tuning.csv", pd.DataFrame(rows))
    _write_about(study_folder() / "tuning.json", {"seeds": list(TUNING_SEEDS)})


def seeds(numbers: Sequence[int], systems: Sequence[str], jobs: int) -> None:
    """Train every method with every seed; write systems.csv, pairs.csv and the errors.

    Args:
        numbers: The seeds.
        systems: Names of methods.
        jobs: Number of processes.
    """
    cells = [Cell(PLAIN, system, seed, TEST_CLIPS) for seed in numbers for system in systems]
    fixed = [Cell(PLAIN, system, numbers[0], TEST_CLIPS) for system in UNTRAINED]
    cells = [*fixed, *cells]
    errors = by_system([cell.system for cell in cells], compute(errors_of, cells, jobs))
    folder = study_folder()
    tests = list(dict.fromkeys(errors["student"]["test"]))
    rows = [
        {"system": system, "test": test, **rate(table[table["test"] == test])}
        for system, table in errors.items()
        for test in tests
    ]
    write_table(folder / "systems.csv", pd.DataFrame(rows))
    write_table(folder / "pairs.csv", pd.DataFrame(differences(errors, PAIRS, tests)))
    for test in DOMAINS:
        write_table(folder / f"errors-{test}.csv", errors_side_by_side(errors, test))
    _write_about(folder / "seeds.json", {"seeds": list(numbers), "systems": list(systems)})


def knobs(names: Sequence[str], numbers: Sequence[int], jobs: int) -> None:
    """Turn knobs; write tables, a picture and a record of each.

    Args:
        names: Of KNOBS.
        numbers: The seeds.
        jobs: Number of processes.
    """
    folder = study_folder()
    for name in names:
        settings = KNOBS[name]
        for setting in settings:  # students and teachers first, one at a time
            lab_of(Cell(setting, "student", 0, KNOB_TEST_CLIPS))
        cells = [cell for setting in settings for cell in _cells_of(setting, numbers)]
        tables = compute(errors_of, cells, jobs)
        rows: list[dict] = []
        pairs: list[dict] = []
        for setting in settings:
            own = [number for number, cell in enumerate(cells) if cell.setting is setting]
            errors = by_system([cells[n].system for n in own], [tables[n] for n in own])
            where = {"knob": name, "position": setting.label}
            tests = list(dict.fromkeys(errors["student"]["test"]))
            for system, table in errors.items():
                for test in tests:
                    found = rate(table[table["test"] == test])
                    rows.append({**where, "system": system, "test": test, **found})
            pairs += [where | row for row in differences(errors, PAIRS, tests)]
        table = pd.DataFrame(rows)
        write_table(folder / f"knob-{name}.csv", table)
        write_table(folder / f"knob-{name}-pairs.csv", pd.DataFrame(pairs))
        save_figure(plot_knob(table, AXES[name]), folder / "figures" / f"knob-{name}.png")
        _write_about(folder / f"knob-{name}.json", {"seeds": list(numbers)})


def _cells_of(setting: Setting, numbers: Sequence[int]) -> list[Cell]:
    """Return the cells of a position: student and teacher once, the methods with every seed."""
    asked = [(system, numbers[0]) for system in UNTRAINED]
    asked += [(system, seed) for seed in numbers for system in setting.systems]
    return [Cell(setting, system, seed, KNOB_TEST_CLIPS, DOMAINS) for system, seed in asked]


# ---- files


def study_folder() -> Path:
    """Return where the tables and pictures of the study are written."""
    return make_folder(results_dir("toy") / "study")


def _write_about(path: Path, facts: dict) -> None:
    """Write what was computed, by what and on what."""
    write_json(path, facts | run_metadata(PRESETS["toy"], [], {}, {}))


AXES = {
    "student": "share of the language in what the student has heard",
    "teacher": "who teaches",
    "clips": "labelled clips",
    "loss": "divergence from the teacher, 48 labelled clips",
    "nearness": "letters that sound as in a language that the student knows",
    "voice": "pitch of the test's voice (training: 0.95)",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a part of the toy study from the command line.

    Args:
        arguments: Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="make toy ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=["models", "tune", "seeds", "knobs"])
    parser.add_argument("names", nargs="*", help="models: student, teacher; knobs: their names")
    count = number_option(low=1, whole=True)
    parser.add_argument("--seeds", type=count, help="how many; default: 10, of knobs 2")
    parser.add_argument("--jobs", type=count, default=cores(), help="processes")
    given = parser.parse_intermixed_args(arguments)  # names may follow options
    known = {"models": list(RECIPES), "knobs": list(KNOBS)}.get(given.part, list(SYSTEMS))
    names = given.names or known
    for name in names:
        check_choice(f"a name of {given.part}", name, known)
    if given.part == "models":
        for role in names:
            print(ship(role))
    elif given.part == "tune":
        tune(names, given.jobs)
    elif given.part == "seeds":
        seeds(range(given.seeds or len(SEEDS)), names, given.jobs)
    else:
        knobs(names, range(given.seeds or len(KNOB_SEEDS)), given.jobs)
    print(study_folder())


if __name__ == "__main__":
    run_program(main)
