"""Checks of the exercises in notebook 03."""

import math

import torch
from answers import (
    described,
    function,
    gradients,
    not_a_mistake,
    number,
    tensor,
    whole_number,
)
from hashed import hashed
from made_up import LABELS, made_up_batch
from torch.nn import functional as F

from distilwhisper_lib import (
    Collator,
    attach_experts,
    cross_entropy,
    expert_parameters,
    gate_budget_loss,
    kl_divergence,
    labelled,
    last_gates,
    load_processor,
    load_whisper,
    position_masks,
    set_language,
    top_k_divergence,
    top_k_log_probs,
    total_loss,
    use_window,
)

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
    one_less = LABELS.where(LABELS == -100, LABELS - 1)
    assert abs(masked_js(teacher, student, one_less).item() - narrow) < 1e-6, (
        "the value changes when a label is 0, which is a token like any other: padding has the "
        "label -100, and no other"
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


# ---- what the reader builds


def built_smoothed_ce(smoothed_ce) -> str:
    """Section 1: cross-entropy with smoothed labels."""
    smoothed_ce = function(smoothed_ce, "smoothed_ce(logits, labels, smoothing)")
    torch.manual_seed(0)
    for size, smoothing in ((5, 0.1), (8, 0.3)):
        logits, labels = torch.randn(6, size, requires_grad=True), torch.arange(6) % 5
        given = smoothed_ce(logits, labels, smoothing)
        right = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        of_label = F.cross_entropy(logits, labels)
        elsewhere = (right - (1 - smoothing + smoothing / size) * of_label) / (smoothing / size)
        given = tensor(given, (), "the mean over the positions")
        not_a_mistake(
            given.detach(),
            [
                (-right.item(), "the sign is the other way round: CE is never negative"),
                (6 * right.item(), "that is the sum over the positions, not their mean"),
                (right.item() / size, "sum over the tokens, and take the mean over the positions"),
                (of_label.item(), "the labels are not smoothed"),
                (
                    ((1 - smoothing) * of_label + smoothing / (size - 1) * elsewhere).item(),
                    "the tenth is spread over all V tokens, the label among them: smoothing / V",
                ),
            ],
        )
        assert torch.allclose(given, right, atol=1e-5), (
            f"{given.item():.4f} is not it, {right.item():.4f} is (V = {size}, smoothing "
            f"{smoothing}): q mixes one_hot(labels, V) with 1 / V, and its partner is log_softmax"
        )
        assert gradients(given, logits)[0].any(), "no gradient reaches the logits"
    return "the label's token counts most, and every other one a little"


def _distributions() -> tuple[torch.Tensor, torch.Tensor]:
    """Return two distributions at four positions, (4, 5) each."""
    torch.manual_seed(1)
    return torch.randn(4, 5).softmax(-1), torch.randn(4, 5).softmax(-1)


def _kl_of_each(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Return the library's KL(p || q) of each position, (N,)."""
    pairs = zip(p.log(), q.log(), strict=True)
    return torch.stack([kl_divergence(a[None], b[None]) for a, b in pairs])


def built_kl(kl) -> str:
    """Section 2: KL of each position."""
    kl = function(kl, "kl(p, q)")
    p, q = _distributions()
    right = _kl_of_each(p, q)
    given = tensor(kl(p, q), right.shape, "KL (a number for each position)")
    not_a_mistake(
        given,
        [
            (-right, "the sign is the other way round: KL is never negative"),
            (_kl_of_each(q, p), "that is KL(q || p): p stands before the logarithm and above"),
            (right / 5, "sum over the tokens: that is their mean"),
        ],
    )
    assert torch.allclose(given, right, atol=1e-5), "not so: sum over the tokens of p * log(p / q)"
    return "KL is what it should be"


def built_js(js) -> str:
    """Section 2: JS of each position."""
    js = function(js, "js(t, s)")
    t, s = _distributions()
    m = (t + s) / 2
    right = (_kl_of_each(t, m) + _kl_of_each(s, m)) / 2
    given = tensor(js(t, s), right.shape, "JS (a number for each position)")
    of_m = (_kl_of_each(m, t) + _kl_of_each(m, s)) / 2
    each_other = (_kl_of_each(t, s) + _kl_of_each(s, t)) / 2
    not_a_mistake(
        given,
        [
            (2 * right, "twice too large: JS is half of the sum of both KL"),
            (_kl_of_each(t, m), "that is KL(t || m) alone: half of it, and half of KL(s || m)"),
            (of_m, "the average m comes second in both KL"),
            (each_other, "both are compared with their average m, not with each other"),
        ],
    )
    assert torch.allclose(given, right, atol=1e-5), (
        "not so: half of KL(t || m) and half of KL(s || m), where m is the average of t and s"
    )
    return "JS is what it should be"


class _MadeUpOutputs:
    """Stands for a teacher's cached distributions: `lookup` gives those of random logits."""

    def __init__(self, logits: torch.Tensor):
        self.stored = top_k_log_probs(logits, 8)

    def lookup(self, ids: list[str], labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert list(ids) == ["one", "two"], 'lookup(batch["ids"], batch["labels"]) is asked for'
        return self.stored


def _made_up_step():
    """Return a tiny Whisper with random experts, a batch of two clips, and a teacher's outputs."""
    torch.manual_seed(6)
    tokenizer = load_processor("tiny").tokenizer
    model = attach_experts(load_whisper("tiny"), ["cs"]).eval()
    set_language(model, "cs")
    with torch.no_grad():
        for _, weight in expert_parameters(model):
            weight.add_(0.1 * torch.randn_like(weight))
    lengths = {"one": (60, [5, 6, 7, 8, 9]), "two": (31, [5, 6])}
    items = [
        {"id": name, "features": torch.randn(80, frames), "labels": labels, "frames": frames}
        for name, (frames, labels) in lengths.items()
    ]
    batch = Collator(tokenizer, 0.2)(items)
    return model, batch, _MadeUpOutputs(torch.randn(7, model.config.vocab_size))


def built_step_loss(step_loss) -> str:
    """Section 6: the loss of one batch."""
    step_loss = function(step_loss, "step_loss(model, batch, outputs)")
    model, batch, outputs = _made_up_step()
    given = tensor(step_loss(model, batch, outputs), (), "the loss")
    frames = batch["input_features"].shape[-1]
    with use_window(model, frames):
        logits = model(
            input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
        ).logits
    gates, masks = last_gates(model), position_masks(batch, frames // 2)
    everywhere = {stack: torch.ones_like(mask) for stack, mask in masks.items()}
    logits, labels = labelled(logits, batch["labels"])
    ce, plain_ce = (cross_entropy(logits, labels, smoothing) for smoothing in (0.1, 0.0))
    gate = gate_budget_loss(gates, masks, 0.8, per_stack=True)
    pooled = gate_budget_loss(gates, masks, 0.8)
    smaller = gate_budget_loss(gates, masks, 0.5, per_stack=True)
    padded = gate_budget_loss(gates, everywhere, 0.8, per_stack=True)
    kd = top_k_divergence(*outputs.stored, logits)
    right = total_loss(ce, gate, kd)
    not_a_mistake(
        given.detach(),
        [
            ((ce + gate + kd).item(), "the three losses have weights: total_loss knows them"),
            (total_loss(ce, gate).item(), "the divergence to the teacher is missing"),
            (total_loss(plain_ce, gate, kd).item(), "the labels are smoothed: a tenth of them"),
            (total_loss(ce, pooled, kd).item(), "the budget is one of each stack: per_stack=True"),
            (total_loss(ce, smaller, kd).item(), "the budget is 0.8, not 0.5"),
            (total_loss(ce, padded, kd).item(), "padding has gates too, and they do not count"),
        ],
        tolerance=1e-5,
    )
    assert torch.allclose(given, right, atol=1e-4), (
        f"{given.item():.4f} is not it: smoothed CE and JS over labelled positions, the budget "
        "over the gates of the latest pass, in a window as wide as the features"
    )
    weights = [weight for _, weight in expert_parameters(model)]
    assert any(one.any() for one in gradients(given, *weights)), "no gradient reaches the experts"
    return "three losses and one number"
