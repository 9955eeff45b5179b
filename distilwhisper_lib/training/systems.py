"""The systems that are compared: what each one trains, and how it is built, saved and loaded."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model

from ..files import atomic_folder
from ..method.attach import attach_experts, expert_parameters, set_language
from ..method.experts import ExpertSettings
from ..method.storage import load_experts, save_experts
from ..whisper.loading import load_whisper


@dataclass(frozen=True)
class System:
    """One row of the comparison; `trains` is "nothing", "everything", "adapter" or "experts".

    budget: of the gates, None takes the preset's; experts: fields of `ExpertSettings` other than the release's.
    """

    name: str
    label: str  # in tables and plots
    colour: str
    trains: str
    distils: bool = False
    budget: float | None = None
    budget_per_stack: bool = False
    experts: dict[str, float] = field(default_factory=dict)


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System("student", "Whisper (student)", "#7f7f7f", "nothing"),
        System("teacher", "Teacher (or stand-in)", "#222222", "nothing"),
        System("fine-tuning", "Fine-tuning", "#d62728", "everything"),
        System("lora", "LoRA", "#ff9f1c", "adapter"),
        System("clsr-ft", "Experts (CLSR-FT)", "#7fb8e6", "experts"),
        System(
            "distilwhisper-released",
            "DistilWhisper, pooled budget",
            "#2a78b8",
            "experts",
            distils=True,
        ),
        System(
            "distilwhisper",
            "DistilWhisper, our variant",
            "#10427a",
            "experts",
            distils=True,
            budget=0.8,
            budget_per_stack=True,
            experts={
                "hard": True,
                "noise": 1.0,
                "expert_dropout": 0.1,
                "gate_dropout": 0.0,
                "skip_gate": 0.0,
            },
        ),
    )
}

TRAINED = [name for name, system in SYSTEMS.items() if system.trains != "nothing"]

LOW_RANK = replace(
    SYSTEMS["distilwhisper"],
    name="distilwhisper-low-rank",
    label="DistilWhisper, rank 64",
    colour="#7b4fa3",
    experts=SYSTEMS["distilwhisper"].experts | {"rank": 64},
)

EVERY = SYSTEMS | {
    LOW_RANK.name: LOW_RANK
}  # low rank: as many weights as LoRA trains; in studies, not in the table


def get_system(name: str) -> System:
    """Return a system by name; raises ValueError with the known names."""
    if name not in EVERY:
        raise ValueError(f"unknown system {name!r}: one of {', '.join(EVERY)}")
    return EVERY[name]


def lora_config(on_both: bool = False) -> LoraConfig:
    """LoRA as the paper compares it: r = alpha = 64, dropout 0.05, on fc1 and fc2 (release: train_lora.py).

    on_both: on those of shared blocks and experts (as released), 23,592,960 weights for whisper-small.

    task_type stays None: PEFT's SEQ_2_SEQ_LM wrapper passes `input_ids`, which Whisper does not take.
    """
    targets = r".*\.(shared|experts\.\w+)\.fc[12]" if on_both else ["fc1", "fc2"]
    return LoraConfig(r=64, lora_alpha=64, lora_dropout=0.05, target_modules=targets)


def prepare_for_training(
    model,
    system: System,
    language: str,
    settings: ExpertSettings | None = None,
    lora_on_both: bool = False,
):
    """Turn a plain Whisper into `system`, ready to train on `language`; returns the (possibly wrapped) model.

    settings: of experts and gates; None takes the release's. lora_on_both: see `Fidelity`.
    """
    if system.trains == "experts" or system.trains == "adapter" and lora_on_both:
        attach_experts(model, [language], settings)
        set_language(model, language)
    if system.trains == "everything":
        model.requires_grad_(True)
        model.model.encoder.embed_positions.requires_grad_(False)  # sinusoids, fixed in Whisper
    elif system.trains == "adapter":
        model = get_peft_model(model, lora_config(lora_on_both))
        model.peft_config[
            "default"
        ].base_model_name_or_path = ""  # or PEFT asks the hub for it at each checkpoint
    elif system.trains != "experts":
        raise ValueError(f"{system.name} is not trained")
    model.config.use_cache = False
    return model


def save_trained(model, system: System, folder: Path) -> Path:
    """Write what `system` has trained into `folder`, in place of what is there, all or nothing; returns the folder."""
    with atomic_folder(folder) as part:
        if system.trains == "experts":
            save_experts(model, part, form="fp32")  # what was trained, to the last digit
        elif system.trains == "adapter":
            model.save_pretrained(
                part, save_embedding_layers=False
            )  # asked, PEFT would look them up on the hub
        else:
            model.save_pretrained(part)
    return folder


def load_trained(
    system: System, folder: Path, student: str, device="cpu", lora_on_both: str | None = None
):
    """Return the trained system as one model in evaluation mode on `device`; experts' language is left unset.

    lora_on_both: the language of LoRA's experts, where it was trained so.
    """
    if system.trains == "everything":
        return load_whisper(str(folder)).to(device)
    model = load_whisper(student)
    if system.trains == "adapter":
        model = (
            attach_experts(model, [lora_on_both]) if lora_on_both else model
        )  # they and their gates are untrained
        return PeftModel.from_pretrained(model, folder).to(device).eval()
    return load_experts(model, folder).to(device)


def count_parameters(model) -> dict[str, int]:
    """Return {"total", "trained", "experts"}: numbers of parameters, tied ones counted once."""
    every, experts = list(model.parameters()), [p for _, p in expert_parameters(model)]
    parts = {"total": every, "trained": [p for p in every if p.requires_grad], "experts": experts}
    return {name: sum(p.numel() for p in part) for name, part in parts.items()}
