"""`make smaller`: our experts in each form of storage, baked, and trained at a low rank.

All are scored on the in-domain test. The table is studies/smaller.csv in the folder of results,
with its run metadata; a stopped run goes on.
"""

import argparse
import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from ..data.audio import read_audio
from ..data.batches import length_batches
from ..evaluation.bake import bake, gate_shares
from ..evaluation.export import export_ctranslate2
from ..evaluation.scoring import paired_difference, summarise
from ..evaluation.transcription import transcribe
from ..files import short_hash
from ..lab.comparison import counts, counts_of
from ..lab.lab import Lab
from ..lab.preflight import preflight
from ..method.languages import set_language
from ..method.loading import load_experts
from ..method.storage import save_experts
from ..programs import run_program
from .study import LOW_RANK, OURS, POOLED, write_study

FORMS = {
    "fp16": {"form": "fp16"},
    "int8": {"form": "int8"},
    "low-rank 128": {"form": "low-rank", "rank": 128},
    "low-rank 64": {"form": "low-rank", "rank": 64},
    "low-rank 16": {"form": "low-rank", "rank": 16},
}
FORMS_OF = {OURS: FORMS, LOW_RANK: {"fp16": FORMS["fp16"]}}
# (method, weight of the loss that draws a layer's gates to the same decision at every position)
TRAININGS = ((OURS, 0.0), (LOW_RANK, 0.0), (POOLED, 0.0), (POOLED, 1.0))
ENGINE = "baked, faster-whisper int8"


def smaller(lab: Lab) -> pd.DataFrame:
    """Score TRAININGS as they are, in each form of storage, and baked.

    Returns:
        A row per training and form. difference, low, high: of WER to the same training as it is,
        paired; of experts trained at a low rank to ours as they are. agree: share of the positions
        of calibration clips with the majority's gate decision in their layer (see `gate_shares`).
    """
    ours = counts(lab, OURS, _test(lab))
    rows = []
    for name, uniformity in TRAININGS:
        changes = {"uniformity": uniformity}
        base = counts(lab, name, _test(lab), **changes)
        model = lab.model(name, **changes)
        batches = calibration_batches(lab)
        about = {
            "system": name,
            "agreement": uniformity,
            "agree": gate_shares(model, lab.preset.language, batches)["agree"].mean(),
        }
        rows.append(about | {"form": "fp32, routed"} | summarise(base))
        if name == LOW_RANK:
            rows[-1] |= paired_difference(base, ours)
            base = ours

        folder = lab.folder / "smaller" / lab.train(name, **changes).name
        for form, options in FORMS_OF.get(name, {}).items():
            place = save_experts(model, folder / form.replace(" ", "-"), **options)
            small = load_experts(lab.student(), place)
            set_language(small, lab.preset.language)
            size = {"megabytes": sum(file.stat().st_size for file in place.iterdir()) / 1e6}
            rows.append(about | {"form": form} | size | _in_domain(lab, small, folder, form, base))
            write_study(lab, "smaller", rows)

        baked = bake(model, lab.preset.language, batches)
        rows.append(about | {"form": "baked"} | _in_domain(lab, baked, folder, "baked", base))
        if name == OURS and _has_engine(lab):
            predictions = faster_whisper_predictions(lab, baked, folder)
            rows.append(about | {"form": ENGINE} | _scores(lab, predictions, base))
        write_study(lab, "smaller", rows)
    return pd.DataFrame(rows)


def calibration_batches(lab: Lab) -> list[dict]:
    """Return batches of validation clips, on which the gates of a layer are counted."""
    clips = lab.clips("validation", None, lab.preset.retention_clips)
    batches = length_batches(clips.durations, lab.preset.eval_batch_size)
    return [lab.collator([clips[index] for index in batch]) for batch in batches]


def faster_whisper_predictions(lab: Lab, baked, folder: Path) -> list[str]:
    """Return faster-whisper's predictions: 8 bits, 30 s windows, greedy, no heuristics."""
    from faster_whisper import WhisperModel

    converted = folder / "faster-whisper-int8"
    shutil.rmtree(converted, ignore_errors=True)
    export_ctranslate2(baked, lab.processor, converted, "int8")
    whisper = WhisperModel(
        str(converted),
        lab.device.type,
        compute_type="int8",
        cpu_threads=torch.get_num_threads(),
    )
    predictions = []
    for row in tqdm(lab.test_clips(_test(lab)).rows, desc=ENGINE, unit="clip"):
        segments, _ = whisper.transcribe(
            read_audio(row["audio"]),
            language=lab.preset.language,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
            max_new_tokens=lab.preset.max_new_tokens,
        )
        text = "".join(segment.text for segment in segments)
        predictions.append(" ".join(text.split()))
    return predictions


def _test(lab: Lab) -> str:
    return f"{lab.preset.language}/in-domain"


def _has_engine(lab: Lab) -> bool:
    installed = importlib.util.find_spec("faster_whisper") is not None
    return installed and lab.preset.student != "tiny"


def _in_domain(lab: Lab, model, folder: Path, form: str, base: pd.DataFrame) -> dict:
    """Return a model's scores on the in-domain test, and their paired difference to `base`."""
    clips = lab.test_clips(_test(lab))
    calibration = lab.clips("validation", None, lab.preset.retention_clips)
    decoding = asdict(lab.decoding)
    del decoding["normaliser"]
    depends = [clips.digests, calibration.digests, decoding, lab.precision]
    path = folder / f"{form.replace(' ', '-')}-{short_hash(depends)}.csv"
    table = transcribe(
        model, clips, lab.collator, lab.decoding, path, lab.preset.language, label=form
    )
    return _scores(lab, list(table["prediction"]), base)


def _scores(lab: Lab, predictions: list[str], base: pd.DataFrame) -> dict:
    errors = counts_of(lab.test_clips(_test(lab)), predictions, lab.preset.normaliser)
    return summarise(errors) | paired_difference(errors, base)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score all forms from the command line.

    Args:
        arguments: Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="make smaller",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--preset", help="default: the variable LAB_PRESET, else toy")
    lab = Lab(parser.parse_args(arguments).preset)
    preflight(lab, dict.fromkeys(name for name, _ in TRAININGS), [_test(lab)])
    print(smaller(lab).to_string(index=False))


if __name__ == "__main__":
    run_program(main)
