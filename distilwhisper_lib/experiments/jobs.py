"""Jobs: the pieces of the paper's experiments, each the work of one process, which notes on disk how it goes.

A job keeps log.txt, state.json and results.json in cache/runs/<preset>/jobs/<name>. What a killed or failed one has
trained or transcribed is kept too, so that it goes on from there when it is run again.
"""

import os
import traceback
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ..device import RANK
from ..evaluation.testsets import TestSet, corpus_of
from ..files import cache_dir, read_json, short_hash, write_json
from ..lab.comparison import fingerprints, score
from ..lab.lab import Lab
from ..lab.metadata import run_metadata
from ..presets import Preset, get_preset
from ..training.systems import get_system
from ..whisper.loading import find_weights

LANGUAGES = ("ca", "cs", "gl", "hu", "pl", "ta", "th", "uk")

SIZES = {
    "3k": LANGUAGES,
    "10k": LANGUAGES,
    "28k": ("ca", "ta", "th"),
}  # of the paper (release: data/generated_ids)

TEACHER_OUTPUTS = "teacher-outputs"

ONCE = (TEACHER_OUTPUTS, "student", "teacher")  # nothing is drawn: no seed

ROWS = (
    "student",
    "teacher",
    "fine-tuning",
    "lora",
    "clsr-ft",
    "distilwhisper-released",
    "distilwhisper-released-kl",
)

TESTS = ("in-domain", "out-of-domain", "translation")


@dataclass(frozen=True)
class Job:
    """The teacher's outputs of a language and size, or a row of the table, trained and scored with one seed.

    size: "3k", "10k", "28k", another number of training clips, or "all"; row: TEACHER_OUTPUTS or a system, with "-kl"
    after its name where it is distilled by KL instead of JS; seed: None for rows in ONCE.
    """

    preset: str
    language: str
    size: str
    row: str
    seed: int | None = None

    @property
    def name(self) -> str:
        """Return a name such as cs-10k-seed77-lora."""
        return "-".join(
            [
                self.language,
                self.size,
                *([] if self.seed is None else [f"seed{self.seed}"]),
                self.row,
            ]
        )

    @property
    def system(self) -> str:
        """Return the system that the row is, or is a variant of."""
        return self.row.removesuffix("-kl")

    @property
    def clips(self) -> int | None:
        """Return the clips of the size, 3000 for "3k", or None for "all"."""
        return None if self.size == "all" else int(self.size.replace("k", "000"))

    @property
    def folder(self) -> Path:
        """Return the folder of log, state and results."""
        return cache_dir() / "runs" / self.preset / "jobs" / self.name

    @property
    def changes(self) -> dict:
        """Return what `Lab.train` is told beside the system: the seed, and the divergence of a row with "-kl"."""
        seed = {} if self.seed is None else {"seed": self.seed}
        return seed | ({} if self.row == self.system else {"divergence": "kl"})

    @property
    def needs(self) -> list["Job"]:
        """Return the jobs that must be done before; raises ValueError for an unknown system."""
        if self.row == TEACHER_OUTPUTS or not (
            get_system(self.system).distils or self.row == "teacher"
        ):
            return []
        return [replace(self, row=TEACHER_OUTPUTS, seed=None)]

    def settings(self) -> Preset:
        """Return the preset with the job's language, and its size as a corpus or as the limit of training clips."""
        base = get_preset(self.preset)
        second = base.language if self.language == base.second_language else base.second_language
        sized = {"train_clips": min(filter(None, (self.clips, base.train_clips)), default=None)}
        if self.clips and base.corpus.startswith("common-voice"):
            sized = {"corpus": f"common-voice-{self.size}"}
        return replace(base, language=self.language, second_language=second, **sized)

    def state(self) -> dict:
        """Return what is noted: "state" is running, done, failed, killed (its process is gone) or waiting.

        Waiting is also what was done with other settings of the preset.
        """
        noted = read_json(self.folder / "state.json")
        if noted.get("settings") != self._hash():
            return {"state": "waiting"}
        if noted["state"] == "running":
            with (
                suppress(Timeout),
                FileLock(self.folder / "lock", timeout=0),
            ):  # its process holds it while it lives
                return noted | {"state": "killed", "error": "its process is gone"}
        return noted

    @property
    def done(self) -> bool:
        """Return whether it is done, with the settings that the preset has now."""
        return self.state()["state"] == "done"

    def note(self, state: str, **facts) -> None:
        """Write state.json; what was noted of the same attempt stays."""
        before = {} if state == "running" else read_json(self.folder / "state.json")
        facts |= {
            "state": state,
            "settings": self._hash(),
            state: datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(self.folder / "state.json", before | facts)

    def _hash(self) -> str:
        return short_hash(asdict(replace(self.settings(), minutes="", memory="")))


def make_jobs(preset: str, languages=None, sizes=None, seeds=(77, 78, 79), rows=ROWS) -> list[Job]:
    """Return all jobs, first those that others need; where nothing is said, the paper's, or the preset's own language.

    Raises ValueError where the paper has nothing of these languages and sizes, or for an unknown system.
    """
    base = get_preset(preset)
    paper = base.corpus.startswith("common-voice")
    languages, sizes = (
        languages or (LANGUAGES if paper else [base.language]),
        sizes or (SIZES if paper else ["all"]),
    )
    jobs = [
        Job(preset, language, size, row, seed)
        for size in sizes
        for language in languages
        if not paper or language in SIZES.get(size, ())
        for row in rows
        for seed in ([None] if row in ONCE else seeds)
    ]
    if not jobs:
        raise ValueError(
            f"no job for the languages {', '.join(languages)} at {', '.join(sizes)}: the paper has "
            + "; ".join(f"{size}: {', '.join(codes)}" for size, codes in SIZES.items())
        )
    jobs = dict.fromkeys([need for job in jobs for need in job.needs] + jobs)
    return sorted(jobs, key=lambda job: (job.row != TEACHER_OUTPUTS, len(job.needs)))


def run_job(job: Job) -> None:
    """Do a job in this process unless it is done, and note how it goes; what goes wrong is noted and raised.

    Of several processes (accelerate launch) the first does the job, and the others train with it.
    Raises RuntimeError where what it needs is not done, filelock.Timeout where another process is at it.
    """
    if RANK:
        if job.row not in ONCE and not job.done:
            Lab(job.settings()).train(job.system, **job.changes)
        return
    with FileLock(job.folder / "lock", timeout=10):
        if job.done:
            return
        job.note("running", pid=os.getpid())
        try:
            if missing := [need.name for need in job.needs if not need.done]:
                raise RuntimeError(
                    f"{job.name} needs {', '.join(missing)}, which is not done: run that first"
                )
            write_json(job.folder / "results.json", _work(job))
        except BaseException as error:
            job.note(
                "failed",
                exit_code=1,
                error=traceback.format_exception_only(error)[-1].strip().splitlines()[-1],
            )
            raise
        job.note("done", exit_code=0)


def _work(job: Job) -> dict:
    """Return rows of `score` and the record of the run.

    What a language's jobs share on disk, whatever their size and seed, is computed by one of them at a time.
    """
    lab, once, rows = Lab(job.settings()), job.row in ONCE, []
    about = {"row": job.row, "train_clips": job.clips or lab.preset.train_clips or 0}  # 0: all
    tests = [
        test for test in lab.test_sets.values() if test.name in TESTS and job.row != TEACHER_OUTPUTS
    ]
    with FileLock(job.folder.parent / f"{job.language}-{job.row}.lock") if once else nullcontext():
        if job.row == TEACHER_OUTPUTS:
            lab.teacher_distributions()
        for test in tests:
            experts = "encoder" if test.task == "translate" else True  # as released
            rows.append(
                score(lab, job.system, test.key, experts, **job.changes)
                | about
                | {"corpus": test.corpus}
            )
    return {"rows": rows, "record": run_metadata(lab.preset, lab.steps(), *_hashes(lab, job, tests))}


def _hashes(lab: Lab, job: Job, tests: list[TestSet]) -> tuple[dict, dict]:
    """Return what the record names data and models by: fingerprints of corpora and training clips, SHA-256 of weights.

    The teacher's weights, which may be large, are read once, by the job of its outputs.
    """
    p, folders = lab.preset, {"student": find_weights(lab.preset.student).folder}
    if job.row == TEACHER_OUTPUTS:
        folders["teacher"] = find_weights(p.teacher or lab.train_teacher() / "model").folder
    if job.row not in ONCE:
        folders[job.row] = lab.train(job.system, **job.changes) / "model"
    corpora = {(corpus_of(p, p.language), p.language)} | {
        (test.corpus, test.language) for test in tests
    }
    data, models = fingerprints(corpora, folders)
    data["ids of training clips"] = short_hash(list(lab.rows("train", limit=p.train_clips)["id"]))
    for need in job.needs:
        models |= read_json(need.folder / "results.json")["record"]["models"]
    return data, models
