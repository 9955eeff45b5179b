"""Fine-tuning and experts, as much of them as one likes: weights between before and after."""

import copy

import torch
from transformers import WhisperForConditionalGeneration

from ..checks import check_number
from ..method.blocks import clsr_blocks, shared_block, whisper_layers
from ..method.languages import get_language, set_language


def interpolated(
    student: WhisperForConditionalGeneration,
    trained: WhisperForConditionalGeneration,
    alpha: float,
) -> WhisperForConditionalGeneration:
    """Return the Whisper whose weights lie between those of two others.

    Args:
        student: As it was before the training.
        trained: The same Whisper, fine-tuned: its weights have the same names and shapes.
        alpha: How far it lies towards `trained`, from 0 to 1. At 0 its weights are the student's to
            the last bit, at 1 those of `trained`.

    Returns:
        A new model on the student's device, in the student's mode.

    Raises:
        ValueError: For an alpha out of range; where weights differ in name, shape or type, as those
            of models with experts or adapters do.

    Source: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022.
    """
    check_number("alpha", alpha, low=0, high=1)
    model = copy.deepcopy(student)
    values = _values_of(model)
    ends = _values_of(trained)
    _check_same(values, ends)
    with torch.no_grad():
        for name, value in values.items():
            if value.is_floating_point():
                value.copy_(_between(value, ends[name].to(value.device), alpha))
    return model


def interpolated_experts(
    model: WhisperForConditionalGeneration, alpha: float
) -> WhisperForConditionalGeneration:
    """Return a model whose experts lie between the shared blocks and what they have become.

    An expert begins as a copy of the shared block. The gates stay as they are.

    Args:
        model: A Whisper with experts that are whole copies.
        alpha: How far its experts lie towards those of `model`, from 0 to 1. At 0 each computes
            what the shared block does.

    Returns:
        A new model on the same device, in the same mode, with the same language.

    Raises:
        ValueError: For an alpha out of range, a model without experts, or experts that are no whole
            copies.
    """
    check_number("alpha", alpha, low=0, high=1)
    if not clsr_blocks(model):
        raise ValueError("this Whisper has no experts: call attach_experts or load_experts first")
    language = get_language(model)
    model = copy.deepcopy(model)  # without what holds for this call
    set_language(model, language)
    layers = [layer for _, _, layer in whisper_layers(model)]
    with torch.no_grad():
        for block, layer in zip(clsr_blocks(model), layers, strict=True):
            starts = dict(shared_block(layer).named_parameters())
            for language, expert in block.experts.items():
                for name, value in expert.named_parameters():
                    if name not in starts:
                        raise ValueError(
                            f"the experts of {language} have {name}, the shared block has none: "
                            "only whole copies, of no low rank and without adapters, can be mixed"
                        )
                    value.copy_(_between(starts[name], value, alpha))
    return model


def _between(start: torch.Tensor, end: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return the values between two tensors; at both ends with the same bits, that of -0 too."""
    if alpha in (0, 1):
        return end if alpha else start
    return torch.lerp(start, end, alpha)


def _values_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return parameters and buffers by name; of tied ones the first name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _check_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Raise ValueError unless two models have the same weights, in shape and type."""
    advice = "give two plain Whispers of the same size and precision, without experts and adapters"
    alone = sorted(one.keys() ^ other.keys())
    if alone:
        raise ValueError(f"one of the two models alone has {alone[0]}: {advice}")
    for name, value in one.items():
        pair = [(tuple(each.shape), each.dtype) for each in (value, other[name])]
        if pair[0] != pair[1]:
            found = " and ".join(f"{shape} in {dtype}" for shape, dtype in pair)
            raise ValueError(f"the two models have {found} for {name}: {advice}")
