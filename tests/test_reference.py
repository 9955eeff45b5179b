"""Figures from elsewhere: each with its source, none of the paper's own; and the table of settings."""

import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import method_table  # noqa: E402
from distilwhisper_lib.clsr import ExpertSettings  # noqa: E402
from distilwhisper_lib.presets import COLAB, LAPTOP, PAPER  # noqa: E402

PAPER_LANGUAGES = ["ca", "cs", "gl", "hu", "pl", "ta", "th", "uk"]


def test_openai_figures_have_a_source_and_cover_the_paper_s_languages():
    table = pd.read_csv(ROOT / "data" / "reference" / "openai.csv", dtype={"figure": str})
    for (figure, _, _), rows in table.groupby(["figure", "set", "model"]):
        assert list(rows["language"]) == PAPER_LANGUAGES and rows["percent"].between(1, 60).all()
        assert rows["source"].str.contains(f"openai/whisper repository.*{figure}").all()
    later = table[table["figure"] == "c5d4256"]
    assert set(later.loc[later["metric"] == "CER", "language"]) == {"th"}
    one = table.set_index(["figure", "set", "model", "language"])["percent"]
    assert one["c5d4256", "FLEURS", "large-v2", "cs"] == 13.52 and one["0b5dcfd", "FLEURS", "large-v2", "cs"] == 13.3


def test_paper_s_own_table_is_empty_and_ready_to_be_filled():
    table = pd.read_csv(ROOT / "data" / "reference" / "paper.csv")
    assert table["wer"].isna().all() and not table.duplicated().any()
    assert set(table["language"]) == set(PAPER_LANGUAGES) and set(table["test_set"]) == {"Common Voice 13", "FLEURS"}


@pytest.mark.parametrize("preset, column", [(LAPTOP, 3), (COLAB, 4), (PAPER, 5)], ids=["laptop", "colab", "paper"])
def test_method_table_shows_what_the_presets_hold(preset, column):
    rows = {row[0]: row for row in method_table.method_rows()}
    assert all(len(row) == 6 and all(row) for row in rows.values())
    found = {name: row[column] for name, row in rows.items()}
    assert found["epochs"] == str(preset.epochs) and found["student"] == preset.student
    assert found["scored text"] == f"`{preset.normaliser}`"
    assert found["longest output"] == f"{preset.max_new_tokens} tokens, greedy"
    assert found["gate noise at the end"].startswith(f"{ExpertSettings().noise:g}; our variant ")
    assert "beta2 0.98" in found["optimiser, schedule"] and "linear, warm-up 0.1" in found["optimiser, schedule"]


def test_paper_s_settings_are_the_release_s_where_nothing_is_said():
    rows = {row[0]: row for row in method_table.method_rows()}
    for name in ("student", "teacher", "epochs", "seed", "label smoothing", "total loss", "LoRA", "gate's inner width"):
        assert rows[name][4] == rows[name][5] == rows[name][1], name
