"""The comparison: scores of every method on every test, with intervals, as tables."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from datasets import Dataset

from ..checks import check_choice, check_list, check_number
from ..data.batches import Clips
from ..data.corpora.reports import corpus_release, corpus_report
from ..evaluation.scoring import count_errors, summarise, translation_scores
from ..evaluation.statistics import difference_or_nan
from ..evaluation.testsets import DOMAINS, RETENTION, TestSet, is_retention
from ..files import atomic_file, check_writable, file_sha256, one_at_a_time, write_json
from ..method.losses import labelled
from ..method.storage import BASE_FILE
from ..presets import Preset
from ..training.methods import METHODS, Weights, compared_methods, get_method, trained_methods
from ..training.teacher import top_k_errors
from ..whisper.loading import find_weights
from ..whisper.logits import teacher_forced_logits
from ..whisper.tokens import language_code, vocabulary_map
from .lab import Lab
from .metadata import run_metadata
from .preflight import Step, find_problems, raise_problems
from .settings import check_changes, check_experts

# What the others are compared with in pairs.
FIRST = "distilwhisper"

# Tests for tuning, and for the methods that learned the second language.
NOT_COMPARED = ("validation", "second-language")

# The column `experts` of a method that has some; adapters are "off", or else "".
SWITCH = {True: "on", False: "off", "encoder": "encoder"}

# Columns that the main table is made of.
RATES = ["wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high"]
NEEDED = ["system", "language", "test_set", *RATES, "loops", "normaliser"]


def counts(lab: Lab, name: str, key: str, experts: bool | str = True, **changes) -> pd.DataFrame:
    """Return the errors of each prediction of a method on a test set; each is counted once.

    Args:
        lab: Where predictions are kept.
        name: Of a method.
        key: Of the test, such as "cs/in-domain".
        experts: As for `Lab.transcribe`.
        changes: As for `Lab.train`.

    Returns:
        As `counts_of`.
    """
    check_experts(experts)
    check_changes(changes)
    if get_method(name).weights is not Weights.RUN:
        changes = {}  # nothing was trained
    if changes.get("seed") == lab.preset.seed:
        changes = {field: value for field, value in changes.items() if field != "seed"}
    clips = lab.test_clips(key)  # which forgets what was counted of clips that have changed
    models = (lab.student_identity, lab.teacher_identity)
    asked = (name, key, experts, lab.preset.normaliser, models, repr(sorted(changes.items())))

    if asked not in lab.counted:
        table = lab.transcribe(name, key, experts, **changes)
        lab.counted[asked] = counts_of(clips, list(table["prediction"]), lab.preset.normaliser)
    return lab.counted[asked].copy()


def counts_of(clips: Clips, predictions: list[str], normaliser: str) -> pd.DataFrame:
    """Return the errors of a prediction for each clip.

    Args:
        clips: With their references.
        predictions: In the order of the clips.
        normaliser: A name in NORMALISERS.

    Returns:
        A row per utterance: id, speaker, unit (what intervals resample together: the room or group
        of the line, or the utterance itself where all have one), duration, text, prediction, and
        the columns of `count_errors`.
    """
    about = {
        "id": clips.ids,
        "speaker": list(clips.rows["speaker"]),
        "unit": _units(clips.rows),
        "duration": clips.durations,
        "text": clips.texts,
        "prediction": predictions,
    }
    errors = count_errors(clips.texts, predictions, normaliser)
    return pd.DataFrame(about).join(errors)


def _units(rows: Dataset) -> list[str]:
    """Return what each utterance is resampled with: its room or group, else itself."""
    rooms = list(rows["room_or_category"])
    return rooms if len(set(rooms)) > 1 else list(rows["id"])


def score(lab: Lab, name: str, key: str, experts: bool | str = True, **changes) -> dict:
    """Return one row of comparison.csv.

    A transcription has WER and CER, a translation BLEU and chrF. A corpus that comes in releases
    (Common Voice, FLEURS from the hub) is named by its own, in the column release.

    Args:
        lab: Where predictions are kept.
        name: Of a method.
        key: Of the test, such as "cs/in-domain".
        experts: As for `Lab.transcribe`.
        changes: As for `Lab.train`.
    """
    check_experts(experts)
    test = lab.test_set(key)
    table = counts(lab, name, key, experts, **changes)
    row = row_of(test, name, _switch(name, experts), changes.get("seed", lab.preset.seed))

    normaliser = lab.preset.normaliser
    if test.task != "translate":
        return row | summarise(table) | {"normaliser": normaliser}

    has_plain_english = test.corpus == "fleurs"  # neither case nor punctuation
    row |= {"n": len(table), "loops": 100 * table["loop"].mean()}
    return row | translation_scores(
        list(table["text"]),
        list(table["prediction"]),
        normaliser if has_plain_english else "",
        list(table["unit"]),
    )


def row_of(test: TestSet, system: str, experts: str, seed: int) -> dict:
    """Return the first columns of a row of comparison.csv: which system, on which test.

    Args:
        test: The test; its corpus is prepared.
        system: Name of the row.
        experts: "on", "off", "encoder", or "" for a system without experts.
        seed: Of the training.
    """
    row = {
        "system": system,
        "language": test.language,
        "test_set": test.name,
        "task": test.task,
        "experts": experts,
        "seed": seed,
    }
    release = corpus_release(test.corpus, test.language)
    return row | {"release": release} if release else row  # the paper has Common Voice 13.0


def _switch(name: str, experts: bool | str) -> str:
    """Return the column `experts`: "on", "off", "encoder", or "" for a method without experts.

    Adapters that are switched off are "off" too.
    """
    method = get_method(name)
    is_off = method.can_be_switched_off and experts is False
    return SWITCH[experts] if method.has_experts or is_off else ""


def top_k_curve(lab: Lab, ks: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)) -> pd.DataFrame:
    """Return `top_k_errors` on a batch of validation clips: how to choose top_k.

    Args:
        lab: With the teacher.
        ks: Numbers of tokens kept.

    Raises:
        ValueError: For no number, or one that is not from 1 to the size of the vocabulary.
    """
    if not ks:
        raise ValueError("there are no numbers of tokens: give at least one, such as ks=(256,)")
    for k in ks:
        check_number("k", k, low=1, high=len(lab.processor.tokenizer), whole=True)
    logits = []
    processors = {"teacher": lab.teacher_processor, "student": lab.processor}
    for name, processor in processors.items():
        clips = lab.clips("validation", limit=lab.preset.eval_batch_size, processor=processor)
        collator = replace(lab.collator, tokenizer=processor.tokenizer)
        batch = collator([clips[i] for i in range(len(clips))])
        forced = teacher_forced_logits(lab.model(name), batch).cpu()
        kept, _ = labelled(forced, batch["labels"])
        logits.append(kept)
    mapping = vocabulary_map(*(processor.tokenizer for processor in processors.values()))
    return top_k_errors(*logits, ks, mapping)


def plan(lab: Lab, switched_off: Iterable[str] = ()) -> list[dict]:
    """Return what the comparison scores, in order: arguments of `score`.

    In other languages and tasks methods with experts are switched off, and all others are on.

    Args:
        lab: With the tests.
        switched_off: Methods that are scored there a second time, switched off: such as LoRA.

    Raises:
        ValueError: For a method that cannot be switched off, or that is off there anyway.
    """
    twice = _can_be_on_and_off(lab, switched_off)
    main = lab.preset.language
    jobs = []
    for name, method in compared_methods(lab.preset).items():
        for key, test in lab.test_sets.items():
            if test.name in NOT_COMPARED:
                continue
            adapted = (test.language, test.task) == (main, "transcribe")
            jobs.append({"name": name, "key": key, "experts": adapted or not method.has_experts})
            if name in twice and not adapted:
                jobs.append({"name": name, "key": key, "experts": False})

    second = lab.preset.second_language
    for name, method in compared_methods(lab.preset).items():
        if not method.is_trained:
            jobs.append({"name": name, "key": f"{second}/second-language"})
    jobs.append({"name": FIRST, "key": f"{second}/second-language", "language": second})
    return jobs


def _can_be_on_and_off(lab: Lab, names: Iterable[str]) -> list[str]:
    """Return names of compared methods that are on in other languages and can be switched off.

    Raises:
        ValueError: For another one.
    """
    known = [
        name
        for name, method in compared_methods(lab.preset).items()
        if method.can_be_switched_off and not method.has_experts
    ]
    return [check_choice("switched_off", name, known) for name in check_list("switched_off", names)]


def _steps(lab: Lab, switched_off: Iterable[str] = ()) -> list[Step]:
    """Return what the comparison computes, for the preflight."""
    steps = []
    for job in plan(lab, switched_off):
        changes = {"language": job["language"]} if "language" in job else {}
        name = job["name"] if job.get("experts", True) else "student"  # experts off: the student
        steps.append(Step(name, changes, (job["key"],)))
    return steps


def compare(lab: Lab, switched_off: Iterable[str] = ()) -> pd.DataFrame:
    """Score the whole plan; write comparison.csv, paired.csv, predictions.csv and run.json.

    Args:
        lab: Where predictions are kept.
        switched_off: As for `plan`.

    Returns:
        The scores, as `score` gives them.

    Raises:
        OSError: As `disk_errors` does, before anything is computed where it can be known.
    """
    switched_off = _can_be_on_and_off(lab, switched_off)
    check_writable(lab.results)
    raise_problems(find_problems(lab, _steps(lab, switched_off)))
    table = pd.DataFrame([score(lab, **job) for job in plan(lab, switched_off)])
    every = predictions(lab, switched_off)
    tables = {"comparison": table, "paired": paired(lab), "predictions": every}
    with one_at_a_time(lab.results / "comparison.csv"):  # so that the files belong together
        for name, rows in tables.items():
            with atomic_file(lab.results / f"{name}.csv") as part:
                rows.round(3).to_csv(part, index=False)
        write_run_metadata(lab)
    return table


def predictions(lab: Lab, switched_off: Iterable[str] = ()) -> pd.DataFrame:
    """Return every prediction with its error counts, without the corpora's texts (licence).

    Args:
        lab: Where predictions are kept.
        switched_off: As for `plan`.
    """
    tables = []
    for job in plan(lab, switched_off):
        table = counts(lab, **job).drop(columns=["text", "speaker", "duration"])
        test = lab.test_set(job["key"])
        where = {
            "system": job["name"],
            "experts": _switch(job["name"], job.get("experts", True)),
            "language": test.language,
            "test_set": test.name,
        }
        tables.append(table.assign(**where)[[*where, *table.columns]])
    return pd.concat(tables)


def others_than(first: str, preset: Preset | None = None) -> list[str]:
    """Return the rows that `first` is compared with in pairs: all but the teacher."""
    get_method(first)
    return [
        name
        for name, method in compared_methods(preset).items()
        if name != first and method.weights is not Weights.TEACHER
    ]


def paired(
    lab: Lab,
    against: Iterable[str] | None = None,
    first: str = FIRST,
    seeds: list[int] | None = None,
    tests: tuple[str, ...] = DOMAINS,
    **changes,
) -> pd.DataFrame:
    """Return differences of WER, `first` minus each other, with what `statistics.difference` gives.

    Args:
        lab: Where predictions are kept.
        against: Names of the other methods; None: `others_than(first)`.
        first: Name of a method.
        seeds: Of the runs; None: the preset's alone. Units and seeds are both resampled.
        tests: Names of the tests; "retention" takes those of all corpora.
        changes: As for `Lab.train`, for both methods.

    Raises:
        ValueError: For an unknown method, no seeds, or none of the tests.
    """
    if isinstance(against, str) or isinstance(tests, str):
        raise ValueError("against and tests are lists of names: give ['lora'], not 'lora'")
    against = others_than(first, lab.preset) if against is None else list(against)
    for name in (first, *against):
        get_method(name)  # an unknown one is told before anything is trained
    seeds = [lab.preset.seed] if seeds is None else list(seeds)
    if not seeds:
        raise ValueError("there are no seeds: give at least one, or None for the preset's")
    for seed in seeds:
        check_number("seed", seed, low=0, whole=True)
    chosen = {key: test for key, test in lab.test_sets.items() if _is_among(test, tests)}
    if not chosen:
        known = {test.name for test in lab.test_sets.values()}
        raise ValueError(
            f"preset {lab.preset.name} has none of the tests {', '.join(tests)}: it has "
            f"{', '.join(sorted(known))}"
        )

    def of_seeds(name: str, key: str) -> pd.DataFrame:
        runs = [counts(lab, name, key, seed=seed, **changes).assign(seed=seed) for seed in seeds]
        return pd.concat(runs, ignore_index=True)

    rows = []
    for key, test in chosen.items():
        for other in against:
            where = {"first": first, "other": other}
            where |= {"language": test.language, "test_set": test.name}
            rows.append(where | difference_or_nan(of_seeds(first, key), of_seeds(other, key)))
    return pd.DataFrame(rows)


def _is_among(test: TestSet, names: tuple[str, ...]) -> bool:
    """Return whether a test is named; "retention" names those of all corpora."""
    return test.name in names or (RETENTION in names and is_retention(test.name))


def write_run_metadata(lab: Lab) -> None:
    """Write run.json beside the tables."""
    p = lab.preset
    corpora = {(test.corpus, test.language) for test in lab.test_sets.values()}
    folders = {"student": find_weights(p.student).folder}
    for name in trained_methods(p):
        folders[name] = lab.train(name) / "model"
        if name == FIRST and p.second_language != p.language:
            second = lab.train(name, p.second_language) / "model"
            folders[f"{name} {p.second_language}"] = second
    stand_in = None if p.teacher else lab.train_teacher() / "model"
    folders["teacher"] = stand_in or find_weights(p.teacher).folder
    data, models = fingerprints(corpora, folders)
    write_json(lab.results / "run.json", run_metadata(p, lab.steps(), data, models))


def fingerprints(
    corpora: set[tuple[str, str]], folders: dict[str, Path | None]
) -> tuple[dict, dict]:
    """Return hashes of data and models for the run metadata.

    Args:
        corpora: (corpus, language) pairs.
        folders: Of weights, by role; None for a model without a folder.

    Returns:
        The corpora's fingerprints by "corpus/language", and the SHA-256 of each file of weights, by
        role.
    """
    data = {
        f"{corpus}/{language}": corpus_report(corpus, language)["fingerprint"]
        for corpus, language in sorted(corpora)
    }
    models = {}
    for role, folder in folders.items():
        if folder is not None:
            # The fingerprint of the Whisper that experts belong to is no weights of the run.
            files = [
                file for file in sorted(folder.glob("*.safetensors")) if file.name != BASE_FILE
            ]
            models[role] = {path.name: file_sha256(path) for path in sorted(files)}
    return data, models


def is_off_beside_on(table: pd.DataFrame) -> pd.Series:
    """Return which rows are of a system switched off whose test is also scored with it on.

    Args:
        table: Rows of `score`.

    Returns:
        True or False for each row.
    """
    if "experts" not in table:
        return pd.Series(False, index=table.index)
    is_off = table["experts"] == "off"
    by_test = table.assign(is_on=~is_off).groupby(["system", "language", "test_set"])
    return is_off & by_test["is_on"].transform("any")


def _mean_wer(tests: pd.DataFrame) -> str:
    """Return the mean WER of independent tests, with the interval that follows from theirs.

    Source: Zou and Donner, "Construction of confidence limits about effect measures", Statistics in
        Medicine 2008.
    """
    mean = tests["wer"].mean()
    low = mean - np.linalg.norm(tests["wer"] - tests["wer_low"]) / len(tests)
    high = mean + np.linalg.norm(tests["wer"] - tests["wer_high"]) / len(tests)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def main_table(table: pd.DataFrame, language: str) -> pd.DataFrame:
    """Return the paper's table in miniature: a row per method, WER and CER with intervals, by test.

    Args:
        table: Rows of `score`; rows of unknown methods come last, under their own names. Of a
            system that is there on and off (`plan`), the row is that of the system switched on.
        language: Whose tests of both domains are shown.

    Raises:
        ValueError: For rows scored with different text normalisers, whose WERs cannot be compared;
            for a language without a test of either domain; for a method with several rows of one
            test, such as those of several seeds.
    """
    missing = [name for name in NEEDED if name not in table.columns]
    if missing:
        raise ValueError(f"the table lacks the columns {', '.join(missing)}: give rows of `score`")
    language = language_code(language)
    here = table[(table["language"] == language) & table["test_set"].isin(DOMAINS)]
    if here.empty:
        scored = table.loc[table["test_set"].isin(DOMAINS), "language"].unique()
        raise ValueError(
            f"no row of the table is of a test of {' or '.join(DOMAINS)} in {language!r}: "
            f"languages with such tests are {', '.join(sorted(scored)) or 'none'}"
        )
    repeated = here[here.duplicated(["system", "test_set"])]
    if not repeated.empty:
        row = repeated.iloc[0]
        raise ValueError(
            f"{row['system']} has several rows of {language}/{row['test_set']}: choose one, by "
            "seed or by experts"
        )
    normalisers = sorted(table.dropna(subset=["wer", "normaliser"])["normaliser"].unique())
    if len(normalisers) > 1:
        raise ValueError(
            f"WERs of {len(normalisers)} normalisers ({', '.join(normalisers)}) cannot be "
            "compared: score all rows with one, open_lab(normaliser=...)"
        )

    wide = {}
    for test in [test for test in DOMAINS if test in set(here["test_set"])]:
        rows = here[here["test_set"] == test].set_index("system")
        for rate in ("wer", "cer"):
            wide[f"{test} {rate.upper()}"] = rows.apply(_with_interval, axis=1, rate=rate)
        wide[f"{test} loops %"] = rows["loops"].map("{:.1f}".format)
    once = table[~is_off_beside_on(table)]
    others = once[once["test_set"].map(is_retention)].groupby("system")
    if len(others):
        wide["other languages WER"] = others.apply(_mean_wer)

    order = dict.fromkeys([*METHODS, *table["system"]])
    rows = pd.DataFrame(wide).reindex(list(order)).dropna(how="all")
    return rows.rename(index={name: method.label for name, method in METHODS.items()})


def _with_interval(row: pd.Series, rate: str) -> str:
    return f"{row[rate]:.1f} [{row[f'{rate}_low']:.1f}, {row[f'{rate}_high']:.1f}]"
