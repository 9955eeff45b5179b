"""Trained experts into a Whisper: check that they fit, attach them, copy their weights."""

import torch
from torch import nn

from .attach import (
    Model,
    attach_experts,
    clsr_blocks,
    expert_parameters,
    shared_block,
    whisper_layers,
)
from .experts import ExpertSettings, Gate, new_expert
from .packing import Tensors


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
