"""A Whisper between two others: both ends to the last bit, the middle in the middle."""

import pytest
import torch

from distilwhisper_lib.evaluation.interpolation import interpolated
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.whisper.loading import load_whisper


@pytest.fixture
def trained():
    """A Whisper whose weights are all other ones than those of `model`."""
    other = load_whisper("tiny")
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    return other


def bits(model) -> list[torch.Tensor]:
    """Return all weights as whole numbers."""
    return [value.view(torch.int32) for value in model.state_dict().values()]


def same(one, other) -> bool:
    """Return whether two models have the same bits."""
    return all(torch.equal(a, b) for a, b in zip(bits(one), bits(other), strict=True))


def test_both_ends_have_the_same_bits(model, trained):
    for parameter in (model.model.encoder.layer_norm.bias, trained.model.decoder.layer_norm.bias):
        parameter.data.fill_(-0.0)
    assert not same(model, trained)
    for alpha in (0, 0.0):
        assert same(interpolated(model, trained, alpha), model)
    for alpha in (1, 1.0):
        assert same(interpolated(model, trained, alpha), trained)


def test_a_weight_lies_as_far_as_alpha_says(model, trained):
    between = interpolated(model, trained, 0.25)
    ends = (model.state_dict(), trained.state_dict())
    for name, value in between.state_dict().items():
        start, end = (weights[name] for weights in ends)
        torch.testing.assert_close(value, 0.75 * start + 0.25 * end)
    assert between.proj_out.weight is between.model.decoder.embed_tokens.weight  # still tied


def test_the_two_models_stay_as_they_are(model, trained):
    before = [[value.clone() for value in bits(each)] for each in (model, trained)]
    between = interpolated(model, trained, 0.5)
    with torch.no_grad():
        for parameter in between.parameters():
            parameter.zero_()
    for each, values in zip((model, trained), before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(bits(each), values, strict=True))


def test_buffers_lie_between_too_and_whole_numbers_are_the_student_s(model, trained):
    for each, value in ((model, 1), (trained, 3)):
        each.register_buffer("scale", torch.tensor([float(value)]))
        each.register_buffer("steps", torch.tensor([value]))
    between = interpolated(model, trained, 0.5)
    assert between.scale.item() == 2
    assert between.steps.item() == 1


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan"), True, "0.5"])
def test_alpha_is_a_number_from_0_to_1(alpha, model, trained):
    with pytest.raises(ValueError, match="^alpha is "):
        interpolated(model, trained, alpha)


def test_other_weights_are_refused(model, trained):
    with pytest.raises(ValueError, match="have .*float32 and .*float16 for .*: give two plain"):
        interpolated(model, trained.half(), 0.5)
    with pytest.raises(ValueError, match="one of the two models alone has .*: give two plain"):
        interpolated(model, attach_experts(load_whisper("tiny"), ["cs"]), 0.5)
