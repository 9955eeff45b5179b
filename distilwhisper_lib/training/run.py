"""A run: a method is trained as configured, goes on where it was stopped, and is kept."""

import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate.utils import broadcast_object_list
from transformers import TrainingArguments
from transformers.utils.logging import disable_progress_bar

from ..data.batches import Clips, Collator, plain_worker_errors
from ..device import (
    PROCESSES,
    RANK,
    deterministic_sums,
    peak_memory_gb,
    pick_device,
    use_precision,
)
from ..evaluation.scoring import count_errors, summarise
from ..evaluation.transcription import transcribe
from ..files import disk_errors, one_at_a_time, read_json, tell, write_json
from ..whisper.loading import load_whisper
from .callbacks import MarkComplete, Progress, last_complete_checkpoint
from .config import Decoding, RunConfig, identify
from .methods import Method, get_method, save_trained
from .stored import HASHES, differing_settings, folder_hashes, stored_run
from .teacher import TeacherDistributions
from .trainer import LabTrainer, make_trainer, training_arguments


def train_run(
    config: RunConfig,
    folder: Path,
    clips: Clips,
    validation: Clips,
    collator: Collator,
    teacher: TeacherDistributions | None = None,
) -> Path:
    """Train what `config` says, or go on where a stopped run was, or return what is there.

    The result does not depend on where a run was stopped.

    Args:
        config: Everything that the result depends on.
        folder: For the run. Written are `model/` (what was trained), `run.json` (configuration,
            log, seconds, peak memory, hashes of the files in `model/`) and, only while it trains,
            `checkpoints/`.
        clips: Training clips, those that the configuration was made from.
        validation: Validation clips.
        collator: Makes batches, in the window of training.
        teacher: Cached teacher distributions, where the objective distils.

    Returns:
        The folder.

    Raises:
        ValueError: For an unknown method, distillation without a teacher, a folder that holds
            another run, or a loss, gradient or weight that is not finite. The message names the
            step, the learning rate and the likely cause, and the last good checkpoint is kept.
        OSError: Where the disk is full or may not be written to.
    """
    method = get_method(config.method)
    arguments = training_arguments(
        folder / "checkpoints",
        config.optimisation,
        len(clips),
        config.seed,
        config.precision,
        keep_best=config.choose_epoch is not None,
    )
    if _is_finished(config, folder):
        return folder
    with one_at_a_time(folder):
        if not _is_finished(config, folder):  # else another process has made it
            with use_precision(config.precision):  # validation is transcribed in it too
                _train(config, method, arguments, folder, clips, validation, collator, teacher)
    return folder


def _is_finished(config: RunConfig, folder: Path) -> bool:
    """Return whether a folder holds the finished run; process 0 decides for all processes.

    Raises:
        ValueError: Where it holds another one.
    """
    found = [RANK == 0 and stored_run(folder)]
    if PROCESSES > 1:
        broadcast_object_list(found)
    if not found[0]:
        return False
    if read_json(folder / "run.json").get("identity") not in (None, config.identity):
        differing = ", ".join(differing_settings(folder, asdict(config)))
        raise ValueError(
            f"{folder} holds another run, with {differing}: give another folder, or remove that one"
        )
    return True


def _train(
    config: RunConfig,
    method: Method,
    arguments: TrainingArguments,
    folder: Path,
    clips: Clips,
    validation: Clips,
    collator: Collator,
    teacher: TeacherDistributions | None,
) -> None:
    """Train a run, or go on where it was stopped; arguments as for `train_run`."""
    torch.manual_seed(config.seed)  # new gates and adapters are drawn from it
    student = load_whisper(config.student.name)
    _check_student(config)
    model = method.prepare(student, config.data.language, config)
    model.config.use_cache = False

    checkpoints = folder / "checkpoints"
    known_by = replace(config, precision="no").identity  # a run may go on in another precision
    with arguments.distributed_state.main_process_first():  # which removes incomplete checkpoints
        resumed = last_complete_checkpoint(checkpoints, known_by)
    clock = MarkComplete(resumed, known_by)
    disable_progress_bar()  # of each checkpoint's files; that of the steps stays
    trainer = make_trainer(
        model,
        arguments,
        config.objective,
        clips,
        validation,
        collator,
        [Progress(f"train {config.method}"), clock],
        teacher=teacher,
        fidelity=config.fidelity,
        batches=config.optimisation.batches,
        wer=partial(_validation_wer, config, checkpoints, validation, collator),
    )

    with disk_errors(folder), deterministic_sums():
        with plain_worker_errors():
            trainer.train(resume_from_checkpoint=resumed)
        trainer.check_steps()
        if RANK == 0:
            save_trained(model, method, folder / "model")
            facts = _run_facts(config, trainer, clock.elapsed())
            facts |= {HASHES: folder_hashes(folder, "model")}
            write_json(folder / "run.json", facts, sealed=True)
            _tell_of_shut_gates(config, trainer)
            shutil.rmtree(checkpoints, ignore_errors=True)


def _check_student(config: RunConfig) -> None:
    """Raise ValueError where a folder holds another student than when the run was configured.

    Hours may lie between, in which the teacher's distributions are computed.
    """
    is_folder = Path(config.student.name).expanduser().is_dir()
    if is_folder and identify(config.student.name).content != config.student.content:
        raise ValueError(
            f"{config.student.name} has changed since this run was configured: call it again"
        )


def _tell_of_shut_gates(config: RunConfig, trainer: LabTrainer) -> None:
    """Say so where a training has shut all gates, so that its experts are never used."""
    rows = [row for row in trainer.state.log_history if "gate_encoder" in row]
    if rows and rows[-1]["gate_encoder"] == 0 and rows[-1]["gate_decoder"] == 0:
        tell(
            f"train {config.method}: all gates are shut at the end, so the experts are never used; "
            f"most likely the learning rate of {config.optimisation.learning_rate:g} is too high"
        )


def _validation_wer(
    config: RunConfig,
    folder: Path,
    validation: Clips,
    collator: Collator,
    model,
    step: int,
) -> float:
    """Return the WER on validation, by which the release chooses the epoch to keep."""
    decoding = cast(Decoding, config.choose_epoch)
    path = folder / f"validation-{step}-{RANK}.csv"
    path.unlink(missing_ok=True)  # of weights that are not these: a step is repeated after a stop
    table = transcribe(
        model,
        validation,
        replace(collator, margin_seconds=decoding.margin_seconds),
        decoding,
        path,
        config.data.language,
        label="validation",
    )
    references = list(validation.rows["text"])
    errors = count_errors(references, list(table["prediction"]), decoding.normaliser)
    return summarise(errors)["wer"]


def _run_facts(config: RunConfig, trainer: LabTrainer, seconds: float) -> dict:
    """Return what run.json holds: configuration, what is often looked up, measurements."""
    optimisation = config.optimisation
    return {
        "config": asdict(config),
        "identity": config.identity,
        # often looked up
        "method": config.method,
        "language": config.data.language,
        "clips": config.data.clips,
        "epochs": optimisation.epochs,
        "batch_size": optimisation.batch_size * optimisation.accumulation,
        "learning_rate": optimisation.learning_rate,
        "seed": config.seed,
        # measured
        "processes": PROCESSES,
        "precision": trainer.accelerator.mixed_precision,
        "steps": trainer.state.global_step,
        "seconds": round(seconds, 1),
        "peak_memory_gb": round(peak_memory_gb(pick_device()), 2),
        "trained_parameters": sum(tensor.numel() for tensor in trainer.trained_state().values()),
        "log": [entry for entry in trainer.state.log_history if "train_runtime" not in entry],
    }
