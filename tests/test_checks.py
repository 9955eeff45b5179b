"""Options are checked for type and range, wherever they come from."""

import math
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch

from distilwhisper_lib.checks import (
    check_choice,
    check_flag,
    check_number,
    check_text,
    nearest,
    number_in,
)
from distilwhisper_lib.experiments import study
from distilwhisper_lib.experiments.study import systems_of
from distilwhisper_lib.fidelity import DIFFERENCES, Fidelity, get_fidelity
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.presets import (
    MAY_BE_NONE,
    NUMBERS,
    PRESETS,
    SMOKE,
    TEXTS,
    Preset,
    get_preset,
)

NO_NUMBERS = (True, False, "3", "nan", None, [3], np.bool_(True), math.nan, math.inf, -math.inf, 3j)


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_bool_a_text_and_what_is_not_finite_are_no_numbers(value):
    with pytest.raises(ValueError, match="^epochs is .*: a number is needed.$"):
        check_number("epochs", value)


@pytest.mark.parametrize("value", [0, -3, 2.5, np.int64(4), np.float32(0.5), 1e300])
def test_numbers_of_every_kind_are_returned_as_they_are(value):
    assert check_number("rate", value) is value


@pytest.mark.parametrize(
    ("limits", "good", "bad", "needed"),
    [
        ({"low": 1}, (1, 2.5), (0.99, -1), "a number from 1 on"),
        ({"above": 0}, (1e-9,), (0, -1), "a number above 0"),
        ({"low": 0, "high": 1}, (0, 1), (-0.1, 1.1), "a number from 0 to 1"),
        ({"low": 0, "below": 1}, (0, 0.9), (1,), "a number from 0 on and below 1"),
        ({"high": 3}, (3, -9), (3.1,), "a number of at most 3"),
        ({"low": 1, "whole": True}, (1, np.int32(7)), (1.0, 2.5, 0), "a whole number from 1 on"),
    ],
)
def test_a_range_is_held_and_told(limits, good, bad, needed):
    for value in good:
        assert check_number("x", value, **limits) == value
    for value in bad:
        with pytest.raises(ValueError, match=f"^x is .*: {needed} is needed.$"):
            check_number("x", value, **limits)


@pytest.mark.parametrize("value", ["false", "True", 0, 1, None, np.bool_(True)])
def test_only_true_and_false_are_flags(value):
    with pytest.raises(ValueError, match="always_open is .*: True or False is needed"):
        check_flag("always_open", value)
    assert check_flag("a", True) is True
    assert check_flag("a", False) is False


def test_a_choice_lists_what_is_known_and_names_the_nearest():
    assert check_choice("keep", "best", ("last", "best")) == "best"
    for value in ("bset", "BEST"):
        message = f"keep is '{value}': known are last, best. Did you mean best\\?"
        with pytest.raises(ValueError, match=message):
            check_choice("keep", value, ("last", "best"))
    for value in (["best"], None, 0):
        with pytest.raises(ValueError, match="known are last, best.$"):
            check_choice("keep", value, ("last", "best"))
    with pytest.raises(ValueError, match="is 1: known are 0, True"):
        check_choice("x", 1, (0, True))  # 1 == True in Python
    with pytest.raises(ValueError, match=r"code 19, … \(300 in all\)"):
        check_choice("language", "xx", [f"code {number}" for number in range(300)])
    assert nearest("zzz", ["last"]) == ""


def test_an_empty_text_is_none():
    for value in ("", "  ", None, 3):
        with pytest.raises(ValueError, match="name is .*: a text that is not empty is needed"):
            check_text("name", value)


@pytest.mark.parametrize("text", ["", "x", "1.5", "nan", "1e400", "-1"])
def test_a_number_in_a_text_is_checked(text):
    with pytest.raises(ValueError, match="LAB_SEED is .*: a whole number from 0 on is needed"):
        number_in("LAB_SEED", text, low=0, whole=True)
    assert number_in("LAB_SEED", "12", low=0, whole=True) == 12
    assert number_in("RATE", "1e-3", above=0) == 1e-3


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ValueError, match="number is needed") as caught:
        check_number("x", "9" * 10_000)
    assert len(str(caught.value)) < 200


# ---- presets


@pytest.mark.parametrize("name", list(NUMBERS))
def test_every_number_of_a_preset_is_checked(name):
    limits = NUMBERS[name]
    bad = [True, "3", math.nan, math.inf, -1, 10**10 if "high" in limits else 0]
    if limits.get("whole"):
        bad.append(2.5)
    if name not in MAY_BE_NONE:
        bad.append(None)
    for value in bad:
        if value == 0 and limits.get("low") == 0 and value is not False:
            continue
        with pytest.raises(ValueError, match=f"^{name} is "):
            replace(SMOKE, **{name: value})
        with pytest.raises(ValueError, match=f"^{name} is "):
            Lab("smoke", **{name: value})


def test_every_field_of_a_preset_is_checked():
    others = {"retention", "learning_rates", "keep", "fidelity", "minutes", "memory"}
    others |= {"further_systems", "precision"}
    optional = {"teacher", "other_corpus", "recordings", "voice"}
    assert {field.name for field in fields(Preset)} == {*NUMBERS, *TEXTS, *others, *optional}
    for name in (*TEXTS, *optional):
        for value in ("", 3, ["a"]):
            with pytest.raises(ValueError, match=f"^{name} is "):
                replace(SMOKE, **{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rates": {"lora": 0}}, r"learning_rates\['lora'\] is 0: a number above 0"),
        ({"learning_rates": {"lora": math.nan}}, r"learning_rates\['lora'\] is nan"),
        ({"learning_rates": {"lora": "1e-3"}}, r"learning_rates\['lora'\] is '1e-3'"),
        ({"learning_rates": [1e-3]}, "learning_rates is .*numbers by method are needed"),
        ({"retention": "fleurs"}, "retention is 'fleurs': pairs of corpus and language"),
        ({"retention": (("fleurs",),)}, "retention is .*pairs"),
        ({"keep": "bset"}, "keep is 'bset': known are last, best. Did you mean best"),
        ({"fidelity": "relesed"}, "unknown fidelity 'relesed'.*Did you mean released"),
        ({"name": "../elsewhere"}, "name is '../elsewhere': it names folders"),
        ({"precision": "fp8"}, "precision is 'fp8': known are bf16, fp16, no"),
        ({"further_systems": "lora"}, "further_systems is 'lora'"),
        ({"further_systems": [3]}, "further_systems is 3"),
        ({"minutes": 3}, "minutes is 3: a text is needed"),
        ({"max_new_tokens": 445}, "max_new_tokens is 445: a whole number from 1 to 444"),
    ],
)
def test_what_else_a_preset_holds_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMOKE, **change)


def test_lists_of_a_json_file_are_taken_for_pairs():
    assert replace(SMOKE, retention=[["toy", "nl"]]).retention == (("toy", "nl"),)


def test_a_preset_is_asked_for_by_name_alone(monkeypatch):
    monkeypatch.setenv("LAB_PRESET", "smoke")
    assert get_preset().name == "smoke"
    with pytest.raises(ValueError, match="unknown preset '': one of smoke, toy"):
        get_preset("")  # not the one of the variable
    with pytest.raises(ValueError, match="unknown preset 'colb'.*Did you mean colab"):
        get_preset("colb")
    monkeypatch.setenv("LAB_PRESET", "")
    assert get_preset().name == "toy"
    assert all(replace(preset) == preset for preset in PRESETS.values())


def test_switches_of_fidelity_are_true_or_false():
    for name in DIFFERENCES:
        for value in ("false", 1, None):
            with pytest.raises(ValueError, match=f"{name} is .*True or False is needed"):
                Fidelity(**{name: value})
    with pytest.raises(ValueError, match="switch is 'lora_on_bth'.*Did you mean lora_on_both"):
        get_fidelity("released").on("lora_on_bth")


# ---- studies


def test_a_study_takes_trained_methods_alone():
    assert systems_of("variants", None) == systems_of("top-k", ["distilwhisper"])
    assert systems_of("fidelity", None) == ["distilwhisper-released"]
    assert "student" not in systems_of("tune", None)
    assert systems_of("seeds", ["lora", "lora"]) == ["lora"]
    with pytest.raises(ValueError, match="student is not trained"):
        systems_of("tune", ["student"])
    with pytest.raises(ValueError, match="unknown method 'lorra'"):
        systems_of("tune", ["lorra"])
    for one in ("variants", "top-k"):
        told = f"the study {one} is of distilwhisper alone.*which tune, fidelity and seeds take"
        with pytest.raises(ValueError, match=told):
            systems_of(one, ["lora"])


@pytest.mark.parametrize("name", ["tune", "variants", "fidelity", "top-k"])
def test_a_study_refuses_seeds_that_it_does_not_use(name, capsys):
    with pytest.raises(SystemExit) as end:
        study.main([name, "--preset", "smoke", "--seeds", "80"])
    assert end.value.code == 2
    assert f"--seeds belongs to the study seeds: leave it out for {name}" in capsys.readouterr().err


def test_a_study_passes_on_every_option_that_it_takes(monkeypatch):
    found = []
    monkeypatch.setattr(study, "preflight", lambda *_: None)

    def noting(lab, *given):
        found.append((lab.preset.name, lab.preset.epochs, *given))
        return pd.DataFrame()

    for name in ("tune", "variants", "fidelity", "top_k", "seeds"):
        monkeypatch.setattr(study, name, noting)
    common = ["--preset", "smoke", "--epochs", "3"]
    lora = ["--systems", "lora"]
    for line in (["variants"], ["top-k"], ["tune", *lora], ["fidelity", *lora], ["seeds", *lora]):
        study.main([*line, *common])
    study.main(["seeds", *lora, *common, "--seeds", "80", "0"])
    about = ("smoke", 3)
    assert found == [
        about,
        about,
        (*about, ["lora"]),
        (*about, "lora"),
        (*about, ["lora"], [77, 78, 79]),
        (*about, ["lora"], [80, 0]),
    ]


def test_a_tensor_is_no_number():
    with pytest.raises(ValueError, match="a number is needed"):
        check_number("x", torch.tensor(1.0))
