"""The configuration of a run: built once, passed whole, written whole, and hashed as it is."""

import hashlib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..fidelity import Fidelity
from ..files import file_sha256, short_hash
from ..method.experts import ExpertSettings
from ..whisper.hub import REVISIONS
from ..whisper.loading import find_weights
from ..whisper.mirror import MIRRORED
from .objective import Objective

BATCH_ORDERS = ("by length", "random")
OWN_FIELDS = ("seed", "precision")  # of a run, beside its parts
PRECISIONS = ("bf16", "fp16", "no")
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
    is_folder = Path(name).expanduser().is_dir()
    if not is_folder and name in REVISIONS and name != MIRRORED:  # else from its mirror
        return ModelIdentity(str(name), f"{name}@{REVISIONS[str(name)]}")

    source = find_weights(name)
    if source.kind != "folder" or source.folder is None:
        commit = f"@{source.revision}" if source.revision else ""
        return ModelIdentity(str(name), f"{source.name}{commit}")

    digest = hashlib.sha256()
    for pattern in CHECKPOINT_FILES:
        for path in sorted(source.folder.glob(pattern)):
            digest.update(f"{path.name} {file_sha256(path)}\n".encode())
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
    """

    language: str
    clips: int
    training: str
    validation: str
    margin_seconds: float | None


@dataclass(frozen=True)
class Optimisation:
    """Optimiser, schedule and batches.

    Source of what is not a field: the release (Adam beta2 0.98, no weight decay, linear decay).

    Attributes:
        learning_rate: At its highest, after the warm-up.
        epochs: Passes over the training clips.
        batch_size: Clips of a forward pass.
        accumulation: Batches whose gradients make one step.
        warmup_ratio: Share of the steps in which the learning rate rises (release: 0.1).
        batches: "by length": clips of similar length together; "random": clips drawn at random.

    Raises:
        ValueError: For an unknown order of batches.
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


@dataclass(frozen=True)
class Decoding:
    """How `generate` is called and its text compared: greedy, without timestamps or fallback.

    Attributes:
        margin_seconds: Silence after the longest clip of a batch; None: Whisper's 30 s window.
        max_new_tokens: The longest prediction.
        eval_batch_size: Clips decoded together.
        normaliser: Of texts before they are compared, a name in `NORMALISERS`.
    """

    margin_seconds: float | None
    max_new_tokens: int
    eval_batch_size: int
    normaliser: str


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

    Raises:
        ValueError: For an unknown precision.
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

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"unknown precision {self.precision!r}: one of {known}")

    @property
    def identity(self) -> str:
        """Eight hexadecimal digits that change with every field but the student's name."""
        facts = asdict(self)
        del facts["student"]["name"]
        return short_hash(facts)

    @property
    def name(self) -> str:
        """Name of the run's folder, such as lora-cs-seed77-0123abcd."""
        return f"{self.method}-{self.data.language}-seed{self.seed}-{self.identity}"

    def changed(self, **changes) -> "RunConfig":
        """Return a copy with other values of fields of any part, such as `learning_rate` or `hard`.

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
    return [field.name for field in fields(part)]
