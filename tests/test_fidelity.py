"""Fidelity: each switch changes what it should and nothing else."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from random_data import RandomClips, logits, random_batch, shake_experts
from runs import arguments_of, config_of, optimisation_of, train, trainer_on
from transformers import TrainerCallback, WhisperConfig, WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.experiments import study
from distilwhisper_lib.fidelity import (
    DIFFERENCES,
    FIDELITIES,
    LABELS,
    Fidelity,
    get_fidelity,
)
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, last_gates
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import set_language
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
from distilwhisper_lib.training.methods import (
    FineTuning,
    count_parameters,
    get_method,
    lora_config,
    save_trained,
)
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.teacher import cache_teacher_distributions
from distilwhisper_lib.training.trainer import LabTrainer
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.tiny import tiny_tokenizer, tiny_whisper
from distilwhisper_lib.whisper.tokens import decoder_inputs, encode_labels

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import method_table  # noqa: E402

LOSSES = np.load(Path(__file__).parent / "data" / "parity" / "losses.npz")
FORWARD = np.load(Path(__file__).parent / "data" / "parity" / "forward.npz")
PRESET = get_preset("smoke")
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


def trainer_of(model, clips, collator, folder, fidelity, accumulation=1, teacher=None, **objective):
    """Return a trainer for one epoch; objective: fields of `Objective`."""
    preset = replace(PRESET, batch_size=2, accumulation=accumulation)
    arguments = arguments_of(folder, optimisation_of(preset), len(clips))
    arguments.save_strategy = arguments.eval_strategy = "no"
    return trainer_on(
        model,
        arguments,
        Objective(**objective),
        clips,
        collator,
        teacher=teacher,
        fidelity=fidelity,
    )


def parts_of(model, batch, clips, collator, folder, fidelity, **settings):
    """Return the parts of one batch's loss, without noise; settings as for `trainer_of`."""
    trainer = trainer_of(model.train(), clips, collator, folder, fidelity, **settings)
    trainer.compute_loss(model, batch)
    return trainer.read_logged_parts()[0][1]


# ---- names


def test_names_and_what_they_switch():
    assert get_fidelity("corrected") == Fidelity()
    assert Fidelity().on() == []
    assert get_fidelity("paper").on() == ["unscaled_loss"]
    in_release = [name for name in DIFFERENCES if name != "unscaled_loss"]
    assert get_fidelity("released").on() == in_release
    for name in DIFFERENCES:
        assert get_fidelity(name).on() == [name]
    assert get_fidelity("released").on("lora_on_both", "unscaled_loss") == ["lora_on_both"]
    assert all(preset.fidelity == "corrected" for preset in PRESETS.values())


def test_an_unknown_name_is_told_at_once():
    message = "unknown fidelity 'published': one of corrected, paper, released, noise_at_start, "
    with pytest.raises(ValueError, match=message):
        get_fidelity("published")
    with pytest.raises(ValueError, match=message):
        Lab("smoke", fidelity="published")


def test_every_switch_has_its_row_in_the_table_of_differences():
    rows = {row[1].strip("`"): row for row in method_table.fidelity_rows()}
    assert set(rows) == {*DIFFERENCES, "–"}
    assert method_table.MODES == ("paper", "released", "corrected")
    for name in DIFFERENCES:
        paper, released, corrected = rows[name][2:5]
        of_paper = name == "unscaled_loss"
        assert (released != corrected, paper != corrected) == (not of_paper, of_paper), name


# ---- runs


def names_of(lab, *methods):
    """Return the names of a lab's runs and cached teacher distributions; nothing is trained."""
    names = {name: lab.run_config(name).name for name in ("teacher", *methods)}
    return names | {"distributions": lab._distributions_folder("cs", 1.0).name}


def test_each_switch_gives_other_runs_and_the_same_stand_in():
    methods = ("lora", "distilwhisper")
    corrected = names_of(Lab("smoke"), *methods)
    changes_distributions = {"padding_in_divergence", *LABELS, "released"}
    seen = {corrected["distilwhisper"]}
    for name in (*DIFFERENCES, "released"):
        found = names_of(Lab("smoke", fidelity=name), *methods)
        assert found["teacher"] == corrected["teacher"]
        assert found["lora"] != corrected["lora"]
        changed = found["distributions"] != corrected["distributions"]
        assert changed == (name in changes_distributions), name
        seen.add(found["distilwhisper"])
    assert len(seen) == len(DIFFERENCES) + 2


def test_a_run_is_corrected_unless_another_fidelity_is_asked_for():
    for name in ("lora", "distilwhisper"):
        config = Lab("smoke").run_config(name)
        assert config.fidelity == Fidelity()
        assert config.name == Lab("smoke", fidelity="corrected").run_config(name).name


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
    plain = load_whisper("tiny")
    GateNoise(final_from_start=True).on_step_begin(None, None, None, model=plain)  # no gates


# ---- padding


def test_gate_budget_over_padding_is_the_plain_mean_over_all_positions(clips, collator, tmp_path):
    model = experts()
    batch = collator([clips[0], clips[1]])
    assert (batch["labels"] == IGNORED).any()
    common = (model, batch, clips, collator, tmp_path)
    corrected = parts_of(*common, Fidelity(), budget=0.1)
    found = parts_of(*common, Fidelity(padding_in_budget=True), budget=0.1)

    gates = torch.cat([gate.flatten() for layers in last_gates(model).values() for gate in layers])
    window = batch["input_features"].shape[-1] // 2
    assert len(gates) == 2 * 2 * window + 2 * batch["labels"].numel()
    assert found["budget"] == pytest.approx(abs(gates.mean().item() - 0.1), abs=1e-6)
    assert abs(found["budget"] - corrected["budget"]) > 1e-4
    same = {name for name in found if name not in ("budget", "loss")}
    assert same == {"ce", "gate_encoder", "gate_decoder"}
    assert all(found[name] == corrected[name] for name in same)


@pytest.mark.parametrize("language", ["catalan", "tamil"])
def test_mean_gate_of_the_releases_own_numbers(language):
    gates = {}
    for stack in ("encoder", "decoder"):
        names = [f"gates.{language}.transcribe.{stack}.{layer}" for layer in range(2)]
        gates[stack] = [torch.from_numpy(FORWARD[name]) for name in names]
    everywhere = {
        stack: torch.ones(layers[0].shape, dtype=torch.bool) for stack, layers in gates.items()
    }
    mean = FORWARD[f"gate_mean.{language}.transcribe"].item()
    assert gate_budget_loss(gates, everywhere, 0.0).item() == pytest.approx(mean, abs=1e-6)


def test_divergence_over_padding_is_that_of_the_whole_batch(clips, collator, tmp_path):
    model = experts()
    teacher = tiny_whisper(seed=1)
    order = sorted(range(8), key=lambda i: -clips.durations[i])
    # the clips as the teacher saw them, in one window, but with shorter labels
    batch = collator([clips[i] for i in order[2:4]])
    common = (model, batch, clips, collator, tmp_path)

    cached = cache_teacher_distributions(
        teacher, clips, collator, tmp_path / "padded", K, 2, padded=True
    )
    fidelity = Fidelity(padding_in_divergence=True)
    found = parts_of(*common, fidelity, budget=None, divergence="js", teacher=cached)

    inputs = {name: batch[name] for name in ("input_features", "decoder_input_ids")}
    theirs = logits(teacher, inputs).flatten(0, 1)  # (B * T, V), padding included
    ours = logits(model, inputs).flatten(0, 1)
    token_ids, log_probs = top_k_log_probs(theirs, K)
    everywhere = top_k_divergence(token_ids, log_probs, ours).item()
    assert found["kd"] == pytest.approx(everywhere, rel=5e-3)  # fp16

    kept = batch["labels"].flatten() != IGNORED
    real = top_k_divergence(token_ids[kept], log_probs[kept], ours[kept]).item()
    assert not kept.all()
    assert abs(found["kd"] - real) > 0.02 * real
    cached = cache_teacher_distributions(teacher, clips, collator, tmp_path / "plain", K, 2)
    corrected = parts_of(*common, Fidelity(), budget=None, divergence="js", teacher=cached)
    assert corrected["kd"] == pytest.approx(real, rel=5e-3)
    assert corrected["ce"] == found["ce"]


def test_distributions_without_padding_do_not_serve_a_run_with_it(clips, collator, tmp_path):
    teacher = tiny_whisper()
    plain = cache_teacher_distributions(teacher, clips, collator, tmp_path / "plain", K, 4)
    padded = cache_teacher_distributions(
        teacher, clips, collator, tmp_path / "padded", K, 4, padded=True
    )
    batch = collator([clips[i] for i in range(8)])
    token_ids, _ = padded.lookup(batch["ids"], batch["labels"], padded=True)
    assert len(token_ids) == batch["labels"].numel()
    message = r"the teacher saw \d+ label tokens, the student has"
    with pytest.raises(ValueError, match=message):
        plain.lookup(batch["ids"], batch["labels"], padded=True)
    with pytest.raises(ValueError, match=message):
        padded.lookup(batch["ids"], batch["labels"])


# ---- labels


def test_labels_of_each_switch():
    tokenizer = tiny_tokenizer()
    start, code, task, times = tokenizer.convert_tokens_to_ids(
        ["<|startoftranscript|>", "<|cs|>", "<|transcribe|>", "<|notimestamps|>"]
    )
    end = tokenizer.eos_token_id
    text = tokenizer("ab", add_special_tokens=False).input_ids
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
    """As in the release: padding masked, "bos" removed, then shifted by Whisper."""
    tokenizer = tiny_tokenizer()
    config = tiny_whisper().config
    tokenizer.set_prefix_tokens(task="transcribe")
    assert tokenizer.bos_token == "<|endoftext|>"
    assert tokenizer.language is None
    texts = ("abc", "d")
    padded = tokenizer.pad(
        [{"input_ids": tokenizer(text).input_ids} for text in texts], return_tensors="pt"
    )
    labels = padded["input_ids"].masked_fill(padded["attention_mask"] != 1, IGNORED)
    assert not (labels[:, 0] == tokenizer.bos_token_id).any()  # so nothing is removed
    start = config.decoder_start_token_id
    assert (labels[:, 0] == start).all()
    inputs = shift_tokens_right(labels, config.pad_token_id, start)
    assert (inputs[:, :2] == start).all()

    items = []
    for text in texts:
        token_ids = encode_labels(tokenizer, text, "cs", fidelity=FIDELITIES["released"])
        items.append(
            {"id": text, "features": torch.zeros(80, 20), "frames": 20, "labels": token_ids}
        )
    ours = Collator(tokenizer, None)(items)
    assert torch.equal(ours["labels"], labels)
    assert torch.equal(ours["decoder_input_ids"], inputs)


def test_a_labs_clips_have_the_labels_of_its_fidelity():
    corrected = Lab("smoke").clips("train", limit=2).labels[0]
    lab = Lab("smoke", fidelity="released")
    released = lab.clips("train", limit=2).labels[0]
    assert released[0] != corrected[0]  # the start token in the place of the language
    assert released[1:] == corrected[1:]
    plain = lab.clips("teacher", limit=2, fidelity=Fidelity()).labels[0]
    assert plain[0] == corrected[0]


def test_a_label_that_is_too_long_with_the_start_token_is_told(processor):
    text = "a" * 20
    tokenizer = processor.tokenizer
    assert len(encode_labels(tokenizer, text, "cs", limit=24)) == 24
    with_start = Fidelity(labels_with_start=True)
    with pytest.raises(ValueError, match="label too long: 25 tokens"):
        encode_labels(tokenizer, text, "cs", limit=24, fidelity=with_start)


# ---- the total


def tensor(name):
    return torch.from_numpy(np.asarray(LOSSES[name]))


def test_total_loss_of_the_release_and_of_the_paper():
    ce = torch.as_tensor(LOSSES["ce.smoothing0.1"])
    kd = torch.as_tensor(LOSSES["js.tau1"])
    gate = torch.as_tensor(0.8 - 0.5)
    released = LOSSES["total.js.tau1.gate_mean0.8"].item()
    assert total_loss(ce, gate, kd).item() == pytest.approx(released, abs=1e-5)
    paper = total_loss(ce, gate, kd, unscaled=True).item()
    assert paper == pytest.approx((ce + gate + 2 * kd).item(), abs=1e-5)
    assert paper / released == pytest.approx(2 * 1.41**2, rel=2e-3)  # 1.41^2 is 1.988, not 2
    without_teacher = (ce + gate).item()
    assert total_loss(ce, gate).item() == without_teacher
    assert total_loss(ce, gate, unscaled=True).item() == without_teacher


class Cached:
    """Cached teacher distributions at the release's 40 positions, padding included."""

    folder = Path("parity")

    def lookup(self, ids, labels, padded):
        assert padded
        return top_k_log_probs(tensor("teacher_logits"), 96)


@pytest.fixture
def released_parts(monkeypatch, tmp_path, clips, collator):
    """Return a function: labels (4, 10) and gates to a trainer's loss on the release's logits."""

    def parts(labels, gates):
        monkeypatch.setattr("distilwhisper_lib.training.trainer.last_gates", lambda model: gates)
        trainer = trainer_of(
            load_whisper("tiny"),
            clips,
            collator,
            tmp_path,
            FIDELITIES["released"],
            teacher=Cached(),
            divergence="js",
        )
        batch = {"labels": labels, "ids": list("abcd"), "frames": torch.tensor([40, 50, 60, 100])}
        found = trainer._loss_parts(batch, tensor("student_logits"), labels.flatten())
        return {name: value.item() for name, value in found.items()}

    return parts


def constant_gates(value):
    """Return gates of two layers of each stack, all with one value."""
    return {
        "encoder": [torch.full((4, 50), value)] * 2,
        "decoder": [torch.full((4, 10), value)] * 2,
    }


def test_total_of_the_releases_own_numbers_with_and_without_padding(released_parts):
    labels = tensor("labels").view(4, 10).clone()
    gates = constant_gates(0.8)
    js = LOSSES["js.tau1"].item()
    whole = released_parts(labels, gates)
    assert whole["loss"] == pytest.approx(LOSSES["total.js.tau1.gate_mean0.8"].item(), abs=1e-5)
    assert whole["kd"] == pytest.approx(js, abs=1e-5)

    labels[:2, 7:] = IGNORED
    padded = released_parts(labels, gates)
    assert padded["kd"] == whole["kd"]  # over all 40 positions
    student, kept_labels = labelled(tensor("student_logits").view(4, 10, -1), labels)
    ce = torch.nn.functional.cross_entropy(student, kept_labels, label_smoothing=0.1).item()
    assert padded["ce"] == pytest.approx(ce, abs=1e-5)
    total = 0.5 * ((padded["ce"] + 0.3) / 1.41**2 + js)
    assert padded["loss"] == pytest.approx(total, abs=1e-5)
    assert padded["loss"] != whole["loss"]


def test_budget_of_gates_that_are_open_in_padding_alone(released_parts):
    labels = tensor("labels").view(4, 10).clone()
    labels[:, 8:] = IGNORED
    gates = constant_gates(0.0)
    for layer in gates["decoder"]:
        layer[:, 8:] = 1.0
    found = released_parts(labels, gates)
    assert found["gate_decoder"] == 0
    assert found["budget"] == pytest.approx(0.5 - 4 * 2 / (4 * 60), abs=1e-6)


def test_accumulated_batches_weigh_by_their_tokens_or_the_same(clips, collator, tmp_path):
    model = load_whisper("tiny").train()
    batch = collator([clips[0]])
    by_tokens = len(clips[0]["labels"]) / 100
    for fidelity, share in ((Fidelity(), by_tokens), (Fidelity(equal_batches=True), 1 / 4)):
        trainer = trainer_of(
            model, clips, collator, tmp_path, fidelity, accumulation=4, budget=None
        )
        loss = trainer.compute_loss(model, batch, num_items_in_batch=100).item()
        whole = trainer.read_logged_parts()[0][1]["loss"]
        assert loss == pytest.approx(share * whole, rel=1e-6)


# ---- LoRA

ON_BOTH = Fidelity(lora_on_both=True)


def test_lora_on_both_trains_adapters_on_shared_blocks_and_experts(clips, tmp_path):
    method = get_method("lora")
    config = config_of("lora", PRESET, clips, fidelity=ON_BOTH)
    model = method.prepare(load_whisper("tiny"), "cs", config)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(names) == 4 * 2 * 2 * 2
    assert all(".lora_" in name for name in names)
    on_shared = {name for name in names if ".shared." in name}
    on_experts = {name for name in names if ".experts.cs." in name}
    assert len(on_shared) == len(on_experts) == len(names) / 2

    batch = random_batch()
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).add_(0.05)
    expected = logits(model.eval(), batch)
    plain = logits(load_whisper("tiny"), batch)
    assert not torch.allclose(expected, plain, atol=1e-3)

    again = method.load(save_trained(model, method, tmp_path / "model"), config)
    assert not again.training
    shared = logits(again, batch)
    assert not torch.allclose(shared, plain, atol=1e-3)  # the shared blocks have adapters too
    set_language(again, "cs")
    torch.testing.assert_close(logits(again, batch), expected, atol=1e-6, rtol=0)
    for name, parameter in again.named_parameters():
        if ".lora_" in name:
            assert torch.equal(parameter, model.get_parameter(name)), name


def test_lora_on_both_has_the_releases_count_at_whisper_small(clips):
    small = WhisperConfig(
        d_model=768,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=12,
        decoder_attention_heads=12,
        encoder_ffn_dim=3072,
        decoder_ffn_dim=3072,
    )
    config = config_of("lora", PRESET, clips, fidelity=ON_BOTH)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(small)
        model = get_method("lora").prepare(model, "cs", config)
    assert count_parameters(model)["trained"] == 23_592_960
    assert lora_config(on_both=True).r == lora_config().r == 64
    assert lora_config().target_modules == {"fc1", "fc2"}


# ---- whole runs

WEIGHTS = {
    "lora": "adapter_model.safetensors",
    "distilwhisper-released": "experts.cs.safetensors",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_released_run_trains_and_goes_on_where_it_was_stopped(
    name, processor, collator, tmp_path, monkeypatch
):
    released = FIDELITIES["released"]
    preset = replace(PRESET, batch_size=4)
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))
    teacher = cache_teacher_distributions(
        tiny_whisper(seed=1), clips, collator, tmp_path / "teacher", K, padded=True
    )
    settings = {"teacher": teacher, "rate": 1e-2, "epochs": 3, "fidelity": released}

    def run(folder):
        return train(name, folder, preset, clips, collator, **settings)

    whole = run(tmp_path / "whole")
    facts = json.loads((whole / "run.json").read_text())
    losses = [row["eval_loss"] for row in facts["log"] if "eval_loss" in row]
    assert facts["config"]["fidelity"] == asdict(released)
    assert losses[-1] < losses[0]

    compute = LabTrainer.compute_loss
    calls = []

    def stopped(*args, **kwargs):
        calls.append(1)
        if len(calls) == 6:  # in the second epoch: two steps and two evaluations an epoch
            raise KeyboardInterrupt
        return compute(*args, **kwargs)

    parts = tmp_path / "parts"
    monkeypatch.setattr(LabTrainer, "compute_loss", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(parts)
    monkeypatch.setattr(LabTrainer, "compute_loss", compute)
    assert (parts / "checkpoints" / "checkpoint-2" / "complete").exists()
    again = (run(parts) / "model" / WEIGHTS[name]).read_bytes()
    assert again == (whole / "model" / WEIGHTS[name]).read_bytes()


# ---- studies


def few(monkeypatch, *names):
    """Let the study of fidelity know these alone."""
    monkeypatch.setattr(study, "FIDELITIES", {name: FIDELITIES[name] for name in names})


def test_study_of_fidelity_scores_each_difference(monkeypatch):
    lab = Lab("smoke", **CHANGES)
    few(monkeypatch, "corrected", "released")
    found = study.fidelity(lab)
    assert list(found["fidelity"]) == ["corrected", "released", "corrected, another seed"]
    assert list(found["seed"]) == [77, 77, 78]
    assert found["wer"].notna().all()
    saved = pd.read_csv(lab.results / "studies" / "fidelity.csv")
    assert saved["difference"][0] == 0
    assert saved["difference"].notna().all()
    assert len(lab.used) > 4


def test_study_of_lora_has_its_own_differences_and_the_releases_measure(monkeypatch):
    lab = Lab("smoke", **CHANGES)
    few(monkeypatch, "corrected", "released", "lora_on_both", "noise_at_start")
    found = study.fidelity(lab, "lora")
    rows = ["corrected", "released", "lora_on_both", "corrected, another seed"]
    assert list(found["fidelity"]) == rows
    saved = pd.read_csv(lab.results / "studies" / "fidelity-lora.csv")
    assert saved["difference"].notna().all()
    assert saved["wer_forced"].notna().all()
    assert not (lab.results / "studies" / "fidelity.csv").exists()


def test_teacher_forced_predictions_follow_the_right_tokens():
    lab = Lab("smoke", **CHANGES)
    predictions = study.teacher_forced_predictions(lab, "lora", "cs/validation")
    clips = lab.test_clips("cs/validation")
    model = lab.model("lora")
    assert len(predictions) == len(clips) > 1
    for index, text in enumerate(predictions):
        batch = lab.collator([clips[index]])
        inputs = {name: batch[name] for name in ("input_features", "decoder_input_ids")}
        token_ids = logits(model, inputs).argmax(-1)[0]
        kept = token_ids[batch["labels"][0] >= 0]
        assert text == lab.processor.tokenizer.decode(kept, skip_special_tokens=True)


def test_study_of_top_k_compares_with_all_tokens(monkeypatch):
    # soft gates: hard ones are all shut after the single step of this training
    monkeypatch.setattr(study, "OURS", "distilwhisper-released")
    lab = Lab("smoke", **CHANGES)
    all_but_one = tiny_whisper().config.vocab_size - 1
    found = study.top_k(lab, (4, all_but_one))
    saved = pd.read_csv(lab.results / "studies" / "top_k.csv")
    assert list(saved["top_k"]) == [4, all_but_one]
    assert found["validation_loss"].nunique() == 2
    assert saved["difference"][0] == 0
    assert saved["difference"].notna().all()


def test_study_of_fidelity_leaves_out_what_changes_nothing(monkeypatch):
    trials = []
    monkeypatch.setattr(study, "compare_trials", lambda *arguments: trials.append(arguments))

    def asked(lab, *names):
        trials.clear()
        study.fidelity(lab, *names)
        return [trial.called["fidelity"] for trial in trials[0][3]]

    rare = ("lora_on_both", "unscaled_loss", "equal_batches")
    kept = [name for name in DIFFERENCES if name not in rare]
    expected = ["corrected", "paper", "released", *kept, "corrected, another seed"]
    assert asked(Lab("smoke")) == expected
    assert all(trial.preset.fidelity == trial.called["fidelity"] for trial in trials[0][3][:-1])
    assert trials[0][3][-1].preset.fidelity == "corrected"
    assert "equal_batches" in asked(Lab("smoke", accumulation=2))
    assert asked(Lab("smoke"), "clsr-ft") == expected
    assert asked(Lab("smoke", fidelity="released")) == expected
    assert trials[0][3][-1].preset.fidelity == "corrected"
    of_labels = ["corrected", "released", *LABELS, "corrected, another seed"]
    assert asked(Lab("smoke"), "fine-tuning") == of_labels


def test_study_of_fidelity_refuses_a_method_on_which_no_difference_acts(monkeypatch):
    monkeypatch.setattr(FineTuning, "fidelity_switches", ())
    monkeypatch.setattr(study, "compare_trials", lambda *_: pytest.fail("something was trained"))
    told = "no difference to the release acts on fine-tuning.*tune and seeds take it"
    with pytest.raises(ValueError, match=told):
        study.main(["fidelity", "--preset", "smoke", "--systems", "lora", "fine-tuning"])
    with pytest.raises(ValueError, match=told):
        study.fidelity(Lab("smoke"), "fine-tuning")
    assert study.acting_differences(Lab("smoke", accumulation=2), "fine-tuning") == {
        "equal_batches"
    }


def test_lora_of_a_released_lab_transcribes():
    lab = Lab("smoke", fidelity="released", **CHANGES)
    assert len(lab.transcribe("lora", "cs/in-domain")) == 3
    adapter = next(iter(lab.model("lora").peft_config.values()))
    assert "experts" in str(adapter.target_modules)
