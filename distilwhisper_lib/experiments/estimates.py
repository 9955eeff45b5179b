"""`make estimates`: hours and memory of a run on three cards, calculated, not measured.

Two operations for a multiplication and addition. The gradient of the activations costs as much as
the forward pass, and so does that of the weights, where they are trained. Time = operations / (peak
* UTILISATION), plus a constant for every layer and token of a prediction. Where the best epoch is
kept, validation is transcribed after each. Log-mels, disk and start are not counted.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from ..checks import check_number
from ..data.audio import SAMPLE_RATE
from ..evaluation.ctc import MMS, CtcShape
from ..evaluation.ctc import SHAPES as CTC_SHAPES
from ..presets import Preset, get_preset
from ..programs import number_option, run_program
from ..training.methods import Cost, Weights, compared_methods, get_method
from ..whisper.shapes import ENCODER_POSITIONS, SHAPES, VOCABULARY, WhisperShape

TEACHER_OUTPUTS = "teacher-outputs"  # the teacher's pass over the training clips, a row of its own

# Rows of models as they are that a lab does not know: the authors' published experts, and CTC
# models by row.
PUBLISHED_ROW = "published"
CTC_ROWS = {"mms-1b-all": MMS}

# operations a second in fp16 or bf16, GB (data sheets)
CARDS = {"T4": (65e12, 16), "A100": (312e12, 80), "H100": (989e12, 80)}
UTILISATION = 0.25  # assumed share of the peak; a run on your own card replaces it
LAYER_SECONDS = 0.0015  # assumed: one decoder layer and token of a batch, the start of its kernels

TOKENS = 40  # assumed: of a clip's text
# Times as many tokens: Whisper's tokenizer cuts article 1 of the Universal Declaration of Human
# Rights into 125 (th) and 200 (ta), in the paper's other six languages into 43 to 71, 58 on average
MORE_TOKENS = {"th": 2.1, "ta": 3.4}
VALIDATION_CLIPS = 1000  # assumed where the preset sets no limit
TEST_CLIPS = {"in-domain": 9_000, "out-of-domain": 1_000}  # the same of the tests
CLIP_SECONDS = 10.0  # assumed: a test clip with the padding of its batch, where no window is fixed

ACTIVATION_BYTES = 34  # a position, layer and unit of width in fp16 without attention matrices
# (Korthikanti et al. 2022, section 4.1)
LOGIT_BYTES = 12  # fp32, log-softmax and gradient
WEIGHT_BYTES = 6  # fp32 and its 16-bit copy under autocast
TEACHER_WEIGHT_BYTES = 2  # fp16
TRAINED_BYTES = 4 + 8  # gradient and Adam's two moments
POSITIONS_A_SECOND = 50  # of wav2vec 2.0, as of Whisper's encoder


def estimate(
    name: str, preset: Preset, clips: int, tests: Iterable[str] = tuple(TEST_CLIPS)
) -> dict[str, float]:
    """Return what training a method on `clips` and its tests takes.

    Args:
        name: Of a method; "teacher-outputs"; or a row of a model as it is, "published" or of
            CTC_ROWS.
        preset: Whose models, epochs and batches count.
        clips: Training clips.
        tests: Names of the tests, of TEST_CLIPS.

    Returns:
        Trained parameters (millions), PFLOP, GB, and hours on each card; empty for a model whose
        shape is not in `SHAPES`.

    Raises:
        ValueError: For an unknown method, or clips that are no whole number from 1 on.
    """
    check_number("clips", clips, low=1, whole=True)
    test_clips = [preset.test_clips or TEST_CLIPS[test] for test in tests]
    if name in CTC_ROWS:
        shape_of_ctc = CTC_SHAPES.get(CTC_ROWS[name])
        return {} if shape_of_ctc is None else _estimate_ctc(shape_of_ctc, preset, sum(test_clips))
    is_outputs = name == TEACHER_OUTPUTS
    is_published = name == PUBLISHED_ROW
    stands_for = {TEACHER_OUTPUTS: "teacher", PUBLISHED_ROW: "distilwhisper-released"}
    method = get_method(stands_for.get(name, name))
    is_teacher = method.weights is Weights.TEACHER
    shape = SHAPES.get((preset.teacher or preset.student) if is_teacher else preset.student)
    if shape is None:
        return {}

    cost = method.count(shape)
    if is_published:
        cost = replace(cost, trained=0, whisper_gradients=False)
    tokens = tokens_of(preset)
    forward = shape.forward_flops(tokens)
    added = cost.layer_flops * shape.layers * (ENCODER_POSITIONS + tokens)
    step = 2 * forward + 3 * added + cost.whisper_gradients * forward

    epochs = preset.epochs if cost.trained else 0
    validation = preset.validation_clips or VALIDATION_CLIPS
    transcribed = 0
    if not is_outputs:
        transcribed = sum(test_clips)
    if preset.keep == "best":
        transcribed += epochs * validation

    flops = epochs * (clips * step + validation * (forward + added))
    flops += (transcribed or clips) * (forward + added)
    waiting = transcribed / preset.eval_batch_size * tokens * shape.layers * LAYER_SECONDS
    hours = {
        f"{card} h": (flops / (peak * UTILISATION) + waiting) / 3600
        for card, (peak, _) in CARDS.items()
    }
    weight_bytes = TEACHER_WEIGHT_BYTES if is_teacher else WEIGHT_BYTES
    gigabytes = memory(shape, cost, preset, weight_bytes) / 1e9
    return {"trained M": cost.trained / 1e6, "PFLOP": flops / 1e15, "GB": gigabytes} | hours


def _estimate_ctc(shape: CtcShape, preset: Preset, transcribed: int) -> dict[str, float]:
    """Return what transcribing so many clips with a CTC model takes: it has no decoder."""
    flops = transcribed * shape.forward_flops(CLIP_SECONDS)
    hours = {f"{card} h": flops / (peak * UTILISATION) / 3600 for card, (peak, _) in CARDS.items()}
    rate = SAMPLE_RATE / shape.kernels[0][1]  # positions a second after the first convolution
    widest = 2 * TEACHER_WEIGHT_BYTES * rate * CLIP_SECONDS * shape.channels  # its output, twice
    layer = ACTIVATION_BYTES * POSITIONS_A_SECOND * CLIP_SECONDS * shape.width
    use = preset.eval_batch_size * max(widest, layer)
    gigabytes = (TEACHER_WEIGHT_BYTES * shape.parameters + use) / 1e9
    return {"trained M": 0.0, "PFLOP": flops / 1e15, "GB": gigabytes} | hours


def tokens_of(preset: Preset) -> float:
    """Return the tokens of a clip's text in the preset's language, on average."""
    return TOKENS * MORE_TOKENS.get(preset.language, 1)


def memory(
    shape: WhisperShape, cost: Cost, preset: Preset, weight_bytes: int = WEIGHT_BYTES
) -> float:
    """Return the bytes of weights, optimiser and a batch, in training or in use.

    In training the activations of all layers are kept, in use those of one, with keys and values of
    all layers in 16 bits.

    Args:
        shape: Of the model.
        cost: Of the method.
        preset: Whose batches count.
        weight_bytes: Of a weight.
    """
    tokens = tokens_of(preset)
    positions = ENCODER_POSITIONS + tokens
    layer = positions * shape.width * (ACTIVATION_BYTES + cost.activation_bytes)
    logits = LOGIT_BYTES * tokens * VOCABULARY
    cache = 4 * shape.layers * (ENCODER_POSITIONS + preset.max_new_tokens) * shape.width

    training = preset.batch_size * (shape.layers * layer + logits) if cost.trained else 0
    use = preset.eval_batch_size * (layer + logits + cache)
    weights = weight_bytes * (shape.parameters + cost.added) + TRAINED_BYTES * cost.trained
    return weights + max(training, use)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of estimates from the command line.

    Args:
        arguments: Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="make estimates ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", default="paper", help="default: paper")
    whole = number_option(low=1, whole=True)
    parser.add_argument("--clips", type=whole, default=10_000, help="training clips")
    given = parser.parse_args(arguments)

    preset = get_preset(given.preset)
    names = (TEACHER_OUTPUTS, *compared_methods(preset))
    rows = {name: estimate(name, preset, given.clips) for name in names}
    if not any(rows.values()):
        raise ValueError(
            f"the student {preset.student} of the preset {preset.name} has no known shape: "
            f"estimates are of presets with {', '.join(SHAPES)}"
        )
    cards = ", ".join(f"{card} {size} GB" for card, (_, size) in CARDS.items())
    print(
        f"Estimates, not measured: {given.clips} clips, {preset.epochs} epochs, batches of "
        f"{preset.batch_size}, {UTILISATION:.0%} of each card's peak ({cards})"
    )
    print(pd.DataFrame(rows).T.round(2).to_string())


if __name__ == "__main__":
    run_program(main)
