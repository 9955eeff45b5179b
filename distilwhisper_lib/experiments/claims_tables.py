"""Scores, differences and verdicts of the study of the paper's claims, from its stored cells."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation.scoring import COUNTS, PERCENTILES, RESAMPLES, chrf_of, chrf_statistics
from ..evaluation.statistics import (
    capped,
    chrf_difference,
    detectable,
    difference,
    holm,
    rate,
    two_sided_p,
)
from ..evaluation.testsets import DOMAINS
from ..files import file_sha256, read_json
from .cells import PAIRS, write_table

OTHER_LANGUAGES = "other languages"  # their tests together
STRESS = "other-characters"
TRANSLATION = "translation"
INFERENCE = "inference"

# Beside PAIRS: what training and teacher are good for at all.
UNTRAINED_PAIRS = (
    ("distilwhisper", "student"),
    ("fine-tuning", "student"),
    ("lora", "student"),
    ("distilwhisper", "teacher"),
    ("teacher", "fine-tuning"),
)

# And what experts without gates are, among those that learn from the same teacher.
GATELESS_PAIRS = (
    ("experts-open-teacher", "fine-tuning-teacher"),
    ("experts-open-teacher", "lora-teacher"),
    ("experts-open-teacher", "experts-open"),
)

# Of the pilot, in which no system has a teacher.
PILOT_PAIRS = (("experts", "fine-tuning"), ("experts", "lora"), ("lora", "fine-tuning"))

UNCHANGED = "unchanged"  # the same system without the change

LEVEL = 0.05
VERDICTS = ("holds", "contradicted", "open", "incomplete", "not measured")


@dataclass(frozen=True)
class Hypothesis:
    """A claim of the paper's abstract, as docs/statistics.md has it.

    Attributes:
        name: There.
        first: A system.
        other: What it is compared with.
        test: Name of the test, or OTHER_LANGUAGES.
        sign: Of the difference that is claimed: -1 for fewer errors, 1 for a higher chrF.
    """

    name: str
    first: str
    other: str
    test: str
    sign: int = -1


# Experts that are switched off leave the student: its outputs stand for theirs.
HYPOTHESES = (
    Hypothesis("a-in", "distilwhisper", "fine-tuning", "in-domain"),
    Hypothesis("a-out", "distilwhisper", "fine-tuning", "out-of-domain"),
    Hypothesis("b-in", "distilwhisper", "lora", "in-domain"),
    Hypothesis("b-out", "distilwhisper", "lora", "out-of-domain"),
    Hypothesis("c-in", "distilwhisper", "experts", "in-domain"),
    Hypothesis("c-out", "distilwhisper", "experts", "out-of-domain"),
    Hypothesis("d-languages", "student", "fine-tuning", OTHER_LANGUAGES),
    Hypothesis("d-translation", "student", "fine-tuning", TRANSLATION, sign=1),
)
TIME = "e-time"  # the ninth, measured by `make benchmark NAME=transcription`
TIME_TARGET = 1.03  # at most so many times plain Whisper's time
WER = ("wer", "wer_low", "wer_high")
FOUND = ["difference", "low", "high", "p"]
COLUMNS = ["name", "first", "other", "test", "trainings", *FOUND, "p_holm", "verdict"]


# ---- reading cells


def stored_errors(folder: Path) -> pd.DataFrame:
    """Return the rows of all cells in a folder that are whole.

    Returns:
        The columns of `claims.errors_of`, and system, fold, seed and label.

    Raises:
        FileNotFoundError: Where there is no cell.
        ValueError: Where two cells of a system were computed with different settings: a study that
            has only begun anew after its settings were changed.
    """
    tables = []
    first_of: dict[tuple[str, str], tuple[Path, dict]] = {}  # system and label -> its first cell
    for path in sorted((folder / "cells").glob("*.json")):
        record = read_json(path, needs=("cell", "table"))
        rows = path.with_suffix(".csv")
        if not record or not rows.is_file() or file_sha256(rows) != record["table"]:
            continue
        cell = record["cell"]
        settings = _settings_of(record)
        first, expected = first_of.setdefault((cell["system"], cell["label"]), (path, settings))
        differing = [name for name in settings if settings[name] != expected[name]]
        if differing:
            raise ValueError(
                f"{path} and {first} differ in {', '.join(differing)}: compute the older one again "
                "(`make claims ARGS=run`, or causes), or remove it"
            )
        unscored = dict.fromkeys(COUNTS, [""])  # an empty prediction is no missing value
        texts = dict.fromkeys(("test", "id", "unit", "prediction"), str)
        table = pd.read_csv(rows, keep_default_na=False, na_values=unscored, dtype=texts)
        tables.append(
            table.assign(
                system=cell["system"], fold=cell["voice"], seed=cell["seed"], label=cell["label"]
            )
        )
    if not tables:
        raise FileNotFoundError(f"no cell of the study in {folder}: `make claims ARGS=run` first")
    return pd.concat(tables, ignore_index=True)


SETTINGS = (
    *("student", "language", "normaliser", "max_train_seconds", "margin_seconds"),
    *("train_margin_seconds", "max_new_tokens", "batch_size", "accumulation", "eval_batch_size"),
    *("teacher_epochs", "top_k", "keep", "fidelity"),
)


def _settings_of(record: dict) -> dict:
    """Return the settings that all cells of a system and label have in common, from a record."""
    preset, cell = record.get("preset", {}), record["cell"]
    settings = {name: preset.get(name) for name in SETTINGS}
    settings["learning_rate"] = preset.get("learning_rates", {}).get(cell["system"])
    settings["training"] = cell.get("training")
    if not cell["label"]:  # fewer clips have epochs of their own in each fold
        settings["epochs"] = preset.get("epochs")
    return settings


def rows_of(errors: pd.DataFrame, system: str, test: str) -> pd.DataFrame:
    """Return the rows of a system on a test; of OTHER_LANGUAGES those of all other languages.

    Args:
        errors: As `stored_errors` returns them, of one label.
        system: Name of a method.
        test: Name of a test.
    """
    own = errors[errors["system"] == system]
    if test != OTHER_LANGUAGES:
        return own[own["test"] == test]
    own = own[own["test"].isin(other_languages(errors))]
    # lines of two languages may have the same name
    return own.assign(id=own["test"] + "/" + own["id"], unit=own["test"] + "/" + own["unit"])


def other_languages(errors: pd.DataFrame) -> list[str]:
    """Return the names of the tests in other languages."""
    known = (*DOMAINS, STRESS, TRANSLATION)
    return [test for test in dict.fromkeys(errors["test"]) if test not in known]


def pair_of(errors: pd.DataFrame, first: str, other: str, test: str) -> list[pd.DataFrame]:
    """Return the rows of two systems at the folds and seeds that both have.

    A system without seeds, such as the student, is the same at each of the other's.
    """
    tables = [rows_of(errors, name, test) for name in (first, other)]
    for place, name in enumerate((first, other)):
        if name in ("student", "teacher"):
            tables[place] = _at(tables[place], _trainings(tables[1 - place]))
    both = _trainings(tables[0]) & _trainings(tables[1])
    if not both:
        return [table.iloc[:0] for table in tables]
    return [
        table[[training in both for training in zip(table["fold"], table["seed"], strict=True)]]
        for table in tables
    ]


def _trainings(table: pd.DataFrame) -> set[tuple[str, int]]:
    """Return the folds and seeds of rows."""
    return set(zip(table["fold"], table["seed"], strict=True))


def _at(table: pd.DataFrame, trainings: set[tuple[str, int]]) -> pd.DataFrame:
    """Return the rows of a fold once for each seed that it has."""
    parts = [table[table["fold"] == fold].assign(seed=seed) for fold, seed in sorted(trainings)]
    return pd.concat(parts, ignore_index=True) if parts else table.iloc[:0]


# ---- tables


def systems_table(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the WER of every system on every test, over the folds together and in each."""
    rows = []
    tests = [*dict.fromkeys(errors["test"]), OTHER_LANGUAGES]
    for system in dict.fromkeys(errors["system"]):
        for test in tests:
            own = rows_of(errors, system, test)
            if own.empty or test == TRANSLATION:
                continue
            folds = {"": own} | dict(tuple(own.groupby("fold")))
            for fold, part in folds.items():
                row = {"system": system, "test": test, "fold": fold, **rate(part)}
                limited = rate(capped(part))
                row |= {f"capped_{name}": limited[name] for name in WER}
                row["loops"] = 100 * part["loop"].mean()
                row["clips"] = part["id"].nunique()
                rows.append(row)
    return pd.DataFrame(rows)


def pairs_table(errors: pd.DataFrame) -> pd.DataFrame:
    """Return the differences of all pairs that there are, on every test, folds together."""
    rows = []
    for first, other in (*PAIRS, *GATELESS_PAIRS, *UNTRAINED_PAIRS):
        for test in [*dict.fromkeys(errors["test"]), OTHER_LANGUAGES]:
            pair = pair_of(errors, first, other, test)
            if test == TRANSLATION or pair[0].empty:
                continue
            row = {"first": first, "other": other, "test": test, **difference(*pair)}
            row["trainings"] = len(_trainings(pair[0]))
            if test == STRESS:
                found = difference(*(capped(table) for table in pair))
                row |= {f"capped_{name}": found[name] for name in ("difference", "low", "high")}
            rows.append(row)
    return pd.DataFrame(rows)


def hypotheses_table(
    errors: pd.DataFrame, english: dict[str, str], planned: int, time: dict | None = None
) -> pd.DataFrame:
    """Return the hypotheses with their verdicts, as docs/statistics.md defines them.

    A difference has no verdict before all its trainings are there: who looks after each of them and
    stops when it pleases would decide too often. What is not measured yet counts in Holm's
    correction as if its p value were 1.

    Args:
        errors: As `stored_errors` returns them, of label "".
        english: The references of the translation test, by id.
        planned: Trainings of each system, over folds and seeds.
        time: Of TIME: difference, low, high and p; None: not measured.

    Returns:
        name, first, other, test; trainings that are there; difference, low, high; p; p_holm;
        verdict, one of VERDICTS.
    """
    rows: list[dict] = []
    for claim in HYPOTHESES:
        row = {name: getattr(claim, name) for name in ("name", "first", "other", "test", "sign")}
        pair = pair_of(errors, claim.first, claim.other, claim.test)
        if not pair[0].empty:
            found = _difference_on(claim.test, pair, english)
            row |= {name: found[name] for name in FOUND}
        rows.append(row | {"trainings": len(_trainings(pair[0]))})
    rows.append({"name": TIME, "test": INFERENCE, "sign": -1, "trainings": planned} | (time or {}))

    table = pd.DataFrame(rows, columns=[*COLUMNS[:5], "sign", *FOUND])
    adjusted = holm(dict(zip(table["name"], table["p"].fillna(1.0), strict=True)))
    table["p_holm"] = table["name"].map(adjusted).where(table["p"].notna())
    table["verdict"] = [
        verdict(row.difference, row.sign, row.p_holm, row.trainings >= planned)
        for row in table.itertuples()
    ]
    return table[COLUMNS]


def time_difference(rounds: pd.DataFrame, seed: int = 0) -> dict[str, float]:
    """Return how far the time with experts, over plain Whisper's, lies from its target.

    Args:
        rounds: With the column ratio, a row per round.
        seed: Of the bootstrap.

    Returns:
        difference: of the median over the rounds; low, high and p by resampling rounds.
    """
    ratios = rounds["ratio"].to_numpy()
    draws = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    resampled = np.median(ratios[draws], axis=1) - TIME_TARGET
    low, high = np.percentile(resampled, PERCENTILES)
    found = float(np.median(ratios)) - TIME_TARGET
    return {"difference": found, "low": low, "high": high, "p": two_sided_p(resampled)}


def _difference_on(test: str, pair: list[pd.DataFrame], english: dict[str, str]) -> dict:
    """Return the difference of WER, or of chrF on the translation test."""
    if test != TRANSLATION:
        return difference(*pair)
    return chrf_difference(*(table.assign(text=table["id"].map(english)) for table in pair))


def verdict(found: float, sign: float, p_holm: float, is_complete: bool = True) -> str:
    """Return the verdict on a claim.

    Args:
        found: The difference; NaN where it is not measured.
        sign: Of the difference that is claimed.
        p_holm: The corrected p value.
        is_complete: Whether all trainings are there.
    """
    if pd.isna(found):
        return "not measured"
    if not is_complete:
        return "incomplete"
    if p_holm > LEVEL:
        return "open"
    return "holds" if found * sign > 0 else "contradicted"


def causes_table(errors: pd.DataFrame) -> pd.DataFrame:
    """Return what is scored with one change: WER of each system, and differences, in both domains.

    Args:
        errors: As `stored_errors` returns them, of all labels.
    """
    plain = errors[errors["label"] == ""]
    rows: list[dict] = []
    for label in [label for label in dict.fromkeys(errors["label"]) if label]:
        changed = errors[errors["label"] == label]
        for test in DOMAINS:
            for first, other in PAIRS:
                pair = pair_of(changed, first, other, test)
                if not pair[0].empty:
                    rows.append(_cause(label, test, first, other, pair))
            for system in dict.fromkeys(changed["system"]):
                unchanged = plain[plain["system"] == system].assign(system=UNCHANGED)
                pair = pair_of(pd.concat([changed, unchanged]), system, UNCHANGED, test)
                if not pair[0].empty:
                    rows.append(_cause(label, test, system, UNCHANGED, pair))
    return pd.DataFrame(rows)


def _cause(label: str, test: str, first: str, other: str, pair: list[pd.DataFrame]) -> dict:
    where = {"change": label, "test": test, "first": first, "other": other}
    rates = {"wer": rate(pair[0])["wer"], "other_wer": rate(pair[1])["wer"]}
    return where | rates | difference(*pair) | {"trainings": len(_trainings(pair[0]))}


def power_table(pilot: dict[str, pd.DataFrame], words: dict[str, float]) -> pd.DataFrame:
    """Return what difference the study can show, from one training of each system on validation.

    The standard error of a difference falls with the square root of the words. How far seeds lie
    apart is not in it.

    Args:
        pilot: The errors of systems on the validation clips.
        words: Of each test, over the folds.
    """
    rows = []
    for first, other in PILOT_PAIRS:
        if not {first, other} <= pilot.keys():
            continue
        found = difference(pilot[first], pilot[other])
        for test, number in words.items():
            error = found["standard_error"] * (pilot[first]["words"].sum() / number) ** 0.5
            row = {"first": first, "other": other, "test": test, "standard_error": error}
            row["detectable"] = detectable(error)
            row["detectable_corrected"] = detectable(error, level=LEVEL / (len(HYPOTHESES) + 1))
            rows.append(row)
    return pd.DataFrame(rows)


def translation_table(errors: pd.DataFrame, english: dict[str, str]) -> pd.DataFrame:
    """Return the chrF of every system on the translation test, and its difference to the student's.

    Args:
        errors: As `stored_errors` returns them, of label "".
        english: The references, by id.
    """
    rows = []
    for system in dict.fromkeys(errors["system"]):
        pair = pair_of(errors, system, "student", TRANSLATION)
        if pair[0].empty:
            continue
        texts = [list(pair[0]["id"].map(english)), list(pair[0]["prediction"])]
        row = {"system": system, "chrf": chrf_of(chrf_statistics(*texts).sum(0))}
        if system != "student":
            row |= _difference_on(TRANSLATION, pair, english)
        rows.append(row)
    return pd.DataFrame(rows)


def write_tables(folder: Path, english: dict[str, str], planned: int) -> None:
    """Write the tables of the cells that there are.

    Args:
        folder: Of the study.
        english: The references of the translation test, by id.
        planned: Trainings of each system of a hypothesis.
    """
    errors = stored_errors(folder)
    plain = errors[errors["label"] == ""]
    write_table(folder / "systems.csv", systems_table(plain))
    write_table(folder / "pairs.csv", pairs_table(plain))
    write_table(folder / "translation.csv", translation_table(plain, english))
    rounds = folder / "time.csv"
    time = time_difference(pd.read_csv(rounds)) if rounds.is_file() else None
    write_table(folder / "hypotheses.csv", hypotheses_table(plain, english, planned, time))
    causes = causes_table(errors)
    if len(causes):
        write_table(folder / "causes.csv", causes)
