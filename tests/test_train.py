"""The trainer: the same update however a batch is cut, orders, noise, and each method."""

import json
import re
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from random_data import (
    FRAMES,
    RandomClips,
    frozen_state,
    logits,
    random_batch,
    same_state,
    shake_experts,
)
from runs import arguments_of, config_of, optimisation_of, train, trainer_on
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from distilwhisper_lib.data.audio import pad_features
from distilwhisper_lib.data.batches import Collator, LengthOrder, length_batches
from distilwhisper_lib.fidelity import Fidelity
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, expert_parameters
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import set_language
from distilwhisper_lib.method.losses import cross_entropy, labelled, total_loss
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.training import run as run_module
from distilwhisper_lib.training.config import Decoding, ModelIdentity, identify
from distilwhisper_lib.training.methods import (
    METHODS,
    count_parameters,
    get_method,
    lora_rank,
    register,
    save_trained,
    trained_methods,
)
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.run import train_run
from distilwhisper_lib.training.teacher import cache_teacher_distributions
from distilwhisper_lib.training.trainer import LabTrainer
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.shapes import SHAPES, WhisperShape
from distilwhisper_lib.whisper.tiny import tiny_whisper

PRESET = replace(get_preset("smoke"), batch_size=2, epochs=2)
# those of experts are higher
RATES = {"teacher": 1e-2, "fine-tuning": 1e-2, "lora": 1e-2, "distilwhisper-low-rank": 5e-3}
STILL = ExpertSettings(
    expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0, noise=0.0
)  # nothing random in training


@pytest.fixture
def clips(processor):
    return RandomClips(processor.tokenizer, 8)


@pytest.fixture
def teacher(clips, collator, tmp_path):
    return cache_teacher_distributions(
        tiny_whisper(seed=1), clips, collator, tmp_path / "teacher", k=8
    )


class Spy(TrainerCallback):
    """Notes gradients before each step, and noise, learning rate and epoch after it."""

    def __init__(self):
        self.gradients, self.noise, self.rates, self.steps = [], [], [], 0

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        self.gradients.append(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        )

    def on_step_end(self, args, state, control, model=None, optimizer=None, **_):
        self.noise += [block.routing.noise for block in clsr_blocks(model)[:1]]
        self.steps += 1

    def on_log(self, args, state, control, logs=None, **_):
        if "learning_rate" in logs:
            self.rates.append(logs["learning_rate"])


def trainer_of(
    model,
    clips,
    collator,
    folder,
    objective=None,
    batch_size=2,
    accumulation=1,
    epochs=1,
    rate=1e-3,
    seed=0,
    teacher=None,
):
    preset = replace(PRESET, batch_size=batch_size, accumulation=accumulation)
    arguments = arguments_of(folder, optimisation_of(preset, rate, epochs), len(clips), seed)
    arguments.logging_steps, arguments.max_grad_norm = 1, 0  # gradients as they come
    arguments.save_strategy = arguments.eval_strategy = "no"
    spy = Spy()
    objective = objective or Objective(label_smoothing=0.0, budget=None)
    return trainer_on(model, arguments, objective, clips, collator, [spy], teacher=teacher), spy


def trained(model, *args, **kwargs):
    trainer, spy = trainer_of(model, *args, **kwargs)
    trainer.train()
    return trainer, spy


# ---- a batch in one piece or in four


def experts(settings=STILL):
    model = shake_experts(attach_experts(load_whisper("tiny"), ["cs"], settings))
    set_language(model, "cs")
    return model


class OneWindow(Collator):
    """The same window for every batch: a clip's features don't depend on its neighbours."""

    def __call__(self, items):
        return super().__call__(items) | {
            "input_features": pad_features([item["features"] for item in items], FRAMES)
        }


def assert_same_update(models, spies):
    for first, second in zip(spies[0].gradients, spies[1].gradients, strict=True):
        assert first.keys() == second.keys()
        for name in first:
            scale = first[name].abs().max().item()
            torch.testing.assert_close(second[name], first[name], rtol=0, atol=2e-5 * scale)
    for name, tensor in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], tensor, rtol=0, atol=1e-6)


def test_eight_clips_at_once_and_four_times_two_give_the_same_update(processor, collator, tmp_path):
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.6, 0.6), letters=(5, 5))
    models = [load_whisper("tiny"), load_whisper("tiny")]
    goal = Objective(label_smoothing=0.1, budget=None)
    runs = [
        trained(model, clips, collator, tmp_path, goal, *cut, rate=1e-5)
        for model, cut in zip(models, ((8, 1), (2, 4)), strict=True)
    ]
    assert [spy.steps for _, spy in runs] == [1, 1]
    assert_same_update(models, [spy for _, spy in runs])
    losses = [run.state.log_history[0]["loss"] for run, _ in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] > 5


def test_the_same_for_experts_with_budget_and_distillation(processor, collator, tmp_path):
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.6, 0.6), letters=(5, 5))
    teacher = cache_teacher_distributions(
        tiny_whisper(seed=1), clips, collator, tmp_path / "teacher", k=8
    )
    models = [experts(), experts()]
    runs = [
        trained(
            model,
            clips,
            collator,
            tmp_path,
            Objective(divergence="js", budget=0.9),
            *cut,
            rate=1e-5,
            teacher=teacher,
        )
        for model, cut in zip(models, ((8, 1), (2, 4)), strict=True)
    ]
    assert_same_update(models, [spy for _, spy in runs])


@pytest.mark.parametrize("kind", ["plain", "experts"])
def test_sixteen_clips_at_once_and_twice_eight_give_the_same_update(
    kind, processor, collator, tmp_path
):
    """As on cards of different memory; nothing is drawn, and all gates are below the budget."""
    clips = RandomClips(processor.tokenizer, 16, seconds=(0.6, 0.6), letters=(1, 9))
    models = [experts() if kind == "experts" else load_whisper("tiny") for _ in range(2)]
    goal = Objective(budget=0.99 if kind == "experts" else None)
    runs = [
        trained(model, clips, collator, tmp_path, goal, *cut, rate=1e-5)
        for model, cut in zip(models, ((16, 1), (8, 2)), strict=True)
    ]
    assert [spy.steps for _, spy in runs] == [1, 1]
    assert_same_update(models, [spy for _, spy in runs])


def test_the_same_for_clips_of_other_lengths_where_the_window_is_fixed(processor, tmp_path):
    clips, collator = (
        RandomClips(processor.tokenizer, 8, letters=(1, 30)),
        OneWindow(processor.tokenizer, 0.0),
    )
    models = [load_whisper("tiny"), load_whisper("tiny")]
    runs = [
        trained(model, clips, collator, tmp_path, None, *cut, rate=1e-5)
        for model, cut in zip(models, ((8, 1), (2, 4)), strict=True)
    ]
    assert_same_update(models, [spy for _, spy in runs])


def test_transformers_own_trainer_gets_it_wrong_by_the_number_of_pieces(processor, tmp_path):
    """Why LabTrainer weighs its batches itself; where this fails, transformers has been mended."""
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.6, 0.6), letters=(5, 5))
    rows = [
        {
            "input_features": torch.nn.functional.pad(item["features"], (0, 3000 - item["frames"])),
            "labels": item["labels"],
        }
        for item in clips
    ]
    norms = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=batch_size,
            max_grad_norm=0,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            logging_steps=1,
        )
        spy = Spy()
        Trainer(load_whisper("tiny"), arguments, train_dataset=rows, callbacks=[spy]).train()
        norms.append(torch.stack([g.norm() for g in spy.gradients[0].values()]).norm().item())
    assert norms[1] / norms[0] == pytest.approx(4, rel=0.01)


# ---- order, schedule, noise


def test_each_epoch_is_in_the_order_of_its_seed_and_number(clips, collator, tmp_path):
    seen = []

    def spying(items):
        seen.extend(item["id"] for item in items)
        return collator(items)

    spying.tokenizer = collator.tokenizer
    trainer, _ = trainer_of(
        load_whisper("tiny"), clips, spying, tmp_path, batch_size=3, epochs=3, seed=5
    )
    trainer.train()
    order, expected = LengthOrder(clips.durations, 3, 5), []
    for epoch in range(3):
        order.set_epoch(epoch)
        expected += [clips.ids[i] for i in order]
    assert seen == expected and seen[:8] != seen[8:16] != seen[16:]


@pytest.mark.parametrize(
    ("count", "batch_size", "accumulation", "epochs", "steps"),
    [
        (8, 2, 1, 3, 12),
        (9, 2, 1, 2, 10),
        (9, 2, 2, 4, 12),
        (7, 8, 1, 5, 5),
    ],
)
def test_warm_up_is_a_whole_number(
    processor, collator, tmp_path, count, batch_size, accumulation, epochs, steps
):
    clips = RandomClips(processor.tokenizer, count)
    preset = replace(PRESET, batch_size=batch_size, accumulation=accumulation)
    optimisation = optimisation_of(preset, epochs=epochs, warmup_ratio=0.3)
    arguments = arguments_of(tmp_path, optimisation, count)
    assert type(arguments.warmup_steps) is int and arguments.warmup_steps == int(0.3 * steps)
    trainer = trainer_on(load_whisper("tiny"), arguments, Objective(), clips, collator)
    assert (
        trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1] == steps
    )


def test_learning_rate_rises_then_falls_linearly(clips, collator, tmp_path):
    optimisation = optimisation_of(PRESET, epochs=3, warmup_ratio=0.25)
    arguments = arguments_of(tmp_path, optimisation, len(clips))  # 12 steps, 3 of them warm-up
    arguments.logging_steps, arguments.save_strategy = 1, "no"
    spy = Spy()
    trainer_on(
        load_whisper("tiny"), arguments, Objective(budget=None), clips, collator, [spy]
    ).train()
    expected = [1e-3 * min(step / 3, (12 - step) / 9) for step in range(12)]
    assert spy.rates == pytest.approx(expected, abs=1e-9)
    assert (arguments.adam_beta2, arguments.weight_decay, arguments.seed) == (0.98, 0.0, 0)


def test_gate_noise_rises_from_zero_to_alpha(clips, collator, tmp_path):
    model = experts(ExpertSettings(noise=5.0))
    _, spy = trained(model, clips, collator, tmp_path, batch_size=2, epochs=3)
    assert spy.noise == pytest.approx([5 * step / 12 for step in range(12)])


def test_noise_matters_in_training_only(clips, collator, tmp_path):
    model = experts()
    batch = collator([clips[0], clips[1]])
    inputs = {name: batch[name] for name in ("input_features", "decoder_input_ids")}
    before = logits(model, inputs)
    for block in clsr_blocks(model):
        block.routing.noise = 50.0
    assert torch.equal(logits(model, inputs), before)
    assert not torch.allclose(logits(model.train(), inputs), before, atol=1e-3)


# ---- losses in the trainer


def plain_loss(model, batch, smoothing=0.0):
    inputs = {name: batch[name] for name in ("input_features", "decoder_input_ids")}
    return cross_entropy(*labelled(logits(model, inputs), batch["labels"]), smoothing).item()


def test_evaluation_is_the_plain_cross_entropy(clips, collator, teacher, tmp_path):
    model = experts()
    trainer, _ = trainer_of(
        model,
        clips,
        collator,
        tmp_path,
        Objective(label_smoothing=0.3, divergence="js"),
        teacher=teacher,
    )
    trainer.args.per_device_eval_batch_size = 8
    found = trainer.evaluate()["eval_loss"]
    batch = collator([clips[i] for i in range(8)])
    assert found == pytest.approx(plain_loss(model, batch), rel=1e-6)
    assert abs(found - plain_loss(model, batch, 0.3)) > 0.01


def test_log_holds_each_part_of_the_loss(clips, collator, teacher, tmp_path):
    trainer, _ = trained(
        experts(),
        clips,
        collator,
        tmp_path,
        Objective(divergence="js", budget=0.5),
        teacher=teacher,
    )
    rows = [row for row in trainer.state.log_history if "ce" in row]
    assert len(rows) == 4
    for row in rows:
        assert row["loss"] == pytest.approx(
            0.5 * ((row["ce"] + row["budget"]) / 1.41**2 + row["kd"]), rel=1e-4
        )
        assert 0 < row["gate_encoder"] < 1 and 0 < row["gate_decoder"] < 1 and row["kd"] > 1e-3
    trainer, _ = trained(experts(), clips, collator, tmp_path, Objective(budget=0.5))
    rows = [row for row in trainer.state.log_history if "ce" in row]
    assert all(
        row["loss"] == pytest.approx(row["ce"] + row["budget"], rel=1e-4) and "kd" not in row
        for row in rows
    )
    trainer, _ = trained(experts(), clips, collator, tmp_path, Objective(budget=None))
    assert all(row["budget"] == 0 for row in trainer.state.log_history if "ce" in row)
    trainer, _ = trained(
        load_whisper("tiny"), clips, collator, tmp_path, Objective(label_smoothing=0.1, budget=0.5)
    )
    rows = [row for row in trainer.state.log_history if "ce" in row]
    assert all(
        row["loss"] == pytest.approx(row["ce"], rel=1e-4) and "budget" not in row for row in rows
    )


def test_divergences_differ(clips, collator, teacher, tmp_path):
    values = []
    for kind in ("js", "kl"):
        trainer, _ = trained(
            experts(), clips, collator, tmp_path, Objective(divergence=kind), teacher=teacher
        )
        values.append(trainer.state.log_history[0]["kd"])
    assert 0 < values[0] < 0.5 * values[1]


OTHER_VALUES = {  # of every field of a configuration
    "label_smoothing": 0.0,
    "budget": None,
    "per_stack": True,
    "divergence": "kl",
    "divergence_weight": 2.0,
    "temperature": 2.0,
    "uniformity": 1.0,
    "learning_rate": 2e-3,
    "epochs": 2,
    "batch_size": 3,
    "accumulation": 2,
    "warmup_ratio": 0.2,
    "batches": "random",
    "gate_dim": 32,
    "expert_dropout": 0.0,
    "gate_dropout": 0.0,
    "skip_gate": 0.0,
    "noise": 1.0,
    "hard": True,
    "always_open": True,
    "rank": 4,
    "seed": 78,
    "precision": "bf16",
}


def test_identity_of_a_run_changes_with_every_setting(clips):
    config = config_of("distilwhisper-released", PRESET, clips)
    assert sorted(OTHER_VALUES) == sorted(config.changeable())
    changed = [config.changed(**{name: value}) for name, value in OTHER_VALUES.items()]
    data = config.data
    others = {"language": "ca", "clips": 9, "margin_seconds": 2.5}
    changed += [
        replace(config, method="distilwhisper"),
        replace(config, teacher="another"),
        replace(config, fidelity=Fidelity(equal_batches=True)),
        replace(config, choose_epoch=Decoding(None, 8, 4, "none")),
        replace(config, student=ModelIdentity("tiny", "sha256:0123")),
        *(
            replace(config, data=replace(data, **{f.name: others.get(f.name, "other")}))
            for f in fields(data)
        ),
    ]
    assert len({config.identity, *(other.identity for other in changed)}) == len(changed) + 1
    moved = replace(config, student=ModelIdentity("another/folder", "tiny"))
    assert moved.identity == config.identity


def test_unknown_settings_are_refused(clips):
    config = config_of("lora", PRESET, clips)
    with pytest.raises(ValueError, match="lora has no setting hard: it has label_smoothing, "):
        config.changed(hard=True)
    for changes, message in (
        ({"divergence": "cosine"}, "unknown divergence 'cosine': one of none, js, kl"),
        ({"batches": "sorted"}, "unknown order of batches 'sorted'"),
        ({"precision": "fp8"}, "unknown precision 'fp8': one of bf16, fp16, no"),
    ):
        with pytest.raises(ValueError, match=message):
            config.changed(**changes)


REFUSED = {  # values of another type or out of range, of each setting
    "label_smoothing": [1.0, -0.1, "0.1"],
    "budget": [1.5, -0.1, True],
    "per_stack": ["false", 1, None],
    "temperature": [0, 0.0, -1.0, float("inf"), float("nan")],
    "uniformity": [-1.0],
    "learning_rate": [0, -1e-3, 1e9, float("nan"), "1e-3", None],
    "epochs": [0, -1, 1.5, True, "3"],
    "batch_size": [0, 2.0],
    "accumulation": [0],
    "warmup_ratio": [-0.1, 1.5],
    "gate_dim": [0, 6.4],
    "expert_dropout": [1.0, -0.1, False],
    "gate_dropout": [1.0],
    "skip_gate": [1.1],
    "noise": [-5.0, float("inf")],
    "hard": ["no", 0],
    "always_open": ["false", 0],
    "rank": [-1, 4.0, True],
    "seed": [-1, 2**32, 1.0, "77"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_of_another_type_or_out_of_range_are_refused(name, clips):
    config = config_of("distilwhisper", PRESET, clips)
    for value in REFUSED[name]:
        with pytest.raises(ValueError, match=f"{name} is {re.escape(repr(value))}: .* is needed"):
            config.changed(**{name: value})


def test_settings_of_experts_from_json_are_checked():
    settings = json.loads(json.dumps(asdict(ExpertSettings())))
    assert ExpertSettings(**settings) == ExpertSettings()
    with pytest.raises(ValueError, match="always_open is 'false': True or False is needed"):
        ExpertSettings(**settings | {"always_open": "false"})


@pytest.mark.parametrize(
    ("part", "value"), [("student", "tiny"), ("objective", None), ("experts", {}), ("fidelity", "")]
)
def test_parts_of_a_configuration_of_another_class_are_refused(part, value, clips):
    config = config_of("distilwhisper", PRESET, clips)
    with pytest.raises(ValueError, match=f"{part} is {value!r}: a .* is needed"):
        replace(config, **{part: value})


IDENTITIES = {  # of earlier versions: their runs are found again
    "fine-tuning": "23e0ab29",
    "lora": "44a087e5",
    "distilwhisper-released": "94c5e145",
    "distilwhisper": "9381eba0",
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_runs_of_earlier_versions_have_the_same_identity(name, clips):
    assert config_of(name, PRESET, clips).identity == IDENTITIES[name]


def test_settings_of_a_method_that_are_loras_defaults_name_its_runs_all_the_same(clips):
    config = replace(config_of("fine-tuning", PRESET, clips), method="mine")
    named = replace(config, method_settings={"dropout": 0.05})
    assert config.identity != named.identity


def test_distillation_needs_a_teacher(clips, collator, tmp_path):
    with pytest.raises(ValueError, match="distillation by js needs teacher distributions"):
        trainer_of(experts(), clips, collator, tmp_path, Objective(divergence="js"))


def test_trainer_keeps_the_frozen_part_bit_for_bit(clips, collator, teacher, tmp_path):
    model = attach_experts(load_whisper("tiny"), ["cs", "ca"])
    set_language(model, "cs")
    before, other = frozen_state(model), [p.clone() for _, p in expert_parameters(model, "ca")]
    goal = Objective(divergence="js")
    trained(model, clips, collator, tmp_path, goal, epochs=2, rate=1e-2, teacher=teacher)
    assert same_state(frozen_state(model), before) and same_state(
        before, load_whisper("tiny").state_dict()
    )
    assert all(
        torch.equal(p, old)
        for (_, p), old in zip(expert_parameters(model, "ca"), other, strict=True)
    )
    set_language(model, "cs")
    plain = logits(load_whisper("tiny"), random_batch())
    assert not torch.allclose(logits(model.eval(), random_batch()), plain, atol=1e-3)


# ---- what is not finite


def no_files_of(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["fine-tuning", "lora", "clsr-ft", "distilwhisper"])
def test_a_sound_that_is_not_finite_stops_a_training_and_is_named(
    name, clips, collator, teacher, tmp_path
):
    clips.items[3]["features"][0, 5] = torch.nan
    message = (
        rf"the loss is not finite \(ce nan.*\) in step \d of 8, .*: the sound of {clips.ids[3]} has"
    )
    with pytest.raises(ValueError, match=message) as error:
        train(name, tmp_path / "run", PRESET, clips, collator, teacher=teacher, epochs=2)
    assert "at a learning rate of " in str(error.value)
    assert str(error.value).endswith("There is no checkpoint yet.")
    assert no_files_of(tmp_path / "run") == []


@pytest.mark.parametrize("name", ["fine-tuning", "clsr-ft"])
def test_a_validation_sound_that_is_not_finite_is_named(name, clips, collator, processor, tmp_path):
    validation = RandomClips(processor.tokenizer, 3, seed=1)
    validation.items[1]["features"][:] = torch.inf
    message = (
        rf"the loss on validation is not finite in step 4 of 4.*the sound of {validation.ids[1]}"
    )
    with pytest.raises(ValueError, match=message):
        train(name, tmp_path / "run", PRESET, clips, collator, validation=validation)
    assert no_files_of(tmp_path / "run") == []


@pytest.mark.parametrize("name", ["fine-tuning", "lora", "clsr-ft"])
def test_a_training_that_diverges_stops_and_keeps_its_last_good_checkpoint(
    name, clips, collator, tmp_path, monkeypatch
):
    """As with a learning rate of 1e9, which is refused: the third epoch's weights go away."""
    original = LabTrainer.training_step

    def diverging(self, *args, **kwargs):
        if self.state.global_step >= 5:
            self.optimizer.param_groups[0]["lr"] = 1e30
        return original(self, *args, **kwargs)

    folder = tmp_path / "run"
    message = (
        r"the (loss|gradient) is not finite \(.*(nan|inf).*\) in step 7 of 12, at a learning rate "
        r"of .* \(its highest is 0.001\): most likely the learning rate is too high.*: lower it. "
        r"The last good checkpoint is kept: .*checkpoint-4"
    )
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=message):
        patch.setattr(LabTrainer, "training_step", diverging)
        train(name, folder, PRESET, clips, collator, epochs=3)
    assert not (folder / "run.json").exists()
    assert not (folder / "model").exists()
    kept = [path.name for path in (folder / "checkpoints").iterdir()]
    assert kept == ["checkpoint-4"]
    [path] = (folder / "checkpoints" / "checkpoint-4").glob("*.safetensors")
    weights = load_file(path)
    assert all(weight.isfinite().all() for weight in weights.values())

    whole = train(name, tmp_path / "whole", PRESET, clips, collator, epochs=3)
    train(name, folder, PRESET, clips, collator, epochs=3)
    first = sorted((folder / "model").glob("*.safetensors"))
    second = sorted((whole / "model").glob("*.safetensors"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_weights_that_are_not_finite_are_in_no_checkpoint(clips, collator, tmp_path, monkeypatch):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **_):
            if state.global_step == 4:  # the last of the epoch
                weight = next(p for p in model.parameters() if p.requires_grad)
                weight.data.view(-1)[0] = torch.inf

    monkeypatch.setattr(run_module, "Progress", lambda label: Break())
    monkeypatch.setattr(LabTrainer, "evaluate", lambda self, *_, **__: {"eval_loss": 1.0})
    with pytest.raises(ValueError, match="the trained weight .* is not finite after step 4, at a"):
        train("clsr-ft", tmp_path / "run", PRESET, clips, collator)
    assert no_files_of(tmp_path / "run") == []


@pytest.mark.parametrize("name", ["fine-tuning", "lora", "clsr-ft"])
def test_weights_that_are_not_finite_are_not_saved(name, tmp_path):
    model = prepared(name)
    weight = [p for p in model.parameters() if p.requires_grad][-1]
    weight.data.view(-1)[-1] = torch.nan
    with pytest.raises(ValueError, match="is not finite at the end of the training: nothing of it"):
        save_trained(model, get_method(name), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_weight_that_is_not_finite_is_named(clips, collator, tmp_path):
    model = experts()
    model.proj_out.weight.data[0, 0] = torch.nan
    trainer, _ = trainer_of(model, clips, collator, tmp_path)
    with pytest.raises(ValueError, match="the student's own weight .* is not finite: get the stu"):
        trainer.train()


def test_a_gradient_that_is_not_finite_stops_a_training(clips, collator, tmp_path):
    model = experts()
    weight = next(p for p in model.parameters() if p.requires_grad)
    weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer, spy = trainer_of(model, clips, collator, tmp_path)
    with pytest.raises(
        ValueError, match=r"the gradient is not finite \((nan|inf)\) in step 1 of 4"
    ):
        trainer.train()
    assert spy.steps == 0


def test_a_gradient_that_overflows_in_fp16_is_left_to_the_scaler(clips, collator, tmp_path):
    trainer, _ = trainer_of(experts(), clips, collator, tmp_path)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    assert trainer._get_grad_norm(trainer.model, torch.tensor(torch.inf)) == torch.inf
    trainer.state.global_step = 2
    trainer.check_steps()  # one of the two was made
    trainer.state.global_step = 1
    with pytest.raises(ValueError, match="nothing was trained: in each of the 1 steps the gradi"):
        trainer.check_steps()
    trainer.state.global_step = 0
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=0.5)
    with pytest.raises(ValueError, match=r"the gradient is not finite \(inf\) in step 1"):
        trainer._get_grad_norm(trainer.model, torch.tensor(torch.inf))


def test_a_student_that_has_changed_since_it_was_named_is_not_trained(
    clips, collator, processor, tmp_path
):
    load_whisper("tiny").save_pretrained(tmp_path / "mine")
    processor.save_pretrained(tmp_path / "mine")
    named = identify(tmp_path / "mine")
    config = replace(config_of("lora", PRESET, clips), student=named)
    settings = tmp_path / "mine" / "config.json"
    settings.write_text(settings.read_text() + "\n")
    with pytest.raises(ValueError, match="mine has changed since this run was configured: call it"):
        train_run(config, tmp_path / "run", clips, clips, collator)
    config = replace(config, student=identify(tmp_path / "mine"))
    assert train_run(config, tmp_path / "run", clips, clips, collator) == tmp_path / "run"


def test_teacher_distributions_that_are_not_finite_are_named(clips, collator, teacher, tmp_path):
    teacher._clips[clips.ids[2]]["log_probs"][0] = torch.nan
    goal = Objective(divergence="js")
    trainer, _ = trainer_of(experts(), clips, collator, tmp_path, goal, teacher=teacher)
    message = f"the cached teacher distributions of {clips.ids[2]} are not finite: remove .*teacher"
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_a_training_that_shuts_all_gates_says_so(clips, capsys):
    """As hard gates do at a rate of 1: what is scored then is the student."""
    config = config_of("distilwhisper", PRESET, clips, rate=1.0)
    rows = [{"gate_encoder": 0.5, "gate_decoder": 0.0}, {"gate_encoder": 0.0, "gate_decoder": 0.0}]
    for log, told in ((rows, 1), (rows[:1], 0), ([], 0)):
        trainer = SimpleNamespace(state=SimpleNamespace(log_history=log))
        run_module._tell_of_shut_gates(config, trainer)
        line = "train distilwhisper: all gates are shut at the end, so the experts are never used;"
        assert capsys.readouterr().err.count(line) == told


# ---- whole methods

TRAINABLE = [name for name, method in METHODS.items() if method.is_trained]


@pytest.mark.parametrize("name", TRAINABLE)
def test_each_method_trains_is_kept_and_loads_again(name, clips, collator, teacher, tmp_path):
    preset = replace(PRESET, batch_size=4)
    settings = {"rate": RATES.get(name, 3e-2), "epochs": 8}
    folder = train(name, tmp_path / "run", preset, clips, collator, teacher=teacher, **settings)
    assert sorted(path.name for path in folder.iterdir()) == ["model", "run.json"]

    config = config_of(name, preset, clips, **settings)
    run = json.loads((folder / "run.json").read_text())
    assert run["config"] == json.loads(json.dumps(asdict(config)))
    assert run["identity"] == config.identity
    assert (run["method"], run["language"], run["seed"]) == (name, "cs", 77)
    assert (run["steps"], run["clips"], run["batch_size"], run["precision"]) == (16, 8, 4, "no")
    losses = [row["eval_loss"] for row in run["log"] if "eval_loss" in row]
    assert len(losses) == 8 and losses[-1] < 0.95 * losses[0]
    assert run["log"][-1]["eval_loss"] == losses[-1]

    model = get_method(name).load(folder / "model", config)
    if clsr_blocks(model):
        set_language(model, "cs")
    batches = [collator([clips[i] for i in order]) for order in length_batches(clips.durations, 4)]
    found = [plain_loss(model, batch) for batch in batches]
    assert not model.training and sum(found) / 2 == pytest.approx(losses[-1], rel=1e-4)

    before = (folder / "run.json").read_bytes()
    (folder / "checkpoints").mkdir()
    again = train(name, folder, preset, clips, collator, teacher=teacher, **settings)
    assert again == folder  # nothing is trained again
    assert (folder / "run.json").read_bytes() == before and not (folder / "checkpoints").exists()


@pytest.mark.parametrize("name", trained_methods())
def test_the_epoch_with_the_lowest_validation_wer_is_kept(
    name, clips, collator, teacher, tmp_path, monkeypatch
):
    wers = iter([60.0, 40.0, 50.0, 40.0])
    states = []

    def noting(config, folder, validation, collator, model, step):
        states.append(trained_weights(model))
        return next(wers)

    monkeypatch.setattr(run_module, "_validation_wer", noting)
    preset = replace(PRESET, batch_size=4, keep="best")
    settings = {"rate": RATES.get(name, 3e-2), "epochs": 4}
    folder = train(name, tmp_path / "run", preset, clips, collator, teacher=teacher, **settings)
    run = json.loads((folder / "run.json").read_text())
    assert [row["eval_wer"] for row in run["log"] if "eval_wer" in row] == [60.0, 40.0, 50.0, 40.0]

    config = config_of(name, preset, clips, **settings)
    kept = dict(get_method(name).load(folder / "model", config).named_parameters())
    same = [all(torch.equal(kept[name], weight) for name, weight in s.items()) for s in states]
    assert same == [False, True, False, False]
    assert run["trained_parameters"] == sum(weight.numel() for weight in states[1].values()) > 0
    assert sorted(path.name for path in folder.iterdir()) == ["model", "run.json"]


def trained_weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def prepared(name):
    """Return the tiny Whisper as a method trains it."""
    return get_method(name).prepare(load_whisper("tiny"), "cs")


def test_fine_tuning_trains_all_but_the_positions_of_the_encoder():
    model = prepared("fine-tuning")
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"model.encoder.embed_positions.weight"}
    assert count_parameters(model)["experts"] == 0


def test_lora_trains_two_thin_matrices_beside_fc1_and_fc2():
    names = set(trained_weights(prepared("lora")))
    assert len(names) == 4 * 2 * 2 and all(".lora_" in name for name in names)
    assert all(".fc1." in name or ".fc2." in name for name in names)


def test_experts_train_a_block_and_a_gate_in_each_layer():
    model = prepared("clsr-ft")
    count = count_parameters(model)
    layer = 2 * 32 * 64 + 32 + 64 + 64 * 32 + 64 + 64
    assert count["trained"] == count["experts"] == 4 * layer
    assert count["total"] == sum(p.numel() for p in model.parameters())


def test_training_keeps_no_cache_of_keys_and_values(clips, collator, tmp_path, monkeypatch):
    models = []
    original = run_module.make_trainer

    def noting(model, *args, **settings):
        models.append(model)
        return original(model, *args, **settings)

    monkeypatch.setattr(run_module, "make_trainer", noting)
    train("lora", tmp_path / "run", PRESET, clips, collator)
    assert not models[0].config.use_cache


@pytest.mark.parametrize("name", TRAINABLE)
def test_what_a_method_counts_is_what_it_trains(name):
    model = prepared(name)
    config = model.config
    shape = WhisperShape(config.d_model, config.encoder_layers, config.encoder_ffn_dim)
    counted = get_method(name).count(shape)
    plain = count_parameters(load_whisper("tiny"))["total"]
    found = count_parameters(model)
    assert counted.added == found["total"] - plain
    if counted.whisper_gradients:  # the shape's vocabulary is Whisper's, the tiny one's is smaller
        assert counted.trained == shape.parameters
    else:
        assert counted.trained == found["trained"]


def test_runs_of_the_same_seed_are_alike_and_others_are_not(clips, collator, tmp_path):
    states, ordered = [], set()

    def noting(items):
        ordered.add(torch.are_deterministic_algorithms_enabled())  # see tests/test_device.py
        return collator(items)

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(hash(name) % 1000)  # whatever the program has drawn before
        folder = train("clsr-ft", tmp_path / name, PRESET, clips, noting, rate=1e-2, seed=seed)
        states.append((folder / "model" / "experts.cs.safetensors").read_bytes())
    assert states[0] == states[1] != states[2] and ordered == {True}


def test_methods_by_name():
    trained = ["fine-tuning", "lora", "experts", "distilwhisper"]
    assert trained_methods() == trained
    assert all(name == method.name for name, method in METHODS.items())
    with pytest.raises(ValueError, match="unknown method 'gpt': one of student, teacher, fine-"):
        get_method("gpt")
    with pytest.raises(ValueError, match="student is not trained"):
        prepared("student")


@pytest.mark.parametrize("field", ["name", "label", "colour"])
def test_no_two_methods_have_the_same_name_label_or_colour(field):
    other = replace(METHODS["lora"], name="a", label="b", colour="#000000")
    taken = replace(other, **{field: getattr(METHODS["lora"], field)})
    with pytest.raises(ValueError, match=f"a method with the {field} "):
        register(taken)
    assert "a" not in METHODS


def test_low_rank_experts_train_as_many_weights_as_lora():
    shape = SHAPES["openai/whisper-base"]  # in small models LoRA's rank is lower
    low_rank = get_method("distilwhisper-low-rank")
    gate_dim = low_rank.settings.gate_dim
    gates = 2 * shape.layers * (shape.width * gate_dim + 2 * gate_dim)
    assert low_rank.count(shape).trained - gates == get_method("lora").count(shape).trained


def test_the_rank_of_lora_is_64_and_at_most_an_eighth_of_the_width():
    assert [lora_rank(width) for width in (1280, 768, 512, 384, 64, 32, 4)] == [
        *(64, 64, 64, 48),
        *(8, 4, 1),
    ]
    adapted = prepared("lora")
    assert adapted.peft_config["default"].r == adapted.peft_config["default"].lora_alpha == 4


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    method = get_method("fine-tuning")
    model = load_whisper("tiny")

    def broken(folder, *_, **__):
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save_pretrained", broken)
    with pytest.raises(KeyboardInterrupt):
        save_trained(model, method, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    save_trained(model, method, tmp_path / "model")
    assert same_state(load_whisper(tmp_path / "model").state_dict(), model.state_dict())


def test_forward_runs_in_the_batches_own_window(clips, collator, tmp_path):
    trainer, _ = trainer_of(load_whisper("tiny"), clips, collator, tmp_path)
    assert isinstance(trainer, LabTrainer)
    batch, shapes = collator([clips[0]]), []
    trainer.model.model.encoder.register_forward_hook(
        lambda *args: shapes.append(args[2].last_hidden_state.shape[1])
    )
    trainer.compute_loss(trainer.model.train(), batch)
    assert shapes == [batch["input_features"].shape[-1] // 2]
    assert trainer.model.config.max_source_positions == 1500


def test_settings_of_experts_can_be_changed_for_a_run(clips, collator, tmp_path):
    changes = {"gate_dim": 8, "skip_gate": 0.0}
    folder = train("clsr-ft", tmp_path / "run", PRESET, clips, collator, rate=1e-2, **changes)
    settings = json.loads((folder / "model" / "experts.json").read_text())["settings"]
    found = (settings["gate_dim"], settings["skip_gate"], settings["expert_dropout"])
    assert found == (8, 0.0, 0.3)


def test_uniformity_is_added_to_the_budget(clips, collator, tmp_path):
    rows = {}
    for uniformity in (0.0, 1.0, 2.0):
        goal = Objective(budget=0.5, uniformity=uniformity)
        trainer, _ = trained(experts(), clips, collator, tmp_path / str(uniformity), goal)
        rows[uniformity] = next(row for row in trainer.state.log_history if "budget" in row)
    # of the first step, so of the same gates
    once, twice = (rows[weight]["budget"] - rows[0.0]["budget"] for weight in (1.0, 2.0))
    assert rows[0.0]["ce"] == rows[2.0]["ce"] and 0.1 < once <= 1.0
    assert twice == pytest.approx(2 * once, rel=1e-4)
    assert rows[2.0]["loss"] == pytest.approx(rows[2.0]["ce"] + rows[2.0]["budget"], rel=1e-4)


def test_the_divergence_is_weighted_in_the_sum_alone(clips, collator, teacher, tmp_path):
    rows = {}
    for weight in (1.0, 3.0):
        goal = Objective(budget=None, divergence="js", divergence_weight=weight)
        folder = tmp_path / str(weight)
        trainer, _ = trained(experts(), clips, collator, folder, goal, teacher=teacher)
        rows[weight] = next(row for row in trainer.state.log_history if "kd" in row)
    assert rows[1.0]["kd"] == rows[3.0]["kd"] > 0
    for weight, row in rows.items():
        assert row["loss"] == pytest.approx(total_loss(row["ce"], 0, weight * row["kd"]), rel=1e-4)


def test_validation_is_decoded_with_the_settings_that_the_run_names(
    clips, collator, tmp_path, monkeypatch
):
    asked = {}

    def noting(model, validation, used, decoding, path, language, label):
        asked.update(margin=used.margin_seconds, limits=decoding, language=language)
        texts = [text.upper() + "!" for text in validation.texts]
        return pd.DataFrame({"id": validation.ids, "prediction": texts})

    monkeypatch.setattr(run_module, "transcribe", noting)
    decoding = Decoding(margin_seconds=0.7, max_new_tokens=5, eval_batch_size=3, normaliser="none")
    config = replace(config_of("experts", PRESET, clips), choose_epoch=decoding)
    found = run_module._validation_wer(config, tmp_path, clips, collator, None, 1)
    assert found == 100  # without a normaliser no word is the same
    assert collator.margin_seconds != asked["margin"] == 0.7
    assert asked["limits"] is decoding and asked["language"] == "cs"
    lenient = replace(decoding, normaliser="whisper-basic")
    config = replace(config, choose_epoch=lenient)
    assert run_module._validation_wer(config, tmp_path, clips, collator, None, 1) == 0
