"""From Common Voice and FLEURS to scores: the paper's data and a tiny model."""

from dataclasses import replace

import pandas as pd
import pytest
from made_corpora import make_common_voice, make_fleurs

from distilwhisper_lib.lab.comparison import score
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.presets import get_preset


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A lab on made-up data of the paper's kind, in Catalan."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    make_common_voice(tmp_path / "data" / "common-voice")
    for code in ("ca_es", "en_us"):
        make_fleurs(tmp_path / "data" / "fleurs", code)
    paper = get_preset("paper")
    smoke = get_preset("smoke")
    return Lab(
        replace(
            smoke,
            corpus=paper.corpus,
            second_corpus=paper.corpus,
            other_corpus=paper.other_corpus,
            language="ca",
            second_language="ca",
            retention=(),
            teacher="tiny",
            normaliser="released",
            validation_clips=None,
            train_clips=None,
        )
    )


def test_a_system_is_trained_on_common_voice_and_scored_on_both(lab):
    found = {
        name: score(lab, "distilwhisper", f"ca/{name}")
        for name in ("in-domain", "out-of-domain", "translation")
    }
    assert found["in-domain"]["release"] == "cv-corpus-13.0-2023-03-09"
    assert "release" not in found["out-of-domain"]  # a folder of FLEURS says none
    assert found["in-domain"]["n"] == 2
    assert found["out-of-domain"]["n"] == 3
    assert found["translation"]["n"] == 2  # one sentence is not among the English ones
    assert {row["normaliser"] for row in found.values()} == {"released"}
    assert found["translation"]["bleu"] < 50  # a tiny Whisper knows no English
    english = lab.test_rows("ca/translation")["translation_en"]
    assert all(english)
    assert lab.test_set("ca/translation").corpus == "fleurs"


def test_a_translation_with_case_and_full_stop_is_as_good_as_the_reference_that_has_neither(
    lab, monkeypatch
):
    rows = lab.test_rows("ca/translation")
    assert rows["translation_en"][:] == [text.lower() for text in rows["translation_en"][:]]
    predictions = {
        "id": rows["id"][:],
        "prediction": [f"{text.capitalize()}." for text in rows["translation_en"][:]],
    }
    monkeypatch.setattr(Lab, "transcribe", lambda *_, **__: pd.DataFrame(predictions))
    row = score(lab, "student", "ca/translation")
    assert [row["bleu"], row["bleu_low"], row["chrf"]] == pytest.approx([100] * 3)
    assert row["normaliser"] == "released"
