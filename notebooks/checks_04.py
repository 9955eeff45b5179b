"""Checks of the exercises in notebook 04."""

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from distilwhisper_lib import lora_config, tiny_whisper


def check_lora_parameters(answer) -> str:
    """Exercise 4.1: trainable parameters of LoRA in whisper-small."""
    right = 24 * 2 * 64 * (768 + 3072)
    assert answer != right // 2, (
        "half of it: each layer has two linear layers, fc1 and fc2 (and there are 24 layers)"
    )
    assert answer != 24 * 2 * 768 * 3072, (
        "that is the number of weights in fc1 and fc2 themselves, which stay frozen"
    )
    assert answer != 2 * right, (
        "twice as much: that is LoRA on the shared block and on the expert of each layer, "
        "as the released script has it; here is only one block a layer"
    )
    assert answer == right, (
        f"{answer:,} is not it: r * (d_in + d_out) for each of the 2 * 24 linear layers"
    )
    return f"{right:,} parameters, under 5 % of whisper-small's 241.7 million"


def check_merge(merge) -> str:
    """Exercise 4.2: the weight that does what a frozen weight and its adapter do."""
    torch.manual_seed(0)
    alpha = 8
    config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["0"])
    peft = get_peft_model(nn.Sequential(nn.Linear(6, 10)), config)
    layer = peft.base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    A = layer.lora_A["default"].weight.detach()
    B = layer.lora_B["default"].weight.detach()
    weight = layer.base_layer.weight.detach()
    before = weight.clone()
    x = torch.randn(3, 6)
    merged = merge(weight, A, B, alpha)
    assert torch.equal(weight, before), (
        "`weight` itself has changed: return a new tensor instead of using +="
    )
    assert isinstance(merged, torch.Tensor) and merged.shape == weight.shape, (
        f"the merged weight must have the shape of the weight, {tuple(weight.shape)}: the product "
        "is B @ A"
    )
    assert not torch.allclose(merged, weight + B @ A), (
        "the scale is missing: this only works where alpha equals r; here alpha = 8 and r = 2"
    )
    assert not torch.allclose(merged, weight + alpha * (B @ A)), "the scale is alpha / r, not alpha"
    with torch.no_grad():
        assert torch.allclose(
            nn.functional.linear(x, merged, layer.base_layer.bias), peft(x), atol=1e-5
        ), "the merged layer gives other outputs than PEFT's adapter: W + alpha / r * B @ A"
    return "the merged layer does what PEFT's adapter does, without it"


def check_route(route) -> str:
    """Exercise 4.3: outputs with the adapter for its own language alone."""
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
    adapted = route(model, run, "cs", "cs")
    assert adapted is not None, "nothing came back: return what run() returns"
    assert torch.equal(adapted, on), "for the adapted language the adapter must be on"
    assert torch.equal(route(model, run, "nl", "cs"), off), (
        "for another language the outputs must be the student's: call run() inside `with "
        "model.disable_adapter():`"
    )
    assert torch.equal(run(), on), (
        "the adapter is still off after your function: use the `with` block, which undoes it"
    )
    return "another language gets the student's outputs exactly, and the adapter is back afterwards"
