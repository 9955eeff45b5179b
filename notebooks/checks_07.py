"""Checks of the exercises in notebook 07."""

import contextlib

import pandas as pd
import torch
from answers import function, items, number
from hashed import hashed

from distilwhisper_lib import (
    attach_experts,
    clsr_blocks,
    expert_parameters,
    load_whisper,
    set_language,
    whisper_layers,
)

DECODER_SHARE = hashed("7.1 decoder_share")
ENCODER_MEAN = hashed("7.1 encoder_mean")


def check_pooled_budget(decoder_share, encoder_mean) -> str:
    """Exercise 7.1: the decoder's share of the pooled mean, and the encoder's mean without it."""
    decoder_share = number(decoder_share, "decoder_share")
    encoder_mean = number(encoder_mean, "encoder_mean")
    if decoder_share >= 1:  # the exercise speaks of per cent
        decoder_share /= 100
    DECODER_SHARE.check(
        decoder_share,
        f"{decoder_share:.4f} is not it: both stacks have 12 layers, so the layers cancel out; "
        "which part of a layer's positions, of both stacks together, is the decoder's?",
    )
    assert encoder_mean <= 1, "a mean of gates lies between 0 and 1 (not in per cent)"
    return ENCODER_MEAN.check(
        encoder_mean,
        f"{encoder_mean:.3f} is not it: the mean over all positions, with x in the encoder's and 0 "
        "in the decoder's, is an equation that has to hold for x",
    )


# Of exercise 7.2
TRIALS = pd.DataFrame(
    [
        [0.8, "js", 5.0, 3e-4],
        [0.5, "js", 5.0, 3e-4],
        [0.8, "kl", 5.0, 3e-4],
        [0.8, "js", 1.0, 1.5e-4],
        [0.5, "kl", 5.0, 3e-4],
    ],
    columns=["budget", "divergence", "noise", "learning_rate"],
)


# A second table: the first two trials are equal
OTHER_TRIALS = pd.DataFrame(
    [[1, "a"], [1, "a"], [2, "a"], [2, "b"]],
    columns=["seed", "method"],
)


def _pairs(one_change, trials: pd.DataFrame) -> set[frozenset]:
    """Return the pairs that the reader's function finds, whatever their order."""
    wanted = "return a list of pairs of row numbers, such as [(0, 1), (2, 4)]"
    pairs = items(one_change(trials.copy()), wanted)
    pairs = [tuple(items(pair, wanted)) for pair in pairs]
    assert all(len(pair) == 2 for pair in pairs), wanted
    assert all(number(i, "a row number") in range(len(trials)) for pair in pairs for i in pair), (
        f"a table of {len(trials)} rows has the row numbers 0 to {len(trials) - 1}: are they "
        "those of the table that is given, counted from 0?"
    )
    assert all(i != j for i, j in pairs), (
        "a pair is two different rows: a trial is not compared with itself"
    )
    return {frozenset(pair) for pair in pairs}


def check_one_change(one_change) -> str:
    """Exercise 7.2: the pairs of trials that differ in exactly one setting."""
    one_change = function(one_change, "one_change(trials)")
    pairs = _pairs(one_change, TRIALS)
    assert frozenset((0, 3)) not in pairs, (
        "rows 0 and 3 differ in noise AND learning rate: which of them did it?"
    )
    assert frozenset((0, 4)) not in pairs, "rows 0 and 4 differ in budget and divergence"
    right = {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 4), (2, 4))}
    assert pairs == right, f"missing or too many: {sorted(sorted(pair) for pair in pairs ^ right)}"
    pairs = _pairs(one_change, OTHER_TRIALS)
    assert frozenset((0, 1)) not in pairs, (
        "in another table rows 0 and 1 are equal: they differ in no column, not in exactly one"
    )
    right = {frozenset(pair) for pair in ((0, 2), (1, 2), (2, 3))}
    assert pairs == right, (
        "right for the first table, but not for one of four rows and two columns: missing or too "
        f"many: {sorted(sorted(pair) for pair in pairs ^ right)}"
    )
    return "four of the ten pairs are ablations; of the others no single setting can be blamed"


def made_up_experts():
    """Return a tiny Whisper with random Czech experts and mixed gates, and an input."""
    torch.manual_seed(15)
    model = attach_experts(load_whisper("tiny"), ["cs"])
    with torch.no_grad():
        for name, weight in expert_parameters(model):
            if ".experts." in name:
                weight.add_(0.5 * torch.randn_like(weight))
            else:
                weight.normal_()
    set_language(model, "cs")
    features = torch.randn(1, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    return model, {"input_features": features, "decoder_input_ids": torch.arange(1, 33)[None]}


def _gates(model) -> dict[tuple[str, int], torch.Tensor]:
    """Return the gates of the latest pass, by stack and index."""
    places = [(stack, index) for stack, index, _ in whisper_layers(model)]
    gates = [block.last_gate.clone() for block in clsr_blocks(model)]
    return dict(zip(places, gates, strict=True))


def _gates_within(open_only, model, inputs, stack: str, layers: list[int]):
    """Return the gates of a pass within the reader's block."""
    manager = open_only(model, stack, layers)
    assert hasattr(manager, "__enter__"), (
        "this cannot stand in a `with` statement: put @contextlib.contextmanager above the "
        "function, and a `yield` into it"
    )
    with manager:
        model(**inputs)
        return _gates(model)


def _fails_within(open_only, model) -> None:
    """Raise an error within the reader's block, as an interrupted cell does."""
    with contextlib.suppress(KeyboardInterrupt), open_only(model, "encoder", [0]):
        raise KeyboardInterrupt


@torch.no_grad()
def check_open_only(open_only) -> str:
    """Exercise 7.3: all layers closed but some, which keep their own gates; undone afterwards."""
    open_only = function(open_only, "open_only(model, stack, layers)")
    model, inputs = made_up_experts()
    before = model(**inputs).logits
    own = _gates(model)
    for stack, layers in (("decoder", [0]), ("encoder", [0]), ("decoder", [0, 1])):
        kept = {(stack, index) for index in layers}
        gates = _gates_within(open_only, model, inputs, stack, layers)
        after = model(**inputs).logits
        for place, gate in gates.items():
            assert gate.shape == own[place].shape, "the gate has lost its shape"
            if place not in kept:
                assert not gate.any(), (
                    f"with {stack} {layers} kept, layer {place} should be closed, but some of its "
                    "gates are open (G >= 0 is open, so 0 does not close one)"
                )
        for place in sorted(kept):
            assert not gates[place].all(), (
                f"layer {place}, which is kept, has all gates open: it should decide for itself, "
                "as trained"
            )
            assert gates[place].any(), (
                f"layer {place}, which should be kept, is closed too: are stack and index both "
                "compared, and all of the list `layers`?"
            )
        # The input of the encoder's first block does not depend on other experts
        assert stack != "encoder" or torch.equal(gates["encoder", 0], own["encoder", 0]), (
            "the layer that is kept has other gates than without the block: it should decide for "
            "itself, as trained"
        )
        assert torch.equal(before, after), (
            "after the block the model is not the one it was: remove the hooks"
        )
    _fails_within(open_only, model)
    assert torch.equal(before, model(**inputs).logits), (
        "after an error within the block (say, an interrupted cell) the model is not the one it "
        "was: remove the hooks in `finally:`"
    )
    return "one layer at a time can be asked what it contributes, without any training"
