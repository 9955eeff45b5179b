"""`python -m distilwhisper_lib.experiments.grid`: the paper's experiments as a list of jobs that goes on where it was.

list    the jobs, with their estimated hours and memory (the teacher's pass in full for each size, though sizes of a
        language share it)
run     do what is not done: each job is a process with a GPU of its own; with --job one of them, here
status  what is done, running, waiting and failed, and why
table   the paper's table of what is done: printed, and written to results/<preset>/grid.csv; every score with its
        interval goes to grid-scores.csv
pairs   DistilWhisper less each other system on the same clips, with intervals: printed, and in grid-paired.csv
slurm   print a script that submits the jobs to a cluster
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import pandas as pd
import torch
from tqdm import tqdm

from ..files import REPOSITORY, atomic_file, read_json, results_dir
from ..lab.comparison import paired
from ..lab.lab import Lab
from ..presets import get_preset
from .estimates import CARDS, estimate
from .jobs import ONCE, ROWS, TEACHER_OUTPUTS, TESTS, Job, make_jobs, run_job

MODULE = "distilwhisper_lib.experiments.grid"

PAPER = dict(
    zip(
        (  # what data/reference/paper.csv calls rows and tests
            "whisper-small",
            "whisper-large-v2",
            "fine-tuning",
            "LoRA",
            "CLSR-FT",
            "DistilWhisper",
            "DistilWhisper-KL",
            "Common Voice 13",
            "FLEURS",
            "FLEURS translation",
        ),
        (*ROWS, *TESTS),
        strict=True,
    )
)
# its tests with their corpora and releases
PAPER_DATA = re.compile(
    r"in-domain common-voice-\w+ cv-corpus-13\.0-\d|(out-of-domain|translation) fleurs "
)

BLOCK = [
    "test_set",
    "train_clips",
    "corpus",
    "release",
    "normaliser",
]  # of the table; corpus and release: of the test

ONE_PLACE = "{:.1f}".format

FIRST = "distilwhisper-released"  # that the others are compared with, in pairs

SCRIPT = """#!/bin/bash
# Run this with bash in the repository; a partition and the like go into the line of sbatch, and what fails now is run
# by the same script again: what is done is left alone.
set -euo pipefail
submit() {{
    sbatch --parsable --gpus=1 --cpus-per-task=4 --mem=32G --time={limit}:00:00 --job-name=grid --output=grid-%A.log \\
        --open-mode=append --wrap={command} "$@"
}}
{arrays}"""


def run_jobs(jobs: list[Job], at_once: int) -> bool:
    """Run what is not done in `at_once` processes at a time, each on its own GPU; returns whether all is done then.

    A job that fails or is killed stops only those that need it, and is run again by the next call.
    """
    devices = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(
        map(str, range(torch.cuda.device_count()))
    )
    devices, slots, futures = devices.split(","), SimpleQueue(), {}
    for slot in range(at_once):
        slots.put(devices[slot % len(devices)])
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for (
                job
            ) in jobs:  # what is needed comes first, so that nothing waits for what has no thread
                before = [futures[need] for need in job.needs if need in futures]
                futures[job] = pool.submit(_run_apart, job, before, slots)
            return all([future.result() for future in futures.values()])
        except BaseException:  # such as Ctrl-C, which the processes get as well
            pool.shutdown(cancel_futures=True)
            raise


def _run_apart(job: Job, before: list[Future], slots: SimpleQueue) -> bool:
    """Run a job in a process of its own, once those that it waits for have ended; returns whether it is done."""
    for future in before:
        future.result()
    found = explain(job)
    if found["state"] not in ("done", "running", "blocked"):
        print(f"{job.name}: starts", flush=True)
        device = slots.get()
        try:
            code = _process(job, device)
        finally:
            slots.put(device)
        if job.state()["state"] in ("waiting", "killed"):  # it could not note its end itself
            job.note(
                "failed",
                exit_code=code,
                error=f"killed by signal {-code}" if code < 0 else "it did not begin",
            )
        found = explain(job)
    print(f"{job.name}: {found['state']} {found['why']}".rstrip(), flush=True)
    return found["state"] == "done"


def _process(job: Job, device: str) -> int:
    own = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    }
    own |= {"CUDA_VISIBLE_DEVICES": device} if device else {}
    command = [
        sys.executable,
        "-m",
        MODULE,
        "run",
        "--preset",
        job.preset,
        "--languages",
        job.language,
        "--sizes",
        job.size,
        "--systems",
        job.row,
        "--seeds",
        str(job.seed or 0),
        "--job",
        job.name,
        *([] if device else ["--cpu"]),
    ]  # there is none, and `run` was told so
    return subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ | own).returncode


def explain(job: Job) -> dict[str, str]:
    """Return a row of the status: job, state (waiting for what has failed is "blocked"), why, and the log then."""
    found, log = job.state(), job.folder / "log.txt"
    state, why = found["state"], found.get("error", "")
    stopped = [
        f"{need.name}: {end}"
        for need in job.needs
        if (end := need.state()["state"]) in ("failed", "killed")
    ]
    if stopped and state != "done":
        state, why = "blocked", f"by {stopped[0]}"
    elif why and log.exists():
        why = f"{why} (log: {os.path.relpath(log)})"
    return {"job": job.name, "group": f"{job.language} {job.size}", "state": state, "why": why}


def all_scores(jobs: list[Job]) -> pd.DataFrame:
    """Return every row of scores that is done, with its intervals; raises ValueError where there is none."""
    rows = [read_json(job.folder / "results.json")["rows"] for job in jobs if job.done]
    scores = pd.DataFrame(sum(rows, []))
    if scores.empty:
        raise ValueError(
            "no job that scores anything is done, so there is no table: see the command `status`"
        )
    return scores


def pairs(jobs: list[Job]) -> pd.DataFrame:
    """Return the differences of WER between DistilWhisper (JS) and each other system but KL that is done, see `paired`.

    By language and size, over the seeds that both have; columns size and seeds (how many) beside those of `paired`.
    Raises ValueError where no pair is done.
    """
    rows, done = [], {job for job in jobs if job.done}
    settings = dict.fromkeys(
        (job.language, job.size) for job in jobs if job in done and job.row == FIRST
    )
    for language, size in tqdm(settings, desc="pairs", unit="size"):
        own = [job for job in jobs if job in done and (job.language, job.size) == (language, size)]
        seeds = {
            row: [job.seed for job in own if job.row == row]
            for row in ROWS
            if not row.endswith("-kl")
        }
        for row in (row for row in seeds if row != FIRST):
            both = [seed for seed in seeds[FIRST] if seed in seeds[row] or seeds[row] == [None]]
            if both:
                found = paired(Lab(own[0].settings()), (row,), FIRST, both)
                rows.append(found.assign(size=size, seeds=len(both)))
    if not rows:
        raise ValueError(
            f"no other system is done beside {FIRST}, so there is no pair: see the command `status`"
        )
    return pd.concat(rows)


def table(jobs: list[Job]) -> pd.DataFrame:
    """Return the paper's table: a block per test and size, a row per system, two columns a language, and their mean.

    A cell is WER in per cent (of Thai CER, unless it is normalised as released; of translation BLEU), of several seeds
    mean ± standard deviation; beside it the paper's figure, where you have filled in data/reference/paper.csv and the
    row is of the paper's data, scored as released. The mean is there for systems with all languages of the block, and
    leaves Thai out where its cell is CER. Raises ValueError where nothing is scored.
    """
    scores = all_scores(jobs).reindex(columns=[*BLOCK, "row", "language", "wer", "cer", "bleu"])
    scores = scores.fillna(dict.fromkeys(BLOCK, ""))
    words = (scores["language"] != "th") | (
        scores["normaliser"] == "released"
    )  # Thai has no spaces between words
    scores["mean"] = scores["wer"].where(words).fillna(scores["bleu"])
    scores["cell"] = scores["mean"].fillna(scores["cer"])
    cells = scores.groupby([*BLOCK, "row", "language"])
    mean, spread = cells["cell"].mean().unstack(), cells["cell"].std().unstack()
    there = mean.notna()
    whole = there.eq(there.groupby(level=BLOCK).transform("any")).all(axis=1)
    shown = mean.map(ONE_PLACE, na_action="ignore") + spread.map(
        " ± {:.1f}".format, na_action="ignore"
    ).fillna("")
    paper, columns = paper_figures(), {}
    for language in mean:
        columns[language] = shown[language]
        columns[f"{language} paper"] = [
            paper.get((*_in_paper(*key), language), "") for key in mean.index
        ]
    columns["mean"] = (
        cells["mean"].mean().unstack().mean(axis=1).where(whole).map(ONE_PLACE, na_action="ignore")
    )
    order = {name: number for number, name in enumerate((*ROWS, *TESTS))}
    keys = sorted(
        mean.index, key=lambda key: (order[key[0]], *key[1:-1], order.get(key[-1], len(order)))
    )
    return pd.DataFrame(columns).loc[keys].fillna("").reset_index()


def _in_paper(test: str, clips: int, corpus: str, release: str, normaliser: str, row: str) -> tuple:
    """Return test, clips and row as `paper_figures` names them; empty where data or normaliser are not the paper's."""
    same = normaliser == "released" and PAPER_DATA.match(f"{test} {corpus} {release}")
    return (test, 0 if row in ONCE else clips, row) if same else ()


def paper_figures() -> dict[tuple, float]:
    """Return your copy of the paper's figures by test, clips (0: of models as they are), row and language."""
    found = (
        pd.read_csv(REPOSITORY / "data" / "reference" / "paper.csv")
        .dropna(subset="wer")
        .fillna({"train_clips": 0})
    )
    return (
        found.replace(PAPER)
        .set_index(["test_set", "train_clips", "system", "language"])["wer"]
        .to_dict()
    )


def listing(jobs: list[Job]) -> pd.DataFrame:
    """Return a row per job, its index in front: name, what it needs, estimates where its models' shapes are known."""
    return pd.DataFrame(
        [
            {"job": job.name, "needs": ", ".join(need.name for need in job.needs)}
            | estimate(
                job.system, job.settings(), job.clips or job.settings().train_clips or 10_000
            )
            for job in jobs
        ]
    ).round(2)


def slurm(jobs: list[Job], options: list[str]) -> str:
    """Return a script that submits two arrays: the teacher's outputs, then all else; `options` are those of the jobs.

    A job may take an hour more than twice the estimate for the slowest card in CARDS.
    """
    table, card = listing(jobs), f"{next(iter(CARDS))} h"
    limit = int(2 * table[card].max()) + 1 if card in table else 1
    first = sum(job.row == TEACHER_OUTPUTS for job in jobs)
    command = (
        shlex.join(["exec", sys.executable, "-m", MODULE, "run", *options, "--job"])
        + ' "$SLURM_ARRAY_TASK_ID"'
    )
    lines = [f"teacher=$(submit --array=0-{first - 1})"] if first else []
    wait = ' --dependency="afterany:$teacher"' if first else ""
    lines += (
        [f"systems=$(submit --array={first}-{len(jobs) - 1}{wait})"] if len(jobs) > first else []
    )
    return SCRIPT.format(limit=limit, command=shlex.quote(command), arrays="\n".join(lines))


def _run_here(jobs: list[Job], wanted: str) -> None:
    """Do one of the jobs, by name or index; all that this process prints goes to the job's log from here on."""
    job = {key: job for number, job in enumerate(jobs) for key in (job.name, str(number))}.get(
        wanted
    )
    if job is None:
        raise ValueError(f"no job {wanted!r} with these options: `list` shows names and indices")
    print(f"{job.name}: log in {os.path.relpath(job.folder / 'log.txt')}", flush=True)
    job.folder.mkdir(parents=True, exist_ok=True)
    with open(job.folder / "log.txt", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    run_job(job)


def _status(jobs: list[Job]) -> None:
    rows = pd.DataFrame([explain(job) for job in jobs])
    print(pd.crosstab(rows["group"], rows["state"], margins=True, margins_name="all").to_string())
    for row in rows[~rows["state"].isin(["done", "waiting"])].itertuples():
        print(f"{row.job}: {row.state} {row.why}".rstrip())


def _show(preset: str, tables: dict[str, pd.DataFrame]) -> None:
    """Print the first table; write all to the folder of results, by name."""
    print(next(iter(tables.values())).to_string(index=False))
    for name, found in tables.items():
        path = results_dir(preset) / f"{name}.csv"
        with atomic_file(path) as part:
            found.to_csv(part, index=False)
        print(f"written to {os.path.relpath(path)}")


def main(words: list[str] | None = None) -> int:
    """Do what the command line says; returns 1 where `run` leaves anything undone."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["list", "run", "status", "table", "pairs", "slurm"])
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--languages", nargs="+")
    parser.add_argument(
        "--sizes", nargs="+", help="3k 10k 28k, another number of training clips, or all"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[77, 78, 79])
    parser.add_argument(
        "--systems", nargs="+", default=ROWS, help="a system; with -kl after it distilled by KL"
    )
    parser.add_argument(
        "--gpus", type=int, help="how many jobs at once; else as many as there are GPUs, or one"
    )
    parser.add_argument("--job", help="name or index in the list")
    parser.add_argument(
        "--cpu", action="store_true", help="run without a GPU what is meant for one"
    )
    words = sys.argv[1:] if words is None else words
    given = parser.parse_args(words)
    jobs = make_jobs(given.preset, given.languages, given.sizes, given.seeds, given.systems)
    if given.command == "run":
        if get_preset(given.preset).teacher and not (given.cpu or torch.cuda.is_available()):
            parser.error(
                f"torch {torch.__version__} sees no GPU here, and the preset {given.preset} is meant for one: "
                "install the build for GPUs (make setup GPU=1), or let it take weeks with --cpu"
            )
        if given.job is None:
            return 0 if run_jobs(jobs, given.gpus or torch.cuda.device_count() or 1) else 1
        _run_here(jobs, given.job)
    elif given.command == "status":
        _status(jobs)
    elif given.command == "table":
        _show(given.preset, {"grid": table(jobs), "grid-scores": all_scores(jobs)})
        print(
            "WER in %, of translation BLEU, of Thai CER (not in the mean) unless the normaliser is `released`"
        )
    elif given.command == "pairs":
        _show(given.preset, {"grid-paired": pairs(jobs)})
    elif given.command == "list":
        print(
            f"{listing(jobs).fillna('').to_string()}\n\nHours and GB are estimates, not measured."
        )
    else:
        print(slurm(jobs, [word for word in words if word != "slurm"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
