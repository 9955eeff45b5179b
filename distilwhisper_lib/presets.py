"""Presets: the one way to scale the course."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .checks import check_choice, check_list, check_number, check_text, nearest
from .device import PRECISIONS, PROCESSES
from .fidelity import get_fidelity

KEEP = ("last", "best")
AS_RELEASED = ("clsr-ft", "distilwhisper-released")  # the paper's systems with all its settings
MOST_NEW_TOKENS = 444  # of the decoder's 448 positions four state language and task
LARGEST_SEED = 2**32 - 1  # numpy takes no larger one

# Presets whose batches follow the memory of the GPU, see `fit_to_memory`. Of a card from so many GB
# on: the most clips of a forward pass in training, and the clips decoded together. By calculation,
# not measured: what they take is at most 80 % of the memory (`experiments.estimates.memory`).
FOR_GPUS = ("colab", "paper")
BY_MEMORY = ((40, 16, 64), (23, 16, 32))

# Fields of `Preset` that hold numbers, with the limits that `check_number` holds them against.
NUMBERS: dict[str, dict] = {
    "train_clips": {"low": 1, "whole": True},
    "max_train_seconds": {"above": 0},
    "teacher_clips": {"low": 1, "whole": True},
    "validation_clips": {"low": 1, "whole": True},
    "test_clips": {"low": 1, "whole": True},
    "retention_clips": {"low": 1, "whole": True},
    "epochs": {"low": 1, "whole": True},
    "teacher_epochs": {"low": 1, "whole": True},
    "batch_size": {"low": 1, "whole": True},
    "accumulation": {"low": 1, "whole": True},
    "margin_seconds": {"low": 0, "high": 30},
    "train_margin_seconds": {"low": 0, "high": 30},
    "max_new_tokens": {"low": 1, "high": MOST_NEW_TOKENS, "whole": True},
    "eval_batch_size": {"low": 1, "whole": True},
    "top_k": {"low": 1, "whole": True},
    "seed": {"low": 0, "high": LARGEST_SEED, "whole": True},
    "draw": {"low": 0, "high": LARGEST_SEED, "whole": True},
}
TEXTS = ("name", "student", "corpus", "second_corpus", "language", "second_language", "normaliser")
MAY_BE_NONE = (
    *("teacher", "other_corpus", "recordings", "voice", "train_clips", "max_train_seconds"),
    *("teacher_clips", "validation_clips", "test_clips", "retention_clips"),
    *("margin_seconds", "train_margin_seconds"),
)


@dataclass(frozen=True)
class Preset:
    """Every setting that differs between a test run and the paper's size.

    Source of the values: the paper (sections 3 and 4) where it says them, else the authors' release
    (naver/multilingual-distilwhisper, commit 6faf22a); laptop's are tuned on validation
    (results/reference/study).

    Attributes:
        name: Of the preset, and of its folders.
        student: Hub id, local folder or "tiny".
        teacher: Hub id or folder; None: a stand-in is trained from the student.
        corpus: Of the first language.
        second_corpus: Of the second language.
        other_corpus: For the out-of-domain test and English lines, where `corpus` has none.
        recordings: Folder or table of the first language, where `corpus` is "recordings"; None: in
            the folder of LAB_DATA.
        language: The first language, which every method is adapted to.
        second_language: The language of the second experts.
        retention: (corpus, language) of tests in languages that are never trained on.
        voice: The speaker of the first language whose clips are trained and validated on; None:
            all. The out-of-domain test is then the other speakers of the split "test". A `Lab` with
            another corpus or language has none, unless one is given.
        train_clips: Training clips of a language; None: all, here and below.
        max_train_seconds: Longer clips are left out of training; they set the peak of memory.
        teacher_clips: Clips per language that the stand-in is trained on.
        validation_clips: Validation clips of a language.
        test_clips: Clips per test set of the two languages.
        retention_clips: Clips per other language, and for translation and changed sound.
        epochs: Passes over the training clips.
        teacher_epochs: The same of the stand-in.
        batch_size: Clips of a forward pass in training.
        accumulation: Batches whose gradients make one step.
        learning_rates: By method; "teacher" is the stand-in.
        margin_seconds: Silence after the longest clip of a batch; None: Whisper's 30 s window.
        train_margin_seconds: The same in training, where shorter is cheaper.
        max_new_tokens: The longest prediction.
        normaliser: Of texts before they are compared, a name in `NORMALISERS`.
        eval_batch_size: Clips decoded together; part of a result's name, because a batch has one
            window, and because sums are rounded in another order.
        top_k: Teacher probabilities kept per position.
        keep: The epoch whose weights a run keeps: "last", or "best" by validation WER, as released.
        seed: Of all that a training draws.
        draw: Which training clips are taken, where `train_clips` leaves some out.
        further_systems: Methods of the comparison beside those of every preset.
        precision: Mixed precision, "bf16", "fp16" or "no"; None: what the device computes fastest.
            The variable LAB_PRECISION overrides it.
        fidelity: "corrected", "paper", "released", or a single difference, see `fidelity`.
        minutes: How long `make course` takes, and on what.
        memory: Its peak.

    Raises:
        ValueError: For a value of the wrong type or out of range, an unknown fidelity or `keep`.
    """

    name: str
    student: str
    teacher: str | None
    corpus: str
    second_corpus: str
    other_corpus: str | None = None
    recordings: str | None = None
    language: str = "cs"
    second_language: str = "ca"
    retention: tuple[tuple[str, str], ...] = ()
    voice: str | None = None
    train_clips: int | None = None
    max_train_seconds: float | None = None
    teacher_clips: int | None = None
    validation_clips: int | None = None
    test_clips: int | None = None
    retention_clips: int | None = None
    epochs: int = 10
    teacher_epochs: int = 3
    batch_size: int = 16
    accumulation: int = 1
    learning_rates: dict[str, float] = field(default_factory=dict)
    margin_seconds: float | None = 6.0
    train_margin_seconds: float | None = 3.0
    max_new_tokens: int = 128
    normaliser: str = "whisper-basic"
    eval_batch_size: int = 16
    top_k: int = 256
    keep: str = "last"
    seed: int = 77
    draw: int = 0
    further_systems: tuple[str, ...] = ()
    precision: str | None = None
    fidelity: str = "corrected"
    minutes: str = ""
    memory: str = ""

    def __post_init__(self):
        for name, limits in NUMBERS.items():
            value = getattr(self, name)
            if value is not None or name not in MAY_BE_NONE:
                check_number(name, value, **limits)
        for name in (*TEXTS, "teacher", "other_corpus", "recordings", "voice"):
            value = getattr(self, name)
            if value is not None or name not in MAY_BE_NONE:
                check_text(name, value)
        for name in ("minutes", "memory"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}: a text is needed.")
        if self.name.startswith(".") or set(self.name) & set("/\\\0"):
            raise ValueError(f"name is {self.name!r}: it names folders, so use letters, digits, -")

        check_choice("keep", self.keep, KEEP)
        if self.precision is not None:
            check_choice("precision", self.precision, PRECISIONS)
        get_fidelity(self.fidelity)
        object.__setattr__(self, "further_systems", _checked_names(self.further_systems))
        object.__setattr__(self, "retention", _checked_retention(self.retention))
        _check_learning_rates(self.learning_rates)

    def learning_rate(self, method: str) -> float:
        """Return a method's learning rate; raises ValueError where the preset has none for it."""
        if method not in self.learning_rates:
            raise ValueError(
                f"the preset {self.name} has no learning rate for {method!r}, only for "
                f"{', '.join(self.learning_rates)}: add one to its learning_rates"
            )
        return self.learning_rates[method]

    def steps_of_epoch(self, clips: int) -> int:
        """Return the updates of one pass over so many training clips."""
        return math.ceil(clips / (self.batch_size * self.accumulation))

    def epochs_of_as_many_steps(self, clips: int, all_clips: int) -> int:
        """Return the passes over some of the clips that take as many updates as all clips do.

        Args:
            clips: Number of clips that are passed over.
            all_clips: Number of clips of which the preset's `epochs` are meant.
        """
        steps = self.epochs * self.steps_of_epoch(all_clips)
        return max(1, round(steps / self.steps_of_epoch(clips)))


def _checked_retention(pairs) -> tuple[tuple[str, str], ...]:
    """Return (corpus, language) of tests as tuples; JSON has lists.

    Raises:
        ValueError: Where they are no pairs of texts.
    """
    checked = []
    for pair in pairs if isinstance(pairs, list | tuple) else [None]:
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2
        if not is_pair or not all(isinstance(part, str) and part for part in pair):
            raise ValueError(
                f"retention is {pairs!r}: pairs of corpus and language are needed, such as "
                "(('fleurs', 'es'),)"
            )
        checked.append(tuple(pair))
    return tuple(checked)


def _checked_names(names) -> tuple[str, ...]:
    """Return names of methods as a tuple; JSON has lists.

    Raises:
        ValueError: Where they are no list of texts.
    """
    check_list("further_systems", names)
    for name in names:
        check_text("further_systems", name)
    return tuple(names)


def _check_learning_rates(rates) -> None:
    """Raise ValueError unless learning rates are numbers above 0 by the names of methods."""
    if not isinstance(rates, dict):
        raise ValueError(
            f"learning_rates is {rates!r}: numbers by method are needed, such as {{'lora': 2e-3}}"
        )
    for method, rate in rates.items():
        check_text("learning_rates", method)
        check_number(f"learning_rates[{method!r}]", rate, above=0)


LAPTOP = Preset(
    name="laptop",
    student="openai/whisper-base",
    teacher=None,
    corpus="fillets",
    second_corpus="stamps",
    retention=(
        ("fillets", "nl"),
        ("festvox", "ru"),
        ("asterisk", "es"),
        ("asterisk", "fr"),
        ("asterisk", "it"),
    ),
    voice="font_small",
    epochs=6,
    teacher_epochs=4,
    batch_size=8,
    max_train_seconds=6.0,
    train_margin_seconds=1.5,
    test_clips=160,
    retention_clips=48,
    learning_rates={
        "teacher": 5e-5,
        "fine-tuning": 1e-4,
        "fine-tuning-teacher": 1e-4,
        "lora": 2e-3,
        "lora-teacher": 2e-3,
        "clsr-ft": 3e-4,
        "distilwhisper-released": 3e-4,
        "experts": 1e-4,
        "distilwhisper": 1e-4,
        "experts-open": 1e-4,
        "experts-open-teacher": 1e-4,
        "distilwhisper-low-rank": 5e-4,
    },
    minutes="40 min on 2 cores",
    memory="6 GB",
)

SMOKE = Preset(
    name="smoke",
    student="tiny",
    teacher=None,
    corpus="toy",
    second_corpus="toy",
    retention=(("toy", "nl"), ("toy", "es")),
    epochs=1,
    teacher_epochs=1,
    batch_size=4,
    eval_batch_size=4,
    max_new_tokens=8,
    top_k=8,
    margin_seconds=1.0,
    train_margin_seconds=0.5,
    test_clips=4,
    retention_clips=2,
    train_clips=8,
    teacher_clips=8,
    validation_clips=2,
    learning_rates=dict.fromkeys(LAPTOP.learning_rates, 1e-3) | {"teacher": 5e-5},
    minutes="2 min on 2 cores",
    memory="1 GB",
)

COLAB = Preset(
    name="colab",
    student="openai/whisper-small",
    teacher="openai/whisper-large-v2",
    corpus="fillets",
    second_corpus="stamps",
    retention=LAPTOP.retention,
    epochs=10,
    batch_size=8,
    accumulation=2,
    margin_seconds=None,
    train_margin_seconds=None,
    max_new_tokens=225,
    learning_rates=dict.fromkeys(LAPTOP.learning_rates, 1e-4)
    | {"fine-tuning": 1e-5, "fine-tuning-teacher": 1e-5, "teacher": 5e-5},
    further_systems=AS_RELEASED,
    minutes="not measured yet",
    memory="not measured yet",
)

PAPER = replace(
    COLAB,
    name="paper",
    corpus="common-voice-10k",
    second_corpus="common-voice-10k",
    other_corpus="fleurs",
    language="ca",
    second_language="gl",
    retention=tuple(("fleurs", code) for code in ("es", "fr", "nl", "ro", "ru")),
    learning_rates=dict.fromkeys(LAPTOP.learning_rates, 1e-4) | {"teacher": 5e-5},
    normaliser="released",
    keep="best",
)

TOY = Preset(
    name="toy",
    student="toy-student",
    teacher="toy-teacher",
    corpus="world",
    second_corpus="world",
    language="cs",
    second_language="hu",
    retention=(("world", "ca"), ("world", "gl"), ("world", "pl")),
    train_clips=192,
    validation_clips=128,
    test_clips=256,
    retention_clips=128,
    epochs=10,
    batch_size=16,
    eval_batch_size=64,
    top_k=64,
    margin_seconds=0.2,
    train_margin_seconds=0.2,
    max_new_tokens=48,
    learning_rates={
        "fine-tuning": 2e-3,
        "fine-tuning-teacher": 2e-3,
        "lora": 2e-2,
        "lora-teacher": 2e-2,
        "clsr-ft": 8e-3,
        "distilwhisper-released": 4e-3,
        "experts": 2e-3,
        "distilwhisper": 2e-3,
        "experts-open": 2e-3,
        "experts-open-teacher": 4e-3,
        "distilwhisper-low-rank": 5e-3,
    },
    further_systems=("fine-tuning-teacher", "lora-teacher", *AS_RELEASED, "experts-open"),
    precision="no",  # at these sizes casts cost more than they save
    minutes="4 min on 2 cores",
    memory="1 GB",
)

PRESETS = {preset.name: preset for preset in (SMOKE, TOY, LAPTOP, COLAB, PAPER)}


def get_preset(name: str | None = None) -> Preset:
    """Return a preset by name.

    Args:
        name: Of the preset; None: the one that the variable LAB_PRESET names, `toy` where that is
            unset or empty, as in a notebook that is opened by hand.

    Raises:
        ValueError: For an unknown name; the message lists the known ones.
    """
    whence = ""
    if name is None and os.environ.get("LAB_PRESET"):
        name, whence = os.environ["LAB_PRESET"], ", of the variable LAB_PRESET"
    elif name is None:
        name = "toy"
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(
            f"unknown preset {name!r}{whence}: one of {', '.join(PRESETS)} is needed"
            f"{nearest(name, PRESETS)}"
        )
    return PRESETS[name]


def fit_to_memory(preset: Preset, gigabytes: float | None, stated: Iterable[str] = ()) -> Preset:
    """Return a preset with larger batches where a GPU has the memory for them.

    Batches of training become one where they were accumulated: 16 x 1 instead of 8 x 2. An update
    has the same clips, and its gradient is the same within rounding as far as nothing is drawn or
    averaged for each batch: dropout, skipped gates and noise are drawn, and the gate budget is that
    of a batch. So batches stay a part of a run's identity, and those of a transcription a part of
    its name: what was computed with others is neither found nor gone on with.

    Args:
        preset: As stated; only those in FOR_GPUS are changed.
        gigabytes: The card's memory (10^9 bytes); None: there is none, and the preset stays.
        stated: Fields that the user has chosen. Batches of training or decoding that are among them
            stay, and with other models all do. With another fidelity those of training stay, for
            the release weighs and pads each batch by itself.
    """
    stated = set(stated)
    if preset.name not in FOR_GPUS or gigabytes is None or stated & {"student", "teacher"}:
        return preset
    fitting = [sizes for least, *sizes in BY_MEMORY if gigabytes >= least]
    if not fitting:
        return preset

    most, together = fitting[0]
    changes = {}
    update = preset.batch_size * preset.accumulation
    is_free = not stated & {"batch_size", "accumulation", "fidelity"}
    # of several processes each takes its share of the accumulated batches
    if update <= most and is_free and preset.fidelity == "corrected" and PROCESSES == 1:
        changes |= {"batch_size": update, "accumulation": 1}
    if "eval_batch_size" not in stated:
        changes["eval_batch_size"] = max(together, preset.eval_batch_size)
    return replace(preset, **changes)
