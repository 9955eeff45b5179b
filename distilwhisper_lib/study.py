"""`python -m distilwhisper_lib.study`: what takes longer than the course: tuning on validation, and more seeds.

    tune     the same number of learning rates for every trained system, scored on the validation split
    seeds    every trained system with further seeds, scored in both domains

Runs are kept like the course's own, so that a stopped study goes on and the course reuses what fits.
"""

import argparse

import pandas as pd

from .comparison import counts, score
from .lab import Lab
from .record import run_record, write_json
from .scoring import paired_difference
from .systems import TRAINED, get_system

FACTORS = (1.0, 2.0, 0.5)  # of the preset's learning rate: three trials a system


def tune(lab: Lab, systems: list[str], factors: tuple[float, ...] = FACTORS) -> pd.DataFrame:
    """Train every system at every learning rate and return validation WER, CER, loops and cross-entropy."""
    rows = []
    for factor in factors:
        for system in systems:
            rate = float(f"{lab.preset.learning_rates[system] * factor:.2g}")
            row = score(lab, system, f"{lab.preset.language}/validation", learning_rate=rate)
            row["learning_rate"] = rate
            row["validation_loss"] = lab.run_log(system, learning_rate=rate)[-1]["eval_loss"]
            rows.append(row)
            rows.sort(key=lambda r: (systems.index(r["system"]), r["learning_rate"]))
            _write(lab, "tuning", rows)
    return pd.DataFrame(rows)


def seeds(lab: Lab, systems: list[str], numbers: list[int]) -> pd.DataFrame:
    """Train every system with every seed and return a row of scores per seed and domain."""
    rows = []
    for seed in numbers:
        for system in systems:
            for name in ("in-domain", "out-of-domain"):
                rows.append(score(lab, system, f"{lab.preset.language}/{name}", seed=seed))
                _write(lab, "seeds", rows)
    return pd.DataFrame(rows)


def paired_over_seeds(lab: Lab, first: str, second: str, name: str, numbers: list[int]) -> dict:
    """Return `paired_difference` of two systems over the utterances of all seeds' runs together."""
    key = f"{lab.preset.language}/{name}"
    tables = [[counts(lab, system, key, seed=seed) for seed in numbers] for system in (first, second)]
    errors = ["insertions", "deletions", "substitutions"]
    # each utterance stays one unit of resampling: its errors are summed over the seeds
    summed = [pd.concat(runs).groupby("id", sort=False)[["words", *errors]].sum(min_count=1) for runs in tables]
    return paired_difference(*summed)


def _write(lab: Lab, name: str, rows: list[dict]) -> None:
    """Write the rows so far as studies/<name>.csv, and the record of the runs beside it."""
    folder = lab.results / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False, float_format="%.4g")
    write_json(folder / f"{name}.json", run_record(lab.preset, lab.steps(), {}, {}))


def main() -> None:
    """Run a study from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["tune", "seeds"])
    parser.add_argument("--preset")
    parser.add_argument("--systems", nargs="*", default=TRAINED)
    parser.add_argument("--seeds", nargs="*", type=int, default=[77, 78, 79])
    arguments = parser.parse_args()
    lab, systems = Lab(arguments.preset), [get_system(name).name for name in arguments.systems]
    table = tune(lab, systems) if arguments.study == "tune" else seeds(lab, systems, arguments.seeds)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
