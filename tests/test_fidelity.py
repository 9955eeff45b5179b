"""Fidelity: each switch changes what it should and nothing else; as released, as in the paper, corrected."""

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from random_data import RandomClips, logits, random_batch, shake_experts
from transformers import TrainerCallback, WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.experiments import study
from distilwhisper_lib.fidelity import DIFFERENCES, FIDELITIES, Fidelity, get_fidelity
from distilwhisper_lib.lab import lab as lab_module
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.method.attach import attach_experts, clsr_blocks, last_gates, set_language
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.losses import (
    IGNORED,
    gate_budget_loss,
    labelled,
    top_k_divergence,
    top_k_log_probs,
    total_loss,
)
from distilwhisper_lib.presets import PRESETS, get_preset
from distilwhisper_lib.training.callbacks import GateNoise
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.systems import (
    TRAINED,
    count_parameters,
    get_system,
    load_trained,
    lora_config,
    prepare_for_training,
    save_trained,
)
from distilwhisper_lib.training.teacher import cache_teacher_distributions
from distilwhisper_lib.training.trainer import (
    LabTrainer,
    make_trainer,
    train_system,
    training_arguments,
)
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.tiny import tiny_tokenizer, tiny_whisper
from distilwhisper_lib.whisper.tokens import decoder_inputs, encode_labels
from distilwhisper_lib.whisper.window import use_window

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import method_table  # noqa: E402

LOSSES = np.load(Path(__file__).parent / "data" / "parity" / "losses.npz")
FORWARD = np.load(Path(__file__).parent / "data" / "parity" / "forward.npz")
CHANGES = {"train_clips": 4, "teacher_clips": 4, "validation_clips": 2, "test_clips": 3}
K = 8


@pytest.fixture
def clips(processor):
    return RandomClips(processor.tokenizer, 8, letters=(1, 20))


def experts(language="cs"):
    """Return a Whisper with experts that have moved, and nothing random in training."""
    still = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0, noise=5.0)
    model = shake_experts(attach_experts(load_whisper("tiny"), [language], still))
    set_language(model, language)
    return model


def trainer_of(model, clips, collator, folder, fidelity, accumulation=1, **goal):
    preset = replace(get_preset("smoke"), batch_size=2, accumulation=accumulation)
    arguments = training_arguments(folder, preset, 1e-3, 1, len(clips), 0)
    arguments.save_strategy = arguments.eval_strategy = "no"
    return make_trainer(
        model, arguments, Objective(fidelity=fidelity, **goal), clips, clips, collator
    )


def parts_of(model, batch, clips, collator, folder, fidelity, **goal):
    """Return the parts of one batch's loss, without noise."""
    trainer = trainer_of(model.train(), clips, collator, folder, fidelity, **goal)
    trainer.compute_loss(model, batch)
    return trainer._parts[0][1]


# ---- names


def test_names_and_what_they_switch():
    assert get_fidelity("corrected") == Fidelity() and Fidelity().on() == []
    assert get_fidelity("paper").on() == ["unscaled_loss"]
    assert get_fidelity("released").on() == [
        name for name in DIFFERENCES if name != "unscaled_loss"
    ]
    for name in DIFFERENCES:
        assert get_fidelity(name).on() == [name]
    assert get_fidelity("released").on("lora_on_both", "unscaled_loss") == ["lora_on_both"]
    assert all(preset.fidelity == "corrected" for preset in PRESETS.values())


def test_unknown_name_is_told_at_once():
    message = "unknown fidelity 'published': one of corrected, paper, released, noise_at_start, "
    with pytest.raises(ValueError, match=message):
        get_fidelity("published")
    with pytest.raises(ValueError, match=message):
        Lab("smoke", fidelity="published")


def test_every_switch_has_its_row_in_the_table_of_differences():
    rows = {row[1].strip("`"): row for row in method_table.fidelity_rows()}
    assert set(rows) == {*DIFFERENCES, "–"} and method_table.MODES == (
        "paper",
        "released",
        "corrected",
    )
    for name in DIFFERENCES:
        paper, released, corrected = rows[name][2:5]
        assert (released != corrected, paper != corrected) == (
            name != "unscaled_loss",
            name == "unscaled_loss",
        ), name


# ---- the default is what it was


@pytest.fixture
def names(monkeypatch):
    """Return a function from a lab to the names of its runs, without any training."""

    def run(system, folder, *_):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")

    def teacher(model, clips, collator, folder, *_):
        folder.mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(folder=folder)

    monkeypatch.setattr(lab_module, "train_system", run)
    monkeypatch.setattr(lab_module, "cache_teacher_distributions", teacher)
    monkeypatch.setattr(
        lab_module, "TeacherDistributions", lambda folder, ids: SimpleNamespace(folder=folder)
    )
    monkeypatch.setattr(Lab, "teacher", lambda lab, half=False: None)
    monkeypatch.setattr(lab_module, "load_corpus", cache(load_corpus))
    monkeypatch.setattr(lab_module.gc, "collect", lambda: None)  # slow, and nothing was trained

    def found(lab, *systems):
        return {
            "teacher": lab.train_teacher().name,
            "outputs": lab.teacher_distributions().folder.name,
            **{name: lab.train(name).name for name in systems},
        }

    return found


def test_names_of_runs_are_those_of_the_code_before_there_were_switches(names):
    found = names(Lab("smoke"), *TRAINED)
    found |= {
        "distilwhisper": names(Lab("smoke", experts={"hard": False}), "distilwhisper")[
            "distilwhisper"
        ]
    }  # as it was
    assert found == {
        "teacher": "teacher-cs-seed77-c0a67f8a",
        "outputs": "cs-201c794e",
        "fine-tuning": "fine-tuning-cs-seed77-e0dbf8bc",
        "lora": "lora-cs-seed77-e0dbf8bc",
        "clsr-ft": "clsr-ft-cs-seed77-7f92ffcd",
        "distilwhisper-released": "distilwhisper-released-cs-seed77-e6862abf",
        "distilwhisper": "distilwhisper-cs-seed77-e5cbd579",
    }


def test_each_switch_gives_other_runs_and_the_same_stand_in(names, processor, monkeypatch):
    monkeypatch.setattr(lab_module, "load_processor", lambda name: processor)
    systems = ("lora", "distilwhisper")
    corrected, seen = names(Lab("smoke"), *systems), set()
    for name in (*DIFFERENCES, "released"):
        found = names(Lab("smoke", fidelity=name), *systems)
        assert found["teacher"] == corrected["teacher"] and found["lora"] != corrected["lora"]
        of_teacher = name in (
            "padding_in_divergence",
            "labels_without_language",
            "labels_with_start",
            "released",
        )
        assert (found["outputs"] != corrected["outputs"]) == of_teacher, name
        seen.add(found["distilwhisper"])
    assert len(seen) == len(DIFFERENCES) + 1


# ---- noise


def test_noise_of_the_first_step(clips, collator, tmp_path):
    class Spy(TrainerCallback):
        def __init__(self):
            self.noise = []

        def on_step_end(self, args, state, control, model=None, **_):
            self.noise.append(clsr_blocks(model)[0].routing.noise)

    found = {}
    for name in ("corrected", "paper", "noise_at_start", "released"):
        spy = Spy()
        trainer = trainer_of(experts(), clips, collator, tmp_path, get_fidelity(name))
        trainer.add_callback(spy)
        trainer.train()
        found[name] = spy.noise
    assert found["corrected"] == found["paper"] == [0, 1.25, 2.5, 3.75]
    assert found["noise_at_start"] == found["released"] == [5, 1.25, 2.5, 3.75]
    GateNoise(at_start=True).on_step_begin(
        None, None, None, model=load_whisper("tiny")
    )  # no gates: nothing happens


# ---- padding


def test_gate_budget_over_padding_is_the_plain_mean_over_all_positions(clips, collator, tmp_path):
    model, batch = experts(), collator([clips[0], clips[1]])
    assert (batch["labels"] == IGNORED).any()
    corrected, found = (
        parts_of(model, batch, clips, collator, tmp_path, fidelity, budget=0.1)
        for fidelity in (Fidelity(), Fidelity(padding_in_budget=True))
    )
    gates = torch.cat([gate.flatten() for layers in last_gates(model).values() for gate in layers])
    window = batch["input_features"].shape[-1] // 2
    assert len(gates) == 2 * 2 * window + 2 * batch["labels"].numel()
    assert found["budget"] == pytest.approx(abs(gates.mean().item() - 0.1), abs=1e-6)
    assert abs(found["budget"] - corrected["budget"]) > 1e-4
    same = [name for name in found if name not in ("budget", "loss")]
    assert {"ce", "gate_encoder", "gate_decoder"} == set(same)
    assert all(found[name] == corrected[name] for name in same)


def test_mean_gate_of_the_release_s_own_numbers():
    for language in ("catalan", "tamil"):
        gates = {
            stack: [
                torch.from_numpy(FORWARD[f"gates.{language}.transcribe.{stack}.{i}"])
                for i in range(2)
            ]
            for stack in ("encoder", "decoder")
        }
        everywhere = {
            stack: torch.ones(layers[0].shape, dtype=bool) for stack, layers in gates.items()
        }
        mean = FORWARD[f"gate_mean.{language}.transcribe"].item()
        assert gate_budget_loss(gates, everywhere, 0.0).item() == pytest.approx(mean, abs=1e-6)


def test_divergence_over_padding_is_that_of_the_whole_batch(clips, collator, tmp_path):
    teacher, model = tiny_whisper(seed=1), experts()
    goal = {
        "teacher": cache_teacher_distributions(teacher, clips, collator, tmp_path / "padded", K, 2, padded=True)
    }
    order = sorted(range(8), key=lambda i: -clips.durations[i])
    batch = collator(
        [clips[i] for i in order[2:4]]
    )  # as the teacher saw them: one window, but a wider text
    fidelity = Fidelity(padding_in_divergence=True)
    found = parts_of(model, batch, clips, collator, tmp_path, fidelity, budget=None, **goal)
    inputs = {name: batch[name] for name in ("input_features", "decoder_input_ids")}
    with torch.no_grad(), use_window(teacher, inputs["input_features"].shape[-1]):
        theirs = teacher(**inputs).logits.flatten(0, 1)  # (B * T, V), padding included
    words, log_probs = top_k_log_probs(theirs, K)
    ours = logits(model, inputs).flatten(0, 1)
    assert found["kd"] == pytest.approx(
        top_k_divergence(words, log_probs, ours).item(), rel=5e-3
    )  # fp16
    keep = batch["labels"].flatten() != IGNORED
    real = top_k_divergence(words[keep], log_probs[keep], ours[keep]).item()
    assert not keep.all() and abs(found["kd"] - real) > 0.02 * real
    plain = cache_teacher_distributions(teacher, clips, collator, tmp_path / "plain", K, 2)
    corrected = parts_of(
        model, batch, clips, collator, tmp_path, Fidelity(), budget=None, teacher=plain
    )
    assert corrected["kd"] == pytest.approx(real, rel=5e-3) and corrected["ce"] == found["ce"]


def test_outputs_without_padding_do_not_serve_a_run_with_it(clips, collator, tmp_path):
    plain = cache_teacher_distributions(tiny_whisper(), clips, collator, tmp_path / "plain", K, 4)
    padded = cache_teacher_distributions(
        tiny_whisper(), clips, collator, tmp_path / "padded", K, 4, padded=True
    )
    batch = collator([clips[i] for i in range(8)])
    words, _ = padded.lookup(batch["ids"], batch["labels"], padded=True)
    assert len(words) == batch["labels"].numel()
    with pytest.raises(ValueError, match=r"the teacher saw \d+ label tokens, the student has"):
        plain.lookup(batch["ids"], batch["labels"], padded=True)
    with pytest.raises(ValueError, match=r"the teacher saw \d+ label tokens, the student has"):
        padded.lookup(batch["ids"], batch["labels"])


# ---- labels


def test_labels_of_each_switch():
    tokenizer = tiny_tokenizer()
    start, code, task, times = tokenizer.convert_tokens_to_ids(
        ["<|startoftranscript|>", "<|cs|>", "<|transcribe|>", "<|notimestamps|>"]
    )
    end, text = tokenizer.eos_token_id, tokenizer("ab", add_special_tokens=False).input_ids
    found = {
        name: encode_labels(tokenizer, "ab", "cs", fidelity=fidelity)
        for name, fidelity in FIDELITIES.items()
    }
    assert found["corrected"] == found["paper"] == [code, task, times, *text, end]
    assert found["labels_without_language"] == [task, times, *text, end]
    assert found["labels_with_start"] == [start, code, task, times, *text, end]
    assert found["released"] == [start, task, times, *text, end]
    assert decoder_inputs(tokenizer, found["released"]) == [start, start, task, times, *text]
    others = set(FIDELITIES) - {"labels_without_language", "labels_with_start", "released"}
    assert all(found[name] == found["corrected"] for name in others)


def test_released_labels_are_those_of_transformers_tokenizer_made_with_a_task_alone():
    """What the release does: a tokenizer with a task and no language, padding masked, "bos" cut, shifted by Whisper."""
    tokenizer, model = tiny_tokenizer(), tiny_whisper()
    tokenizer.set_prefix_tokens(task="transcribe")
    assert tokenizer.bos_token == "<|endoftext|>" and tokenizer.language is None
    padded = tokenizer.pad(
        [{"input_ids": tokenizer(text).input_ids} for text in ("abc", "d")], return_tensors="pt"
    )
    labels = padded["input_ids"].masked_fill(padded["attention_mask"] != 1, IGNORED)
    assert not (labels[:, 0] == tokenizer.bos_token_id).any()  # so that nothing is cut
    assert (labels[:, 0] == model.config.decoder_start_token_id).all()
    inputs = shift_tokens_right(
        labels, model.config.pad_token_id, model.config.decoder_start_token_id
    )
    ours = Collator(tokenizer, None)(
        [
            {
                "id": text,
                "features": torch.zeros(80, 20),
                "frames": 20,
                "labels": encode_labels(tokenizer, text, "cs", fidelity=FIDELITIES["released"]),
            }
            for text in ("abc", "d")
        ]
    )
    assert torch.equal(ours["labels"], labels) and torch.equal(ours["decoder_input_ids"], inputs)
    assert (inputs[:, :2] == model.config.decoder_start_token_id).all()


def test_a_lab_s_clips_have_the_labels_of_its_fidelity():
    labels = {
        name: Lab("smoke", fidelity=name).clips("train", limit=2).labels
        for name in ("corrected", "released")
    }
    corrected, released = labels["corrected"][0], labels["released"][0]
    assert (
        released[0] != corrected[0] and released[1:] == corrected[1:]
    )  # the start in the language's place
    assert (
        Lab("smoke", fidelity="released")
        .clips("teacher", limit=2, fidelity=Fidelity())
        .labels[0][0]
        == corrected[0]
    )


def test_a_label_that_is_too_long_with_the_start_token_is_told(processor):
    text, limit = "a" * 20, 24
    assert len(encode_labels(processor.tokenizer, text, "cs", limit=limit)) == 24
    with pytest.raises(ValueError, match="label too long: 25 tokens"):
        encode_labels(
            processor.tokenizer, text, "cs", limit=limit, fidelity=Fidelity(labels_with_start=True)
        )


# ---- the total


def tensor(name):
    return torch.from_numpy(np.asarray(LOSSES[name]))


def test_total_loss_of_the_release_and_of_the_paper():
    ce, kd, gate = (
        torch.as_tensor(x) for x in (LOSSES["ce.smoothing0.1"], LOSSES["js.tau1"], 0.8 - 0.5)
    )
    released = LOSSES["total.js.tau1.gate_mean0.8"].item()
    assert total_loss(ce, gate, kd).item() == pytest.approx(released, abs=1e-5)
    paper = total_loss(ce, gate, kd, unscaled=True).item()
    assert paper == pytest.approx((ce + gate + 2 * kd).item(), abs=1e-5)
    assert paper / released == pytest.approx(2 * 1.41**2, rel=2e-3)  # 1.41^2 is 1.988, not 2
    assert (
        total_loss(ce, gate).item()
        == total_loss(ce, gate, unscaled=True).item()
        == (ce + gate).item()
    )


class Stored:
    """A teacher whose outputs are the release's 40 positions, and which says what it was asked for."""

    folder = Path("parity")

    def lookup(self, ids, labels, padded):
        assert padded
        return top_k_log_probs(tensor("teacher_logits"), 96)


@pytest.fixture
def released_parts(monkeypatch, tmp_path, clips, collator):
    """Return a function from labels (4, 10) and gates to what a trainer computes from the release's logits."""

    def parts(labels, gates):
        monkeypatch.setattr("distilwhisper_lib.training.trainer.last_gates", lambda model: gates)
        trainer = trainer_of(
            load_whisper("tiny"),
            clips,
            collator,
            tmp_path,
            FIDELITIES["released"],
            teacher=Stored(),
        )
        batch = {"labels": labels, "ids": list("abcd"), "frames": torch.tensor([40, 50, 60, 100])}
        student = tensor("student_logits").view(4, 10, -1)
        found = trainer._losses(batch, student.flatten(0, 1), labels.flatten())
        return {name: value.item() for name, value in found.items()}

    return parts


def test_total_of_the_release_s_own_numbers_with_and_without_padding(released_parts):
    labels = tensor("labels").view(4, 10).clone()
    gates = {"encoder": [torch.full((4, 50), 0.8)] * 2, "decoder": [torch.full((4, 10), 0.8)] * 2}
    whole = released_parts(labels, gates)
    assert whole["loss"] == pytest.approx(LOSSES["total.js.tau1.gate_mean0.8"].item(), abs=1e-5)
    labels[:2, 7:] = IGNORED
    padded = released_parts(labels, gates)
    assert (
        padded["kd"] == whole["kd"] == pytest.approx(LOSSES["js.tau1"].item(), abs=1e-5)
    )  # over all 40 positions
    kept = labelled(tensor("student_logits").view(4, 10, -1), labels)
    assert padded["ce"] == pytest.approx(
        torch.nn.functional.cross_entropy(*kept, label_smoothing=0.1).item(), abs=1e-5
    )
    total = 0.5 * ((padded["ce"] + 0.3) / 1.41**2 + LOSSES["js.tau1"].item())
    assert padded["loss"] == pytest.approx(total, abs=1e-5) and padded["loss"] != whole["loss"]


def test_budget_of_gates_that_are_open_in_padding_alone(released_parts):
    labels = tensor("labels").view(4, 10).clone()
    labels[:, 8:] = IGNORED
    gates = {"encoder": [torch.zeros(4, 50)] * 2, "decoder": [torch.zeros(4, 10)] * 2}
    for layer in gates["decoder"]:
        layer[:, 8:] = 1.0
    found = released_parts(labels, gates)
    assert found["gate_decoder"] == 0 and found["budget"] == pytest.approx(
        0.5 - 4 * 2 / (4 * 60), abs=1e-6
    )


def test_accumulated_batches_weigh_by_their_words_or_the_same(clips, collator, tmp_path):
    model = load_whisper("tiny")
    batch = collator([clips[0]])
    for fidelity, share in (
        (Fidelity(), len(clips[0]["labels"]) / 100),
        (Fidelity(equal_batches=True), 1 / 4),
    ):
        trainer = trainer_of(
            model.train(), clips, collator, tmp_path, fidelity, accumulation=4, budget=None
        )
        loss = trainer.compute_loss(model, batch, num_items_in_batch=100).item()
        assert loss == pytest.approx(share * trainer._parts[0][1]["loss"], rel=1e-6)


# ---- LoRA


def test_lora_on_both_trains_adapters_on_shared_blocks_and_experts(tmp_path):
    system = get_system("lora")
    model = prepare_for_training(load_whisper("tiny"), system, "cs", lora_on_both=True)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(names) == 4 * 2 * 2 * 2 and all(".lora_" in name for name in names)
    assert (
        {".shared." in name for name in names}
        == {".experts.cs." in name for name in names}
        == {True, False}
    )
    batch = random_batch()
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).add_(0.05)
    expected = logits(model.eval(), batch)
    folder = save_trained(model, system, tmp_path / "model")
    again = load_trained(system, folder, "tiny", lora_on_both="cs")
    plain = logits(load_whisper("tiny"), batch)
    assert not torch.allclose(expected, plain, atol=1e-3)
    shared = logits(again, batch)
    assert not torch.allclose(shared, plain, atol=1e-3)  # the shared blocks have adapters too
    set_language(again, "cs")
    torch.testing.assert_close(logits(again, batch), expected, atol=1e-6, rtol=0)
    for name, parameter in again.named_parameters():
        if ".lora_" in name:
            assert torch.equal(parameter, model.get_parameter(name)), name


def test_lora_on_both_has_the_release_s_count_at_whisper_small():
    config = WhisperConfig(
        d_model=768,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
    )
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
        model = prepare_for_training(model, get_system("lora"), "cs", lora_on_both=True)
    assert count_parameters(model)["trained"] == 23_592_960
    assert lora_config(
        on_both=True
    ).r == lora_config().r == 64 and lora_config().target_modules == {"fc1", "fc2"}


# ---- whole runs


@pytest.mark.parametrize("name", ["distilwhisper-released", "lora"])
def test_a_released_run_trains_and_goes_on_where_it_was_stopped(
    name, processor, collator, tmp_path, monkeypatch
):
    fidelity, system, preset = (
        FIDELITIES["released"],
        get_system(name),
        replace(get_preset("smoke"), batch_size=4),
    )
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))
    teacher = cache_teacher_distributions(
        tiny_whisper(seed=1), clips, collator, tmp_path / "teacher", K, padded=True
    )
    goal = Objective(teacher=teacher if system.distils else None, fidelity=fidelity)

    def train(folder):
        return train_system(system, folder, preset, goal, clips, clips, collator, "cs", 1e-2, 3, 77)

    whole = train(tmp_path / "whole")
    run = json.loads((whole / "run.json").read_text())
    losses = [row["eval_loss"] for row in run["log"] if "eval_loss" in row]
    assert run["fidelity"] == fidelity.on() and losses[-1] < losses[0]
    compute, calls = LabTrainer.compute_loss, []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:  # in the second epoch: two steps and two evaluations an epoch
            raise KeyboardInterrupt
        return compute(*args, **kwargs)

    monkeypatch.setattr(LabTrainer, "compute_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts")
    monkeypatch.setattr(LabTrainer, "compute_loss", compute)
    assert (tmp_path / "parts" / "checkpoints" / "checkpoint-2" / "complete").exists()
    file = {"lora": "adapter_model.safetensors"}.get(name, "experts.cs.safetensors")
    assert (train(tmp_path / "parts") / "model" / file).read_bytes() == (
        whole / "model" / file
    ).read_bytes()


def test_study_of_fidelity_scores_each_difference(monkeypatch):
    lab = Lab("smoke", **CHANGES)
    monkeypatch.setattr(
        study, "FIDELITIES", {name: FIDELITIES[name] for name in ("corrected", "released")}
    )
    found = study.fidelity(lab)
    assert list(found["fidelity"]) == ["corrected", "released", "corrected, another seed"]
    assert found["wer"].notna().all() and list(found["seed"]) == [77, 77, 78]
    saved = pd.read_csv(lab.results / "studies" / "fidelity.csv")
    assert saved["difference"][0] == 0 and saved["difference"].notna().all() and len(lab.used) > 4


def test_study_of_lora_has_its_own_differences_and_the_releases_measure(monkeypatch):
    lab = Lab("smoke", **CHANGES)
    kept = ("corrected", "released", "lora_on_both", "noise_at_start")
    monkeypatch.setattr(study, "FIDELITIES", {name: FIDELITIES[name] for name in kept})
    found = study.fidelity(lab, "lora")
    assert list(found["fidelity"]) == [
        "corrected",
        "released",
        "lora_on_both",
        "corrected, another seed",
    ]
    saved = pd.read_csv(lab.results / "studies" / "fidelity-lora.csv")
    assert saved["difference"].notna().all() and saved["wer_forced"].notna().all()
    assert not (lab.results / "studies" / "fidelity.csv").exists()


def test_teacher_forced_words_follow_the_right_ones():
    lab = Lab("smoke", **CHANGES)
    said = study.teacher_forced(lab, "lora", "cs/validation")
    clips, model, tokenizer = (
        lab.test_clips("cs/validation"),
        lab.model("lora"),
        lab.processor.tokenizer,
    )
    assert len(said) == len(clips) > 1
    for i, text in enumerate(said):
        batch = lab.collator([clips[i]])
        inputs = {name: batch[name] for name in ("input_features", "decoder_input_ids")}
        with torch.no_grad(), use_window(model, batch["input_features"].shape[-1]):
            words = model(**inputs).logits.argmax(-1)[0]
        assert text == tokenizer.decode(words[batch["labels"][0] >= 0], skip_special_tokens=True)


def test_study_of_top_k_compares_with_all_words():
    lab = Lab(
        "smoke", experts={"hard": False}, **CHANGES
    )  # hard gates are all shut after the single step
    words = tiny_whisper().config.vocab_size
    found = study.top_k(lab, (4, words - 1))
    saved = pd.read_csv(lab.results / "studies" / "top_k.csv")
    assert list(saved["top_k"]) == [4, words - 1] and found["validation_loss"].nunique() == 2
    assert saved["difference"][0] == 0 and saved["difference"].notna().all()


def test_study_of_fidelity_leaves_out_what_changes_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(
        study, "_trial", lambda lab, *_, **__: asked.append(lab.preset.fidelity) or {}
    )
    for name, returned in (("counts", pd.DataFrame({"loop": [False]})), ("paired_difference", {})):
        monkeypatch.setattr(study, name, lambda *_, returned=returned, **__: returned)
    study.fidelity(Lab("smoke"))
    kept = [
        name
        for name in DIFFERENCES
        if name not in ("lora_on_both", "unscaled_loss", "equal_batches")
    ]
    assert asked == [
        "corrected",
        "paper",
        "released",
        *kept,
        "corrected",
    ]  # the last with another seed
    asked.clear()
    study.fidelity(Lab("smoke", accumulation=2))
    assert "equal_batches" in asked
    asked.clear()
    study.fidelity(Lab("smoke"), "clsr-ft")
    assert asked == ["corrected", "paper", "released", *kept, "corrected"]


def test_lora_of_a_released_lab_transcribes():
    lab = Lab("smoke", fidelity="released", **CHANGES)
    assert len(lab.transcribe("lora", "cs/in-domain")) == 3
    assert "experts" in str(next(iter(lab.model("lora").peft_config.values())).target_modules)
