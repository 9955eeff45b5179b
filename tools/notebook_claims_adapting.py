"""What notebook 04 says of results; `notebook_claims.py` collects and checks it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from notebook_claims import (
    ROOT,
    Claim,
    decided,
    numbers_of,
    output_of,
    shows,
    table_numbers,
)
from notebook_claims_comparison import losses, ranges_of_losses, wer
from notebook_pictures import by_epoch, panels

ADAPTING = "04_finetuning_and_lora"
STUDY = ROOT / "results" / "reference" / "study"
TOY = ROOT / "results" / "reference" / "toy" / "study"
DOMAINS = ("in-domain", "out-of-domain")


def pair(stem: str, code: str, label: str) -> pd.Series:
    """Return difference, low and high of a line such as "cs/in-domain: LoRA - Fine-tuning"."""
    numbers = numbers_of(stem, code, f"{label} =")
    return pd.Series(numbers, index=["difference", "low", "high"])


def trials(system: str) -> pd.DataFrame:
    """Return the trials of a kind of method: one a row, with rate, epochs and WER."""
    table = pd.read_csv(STUDY / "tuning.csv")
    return table[table["system"] == system].reset_index(drop=True)


TRIALS = {"fine-tuning", "lora", "experts", "clsr-ft"}


def _tensors_fixed() -> bool:
    printed = output_of(ADAPTING, "fixed = {name: tuple(p.shape)")
    return re.findall(r"'([\w.]+)': \(", printed) == ["model.encoder.embed_positions.weight"]


def _trained_share(label: str) -> float:
    return numbers_of(ADAPTING, "for method in compared_methods().values():", label)[-1]


def _shares_of_training() -> bool:
    labels = (EXPERTS, "DistilWhisper, our variant")
    return (
        _trained_share("Fine-tuning") == 98.9
        and _trained_share("LoRA") == 5.4
        and all(_trained_share(label) == 35.3 for label in labels)
    )


def _first_gradients() -> bool:
    printed = output_of(ADAPTING, "by_hand = LowRank(fc1, r=64, alpha=64)")
    of_a, of_b = re.findall(r"[AB] ([\d.e-]+)", printed)
    return float(of_a) == 0 < float(of_b)


def _chosen() -> dict[str, pd.Series]:
    """Return the best trial of each kind."""
    tables = {system: trials(system) for system in TRIALS}
    return {system: table.loc[table["wer"].idxmin()] for system, table in tables.items()}


def _six_epochs_are_better() -> bool:
    better = []
    for system in TRIALS:
        table = trials(system)
        short = table[table["epochs"] == 3].iloc[0]
        same_rate = table["learning_rate"] == short["learning_rate"]
        long = table[same_rate & (table["epochs"] == 6)].iloc[0]
        better.append(long["wer"] < short["wer"])
    return all(better) and all(best["epochs"] == 6 for best in _chosen().values())


def _rates() -> bool:
    rates = {system: best["learning_rate"] for system, best in _chosen().items()}
    return max(rates, key=rates.get) == "lora" and shows(rates["lora"] / rates["fine-tuning"], "20")


def _at_the_edge() -> bool:
    chosen = _chosen()
    highest = trials("fine-tuning")["learning_rate"].max()
    lowest = trials("experts")["learning_rate"].min()
    return (
        chosen["fine-tuning"]["learning_rate"] == highest
        and chosen["experts"]["learning_rate"] == lowest
    )


def _trials_overlap() -> bool:
    tables = [trials(system) for system in TRIALS]
    return all(table["wer_low"].max() <= table["wer_high"].min() for table in tables)


def _run(system: str) -> list[float]:
    """Return the facts of a training: clips, epochs, …, seconds, memory (notebook 04)."""
    return table_numbers(ADAPTING, "runs = {name: json.loads(", f"{system} ")


def _same_conditions() -> bool:
    rows = [_run(system)[:4] for system in ("fine-tuning", "lora", "experts")]
    return rows[0] == rows[1] == rows[2]


def _alike_in_time() -> bool:
    seconds = [_run(system)[-2] for system in ("fine-tuning", "lora", "experts")]
    return max(seconds) < 1.1 * min(seconds)


def _lora_has_the_peak() -> bool:
    rows = {system: _run(system) for system in ("fine-tuning", "lora", "experts")}
    trained = {system: row[5] for system, row in rows.items()}
    memory = {system: row[-1] for system, row in rows.items()}
    return max(memory, key=memory.get) == "lora" == min(trained, key=trained.get)


def _validation(system: str) -> list[float]:
    return by_epoch(panels(ADAPTING, 'plot_curves(logs, ("ce", "eval_loss"))')[1], system)


def _fine_tuning_rises() -> bool:
    heights = _validation("fine-tuning")
    return int(np.argmin(heights)) == 1 and heights[-1] > heights[0]


def _lora_jumps_and_comes_back() -> bool:
    heights = _validation("lora")
    return int(np.argmax(heights)) == 1 and heights[2] < heights[1] / 3


def _experts_end_lowest() -> bool:
    tuned, lora, experts = map(_validation, ("fine-tuning", "lora", "experts"))
    return lora[0] < experts[0] < tuned[0] and experts[-1] < min(lora[-1], tuned[-1])


def _scores(test: str) -> dict[str, float]:
    return {name: wer(name, test) for name in ("student", "fine-tuning", "lora", "experts")}


def _in_domain_gains() -> bool:
    found = _scores("in-domain")
    student = found.pop("student")
    return student - max(found.values()) > 12 and shows(
        max(found.values()) - min(found.values()), "1.3"
    )


def _out_of_domain_gains() -> bool:
    found = _scores("out-of-domain")
    in_order = sorted(found, key=found.get)
    return in_order == ["lora", "experts", "fine-tuning", "student"] and (
        found["student"] - found["fine-tuning"] < 1
    )


def _pair(first: str, other: str, test: str) -> pd.Series:
    return pair(ADAPTING, "def verdict(first, other, key)", f"cs/{test}: {first} - {other}")


TAUGHT = {  # with the teacher, without it
    ("fine-tuning-teacher", "fine-tuning"),
    ("lora-teacher", "lora"),
    ("distilwhisper", "experts"),
}
STUDENT, EXPERTS = "Whisper (student)", "Experts, our variant without teacher"


def _in_domain_verdicts() -> bool:
    gains = [_pair(name, STUDENT, "in-domain") for name in ("Fine-tuning", "LoRA", EXPERTS)]
    of_lora = [_pair("LoRA", "Fine-tuning", "in-domain"), _pair(EXPERTS, "LoRA", "in-domain")]
    return all(row["high"] < 0 for row in gains) and not any(decided(row) for row in of_lora)


def _out_of_domain_verdicts() -> bool:
    test = "out-of-domain"
    others = [_pair(name, STUDENT, test) for name in ("Fine-tuning", EXPERTS)]
    return (
        _pair("LoRA", STUDENT, test)["high"] < 0
        and not any(decided(row) for row in others)
        and _pair("LoRA", "Fine-tuning", test)["high"] < 0
        and _pair(EXPERTS, "LoRA", test)["low"] > 0
    )


def _by_the_teacher(study: Path) -> pd.DataFrame:
    """Return what a teacher changes for three methods in both domains, from a study."""
    table = pd.read_csv(study / "pairs.csv")
    table = table[table["test"].isin(DOMAINS)]
    pairs = zip(table["first"], table["other"], strict=True)
    return table[[pair in TAUGHT for pair in pairs]]


def _nothing_by_the_teacher() -> bool:
    table = pd.concat([_by_the_teacher(TOY), _by_the_teacher(STUDY)])
    return len(table) == 12 and not any(decided(row) for _, row in table.iterrows())


def _points_by_the_teacher() -> bool:
    ranges = []
    for study in (TOY, STUDY):
        changes = _by_the_teacher(study).set_index("first")["difference"]
        fewer = -changes.drop("fine-tuning-teacher")
        ranges += [fewer.min(), fewer.max()]
    expected = ("0.3", "0.4", "0.5", "1.7")
    return all(shows(number, text) for number, text in zip(ranges, expected, strict=True))


def _trainings_of_the_study() -> bool:
    trainings = _by_the_teacher(STUDY).groupby("first")["trainings"].agg(set).to_dict()
    return trainings == {"fine-tuning-teacher": {4}, "lora-teacher": {4}, "distilwhisper": {10}}


def _sign_of_fine_tuning_varies() -> bool:
    table = pd.concat([_by_the_teacher(TOY), _by_the_teacher(STUDY)])
    changes = table.set_index("first").loc["fine-tuning-teacher", "difference"]
    return len(changes) == 4 and changes.min() < 0 < changes.max()


def _lora_loses_less() -> bool:
    both = zip(losses("lora"), losses("fine-tuning"), strict=True)
    return all(less < more for less, more in both)


def _switched_off() -> bool:
    printed = output_of(ADAPTING, "trained_lora.disable_adapter()")
    far = re.findall(r"up to ([\d.]+)", printed)
    return "switched off: exactly the student" in printed and shows(float(far[0]), "36.9")


def _merged() -> bool:
    printed = output_of(ADAPTING, "merged = trained_lora.merge_and_unload()")
    found = re.findall(r"logits: ([\d.e-]+) of up to ([\d.]+)", printed)[0]
    return shows(float(found[0]), "0.00006") and shows(float(found[1]), "41")


def _storage(label: str) -> list[float]:
    """Return MB of a file, and for 1, 8 and 99 languages (notebook 04)."""
    return table_numbers(ADAPTING, 'sizes[f"for {n} (MB)"]', label)


def _sizes_for_eight() -> bool:
    labels = ("LoRA", EXPERTS, "Fine-tuning")
    return all(
        shows(_storage(label)[2], text)
        for label, text in zip(labels, ("416", "1112", "2323"), strict=True)
    )


def _smallest_for_one() -> bool:
    return _storage("Fine-tuning")[1] < min(_storage("LoRA")[1], _storage(EXPERTS)[1])


def claims() -> list[Claim]:
    """Return the claims of notebook 04."""
    stem = ADAPTING
    return [
        Claim("A single tensor is fixed, the table of the encoder's positions.", _tensors_fixed),
        Claim(
            "Fine-tuning trains 98.9 % of the student, LoRA 5.4 %. All systems with experts train "
            "35.3 %",
            _shares_of_training,
        ),
        Claim(
            "Only B has one. The gradient of A is multiplied by B, and so it is zero.",
            _first_gradients,
        ),
        Claim(
            "The rank is 64",
            lambda: numbers_of(stem, "torch.linalg.matrix_rank(update)", "shape")[-1] == 64,
        ),
        Claim(
            "48 tensors",
            lambda: "- 48 trained tensors" in output_of(stem, "layer = lora.get_base_model()"),
        ),
        Claim(
            "The largest difference is zero.",
            lambda: numbers_of(stem, "by_hand.A.copy_(", "largest difference") == [0],
        ),
        Claim(
            "An error. The wrapper for that task hands the model `input_ids`",
            lambda: bool(
                re.match("TypeError.*input_ids", output_of(stem, 'named.task_type = "SEQ_2_SEQ'))
            ),
        ),
        Claim("At the middle rate six epochs are better than three", _six_epochs_are_better),
        Claim("The highest of the chosen rates is LoRA's, 20 times fine-tuning's.", _rates),
        Claim(
            "Fine-tuning is best at the highest rate that was tried, our variant at the lowest",
            _at_the_edge,
        ),
        Claim("That they overlap proves nothing", _trials_overlap),
        Claim("Clips, epochs, steps and batch size are the same in every row.", _same_conditions),
        Claim("No training takes a tenth longer than another.", _alike_in_time),
        Claim(
            "The highest peak of memory is LoRA's, though it trains the fewest parameters.",
            _lora_has_the_peak,
        ),
        Claim(
            "Fine-tuning is at its lowest after the second epoch, and ends above its start.",
            _fine_tuning_rises,
        ),
        Claim(
            "LoRA jumps in the second epoch, and comes back in the third.",
            _lora_jumps_and_comes_back,
        ),
        Claim("The experts start between the two and end lowest.", _experts_end_lowest),
        Claim(
            "all three had a lower WER after six epochs than after three, at the middle rate",
            _six_epochs_are_better,
        ),
        Claim(
            "In-domain all three lie over 12 points below the student, and at most 1.3 points "
            "apart.",
            _in_domain_gains,
        ),
        Claim(
            "Out-of-domain LoRA is the lowest, then come the experts; fine-tuning has gained less "
            "than a point.",
            _out_of_domain_gains,
        ),
        Claim(
            "In-domain all three are better than the student, and between LoRA and the other two "
            "nothing is decided.",
            _in_domain_verdicts,
        ),
        Claim(
            "Out-of-domain LoRA alone is better than the student, and it is better than "
            "fine-tuning and than the experts.",
            _out_of_domain_verdicts,
        ),
        Claim("with real speech four, of experts ten", _trainings_of_the_study),
        Claim("None of the twelve differences is decided.", _nothing_by_the_teacher),
        Claim(
            "LoRA and experts have fewer errors with the teacher: 0.3 to 0.4 points at `toy`, 0.5 "
            "to 1.7 with real speech.",
            _points_by_the_teacher,
        ),
        Claim(
            "Of fine-tuning not even the sign is the same in all four.", _sign_of_fine_tuning_varies
        ),
        Claim(
            "LoRA loses 8 to 39 points, fine-tuning 18 to 63.",
            ranges_of_losses,
        ),
        Claim("In each language LoRA loses less.", _lora_loses_less),
        Claim(
            "Switched off, the adapter leaves exactly the student. Switched on, the logits are far "
            "away, by up to 36.9.",
            _switched_off,
        ),
        Claim(
            "the largest difference is 0.00006, where the largest logit is 41.",
            _merged,
        ),
        Claim(
            "For 8 languages LoRA is by far the smallest: 416 MB, where experts take 1,112 and "
            "fine-tuned copies 2,323.",
            _sizes_for_eight,
        ),
        Claim(
            "For one language the fine-tuned copy is the smallest",
            _smallest_for_one,
        ),
    ]
