"""One trainer for every system: transformers' Trainer with our loss, an explicit batch order and safe resuming."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from transformers import PrinterCallback, Trainer, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from ..data.batches import Clips, Collator, LengthOrder, length_batches, position_masks
from ..device import PROCESSES, RANK, mixed_precision, deterministic_sums, peak_memory_gb, pick_device
from ..evaluation.scoring import count_errors, summarise
from ..evaluation.transcription import transcribe
from ..files import disk_errors, write_json
from ..method.attach import last_gates
from ..method.experts import ExpertSettings
from ..method.losses import (
    IGNORED,
    cross_entropy,
    gate_uniformity_loss,
    gate_budget_loss,
    top_k_divergence,
    total_loss,
)
from ..presets import Preset
from ..whisper.loading import load_whisper
from ..whisper.logits import logits_at
from ..whisper.window import use_window
from .callbacks import GateNoise, MarkComplete, Progress, last_complete_checkpoint
from .objective import Objective
from .systems import System, prepare_for_training, save_trained


class LabTrainer(Trainer):
    """Trainer whose loss is the paper's, averaged over the label tokens of all accumulated batches.

    transformers takes Whisper for a model that normalises its own loss under accumulation, which it does not:
    4 x 2 clips would give 4 times the gradient of 8. Here each batch weighs as much as its share of the tokens, those
    of other processes included, whose gradients are averaged with this one's.
    """

    def __init__(
        self, *args, objective: Objective, order: LengthOrder, wer: Callable | None = None, **kwargs
    ):
        super().__init__(*args, **kwargs)
        self.objective, self.order, self.wer, self._parts = objective, order, wer, []
        self.model_accepts_loss_kwargs = True  # we apply the share ourselves

    def _trained(self) -> dict[str, torch.Tensor]:
        return {name: p.detach() for name, p in self.model.named_parameters() if p.requires_grad}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, self._trained())  # what is frozen is in memory when a run goes on

    def _issue_warnings_after_load(self, load_result) -> None:
        missing = (
            self._trained().keys() & load_result.missing_keys
        )  # frozen weights are missing on purpose
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _load_scaler(self, checkpoint: str | None) -> None:
        if (
            self.accelerator.scaler is not None
        ):  # else a run begun in fp16 goes on in another precision
            super()._load_scaler(checkpoint)

    def _get_train_sampler(self, *_):
        return self.order

    def _get_eval_sampler(self, clips: Clips):
        return sum(
            length_batches(clips.durations, self.args.eval_batch_size), []
        )  # short windows for short clips

    def evaluation_loop(self, *args, **kwargs):
        """Return transformers' scores, and `wer` of model and step as eval_wer where it chooses the best epoch."""
        output = super().evaluation_loop(*args, **kwargs)
        if self.args.load_best_model_at_end:
            output.metrics["eval_wer"] = self.wer(self.model, self.state.global_step)
        return output

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of one batch; in evaluation the plain cross-entropy."""
        wanted = inputs["labels"] != IGNORED  # (B, T)
        if model.training and self.objective.fidelity.padding_in_divergence:
            wanted = torch.ones_like(wanted)
        with (
            use_window(self.model, inputs["input_features"].shape[-1]),
            logits_at(self.model, wanted),
        ):
            outputs = model(
                input_features=inputs["input_features"],
                decoder_input_ids=inputs["decoder_input_ids"],
            )
        logits, labels = outputs.logits.float(), inputs["labels"][wanted]  # (N, V), (N,)
        if not model.training:
            loss = cross_entropy(logits, labels)
            return (loss, outputs) if return_outputs else loss
        parts, tokens = self._losses(inputs, logits, labels), int((labels != IGNORED).sum())
        self._parts.append(
            (tokens, {name: value.detach().float().item() for name, value in parts.items()})
        )
        share = (
            1.0 if num_items_in_batch is None else tokens / float(num_items_in_batch) * PROCESSES
        )
        if self.objective.fidelity.equal_batches:
            share = 1 / self.args.gradient_accumulation_steps
        loss = parts["loss"] * share
        return (loss, outputs) if return_outputs else loss

    def _losses(self, inputs: dict, logits: torch.Tensor, labels: torch.Tensor) -> dict:
        """Return the parts and "loss". logits (N, V), labels (N,): of labelled positions; released, of all."""
        goal, fidelity, parts = self.objective, self.objective.fidelity, {}
        parts["ce"] = loss = cross_entropy(logits, labels, goal.label_smoothing)
        gates = last_gates(self.model)
        if gates["encoder"]:
            masks = position_masks(inputs, gates["encoder"][0].shape[1])
            for stack, layers in gates.items():
                parts[f"gate_{stack}"] = (
                    torch.stack(layers).float().mean(0) * masks[stack]
                ).sum() / masks[stack].sum()
            budget = torch.zeros_like(loss)
            if goal.budget is not None:
                if fidelity.padding_in_budget:
                    masks = {stack: torch.ones_like(mask) for stack, mask in masks.items()}
                budget = gate_budget_loss(gates, masks, goal.budget, goal.per_stack)
            if goal.agreement:
                budget = budget + goal.agreement * gate_uniformity_loss(gates, masks)
            parts["budget"], loss = budget, total_loss(loss, budget)
        if goal.teacher is not None:
            words, log_probs = goal.teacher.lookup(
                inputs["ids"], inputs["labels"], fidelity.padding_in_divergence
            )
            parts["kd"] = top_k_divergence(
                words, log_probs, logits, goal.divergence, goal.temperature
            )
            loss = total_loss(
                parts["ce"], parts.get("budget", 0), parts["kd"], fidelity.unscaled_loss
            )
        return parts | {"loss": loss}

    def log(self, logs: dict, *args, **kwargs):
        """Add the mean of each part of the loss since the last log, over this process's label tokens."""
        if self._parts and "loss" in logs:
            tokens = sum(n for n, _ in self._parts)
            logs |= {
                name: sum(n * part[name] for n, part in self._parts) / tokens
                for name in self._parts[0][1]
            }
            self._parts = []
        super().log(logs, *args, **kwargs)


def training_arguments(
    folder: Path, preset: Preset, learning_rate: float, epochs: int, clips: int, seed: int
) -> TrainingArguments:
    """Return transformers' arguments for one run; every value that matters is stated here.

    Of several processes (accelerate launch) each takes its part of the accumulated batches; raises ValueError where
    they can't be dealt out evenly.
    Source of optimiser and schedule: the release (Adam beta2 0.98, no weight decay, linear, warm-up 0.1).
    """
    device, best = pick_device(), preset.keep == "best"
    if preset.accumulation % PROCESSES:
        raise ValueError(
            f"{PROCESSES} processes can't share an accumulation of {preset.accumulation}: set a multiple"
        )
    steps = -(-clips // (preset.batch_size * preset.accumulation)) * epochs
    return TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=int(preset.warmup_ratio * steps),
        adam_beta2=0.98,
        weight_decay=0.0,
        per_device_train_batch_size=preset.batch_size,
        per_device_eval_batch_size=preset.batch_size,
        gradient_accumulation_steps=preset.accumulation // PROCESSES,
        max_grad_norm=1.0,
        bf16=mixed_precision(device) == "bf16",
        fp16=mixed_precision(device) == "fp16",
        use_cpu=device.type == "cpu",
        eval_strategy="epoch",
        save_strategy="epoch",
        prediction_loss_only=True,
        load_best_model_at_end=best,
        metric_for_best_model="eval_wer" if best else None,
        greater_is_better=False,
        logging_steps=max(1, min(5, steps // 4)),
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_pin_memory=device.type == "cuda",
    )


def make_trainer(
    model,
    arguments: TrainingArguments,
    objective: Objective,
    clips: Clips,
    validation: Clips,
    collator: Collator,
    callbacks: list | None = None,
    wer: Callable | None = None,
):
    """Return a LabTrainer over `clips`; `validation` gives a plain cross-entropy after every epoch."""
    batch = (
        arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * PROCESSES
    )
    order = LengthOrder(clips.durations, batch, arguments.seed)
    arguments._n_gpu = min(
        arguments.n_gpu, 1
    )  # one process uses one GPU: DataParallel's copies would lose the gates
    noise = GateNoise(objective.fidelity.noise_at_start)
    trainer = LabTrainer(
        model,
        arguments,
        collator,
        clips,
        validation,
        callbacks=[noise, *(callbacks or [])],
        objective=objective,
        order=order,
        wer=wer,
    )
    trainer.remove_callback(PrinterCallback)  # the log goes into run.json
    return trainer


def train_system(
    system: System,
    folder: Path,
    preset: Preset,
    objective: Objective,
    clips: Clips,
    validation: Clips,
    collator: Collator,
    language: str,
    learning_rate: float,
    epochs: int,
    seed: int,
    label: str = "",
) -> Path:
    """Train one system, or go on where a stopped run was, or return what is there; the folder is returned.

    folder/model: what was trained; folder/run.json: settings, the log, seconds and peak memory;
    folder/checkpoints: only while it runs. The result does not depend on where a run was stopped.
    """
    if (folder / "run.json").exists():
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return folder
    torch.manual_seed(seed)  # the new gates and adapters are drawn from it
    settings = ExpertSettings(**system.experts | preset.experts)
    model = prepare_for_training(
        load_whisper(preset.student), system, language, settings, objective.fidelity.lora_on_both
    )
    arguments = training_arguments(
        folder / "checkpoints", preset, learning_rate, epochs, len(clips), seed
    )
    with arguments.distributed_state.main_process_first():  # it removes what is not whole
        resumed = last_complete_checkpoint(folder / "checkpoints")
    clock = MarkComplete(resumed)
    wer = partial(_wer, folder / "checkpoints", preset, validation, collator, language)
    disable_progress_bar()  # of each checkpoint's files; ours stays
    trainer = make_trainer(
        model,
        arguments,
        objective,
        clips,
        validation,
        collator,
        [Progress(f"train {label or system.name}"), clock],
        wer,
    )
    with disk_errors(folder), deterministic_sums():
        trainer.train(resume_from_checkpoint=resumed)
        if RANK == 0:
            save_trained(model, system, folder / "model")
            _write_run(
                folder,
                trainer,
                system=label or system.name,
                language=language,
                clips=len(clips),
                epochs=epochs,
                fidelity=objective.fidelity.on(),
                seconds=round(clock.elapsed(), 1),
                seed=seed,
                learning_rate=learning_rate,
            )
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return folder


def _wer(
    folder: Path, preset: Preset, clips: Clips, collator: Collator, language: str, model, step: int
) -> float:
    """Return the WER of `generate` on validation clips, by which the release chooses the epoch that it keeps."""
    collator, path = (
        replace(collator, margin_seconds=preset.margin_seconds),
        folder / f"validation-{step}-{RANK}.csv",
    )
    said = transcribe(model, clips, collator, preset, path, language, label="validation")
    return summarise(
        count_errors(list(clips.rows["text"]), list(said["prediction"]), preset.normaliser)
    )["wer"]


def _write_run(folder: Path, trainer: LabTrainer, **facts) -> None:
    write_json(
        folder / "run.json",
        facts
        | {
            "batch_size": trainer.order.batch_size,
            "processes": PROCESSES,
            "steps": trainer.state.global_step,
            "precision": trainer.accelerator.mixed_precision,
            "peak_memory_gb": round(peak_memory_gb(pick_device()), 2),
            "trained_parameters": sum(p.numel() for p in trainer._trained().values()),
            "log": [row for row in trainer.state.log_history if "train_runtime" not in row],
        },
    )
