"""Where experts are in a Whisper: its layers, their CLSR blocks, gates and parameters.

PEFT wraps modules: an adapter keeps the layer below it as `base_layer`, `modules_to_save` keeps the
untouched module as `original_module` beside the copy that it trains. Nothing of PEFT is imported.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..whisper.unwrap import unwrap
from .experts import FeedForward
from .routing import ClsrFeedForward, Routing

# ---- layers and blocks


def whisper_stacks(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the stacks of a Whisper of any kind: "encoder", "decoder", as far as there are.

    Raises:
        ValueError: For a model that is not a Whisper, or a single stack of one.
    """
    whisper = unwrap(model)
    config = getattr(whisper, "config", None)
    if getattr(config, "model_type", None) != "whisper":
        raise ValueError(f"experts go into a Whisper; this is a {type(whisper).__name__}")

    body = getattr(whisper, "model", whisper)  # WhisperModel is its own body
    stacks = {name: getattr(body, name, None) for name in ("encoder", "decoder")}
    if not any(stacks.values()):
        raise ValueError(
            f"experts go into a Whisper; this is its {type(whisper).__name__} alone: give the "
            "model that it belongs to"
        )
    for name, stack in stacks.items():
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


def feed_forward(layer: nn.Module) -> FeedForward:
    """Return a layer's own feed-forward block, with the adapters that are in it."""
    fc1 = layer.get_submodule("fc1")
    if isinstance(fc1, ClsrFeedForward):
        return fc1.shared
    return FeedForward(fc1, layer.get_submodule("activation_fn"), layer.get_submodule("fc2"))


def shared_block(layer: nn.Module) -> FeedForward:
    """Return a layer's own feed-forward block, whether experts are attached or not.

    Adapters are left out: it holds the weights of Whisper itself.

    Raises:
        ValueError: For a quantised block, whose weights are not at hand.
    """
    block = original_module(feed_forward(layer))
    fc1 = original_module(block.fc1)
    fc2 = original_module(block.fc2)
    for name, linear in (("fc1", fc1), ("fc2", fc2)):
        weight = getattr(linear, "weight", None)
        if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
            kind = f"{type(linear).__name__} in {getattr(weight, 'dtype', 'a packed form')}"
            raise ValueError(
                f"experts are copies of feed-forward blocks in floating point, and {name} is a "
                f"{kind}: load Whisper in fp32, fp16 or bf16, without quantisation"
            )
    return FeedForward(fc1, block.activation_fn, fc2)


def original_module(module: Any) -> Any:
    """Return what PEFT has wrapped; any other module is returned as it is."""
    for name in ("base_layer", "original_module"):
        if name in module._modules:
            return original_module(module._modules[name])
    return module


def active_module(module: Any) -> Any:
    """Return the copy that PEFT trains as one of its modules_to_save, or else the module."""
    if "modules_to_save" in module._modules and "original_module" in module._modules:
        adapters = module.active_adapters
        return module.modules_to_save[adapters[0]] if adapters else module.original_module
    return module


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
        f"experts are wrapped by a {type(block).__name__}: leave fc1 out of PEFT's "
        "modules_to_save, which can hold a language's experts as 'experts.CODE' and 'gates.CODE'"
    )


def routing_of(model: nn.Module) -> Routing:
    """Return the state that all blocks share.

    Raises:
        ValueError: Where no experts are attached, or to a part of the model or the model around it.
    """
    whisper = unwrap(model)
    routing = getattr(whisper, "_expert_routing", None)
    if routing is None and clsr_blocks(model):
        name = type(whisper).__name__
        if hasattr(getattr(whisper, "model", None), "_expert_routing"):
            raise ValueError(
                f"experts are attached to a part of this {name} alone: detach_experts("
                "model.model), and attach or load them with the whole model"
            )
        raise ValueError(f"experts are attached to the model around this {name}: give that one")
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

    With gradient checkpointing read them before `backward`, whose recomputation ends early.

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
        name ("encoder.0.experts.cs.fc1.weight": stack, layer, name in its block), parameter. PEFT's
        adapters on experts are left out, as they are in other parts of the model; of its
        modules_to_save it is the copy that is trained.

    Raises:
        ValueError: For quantised experts.
    """
    for stack, index, block in blocks_by_layer(model):
        for kind in ("experts", "gates"):
            for code, module in block.get_submodule(kind).named_children():
                if language not in (None, code):
                    continue
                for name, parameter in _named_weights(module):
                    yield f"{stack}.{index}.{kind}.{code}.{name}", parameter


def _named_weights(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters of an expert or a gate under the names that they have without PEFT."""
    module = original_module(active_module(module))
    weight = getattr(module, "weight", None)
    packed = weight is not None and not isinstance(weight, torch.Tensor)  # torch's own int8 layers
    if packed or (weight is not None and not weight.is_floating_point()):
        raise ValueError(
            f"{prefix}weight of an expert or gate is quantised: train and save experts before the "
            "model is quantised"
        )
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter
    for name, child in module.named_children():
        yield from _named_weights(child, f"{prefix}{name}.")
