"""Checks of the exercises in notebook 02."""

import torch
from answers import function, gradients, not_a_mistake, number, tensor, whole_number
from hashed import hashed

PARAMETERS = hashed("2.1 parameters")
MEGABYTES = hashed("2.1 megabytes_fp16")
FIRST_ALPHA = hashed("2.3 first_alpha")


def check_cost(parameters, megabytes_fp16) -> str:
    """Exercise 2.1: parameters, and megabytes in fp16, of one language in whisper-medium."""
    parameters = number(parameters, "parameters")
    megabytes_fp16 = number(megabytes_fp16, "megabytes_fp16")
    assert parameters > 1e6, "is that in millions, or of one part alone? Give the number itself"
    PARAMETERS.check(
        parameters,
        f"{parameters:,.0f} is not it: per layer count fc1 and fc2 with their biases, and the gate "
        "with its own; then take all layers of both stacks",
    )
    assert megabytes_fp16 < 1e6, "that is in bytes: a megabyte is 10^6 of them"
    return MEGABYTES.check(
        megabytes_fp16, "the parameters are right; the size is two bytes for each"
    )


# Of exercise 2.2: two blocks whose outputs are never equal


def shared_block(x: torch.Tensor) -> torch.Tensor:
    """Stand for the shared block."""
    return 1 - x


def expert_block(x: torch.Tensor) -> torch.Tensor:
    """Stand for the expert."""
    return 10 * x + 3


def _gates(y: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Return the gate (B, S, d) that explains each number of an output."""
    return (y - shared_block(h)) / (expert_block(h) - shared_block(h))


def _output(routed, h: torch.Tensor, G: torch.Tensor, training: bool, alpha: float) -> torch.Tensor:
    """Call `routed` and return its output (B, S, d)."""
    return tensor(routed(h, shared_block, expert_block, G, training, alpha), h.shape, "the output")


def _hidden(*shape: int) -> torch.Tensor:
    """Return hidden states between 0.5 and 1.5."""
    return 0.5 + torch.rand(shape, generator=torch.Generator().manual_seed(2))


def _check_evaluation(routed) -> None:
    """Exercise 2.2: each position goes by the sign of its own G, to either side."""
    G = torch.tensor([[-2.0, 0.0, 2.0], [3.0, -1.0, -3.0]])
    G = G.repeat(1, 50)[..., None]  # (2, 150, 1)
    h = _hidden(2, 150, 4)
    g = _gates(_output(routed, h, G, training=False, alpha=5.0), h)
    to_expert = (g - 1).abs() < 1e-4
    to_shared = g.abs() < 1e-4
    assert (to_expert | to_shared).all(), (
        "in evaluation each position must be the expert's output or the shared block's, nothing "
        "between: the gate is G >= 0 there, without sigmoid and without noise"
    )
    assert not to_expert.all() and not to_shared.all(), (
        "in evaluation all positions take the same block, whatever their G: each position has "
        "a gate of its own, and a negative G means the shared block"
    )
    own = "(by the sign of each position's own G, without noise)"
    assert to_expert[(G > 0)[..., 0]].all(), (
        f"a positive G went through the shared block: a gate of 1 means the expert {own}"
    )
    assert to_shared[(G < 0)[..., 0]].all(), (
        f"a negative G went through the expert: a gate of 0 means the shared block {own}"
    )
    assert to_expert[(G == 0)[..., 0]].all(), "G = 0 must be open in evaluation (G >= 0, not G > 0)"


def _check_soft(routed) -> None:
    """Exercise 2.2: without noise the gate is sigmoid(G), and it learns."""
    h = _hidden(2, 3, 4).requires_grad_()
    wanted = torch.tensor([[0.1, 0.5, 0.9], [0.95, 0.25, 0.05]])[..., None]  # (2, 3, 1)
    G = torch.logit(wanted).requires_grad_()
    y = _output(routed, h, G, training=True, alpha=0.0)
    g = _gates(y, h).detach()
    assert not torch.allclose(g, 1 - wanted, atol=1e-4), (
        "the two outputs are the wrong way round: g weighs the expert, 1 - g the shared block"
    )
    assert torch.allclose(g, wanted.expand_as(g), atol=1e-4), (
        "in training without noise (alpha = 0) the gate is sigmoid(G) and both outputs are mixed "
        "by it"
    )
    given = gradients(y, G, h)
    # What the two blocks make of h differs by 11 h + 2; their slopes are 10 and -1
    to_gate = wanted * (1 - wanted) * (11 * h.detach() + 2).sum(-1, keepdim=True)
    to_hidden = (11 * wanted - 1).expand_as(h)
    assert given[0].any(), (
        "no gradient reaches G in training, so the gate would learn nothing: no detach(), no "
        "item(), no torch.no_grad()"
    )
    pairs = zip(given, (to_gate, to_hidden), strict=True)
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in pairs), (
        "the output is right, its gradient is not: neither the gate nor one of the blocks may be "
        "detached"
    )


def _check_noise(routed) -> None:
    """Exercise 2.2: the noise is alpha * N(0, 1), inside the sigmoid, drawn for each position."""
    alpha = 2.0
    G = torch.full((4, 5000, 1), 0.5)
    h = _hidden(4, 5000, 3)
    g = _gates(_output(routed, h, G, training=True, alpha=alpha), h)
    assert ((g > 0) & (g < 1)).all(), (
        "in training g leaves the range between 0 and 1: the noise goes inside the sigmoid"
    )
    eps = (torch.logit(g) - G) / alpha  # (4, 5000, 3)
    randn = "eps ~ N(0, 1), as torch.randn_like(G) gives it"
    assert eps.std(-1).max() < 0.05, (
        "the d numbers of one position have different gates: a position has one gate, so the "
        "noise has the shape of G, (B, S, 1)"
    )
    eps = eps[..., 0]
    assert eps.std() > 0.05, (
        "in training alpha must matter: add alpha * eps, drawn anew at every position; yours is "
        "the same at every position"
    )
    assert eps.std(1).min() > 0.05, "the noise is the same at every position of a sequence"
    assert (eps[0] - eps[1]).std() > 0.05, "the noise is the same in every sequence of the batch"
    assert eps.mean().abs() < 0.05, f"the noise has the mean {eps.mean():.2f}, not 0: {randn}"
    assert abs(eps.std() - 1) < 0.05, (
        f"the noise has the standard deviation {eps.std():.2f} times alpha, not 1: {randn}"
    )
    beyond = float((eps.abs() > 2).double().mean())
    assert abs(beyond - 0.0455) < 0.01, (
        f"{beyond:.1%} of the noise is beyond two standard deviations, of normal noise 4.6 %: "
        f"{randn}"
    )
    again = _gates(_output(routed, h, G, training=True, alpha=alpha), h)
    assert not torch.equal(g, again), "a second call has the same noise: draw it anew, without seed"


def check_routed(routed) -> str:
    """Exercise 2.2: the routed output in evaluation and in training."""
    routed = function(routed, "routed(h, shared, expert, G, training, alpha)")
    _check_evaluation(routed)
    _check_soft(routed)
    _check_noise(routed)
    return "hard in evaluation, soft and noisy in training: this is ClsrFeedForward in five lines"


def check_binary_share(binary_share, first_alpha) -> str:
    """Exercise 2.3: the share of gates near 0 or 1 under noise, against the closed form."""
    binary_share = function(binary_share, "binary_share(G, alpha, eps)")
    eps = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    for G, alpha, right in ((0.0, 1.0, 0.028), (3.0, 1.0, 0.789), (0.0, 5.0, 0.660)):
        share = number(binary_share(G, alpha, eps), "the share")
        assert share <= 1, f"a share lies between 0 and 1, yours is {share:.2f}"
        assert abs(share - 1 + right) > 0.02 or right > 0.1, "that is the share BETWEEN 0.1 and 0.9"
        assert abs(share - right) < 0.02, (
            f"at G = {G:.0f}, alpha = {alpha:.0f} the share is {right:.2f}, yours is {share:.2f}: "
            "is the noise inside the sigmoid, and are both ends (g < 0.1 and g > 0.9) counted?"
        )
    noise = torch.tensor([-9.0, 9.0, 9.0, 9.0, 0.0])  # by chance hardly one of them is binary
    given = number(binary_share(0.0, 1.0, noise), "the share")
    assert abs(given - 0.8) < 1e-6, (
        f"of the five gates with the noise -9, 9, 9, 9 and 0 four are binary, yours are "
        f"{given:.0%}: use the noise `eps` that is given"
    )
    first_alpha = whole_number(first_alpha, "first_alpha")
    return FIRST_ALPHA.check(
        first_alpha,
        f"first_alpha is {first_alpha}: of the shares at 1, 2, 3, … which is the first above one "
        "half?",
    )


# ---- what the reader builds


@torch.no_grad()
def built_gate(HandGate) -> str:
    """Section 2: the gate's forward."""
    torch.manual_seed(2)
    gate = HandGate(8)
    for weight in gate.parameters():
        weight.normal_()
    h = torch.randn(2, 5, 8)
    inner = gate.linear1(h)
    right = gate.linear2(inner.relu())
    G = tensor(gate(h), right.shape, "G")
    not_a_mistake(
        G,
        [
            (gate.linear2(inner), "the ReLU between the two layers is missing"),
            (right.relu(), "the ReLU stands between the two layers, not after them"),
            (right.sigmoid(), "G is any number: the block itself makes a gate of it"),
            (gate.linear2(inner.sigmoid()), "between the two layers stands a ReLU, not a sigmoid"),
        ],
    )
    assert torch.allclose(G, right, atol=1e-5), "first layer, ReLU, second layer: not so here"
    return "one number for each position"
