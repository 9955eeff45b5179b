"""One training shared by several processes, as `accelerate launch` and torchrun start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from random_data import RandomClips
from runs import arguments_of, optimisation_of, trainer_on
from safetensors.torch import load_file
from test_resume import contents

from distilwhisper_lib.experiments import jobs as jobs_module
from distilwhisper_lib.experiments.jobs import Job, run_job
from distilwhisper_lib.lab import metadata
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.training import trainer as training
from distilwhisper_lib.training.config import Optimisation
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.whisper.loading import load_whisper

TESTS = Path(__file__).parent
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def start(folder, launcher=(), *arguments):
    """Start several_processes.py with a launcher."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    own = {
        "LAB_PRECISION": "no",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": path,
        "ACCELERATE_USE_CPU": "1",
    }
    command = [
        sys.executable,
        *launcher,
        str(TESTS / "several_processes.py"),
        str(folder),
        *arguments,
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=os.environ | own, text=True, **pipes)


def launch(folder, launcher=(), *arguments):
    """Run several_processes.py with a launcher; return its exit code and what it printed."""
    process = start(folder, launcher, *arguments)
    _, printed = process.communicate(timeout=240)
    return process.returncode, printed


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of the same trainings in one process and in two."""
    folder = tmp_path_factory.mktemp("processes")
    for name, launcher in (("one", ()), ("two", TWO)):
        code, printed = launch(folder / name, launcher)
        assert code == 0, printed[-3000:]
    return folder


def run_of(folder, system):
    return json.loads((folder / system / "run.json").read_text())


def test_two_processes_train_what_one_does(runs):
    one = load_file(runs / "one" / "fine-tuning" / "model" / "model.safetensors")
    two = load_file(runs / "two" / "fine-tuning" / "model" / "model.safetensors")
    start = load_whisper("tiny").state_dict()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-6, rtol=0)
    assert any(not torch.equal(weight, start[name]) for name, weight in one.items())


def test_steps_batches_and_scores_are_those_of_one_process(runs):
    one = run_of(runs / "one", "fine-tuning")
    two = run_of(runs / "two", "fine-tuning")
    assert (one["processes"], two["processes"]) == (1, 2)
    assert (one["steps"], one["batch_size"]) == (two["steps"], two["batch_size"]) == (4, 4)
    for name in ("grad_norm", "eval_loss", "eval_wer", "learning_rate"):
        first = [row[name] for row in one["log"] if name in row]
        second = [row[name] for row in two["log"] if name in row]
        assert first
        assert first == pytest.approx(second, rel=1e-4)


def test_experts_with_skipped_gates_train_in_two_processes(runs):
    folder = runs / "two" / "clsr-ft"
    run = run_of(runs / "two", "clsr-ft")
    assert run["processes"] == 2
    assert run["steps"] == 4
    assert {path.name for path in folder.iterdir()} == {"model", "run.json"}
    assert run["log"][0]["gate_encoder"] == 0.5 != run["log"][-2]["gate_encoder"]


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="transformers 5.15 loads what several CPU processes have left to a device cpu:0",
)
def test_two_processes_of_which_one_was_killed_go_on_to_the_same_files(runs):
    folder = runs / "killed"
    left = []
    for step in ("3", "5"):  # each training has four; the first goes on at its third
        assert launch(folder, TWO, step)[0] != 0
        left.append({path.parent.name for path in folder.glob("*/checkpoints")})
    assert left == [{"fine-tuning"}, {"clsr-ft"}]
    assert not (folder / "clsr-ft" / "run.json").exists()
    code, printed = launch(folder, TWO)
    assert code == 0, printed[-3000:]
    for system in ("fine-tuning", "clsr-ft"):
        assert contents(folder / system) == contents(runs / "two" / system)


def test_two_programs_at_one_folder_compute_everything_once(runs):
    folder = runs / "shared"
    both = [start(folder), start(folder)]
    texts = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], texts
    for name in ("teacher", "fine-tuning", "clsr-ft"):
        assert contents(folder / name) == contents(runs / "one" / name)
    for bar in ("teacher distributions: 100%", "train fine-tuning: 100%", "train clsr-ft: 100%"):
        assert sum(bar in text for text in texts) == 1, bar


def test_one_process_trains_on_one_of_several_gpus(monkeypatch, processor, collator, tmp_path):
    monkeypatch.setattr(training, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("transformers.training_args.is_torch_mps_available", lambda: False)
    clips = RandomClips(processor.tokenizer, 8)
    model = load_whisper("tiny")
    optimisation = optimisation_of(get_preset("smoke"))
    arguments = arguments_of(tmp_path, optimisation, len(clips))
    assert arguments.n_gpu == 2  # transformers' Trainer would use both
    trainer = trainer_on(model, arguments, Objective(), clips, collator)
    assert trainer.args.n_gpu == 1
    assert trainer._wrap_model(model) is model
    assert trainer._train_batch_size == arguments.per_device_train_batch_size


def test_batches_that_the_processes_cannot_share_evenly_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(training, "PROCESSES", 3)
    with pytest.raises(
        ValueError, match="3 processes can't share an accumulation of 4: set a multiple"
    ):
        arguments_of(tmp_path, Optimisation(1e-3, 1, accumulation=4), 8)


@pytest.mark.parametrize(
    ("row", "trained"),
    [
        ("lora", {"seed": 78}),
        ("student", None),
        ("teacher-outputs", None),
        ("distilwhisper-kl", {"seed": 78, "divergence": "kl"}),
    ],
)
def test_further_processes_of_a_job_only_train(monkeypatch, row, trained):
    calls = []
    monkeypatch.setattr(jobs_module, "RANK", 1)

    def note(self, name, **changes):
        calls.append((name, changes))

    monkeypatch.setattr(jobs_module.Lab, "train", note)
    job = Job("smoke", "cs", "4", row, None if trained is None else 78)
    run_job(job)
    assert calls == ([(job.method, trained)] if trained else [])
    assert not job.folder.exists()


def test_further_processes_note_no_times(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "RANK", 1)
    with metadata.timed_step(tmp_path, "train", "run"):
        pass
    assert metadata.read_steps(tmp_path, {"run"}) == []
