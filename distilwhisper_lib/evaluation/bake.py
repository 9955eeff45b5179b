"""Experts without gates: constant gates where a calibration set allows them, or a plain Whisper."""

from collections.abc import Iterable

import pandas as pd
import torch
from tqdm import tqdm

from ..checks import check_number
from ..data.batches import position_masks
from ..method.attach import detach_experts
from ..method.blocks import blocks_by_layer, clsr_blocks, last_gates, whisper_layers
from ..method.languages import use_language
from ..method.routing import ClsrFeedForward
from ..whisper.logits import teacher_forced_logits
from ..whisper.tokens import language_code
from ..whisper.unwrap import has_adapter


def gate_shares(model, language: str, batches: Iterable[dict]) -> pd.DataFrame:
    """Measure on a calibration set how often the gates of each layer are open in evaluation.

    Args:
        model: A model with experts for `language`.
        language: Its code or English name.
        batches: Collated batches of clips with their texts, which are teacher-forced. Padding does
            not count.

    Returns:
        One row per layer, those of the encoder first, with the columns stack, layer, open (the
        share of positions that go to the expert) and agree (the share of positions with the same
        gate decision as the majority, 0.5 to 1).

    Raises:
        ValueError: For a language without experts, or where there are no batches.
    """
    opened: dict[str, torch.Tensor] = {}  # stack -> number of open positions in each layer, (L,)
    counted: dict[str, int] = {}  # stack -> number of positions
    was_training = model.training
    with use_language(model, language):
        model.eval()
        try:
            for batch in tqdm(batches, desc="calibration", unit="batch"):
                teacher_forced_logits(model, batch)
                gates = last_gates(model)
                masks = position_masks(batch, encoder_positions=gates["encoder"][0].shape[1])
                for stack, layers in gates.items():
                    mask = masks[stack].cpu()
                    decisions = (torch.stack(layers) > 0.5).cpu()  # (L, B, T)
                    open_positions = (decisions & mask).sum((1, 2))
                    opened[stack] = opened.get(stack, 0) + open_positions
                    counted[stack] = counted.get(stack, 0) + int(mask.sum())
        finally:
            model.train(was_training)
    if not opened:
        raise ValueError(
            "there are no calibration batches: give a list of collated batches of clips in the "
            "language"
        )

    rows = []
    for stack, open_positions in opened.items():
        for layer, number in enumerate(open_positions.tolist()):
            rows.append({"stack": stack, "layer": layer, "open": number / counted[stack]})
    table = pd.DataFrame(rows)
    mostly_open = table["open"] >= 0.5
    return table.assign(agree=table["open"].where(mostly_open, 1 - table["open"]))


def fix_gates(model, language: str, shares: pd.DataFrame, at_least: float = 1.0):
    """Make the gates of a language constant in the layers where nearly all positions agree.

    A constant gate makes the same decision at every position, that of the majority, and is not
    computed in evaluation. Training and `save_experts` ignore constant gates. A gate is computed
    again when other experts of the language are loaded, or after a second call that leaves its
    layer out; call this again after training.

    Args:
        model: A model with experts for `language`.
        language: Its code or English name.
        shares: As `gate_shares` returns them, the rows in any order; without stack and layer in the
            order of the layers.
        at_least: The share of positions that must have the same gate decision (column agree).

    Returns:
        The model.

    Raises:
        ValueError: For a language without experts, a share that is none, or a table of another
            model.
    """
    check_number("at_least", at_least, low=0, high=1)
    code = language_code(language)
    with use_language(model, code):  # raises the error
        blocks = clsr_blocks(model)
        if not {"open", "agree"} <= set(shares) or len(shares) != len(blocks):
            raise ValueError(
                f"the table of shares does not fit the model's {len(blocks)} layers: give that of "
                "gate_shares for this model"
            )
        if {"stack", "layer"} <= set(shares):  # the rows may have been sorted to look at them
            places = [(stack, layer) for stack, layer, _ in blocks_by_layer(model)]
            by_place = shares.set_index(["stack", "layer"])
            if set(by_place.index) != set(places):
                raise ValueError("the table of shares is of other layers than the model's")
            shares = by_place.loc[places]
        layers = zip(blocks, shares["open"], shares["agree"], strict=True)
        for block, open_share, agree in layers:
            block.constant_gates.pop(code, None)
            if agree >= at_least:
                block.constant_gates[code] = open_share >= 0.5
    return model


def bake(model, language: str, batches: Iterable[dict], threshold: float = 0.5):
    """Turn a model with experts, in place, into a plain transformers Whisper for one language.

    Each layer keeps either the expert or the shared block, for every position, so that inference
    costs what it costs without experts. How much accuracy that loses depends on the share of
    positions with the same gate decision in each layer: compare the WER.

    Args:
        model: A model with experts for `language`.
        language: Its code or English name.
        batches: The calibration set, as for `gate_shares`.
        threshold: A layer keeps the expert where at least this share of positions goes to it.

    Returns:
        The model, frozen. `save_pretrained` writes an ordinary checkpoint of it.

    Raises:
        ValueError: As `gate_shares` does, for a threshold that is no share, and for a model with an
            adapter.
    """
    check_number("threshold", threshold, low=0, high=1)
    if has_adapter(model):
        raise ValueError(
            "this model has an adapter beside its experts, which save_pretrained would write "
            "alone: save the experts with save_experts, load them into a Whisper without that "
            "adapter, and bake that one"
        )
    shares = gate_shares(model, language, batches)
    code = language_code(language)

    kept = []
    for block, open_share in zip(clsr_blocks(model), shares["open"], strict=True):
        kept.append(_plain_expert(block, code) if open_share >= threshold else block.shared)

    detach_experts(model)
    for (_, _, layer), feed_forward in zip(whisper_layers(model), kept, strict=True):
        layer.fc1 = feed_forward.fc1
        layer.fc2 = feed_forward.fc2
    return model.requires_grad_(False)


def _plain_expert(block: ClsrFeedForward, language: str) -> torch.nn.Module:
    """Return an expert of ordinary linear layers; one of low rank is added to the shared block."""
    expert = block.experts[language]
    if not block.routing.settings.rank:
        return expert
    _add_low_rank(expert.fc1, block.shared.fc1)
    _add_low_rank(expert.fc2, block.shared.fc2)
    return block.shared


@torch.no_grad()
def _add_low_rank(low_rank, linear) -> None:
    """Add the product of the low-rank matrices to the weights of the shared linear layer."""
    linear.weight += low_rank.up.weight @ low_rank.down.weight
