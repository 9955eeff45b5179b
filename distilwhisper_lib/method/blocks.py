"""Where experts are in a Whisper: its layers, their CLSR blocks, gates and parameters."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..whisper.unwrap import unwrap
from .experts import FeedForward
from .routing import ClsrFeedForward, Routing

# ---- layers and blocks


def whisper_stacks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the stacks of a Whisper of any kind: "encoder", "decoder", as far as there are."""
    whisper = unwrap(model)
    body = getattr(whisper, "model", whisper)  # WhisperModel is its own body
    for name in ("encoder", "decoder"):
        stack = getattr(body, name, None)
        if stack is not None:
            yield name, stack


def whisper_layers(model: nn.Module) -> Iterator[tuple[str, int, nn.Module]]:
    """Yield the layers of a Whisper of any kind, also of one wrapped by PEFT.

    Yields:
        stack ("encoder" layers first, then "decoder"), index in the stack, layer.
    """
    for name, stack in whisper_stacks(model):
        for index, layer in enumerate(stack.layers):
            yield name, index, layer


def shared_block(layer: nn.Module) -> FeedForward:
    """Return a layer's own feed-forward block, whether experts are attached or not."""
    fc1 = layer.get_submodule("fc1")
    if isinstance(fc1, ClsrFeedForward):
        return fc1.shared
    return FeedForward(fc1, layer.get_submodule("activation_fn"), layer.get_submodule("fc2"))


def clsr_blocks(model: nn.Module) -> list[ClsrFeedForward]:
    """Return the CLSR blocks, encoder first; an empty list where no experts are attached."""
    return [block for _, _, block in blocks_by_layer(model)]


def blocks_by_layer(model: nn.Module) -> Iterator[tuple[str, int, ClsrFeedForward]]:
    """Yield stack, index in the stack, and CLSR block.

    Raises:
        ValueError: Where PEFT has wrapped a block.
    """
    for stack, index, layer in whisper_layers(model):
        fc1 = layer.get_submodule("fc1")
        if isinstance(fc1, ClsrFeedForward):
            yield stack, index, fc1
        elif any(isinstance(part, ClsrFeedForward) for part in fc1.modules()):
            raise ValueError(is_wrapped(fc1))


def is_wrapped(block: nn.Module) -> str:
    """Return the message about a CLSR block that PEFT has wrapped."""
    return (
        f"experts are wrapped by a {type(block).__name__}: leave fc1, experts and gates out of "
        "PEFT's modules_to_save; experts are trained and saved by themselves"
    )


def routing_of(model: nn.Module) -> Routing:
    """Return the state that all blocks share; ValueError where no experts are attached."""
    routing = getattr(unwrap(model), "expert_routing", None)
    if routing is None:
        raise ValueError(
            "no experts are attached: call attach_experts(model, [...]) or load_experts first"
        )
    return routing


def expert_languages(model: nn.Module) -> list[str]:
    """Return the codes of the languages that have experts, in the order of attaching."""
    return list(routing_of(model).languages) if clsr_blocks(model) else []


def is_reentrant(layer: Any) -> bool:
    """Return whether a layer is checkpointed by the reentrant kind of gradient checkpointing."""
    function = getattr(layer, "_gradient_checkpointing_func", None)
    checkpointed = layer.training and getattr(layer, "gradient_checkpointing", False)
    return checkpointed and getattr(function, "keywords", {}).get("use_reentrant", True)


# ---- gates and parameters


def set_noise(model: nn.Module, alpha: float) -> None:
    """Set alpha, the strength of the gates' training noise."""
    routing_of(model).noise = alpha


def last_gates(model: nn.Module) -> dict[str, list[torch.Tensor]]:
    """Return the gates g of the latest forward pass.

    Returns:
        {"encoder": one (B, S) per layer, "decoder": one (B, T) per layer}, NaN in sequences without
        an expert; empty lists where no sequence had one.

    Raises:
        ValueError: In training with reentrant gradient checkpointing, whose forward pass leaves
            gates without gradients.
    """
    if torch.is_grad_enabled():
        for _, _, layer in whisper_layers(model):
            if isinstance(layer.fc1, ClsrFeedForward) and is_reentrant(layer):
                raise ValueError(
                    "gates of reentrant gradient checkpointing have no gradients, so that a gate "
                    "budget would do nothing: set gradient_checkpointing_kwargs="
                    "{'use_reentrant': False}"
                )

    gates: dict[str, list[torch.Tensor]] = {"encoder": [], "decoder": []}
    for stack, _, block in blocks_by_layer(model):
        if block.last_gate is not None:
            gates[stack].append(block.last_gate)
    return gates


def expert_parameters(
    model: nn.Module, language: str | None = None
) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of experts and gates.

    Args:
        model: A Whisper, with or without experts.
        language: A code; None: all languages.

    Yields:
        name ("encoder.0.experts.cs.fc1.weight": stack, layer, name in its block), parameter.
    """
    for stack, index, block in blocks_by_layer(model):
        for name, parameter in block.named_parameters():
            kind, code, *_ = name.split(".")
            if kind in ("experts", "gates") and language in (None, code):
                yield f"{stack}.{index}.{name}", parameter
