"""Checks of the exercises in notebook 07."""

import pandas as pd
import torch

from distilwhisper_lib import (
    attach_experts,
    clsr_blocks,
    expert_parameters,
    load_whisper,
    set_language,
    whisper_layers,
)


def check_pooled_budget(decoder_share, encoder_mean) -> str:
    """Exercise 7.1: the decoder's share of the pooled mean, and the encoder's mean without it."""
    assert abs(decoder_share - 0.02) > 1e-4, (
        "2.00 % is 30 of 1,500; the share is of all positions, the decoder's own included"
    )
    assert abs(decoder_share - 30 / 1530) < 1e-4, (
        f"{decoder_share:.4f} is not it: both stacks have 12 layers, so the layers cancel out: 30 "
        "/ (1500 + 30)"
    )
    assert abs(encoder_mean - 0.5) > 1e-3, (
        "with 0.5 in the encoder and 0 in the decoder the mean lies below 0.5"
    )
    assert abs(encoder_mean - 0.5 * 1530 / 1500) < 1e-3, (
        f"{encoder_mean:.3f} is not it: 1500 x / 1530 = 0.5 has to hold for x"
    )
    return "two points more in the encoder pay for a decoder that never uses its experts"


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


def check_one_change(one_change) -> str:
    """Exercise 7.2: the pairs of trials that differ in exactly one setting."""
    pairs = {frozenset(pair) for pair in one_change(TRIALS.copy())}
    assert all(len(pair) == 2 for pair in pairs), (
        "a pair is two different rows: a trial is not compared with itself"
    )
    assert frozenset((0, 3)) not in pairs, (
        "rows 0 and 3 differ in noise AND learning rate: which of them did it?"
    )
    assert frozenset((0, 4)) not in pairs, "rows 0 and 4 differ in budget and divergence"
    right = {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 4), (2, 4))}
    assert pairs == right, f"missing or too many: {sorted(sorted(pair) for pair in pairs ^ right)}"
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


def check_open_only(open_only) -> str:
    """Exercise 7.3: all layers closed but some, which keep their own gates; undone afterwards."""
    model, inputs = made_up_experts()
    with torch.no_grad():
        before = model(**inputs).logits
        free = [block.last_gate.clone() for block in clsr_blocks(model)]
        with open_only(model, "decoder", [0]):
            model(**inputs)
            places = [(stack, index) for stack, index, _ in whisper_layers(model)]
            kept = [block.last_gate for block in clsr_blocks(model)]
            gates = dict(zip(places, kept, strict=True))
        after = model(**inputs).logits
    for place, gate in gates.items():
        if place != ("decoder", 0):
            assert not gate.any(), f"layer {place} should be closed, but some of its gates are open"
    gate = gates["decoder", 0]
    own = free[places.index(("decoder", 0))]
    assert gate.shape == own.shape, "the gate has lost its shape"
    assert not gate.all(), (
        "the layer that is kept has all gates open: it should decide for itself, as trained"
    )
    assert gate.any(), (
        "the layer that should be kept is closed too: are stack and index both compared?"
    )
    assert torch.equal(before, after), (
        "after the block the model is not the one it was: remove the hooks"
    )
    return "one layer at a time can be asked what it contributes, without any training"
