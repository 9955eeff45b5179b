"""Checks of what the reader builds in notebook 90, which has no exercises."""

import tempfile
from pathlib import Path

import torch
from answers import described, function, not_a_mistake, number

from distilwhisper_lib import IGNORED, cross_entropy, labelled, load_whisper


def _made_up_batches(width: int) -> list[dict[str, torch.Tensor]]:
    """Return two batches of one clip each in Whisper's own window, with 3 and with 9 labels."""
    batches = []
    for number_of_labels in (3, 9):
        labels = torch.full((1, 9), IGNORED)
        labels[0, :number_of_labels] = torch.arange(1, number_of_labels + 1)
        features = torch.randn(1, 80, width)
        inputs = torch.arange(9)[None]
        batches.append({"input_features": features, "labels": labels, "decoder_input_ids": inputs})
    return batches


def _mean_loss(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the mean cross-entropy over the label tokens of a batch."""
    inputs = {name: batch[name] for name in ("input_features", "decoder_input_ids")}
    return cross_entropy(*labelled(model(**inputs).logits, batch["labels"]))


def _gradient(model) -> torch.Tensor:
    """Return the gradient that has arrived, as one vector; empty where none has."""
    parts = [one.grad.flatten() for one in model.parameters() if one.grad is not None]
    return torch.cat(parts) if parts else torch.zeros(0)


def built_accumulate(accumulate) -> str:
    """Section 2: the gradient of several batches."""
    accumulate = function(accumulate, "accumulate(model, batches)")
    torch.manual_seed(9)
    model, ours = load_whisper("tiny"), load_whisper("tiny")
    batches = _made_up_batches(2 * model.config.max_source_positions)
    before = [weight.detach().clone() for weight in model.parameters()]
    given = number(accumulate(model, batches), "the loss")
    after = zip(model.parameters(), before, strict=True)
    assert all(torch.equal(a, b) for a, b in after), (
        "the weights have changed: no step is asked for"
    )

    single = []
    for batch in batches:
        ours.zero_grad()
        loss = _mean_loss(ours, batch)
        loss.backward()
        single.append((loss.item(), _gradient(ours)))
    (loss_3, gradient_3), (loss_9, gradient_9) = single
    found = _gradient(model)
    assert found.any(), "no gradient has arrived: call .backward() of each batch's weighted loss"
    not_a_mistake(
        found,
        [
            (gradient_3 + gradient_9, "the losses are added up unweighted"),
            ((gradient_3 + gradient_9) / 2, "that is a mean of means: weight each by its tokens"),
            (0.75 * gradient_9, "only the last batch's gradient is left: do not set it to zero"),
        ],
        tolerance=1e-3,
    )
    right = 0.25 * gradient_3 + 0.75 * gradient_9
    assert torch.allclose(found, right, atol=1e-5, rtol=1e-3), (
        "the gradient is another one: a batch's share is its label tokens over those of all batches"
    )
    assert abs(given - 0.25 * loss_3 - 0.75 * loss_9) < 1e-3, (
        "the gradient is right, the loss that is returned is not: add up the weighted losses"
    )
    return "as if it had been one large batch"


def built_newest_whole(newest_whole) -> str:
    """Section 4: the checkpoint from which a run goes on."""
    newest_whole = function(newest_whole, "newest_whole(folder)")
    cases = (
        ({4: True, 12: True}, 12, "as text checkpoint-12 comes before checkpoint-4: compare steps"),
        ({4: True, 16: False}, 4, "step 16 has no file `complete`: it is not whole"),
        ({4: False}, None, "none is whole, so None is asked for"),
        ({}, None, "there is no checkpoint, so None is asked for"),
    )
    for steps, step, message in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for one, is_whole in steps.items():
                (folder / f"checkpoint-{one}").mkdir()
                if is_whole:
                    (folder / f"checkpoint-{one}" / "complete").touch()
            found = newest_whole(folder)
            wanted = None if step is None else folder / f"checkpoint-{step}"
            assert found is None or isinstance(found, Path), (
                f"return the path of the checkpoint, not {described(found)}"
            )
            assert found == wanted, (
                f"{getattr(found, 'name', None)} of steps {list(steps)}: {message}"
            )
    return "the newest that is whole"
