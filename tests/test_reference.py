"""Figures from elsewhere, each with its source; the paper's own figures; the table of settings."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import method_table  # noqa: E402

from distilwhisper_lib.device import mixed_precision  # noqa: E402
from distilwhisper_lib.experiments import grid_tables  # noqa: E402
from distilwhisper_lib.experiments.jobs import LANGUAGES, ONCE, ROWS  # noqa: E402
from distilwhisper_lib.method.experts import ExpertSettings  # noqa: E402
from distilwhisper_lib.presets import COLAB, LAPTOP, PAPER  # noqa: E402

PAPER_LANGUAGES = ["ca", "cs", "gl", "hu", "pl", "ta", "th", "uk"]
COLUMNS = ["system", "train_clips", "test_set", "language", "wer"]
TIMING = json.loads((ROOT / "results" / "reference" / "laptop" / "timing.json").read_text())


def test_openai_figures_have_a_source_and_cover_the_paper_s_languages():
    table = pd.read_csv(ROOT / "data" / "reference" / "openai.csv", dtype={"figure": str})
    for (figure, _, _), rows in table.groupby(["figure", "set", "model"]):
        assert list(rows["language"]) == PAPER_LANGUAGES and rows["percent"].between(1, 60).all()
        assert rows["source"].str.contains(f"openai/whisper repository.*{figure}").all()
    later = table[table["figure"] == "c5d4256"]
    assert set(later.loc[later["metric"] == "CER", "language"]) == {"th"}
    one = table.set_index(["figure", "set", "model", "language"])["percent"]
    assert (
        one["c5d4256", "FLEURS", "large-v2", "cs"] == 13.52
        and one["0b5dcfd", "FLEURS", "large-v2", "cs"] == 13.3
    )


def flaws(path):
    """Return what is wrong with a copy of the paper's table: what `grid table` would not find."""
    table = pd.read_csv(path)
    systems = {name for name, row in grid_tables.PAPER.items() if row in ROWS}
    as_they_are = table["system"].isin(
        [name for name, row in grid_tables.PAPER.items() if row in ONCE]
    )
    clips, numbers = table["train_clips"], pd.to_numeric(table["wer"], errors="coerce")
    wrong = {
        "columns": list(table.columns) != COLUMNS,
        "systems": not set(table["system"]) <= systems,
        "tests": not set(table["test_set"]) <= grid_tables.PAPER.keys() - systems,
        "languages": not set(table["language"]) <= set(LANGUAGES),
        "twice": table.duplicated(COLUMNS[:-1]).any(),
        "clips": (clips.isin([3_000, 10_000, 28_000]) == as_they_are).any()
        or clips[as_they_are].notna().any(),
        "figures": not (numbers.between(0, 200) | table["wer"].isna()).all(),
    }
    return [name for name, found in wrong.items() if found]


def test_paper_s_own_table_is_ready_to_be_filled():
    """Empty, as it is committed, or with the figures of a reader who has the paper."""
    table = pd.read_csv(ROOT / "data" / "reference" / "paper.csv")
    there = {key[1:] for key in table[COLUMNS[:-1]].fillna(0).itertuples()}
    assert flaws(ROOT / "data" / "reference" / "paper.csv") == []
    assert there >= {
        (system, 0 if system.startswith("whisper") else 3000, test, language)
        for system in list(grid_tables.PAPER)[:6]
        for test in ("Common Voice 13", "FLEURS")
        for language in PAPER_LANGUAGES
    }
    assert len(grid_tables.paper_figures()) == table["wer"].notna().sum()


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Return a copy of the paper's table and where it is: the grid reads that one."""
    monkeypatch.setattr(grid_tables, "REPOSITORY", tmp_path)
    (tmp_path / "data" / "reference").mkdir(parents=True)
    table = pd.read_csv(ROOT / "data" / "reference" / "paper.csv").assign(wer=None)
    return table, tmp_path / "data" / "reference" / "paper.csv"


def test_a_copy_that_is_filled_in_passes_and_its_figures_are_found(copy):
    table, path = copy
    table.to_csv(path, index=False)
    assert flaws(path) == [] and grid_tables.paper_figures() == {}
    table["wer"] = range(len(table))
    more = [
        ("DistilWhisper", 10_000, "FLEURS", "cs", 17.5),
        ("DistilWhisper-KL", 3_000, "Common Voice 13", "th", 31),
        ("whisper-small", None, "FLEURS translation", "ca", 9.5),
    ]
    pd.concat([table, pd.DataFrame(more, columns=COLUMNS)]).to_csv(path, index=False)
    assert flaws(path) == []
    figures = grid_tables.paper_figures()
    assert len(figures) == len(table) + 3 and figures["in-domain", 0, "student", "ca"] == 0
    assert figures["out-of-domain", 10_000, "distilwhisper-released", "cs"] == 17.5
    assert figures["in-domain", 3_000, "distilwhisper-released-kl", "th"] == 31
    assert figures["translation", 0, "student", "ca"] == 9.5


@pytest.mark.parametrize(
    ("row", "flaw"),
    [
        (("Lora", 3_000, "FLEURS", "cs", 1), "systems"),
        (("LoRA", 3_000, "FLEURS-102", "cs", 1), "tests"),
        (("LoRA", 3_000, "FLEURS", "cz", 1), "languages"),
        (("LoRA", 3, "FLEURS", "cs", 1), "clips"),
        (("LoRA", None, "FLEURS", "cs", 1), "clips"),
        (("whisper-small", 3_000, "FLEURS", "cs", 1), "clips"),
        (("LoRA", 10_000, "FLEURS", "cs", "17,5"), "figures"),
        (("LoRA", 10_000, "FLEURS", "cs", 1750), "figures"),
        (("LoRA", 3_000, "FLEURS", "cs", 1), "twice"),
    ],
)
def test_a_slip_in_the_copy_is_found(row, flaw, copy):
    table, path = copy
    pd.concat([table, pd.DataFrame([row], columns=COLUMNS)]).to_csv(path, index=False)
    assert flaws(path) == [flaw]


@pytest.mark.parametrize(
    "preset, column", [(LAPTOP, 3), (COLAB, 4), (PAPER, 5)], ids=["laptop", "colab", "paper"]
)
def test_method_table_shows_what_the_presets_hold(preset, column):
    rows = {row[0]: row for row in method_table.method_rows()}
    assert all(len(row) == 6 and all(row) for row in rows.values())
    found = {name: row[column] for name, row in rows.items()}
    assert found["epochs"] == str(preset.epochs) and found["student"] == preset.student
    assert found["scored text"] == f"`{preset.normaliser}`"
    assert found["longest output"] == f"{preset.max_new_tokens} tokens, greedy"
    assert found["gate noise at the end"].startswith(f"{ExpertSettings().noise:g}; our variant ")
    assert found["clips at once in tests"] == str(preset.eval_batch_size)
    assert found["the teacher's tokens"].startswith(f"the {preset.top_k} most likely")
    assert "beta2 0.98" in found["optimiser, schedule"]
    assert "linear, warm-up 0.1" in found["optimiser, schedule"]


def test_minutes_of_the_laptop_preset_are_those_of_the_reference_run():
    seconds = sum(value for name, value in TIMING.items() if name[:2] <= "05")
    assert LAPTOP.minutes == f"{seconds / 60:.0f} min on 2 cores"


@pytest.mark.parametrize("stem", sorted(TIMING))
def test_a_notebook_says_the_minutes_of_the_reference_run(stem):
    source = (ROOT / "notebooks" / "source" / f"{stem}.py").read_text(encoding="utf-8")
    row = re.search(r"^# \| laptop.*", source, flags=re.M).group()
    minutes = TIMING[stem] / 60
    if minutes < 0.9:
        assert re.search(r"\| (1 min|half a minute|under a minute)\b", row), row
    else:
        assert abs(int(re.search(r"\| (\d+) min\b", row).group(1)) - minutes) < 1, row


def test_paper_s_settings_are_the_release_s_where_nothing_is_said():
    rows = {row[0]: row for row in method_table.method_rows()}
    for name in (
        "student",
        "teacher",
        "epochs",
        "seed",
        "label smoothing",
        "total loss",
        "LoRA",
        "gate's inner width",
        "gradient clipping",
        "temperature of JS and KL",
    ):
        assert rows[name][4] == rows[name][5] == rows[name][1], name


def test_method_table_reads_what_it_shows_from_the_code(monkeypatch):
    fewer = replace(LAPTOP, top_k=4, eval_batch_size=2, keep="best")
    monkeypatch.setattr(method_table, "LAPTOP", fewer)
    given = method_table.training_arguments
    monkeypatch.setattr(
        method_table,
        "training_arguments",
        lambda *args, **settings: replace(given(*args, **settings), max_grad_norm=0.5),
    )
    pooled = method_table.POOLED
    pooled = replace(pooled, loss=replace(pooled.loss, budget=0.3))
    monkeypatch.setattr(method_table, "POOLED", pooled)
    ours = method_table.OURS
    ours = replace(ours, settings=ExpertSettings(), loss=replace(ours.loss, budget=0.7))
    monkeypatch.setattr(method_table, "OURS", ours)

    found = {row[0]: row[3] for row in method_table.method_rows()}
    assert found["the teacher's tokens"].startswith("the 4 most likely")
    assert found["clips at once in tests"] == "2"
    assert found["gradient clipping"] == "norm 0.5" and found["gates in training"] == "soft"
    assert found["gate budget"] == "0.3 over both stacks; our variant 0.7 in each"
    checkpoint = next(row for row in method_table.fidelity_rows() if row[0] == "checkpoint")
    kept = "the best epoch by validation WER (`laptop`, `paper`); the last epoch (`colab`)"
    assert checkpoint[2] == kept


def test_release_chose_lora_s_epoch_by_its_loss_and_the_others_by_wer():
    checkpoint = next(row for row in method_table.fidelity_rows() if row[0] == "checkpoint")
    assert "its code: the best epoch by validation WER, of LoRA by validation loss" in checkpoint[3]


@pytest.mark.parametrize(
    ("device", "capability", "words"),
    [
        ("cuda", (9, 0), "bf16 where"),
        ("cuda", (7, 5), "else fp16 on a GPU"),
        ("cpu", None, "fp32 on a CPU"),
    ],
)
def test_precision_in_the_method_table_is_that_of_the_hardware(
    device, capability, words, monkeypatch
):
    monkeypatch.delenv("LAB_PRECISION", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    shown = {"bf16": "bf16", "fp16": "fp16", "no": "fp32"}[mixed_precision(torch.device(device))]
    precision = {row[0]: row for row in method_table.method_rows()}["precision"]
    assert shown in words and words in precision[3] and precision[1] == "fp32; LoRA fp16"
