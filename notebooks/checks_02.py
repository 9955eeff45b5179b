"""Checks of the exercises in notebook 02."""

import torch

FFN = 2 * 1024 * 4096 + 4096 + 1024  # whisper-medium
GATE = 1024 * 64 + 64 + 64
BLOCKS = 24 + 24


def check_cost(parameters, megabytes_fp16) -> str:
    """Exercise 2.1: parameters, and megabytes in fp16, of one language in whisper-medium."""
    right = BLOCKS * (FFN + GATE)
    assert parameters * 2 != right, "that is half of it: there are 24 encoder AND 24 decoder layers"
    assert parameters != BLOCKS * FFN, "the experts are right; the gates are missing"
    assert parameters != BLOCKS * (FFN - 5120 + GATE), (
        "the weights are right; the biases of fc1, fc2 are missing"
    )
    assert parameters != BLOCKS * (FFN + GATE + 1), (
        "nearly: the gate's second linear layer has no bias"
    )
    assert parameters == right, (
        f"{parameters:,} is {100 * (parameters / right - 1):+.2f} % off: per layer count fc1 and "
        "fc2 with biases, and a gate of 64 d + 64 + 64; then take all 48 layers"
    )
    assert abs(megabytes_fp16 - 4 * right / 1e6) > 1, (
        "that is fp32; in fp16 a number takes two bytes"
    )
    assert abs(megabytes_fp16 - 2 * right / 2**20) > 1, (
        "that is MiB (2^20 bytes); the question is for 10^6 bytes"
    )
    assert abs(megabytes_fp16 - 2 * right / 1e6) < 0.5, (
        "the parameters are right; the size is two bytes for each"
    )
    return (
        f"{right / 1e6:.1f} million parameters, {2 * right / 1e6:.0f} MB in fp16, for one "
        "language of whisper-medium"
    )


def check_routed(routed) -> str:
    """Exercise 2.2: the routed output in evaluation and in training."""
    h = torch.randn(2, 3, 4)

    def shared(x):
        return x

    def expert(x):
        return 10 * x

    G = torch.tensor([-2.0, 0.0, 2.0]).reshape(1, 3, 1).expand(2, 3, 1)
    y = routed(h, shared, expert, G, training=False, alpha=5.0)
    assert y.shape == h.shape, f"the output has shape {tuple(y.shape)}, h has {tuple(h.shape)}"
    is_expert = torch.isclose(y, expert(h)).all(-1)  # (2, 3)
    is_shared = torch.isclose(y, shared(h)).all(-1)  # (2, 3)
    assert (is_expert | is_shared).all(), (
        "in evaluation each position must be the expert's output or the shared block's, nothing "
        "between: the gate is G >= 0 there, without sigmoid and without noise"
    )
    assert not is_shared[:, 2].any(), (
        "G = 2 went through the shared block: a gate of 1 means the expert"
    )
    assert is_expert[:, 1].all(), "G = 0 must be open in evaluation (G >= 0, not G > 0)"
    soft = routed(h, shared, expert, G, training=True, alpha=0.0)
    g = torch.sigmoid(G)
    assert torch.allclose(soft, g * expert(h) + (1 - g) * shared(h), atol=1e-5), (
        "in training without noise (alpha = 0) the gate is sigmoid(G) and both outputs are mixed "
        "by it"
    )
    noisy = routed(
        torch.ones(1, 4000, 1), shared, expert, torch.zeros(1, 4000, 1), training=True, alpha=5.0
    )
    assert noisy.std() > 0.1, (
        "in training alpha must matter: add alpha * eps with eps ~ N(0, 1), drawn per position"
    )
    assert noisy.min() >= 1 and noisy.max() <= 10, (
        "g leaves 0..1: the noise goes inside the sigmoid"
    )
    return "hard in evaluation, soft and noisy in training: this is ClsrFeedForward in five lines"


def check_binary_share(binary_share, first_alpha) -> str:
    """Exercise 2.3: the share of gates near 0 or 1 under noise, against the closed form."""
    eps = torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    normal = torch.distributions.Normal(0.0, 1.0)
    for G, alpha in ((0.0, 5.0), (3.0, 1.0), (0.0, 1.0)):
        edge = torch.tensor(9.0).log()  # sigmoid(ln 9) = 0.9
        right = float(normal.cdf((-edge - G) / alpha) + 1 - normal.cdf((edge - G) / alpha))
        share = float(binary_share(G, alpha, eps))
        assert not 1 < share <= 100, f"a share lies between 0 and 1, yours is {share:.2f}"
        assert abs(share - 1 + right) > 0.02 or abs(right - 0.5) < 0.03, (
            "that is the share BETWEEN 0.1 and 0.9"
        )
        assert abs(share - right) < 0.02, (
            f"at G = {G:.0f}, alpha = {alpha:.0f} the share is {right:.2f}, yours is {share:.2f}: "
            "is the noise inside the sigmoid, and are both ends (g < 0.1 and g > 0.9) counted?"
        )
    assert first_alpha == 4, (
        f"first_alpha is {first_alpha}: at G = 0 the share is 0.46 for alpha = 3 and 0.58 for 4, "
        "so which is the first?"
    )
    return (
        "even at alpha = 5 a third of the undecided gates is soft: the noise alone makes nothing "
        "binary, it makes large |G| worth learning"
    )
