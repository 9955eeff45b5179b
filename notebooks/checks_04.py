"""Checks of the exercises in notebook 04."""

import torch
from answers import function, number, tensor
from peft import LoraConfig, get_peft_model
from torch import nn

from distilwhisper_lib import lora_config, tiny_whisper


def check_lora_parameters(answer) -> str:
    """Exercise 4.1: trainable parameters of LoRA in whisper-small."""
    right = 24 * 2 * 64 * (768 + 3072)
    answer = number(answer, "lora_parameters")
    assert answer != right // 2, (
        "half of it: each layer has two linear layers, fc1 and fc2 (and there are 24 layers)"
    )
    assert answer != 24 * 2 * (768 + 3072), "that is for r = 1: A and B have r rows or columns"
    assert answer != right + 24 * (768 + 3072), "LoRA's A and B have no bias"
    assert abs(answer - right / 1e6) > 0.1, "that is in millions: give the number itself"
    assert answer != 24 * 2 * 768 * 3072, (
        "that is the number of weights in fc1 and fc2 themselves, which stay frozen"
    )
    assert answer != 2 * right, (
        "twice as much: that is LoRA on the shared block and on the expert of each layer, "
        "as the released script has it; here is only one block a layer"
    )
    assert answer == right, (
        f"{answer:,.0f} is not it: r * (d_in + d_out) for each of the 2 * 24 linear layers"
    )
    return f"{right:,} parameters, under 5 % of whisper-small's 241.7 million"


def _check_merge(merge, d_in: int, d_out: int, r: int, alpha: int) -> None:
    """Exercise 4.2 on one layer with random factors."""
    torch.manual_seed(0)
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=["0"])
    peft = get_peft_model(nn.Sequential(nn.Linear(d_in, d_out)), config)
    layer = peft.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    A = layer.lora_A["default"].weight.detach()
    B = layer.lora_B["default"].weight.detach()
    weight = layer.base_layer.weight.detach()
    before = weight.clone()
    x = torch.randn(3, d_in)
    try:
        merged = merge(weight, A, B, alpha)
    except NotImplementedError:  # not attempted; it is a RuntimeError too
        raise
    except RuntimeError as error:
        raise AssertionError(
            f"the shapes do not fit ({error}): A is (r, d_in) and B is (d_out, r), so only B @ A "
            "has the shape of the weight, (d_out, d_in)"
        ) from None
    assert torch.equal(weight, before), (
        "`weight` itself has changed: return a new tensor instead of using +="
    )
    merged = tensor(merged, weight.shape, "the merged weight")
    change = B @ A
    assert not torch.allclose(merged, alpha / r * change), (
        "that is the adapter alone: the frozen weight belongs to the sum"
    )
    assert not torch.allclose(merged, weight + change), (
        f"the scale is missing: this only works where alpha equals r; here alpha = {alpha} and r = "
        f"{r}"
    )
    assert not torch.allclose(merged, weight + alpha * change), "the scale is alpha / r, not alpha"
    assert not torch.allclose(merged, weight + r / alpha * change), (
        "upside down: the scale is alpha / r"
    )
    assert not torch.allclose(merged, weight + alpha / d_in * change), (
        f"r is the other side of A: A is (r, d_in), here ({r}, {d_in})"
    )
    assert not torch.allclose(merged, weight - alpha / r * change), "the adapter is added"
    for fixed in (2, 4, 8, 16, 32, 64):
        assert fixed == r or not torch.allclose(merged, weight + alpha / fixed * change), (
            f"r is fixed to {fixed}, but here it is {r}: the rank is in the shape of A"
        )
    with torch.no_grad():
        assert torch.allclose(
            nn.functional.linear(x, merged, layer.base_layer.bias), peft(x), atol=1e-5
        ), "the merged layer gives other outputs than PEFT's adapter: W + alpha / r * B @ A"


def check_merge(merge) -> str:
    """Exercise 4.2: the weight that does what a frozen weight and its adapter do."""
    merge = function(merge, "merge(weight, A, B, alpha)")
    _check_merge(merge, d_in=6, d_out=10, r=2, alpha=8)
    _check_merge(merge, d_in=7, d_out=5, r=3, alpha=8)
    _check_merge(merge, d_in=6, d_out=6, r=4, alpha=2)
    return "the merged layer does what PEFT's adapter does, without it"


def check_route(route) -> str:
    """Exercise 4.3: outputs with the adapter for its own language alone."""
    route = function(route, "route(model, run, language, adapted)")
    model = get_peft_model(tiny_whisper(), lora_config()).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    x = torch.randn(1, 4, 32)

    def run():
        with torch.no_grad():
            return model.get_base_model().model.encoder.layers[0].fc1(x)

    on = run()
    with model.disable_adapter():
        off = run()
    for language, adapted in (("cs", "cs"), ("nl", "cs"), ("nl", "nl"), ("cs", "nl")):
        given = route(model, run, language, adapted)
        assert given is not None, "nothing came back: return what run() returns"
        tensor(given, on.shape, "what comes back (what run() returns)")
        if language == adapted:
            assert torch.equal(given, on), (
                f"for the adapted language (here {adapted}) the adapter must be on"
            )
        else:
            assert torch.equal(given, off), (
                f"for another language ({language}, where {adapted} is adapted) the outputs must "
                "be the student's: call run() inside `with model.disable_adapter():`"
            )
        assert torch.equal(run(), on), (
            "the adapter is still off after your function: use the `with` block, which undoes it"
        )
    return "another language gets the student's outputs exactly, and the adapter is back afterwards"
