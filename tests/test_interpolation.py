"""A Whisper between two others: both ends to the last bit, the middle in the middle."""

import pytest
import torch
from random_data import shake_experts

from distilwhisper_lib.evaluation.interpolation import interpolated, interpolated_experts
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import get_language, set_language, use_language
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


# ---- experts


@pytest.fixture
def with_experts():
    """A Whisper with Czech and Catalan experts that have moved, set to Czech."""
    model = attach_experts(load_whisper("tiny"), ["cs", "ca"]).eval()
    shake_experts(model)
    set_language(model, "cs")
    return model


def logits_of(model) -> torch.Tensor:
    """Return the logits of a fixed input."""
    torch.manual_seed(4)
    features = torch.randn(2, model.config.num_mel_bins, 2 * model.config.max_source_positions)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    with torch.no_grad():
        return model(input_features=features, decoder_input_ids=ids).logits


def test_experts_at_both_ends(with_experts):
    trained = logits_of(with_experts)
    assert torch.equal(logits_of(interpolated_experts(with_experts, 1)), trained)
    at_start = logits_of(interpolated_experts(with_experts, 0))
    set_language(with_experts, None)
    assert torch.equal(at_start, logits_of(with_experts))  # an expert computes what is shared
    assert not torch.equal(at_start, trained)


def test_an_expert_lies_as_far_as_alpha_says_and_gates_stay(with_experts):
    before = {name: value.clone() for name, value in with_experts.state_dict().items()}
    between = interpolated_experts(with_experts, 0.25)
    assert all(torch.equal(before[name], v) for name, v in with_experts.state_dict().items())
    for old, new in zip(clsr_blocks(with_experts), clsr_blocks(between), strict=True):
        for code in ("cs", "ca"):
            for layer in ("fc1", "fc2"):
                for name in ("weight", "bias"):
                    start = getattr(getattr(old.shared, layer), name)
                    end = getattr(getattr(old.experts[code], layer), name)
                    found = getattr(getattr(new.experts[code], layer), name)
                    torch.testing.assert_close(found, 0.75 * start + 0.25 * end)
            pairs = zip(old.gates[code].parameters(), new.gates[code].parameters(), strict=True)
            assert all(torch.equal(one, other) for one, other in pairs)


def test_models_without_whole_experts_are_refused(with_experts, model):
    with pytest.raises(ValueError, match="^alpha is "):
        interpolated_experts(with_experts, 2)
    with pytest.raises(ValueError, match="has no experts: call attach_experts"):
        interpolated_experts(model, 0.5)
    low = attach_experts(load_whisper("tiny"), ["cs"], ExpertSettings(rank=2))
    with pytest.raises(ValueError, match="experts of cs have fc1.down.weight.*only whole copies"):
        interpolated_experts(low, 0.5)


def test_experts_between_have_the_language_of_the_block_that_they_are_made_in():
    model = attach_experts(load_whisper("tiny"), ["cs", "ca"])
    with use_language(model, "cs"):
        assert get_language(interpolated_experts(model, 0.5)) == "cs"
    set_language(model, "ca")
    assert get_language(interpolated_experts(model, 0.5)) == "ca"


def test_biases_of_experts_lie_between_as_well():
    model = load_whisper("tiny")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.normal_()
    shake_experts(attach_experts(model, ["cs"]))
    between = interpolated_experts(model, 0.25)
    for block, found in zip(clsr_blocks(model), clsr_blocks(between), strict=True):
        start, end = block.shared.fc1.bias, block.experts["cs"].fc1.bias
        assert not torch.equal(start, end)
        torch.testing.assert_close(found.experts["cs"].fc1.bias, 0.75 * start + 0.25 * end)
