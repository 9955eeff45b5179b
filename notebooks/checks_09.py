"""Checks of the exercises in notebook 09."""

import math

import pandas as pd
import torch
from answers import function, items, not_a_mistake, number, tensor
from hashed import hashed

DIFFERENCE = hashed("9.2 difference")
TIMES = hashed("9.2 times")


def _found(leaking, rows: list[tuple[str, str, str, str]]) -> set[str]:
    """Return the ids that the reader's function gives for a table of these rows."""
    table = pd.DataFrame(rows, columns=["id", "speaker", "text", "split"])
    before = table.copy()
    given = items(leaking(table), "return the ids of the clips, a list of texts")
    assert table.equals(before), "the table itself has changed: work on a copy"
    assert all(isinstance(one, str) for one in given), (
        "the ids are asked for: what stands in the column id, not the numbers of the rows"
    )
    return set(given)


def check_leaking(leaking) -> str:
    """Exercise 9.1: training clips whose speaker or text is in another split."""
    leaking = function(leaking, "leaking(table)")
    rows = [
        ("k1", "Ana", "It rains.", "train"),
        ("k2", "Ana", "It snows.", "train"),
        ("k3", "Ben", "The sun shines.", "train"),
        ("k4", "Ben", "Where is the boat?", "train"),
        ("k5", "Cem", "Good night.", "train"),
        ("k6", "Dan", "Come in.", "train"),
        ("k7", "Cem", "A fish.", "validation"),
        ("k8", "Eva", "it snows", "validation"),
        ("k9", "Dan", "Two fish.", "test"),
        ("k10", "Fay", "The sun shines.", "test"),
        ("k11", "Gil", "It rains.", "train"),
    ]
    found = _found(leaking, rows)
    held = {"k7", "k8", "k9", "k10"} & found
    assert not held, (
        f"{', '.join(sorted(held))} is held back for scoring: training clips alone have to go"
    )
    innocent = {"k1", "k4", "k11"} & found
    assert not innocent, (
        f"{', '.join(sorted(innocent))} does not leak: neither speaker nor text is in another "
        "split (what is doubled within training does no harm)"
    )
    assert not (found == {"k3", "k6"} or found == {"k6"}), (
        "clips are missing that leak into validation: what is chosen on it is a score too, so look "
        "at validation too"
    )
    assert "k2" in found or not {"k3", "k5"} <= found, (
        "a clip is missing whose text stands in another split in another way: with a capital or a "
        "full stop more it is the same sentence"
    )
    for missing, what in (("k3", "text"), ("k5", "speaker"), ("k6", "speaker"), ("k2", "text")):
        assert missing in found, (
            f"a clip is missing whose {what} is in another split: a speaker or a text is enough"
        )
    other = [(f"n{i}", who, say, where) for i, (who, say, where) in enumerate(OTHER_ROWS)]
    assert _found(leaking, other) == {"n1", "n4"}, (
        "on another table the result is another one: compare with the splits of the given table"
    )
    return "what is scored comes first; what is left may be trained on"


OTHER_ROWS = [
    ("Uma", "Yes, yes!", "test"),
    ("Vic", "yes yes", "train"),
    ("Wim", "No.", "train"),
    ("Xia", "Maybe.", "validation"),
    ("Xia", "Perhaps.", "train"),
]


def check_tokens(difference, times) -> str:
    """Exercise 9.2: a difference in nats a token, and the ratio that it stands for."""
    difference = number(difference, "difference")
    times = number(times, "times")
    DIFFERENCE.check(
        difference,
        f"difference is not {difference:.3f}: all nats under nl over all tokens, minus the same "
        "under de",
    )
    return TIMES.check(
        times,
        f"times is not {times:.3f}: a difference of logarithms is the logarithm of a ratio",
    )


def _needed(clips_needed, clips: list[int], rates: list[float], target: float) -> float:
    """Return what the reader's function gives."""
    try:
        given = clips_needed(list(clips), list(rates), target)
    except (OverflowError, ZeroDivisionError):
        raise AssertionError(
            "for some rates your line is level or rises, so that it never reaches the target: it "
            "does not fall, return math.inf"
        ) from None
    return number(given, "the number of clips")


def check_clips_needed(clips_needed) -> str:
    """Exercise 9.3: a line over the logarithm of the clips, solved for a target."""
    clips_needed = function(clips_needed, "clips_needed(clips, rates, target)")
    found = _needed(clips_needed, [100, 200, 400], [60.0, 55.0, 50.0], 40.0)
    assert found != 700, (
        "that is a line over the clips: over their logarithm each doubling brings as much, and the "
        "next one needs twice as many clips"
    )
    assert found != 11, "that is a number of doublings: go back from the logarithm to clips"
    assert found != 1200, "that is how many further clips are needed: all of them are asked for"
    assert abs(found - 1600) < 0.5, (
        f"{found:g} is not it: 5 points with each doubling, 10 are missing, so two doublings of 400"
    )
    found = _needed(clips_needed, [100, 200, 400], [60.0, 52.0, 50.0], 44.0)
    assert abs(found - 800) < 0.5, (
        f"{found:g} for points that lie on no line is not it: fit the line to all points, by least "
        "squares"
    )
    found = _needed(clips_needed, [64, 128, 256], [30.0, 27.0, 24.0], 23.0)
    assert 322 <= found <= 323, f"{found:g} clips for a third of a doubling beyond 256 is not it"
    assert found == 323, f"{found:g} clips do not reach the target: a whole number, round up"
    for rates in ([50.0, 55.0, 60.0], [50.0, 50.0, 50.0]):
        found = _needed(clips_needed, [100, 200, 400], rates, 40.0)
        assert found == math.inf, (
            f"{found:g} clips, but the line does not fall with the rates {rates}: math.inf"
        )
    return "four times the clips for ten points: look at the interval before you believe it"


# ---- what the reader builds


def built_loss_of_texts(loss_of_texts) -> str:
    """Section 2: the mean loss of each text, without its first positions and without padding."""
    loss_of_texts = function(loss_of_texts, "loss_of_texts(logits, labels, first)")
    torch.manual_seed(9)
    for first, length in ((3, 8), (1, 6)):
        logits = torch.randn(3, length, 7)
        labels = torch.randint(7, (3, length))
        labels[0, -2:] = -100
        labels[1, -1:] = -100
        before = labels.clone()
        log_p = logits.log_softmax(-1)
        loss = -log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0]  # (B, T)
        is_text = labels >= 0
        counted = is_text.clone()
        counted[:, :first] = False
        right = (loss * counted).sum(1) / counted.sum(1)
        rest = loss[:, first:]

        given = tensor(loss_of_texts(logits, labels, first), (3,), "the losses")
        assert torch.equal(labels, before), "`labels` itself has changed: work on a copy"
        not_a_mistake(
            given.detach(),
            [
                (-right, "the sign is the other way round: a loss is never negative"),
                ((loss * counted).sum(1), "that is the sum of each text, not its mean"),
                (
                    (loss * is_text).sum(1) / is_text.sum(1),
                    "the first positions count too: language and task are given, so leave out "
                    "`first` of them",
                ),
                (
                    (loss * counted).sum(1) / rest.shape[1],
                    "divide by each text's own number of tokens: padding is no token",
                ),
                (
                    rest.mean(1),
                    "padding counts too: a label of -100 is no token, and after clamp() it looks "
                    "like token 0",
                ),
                (
                    ((loss * counted).sum() / counted.sum()).expand(3),
                    "that is the mean of the batch: each text has a loss of its own",
                ),
                (right / math.log(2), "in nats, not in bits: the natural logarithm"),
            ],
        )
        assert torch.allclose(given, right, atol=1e-4), (
            f"{[round(value, 2) for value in given.tolist()]} is not it, "
            f"{[round(value, 2) for value in right.tolist()]} is (first = {first}): -log p of each "
            "label, and the mean over the positions that count"
        )
    return "a text that is not what is said costs more nats a token"
