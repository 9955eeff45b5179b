"""`python -m distilwhisper_lib.experiments.estimates`: hours and memory of a run on three cards, not measured.

Arithmetic of the models' shapes: two FLOPs a multiplication and addition; the gradient of the activations costs as much
as the forward pass, and so does that of the weights, where they are trained. Time = FLOPs / (peak * UTILISATION), plus
a constant for every layer and word of a transcript. Where the best epoch is kept, validation is transcribed after each.
Log-mels, disk and start are not counted.
"""

import argparse
from dataclasses import dataclass

import pandas as pd

from ..presets import Preset, get_preset
from ..training.systems import SYSTEMS, get_system

VOCABULARY, FRAMES, POSITIONS, TEXT = (
    51865,
    3000,
    1500,
    448,
)  # of every multilingual Whisper up to large-v2; 80 mels

RANK, GATE = 64, 64  # LoRA; inner width of a gate

CARDS = {
    "T4": (65e12, 16),
    "A100": (312e12, 80),
    "H100": (989e12, 80),
}  # FLOP/s in fp16 or bf16, GB (data sheets)

UTILISATION = 0.25  # assumed share of the peak; a run on your own card replaces it

LAYER_SECONDS = 0.0015  # assumed: one decoder layer for one word of a batch, bound by starting kernels on every card

TOKENS = 40  # assumed: words and marks of a clip

MORE_TOKENS = {
    "th": 2.1,
    "ta": 3.4,
}  # times as many: Whisper's tokenizer cuts article 1 of the Universal Declaration
# of Human Rights into 125 and 200 tokens, in the paper's other six languages into 43 to 71, 58 on average
VALIDATION_CLIPS, TEST_CLIPS = (
    1000,
    10_000,
)  # where the preset sets no limit; tests of both domains together, assumed

ACTIVATIONS = {
    "everything": 34,
    "adapter": 34 + 15,
    "experts": 34 + 19,
}  # bytes a position, layer and unit of width:
# 34 in fp16 without attention matrices (Korthikanti et al. 2022, section 4.1), of which 19 are the feed-forward block,
# here twice with experts; 15: the copies and masks of LoRA's dropout before fc1 and fc2


@dataclass(frozen=True)
class Shape:
    """Sizes of a Whisper: width d, layers in each stack, inner width of the feed-forward blocks."""

    width: int
    layers: int
    ffn: int

    def parameters(self) -> dict[str, int]:
        """Return the parameters of Whisper itself, and those that experts of one language or LoRA add."""
        d, n, ffn = self.width, self.layers, 2 * self.width * self.ffn + self.ffn + self.width
        attention = 4 * d * d + 3 * d  # keys have no bias
        encoder = (
            (3 * 80 * d + d)
            + (3 * d * d + d)
            + POSITIONS * d
            + n * (attention + ffn + 4 * d)
            + 2 * d
        )
        decoder = (VOCABULARY + TEXT) * d + n * (2 * attention + ffn + 6 * d) + 2 * d
        return {
            "whisper": encoder + decoder,
            "experts": 2 * n * (ffn + d * GATE + 2 * GATE),
            "adapter": 2 * n * 2 * RANK * (d + self.ffn),
        }

    def trained(self, trains: str) -> tuple[int, int]:
        """Return how many parameters the model has in all, and how many of them are trained."""
        parameters = self.parameters()
        added = parameters.get(trains, 0)
        return parameters["whisper"] + added, parameters[
            "whisper"
        ] if trains == "everything" else added

    def flops(self, trains: str = "nothing", t: float = TOKENS) -> tuple[float, float]:
        """Return FLOPs of a forward pass of a clip of t tokens: of Whisper itself, and of what experts or LoRA add."""
        d, n, s = self.width, self.layers, POSITIONS
        encoder = FRAMES * 3 * 80 * d + s * 3 * d * d + n * s * (4 * d * d + 2 * s * d)
        decoder = n * (t * (6 * d * d + 2 * (t + s) * d) + s * 2 * d * d) + t * VOCABULARY * d
        added = {"experts": 2 * d * self.ffn + d * GATE, "adapter": 2 * RANK * (d + self.ffn)}.get(
            trains, 0
        )
        return 2.0 * (encoder + decoder + n * (s + t) * 2 * d * self.ffn), 2.0 * n * (s + t) * added


SHAPES = {
    "openai/whisper-base": Shape(512, 6, 2048),
    "openai/whisper-small": Shape(768, 12, 3072),
    "openai/whisper-large-v2": Shape(1280, 32, 5120),
}


def estimate(system: str, preset: Preset, clips: int) -> dict[str, float]:
    """Return parameters trained (millions), PFLOP, GB and hours on each card, of training on `clips` and all tests.

    system: a name in SYSTEMS, or "teacher-outputs". Empty for a model whose shape is not in SHAPES.
    """
    shape = SHAPES.get(
        (preset.teacher or preset.student) if system.startswith("teacher") else preset.student
    )
    if shape is None:
        return {}
    trains = "nothing" if system == "teacher-outputs" else get_system(system).trains
    tokens = TOKENS * MORE_TOKENS.get(preset.language, 1)
    (base, added), (_, trained) = shape.flops(trains, tokens), shape.trained(trains)
    epochs, validation = (
        preset.epochs if trained else 0,
        preset.validation_clips or VALIDATION_CLIPS,
    )
    step = 3 * base if trains == "everything" else 2 * base + 3 * added
    written = (
        0
        if system == "teacher-outputs"
        else 2 * preset.test_clips
        if preset.test_clips
        else TEST_CLIPS
    )
    written += epochs * validation if preset.keep == "best" else 0
    flops = epochs * (clips * step + validation * (base + added)) + (written or clips) * (
        base + added
    )
    waiting = written / preset.eval_batch_size * tokens * shape.layers * LAYER_SECONDS
    hours = {
        f"{card} h": (flops / (peak * UTILISATION) + waiting) / 3600
        for card, (peak, _) in CARDS.items()
    }
    gigabytes = memory(shape, trains, preset, 2 if system.startswith("teacher") else 6) / 1e9
    return {"trained M": trained / 1e6, "PFLOP": flops / 1e15, "GB": gigabytes} | hours


def memory(shape: Shape, trains: str, preset: Preset, weight: int = 6) -> float:
    """Return bytes: 6 a weight (fp32 and its copy under autocast; a teacher's 2, fp16), 4 + 8 a trained one (gradient,
    Adam's states), and what a batch needs in training or in use, whichever is more: activations of all layers (in use
    one), 12 a logit (fp32, log-softmax, gradient), and in use keys and values of all layers (16 bits)."""
    (total, trained), tokens = shape.trained(trains), TOKENS * MORE_TOKENS.get(preset.language, 1)
    layer = (POSITIONS + tokens) * shape.width * ACTIVATIONS.get(trains, 34)
    logits, cache = (
        12 * tokens * VOCABULARY,
        4 * shape.layers * (POSITIONS + preset.max_new_tokens) * shape.width,
    )
    training = preset.batch_size * (shape.layers * layer + logits) if trained else 0
    return (
        weight * total
        + 12 * trained
        + max(training, preset.eval_batch_size * (layer + logits + cache))
    )


def main() -> None:
    """Print the table of estimates from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="paper")
    parser.add_argument("--clips", type=int, default=10_000)
    arguments = parser.parse_args()
    preset = get_preset(arguments.preset)
    rows = {
        system: estimate(system, preset, arguments.clips)
        for system in ("teacher-outputs", *SYSTEMS)
    }
    sizes = ", ".join(f"{card} {size} GB" for card, (_, size) in CARDS.items())
    print(
        f"Estimates, not measured: {arguments.clips} clips, {preset.epochs} epochs, batches of {preset.batch_size}, "
        f"{UTILISATION:.0%} of each card's peak ({sizes})\n{pd.DataFrame(rows).T.round(2).to_string()}"
    )


if __name__ == "__main__":
    main()
