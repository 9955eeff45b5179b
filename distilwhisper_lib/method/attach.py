"""Experts in a Whisper: attach them, detach them.

A layer of transformers' Whisper holds its feed-forward block as `fc1`, `activation_fn` and `fc2`.
`attach_experts` moves the three into one CLSR block, puts that block at `fc1` and leaves identities
at the other two places, so that the layer's own code runs unchanged. The state dict keeps Whisper's
names. What the model itself does differently is in `model.py`.

Source: paper, section 3.
"""

from dataclasses import asdict
from typing import Any, TypeVar

import torch
from torch import nn

from ..whisper.per_call import mix_in, take_out
from ..whisper.tokens import language_codes
from ..whisper.unwrap import unwrap
from .blocks import clsr_blocks, routing_of, shared_block, whisper_layers, whisper_stacks
from .experts import ExpertSettings
from .model import ChoiceHook, RoutedLayer, let_gradients_through, mixin_for
from .routing import ClsrFeedForward, Routing

Model = TypeVar("Model", bound=nn.Module)  # a Whisper, also one wrapped by PEFT


def attach_experts(
    model: Model,
    languages: str | list[str],
    settings: ExpertSettings | None = None,
    *,
    block_class: type[ClsrFeedForward] = ClsrFeedForward,
) -> Model:
    """Freeze a Whisper and give every feed-forward block an expert and a gate for each language.

    The model is changed in place. Until the experts are trained, its outputs stay exactly the same.
    No language is set afterwards: see `set_language`.

    Args:
        model: A Whisper, also one wrapped by PEFT or with experts already.
        languages: Codes or English names. A language that has experts keeps them.
        settings: Of experts and gates; None: those of the experts that are attached already, or
            else the authors' release.
        block_class: The class of new blocks, for variants of the routing. Ignored where experts
            are attached already.

    Returns:
        The model.

    Raises:
        ValueError: For an unknown language, a model that is not a Whisper, settings that differ
            from those of attached experts, or activation dropout (it would act in the wrong place).
    """
    codes = language_codes(languages)
    _check_can_carry_experts(model)
    if not clsr_blocks(model):
        model.requires_grad_(False)
        new_routing = Routing(settings or ExpertSettings())
        for _, _, layer in whisper_layers(model):
            _insert(block_class(shared_block(layer), new_routing), layer)
        _extend(unwrap(model), new_routing)

    routing = routing_of(model)
    if settings not in (None, routing.settings):
        raise ValueError(
            f"experts are attached with {asdict(routing.settings)}; detach them to change settings"
        )

    for code in codes:
        if code not in routing.languages:
            for block in clsr_blocks(model):
                block.add_language(code)
            routing.languages.append(code)
    return model


def detach_experts(model: Model) -> Model:
    """Remove experts and gates, in place: the plain model, still frozen. Returns the model."""
    if clsr_blocks(model):
        _reduce(unwrap(model))
    for _, _, layer in whisper_layers(model):
        if isinstance(layer.fc1, ClsrFeedForward):
            _remove(layer.fc1, layer)
    return model


def _check_can_carry_experts(model: nn.Module) -> None:
    """Raise ValueError for a model that is not a Whisper, is quantised, or has activation dropout.

    Activation dropout would act on the output of a block instead of within it.
    """
    whisper = unwrap(model)
    config = getattr(whisper, "config", None)
    if getattr(config, "model_type", None) != "whisper":
        raise ValueError(f"experts go into a Whisper; this is a {type(whisper).__name__}")
    if whisper.config.activation_dropout:
        raise ValueError("experts need config.activation_dropout = 0: set it before attach_experts")

    for stack, index, layer in whisper_layers(model):
        for name in ("fc1", "fc2"):
            linear = getattr(shared_block(layer), name)
            weight = getattr(linear, "weight", None)
            if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
                kind = f"{type(linear).__name__} in {getattr(weight, 'dtype', 'a packed form')}"
                raise ValueError(
                    f"experts are copies of feed-forward blocks in floating point, and {name} of "
                    f"{stack} layer {index} is a {kind}: load Whisper in fp32, fp16 or bf16, "
                    "without quantisation"
                )


def _insert(block: ClsrFeedForward, layer: nn.Module) -> None:
    """Put a block in the place of the layer's feed-forward block."""
    block.train(layer.training)
    block.register_state_dict_post_hook(_to_whisper_names)
    block.hooks = [
        # Registered on the layer: a hook on `fc1` would get no keys that begin with `fc2`.
        layer.register_load_state_dict_pre_hook(_from_whisper_names),
        layer.register_forward_pre_hook(let_gradients_through),
    ]
    layer.fc1 = block
    layer.activation_fn = nn.Identity()
    layer.fc2 = nn.Identity()
    mix_in(layer, RoutedLayer)


def _remove(block: ClsrFeedForward, layer: nn.Module) -> None:
    """Put the layer's own feed-forward block back."""
    for hook in block.hooks:
        hook.remove()
    layer.fc1 = block.shared.fc1
    layer.activation_fn = block.shared.activation_fn
    layer.fc2 = block.shared.fc2
    take_out(layer, RoutedLayer)


def _extend(whisper: Any, routing: Routing) -> None:
    """Let a model choose experts once for each call, and save them."""
    hooks = []
    for name, stack in whisper_stacks(whisper):
        hook = ChoiceHook(routing, name)
        hooks.append(stack.register_forward_pre_hook(hook, with_kwargs=True))
    whisper.expert_routing = routing
    whisper.expert_hooks = hooks
    mix_in(whisper, mixin_for(whisper))


def _reduce(whisper: Any) -> None:
    """Undo `_extend`."""
    take_out(whisper, mixin_for(whisper))
    for hook in whisper.expert_hooks:
        hook.remove()
    del whisper.expert_routing
    del whisper.expert_hooks


def _to_whisper_names(block: nn.Module, state: dict, prefix: str, _: dict) -> None:
    """Give the shared block's tensors the names that they have in a plain Whisper.

    Called after the block's part of a state dict is collected: "….fc1.shared.fc2.weight" becomes
    "….fc2.weight". LoRA's tensors keep their names, because PEFT looks for them.
    """
    shared_prefix = f"{prefix}shared."
    layer_prefix = prefix.removesuffix("fc1.")
    for key in list(state):
        if key.startswith(shared_prefix) and ".lora_" not in key:
            state[layer_prefix + key.removeprefix(shared_prefix)] = state.pop(key)


def _from_whisper_names(layer: nn.Module, state: dict, prefix: str, *_: object) -> None:
    """Undo `_to_whisper_names`; called before a layer's state is loaded."""
    for name in dict(shared_block(layer).named_parameters()):
        if prefix + name in state:
            state[f"{prefix}fc1.shared.{name}"] = state.pop(prefix + name)
