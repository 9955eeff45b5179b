"""One trainer for every method: transformers' Trainer with our loss and safe resuming."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from ..data.batches import Clips, Collator, LengthOrder, RandomOrder, length_batches, position_masks
from ..device import PROCESSES, loader_workers, pick_device
from ..fidelity import Fidelity
from ..method.blocks import last_gates
from ..method.losses import (
    IGNORED,
    cross_entropy,
    gate_budget_loss,
    gate_uniformity_loss,
    top_k_divergence,
    total_loss,
)
from ..whisper.logits import logits_at
from ..whisper.window import use_window
from .callbacks import GateNoise
from .config import Optimisation
from .diverged import check_weights, likely_cause, says_what_is_kept
from .objective import Objective
from .teacher import TeacherDistributions


@dataclass(frozen=True)
class _Unread:
    """A batch whose numbers are still on the device.

    Attributes:
        inputs: The batch.
        tokens: Number of its label tokens.
        parts: Of its loss, by name.
    """

    inputs: dict
    tokens: torch.Tensor
    parts: dict[str, torch.Tensor]


class LabTrainer(Trainer):
    """Trainer whose loss is the paper's, averaged over the label tokens of all accumulated batches.

    transformers takes Whisper for a model that normalises its own loss under accumulation, which it
    does not: 4 x 2 clips would give 4 times the gradient of 8. Here each batch is weighted by its
    share of the tokens, those of other processes included, whose gradients are averaged with this
    one's.

    Numbers are read from the device once in an update, before its step: the norm of the gradient,
    and what is logged and checked of each batch. Each reading makes the CPU wait for a GPU.

    Args:
        objective: What is minimised.
        order: Sampler of the training clips.
        teacher: Cached teacher distributions; None without distillation.
        fidelity: Differences between paper, release and this kit.
        wer: WER of a model on validation, given the step; called where the best epoch is kept.
    """

    def __init__(
        self,
        *args,
        objective: Objective,
        order: Sampler,
        teacher: TeacherDistributions | None = None,
        fidelity: Fidelity = Fidelity(),  # noqa: B008 (frozen)
        wer: Callable | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if objective.distils and teacher is None:
            raise ValueError(f"distillation by {objective.divergence} needs teacher distributions")
        self.objective: Objective = objective
        self.order: Sampler = order
        self.teacher = teacher
        self.fidelity = fidelity
        self.wer = wer
        self._unread: list[_Unread] = []
        # (label tokens, parts of the loss) of each batch that was read since the last log
        self._read_parts: list[tuple[int, dict[str, float]]] = []
        self.overflows = 0  # steps that the scaler of fp16 has left out
        # the share of the tokens is applied in compute_loss
        self.model_accepts_loss_kwargs = True

    @property
    def network(self) -> nn.Module:
        """The model, which is never None here."""
        return cast(nn.Module, self.model)

    # ---- checkpoints hold what is trained

    def trained_state(self) -> dict[str, torch.Tensor]:
        """Return the parameters that are trained, by name."""
        return {
            name: parameter.detach()
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad
        }

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # frozen weights are loaded anew on resuming
        state = self.trained_state()
        check_weights(state.items(), f"after step {self.state.global_step}, {self._at_rate()}")
        super()._save(output_dir, state)

    def _issue_warnings_after_load(self, load_result) -> None:
        # frozen weights are missing on purpose
        missing = sorted(self.trained_state().keys() & load_result.missing_keys)
        if missing:
            raise ValueError(
                f"a checkpoint in {self.args.output_dir} lacks {len(missing)} trained weights, "
                f"such as {missing[0]}: remove that folder, and train again"
            )
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _load_scaler(self, checkpoint: str | None) -> None:
        # there is none where a run begun in fp16 goes on in another precision
        if self.accelerator.scaler is not None:
            super()._load_scaler(checkpoint)

    # ---- order of the clips

    def _get_train_sampler(self, *_):
        return self.order

    def _get_eval_sampler(self, clips):
        # clips of similar length together, for short windows
        batches = length_batches(clips.durations, self.args.eval_batch_size)
        return [index for batch in batches for index in batch]

    # ---- what is not finite ends the training

    def _at_rate(self) -> str:
        """Return the learning rate, for a message."""
        highest = self.args.learning_rate
        now = highest if self.lr_scheduler is None else self._get_learning_rate()
        return f"at a learning rate of {now:g} (its highest is {highest:g})"

    def _stop(self, what: str, step: int, cause: str) -> NoReturn:
        """Raise ValueError about something that is not finite."""
        raise ValueError(
            f"{what} in step {step} of {self.state.max_steps}, {self._at_rate()}: "
            f"{cause}. {says_what_is_kept(Path(str(self.args.output_dir)))}"
        )

    def _check_loss(self, inputs: dict, parts: dict[str, float]) -> None:
        """Raise ValueError where a part of the training loss is not finite."""
        bad = [name for name, value in parts.items() if not math.isfinite(value)]
        if bad:
            cause = likely_cause(self, inputs)
            values = ", ".join(f"{name} {parts[name]}" for name in bad)
            self._stop(f"the loss is not finite ({values})", self._step_now(), cause)

    def _check_sound(self, inputs: dict) -> None:
        """Raise ValueError where the features of a validation batch are not finite."""
        if not inputs["input_features"].isfinite().all():
            cause = likely_cause(self, inputs)
            self._stop("the loss on validation is not finite", self.state.global_step, cause)

    def _get_grad_norm(self, model, grad_norm=None):
        """Return the norm of the gradient; raise ValueError where it is not finite.

        In fp16 a gradient that overflows is expected: the scaler leaves that step out, and lowers
        its scale. Below a scale of 1 the gradient itself is what overflows.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        value = cast(float, self._read(torch.as_tensor(norm)))
        if math.isfinite(value):
            return norm
        scaler = self.accelerator.scaler
        if scaler is None or scaler.get_scale() < 1:
            cause = likely_cause(self, {})
            self._stop(f"the gradient is not finite ({value})", self._step_now(), cause)
        self.overflows += 1
        return norm

    def check_steps(self) -> None:
        """Raise ValueError where all steps were left out, so that nothing was trained."""
        steps = self.state.global_step
        if steps and self.overflows == steps:
            raise ValueError(
                f"nothing was trained: in each of the {steps} steps the gradient overflowed in "
                "fp16, and the step was left out; set LAB_PRECISION=no, or train on more clips or "
                "for more epochs"
            )

    def _step_now(self) -> int:
        """Return the number of the step that is being computed, from 1 on."""
        return self.state.global_step + 1

    # ---- loss

    def evaluation_loop(self, *args, **kwargs):
        """Return transformers' scores, with `eval_wer` where it chooses the best epoch."""
        output = super().evaluation_loop(*args, **kwargs)
        loss = output.metrics.get("eval_loss", 0.0)
        if not math.isfinite(loss):
            cause = likely_cause(self, {})
            what = f"the loss on validation is not finite ({loss})"
            self._stop(what, self.state.global_step, cause)
        if self.args.load_best_model_at_end:
            output.metrics["eval_wer"] = self.wer(self.model, self.state.global_step)
        return output

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the loss of one batch; in evaluation the plain cross-entropy.

        transformers averages the latter over clips, not over label tokens, and the window of a
        batch moves it a little: only losses of equal batches can be compared.

        Args:
            model: In training or evaluation mode.
            inputs: A batch of `Collator`.
            return_outputs: Return the model's outputs too.
            num_items_in_batch: Label tokens of all accumulated batches and processes.
        """
        labels = inputs["labels"]  # (B, T)
        positions = labels != IGNORED
        if model.training and self.fidelity.padding_in_divergence:
            positions = torch.ones_like(positions)

        if not model.training:
            self._check_sound(inputs)
        frames = inputs["input_features"].shape[-1]
        with use_window(self.model, frames), logits_at(self.model, positions):
            outputs = model(
                input_features=inputs["input_features"],
                decoder_input_ids=inputs["decoder_input_ids"],
            )
        logits = outputs.logits.float()  # (N, V)
        labels = labels[positions]  # (N,)

        if not model.training:
            loss = cross_entropy(logits, labels)
            return (loss, outputs) if return_outputs else loss

        parts = self._loss_parts(inputs, logits, labels)
        tokens = (labels != IGNORED).sum()
        values = {name: value.detach().float() for name, value in parts.items()}
        if len(self._unread) >= self.args.gradient_accumulation_steps:
            self._read()  # no update has read them: this is called outside of a training
        self._unread.append(_Unread(inputs, tokens, values))
        share = self._batch_share(tokens, num_items_in_batch)
        loss = parts["loss"] * share.to(parts["loss"].dtype)
        return (loss, outputs) if return_outputs else loss

    def _batch_share(self, tokens: torch.Tensor, num_items_in_batch) -> torch.Tensor:
        """Return the weight of a batch among those that are accumulated, in fp64."""
        if self.fidelity.equal_batches:
            return torch.tensor(1 / self.args.gradient_accumulation_steps, dtype=torch.float64)
        if num_items_in_batch is None:
            return torch.ones((), dtype=torch.float64)
        return tokens.double() / num_items_in_batch * PROCESSES

    def _read(self, norm: torch.Tensor | None = None) -> float | None:
        """Read the numbers of the unread batches, in one transfer, and check them.

        Args:
            norm: Of the gradient, read with them; None: the batches alone.

        Returns:
            The norm; None without one.

        Raises:
            ValueError: Where a part of a batch's loss is not finite.
        """
        unread, self._unread = self._unread, []
        tensors = [] if norm is None else [norm]
        for batch in unread:
            tensors += [batch.tokens, *batch.parts.values()]
        if not tensors:
            return None

        device = tensors[-1].device
        values = iter(torch.stack([value.float().to(device) for value in tensors]).tolist())
        read_norm = None if norm is None else next(values)
        for batch in unread:
            tokens = int(next(values))
            parts = {name: next(values) for name in batch.parts}
            self._check_loss(batch.inputs, parts)
            self._read_parts.append((tokens, parts))
        return read_norm

    def read_logged_parts(self) -> list[tuple[int, dict[str, float]]]:
        """Read what is still on the device; return tokens and parts of each batch since the log."""
        self._read()
        return self._read_parts

    def _loss_parts(self, inputs: dict, logits: torch.Tensor, labels: torch.Tensor) -> dict:
        """Return the parts of the loss and their sum "loss".

        logits (N, V) and labels (N,) are of the labelled positions; with the switch
        `padding_in_divergence`, of all B x T positions.
        """
        objective = self.objective
        ce = cross_entropy(logits, labels, objective.label_smoothing)
        parts = {"ce": ce}
        budget = torch.zeros_like(ce)
        divergence = None

        gates = last_gates(self.network)
        if gates["encoder"]:
            masks = position_masks(inputs, gates["encoder"][0].shape[1])
            parts |= _mean_gates(gates, masks)
            budget = self._budget_loss(gates, masks, like=ce)
            parts["budget"] = budget

        if self.teacher is not None and objective.distils:
            token_ids, log_probs = self.teacher.lookup(
                inputs["ids"], inputs["labels"], self.fidelity.padding_in_divergence
            )
            divergence = top_k_divergence(
                token_ids, log_probs, logits, objective.divergence, objective.temperature
            )
            parts["kd"] = divergence
            divergence = objective.divergence_weight * divergence

        parts["loss"] = total_loss(ce, budget, divergence, self.fidelity.unscaled_loss)
        return parts

    def _budget_loss(self, gates: dict, masks: dict, like: torch.Tensor) -> torch.Tensor:
        """Return the gate budget's loss, with the weighted uniformity loss."""
        objective = self.objective
        budget = torch.zeros_like(like)
        if objective.budget is not None:
            if self.fidelity.padding_in_budget:
                masks = {stack: torch.ones_like(mask) for stack, mask in masks.items()}
            budget = gate_budget_loss(gates, masks, objective.budget, objective.per_stack)
        if objective.uniformity:
            budget = budget + objective.uniformity * gate_uniformity_loss(gates, masks)
        return budget

    def log(self, logs: dict, *args, **kwargs):
        """Add the mean of each part of the loss since the last log, over label tokens."""
        read = self.read_logged_parts() if "loss" in logs else []
        if read:
            tokens = sum(count for count, _ in read)
            for name in read[0][1]:
                total = sum(count * part[name] for count, part in read)
                logs[name] = total / tokens
            self._read_parts = []
        super().log(logs, *args, **kwargs)


def _mean_gates(gates: dict, masks: dict) -> dict[str, torch.Tensor]:
    """Return the mean training gate of each stack, for the log: over layers and real positions."""
    means = {}
    for stack, layers in gates.items():
        per_position = torch.stack(layers).float().mean(0)  # (B, S) or (B, T)
        means[f"gate_{stack}"] = (per_position * masks[stack]).sum() / masks[stack].sum()
    return means


def training_arguments(
    folder: Path,
    optimisation: Optimisation,
    clips: int,
    seed: int,
    precision: str,
    keep_best: bool = False,
) -> TrainingArguments:
    """Return transformers' arguments for one run; every value that matters is stated here.

    Args:
        folder: Of the checkpoints.
        optimisation: Optimiser, schedule and batches.
        clips: How many clips are trained on.
        seed: Of all that is drawn.
        precision: Of mixed precision: "bf16", "fp16" or "no".
        keep_best: Keep the epoch with the lowest validation WER.

    Raises:
        ValueError: Where several processes (accelerate launch) can't share the accumulated batches
            evenly.
    """
    o = optimisation
    if o.accumulation % PROCESSES:
        raise ValueError(
            f"{PROCESSES} processes can't share an accumulation of {o.accumulation}: set a multiple"
        )
    device = pick_device()
    steps = -(-clips // (o.batch_size * o.accumulation)) * o.epochs
    return TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        # optimiser and schedule
        num_train_epochs=o.epochs,
        learning_rate=o.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=int(o.warmup_ratio * steps),
        adam_beta2=0.98,
        weight_decay=0.0,
        max_grad_norm=1.0,
        # batches
        per_device_train_batch_size=o.batch_size,
        per_device_eval_batch_size=o.batch_size,
        gradient_accumulation_steps=o.accumulation // PROCESSES,
        remove_unused_columns=False,
        label_names=["labels"],
        # batches are made by other processes, and sent while a GPU computes
        dataloader_num_workers=loader_workers(device),
        dataloader_pin_memory=device.type == "cuda",
        accelerator_config={"non_blocking": device.type == "cuda"},
        # hardware
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=device.type == "cpu",
        # evaluation, checkpoints, logs
        eval_strategy="epoch",
        save_strategy="epoch",
        prediction_loss_only=True,
        load_best_model_at_end=keep_best,
        metric_for_best_model="eval_wer" if keep_best else None,
        greater_is_better=False,
        logging_steps=max(1, min(5, steps // 4)),
        logging_nan_inf_filter=False,  # a loss that is not finite ends the training
        report_to=[],
        disable_tqdm=True,
    )


def make_trainer(
    model,
    arguments: TrainingArguments,
    objective: Objective,
    clips: Clips,
    validation: Clips,
    collator: Collator,
    callbacks: list | None = None,
    *,
    teacher: TeacherDistributions | None = None,
    fidelity: Fidelity = Fidelity(),  # noqa: B008 (frozen)
    batches: str = "by length",
    wer: Callable | None = None,
) -> LabTrainer:
    """Return a trainer over `clips`; `validation` gives a plain cross-entropy after every epoch.

    Args:
        model: Ready to train, see `Method.prepare`.
        arguments: As `training_arguments` gives them.
        objective: What is minimised.
        clips: Training clips.
        validation: Validation clips.
        collator: Makes batches of both.
        callbacks: Beside the gates' noise.
        teacher: Cached teacher distributions, where the objective distils.
        fidelity: Differences between paper, release and this kit.
        batches: Order of the training clips, see `Optimisation`.
        wer: As for `LabTrainer`.
    """
    arguments._n_gpu = min(arguments.n_gpu, 1)  # DataParallel's copies would lose the gates
    batch = arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps
    sampler = {"by length": LengthOrder, "random": RandomOrder}[batches]
    trainer = LabTrainer(
        model,
        arguments,
        collator,
        clips,
        validation,
        callbacks=[GateNoise(fidelity.noise_at_start), *(callbacks or [])],
        objective=objective,
        order=sampler(clips.durations, batch * PROCESSES, arguments.seed),
        teacher=teacher,
        fidelity=fidelity,
        wer=wer,
    )
    trainer.remove_callback(PrinterCallback)  # the log goes into run.json
    return trainer
