"""The trainer: the same update however a batch is cut, orders, schedule, noise, and what each system trains."""

import json
from dataclasses import replace

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
from transformers import Trainer, TrainerCallback, TrainingArguments

from distilwhisper_lib.data.audio import pad_features
from distilwhisper_lib.data.batches import Collator, LengthOrder, length_batches
from distilwhisper_lib.method.attach import (
    attach_experts,
    clsr_blocks,
    expert_parameters,
    set_language,
)
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.losses import cross_entropy, labelled
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.training import trainer as train
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.systems import (
    EVERY,
    LOW_RANK,
    TRAINED,
    count_parameters,
    get_system,
    load_trained,
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
from distilwhisper_lib.whisper.tiny import tiny_whisper

PRESET = replace(get_preset("smoke"), batch_size=2, epochs=2)
RATES = {"everything": 1e-2, "adapter": 1e-2, "experts": 3e-2}  # by what is trained
STILL = ExpertSettings(
    expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0, noise=0.0
)  # nothing random in training


@pytest.fixture
def clips(processor):
    return RandomClips(processor.tokenizer, 8)


@pytest.fixture
def teacher(clips, collator, tmp_path):
    return cache_teacher_distributions(tiny_whisper(seed=1), clips, collator, tmp_path / "teacher", k=8)


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
):
    preset = replace(PRESET, batch_size=batch_size, accumulation=accumulation)
    arguments = training_arguments(folder, preset, rate, epochs, len(clips), seed)
    arguments.logging_steps, arguments.max_grad_norm = 1, 0  # gradients as they come
    arguments.save_strategy = arguments.eval_strategy = "no"
    spy = Spy()
    objective = objective or Objective(label_smoothing=0.0, budget=None)
    return make_trainer(model, arguments, objective, clips, clips, collator, [spy]), spy


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
    """Gives every batch the same window, so that a clip's features don't depend on its neighbours."""

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
    teacher = cache_teacher_distributions(tiny_whisper(seed=1), clips, collator, tmp_path / "teacher", k=8)
    models = [experts(), experts()]
    runs = [
        trained(
            model,
            clips,
            collator,
            tmp_path,
            Objective(teacher=teacher, budget=0.9),
            *cut,
            rate=1e-5,
        )
        for model, cut in zip(models, ((8, 1), (2, 4)), strict=True)
    ]
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
    preset = replace(PRESET, batch_size=batch_size, accumulation=accumulation, warmup_ratio=0.3)
    arguments = training_arguments(tmp_path, preset, 1e-3, epochs, count, 0)
    assert type(arguments.warmup_steps) is int and arguments.warmup_steps == int(0.3 * steps)
    trainer = make_trainer(load_whisper("tiny"), arguments, Objective(), clips, clips, collator)
    assert (
        trainer.set_initial_training_values(arguments, trainer.get_train_dataloader())[-1] == steps
    )


def test_learning_rate_rises_then_falls_linearly(clips, collator, tmp_path):
    preset = replace(PRESET, batch_size=2, warmup_ratio=0.25)
    arguments = training_arguments(
        tmp_path, preset, 1e-3, 3, len(clips), 0
    )  # 12 steps, 3 of them warm-up
    arguments.logging_steps, arguments.save_strategy = 1, "no"
    spy = Spy()
    make_trainer(
        load_whisper("tiny"), arguments, Objective(budget=None), clips, clips, collator, [spy]
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
        model, clips, collator, tmp_path, Objective(label_smoothing=0.3, teacher=teacher)
    )
    trainer.args.per_device_eval_batch_size = 8
    found = trainer.evaluate()["eval_loss"]
    batch = collator([clips[i] for i in range(8)])
    assert found == pytest.approx(plain_loss(model, batch), rel=1e-6)
    assert abs(found - plain_loss(model, batch, 0.3)) > 0.01


def test_log_holds_each_part_of_the_loss(clips, collator, teacher, tmp_path):
    trainer, _ = trained(
        experts(), clips, collator, tmp_path, Objective(teacher=teacher, budget=0.5)
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
            experts(), clips, collator, tmp_path, Objective(teacher=teacher, divergence=kind)
        )
        values.append(trainer.state.log_history[0]["kd"])
    assert 0 < values[0] < 0.5 * values[1]


def test_objectives_key_changes_with_all_that_matters(teacher):
    base = dict(label_smoothing=0.1, budget=0.5, per_stack=False, teacher=teacher, divergence="js")
    keys = [
        Objective(**base | change).key()
        for change in (
            {},
            {"label_smoothing": 0.0},
            {"budget": None},
            {"budget": 0.4},
            {"per_stack": True},
            {"teacher": None},
            {"divergence": "kl"},
        )
    ]
    assert len({json.dumps(key) for key in keys}) == len(keys)


def test_trainer_keeps_the_frozen_part_bit_for_bit(clips, collator, teacher, tmp_path):
    model = attach_experts(load_whisper("tiny"), ["cs", "ca"])
    set_language(model, "cs")
    before, other = frozen_state(model), [p.clone() for _, p in expert_parameters(model, "ca")]
    trained(model, clips, collator, tmp_path, Objective(teacher=teacher), epochs=2, rate=1e-2)
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


# ---- whole systems


@pytest.mark.parametrize("name", [*TRAINED, LOW_RANK.name])
def test_each_system_trains_is_kept_and_loads_again(name, clips, collator, teacher, tmp_path):
    system = get_system(name)
    goal = Objective(teacher=teacher if system.distils else None, per_stack=system.budget_per_stack)
    rate = 5e-3 if system is LOW_RANK else RATES[system.trains]
    preset = replace(PRESET, batch_size=4)
    arguments = (system, tmp_path / "run", preset, goal, clips, clips, collator, "cs", rate, 8, 77)
    folder = train_system(*arguments)
    assert sorted(path.name for path in folder.iterdir()) == ["model", "run.json"]
    run = json.loads((folder / "run.json").read_text())
    assert (run["system"], run["language"], run["seed"], run["steps"], run["clips"]) == (
        name,
        "cs",
        77,
        16,
        8,
    )
    assert (run["learning_rate"], run["batch_size"], run["precision"]) == (rate, 4, "no")
    losses = [row["eval_loss"] for row in run["log"] if "eval_loss" in row]
    assert (
        len(losses) == 8
        and losses[-1] < 0.95 * losses[0]
        and run["log"][-1]["eval_loss"] == losses[-1]
    )
    model = load_trained(system, folder / "model", "tiny")
    if clsr_blocks(model):
        set_language(model, "cs")
    batches = [collator([clips[i] for i in order]) for order in length_batches(clips.durations, 4)]
    found = [plain_loss(model, batch) for batch in batches]
    assert not model.training and sum(found) / 2 == pytest.approx(losses[-1], rel=1e-4)
    before = (folder / "run.json").read_bytes()
    (folder / "checkpoints").mkdir()
    assert train_system(*arguments) == folder  # nothing is trained again
    assert (folder / "run.json").read_bytes() == before and not (folder / "checkpoints").exists()


@pytest.mark.parametrize("name", TRAINED)
def test_the_epoch_with_the_lowest_validation_wer_is_kept(
    name, clips, collator, teacher, tmp_path, monkeypatch
):
    wers, states, system = iter([60.0, 40.0, 50.0, 40.0]), [], get_system(name)
    monkeypatch.setattr(
        train, "_wer", lambda *args: states.append(trained_weights(args[-2])) or next(wers)
    )
    goal = Objective(teacher=teacher if system.distils else None, per_stack=system.budget_per_stack)
    folder = train_system(
        system,
        tmp_path / "run",
        replace(PRESET, batch_size=4, keep="best"),
        goal,
        clips,
        clips,
        collator,
        "cs",
        RATES[system.trains],
        4,
        77,
    )
    run = json.loads((folder / "run.json").read_text())
    assert [row["eval_wer"] for row in run["log"] if "eval_wer" in row] == [60.0, 40.0, 50.0, 40.0]
    kept = dict(load_trained(system, folder / "model", "tiny").named_parameters())
    same = [
        all(torch.equal(kept[name], weight) for name, weight in state.items()) for state in states
    ]
    assert same == [False, True, False, False]
    assert run["trained_parameters"] == sum(weight.numel() for weight in states[1].values()) > 0
    assert sorted(path.name for path in folder.iterdir()) == ["model", "run.json"]


def trained_weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("trains", "name"), [("everything", "fine-tuning"), ("adapter", "lora"), ("experts", "clsr-ft")]
)
def test_what_each_system_trains(name, trains):
    system = get_system(name)
    assert system.trains == trains
    model = prepare_for_training(load_whisper("tiny"), system, "cs")
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    count = count_parameters(model)
    if trains == "everything":
        frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
        assert frozen == {"model.encoder.embed_positions.weight"} and count["experts"] == 0
    elif trains == "adapter":
        assert len(names) == 4 * 2 * 2 and all(".lora_" in name for name in names)
        assert all(".fc1." in name or ".fc2." in name for name in names)
    else:
        assert (
            count["trained"] == count["experts"] == 4 * (2 * 32 * 64 + 32 + 64 + 64 * 32 + 64 + 64)
        )
    assert (
        count["total"] == sum(p.numel() for p in model.parameters()) and not model.config.use_cache
    )


def test_runs_of_the_same_seed_are_alike_and_others_are_not(clips, collator, tmp_path):
    states, ordered = [], set()

    def noting(items):
        ordered.add(torch.are_deterministic_algorithms_enabled())  # see tests/test_device.py
        return collator(items)

    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(hash(name) % 1000)  # whatever the program has drawn before
        folder = train_system(
            get_system("clsr-ft"),
            tmp_path / name,
            PRESET,
            Objective(),
            clips,
            clips,
            noting,
            "cs",
            1e-2,
            1,
            seed,
        )
        states.append((folder / "model" / "experts.cs.safetensors").read_bytes())
    assert states[0] == states[1] != states[2] and ordered == {True}


def test_systems_by_name():
    assert TRAINED == ["fine-tuning", "lora", "clsr-ft", "distilwhisper-released", "distilwhisper"]
    assert all(name == system.name for name, system in EVERY.items())
    for field in ("colour", "label"):
        assert len({getattr(system, field) for system in EVERY.values()}) == len(EVERY)
    with pytest.raises(
        ValueError, match="unknown system 'gpt': one of student, teacher, fine-tuning"
    ):
        get_system("gpt")
    with pytest.raises(ValueError, match="student is not trained"):
        prepare_for_training(load_whisper("tiny"), get_system("student"), "cs")


def test_low_rank_experts_train_as_many_weights_as_lora():
    lora = count_parameters(prepare_for_training(load_whisper("tiny"), get_system("lora"), "cs"))
    model = prepare_for_training(
        load_whisper("tiny"), LOW_RANK, "cs", ExpertSettings(**LOW_RANK.experts)
    )
    gates = sum(p.numel() for name, p in expert_parameters(model) if ".gates." in name)
    assert count_parameters(model)["trained"] - gates == lora["trained"]


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    system, model = get_system("fine-tuning"), load_whisper("tiny")

    def broken(folder, *_, **__):
        folder.mkdir()
        (folder / "config.json").write_text("{")
        raise KeyboardInterrupt

    monkeypatch.setattr(model, "save_pretrained", broken)
    with pytest.raises(KeyboardInterrupt):
        save_trained(model, system, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    monkeypatch.undo()
    save_trained(model, system, tmp_path / "model")
    assert same_state(
        load_trained(system, tmp_path / "model", "tiny").state_dict(), model.state_dict()
    )


def test_forward_runs_in_the_batches_own_window(clips, collator, tmp_path):
    trainer, _ = trainer_of(load_whisper("tiny"), clips, collator, tmp_path)
    assert isinstance(trainer, LabTrainer)
    batch, shapes = collator([clips[0]]), []
    trainer.model.model.encoder.register_forward_hook(
        lambda *args: shapes.append(args[2].last_hidden_state.shape[1])
    )
    trainer.compute_loss(trainer.model.train(), batch)
    assert (
        shapes == [batch["input_features"].shape[-1] // 2]
        and trainer.model.config.max_source_positions == 1500
    )


def test_settings_of_experts_come_from_the_preset(clips, collator, tmp_path):
    preset = replace(PRESET, experts={"gate_dim": 8, "skip_gate": 0.0})
    folder = train_system(
        get_system("clsr-ft"),
        tmp_path / "run",
        preset,
        Objective(),
        clips,
        clips,
        collator,
        "cs",
        1e-2,
        1,
        seed=1,
    )
    settings = json.loads((folder / "model" / "experts.json").read_text())["settings"]
    assert (settings["gate_dim"], settings["skip_gate"], settings["expert_dropout"]) == (
        8,
        0.0,
        0.3,
    )


def test_agreement_is_added_to_the_budget_and_names_a_run_only_where_it_is_asked_for(
    clips, collator, tmp_path
):
    rows = {}
    for agreement in (0.0, 2.0):
        goal = Objective(budget=0.5, agreement=agreement)
        trainer, _ = trained(experts(), clips, collator, tmp_path / str(agreement), goal)
        rows[agreement] = next(row for row in trainer.state.log_history if "budget" in row)
    once = rows[2.0]["budget"] - rows[0.0]["budget"]  # of the first step, so of the same gates
    assert rows[0.0]["ce"] == rows[2.0]["ce"] and 0.2 < once <= 2.0
    assert rows[2.0]["loss"] == pytest.approx(rows[2.0]["ce"] + rows[2.0]["budget"], rel=1e-4)
    assert Objective().key() == Objective(agreement=0.0).key() != Objective(agreement=2.0).key()
