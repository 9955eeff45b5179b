"""The laboratory at the smoke preset: computed once and kept, anew where a setting changes; and its tables."""

import hashlib
import json
import os
import re
import weakref
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import torch
from random_data import logits, random_batch, random_counts

from distilwhisper_lib.experiments import convergence, smaller
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.evaluation.scoring import summarise, word_errors
from distilwhisper_lib.evaluation.testsets import test_sets, with_paper_data
from distilwhisper_lib.experiments import study
from distilwhisper_lib.files import cache_dir, read_json, results_dir, short_hash, write_json
from distilwhisper_lib.lab import comparison
from distilwhisper_lib.lab import lab as lab_module
from distilwhisper_lib.lab.comparison import counts, main_table, paired, plan, score, write_run_metadata
from distilwhisper_lib.lab.course import announce
from distilwhisper_lib.lab.lab import Lab, open_lab
from distilwhisper_lib.lab.metadata import commit, read_steps, timed_step
from distilwhisper_lib.method.attach import (
    clsr_blocks,
    expert_languages,
    get_language,
    last_gates,
    set_language,
    use_language,
)
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.storage import load_experts
from distilwhisper_lib.presets import PRESETS, get_preset
from distilwhisper_lib.training import trainer as train
from distilwhisper_lib.training.systems import LOW_RANK, SYSTEMS, TRAINED, get_system
from distilwhisper_lib.whisper.loading import Source

WERS = ("wer", "wer_low", "wer_high")
CHANGES = {"train_clips": 4, "teacher_clips": 4, "validation_clips": 2, "test_clips": 3}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture
def lab(shared, monkeypatch):
    """A lab whose folders are shared by the tests of this module: what one has computed, the next finds."""
    monkeypatch.setenv("LAB_CACHE", str(shared / "cache"))
    monkeypatch.setenv("LAB_RESULTS", str(shared / "results"))
    return Lab("smoke", **CHANGES)


def no_work(monkeypatch):
    """Make training, the teacher and transcription fail from here on."""
    for name in ("train_system", "cache_teacher_distributions", "transcribe"):
        monkeypatch.setattr(
            lab_module, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called again")
        )


# ---- presets and folders


def test_preset_comes_from_the_argument_else_from_the_environment(monkeypatch):
    assert get_preset().name == "laptop" and get_preset("smoke").name == "smoke"
    monkeypatch.setenv("LAB_PRESET", "smoke")
    assert get_preset().name == Lab().preset.name == "smoke" and get_preset("colab").name == "colab"
    monkeypatch.setenv("LAB_PRESET", "")
    assert get_preset().name == "laptop"


def test_folders_come_from_the_environment(tmp_path, monkeypatch):
    assert (
        cache_dir() == tmp_path / "cache" and results_dir("smoke") == tmp_path / "results" / "smoke"
    )
    monkeypatch.setenv("LAB_CACHE", "~/somewhere")
    assert str(cache_dir()) == os.path.expanduser("~/somewhere")
    monkeypatch.delenv("LAB_CACHE")
    monkeypatch.delenv("LAB_RESULTS")
    assert cache_dir().name == "cache" and results_dir("colab").parts[-2:] == ("results", "colab")


def test_every_preset_names_a_learning_rate_for_what_is_trained():
    for preset in PRESETS.values():
        assert sorted(preset.learning_rates) == sorted([*TRAINED, LOW_RANK.name])
        assert preset.minutes and preset.memory


def test_open_lab_says_what_it_runs_on(capsys):
    lab = open_lab("smoke", seed=5)
    said = capsys.readouterr().out
    assert lab.preset == replace(get_preset("smoke"), seed=5)
    assert (
        "preset smoke: student tiny, teacher a stand-in" in said
        and "cores" in said
        and lab.preset.minutes in said
    )


def test_paper_is_tested_out_of_domain_and_on_translation_with_the_other_corpus():
    sets = test_sets(get_preset("paper"))
    assert (sets["ca/in-domain"].corpus, sets["ca/in-domain"].limit) == ("common-voice-10k", None)
    assert (sets["ca/out-of-domain"].corpus, sets["ca/out-of-domain"].split) == ("fleurs", "test")
    assert sets["ca/translation"].corpus == sets["es/retention"].corpus == "fleurs"
    assert sets["gl/second-language"].corpus == "common-voice-10k"


@pytest.mark.parametrize(("language", "out_of_domain"), [("cs", "fillets"), ("ta", None)])
def test_another_corpus_without_the_language_gives_no_out_of_domain_test(language, out_of_domain):
    preset = replace(
        get_preset("paper"), corpus="fleurs", other_corpus="fillets", language=language
    )
    sets = test_sets(preset)
    found = sets.get(f"{language}/out-of-domain")
    assert (found.corpus if found else None) == out_of_domain
    assert sets[f"{language}/translation"].corpus == "fleurs"  # which has English lines itself


def test_colab_takes_common_voice_where_it_is_and_else_fleurs(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    assert with_paper_data(get_preset("smoke")) == get_preset("smoke")
    preset = with_paper_data(get_preset("colab"))
    assert (preset.corpus, preset.other_corpus, preset.name) == (
        "fleurs",
        "fillets",
        "colab-fleurs",
    )
    assert test_sets(preset)["cs/out-of-domain"].corpus == "fillets"
    folder = tmp_path / "common-voice" / "cv-corpus-13.0-2023-03-09" / "cs"
    folder.mkdir(parents=True)
    (folder / "train.tsv").touch()
    preset = with_paper_data(get_preset("colab"))
    assert (preset.corpus, preset.other_corpus, preset.name) == (
        "common-voice-3k",
        "fleurs",
        "colab-common-voice-3k",
    )
    assert {test.corpus for test in test_sets(preset).values()} == {"common-voice-3k", "fleurs"}


def test_course_says_what_it_needs_and_where_it_takes_longer(monkeypatch, capsys):
    announce(Lab("laptop"))
    said = capsys.readouterr().out
    assert (
        get_preset("laptop").minutes in said
        and "fillets, stamps" in said
        and "disk: about 4.0 GB in" in said
    )
    assert "weights of openai/whisper-base (290 MB)\n" in said
    announce(Lab("colab"))
    assert (
        "openai/whisper-small (1 GB) and openai/whisper-large-v2 (6 GB)" in capsys.readouterr().out
    )
    announce(Lab("laptop"))
    said = capsys.readouterr().out
    assert "does not compute in bf16: expect two to four times as long" in said
    monkeypatch.setenv("LAB_PRECISION", "bf16")
    announce(Lab("laptop"))
    assert "bf16" not in capsys.readouterr().out


# ---- data


def test_splits_come_with_their_limits(lab):
    assert len(lab.rows("train")) == 8 and len(lab.rows("train", limit=3)) == 3
    assert list(lab.rows("train", limit=3)["id"]) == list(lab.rows("train", limit=5)["id"])[:3]
    assert set(lab.rows("test", "ca")["language"]) == {"ca"}
    clips = lab.clips("train", "ca", 3)
    assert len(clips) == 3 and lab.clips("train", "ca", 3) is clips
    assert clips.labels[0][0] == lab.processor.tokenizer.convert_tokens_to_ids("<|ca|>")


def test_teacher_and_systems_see_other_clips(lab):
    splits = {
        split: set(lab.rows(split)["text"])
        for split in ("teacher", "train", "validation", "test", "test-other")
    }
    assert all(not splits[a] & splits[b] for a in splits for b in splits if a < b)


def test_texts_that_the_decoder_has_no_room_for_are_left_out_of_training_and_stay_in_tests(
    lab, monkeypatch
):
    whole, test = lab.rows("train"), lab.test_rows("cs/in-domain")
    changed = {whole[1]["id"], test[0]["id"]}

    def longer(name, language):
        def change(row):
            return {"text": "a b " * 300 if row["id"] in changed else row["text"]}

        return load_corpus(name, language).map(change)

    monkeypatch.setattr(lab_module, "load_corpus", longer)
    with pytest.warns(
        UserWarning,
        match=f"1 clips of cs train are left out: .* 448 tokens, such as {whole[1]['id']}",
    ):
        rows = lab.rows("train")
    assert set(rows["id"]) == set(whole["id"]) - changed
    clips = lab.test_clips("cs/in-domain")
    assert clips.ids == list(test["id"]) and len(clips.labels[0]) > 448


def test_tests_of_a_preset(lab):
    names = list(lab.test_sets)
    assert {
        "cs/in-domain",
        "cs/out-of-domain",
        "cs/noise",
        "cs/reverberation",
        "cs/translation",
        "nl/retention",
        "es/retention",
        "ca/second-language",
    } <= set(names)
    assert list(lab.test_rows("cs/in-domain")["split"]) == ["test"] * 3
    assert list(lab.test_rows("cs/out-of-domain")["split"]) == ["test-other"] * 3
    translation = lab.test_clips("cs/translation")
    ids = lab.processor.tokenizer.convert_tokens_to_ids(["<|cs|>", "<|translate|>"])
    assert translation.labels[0][:2] == ids
    english = lab.test_rows("cs/translation")[0]["translation_en"]
    assert (
        lab.processor.tokenizer.decode(translation.labels[0], skip_special_tokens=True) == english
    )
    plain, noisy = lab.test_clips("cs/in-domain"), lab.test_clips("cs/noise")
    same = plain.ids.index(noisy.ids[0])
    assert not torch.allclose(plain[same]["features"], noisy[0]["features"], atol=0.05)
    with pytest.raises(ValueError, match="unknown test set 'cs/hard': one of cs/in-domain, "):
        lab.test_set("cs/hard")


def test_a_held_out_lead_is_in_its_own_test_alone():
    lab = Lab("smoke", held_out_lead="toy-low", test_clips=None)
    held = lab.test_rows("cs/held-out-lead")["speaker"][:]
    assert held and set(held) == {"toy-low"}
    others = [
        lab.test_rows("cs/in-domain"),
        *(lab.rows(split) for split in ("train", "validation", "teacher")),
    ]
    assert all(len(rows) and "toy-low" not in rows["speaker"][:] for rows in others)
    assert set(Lab("smoke").rows("train")["speaker"][:]) > {"toy-low"}
    assert list(comparison.paired(lab, ("teacher",), "student")["test_set"])[-1] == "held-out-lead"


# ---- everything once


def test_training_is_kept_and_found_again(lab, monkeypatch):
    folder = lab.train("distilwhisper")
    teacher = lab.train_teacher()
    assert (folder / "model" / "experts.cs.safetensors").exists() and (
        teacher / "model" / "model.safetensors"
    ).exists()
    assert json.loads((folder / "run.json").read_text())["clips"] == 4
    assert json.loads((teacher / "run.json").read_text())["clips"] == 8  # of both languages
    assert lab.run_log("distilwhisper")[-1]["eval_loss"] > 0 and lab.run_log("teacher")
    one = Lab("smoke", **CHANGES | {"second_language": "cs"}).train_teacher()
    assert json.loads((one / "run.json").read_text())["clips"] == 4  # no clip twice
    no_work(monkeypatch)
    again = Lab("smoke", **CHANGES)
    assert again.train("distilwhisper") == folder and again.train_teacher() == teacher
    assert len(again.teacher_distributions()) == 4
    steps = [row["step"] for row in lab.steps()]
    assert {"train teacher cs", "teacher outputs cs", "train distilwhisper cs"} <= set(steps)


@pytest.mark.parametrize(
    "window",
    [
        {"train_margin_seconds": None},
        {},
        {"train_margin_seconds": None, "fidelity": "padding_in_divergence"},
    ],
)
def test_training_sets_of_all_sizes_share_the_teacher_s_outputs_in_the_30_s_window(
    window, monkeypatch
):
    computed, original = [], lab_module.cache_teacher_distributions

    def noting(model, clips, *arguments):
        computed.append(clips.ids)
        return original(model, clips, *arguments)

    monkeypatch.setattr(lab_module, "cache_teacher_distributions", noting)
    small, large = (Lab("smoke", **CHANGES | window | {"train_clips": clips}) for clips in (2, 4))
    first, second = small.teacher_distributions(), large.teacher_distributions()
    assert len(first) == 2 and len(second) == 4 and len(computed) == 2
    assert (first.folder == second.folder) == (window == {"train_margin_seconds": None})
    batch = small.train_collator([small.clips("train", limit=2)[i] for i in range(2)])
    again = small.teacher_distributions()
    padded = small.fidelity.padding_in_divergence
    mine, theirs = (
        outputs.lookup(batch["ids"], batch["labels"], padded) for outputs in (again, second)
    )
    assert [len(part) for part in mine] == [len(part) for part in theirs]
    assert first.folder != second.folder or all(
        torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)
    )
    assert len(again) == 2 and len(computed) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 3e-3},
        {"epochs": 2},
        {"seed": 5},
        {"budget": 0.2},
        {"label_smoothing": 0.0},
        {"language": "ca"},
    ],
)
def test_other_settings_give_another_run(lab, monkeypatch, change):
    folders = []
    monkeypatch.setattr(
        lab_module, "train_system", lambda system, folder, *rest: folders.append((folder, rest))
    )
    lab.train("clsr-ft")
    lab.train("clsr-ft", **change)
    (first, rest), (second, other) = folders
    assert first != second
    assert (rest[1], *rest[5:9]) != (
        other[1],
        *other[5:9],
    )  # objective, language, rate, epochs, seed


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 2},
        {"warmup_ratio": 0.3},
        {"train_clips": 3},
        {"accumulation": 2},
        {"gate_budget": 0.3},
        {"label_smoothing": 0.2},
        {"epochs": 3},
    ],
)
def test_other_presets_give_another_run(lab, monkeypatch, change):
    folders = []
    monkeypatch.setattr(
        lab_module, "train_system", lambda system, folder, *rest: folders.append(folder)
    )
    lab.train("clsr-ft")
    Lab("smoke", **CHANGES | change).train("clsr-ft")
    assert folders[0] != folders[1]


def test_transcripts_are_kept_and_found_again(lab, monkeypatch):
    first = lab.transcribe("student", "cs/in-domain")
    assert list(first["id"]) == lab.test_clips("cs/in-domain").ids
    distilled = lab.transcribe("distilwhisper-released", "cs/in-domain")
    assert not first.equals(distilled)
    no_work(monkeypatch)
    again = Lab("smoke", **CHANGES)
    pd.testing.assert_frame_equal(again.transcribe("student", "cs/in-domain"), first)
    pd.testing.assert_frame_equal(
        again.transcribe("distilwhisper-released", "cs/in-domain"), distilled
    )
    off = again.transcribe(
        "distilwhisper-released", "cs/in-domain", experts=False
    )  # then it is the student
    pd.testing.assert_frame_equal(off, first)


@pytest.mark.parametrize(
    "change", [{"max_new_tokens": 3}, {"margin_seconds": 0.9}, {"test_clips": 2}]
)
def test_transcripts_depend_on_decoding_and_clips(lab, monkeypatch, change):
    paths = []
    monkeypatch.setattr(lab_module, "transcribe", lambda *arguments: paths.append(arguments[4]))
    lab.transcribe("student", "cs/reverberation")
    Lab("smoke", **CHANGES | {"retention_clips": 2 - ("test_clips" in change)} | change).transcribe(
        "student", "cs/reverberation"
    )
    assert paths[0] != paths[1]


def test_models_come_ready_to_transcribe(lab):
    model = lab.model("distilwhisper")
    assert get_language(model) == "cs" and not model.training
    outputs = logits(model, random_batch())
    assert torch.equal(logits(lab.model("distilwhisper"), random_batch()), outputs)
    with use_language(model, None):
        assert torch.equal(logits(model, random_batch()), logits(lab.student(), random_batch()))
    assert not torch.allclose(
        logits(lab.teacher(), random_batch()), logits(lab.student(), random_batch()), atol=1e-3
    )


def test_both_languages_in_one_model(lab):
    model = load_experts(lab.model("clsr-ft"), lab.train("clsr-ft", "ca") / "model")
    set_language(model, None)
    assert expert_languages(model) == ["cs", "ca"] and get_language(model) is None
    second = lab.model("clsr-ft", language="ca")
    assert get_language(second) == "ca"
    with use_language(model, "ca"):
        assert torch.equal(logits(model, random_batch()), logits(second, random_batch()))


def test_latest_model_alone_is_held(lab, monkeypatch):
    monkeypatch.setattr(lab_module, "transcribe", lambda model, *_: model)
    first = lab.transcribe("student", "nl/retention")
    assert lab.transcribe("student", "es/retention") is first
    other = lab.transcribe("clsr-ft", "cs/noise")
    assert other is not first and lab.transcribe("student", "nl/retention") is not first


# ---- scores


def test_nothing_of_a_training_stays_in_memory(lab, monkeypatch):
    models, prepare = [], train.prepare_for_training

    def watched(*arguments):
        model = prepare(*arguments)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(train, "prepare_for_training", watched)
    lab.transcribe("student", "cs/in-domain")
    lab.train("clsr-ft", learning_rate=2e-3, epochs=1)
    assert len(models) == 1 and models[0]() is None and lab._held is None


def test_counts_and_scores_of_a_test(lab):
    table = counts(lab, "student", "cs/in-domain")
    rows = {row["id"]: row for row in lab.test_rows("cs/in-domain")}
    assert [rows[i]["text"] for i in table["id"]] == list(table["text"]) and (
        table["words"] > 0
    ).all()
    row = score(lab, "student", "cs/in-domain")
    assert (row["system"], row["language"], row["test_set"], row["n"], row["experts"]) == (
        "student",
        "cs",
        "in-domain",
        3,
        "",
    )
    assert row["wer_low"] <= row["wer"] <= row["wer_high"] and row["normaliser"] == "whisper-basic"
    row = score(lab, "distilwhisper", "cs/translation", experts=False)
    assert (
        row["experts"] == "off"
        and {"bleu", "chrf", "bleu_low", "bleu_signature"} <= row.keys()
        and "wer" not in row
    )
    english = [lab.test_rows("cs/translation")[i]["translation_en"] for i in range(2)]
    assert sorted(counts(lab, "student", "cs/translation")["text"]) == sorted(english)


def test_experts_of_the_encoder_alone_translate(lab):
    row = score(lab, "distilwhisper-released", "cs/translation", experts="encoder")
    model = lab._held[1]
    blocks, gates = clsr_blocks(model), last_gates(model)
    assert (
        row["experts"] == "encoder"
        and get_language(model) == "cs"
        and len(gates["decoder"]) == len(blocks) // 2
    )
    assert all((g == 0).all() for g in gates["decoder"])
    assert [block.fixed for block in blocks] == [{}] * (len(blocks) // 2) + [{"cs": False}] * (
        len(blocks) // 2
    )
    name = next(
        path
        for path in lab.used
        if path.startswith("distilwhisper-released") and "/cs-translation" in path
    )
    lab.transcribe(
        "distilwhisper-released", "cs/translation"
    )  # all of them: other predictions, no block left fixed
    assert len([path for path in lab.used if path.startswith(name.rsplit("-", 1)[0])]) == 2
    assert not any(block.fixed for block in clsr_blocks(lab._held[1]))


def test_clips_that_are_too_long_are_left_out_of_training_only(lab):
    durations = lab.rows("train")["duration"][:]
    longest = sorted(durations)[len(durations) // 2]
    short = Lab("smoke", max_train_seconds=longest, **CHANGES)
    assert sorted(short.rows("train")["duration"][:]) == sorted(
        d for d in durations if d <= longest
    )
    for split in (
        "teacher",
        "validation",
    ):  # the latter as it is used while training, for the curve of its loss
        assert max(short.rows(split)["duration"][:]) <= longest
    for key in ("cs/validation", "cs/in-domain"):  # what is scored
        assert short.test_rows(key)["id"][:] == lab.test_rows(key)["id"][:]


def test_plan_scores_every_system_on_every_test_of_the_comparison(lab):
    jobs = plan(lab)
    assert len({json.dumps(job, sort_keys=True) for job in jobs}) == len(jobs)
    for system, kind in SYSTEMS.items():
        mine = {job["key"]: job.get("experts", True) for job in jobs if job["system"] == system}
        assert {
            "cs/in-domain",
            "cs/out-of-domain",
            "cs/translation",
            "nl/retention",
            "es/retention",
        } <= set(mine)
        assert mine["cs/in-domain"] and mine["nl/retention"] == (kind.trains != "experts")
    assert {"system": "distilwhisper", "key": "ca/second-language", "language": "ca"} in jobs


def test_paired_table_is_over_the_same_utterances(lab):
    table = paired(lab, against=("student",))
    assert (
        list(table["test_set"]) == ["in-domain", "out-of-domain"]
        and (table["low"] <= table["high"]).all()
    )
    for _, row in table.iterrows():
        key = f"cs/{row['test_set']}"
        difference = score(lab, "distilwhisper", key)["wer"] - score(lab, "student", key)["wer"]
        assert row["difference"] == pytest.approx(difference)


def test_interval_of_a_mean_of_tests_is_that_of_resampling_them_apart():
    tests, rng = (
        [random_counts(n, rate, n) for n, rate in ((48, 0.3), (60, 0.7), (100, 0.5))],
        np.random.default_rng(0),
    )
    found = comparison._mean_wer(pd.DataFrame([summarise(test) for test in tests]))
    means = [
        np.mean(
            [summarise_once(test.iloc[rng.integers(0, len(test), len(test))]) for test in tests]
        )
        for _ in range(1000)
    ]
    mean, low, high = map(float, re.fullmatch(r"(.+) \[(.+), (.+)\]", found).groups())
    assert mean == pytest.approx(np.mean([summarise_once(test) for test in tests]), abs=0.05)
    assert [low, high] == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.4)


def summarise_once(counts):
    """Return the WER alone, without its interval."""
    return 100 * word_errors(counts).sum() / counts["words"].sum()


def test_main_table_has_a_row_per_system():
    row = {
        "language": "cs",
        "wer": 50.04,
        "wer_low": 40,
        "wer_high": 60,
        "cer": 20,
        "cer_low": 18,
        "cer_high": 22,
        "loops": 1.0,
        "normaliser": "none",
    }
    rows = [
        row | {"system": system, "test_set": name}
        for system in SYSTEMS
        for name in ("in-domain", "out-of-domain")
    ]
    rows += [
        row
        | {"system": system, "test_set": "retention", "language": code}
        | dict(zip(WERS, values, strict=True))
        for system in SYSTEMS
        for code, values in (("nl", (60, 56, 63)), ("es", (80, 77, 84)))
    ]
    table = main_table(pd.DataFrame(rows), "cs")
    assert list(table.index) == [system.label for system in SYSTEMS.values()]
    assert set(table["in-domain WER"]) == {"50.0 [40.0, 60.0]"}
    assert set(table["in-domain CER"]) == {"20.0 [18.0, 22.0]"} and set(
        table["other languages WER"]
    ) == {"70.0 [67.5, 72.5]"}
    own = [
        row | {"system": "published", "test_set": "in-domain", "wer": 7},
        rows[0] | {"test_set": "translation", "wer": None, "normaliser": "released"},
    ]  # a BLEU is not compared with WERs
    longer = main_table(pd.DataFrame([own[0], *rows, own[1]]), "cs")
    assert (
        list(longer.index) == [*table.index, "published"]
        and longer["in-domain WER"].iloc[-1] == "7.0 [40.0, 60.0]"
    )
    rows[-1] = rows[-1] | {"normaliser": "released"}
    with pytest.raises(
        ValueError, match=r"WERs of 2 normalisers \(none, released\).*open_lab\(normaliser="
    ):
        main_table(pd.DataFrame(rows), "cs")


def test_normaliser_is_a_setting_and_named_in_every_row(lab, monkeypatch):
    texts = pd.DataFrame({"id": lab.test_clips("cs/in-domain").ids, "prediction": "Pěkně, pěkně."})
    monkeypatch.setattr(Lab, "transcribe", lambda *_, **__: texts)
    rows = {
        name: score(Lab("smoke", normaliser=name, **CHANGES), "student", "cs/in-domain")
        for name in ("whisper-basic", "none")
    }
    assert {name: row["normaliser"] for name, row in rows.items()} == {
        "whisper-basic": "whisper-basic",
        "none": "none",
    }
    assert rows["none"]["cer"] != rows["whisper-basic"]["cer"]


def test_record_says_what_the_figures_hang_on(lab, monkeypatch, tmp_path):
    monkeypatch.setattr(comparison, "TRAINED", ["clsr-ft"])
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(comparison, "find_weights", lambda name: Source(name, "folder", tmp_path))
    for key in lab.test_sets:
        lab.test_rows(key)  # prepared, as after a comparison
    write_run_metadata(lab)
    record = json.loads((lab.results / "run.json").read_text())
    assert record["preset"]["seed"] == 77 and record["versions"]["torch"] == torch.__version__
    assert (
        len(record["data"]["toy/cs"]) == 64
        and len(record["models"]["clsr-ft"]["experts.cs.safetensors"]) == 64
    )
    assert record["models"]["student"] == {
        "model.safetensors": hashlib.sha256(b"weights").hexdigest()
    }
    assert len(record["models"]["teacher"]["model.safetensors"]) == 64
    assert record["decoding"]["greedy"] and record["machine"]["cores"] == os.cpu_count()
    assert any(
        step["step"] == "train clsr-ft cs" and step["peak_memory_gb"] > 0
        for step in record["steps"]
    )
    import socket

    assert socket.gethostname() not in json.dumps(record["machine"])


def test_tuning_tries_each_rate_on_validation(lab):
    found = study.tune(lab, ["lora", "clsr-ft"], factors=(0.5, 1))
    saved = pd.read_csv(lab.results / "studies" / "tuning.csv")
    assert list(saved["system"]) == ["lora", "lora", "clsr-ft", "clsr-ft"] and set(
        saved["test_set"]
    ) == {"validation"}
    assert (
        list(saved["learning_rate"]) == [5e-4, 1e-3, 5e-4, 1e-3]
        and (saved["validation_loss"] > 0).all()
    )
    assert saved["wer"].tolist() == pytest.approx(found["wer"].tolist(), rel=1e-3)
    record = json.loads((lab.results / "studies" / "tuning.json").read_text())
    assert [step["step"] for step in record["steps"]].count("train lora cs") == 2


def test_best_rate_of_a_system_is_that_of_its_lowest_error_rate(lab):
    rows = [
        {"system": system, "learning_rate": rate, "wer": wer}
        for system, rate, wer in (
            ("lora", 1e-3, 50.0),
            ("lora", 2e-3, 48.0),
            ("clsr-ft", 3e-4, 49.0),
        )
    ]
    study.write_study(lab, "tuning", rows)
    assert study.best_rates(lab) == {"lora": 2e-3, "clsr-ft": 3e-4}


def test_variants_are_runs_of_ours_with_one_setting_changed(lab):
    before = set(lab.folder.glob("runs/distilwhisper-cs-*"))
    found = study.variants(
        lab,
        (
            {},
            {"hard": False},
            {"budget": 0.3},
            {"temperature": 2.0},
            {"divergence": "none"},
            {"always_open": True},
        ),
    )
    saved = pd.read_csv(lab.results / "studies" / "variants.csv")
    assert list(saved["budget"]) == [0.8, 0.8, 0.3, *[0.8] * 3] and list(saved["hard"]) == [
        True,
        False,
        *[True] * 4,
    ]
    assert set(saved["noise"]) == {1.0} and list(saved["divergence"]) == ["js"] * 4 + ["none", "js"]
    assert list(saved["always_open"]) == [False] * 5 + [True] and saved["gate_decoder"][5] == 1
    assert set(saved["system"]) == {"distilwhisper"} and saved["gate_encoder"].between(0, 1).all()
    assert (
        saved["difference"][0] == saved["difference_without_loops"][0] == 0
        and found["validation_loss"].nunique() > 1
    )
    made, ours = (
        set(lab.folder.glob("runs/distilwhisper-cs-*")) - before,
        lab.train("distilwhisper"),
    )
    assert (
        len(made | {ours}) == 6 and ours.name in lab.used
    )  # runs of their own, the first the system as it is
    assert len(list((lab.folder / "teacher-outputs").iterdir())) == 2  # temperatures


def test_each_change_of_the_variants_is_one_that_training_knows():
    ours = get_system("distilwhisper")
    settings = {field.name for field in fields(ExpertSettings)}
    known = {"budget", "per_stack", "divergence", "temperature", "seed", *settings}
    assert study.CHANGES[0] == {} and all(set(change) <= known for change in study.CHANGES)
    assert set(ours.experts) <= settings


def test_smaller_scores_forms_and_baked_models_beside_the_trained_one(lab):
    found = smaller.smaller(lab)
    low_rank = ["fp32, routed", "fp16", "baked"]
    assert (
        list(found["form"])
        == ["fp32, routed", *smaller.FORMS, "baked", *low_rank] + ["fp32, routed", "baked"] * 2
    )
    assert found["agree"].between(0.5, 1).all() and found["wer"].notna().all()
    ours, at_64 = (
        found[found["system"] == name].set_index("form")
        for name in ("distilwhisper", LOW_RANK.name)
    )
    size = ours["megabytes"]
    assert size["fp16"] > size["int8"] > 0 and size["low-rank 64"] > size["low-rank 16"]
    assert at_64["megabytes"]["fp16"] > 0 and pd.isna(at_64["megabytes"]["baked"])
    assert at_64["difference"]["fp32, routed"] == pytest.approx(
        at_64["wer"]["fp32, routed"] - ours["wer"]["fp32, routed"]
    )
    assert set(zip(found["system"], found["agreement"], strict=True)) == set(smaller.TRAININGS)
    baked = found[found["form"] == "baked"]
    assert (
        baked["difference"].notna().all() and (lab.results / "studies" / "smaller.json").is_file()
    )


def test_convergence_trains_in_fp32_and_in_random_batches_from_the_same_teacher(lab, monkeypatch):
    monkeypatch.setenv("LAB_PRECISION", "bf16")
    orders, before = [], train.LengthOrder

    class Noting(convergence.RandomOrder):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            orders.append(list(self))

    monkeypatch.setattr(convergence, "RandomOrder", Noting)
    found = convergence.convergence(lab)
    assert (
        list(found["training"]) == ["as it is", "fp32", "random batches"]
        and found["wer"].notna().all()
    )
    assert found["difference"][0] == 0 and (lab.results / "studies" / "convergence.csv").is_file()
    runs = {
        name: next(lab.folder.with_name(f"smoke{name}").glob("runs/distilwhisper-cs-*"))
        for name in ("-fp32", "-random-batches")
    }
    assert read_json(runs["-fp32"] / "run.json")["precision"] == "no"
    assert (
        read_json(runs["-random-batches"] / "run.json")["precision"]
        == os.environ["LAB_PRECISION"]
        == "bf16"
    )
    assert [sorted(order) for order in orders] == [[0, 1, 2, 3]] and train.LengthOrder is before
    assert (
        len([path for path in lab.folder.with_name("smoke-fp32").rglob("*") if path.is_symlink()])
        == 2
    )


def test_seeds_are_other_runs(lab):
    found = study.seeds(lab, ["lora", "distilwhisper", LOW_RANK.name], [77])
    pairs = pd.read_csv(lab.results / "studies" / "seeds-paired.csv")
    assert len(pairs) == 6 and set(zip(pairs["first"], pairs["other"], strict=True)) == {
        ("distilwhisper", "lora"),
        ("distilwhisper", LOW_RANK.name),
        (LOW_RANK.name, "lora"),
    }
    study.seeds(lab, ["clsr-ft", "distilwhisper-released"], [77])  # distillation alone
    pairs = pd.read_csv(lab.results / "studies" / "seeds-paired.csv")
    assert set(pairs["first"]) == {"distilwhisper-released"} and list(pairs["other"]) == [
        "clsr-ft",
        "clsr-ft",
    ]
    found = study.seeds(lab, ["lora", "distilwhisper"], [77, 78])
    folder = lab.results / "studies"
    pairs, curves = (pd.read_csv(folder / f"seeds-{name}.csv") for name in ("paired", "validation"))
    assert list(pairs["other"]) == ["lora", "lora"] and list(pairs["test_set"]) == [
        "in-domain",
        "out-of-domain",
    ]
    assert len(curves) == 4 and set(curves["epoch"]) == {1.0}
    found = found[found["system"] == "lora"]
    assert set(found["epochs"]) == {1} and set(found["learning_rate"]) == {1e-3}
    assert list(found["seed"]) == [77, 77, 78, 78] and list(found["test_set"])[:2] == [
        "in-domain",
        "out-of-domain",
    ]
    assert (
        lab.train("lora") != lab.train("lora", seed=78)
        and (lab.results / "studies" / "seeds.csv").is_file()
    )


def test_paired_table_over_seeds_keeps_an_utterance_one_unit(lab, monkeypatch):
    errors = {
        ("lora", 77): [2, 0],
        ("lora", 78): [0, 0],
        ("student", 77): [1, 1],
        ("student", 78): [1, 1],
    }

    def counted(lab, system, key, seed):
        return pd.DataFrame(
            {
                "id": ["a", "b"],
                "words": [4, 6],
                "insertions": errors[system, seed],
                "deletions": 0,
                "substitutions": 0,
            }
        )

    monkeypatch.setattr(comparison, "counts", counted)
    one, two = (paired(lab, ("student",), "lora", seeds).loc[0] for seeds in (None, [77, 78]))
    assert one["difference"] == pytest.approx(0) and two["difference"] == pytest.approx(
        -10
    )  # (2 - 4) of 20 words
    assert two["low"] == pytest.approx(-2 * 100 / 12) and two["high"] == pytest.approx(
        0
    )  # only b, or only a


def test_hash_and_steps(tmp_path):
    assert short_hash([1, None, "a"]) == short_hash([1, None, "a"]) != short_hash([1, None, "b"])
    with timed_step(tmp_path, "one", "first"):
        pass
    with pytest.raises(ZeroDivisionError), timed_step(tmp_path, "failed", "second"):
        1 / 0  # noqa: B018
    with open(tmp_path / "steps.jsonl", "a") as lines:
        lines.write('{"step": "cut of')
    assert [row["step"] for row in read_steps(tmp_path, {"first", "second"})] == ["one"]
    assert read_steps(tmp_path, {"second"}) == []
    write_json(tmp_path / "new" / "a.json", {"b": "č"})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"b": "č"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]
    assert commit() is None or len(commit().removesuffix("+changes")) == 40
