"""The cost of a step that trains experts with distillation, compared with a plain implementation.

    make benchmark NAME=training [ARGS=--quick]

Steps, each with those above it too:

    baseline          the release's procedure, as in transformers' Seq2SeqTrainer: the teacher runs
                      in every step, losses are computed at all padded positions and over all
                      tokens, windows of 30 s, AdamW unfused
    stored teacher    the teacher's logits are there already; all else as before
    labelled          logits and losses at labelled positions only
    top k             the divergence over the teacher's k most likely tokens and all others as one
    short window      the window ends a margin after the longest clip
    fused optimizer   torch's fused AdamW
    mixed precision   where the processor or GPU computes in 16 bits: this is the library's step

From "top k" on the loss is `LabTrainer.compute_loss` itself. Then the library's step without one of
the steps: what each is worth where all others are present. "deterministic sums" is the library's
step with sums in one fixed order, as a training does them on a processor. Random weights and clips
in Whisper's shapes.

Beside the step the whole run: the teacher once, then `--epochs` of steps. "library, 30 s" is exact,
without the short window, which suits short clips alone. "frozen front" is the part before the first
expert alone, which is the same in every epoch: what storing its outputs would save at most. The
library does not store them, as they take more space than the clips. Floor, a lower bound: the
operations of the library's step, counted by torch, at the speed that a plain matrix product reaches
here.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainingArguments
from transformers.utils.logging import set_verbosity_error

from distilwhisper_lib.data.batches import position_masks
from distilwhisper_lib.device import autocast, deterministic_sums, mixed_precision, pick_device
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import last_gates, set_noise
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import set_language
from distilwhisper_lib.method.losses import (
    IGNORED,
    cross_entropy,
    gate_budget_loss,
    js_divergence,
    labelled,
    top_k_log_probs,
    total_loss,
)
from distilwhisper_lib.programs import number_option, run_program
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.trainer import LabTrainer
from distilwhisper_lib.whisper.logits import logits_at
from distilwhisper_lib.whisper.window import use_window

from .inference import SHAPES, whisper_of
from .measuring import HALF_PRECISIONS, as_rows, interleaved, reached_flops, report

STEPS = (
    "stored teacher",
    "labelled",
    "top k",
    "short window",
    "fused optimizer",
    "mixed precision",
)

# Steps that are left out of the library's: "top k" is only there at labelled positions
LEFT_OUT = (
    ("labelled", "top k"),
    ("top k",),
    ("short window",),
    ("fused optimizer",),
    ("mixed precision",),
)

WINDOW = 3000  # frames of Whisper's window of 30 s
MARGIN = 150  # frames of silence after the longest clip, as at the preset laptop
OBJECTIVE = Objective(label_smoothing=0.1, budget=0.8, per_stack=True, divergence="js")


class CachedBatch:
    """The cached teacher distributions of one batch; has what the loss needs of them.

    Args:
        logits: The teacher's (N, V) at labelled positions.
        k: Number of most likely tokens that are kept.
    """

    def __init__(self, logits: torch.Tensor, k: int):
        self.token_ids, self.log_probs = top_k_log_probs(logits, k)

    def lookup(self, *_) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token ids (N, k) and log-probabilities (N, k + 1)."""
        return self.token_ids, self.log_probs


class Training:
    """A student with experts, a teacher, and one batch of clips of 2 to 6 s with 6 to 30 tokens.

    Args:
        size: Of the student, a key of SHAPES or "tiny".
        teacher: Size of the teacher.
        batch: Clips.
        k: Number of the teacher's most likely tokens that are kept.
    """

    def __init__(self, size: str, teacher: str, batch: int, k: int = 256):
        torch.manual_seed(0)
        self.device = pick_device()
        settings = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0)
        student = attach_experts(whisper_of(size), ["cs"], settings)
        self.model = student.to(self.device).train()
        self.teacher = whisper_of(teacher).to(self.device)
        set_language(self.model, "cs")
        set_noise(self.model, 0.0)

        self.inputs, self.window = self._make_batch(batch)
        self.teacher_logits = self.run_teacher(WINDOW)  # (B, T, V)

        # The library's own loss
        k = min(k, self.model.config.vocab_size - 1)
        logits, _ = labelled(self.teacher_logits, self.inputs["labels"])
        self.trainer = _make_trainer(self.model, CachedBatch(logits, k))

        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        self.optimizers = {
            fused: torch.optim.AdamW(trained, 1e-6, fused=fused, foreach=False)
            for fused in (False, True)
        }

    def _make_batch(self, batch: int) -> tuple[dict, int]:
        """Return random inputs as `Collator` makes them, and the frames of their short window."""
        config = self.model.config
        frames = torch.randint(200, 600, (batch,))
        lengths = torch.randint(6, 30, (batch,))
        longest = int(frames.max()) + MARGIN
        window = min(WINDOW, longest + longest % 2)

        labels = torch.full((batch, int(lengths.max())), IGNORED)
        for index, length in enumerate(lengths.tolist()):
            labels[index, :length] = torch.randint(5, min(config.vocab_size, 5000), (length,))
        inputs = {
            "input_features": torch.randn(batch, config.num_mel_bins, WINDOW).to(self.device),
            "labels": labels.to(self.device),
            "decoder_input_ids": labels.roll(1, 1).clamp_min(1).to(self.device),
            "frames": frames.to(self.device),
            "ids": [""] * batch,
        }
        return inputs, window

    @torch.no_grad()
    def run_teacher(self, frames: int) -> torch.Tensor:
        """Return the teacher's logits (B, T, V) for a window of so many frames."""
        inputs = self._cut(frames)
        with use_window(self.teacher, frames):
            return self.teacher(
                input_features=inputs["input_features"],
                decoder_input_ids=inputs["decoder_input_ids"],
            ).logits

    def _cut(self, frames: int) -> dict:
        """Return the inputs with a window of so many frames."""
        return self.inputs | {"input_features": self.inputs["input_features"][..., :frames]}

    def loss(self, steps: tuple[str, ...]) -> torch.Tensor:
        """Return the loss of the batch with the given STEPS."""
        frames = self.window if "short window" in steps else WINDOW
        inputs = self._cut(frames)
        mixed = "mixed precision" in steps
        with autocast(self.device) if mixed else contextlib.nullcontext():
            if "top k" in steps:
                return self.trainer.compute_loss(self.model, inputs)
            positions = inputs["labels"] != IGNORED
            if "labelled" not in steps:
                positions = torch.ones_like(positions)
            with use_window(self.model, frames), logits_at(self.model, positions):
                outputs = self.model(
                    input_features=inputs["input_features"],
                    decoder_input_ids=inputs["decoder_input_ids"],
                )

        student_logits = outputs.logits.float()  # (N, V)
        labels = inputs["labels"][positions]  # (N,)
        everywhere = self.teacher_logits if "stored teacher" in steps else self.run_teacher(frames)
        gates = last_gates(self.model)
        masks = position_masks(inputs, gates["encoder"][0].shape[1])
        return total_loss(
            cross_entropy(student_logits, labels, OBJECTIVE.label_smoothing),
            gate_budget_loss(gates, masks, OBJECTIVE.budget, OBJECTIVE.per_stack),
            js_divergence(everywhere[positions], student_logits),
        )

    @torch.no_grad()
    def front(self) -> torch.Tensor:
        """Return the input of the first expert, (B, S, d), after one self-attention."""
        encoder = self.model.get_encoder()
        features = self._cut(self.window)["input_features"]
        x = functional.gelu(encoder.conv1(features))
        x = functional.gelu(encoder.conv2(x)).transpose(1, 2)  # (B, S, d)
        x = x + encoder.embed_positions.weight[: x.shape[1]]

        layer = encoder.layers[0]
        attended, *_ = layer.self_attn(layer.self_attn_layer_norm(x))
        return layer.final_layer_norm(x + attended)

    def step(self, steps: tuple[str, ...]) -> None:
        """Do a forward and a backward pass and an update, with the given STEPS."""
        optimizer = self.optimizers["fused optimizer" in steps]
        self.loss(steps).backward()
        optimizer.step()
        optimizer.zero_grad()


def _make_trainer(model, teacher: CachedBatch) -> LabTrainer:
    """Return the library's trainer, which is asked for its loss alone."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=1,
            use_cpu=pick_device().type == "cpu",
            report_to=[],
            disable_tqdm=True,
        )
        return LabTrainer(model, arguments, objective=OBJECTIVE, order=None, teacher=teacher)


def operations(run: Callable[[], object]) -> float:
    """Return the floating-point operations of a call, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def steps_here() -> tuple[str, ...]:
    """Return the STEPS of the library on this machine: mixed precision where it has 16 bits."""
    if mixed_precision(pick_device()) == "no":
        return STEPS[:-1]
    return STEPS


def measure(size: str, teacher: str, batch: int, repeats: int, epochs: int) -> list[dict]:
    """Return a row for each run of a step, then those of the whole run.

    Args:
        size: Of the student.
        teacher: Size of the teacher.
        batch: Clips.
        repeats: Rounds.
        epochs: Of the whole run.
    """
    training = Training(size, teacher, batch)
    steps = steps_here()

    # What is measured: the steps one by one, the library's without one, then single parts
    runs: dict[str, Callable[[], object]] = {"baseline": partial(training.step, ())}
    for index, name in enumerate(steps):
        runs[name] = partial(training.step, steps[: index + 1])
    for left_out in LEFT_OUT:
        if left_out[-1] in steps:
            kept = tuple(step for step in steps if step not in left_out)
            runs["without " + ", ".join(left_out)] = partial(training.step, kept)
    runs["deterministic sums"] = deterministic_sums()(partial(training.step, steps))
    runs["teacher once"] = partial(training.run_teacher, training.window)
    runs["teacher once, 30 s"] = partial(training.run_teacher, WINDOW)
    runs["frozen front"] = training.front

    speed = reached_flops(training.device, HALF_PRECISIONS[mixed_precision(training.device)])
    times = interleaved(runs, repeats, training.device)
    teacher_times = times.pop("teacher once")
    teacher_times_30_s = times.pop("teacher once, 30 s")

    step_floor = operations(lambda: training.step(steps)) / speed
    floors = dict.fromkeys(times, step_floor)
    floors["frozen front"] = operations(training.front) / speed
    setting = {"size": size, "teacher": teacher, "batch": batch}
    rows = as_rows(times, "baseline", floors, **setting, work="step")

    # The whole run, by arithmetic: epochs of steps, and the teacher once
    library = zip(times[steps[-1]], teacher_times, strict=True)
    exact = zip(times["without short window"], teacher_times_30_s, strict=True)
    whole = {
        "baseline": [epochs * step for step in times["baseline"]],
        "library, 30 s": [epochs * step + once for step, once in exact],
        "library": [epochs * step + once for step, once in library],
    }
    whole_floors = dict.fromkeys(whole, epochs * step_floor)
    rows += as_rows(whole, "baseline", whole_floors, **setting, work=f"{epochs} epochs")
    return rows


def check_teacher(parser: argparse.ArgumentParser, size: str, teacher: str) -> None:
    """End the program unless student and teacher have the same tokens: the tiny one has its own."""
    if (size == "tiny") != (teacher == "tiny"):
        parser.error(
            f"--teacher {teacher} has other tokens than --size {size}: the tiny Whisper learns "
            "from the tiny one alone, and teaches no other"
        )


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        prog="make benchmark NAME=training ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole = number_option(low=1, whole=True)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a teacher of the student's size, two clips, one round unless other options say "
        "otherwise: about a minute",
    )
    parser.add_argument("--size", choices=[*SHAPES, "tiny"], default="base")
    parser.add_argument("--teacher", choices=[*SHAPES, "tiny"], default="small")
    parser.add_argument("--batch", type=whole, default=8, help="clips")
    parser.add_argument("--epochs", type=whole, default=10, help="of the whole run")
    parser.add_argument("--repeats", type=whole, default=5, help="rounds")
    options = parser.parse_args(arguments)
    if options.quick:
        parser.set_defaults(teacher=options.size, batch=2, repeats=1)
        options = parser.parse_args(arguments)
    size, teacher, batch = options.size, options.teacher, options.batch
    check_teacher(parser, size, teacher)

    set_verbosity_error()
    rows = measure(size, teacher, batch, options.repeats, options.epochs)
    report("training", rows, ("size", "teacher", "batch"))


if __name__ == "__main__":
    run_program(main)
