"""`python -m benchmarks.training`: a step of training experts with distillation, against the plainest way to do it.

    baseline          the release's procedure, as in transformers' Seq2SeqTrainer: the teacher runs in every step, the
                      losses are taken at all padded positions and over all words, windows of 30 s, AdamW unfused
    stored teacher    what the teacher says is there; all else as before
    labelled          logits and losses where there is a label
    top k             the divergence over the teacher's k likeliest words and the mass of the others
    short window      the window is cut to the longest clip and a margin
    fused optimizer   as torch has it
    mixed precision   where the processor or GPU computes in 16 bits: then this row is what the library does

Each row has the steps above it too; the last is `LabTrainer`'s own loss. Then that last row without one of the steps:
what each is worth where all others are there. Random weights and clips in Whisper's shapes. Beside the step the whole
run: the teacher once, then `--epochs` of steps; "library, 30 s" is what is exact, without the short window, which suits
short clips alone. "frozen front" is the part before the first
expert alone, which is the same in every epoch: what storing its outputs would save at most; the library does not, for
they take more space than the clips. Floor: the operations of the last row's step, counted by torch, at the speed that a
plain matrix product reaches here.
"""

import argparse
import contextlib
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers.utils.logging import set_verbosity_error

from distilwhisper_lib.data.batches import position_masks
from distilwhisper_lib.device import autocast, mixed_precision, pick_device
from distilwhisper_lib.method.attach import attach_experts, last_gates, set_language, set_noise
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.losses import (
    IGNORED,
    cross_entropy,
    gate_budget_loss,
    js_divergence,
    labelled,
    top_k_log_probs,
    total_loss,
)
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.trainer import LabTrainer
from distilwhisper_lib.whisper.logits import logits_at
from distilwhisper_lib.whisper.window import use_window

from .inference import SHAPES, whisper_of
from .measuring import as_rows, interleaved, reached_flops, report

STEPS = (
    "stored teacher",
    "labelled",
    "top k",
    "short window",
    "fused optimizer",
    "mixed precision",
)
LEFT_OUT = (
    ("labelled", "top k"),
    ("top k",),
    ("short window",),
    ("fused optimizer",),
    ("mixed precision",),
)
BUDGET, SMOOTHING, MARGIN = 0.8, 0.1, 150  # frames of silence after the longest clip, as at laptop


class Stored:
    """What `TeacherDistributions` is to the loss: the top k of one batch's labelled positions."""

    def __init__(self, logits: torch.Tensor, k: int):
        self.words, self.log_probs = top_k_log_probs(logits, k)

    def lookup(self, *_):
        """Return words (N, k) and log-probabilities (N, k + 1)."""
        return self.words, self.log_probs


class Training:
    """A student with experts, a teacher, and one batch of clips of 2 to 6 s with 6 to 30 words."""

    def __init__(self, size: str, teacher: str, batch: int, k: int = 256):
        torch.manual_seed(0)
        self.device = pick_device()
        settings = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0)
        self.model = attach_experts(whisper_of(size), ["cs"], settings)
        self.model, self.teacher = (
            self.model.to(self.device).train(),
            whisper_of(teacher).to(self.device),
        )
        set_language(self.model, "cs")
        set_noise(self.model, 0.0)
        frames, words = torch.randint(200, 600, (batch,)), torch.randint(6, 30, (batch,))
        self.cut = min(3000, int(frames.max()) + MARGIN + (int(frames.max()) + MARGIN) % 2)
        vocabulary = self.model.config.vocab_size
        labels = torch.full((batch, int(words.max())), IGNORED)
        for row, n in enumerate(words):
            labels[row, :n] = torch.randint(5, min(vocabulary, 5000), (int(n),))
        inputs = labels.roll(1, 1).clamp_min(1)
        features = torch.randn(batch, self.model.config.num_mel_bins, 3000)
        self.inputs = {
            "input_features": features,
            "labels": labels,
            "decoder_input_ids": inputs,
            "frames": frames,
            "ids": [""] * batch,
        }
        self.inputs = {
            name: value.to(self.device) if torch.is_tensor(value) else value
            for name, value in self.inputs.items()
        }
        self.taught = self.teach(3000)  # (B, T, V): what "stored teacher" has at hand
        self.stored = Stored(
            labelled(self.taught, self.inputs["labels"])[0], min(k, vocabulary - 1)
        )
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizers = {
            fused: torch.optim.AdamW(trained, 1e-6, fused=fused, foreach=False)
            for fused in (False, True)
        }

    @torch.no_grad()
    def teach(self, frames: int) -> torch.Tensor:
        """Return the teacher's logits (B, T, V), without gradients."""
        with use_window(self.teacher, frames):
            return self.teacher(
                input_features=self.inputs["input_features"][..., :frames],
                decoder_input_ids=self.inputs["decoder_input_ids"],
            ).logits

    def loss(self, steps: tuple[str, ...]) -> torch.Tensor:
        """Return the loss of the batch with the given STEPS."""
        inputs, frames = self.inputs, self.cut if "short window" in steps else 3000
        mixed = autocast(self.device) if "mixed precision" in steps else contextlib.nullcontext()
        kept = (
            inputs["labels"] != IGNORED
            if "labelled" in steps
            else torch.ones_like(inputs["labels"], dtype=torch.bool)
        )
        with mixed, use_window(self.model, frames), logits_at(self.model, kept):
            logits = self.model(
                input_features=inputs["input_features"][..., :frames],
                decoder_input_ids=inputs["decoder_input_ids"],
            ).logits
        student, labels, gates = logits.float(), inputs["labels"][kept], last_gates(self.model)
        if "top k" in steps:
            goal = Objective(SMOOTHING, BUDGET, per_stack=True, teacher=self.stored)
            return LabTrainer._losses(
                SimpleNamespace(objective=goal, model=self.model), inputs, student, labels
            )["loss"]
        taught = (self.taught if "stored teacher" in steps else self.teach(frames))[kept]
        masks = position_masks(inputs, gates["encoder"][0].shape[1])
        budget = gate_budget_loss(gates, masks, BUDGET, per_stack=True)
        return total_loss(
            cross_entropy(student, labels, SMOOTHING), budget, js_divergence(taught, student)
        )

    @torch.no_grad()
    def front(self) -> torch.Tensor:
        """Return what reaches the first expert, (B, S, d): convolutions, positions and one self-attention."""
        encoder, x = self.model.get_encoder(), self.inputs["input_features"][..., : self.cut]
        x = functional.gelu(encoder.conv2(functional.gelu(encoder.conv1(x)))).transpose(
            1, 2
        )  # (B, S, d)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        layer = encoder.layers[0]
        return layer.final_layer_norm(x + layer.self_attn(layer.self_attn_layer_norm(x))[0])

    def step(self, steps: tuple[str, ...]) -> None:
        """Forward, backward and an update, with the given STEPS."""
        optimizer = self.optimizers["fused optimizer" in steps]
        self.loss(steps).backward()
        optimizer.step()
        optimizer.zero_grad()


def operations(run: Callable[[], object]) -> float:
    """Return the floating-point operations of a call, counted by torch."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def steps_here() -> tuple[str, ...]:
    """Return STEPS, without the last one where there is no 16-bit arithmetic."""
    return STEPS[: len(STEPS) - (mixed_precision(pick_device()) == "no")]


def measure(size: str, teacher: str, batch: int, repeats: int, epochs: int) -> list[dict]:
    """Return a row per step, then the whole run's."""
    training, names = Training(size, teacher, batch), steps_here()
    runs = {"baseline": lambda: training.step(())}
    runs |= {name: lambda n=n: training.step(names[: n + 1]) for n, name in enumerate(names)}
    precision = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}[
        mixed_precision(training.device)
    ]
    speed = reached_flops(training.device, precision)
    for left in (left for left in LEFT_OUT if left[-1] in names):
        some = tuple(name for name in names if name not in left)
        runs["without " + ", ".join(left)] = lambda some=some: training.step(some)
    runs |= {
        "teacher once": lambda: training.teach(training.cut),
        "teacher once, 30 s": lambda: training.teach(3000),
    }
    took = interleaved(runs | {"frozen front": training.front}, repeats, training.device)
    once, once_whole = took.pop("teacher once"), took.pop("teacher once, 30 s")
    floors = dict.fromkeys(took, operations(lambda: training.step(names)) / speed)
    floors["frozen front"] = operations(training.front) / speed
    rows = as_rows(took, "baseline", floors, size=size, teacher=teacher, batch=batch, work="step")
    whole = {
        "baseline": [epochs * t for t in took["baseline"]],
        "library, 30 s": [
            epochs * t + o for t, o in zip(took["without short window"], once_whole, strict=True)
        ],
        "library": [epochs * t + o for t, o in zip(took[names[-1]], once, strict=True)],
    }
    rows += as_rows(
        whole,
        "baseline",
        dict.fromkeys(whole, epochs * floors["baseline"]),
        size=size,
        teacher=teacher,
        batch=batch,
        work=f"{epochs} epochs",
    )
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="whisper-base from itself, two clips: about a minute"
    )
    parser.add_argument("--size", choices=[*SHAPES, "tiny"], default="base")
    parser.add_argument("--teacher", choices=[*SHAPES, "tiny"], default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args(arguments)
    if a.quick:
        a.teacher, a.batch, a.repeats = a.size, 2, 1
    set_verbosity_error()
    report(
        "training",
        measure(a.size, a.teacher, a.batch, a.repeats, a.epochs),
        ("size", "teacher", "batch"),
    )


if __name__ == "__main__":
    main()
