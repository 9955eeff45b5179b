"""The study of the paper's claims: its cells, its files and what its tables say."""

import json
import shutil
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sacrebleu.metrics import CHRF

from benchmarks import transcription
from distilwhisper_lib.evaluation.scoring import ERRORS
from distilwhisper_lib.evaluation.statistics import chrf_difference, detectable, difference
from distilwhisper_lib.evaluation.testsets import DOMAINS
from distilwhisper_lib.experiments import claims, claims_curve
from distilwhisper_lib.experiments.cells import PAIRS
from distilwhisper_lib.experiments.claims import (
    FEWER_EPOCHS,
    FURTHER,
    FURTHER_SEEDS,
    KEPT,
    RATES,
    SEEDS,
    STUDY,
    SYSTEMS,
    TESTED,
    TUNED_AS,
    UNTRAINED,
    Cell,
    cells_of_causes,
    cells_of_study,
    run,
    scored_tests,
    tune,
)
from distilwhisper_lib.experiments.claims_tables import (
    HYPOTHESES,
    OTHER_LANGUAGES,
    STRESS,
    TIME,
    TIME_TARGET,
    UNCHANGED,
    causes_table,
    hypotheses_table,
    pair_of,
    pairs_table,
    power_table,
    stored_errors,
    systems_table,
    time_difference,
    translation_table,
    verdict,
    write_tables,
)
from distilwhisper_lib.files import SEAL, read_json, write_json
from distilwhisper_lib.lab.comparison import counts
from distilwhisper_lib.lab.plots import plot_differences, plot_tradeoff
from distilwhisper_lib.presets import SMOKE
from distilwhisper_lib.training.methods import get_method

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import docs_study  # noqa: E402

STORED = ROOT / "results" / "reference" / "study"
FOLDS = ("toy-low", "toy-high")


@pytest.fixture
def small(monkeypatch):
    """Make the study small, and compute in this process."""
    study = replace(
        SMOKE,
        name="study",
        voice=FOLDS[0],
        train_clips=None,
        learning_rates=dict.fromkeys((*SYSTEMS, "teacher"), 1e-3),
        further_systems=SYSTEMS,
    )
    monkeypatch.setattr(claims, "STUDY", study)
    monkeypatch.setattr(claims, "VOICES", FOLDS)
    monkeypatch.setattr(claims, "KEPT", ("translation", "nl", "es"))
    monkeypatch.setattr(
        claims, "RATES", dict.fromkeys(("fine-tuning", "experts"), (5e-4, 1e-3, 2e-3))
    )
    monkeypatch.setattr(claims, "compute", lambda of, cells, jobs: [of(cell) for cell in cells])
    return study


# ---- which cells there are


def test_the_hypotheses_systems_have_every_seed_and_come_first():
    cells = cells_of_study(FOLDS, SEEDS)
    trained = [cell for cell in cells if get_method(cell.system).is_trained]
    tested = [cell for cell in trained if cell.system in TESTED]
    assert len(tested) == len(TESTED) * len(SEEDS) * 2
    assert len(trained) - len(tested) == len(FURTHER) * len(FURTHER_SEEDS) * 2
    assert all(cell.system in (*TESTED, *UNTRAINED) for cell in cells[: len(tested) + 4])
    # a fold's systems with one seed are neighbours: they are computed on one machine
    first = [(cell.system, cell.voice, cell.seed) for cell in tested[: len(TESTED)]]
    assert first == [(system, FOLDS[0], SEEDS[0]) for system in TESTED]


def test_other_languages_are_scored_where_experts_cannot_be_switched_off():
    assert set(scored_tests("fine-tuning", SEEDS[-1])) == {*DOMAINS, *KEPT}
    assert set(scored_tests("lora", SEEDS[0])) == {*DOMAINS, STRESS, *KEPT}
    assert set(scored_tests("lora", SEEDS[-1])) == set(DOMAINS)
    assert set(scored_tests("distilwhisper", SEEDS[0])) == {*DOMAINS, STRESS}
    assert set(scored_tests("student", SEEDS[0])) == {*DOMAINS, STRESS, *KEPT}


def test_every_kind_of_method_has_as_many_trials_and_gives_its_rate_to_its_variants():
    assert len({len(rates) for rates in RATES.values()}) == 1
    assert sorted([*RATES, *(name for names in TUNED_AS.values() for name in names)]) == sorted(
        SYSTEMS
    )
    for kind, variants in TUNED_AS.items():
        for variant in variants:
            assert STUDY.learning_rate(variant) == STUDY.learning_rate(kind)
        assert STUDY.learning_rate(kind) in RATES[kind]


def test_the_chosen_rate_and_number_of_epochs_are_the_best_on_validation():
    tuning = pd.read_csv(STORED / "tuning.csv")
    for kind in RATES:
        trials = tuning[tuning["system"] == kind]
        best = trials.sort_values("wer").iloc[0]
        assert (best["learning_rate"], best["epochs"]) == (STUDY.learning_rate(kind), STUDY.epochs)
        assert sorted(trials["learning_rate"].unique()) == sorted(RATES[kind])
        middle = trials[trials["learning_rate"] == RATES[kind][1]].set_index("epochs")["wer"]
        assert middle[STUDY.epochs] < middle[FEWER_EPOCHS]
    # what docs/claims.md says of the edges
    assert STUDY.learning_rate("fine-tuning") == max(RATES["fine-tuning"])
    assert STUDY.learning_rate("experts") == min(RATES["experts"])


def test_each_cause_changes_one_thing(small):
    cells = cells_of_causes(FOLDS, SEEDS[:1])
    assert len({cell.name for cell in cells}) == len(cells)
    for cell in cells:
        assert bool(cell.preset) != bool(cell.training)
    labels = {cell.label for cell in cells}
    assert cells[0].label == f"50 clips {small.epochs} epochs"
    assert cells[0].preset["epochs"] == small.epochs
    assert {"50 clips", "100 clips", "KL", "temperature 2", "weight 4"} <= labels


@pytest.mark.parametrize(
    ("clips", "all_clips", "epochs"), [(50, 189, 21), (50, 177, 20), (100, 189, 11)]
)
def test_fewer_clips_are_learned_from_in_as_many_steps(clips, all_clips, epochs):
    assert STUDY.epochs_of_as_many_steps(clips, all_clips) == epochs
    steps = [STUDY.epochs * STUDY.steps_of_epoch(all_clips), epochs * STUDY.steps_of_epoch(clips)]
    assert abs(steps[0] - steps[1]) <= STUDY.steps_of_epoch(clips) / 2


def test_the_hypotheses_are_those_of_the_documentation():
    text = (ROOT / "docs" / "statistics.md").read_text()
    names = [f"| {claim.name} |" for claim in HYPOTHESES] + [f"| {TIME} |"]
    assert all(name in text for name in names)
    assert text.count("\n| a-") + text.count("\n| b-") + text.count("\n| c-") == 6
    assert all({claim.first, claim.other} <= {*SYSTEMS, "student"} for claim in HYPOTHESES)


# ---- computing them


def contents(folder: Path) -> dict[str, str]:
    """Return the tables of cells by name."""
    return {path.name: path.read_text() for path in sorted((folder / "cells").glob("*.csv"))}


def test_cells_of_other_settings_are_not_mixed_into_one_table(tmp_path):
    names = ["font_small-lora-seed77", "font_big-lora-seed77", "font_big-experts-seed77"]
    cells = tmp_path / "cells"
    cells.mkdir()
    for name in names:
        for ending in (".csv", ".json"):
            shutil.copy(STORED / "cells" / f"{name}{ending}", cells)
    assert set(stored_errors(tmp_path)["system"]) == {"lora", "experts"}
    path = cells / f"{names[0]}.json"
    record = read_json(path)
    record["preset"]["epochs"] = 3
    record["preset"]["learning_rates"]["lora"] = 1e-3
    write_json(path, {name: record[name] for name in record if name != SEAL}, sealed=True)
    with pytest.raises(ValueError, match="differ in learning_rate, epochs: compute the older one"):
        stored_errors(tmp_path)


def test_a_stopped_run_goes_on_to_the_same_bits(small, tmp_path, monkeypatch):
    asked = [(system, FOLDS[0]) for system in ("student", "fine-tuning", "distilwhisper")]
    asked.append(("student", FOLDS[1]))
    cells = [Cell(system, voice, 77, scored_tests(system, 77)) for system, voice in asked]
    folder = tmp_path / "whole"
    run(cells, folder, jobs=1, minutes=None)
    whole = contents(folder)
    assert len(whole) == len(cells)

    # another cache, stopped in the third cell
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
    resumed = tmp_path / "resumed"
    computed = []
    errors_of = claims.errors_of

    def stopped_in_the_third(cell, lab=None):
        computed.append(cell.name)
        if len(computed) == 3:
            raise KeyboardInterrupt
        return errors_of(cell, lab)

    monkeypatch.setattr(claims, "errors_of", stopped_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(cells, resumed, jobs=1, minutes=None)
    assert len(contents(resumed)) == 2
    run(cells, resumed, jobs=1, minutes=None)
    assert contents(resumed) == whole
    assert len(computed) == len(cells) + 1  # nothing twice but what was stopped

    # on another machine: nothing of the cache is there
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "third"))
    run(cells, resumed, jobs=1, minutes=None)
    assert len(computed) == len(cells) + 1

    # a damaged table is computed again
    path = resumed / "cells" / "toy-low-student.csv"
    path.write_text(path.read_text().replace("in-domain", "in-demesne"))
    run(cells, resumed, jobs=1, minutes=None)
    assert contents(resumed) == whole

    record = json.loads((resumed / "cells" / "toy-low-distilwhisper-seed77.json").read_text())
    assert record["cell"]["seed"] == 77 and record["cell"]["voice"] == "toy-low"
    assert record["machine"]["processor"] and "commit" in record
    assert set(record["models"]) == {"teacher", "distilwhisper"}

    english = {f"toy/test-{number}": "ba de" for number in range(4)}
    write_tables(resumed, english, 1)
    tables = {path.stem for path in resumed.glob("*.csv")}
    assert tables == {"systems", "pairs", "translation", "hypotheses"}
    found = pd.read_csv(resumed / "hypotheses.csv").set_index("name")
    assert found.loc["b-in", "verdict"] == "not measured"
    assert found.loc["a-in", "verdict"] != "not measured"
    assert found.loc["d-translation", "verdict"] != "not measured"


def test_after_its_minutes_no_cell_begins(small, tmp_path):
    run([Cell("student", FOLDS[0], 77)], tmp_path, jobs=1, minutes=-1.0)
    assert not (tmp_path / "cells").exists()


def test_tuning_writes_a_row_per_trial_and_what_the_study_can_show(small, tmp_path):
    tune(["fine-tuning", "experts"], 1, tmp_path)
    found = pd.read_csv(tmp_path / "tuning.csv")
    assert list(found["system"]) == ["teacher", *["fine-tuning"] * 4, *["experts"] * 4]
    assert found["epochs"].dropna().tolist() == [1, 1, 1, 3] * 2
    power = (tmp_path / "power.csv").read_text()
    assert set(pd.read_csv(tmp_path / "power.csv")["test"]) == {"in-domain", "out-of-domain"}
    trials = (tmp_path / "tuning.csv").read_text().splitlines()
    tune(["experts"], 1, tmp_path)  # the rows of the other kind stay
    assert sorted((tmp_path / "tuning.csv").read_text().splitlines()) == sorted(trials)
    assert (tmp_path / "power.csv").read_text() == power


# ---- tables


def made_errors() -> pd.DataFrame:
    """Return errors of some systems: two folds, two seeds, six rooms, drawn at random."""
    rng = np.random.default_rng(5)
    rows = []
    shares = {"student": 0.6, "fine-tuning": 0.5, "distilwhisper": 0.2, "experts": 0.45}
    for system, share in shares.items():
        for fold in FOLDS:
            for seed in (1,) if system == "student" else (1, 2):
                for test in ("in-domain", "out-of-domain", "other-characters", "nl", "ru"):
                    if test in ("nl", "ru") and system in ("distilwhisper", "experts"):
                        continue
                    for number in range(12):
                        row = {"system": system, "fold": fold, "seed": seed, "label": ""}
                        row |= {"test": test, "id": f"{fold}{number}", "unit": f"room{number // 2}"}
                        row |= {"words": 10, "insertions": 0, "deletions": 0}
                        row["substitutions"] = rng.binomial(10, share)
                        row |= {"loop": False, "prediction": "x"}
                        rows.append(row)
    return pd.DataFrame(rows)


def wer(table: pd.DataFrame) -> float:
    """Return the WER of rows, by hand."""
    return 100 * table[ERRORS].to_numpy().sum() / table["words"].sum()


def test_scores_are_over_the_folds_together_and_in_each():
    errors = made_errors()
    table = systems_table(errors).set_index(["system", "test", "fold"])
    own = errors[(errors["system"] == "experts") & (errors["test"] == "in-domain")]
    assert table.loc[("experts", "in-domain", ""), "wer"] == pytest.approx(wer(own))
    low = own[own["fold"] == "toy-low"]
    assert table.loc[("experts", "in-domain", "toy-low"), "wer"] == pytest.approx(wer(low))
    others = errors[(errors["system"] == "student") & errors["test"].isin(["nl", "ru"])]
    assert table.loc[("student", OTHER_LANGUAGES, ""), "wer"] == pytest.approx(wer(others))


def test_a_pair_has_the_folds_and_seeds_of_both_and_the_student_at_each():
    errors = made_errors()
    late = (errors["system"] == "experts") & (errors["fold"] == "toy-high") & (errors["seed"] == 2)
    first, other = pair_of(errors[~late], "distilwhisper", "experts", "in-domain")
    trainings = set(zip(first["fold"], first["seed"], strict=True))
    assert trainings == {("toy-low", 1), ("toy-low", 2), ("toy-high", 1)}
    assert len(first) == len(other)

    student, tuned = pair_of(errors, "student", "fine-tuning", OTHER_LANGUAGES)
    assert len(student) == len(tuned) == 2 * 2 * 2 * 12
    assert difference(student, tuned)["difference"] == pytest.approx(wer(student) - wer(tuned))


def test_a_hypothesis_has_its_difference_and_its_verdict():
    found = hypotheses_table(made_errors(), {}, 4).set_index("name")
    pairs = pairs_table(made_errors()).set_index(["first", "other", "test"])
    same = pairs.loc[("distilwhisper", "fine-tuning", "in-domain")]
    assert found.loc["a-in", "difference"] == pytest.approx(same["difference"])
    assert found.loc["a-in", "verdict"] == "holds"
    assert found.loc["b-in", "verdict"] == found.loc[TIME, "verdict"] == "not measured"
    # of nine hypotheses, the unmeasured ones count
    assert found.loc["a-in", "p_holm"] == pytest.approx(9 * found["p"].min())

    early = hypotheses_table(made_errors(), {}, 5).set_index("name")
    assert early.loc["a-in", "verdict"] == "incomplete"  # four trainings of five

    time = {"difference": 0.05, "low": 0.04, "high": 0.06, "p": 0.0001}
    measured = hypotheses_table(made_errors(), {}, 4, time).set_index("name")
    assert measured.loc[TIME, "verdict"] == "contradicted"


def test_the_time_is_compared_with_its_target_over_the_rounds():
    fast = pd.DataFrame({"ratio": [1.0, 1.01, 1.02, 1.0, 0.99, 1.01, 1.0, 5.0]})
    found = time_difference(fast)
    assert found["difference"] == pytest.approx(np.median(fast["ratio"]) - TIME_TARGET)
    assert found["low"] < found["difference"] < found["high"]
    assert time_difference(pd.DataFrame({"ratio": [1.2] * 9}))["p"] < 0.01


@pytest.mark.parametrize(
    ("found", "sign", "p", "expected"),
    [
        (-2.0, -1, 0.05, "holds"),
        (2.0, -1, 0.01, "contradicted"),
        (2.0, 1, 0.01, "holds"),
        (-2.0, -1, 0.051, "open"),
        (float("nan"), -1, float("nan"), "not measured"),
    ],
)
def test_a_verdict_needs_level_and_sign(found, sign, p, expected):
    assert verdict(found, sign, p) == expected


def test_a_cause_is_compared_with_the_same_system_without_it():
    errors = made_errors()
    changed = errors[errors["system"].isin(["experts", "distilwhisper"])].assign(label="50 clips")
    changed.loc[changed["system"] == "experts", "substitutions"] = 9
    table = causes_table(pd.concat([errors, changed])).set_index(["first", "other", "test"])
    row = table.loc[("experts", UNCHANGED, "in-domain")]
    own = errors[(errors["system"] == "experts") & (errors["test"] == "in-domain")]
    assert row["wer"] == pytest.approx(90)
    assert row["difference"] == pytest.approx(90 - wer(own))
    assert table.loc[("distilwhisper", UNCHANGED, "in-domain"), "difference"] == 0
    assert ("distilwhisper", "experts", "out-of-domain") in table.index
    assert row["trainings"] == len(own.groupby(["fold", "seed"]))


def test_the_power_follows_from_the_pilot_and_the_words():
    errors = made_errors()
    errors = errors[(errors["test"] == "in-domain") & (errors["fold"] == "toy-low")]
    errors = errors[errors["seed"] == 1]
    pilot = {name: errors[errors["system"] == name] for name in ("experts", "fine-tuning")}
    (row,) = power_table(pilot, {"in-domain": 480}).to_dict("records")
    error = difference(pilot["experts"], pilot["fine-tuning"])["standard_error"] / 2
    assert row["standard_error"] == pytest.approx(error)
    assert row["detectable"] == pytest.approx(detectable(error))
    assert row["detectable_corrected"] > row["detectable"]


def translations() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return translations of two systems of six lines in three rooms."""
    texts = ["the cat sat", "hello you", "a fish swims", "two small rooms", "we go on", "the end"]
    first = pd.DataFrame({"id": list("abcdef"), "unit": list("xxyyzz"), "text": texts})
    first = first.assign(prediction=[*texts[:5], "an end"])
    return first, first.assign(prediction=[text[:6] for text in texts])


def test_the_difference_of_chrf_is_of_the_same_references():
    first, second = translations()
    other = second.assign(text=[*second["text"][:5], "another end"])
    with pytest.raises(ValueError, match="the references of id f differ"):
        chrf_difference(first, other)


def test_the_difference_of_chrf_is_sacrebleus():
    first, second = translations()
    found = chrf_difference(first, second)
    scores = [
        CHRF().corpus_score(list(table["prediction"]), [list(table["text"])]).score
        for table in (first, second)
    ]
    assert found["difference"] == pytest.approx(scores[0] - scores[1])
    assert found["low"] < found["difference"] < found["high"]
    assert found["better"] == 1 and found["p"] < 0.05
    same = chrf_difference(first, first)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_translations_are_compared_with_the_students():
    first, second = translations()
    english = dict(zip(first["id"], first["text"], strict=True))
    about = {"test": "translation", "fold": "f", "seed": 1, "words": 3, **dict.fromkeys(ERRORS, 0)}
    errors = pd.concat(
        [first.assign(system="student", **about), second.assign(system="fine-tuning", **about)]
    ).drop(columns="text")
    table = translation_table(errors, english).set_index("system")
    expected = chrf_difference(second, first)["difference"]
    assert table.loc["fine-tuning", "difference"] == pytest.approx(expected)
    assert table.loc["student", "chrf"] > table.loc["fine-tuning", "chrf"]


def test_a_folder_without_cells_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="make claims"):
        stored_errors(tmp_path)


def test_pairs_are_of_known_systems():
    assert {name for pair in PAIRS for name in pair} <= set(SYSTEMS)


# ---- how much of a method, and its time


def test_the_curve_ends_at_the_trained_system(small, tmp_path, monkeypatch):
    monkeypatch.setattr(claims_curve, "compute", claims.compute)
    asked = {("student", 0.0), ("lora", 0.5), ("lora", 1.0), ("fine-tuning", 0.5)}
    asked |= {("distilwhisper", 0.5), ("distilwhisper", 1.0)}
    points = [p for p in claims_curve.POINTS if (p.system, p.strength) in asked]
    assert len(points) == len(asked)
    monkeypatch.setattr(claims_curve, "POINTS", points)
    claims_curve.write_curve(small, 77, 1, tmp_path)
    table = pd.read_csv(tmp_path / "curve.csv").set_index(["system", "strength", "test"])
    for point in claims_curve.POINTS:
        assert (point.system, point.strength, claims_curve.TARGET) in table.index
    lab = claims.lab_of(Cell("lora", FOLDS[0], 77))
    whole = counts(lab, "lora", "nl/retention", True, seed=77)
    assert table.loc[("lora", 1.0, "nl"), "wer"] == pytest.approx(wer(whole))
    figure = plot_tradeoff(table.reset_index(), claims_curve.TARGET, claims_curve.OTHERS)
    (ax,) = figure.axes
    assert ax.get_ylabel() == "WER (%), both domains"


def test_the_time_is_measured_with_the_studys_experts(small, tmp_path):
    arguments = ["--rounds", "2", "--batches", "1", "--tokens", "4", "--folder", str(tmp_path)]
    transcription.main(arguments)
    rounds = pd.read_csv(tmp_path / "time.csv")
    assert len(rounds) == 2
    assert rounds["ratio"].tolist() == pytest.approx(rounds["experts"] / rounds["plain"], rel=1e-4)


def test_the_picture_of_the_hypotheses_has_their_names_and_verdicts(tmp_path):
    found = hypotheses_table(made_errors(), {}, 4)
    found.to_csv(tmp_path / "hypotheses.csv", index=False)
    claims.draw(tmp_path)
    assert (tmp_path / "figures" / "hypotheses.png").is_file()
    figure = plot_differences(found.dropna(subset=["difference"]).assign(label="a-in"))
    texts = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert "a-in\nholds" in texts


# ---- the page


@cache
def made_tables() -> dict[str, pd.DataFrame]:
    """Return the tables of made errors, in which LoRA is missing."""
    errors = made_errors()
    taught = errors[errors["system"] == "fine-tuning"].assign(system="fine-tuning-teacher")
    errors = pd.concat([errors, taught])
    return {
        "systems": systems_table(errors),
        "pairs": pairs_table(errors),
        "hypotheses": hypotheses_table(errors, {}, 4),
        "translation": pd.DataFrame({"system": ["student"], "chrf": [30.0]}),
    }


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Write the tables of made errors where the page reads them."""
    tables = made_tables()
    for name, table in tables.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    monkeypatch.setattr(docs_study, "FOLDER", tmp_path)
    docs_study.read.cache_clear()
    docs_study.records.cache_clear()
    yield tables
    docs_study.read.cache_clear()
    docs_study.records.cache_clear()


def test_the_answer_counts_the_verdicts_and_gives_each_difference(stored):
    text = docs_study.answer()
    found = stored["hypotheses"].set_index("name")
    assert f"Of the {len(found)} claims" in text
    for outcome in ("holds", "not measured"):
        assert f"{outcome} {(found['verdict'] == outcome).sum()}" in text
    row = found.loc["a-in"]
    assert f"{row['difference']:+.1f} [{row['low']:+.1f}" in text
    assert "against LoRA: " not in text  # nothing is measured of it
    assert "with teacher: in-domain" in text


@pytest.mark.parametrize(
    ("others", "high", "said"),
    [
        (("fine-tuning-teacher", "lora-teacher"), 0.5, True),
        (("fine-tuning-teacher", "lora-teacher"), -0.5, False),  # beaten in both domains
        (("fine-tuning-teacher",), 0.5, False),  # not scored yet
    ],
)
def test_the_first_sentence_says_it_where_rivals_with_the_teacher_are_as_good(
    others, high, said, stored, tmp_path
):
    rows = [
        {"first": "distilwhisper", "other": other, "test": test, "low": -3.0, "high": high}
        for other in others
        for test in DOMAINS
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "pairs.csv", index=False)
    docs_study.read.cache_clear()
    names = [name for pair in docs_study.GROUPS.values() for name in pair]
    found = pd.DataFrame({"verdict": "open"}, index=names)
    text = docs_study._outcome(found)
    assert text.startswith("DistilWhisper is not shown to beat fine-tuning or LoRA")
    assert ("with or without the same teacher" in text) == said


def test_the_page_has_a_row_for_each_system_that_is_scored(stored):
    rows = docs_study.systems().splitlines()[2:]
    assert len(rows) == 5
    assert docs_study.other_languages().count("\n") == 1 + 3  # the heads, and three systems
    assert docs_study.hypotheses().count("not measured") == 4
    assert "**" in docs_study.pairs()


def test_the_page_says_what_is_not_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(docs_study, "FOLDER", tmp_path)
    docs_study.read.cache_clear()
    docs_study.records.cache_clear()
    assert docs_study.systems() == docs_study.answer() == docs_study.NOT_YET
    assert docs_study.progress().startswith("None of the study's")
    docs_study.read.cache_clear()
    docs_study.records.cache_clear()


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "lora", "experts", "--seeds", "2", "--jobs", "1"],
        ["run", "--seeds", "2", "--jobs", "1", "lora", "experts"],
        ["--jobs", "1", "run", "lora", "--seeds", "2", "experts"],
    ],
)
def test_names_stand_before_or_after_the_options(arguments, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(claims, "run", lambda cells, *others: asked.extend(cells))
    monkeypatch.setattr(claims, "write_tables", lambda *given: None)
    monkeypatch.setattr(claims, "_english", dict)
    monkeypatch.setattr(claims, "draw", lambda *given: None)
    claims.main([*arguments, "--folder", str(tmp_path)])
    assert {cell.system for cell in asked} == {"lora", "experts"}
    assert {cell.seed for cell in asked} == set(SEEDS[:2])
