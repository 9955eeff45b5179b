"""A run that is killed (SIGKILL) at any moment ends with the same files as an uninterrupted one."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from contents import without_times
from damage import damaged
from random_data import RandomClips
from resumable import EPOCHS, PRESET, RESUMED
from runs import arguments_of, optimisation_of, train, trainer_on
from safetensors.torch import load_file, save_file
from transformers import trainer as transformers_trainer

from distilwhisper_lib.device import mixed_precision
from distilwhisper_lib.files import read_json
from distilwhisper_lib.training import run as training
from distilwhisper_lib.training.callbacks import last_complete_checkpoint
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.stored import stored_run
from distilwhisper_lib.training.trainer import LabTrainer
from distilwhisper_lib.whisper.loading import load_whisper


def contents(folder):
    """Return the content of every file below a folder: bytes, and run.json without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            name = str(path.relative_to(folder))
            found[name] = without_times(json.loads(data)) if path.name == "run.json" else data
    return found


@pytest.mark.parametrize(
    "what", ["fine-tuning", "lora", "distilwhisper", "best", "teacher-outputs", "transcribe"]
)
def test_killed_runs_end_with_the_same_files(what, tmp_path):
    root = Path(__file__).resolve().parent
    precision = "bf16" if what == "distilwhisper" else "no"
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(root.parent),
        "LAB_PRECISION": precision,
    }
    done = subprocess.run(
        [sys.executable, str(root / "resumable.py"), what, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    log = (tmp_path / "log.txt").read_text()
    assert done.returncode == 0, f"{done.stderr[-500:]}\n{log[-3000:]}"
    expected = contents(tmp_path / "uninterrupted")
    others = ("uninterrupted", "teacher-outputs")
    folders = [path for path in tmp_path.iterdir() if path.is_dir() and path.name not in others]
    assert len(folders) >= 4 and len(expected) >= 1
    for folder in folders:
        found = contents(folder)
        differing = sorted(
            name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
        )
        assert not differing, f"killed {folder.name}: {differing} differ"
    steps = {
        path.stem: [int(line) for line in path.read_text().split()]
        for path in tmp_path.glob("*.steps")
    }
    if steps:  # of a training
        assert min(steps.pop("from outside")[1:], default=2) >= 2
        assert steps == {name: RESUMED[name] for name in steps}
        assert ["eval_loss" in row for row in expected["run.json"]["log"]].count(True) == 3


# ---- what a checkpoint holds, and in what precision a run can go on


@pytest.fixture
def run(processor, collator, tmp_path):
    """Return a function that trains three epochs of two steps of a method into a folder."""
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))

    def run(name, folder, keep="last"):
        preset = replace(PRESET, keep=keep)
        return train(name, tmp_path / folder, preset, clips, collator, rate=1e-2, epochs=EPOCHS)

    return run


def stopped(monkeypatch, run, *arguments):
    """Run until Ctrl-C in the sixth step; return the checkpoint that is left, of the fourth."""
    original = LabTrainer.training_step
    steps = count(1)
    folders = []

    def training_step(self, *args, **kwargs):
        folders.append(self.args.output_dir)
        if next(steps) == 6:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LabTrainer, "training_step", training_step)
        run(*arguments)
    checkpoint = Path(last_complete_checkpoint(Path(folders[0])))
    assert checkpoint.name == "checkpoint-4"
    return checkpoint


@pytest.mark.parametrize(
    ("name", "keep"), [("fine-tuning", "last"), ("clsr-ft", "last"), ("clsr-ft", "best")]
)
def test_a_checkpoint_without_frozen_weights_gives_the_same_run(name, keep, run, monkeypatch):
    warnings = []
    wers = {2: 40.0, 4: 60.0, 6: 50.0}  # by step: the first epoch is kept, and loaded at the end
    monkeypatch.setattr(training, "_validation_wer", lambda *args: wers[args[-1]])
    monkeypatch.setattr(transformers_trainer.logger, "warning", lambda *text: warnings.append(text))
    expected = contents(run(name, "uninterrupted", keep))
    checkpoint = stopped(monkeypatch, run, name, "stopped", keep)

    held = []
    for path in checkpoint.parent.glob("checkpoint-*"):
        held.append(set(load_file(path / "model.safetensors")))
    of_whisper = {name for name, _ in load_whisper("tiny").named_parameters()}
    if name == "fine-tuning":
        assert held == [of_whisper - {"model.encoder.embed_positions.weight"}]
    else:
        assert len(held) == (2 if keep == "best" else 1)
        for names in held:
            assert not names & of_whisper
            assert len(names) == 4 * (4 + 3)  # of an expert and a gate in each layer

    assert contents(run(name, "stopped", keep)) == expected
    assert warnings == []


def test_a_checkpoint_of_an_earlier_version_without_a_trained_weight_is_refused(run, monkeypatch):
    checkpoint = stopped(monkeypatch, run, "clsr-ft", "stopped")
    (checkpoint / "complete").write_text("12.5")  # seconds alone, no hashes
    weights = load_file(checkpoint / "model.safetensors")
    lost = next(iter(weights))
    del weights[lost]
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match=f"lacks 1 trained weights, such as {lost}: remove that"):
        run("clsr-ft", "stopped")


def test_a_run_of_an_earlier_version_goes_on_from_its_checkpoint(run, monkeypatch):
    expected = contents(run("clsr-ft", "uninterrupted"))
    checkpoint = stopped(monkeypatch, run, "clsr-ft", "stopped")
    (checkpoint / "complete").write_text("1000.5")
    folder = run("clsr-ft", "stopped")
    assert contents(folder) == expected
    assert json.loads((folder / "run.json").read_text())["seconds"] >= 1000


def damage_file(path, way):
    """Damage a file in place."""
    path.write_bytes(damaged(path.read_bytes(), way))


DAMAGES = pytest.mark.parametrize("damage", ["cut", "emptied", "flipped"])


@DAMAGES
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "trainer_state.json"])
def test_a_damaged_checkpoint_is_set_aside_and_the_run_is_the_same(
    name, damage, run, monkeypatch, capsys
):
    expected = contents(run("clsr-ft", "uninterrupted"))
    checkpoint = stopped(monkeypatch, run, "clsr-ft", "stopped")
    damage_file(checkpoint / name, damage)
    assert contents(run("clsr-ft", "stopped")) == expected
    line = f"{checkpoint} is damaged ({name} is not what was written): kept as checkpoint-4.damaged"
    assert line in capsys.readouterr().err


def test_the_last_intact_checkpoint_is_used(run, monkeypatch):
    wers = {2: 40.0, 4: 60.0, 6: 50.0}  # the first epoch is the best, so two checkpoints are kept
    monkeypatch.setattr(training, "_validation_wer", lambda *args: wers[args[-1]])
    expected = contents(run("clsr-ft", "uninterrupted", "best"))
    checkpoint = stopped(monkeypatch, run, "clsr-ft", "stopped", "best")
    damage_file(checkpoint / "model.safetensors", "flipped")
    first = checkpoint.with_name("checkpoint-2")
    assert last_complete_checkpoint(checkpoint.parent) == str(first)
    assert contents(run("clsr-ft", "stopped", "best")) == expected


def test_a_checkpoint_whose_best_one_is_damaged_is_not_used(run, monkeypatch):
    wers = {2: 40.0, 4: 60.0, 6: 50.0}
    monkeypatch.setattr(training, "_validation_wer", lambda *args: wers[args[-1]])
    expected = contents(run("clsr-ft", "uninterrupted", "best"))
    checkpoint = stopped(monkeypatch, run, "clsr-ft", "stopped", "best")
    damage_file(checkpoint.with_name("checkpoint-2") / "model.safetensors", "flipped")
    assert last_complete_checkpoint(checkpoint.parent) is None
    assert contents(run("clsr-ft", "stopped", "best")) == expected


def test_a_run_that_was_moved_finds_its_best_checkpoint(run, monkeypatch, tmp_path):
    wers = {2: 40.0, 4: 60.0, 6: 50.0}
    monkeypatch.setattr(training, "_validation_wer", lambda *args: wers[args[-1]])
    expected = contents(run("clsr-ft", "uninterrupted", "best"))
    stopped(monkeypatch, run, "clsr-ft", "stopped", "best")
    (tmp_path / "stopped").rename(tmp_path / "moved")
    assert contents(run("clsr-ft", "moved", "best")) == expected


def test_a_checkpoint_of_another_configuration_is_not_gone_on_from(
    processor, collator, monkeypatch, tmp_path
):
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))

    def run(folder, rate):
        return train(
            "clsr-ft", tmp_path / folder, PRESET, clips, collator, rate=rate, epochs=EPOCHS
        )

    expected = contents(run("uninterrupted", 2e-2))
    stopped(monkeypatch, run, "stopped", 1e-2)
    assert contents(run("stopped", 2e-2)) == expected


def test_validation_is_transcribed_with_the_weights_of_this_run(
    processor, collator, monkeypatch, tmp_path
):
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))
    best = replace(PRESET, keep="best")

    def run(folder, rate):
        where = tmp_path / folder
        return train("fine-tuning", where, best, clips, collator, rate=rate, epochs=EPOCHS)

    expected = contents(run("uninterrupted", 1e-4))
    stopped(monkeypatch, run, "stopped", 3e-2)
    left = list((tmp_path / "stopped" / "checkpoints").glob("validation-*.csv"))
    assert left  # with the predictions of weights that a high rate has changed
    assert contents(run("stopped", 1e-4)) == expected


def test_validation_is_transcribed_in_the_precision_of_the_run(
    processor, collator, monkeypatch, tmp_path
):
    monkeypatch.delenv("LAB_PRECISION", raising=False)
    seen = []

    def noting(*_):
        seen.append(mixed_precision(torch.device("cpu")))
        return 50.0

    monkeypatch.setattr(training, "_validation_wer", noting)
    clips = RandomClips(processor.tokenizer, 4, seconds=(0.3, 0.6))
    best = replace(PRESET, keep="best")
    for precision in ("no", "bf16"):
        train("lora", tmp_path / precision, best, clips, collator, precision=precision)
    assert list(dict.fromkeys(seen)) == ["no", "bf16"]


# ---- finished runs


def files_of(folder):
    return sorted(path.name for path in folder.parent.glob(f"{folder.name}*"))


@DAMAGES
@pytest.mark.parametrize("name", ["fine-tuning", "lora", "clsr-ft"])
def test_a_run_with_damaged_weights_is_set_aside_and_trained_anew(name, damage, run, capsys):
    folder = run(name, "run")
    expected = contents(folder)
    weights = next((folder / "model").glob("*.safetensors"))
    damage_file(weights, damage)
    before = contents(folder)
    assert contents(run(name, "run")) == expected
    kept = folder.with_name("run.damaged-1")
    assert contents(kept) == before
    reason = f"{folder} is damaged (model/{weights.name} is not what was written): kept as"
    assert capsys.readouterr().err.count(reason) == 1


@DAMAGES
def test_a_run_with_damaged_metadata_is_set_aside_and_trained_anew(damage, run, capsys):
    folder = run("clsr-ft", "run")
    expected = contents(folder)
    damage_file(folder / "run.json", damage)
    assert not stored_run(folder)
    assert contents(run("clsr-ft", "run")) == expected
    assert files_of(folder) == ["run", "run.damaged-1"]
    assert f"{folder} is damaged (run.json: " in capsys.readouterr().err


def test_a_run_that_lacks_a_file_is_trained_anew(run):
    folder = run("clsr-ft", "run")
    expected = contents(folder)
    (folder / "model" / "experts.json").unlink()
    assert contents(run("clsr-ft", "run")) == expected


def test_a_run_of_an_earlier_version_without_hashes_is_used(run):
    folder = run("clsr-ft", "run")
    facts = read_json(folder / "run.json")  # without its seal
    assert set(facts.pop("files")) == {
        f"model/{path.name}" for path in (folder / "model").iterdir()
    }
    (folder / "run.json").write_text(json.dumps(facts))
    before = contents(folder)
    assert run("clsr-ft", "run") == folder
    assert contents(folder) == before


def test_a_run_of_an_earlier_version_with_a_weight_that_is_not_finite_is_trained_anew(run, capsys):
    folder = run("clsr-ft", "run")
    expected = contents(folder)
    facts = read_json(folder / "run.json")
    del facts["files"]
    (folder / "run.json").write_text(json.dumps(facts))
    path = folder / "model" / "experts.cs.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    weights[name][0] = torch.nan
    save_file(weights, path)
    assert contents(run("clsr-ft", "run")) == expected
    assert f"({name} in experts.cs.safetensors is not finite): kept as" in capsys.readouterr().err


def test_checkpoints_that_a_kill_left_beside_a_finished_run_are_removed(run):
    folder = run("clsr-ft", "run")
    (folder / "checkpoints" / "checkpoint-6").mkdir(parents=True)
    assert stored_run(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["model", "run.json"]


def test_a_folder_with_another_run_is_told(processor, collator, tmp_path):
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))
    train("lora", tmp_path / "run", PRESET, clips, collator, rate=1e-2)
    message = "run holds another run, with optimisation.learning_rate: 0.01: give another folder"
    with pytest.raises(ValueError, match=message):
        train("lora", tmp_path / "run", PRESET, clips, collator, rate=2e-2)


def test_a_finished_run_is_found_without_a_lock(run):
    folder = run("clsr-ft", "run")
    lock = folder.with_name(".run.lock")
    lock.unlink(missing_ok=True)
    assert run("clsr-ft", "run") == folder
    assert not lock.exists()  # so that a read-only folder of another owner can be shared


def test_a_run_begun_in_fp16_goes_on_in_another_precision(run, monkeypatch):
    checkpoint = stopped(monkeypatch, run, "clsr-ft", "stopped")
    scaler = torch.amp.GradScaler("cpu")
    torch.save(scaler.state_dict(), checkpoint / "scaler.pt")  # as a T4 leaves it
    monkeypatch.setenv("LAB_PRECISION", "bf16")
    found = json.loads((run("clsr-ft", "stopped") / "run.json").read_text())
    assert (found["steps"], found["precision"]) == (6, "bf16")


def test_a_run_goes_on_in_fp16_with_the_scale_of_its_checkpoint_or_a_new_one(
    processor, collator, tmp_path
):
    clips = RandomClips(processor.tokenizer, 8)
    arguments = arguments_of(tmp_path, optimisation_of(PRESET), len(clips))
    trainer = trainer_on(load_whisper("tiny"), arguments, Objective(), clips, collator)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer._load_scaler(str(tmp_path))  # begun in another precision: there is no state
    assert trainer.accelerator.scaler.get_scale() == 8.0
    torch.save(torch.amp.GradScaler("cpu", init_scale=2.0).state_dict(), tmp_path / "scaler.pt")
    trainer._load_scaler(str(tmp_path))
    assert trainer.accelerator.scaler.get_scale() == 2.0


def test_the_checkpoints_of_another_trainer_are_left_alone(tmp_path):
    for step in (1, 2):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_complete_checkpoint(str(tmp_path)) is None
    assert len(list(tmp_path.iterdir())) == 2
