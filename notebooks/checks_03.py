"""Checks of the exercises in notebook 03."""

import math

import torch
from answers import described, function, gradients, number, whole_number
from hashed import hashed
from made_up import LABELS, made_up_batch

JS_NATS = hashed("3.1 js_nats")
LARGEST_JS = hashed("3.1 largest_js")
MASKED_JS = hashed("3.2 masked_js")
SMALLEST_K = {3: hashed("3.3 smallest_k 3"), 6: hashed("3.3 smallest_k 6")}


def check_js_by_hand(js_nats, largest_js) -> str:
    """Exercise 3.1: JS of (0.8, 0.2) and (0.4, 0.6) in nats, and the largest JS there is."""
    js_nats = number(js_nats, "js_nats")
    largest_js = number(largest_js, "largest_js")
    JS_NATS.check(
        js_nats,
        f"JS is not {js_nats:.4f}: it is half of KL(t || m) plus half of KL(s || m), where m is "
        "the average of t and s",
    )
    return LARGEST_JS.check(
        largest_js,
        f"not {largest_js:.4f}: m is the average of t and s, so how large can the ratio t / m be "
        "at a token? Does V occur in that?",
    )


def _check_values(masked_js, teacher: torch.Tensor, student: torch.Tensor) -> None:
    """Exercise 3.2: the value on one batch."""
    given = masked_js(teacher, student, LABELS)
    assert isinstance(given, torch.Tensor), (
        f"return a tensor, not {described(given)}: a loss needs its gradient, so no .item() and no "
        "float()"
    )
    assert given.numel() == 1, (
        f"return one number, the mean over the positions; yours has the shape {tuple(given.shape)}"
    )
    value = number(given, "the loss")
    MASKED_JS.check(
        value,
        f"{value:.4f} is not the JS of this batch: half of KL(t || m) plus half of KL(s || m), "
        "softmax over the vocabulary (the last axis)",
    )


def _slopes(loss, logits: torch.Tensor, move: float = 2e-3) -> torch.Tensor:
    """Return how much `loss` changes with each number of `logits`, by moving one after another."""
    slopes = torch.zeros_like(logits)
    for place in range(logits.numel()):
        step = torch.zeros_like(logits)
        step.view(-1)[place] = move
        change = loss(logits + step).item() - loss(logits - step).item()
        slopes.view(-1)[place] = change / (2 * move)
    return slopes


def _check_gradient(masked_js, teacher: torch.Tensor, student: torch.Tensor) -> None:
    """Exercise 3.2: the gradient that reaches the student is the slope of the reader's own loss."""
    student = student.clone().requires_grad_()
    given = gradients(masked_js(teacher, student, LABELS), student)[0]
    assert given.any(), (
        "the value is right, but no gradient reaches the student, so nothing would be learned: no "
        "torch.no_grad(), no detach() of the student"
    )
    with torch.no_grad():
        slopes = _slopes(lambda logits: masked_js(teacher, logits, LABELS), student)
    assert torch.allclose(given, slopes, atol=3e-4), (
        "the value is right, its gradient is not: is a part of the student's logits detached?"
    )


def check_masked_js(masked_js) -> str:
    """Exercise 3.2: mean JS over labelled positions, whatever the padding."""
    masked_js = function(masked_js, "masked_js(teacher_logits, student_logits, labels)")
    teacher, student = made_up_batch()
    _check_values(masked_js, teacher, student)
    wider = [torch.cat([logits, 1 - logits[:, :4]], 1) for logits in (teacher, student)]
    more = torch.cat([LABELS, torch.full((2, 4), -100)], 1)
    narrow = masked_js(teacher, student, LABELS).item()
    assert abs(masked_js(*wider, more).item() - narrow) < 1e-6, (
        "the value changes when padding grows"
    )
    _check_gradient(masked_js, teacher, student)

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


# Of exercise 3.3: sharpness, k, and the share of JS that is kept
KEPT = ((6, 1, 0.489), (6, 5, 0.829), (3, 20, 0.663))


def check_smallest_k(kept, smallest_k) -> str:
    """Exercise 3.3: the share of JS that top k keeps, and the smallest k that keeps 95 % of it."""
    kept = function(kept, "kept(teacher_logits, student_logits, k)")
    for sharpness, k, right in KEPT:
        given = number(kept(*made_up_logits(sharpness), k), "what `kept` returns")
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
    for sharpness, right in SMALLEST_K.items():
        k = whole_number(smallest_k[sharpness], f"smallest_k[{sharpness}]")
        right.check(
            k,
            f"smallest_k[{sharpness}] is {k}: take the first power of two with kept >= 0.95, "
            "starting at 1",
        )
    return (
        f"k = {smallest_k[6]} for a sure teacher, {smallest_k[3]} for an unsure one: where a "
        "teacher hardly knows the language, store more"
    )
