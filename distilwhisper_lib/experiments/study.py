"""`python -m distilwhisper_lib.experiments.study`: longer than the course: tuning on validation, and more seeds.

    tune      three learning rates for every trained system, around the preset's, scored on the validation split
    fidelity  our experts corrected, as released, and with each difference between the two alone, on validation; with
              --systems lora the same of LoRA
    top-k     our experts on the teacher's likeliest words, and on all of them, on validation
    variants  our variant with one setting of gates or loss changed at a time, on the validation split too
    seeds     every trained system with further seeds, scored on the whole tests of both domains

Runs are kept like the course's own, so that a stopped study goes on and the course reuses what fits.
"""

import argparse
from dataclasses import fields, replace

import pandas as pd

from ..evaluation.scoring import count_errors, paired_difference, summarise
from ..evaluation.testsets import DOMAINS
from ..fidelity import FIDELITIES, LABELS
from ..files import atomic_file, write_json
from ..lab.comparison import counts, paired, score
from ..lab.lab import Lab
from ..lab.metadata import run_metadata
from ..method.experts import ExpertSettings
from ..method.losses import labelled
from ..presets import Preset, get_preset
from ..training.systems import LOW_RANK, TRAINED, get_system
from ..whisper.logits import teacher_forced_logits

FACTORS = (0.5, 1, 2)  # of the preset's learning rate: three trials a system

OURS, POOLED = "distilwhisper", "distilwhisper-released"

CHANGES = (
    {},
    {"seed": 78},
    {"hard": False},
    {"divergence": "kl"},
    {"budget": 0.5},
    {"per_stack": False},
    {"budget": 1.0},
    {"always_open": True},
    {"temperature": 2.0},
    {"skip_gate": 0.2},
    {"divergence": "none"},
    {"noise": 5.0},
    {"noise": 0.0},
    {"expert_dropout": 0.3},
    {"gate_dropout": 0.1},
    {"hard": False, "noise": 5.0},
)


def tune(lab: Lab, systems: list[str], factors: tuple[float, ...] = FACTORS) -> pd.DataFrame:
    """Train every system at its learning rate and at others around it; return the scores on validation."""
    rows = []
    for system in systems:
        for factor in factors:
            rows.append(
                _trial(
                    lab,
                    system,
                    learning_rate=float(f"{lab.preset.learning_rates[system] * factor:.3g}"),
                )
            )
            write_study(lab, "tuning", rows)
    return pd.DataFrame(rows)


def variants(lab: Lab, changes: tuple[dict, ...] = CHANGES) -> pd.DataFrame:
    """Train our variant as it is, and with each of the changes; return settings and scores on validation.

    changes: fields of ExpertSettings and of Objective, or another seed. For the columns see `_compared`.
    """
    ours, own, trials = get_system(OURS), {field.name for field in fields(ExpertSettings)}, []
    basis = {
        "divergence": "js",
        "temperature": 1.0,
        "budget": ours.budget,
        "per_stack": ours.budget_per_stack,
        "always_open": False,
    }
    for change in changes:
        preset = replace(
            lab.preset, experts={name: value for name, value in change.items() if name in own}
        )
        others = {name: value for name, value in change.items() if name not in own}
        trials.append((basis | ours.experts | change, preset, others))
    return _compared(lab, "variants", OURS, trials)


def fidelity(lab: Lab, system: str = POOLED) -> pd.DataFrame:
    """Train a system corrected, as in the paper, as released, with each difference alone, and corrected with another
    seed, which shows how far two runs lie apart by chance; return the scores, for the columns see `_compared`.

    What does not act on the system is left out; other systems than the pooled budget have a file of their own. LoRA's
    rows have wer_forced, the release's measure (see `teacher_forced`). Each run's validation_loss is over the labels
    that it was trained with.
    """
    own = {
        "adapter": {"lora_on_both"},
        "experts": {"paper", "noise_at_start", "padding_in_divergence", "padding_in_budget"},
    }
    names = {"corrected", "released", *LABELS} | own.get(get_system(system).trains, set())
    names |= {"equal_batches"} if lab.preset.accumulation > 1 else set()
    trials = [
        ({"fidelity": name}, replace(lab.preset, fidelity=name), {})
        for name in FIDELITIES
        if name in names
    ]
    trials.append(
        ({"fidelity": "corrected, another seed"}, lab.preset, {"seed": lab.preset.seed + 1})
    )
    return _compared(lab, "fidelity" if system == POOLED else f"fidelity-{system}", system, trials)


def teacher_forced(lab: Lab, system: str, key: str, **changes) -> list[str]:
    """Return what a system says at each label of a test when it is given the right words before it.

    The release scores LoRA so (train_lora.py): an error has no followers, so that WER comes out lower than in use.
    """
    clips, model, said = lab.test_clips(key), lab.model(system, **changes), []
    for i in range(len(clips)):
        batch = lab.collator([clips[i]])
        logits, _ = labelled(teacher_forced_logits(model, batch).cpu(), batch["labels"])
        said.append(lab.processor.decode(logits.argmax(-1), skip_special_tokens=True))
    return said


def top_k(lab: Lab, ks: tuple[int, ...] = (256, 51_864)) -> pd.DataFrame:
    """Train our variant on the teacher's k likeliest words, for each k; return the scores on validation.

    51,864 are all of Whisper's words but one, so that nothing is approximated. difference, low, high: of WER, to the
    first k, paired.
    """
    return _compared(
        lab, "top_k", OURS, [({"top_k": k}, replace(lab.preset, top_k=k), {}) for k in ks]
    )


def _compared(
    lab: Lab, name: str, system: str, trials: list[tuple[dict, Preset, dict]]
) -> pd.DataFrame:
    """Train a system in each trial (what it is called by, preset, changes of `Lab.train`); return validation scores.

    Columns difference, low, high, share: of WER, to the first trial, paired; with _without_loops: over the clips on
    which neither of the two loops.
    """
    rows, base, rate = [], None, lab.preset.learning_rates[system]
    for called, preset, changes in trials:
        own, changes = Lab(preset), {"learning_rate": rate} | changes
        row, table = (
            _trial(own, system, **changes),
            counts(own, system, f"{lab.preset.language}/validation", **changes),
        )
        if get_system(system).trains == "adapter":
            said = teacher_forced(own, system, f"{lab.preset.language}/validation", **changes)
            row["wer_forced"] = summarise(
                count_errors(list(table["text"]), said, lab.preset.normaliser)
            )["wer"]
        base = table if base is None else base
        calm = ~(table["loop"] | base["loop"]).to_numpy(
            bool
        )  # a clip that loops outweighs dozens of others
        without = {
            f"{name}_without_loops": value
            for name, value in paired_difference(table[calm], base[calm]).items()
        }
        rows.append(called | row | paired_difference(table, base) | without)
        lab.used |= own.used
        write_study(lab, name, rows)
    return pd.DataFrame(rows)


def _trial(lab: Lab, system: str, **changes) -> dict:
    """Return a row of scores on validation, with learning rate, end cross-entropy and, of experts, mean soft gates."""
    row, log = (
        score(lab, system, f"{lab.preset.language}/validation", **changes),
        lab.run_log(system, **changes),
    )
    gates = {
        name: value for entry in log for name, value in entry.items() if name.startswith("gate_")
    }  # the last ones
    return (
        row
        | {"learning_rate": changes["learning_rate"], "validation_loss": log[-1]["eval_loss"]}
        | gates
    )


def best_rates(lab: Lab) -> dict[str, float]:
    """Return the learning rate with the lowest WER of each system in studies/tuning.csv, which `tune` writes."""
    trials = (
        pd.read_csv(lab.results / "studies" / "tuning.csv")
        .sort_values("wer")
        .drop_duplicates("system")
    )
    return dict(zip(trials["system"], trials["learning_rate"], strict=True))


def seeds(lab: Lab, systems: list[str], numbers: list[int]) -> pd.DataFrame:
    """Train every system with every seed; return a row of scores per seed and domain.

    seeds.csv has these rows; seeds-paired.csv the differences between our variant, the pooled budget and low-rank
    experts, as far as they are asked for, and the others over all seeds; seeds-validation.csv the cross-entropy on
    validation after each epoch.
    """
    domains = [key for key, test in lab.test_sets.items() if test.name in DOMAINS]
    rows, curves = [], []
    for seed in numbers:
        for system in systems:
            log = lab.run_log(system, seed=seed)
            curves += [
                {"system": system, "seed": seed}
                | {name: row[name] for name in ("epoch", "eval_loss")}
                for row in log
                if "eval_loss" in row
            ]
            write_study(lab, "seeds-validation", curves)
            called = {
                "epochs": lab.preset.epochs,
                "learning_rate": lab.preset.learning_rates[system],
            }
            rows += [score(lab, system, key, seed=seed) | called for key in domains]
            write_study(lab, "seeds", rows)
    pairs = []
    for first in (OURS, POOLED, LOW_RANK.name):
        others = [system for system in systems if system not in (first, OURS)]
        if first in systems:
            pairs += paired(lab, others, first, numbers).to_dict("records")
    write_study(lab, "seeds-paired", pairs)
    return pd.DataFrame(rows)


def write_study(lab: Lab, name: str, rows: list[dict]) -> None:
    """Write the rows so far as studies/<name>.csv, and the record of the runs beside it."""
    with atomic_file(lab.results / "studies" / f"{name}.csv") as part:
        pd.DataFrame(rows).to_csv(part, index=False, float_format="%.4g")
    write_json(
        lab.results / "studies" / f"{name}.json", run_metadata(lab.preset, lab.steps(), {}, {})
    )


def main() -> None:
    """Run a study from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=["tune", "variants", "fidelity", "top-k", "seeds"])
    parser.add_argument("--preset")
    parser.add_argument("--systems", nargs="+", help="else all; for fidelity the pooled budget")
    parser.add_argument("--seeds", nargs="*", type=int, default=[77, 78, 79])
    parser.add_argument("--epochs", type=int, help="instead of the preset's")
    arguments = parser.parse_args()
    preset, systems = (
        get_preset(arguments.preset),
        [get_system(name).name for name in arguments.systems or TRAINED],
    )
    lab = Lab(preset, epochs=arguments.epochs or preset.epochs, test_clips=None)  # whole tests
    studies = {
        "tune": lambda: tune(lab, systems),
        "variants": lambda: variants(lab),
        "fidelity": lambda: pd.concat(
            fidelity(lab, name) for name in arguments.systems or [POOLED]
        ),
        "seeds": lambda: seeds(lab, systems, arguments.seeds),
        "top-k": lambda: top_k(lab),
    }
    print(studies[arguments.study]().to_string(index=False))


if __name__ == "__main__":
    main()
