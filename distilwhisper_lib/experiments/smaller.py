"""`python -m distilwhisper_lib.experiments.smaller`: our experts in each form of storage, baked, in faster-whisper, and trained at a low
rank, on the in-domain test.

The table is studies/smaller.csv in the folder of results, with its record; a stopped run goes on.
"""

import importlib.util
import shutil
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from ..data.audio import read_audio
from ..data.batches import length_batches
from ..evaluation.bake import bake, gate_shares
from ..evaluation.export import export_ctranslate2
from ..evaluation.scoring import count_errors, paired_difference, summarise
from ..evaluation.transcription import transcribe
from ..lab.comparison import counts
from ..lab.lab import Lab
from ..method.attach import set_language
from ..method.storage import load_experts, save_experts
from ..training.systems import LOW_RANK
from .study import OURS, write_study

FORMS = {"fp16": {"form": "fp16"}, "int8": {"form": "int8"}} | {
    f"low-rank {rank}": {"form": "low-rank", "rank": rank} for rank in (128, 64, 16)
}
FORMS_OF = {OURS: FORMS, LOW_RANK.name: {"fp16": FORMS["fp16"]}}
TRAININGS = (
    (OURS, 0.0),
    (LOW_RANK.name, 0.0),
    ("distilwhisper-released", 0.0),
    ("distilwhisper-released", 1.0),
)
ENGINE = "baked, faster-whisper int8"


def smaller(lab: Lab) -> pd.DataFrame:
    """Score TRAININGS (system, weight of the loss by which gates agree) as they are, in forms, and baked.

    difference, low, high: of WER, to the same training as it is, paired; of experts trained at a low rank to ours as
    they are. agree: share of the positions of calibration clips that go where most of their layer go (see
    `gate_shares`).
    """
    language, rows, ours = (
        lab.preset.language,
        [],
        counts(lab, OURS, f"{lab.preset.language}/in-domain"),
    )
    for system, agreement in TRAININGS:
        changes = {"agreement": agreement}
        folder = lab.folder / "smaller" / lab.train(system, **changes).name
        model = lab.model(system, **changes)
        calibration = lab.clips("validation", None, lab.preset.retention_clips)
        batches = [
            lab.collator([calibration[i] for i in batch])
            for batch in length_batches(calibration.durations, lab.preset.eval_batch_size)
        ]
        row = {
            "system": system,
            "agreement": agreement,
            "agree": gate_shares(model, language, batches)["agree"].mean(),
        }
        base = counts(lab, system, f"{language}/in-domain", **changes)
        rows.append(row | {"form": "fp32, routed"} | summarise(base))
        if system == LOW_RANK.name:
            rows[-1] |= paired_difference(base, ours)
            base = ours
        for name, options in FORMS_OF.get(system, {}).items():
            place = save_experts(model, folder / name.replace(" ", "-"), **options)
            small = load_experts(lab.student(), place)
            set_language(small, language)
            rows.append(
                row
                | {"form": name, "megabytes": sum(f.stat().st_size for f in place.iterdir()) / 1e6}
                | _in_domain(lab, small, folder, name, base)
            )
            write_study(lab, "smaller", rows)
        baked = bake(model, language, batches)
        rows.append(row | {"form": "baked"} | _in_domain(lab, baked, folder, "baked", base))
        if (
            system == OURS
            and importlib.util.find_spec("faster_whisper")
            and lab.preset.student != "tiny"
        ):
            rows.append(
                row | {"form": ENGINE} | _scores(lab, faster_whisper_says(lab, baked, folder), base)
            )
        write_study(lab, "smaller", rows)
    return pd.DataFrame(rows)


def faster_whisper_says(lab: Lab, baked, folder: Path) -> list[str]:
    """Return what faster-whisper writes of the in-domain test: 8 bits, windows of 30 s, greedy, no heuristics."""
    from faster_whisper import WhisperModel

    converted = folder / "faster-whisper-int8"
    shutil.rmtree(converted, ignore_errors=True)
    export_ctranslate2(baked, lab.processor, converted, "int8")
    whisper = WhisperModel(
        str(converted), lab.device.type, compute_type="int8", cpu_threads=torch.get_num_threads()
    )
    clips, said = lab.test_clips(f"{lab.preset.language}/in-domain"), []
    for row in tqdm(clips.rows, desc=ENGINE, unit="clip"):
        found, _ = whisper.transcribe(
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
        said.append(" ".join("".join(segment.text for segment in found).split()))
    return said


def _in_domain(lab: Lab, model, folder: Path, name: str, base: pd.DataFrame) -> dict:
    """Return a model's scores on the in-domain test, and the difference to the utterances' error counts `base`."""
    clips = lab.test_clips(f"{lab.preset.language}/in-domain")
    path = folder / f"{name.replace(' ', '-')}-{len(clips)}.csv"
    said = transcribe(
        model, clips, lab.collator, lab.preset, path, lab.preset.language, label=name
    )["prediction"]
    return _scores(lab, list(said), base)


def _scores(lab: Lab, said: list[str], base: pd.DataFrame) -> dict:
    texts = list(lab.test_clips(f"{lab.preset.language}/in-domain").rows["text"])
    table = count_errors(texts, said, lab.preset.normaliser)
    return summarise(table) | paired_difference(table, base)


if __name__ == "__main__":
    print(smaller(Lab()).to_string(index=False))
