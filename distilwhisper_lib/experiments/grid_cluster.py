"""The grid on a cluster: limits of time and memory for each job, a script for Slurm, a Snakefile.

A job waits for those that it needs, and the teacher's distributions for those of the next smaller
size, which they take over; for no other. What is done is not submitted.
"""

import json
import math
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ..files import cache_dir
from ..presets import get_preset
from .estimates import CARDS, estimate
from .jobs import Job, waits_for

PROGRAM = ("distilwhisper_lib", "grid")  # for `python -m`

# Assumed, not measured. Where it is too little, Snakemake's next attempt may take more.
UNKNOWN = (120, 16_000)  # minutes, megabytes: of models whose shapes are not known
PROCESS_MEGABYTES = 8000  # Python with torch, audio and log-mels of the batches
RETRIES = 2
CORES = 4

SLURM = """#!/bin/bash
# Run this with bash in the repository; a partition and the like go into the line of sbatch. What
# fails is run by the same script again: what is done is left alone, and what is still in the queue
# is done once, for a second job of the same name waits for the first.
set -euo pipefail
declare -A number
pending=" $({pending} | tr '\\n' ' ') "

# name, minutes, megabytes, then the jobs that it needs
submit() {{
    local name=$1 minutes=$2 megabytes=$3 after=singleton need
    if [[ $pending != *" $name "* ]]; then return; fi
    for need in "${{@:4}}"; do
        if [[ -n ${{number[$need]:-}} ]]; then after+=",afterok:${{number[$need]}}"; fi
    done
    number[$name]=$(sbatch --parsable{gpus} --cpus-per-task={cores} --mem="${{megabytes}}M" \\
        --time="$minutes" --job-name="grid-$name" --output="grid-$name.log" --open-mode=append \\
        --dependency="$after" --kill-on-invalid-dep=yes --wrap={command}" $name")
    number[$name]=${{number[$name]%%;*}}
}}

{lines}
"""

SNAKEFILE = """# The grid for Snakemake, written {time} by: grid snakefile {options}
# Run it in the repository. Write it anew before each run: what is done by then is left out.

RUN = {run}
ENDED = {ended}  # a file for each job that has ended well

# minutes and megabytes are estimates; the second attempt may take twice as much, the third thrice
JOBS = {jobs}


def ended(name):
    return ENDED + "/" + name


def braced(path):
    return path.replace("{{", "{{{{").replace("}}", "}}}}")


localrules:
    everything,


rule everything:
    input:
        [ended(name) for name in JOBS],
    default_target: True


rule job:
    input:
        lambda wildcards: [ended(name) for name in JOBS[wildcards.job]["needs"]],
    output:
        touch(braced(ENDED) + "/{{job}}"),
    wildcard_constraints:
        job="[^/]+",
    retries: {retries}
    threads: {cores}
    resources:
        runtime=lambda wildcards, attempt: attempt * JOBS[wildcards.job]["minutes"],
        mem_mb=lambda wildcards, attempt: attempt * JOBS[wildcards.job]["megabytes"],
{gpu}    shell:
        "{{RUN}} {{wildcards.job}}"
"""


def limits(job: Job) -> tuple[int, int]:
    """Return the minutes and megabytes (of the host, not the GPU) that a job may take.

    Time: twice the estimate for the slowest card in CARDS, and an hour. Memory: the estimate of the
    GPU's, since weights and optimiser pass through the host's when they are loaded and saved, and
    PROCESS_MEGABYTES. A Whisper as it is has the limits of the preset's teacher.
    """
    preset = replace(job.settings(), teacher=get_preset(job.preset).teacher)
    clips = job.clips or preset.train_clips or 10_000
    found = estimate(job.method, preset, clips)
    if not found:
        return UNKNOWN
    hours = found[f"{next(iter(CARDS))} h"]
    minutes = 60 * (math.ceil(2 * hours) + 1)
    megabytes = 1000 * math.ceil(found["GB"]) + PROCESS_MEGABYTES
    return minutes, megabytes


def pending(jobs: list[Job]) -> list[Job]:
    """Return the jobs that are not done, in their order."""
    return [job for job in jobs if not job.done]


def slurm(jobs: list[Job], options: list[str]) -> str:
    """Return a script that submits each job that is not done when the script is run.

    Args:
        jobs: As `make_jobs` gives them.
        options: Of the command line, from which `run` makes the same jobs.
    """
    lines = []
    for job in jobs:
        minutes, megabytes = limits(job)
        needs = [need.name for need in waits_for(job, jobs)]
        lines.append(shlex.join(["submit", job.name, str(minutes), str(megabytes), *needs]))
    of_pending = [option for option in options if option != "--cpu"]
    return SLURM.format(
        pending=shlex.join([sys.executable, "-m", *PROGRAM, "pending", *of_pending]),
        gpus="" if "--cpu" in options else " --gpus=1",
        cores=CORES,
        command=shlex.quote(f"exec {_run(options)}"),
        lines="\n".join(lines),
    )


def snakefile(jobs: list[Job], options: list[str]) -> str:
    """Return a Snakefile with a job for each of those that are not done now.

    Args:
        jobs: As `make_jobs` gives them.
        options: Of the command line, from which `run` makes the same jobs.
    """
    left = pending(jobs)
    names = {job.name for job in left}
    table = {}
    for job in left:
        minutes, megabytes = limits(job)
        needs = [need.name for need in waits_for(job, jobs) if need.name in names]
        table[job.name] = {"needs": needs, "minutes": minutes, "megabytes": megabytes}

    now = datetime.now(UTC)
    lines = [f"    {json.dumps(name)}: {json.dumps(facts)},\n" for name, facts in table.items()]
    return SNAKEFILE.format(
        time=now.isoformat(timespec="seconds"),
        options=shlex.join(options),
        run=json.dumps(_run(options)),
        ended=json.dumps(str(_ended_folder(jobs, now))),
        jobs="{\n" + "".join(lines) + "}",
        retries=RETRIES,
        cores=CORES,
        gpu="" if "--cpu" in options else "        gpu=1,\n",
    )


def _ended_folder(jobs: list[Job], now: datetime) -> Path:
    """Return the folder in which Snakemake notes what has ended well.

    It is a new one for each file: what was done with other settings is done again.
    """
    return cache_dir() / "runs" / jobs[0].preset / "snakemake" / now.strftime("%Y%m%d-%H%M%S-%f")


def _run(options: list[str]) -> str:
    """Return the command that does a job, without the job's name at its end."""
    return shlex.join([sys.executable, "-m", *PROGRAM, "run", *options, "--job"])
