"""The study with toy languages: its cells, tables, knobs and pictures."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from distilwhisper_lib.data.corpora import world
from distilwhisper_lib.evaluation.statistics import difference, rate
from distilwhisper_lib.experiments import toy_study
from distilwhisper_lib.experiments.toy_study import (
    DOMAINS,
    KNOBS,
    PAIRS,
    RATES,
    SYSTEMS,
    Cell,
    Setting,
    differences,
    errors_of,
    knobs,
    lab_of,
    seeds,
    tune,
    with_clips,
)
from distilwhisper_lib.files import results_dir
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.lab.plots import plot_knob
from distilwhisper_lib.presets import PRESETS
from distilwhisper_lib.training.methods import METHODS, get_method

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference" / "toy" / "study"
sys.path.insert(0, str(ROOT / "tools"))

import docs_toy  # noqa: E402

PLAIN = Setting("", "")


@pytest.fixture(autouse=True)
def small_world(monkeypatch):
    """Make the corpus, the tests and the trainings small, and compute in this process."""
    monkeypatch.setattr(
        world,
        "CLIPS",
        {"test": 6, "test-other": 6, "validation": 4, "train": 12, "teacher": 2},
    )
    monkeypatch.setattr(toy_study, "TEST_CLIPS", 4)
    monkeypatch.setattr(toy_study, "KNOB_TEST_CLIPS", 4)
    monkeypatch.setattr(toy_study, "RETENTION_CLIPS", 2)
    one_pass = Setting("", "", {"epochs": 1, "train_clips": 8})
    monkeypatch.setattr(toy_study, "PLAIN", one_pass)
    monkeypatch.setattr(toy_study, "compute", lambda of, cells, jobs: [of(c) for c in cells])
    return one_pass


def small(knob: str, label: str, **changes) -> Setting:
    """Return a position with one pass over a few clips."""
    preset = {"epochs": 1, "train_clips": 8}
    return Setting(knob, label, preset, systems=("lora",), **changes)


def test_a_cell_has_the_errors_of_all_tests_with_experts_on_in_their_language_alone(small_world):
    tables = {
        name: errors_of(Cell(small_world, name, 3, 4)).set_index(["test", "id"])
        for name in ("student", "experts-open")
    }
    found = tables["experts-open"]
    assert set(found.index.get_level_values("test")) == {*DOMAINS, "translation", "ca", "gl", "pl"}
    assert set(found["seed"]) == {3}
    for test in ("ca", "gl", "pl", "translation"):
        assert list(found.loc[test, "prediction"]) == list(
            tables["student"].loc[test, "prediction"]
        )


def test_each_seed_draws_training_clips_of_its_own(small_world):
    drawn = [set(lab_of(Cell(small_world, "lora", seed, 4)).rows("train")["id"]) for seed in (0, 1)]
    labs = [lab_of(Cell(small_world, "lora", seed, 4)) for seed in (0, 1)]
    chosen = [set(lab.rows("train", limit=8)["id"]) for lab in labs]
    assert drawn[0] == drawn[1]  # all of them
    assert chosen[0] != chosen[1]
    assert labs[1].preset.seed == labs[1].preset.draw == 1
    tests = [list(lab.test_rows("cs/in-domain")["id"]) for lab in labs]
    assert tests[0] == tests[1]


def test_the_study_of_seeds_writes_rates_differences_and_errors():
    seeds((0, 1), ("lora", "lora-teacher"), jobs=1)
    folder = results_dir("toy") / "study"
    systems = pd.read_csv(folder / "systems.csv")
    assert list(dict.fromkeys(systems["system"])) == ["student", "teacher", "lora", "lora-teacher"]
    errors = pd.read_csv(folder / "errors-in-domain.csv")
    assert len(errors) == 4
    row = systems[(systems["system"] == "lora") & (systems["test"] == "in-domain")].iloc[0]
    made = errors["lora 0"].sum() + errors["lora 1"].sum()
    assert row["wer"] == pytest.approx(100 * made / (2 * errors["words"].sum()), abs=1e-3)
    assert row["n_seeds"] == 2
    pairs = pd.read_csv(folder / "pairs.csv")
    assert set(zip(pairs["first"], pairs["other"], strict=True)) == {("lora-teacher", "lora")}
    about = json.loads((folder / "seeds.json").read_text())
    assert about["seeds"] == [0, 1] and "commit" in about


def test_a_knob_has_a_table_a_table_of_pairs_and_a_picture(monkeypatch):
    deep = world.Voice("deep", 0.9, 0.01)
    settings = (small("voice", "0.95"), small("voice", "0.90", voice=deep))
    monkeypatch.setitem(KNOBS, "voice", settings)
    knobs(("voice",), (0,), jobs=1)
    folder = results_dir("toy") / "study"
    table = pd.read_csv(folder / "knob-voice.csv", dtype={"position": str})
    assert list(dict.fromkeys(table["position"])) == ["0.95", "0.90"]
    assert set(table[table["position"] == "0.90"]["test"]) == {"other voice"}
    assert (folder / "figures" / "knob-voice.png").stat().st_size > 10_000
    assert (folder / "knob-voice-pairs.csv").is_file()
    assert json.loads((folder / "knob-voice.json").read_text())["seeds"] == [0]


def test_predictions_of_another_voice_belong_to_the_weights():
    voice = world.Voice("deep", 0.9, 0.01)
    few = {"train_clips": 8, "test_clips": 8, "validation_clips": 4}
    found = [
        toy_study._errors_with_voice(Lab("toy", student=student, **few), "student", voice, 8)
        for student in ("toy-student", "toy-teacher", "toy-student")
    ]
    assert found[0].equals(found[2])
    assert not found[0].equals(found[1])


def test_tuning_tries_the_rates_of_each_method(monkeypatch):
    tried = {"lora": (1e-3, 2e-3), "experts-open": (1e-4, 5e-4)}
    monkeypatch.setattr(toy_study, "RATES", tried)
    monkeypatch.setattr(toy_study, "TUNING_SEEDS", (100,))
    tune(("lora", "experts-open"), jobs=1)
    table = pd.read_csv(results_dir("toy") / "study" / "tuning.csv")
    for name in ("lora", "experts-open"):
        assert tuple(table[table["system"] == name]["learning_rate"]) == tried[name]


def test_every_method_has_as_many_trials_and_the_preset_has_the_best_of_them():
    assert {len(tried) for tried in RATES.values()} == {5}
    table = read("tuning").sort_values("wer").drop_duplicates("system")
    best = dict(zip(table["system"], table["learning_rate"], strict=True))
    assert set(best) == set(RATES) == set(SYSTEMS)
    for name, value in best.items():
        assert PRESETS["toy"].learning_rate(name) == pytest.approx(value)


# ---- what is studied


@pytest.mark.parametrize("name", KNOBS)
def test_a_knob_changes_one_thing_and_has_a_label_for_each_position(name):
    settings = KNOBS[name]
    assert len({setting.label for setting in settings}) == len(settings) >= 3
    for setting in settings:
        assert setting.knob == name
        for system in setting.systems:
            assert PRESETS["toy"].learning_rate(system) > 0


def test_the_knob_of_clips_keeps_the_number_of_steps():
    toy = PRESETS["toy"]
    for count in (24, 48, 96, 192):
        changed = with_clips(count)
        steps = changed["epochs"] * toy.steps_of_epoch(count)
        assert steps == toy.epochs * toy.steps_of_epoch(toy.train_clips) == 120


def test_pairs_are_of_two_methods_that_the_study_trains():
    for first, other in PAIRS:
        assert first != other
        assert {first, other} <= set(SYSTEMS)
    assert all(METHODS[name].is_trained for name in SYSTEMS)
    assert get_method("experts-open").expert_settings(None).always_open


def test_differences_are_first_less_other():
    columns = {"test": "in-domain", "seed": 0, "insertions": 0, "deletions": 0, "words": 10}
    rows = {
        "distilwhisper": pd.DataFrame([columns | {"id": i, "substitutions": 1} for i in range(8)]),
        "lora": pd.DataFrame([columns | {"id": i, "substitutions": 3} for i in range(8)]),
    }
    (found,) = differences(rows, PAIRS, ["in-domain"])
    assert (found["first"], found["other"]) == ("distilwhisper", "lora")
    assert found["difference"] == pytest.approx(-20)


def test_the_picture_of_a_knob_has_a_line_for_each_system_and_a_panel_for_each_domain():
    rows = [
        {"position": position, "system": system, "test": test, "wer": 10.0}
        for position in ("few", "many")
        for system in ("student", "lora", "lora-teacher")
        for test in (*DOMAINS, "ca")
    ]
    table = pd.DataFrame(rows).assign(wer_low=8.0, wer_high=12.0)
    figure = plot_knob(table, "labelled clips")
    assert [ax.get_title() for ax in figure.axes] == list(DOMAINS)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    assert labels == [METHODS[name].label for name in ("lora", "lora-teacher")]
    styles = {
        label: handle.lines[0].get_linestyle()
        for handle, label in zip(handles, labels, strict=True)
    }
    assert styles[METHODS["lora-teacher"].label] == "--"
    assert styles[METHODS["lora"].label] == "-"
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_knob(table[:0], "labelled clips")


# ---- the committed study


def read(name: str) -> pd.DataFrame:
    return pd.read_csv(REFERENCE / f"{name}.csv", dtype={"position": str})


@pytest.mark.parametrize("test", DOMAINS)
def test_the_committed_rates_and_differences_follow_from_the_committed_errors(test):
    wide = read(f"errors-{test}")
    tables = {}
    for column in [name for name in wide.columns if name not in ("id", "words")]:
        system, seed = column.rsplit(" ", 1)
        rows = pd.DataFrame({"id": wide["id"], "words": wide["words"], "seed": int(seed)})
        rows = rows.assign(insertions=0, deletions=0, substitutions=wide[column])
        tables.setdefault(system, []).append(rows)
    tables = {system: pd.concat(parts) for system, parts in tables.items()}
    assert set(tables) == {"student", "teacher", *SYSTEMS}

    systems = read("systems")
    for system in ("student", "fine-tuning", "distilwhisper"):
        row = systems[(systems["system"] == system) & (systems["test"] == test)].iloc[0]
        found = rate(tables[system])
        for name in ("wer", "wer_low", "wer_high", "n_seeds"):
            assert found[name] == pytest.approx(row[name], abs=1e-3)
    pairs = read("pairs")
    row = pairs.query("first == 'distilwhisper' and other == 'lora' and test == @test").iloc[0]
    found = difference(tables["distilwhisper"], tables["lora"])
    assert found["difference"] == pytest.approx(row["difference"], abs=1e-3)


@pytest.mark.parametrize("name", docs_toy.COMPUTED)
def test_each_knob_of_the_page_is_committed_with_all_its_positions(name):
    table = read(f"knob-{name}")
    assert list(dict.fromkeys(table["position"])) == [setting.label for setting in KNOBS[name]]
    assert (REFERENCE / "figures" / f"knob-{name}.png").is_file()


def test_the_record_of_the_study_has_seeds_machine_and_commit():
    for part in ("seeds", "tuning", *(f"knob-{name}" for name in docs_toy.COMPUTED)):
        about = json.loads((REFERENCE / f"{part}.json").read_text())
        assert about["seeds"] and about["machine"]["processor"]
        assert about["commit"]
