"""Checks of the exercises in notebook 04."""

import contextlib
import warnings

import torch
from answers import function, not_a_mistake, number, tensor
from hashed import hashed
from peft import LoraConfig, get_peft_model
from torch import nn

from distilwhisper_lib import lora_config, tiny_whisper

LORA_PARAMETERS = hashed("4.1 lora_parameters")


def check_lora_parameters(answer) -> str:
    """Exercise 4.1: trainable parameters of LoRA in whisper-small."""
    answer = number(answer, "lora_parameters")
    assert answer > 10_000, "is that in millions? Give the number itself"
    return LORA_PARAMETERS.check(
        answer,
        f"{answer:,.0f} is not it: count the numbers in A and in B of one linear layer, then take "
        "all linear layers of all layers",
    )


def _check_scale(change, merged, of_peft, r: int, alpha: int) -> None:
    """Exercise 4.2: name the mistake where the change of the weight is a multiple of PEFT's."""
    d_in = of_peft.shape[1]
    assert not torch.allclose(merged, of_peft, atol=1e-5), (
        "that is the adapter alone: the frozen weight belongs to the sum"
    )
    assert alpha % r == 0 or not torch.allclose(change * alpha / r, alpha // r * of_peft), (
        f"`//` cuts off what is behind the point: alpha / r is {alpha} / {r} here"
    )
    mistakes = {
        r / alpha: f"the scale is missing: this only works where alpha equals r; here alpha = "
        f"{alpha} and r = {r}",
        r: "the scale is alpha / r, not alpha",
        (r / alpha) ** 2: "upside down: the scale is alpha / r",
        r / d_in: f"r is the other side of A: A is (r, d_in), here ({r}, {d_in})",
        -1: "the adapter is added",
    }
    for fixed in (2, 4, 8, 16, 32, 64):
        mistakes.setdefault(
            r / fixed, f"r is fixed to {fixed}, but here it is {r}: the rank is in the shape of A"
        )
    for times, message in mistakes.items():
        assert times == 1 or not torch.allclose(change, times * of_peft, atol=1e-5), message


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
    _check_scale(merged - weight, merged, layer.get_delta_weight("default").detach(), r, alpha)
    with torch.no_grad():
        assert torch.allclose(
            nn.functional.linear(x, merged, layer.base_layer.bias), peft(x), atol=1e-5
        ), "the merged layer gives other outputs than PEFT's adapter: compare it with section 2"


def check_merge(merge) -> str:
    """Exercise 4.2: the weight that does what a frozen weight and its adapter do."""
    merge = function(merge, "merge(weight, A, B, alpha)")
    _check_merge(merge, d_in=6, d_out=10, r=2, alpha=8)
    _check_merge(merge, d_in=7, d_out=5, r=3, alpha=8)
    _check_merge(merge, d_in=6, d_out=6, r=4, alpha=2)
    return "the merged layer does what PEFT's adapter does, without it"


def _stopped():
    """Stand for a computation that the reader interrupts."""
    raise KeyboardInterrupt


def check_route(route) -> str:
    """Exercise 4.3: outputs with the adapter for its own language alone."""
    route = function(route, "route(model, run, language, adapted)")
    torch.manual_seed(0)
    student = tiny_whisper().eval()
    layer = student.model.encoder.layers[0]
    x = torch.randn(1, 4, 32)
    with torch.no_grad():
        off = layer.fc1(x)  # before there is an adapter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an old name
        model = get_peft_model(student, lora_config()).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)

    def run():
        with torch.no_grad():
            return layer.fc1(x)

    on = run()
    for language, adapted, wanted in (
        ("cs", "cs", on),
        ("nl", "cs", off),
        ("nl", "nl", on),
        ("cs", "nl", off),
    ):
        code = str(language.encode(), "utf-8")  # the same text as another object
        given = route(model, run, code, adapted)
        assert given is not None, "nothing came back: return what run() returns"
        tensor(given, on.shape, "what comes back (what run() returns)")
        assert wanted is off or torch.equal(given, on), (
            f"for the adapted language (here {adapted}) the adapter must be on. (== compares two "
            "texts; `is` asks whether they are one object)"
        )
        assert wanted is on or torch.equal(given, off), (
            f"for another language ({language}, where {adapted} is adapted) the outputs must "
            "be the student's: call run() inside the block that switches the adapter off"
        )
        assert torch.equal(run(), on), (
            "the adapter is still off after your function: use the `with` block, which undoes it"
        )
    with contextlib.suppress(KeyboardInterrupt):
        route(model, _stopped, "nl", "cs")
    assert torch.equal(run(), on), (
        "run() was interrupted, as a cell can be, and the adapter stays off: a `with` block "
        "switches it on again in any case, and so does `finally:`"
    )
    return "another language gets the student's outputs exactly, and the adapter is back afterwards"


# ---- what the reader builds


@torch.no_grad()
def built_low_rank(LowRank) -> str:
    """Section 2: the forward of a linear layer with LoRA."""
    torch.manual_seed(4)
    linear = nn.Linear(5, 7)
    layer = LowRank(linear, r=2, alpha=6)
    layer.A.normal_()
    layer.B.normal_()
    x = torch.randn(3, 4, 5)
    update = nn.functional.linear(nn.functional.linear(x, layer.A), layer.B)
    right = linear(x) + 3 * update
    given = tensor(layer(x), right.shape, "y")
    not_a_mistake(
        given,
        [
            (linear(x), "that is the frozen layer alone: A and B add something to it"),
            (3 * update, "that is the adapter alone: the frozen layer belongs to the sum"),
            (linear(x) + update, "the scale is missing: alpha / r, which is `self.scale`"),
            (3 * (linear(x) + update), "the scale belongs to the adapter alone"),
            (right - linear.bias, "the bias is missing: call the layer, `self.linear(x)`"),
        ],
    )
    assert torch.allclose(given, right, atol=1e-4), (
        "not so: the frozen layer of x, and scale * B A x, for each position (a row of x)"
    )
    return "with B = 0 it is the old layer"
