"""Trained experts into a Whisper: check that they fit, attach them, copy their weights."""

from pathlib import Path

import torch
from torch import nn

from ..whisper.tokens import language_codes
from .attach import Model, attach_experts
from .blocks import clsr_blocks, expert_parameters, shared_block, whisper_layers
from .experts import ExpertSettings, Gate, new_expert
from .packing import Tensors
from .storage import base_fingerprint, expert_file, read_description, read_tensors, shared_tensors


def load_experts(
    model: Model, folder: str | Path, languages: str | list[str] | None = None
) -> Model:
    """Attach the experts of a folder to a model, in place.

    Where an error is raised, the model is as it was before.

    Args:
        model: The Whisper that the experts were trained on; it may have experts already.
        folder: As `save_experts` has written it.
        languages: Codes or English names; None: all languages in the folder.

    Returns:
        The model. No language is set: see `set_language`.

    Raises:
        FileNotFoundError: For a folder, file or language that is not there.
        ValueError: For experts that were trained on another Whisper, or a damaged file.
    """
    folder = Path(folder)
    description = read_description(folder)
    wanted = language_codes(languages or description["languages"])
    missing = [language for language in wanted if language not in description["languages"]]
    if missing:
        raise FileNotFoundError(
            f"{folder} holds no experts for {', '.join(missing)}; "
            f"it has {', '.join(description['languages'])}"
        )

    # Each file says its own form: a save in another form that was stopped leaves both.
    experts: dict[str, Tensors] = {}
    differences: dict[str, set[str]] = {}
    for language in wanted:
        path = expert_file(folder, language)
        experts[language], differences[language] = read_tensors(path)

    settings = ExpertSettings(**description["settings"])
    base_model = description["base_model"]
    check_shapes(model, settings, experts, f"{folder} ({base_model})")
    if base_fingerprint(model) != description["base_fingerprint"]:
        raise ValueError(
            f"the experts in {folder} were trained on another Whisper: their shapes fit, but the "
            f"frozen weights differ; load {base_model} in fp32 or fp16"
        )

    for language, tensors in experts.items():
        shared = shared_tensors(model, language)
        for name in differences[language]:
            tensors[name] += shared[name].float()
    return attach_trained(model, settings, experts)


def attach_trained(model: Model, settings: ExpertSettings, experts: dict[str, Tensors]) -> Model:
    """Attach experts with trained weights, in place.

    Args:
        model: A Whisper that the experts fit (`check_shapes`).
        settings: Those that the experts were trained with. Where experts with the same shapes are
            attached already, theirs stay: all other settings act in training alone.
        experts: For each language, by code, its tensors by their names in `expert_parameters`.

    Returns:
        The model.

    Raises:
        ValueError: Where experts of other shapes are attached already.
    """
    blocks = clsr_blocks(model)
    if blocks:
        attached = blocks[0].routing.settings
        if (attached.gate_dim, attached.rank) == (settings.gate_dim, settings.rank):
            settings = attached
    attach_experts(model, list(experts), settings)

    for language, tensors in experts.items():
        for block in clsr_blocks(model):
            block.constant_gates.pop(language, None)  # they were measured on the earlier gates
        for name, parameter in expert_parameters(model, language):
            parameter.data.copy_(tensors[name])
    return model


def check_shapes(
    model: nn.Module, settings: ExpertSettings, experts: dict[str, Tensors], source: str
) -> None:
    """Check names and shapes of experts before anything is attached.

    Args:
        model: The Whisper that they are for; it is not changed.
        settings: Those that the experts were trained with.
        experts: As for `attach_trained`.
        source: Where the experts come from, for the error message.

    Raises:
        ValueError: Where they do not fit; the message compares the sizes.
    """
    for language, tensors in experts.items():
        needed = _needed_shapes(model, settings, language)
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if found != needed:
            raise ValueError(
                f"the {language} experts in {source} are for {_describe(found)}; "
                f"this Whisper needs {_describe(needed)}"
            )


def _needed_shapes(
    model: nn.Module, settings: ExpertSettings, language: str
) -> dict[str, torch.Size]:
    """Return the shapes that a language's experts and gates have in this Whisper, by name."""
    shapes = {}
    for stack, index, layer in whisper_layers(model):
        shared = shared_block(layer)
        width = shared.fc1.get_parameter("weight").shape[1]
        with torch.device("meta"):  # shapes without memory
            gate = Gate(width, settings)
            expert = new_expert(shared, settings.rank) if settings.rank else shared
        for kind, module in (("experts", expert), ("gates", gate)):
            for name, parameter in module.named_parameters():
                shapes[f"{stack}.{index}.{kind}.{language}.{name}"] = parameter.shape
    return shapes


def _describe(shapes: dict[str, torch.Size]) -> str:
    """Return the size of the Whisper that tensors of these names and shapes belong to."""
    widths = {}  # of each layer, by the name of its first weight
    for name, shape in shapes.items():
        if name.endswith(("fc1.weight", "fc1.down.weight")):
            widths[name] = shape[1]
    encoder = sum(name.startswith("encoder.") for name in widths)
    decoder = sum(name.startswith("decoder.") for name in widths)
    width = next(iter(widths.values()), 0)
    return f"{encoder} + {decoder} layers of width {width} ({len(shapes)} tensors)"
