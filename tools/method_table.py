"""Two tables of README.md: each setting's released value, where it stands, and the presets' own; and what each fidelity
does about the differences.

What the kit's columns have of numbers and names is read from presets.py, experts.py, systems.py, losses.py, train.py
and fidelity.py. What they say in words (precision, what is counted, what LoRA is put on) stands here: change it with
the code.
"""

from collections.abc import Callable

import numpy as np
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.losses import ALPHA, SIGMA_CE, SIGMA_KD
from distilwhisper_lib.training.systems import SYSTEMS, get_system, lora_config
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.trainer import training_arguments

from distilwhisper_lib.fidelity import FIDELITIES
from distilwhisper_lib.presets import COLAB, LAPTOP, PAPER, Preset

POOLED, OURS = SYSTEMS["distilwhisper-released"], SYSTEMS["distilwhisper"]
HARD = {False: "soft", True: "hard, with the gradient of soft ones"}
KEPT = {"last": "the last epoch", "best": "the best epoch by validation WER"}
Value = str | Callable[[Preset], object]


def rates(preset: Preset) -> str:
    """Return a preset's learning rates as text: each with the systems that it is for."""
    by_rate: dict[float, list[str]] = {}
    for name, rate in preset.learning_rates.items():
        by_rate.setdefault(rate, []).append(get_system(name).label)
    shown = {rate: np.format_float_scientific(rate, trim="-", exp_digits=1) for rate in by_rate}
    return "; ".join(f"{shown[rate]}: {' / '.join(labels)}" for rate, labels in by_rate.items())


def arguments(preset: Preset):
    """Return what is handed to transformers' Trainer."""
    return training_arguments("unused", preset, 1e-4, preset.epochs, 1000, preset.seed)


def optimiser(preset: Preset) -> str:
    """Return optimiser and schedule as they are handed to transformers."""
    a = arguments(preset)
    return (f"{a.optim.value}, beta2 {a.adam_beta2:g}, weight decay {a.weight_decay:g}, {a.lr_scheduler_type.value}, "
            f"warm-up {preset.warmup_ratio:g}")


def in_both(shown: Callable[[Preset, object], str]) -> Callable[[Preset], str]:
    """Return what shows something of a system: with the pooled budget, and in our variant where it differs."""
    def text(preset: Preset) -> str:
        pooled, ours = (shown(preset, system) for system in (POOLED, OURS))
        return pooled if pooled == ours else f"{pooled}; our variant {ours}"

    return text


def expert(name: str, shown: Callable = "{:g}".format) -> Callable[[Preset], str]:
    """Return what shows a field of ExpertSettings."""
    return in_both(lambda preset, system: shown(getattr(ExpertSettings(**system.experts | preset.experts), name)))


def budget(preset: Preset, system) -> str:
    """Return the gate budget of a system, and over what it is counted."""
    value = preset.gate_budget if system.budget is None else system.budget
    return f"{value:g} {'in each' if system.budget_per_stack else 'over both stacks'}"


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
    return f"longest clip + {preset.margin_seconds:g} s, in training + {preset.train_margin_seconds:g} s"


def lora(_: Preset) -> str:
    """Return LoRA's settings."""
    c = lora_config()
    return f"r {c.r}, alpha {c.lora_alpha}, dropout {c.lora_dropout:g}, on {' and '.join(sorted(c.target_modules))}"


ROWS: tuple[tuple[str, str, str, Value], ...] = (  # setting, release, where it stands, the kit's
    ("student", "openai/whisper-small", "paper; train_distilwhisper.py", lambda p: p.student),
    ("teacher", "openai/whisper-large-v2", "paper; train_distilwhisper.py", lambda p: p.teacher or "stand-in"),
    ("epochs", "10", "paper; train/*.sh", lambda p: p.epochs),
    ("clips a step", "8 x 2 accumulated", "paper (16); defaults", lambda p: f"{p.batch_size} x {p.accumulation}"),
    ("learning rate", "1e-4 (its fine-tuning: not released)", "paper; default", rates),
    ("optimiser, schedule", "AdamW, beta2 0.98, weight decay 0, linear, warm-up 0.1", "train/*.sh, defaults",
     optimiser),
    ("gradient clipping", "norm 1", "transformers' default", lambda p: f"norm {arguments(p).max_grad_norm:g}"),
    ("precision", "fp32; LoRA fp16", "its training scripts",
     "bf16 where the hardware has it, else fp16 on a GPU, fp32 on a CPU; on a GPU the teacher fp16"),
    ("seed", "77", "train/*.sh", lambda p: p.seed),
    ("label smoothing", "0.1", "DistilWhisper.py", lambda p: p.label_smoothing),
    ("total loss", "0.5 * ((CE + gate) / 1.41^2 + KD / 1.0^2)", "DistillationTrainer",
     f"0.5 * ((CE + gate) / {SIGMA_CE:g}^2 + KD / {SIGMA_KD:.1f}^2)"),
    ("temperature of JS and KL", "1", "train_js, train_kl", lambda _: f"{Objective().temperature:g}"),
    ("the teacher's words", "all, in each step", "DistillationTrainer",
     lambda p: f"the {p.top_k} likeliest and the sum of the rest, stored once"),
    ("gate budget", "0.5 over both stacks", "paper; default", in_both(budget)),
    ("gate's inner width", "64", "default; published config.json", expert("gate_dim")),
    ("gates in training", "soft", "CLSRFFN", expert("hard", HARD.get)),
    ("gate noise at the end", "5, rising linearly", "CLSRFFN; Zhang et al. 2021", expert("noise")),
    ("dropout on the expert's output", "0.3", "CLSRFFN", expert("expert_dropout")),
    ("dropout on the gate's input", "0.1", "CLSRFFN", expert("gate_dropout")),
    ("layer without its expert", "0.2 of the forward passes", "load_student_model", expert("skip_gate")),
    ("LoRA", "r 64, alpha 64, dropout 0.05, on fc1 and fc2", "train_lora.py", lora),
    ("longest output", "225 tokens, greedy", "defaults", lambda p: f"{p.max_new_tokens} tokens, greedy"),
    ("clips at once in tests", "1", "defaults", lambda p: p.eval_batch_size),
    ("window", "30 s", "Whisper", window),
    ("scored text", "`released`", "train_utils.py", lambda p: f"`{p.normaliser}`"),
)


MODES = ("paper", "released", "corrected")
DIFFERENCES: tuple[tuple[str, str, str, str, str], ...] = (  # setting, switch, with it off, with it on, where it stands
    ("gate noise in the very first step", "noise_at_start", "0",
     f"{ExpertSettings().noise:g} (a zero is taken for \"not given\")", "CLSRFFN"),
    ("padding in JS and KL", "padding_in_divergence", "not counted", "counted", "DistillationTrainer"),
    ("padding in the gate budget", "padding_in_budget", "not counted",
     "counted, so that 98 % of the mean gate is the encoder's at 30 tokens", "DistillationTrainer"),
    ("language token in the labels", "labels_without_language", "yes", "no", "train_distilwhisper.py"),
    ("start token in the decoder's input", "labels_with_start", "once", "twice, so that it is a label too",
     "its data collator"),
    ("accumulated batches", "equal_batches", "weigh by their label tokens", "weigh the same", "transformers 4.30.1"),
    ("LoRA", "lora_on_both", "on the model's own blocks", "on shared blocks and experts", "train_lora.py"),
    ("total loss", "unscaled_loss", f"0.5 * ((CE + gate) / {SIGMA_CE:g}^2 + KD)", f"CE + gate + {ALPHA:g} KD",
     "DistillationTrainer"),
)
UNSWITCHED: tuple[tuple[str, str, str | Callable[[], str], str], ...] = (  # setting, release, kit, where it stands
    ("language of a batch", "one for all rows", "one for each row", "LangBatchSampler"),
    ("batches", "at random", "of clips of similar length", "LangBatchSampler"),
    ("WER of LoRA", "of teacher-forced outputs", "of `generate`, as for every system", "train_lora.py"),
    ("checkpoint", "the best epoch by validation WER, of LoRA by validation loss", kept,
     "train_distilwhisper.py, train_lora.py"),
)


def fidelity_rows() -> list[list[str]]:
    """Return the table's rows: setting, its switch, what each of MODES does, source; then what has no switch."""
    rows = [[setting, f"`{switch}`", *(on if getattr(FIDELITIES[mode], switch) else off for mode in MODES), source]
            for setting, switch, off, on, source in DIFFERENCES]
    for setting, release, kit, source in UNSWITCHED:
        ours = kit() if callable(kit) else kit
        rows.append([setting, "–", ours, f"{ours} (its code: {release})", ours, source])
    return rows


def method_rows() -> list[list[str]]:
    """Return the table's rows: setting, release, source, presets laptop, colab and paper."""
    return [[setting, release, source, *(str(kit(p) if callable(kit) else kit) for p in (LAPTOP, COLAB, PAPER))]
            for setting, release, source, kit in ROWS]
