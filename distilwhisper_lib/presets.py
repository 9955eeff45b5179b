"""Presets: the one way to scale the course, and the two folders that everything is kept in."""

import os
from dataclasses import dataclass, field, replace

from .fidelity import get_fidelity


@dataclass(frozen=True)
class Preset:
    """Every setting that differs between a test run and the paper's size; times in seconds, sizes in clips.

    Sources of the defaults: the paper (sections 3 and 4) where it says them, else the authors' release
    (naver/multilingual-distilwhisper, commit 6faf22a); laptop values are tuned on validation (results/reference).
    """

    name: str
    student: str  # hub id, local folder or "tiny"
    teacher: str | None  # hub id or folder; None: a stand-in is trained from the student
    corpus: str  # corpus of the first language
    second_corpus: str  # corpus of the second language and of the retention tests
    other_corpus: str | None = (
        None  # out-of-domain test, and English lines, where the first corpus has none
    )
    language: str = "cs"
    second_language: str = "ca"
    retention: tuple[tuple[str, str], ...] = ()  # (corpus, language): never trained on
    held_out_lead: str | None = None  # a speaker of the first language that is kept out of training
    train_clips: int | None = None
    max_train_seconds: float | None = (
        None  # longer clips are left out of training: they set the peak of memory
    )
    teacher_clips: int | None = None  # per language, for the stand-in
    validation_clips: int | None = None
    test_clips: int | None = None  # per test set of the adapted language
    retention_clips: int | None = None  # per other language, and for translation
    epochs: int = 10
    teacher_epochs: int = 3
    batch_size: int = 16
    accumulation: int = 1
    learning_rates: dict[str, float] = field(default_factory=dict)  # by system name
    teacher_learning_rate: float = 5e-5
    warmup_ratio: float = 0.1
    label_smoothing: float = 0.1
    margin_seconds: float | None = (
        6.0  # silence after the longest clip of a batch; None: Whisper's 30 s window
    )
    train_margin_seconds: float | None = 3.0  # the same in training, where shorter is cheaper
    max_new_tokens: int = 128
    normaliser: str = "whisper-basic"  # of texts before they are scored: a name in text.NORMALISERS
    eval_batch_size: int = 16
    top_k: int = 256  # teacher probabilities stored per position
    gate_budget: float = 0.5
    keep: str = "last"  # epoch whose weights a run keeps; "best": that of the lowest validation WER, as released
    experts: dict[str, float] = field(
        default_factory=dict
    )  # fields of ExpertSettings other than the system's
    seed: int = 77
    fidelity: str = "corrected"  # or "paper", "released", a single difference: see fidelity.py
    minutes: str = ""  # how long `make course` takes, and on what
    memory: str = ""

    def __post_init__(self):
        get_fidelity(self.fidelity)  # an unknown name is told at once
        if self.keep not in ("last", "best"):
            raise ValueError(f'unknown keep {self.keep!r}: "last" or "best"')


LAPTOP = Preset(
    name="laptop",
    student="openai/whisper-base",
    teacher=None,
    corpus="fillets",
    second_corpus="stamps",
    retention=(
        ("fillets", "nl"),
        ("stamps", "es"),
        ("stamps", "fr"),
        ("stamps", "ru"),
        ("stamps", "ro"),
    ),
    epochs=4,
    teacher_epochs=2,
    batch_size=8,
    max_train_seconds=6.0,
    train_margin_seconds=1.5,
    test_clips=160,
    retention_clips=48,
    learning_rates={
        "fine-tuning": 5e-5,
        "lora": 2e-3,
        "clsr-ft": 3e-4,
        "distilwhisper-released": 3e-4,
        "distilwhisper": 1.5e-4,
        "distilwhisper-low-rank": 5e-4,
    },
    minutes="58 min on 2 cores",
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
    learning_rates=dict.fromkeys(LAPTOP.learning_rates, 1e-3),
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
    learning_rates=dict.fromkeys(LAPTOP.learning_rates, 1e-4) | {"fine-tuning": 1e-5},
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
    learning_rates=dict.fromkeys(LAPTOP.learning_rates, 1e-4),
    normaliser="released",
    keep="best",
)

PRESETS = {preset.name: preset for preset in (SMOKE, LAPTOP, COLAB, PAPER)}


def get_preset(name: str | None = None) -> Preset:
    """Return a preset by name, by default the one that the variable LAB_PRESET names, else `laptop`.

    Raises ValueError for an unknown name; the message lists the known ones.
    """
    name = name or os.environ.get("LAB_PRESET") or "laptop"
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: set LAB_PRESET to one of {', '.join(PRESETS)}")
    return PRESETS[name]
