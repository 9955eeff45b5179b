"""How much of a method to use: WER in its language against WER in other languages.

Fine-tuning can be mixed with the student (`interpolated`), LoRA's adapters can be scaled down, and
experts can be mixed with the shared blocks (`interpolated_experts`). Experts are left on in other
languages, with their gates. Nothing is trained for it.
"""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
from peft.helpers import rescale_adapter_scale

from ..device import use_precision
from ..evaluation.interpolation import interpolated, interpolated_experts
from ..evaluation.statistics import rate
from ..evaluation.testsets import DOMAINS, is_retention
from ..evaluation.transcription import transcribe
from ..files import one_at_a_time, short_hash
from ..lab.comparison import counts, counts_of
from ..lab.lab import Lab
from ..presets import Preset
from ..training.methods import get_method
from .cells import compute, name_of, write_table

SCALED = ("fine-tuning", "lora", "distilwhisper", "experts-open")
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
CLIPS = 60  # of each other language
TARGET = "both domains"
OTHERS = "other languages"


@dataclass(frozen=True)
class Point:
    """A system, used to a degree.

    Attributes:
        system: Name of a method.
        strength: From 0, the student, to 1, the system as it was trained.
    """

    system: str
    strength: float


POINTS = (
    Point("student", 0.0),
    *(Point(system, strength) for system in SCALED for strength in STRENGTHS),
)


def errors_of_point(preset: Preset, seed: int, point: Point) -> pd.DataFrame:
    """Return the errors of a point in both domains and in the other languages, experts always on.

    Args:
        preset: Of a fold of the study.
        seed: Of the trainings.
        point: The system.

    Returns:
        A row per utterance: test, and the columns of `counts`.
    """
    lab = Lab(preset)
    tables = []
    for key, test in lab.test_sets.items():
        if test.name not in DOMAINS and not is_retention(test.name):
            continue
        if point.strength in (0.0, 1.0):
            changes = {"seed": seed} if get_method(point.system).is_trained else {}
            table = counts(lab, point.system, key, True, **changes)
        else:
            table = _errors_at_strength(lab, seed, point, key)
        name = name_of(test)
        # both domains are tested in the same rooms; other languages have units of their own
        unit = table["unit"] if test.name in DOMAINS else f"{name}/" + table["unit"]
        tables.append(table.assign(test=name, id=f"{name}/" + table["id"], unit=unit))
    return pd.concat(tables, ignore_index=True)


def _errors_at_strength(lab: Lab, seed: int, point: Point, key: str) -> pd.DataFrame:
    """Return the errors of a system that is used in part."""
    test = lab.test_set(key)
    clips = lab.test_clips(key)
    run = lab.run_config(point.system, seed=seed).name
    file = f"{test.language}-{test.name}-{short_hash(lab.settings_of_test(test, clips))}.csv"
    path = lab.folder / "predictions" / f"{run}-strength{point.strength:g}" / file
    model = lab.model(point.system, seed=seed)
    scaled = nullcontext()
    if point.system == "lora":
        scaled = rescale_adapter_scale(model, point.strength)
    elif get_method(point.system).has_experts:
        model = interpolated_experts(model, point.strength)
    else:
        model = interpolated(lab.student(), model, point.strength)
    label = f"{point.system} at {point.strength:g}: {key}"
    with one_at_a_time(path), use_precision(lab.preset.precision), scaled:
        table = transcribe(
            model, clips, lab.collator, lab.decoding, path, test.language, label=label
        )
    return counts_of(clips, list(table["prediction"]), lab.preset.normaliser)


def write_curve(preset: Preset, seed: int, jobs: int, folder: Path) -> None:
    """Score all points; write curve.csv: WER by system, strength and test.

    Args:
        preset: Of a fold of the study.
        seed: Of the trainings.
        jobs: Number of processes.
        folder: Where the table is written.
    """
    few = replace(preset, retention_clips=CLIPS)
    rows = []
    tables = compute(partial(errors_of_point, few, seed), POINTS, jobs)
    for point, table in zip(POINTS, tables, strict=True):
        is_domain = table["test"].isin(DOMAINS)
        parts = {TARGET: table[is_domain], OTHERS: table[~is_domain]}
        parts |= dict(tuple(table.groupby("test")))
        rows += [
            {"system": point.system, "strength": point.strength, "test": test, **rate(part)}
            for test, part in parts.items()
        ]
    write_table(folder / "curve.csv", pd.DataFrame(rows))
