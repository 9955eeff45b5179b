"""The paper's experiments as jobs, each the work of one process, with its state on disk.

A job keeps log.txt, state.json and results.json in cache/runs/<preset>/jobs/<name>. What a killed
or failed job has trained or transcribed is kept too, so that it goes on from there when it is run
again.
"""

import os
import platform
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from ..checks import check_list, check_number, check_text
from ..data.corpora.loading import prepare_largest
from ..data.corpora.reports import is_prepared
from ..device import RANK
from ..evaluation.testsets import TestSet, corpus_of
from ..files import (
    cache_dir,
    is_being_made,
    make_folder,
    one_at_a_time,
    process_runs,
    read_json,
    short_hash,
    tell,
    write_json,
)
from ..lab.comparison import fingerprints, score
from ..lab.lab import Lab
from ..lab.metadata import contents_now, run_metadata
from ..lab.preflight import Step, find_problems, raise_problems
from ..method.released import PUBLISHED
from ..presets import LARGEST_SEED, Preset, get_preset
from ..programs import Stopped
from ..training.methods import METHODS, Weights, get_method
from ..whisper.loading import find_weights
from ..whisper.tokens import language_codes
from .as_they_are import AsItIs, Ctc, Published, score_as_it_is
from .estimates import CTC_ROWS, PUBLISHED_ROW, TEACHER_OUTPUTS

LANGUAGES = ("ca", "cs", "gl", "hu", "pl", "ta", "th", "uk")

# The paper's training sizes and their languages (release: data/generated_ids).
SIZES = {"3k": LANGUAGES, "10k": LANGUAGES, "28k": ("ca", "ta", "th")}

# Whispers that are scored as they are, each as the teacher of its row's lab.
WHISPERS = {"whisper-large-v3-turbo": "openai/whisper-large-v3-turbo"}

# Rows beside the paper's: Whispers as they are, models that are no Whisper, and the authors'
# published experts of the job's size. They are in no default.
FURTHER = (*WHISPERS, *CTC_ROWS, PUBLISHED_ROW)

# Rows without a seed: nothing is drawn in them.
ONCE = (TEACHER_OUTPUTS, "student", "teacher", *FURTHER)

# The rows of the paper's table.
ROWS = (
    "student",
    "teacher",
    "fine-tuning",
    "lora",
    "clsr-ft",
    "distilwhisper-released",
    "distilwhisper-released-kl",
)

BY_KL = "-kl"  # after the name of a method: distilled by KL instead of JS

TESTS = ("in-domain", "out-of-domain", "translation")

SEEDS = (77, 78, 79)

# A running job gives a sign of life at this interval. A job of another machine, whose locks may not
# be seen from here, counts as killed after this silence. Both in seconds.
INTERVAL = 60
SILENCE = 600


@dataclass(frozen=True)
class Job:
    """A row of the table, trained and scored with one seed, or the cached teacher distributions.

    Attributes:
        preset: Name of the preset.
        language: Code of the language that is trained on.
        size: "3k", "10k", "28k", another number of training clips, or "all".
        row: TEACHER_OUTPUTS, one of FURTHER, or a method, with "-kl" after its name where it is
            distilled by KL instead of JS.
        seed: Of the training; None for the rows in ONCE.
    """

    preset: str
    language: str
    size: str
    row: str
    seed: int | None = None

    @property
    def name(self) -> str:
        """A name such as cs-10k-seed77-lora."""
        seed = [] if self.seed is None else [f"seed{self.seed}"]
        return "-".join([self.language, self.size, *seed, self.row])

    @property
    def method(self) -> str:
        """Name of the method that the row is, or is a variant of.

        A row of WHISPERS is a teacher that nothing is learned from; the others of FURTHER are no
        method, and this is their row.
        """
        return "teacher" if self.row in WHISPERS else self.row.removesuffix(BY_KL)

    @property
    def as_it_is(self) -> AsItIs | None:
        """The row's model where it is one that no `Lab` knows, else None."""
        if self.row in CTC_ROWS:
            return Ctc(CTC_ROWS[self.row])
        return Published(PUBLISHED[self.size]) if self.row == PUBLISHED_ROW else None

    @property
    def clips(self) -> int | None:
        """Training clips of the size, 3000 for "3k"; None for "all"."""
        return None if self.size == "all" else int(self.size.replace("k", "000"))

    @property
    def folder(self) -> Path:
        """The folder of log, state and results."""
        return cache_dir() / "runs" / self.preset / "jobs" / self.name

    @property
    def changes(self) -> dict:
        """Changes for `Lab.train`: the seed, and the divergence of a row with "-kl"."""
        changes: dict = {}
        if self.seed is not None:
            changes["seed"] = self.seed
        if self.row.endswith(BY_KL):
            changes["divergence"] = "kl"
        return changes

    @property
    def needs(self) -> list["Job"]:
        """The jobs that must be done before this one; raises ValueError for an unknown method.

        What learns from the teacher needs its distributions. The teacher itself needs them only
        where it is a stand-in, which their job trains.
        """
        if self.row == TEACHER_OUTPUTS or self.as_it_is:
            return []
        method = get_method(self.method)
        is_stand_in = method.weights is Weights.TEACHER and self.settings().teacher is None
        if method.distils or is_stand_in:
            return [replace(self, row=TEACHER_OUTPUTS, seed=None)]
        return []

    def settings(self) -> Preset:
        """Return the preset with the job's language and size.

        The size is a corpus of Common Voice, or else a limit of training clips. A row of WHISPERS
        has its own model as teacher.
        """
        base = get_preset(self.preset)
        if self.row in WHISPERS:
            base = replace(base, teacher=WHISPERS[self.row])
        is_second = self.language == base.second_language
        second = base.language if is_second else base.second_language
        preset = replace(base, language=self.language, second_language=second)

        if self.clips is None:
            return preset
        if base.corpus.startswith("common-voice"):
            return replace(preset, corpus=f"common-voice-{self.size}")
        limits = [limit for limit in (self.clips, base.train_clips) if limit]
        return replace(preset, train_clips=min(limits, default=None))

    def state(self) -> dict:
        """Return the content of state.json.

        Returns:
            "state": running, done, failed, killed (its process is gone, or was stopped) or waiting,
            which a job is too that was done with other settings, models or clips than there are
            now, or whose results are damaged; and what `note` was given, "host" among it, the
            machine.
        """
        noted = read_json(self.folder / "state.json", needs=("state", "settings"))
        if noted.get("settings") != self._settings_hash():
            return {"state": "waiting"}
        if noted["state"] == "running":
            if is_being_made(self.folder) or self._gives_signs_of_life(noted):
                return noted
            error = "its process is gone"
            if noted.get("host", platform.node()) != platform.node():
                error = f"no sign of life from {noted['host']} for {SILENCE // 60} minutes"
            return noted | {"state": "killed", "error": error}
        if noted["state"] == "done" and not (self.results() and self._is_up_to_date(noted)):
            return {"state": "waiting"}
        return noted

    def _gives_signs_of_life(self, noted: dict) -> bool:
        """Return whether the process that noted "running" seems to run, whatever the locks say.

        Args:
            noted: The content of state.json.
        """
        try:
            silent = time.time() - self._sign_of_life.stat().st_mtime
        except OSError:
            return False
        if silent > SILENCE:
            return False
        if noted.get("host") != platform.node():
            return True
        return noted.get("pid") is not None and process_runs(noted["pid"])

    @property
    def _sign_of_life(self) -> Path:
        """The file that a running job touches."""
        return self.folder / "alive"

    def _is_up_to_date(self, noted: dict) -> bool:
        """Return whether models and clips are those that the job was done with, where known."""
        now = self.contents()
        return now is None or noted.get("contents") in (None, now)

    def contents(self) -> str | None:
        """Return a hash of the models and clips that the result depends on, see `contents_now`."""
        lab = Lab(self.settings())
        corpora = {(corpus_of(lab.preset, lab.preset.language), lab.preset.language)}
        corpora.update((test.corpus, test.language) for test in _tests_of(lab, self))
        found = contents_now(lab.preset, corpora)
        model = self.as_it_is
        if found is None or model is None:
            return found
        try:
            return short_hash([found, model.known_identity(self.language)])
        except (ValueError, OSError):  # a folder that is gone: nobody can say
            return None

    def results(self) -> dict:
        """Return the content of results.json: "rows" of `score`, and the run metadata as "record".

        {} where there is none. A damaged file is set aside.
        """
        return read_json(self.folder / "results.json", needs=("rows", "record"))

    @property
    def done(self) -> bool:
        """Whether it is done, with the settings that the preset has now."""
        return self.state()["state"] == "done"

    def note(self, state: str, **facts) -> None:
        """Write state.json, with the time; earlier notes of the same attempt stay.

        Args:
            state: "running", which begins an attempt, "done", "failed" or "killed".
            **facts: Noted too, such as the error.
        """
        before = {} if state == "running" else read_json(self.folder / "state.json")
        now = datetime.now(UTC).isoformat(timespec="seconds")
        own = {"state": state, "settings": self._settings_hash(), state: now}
        write_json(self.folder / "state.json", before | facts | own, sealed=True)

    def _settings_hash(self) -> str:
        """Return a hash of all settings that a result depends on."""
        return short_hash(asdict(replace(self.settings(), minutes="", memory="")))


def make_jobs(
    preset: str,
    languages: Sequence[str] | None = None,
    sizes: Iterable[str] | None = None,
    seeds: Sequence[int] = SEEDS,
    rows: Sequence[str] = ROWS,
) -> list[Job]:
    """Return all jobs, those first that others need.

    Args:
        preset: Name of a preset.
        languages: Codes or names; None: the paper's at a preset of Common Voice, else the preset's
            first.
        sizes: As of `Job`; None: the paper's at a preset of Common Voice, else "all".
        seeds: Of the trainings.
        rows: As of `Job`.

    Raises:
        ValueError: Where the paper has nothing of these languages and sizes, for an unknown
            method or language, or for a size or seed that is none.
    """
    base = get_preset(preset)
    paper = base.corpus.startswith("common-voice")
    if languages is None:
        languages = LANGUAGES if paper else [base.language]
    if sizes is None:
        sizes = list(SIZES) if paper else ["all"]
    languages = list(dict.fromkeys(language_codes(check_list("languages", languages))))
    sizes = [checked_size(size) for size in check_list("sizes", sizes)]
    seeds = check_list("seeds", seeds)
    for seed in seeds:
        check_number("a seed", seed, low=0, high=LARGEST_SEED, whole=True)
    rows = check_list("rows", rows)
    for row in rows:
        _check_row(row)

    jobs = []
    for size in sizes:
        for language in languages:
            if paper and language not in SIZES.get(size, ()):
                continue
            for row in rows:
                if row == PUBLISHED_ROW and size not in PUBLISHED:
                    continue
                row_seeds = [None] if row in ONCE else seeds
                jobs += [Job(preset, language, size, row, seed) for seed in row_seeds]
    if not jobs:
        known = "; ".join(f"{size}: {', '.join(codes)}" for size, codes in SIZES.items())
        raise ValueError(
            f"no job for the languages {', '.join(languages)} at {', '.join(sizes)}: "
            f"the paper has {known}"
        )

    needed = [need for job in jobs for need in job.needs]
    unique = dict.fromkeys(needed + jobs)
    return sorted(unique, key=lambda job: (job.row != TEACHER_OUTPUTS, len(job.needs)))


def checked_size(size: str) -> str:
    """Return a size if it is one: "all", "3k" or another number of training clips.

    Raises:
        ValueError: If it is not.
    """
    text = str(size)
    if text != "all":
        number = text.removesuffix("k")
        if not (number.isascii() and number.isdigit()) or int(number) < 1:
            raise ValueError(
                f"the size {size!r} is none: give a number of training clips from 1 on, such as "
                "500 or 3k, or all"
            )
    return text


def _check_row(row: str) -> None:
    """Raise ValueError for a row that is none, or one distilled by KL that is not distilled."""
    check_text("a row", row)
    if row == TEACHER_OUTPUTS or row in FURTHER:
        return
    if row.removesuffix(BY_KL) not in METHODS:
        raise ValueError(
            f"unknown system {row!r}: a method ({', '.join(METHODS)}) or a model as it is "
            f"({', '.join(FURTHER)})"
        )
    method = get_method(row.removesuffix(BY_KL))
    if row.endswith(BY_KL) and not method.distils:
        raise ValueError(f"{row}: {method.name} learns from no teacher, by KL or otherwise")


def check_jobs(jobs: Iterable[Job]) -> None:
    """Check all that is not done before the first job begins, see `preflight`.

    Raises:
        ValueError: Where anything is wrong; the message lists all of it.
        OSError: Where a single thing is wrong, a file or the disk.
    """
    groups: dict[tuple[str, str, str | None], list[Job]] = {}
    for job in jobs:
        if not job.done:
            key = (job.language, job.size, job.settings().teacher)
            groups.setdefault(key, []).append(job)

    # The largest size first: smaller ones of Common Voice are prepared with it.
    largest_first = sorted(groups.values(), key=lambda group: -(group[0].clips or 0))
    problems: list[Exception] = []
    for group in largest_first:
        try:
            lab = Lab(group[0].settings())
        except (ValueError, OSError) as error:
            problems.append(error)
            continue
        problems += find_problems(lab, [_step_of(lab, job) for job in group])
        for job in group:
            if job.as_it_is:
                try:
                    job.as_it_is.find(job.language)
                except (ValueError, OSError) as error:
                    problems.append(error)
    raise_problems(problems)


def _step_of(lab: Lab, job: Job) -> Step:
    """Return what a job computes; of a model that no `Lab` knows the tests, as of the student."""
    if job.row == TEACHER_OUTPUTS:
        return Step(None)
    method = "student" if job.as_it_is else job.method
    return Step(method, job.changes, tuple(test.key for test in _tests_of(lab, job)))


def _tests_of(lab: Lab, job: Job) -> list[TestSet]:
    """Return the tests that a job scores; those of FURTHER are not scored on translation."""
    if job.row == TEACHER_OUTPUTS:
        return []
    tests = [test for test in lab.test_sets.values() if test.name in TESTS]
    return [test for test in tests if job.row not in FURTHER or test.task != "translate"]


def waits_for(job: Job, jobs: Iterable[Job]) -> list[Job]:
    """Return the jobs that a job had better wait for: those that it needs, and perhaps one more.

    The sizes of a language share the teacher's distributions (in Whisper's 30 s window), and a
    larger one computes what a smaller one lacks. Begun at the same time, one would hold its GPU
    while it waits for the other: so each waits for the next smaller size among the jobs.

    Args:
        job: The job.
        jobs: The jobs that there are.
    """
    if job.row != TEACHER_OUTPUTS or job.settings().train_margin_seconds is not None:
        return job.needs

    def size(other: Job) -> float:
        return other.clips or float("inf")

    smaller = [
        other for other in jobs if replace(other, size=job.size) == job and size(other) < size(job)
    ]
    return job.needs + ([max(smaller, key=size)] if smaller else [])


def run_job(job: Job, beside: Iterable[Job] = ()) -> None:
    """Do a job in this process unless it is done, and note its state; an error is noted and raised.

    Where another process does it at the moment, this one waits for it, on another machine too.

    Of several processes (accelerate launch) the first does the job, and the others train with it.

    Args:
        job: The job.
        beside: The jobs of the same grid. Where the speech of this one is not prepared yet, that of
            the largest size in its language is.

    Raises:
        RuntimeError: Where a job that it needs is not done.
    """
    if RANK:
        if job.row not in ONCE and not job.done:
            Lab(job.settings()).train(job.method, **job.changes)
        return

    if job.done:
        return
    with one_at_a_time(job.folder):
        _wait_for_another_machine(job)
        if job.done:  # another process has done it meanwhile
            return
        with _signs_of_life(job):
            job.note("running", pid=os.getpid(), host=platform.node())
            _run_noted(job, beside)


def _prepare_speech(job: Job, beside: Iterable[Job]) -> None:
    """Prepare the largest size of Common Voice that a grid has in a job's language."""
    name = job.settings().corpus
    if is_prepared(name, job.language):
        return
    names = {other.settings().corpus for other in beside if other.language == job.language}
    prepare_largest(names | {name}, job.language)


def _run_noted(job: Job, beside: Iterable[Job]) -> None:
    """Do a job whose state is running, and note how it ends; as `run_job`."""
    try:
        missing = [need.name for need in job.needs if not need.done]
        if missing:
            raise ValueError(
                f"{job.name} needs {', '.join(missing)}, which is not done: run that first"
            )
        _prepare_speech(job, beside)
        write_json(job.folder / "results.json", _work(job), sealed=True)
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        job.note("killed", exit_code=128 + number, error="stopped: `run` goes on from there")
        raise
    except BaseException as error:
        text = traceback.format_exception_only(error)[-1].strip()
        job.note("failed", exit_code=1, error=text.splitlines()[-1])
        raise
    job.note("done", exit_code=0, contents=job.contents())


def _wait_for_another_machine(job: Job) -> None:
    """Wait while a job runs where the lock that this process holds is not seen."""
    told = False
    while True:
        noted = read_json(job.folder / "state.json")
        is_own = noted.get("host") == platform.node() and noted.get("pid") == os.getpid()
        if noted.get("state") != "running" or is_own or not job._gives_signs_of_life(noted):
            return
        if not told:
            tell(f"{job.name} runs on {noted.get('host')}: waiting for it")
            told = True
        time.sleep(min(INTERVAL, 10))


@contextmanager
def _signs_of_life(job: Job) -> Iterator[None]:
    """Touch a file of the job now and again at each INTERVAL, until the end of the block."""
    make_folder(job.folder)
    path = job._sign_of_life
    ended = threading.Event()

    def touch() -> None:
        with suppress(OSError):  # a full disk is told by what writes results
            path.touch()

    def live() -> None:
        while not ended.wait(INTERVAL):
            touch()

    touch()
    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _work(job: Job) -> dict:
    """Do the job; return its rows of `score` and the run metadata, as "record"."""
    lab = Lab(job.settings())
    tests = _tests_of(lab, job)
    raise_problems(find_problems(lab, [_step_of(lab, job)]))
    about = {"row": job.row, "train_clips": job.clips or lab.preset.train_clips or 0}  # 0: all

    rows = []
    if job.row == TEACHER_OUTPUTS:
        lab.teacher_distributions()
    for test in tests:
        if job.as_it_is:
            scores = score_as_it_is(lab, job.row, job.as_it_is, test.key)
        else:
            experts = "encoder" if test.task == "translate" else True  # as released
            scores = score(lab, job.method, test.key, experts, **job.changes)
        rows.append(scores | about | {"corpus": test.corpus})
    data, models = _hashes(lab, job, tests)
    return {"rows": rows, "record": run_metadata(lab.preset, lab.steps(), data, models)}


def _hashes(lab: Lab, job: Job, tests: list[TestSet]) -> tuple[dict, dict]:
    """Return the hashes of data and models for the run metadata.

    The weights of a teacher, which may be large, are read by the job of its distributions and by
    that of its own row, not by those that learn from it.

    Returns:
        Fingerprints of the corpora and a hash of the training clips' ids; SHA-256 of each file of
        weights by role.
    """
    p = lab.preset
    folders = {"student": find_weights(p.student).folder}
    role = job.row if job.row in WHISPERS else "teacher"
    if job.row == TEACHER_OUTPUTS or (job.method == "teacher" and not job.needs):
        folders[role] = find_weights(p.teacher or lab.train_teacher() / "model").folder
    if job.row not in ONCE:
        folders[job.row] = lab.train(job.method, **job.changes) / "model"

    corpora = {(corpus_of(p, p.language), p.language)}
    corpora.update((test.corpus, test.language) for test in tests)
    data, models = fingerprints(corpora, folders)
    if job.as_it_is:
        models[job.row] = job.as_it_is.hashes(job.language)

    training_ids = list(lab.rows("train", limit=p.train_clips)["id"])
    data["ids of training clips"] = short_hash(training_ids)
    for need in job.needs:
        models |= need.results()["record"]["models"]
    return data, models
