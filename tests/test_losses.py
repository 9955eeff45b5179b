"""The losses against plain formulas in float64, their bounds, and what padding may not change."""

import math

import numpy as np
import pytest
import torch
from random_data import RandomClips, shake_experts

from distilwhisper_lib.data.batches import Collator, position_masks
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import last_gates
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import set_language
from distilwhisper_lib.method.losses import (
    IGNORED,
    cross_entropy,
    gate_budget_loss,
    gate_uniformity_loss,
    js_divergence,
    kl_divergence,
    labelled,
    top_k_divergence,
    top_k_log_probs,
    total_loss,
)
from distilwhisper_lib.training.config import Optimisation
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.teacher import cache_teacher_distributions
from distilwhisper_lib.training.trainer import make_trainer, training_arguments
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.window import use_window

N = 7
V = 23
# Nothing random in training.
STILL = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0)


@pytest.fixture
def pair():
    """Teacher's and student's logits (N, V)."""
    draw = torch.Generator().manual_seed(0)
    return 3 * torch.randn(N, V, generator=draw), 3 * torch.randn(N, V, generator=draw)


def softmax(logits, temperature=1.0):
    e = np.exp(logits.double().numpy() / temperature)
    return e / e.sum(1, keepdims=True)


def kl(p, q):
    return np.sum(p * np.log(p / q), axis=1).mean()


def js(p, q):
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2


# ---- plain formulas


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_the_mean_over_labels(pair, smoothing):
    logits = pair[0]
    labels = torch.arange(N)
    log_p = np.log(softmax(logits))
    expected = -(1 - smoothing) * log_p[np.arange(N), labels].mean() - smoothing * log_p.mean()
    assert cross_entropy(logits, labels, smoothing).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergences_are_their_formulas(pair, temperature):
    p, q = (softmax(x, temperature) for x in pair)
    assert kl_divergence(*pair, temperature).item() == pytest.approx(
        kl(p, q) * temperature**2, rel=1e-5
    )
    assert js_divergence(*pair, temperature).item() == pytest.approx(
        js(p, q) * temperature**2, rel=1e-5
    )


def test_js_is_symmetric_and_lies_between_zero_and_ln_2(pair):
    assert js_divergence(*pair).item() == pytest.approx(
        js_divergence(*reversed(pair)).item(), rel=1e-6
    )
    assert kl_divergence(*pair).item() != pytest.approx(
        kl_divergence(*reversed(pair)).item(), rel=1e-3
    )
    assert js_divergence(pair[0], pair[0]).item() == pytest.approx(0, abs=1e-7)
    one = torch.full((1, V), -200.0)
    other = one.clone()
    one[0, 0] = 200
    other[0, 1] = 200
    assert js_divergence(one, other).item() == pytest.approx(math.log(2), rel=1e-6)
    assert 0 < js_divergence(*pair) < math.log(2)


def test_temperature_makes_them_alike(pair):
    assert 0 < js_divergence(*pair, 20.0) / 400 < js_divergence(*pair) / 10


def test_padding_is_taken_out_first():
    logits = torch.randn(2, 3, V, dtype=torch.bfloat16)
    labels = torch.tensor([[4, 5, IGNORED], [6, IGNORED, IGNORED]])
    kept, token_ids = labelled(logits, labels)
    assert token_ids.tolist() == [4, 5, 6]
    assert kept.dtype == torch.float32
    assert torch.equal(kept, torch.stack([logits[0, 0], logits[0, 1], logits[1, 0]]).float())


# ---- the teacher's k most likely tokens


def top_k(pair, k, kind):
    token_ids, log_probs = top_k_log_probs(pair[0], k)
    return top_k_divergence(token_ids, log_probs, pair[1], kind).item()


@pytest.mark.parametrize("kind", ["js", "kl"])
def test_all_tokens_give_the_full_divergence(pair, kind):
    full = {"js": js_divergence, "kl": kl_divergence}[kind](*pair).item()
    assert top_k(pair, V, kind) == pytest.approx(full, rel=1e-4)
    assert top_k(pair, 10 * V, kind) == pytest.approx(full, rel=1e-4)


@pytest.mark.parametrize("kind", ["js", "kl"])
def test_merged_tokens_can_only_lower_a_divergence(pair, kind):
    values = [top_k(pair, k, kind) for k in range(1, V + 1)]
    assert all(low <= high + 1e-6 for low, high in zip(values, values[1:], strict=False))
    assert 0 < values[0] < 0.9 * values[-1]


def test_cached_distribution_sums_to_one_and_has_the_most_likely_tokens(pair):
    token_ids, log_probs = top_k_log_probs(pair[0], 5)
    p = softmax(pair[0])
    assert token_ids.shape == (N, 5)
    assert log_probs.shape == (N, 6)
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(N), atol=1e-5)
    assert token_ids.tolist() == np.argsort(-p, axis=1)[:, :5].tolist()
    assert log_probs.exp()[:, -1].numpy() == pytest.approx(
        np.sort(p, axis=1)[:, :-5].sum(1), rel=1e-4
    )


@pytest.mark.parametrize("kind", ["js", "kl"])
def test_all_tokens_at_a_temperature_give_the_full_divergence_at_it(pair, kind):
    token_ids, log_probs = top_k_log_probs(pair[0] / 2, V)
    full = {"js": js_divergence, "kl": kl_divergence}[kind](*pair, temperature=2.0)
    found = top_k_divergence(token_ids, log_probs, pair[1], kind, temperature=2.0)
    assert found.item() == pytest.approx(full.item(), rel=1e-4)
    assert found.item() != pytest.approx(top_k(pair, V, kind), rel=1e-2)


def test_top_k_by_hand():
    teacher = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    student = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    p = np.array([[0.5, 0.3, 0.2]])  # two tokens, and all others
    q = np.array([[0.1, 0.2, 0.7]])
    token_ids, log_probs = top_k_log_probs(teacher.log(), 2)
    for kind, expected in (("js", js(p, q)), ("kl", kl(p, q))):
        found = top_k_divergence(token_ids, log_probs, student.log(), kind)
        assert found.item() == pytest.approx(expected, rel=1e-5)


# ---- gradients


def all_losses(teacher, student, labels):
    token_ids, log_probs = top_k_log_probs(teacher, 4)
    yield cross_entropy(student, labels, 0.1)
    yield js_divergence(teacher, student)
    yield kl_divergence(teacher, student)
    yield top_k_divergence(token_ids, log_probs, student, "js")
    yield top_k_divergence(token_ids, log_probs, student, "kl")


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (3, torch.float32),
        (1e4, torch.float32),
        (3, torch.bfloat16),
        (1e4, torch.bfloat16),
        (6e4, torch.float16),
    ],
)
def test_gradients_are_finite(pair, scale, dtype):
    teacher, student = (scale * torch.sign(x) if scale > 1e3 else x for x in pair)
    teacher[0] = 0  # a flat distribution among the extreme ones
    student[1] = 0
    for number in range(5):
        leaf = student.to(dtype).requires_grad_()
        loss = list(all_losses(teacher.to(dtype), leaf, torch.arange(N)))[number]
        loss.backward()
        assert loss.isfinite() and leaf.grad.isfinite().all(), number
        assert leaf.grad.any() or scale > 1e3


def test_gradient_of_js_is_right():
    teacher = torch.randn(3, 5, dtype=torch.float64)
    student = torch.randn(3, 5, dtype=torch.float32, requires_grad=True)
    js_divergence(teacher, student).backward()
    step = 1e-3
    for i, j in ((0, 0), (1, 3), (2, 4)):
        up = student.detach().double().clone()
        down = up.clone()
        up[i, j] += step
        down[i, j] -= step
        difference = js(softmax(teacher), softmax(up)) - js(softmax(teacher), softmax(down))
        slope = difference / (2 * step)
        assert student.grad[i, j].item() == pytest.approx(slope, rel=1e-3, abs=1e-6)


# ---- the gate budget

# Two layers per stack.
GATES = {
    "encoder": [
        torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.6, 0.1, 0.1, 0.1]]),
        torch.tensor([[0.5, 0.5, 0.5, 0.0], [0.4, 0.0, 0.0, 0.0]]),
    ],
    "decoder": [torch.tensor([[0.2, 0.9], [0.1, 0.3]]), torch.tensor([[0.3, 0.9], [0.2, 0.4]])],
}
MASKS = {
    "encoder": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool(),
    "decoder": torch.tensor([[1, 0], [1, 1]]).bool(),
}
# Their means where the masks are true.
ENCODER = (0.9 + 0.8 + 0.7 + 0.6 + 0.5 * 3 + 0.4) / 8
DECODER = (0.2 + 0.1 + 0.3 + 0.3 + 0.2 + 0.4) / 6


@pytest.mark.parametrize("budget", [0.5, 0.3, 0.9])
def test_gate_budget_by_hand(budget):
    pooled = abs((8 * ENCODER + 6 * DECODER) / 14 - budget)
    assert gate_budget_loss(GATES, MASKS, budget).item() == pytest.approx(pooled, abs=1e-6)
    halves = (abs(ENCODER - budget) + abs(DECODER - budget)) / 2
    assert gate_budget_loss(GATES, MASKS, budget, per_stack=True).item() == pytest.approx(
        halves, abs=1e-6
    )


def test_open_encoder_hides_a_closed_decoder_unless_each_stack_has_a_budget():
    gates = {"encoder": [torch.full((1, 100), 0.52)], "decoder": [torch.zeros(1, 4)]}
    masks = {"encoder": torch.ones(1, 100).bool(), "decoder": torch.ones(1, 4).bool()}
    assert gate_budget_loss(gates, masks, 0.5) < 1e-3
    assert gate_budget_loss(gates, masks, 0.5, per_stack=True).item() == pytest.approx(
        0.26, abs=1e-6
    )


def test_budget_pulls_gates_towards_itself_at_real_positions_only():
    gates = {name: [g.clone().requires_grad_() for g in layers] for name, layers in GATES.items()}
    gate_budget_loss(gates, MASKS, 0.4, per_stack=True).backward()
    signs = {"encoder": 1, "decoder": -1}  # the encoder's mean lies above 0.4, the decoder's below
    for name, layers in gates.items():
        for g in layers:
            assert torch.equal(g.grad.sign(), signs[name] * MASKS[name].float())


# ---- their sum


def test_total_loss_has_the_releases_weights():
    ce = torch.tensor(2.0)
    gate = torch.tensor(0.25)
    kd = torch.tensor(0.5)
    assert total_loss(ce, gate).item() == 2.25
    assert total_loss(ce, gate, kd).item() == pytest.approx(0.5 * (2.25 / 1.41**2 + 0.5), rel=1e-6)


# ---- through the trainer, from a padded batch


@pytest.fixture
def setting(processor, tmp_path):
    """A trainer with experts and cached teacher distributions, its clips and their collator."""
    clips = RandomClips(processor.tokenizer, 4, seconds=(0.3, 0.6))
    collator = Collator(processor.tokenizer, margin_seconds=0.5)
    teacher = cache_teacher_distributions(
        load_whisper("tiny"), clips, collator, tmp_path / "teacher", k=8
    )
    student = shake_experts(attach_experts(load_whisper("tiny"), ["cs"], STILL))
    optimisation = Optimisation(learning_rate=1e-3, epochs=1)
    arguments = training_arguments(tmp_path, optimisation, len(clips), seed=0, precision="no")
    objective = Objective(divergence="js", per_stack=True)
    trainer = make_trainer(student, arguments, objective, clips, clips, collator, teacher=teacher)
    set_language(student, "cs")
    return trainer, clips, collator


def parts_of(trainer, batch):
    with torch.no_grad(), use_window(trainer.model, batch["input_features"].shape[-1]):
        output = trainer.model(
            input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
        )
        values = trainer._loss_parts(batch, *labelled(output.logits, batch["labels"]))
    return {name: value.item() for name, value in values.items()}


def test_logits_are_computed_where_there_is_a_label_alone(setting):
    trainer, clips, collator = setting
    batch = more_padding(collator([clips[0], clips[1]]), 3)
    shapes = []
    trainer.model.eval()
    handle = trainer.model.proj_out.register_forward_hook(
        lambda module, inputs, logits: shapes.append(logits.shape)
    )
    with torch.no_grad(), handle, use_window(trainer.model, batch["input_features"].shape[-1]):
        loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        kept = (batch["labels"] != IGNORED).sum()
        assert shapes == [(kept, trainer.model.config.vocab_size)]
        assert kept < batch["labels"].numel()
        whole = trainer.model(
            input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
        )
    expected = cross_entropy(*labelled(whole.logits, batch["labels"]))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def more_padding(batch, columns):
    pad = torch.nn.functional.pad
    return batch | {
        "labels": pad(batch["labels"], (0, columns), value=IGNORED),
        "decoder_input_ids": pad(batch["decoder_input_ids"], (0, columns), value=256),
    }


@pytest.mark.parametrize("training", [False, True])
def test_no_loss_changes_when_padding_grows(setting, training):
    trainer, clips, collator = setting
    trainer.model.train(training)
    batch = collator([clips[i] for i in range(4)])
    expected = parts_of(trainer, batch)
    assert set(expected) == {"ce", "gate_encoder", "gate_decoder", "budget", "kd", "loss"}
    assert all(value > 0 for value in expected.values()), expected
    for columns in (1, 9):
        assert parts_of(trainer, more_padding(batch, columns)) == pytest.approx(expected, rel=1e-5)


def test_tokens_at_padded_positions_do_not_matter(setting):
    trainer, clips, collator = setting
    batch = more_padding(collator([clips[i] for i in range(4)]), 3)
    expected = parts_of(trainer, batch)
    padded = batch["labels"] == IGNORED
    other = batch | {"decoder_input_ids": batch["decoder_input_ids"].masked_fill(padded, 99)}
    assert parts_of(trainer, other) == pytest.approx(expected, rel=1e-5)


def test_losses_of_a_batch_are_those_of_its_clips(setting):
    trainer, clips, collator = setting
    batch = collator([clips[i] for i in range(4)])
    frames = batch["input_features"].shape[-1]
    alone = []
    tokens = []
    for i in range(4):
        one = Collator(collator.tokenizer, margin_seconds=(frames - clips[i]["frames"]) / 100)(
            [clips[i]]
        )
        assert one["input_features"].shape[-1] == frames  # the same window
        alone.append(parts_of(trainer, one))
        tokens.append(len(clips[i]["labels"]))
    together = parts_of(trainer, batch)
    for name in ("ce", "kd", "gate_decoder"):
        mean = sum(part[name] * n for part, n in zip(alone, tokens, strict=True)) / sum(tokens)
        assert together[name] == pytest.approx(mean, rel=1e-4)
    budget = (abs(together["gate_encoder"] - 0.5) + abs(together["gate_decoder"] - 0.5)) / 2
    assert together["budget"] == pytest.approx(budget, rel=1e-4)
    assert together["loss"] == pytest.approx(
        0.5 * ((together["ce"] + budget) / 1.41**2 + together["kd"]), rel=1e-4
    )


def test_gates_are_counted_at_sound_and_text_alone(setting):
    trainer, clips, collator = setting
    batch = collator([clips[i] for i in range(4)])
    parts_of(trainer, batch)
    gates = last_gates(trainer.model)
    masks = position_masks(batch, gates["encoder"][0].shape[1])
    assert [int(row.sum()) for row in masks["encoder"]] == [
        -(-clips[i]["frames"] // 2) for i in range(4)
    ]
    assert [int(row.sum()) for row in masks["decoder"]] == [
        len(clips[i]["labels"]) for i in range(4)
    ]
    assert torch.equal(masks["encoder"], masks["encoder"].cummin(1).values)  # from the start on


def test_losses_of_gates_say_where_there_are_none():
    masks = {"encoder": torch.ones(2, 3), "decoder": torch.ones(2, 3)}
    none = {"encoder": [], "decoder": []}
    for loss in (gate_budget_loss, gate_uniformity_loss):
        with pytest.raises(ValueError, match="no sequence of the latest pass had an expert"):
            loss(none, masks)
    encoder_alone = none | {"encoder": [torch.full((2, 3), 0.75)]}
    assert gate_budget_loss(encoder_alone, masks, 0.5, per_stack=True).item() == 0.25


@pytest.mark.parametrize("per_stack", [False, True])
def test_sequences_without_an_expert_do_not_count_in_the_budget(per_stack):
    nobody = {
        name: [
            torch.cat([g, torch.full((1, g.shape[1]), torch.nan)]).requires_grad_() for g in layers
        ]
        for name, layers in GATES.items()
    }
    masks = {
        name: torch.cat([mask, torch.ones(1, mask.shape[1]).bool()]) for name, mask in MASKS.items()
    }
    loss = gate_budget_loss(nobody, masks, 0.4, per_stack)
    assert torch.equal(loss, gate_budget_loss(GATES, MASKS, 0.4, per_stack))
    loss.backward()
    assert all(g.grad.isfinite().all() for layers in nobody.values() for g in layers)


def test_uniformity_is_one_at_a_half_zero_for_equal_decisions_and_leaves_padding_out():
    one = torch.ones(1, 4)
    zero = torch.zeros(1, 4)
    half = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    mask = {"encoder": torch.ones(1, 4), "decoder": torch.ones(1, 4)}
    assert gate_uniformity_loss({"encoder": [one, zero], "decoder": [one]}, mask) == 0
    assert gate_uniformity_loss({"encoder": [half], "decoder": [half]}, mask) == 1
    assert (
        gate_uniformity_loss({"encoder": [half], "decoder": [one, one, one]}, mask).item() == 0.25
    )
    short = {"encoder": torch.tensor([[True, False, True, False]]), "decoder": torch.ones(1, 4)}
    assert gate_uniformity_loss({"encoder": [half], "decoder": [one]}, short) == 0
    nan = torch.tensor([[torch.nan] * 4, [1.0] * 4])
    assert gate_uniformity_loss({"encoder": [nan]}, {"encoder": torch.ones(2, 4)}) == 0


def test_uniformity_draws_each_layer_to_the_block_that_it_prefers():
    gates = [torch.full((1, 4), mean, requires_grad=True) for mean in (0.6, 0.4)]
    gate_uniformity_loss({"encoder": gates}, {"encoder": torch.ones(1, 4)}).backward()
    assert (gates[0].grad < 0).all()  # a step against the gradient opens the gates
    assert (gates[1].grad > 0).all()  # and here it shuts them


# ---- values out of range


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, math.nan, math.inf])
def test_a_temperature_of_0_is_refused(pair, temperature):
    stored = top_k_log_probs(pair[0], 3)
    for divergence in (
        lambda: kl_divergence(*pair, temperature),
        lambda: js_divergence(*pair, temperature),
        lambda: top_k_divergence(*stored, pair[1], "js", temperature),
    ):
        with pytest.raises(ValueError, match="temperature is .*: a number above 0 is needed"):
            divergence()


def test_unknown_divergences_numbers_of_tokens_and_budgets_are_refused(pair):
    stored = top_k_log_probs(pair[0], 3)
    with pytest.raises(ValueError, match="kind is 'cosine': known are js, kl"):
        top_k_divergence(*stored, pair[1], "cosine")
    for k in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f"k is {k}: a whole number from 1 on is needed"):
            top_k_log_probs(pair[0], k)
    with pytest.raises(ValueError, match="budget is 1.5: a number from 0 to 1 is needed"):
        gate_budget_loss({}, {}, 1.5)


@pytest.mark.parametrize("kind", ["js", "kl"])
def test_the_gradient_of_the_loss_that_trains_is_that_of_its_value(pair, kind):
    token_ids, log_probs = top_k_log_probs(pair[0], 3)
    step = 1e-2

    def value(logits):
        return top_k_divergence(token_ids, log_probs, logits, kind)

    logits = pair[1].detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(logits), logits)
    for place in [(0, int(token_ids[0, 0])), (0, int(pair[0][0].argmin())), (1, 0)]:
        moved = torch.zeros_like(logits)
        moved[place] = step
        slope = (value(logits + moved) - value(logits - moved)) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope.item(), rel=0.05, abs=2e-5)
