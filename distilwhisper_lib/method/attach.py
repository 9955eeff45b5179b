"""Experts in a Whisper: attach them, detach them.

A layer of transformers' Whisper holds its feed-forward block as `fc1`, `activation_fn` and `fc2`.
`attach_experts` moves the three into one CLSR block, puts that block at `fc1` and leaves identities
at the other two places, so that the layer's own code runs unchanged. The state dict keeps Whisper's
names. What the model itself does differently is in `model.py`.

Source: paper (method).
"""

import re
import warnings
from dataclasses import asdict
from types import MethodType
from typing import Any, TypeVar

from torch import nn

from ..whisper.per_call import mix_in, take_out
from ..whisper.tokens import language_codes
from ..whisper.unwrap import unwrap
from .blocks import (
    active_module,
    clsr_blocks,
    feed_forward,
    original_module,
    routing_of,
    shared_block,
    whisper_layers,
    whisper_stacks,
)
from .experts import ExpertSettings, FeedForward
from .model import ChoiceHook, RoutedLayer, mixin_for
from .routing import ClsrFeedForward, Routing

# Names of the shared block's tensors that are Whisper's own, with an adapter on them or without.
OF_WHISPER = re.compile(r"fc[12]\.(base_layer\.)*(weight|bias)")

Model = TypeVar("Model", bound=nn.Module)  # a Whisper, also one wrapped by PEFT


def attach_experts(
    model: Model,
    languages: str | list[str],
    settings: ExpertSettings | None = None,
    *,
    block_class: type[ClsrFeedForward] = ClsrFeedForward,
) -> Model:
    """Freeze a Whisper and give every feed-forward block an expert and a gate for each language.

    The model is changed in place. Until the experts are trained, its outputs stay exactly the same;
    with an adapter on fc1 or fc2, which new experts take up, they may be rounded differently. No
    language is set afterwards: see `set_language`.

    Args:
        model: A Whisper, also one with experts already or wrapped by PEFT; its adapters are frozen
            too.
        languages: Codes or English names. A language that has experts keeps them.
        settings: Of experts and gates; None: those of the experts that are attached already, or
            else the authors' release.
        block_class: The class of new blocks, for variants of the routing. Ignored where experts
            are attached already.

    Returns:
        The model.

    Raises:
        ValueError: For an unknown language, a model that is not a whole Whisper, or is quantised or
            offloaded, settings that differ from those of attached experts, or activation dropout
            (it would act in the wrong place).
    """
    codes = language_codes(languages)
    if settings is not None and not isinstance(settings, ExpertSettings):
        raise ValueError(f"settings is {settings!r}: ExpertSettings(...) or None is needed")
    _check_can_carry_experts(model)
    if not clsr_blocks(model):
        model.requires_grad_(False)
        new_routing = Routing(settings or ExpertSettings())
        for _, _, layer in whisper_layers(model):
            _insert(block_class(feed_forward(layer), new_routing), layer)
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
                block.experts[code] = _without_adapters(block.experts[code])
            routing.languages.append(code)
    return model


def detach_experts(model: Model) -> Model:
    """Remove experts and gates, in place: the plain model, still frozen. Returns the model."""
    if clsr_blocks(model):
        routing_of(model)  # raises an error where experts are attached to another module
        _reduce(unwrap(model))
    for _, _, layer in whisper_layers(model):
        if isinstance(layer.fc1, ClsrFeedForward):
            _remove(layer.fc1, layer)
    return model


def _check_can_carry_experts(model: nn.Module) -> None:
    """Raise ValueError for what is no Whisper or has no weights at hand, and for two dropouts.

    Activation dropout would act on the output of a block instead of within it; a layer that is left
    out would keep the gates of an earlier batch.
    """
    clsr_blocks(model)  # raises an error for a model that is not a Whisper, or wrapped blocks
    if unwrap(model).config.activation_dropout:
        raise ValueError("experts need config.activation_dropout = 0: set it before attach_experts")
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        if getattr(unwrap(model).config, name, 0):
            raise ValueError(
                f"experts need config.{name} = 0, for a layer that is left out has no gates: set "
                "it before attach_experts"
            )

    for stack, index, layer in whisper_layers(model):
        shared = shared_block(layer)  # raises an error for a quantised block
        if shared.fc1.get_parameter("weight").is_meta and hasattr(shared.fc1, "_hf_hook"):
            raise ValueError(
                f"{stack} layer {index} is offloaded: load Whisper on one device, without "
                "device_map"
            )


def _without_adapters(expert: Any) -> FeedForward:
    """Return a new expert without PEFT's adapters, which were copied with the shared block.

    Its weights are those that the shared block computes with. Experts of a low rank have no copies.
    """
    expert = active_module(expert)
    for name in ("fc1", "fc2"):
        layer = active_module(getattr(expert, name))
        if hasattr(layer, "base_layer"):
            if not layer.disable_adapters:
                layer.merge()
            layer = original_module(layer)
        setattr(expert, name, layer.requires_grad_(True))
    return expert


def _insert(block: ClsrFeedForward, layer: nn.Module) -> None:
    """Put a block in the place of the layer's feed-forward block."""
    block.train(layer.training)
    block.register_state_dict_post_hook(_to_whisper_names)
    block.hooks = [
        # Registered on the layer: a hook on `fc1` would get no keys that begin with `fc2`.
        layer.register_load_state_dict_pre_hook(_from_whisper_names),
    ]
    layer.fc1 = block
    layer.activation_fn = nn.Identity()
    layer.fc2 = nn.Identity()
    mix_in(layer, RoutedLayer)
    _bind_hooked_forward(layer)


def _remove(block: ClsrFeedForward, layer: nn.Module) -> None:
    """Put the layer's own feed-forward block back."""
    for hook in block.hooks:
        hook.remove()
    layer.fc1 = block.shared.fc1
    layer.activation_fn = block.shared.activation_fn
    layer.fc2 = block.shared.fc2
    take_out(layer, RoutedLayer)
    _bind_hooked_forward(layer)


def _extend(whisper: Any, routing: Routing) -> None:
    """Let a model choose experts once for each call, and save them."""
    hooks = []
    for name, stack in whisper_stacks(whisper):
        hook = ChoiceHook(routing, name)
        hooks.append(stack.register_forward_pre_hook(hook, with_kwargs=True))
    whisper._expert_routing = routing
    whisper._expert_hooks = hooks
    mix_in(whisper, mixin_for(whisper))
    _bind_hooked_forward(whisper)


def _reduce(whisper: Any) -> None:
    """Undo `_extend`."""
    take_out(whisper, mixin_for(whisper))
    _bind_hooked_forward(whisper)
    for hook in whisper._expert_hooks:
        hook.remove()
    del whisper._expert_routing
    del whisper._expert_hooks


def _bind_hooked_forward(module: Any) -> None:
    """Let accelerate's hooks call the `forward` of the class that a module has now.

    `dispatch_model` and `device_map` keep the bound method of the class that it had before.
    """
    forward = MethodType(type(module).forward, module)
    before = vars(module).get("_old_forward")
    if isinstance(before, MethodType) and before.__self__ is module:
        vars(module)["_old_forward"] = forward


def _to_whisper_names(block: nn.Module, state: dict, prefix: str, _: dict) -> None:
    """Give the shared block's tensors the names that they have in a plain Whisper.

    Called after the block's part of a state dict is collected: "….fc1.shared.fc2.weight" becomes
    "….fc2.weight". Tensors of adapters keep their names, because PEFT looks for them.
    """
    if prefix.startswith("base_model."):  # of a PEFT model, which saves its adapter alone
        _warn_of_experts_left_out(block)
    shared_prefix = f"{prefix}shared."
    layer_prefix = prefix.removesuffix("fc1.")
    for key in list(state):
        name = key.removeprefix(shared_prefix)
        if key.startswith(shared_prefix) and OF_WHISPER.fullmatch(name):
            state[layer_prefix + name] = state.pop(key)


def _warn_of_experts_left_out(block: Any) -> None:
    """Warn where experts are trained that will not be in the files of a PEFT model."""
    for code, expert in block.experts.items():
        in_adapter = active_module(expert) is not expert  # one of PEFT's modules_to_save
        trained = any(
            weight.requires_grad and OF_WHISPER.fullmatch(name)
            for name, weight in expert.named_parameters()
        )
        if trained and not in_adapter:
            warnings.warn(
                f"the experts of {code} are trained, and PEFT saves and resumes the adapter alone: "
                f"give it modules_to_save=['experts.{code}', 'gates.{code}'], or call save_experts",
                stacklevel=2,
            )


def _from_whisper_names(layer: nn.Module, state: dict, prefix: str, *_: object) -> None:
    """Undo `_to_whisper_names`; called before a layer's state is loaded."""
    for name in dict(feed_forward(layer).named_parameters()):
        if prefix + name in state:
            state[f"{prefix}fc1.shared.{name}"] = state.pop(prefix + name)
