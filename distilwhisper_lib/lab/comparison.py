"""The comparison: scores of every system on every test, with intervals, and the tables in results/<preset>."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..data.corpora.loading import corpus_release, corpus_report
from ..evaluation.scoring import (
    ERRORS,
    count_errors,
    paired_difference,
    summarise,
    translation_scores,
)
from ..evaluation.testsets import DOMAINS
from ..files import atomic_file, file_sha256, write_json
from ..method.losses import labelled
from ..training.systems import EVERY, SYSTEMS, TRAINED, get_system
from ..training.teacher import top_k_errors
from ..whisper.loading import find_weights
from ..whisper.logits import teacher_forced_logits
from ..whisper.tokens import vocabulary_map
from .lab import Lab
from .metadata import run_metadata

OTHERS = (
    "student",
    "fine-tuning",
    "lora",
    "clsr-ft",
    "distilwhisper-released",
)  # what our variant is compared with

NOT_COMPARED = (
    "validation",
    "second-language",
)  # for tuning; scored for the systems that learned the language


def counts(lab: Lab, system: str, key: str, experts: bool | str = True, **changes) -> pd.DataFrame:
    """Return one row per utterance: id, speaker, duration, text, prediction, and the columns of `count_errors`."""
    test = lab.test_set(key)
    table = lab.transcribe(system, key, experts, **changes)
    rows = (
        lab.test_rows(key)
        .remove_columns("audio")
        .to_pandas()
        .set_index("id")
        .loc[table["id"]]
        .reset_index()
    )
    table = rows[["id", "speaker", "duration"]].assign(
        text=rows[test.text_column], prediction=table["prediction"]
    )
    return table.join(
        count_errors(list(table["text"]), list(table["prediction"]), lab.preset.normaliser)
    )


def score(lab: Lab, system: str, key: str, experts: bool | str = True, **changes) -> dict:
    """Return one row of comparison.csv; WER and the like for transcription, BLEU and chrF for translation.

    experts: as for `Lab.transcribe`. A corpus that comes in releases (Common Voice, FLEURS from the hub) is named by
    its own, in the column release.
    """
    test = lab.test_set(key)
    switch = (
        {True: "on", False: "off"}.get(experts, experts)
        if get_system(system).trains == "experts"
        else ""
    )
    row = {
        "system": system,
        "language": test.language,
        "test_set": test.name,
        "task": test.task,
        "experts": switch,
        "seed": changes.get("seed", lab.preset.seed),
    }
    table = counts(lab, system, key, experts, **changes)
    if release := corpus_release(test.corpus, test.language):  # the paper has Common Voice 13.0
        row["release"] = release
    if test.task == "translate":
        bare = test.corpus == "fleurs"  # its English has neither case nor punctuation
        return (
            row
            | {"n": len(table), "loops": 100 * table["loop"].mean()}
            | translation_scores(
                list(table["text"]),
                list(table["prediction"]),
                lab.preset.normaliser if bare else "",
            )
        )
    return row | summarise(table) | {"normaliser": lab.preset.normaliser}


def top_k_curve(lab: Lab, ks: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)) -> pd.DataFrame:
    """Return `top_k_errors` of the lab's teacher and student on a batch of validation clips: how to choose top_k."""
    logits, processors = [], (lab.teacher_processor, lab.processor)
    for system, processor in zip(("teacher", "student"), processors, strict=True):
        clips = lab.clips("validation", limit=lab.preset.eval_batch_size, processor=processor)
        batch = replace(lab.collator, tokenizer=processor.tokenizer)(
            [clips[i] for i in range(len(clips))]
        )
        logits.append(
            labelled(teacher_forced_logits(lab.model(system), batch).cpu(), batch["labels"])[0]
        )
    return top_k_errors(
        *logits, ks, vocabulary_map(*(processor.tokenizer for processor in processors))
    )


def plan(lab: Lab) -> list[dict]:
    """Return what the comparison scores, in order: arguments of `score`."""
    main, jobs = lab.preset.language, []
    for system, kind in SYSTEMS.items():
        for key, test in lab.test_sets.items():
            off = kind.trains == "experts" and (test.language, test.task) != (main, "transcribe")
            if test.name not in NOT_COMPARED:
                jobs.append({"system": system, "key": key, "experts": not off})
    second = f"{lab.preset.second_language}/second-language"
    jobs += [{"system": system, "key": second} for system in ("student", "teacher")]
    return jobs + [
        {"system": "distilwhisper", "key": second, "language": lab.preset.second_language}
    ]


def compare(lab: Lab) -> pd.DataFrame:
    """Score the whole plan and write comparison.csv, paired.csv, predictions.csv and run.json; returns the first."""
    table = pd.DataFrame([score(lab, **job) for job in plan(lab)])
    for name, rows in (
        ("comparison", table),
        ("paired", paired(lab)),
        ("predictions", predictions(lab)),
    ):
        with atomic_file(lab.results / f"{name}.csv") as part:
            rows.round(3).to_csv(part, index=False)
    write_run_metadata(lab)
    return table


def predictions(lab: Lab) -> pd.DataFrame:
    """Return every prediction of the plan with its error counts; the corpora's own texts are left out (licence)."""
    tables = []
    for job in plan(lab):
        table = counts(lab, **job).drop(columns=["text", "speaker", "duration"])
        test = lab.test_set(job["key"])
        where = {
            "system": job["system"],
            "experts": job.get("experts", True),
            "language": test.language,
            "test_set": test.name,
        }
        tables.append(table.assign(**where)[[*where, *table.columns]])
    return pd.concat(tables)


def paired(
    lab: Lab,
    against: tuple[str, ...] = OTHERS,
    first: str = "distilwhisper",
    seeds: list[int] | None = None,
    tests: tuple[str, ...] = DOMAINS,
    **changes,
) -> pd.DataFrame:
    """Return WER differences first - other on the tests of these names, with paired 95 % intervals; negative: first is
    better.

    seeds: over the runs with these seeds together. An utterance stays one unit of resampling, its errors are summed;
    how far the seeds lie apart the interval does not say. changes: as for `Lab.train`, for both systems.
    """

    def summed(system: str, key: str) -> pd.DataFrame:
        runs = [
            counts(lab, system, key, seed=seed, **changes) for seed in seeds or [lab.preset.seed]
        ]
        return pd.concat(runs).groupby("id", sort=False)[["words", *ERRORS]].sum(min_count=1)

    rows = []
    for key, test in lab.test_sets.items():
        for other in against if test.name in tests else ():
            difference = paired_difference(summed(first, key), summed(other, key))
            rows.append(
                {"first": first, "other": other, "language": test.language, "test_set": test.name}
                | difference
            )
    return pd.DataFrame(rows)


def write_run_metadata(lab: Lab) -> None:
    """Write run.json beside the tables."""
    p = lab.preset
    corpora = {(test.corpus, test.language) for test in lab.test_sets.values()}
    folders = {"student": find_weights(p.student).folder} | {
        name: lab.train(name) / "model" for name in TRAINED
    }
    folders["teacher"] = (
        find_weights(p.teacher).folder if p.teacher else lab.train_teacher() / "model"
    )
    write_json(
        lab.results / "run.json", run_metadata(p, lab.steps(), *fingerprints(corpora, folders))
    )


def fingerprints(
    corpora: set[tuple[str, str]], folders: dict[str, Path | None]
) -> tuple[dict, dict]:
    """Return those of (corpus, language) pairs, by "corpus/language", and by role the SHA-256 of a folder's weights."""
    data = {
        f"{corpus}/{language}": corpus_report(corpus, language)["fingerprint"]
        for corpus, language in sorted(corpora)
    }
    models = {
        role: {path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))}
        for role, folder in folders.items()
        if folder
    }
    return data, models


def _mean_wer(tests: pd.DataFrame) -> str:
    """Return the mean WER of independent tests, with the interval that follows from theirs.

    Source: Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 2008.
    """
    mean = tests["wer"].mean()
    low, high = (
        np.linalg.norm(tests["wer"] - tests[f"wer_{side}"]) / len(tests) for side in ("low", "high")
    )
    return f"{mean:.1f} [{mean - low:.1f}, {mean + high:.1f}]"


def main_table(table: pd.DataFrame, language: str) -> pd.DataFrame:
    """Return the paper's table in miniature: a row per system, WER and CER with intervals, by test.

    Systems that SYSTEMS does not know come last, under their own names.
    Raises ValueError for rows that were scored with different text normalisers: their WERs cannot be compared.
    """
    wide, names = {}, sorted(table.dropna(subset=["wer", "normaliser"])["normaliser"].unique())
    if len(names) > 1:
        raise ValueError(
            f"WERs of {len(names)} normalisers ({', '.join(names)}) cannot be compared: score all rows "
            "with one, open_lab(normaliser=...)"
        )
    for name in [name for name in DOMAINS if name in set(table["test_set"])]:
        rows = table[(table["language"] == language) & (table["test_set"] == name)].set_index(
            "system"
        )
        wide[f"{name} WER"] = rows.apply(
            lambda r: f"{r.wer:.1f} [{r.wer_low:.1f}, {r.wer_high:.1f}]", axis=1
        )
        wide[f"{name} CER"] = rows.apply(
            lambda r: f"{r.cer:.1f} [{r.cer_low:.1f}, {r.cer_high:.1f}]", axis=1
        )
        wide[f"{name} loops %"] = rows["loops"].map("{:.1f}".format)
    others = table[table["test_set"] == "retention"].groupby("system")
    if len(others):
        wide["other languages WER"] = others.apply(_mean_wer)
    rows = (
        pd.DataFrame(wide)
        .reindex(list(dict.fromkeys([*EVERY, *table["system"]])))
        .dropna(how="all")
    )
    return rows.rename(index={name: system.label for name, system in EVERY.items()})
