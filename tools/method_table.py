"""The tables of docs/method.md: settings of release and presets, and what each fidelity does.

What the kit's columns have of numbers and names is read from presets.py, fidelity.py,
method/experts.py, method/losses.py and training/. What they say in words (precision, what is
counted, what LoRA is put on) stands here: change it with the code.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from distilwhisper_lib import (
    FIDELITIES,
    PRESETS,
    ExpertSettings,
    Method,
    Optimisation,
    Preset,
    get_method,
    lora_config,
    training_arguments,
)
from distilwhisper_lib.method.losses import ALPHA, SIGMA_CE, SIGMA_KD

LAPTOP, COLAB, PAPER = (PRESETS[name] for name in ("laptop", "colab", "paper"))
POOLED = get_method("distilwhisper-released")
OURS = get_method("distilwhisper")
HARD = {False: "soft", True: "hard, with the gradient of soft ones"}
KEPT = {"last": "the last epoch", "best": "the best epoch by validation WER"}
Value = str | Callable[[Preset], object]


def rates(preset: Preset) -> str:
    """Return a preset's learning rates as text: each with the methods that it is for."""
    by_rate: dict[float, list[str]] = {}
    for name, rate in preset.learning_rates.items():
        by_rate.setdefault(rate, []).append(get_method(name).label)
    return "; ".join(
        f"{scientific(rate)}: {' / '.join(labels)}" for rate, labels in by_rate.items()
    )


def scientific(rate: float) -> str:
    """Return a learning rate as 1.5e-4."""
    return np.format_float_scientific(rate, trim="-", exp_digits=1)


def rate_rows() -> list[list[str]]:
    """Return a row for each trained method: its label, its rate in laptop, colab and paper."""
    presets = (LAPTOP, COLAB, PAPER)
    return [
        [get_method(name).label, *(rate_in(preset, name) for preset in presets)]
        for name in LAPTOP.learning_rates
    ]


def rate_in(preset: Preset, method: str) -> str:
    """Return a method's learning rate in a preset, "–" for a teacher that is not trained."""
    if method == "teacher" and preset.teacher:
        return "–"
    return scientific(preset.learning_rates[method])


def optimisation(preset: Preset) -> Optimisation:
    """Return optimiser, schedule and batches of a preset; the learning rate is another table's."""
    return Optimisation(
        learning_rate=1e-4,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        accumulation=preset.accumulation,
    )


def arguments(preset: Preset):
    """Return what is handed to transformers' Trainer."""
    return training_arguments(
        Path("unused"), optimisation(preset), clips=1000, seed=preset.seed, precision="no"
    )


def optimiser(preset: Preset) -> str:
    """Return optimiser and schedule as they are handed to transformers."""
    given = arguments(preset)
    return (
        f"{given.optim.value}, beta2 {given.adam_beta2:g}, weight decay {given.weight_decay:g}, "
        f"{given.lr_scheduler_type.value}, "
        f"warm-up {optimisation(preset).warmup_ratio:g}"
    )


def in_both(shown: Callable[[Method], str]) -> Callable[[Preset], str]:
    """Return what shows a setting with the pooled budget, and in our variant where it differs."""

    def text(_: Preset) -> str:
        pooled = shown(POOLED)
        ours = shown(OURS)
        return pooled if pooled == ours else f"{pooled}; our variant {ours}"

    return text


def expert(name: str, shown: Callable = "{:g}".format) -> Callable[[Preset], str]:
    """Return what shows a field of ExpertSettings."""
    return in_both(lambda method: shown(getattr(method.settings, name)))


def budget(method: Method) -> str:
    """Return the gate budget of a method, and over what it is counted."""
    over = "in each" if method.loss.per_stack else "over both stacks"
    return f"{method.loss.budget:g} {over}"


def kept() -> str:
    """Return which epoch the presets keep."""
    by_epoch: dict[str, list[str]] = {}
    for preset in (LAPTOP, COLAB, PAPER):
        by_epoch.setdefault(KEPT[preset.keep], []).append(f"`{preset.name}`")
    return "; ".join(f"{epoch} ({', '.join(names)})" for epoch, names in by_epoch.items())


def window(preset: Preset) -> str:
    """Return the encoder's window in tests and in training."""
    if preset.margin_seconds is None:
        return "30 s"
    return (
        f"longest clip + {preset.margin_seconds:g} s, "
        f"in training + {preset.train_margin_seconds:g} s"
    )


def lora(_: Preset) -> str:
    """Return LoRA's settings."""
    config = lora_config()
    targets = " and ".join(sorted(config.target_modules))
    return f"r {config.r}, alpha {config.lora_alpha}, dropout {config.lora_dropout:g}, on {targets}"


ROWS: tuple[tuple[str, str, str, Value], ...] = (  # setting, release, where it stands, the kit's
    ("student", "openai/whisper-small", "paper; train_distilwhisper.py", lambda p: p.student),
    (
        "teacher",
        "openai/whisper-large-v2",
        "paper; train_distilwhisper.py",
        lambda p: p.teacher or "stand-in",
    ),
    ("epochs", "10", "paper; train/*.sh", lambda p: p.epochs),
    (
        "clips a step",
        "8 x 2 accumulated",
        "paper (16); defaults",
        lambda p: f"{p.batch_size} x {p.accumulation}",
    ),
    ("learning rate", "1e-4 (its fine-tuning: not released)", "paper; default", rates),
    (
        "optimiser, schedule",
        "AdamW, beta2 0.98, weight decay 0, linear, warm-up 0.1",
        "train/*.sh, defaults",
        optimiser,
    ),
    (
        "gradient clipping",
        "norm 1",
        "transformers' default",
        lambda p: f"norm {arguments(p).max_grad_norm:g}",
    ),
    (
        "precision",
        "fp32; LoRA fp16",
        "its training scripts",
        "bf16 where the hardware has it, else fp16 on a GPU, fp32 on a CPU; "
        "on a GPU the teacher fp16",
    ),
    ("seed", "77", "train/*.sh", lambda p: p.seed),
    (
        "label smoothing",
        "0.1",
        "DistilWhisper.py",
        in_both(lambda method: f"{method.loss.label_smoothing:g}"),
    ),
    (
        "total loss",
        "0.5 * ((CE + gate) / 1.41^2 + KD / 1.0^2)",
        "DistillationTrainer",
        f"0.5 * ((CE + gate) / {SIGMA_CE:g}^2 + KD / {SIGMA_KD:.1f}^2)",
    ),
    (
        "temperature of JS and KL",
        "1",
        "train_js, train_kl",
        in_both(lambda method: f"{method.loss.temperature:g}"),
    ),
    (
        "the teacher's tokens",
        "all, in each step",
        "DistillationTrainer",
        lambda p: f"the {p.top_k} most likely and the sum of the rest, cached once",
    ),
    ("gate budget", "0.5 over both stacks", "paper; default", in_both(budget)),
    ("gate's inner width", "64", "default; published config.json", expert("gate_dim")),
    ("gates in training", "soft", "CLSRFFN", expert("hard", HARD.get)),
    ("gate noise at the end", "5, rising linearly", "CLSRFFN; Zhang et al. 2021", expert("noise")),
    ("dropout on the expert's output", "0.3", "CLSRFFN", expert("expert_dropout")),
    ("dropout on the gate's input", "0.1", "CLSRFFN", expert("gate_dropout")),
    (
        "layer without its expert",
        "0.2 of the forward passes",
        "load_student_model",
        expert("skip_gate"),
    ),
    ("LoRA", "r 64, alpha 64, dropout 0.05, on fc1 and fc2", "train_lora.py", lora),
    (
        "longest output",
        "225 tokens, greedy",
        "defaults",
        lambda p: f"{p.max_new_tokens} tokens, greedy",
    ),
    ("clips at once in tests", "1", "defaults", lambda p: p.eval_batch_size),
    ("window", "30 s", "Whisper", window),
    ("scored text", "`released`", "train_utils.py", lambda p: f"`{p.normaliser}`"),
)


MODES = ("paper", "released", "corrected")
DIFFERENCES: tuple[
    tuple[str, str, str, str, str], ...
] = (  # setting, switch, with it off, with it on, where it stands
    (
        "gate noise in the very first step",
        "noise_at_start",
        "0",
        f'{ExpertSettings().noise:g} (a zero is taken for "not given")',
        "CLSRFFN",
    ),
    (
        "padding in JS and KL",
        "padding_in_divergence",
        "not counted",
        "counted",
        "DistillationTrainer",
    ),
    (
        "padding in the gate budget",
        "padding_in_budget",
        "not counted",
        "counted, so that 98 % of the mean gate is the encoder's at 30 tokens",
        "DistillationTrainer",
    ),
    (
        "language token in the labels",
        "labels_without_language",
        "yes",
        "no",
        "train_distilwhisper.py",
    ),
    (
        "start token in the decoder's input",
        "labels_with_start",
        "once",
        "twice, so that it is a label too",
        "its data collator",
    ),
    (
        "accumulated batches",
        "equal_batches",
        "weigh by their label tokens",
        "weigh the same",
        "transformers 4.30.1",
    ),
    (
        "LoRA",
        "lora_on_both",
        "on the model's own blocks",
        "on shared blocks and experts",
        "train_lora.py",
    ),
    (
        "total loss",
        "unscaled_loss",
        f"0.5 * ((CE + gate) / {SIGMA_CE:g}^2 + KD)",
        f"CE + gate + {ALPHA:g} KD",
        "DistillationTrainer",
    ),
)
UNSWITCHED: tuple[
    tuple[str, str, str | Callable[[], str], str], ...
] = (  # setting, release, kit, where it stands
    ("language of a batch", "one for all examples", "one for each example", "LangBatchSampler"),
    ("batches", "at random", "of clips of similar length", "LangBatchSampler"),
    (
        "WER of LoRA",
        "of teacher-forced outputs",
        "of `generate`, as for every system",
        "train_lora.py",
    ),
    (
        "checkpoint",
        "the best epoch by validation WER, of LoRA by validation loss",
        kept,
        "train_distilwhisper.py, train_lora.py",
    ),
)


def fidelity_rows() -> list[list[str]]:
    """Return rows of setting, its switch, what each of MODES does, source; then without switch."""
    rows = [
        [
            setting,
            f"`{switch}`",
            *(on if getattr(FIDELITIES[mode], switch) else off for mode in MODES),
            source,
        ]
        for setting, switch, off, on, source in DIFFERENCES
    ]
    for setting, release, kit, source in UNSWITCHED:
        ours = kit() if callable(kit) else kit
        rows.append([setting, "–", ours, f"{ours} (its code: {release})", ours, source])
    return rows


def method_rows() -> list[list[str]]:
    """Return the table's rows: setting, release, source, presets laptop, colab and paper."""
    return [
        [
            setting,
            release,
            source,
            *(str(kit(p) if callable(kit) else kit) for p in (LAPTOP, COLAB, PAPER)),
        ]
        for setting, release, source, kit in ROWS
    ]
