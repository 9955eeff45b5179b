"""Checks of the exercises in notebook 03."""

import math

import torch
from answers import described, function, gradients, number, whole_number

from distilwhisper_lib import js_divergence, top_k_divergence, top_k_log_probs


def check_js_by_hand(js_nats, largest_js) -> str:
    """Exercise 3.1: JS of (0.8, 0.2) and (0.4, 0.6) in nats, and the largest JS there is."""
    js_nats = number(js_nats, "js_nats")
    largest_js = number(largest_js, "largest_js")
    t = torch.tensor([[0.8, 0.2]]).log()
    s = torch.tensor([[0.4, 0.6]]).log()
    right = float(js_divergence(t, s))
    assert abs(js_nats - right / math.log(2)) > 1e-3, (
        "that is in bits (log2); in nats the logarithm is natural"
    )
    assert abs(js_nats - 2 * right) > 1e-3, "that is the sum of both KL terms; JS is half of it"
    assert abs(js_nats - right / math.log(10)) > 1e-3, (
        "that is with the logarithm to base 10; in nats the logarithm is natural"
    )
    assert abs(js_nats - 0.4 * math.log(0.4 / 0.8) - 0.6 * math.log(0.6 / 0.2)) > 1e-3, (
        "that is KL(s || t); JS compares t and s with their average m = (0.6, 0.4)"
    )
    assert abs(js_nats - 0.8 * math.log(0.8 / 0.4) - 0.2 * math.log(0.2 / 0.6)) > 1e-3, (
        "that is KL(t || s); JS compares t and s with their average m = (0.6, 0.4)"
    )
    assert abs(js_nats - right) < 1e-3, (
        f"JS is not {js_nats:.4f}: it is half of KL(t || m) plus half of KL(s || m), with m = "
        "(0.6, 0.4)"
    )
    assert abs(largest_js - 1) > 1e-3, "1 is the bound in bits; how much is a bit in nats?"
    assert math.isfinite(largest_js), (
        "KL has no largest value, JS has: m is never zero where t is not"
    )
    assert abs(largest_js - math.log(51865)) > 0.01, (
        "log V is the largest entropy; does V occur in the argument for the bound of JS?"
    )
    assert abs(largest_js - math.log(2)) < 1e-3, (
        f"not {largest_js:.4f}: m is at least half of t at each token, so no ratio t / m exceeds "
        "2, whatever V is"
    )
    return f"JS is {right:.4f} nats, and no vocabulary takes it beyond log 2 = {math.log(2):.4f}"


def _check_values(masked_js, teacher, student, labels) -> None:
    """Exercise 3.2: the value on one batch, and the mistakes that give another."""
    keep = labels != -100
    right = float(js_divergence(teacher[keep], student[keep]))
    given = masked_js(teacher, student, labels)
    assert isinstance(given, torch.Tensor), (
        f"return a tensor, not {described(given)}: a loss needs its gradient, so no .item() and no "
        "float()"
    )
    assert given.numel() == 1, (
        f"return one number, the mean over the positions; yours has the shape {tuple(given.shape)}"
    )
    given = number(given, "the loss")
    everywhere = float(js_divergence(teacher.flatten(0, 1), student.flatten(0, 1)))
    assert abs(given - everywhere) > 1e-5, (
        "that is the mean over all positions, padded ones included"
    )
    assert abs(given - right * keep.float().mean()) > 1e-5, (
        "padded positions are set to zero, but still counted: divide by the number of labelled "
        "positions, not by B * T"
    )
    assert abs(given - right * keep.sum()) > 1e-4, (
        "that is the sum over the positions, not the mean"
    )
    rows = [
        float(js_divergence(t[k], s[k])) for t, s, k in zip(teacher, student, keep, strict=True)
    ]
    assert abs(given - sum(rows) / len(rows)) > 1e-5, (
        "that is a mean of means: a position of a short sequence weighs more than one of a long "
        "sequence; all labelled positions count the same"
    )
    assert abs(given - 2 * right) > 1e-5, "twice too large: JS is HALF of the sum of both KL terms"
    assert abs(given - right / math.log(2)) > 1e-5, "that is in bits: take the natural logarithm"
    assert abs(given - right) < 1e-5, (
        f"the JS of this batch is {right:.4f}, yours is {given:.4f}: half of KL(t || m) plus half "
        "of KL(s || m), softmax over the vocabulary (the last axis)"
    )


def _check_gradient(masked_js, teacher, student, labels) -> None:
    """Exercise 3.2: the student gets the gradient of JS, at its labelled positions."""
    keep = labels != -100
    student = student.clone().requires_grad_()
    given = gradients(masked_js(teacher, student, labels), student)[0]
    wanted = gradients(js_divergence(teacher[keep], student[keep]), student)[0]
    assert given.any(), (
        "the value is right, but no gradient reaches the student, so nothing would be learned: no "
        "torch.no_grad(), no detach() of the student"
    )
    assert torch.allclose(given, wanted, atol=1e-5), (
        "the value is right, its gradient is not: is a part of the student's logits detached?"
    )


def check_masked_js(masked_js) -> str:
    """Exercise 3.2: mean JS over labelled positions, whatever the padding."""
    masked_js = function(masked_js, "masked_js(teacher_logits, student_logits, labels)")
    generator = torch.Generator().manual_seed(0)
    teacher = 3 * torch.randn(2, 5, 7, generator=generator)  # (B, T, V)
    student = 3 * torch.randn(2, 5, 7, generator=generator)
    labels = torch.tensor([[1, 2, 3, 4, 5], [1, 2, -100, -100, -100]])
    _check_values(masked_js, teacher, student, labels)
    wider = [
        torch.cat([x, torch.randn(2, 4, 7, generator=generator)], 1) for x in (teacher, student)
    ]
    more = torch.cat([labels, torch.full((2, 4), -100)], 1)
    narrow = masked_js(teacher, student, labels).item()
    assert abs(masked_js(*wider, more).item() - narrow) < 1e-6, (
        "the value changes when padding grows"
    )
    _check_gradient(masked_js, teacher, student, labels)

    sure = torch.zeros(1, 2, 7)
    sure[..., 0] = 300.0
    other = torch.zeros(1, 2, 7)
    other[..., 1] = 300.0
    other.requires_grad_()
    value = masked_js(sure, other, torch.tensor([[0, 0]]))
    assert abs(value.item() - math.log(2)) < 1e-4, (
        "a teacher and a student that are sure of different tokens must give log 2: NaN or "
        "infinity comes from the logarithm of a probability that is exactly zero, so work with "
        "log_softmax"
    )
    assert gradients(value, other)[0].isfinite().all(), (
        "where both are sure the value is right, but its gradient is NaN: one step would make all "
        "weights NaN, so work with log_softmax"
    )
    return "the same value whatever the padding, and log 2 where both are sure of different tokens"


def made_up_logits(sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits of a teacher and of a student, (100, 2000) each, alike but not equal."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(100, 2000, generator=generator)
    teacher = torch.randn(100, 2000, generator=generator)
    student = torch.randn(100, 2000, generator=generator)
    return sharpness * (common + 0.3 * teacher), sharpness * (common + 0.3 * student)


def _kept(teacher_logits: torch.Tensor, student_logits: torch.Tensor, k: int) -> float:
    """Return the share of JS that the k most likely tokens and the rest as one class keep."""
    top = top_k_divergence(*top_k_log_probs(teacher_logits, k), student_logits)
    return float(top / js_divergence(teacher_logits, student_logits))


def _smallest_k(sharpness: int) -> int:
    """Return the first power of two that keeps 95 % of JS."""
    logits = made_up_logits(sharpness)
    return next(2**i for i in range(12) if _kept(*logits, 2**i) >= 0.95)


def check_smallest_k(kept, smallest_k) -> str:
    """Exercise 3.3: the share of JS that top k keeps, and the smallest k that keeps 95 % of it."""
    kept = function(kept, "kept(teacher_logits, student_logits, k)")
    for sharpness, k in ((6, 1), (6, 16), (3, 16)):
        logits = made_up_logits(sharpness)
        given = number(kept(*logits, k), "what `kept` returns")
        right = _kept(*logits, k)
        assert abs(given - 100 * right) > 0.1, "a share between 0 and 1 is asked for, not per cent"
        assert abs(given * right - 1) > 0.01, "upside down: divide top-k JS by full JS"
        assert given < 1 + 1e-3, (
            f"top-k JS is a lower bound, but yours keeps {given:.2f} of the full one at k = {k}"
        )
        assert abs(given - right) < 0.01, (
            f"at sharpness {sharpness}, k = {k} the share is {right:.3f}, yours is {given:.3f}: "
            "are the k those of the teacher, and are all other tokens kept as one class (the "
            "tail), rather than the k made to sum to one again?"
        )
    assert isinstance(smallest_k, dict) and set(smallest_k) == {3, 6}, (
        "`kept` is right; smallest_k must be a dictionary, {3: ..., 6: ...}, with the two numbers "
        "3 and 6 as its keys"
    )
    for sharpness in (3, 6):
        right = _smallest_k(sharpness)
        k = whole_number(smallest_k[sharpness], f"smallest_k[{sharpness}]")
        assert k == right, (
            f"smallest_k[{sharpness}] is {k}: take the first power of two with kept >= 0.95, "
            "starting at 1"
        )
    return (
        f"k = {smallest_k[6]} for a sure teacher, {smallest_k[3]} for an unsure one: where a "
        "teacher hardly knows the language, store more"
    )
