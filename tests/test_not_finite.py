"""Gates whose logits are not finite: NaN >= 0 is false, and must not shut a gate in silence."""

import pytest
import torch
from random_data import logits, random_batch, shake_experts

from distilwhisper_lib.method import routing
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks
from distilwhisper_lib.method.languages import set_language
from distilwhisper_lib.whisper.window import use_window


@pytest.fixture
def experts(model):
    """A Whisper with Czech experts, some of whose gates are open."""
    shake_experts(attach_experts(model, ["cs"]))
    set_language(model, "cs")
    return model.eval()


def spoil(model, layer, value):
    clsr_blocks(model)[layer].gates["cs"].linear2.weight.data[0, 0] = value


@pytest.mark.parametrize("layer", [0, 3])  # of the encoder, of the decoder
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_gate_that_is_not_finite_raises_in_evaluation(experts, layer, value):
    clsr_blocks(experts)[layer].gates["cs"].linear1.bias.data[0] = 1.0
    spoil(experts, layer, value)
    with pytest.raises(ValueError, match="a gate of the cs experts has a logit that is not finite"):
        logits(experts, random_batch())


def test_it_raises_in_generation_too(experts):
    spoil(experts, 3, torch.nan)
    features = random_batch()["input_features"]
    with pytest.raises(ValueError, match="a gate of the cs experts"), use_window(experts, 100):
        experts.generate(input_features=features, language="cs", max_new_tokens=2)


def test_a_sound_that_is_not_finite_raises(experts):
    batch = random_batch()
    batch["input_features"][0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="or the input are infinite or NaN"):
        logits(experts, batch)


def test_where_nobody_may_look_the_output_becomes_nan_at_that_position(experts, monkeypatch):
    batch = random_batch()
    expected = logits(experts, batch)
    block = clsr_blocks(experts)[3]
    h = torch.randn(2, 4, 32)
    with torch.no_grad():
        plain = block(h)
        monkeypatch.setattr(routing, "_can_look", lambda h: False)  # as on a GPU, for few positions
        assert torch.equal(block(h), plain)
        assert torch.equal(logits(experts, batch), expected)
        h[1, 2] = torch.inf
        found = block(h)
    finite = found.isfinite().all(-1)
    assert finite.tolist() == [[True] * 4, [True, True, False, True]]
    spoil(experts, 3, torch.nan)
    assert logits(experts, batch).isnan().all()


def test_a_gate_that_is_not_computed_may_be_anything(experts):
    spoil(experts, 3, torch.nan)
    block = clsr_blocks(experts)[3]
    block.constant_gates["cs"] = False
    assert logits(experts, random_batch()).isfinite().all()
    set_language(experts, None)
    assert logits(experts, random_batch()).isfinite().all()


def test_a_gate_that_is_not_finite_makes_the_training_loss_nan(experts):
    spoil(experts, 0, torch.nan)
    assert logits(experts.train(), random_batch()).isnan().any()
