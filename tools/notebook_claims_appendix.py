"""What the appendix (notebook 90) says of results; `notebook_claims.py` checks it."""

import re

from notebook_claims import Claim, numbers_of, output_of, shows, table_numbers

STEM = "90_appendix_trainer"


# ---- accumulated batches


def _steps_of_trainers() -> list[list[float]]:
    """Return loss and norm of one step: of the stock trainer 1 x 8 and 4 x 2, then of ours."""
    printed = output_of(STEM, 'for name, build in (("transformers')
    rows = re.findall(r"\d x \d +([\d.]+) +([\d.]+)", printed)
    return [[float(number) for number in row] for row in rows]


def _four_times_and_equal() -> bool:
    stock_once, stock, ours_once, ours = _steps_of_trainers()
    factors = [four / one for one, four in zip(stock_once, stock, strict=True)]
    return all(shows(factor, "4.0") for factor in factors) and ours == ours_once


def _weights_of_tokens() -> bool:
    """Whether a token of the smallest batch weighs most, and all weigh the same in one batch."""
    code = 'rename_axis("batch"), digits=3)'
    rows = [table_numbers(STEM, code, f"{batch} ") for batch in (1, 2, 3, 4)]
    tokens, means, together = zip(*rows, strict=True)
    return means[tokens.index(min(tokens))] == max(means) and len(set(together)) == 1


def _another_gradient() -> bool:
    label = "the difference of the two gradients has"
    difference = numbers_of(STEM, "mean_of_means = load_whisper", label)[0]
    return 0 < difference < 10  # %


def _ten_steps() -> tuple[list[float], ...]:
    """Return losses and large gradients: SGD with the factors 1 and 4, then Adam."""
    printed = output_of(STEM, '("SGD", sgd), ("Adam", adam)')
    rows = re.findall(r"[14] +(\d+\.\d+) +(\d+)$", printed, re.MULTILINE)
    losses, large = zip(*rows, strict=True)
    return [float(loss) for loss in losses], [float(number) for number in large]


def _hidden_by_adam() -> bool:
    losses, _ = _ten_steps()
    sgd_once, sgd, adam_once, adam = losses
    return adam == adam_once and sgd != sgd_once


def _more_is_clipped() -> bool:
    _, large = _ten_steps()
    return large[1] == large[3] == 10 and large[0] == large[2] == 2


# ---- checkpoints


def _files() -> dict[str, float]:
    """Return the kilobytes of each file of the run that was stopped, by its path."""
    printed = output_of(STEM, "before = Counting(plug=8)")
    rows = re.findall(r"^(checkpoints/\S+|\S+\.json) +([\d.]+)$", printed, re.MULTILINE)
    return {path: float(size) for path, size in rows}


def _twice_the_weights() -> bool:
    files = _files()
    weights, adam = (
        files[f"checkpoints/checkpoint-4/{name}"] for name in ("model.safetensors", "optimizer.pt")
    )
    return adam == max(files.values()) and 1.8 < adam / weights < 2.2


def _goes_on_from() -> bool:
    printed = output_of(STEM, "found = newest_whole(copies)").split("\n")
    return [line for line in printed if line] == [
        "goes on from checkpoint-12",
        "left: checkpoint-12 checkpoint-4",
        "one byte changed: goes on from checkpoint-4",
    ]


def _same_to_the_last_bit() -> bool:
    code = "train_run(config, stopped, eight, one, after)"
    numbers = numbers_of(STEM, code, "batches:")
    return numbers == [7, 8, 12] and "last bit: True" in output_of(STEM, code)


def appendix_trainer() -> list[Claim]:
    """Return the claims of the appendix."""
    return [
        Claim(
            "loss and gradient of `4 x 2` are about four times those of `1 x 8`. With `LabTrainer` "
            "both are equal.",
            _four_times_and_equal,
        ),
        Claim(
            "With the fewest: its quarter is shared by fewer tokens. In one batch of eight each "
            "token has the same weight.",
            _weights_of_tokens,
        ),
        Claim(
            "it is another gradient: the two differ by less than a tenth of the norm.",
            _another_gradient,
        ),
        Claim("With Adam the loss is the same to the last digit shown", _hidden_by_adam),
        Claim(
            "the logged loss is four times too large, and more gradients are clipped. All ten are "
            "above the limit, where two were.",
            lambda: _four_times_and_equal() and _more_is_clipped(),
        ),
        Claim(
            "The largest is `optimizer.pt`: Adam keeps two numbers for each trained weight, so the "
            "file is about twice as large as that of the weights.",
            _twice_the_weights,
        ),
        Claim(
            "The checkpoint of step 4, the end of the first epoch, holds its mark. There is no "
            "`run.json`",
            lambda: (
                "checkpoints/checkpoint-4/complete" in _files()
                and not any(path.endswith("run.json") for path in _files())
            ),
        ),
        Claim(
            "From step 12, and the half-written checkpoint is removed. After the change the mark "
            "is still there, yet the library goes back to step 4",
            _goes_on_from,
        ),
        Claim(
            "There were 7 batches until the stop and 8 after it, where 12 are enough without a "
            "stop: of the first epoch nothing is computed again, of the second all. The experts "
            "are the same to the last bit.",
            _same_to_the_last_bit,
        ),
    ]
