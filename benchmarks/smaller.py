"""`python -m benchmarks.smaller`: our experts in each form of storage, and experts that are baked, on the in-domain test.

The table is studies/smaller.csv in the folder of results, with its record; a stopped run goes on.
"""

from pathlib import Path

import pandas as pd
from distilwhisper_lib import Lab, bake, load_experts, save_experts, set_language
from distilwhisper_lib.batches import length_batches
from distilwhisper_lib.comparison import counts
from distilwhisper_lib.deployment import gate_shares
from distilwhisper_lib.evaluate import transcribe
from distilwhisper_lib.experiments.study import OURS, write_study
from distilwhisper_lib.scoring import count_errors, paired_difference, summarise

FORMS = {"fp16": {"form": "fp16"}, "int8": {"form": "int8"}} | {
    f"low-rank {rank}": {"form": "low-rank", "rank": rank} for rank in (128, 64, 16)}  # fmt: skip
BAKED = ((OURS, 0.0), ("distilwhisper-released", 0.0), ("distilwhisper-released", 1.0))  # weight of gates that agree


def smaller(lab: Lab) -> pd.DataFrame:
    """Score our experts in each of FORMS, and the BAKED trainings routed and baked; return a row of scores for each.

    difference, low, high: of WER, to the same training as it is, paired. agree: share of the positions of calibration
    clips that go where most of their layer go (see `gate_shares`).
    """
    language, rows = lab.preset.language, []
    for system, agreement in BAKED:
        changes = {"agreement": agreement}
        folder = lab.folder / "smaller" / lab.train(system, **changes).name
        model = lab.model(system, **changes)
        calibration = lab.clips("validation", None, lab.preset.retention_clips)
        batches = [lab.collator([calibration[i] for i in batch])
                   for batch in length_batches(calibration.durations, lab.preset.eval_batch_size)]  # fmt: skip
        row = {"system": system, "agreement": agreement, "agree": gate_shares(model, language, batches)["agree"].mean()}
        base = counts(lab, system, f"{language}/in-domain", **changes)
        rows.append(row | {"form": "fp32, routed"} | summarise(base))
        for name, options in (FORMS if system == OURS else {}).items():
            place = save_experts(model, folder / name.replace(" ", "-"), **options)
            small = load_experts(lab.student(), place)
            set_language(small, language)
            rows.append(row | {"form": name, "megabytes": sum(f.stat().st_size for f in place.iterdir()) / 1e6}
                        | _in_domain(lab, small, folder, name, base))  # fmt: skip
            write_study(lab, "smaller", rows)
        rows.append(row | {"form": "baked"} | _in_domain(lab, bake(model, language, batches), folder, "baked", base))
        write_study(lab, "smaller", rows)
    return pd.DataFrame(rows)


def _in_domain(lab: Lab, model, folder: Path, name: str, base: pd.DataFrame) -> dict:
    """Return a model's scores on the in-domain test, and the difference to the utterances' error counts `base`."""
    key = f"{lab.preset.language}/in-domain"
    clips = lab.test_clips(key)
    path = folder / f"{name.replace(' ', '-')}-{len(clips)}.csv"
    said = transcribe(model, clips, lab.collator, lab.preset, path, lab.preset.language, label=name)["prediction"]
    table = count_errors(list(clips.rows["text"]), list(said), lab.preset.normaliser)
    return summarise(table) | paired_difference(table, base)


if __name__ == "__main__":
    print(smaller(Lab()).to_string(index=False))
