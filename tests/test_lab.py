"""The laboratory at the smoke preset: computed once and kept, anew where anything has changed."""

import hashlib
import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from made_corpora import TWO_LEADS, make_fillets, make_recordings, write_sound
from other_user import run_as_another_user
from random_data import logits, random_batch, random_counts

from distilwhisper_lib.data.audio import encode_flac, read_audio
from distilwhisper_lib.data.corpora import loading
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.registry import CORPORA
from distilwhisper_lib.evaluation import testsets
from distilwhisper_lib.evaluation.scoring import summarise, word_errors
from distilwhisper_lib.evaluation.testsets import is_retention, test_sets, with_paper_data
from distilwhisper_lib.experiments import convergence, smaller, study
from distilwhisper_lib.experiments.study import LOW_RANK
from distilwhisper_lib.files import (
    REPOSITORY,
    cache_dir,
    read_json,
    results_dir,
    short_hash,
    write_json,
)
from distilwhisper_lib.lab import comparison
from distilwhisper_lib.lab import lab as lab_module
from distilwhisper_lib.lab.comparison import (
    compare,
    counts,
    main_table,
    paired,
    plan,
    predictions,
    score,
    top_k_curve,
    write_run_metadata,
)
from distilwhisper_lib.lab.course_steps import announce
from distilwhisper_lib.lab.lab import Lab, open_lab
from distilwhisper_lib.lab.metadata import commit, read_steps, run_metadata, timed_step
from distilwhisper_lib.method.blocks import clsr_blocks, expert_languages, last_gates
from distilwhisper_lib.method.languages import get_language, set_language, use_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.presets import PRESETS, get_preset
from distilwhisper_lib.training import config as config_module
from distilwhisper_lib.training import run as run_module
from distilwhisper_lib.training import trainer as trainer_module
from distilwhisper_lib.training.methods import METHODS, compared_methods, trained_methods
from distilwhisper_lib.training.teacher import stored_clips
from distilwhisper_lib.whisper.hub import REVISIONS
from distilwhisper_lib.whisper.loading import Source
from distilwhisper_lib.whisper.tiny import tiny_whisper

CHANGES = {"train_clips": 4, "teacher_clips": 4, "validation_clips": 2, "test_clips": 3}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture
def lab(shared, monkeypatch):
    """A lab whose folders the tests of this module share: what one has computed, the next finds."""
    monkeypatch.setenv("LAB_CACHE", str(shared / "cache"))
    monkeypatch.setenv("LAB_RESULTS", str(shared / "results"))
    return Lab("smoke", **CHANGES)


def no_work(monkeypatch):
    """Make training, the teacher and transcription fail from here on."""
    for name in ("train_run", "cache_teacher_distributions", "transcribe"):

        def refuse(*_, name=name, **__):
            pytest.fail(f"{name} was called again")

        monkeypatch.setattr(lab_module, name, refuse)


# ---- presets and folders


def test_the_preset_comes_from_the_argument_else_from_the_environment(monkeypatch):
    assert get_preset().name == "toy"
    assert get_preset("smoke").name == "smoke"
    monkeypatch.setenv("LAB_PRESET", "smoke")
    assert get_preset().name == Lab().preset.name == "smoke"
    assert get_preset("colab").name == "colab"
    monkeypatch.setenv("LAB_PRESET", "")
    assert get_preset().name == "toy"


def test_folders_come_from_the_environment(tmp_path, monkeypatch):
    assert cache_dir() == tmp_path / "cache"
    assert results_dir("smoke") == tmp_path / "results" / "smoke"
    monkeypatch.setenv("LAB_CACHE", "~/somewhere")
    assert str(cache_dir()) == os.path.expanduser("~/somewhere")
    monkeypatch.delenv("LAB_CACHE")
    monkeypatch.delenv("LAB_RESULTS")
    assert cache_dir().name == "cache"
    assert results_dir("colab").parts[-2:] == ("results", "colab")


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_has_a_learning_rate_for_what_is_trained(preset):
    names = [*trained_methods(preset), LOW_RANK]
    if preset.name != "toy":  # whose teacher lies in data/toy
        names.append("teacher")
    assert set(names) <= set(preset.learning_rates) <= set(METHODS)
    assert all(preset.learning_rate(name) > 0 for name in names)
    with pytest.raises(ValueError, match="has no learning rate for 'student', only for "):
        preset.learning_rate("student")
    assert preset.minutes
    assert preset.memory


def test_open_lab_says_what_it_runs_on(capsys):
    lab = open_lab("smoke", seed=5)
    text = capsys.readouterr().out
    assert lab.preset == replace(get_preset("smoke"), seed=5)
    assert "preset smoke: student tiny, teacher a stand-in" in text
    assert "cores" in text
    assert lab.preset.minutes in text


def test_paper_is_tested_out_of_domain_and_on_translation_with_the_other_corpus():
    sets = test_sets(get_preset("paper"))
    assert (sets["ca/in-domain"].corpus, sets["ca/in-domain"].limit) == ("common-voice-10k", None)
    assert (sets["ca/out-of-domain"].corpus, sets["ca/out-of-domain"].split) == ("fleurs", "test")
    assert sets["ca/translation"].corpus == sets["es/retention"].corpus == "fleurs"
    assert sets["gl/second-language"].corpus == "common-voice-10k"


@pytest.mark.parametrize(("language", "out_of_domain"), [("cs", "fillets"), ("ta", None)])
def test_another_corpus_without_the_language_gives_no_out_of_domain_test(language, out_of_domain):
    paper = get_preset("paper")
    preset = replace(paper, corpus="fleurs", other_corpus="fillets", language=language)
    sets = test_sets(preset)
    found = sets.get(f"{language}/out-of-domain")
    assert (found.corpus if found else None) == out_of_domain
    assert sets[f"{language}/translation"].corpus == "fleurs"  # which has English lines itself


def test_colab_takes_common_voice_where_it_is_and_else_fleurs(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    assert with_paper_data(get_preset("smoke")) == get_preset("smoke")
    preset = with_paper_data(get_preset("colab"))
    assert (preset.corpus, preset.other_corpus) == ("fleurs", "fillets")
    assert preset.name == "colab-fleurs"
    assert test_sets(preset)["cs/out-of-domain"].corpus == "fillets"

    folder = tmp_path / "common-voice" / "cv-corpus-13.0-2023-03-09" / "cs"
    folder.mkdir(parents=True)
    (folder / "train.tsv").touch()
    preset = with_paper_data(get_preset("colab"))
    assert (preset.corpus, preset.other_corpus) == ("common-voice-3k", "fleurs")
    assert preset.name == "colab-common-voice-3k"
    assert {test.corpus for test in test_sets(preset).values()} == {"common-voice-3k", "fleurs"}


def test_the_course_says_what_it_needs_and_where_it_takes_longer(monkeypatch, capsys):
    slow = "does not compute in bf16: expect two to four times as long"
    announce(Lab("laptop"))
    text = capsys.readouterr().out
    assert get_preset("laptop").minutes in text
    assert "asterisk, festvox, fillets, stamps" in text
    assert "disk: about 4.0 GB in" in text
    assert "weights of openai/whisper-base (290 MB)\n" in text
    assert slow in text
    announce(Lab("colab"))
    models = "openai/whisper-small (1 GB) and openai/whisper-large-v2 (6 GB)"
    assert models in capsys.readouterr().out
    monkeypatch.setenv("LAB_PRECISION", "bf16")
    announce(Lab("laptop"))
    assert "bf16" not in capsys.readouterr().out


# ---- data


def test_splits_come_with_their_limits(lab):
    assert len(lab.rows("train")) == 8
    assert len(lab.rows("train", limit=3)) == 3
    five = list(lab.rows("train", limit=5)["id"])
    assert list(lab.rows("train", limit=3)["id"]) == five[:3]
    assert set(lab.rows("test", "ca")["language"]) == {"ca"}
    clips = lab.clips("train", "ca", 3)
    assert len(clips) == 3
    assert lab.clips("train", "ca", 3) is clips
    assert clips.labels[0][0] == lab.processor.tokenizer.convert_tokens_to_ids("<|ca|>")


def test_no_text_is_in_two_splits(lab):
    splits = ("teacher", "train", "validation", "test", "test-other")
    texts = {split: set(lab.rows(split)["text"]) for split in splits}
    assert all(not texts[a] & texts[b] for a in texts for b in texts if a < b)


def test_texts_that_the_decoder_has_no_room_for_are_left_out_of_training_and_stay_in_tests(
    lab, monkeypatch
):
    whole = lab.rows("train")
    test = lab.test_rows("cs/in-domain")
    changed = {whole[1]["id"], test[0]["id"]}

    def longer(row):
        return {"text": "a b " * 300 if row["id"] in changed else row["text"]}

    change_corpus(monkeypatch, longer)
    first = whole[1]["id"]
    message = f"1 clips of cs train are left out: .* 448 tokens, such as {first}"
    with pytest.warns(UserWarning, match=message):
        rows = lab.rows("train")
    assert set(rows["id"]) == set(whole["id"]) - changed
    clips = lab.test_clips("cs/in-domain")
    assert clips.ids == list(test["id"])
    assert len(clips.labels[0]) > 448


def test_tests_of_a_preset(lab):
    of_czech = ("in-domain", "out-of-domain", "noise", "reverberation", "translation")
    others = {"nl/retention", "es/retention", "ca/second-language"}
    assert {f"cs/{name}" for name in of_czech} | others <= set(lab.test_sets)
    assert list(lab.test_rows("cs/in-domain")["split"]) == ["test"] * 3
    assert list(lab.test_rows("cs/out-of-domain")["split"]) == ["test-other"] * 3

    tokenizer = lab.processor.tokenizer
    translation = lab.test_clips("cs/translation")
    prompt = tokenizer.convert_tokens_to_ids(["<|cs|>", "<|translate|>"])
    assert translation.labels[0][:2] == prompt
    english = lab.test_rows("cs/translation")[0]["translation_en"]
    assert tokenizer.decode(translation.labels[0], skip_special_tokens=True) == english

    plain = lab.test_clips("cs/in-domain")
    noisy = lab.test_clips("cs/noise")
    same = plain.ids.index(noisy.ids[0])
    assert not torch.allclose(plain[same]["features"], noisy[0]["features"], atol=0.05)
    with pytest.raises(ValueError, match="unknown test set 'cs/hard': one of cs/in-domain, "):
        lab.test_set("cs/hard")


# ---- a voice


@pytest.fixture
def folds(tmp_path):
    """Labs of the made-up Fillets, by the lead that is trained on."""
    load_corpus("fillets", "cs", make_fillets(tmp_path / "game", script_lines=TWO_LEADS))
    leads = ("font_small", "font_big")
    return {lead: Lab("laptop", student="tiny", voice=lead) for lead in leads}


def ids(rows) -> list[str]:
    """Return the last parts of the ids of rows, in alphabetical order."""
    return sorted(row.rpartition("/")[2] for row in rows["id"][:])


@pytest.mark.parametrize(("own", "other"), [("small", "big"), ("big", "small")])
def test_one_lead_is_trained_on_and_the_other_is_the_other_domain(own, other, folds):
    lab = folds[f"font_{own}"]
    assert ids(lab.rows("train")) == [f"u-{own}-1", f"u-{own}-2"]
    assert ids(lab.rows("validation")) == [f"a-{own}"]
    assert ids(lab.rows("teacher")) == ["c-big", "c-small"]
    assert ids(lab.rows("train", every_voice=True)) == sorted(
        f"u-{lead}-{number}" for lead in (own, other) for number in (1, 2)
    )
    mine = [f"g-{own}-1", f"g-{own}-2"]
    for name in ("in-domain", "noise", "reverberation", "translation"):
        assert ids(lab.test_rows(f"cs/{name}")) == mine
    assert ids(lab.rows("test")) == mine
    assert ids(lab.test_rows("cs/validation")) == [f"a-{own}"]
    assert ids(lab.test_rows("cs/out-of-domain")) == [f"g-{other}-1", f"g-{other}-2"]
    assert ids(lab.test_rows("cs/other-characters")) == ids(lab.rows("test-other")) == ["g-other"]


def test_the_tests_of_both_folds_are_each_other_s_exchanged(folds):
    small, big = folds.values()
    for name, exchanged in (("in-domain", "out-of-domain"), ("out-of-domain", "in-domain")):
        first = small.test_clips(f"cs/{name}")
        assert first.digests == big.test_clips(f"cs/{exchanged}").digests
    for lab in (small, big):
        assert set(lab.rows("train")["id"]).isdisjoint(lab.test_rows("cs/out-of-domain")["id"])


def test_both_folds_have_the_same_stand_in_and_no_other_run_in_common(folds):
    small, big = folds.values()
    both = Lab("laptop", student="tiny", voice=None)
    assert run_name(small, "teacher") == run_name(big, "teacher") == run_name(both, "teacher")
    assert len({run_name(lab, "lora") for lab in (small, big, both)}) == 3


def run_name(lab, method) -> str:
    """Return the name of a run that need not be there."""
    return lab.run_config(method).name


def test_the_tests_of_the_laptop_are_those_of_its_reference_results():
    reference = pd.read_csv(REPOSITORY / "results" / "reference" / "laptop" / "comparison.csv")
    scored = set(reference["language"] + "/" + reference["test_set"])
    sets = test_sets(get_preset("laptop"))
    assert scored == {*sets} - {"cs/validation"}
    assert sets["cs/in-domain"].voice == sets["cs/out-of-domain"].voice == "font_small"


def test_without_a_voice_other_characters_are_out_of_domain():
    sets = test_sets(replace(get_preset("laptop"), voice=None))
    assert (sets["cs/in-domain"].split, sets["cs/out-of-domain"].split) == ("test", "test-other")
    assert all(test.voice is None for test in sets.values())


@pytest.mark.parametrize(
    ("changes", "voice"),
    [
        ({}, "font_small"),
        ({"language": "Czech"}, "font_small"),
        ({"language": "nl"}, None),
        ({"corpus": "toy", "language": "cs"}, None),
        ({"language": "nl", "voice": "font_big"}, "font_big"),
    ],
)
def test_a_voice_is_of_one_corpus_and_language(changes, voice):
    assert Lab("laptop", student="tiny", **changes).preset.voice == voice


def test_an_unknown_voice_is_told_with_those_that_have_lines_in_train_and_test(folds):
    lab = Lab("laptop", student="tiny", voice="font_cyan")
    for door in (
        lambda: lab.rows("train"),
        lambda: lab.test_rows("cs/in-domain"),
        lambda: lab.train("lora"),
    ):
        with pytest.raises(ValueError, match="'font_cyan': known are font_big, font_small"):
            door()


def test_other_characters_are_scored_and_in_no_main_table(lab, monkeypatch):
    of_one = Lab("smoke", voice="toy-low", **CHANGES)
    keys = [job["key"] for job in plan(of_one) if job["name"] == "student"]
    assert [key for key in keys if key.startswith("cs/")][:3] == [
        "cs/in-domain",
        "cs/out-of-domain",
        "cs/other-characters",
    ]
    assert list(paired(of_one, ("teacher",), "student")["test_set"]) == [
        "in-domain",
        "out-of-domain",
    ]
    rows = [score(of_one, "student", key) for key in keys[:3]]
    table = main_table(pd.DataFrame(rows), "cs")
    assert not [name for name in table.columns if "characters" in name]


# ---- other languages in several corpora


def test_a_language_of_two_corpora_has_a_test_in_each():
    pairs = (("stamps", "ru"), ("toy", "nl"), ("festvox", "ru"), ("stamps", "ru"))
    lab = Lab("smoke", retention=pairs)
    found = {key: test.corpus for key, test in lab.test_sets.items() if is_retention(test.name)}
    assert found == {
        "ru/retention": "stamps",
        "nl/retention": "toy",
        "ru/retention-festvox": "festvox",
    }


def test_tests_of_two_corpora_in_one_language_are_compared_apart(monkeypatch):
    fleurs = load_corpus("toy", "nl")
    monkeypatch.setattr(testsets, "load_corpus", lambda *_: fleurs)
    lab = Lab("smoke", retention=(("toy", "nl"), ("fleurs", "nl")), **CHANGES)
    table = paired(lab, ("teacher",), "student", tests=("retention",))
    assert list(table["test_set"]) == ["retention", "retention-fleurs"]


def test_clips_that_are_too_long_are_left_out_of_training_only(lab):
    durations = lab.rows("train")["duration"][:]
    longest = sorted(durations)[len(durations) // 2]
    short = Lab("smoke", max_train_seconds=longest, **CHANGES)
    kept = sorted(duration for duration in durations if duration <= longest)
    assert sorted(short.rows("train")["duration"][:]) == kept
    for split in ("teacher", "validation"):  # validation as it is used in training
        assert max(short.rows(split)["duration"][:]) <= longest
    for key in ("cs/validation", "cs/in-domain"):  # what is scored
        assert short.test_rows(key)["id"][:] == lab.test_rows(key)["id"][:]


# ---- everything once


def test_a_training_is_kept_and_found_again(lab, monkeypatch):
    folder = lab.train("distilwhisper")
    teacher = lab.train_teacher()
    assert (folder / "model" / "experts.cs.safetensors").exists()
    assert (teacher / "model" / "model.safetensors").exists()
    assert read_json(folder / "run.json")["clips"] == 4
    assert read_json(teacher / "run.json")["clips"] == 8  # of both languages
    assert lab.run_log("distilwhisper")[-1]["eval_loss"] > 0
    assert lab.run_log("teacher")
    one = Lab("smoke", **CHANGES | {"second_language": "cs"}).train_teacher()
    assert read_json(one / "run.json")["clips"] == 4  # no clip twice

    no_work(monkeypatch)
    again = Lab("smoke", **CHANGES)
    assert again.train("distilwhisper") == folder
    assert again.train_teacher() == teacher
    assert len(again.teacher_distributions()) == 4
    steps = {row["step"] for row in lab.steps()}
    assert {"train teacher cs", "teacher outputs cs", "train distilwhisper cs"} <= steps


NATIVE_WINDOW = {"train_margin_seconds": None}
PADDED = NATIVE_WINDOW | {"fidelity": "padding_in_divergence"}


@pytest.mark.parametrize("window", [NATIVE_WINDOW, {}, PADDED], ids=["30 s", "short", "padded"])
def test_training_sets_of_all_sizes_share_distributions_in_the_30_s_window(window, monkeypatch):
    computed = []
    original = lab_module.cache_teacher_distributions

    def noting(model, clips, *arguments):
        computed.append(clips.ids)
        return original(model, clips, *arguments)

    monkeypatch.setattr(lab_module, "cache_teacher_distributions", noting)
    small = Lab("smoke", **CHANGES | window | {"train_clips": 2})
    large = Lab("smoke", **CHANGES | window)
    first = small.teacher_distributions()
    second = large.teacher_distributions()
    assert (len(first), len(second), len(computed)) == (2, 4, 2)
    shared = first.folder == second.folder
    assert shared == (window == NATIVE_WINDOW)

    again = small.teacher_distributions()
    assert (len(again), len(computed)) == (2, 2)
    clips = small.clips("train", limit=2)
    batch = small.train_collator([clips[0], clips[1]])
    padded = small.fidelity.padding_in_divergence
    mine = again.lookup(batch["ids"], batch["labels"], padded)
    theirs = second.lookup(batch["ids"], batch["labels"], padded)
    assert [len(part) for part in mine] == [len(part) for part in theirs]
    if shared:
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 3e-3},
        {"epochs": 2},
        {"seed": 5},
        {"precision": "bf16"},
        {"batches": "random"},
        {"warmup_ratio": 0.3},
        {"budget": 0.2},
        {"label_smoothing": 0.2},
        {"skip_gate": 0.1},
        {"language": "ca"},
    ],
    ids=str,
)
def test_other_settings_give_another_run(lab, monkeypatch, change):
    calls = []
    monkeypatch.setattr(lab_module, "train_run", lambda *arguments: calls.append(arguments))
    assert lab.train("clsr-ft") != lab.train("clsr-ft", **change)
    configs = [arguments[0] for arguments in calls]
    assert [arguments[1].name for arguments in calls] == [config.name for config in configs]
    for name, value in change.items():
        assert setting(configs[1], name) == value != setting(configs[0], name)


def setting(config, name):
    """Return a field of a run's configuration, or of one of its parts."""
    facts = asdict(config)
    if name in facts:
        return facts[name]
    (value,) = (part[name] for part in facts.values() if isinstance(part, dict) and name in part)
    return value


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 2},
        {"accumulation": 2},
        {"epochs": 3},
        {"seed": 5},
        {"train_clips": 3},
        {"validation_clips": 1},
        {"train_margin_seconds": 0.7},
        {"max_train_seconds": 0.9},
        {"keep": "best"},
        {"fidelity": "released"},
        {"learning_rates": {"clsr-ft": 2e-3}},
    ],
    ids=str,
)
def test_other_presets_give_another_run(lab, change):
    other = Lab("smoke", **CHANGES | change)
    assert other.run_config("clsr-ft").name != lab.run_config("clsr-ft").name


def test_how_the_best_epoch_is_chosen_is_part_of_a_run():
    best = {"keep": "best"}
    first = Lab("smoke", **CHANGES, **best).run_config("lora").name
    for change in ({"max_new_tokens": 3}, {"normaliser": "none"}, {"margin_seconds": 0.9}):
        assert Lab("smoke", **CHANGES, **best, **change).run_config("lora").name != first
        last = [Lab("smoke", **CHANGES, **each).run_config("lora").name for each in ({}, change)]
        assert last[0] == last[1]  # the last epoch does not depend on decoding


def test_a_method_without_a_learning_rate_is_told():
    lab = Lab("smoke", learning_rates={"lora": 1e-3})
    message = "the preset smoke has no learning rate for 'clsr-ft', only for lora: add one"
    with pytest.raises(ValueError, match=message):
        lab.train("clsr-ft")
    assert lab.run_config("clsr-ft", learning_rate=2e-3).optimisation.learning_rate == 2e-3


def test_predictions_are_kept_and_found_again(lab, monkeypatch):
    changes = CHANGES | {"seed": 1}  # whose one step changes a prediction in old transformers too
    lab = Lab("smoke", **changes)
    first = lab.transcribe("student", "cs/in-domain")
    assert list(first["id"]) == lab.test_clips("cs/in-domain").ids
    distilled = lab.transcribe("distilwhisper-released", "cs/in-domain")
    assert not first.equals(distilled)

    no_work(monkeypatch)
    again = Lab("smoke", **changes)
    pd.testing.assert_frame_equal(again.transcribe("student", "cs/in-domain"), first)
    found = again.transcribe("distilwhisper-released", "cs/in-domain")
    pd.testing.assert_frame_equal(found, distilled)
    for name in ("distilwhisper-released", "lora"):  # LoRA is not even trained for it
        off = again.transcribe(name, "cs/in-domain", experts=False)
        pd.testing.assert_frame_equal(off, first)  # switched off it is the student


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 3},
        {"margin_seconds": 0.9},
        {"eval_batch_size": 2},
        {"retention_clips": 1},
    ],
    ids=str,
)
def test_predictions_depend_on_decoding_and_clips(lab, change):
    other = Lab("smoke", **CHANGES | change)
    key = "cs/reverberation"
    assert predictions_of(lab, "student", key) != predictions_of(other, "student", key)


def test_models_come_ready_to_transcribe(lab):
    batch = random_batch()
    model = lab.model("distilwhisper")
    assert get_language(model) == "cs"
    assert not model.training
    assert torch.equal(logits(lab.model("distilwhisper"), batch), logits(model, batch))
    student = logits(lab.student(), batch)
    with use_language(model, None):
        assert torch.equal(logits(model, batch), student)
    assert not torch.allclose(logits(lab.teacher(), batch), student, atol=1e-3)


def test_both_languages_in_one_model(lab):
    model = load_experts(lab.model("clsr-ft"), lab.train("clsr-ft", "ca") / "model")
    set_language(model, None)
    assert expert_languages(model) == ["cs", "ca"]
    assert get_language(model) is None
    second = lab.model("clsr-ft", language="ca")
    assert get_language(second) == "ca"
    with use_language(model, "ca"):
        assert torch.equal(logits(model, random_batch()), logits(second, random_batch()))


def test_the_latest_model_alone_is_held(lab, monkeypatch):
    monkeypatch.setattr(lab_module, "stored_predictions", lambda *_: None)
    monkeypatch.setattr(lab_module, "transcribe", lambda model, *_: model)
    first = lab.transcribe("student", "nl/retention")
    assert lab.transcribe("student", "es/retention") is first
    assert lab.transcribe("clsr-ft", "cs/noise") is not first
    assert lab.transcribe("student", "nl/retention") is not first


def test_nothing_of_a_training_stays_in_memory(lab, monkeypatch):
    models = []
    make_trainer = run_module.make_trainer

    def watched(model, *arguments, **settings):
        models.append(weakref.ref(model))
        return make_trainer(model, *arguments, **settings)

    monkeypatch.setattr(run_module, "make_trainer", watched)
    lab.transcribe("student", "cs/in-domain")
    lab.train("clsr-ft", learning_rate=2e-3, epochs=1)
    assert len(models) == 1
    assert models[0]() is None
    assert lab._held is None


# ---- what results depend on: contents, not names


def change_corpus(monkeypatch, change):
    """Let a lab find changed rows in every corpus, under the same ids."""

    def changed(name, language, source=None):
        return load_corpus(name, language, source).map(change)

    monkeypatch.setattr(testsets, "load_corpus", changed)


def corrected(*ids):
    """Return a change that corrects the transcripts of these clips."""

    def change(row):
        return {"text": "corrected" if row["id"] in ids else row["text"]}

    return change


def recorded_anew(*ids):
    """Return a change that gives these clips another sound of the same length."""

    def change(row):
        audio = row["audio"]
        if row["id"] in ids:
            audio = audio | {"bytes": encode_flac(0.5 * read_audio(audio))}
        return {"audio": audio}

    return change


def run_of(lab, name="distilwhisper"):
    return lab.run_config(name).name


def distributions_of(lab):
    return lab._distributions_folder("cs", 1.0).name


def predictions_of(lab, name="student", key="cs/in-domain"):
    """Return the path of predictions; of a trained method it trains."""
    return lab._predictions_name(name, lab.test_set(key), lab.test_clips(key), False, {})


def save_whisper(folder, processor, seed=1):
    """Write a tiny Whisper as a checkpoint of one's own."""
    tiny_whisper(seed=seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("change", [corrected, recorded_anew])
def test_a_changed_training_clip_gives_another_run_and_other_distributions(change, monkeypatch):
    before = Lab("smoke", **CHANGES)
    clip = before.clips("train", limit=4).ids[2]
    change_corpus(monkeypatch, change(clip))
    after = Lab("smoke", **CHANGES)
    assert after.clips("train", limit=4).ids == before.clips("train", limit=4).ids
    for name in trained_methods():
        assert run_of(after, name) != run_of(before, name)
    assert run_of(after, "teacher") == run_of(before, "teacher")  # it learns from other clips
    assert distributions_of(after) != distributions_of(before)
    assert predictions_of(after) == predictions_of(before)  # of other clips too


@pytest.mark.parametrize("change", [corrected, recorded_anew])
def test_a_changed_validation_clip_gives_another_run(change, monkeypatch):
    before = Lab("smoke", **CHANGES)
    clip = before.clips("validation", limit=2).ids[0]
    change_corpus(monkeypatch, change(clip))
    assert run_of(Lab("smoke", **CHANGES), "lora") != run_of(before, "lora")


@pytest.mark.parametrize("change", [corrected, recorded_anew])
def test_a_changed_clip_of_the_stand_in_changes_what_learns_from_it(change, monkeypatch):
    before = Lab("smoke", **CHANGES)
    clip = before.clips("teacher", "ca", 4).ids[0]
    change_corpus(monkeypatch, change(clip))
    after = Lab("smoke", **CHANGES)
    assert run_of(after, "teacher") != run_of(before, "teacher")
    assert distributions_of(after) != distributions_of(before)
    assert run_of(after, "distilwhisper") != run_of(before, "distilwhisper")
    assert run_of(after, "lora") == run_of(before, "lora")


def test_a_corrected_reference_is_the_one_that_predictions_are_counted_against(monkeypatch):
    lab = Lab("smoke", **CHANGES)
    before = counts(lab, "student", "cs/in-domain")
    clip = before["id"][1]
    change_corpus(monkeypatch, corrected(clip))
    after = counts(Lab("smoke", **CHANGES), "student", "cs/in-domain")
    assert list(after["id"]) == list(before["id"])
    assert list(after["text"]) == [before["text"][0], "corrected", before["text"][2]]
    assert after["words"][1] == 1
    assert list(after["prediction"]) == list(before["prediction"])


def test_a_test_clip_that_was_recorded_anew_gives_other_predictions(monkeypatch):
    before = Lab("smoke", **CHANGES)
    clip = before.test_clips("cs/in-domain").ids[1]
    change_corpus(monkeypatch, recorded_anew(clip))
    after = Lab("smoke", **CHANGES)
    assert predictions_of(after) != predictions_of(before)
    out_of_domain = {"key": "cs/out-of-domain"}  # other clips
    assert predictions_of(after, **out_of_domain) == predictions_of(before, **out_of_domain)
    assert run_of(after, "lora") == run_of(before, "lora")


@pytest.mark.parametrize("change", [corrected, recorded_anew])
def test_in_the_30_s_window_a_changed_clip_alone_is_computed_anew(change, monkeypatch):
    settings = CHANGES | NATIVE_WINDOW
    before = Lab("smoke", **settings)
    folder = before.teacher_distributions().folder
    old = stored_clips(folder)
    clip = before.clips("train", limit=4).ids[2]
    change_corpus(monkeypatch, change(clip))
    after = Lab("smoke", **settings)
    found = after.teacher_distributions()
    assert found.folder == folder
    assert len(found) == 4
    new = stored_clips(folder) - old
    assert [name for name, _ in new] == [clip]
    assert run_of(after) != run_of(before)


def test_a_student_whose_weights_changed_gives_other_runs_and_predictions(tmp_path, processor):
    student = save_whisper(tmp_path / "mine", processor)
    before = Lab("smoke", student=student, **CHANGES)
    names = ("teacher", *trained_methods())
    runs = {name: run_of(before, name) for name in names}
    distributions = distributions_of(before)
    predictions = predictions_of(before)

    save_whisper(tmp_path / "mine", processor, seed=2)
    after = Lab("smoke", student=student, **CHANGES)
    assert all(run_of(after, name) != run for name, run in runs.items())
    assert distributions_of(after) != distributions  # of another stand-in
    assert predictions_of(after) != predictions


def test_a_teacher_whose_weights_changed_gives_other_distributions_runs_and_predictions(
    tmp_path, processor
):
    teacher = save_whisper(tmp_path / "mine", processor)
    before = Lab("smoke", teacher=teacher, **CHANGES)
    runs = {name: run_of(before, name) for name in trained_methods()}
    distributions = distributions_of(before)
    predictions = {name: predictions_of(before, name) for name in ("teacher", "student")}

    save_whisper(tmp_path / "mine", processor, seed=2)
    after = Lab("smoke", teacher=teacher, **CHANGES)
    assert distributions_of(after) != distributions
    changed = {name for name, run in runs.items() if run_of(after, name) != run}
    assert changed == {"distilwhisper"}
    assert predictions_of(after, "teacher") != predictions["teacher"]
    assert predictions_of(after, "student") == predictions["student"]


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "tokenizer_config.json"])
def test_a_student_whose_settings_or_tokenizer_changed_gives_other_runs_and_predictions(
    file, tmp_path, processor
):
    student = save_whisper(tmp_path / "mine", processor)
    before = Lab("smoke", student=student, **CHANGES)
    run = run_of(before, "lora")
    predictions = predictions_of(before)
    path = tmp_path / "mine" / file
    path.write_text(json.dumps(read_json(path) | {"changed": True}))
    after = Lab("smoke", student=student, **CHANGES)
    assert run_of(after, "lora") != run
    assert predictions_of(after) != predictions


def test_models_that_were_moved_or_copied_give_the_same_results(tmp_path, processor, monkeypatch):
    student = save_whisper(tmp_path / "student", processor)
    teacher = save_whisper(tmp_path / "teacher", processor, seed=2)
    before = Lab("smoke", student=student, teacher=teacher, **CHANGES)
    folder = before.train("distilwhisper")
    predictions = predictions_of(before), predictions_of(before, "teacher")
    expected = logits(before.model("distilwhisper"), random_batch())
    before.transcribe("distilwhisper", "cs/in-domain")

    moved = shutil.move(student, tmp_path / "elsewhere")
    copied = shutil.copytree(teacher, tmp_path / "a copy")
    shutil.rmtree(teacher)
    no_work(monkeypatch)
    after = Lab("smoke", student=str(moved), teacher=str(copied), **CHANGES)
    assert after.train("distilwhisper") == folder
    assert (predictions_of(after), predictions_of(after, "teacher")) == predictions
    after.transcribe("distilwhisper", "cs/in-domain")
    assert torch.equal(logits(after.model("distilwhisper"), random_batch()), expected)


def test_an_open_lab_follows_a_student_that_is_trained_further(tmp_path, processor):
    student = save_whisper(tmp_path / "mine", processor)
    lab = Lab("smoke", student=student, **CHANGES)
    first = counts(lab, "student", "cs/in-domain")
    run = lab.train("lora").name
    save_whisper(tmp_path / "mine", processor, seed=2)
    fresh = Lab("smoke", student=student, **CHANGES)
    assert run_of(lab, "lora") == run_of(fresh, "lora") != run
    second = counts(lab, "student", "cs/in-domain")
    assert list(second["prediction"]) != list(first["prediction"])
    pd.testing.assert_frame_equal(second, counts(fresh, "student", "cs/in-domain"))

    assert lab.processor is lab.processor
    path = tmp_path / "mine" / "processor_config.json"
    settings = read_json(path)
    settings["feature_extractor"]["dither"] = 0.5
    path.write_text(json.dumps(settings))
    assert lab.processor.feature_extractor.dither == 0.5
    assert lab.clips("train", limit=2).extractor.dither == 0.5


def test_an_open_lab_follows_own_recordings(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    folder = tmp_path / "data" / "recordings" / "cs"
    folder.mkdir(parents=True)
    lines = ["path,text,split"]
    for index, split in enumerate(["train", "train", "validation", "test"]):
        write_sound(folder / f"{index}.wav", 0.3, 200 + 5 * index, "WAV")
        lines.append(f"{index}.wav,Věta {index}.,{split}")
    (folder / "recordings.csv").write_text("\n".join(lines), encoding="utf-8")
    corpora = {"corpus": "recordings", "second_corpus": "recordings", "second_language": "cs"}
    lab = Lab("smoke", **corpora, retention=())
    run = run_of(lab, "lora")
    assert counts(lab, "student", "cs/in-domain")["text"].tolist() == ["Věta 3."]
    assert lab.clips("train") is lab.clips("train")

    text = "\n".join(lines).replace("Věta", "Jiná věta")
    (folder / "recordings.csv").write_text(text, encoding="utf-8")
    assert counts(lab, "student", "cs/in-domain")["text"].tolist() == ["Jiná věta 3."]
    assert run_of(lab, "lora") == run_of(Lab("smoke", **corpora, retention=()), "lora") != run


def test_an_open_lab_follows_own_recordings_of_its_retention_tests(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    folder = make_recordings(tmp_path / "data" / "recordings" / "nl")
    lab = Lab("smoke", retention=(("recordings", "nl"),))
    before = lab.test_clips("nl/retention").texts
    table = folder / "recordings.csv"
    table.write_text(table.read_text("utf-8").replace("Hola", "Adeus"), "utf-8")
    after = lab.test_clips("nl/retention").texts
    assert after == [text.replace("Hola", "Adeus") for text in before] != before


def test_a_test_may_be_in_a_language_that_no_training_corpus_has():
    lab = Lab("smoke", retention=(("world", "uk"),))
    assert "uk" not in CORPORA[lab.preset.corpus] and "uk" in CORPORA["world"]
    assert len(lab.test_clips("uk/retention")) > 0


def test_a_test_of_one_clip_has_a_difference_without_an_interval():
    lab = Lab("smoke", **CHANGES | {"test_clips": 1})
    row = comparison.paired(lab, ["student"], "lora", tests=("in-domain",)).iloc[0]
    assert math.isfinite(row["difference"])
    assert math.isnan(row["low"]) and math.isnan(row["p"])


def test_it_is_said_why_something_is_computed_anew(monkeypatch, capsys):
    before = Lab("smoke", **CHANGES)
    run = before.train("lora").name
    before.transcribe("student", "cs/in-domain")
    before.train("lora", learning_rate=5e-4)  # another setting needs no reason
    assert "anew" not in capsys.readouterr().err

    test_clip = before.test_clips("cs/in-domain").ids[1]
    clip = before.clips("train", limit=4).ids[2]
    change_corpus(monkeypatch, recorded_anew(test_clip, clip))
    after = Lab("smoke", **CHANGES)
    after.transcribe("student", "cs/in-domain")
    told = f"transcribe student cs/in-domain: 1 of 3 clips have another .*, such as {test_clip}: "
    assert re.search(f"{told}computed anew", capsys.readouterr().err)
    after.train("lora")
    told = f"train lora cs: not the run {run}, for other are texts or sounds of the training clips"
    assert told in capsys.readouterr().err


# ---- a checkpoint's own generation settings


def test_what_a_checkpoint_says_of_generation_is_overridden_and_stands_in_the_metadata(
    tmp_path, processor
):
    student = save_whisper(tmp_path / "mine", processor)
    plain = Lab("smoke", student=student, **CHANGES)
    usual = plain.transcribe("student", "cs/in-domain")
    assert run_metadata(plain.preset, [], {}, {})["decoding"]["overridden"] == {}

    path = tmp_path / "mine" / "generation_config.json"
    watermark = {"bias": 5.0, "greenlist_ratio": 0.5}
    own = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "watermarking_config": watermark}
    path.write_text(json.dumps(read_json(path) | own))
    lab = Lab("smoke", student=student, **CHANGES)
    pd.testing.assert_frame_equal(lab.transcribe("student", "cs/in-domain"), usual)
    metadata = run_metadata(lab.preset, [], {}, {})
    assert metadata["decoding"]["overridden"] == {"student": own}
    assert metadata["weights"]["student"].startswith("sha256:")

    # earlier versions decoded by these settings, under a name of the same weights
    named = predictions_of(lab)
    lab.__dict__["overridden"] = {}
    assert predictions_of(lab) != named


# ---- values that are refused


def test_languages_are_known_by_code_name_and_token(lab):
    for language in ("Czech", "CS", "<|cs|>"):
        other = Lab("smoke", language=language, second_language="Catalan", **CHANGES)
        assert other.preset == lab.preset
    assert lab.rows("test", "Czech")["id"] == lab.rows("test", "cs")["id"]
    assert lab.run_config("lora", "catalan") == lab.run_config("lora", "ca")
    with pytest.raises(ValueError, match="'Klingon'"):
        Lab("smoke", language="Klingon")


@pytest.mark.parametrize("experts", ["off", "on", "", "False", 1, 0, None, 1.0])
def test_experts_are_true_false_or_encoder_alone(experts, lab):
    counts(lab, "student", "cs/in-domain", True)  # what is counted is not found by 1
    for function in (lab.transcribe, lambda *a: counts(lab, *a), lambda *a: score(lab, *a)):
        for name in ("student", "distilwhisper"):
            with pytest.raises(ValueError, match=f"unknown experts {experts!r}: one of True"):
                function(name, "cs/in-domain", experts)


def test_unknown_settings_are_refused_also_where_nothing_is_trained(lab):
    for function in (lab.transcribe, lambda *a, **b: score(lab, *a, **b)):
        with pytest.raises(ValueError, match="'sede': known are .* Did you mean seed"):
            function("student", "cs/in-domain", sede=3)
        for change, message in {
            "learning_rate": (0, "learning_rate is 0"),
            "always_open": ("false", "always_open is 'false'"),
            "seed": (True, "seed is True"),
            "precision": ("int8", "precision is 'int8'"),
            "language": ("xx", "does not know the language 'xx'"),
        }.items():
            with pytest.raises(ValueError, match=message[1]):
                function("student", "cs/in-domain", **{change: message[0]})
    with pytest.raises(ValueError, match="no setting learning_rat: it has .*learning_rates"):
        Lab("smoke", learning_rat=3)


@pytest.mark.parametrize("limit", [0, -1, 2.0, True, "3"])
def test_a_limit_is_a_number_of_clips(limit, lab):
    for function in (lab.rows, lab.clips):
        with pytest.raises(ValueError, match=f"limit is {limit!r}: a whole number from 1 on"):
            function("test", "cs", limit)


def test_a_paired_table_of_nothing_is_refused(lab):
    for settings, message in {
        "seeds": ({"seeds": []}, "no seeds"),
        "a seed": ({"seeds": ["77"]}, "seed is '77'"),
        "a name": ({"against": "student"}, "lists of names"),
        "a method": ({"against": ["bert"]}, "unknown method 'bert'"),
        "first": ({"first": "bert"}, "unknown method 'bert'"),
        "a test": ({"tests": "in-domain"}, "lists of names"),
        "tests": ({"tests": ("easy",)}, "none of the tests easy: it has in-domain"),
    }.values():
        with pytest.raises(ValueError, match=message):
            paired(lab, **{"against": ["student"]} | settings)


@pytest.mark.parametrize("ks", [(), (0,), (1, 10**6), (2.5,)])
def test_numbers_of_tokens_out_of_range_are_refused(ks, lab):
    with pytest.raises(ValueError, match="no numbers of tokens|k is .*: a whole number from 1 to"):
        top_k_curve(lab, ks)


# ---- two processes, and another owner's folder

WORK = """
import sys
from distilwhisper_lib.lab.lab import Lab
changes = dict(train_clips=4, teacher_clips=4, validation_clips=2, test_clips=3)
lab = Lab("smoke", **changes)
print("ready", flush=True)
sys.stdin.readline()
print(lab.transcribe("clsr-ft", "cs/in-domain").to_json())
"""


def test_two_processes_at_one_cache_compute_once_and_find_the_same(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(cache_dir.__globals__["REPOSITORY"])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORK],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert "Traceback" not in outputs[0][1] + outputs[1][1]

    alone = Lab("smoke", **CHANGES)
    found = alone.transcribe("clsr-ft", "cs/in-domain")
    assert found.to_json() == outputs[0][0].strip()
    lines = (alone.folder / "steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [
        "train clsr-ft cs",
        "transcribe clsr-ft cs/in-domain",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_finished_cache_works_in_another_owner_s_folder_on_another_processor(lab, monkeypatch):
    first = compare(lab)
    with tempfile.TemporaryDirectory(prefix="shared-") as folder:
        cache = shutil.copytree(cache_dir(), Path(folder) / "cache")
        (Path(folder) / "mine").mkdir(mode=0o777)
        (Path(folder) / "mine").chmod(0o777)
        Path(folder).chmod(0o755)
        before = sorted(cache.rglob("*"))

        monkeypatch.setenv("LAB_CACHE", str(cache))
        monkeypatch.setenv("LAB_RESULTS", f"{folder}/mine")
        monkeypatch.delenv("LAB_PRECISION")
        monkeypatch.setattr(lab_module, "mixed_precision", lambda device: "bf16")
        loading._OPENED.clear()
        no_work(monkeypatch)
        run_as_another_user(lambda: compare(Lab("smoke", **CHANGES)))
        written = pd.read_csv(f"{folder}/mine/smoke/comparison.csv")
        assert len(written) == len(first)
        assert list(written["wer"].dropna()) == list(first["wer"].dropna().round(3))
        assert sorted(cache.rglob("*")) == before


def test_whether_a_test_is_transcribed_is_found_out_without_training(tmp_path, monkeypatch):
    no_work(monkeypatch)
    lab = Lab("smoke", **CHANGES)
    for name in ("student", "teacher", "lora"):
        assert not lab.is_transcribed(name, "cs/in-domain")


# ---- scores


def test_counts_and_scores_of_a_test(lab):
    table = counts(lab, "student", "cs/in-domain")
    texts = {row["id"]: row["text"] for row in lab.test_rows("cs/in-domain")}
    assert [texts[clip] for clip in table["id"]] == list(table["text"])
    assert (table["words"] > 0).all()

    row = score(lab, "student", "cs/in-domain")
    assert (row["system"], row["language"], row["test_set"]) == ("student", "cs", "in-domain")
    assert (row["n"], row["experts"], row["normaliser"]) == (3, "", "whisper-basic")
    assert row["wer_low"] <= row["wer"] <= row["wer_high"]

    row = score(lab, "distilwhisper", "cs/translation", experts=False)
    assert row["experts"] == "off"
    assert {"bleu", "chrf", "bleu_low", "bleu_signature"} <= row.keys()
    assert "wer" not in row
    english = sorted(lab.test_rows("cs/translation")["translation_en"])
    assert sorted(counts(lab, "student", "cs/translation")["text"]) == english


def test_experts_of_the_encoder_alone_give_other_predictions_than_all(lab):
    name = "distilwhisper-released"
    row = score(lab, name, "cs/translation", experts="encoder")
    assert row["experts"] == "encoder"
    lab.transcribe(name, "cs/translation")
    paths = {path for path in lab.used if path.startswith(name) and "/cs-translation" in path}
    assert len(paths) == 2


def test_the_experts_of_the_decoder_are_bypassed_and_come_back(lab, monkeypatch):
    monkeypatch.setattr(lab_module, "stored_predictions", lambda *_: None)
    found = []

    def noting(model, *_):
        logits(model, random_batch())
        gates = last_gates(model)
        found.append((model, [block.constant_gates for block in clsr_blocks(model)], gates))

    monkeypatch.setattr(lab_module, "transcribe", noting)
    lab.transcribe("distilwhisper-released", "cs/translation", experts="encoder")
    lab.transcribe("distilwhisper-released", "cs/translation")
    (model, constant, gates), (_, afterwards, _) = found
    half = len(constant) // 2
    assert get_language(model) == "cs"
    assert constant == [{}] * half + [{"cs": False}] * half
    assert len(gates["decoder"]) == half
    assert all((gate == 0).all() for gate in gates["decoder"])
    assert not any(afterwards)


def test_the_plan_scores_every_method_on_every_test_of_the_comparison(lab):
    jobs = plan(lab)
    assert len({json.dumps(job, sort_keys=True) for job in jobs}) == len(jobs)
    tests = {"cs/in-domain", "cs/out-of-domain", "cs/translation", "nl/retention", "es/retention"}
    for name, method in compared_methods().items():
        mine = {job["key"]: job.get("experts", True) for job in jobs if job["name"] == name}
        assert tests <= set(mine)
        assert mine["cs/in-domain"]
        assert mine["nl/retention"] == (not method.has_experts)
    assert {"name": "distilwhisper", "key": "ca/second-language", "language": "ca"} in jobs


def test_lora_is_scored_on_in_other_languages_and_where_asked_off_too(lab):
    jobs = plan(lab, switched_off=["lora"])
    twice = [job for job in jobs if job not in plan(lab)]
    assert {(job["name"], job["experts"]) for job in twice} == {("lora", False)}
    tests = {job["key"] for job in twice}
    assert tests == {"cs/translation", "nl/retention", "es/retention"}
    for job in twice:
        assert job | {"experts": True} in jobs

    student, on, off = (
        score(lab, name, "nl/retention", experts)
        for name, experts in (("student", True), ("lora", True), ("lora", False))
    )
    assert (on["experts"], off["experts"]) == ("", "off")
    assert off["wer"] == student["wer"]
    table = pd.DataFrame([on, off, student])
    assert list(comparison.is_off_beside_on(table)) == [False, True, False]
    assert not comparison.is_off_beside_on(table[1:]).any()
    for name in ("fine-tuning", "distilwhisper", "student"):
        with pytest.raises(ValueError, match=f"switched_off is '{name}': known are lora"):
            plan(lab, switched_off=[name])


def test_the_main_table_has_the_row_of_lora_switched_on():
    rows = [
        scored("lora", "in-domain") | {"experts": ""},
        scored("lora", "retention", "nl", (60, 56, 63)) | {"experts": ""},
        scored("lora", "retention", "nl", (40, 36, 43)) | {"experts": "off"},
    ]
    for table in (pd.DataFrame(rows), pd.DataFrame(rows).replace({"experts": {"": None}})):
        assert main_table(table, "cs").loc["LoRA", "other languages WER"] == "60.0 [56.0, 63.0]"


def test_a_comparison_writes_rows_of_lora_switched_off_too(lab, monkeypatch):
    once = compare(lab)
    twice = compare(lab, switched_off=iter(["lora"]))  # a list of any kind
    assert len(twice) == len(once) + 3
    written = pd.read_csv(lab.results / "predictions.csv")
    off = written[(written["system"] == "lora") & (written["experts"] == "off")]
    assert set(off["test_set"]) == {"translation", "retention"}
    pd.testing.assert_frame_equal(main_table(twice, "cs"), main_table(once, "cs"))


def test_a_comparison_that_is_cached_opens_each_corpus_once_and_counts_each_prediction_once(
    lab, monkeypatch
):
    first = compare(lab)

    opened, rows, counted = [], [], []

    def note(owner, name, calls):
        original = getattr(owner, name)

        def noting(*arguments, **settings):
            calls.append(arguments)
            return original(*arguments, **settings)

        monkeypatch.setattr(owner, name, noting)

    loading._OPENED.clear()
    note(loading, "load_from_disk", opened)
    note(Lab, "test_rows", rows)
    note(comparison, "count_errors", counted)
    no_work(monkeypatch)
    again = Lab("smoke", **CHANGES)
    pd.testing.assert_frame_equal(compare(again), first)
    assert 0 < len(opened) == len(set(opened))
    keys = [arguments[1] for arguments in rows]
    assert 0 < len(keys) == len(set(keys))
    assert len(counted) == len(plan(again)) == 45

    columns = ["system", "experts", "language", "test_set"]
    switches = set(first[columns].itertuples(index=False, name=None))
    assert {row[1] for row in switches} == {"", "on", "off"}
    written = predictions(again)
    assert set(written[columns].itertuples(index=False, name=None)) == switches
    models = read_json(again.results / "run.json")["models"]
    assert set(models) == {"teacher", "distilwhisper ca", *trained_methods()}
    assert list(models["distilwhisper ca"]) == ["experts.ca.safetensors"]


def test_the_paired_table_is_over_the_same_utterances(lab):
    table = paired(lab, against=("student",))
    assert list(table["test_set"]) == ["in-domain", "out-of-domain"]
    assert (table["low"] <= table["high"]).all()
    for _, row in table.iterrows():
        key = f"cs/{row['test_set']}"
        difference = score(lab, "distilwhisper", key)["wer"] - score(lab, "student", key)["wer"]
        assert row["difference"] == pytest.approx(difference)


def test_the_interval_of_a_mean_of_tests_is_that_of_resampling_them_apart():
    sizes = ((48, 0.3), (60, 0.7), (100, 0.5))
    tests = [random_counts(n, rate, n) for n, rate in sizes]
    found = comparison._mean_wer(pd.DataFrame([summarise(test) for test in tests]))
    mean, low, high = map(float, re.fullmatch(r"(.+) \[(.+), (.+)\]", found).groups())
    assert mean == pytest.approx(np.mean([wer_of(test) for test in tests]), abs=0.05)

    draw = np.random.default_rng(0)
    means = []
    for _ in range(1000):
        resampled = [test.iloc[draw.integers(0, len(test), len(test))] for test in tests]
        means.append(np.mean([wer_of(test) for test in resampled]))
    assert [low, high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.4)


def wer_of(table):
    """Return the WER alone, without its interval."""
    return 100 * word_errors(table).sum() / table["words"].sum()


def scored(name, test_set, language="cs", wer=(50.04, 40, 60)):
    """Return a row of scores."""
    mean, low, high = wer
    return {
        "system": name,
        "test_set": test_set,
        "language": language,
        "wer": mean,
        "wer_low": low,
        "wer_high": high,
        "cer": 20,
        "cer_low": 18,
        "cer_high": 22,
        "loops": 1.0,
        "normaliser": "none",
    }


def test_the_main_table_has_a_row_per_method():
    rows = []
    for name in compared_methods():
        rows += [scored(name, test_set) for test_set in ("in-domain", "out-of-domain")]
        rows.append(scored(name, "retention", "nl", (60, 56, 63)))
        rows.append(scored(name, "retention", "es", (80, 77, 84)))
    table = main_table(pd.DataFrame(rows), "cs")
    labels = [method.label for method in compared_methods().values()]
    assert list(table.index) == labels
    assert set(table["in-domain WER"]) == {"50.0 [40.0, 60.0]"}
    assert set(table["in-domain CER"]) == {"20.0 [18.0, 22.0]"}
    assert set(table["other languages WER"]) == {"70.0 [67.5, 72.5]"}

    published = scored("published", "in-domain", wer=(7, 40, 60))
    # a BLEU is not compared with WERs, whatever its normaliser
    translation = rows[0] | {"test_set": "translation", "wer": None, "normaliser": "released"}
    longer = main_table(pd.DataFrame([published, *rows, translation]), "cs")
    assert list(longer.index) == [*labels, "published"]
    assert longer["in-domain WER"].iloc[-1] == "7.0 [40.0, 60.0]"

    assert list(main_table(pd.DataFrame(rows), "Czech").index) == labels
    other = scored("student", "other-characters")  # no domain
    assert list(main_table(pd.DataFrame([*rows, other]), "cs").columns) == list(table.columns)
    further = [scored(name, "retention-festvox", "es", (10, 7, 14)) for name in compared_methods()]
    means = main_table(pd.DataFrame([*rows, *further]), "cs")["other languages WER"]
    assert set(means.str[:4]) == {"50.0"}
    message = "no row .* in-domain .* in 'nl': languages with such tests are cs"
    with pytest.raises(ValueError, match=message):
        main_table(pd.DataFrame(rows), "nl")
    with pytest.raises(ValueError, match="student has several rows of cs/in-domain: choose one"):
        main_table(pd.DataFrame([*rows, rows[0] | {"seed": 78}]), "cs")
    with pytest.raises(ValueError, match="lacks the columns loops, normaliser"):
        main_table(pd.DataFrame(rows).drop(columns=["loops", "normaliser"]), "cs")

    rows[-1] = rows[-1] | {"normaliser": "released"}
    message = r"WERs of 2 normalisers \(none, released\).*open_lab\(normaliser="
    with pytest.raises(ValueError, match=message):
        main_table(pd.DataFrame(rows), "cs")


def test_the_normaliser_is_a_setting_and_named_in_every_row(lab, monkeypatch):
    texts = pd.DataFrame({"id": lab.test_clips("cs/in-domain").ids, "prediction": "Pěkně, pěkně."})
    monkeypatch.setattr(Lab, "transcribe", lambda *_, **__: texts)
    rows = {}
    for name in ("whisper-basic", "none"):
        rows[name] = score(Lab("smoke", normaliser=name, **CHANGES), "student", "cs/in-domain")
        assert rows[name]["normaliser"] == name
    assert rows["none"]["cer"] != rows["whisper-basic"]["cer"]


def test_the_run_metadata_says_what_the_figures_depend_on(lab, monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "trained_methods", lambda _: ["clsr-ft"])
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(comparison, "find_weights", lambda name: Source(name, "folder", tmp_path))
    for key in lab.test_sets:
        lab.test_rows(key)  # prepared, as after a comparison
    write_run_metadata(lab)
    metadata = read_json(lab.results / "run.json")
    assert metadata["preset"]["seed"] == 77
    assert metadata["versions"]["torch"] == torch.__version__
    assert len(metadata["data"]["toy/cs"]) == 64
    models = metadata["models"]
    assert len(models["clsr-ft"]["experts.cs.safetensors"]) == 64
    digest = hashlib.sha256(b"weights").hexdigest()
    assert models["student"] == {"model.safetensors": digest}
    assert len(models["teacher"]["model.safetensors"]) == 64
    assert metadata["decoding"]["greedy"]
    assert metadata["machine"]["cores"] == os.cpu_count()
    assert socket.gethostname() not in json.dumps(metadata["machine"])
    peaks = {step["step"]: step["peak_memory_gb"] for step in metadata["steps"]}
    assert peaks["train clsr-ft cs"] > 0


# ---- studies


def saved_study(lab, name):
    return pd.read_csv(lab.results / "studies" / f"{name}.csv")


def test_tuning_tries_each_rate_on_validation(lab):
    found = study.tune(lab, ["lora", "clsr-ft"], factors=(0.5, 1))
    saved = saved_study(lab, "tuning")
    assert list(saved["system"]) == ["lora", "lora", "clsr-ft", "clsr-ft"]
    assert set(saved["test_set"]) == {"validation"}
    assert list(saved["learning_rate"]) == [5e-4, 1e-3, 5e-4, 1e-3]
    assert (saved["validation_loss"] > 0).all()
    assert saved["wer"].tolist() == pytest.approx(found["wer"].tolist(), rel=1e-3)
    metadata = read_json(lab.results / "studies" / "tuning.json")
    assert [step["step"] for step in metadata["steps"]].count("train lora cs") == 2


def test_variants_are_runs_of_ours_with_one_setting_changed(lab):
    changes = (
        {},
        {"hard": False},
        {"budget": 0.3},
        {"temperature": 2.0},
        {"divergence": "none"},
        {"always_open": True},
    )
    found = study.variants(lab, changes)
    saved = saved_study(lab, "variants")
    assert list(saved["budget"]) == [0.8, 0.8, 0.3, 0.8, 0.8, 0.8]
    assert list(saved["hard"]) == [True, False, True, True, True, True]
    assert list(saved["divergence"]) == ["js"] * 4 + ["none", "js"]
    assert list(saved["always_open"]) == [False] * 5 + [True]
    assert saved["gate_decoder"][5] == 1
    assert set(saved["noise"]) == {1.0}
    assert set(saved["system"]) == {"distilwhisper"}
    assert saved["gate_encoder"].between(0, 1).all()
    assert saved["difference"][0] == saved["difference_without_loops"][0] == 0
    assert found["validation_loss"].nunique() > 1

    runs = {lab.train("distilwhisper", **change).name for change in changes}
    assert len(runs) == 6  # the first is the method as it is
    assert runs <= lab.used
    folders = {path.name for path in (lab.folder / "teacher-distributions").iterdir()}
    assert {lab._distributions_folder("cs", t).name for t in (1.0, 2.0)} <= folders


def test_each_change_of_the_variants_gives_another_run(lab):
    assert study.CHANGES[0] == {}
    runs = {lab.run_config("distilwhisper", **change).name for change in study.CHANGES}
    assert len(runs) == len(study.CHANGES)


def test_smaller_scores_forms_and_baked_models_beside_the_trained_one(lab):
    found = smaller.smaller(lab)
    ours = ["fp32, routed", *smaller.FORMS, "baked"]
    low_rank = ["fp32, routed", "fp16", "baked"]
    pooled = ["fp32, routed", "baked"]
    assert list(found["form"]) == [*ours, *low_rank, *pooled, *pooled]
    assert found["agree"].between(0.5, 1).all()
    assert found["wer"].notna().all()
    assert set(zip(found["system"], found["agreement"], strict=True)) == set(smaller.TRAININGS)

    full = found[found["system"] == "distilwhisper"].set_index("form")
    small = found[found["system"] == LOW_RANK].set_index("form")
    size = full["megabytes"]
    assert size["fp16"] > size["int8"] > 0
    assert size["low-rank 64"] > size["low-rank 16"]
    assert small["megabytes"]["fp16"] > 0
    assert pd.isna(small["megabytes"]["baked"])
    difference = small["wer"]["fp32, routed"] - full["wer"]["fp32, routed"]
    assert small["difference"]["fp32, routed"] == pytest.approx(difference)
    assert found[found["form"] == "baked"]["difference"].notna().all()
    assert (lab.results / "studies" / "smaller.json").is_file()

    # predictions of another decoding or another calibration are others
    def tables(**changes):
        other = Lab("smoke", **CHANGES | changes)
        model = other.student()
        folder = lab.folder / "smaller" / "student"
        smaller._in_domain(other, model, folder, "baked", counts(other, "student", "cs/in-domain"))
        return len(list(folder.glob("baked-*.csv")))

    assert [tables(), tables(), tables(max_new_tokens=2), tables(retention_clips=1)] == [1, 1, 2, 3]


def test_convergence_trains_in_fp32_and_in_random_batches_from_the_same_teacher(lab, monkeypatch):
    monkeypatch.setenv("LAB_PRECISION", "bf16")
    orders = []

    class Noting(trainer_module.RandomOrder):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            orders.append(sorted(self))

    monkeypatch.setattr(trainer_module, "RandomOrder", Noting)
    found = convergence.convergence(lab)
    assert list(found["training"]) == ["as it is", "fp32", "random batches"]
    assert found["wer"].notna().all()
    assert found["difference"][0] == 0
    assert (lab.results / "studies" / "convergence.csv").is_file()
    assert orders == [[0, 1, 2, 3]]

    runs = {}
    for name, changes in convergence.TRIALS.items():
        runs[name] = read_json(lab.train("distilwhisper", **changes) / "run.json")
    precisions = {name: run["precision"] for name, run in runs.items()}
    assert precisions == {"as it is": "bf16", "fp32": "no", "random batches": "bf16"}
    batches = {name: run["config"]["optimisation"]["batches"] for name, run in runs.items()}
    by_length = "by length"
    assert batches == {"as it is": by_length, "fp32": by_length, "random batches": "random"}
    assert len({run["config"]["teacher"] for run in runs.values()}) == 1
    assert len({run["identity"] for run in runs.values()}) == 3


def test_seeds_are_other_runs(lab):
    study.seeds(lab, ["lora", "distilwhisper", LOW_RANK], [77])
    pairs = saved_study(lab, "seeds-paired")
    assert len(pairs) == 6  # in both domains
    compared = {("distilwhisper", "lora"), ("distilwhisper", LOW_RANK), (LOW_RANK, "lora")}
    assert set(zip(pairs["first"], pairs["other"], strict=True)) == compared

    study.seeds(lab, ["clsr-ft", "distilwhisper-released"], [77])  # distillation alone
    pairs = saved_study(lab, "seeds-paired")
    assert set(pairs["first"]) == {"distilwhisper-released"}
    assert list(pairs["other"]) == ["clsr-ft", "clsr-ft"]

    found = study.seeds(lab, ["lora", "distilwhisper"], [77, 78, 77])  # 77 counts once
    pairs = saved_study(lab, "seeds-paired")
    assert list(pairs["other"]) == ["lora", "lora"]
    assert list(pairs["test_set"]) == ["in-domain", "out-of-domain"]
    curves = saved_study(lab, "seeds-validation")
    assert len(curves) == 4
    assert set(curves["epoch"]) == {1.0}
    of_lora = found[found["system"] == "lora"]
    assert set(of_lora["epochs"]) == {1}
    assert set(of_lora["learning_rate"]) == {1e-3}
    assert list(of_lora["seed"]) == [77, 77, 78, 78]
    assert list(of_lora["test_set"])[:2] == ["in-domain", "out-of-domain"]
    assert lab.train("lora") != lab.train("lora", seed=78)
    assert (lab.results / "studies" / "seeds.csv").is_file()


def test_a_paired_table_over_seeds_resamples_seeds_and_units(lab, monkeypatch):
    errors = {
        ("lora", 77): [2, 0],
        ("lora", 78): [0, 0],
        ("student", 77): [1, 1],
        ("student", 78): [1, 1],
    }

    def counted(lab, name, key, seed):
        rows = {"id": ["a", "b"], "words": [4, 6], "insertions": errors[name, seed]}
        return pd.DataFrame(rows | {"deletions": 0, "substitutions": 0})

    monkeypatch.setattr(comparison, "counts", counted)
    one = paired(lab, ("student",), "lora").loc[0]
    assert one["difference"] == pytest.approx(0)
    two = paired(lab, ("student",), "lora", [77, 78]).loc[0]
    assert two["difference"] == pytest.approx(-10)  # (2 - 4) errors in 20 words
    assert two["low"] == pytest.approx(-100 / 4)  # a twice, at seed 78 twice
    assert two["high"] == pytest.approx(100 / 4)  # a twice, at seed 77 twice
    assert two["p"] == pytest.approx(0.6, abs=0.1) and 0 < two["better"] < 1


@pytest.mark.parametrize(
    ("rooms", "units"), [(["hall", "hall", "cave"], None), (["hall"] * 3, ["a", "b", "c"])]
)
def test_errors_are_counted_with_the_room_that_they_are_resampled_with(rooms, units):
    rows = Dataset.from_dict(
        {"id": ["a", "b", "c"], "speaker": ["x"] * 3, "room_or_category": rooms}
    )
    clips = SimpleNamespace(
        rows=rows, ids=["a", "b", "c"], durations=[1.0] * 3, texts=["one", "two", "three"]
    )
    found = comparison.counts_of(clips, ["one", "too", "three"], "whisper-basic")
    assert list(found["unit"]) == (units or rooms)
    assert list(word_errors(found)) == [0, 1, 0]


# ---- run metadata


def test_a_short_hash_changes_with_its_content():
    assert short_hash([1, None, "a"]) == short_hash([1, None, "a"]) != short_hash([1, None, "b"])


def test_json_is_written_whole_and_as_it_is(tmp_path):
    path = tmp_path / "new" / "a.json"
    write_json(path, {"b": "č"})
    assert json.loads(path.read_text()) == {"b": "č"}
    assert [found.name for found in path.parent.iterdir()] == ["a.json"]


def test_steps_that_ended_well_are_noted(tmp_path):
    with timed_step(tmp_path, "one", "first"):
        pass
    with pytest.raises(KeyError), timed_step(tmp_path, "failed", "second"):
        raise KeyError
    with open(tmp_path / "steps.jsonl", "ab") as lines:
        lines.write(b'5\n{"result": "first"}\n\xff\xfe\n{"step": "cut of')
    with timed_step(tmp_path, "two", "third"):
        pass
    noted = read_steps(tmp_path, {"first", "second", "third"})
    assert [row["step"] for row in noted] == ["one", "two"]  # the cut line alone is lost
    assert read_steps(tmp_path, {"second"}) == []


def test_the_commit_is_named_where_there_is_one():
    found = commit()
    assert found is None or len(found.removesuffix("+changes")) == 40


def test_a_pinned_model_of_the_hub_is_identified_without_being_fetched(monkeypatch):
    monkeypatch.setattr(config_module, "find_weights", lambda name: pytest.fail("it was fetched"))
    found = config_module.identify("openai/whisper-large-v2")
    assert found.content == f"openai/whisper-large-v2@{REVISIONS['openai/whisper-large-v2']}"


def test_the_student_is_not_trained():
    with pytest.raises(ValueError, match="student is not trained"):
        Lab("smoke").train("student")


def test_a_finished_run_does_not_read_its_teacher_s_distributions(lab, monkeypatch):
    folder = lab.train("distilwhisper")
    monkeypatch.setattr(Lab, "teacher_distributions", lambda *_: pytest.fail("they were read"))
    again = Lab("smoke", **CHANGES)
    assert again.train("distilwhisper") == folder
    assert any(row["step"] == "teacher outputs cs" for row in again.steps())


def test_a_preset_by_name_has_batches_for_the_card(monkeypatch):
    monkeypatch.setattr("distilwhisper_lib.lab.lab.card_memory_gb", lambda device: 80)
    assert Lab("colab", student="tiny").preset.batch_size == 8  # another model
    found = Lab("colab").preset
    assert (found.batch_size, found.accumulation, found.eval_batch_size) == (16, 1, 64)
    assert Lab("colab", eval_batch_size=8).preset.eval_batch_size == 8
    assert Lab(get_preset("colab")).preset == get_preset("colab")
    assert Lab("laptop").preset == get_preset("laptop")
