"""The three losses of DistilWhisper and their sum (paper, section 3.2).

Notation: V vocabulary, N labelled positions (padding is taken out before), k stored teacher probabilities.
All divergences are means over the N positions, in nats, times the temperature squared.
"""

import math

import torch
from torch.nn import functional as F

IGNORED = -100  # label of a padded position

SIGMA_CE, SIGMA_KD = 1.41, 1.0  # the release's weights: 0.5 * ((CE + gate) / 1.41^2 + KD / 1.0^2)

ALPHA = 2.0  # the paper's weight of KD beside CE + gate; the release's two give 1.41^2 = 1.99

EPSILON = 1e-10


def labelled(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N, V) in float32 and labels (N,) of the labelled positions of (B, T, V) and (B, T)."""
    keep = labels != IGNORED
    return logits[keep].float(), labels[keep]


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy over labelled positions. logits (N, V), labels (N,)."""
    return F.cross_entropy(
        logits.float(), labels, ignore_index=IGNORED, label_smoothing=label_smoothing
    )


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) per position: (N, V), (N, V) -> (N,); a term with p = 0 is 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0).sum(-1)


def _js(log_t: torch.Tensor, log_s: torch.Tensor) -> torch.Tensor:
    """JS(t, s) per position, between 0 and ln 2: (N, V), (N, V) -> (N,)."""
    log_m = torch.logaddexp(log_t, log_s) - math.log(2)
    return 0.5 * (_kl(log_t, log_m) + _kl(log_s, log_m))


def kl_divergence(teacher_logits, student_logits, temperature: float = 1.0) -> torch.Tensor:
    """KL(teacher || student), mean over positions, times temperature squared. Both (N, V)."""
    log_t, log_s = (
        F.log_softmax(x.float() / temperature, -1) for x in (teacher_logits, student_logits)
    )
    return _kl(log_t, log_s).mean() * temperature**2


def js_divergence(teacher_logits, student_logits, temperature: float = 1.0) -> torch.Tensor:
    """Jensen-Shannon divergence, mean over positions, times temperature squared. Both (N, V)."""
    log_t, log_s = (
        F.log_softmax(x.float() / temperature, -1) for x in (teacher_logits, student_logits)
    )
    return _js(log_t, log_s).mean() * temperature**2


def top_k_log_probs(logits: torch.Tensor, k: int, mapping: torch.Tensor | None = None):
    """Return what is stored of a teacher: the k likeliest words (N, k) and log-probabilities (N, k + 1).

    The last column is the log of the mass of all other words, so that a row still sums to one. mapping: the student's
    id of each of the teacher's tokens (`text.vocabulary_map`); the words are then the student's ids, and what the
    student has no token for (-1, or a row of the embedding beyond the tokenizer) is never among them.
    """
    log_p = F.log_softmax(logits.float(), -1)
    if mapping is not None:
        mapping = mapping[: log_p.shape[-1]].to(log_p.device)
        known = torch.where(mapping >= 0)[0]
        log_p, mapping = log_p[:, known], mapping[known]
    top, words = log_p.topk(min(k, log_p.shape[-1]), -1)
    return words if mapping is None else mapping[words], torch.cat([top, _log_tail(top)], -1)


def _log_tail(log_p: torch.Tensor) -> torch.Tensor:
    """Log of one minus the sum of the probabilities: (N, k) -> (N, 1)."""
    return (1 - log_p.exp().sum(-1, keepdim=True)).clamp_min(EPSILON).log()


def top_k_divergence(
    words, teacher_log_probs, student_logits, kind: str = "js", temperature: float = 1.0
) -> torch.Tensor:
    """JS or KL over the teacher's k words and one class for all the others, times the temperature squared.

    words (N, k), teacher_log_probs (N, k + 1), both of the teacher's logits over the temperature; student_logits
    (N, V). Merging words can only lower a divergence (data-processing inequality), so this is a lower bound; notebook
    03 measures by how much.
    """
    log_s = F.log_softmax(student_logits.float() / temperature, -1).gather(-1, words)
    log_s = torch.cat([log_s, _log_tail(log_s)], -1)
    return {"js": _js, "kl": _kl}[kind](teacher_log_probs.float(), log_s).mean() * temperature**2


def gate_budget_loss(
    gates: dict, masks: dict, budget: float = 0.5, per_stack: bool = False
) -> torch.Tensor:
    """|mean gate - budget| over the real positions of all layers; per_stack: the mean of one such term a stack.

    gates: {"encoder": [(B, S), ...], "decoder": [(B, T), ...]}; masks: {"encoder": (B, S), "decoder": (B, T)},
    true where there is sound or text. Pooled over both stacks, as in paper and release, the encoder's many
    positions decide the mean; per stack each half of the model has its own budget (our variant). Rows without an
    expert, whose gates are NaN, do not count.
    """
    sums, counts = [], []
    for stack, layers in gates.items():
        mask = masks[stack].bool() & ~layers[0].isnan()
        sums.append(sum(torch.where(mask, g.float(), 0).sum() for g in layers))
        counts.append(mask.sum() * len(layers))
    if per_stack:
        return sum((s / n - budget).abs() for s, n in zip(sums, counts, strict=True)) / len(sums)
    return (sum(sums) / sum(counts) - budget).abs()


def gate_uniformity_loss(gates: dict, masks: dict) -> torch.Tensor:
    """4 m (1 - m), mean over the layers, m the mean gate of a layer's real positions: 1 at a half, 0 where all agree.

    Not in the paper: it draws each layer to one block for all positions, so that baking it costs nothing. gates and
    masks as for `gate_budget_loss`.
    """
    means = []
    for stack, layers in gates.items():
        mask = masks[stack].bool() & ~layers[0].isnan()
        means += [torch.where(mask, g.float(), 0).sum() / mask.sum() for g in layers]
    m = torch.stack(means)  # (layers of both stacks,)
    return (4 * m * (1 - m)).mean()


def total_loss(
    ce: torch.Tensor, gate: torch.Tensor, kd: torch.Tensor | None = None, unscaled: bool = False
) -> torch.Tensor:
    """0.5 * ((CE + gate) / 1.41^2 + KD) with distillation, CE + gate without (release).

    unscaled: CE + gate + 2 KD, as in the paper, which is about four times that.
    """
    if kd is None:
        return ce + gate
    if unscaled:
        return ce + gate + ALPHA * kd
    return 0.5 * ((ce + gate) / SIGMA_CE**2 + kd / SIGMA_KD**2)
