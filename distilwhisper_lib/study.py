"""`python -m distilwhisper_lib.study`: what takes longer than the course: tuning on validation, and more seeds.

    tune      the same number of learning rates for every trained system, scored on the validation split
    variants  the settings of gates and loss from which our variant was chosen, on the validation split too
    seeds     every trained system with further seeds, scored in both domains

Runs are kept like the course's own, so that a stopped study goes on and the course reuses what fits.
"""

import argparse
from dataclasses import replace

import pandas as pd

from .clsr import ExpertSettings
from .comparison import counts, score
from .lab import Lab
from .record import run_record, write_json
from .scoring import paired_difference
from .systems import SYSTEMS, TRAINED, get_system
from .testsets import DOMAINS

EXPERTS = [name for name, system in SYSTEMS.items() if system.trains == "experts"]
LOWEST = {"fine-tuning": 1.25e-5, "lora": 2.5e-4} | dict.fromkeys(EXPERTS, 7.5e-5)  # learning rates
FACTORS = (1, 2, 4, 8)  # of the lowest: four trials a system

OURS = "distilwhisper"
BASIS = {"budget": 0.8, "learning_rate": 3e-4, "expert_dropout": 0.1, "gate_dropout": 0.0, "skip_gate": 0.0,
         "noise": 5.0, "divergence": "js"}  # fmt: skip
TRIED = (  # what our variant was chosen from, beside its learning rate: fields of ExpertSettings and Objective
    BASIS,
    BASIS | {"budget": 0.5},
    BASIS | {"budget": 1.0},
    BASIS | {"divergence": "kl"},
    BASIS | {"budget": 1.0, "learning_rate": 6e-4, "expert_dropout": 0.3, "gate_dropout": 0.1, "skip_gate": 0.2},
)


def tune(lab: Lab, systems: list[str], factors: tuple[float, ...] = FACTORS) -> pd.DataFrame:
    """Train every system at every learning rate and return validation WER, CER, loops and cross-entropy.

    factors: of the system's rate in LOWEST, or of half of the preset's where it has none there.
    """
    rows = []
    for system in systems:
        lowest = LOWEST.get(system, lab.preset.learning_rates[system] / 2)
        for factor in factors:
            rows.append(_trial(lab, system, learning_rate=float(f"{lowest * factor:.3g}")))
            _write(lab, "tuning", rows)
    return pd.DataFrame(rows)


def variants(lab: Lab, tried: tuple[dict, ...] = TRIED) -> pd.DataFrame:
    """Train our variant with each of the settings and return them with their scores on validation."""
    rows = []
    for settings in tried:
        experts = {name: value for name, value in settings.items() if hasattr(ExpertSettings, name)}
        others = {name: value for name, value in settings.items() if name not in experts}
        own = Lab(replace(lab.preset, experts=experts))
        rows.append(settings | _trial(own, OURS, **others))
        lab.used |= own.used
        _write(lab, "variants", rows)
    return pd.DataFrame(rows)


def _trial(lab: Lab, system: str, **changes) -> dict:
    """Return a row of scores on validation, with learning rate, end cross-entropy and, of experts, mean soft gates."""
    row, log = score(lab, system, f"{lab.preset.language}/validation", **changes), lab.run_log(system, **changes)
    row |= {"learning_rate": changes["learning_rate"], "validation_loss": log[-1]["eval_loss"]}
    for entry in [entry for entry in log if "gate_encoder" in entry][-1:]:
        row |= {name: entry[name] for name in ("gate_encoder", "gate_decoder")}
    return row


def seeds(lab: Lab, systems: list[str], numbers: list[int], epochs: int | None = None) -> pd.DataFrame:
    """Train every system with every seed, for `epochs` or the preset's; return a row of scores per seed and domain.

    seeds.csv has these rows, seeds-paired.csv the differences between our variant and the others over all seeds,
    and seeds-validation.csv the cross-entropy on validation after each epoch.
    """
    changes = {"epochs": epochs or lab.preset.epochs}
    domains = [test.name for test in lab.test_sets.values() if test.name in DOMAINS]
    rows, curves = [], []
    for seed in numbers:
        for system in systems:
            log = lab.run_log(system, seed=seed, **changes)
            curves += [{"system": system, "seed": seed} | {name: row[name] for name in ("epoch", "eval_loss")}
                       for row in log if "eval_loss" in row]  # fmt: skip
            _write(lab, "seeds-validation", curves)
            for name in domains:
                key = f"{lab.preset.language}/{name}"
                rows.append(score(lab, system, key, seed=seed, **changes) | changes)
            _write(lab, "seeds", rows)
    pairs = [{"first": OURS, "other": other, "test_set": name}
             | paired_over_seeds(lab, OURS, other, name, numbers, **changes)
             for name in domains for other in systems if OURS in systems and other != OURS]  # fmt: skip
    _write(lab, "seeds-paired", pairs)
    return pd.DataFrame(rows)


def paired_over_seeds(lab: Lab, first: str, second: str, name: str, numbers: list[int], **changes) -> dict:
    """Return `paired_difference` of two systems over the utterances of all seeds' runs together.

    An utterance stays one unit of resampling: its errors are summed over the seeds. The interval covers the choice
    of utterances; how far the seeds lie apart is in the rows of `seeds`.
    """
    key, errors = f"{lab.preset.language}/{name}", ["insertions", "deletions", "substitutions"]
    tables = [[counts(lab, system, key, seed=seed, **changes) for seed in numbers] for system in (first, second)]
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
    parser.add_argument("study", choices=["tune", "variants", "seeds"])
    parser.add_argument("--preset")
    parser.add_argument("--systems", nargs="*", default=TRAINED)
    parser.add_argument("--seeds", nargs="*", type=int, default=[77, 78, 79])
    parser.add_argument("--epochs", type=int, help="of the study of seeds; the preset's unless given")
    arguments = parser.parse_args()
    lab, systems = Lab(arguments.preset), [get_system(name).name for name in arguments.systems]
    studies = {"tune": lambda: tune(lab, systems), "variants": lambda: variants(lab),
               "seeds": lambda: seeds(lab, systems, arguments.seeds, arguments.epochs)}  # fmt: skip
    print(studies[arguments.study]().to_string(index=False))


if __name__ == "__main__":
    main()
