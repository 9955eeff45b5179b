"""The three losses of DistilWhisper and their sum: cross-entropy, distillation, gate budget.

Notation: B sequences in the batch, T positions, V vocabulary, N labelled positions (padding is
taken out before), k teacher probabilities that are cached per position. All divergences are means
over the N positions, in nats, times the temperature squared.

Source: paper (method); the authors' release (DistillationTrainer.compute_loss).
"""

import math

import torch
from torch.nn import functional as F

from ..checks import check_choice, check_number

IGNORED = -100  # label of a padded position

# The release's weights: 0.5 * ((CE + gate) / SIGMA_CE^2 + KD / SIGMA_KD^2).
SIGMA_CE = 1.41
SIGMA_KD = 1.0

# The paper's weight of KD beside CE + gate; the release's two weights give 1.41^2 = 1.99.
ALPHA = 2.0

EPSILON = 1e-10


def labelled(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Take out padding.

    Args:
        logits: (B, T, V).
        labels: Token ids, (B, T), `IGNORED` at padded positions.

    Returns:
        Logits (N, V) in float32 and labels (N,) of the labelled positions.
    """
    keep = labels != IGNORED
    return logits[keep].float(), labels[keep]


# ---- cross-entropy


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Return the mean cross-entropy over labelled positions.

    Args:
        logits: (N, V).
        labels: Token ids, (N,).
        label_smoothing: Share of the target's mass that is spread evenly over the vocabulary.
    """
    return F.cross_entropy(
        logits.float(), labels, ignore_index=IGNORED, label_smoothing=label_smoothing
    )


# ---- distillation


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) per position: (N, V), (N, V) -> (N,); a term with p = 0 is 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0).sum(-1)


def _js(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """JS(p, q) per position, between 0 and ln 2: (N, V), (N, V) -> (N,)."""
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (_kl(log_p, log_mean) + _kl(log_q, log_mean))


DIVERGENCES = {"js": _js, "kl": _kl}


def kl_divergence(
    teacher_logits: torch.Tensor, student_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return KL(teacher || student), mean over positions, times the temperature squared.

    Args:
        teacher_logits: (N, V).
        student_logits: (N, V).
        temperature: By which both logits are divided.

    Raises:
        ValueError: For a temperature of 0 or below.
    """
    check_number("temperature", temperature, above=0)
    log_teacher = F.log_softmax(teacher_logits.float() / temperature, -1)
    log_student = F.log_softmax(student_logits.float() / temperature, -1)
    return _kl(log_teacher, log_student).mean() * temperature**2


def js_divergence(
    teacher_logits: torch.Tensor, student_logits: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return the Jensen-Shannon divergence, mean over positions, times the temperature squared.

    Args:
        teacher_logits: (N, V).
        student_logits: (N, V).
        temperature: By which both logits are divided.

    Raises:
        ValueError: For a temperature of 0 or below.
    """
    check_number("temperature", temperature, above=0)
    log_teacher = F.log_softmax(teacher_logits.float() / temperature, -1)
    log_student = F.log_softmax(student_logits.float() / temperature, -1)
    return _js(log_teacher, log_student).mean() * temperature**2


def top_k_log_probs(
    logits: torch.Tensor, k: int, mapping: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what is cached of a teacher: its k most likely tokens and the mass of all others.

    Args:
        logits: The teacher's, (N, V), divided by the temperature.
        k: Number of tokens kept per position.
        mapping: The student's id of each of the teacher's tokens, -1 where it has none
            (`whisper.tokens.vocabulary_map`). Tokens that the student does not have, and rows of
            the teacher's embedding beyond its tokenizer, are never among the k. None: both have the
            same ids.

    Returns:
        Token ids (N, k), the student's where there is a mapping, and log-probabilities (N, k + 1).
        The last column is the log of the mass of all other tokens, so that the probabilities of a
        position still sum to one.

    Raises:
        ValueError: For a k below 1.
    """
    check_number("k", k, low=1, whole=True)
    log_probs = F.log_softmax(logits.float(), -1)
    if mapping is None:
        top, token_ids = log_probs.topk(min(k, log_probs.shape[-1]), -1)
    else:
        mapping = mapping[: log_probs.shape[-1]].to(log_probs.device)
        shared_tokens = torch.where(mapping >= 0)[0]  # teacher's ids of what the student has too
        log_probs = log_probs[:, shared_tokens]
        top, columns = log_probs.topk(min(k, log_probs.shape[-1]), -1)
        token_ids = mapping[shared_tokens][columns]
    return token_ids, torch.cat([top, _log_tail(top)], -1)


def _log_tail(log_probs: torch.Tensor) -> torch.Tensor:
    """Log of one minus the sum of the probabilities: (N, k) -> (N, 1)."""
    return (1 - log_probs.exp().sum(-1, keepdim=True)).clamp_min(EPSILON).log()


def top_k_divergence(
    token_ids: torch.Tensor,
    teacher_log_probs: torch.Tensor,
    student_logits: torch.Tensor,
    kind: str = "js",
    temperature: float = 1.0,
) -> torch.Tensor:
    """Return JS or KL over the teacher's k tokens and one class for all other tokens.

    It is a mean over positions, times the temperature squared. Merging tokens into one class can
    only lower a divergence (data-processing inequality), so this is a lower bound of the full one;
    notebook 03 measures by how much.

    Args:
        token_ids: The teacher's k most likely tokens, (N, k), as `top_k_log_probs` returns them.
        teacher_log_probs: (N, k + 1), of the teacher's logits divided by the temperature.
        student_logits: (N, V), not divided by the temperature.
        kind: "js" or "kl".
        temperature: By which the student's logits are divided here.

    Raises:
        ValueError: For an unknown kind, or a temperature of 0 or below.
    """
    check_choice("kind", kind, DIVERGENCES)
    check_number("temperature", temperature, above=0)
    log_student = F.log_softmax(student_logits.float() / temperature, -1).gather(-1, token_ids)
    log_student = torch.cat([log_student, _log_tail(log_student)], -1)  # (N, k + 1)
    per_position = DIVERGENCES[kind](teacher_log_probs.float(), log_student)
    return per_position.mean() * temperature**2


# ---- gates

Gates = dict[str, list[torch.Tensor]]  # stack -> gates of each layer, see `gate_budget_loss`
Masks = dict[str, torch.Tensor]  # stack -> real positions


def gate_budget_loss(
    gates: Gates, masks: Masks, budget: float = 0.5, per_stack: bool = False
) -> torch.Tensor:
    """Return |mean gate - budget| over the real positions of all layers.

    Pooled over both stacks, as in paper and release, the encoder's many positions decide the mean.
    Per stack, each half of the model has its own budget (our variant). Sequences without an expert,
    whose gates are NaN, do not count.

    Args:
        gates: {"encoder": one (B, S) per layer, "decoder": one (B, T) per layer}.
        masks: {"encoder": (B, S), "decoder": (B, T)}, true where there is sound or text.
        budget: Share of positions that may go to experts.
        per_stack: Return the mean of one such term per stack instead of a pooled one.

    Raises:
        ValueError: For a budget that is no share, or where no sequence had an expert.
    """
    check_number("budget", budget, low=0, high=1)
    sums = []
    counts = []
    for stack, layers in _with_gates(gates).items():
        mask = _counted(masks[stack], layers)
        start = torch.zeros((), device=mask.device)
        sums.append(sum((_masked_sum(g, mask) for g in layers), start))
        counts.append(mask.sum() * len(layers))

    open_gates = torch.stack(sums)  # (stacks,)
    positions = torch.stack(counts)  # (stacks,)
    if per_stack:
        return (open_gates / positions - budget).abs().mean()
    return (open_gates.sum() / positions.sum() - budget).abs()


def gate_uniformity_loss(gates: Gates, masks: Masks) -> torch.Tensor:
    """Return 4 m (1 - m), mean over all layers, m being the mean gate of a layer.

    A layer's term is 1 where half of its positions go to the expert, and 0 where it makes the same
    gate decision at every position. The loss, which is not in the paper, draws each layer to one
    block for all positions, so that making its gates constant costs nothing.

    Args:
        gates: As for `gate_budget_loss`.
        masks: As for `gate_budget_loss`.

    Raises:
        ValueError: Where no sequence had an expert.
    """
    means = []
    for stack, layers in _with_gates(gates).items():
        mask = _counted(masks[stack], layers)
        means += [_masked_sum(g, mask) / mask.sum() for g in layers]
    m = torch.stack(means)  # (layers of both stacks,)
    return (4 * m * (1 - m)).mean()


def _with_gates(gates: Gates) -> Gates:
    """Return the stacks that have gates; ValueError where none has."""
    found = {stack: layers for stack, layers in gates.items() if layers}
    if not found:
        raise ValueError(
            "there are no gates: no sequence of the latest pass had an expert; set a language that "
            "has experts before it (set_language)"
        )
    return found


def _counted(mask: torch.Tensor, layers: list[torch.Tensor]) -> torch.Tensor:
    """Return the positions of one stack that count: real ones, of sequences with an expert."""
    return mask.bool() & ~layers[0].isnan()


def _masked_sum(g: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the sum of g where the mask is true."""
    return torch.where(mask, g.float(), 0).sum()


# ---- their sum


def total_loss(
    ce: torch.Tensor, gate: torch.Tensor, kd: torch.Tensor | None = None, unscaled: bool = False
) -> torch.Tensor:
    """Return 0.5 * ((CE + gate) / 1.41^2 + KD) with distillation, CE + gate without (release).

    Args:
        ce: Cross-entropy.
        gate: Gate budget.
        kd: Distillation; None: without a teacher.
        unscaled: Return CE + gate + 2 KD, as in the paper, which is about four times that.
    """
    if kd is None:
        return ce + gate
    if unscaled:
        return ce + gate + ALPHA * kd
    return 0.5 * ((ce + gate) / SIGMA_CE**2 + kd / SIGMA_KD**2)
