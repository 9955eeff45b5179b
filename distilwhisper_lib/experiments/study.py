"""`make study ARGS=...`: tuning on validation, one change at a time, and more seeds.

    tune      three learning rates for every method, around the preset's, scored on the
              validation split
    fidelity  the pooled budget corrected, as released, and with each difference between the two
              alone, on validation; with --systems lora the same of LoRA
    top-k     our variant on the teacher's most likely tokens, and on all of them, on validation
    variants  our variant with one setting of gates or loss changed at a time, on validation too
    seeds     every method with further seeds, scored on the whole tests of both domains

--systems is for tune, fidelity and seeds, --seeds for seeds, --preset and --epochs for all.

Runs are kept like the course's own, so that a stopped study goes on and the course reuses what
fits.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import pandas as pd

from ..checks import check_number
from ..evaluation.scoring import count_errors, paired_difference, summarise
from ..evaluation.testsets import DOMAINS
from ..fidelity import FIDELITIES, Fidelity
from ..files import atomic_file, write_json
from ..lab.comparison import counts, paired, score
from ..lab.lab import Lab
from ..lab.metadata import run_metadata
from ..lab.preflight import preflight
from ..method.losses import labelled
from ..presets import LARGEST_SEED, Preset, get_preset
from ..programs import number_option, run_program
from ..training.methods import get_method, trained_methods
from ..whisper.logits import teacher_forced_logits

OURS = "distilwhisper"
POOLED = "distilwhisper-released"
LOW_RANK = "distilwhisper-low-rank"

SEEDS = (77, 78, 79)
FACTORS = (0.5, 1, 2)  # of the preset's learning rate: three trials a method
EVERY_TOKEN = 51_864  # all of Whisper's tokens but one, so that nothing is approximated
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
SHOWN = (  # settings that the table of variants shows
    *("divergence", "temperature", "budget", "per_stack", "always_open"),
    *("hard", "noise", "expert_dropout", "gate_dropout", "skip_gate"),
)


@dataclass(frozen=True)
class Trial:
    """A training of a study.

    Attributes:
        called: What its row is called by, columns of the table.
        preset: At which it is trained.
        changes: As for `Lab.train`.
    """

    called: dict
    preset: Preset
    changes: dict = field(default_factory=dict)


def tune(lab: Lab, names: list[str], factors: tuple[float, ...] = FACTORS) -> pd.DataFrame:
    """Train every method at learning rates around its own; return the scores on validation.

    Args:
        lab: Where runs are kept.
        names: Of methods.
        factors: Of each method's learning rate, numbers above 0.
    """
    for factor in factors:
        check_number("a factor of the learning rate", factor, above=0)
    rows = []
    for name in names:
        for factor in factors:
            rate = float(f"{lab.preset.learning_rate(name) * factor:.3g}")
            rows.append(validation_scores(lab, name, learning_rate=rate))
            write_study(lab, "tuning", rows)
    return pd.DataFrame(rows)


def variants(lab: Lab, changes: tuple[dict, ...] = CHANGES) -> pd.DataFrame:
    """Train our variant as it is, and with each of the changes.

    Args:
        lab: Where runs are kept.
        changes: Each as for `Lab.train`: fields of `ExpertSettings` and `Objective`, or another
            seed.

    Returns:
        The settings in SHOWN, and the columns of `compare_trials`.
    """
    method = get_method(OURS)
    plain = Fidelity()
    settings = asdict(method.objective(plain)) | asdict(method.expert_settings(plain))
    shown = {name: settings[name] for name in SHOWN}
    trials = [Trial(shown | change, lab.preset, change) for change in changes]
    return compare_trials(lab, "variants", OURS, trials)


def fidelity(lab: Lab, name: str = POOLED) -> pd.DataFrame:
    """Train a method corrected, as in the paper, as released, and with each difference alone.

    The last row is corrected with another seed: it shows how far two runs lie apart by chance.
    Differences that do not act on the method are left out; methods other than the pooled budget
    have a file of their own. LoRA's rows have wer_forced, the release's measure (see
    `teacher_forced_predictions`). Each run's validation_loss is over the labels that it was trained
    with.

    Returns:
        The columns of `compare_trials`.

    Raises:
        ValueError: As `acting_differences` does.
    """
    acting = {"corrected", "released", *acting_differences(lab, name)}
    if "unscaled_loss" in acting:  # the paper's loss is this difference alone
        acting = acting - {"unscaled_loss"} | {"paper"}

    trials = [
        Trial({"fidelity": each}, replace(lab.preset, fidelity=each))
        for each in FIDELITIES
        if each in acting
    ]
    another = {"seed": lab.preset.seed + 1}
    corrected = replace(lab.preset, fidelity="corrected")
    trials.append(Trial({"fidelity": "corrected, another seed"}, corrected, another))
    study = "fidelity" if name == POOLED else f"fidelity-{name}"
    return compare_trials(lab, study, name, trials)


def acting_differences(lab: Lab, name: str) -> set[str]:
    """Return the differences between paper and release that act on a method's training.

    Args:
        lab: Whose preset counts: equal weights of batches act where batches are accumulated.
        name: Of the method.

    Raises:
        ValueError: Where there is none, so that there is nothing to compare.
    """
    acting = set(get_method(name).fidelity_switches)
    if lab.preset.accumulation > 1:
        acting.add("equal_batches")
    if not acting:
        raise ValueError(
            f"no difference to the release acts on {name}, so the study fidelity has nothing to "
            "compare: leave it out of --systems (tune and seeds take it)"
        )
    return acting


def teacher_forced_predictions(lab: Lab, name: str, key: str, **changes) -> list[str]:
    """Return the most likely token at each label position, given the right tokens before it.

    The release scores LoRA so (train_lora.py): an error has no consequences, so its WER is lower
    than in use.
    """
    clips = lab.test_clips(key)
    model = lab.model(name, **changes)
    predictions = []
    for index in range(len(clips)):
        batch = lab.collator([clips[index]])
        forced = teacher_forced_logits(model, batch).cpu()
        logits, _ = labelled(forced, batch["labels"])
        predictions.append(lab.processor.decode(logits.argmax(-1), skip_special_tokens=True))
    return predictions


def top_k(lab: Lab, ks: tuple[int, ...] = (256, EVERY_TOKEN)) -> pd.DataFrame:
    """Train our variant on the teacher's k most likely tokens, for each k.

    Returns:
        The columns of `compare_trials`; differences are to the first k.
    """
    trials = [Trial({"top_k": k}, replace(lab.preset, top_k=k)) for k in ks]
    return compare_trials(lab, "top_k", OURS, trials)


def compare_trials(lab: Lab, study: str, name: str, trials: list[Trial]) -> pd.DataFrame:
    """Train a method in each trial and compare them on validation.

    Args:
        lab: Where the table is written.
        study: Name of the table.
        name: Of the method.
        trials: The first is what the others are compared with.

    Returns:
        A row per trial: what it is called by and its scores; difference, low, high, share: of WER
        to the first trial, paired; the same with `_without_loops`: over the clips on which neither
        of the two loops.
    """
    key = f"{lab.preset.language}/validation"
    rate = lab.preset.learning_rate(name)
    rows = []
    first = None
    for trial in trials:
        own = Lab(trial.preset)
        changes = {"learning_rate": rate} | trial.changes
        row = trial.called | validation_scores(own, name, **changes)
        table = counts(own, name, key, **changes)
        if get_method(name).released_wer_is_teacher_forced:
            predictions = teacher_forced_predictions(own, name, key, **changes)
            errors = count_errors(list(table["text"]), predictions, lab.preset.normaliser)
            row["wer_forced"] = summarise(errors)["wer"]

        first = table if first is None else first
        row |= paired_difference(table, first)
        # a clip that loops outweighs dozens of others
        without_loops = ~(table["loop"] | first["loop"]).to_numpy(bool)
        difference = paired_difference(table[without_loops], first[without_loops])
        row |= {f"{column}_without_loops": value for column, value in difference.items()}

        rows.append(row)
        lab.used |= own.used
        write_study(lab, study, rows)
    return pd.DataFrame(rows)


def validation_scores(lab: Lab, name: str, **changes) -> dict:
    """Return scores on validation, with learning rate, last cross-entropy and mean gates."""
    row = score(lab, name, f"{lab.preset.language}/validation", **changes)
    log = lab.run_log(name, **changes)
    row["learning_rate"] = changes["learning_rate"]
    row["validation_loss"] = log[-1]["eval_loss"]
    for entry in log:  # the last ones stay
        row |= {part: value for part, value in entry.items() if part.startswith("gate_")}
    return row


def seeds(lab: Lab, names: list[str], numbers: list[int]) -> pd.DataFrame:
    """Train every method with every seed.

    Three tables are written: seeds.csv; seeds-paired.csv, the differences between our variant, the
    pooled budget and low-rank experts, as far as they are asked for, and the others over all seeds;
    seeds-validation.csv, the cross-entropy on validation after each epoch.

    Returns:
        A row of scores per seed and domain.
    """
    for seed in numbers:
        check_number("a seed", seed, low=0, high=LARGEST_SEED, whole=True)
    numbers = list(dict.fromkeys(numbers))  # a seed that counts twice would narrow the intervals
    domains = tests_of(lab, "seeds")
    rows = []
    curves = []
    for seed in numbers:
        for name in names:
            for entry in lab.run_log(name, seed=seed):
                if "eval_loss" in entry:
                    about = {"system": name, "seed": seed}
                    curves.append(about | {part: entry[part] for part in ("epoch", "eval_loss")})
            write_study(lab, "seeds-validation", curves)
            settings = {
                "epochs": lab.preset.epochs,
                "learning_rate": lab.preset.learning_rate(name),
            }
            rows += [score(lab, name, key, seed=seed) | settings for key in domains]
            write_study(lab, "seeds", rows)

    pairs = []
    for first in (OURS, POOLED, LOW_RANK):
        if first in names:
            others = [name for name in names if name not in (first, OURS)]
            pairs += paired(lab, others, first, numbers).to_dict("records")
    write_study(lab, "seeds-paired", pairs)
    return pd.DataFrame(rows)


def write_study(lab: Lab, name: str, rows: list[dict]) -> None:
    """Write the rows so far as studies/<name>.csv, and the run metadata beside it."""
    folder = lab.results / "studies"
    with atomic_file(folder / f"{name}.csv") as part:
        pd.DataFrame(rows).to_csv(part, index=False, float_format="%.4g")
    write_json(folder / f"{name}.json", run_metadata(lab.preset, lab.steps(), {}, {}))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a study from the command line.

    Args:
        arguments: Of the command line; None: those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="make study ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("study", choices=["tune", "variants", "fidelity", "top-k", "seeds"])
    parser.add_argument("--preset", help="default: the variable LAB_PRESET, else toy")
    parser.add_argument(
        "--systems", nargs="+", help="names of methods; else all, for fidelity the pooled budget"
    )
    seed = number_option(low=0, high=LARGEST_SEED, whole=True)
    default = " ".join(map(str, SEEDS))
    parser.add_argument("--seeds", nargs="+", type=seed, help=f"default: {default}")
    epochs = number_option(low=1, whole=True)
    parser.add_argument("--epochs", type=epochs, help="instead of the preset's")
    given = parser.parse_args(arguments)
    if given.seeds is not None and given.study != "seeds":
        parser.error(f"--seeds belongs to the study seeds: leave it out for {given.study}")

    preset = get_preset(given.preset)
    names = systems_of(given.study, given.systems)
    lab = lab_of(given.study, preset, given.epochs)
    if given.study == "fidelity":
        for name in names:
            acting_differences(lab, name)
    preflight(lab, names, tests_of(lab, given.study))

    studies = {
        "tune": lambda: tune(lab, names),
        "variants": lambda: variants(lab),
        "fidelity": lambda: pd.concat(fidelity(lab, name) for name in names),
        "seeds": lambda: seeds(lab, names, given.seeds or list(SEEDS)),
        "top-k": lambda: top_k(lab),
    }
    print(studies[given.study]().to_string(index=False))


def lab_of(study: str, preset: Preset, epochs: int | None) -> Lab:
    """Return the laboratory of a study: with whole tests, not the preset's share of them.

    Its batches are those of the course on this machine. Only the study fidelity keeps them
    accumulated on a card that could hold them at once, for the release weighs each by itself.

    Args:
        study: Its name.
        preset: As it stands in `presets`.
        epochs: Instead of the preset's; None: the preset's.
    """
    changes = {} if epochs is None else {"epochs": epochs}
    opened = preset if study == "fidelity" else preset.name
    return Lab(opened, test_clips=None, **changes)


def systems_of(study: str, asked: list[str] | None) -> list[str]:
    """Return the methods that a study trains.

    Args:
        study: Its name.
        asked: Names on the command line; None: those that the study has by itself.

    Raises:
        ValueError: For an unknown method, one that is not trained, or names for a study of one
            method alone.
    """
    of_ours = study in ("variants", "top-k")
    if asked is None:
        own = {"variants": [OURS], "top-k": [OURS], "fidelity": [POOLED]}
        return own.get(study) or trained_methods()
    if of_ours and asked != [OURS]:
        raise ValueError(
            f"the study {study} is of {OURS} alone: leave out --systems, which tune, fidelity and "
            "seeds take"
        )
    for name in asked:
        if not get_method(name).is_trained:
            raise ValueError(f"{name} is not trained, so there is nothing to study in it")
    return list(dict.fromkeys(asked))


def tests_of(lab: Lab, study: str) -> list[str]:
    """Return the keys of the tests that a study scores."""
    if study != "seeds":
        return [f"{lab.preset.language}/validation"]
    return [key for key, test in lab.test_sets.items() if test.name in DOMAINS]


if __name__ == "__main__":
    run_program(main)
