"""Experts without gates: which gates agree on a calibration set, gates that are fixed, and a plain Whisper again."""

from collections.abc import Iterable

import pandas as pd
import torch
from tqdm import tqdm

from ..data.batches import position_masks
from ..method.attach import clsr_blocks, detach_experts, last_gates, use_language, whisper_layers
from ..whisper.logits import teacher_forced_logits
from ..whisper.tokens import language_code


def gate_shares(model, language: str, batches: Iterable[dict]) -> pd.DataFrame:
    """Return how often the gates of each layer are open in evaluation: columns stack, layer, open, agree.

    batches: as a Collator makes them of clips and their text, which is given (teacher forcing); padding does not count.
    open: share of positions that go to the expert; agree: share of those that go where most go, 0.5 to 1.
    Raises ValueError for a language without experts, or no batches.
    """
    was_training, sums, counts = model.training, {}, {}
    with use_language(model, language):
        model.eval()
        for batch in tqdm(batches, desc="calibration", unit="batch"):
            teacher_forced_logits(model, batch)
            gates = last_gates(model)
            masks = position_masks(batch, gates["encoder"][0].shape[1])
            for stack, layers in gates.items():
                opened = ((torch.stack(layers) > 0.5).cpu() & masks[stack].cpu()).sum(
                    (1, 2)
                )  # (L,), whole numbers
                sums[stack] = sums.get(stack, 0) + opened
                counts[stack] = counts.get(stack, 0) + int(masks[stack].sum())
        model.train(was_training)
    if not sums:
        raise ValueError(
            "there are no calibration batches: give a list of collated batches of clips in the language"
        )
    rows = [
        {"stack": stack, "layer": layer, "open": float(opened) / counts[stack]}
        for stack in sums
        for layer, opened in enumerate(sums[stack])
    ]
    table = pd.DataFrame(rows)
    return table.assign(agree=table["open"].where(table["open"] >= 0.5, 1 - table["open"]))


def fix_gates(model, language: str, shares: pd.DataFrame, at_least: float = 1.0):
    """Fix the gates of a language that agree on at least this share of positions: where most positions go, all go.

    shares: of `gate_shares`. A fixed gate is not computed in evaluation; training and `save_experts` know nothing of
    it. It is free again when other experts of the language are loaded, or where a second call leaves it out: call this
    again after training. Returns the model. Raises ValueError for a language without experts.
    """
    code = language_code(language)
    with use_language(model, code):  # refuses one without experts
        for block, open_, agree in zip(
            clsr_blocks(model), shares["open"], shares["agree"], strict=True
        ):
            block.fixed.pop(code, None)
            if agree >= at_least:
                block.fixed[code] = open_ >= 0.5
    return model


def bake(model, language: str, batches: Iterable[dict], threshold: float = 0.5):
    """Make a plain transformers Whisper for one language of `model`, in place, at no cost in inference.

    Each layer keeps the expert for good where its gate is open at `threshold` or more of the positions of `batches` of
    calibration clips (see `gate_shares`, which raises the errors), else the shared block. What that costs depends on
    how far the positions of a layer agree: compare WER. Returns the model, frozen; `save_pretrained` writes an ordinary
    checkpoint.
    """
    shares, code = gate_shares(model, language, batches), language_code(language)
    kept = [
        block.experts[code] if open_ >= threshold else block.shared
        for block, open_ in zip(clsr_blocks(model), shares["open"], strict=True)
    ]
    if any(block.routing.settings.rank for block in clsr_blocks(model)):
        kept = [
            block if block is own.shared else _merged(block, own.shared)
            for block, own in zip(kept, clsr_blocks(model), strict=True)
        ]
    detach_experts(model)
    for (_, _, layer), block in zip(whisper_layers(model), kept, strict=True):
        layer.fc1, layer.fc2 = block.fc1, block.fc2
    return model.requires_grad_(False)


@torch.no_grad()
def _merged(expert, shared):
    """Add what a low-rank expert has learnt to the shared block's own weights: nobody else will use these."""
    for name in ("fc1", "fc2"):
        thin, linear = getattr(expert, name), getattr(shared, name)
        linear.weight += thin.up.weight @ thin.down.weight
    return shared
