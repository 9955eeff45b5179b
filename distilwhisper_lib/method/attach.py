"""Experts in a Whisper: attach them, choose the language, detach them.

A layer of transformers' Whisper holds its feed-forward block as `fc1`, `activation_fn` and `fc2`.
`attach_experts` moves the three into one CLSR block, puts that block at `fc1` and leaves identities
at the other two places, so that the layer's own code runs unchanged. The state dict keeps Whisper's
names: what `save_pretrained` writes is a Whisper.

Source: paper, section 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TypeVar

import torch
from torch import nn

from ..whisper.tokens import language_code, language_codes
from ..whisper.unwrap import unwrap
from .experts import ExpertSettings, FeedForward
from .routing import ClsrFeedForward, LanguageChoice, Routing

Model = TypeVar("Model", bound=nn.Module)  # a Whisper, also one wrapped by PEFT


# ---- layers and blocks


def whisper_layers(model: nn.Module) -> Iterator[tuple[str, int, nn.Module]]:
    """Yield the layers of a Whisper, also of one wrapped by PEFT.

    Yields:
        stack ("encoder" layers first, then "decoder"), index in the stack, layer.
    """
    whisper = unwrap(model)
    for stack in ("encoder", "decoder"):
        for index, layer in enumerate(getattr(whisper.model, stack).layers):
            yield stack, index, layer


def shared_block(layer: nn.Module) -> FeedForward:
    """Return a layer's own feed-forward block, whether experts are attached or not."""
    fc1 = layer.get_submodule("fc1")
    if isinstance(fc1, ClsrFeedForward):
        return fc1.shared
    return FeedForward(fc1, layer.get_submodule("activation_fn"), layer.get_submodule("fc2"))


def clsr_blocks(model: nn.Module) -> list[ClsrFeedForward]:
    """Return the CLSR blocks, encoder first; an empty list where no experts are attached."""
    return [block for _, _, block in _blocks_by_layer(model)]


def _blocks_by_layer(model: nn.Module) -> Iterator[tuple[str, int, ClsrFeedForward]]:
    """Yield stack, index in the stack, and CLSR block."""
    for stack, index, layer in whisper_layers(model):
        if isinstance(layer.fc1, ClsrFeedForward):
            yield stack, index, layer.fc1


def _routing(model: nn.Module) -> Routing:
    """Return the state that all blocks share; ValueError where no experts are attached."""
    blocks = clsr_blocks(model)
    if not blocks:
        raise ValueError(
            "no experts are attached: call attach_experts(model, [...]) or load_experts first"
        )
    return blocks[0].routing


# ---- attach and detach


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

    routing = _routing(model)
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
    for _, _, layer in whisper_layers(model):
        if isinstance(layer.fc1, ClsrFeedForward):
            _remove(layer.fc1, layer)
    return model


def _check_can_carry_experts(model: nn.Module) -> None:
    """Raise ValueError for a model that is not a Whisper, or has activation dropout."""
    whisper = unwrap(model)
    config = getattr(whisper, "config", None)
    if getattr(config, "model_type", None) != "whisper":
        raise ValueError(f"experts go into a Whisper; this is a {type(whisper).__name__}")
    if whisper.config.activation_dropout:
        raise ValueError("experts need config.activation_dropout = 0: set it before attach_experts")


def _insert(block: ClsrFeedForward, layer: nn.Module) -> None:
    """Put a block in the place of the layer's feed-forward block."""
    block.train(layer.training)
    block.register_state_dict_post_hook(_to_whisper_names)
    # Registered on the layer: a hook on `fc1` would get no keys that begin with `fc2`.
    block.load_hook = layer.register_load_state_dict_pre_hook(_from_whisper_names)
    layer.fc1 = block
    layer.activation_fn = nn.Identity()
    layer.fc2 = nn.Identity()


def _remove(block: ClsrFeedForward, layer: nn.Module) -> None:
    """Put the layer's own feed-forward block back."""
    if block.load_hook is not None:
        block.load_hook.remove()
    layer.fc1 = block.shared.fc1
    layer.activation_fn = block.shared.activation_fn
    layer.fc2 = block.shared.fc2


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


# ---- choose the language


def expert_languages(model: nn.Module) -> list[str]:
    """Return the codes of the languages that have experts, in the order of attaching."""
    return list(_routing(model).languages) if clsr_blocks(model) else []


def set_language(model: nn.Module, language: LanguageChoice) -> None:
    """Choose the experts that the next forward passes use.

    Args:
        model: A Whisper with experts; without experts only None is allowed.
        language: A code or English name for the whole batch; a list with one entry per sequence in
            the batch (None: no expert); or None for plain Whisper.

    Raises:
        ValueError: For a language without experts (the message lists those that have some), or an
            empty list.
    """
    if language is None and not clsr_blocks(model):
        return
    routing = _routing(model)
    if isinstance(language, list | tuple):
        codes = [_code_or_none(one) for one in language]
        choice: LanguageChoice = codes
    else:
        choice = _code_or_none(language)
        codes = [choice]

    unknown = sorted({code for code in codes if code is not None} - set(routing.languages))
    if unknown or not codes:
        raise ValueError(
            f"no experts for {', '.join(unknown) or 'an empty list'}: "
            f"this model has {', '.join(routing.languages) or 'none'}"
        )
    routing.choose(choice)


def _code_or_none(language: str | None) -> str | None:
    """Return the code of a language; None stays None."""
    return None if language is None else language_code(language)


def get_language(model: nn.Module) -> LanguageChoice:
    """Return what `set_language` was given last, as codes; None on a model without experts."""
    return _routing(model).language if clsr_blocks(model) else None


@contextmanager
def use_language(model: Model, language: LanguageChoice) -> Iterator[Model]:
    """Set the language inside a `with` block, and the previous one afterwards, also on errors.

    Args:
        model: As for `set_language`.
        language: As for `set_language`.

    Raises:
        ValueError: As `set_language` does.
    """
    before = get_language(model)
    set_language(model, language)
    try:
        yield model
    finally:
        set_language(model, before)


# ---- gates and parameters


def set_noise(model: nn.Module, alpha: float) -> None:
    """Set alpha, the strength of the gates' training noise."""
    _routing(model).noise = alpha


def last_gates(model: nn.Module) -> dict[str, list[torch.Tensor]]:
    """Return the gates g of the latest forward pass.

    Returns:
        {"encoder": one (B, S) per layer, "decoder": one (B, T) per layer}, NaN in sequences without
        an expert; empty lists where no sequence had one.
    """
    gates: dict[str, list[torch.Tensor]] = {"encoder": [], "decoder": []}
    for stack, _, block in _blocks_by_layer(model):
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
    for stack, index, block in _blocks_by_layer(model):
        for name, parameter in block.named_parameters():
            kind, code, *_ = name.split(".")
            if kind in ("experts", "gates") and language in (None, code):
                yield f"{stack}.{index}.{name}", parameter
