"""`make grid ARGS=...`: the paper's experiments as a list of jobs; a stopped run goes on.

list    the jobs, with their estimated hours and memory (the teacher's pass is counted in full for
        each size, though the sizes of a language share it)
run     do what is not done: each job is a process with a GPU of its own; with --job one job, in
        this process
status  what is done, running, waiting and failed, and why
table   the paper's table of what is done: printed, and written to results/<preset>/grid.csv; every
        score with its interval goes to grid-scores.csv
pairs   DistilWhisper less each other method on the same clips, with intervals: printed, and written
        to grid-paired.csv
published  score the authors' published experts beside plain Whisper on FLEURS: no training and no
        account; --experts FOLDER takes folders in their format instead. Printed, and written to
        results/<preset>/published.csv
pending print the names of the jobs that are not done
slurm   print a script that submits the jobs to a cluster, each with its own time and memory
snakefile  write the same as a Snakefile, which repeats what fails: results/<preset>/Snakefile
"""

import argparse
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from queue import SimpleQueue

import pandas as pd
import torch

from ..checks import check_number
from ..files import REPOSITORY, atomic_file, make_folder, resolve_folders, results_dir
from ..presets import LARGEST_SEED, get_preset
from ..programs import number_option, out_of_memory, run_program
from .estimates import estimate
from .grid_cluster import PROGRAM, pending, slurm, snakefile
from .grid_tables import COMPARED, all_scores, pairs, table
from .jobs import FURTHER, ROWS, SEEDS, Job, check_jobs, make_jobs, run_job
from .published import score_published

COMMANDS = ("list", "run", "status", "table", "pairs", "published", "pending", "slurm", "snakefile")

PATIENCE = 20  # seconds in which a job that is asked to end is waited for

TABLE_NOTE = (
    "WER in %, of translation BLEU, of Thai CER (not in the mean) unless the normaliser is "
    "`released`"
)


# ---- running jobs


class Children:
    """The processes of jobs. Once they have been ended, no other one begins."""

    def __init__(self):
        self.ended = False
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """Run a command in a session of its own, so that Ctrl-C reaches it through `end` alone.

        Returns:
            Its exit status, negative for a signal.
        """
        with self._lock:
            if self.ended:
                return 1
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    def end(self) -> None:
        """Ask all processes to end, and kill those that do not soon."""
        with self._lock:
            self.ended = True
            running = list(self._running)
        try:
            for process in running:
                process.terminate()
            until = time.monotonic() + PATIENCE
            for process in running:
                process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass
        finally:
            for process in running:
                process.kill()  # nothing happens to one that has ended


def run_jobs(jobs: list[Job], at_once: int) -> bool:
    """Run what is not done, each job in a process with a GPU of its own.

    A job that fails or is killed stops only those that need it, and is run again by the next call.
    What ends this call, such as Ctrl-C, ends the processes.

    Args:
        jobs: As `make_jobs` gives them: those that others need come before these.
        at_once: How many processes run at a time.

    Returns:
        Whether all jobs are done now.

    Raises:
        ValueError: Where `at_once` is no whole number from 1 on.
    """
    check_number("the number of jobs at once", at_once, low=1, whole=True)
    resolve_folders()
    devices = _gpus()
    free: SimpleQueue[str] = SimpleQueue()  # devices without a job
    for slot in range(at_once):
        free.put(devices[slot % len(devices)])

    children = Children()
    futures: dict[Job, Future] = {}
    with ThreadPoolExecutor(at_once) as pool:
        try:
            # Needed jobs come first, so no job waits for one that has no thread yet.
            for job in jobs:
                needed = [futures[need] for need in job.needs if need in futures]
                futures[job] = pool.submit(_run_in_process, job, needed, free, children)
            ended_well = [future.result() for future in futures.values()]
        except BaseException:  # such as Ctrl-C
            try:
                children.end()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
            raise
    return all(ended_well)


def _gpus() -> list[str]:
    """Return the GPUs, named as in CUDA_VISIBLE_DEVICES; one empty name where there is none."""
    count = torch.cuda.device_count()
    if not count:
        return [""]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return names[:count] if len(names) >= count else [str(index) for index in range(count)]


def _run_in_process(job: Job, needed: list[Future], free: SimpleQueue, children: Children) -> bool:
    """Run a job in its own process, after those that it needs; return whether it is done."""
    try:
        for future in needed:
            future.result()
    except CancelledError:
        return False

    found = explain(job)
    if found["state"] not in ("done", "blocked"):  # one that runs elsewhere is waited for
        device = free.get()
        try:
            if children.ended:
                return False
            print(f"{job.name}: starts", flush=True)
            code = _process(job, device, children)
        finally:
            free.put(device)
        _note_end(job, code)
        found = explain(job)
    print(f"{job.name}: {found['state']} {found['why']}".rstrip(), flush=True)
    return found["state"] == "done"


def _note_end(job: Job, code: int) -> None:
    """Note how a job's process has ended, where it could not do so itself."""
    state = job.state()["state"]
    if state == "waiting" or (state == "killed" and code < 0):
        error = (
            f"killed by signal {-code}" if code < 0 else f"it did not begin (exit status {code})"
        )
        if code == -9:
            error = out_of_memory(f"{error}, most likely because memory ran out")
        job.note("failed", exit_code=code, error=error)


def _process(job: Job, device: str, children: Children) -> int:
    """Run `grid run --job` for a job on a GPU ("": without one); return the exit status."""
    search_path = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, search_path))}
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device

    options = {
        "--preset": job.preset,
        "--languages": job.language,
        "--sizes": job.size,
        "--systems": job.row,
        "--seeds": "0" if job.seed is None else str(job.seed),
        "--job": job.name,
    }
    command = [sys.executable, "-m", *PROGRAM, "run"]
    for option, value in options.items():
        command += [option, value]
    if not device:
        command.append("--cpu")  # `run` has already been allowed to go without a GPU
    return children.run(command, environment)


def _find_job(jobs: list[Job], wanted: str) -> Job:
    """Return the job with this name or index; ValueError where there is none."""
    by_key = {}
    for index, job in enumerate(jobs):
        by_key[job.name] = job
        by_key[str(index)] = job
    if wanted not in by_key:
        raise ValueError(f"no job {wanted!r} with these options: `list` shows names and indices")
    return by_key[wanted]


def _run_here(job: Job, beside: list[Job]) -> None:
    """Do a job; meanwhile the process prints into the job's log.

    Args:
        job: The job.
        beside: As for `run_job`.
    """
    print(f"{job.name}: log in {os.path.relpath(job.folder / 'log.txt')}", flush=True)
    make_folder(job.folder)
    own = [os.dup(1), os.dup(2)]
    try:
        with open(job.folder / "log.txt", "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        try:
            run_job(job, beside)
        except Exception:
            traceback.print_exc()  # into the log
            raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in enumerate(own, 1):
            os.dup2(saved, number)
            os.close(saved)


# ---- status


def explain(job: Job) -> dict[str, str]:
    """Return a row of the status.

    Returns:
        job; group: language and size; state: as of `Job.state`, or "blocked" where a job that it
        needs has failed; why, with the log where there is one.
    """
    found = job.state()
    state = found["state"]
    why = found.get("error", "")
    if state == "running" and "host" in found:
        why = f"on {found['host']}, process {found['pid']}"
    log = job.folder / "log.txt"

    stopped = []
    for need in job.needs:
        state_of_need = need.state()["state"]
        if state_of_need in ("failed", "killed"):
            stopped.append(f"{need.name}: {state_of_need}")

    if stopped and state != "done":
        state = "blocked"
        why = f"by {stopped[0]}"
    elif why and state != "running" and log.exists():
        why = f"{why} (log: {os.path.relpath(log)})"
    return {"job": job.name, "group": f"{job.language} {job.size}", "state": state, "why": why}


def _print_status(jobs: list[Job]) -> None:
    """Print how many jobs are in each state, then those that failed, run or are blocked."""
    rows = pd.DataFrame([explain(job) for job in jobs])
    print(pd.crosstab(rows["group"], rows["state"], margins=True, margins_name="all").to_string())
    for row in rows[~rows["state"].isin(["done", "waiting"])].itertuples():
        print(f"{row.job}: {row.state} {row.why}".rstrip())


# ---- tables


def _write_tables(preset: str, tables: dict[str, pd.DataFrame], is_printed: bool = True) -> None:
    """Print the first table unless told otherwise; write all to the folder of results, by name."""
    if is_printed:
        first = next(iter(tables.values()))
        print(first.to_string(index=False))
    for name, rows in tables.items():
        path = results_dir(preset) / f"{name}.csv"
        with atomic_file(path) as part:
            rows.to_csv(part, index=False)
        print(f"written to {os.path.relpath(path)}")


# ---- list


def listing(jobs: list[Job]) -> pd.DataFrame:
    """Return a row per job: job, needs, and estimates where the shapes of its models are known."""
    rows = []
    for job in jobs:
        preset = job.settings()
        clips = job.clips or preset.train_clips or 10_000
        needs = ", ".join(need.name for need in job.needs)
        rows.append({"job": job.name, "needs": needs} | estimate(job.method, preset, clips))
    return pd.DataFrame(rows).round(2)


def _write_snakefile(preset: str, text: str) -> None:
    """Write a Snakefile to the folder of results, and print how it is run."""
    path = results_dir(preset) / "Snakefile"
    with atomic_file(path) as part:
        part.write_text(text, encoding="utf-8")
    shown = os.path.relpath(path)
    print(f"written to {shown}. On a cluster with Slurm:")
    print(f"snakemake --snakefile {shown} --executor slurm --jobs 50 --keep-going")


# ---- command line


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="make grid ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # options go on to the jobs, which are looked at by their names
    )
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--preset", default="paper", help="default: paper")
    parser.add_argument("--languages", nargs="+")
    parser.add_argument(
        "--sizes",
        nargs="+",
        help="of paper: 3k 10k 28k; of other presets also another number of training clips, or all",
    )
    seed = number_option(low=0, high=LARGEST_SEED, whole=True)
    parser.add_argument("--seeds", nargs="+", type=seed, default=list(SEEDS))
    parser.add_argument(
        "--systems",
        nargs="+",
        default=ROWS,
        help=f"a method; with -kl after it distilled by KL; or {', '.join(FURTHER)}, as it is",
    )
    at_once = number_option(low=1, whole=True)
    parser.add_argument(
        "--gpus", type=at_once, help="how many jobs at once; else as many as there are GPUs, or one"
    )
    parser.add_argument("--job", help="name or index in the list")
    parser.add_argument(
        "--experts",
        nargs="+",
        metavar="FOLDER",
        help="of published: folders in the authors' format instead of their checkpoints on the hub",
    )
    parser.add_argument(
        "--cpu", action="store_true", help="run without a GPU what is meant for one"
    )
    return parser


def _need_gpu(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse to compute without a GPU what is meant for one, unless --cpu allows it."""
    is_meant = get_preset(given.preset).teacher is not None
    if is_meant and not given.cpu and not torch.cuda.is_available():
        parser.error(
            f"torch {torch.__version__} sees no GPU here, and the preset {given.preset} is meant "
            "for one: install the build for GPUs (make setup GPU=1), or let it take long with "
            "--cpu"
        )


def _check_published(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse options that the command published does not use."""
    if given.systems is not ROWS or given.seeds != list(SEEDS):
        parser.error("published has neither --systems nor --seeds: it trains nothing")
    if given.experts is not None and given.sizes is not None:
        parser.error("--sizes are those on the hub: with --experts there are none")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Args:
        arguments: Of the command line; None: those of this process.

    Returns:
        The exit code: 1 where `run` leaves anything undone.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.job is not None and given.command != "run":
        parser.error("--job belongs to the command run")
    if given.gpus is not None and (given.command != "run" or given.job is not None):
        parser.error("--gpus belongs to the command run without --job")
    if given.cpu and given.command not in ("run", "published", "slurm", "snakefile"):
        parser.error("--cpu belongs to the commands run, published, slurm and snakefile")
    if given.experts is not None and given.command != "published":
        parser.error("--experts belongs to the command published")
    if given.command == "published":
        _check_published(parser, given)
        _need_gpu(parser, given)
        rows = score_published(given.preset, given.languages, given.sizes, given.experts)
        _write_tables(given.preset, {"published": rows}, is_printed=False)
        return 0
    if given.command == "pairs" and given.systems is not ROWS:
        left_out = [row for row in given.systems if row not in COMPARED]
        if left_out:
            parser.error(f"--systems of pairs is of {', '.join(COMPARED)}: not {left_out[0]}")
    rows = given.systems
    if given.command == "table" and rows is ROWS:
        rows = (*ROWS, *FURTHER)
    jobs = make_jobs(given.preset, given.languages, given.sizes, given.seeds, rows)

    if given.command == "run":
        job = None if given.job is None else _find_job(jobs, given.job)
        if pending(jobs if job is None else [job]):
            _need_gpu(parser, given)
        if job is not None:
            _run_here(job, jobs)
            return 0
        at_once = given.gpus
        if at_once is None:
            at_once = torch.cuda.device_count() or 1
        check_jobs(jobs)
        return 0 if run_jobs(jobs, at_once) else 1

    if given.command == "list":
        print(listing(jobs).fillna("").to_string())
        print("\nHours and GB are estimates, not measured.")
    elif given.command == "status":
        _print_status(jobs)
    elif given.command == "table":
        _write_tables(given.preset, {"grid": table(jobs), "grid-scores": all_scores(jobs)})
        print(TABLE_NOTE)
    elif given.command == "pairs":
        _write_tables(given.preset, {"grid-paired": pairs(jobs)})
    elif given.command == "pending":
        for job in pending(jobs):
            print(job.name)
    else:
        options = [argument for argument in arguments if argument != given.command]
        if given.command == "slurm":
            print(slurm(jobs, options))
        else:
            _write_snakefile(given.preset, snakefile(jobs, options))
    return 0


if __name__ == "__main__":
    run_program(main)
