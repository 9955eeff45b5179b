"""The methods that are compared: a class each, and one registry by name.

A method says how a plain Whisper is prepared for training, what of it is saved and loaded, what it
costs, and by which label and colour tables and figures show it. Nothing else in the library asks
for a method by its name: a new one is a subclass of `Method`, registered.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from ..fidelity import LABELS, Fidelity
from ..files import atomic_folder
from ..method.attach import attach_experts
from ..method.blocks import expert_parameters
from ..method.experts import ExpertSettings
from ..method.languages import set_language
from ..method.loading import load_experts
from ..method.storage import save_experts
from ..presets import Preset
from ..whisper.loading import load_whisper
from ..whisper.shapes import WhisperShape
from .config import RunConfig
from .diverged import check_weights
from .objective import Objective
from .stored import not_finite

LORA_RANK = 64
LORA_DROPOUT = 0.05
LORA_SHARE = 8  # a rank is at most this part of the model's width, so that it stays low
# Of the 34 bytes of activations that a position, layer and unit of width keeps in fp16 without
# attention matrices, those of the feed-forward block (Korthikanti et al. 2022, section 4.1).
FEED_FORWARD_BYTES = 19
# The copies and masks of LoRA's dropout before fc1 and fc2.
LORA_BYTES = 15

# Switches of `Fidelity` that act where a teacher is learned from.
OF_DISTILLATION = ("padding_in_divergence", "unscaled_loss")


class Weights(Enum):
    """Whose weights a row of the comparison is scored with."""

    STUDENT = "student"  # the student's, as they are
    TEACHER = "teacher"  # those of the preset's teacher, or of the stand-in
    RUN = "run"  # those of a training on the language


@dataclass(frozen=True)
class Cost:
    """What a method adds to a Whisper and trains of it, for estimates.

    Attributes:
        added: Parameters beside Whisper's own.
        trained: Parameters that are trained.
        layer_flops: Operations that a position takes more in one layer, forward.
        whisper_gradients: Whether gradients of (nearly) all of Whisper's own weights are computed.
        activation_bytes: What a position, layer and unit of width keeps for the backward pass,
            beside Whisper's own.
    """

    added: int = 0
    trained: int = 0
    layer_flops: float = 0.0
    whisper_gradients: bool = False
    activation_bytes: int = 0


@dataclass(frozen=True)
class Method(ABC):
    """A row of the comparison.

    Attributes:
        name: In the registry, in folders and tables on disk.
        label: In tables and figures.
        colour: In figures, as #rrggbb.
        in_table: Whether every comparison has the row; else those of presets that name it in
            `further_systems`, and studies.
    """

    name: str
    label: str
    colour: str
    in_table: bool = True

    weights: ClassVar[Weights] = Weights.RUN
    # their language is chosen per call; without one the model is the student
    has_experts: ClassVar[bool] = False
    # the release scores it by teacher-forced predictions
    released_wer_is_teacher_forced: ClassVar[bool] = False

    @property
    def is_trained(self) -> bool:
        """Whether its row is scored with weights of a training on the language."""
        return self.weights is Weights.RUN

    @property
    def can_be_switched_off(self) -> bool:
        """Whether the model is the student where the method is switched off, as experts can be."""
        return self.has_experts

    @property
    def distils(self) -> bool:
        """Whether its training learns from the teacher."""
        return self.objective(Fidelity()).distils

    def objective(self, fidelity: Fidelity) -> Objective:
        """Return what its training minimises."""
        return Objective(budget=None)

    def expert_settings(self, fidelity: Fidelity) -> ExpertSettings | None:
        """Return the settings of its experts and gates, None where it has none."""
        return None

    def own_settings(self) -> dict[str, Any]:
        """Return the fields that a class of methods adds, by name: a run is named by them too.

        Objectives and settings of experts are left out: `objective` and `expert_settings` give
        those that a training has.
        """
        of_every_method = {one.name for one in fields(Method)}
        own = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            name: value
            for name, value in own.items()
            if name not in of_every_method and not isinstance(value, Objective | ExpertSettings)
        }

    @property
    def fidelity_switches(self) -> tuple[str, ...]:
        """The differences to the release that act on its training, names of `Fidelity`."""
        return (*LABELS, *OF_DISTILLATION) if self.distils else LABELS

    @abstractmethod
    def prepare(self, model: nn.Module, language: str, config: RunConfig | None = None):
        """Turn a plain Whisper into what is trained.

        Args:
            model: A plain Whisper; it is changed in place.
            language: Code of the language that is trained on.
            config: Of the run; None takes the method's own settings.

        Returns:
            The model, or a wrapper of it. Parameters that are trained require a gradient, no others
            do.
        """

    @abstractmethod
    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what was trained into a new folder."""

    @abstractmethod
    def load(self, folder: Path, config: RunConfig):
        """Return the trained model in evaluation mode on the CPU; no language of experts is set."""

    @abstractmethod
    def count(self, shape: WhisperShape) -> Cost:
        """Return what the method adds and trains in a Whisper of these sizes."""


@dataclass(frozen=True)
class Untrained(Method):
    """A Whisper as it is."""

    def prepare(self, model, language, config=None):
        """Refuse: there is nothing to train."""
        raise ValueError(f"{self.name} is not trained")

    def save(self, model, folder):
        """Refuse: nothing was trained."""
        raise ValueError(f"{self.name} is not trained")

    def load(self, folder, config):
        """Refuse: nothing was trained."""
        raise ValueError(f"{self.name} is not trained")

    def count(self, shape):
        """Nothing is added, nothing trained."""
        return Cost()


@dataclass(frozen=True)
class Student(Untrained):
    """The student without any adaptation."""

    weights = Weights.STUDENT


@dataclass(frozen=True)
class FineTuning(Method):
    """Standard fine-tuning: all weights but the encoder's sinusoidal positions.

    Attributes:
        loss: What is minimised.
    """

    loss: Objective = Objective(budget=None)

    def objective(self, fidelity):
        """Return its loss."""
        return self.loss

    def prepare(self, model, language, config=None):
        """Let all weights be trained but the encoder's positions, which Whisper keeps fixed."""
        model.requires_grad_(True)
        model.model.encoder.embed_positions.requires_grad_(False)
        return model

    def save(self, model, folder):
        """Write an ordinary checkpoint."""
        model.save_pretrained(folder)

    def load(self, folder, config):
        """Return the checkpoint."""
        return load_whisper(str(folder))

    def count(self, shape):
        """All of Whisper is trained."""
        return Cost(trained=shape.parameters, whisper_gradients=True)


@dataclass(frozen=True)
class Teacher(FineTuning):
    """The teacher; where a preset names none, a stand-in is fine-tuned from the student.

    The stand-in is trained without label smoothing: a teacher that has learnt to spread probability
    evenly teaches less (Müller et al., "When does label smoothing help?", NeurIPS 2019), and the
    paper's teacher was not trained so.
    """

    weights = Weights.TEACHER

    def objective(self, fidelity):
        """Plain cross-entropy."""
        return Objective(label_smoothing=0.0, budget=None)

    def count(self, shape):
        """The teacher is used as it is; the cost of a stand-in is not estimated."""
        return Cost()


@dataclass(frozen=True)
class LoRA(Method):
    """LoRA on fc1 and fc2 (release: train_lora.py).

    As released (`Fidelity.lora_on_both`) its adapters lie on the shared blocks and on experts that
    stay untrained.

    Attributes:
        loss: What is minimised.
        rank: Of the adapters, and alpha.
        most_of_width: A rank is at most the model's width divided by this, see `lora_rank`.
        dropout: Before the adapters, in training.
    """

    loss: Objective = Objective(budget=None)
    rank: int = LORA_RANK
    most_of_width: int = LORA_SHARE
    dropout: float = LORA_DROPOUT

    released_wer_is_teacher_forced = True

    @property
    def can_be_switched_off(self):
        """Yes: the adapters are left out."""
        return True

    @property
    def fidelity_switches(self):
        """As of every method, and where the adapters lie."""
        return (*super().fidelity_switches, "lora_on_both")

    def objective(self, fidelity):
        """Return its loss; as released with the budget of gates that are not trained."""
        return replace(self.loss, budget=0.5) if fidelity.lora_on_both else self.loss

    def expert_settings(self, fidelity):
        """Return those of the release where its adapters lie on experts too."""
        return ExpertSettings() if fidelity.lora_on_both else None

    def prepare(self, model, language, config=None):
        """Add the adapters; PEFT freezes all else."""
        on_both = config is not None and config.fidelity.lora_on_both
        if on_both:
            attach_experts(model, [language], config.experts)
            set_language(model, language)
        model = get_peft_model(
            model, lora_config(on_both, self._rank_in(model.config.d_model), self.dropout)
        )
        # PEFT would ask the hub for the base model at each checkpoint
        model.peft_config["default"].base_model_name_or_path = ""
        return model

    def save(self, model, folder):
        """Write a PEFT adapter."""
        # asked whether embeddings were resized, PEFT would look them up on the hub
        model.save_pretrained(folder, save_embedding_layers=False)

    def load(self, folder, config):
        """Return the student with the adapter, as released on untrained experts too."""
        model = load_whisper(config.student.name)
        if config.fidelity.lora_on_both:
            attach_experts(model, [config.data.language], config.experts)
        adapted = PeftModel.from_pretrained(model, folder).eval()
        bad = not_finite(adapted.named_parameters())
        if bad:
            raise ValueError(f"{bad} in {folder} is not finite: train the adapter again")
        return adapted

    def count(self, shape):
        """Two thin matrices beside each of fc1 and fc2."""
        thin = 2 * self._rank_in(shape.width) * (shape.width + shape.ffn)
        adapters = 2 * shape.layers * thin
        return Cost(adapters, adapters, 2.0 * thin, activation_bytes=LORA_BYTES)

    def _rank_in(self, width: int) -> int:
        return lora_rank(width, self.rank, self.most_of_width)


def lora_rank(width: int, rank: int = LORA_RANK, most_of_width: int = LORA_SHARE) -> int:
    """Return LoRA's rank in a model of a width: 64 (release: train_lora.py), less in toy models.

    In a model of width 64 adapters of rank 64 would have more weights than what they adapt.

    Args:
        width: Of the model.
        rank: In models that are wide enough.
        most_of_width: A rank is at most the width divided by this.
    """
    return min(rank, max(1, width // most_of_width))


def lora_config(
    on_both: bool = False, rank: int = LORA_RANK, dropout: float = LORA_DROPOUT
) -> LoraConfig:
    """Return LoRA's settings: r = alpha = 64, dropout 0.05 (release: train_lora.py).

    Args:
        on_both: On fc1 and fc2 of shared blocks and experts, as released: 23,592,960 weights for
            whisper-small.
        rank: r and alpha, see `lora_rank`.
        dropout: Before the adapters, in training.
    """
    targets = r".*\.(shared|experts\.\w+)\.fc[12]" if on_both else ["fc1", "fc2"]
    # task_type stays None: PEFT's SEQ_2_SEQ_LM wrapper passes `input_ids`, which Whisper refuses
    return LoraConfig(r=rank, lora_alpha=rank, lora_dropout=dropout, target_modules=targets)


@dataclass(frozen=True)
class Experts(Method):
    """Experts and gates beside frozen feed-forward blocks (CLSR), with a teacher or without.

    Attributes:
        loss: What is minimised.
        settings: Of experts and gates.
    """

    loss: Objective = Objective()
    settings: ExpertSettings = ExpertSettings()

    has_experts = True

    @property
    def fidelity_switches(self):
        """As of every method, and those of gates."""
        return (*LABELS, "noise_at_start", "padding_in_budget", *OF_DISTILLATION)

    def objective(self, fidelity):
        """Return its loss."""
        return self.loss

    def expert_settings(self, fidelity):
        """Return its settings of experts and gates."""
        return self.settings

    def prepare(self, model, language, config=None):
        """Attach an expert and a gate to every feed-forward block, and choose the language."""
        attach_experts(model, [language], self.settings if config is None else config.experts)
        set_language(model, language)
        return model

    def save(self, model, folder):
        """Write the experts in fp32: what was trained, to the last digit."""
        save_experts(model, folder, form="fp32")

    def load(self, folder, config):
        """Return the student with the experts."""
        return load_experts(load_whisper(config.student.name), folder)

    def count(self, shape):
        """A feed-forward block, or low-rank factors of one, and a gate in each layer."""
        settings = self.settings
        gate = shape.width * settings.gate_dim
        gate_parameters = gate + 2 * settings.gate_dim
        if settings.rank:
            block = 2 * settings.rank * (shape.width + shape.ffn)
            products = block
        else:
            block = shape.feed_forward_parameters
            products = 2 * shape.width * shape.ffn
        added = 2 * shape.layers * (block + gate_parameters)
        return Cost(added, added, 2.0 * (products + gate), activation_bytes=FEED_FORWARD_BYTES)


METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Make a method known by its name: it is trained, scored, drawn and estimated like the others.

    Raises:
        ValueError: For what is no `Method`, and where the name, label or colour is another's.
    """
    if not isinstance(method, Method):
        raise ValueError(f"{method!r} is no method: give an object of a subclass of Method")
    for other in METHODS.values():
        for field in ("name", "label", "colour"):
            if getattr(other, field) == getattr(method, field):
                raise ValueError(
                    f"there is a method with the {field} {getattr(method, field)!r} already"
                )
    METHODS[method.name] = method
    return method


def get_method(name: str) -> Method:
    """Return a method by name; raises ValueError with the known names."""
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(f"unknown method {name!r}: one of {', '.join(METHODS)}")
    return METHODS[name]


def compared_methods(preset: Preset | None = None) -> dict[str, Method]:
    """Return the rows of the course's comparison by name, in order.

    Args:
        preset: Whose further systems are among them; None: those that every preset has.

    Raises:
        ValueError: Where the preset names an unknown method.
    """
    further = () if preset is None else preset.further_systems
    for name in further:
        get_method(name)
    return {name: method for name, method in METHODS.items() if method.in_table or name in further}


def trained_methods(preset: Preset | None = None) -> list[str]:
    """Return the names of those rows of the comparison that are trained; as `compared_methods`."""
    return [name for name, method in compared_methods(preset).items() if method.is_trained]


def save_trained(model: nn.Module, method: Method, folder: Path) -> Path:
    """Write what was trained into `folder` in place of what is there; all or nothing.

    Raises:
        ValueError: Where a trained weight is not finite: nothing is written.
    """
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    check_weights(trained, "at the end of the training")
    with atomic_folder(folder) as part:
        method.save(model, part)
    return folder


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return {"total", "trained", "experts"}: numbers of parameters, tied ones counted once."""
    parameters = list(model.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    experts = [parameter for _, parameter in expert_parameters(model)]
    groups = {"total": parameters, "trained": trained, "experts": experts}
    return {name: sum(parameter.numel() for parameter in group) for name, group in groups.items()}


DISTILLATION = Objective(divergence="js")
OUR_LOSS = Objective(divergence="js", budget=0.8, per_stack=True)
OUR_SETTINGS = ExpertSettings(
    hard=True, noise=1.0, expert_dropout=0.1, gate_dropout=0.0, skip_gate=0.0
)

# Without a teacher, and with it.
PLAIN = Objective(budget=None)
TAUGHT = Objective(budget=None, divergence="js")

register(Student("student", "Whisper (student)", "#7f7f7f"))
register(Teacher("teacher", "Teacher (or stand-in)", "#222222"))
register(FineTuning("fine-tuning", "Fine-tuning", "#d62728"))
register(
    FineTuning(
        "fine-tuning-teacher", "Fine-tuning, with teacher", "#7d1516", in_table=False, loss=TAUGHT
    )
)
register(LoRA("lora", "LoRA", "#ff9f1c"))
register(LoRA("lora-teacher", "LoRA, with teacher", "#a86200", in_table=False, loss=TAUGHT))
register(Experts("clsr-ft", "Experts (CLSR-FT)", "#7fb8e6", in_table=False))
register(
    Experts(
        "distilwhisper-released",
        "DistilWhisper, pooled budget",
        "#2a78b8",
        in_table=False,
        loss=DISTILLATION,
    )
)
register(
    Experts(
        "experts",
        "Experts, our variant without teacher",
        "#8f9fd6",
        loss=replace(OUR_LOSS, divergence="none"),
        settings=OUR_SETTINGS,
    )
)
register(
    Experts(
        "distilwhisper",
        "DistilWhisper, our variant",
        "#10427a",
        loss=OUR_LOSS,
        settings=OUR_SETTINGS,
    )
)
register(  # every position goes through the expert
    Experts(
        "experts-open",
        "Experts without gates",
        "#5fbfb0",
        in_table=False,
        loss=PLAIN,
        settings=replace(OUR_SETTINGS, always_open=True),
    )
)
register(
    Experts(
        "experts-open-teacher",
        "Experts without gates, with teacher",
        "#1d6b60",
        in_table=False,
        loss=TAUGHT,
        settings=replace(OUR_SETTINGS, always_open=True),
    )
)
register(  # as many weights as LoRA trains; in studies, not in the course's table
    Experts(
        "distilwhisper-low-rank",
        "DistilWhisper, rank 64",
        "#7b4fa3",
        in_table=False,
        loss=OUR_LOSS,
        settings=replace(OUR_SETTINGS, rank=64),
    )
)
