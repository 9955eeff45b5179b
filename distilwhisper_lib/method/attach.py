"""Conditional language-specific routing (CLSR): an expert and a gate in every feed-forward block of Whisper.

The layers of transformers' Whisper hold `fc1`, `activation_fn` and `fc2`. `attach_experts` moves the three into
one block, puts that block at `fc1` and leaves `fc2` and `activation_fn` as identities, so that the layer's own
code runs unchanged. Checkpoints keep Whisper's names: what `save_pretrained` writes is a Whisper.

Source: paper, section 3; Zhang et al., "Share or Not?", ICLR 2021; the authors' release (CLSRFFN).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import torch
from torch import nn

from ..whisper.tokens import language_code
from .experts import ExpertSettings, FeedForward
from .routing import ClsrFeedForward, Routing


def _from_whisper_names(layer, state: dict, prefix: str, *_) -> None:
    """The inverse of `_to_whisper_names`, before a layer's state is loaded: its `fc1` never sees names in `fc2`."""
    for name, _ in layer.fc1.shared.named_parameters():
        if prefix + name in state:
            state[f"{prefix}fc1.shared.{name}"] = state.pop(prefix + name)


def whisper_layers(model) -> Iterator[tuple[str, int, nn.Module]]:
    """Yield (stack, index, layer): "encoder" layers first, then "decoder"; looks through a PEFT wrapper."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for stack in ("encoder", "decoder"):
        for index, layer in enumerate(getattr(base.model, stack).layers):
            yield stack, index, layer


def shared_block(layer: nn.Module) -> FeedForward:
    """Return a layer's own feed-forward block, with experts beside it or without."""
    if isinstance(layer.fc1, ClsrFeedForward):
        return layer.fc1.shared
    return FeedForward(layer.fc1, layer.activation_fn, layer.fc2)


def clsr_blocks(model) -> list[ClsrFeedForward]:
    """Return the model's CLSR blocks, encoder first; an empty list where no experts are attached."""
    return [
        layer.fc1 for _, _, layer in whisper_layers(model) if isinstance(layer.fc1, ClsrFeedForward)
    ]


def attach_experts(model, languages: list[str], settings: ExpertSettings | None = None):
    """Freeze `model` and give every feed-forward block an expert and a gate per language, in place.

    languages: codes or English names; a language attached before keeps its experts. Until they are trained the
    outputs stay exactly the same. No language is set afterwards: see `set_language`.
    Returns the model. Raises ValueError for an unknown language, a model that is not a Whisper, or activation
    dropout (it would act in the wrong place).
    """
    codes = [
        language_code(language)
        for language in ([languages] if isinstance(languages, str) else languages)
    ]
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(getattr(base, "config", None), "model_type", None) != "whisper":
        raise ValueError(f"experts go into a Whisper; this is a {type(base).__name__}")
    if base.config.activation_dropout:
        raise ValueError("experts need config.activation_dropout = 0: set it before attach_experts")
    if not clsr_blocks(model):
        model.requires_grad_(False)
        routing = Routing(settings or ExpertSettings())
        for _, _, layer in whisper_layers(model):
            block = ClsrFeedForward(shared_block(layer), routing)
            block.loading = layer.register_load_state_dict_pre_hook(_from_whisper_names)
            layer.fc1, layer.activation_fn, layer.fc2 = (
                block.train(layer.training),
                nn.Identity(),
                nn.Identity(),
            )
    routing = _routing(model)
    if settings not in (None, routing.settings):
        raise ValueError(
            f"experts are attached with {asdict(routing.settings)}; detach them to change settings"
        )
    for code in [code for code in dict.fromkeys(codes) if code not in routing.known]:
        for block in clsr_blocks(model):
            block.add_language(code)
        routing.known.append(code)
    return model


def detach_experts(model):
    """Take experts and gates out again, in place: the plain model, still frozen. Returns the model."""
    for _, _, layer in whisper_layers(model):
        if isinstance(layer.fc1, ClsrFeedForward):
            shared = shared_block(layer)
            layer.fc1.loading.remove()
            layer.fc1, layer.activation_fn, layer.fc2 = shared.fc1, shared.activation_fn, shared.fc2
    return model


def _routing(model) -> Routing:
    blocks = clsr_blocks(model)
    if not blocks:
        raise ValueError(
            "no experts are attached: call attach_experts(model, [...]) or load_experts first"
        )
    return blocks[0].routing


def expert_languages(model) -> list[str]:
    """Return the codes of the languages that have experts, in the order in which they were attached."""
    return list(_routing(model).known) if clsr_blocks(model) else []


def set_language(model, language: str | list[str | None] | None) -> None:
    """Choose the experts: one language, a list with one entry per row of the batch, or None for plain Whisper.

    Raises ValueError for a language without experts (the message lists those that have some). None is always
    allowed, also on a model without experts.
    """
    if language is None and not clsr_blocks(model):
        return
    routing = _routing(model)
    rows = language if isinstance(language, (list, tuple)) else [language]
    codes = [None if row is None else language_code(row) for row in rows]
    unknown = sorted({code for code in codes if code is not None and code not in routing.known})
    if unknown or not codes:
        raise ValueError(
            f"no experts for {', '.join(unknown) or 'an empty list'}: "
            f"this model has {', '.join(routing.known) or 'none'}"
        )
    routing.language = codes if isinstance(language, (list, tuple)) else codes[0]
    routing._rows.clear()


def get_language(model) -> str | list[str | None] | None:
    """Return what `set_language` was given last, as codes; None on a model without experts."""
    return _routing(model).language if clsr_blocks(model) else None


@contextmanager
def use_language(model, language: str | list[str | None] | None):
    """Set the language inside a `with` block, and what was set before afterwards, also after an error."""
    before = get_language(model)
    set_language(model, language)
    try:
        yield model
    finally:
        set_language(model, before)


def set_noise(model, alpha: float) -> None:
    """Set alpha, the strength of the gates' training noise."""
    _routing(model).noise = alpha


def last_gates(model) -> dict[str, list[torch.Tensor]]:
    """Return g of the latest forward pass: {"encoder": [(B, S) per layer], "decoder": [(B, T) per layer]}."""
    found = {"encoder": [], "decoder": []}
    for stack, _, layer in whisper_layers(model):
        if isinstance(layer.fc1, ClsrFeedForward) and layer.fc1.last_gate is not None:
            found[stack].append(layer.fc1.last_gate)
    return found


def expert_parameters(model, language: str | None = None) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) of experts and gates, of one language or of all; names without the layer's path."""
    for stack, index, layer in whisper_layers(model):
        for name, parameter in layer.fc1.named_parameters():
            kind, *path = name.split(".")
            if kind in ("experts", "gates") and language in (None, path[0]):
                yield f"{stack}.{index}.{name}", parameter
