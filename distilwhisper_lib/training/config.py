"""The configuration of a run: built once, passed whole, written whole, and hashed as it is."""

import hashlib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from ..checks import check_choice, check_number, check_path, check_text
from ..data.normalisers import NORMALISERS
from ..device import PRECISIONS
from ..fidelity import Fidelity
from ..files import remembered_sha256, short_hash
from ..method.experts import ExpertSettings
from ..whisper.hub import REVISIONS
from ..whisper.loading import find_weights
from ..whisper.mirror import MIRRORED
from .objective import Objective

BATCH_ORDERS = ("by length", "random")
OWN_FIELDS = ("seed", "precision")  # of a run, beside its parts
CHECKPOINT_FILES = ("*.json", "*.txt", "*.safetensors")  # configuration, tokenizer, weights


@dataclass(frozen=True)
class ModelIdentity:
    """A model and what its weights are.

    Attributes:
        name: By which `load_whisper` finds it; not part of a run's identity.
        content: Of a model from the hub its name and commit, of a local folder the SHA-256 of its
            configuration, tokenizer and weights.
    """

    name: str
    content: str


def identify(name: str | Path) -> ModelIdentity:
    """Return the identity of a model; raises as `load_whisper` does where there is none.

    A model that is pinned to a commit of the hub is not fetched for it: a run can be named, and its
    results found, after a large teacher has left the disk.
    """
    is_folder = check_path("the model's name", name).expanduser().is_dir()
    if not is_folder and name in REVISIONS and name != MIRRORED:  # else from its mirror
        return ModelIdentity(str(name), f"{name}@{REVISIONS[str(name)]}")

    source = find_weights(name)
    if source.kind != "folder" or source.folder is None:
        commit = f"@{source.revision}" if source.revision else ""
        return ModelIdentity(str(name), f"{source.name}{commit}")

    digest = hashlib.sha256()
    for pattern in CHECKPOINT_FILES:
        for path in sorted(source.folder.glob(pattern)):
            digest.update(f"{path.name} {remembered_sha256(path)}\n".encode())
    return ModelIdentity(str(name), f"sha256:{digest.hexdigest()}")


@dataclass(frozen=True)
class TrainingData:
    """The clips of a run, by their contents.

    Attributes:
        language: Code of the language whose experts, adapter or weights are trained.
        clips: How many clips are trained on.
        training: Hash of the training clips' texts and sounds, in their order.
        validation: The same of the validation clips.
        margin_seconds: Silence after the longest clip of a batch; None: Whisper's 30 s window.

    Raises:
        ValueError: For a value of another type or out of range.
    """

    language: str
    clips: int
    training: str
    validation: str
    margin_seconds: float | None

    def __post_init__(self):
        check_text("language", self.language)
        check_number("clips", self.clips, low=1, whole=True)
        check_text("training", self.training)
        check_text("validation", self.validation)
        _check_margin(self.margin_seconds)


@dataclass(frozen=True)
class Optimisation:
    """Optimiser, schedule and batches.

    Source of what is not a field: the release (Adam beta2 0.98, no weight decay, linear decay).

    Attributes:
        learning_rate: At its highest, after the warm-up. Adam moves a weight by about as much in a
            step: above 1 a training can only diverge.
        epochs: Passes over the training clips.
        batch_size: Clips of a forward pass.
        accumulation: Batches whose gradients make one step.
        warmup_ratio: Share of the steps in which the learning rate rises (release: 0.1).
        batches: "by length": clips of similar length together; "random": clips drawn at random.

    Raises:
        ValueError: For an unknown order of batches, or a value of another type or out of range.
    """

    learning_rate: float
    epochs: int
    batch_size: int = 16
    accumulation: int = 1
    warmup_ratio: float = 0.1
    batches: str = "by length"

    def __post_init__(self):
        if self.batches not in BATCH_ORDERS:
            known = ", ".join(map(repr, BATCH_ORDERS))
            raise ValueError(f"unknown order of batches {self.batches!r}: one of {known}")
        check_number("learning_rate", self.learning_rate, above=0, high=1)
        check_number("epochs", self.epochs, low=1, whole=True)
        check_number("batch_size", self.batch_size, low=1, whole=True)
        check_number("accumulation", self.accumulation, low=1, whole=True)
        check_number("warmup_ratio", self.warmup_ratio, low=0, high=1)


@dataclass(frozen=True)
class Decoding:
    """How `generate` is called and its text compared: greedy, without timestamps or fallback.

    Attributes:
        margin_seconds: Silence after the longest clip of a batch; None: Whisper's 30 s window.
        max_new_tokens: The longest prediction.
        eval_batch_size: Clips decoded together.
        normaliser: Of texts before they are compared, a name in `NORMALISERS`.

    Raises:
        ValueError: For an unknown normaliser, or a value of another type or out of range.
    """

    margin_seconds: float | None
    max_new_tokens: int
    eval_batch_size: int
    normaliser: str

    def __post_init__(self):
        _check_margin(self.margin_seconds)
        check_number("max_new_tokens", self.max_new_tokens, low=1, whole=True)
        check_number("eval_batch_size", self.eval_batch_size, low=1, whole=True)
        check_choice("normaliser", self.normaliser, NORMALISERS)


def _check_margin(seconds: float | None) -> None:
    """Raise ValueError for a margin that is neither None nor a number of seconds."""
    if seconds is not None:
        check_number("margin_seconds", seconds, low=0)


# The parts of a run's configuration: their class, and whether there may be none.
PARTS = {
    "student": (ModelIdentity, False),
    "data": (TrainingData, False),
    "objective": (Objective, False),
    "optimisation": (Optimisation, False),
    "experts": (ExpertSettings, True),
    "choose_epoch": (Decoding, True),
    "fidelity": (Fidelity, False),
}


# Settings that earlier versions did not have, and what they did: runs keep their names.
LATER_SETTINGS = {"objective": {"divergence_weight": 1.0}}
LATER_SETTINGS_OF_LORA = {"method_settings": {"rank": 64, "most_of_width": 8, "dropout": 0.05}}


@dataclass(frozen=True)
class RunConfig:
    """Everything that a training depends on.

    Attributes:
        method: Name in `METHODS`.
        student: The model that is trained or adapted.
        data: The clips, by content.
        objective: What is minimised.
        optimisation: Optimiser, schedule and batches.
        experts: Settings of experts and gates; None for a method without them.
        teacher: Identity of the cached teacher distributions; None without distillation.
        choose_epoch: How validation is decoded to keep the epoch with the lowest WER, as released;
            None: the last epoch is kept.
        fidelity: Differences between paper, release and this kit.
        seed: Of new weights, dropout, gate noise and the order of batches.
        precision: Of mixed precision: "bf16", "fp16" or "no".
        method_settings: The method's own, see `Method.own_settings`.

    Raises:
        ValueError: For an unknown precision, or a value of another type or out of range.
    """

    method: str
    student: ModelIdentity
    data: TrainingData
    objective: Objective
    optimisation: Optimisation
    experts: ExpertSettings | None = None
    teacher: str | None = None
    choose_epoch: Decoding | None = None
    fidelity: Fidelity = Fidelity()
    seed: int = 77
    precision: str = "no"
    method_settings: dict = field(default_factory=dict, hash=False)

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"unknown precision {self.precision!r}: one of {known}")
        check_text("method", self.method)
        check_number("seed", self.seed, low=0, below=2**32, whole=True)  # as numpy takes it
        if self.teacher is not None:
            check_text("teacher", self.teacher)
        for name, (kind, may_be_none) in PARTS.items():
            part = getattr(self, name)
            if not (isinstance(part, kind) or (part is None and may_be_none)):
                raise ValueError(f"{name} is {part!r}: a {kind.__name__} is needed")

    @property
    def identity(self) -> str:
        """Eight hexadecimal digits that change with every field but the student's name."""
        facts = asdict(self)
        del facts["student"]["name"]
        later = LATER_SETTINGS
        if self.method in ("lora", "lora-teacher"):
            later = later | LATER_SETTINGS_OF_LORA
        for part, settings in later.items():
            for name, value in settings.items():
                if facts[part].get(name) == value:
                    del facts[part][name]
        if not facts["method_settings"]:
            del facts["method_settings"]
        return short_hash(facts)

    @property
    def name(self) -> str:
        """Name of the run's folder, such as lora-cs-seed77-0123abcd."""
        return f"{self.method}-{self.data.language}-seed{self.seed}-{self.identity}"

    def changed(self, **changes) -> "RunConfig":
        """Return a copy with other values of single fields, such as `learning_rate` or `hard`.

        They are those of objective, optimisation and experts, and some of its own.

        Raises:
            ValueError: For a name that no part has; the message lists those that can be changed.
        """
        config = self
        for part in ("objective", "optimisation", "experts"):
            value = getattr(config, part)
            if value is None:
                continue
            own = {name: changes.pop(name) for name in _field_names(value) if name in changes}
            config = replace(config, **{part: replace(value, **own)})
        own = {name: changes.pop(name) for name in OWN_FIELDS if name in changes}
        config = replace(config, **own)
        if changes:
            unknown = ", ".join(sorted(changes))
            raise ValueError(
                f"{self.method} has no setting {unknown}: it has {', '.join(self.changeable())}"
            )
        return config

    def changeable(self) -> list[str]:
        """Return the names that `changed` knows."""
        parts = (self.objective, self.optimisation, self.experts)
        names = [name for part in parts if part is not None for name in _field_names(part)]
        return [*names, *OWN_FIELDS]


def _field_names(part) -> list[str]:
    return [one.name for one in fields(part)]
