"""The time of transcription with trained experts over plain Whisper's: hypothesis e-time.

The experts are those of the study's first fold and seed (`make claims`); they are trained where
that has not been done. Both models hear the same batches of its in-domain test, with the study's
window and precision, and write the same number of tokens, so that neither is faster by writing
less.

Written to results/study/time.csv, or into --folder: a row per round. `make claims ARGS=tables`
makes the verdict.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from distilwhisper_lib.data.batches import length_batches
from distilwhisper_lib.device import autocast, weights_cast_once
from distilwhisper_lib.evaluation.greedy import use_greedy_decoding
from distilwhisper_lib.experiments import claims
from distilwhisper_lib.experiments.cells import write_table
from distilwhisper_lib.files import results_dir, write_json
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.lab.metadata import run_metadata
from distilwhisper_lib.presets import MOST_NEW_TOKENS
from distilwhisper_lib.programs import number_option, run_program
from distilwhisper_lib.whisper.window import use_window

from .measuring import interleaved

SYSTEM = "distilwhisper"


def batches_of(lab: Lab, count: int) -> list[torch.Tensor]:
    """Return the features of batches of the in-domain test, short and long ones alike.

    Args:
        lab: Whose test it is.
        count: At most how many batches.
    """
    clips = lab.test_clips(f"{lab.preset.language}/in-domain")
    batches = length_batches(clips.durations, lab.preset.eval_batch_size)
    spread = batches[:: max(1, len(batches) // count)][:count]
    collated = [lab.collator([clips[index] for index in indices]) for indices in spread]
    return [batch["input_features"] for batch in collated]


@torch.no_grad()
def transcribe(model, batches: list[torch.Tensor], language: str, tokens: int) -> None:
    """Transcribe batches greedily, each clip into the same number of tokens."""
    for features in batches:
        with (
            use_window(model, features.shape[-1]),
            use_greedy_decoding(model) as settings,
            autocast(features.device, model.dtype),
            weights_cast_once(model),
        ):
            model.generate(
                input_features=features,
                generation_config=settings,
                language=language,
                task="transcribe",
                max_new_tokens=tokens,
                min_new_tokens=tokens,
            )


def measure(lab: Lab, seed: int, count: int, tokens: int, rounds: int) -> pd.DataFrame:
    """Return the seconds of each round with plain Whisper and with experts, and their ratio.

    Args:
        lab: Of a fold of the study.
        seed: Of the experts' training.
        count: Batches of a round.
        tokens: Of each clip.
        rounds: How many.
    """
    batches = [features.to(lab.device) for features in batches_of(lab, count)]
    models = {"plain": lab.student(), "experts": lab.model(SYSTEM, seed=seed)}
    language = lab.preset.language
    runs: dict[str, Callable[[], object]] = {
        name: partial(transcribe, model, batches, language, tokens)
        for name, model in models.items()
    }
    table = pd.DataFrame(interleaved(runs, rounds, lab.device))
    return table.assign(ratio=table["experts"] / table["plain"])


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        prog="make benchmark NAME=transcription ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole = number_option(low=1, whole=True)
    tokens = number_option(low=1, high=MOST_NEW_TOKENS, whole=True)
    parser.add_argument("--rounds", type=whole, default=15)
    parser.add_argument("--batches", type=whole, default=3, help="of a round")
    parser.add_argument("--tokens", type=tokens, default=24, help="of each clip")
    parser.add_argument("--folder", type=Path, help="default: results/study")
    given = parser.parse_args(arguments)
    lab = Lab(claims.STUDY)
    table = measure(lab, claims.SEEDS[0], given.batches, given.tokens, given.rounds)
    folder = given.folder or results_dir(claims.STUDY.name)
    write_table(folder / "time.csv", table)
    write_json(folder / "time.json", run_metadata(lab.preset, lab.steps(), {}, {}))
    print(table.describe().to_string(float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    run_program(main)
