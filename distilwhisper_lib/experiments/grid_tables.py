"""The paper's table: scores of the jobs that are done, beside the paper's own figures."""

import re

import pandas as pd
from tqdm import tqdm

from ..evaluation.testsets import DOMAINS
from ..files import REPOSITORY
from ..lab.comparison import paired
from ..lab.lab import Lab
from .estimates import PUBLISHED_ROW
from .jobs import BY_KL, FURTHER, ONCE, ROWS, TESTS, Job

# Names of rows and tests in data/reference/paper.csv -> names here.
PAPER = {
    "whisper-small": "student",
    "whisper-large-v2": "teacher",
    "fine-tuning": "fine-tuning",
    "LoRA": "lora",
    "CLSR-FT": "clsr-ft",
    "DistilWhisper": "distilwhisper-released",
    "DistilWhisper-KL": "distilwhisper-released-kl",
    "Common Voice 13": "in-domain",
    "FLEURS": "out-of-domain",
    "FLEURS translation": "translation",
}

# The paper's tests, each with its corpus and release.
PAPER_DATA = re.compile(
    r"in-domain common-voice-\w+ cv-corpus-13\.0-\d|(out-of-domain|translation) fleurs "
)

# Columns that name a block of the table; corpus and release are those of the test.
BLOCK = ["test_set", "train_clips", "corpus", "release", "normaliser"]

FIRST = "distilwhisper-released"  # the row that the others are compared with in pairs
COMPARED = [row for row in ROWS if not row.endswith(BY_KL)]  # the rows of pairs

ONE_DECIMAL = "{:.1f}".format
DEVIATION = " ± {:.1f}".format


def all_scores(jobs: list[Job]) -> pd.DataFrame:
    """Return all rows of scores of the jobs that are done, with their intervals.

    Raises:
        ValueError: Where there is none.
    """
    rows = []
    for job in jobs:
        if job.done:
            found = job.results()
            rows += [row | {"precision": _precision_of(found)} for row in found["rows"]]
    if not rows:
        raise ValueError(
            "no job that scores anything is done, so there is no table: see the command `status`"
        )
    return pd.DataFrame(rows)


def _precision_of(results: dict) -> str:
    """Return the mixed precision that the results of a job were computed in."""
    return results["record"].get("machine", {}).get("precision", "")


def pairs(jobs: list[Job]) -> pd.DataFrame:
    """Return differences of WER between DistilWhisper (JS) and each other method that is done.

    Rows that are distilled by KL are left out.

    Returns:
        The columns of `paired`, by language and size, over the seeds that both have; size; seeds:
        how many these are.

    Raises:
        ValueError: Where no pair is done, or the predictions of one are not in this cache folder,
            in this precision: nothing is computed.
    """
    done = [job for job in jobs if job.row in COMPARED and job.done]
    groups = [(job.language, job.size) for job in done if job.row == FIRST]

    tables = []
    for language, size in tqdm(dict.fromkeys(groups), desc="pairs", unit="size"):
        own = [job for job in done if (job.language, job.size) == (language, size)]
        lab = Lab(own[0].settings())
        first_seeds = [job.seed for job in own if job.row == FIRST]
        for other in COMPARED:
            if other == FIRST:
                continue
            other_seeds = [job.seed for job in own if job.row == other]
            if other_seeds == [None]:  # a model as it is: compared with every seed
                common = first_seeds
            else:
                common = [seed for seed in first_seeds if seed in other_seeds]
            if common:
                _check_kept(lab, [job for job in own if job.row in (FIRST, other)], common)
                table = paired(lab, (other,), FIRST, common)
                tables.append(table.assign(size=size, seeds=len(common)))
    if not tables:
        raise ValueError(
            f"no other method is done beside {FIRST}, so there is no pair: see the command `status`"
        )
    return pd.concat(tables)


def _check_kept(lab: Lab, jobs: list[Job], seeds: list[int]) -> None:
    """Raise ValueError where predictions of a job, with one of some seeds or none, are not here."""
    for job in jobs:
        if job.seed is not None and job.seed not in seeds:
            continue
        changes = {} if job.seed is None else {"seed": job.seed}
        results = job.results()
        for row in results["rows"]:
            key = f"{row['language']}/{row['test_set']}"
            if row["test_set"] in DOMAINS and not lab.is_transcribed(job.method, key, **changes):
                made_in = _precision_of(results)
                hint = f": set LAB_PRECISION={made_in}" if made_in != lab.precision else ""
                raise ValueError(
                    f"{job.name} was computed in the precision {made_in!r}, and this process has "
                    f"{lab.precision!r}; its predictions of {key} are not in {lab.folder}{hint}"
                )


def table(jobs: list[Job]) -> pd.DataFrame:
    """Return the paper's table: a block per test and size, a row per method.

    Returns:
        The columns of BLOCK, and row. For each language a column with the score: WER in per cent
        (of Thai CER, unless it is normalised as released; of translation BLEU), of several seeds
        mean ± standard deviation; beside it the paper's figure, where data/reference/paper.csv is
        filled in and the row is of the paper's data, scored as released. mean: over languages, for
        rows with all languages of their block; without Thai where its score is a CER.

    Raises:
        ValueError: Where nothing is scored.
    """
    scores = all_scores(jobs).reindex(columns=[*BLOCK, "row", "language", "wer", "cer", "bleu"])
    scores = scores.fillna(dict.fromkeys(BLOCK, ""))

    # Thai has no spaces between words, so its WER counts only where letters are split as released.
    has_words = (scores["language"] != "th") | (scores["normaliser"] == "released")
    scores["in_mean"] = scores["wer"].where(has_words).fillna(scores["bleu"])
    scores["cell"] = scores["in_mean"].fillna(scores["cer"])

    # Mean and deviation over seeds: a row per block and row of the table, a column per language.
    cells = scores.groupby([*BLOCK, "row", "language"])
    mean = cells["cell"].mean().unstack()
    deviation = cells["cell"].std().unstack()
    shown = mean.map(ONE_DECIMAL, na_action="ignore")
    shown = shown + deviation.map(DEVIATION, na_action="ignore").fillna("")

    figures = paper_figures()
    columns = {}
    for language in mean:
        columns[language] = shown[language]
        columns[f"{language} paper"] = [
            figures.get((*_paper_key(*key), language), "") for key in mean.index
        ]

    # The mean over languages, where a row has all that its block has.
    has_score = mean.notna()
    in_block = has_score.groupby(level=BLOCK).transform("any")
    is_whole = has_score.eq(in_block).all(axis=1)
    over_languages = cells["in_mean"].mean().unstack().mean(axis=1)
    columns["mean"] = over_languages.where(is_whole).map(ONE_DECIMAL, na_action="ignore")

    keys = sorted(mean.index, key=_place)
    return pd.DataFrame(columns).loc[keys].fillna("").reset_index()


def _place(key: tuple) -> tuple:
    """Return what a row of the table is sorted by: test, the rest of its block, row."""
    test, *block, row = key
    order = {name: position for position, name in enumerate((*ROWS, *FURTHER, *TESTS))}
    return (order[test], *block, order.get(row, len(order)))


def _paper_key(
    test: str, clips: int, corpus: str, release: str, normaliser: str, row: str
) -> tuple:
    """Return test, clips and row as `paper_figures` has them.

    The published experts are those of the paper's DistilWhisper. It is empty where data or
    normaliser are not the paper's.
    """
    is_paper_data = PAPER_DATA.match(f"{test} {corpus} {release}")
    if normaliser != "released" or not is_paper_data:
        return ()
    if row == PUBLISHED_ROW:
        return (test, clips, FIRST)
    return (test, 0 if row in ONCE else clips, row)


def paper_figures() -> dict[tuple, float]:
    """Return your copy of the paper's figures, from data/reference/paper.csv.

    Returns:
        The figures by (test, training clips, row, language); clips are 0 for models as they are.
    """
    figures = pd.read_csv(REPOSITORY / "data" / "reference" / "paper.csv")
    figures = figures.dropna(subset="wer").fillna({"train_clips": 0}).replace(PAPER)
    keys = ["test_set", "train_clips", "system", "language"]
    return figures.set_index(keys)["wer"].to_dict()
