"""What notebook 03 says of results; `notebook_claims.py` collects and checks it."""

import json
from itertools import pairwise

import numpy as np
from notebook_claims import (
    ROOT,
    Claim,
    numbers_of,
    output_of,
    shows,
    table_numbers,
)
from notebook_pictures import bars, curve, last, panels

from distilwhisper_lib.whisper.shapes import VOCABULARY

STEM = "03_distillation"
OURS = ("experts", "distilwhisper")  # without the teacher, and with it


# ---- losses and stored teachers


def _pulls() -> tuple[float, float]:
    """Return the pulls of KL and of JS on a logit that is far from the teacher's."""
    line = numbers_of(STEM, 'print("pull at a logit of -6:"', "pull at a logit of -6:")
    return line[0], line[1]


def _top_k(k: int) -> list[float]:
    """Return k, the share of JS kept, the cosine and the bytes."""
    return [float(k), *table_numbers(STEM, "for k in (1, 4, 16", f"{k} ")]


def _room_for_a_teacher() -> bool:
    _, four, cosine, _ = _top_k(4)
    return (
        shows(four, "93")
        and shows(_top_k(16)[1], "98")
        and shows(_top_k(256)[1], "99")
        and shows(cosine, "0.998")
    )


def _right(model: str) -> list[float]:
    """Return cross-entropy and share of right tokens of a model."""
    return numbers_of(STEM, "right = (logits.argmax(-1) == labels)", f"{model}: CE")


def _tail() -> list[float]:
    line = numbers_of(STEM, "mass outside the top", "mass outside the top 256:")
    return line[:3]  # on average, in the surer half, in the other


def _products() -> list[float]:
    labels = ("teacher: V x", "student: V x")
    return [numbers_of(STEM, "mass outside the top", label)[0] for label in labels]


def _megabytes() -> tuple[float, float]:
    """Return megabytes per 1,000 clips as stored and of all probabilities."""
    code = "outputs = lab.teacher_distributions()"
    stored = numbers_of(STEM, code, "stored:")[0]
    return stored, numbers_of(STEM, code, "all probabilities in fp16:")[0]


def _stored_and_now() -> bool:
    code = "outputs.lookup(batch"
    stored, now = numbers_of(STEM, code, "JS over the stored outputs")
    return 0.005 * now < abs(stored - now) < 0.015 * now


def _padding(extra: int) -> list[float]:
    """Return the loss over all positions and over labelled ones."""
    return table_numbers(STEM, "for extra in (0, 5, 20, 60)", f"{extra} ")


def _padding_changes_one_column() -> bool:
    rows = [_padding(extra) for extra in (0, 5, 20, 60)]
    everywhere, labelled = zip(*rows, strict=True)
    return (
        shows(everywhere[0], "0.174")
        and shows(everywhere[-1], "0.092")
        and all(later < earlier for earlier, later in pairwise(everywhere))
        and len(set(labelled)) == 1
    )


# ---- a step


def _gradients() -> dict[str, list[float]]:
    """Return the number of weights, and of those with a gradient, of each part."""
    parts = ("experts", "gates", "Whisper")
    return {part: numbers_of(STEM, "mine.backward()", part) for part in parts}


def _a_step_helps() -> bool:
    before, after = numbers_of(STEM, "mine.backward()", "loss of the same batch:")
    return after < before


# ---- the trainings


def _trained(system: str) -> list[float]:
    """Return steps, trained weights, seconds, best and last validation CE, last budget loss."""
    return table_numbers(STEM, '"best validation CE": min(', f"{system} ")


def _toy_vocabulary() -> int:
    config = (ROOT / "data" / "toy" / "student" / "config.json").read_text(encoding="utf-8")
    return json.loads(config)["vocab_size"]


def _least_smoothed_ce(vocabulary: int) -> float:
    """Return the entropy in nats of a label that is smoothed by 0.1."""
    spread = 0.1 / vocabulary
    label = 0.9 + spread
    return -label * np.log(label) - (vocabulary - 1) * spread * np.log(spread)


def _same_work() -> bool:
    experts, taught = map(_trained, OURS)
    return experts[:2] == taught[:2]


def _training_curves() -> list[np.ndarray]:
    return panels(STEM, 'keys=("ce", "eval_loss", "kd", "budget")')


def _training_ce_falls() -> bool:
    ce = _training_curves()[0]
    return all(last(ce, system) < 0.5 * np.nanmax(curve(ce, system)) for system in OURS)


def _gates_in_training() -> bool:
    both = panels(STEM, 'keys=("gate_encoder", "gate_decoder")')  # from 0 to 1
    return all(
        0.44 < np.nanmin(curve(panel, system)) < 0.54 and abs(last(panel, system) - 2 / 3) < 0.05
        for panel in both
        for system in OURS
    )


# ---- what they write


STUDENT = "Whisper (student)"
BOTH = ("Experts, our variant without teacher", "DistilWhisper, our variant")


def _errors(label: str) -> list[int]:
    """Return the word errors of a system in each of the clips that are shown."""
    printed = output_of(STEM, '"in English", "text": english[i]')
    rows = [line for line in printed.splitlines() if label in line]
    return [int(row.split()[-1]) for row in rows]


def _paired(other: str) -> list[float]:
    """Return the difference of our variant to another system, its interval and p."""
    printed = output_of(STEM, "differences = comparison.paired(lab")
    (row,) = (line for line in printed.splitlines() if f"{other} " in line)
    return [float(number) for number in row.split(other)[1].split()]


def _better_than_the_student() -> bool:
    difference, _, high, _ = _paired("student")
    return difference < 0 and high < 0


def _teacher_is_open() -> bool:
    _, low, high, _ = _paired("experts")
    return low <= 0 <= high


# ---- gates


def _open(system: str) -> tuple[float, float]:
    """Return the shares of open gates of encoder and decoder, in per cent."""
    encoder, decoder = table_numbers(STEM, '"open in the encoder, %"', f"{system} ")
    return encoder, decoder


def _shares() -> bool:
    (first, first_decoder), (second, second_decoder) = map(_open, OURS)
    return (
        first == second == 100
        and shows(min(first_decoder, second_decoder), "84")
        and shows(max(first_decoder, second_decoder), "85")
    )


def _five_layers_are_open() -> bool:
    decoder = panels(STEM, "plot_gate_layers(shares, budgets=(0.8,))")[1]
    for system in OURS:
        first, second, *others = bars(decoder, system)
        if second > 0.15 or min(first, *others) < 0.9:
            return False
    return True


def _one_token_in_the_second_layer() -> bool:
    """Look at the picture of the decoder's gates: six rows of layers, dark is the expert."""
    (panel, *_) = panels(STEM, "plots.plot_gate_positions(")
    brightness = panel.mean(-1)
    rows = [brightness[round(len(panel) * (layer + 0.5) / 6)] for layer in range(6)]
    dark = [float((row < 0.5).mean()) for row in rows]
    tokens = 16
    return shows(dark[1] * tokens, "1") and min(dark[0], *dark[2:]) > 0.99


def claims() -> list[Claim]:
    """Return the claims of notebook 03."""
    divergences = "nothing_in_common = "
    return [
        Claim(
            "Larger: random logits",
            lambda: numbers_of(STEM, "by_hand = smoothed_ce(", "CE")[0] > np.log(5),
        ),
        Claim(
            "With nothing in common KL grows with the logits, without end; JS is $\\log 2 = "
            "0.6931$.",
            lambda: numbers_of(STEM, divergences, "nothing in common:") == [60, 0.6931],
        ),
        Claim(
            "Far from the teacher KL pulls with a constant force, and JS lets go.",
            lambda: _pulls()[0] > 0.8 and _pulls()[1] < 0.02,
        ),
        Claim(
            "The teacher's cross-entropy is well under half of the student's.",
            lambda: _right("teacher")[0] < 0.45 * _right("student")[0],
        ),
        Claim(
            "Its likeliest token is right at 82 % of the positions, the student's at 59 %.",
            lambda: (_right("teacher")[1], _right("student")[1]) == (82, 59),
        ),
        Claim(
            "4 tokens keep 93 % of JS, 16 tokens 98 %, the preset's 256 tokens 99 %. The "
            "**gradient** needs fewer: with 4 tokens its cosine is 0.998.",
            _room_for_a_teacher,
        ),
        Claim(
            "Outside the top 256 lies 0.5 % of the teacher's mass, nearly all of it in the half of "
            "the positions where it is less sure",
            lambda: _tail()[0] == 0.5 and _tail()[1] < 0.1 * _tail()[2],
        ),
        Claim("For both models the product is far below `0.1`:", lambda: max(_products()) < 0.02),
        Claim(
            "The files take 31 MB per 1,000 clips instead of 2,103 MB, less than a sixtieth.",
            lambda: (
                shows(_megabytes()[0], "31")
                and _megabytes()[1] == 2103
                and _megabytes()[0] < _megabytes()[1] / 60
            ),
        ),
        Claim("The two differ by about one per cent.", _stored_and_now),
        Claim(
            "The first column falls from 0.174 to 0.092 by padding alone. The second column stays.",
            _padding_changes_one_column,
        ),
        Claim(
            "A nat of JS weighs 1.99 times as much as a nat of CE.",
            lambda: numbers_of(STEM, "weighted = total_loss(", "L =")[1] == 1.99,
        ),
        Claim(
            "Whisper has no gradient at all",
            lambda: _gradients()["Whisper"][-1] == 0 < _gradients()["experts"][-1],
        ),
        Claim("One step on one batch lowers the loss of that batch.", _a_step_helps),
        Claim("Both train the same number of weights for the same number of steps.", _same_work),
        Claim(
            "1.4 with Whisper's vocabulary, 1.1 with the smaller one of `toy`",
            lambda: (
                shows(_least_smoothed_ce(VOCABULARY), "1.4")
                and shows(_least_smoothed_ce(_toy_vocabulary()), "1.1")
            ),
        ),
        Claim(
            "The teacher costs 11 % more time",
            lambda: shows(100 * (_trained(OURS[1])[2] / _trained(OURS[0])[2] - 1), "11"),
        ),
        Claim(
            "It lowers the last validation CE by less than a tenth of a nat.",
            lambda: 0 < _trained(OURS[0])[4] - _trained(OURS[1])[4] < 0.1,
        ),
        Claim("Training CE falls in both.", _training_ce_falls),
        Claim(
            "The budget loss ends above 0.1",
            lambda: min(_trained(system)[5] for system in OURS) > 0.1,
        ),
        Claim(
            "The mean falls to one half and rises again to two thirds, short of the budget",
            _gates_in_training,
        ),
        Claim(
            "Of the four clips the student gets none right, with the experts it is one.",
            lambda: 0 not in _errors(STUDENT) and all(_errors(name).count(0) == 1 for name in BOTH),
        ),
        Claim(
            "In the third clip the experts make more word errors than the student, 7 instead of 5.",
            lambda: _errors(STUDENT)[2] == 5 and all(_errors(name)[2] == 7 for name in BOTH),
        ),
        Claim(
            "With experts and teacher the student makes fewer errors, and that is decided.",
            _better_than_the_student,
        ),
        Claim("What the teacher adds is not.", _teacher_is_open),
        Claim(
            "all of the encoder's gates are open, and 84 to 85 % of the decoder's.",
            _shares,
        ),
        Claim(
            "Five of the decoder's layers are open, and the second is nearly always shut.",
            _five_layers_are_open,
        ),
        Claim("In training about a third of these gates were shut.", _gates_in_training),
        Claim(
            "The exception is the decoder's second layer, whose expert is used at one token alone",
            _one_token_in_the_second_layer,
        ),
    ]
