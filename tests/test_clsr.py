"""Experts in Whisper: nothing changes before training, nothing but experts changes in it, and it stays a Whisper."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_data import (
    FRAMES,
    RandomClips,
    frozen_state,
    logits,
    random_batch,
    same_state,
    shake_experts,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Trainer, TrainingArguments, WhisperForConditionalGeneration, pipeline

from distilwhisper_lib.method.attach import (
    attach_experts,
    clsr_blocks,
    detach_experts,
    expert_languages,
    expert_parameters,
    get_language,
    last_gates,
    set_language,
    set_noise,
    use_language,
)
from distilwhisper_lib.method.experts import ExpertSettings, FeedForward, Gate
from distilwhisper_lib.method.routing import ClsrFeedForward, Routing
from distilwhisper_lib.whisper.loading import load_processor, load_whisper
from distilwhisper_lib.whisper.window import use_window

STILL = ExpertSettings(
    expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0
)  # nothing random in training


@pytest.fixture
def batch():
    return random_batch()


@pytest.fixture
def trained(model):
    """A model with experts for two languages, both away from the shared block."""
    return shake_experts(attach_experts(model, ["cs", "ca"]))


def training_loss(model, batch):
    with use_window(model, batch["input_features"].shape[-1]):
        return model(**batch, labels=batch["decoder_input_ids"].roll(-1, 1)).loss


def generate(model, features, languages, beams=1):
    with use_window(model, features.shape[-1]):
        return model.generate(
            features, language=languages, task="transcribe", max_new_tokens=8, num_beams=beams
        )


# ---- nothing changes before training


@pytest.mark.parametrize("language", [None, "cs", "ca"])
def test_untrained_experts_leave_the_logits_exactly_as_they_were(model, batch, language):
    plain = logits(model, batch)
    attach_experts(model, ["cs", "ca"])
    set_language(model, language)
    assert torch.equal(logits(model, batch), plain)


@pytest.mark.parametrize("languages", [["cs", "ca"], ["cs", None], [None, None], ["ca", "ca"]])
def test_untrained_experts_chosen_by_row_leave_the_logits_as_they_were(model, batch, languages):
    plain = logits(model, batch)
    attach_experts(model, ["cs", "ca"])
    with use_language(model, languages):
        torch.testing.assert_close(logits(model, batch), plain, rtol=0, atol=1e-5)


def test_attached_model_starts_without_a_language_and_in_the_mode_it_was_in(model):
    attach_experts(model, ["cs"])
    assert get_language(model) is None
    assert not any(module.training for block in clsr_blocks(model) for module in block.modules())
    other = attach_experts(load_whisper("tiny").train(), ["cs"])
    assert all(block.training and block.experts["cs"].training for block in clsr_blocks(other))


def test_untrained_gates_are_open_so_that_the_experts_are_used_from_the_start(model, batch):
    attach_experts(model, ["cs"])
    with use_language(model, "cs"):
        logits(model, batch)
        assert all(bool(g.all()) for stack in last_gates(model).values() for g in stack)


# ---- after training


def test_training_moves_experts_and_gates_only_and_plain_whisper_stays(model, batch):
    plain, shared = logits(model, batch), frozen_state(model)
    attach_experts(model, ["cs", "ca"], ExpertSettings(skip_gate=0.0))
    before = {name: p.detach().clone() for name, p in expert_parameters(model)}
    set_language(model, "cs")
    set_noise(model, 1.0)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(3):
        training_loss(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, p in expert_parameters(model) if not torch.equal(p, before[name])}
    assert moved == {name for name, _ in expert_parameters(model, "cs")}
    assert same_state(frozen_state(model), shared)
    model.eval()
    assert not torch.equal(logits(model, batch), plain)
    for language in (None, "ca"):
        with use_language(model, language):
            assert torch.equal(logits(model, batch), plain)


def test_only_experts_and_gates_ask_for_gradients(model):
    attach_experts(model, ["cs"])
    asked = {id(p) for p in model.parameters() if p.requires_grad}
    assert asked == {id(p) for _, p in expert_parameters(model)}
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 4 * (
        4 + 3
    )  # layers x (two linear maps with bias, and the gate's three tensors)
    assert all(".experts.cs." in name or ".gates.cs." in name for name in names)


def test_experts_do_not_share_memory_with_the_frozen_block(model):
    attach_experts(model, ["cs"])
    block = clsr_blocks(model)[0]
    assert block.experts["cs"].fc1.weight.data_ptr() != block.shared.fc1.weight.data_ptr()


# ---- the block itself, against the formula


@pytest.fixture
def block():
    torch.manual_seed(0)
    routing = Routing(STILL)
    block = ClsrFeedForward(
        FeedForward(torch.nn.Linear(6, 12), torch.nn.GELU(), torch.nn.Linear(12, 6)), routing
    )
    block.add_language("cs")
    routing.known.append("cs")
    for parameter in (*block.experts.parameters(), *block.gates.parameters()):
        parameter.data += 0.5 * torch.randn_like(parameter)
    routing.language = "cs"
    return block


def gate_logit(block, h):
    gate = block.gates["cs"]
    return torch.relu(h @ gate.linear1.weight.T + gate.linear1.bias) @ gate.linear2.weight.T


def test_evaluation_takes_expert_or_shared_block_token_by_token(block):
    h, block = torch.randn(3, 40, 6), block.eval()
    opened = gate_logit(block, h) >= 0
    assert 0.1 < opened.float().mean() < 0.9  # both ways are taken
    expected = torch.where(opened, block.experts["cs"](h), block.shared(h))
    rows = {}
    for name, part in (("expert", block.experts["cs"]), ("shared", block.shared)):
        part.register_forward_hook(
            lambda module, inputs, y, name=name: rows.update({name: inputs[0].numel() // 6})
        )
    assert torch.allclose(block(h), expected, atol=1e-6)
    assert torch.equal(block.last_gate, opened.squeeze(-1).float())
    for name, mask in (
        ("expert", opened),
        ("shared", ~opened),
    ):  # each position went through one of them
        assert (
            rows[name] == -(-int(mask.sum()) // 30) * 30
        )  # rounded up to a quarter of the 120 positions


@pytest.mark.parametrize(("positions", "step"), [(700, 32), (30, 7), (3, 1)])
def test_the_rows_of_a_block_are_rounded_up_to_few_shapes(block, positions, step):
    h, sizes = torch.randn(1, positions, 6), []
    opened = gate_logit(block.eval(), h) >= 0
    expected, count = (
        torch.where(opened, block.experts["cs"](h), block.shared(h)),
        int(opened.sum()),
    )
    for part in (block.experts["cs"], block.shared):
        part.register_forward_hook(lambda module, inputs, y: sizes.append(len(inputs[0])))
    assert torch.allclose(block(h), expected, atol=1e-6) and 0 < count < positions
    assert sizes == [-(-n // step) * step for n in (count, positions - count)]


@pytest.mark.parametrize(("sign", "used"), [(1.0, "expert"), (-1.0, "shared")])
def test_where_all_gates_agree_the_other_block_is_not_computed(block, sign, used):
    h, block = torch.randn(3, 5, 6), block.eval()
    block.gates["cs"].register_forward_hook(lambda module, inputs, G: torch.full_like(G, sign))
    parts = {"expert": block.experts["cs"], "shared": block.shared}
    expected = parts[used](h)
    other = parts["shared" if used == "expert" else "expert"]
    other.register_forward_hook(lambda *_: pytest.fail("both blocks were computed"))
    assert torch.equal(block(h), expected)


@torch.no_grad()
@pytest.mark.parametrize("languages", ["cs", ["cs", None]])
def test_a_gpu_is_not_waited_for_in_a_step_of_the_decoder(block, languages):
    block.routing.language = languages
    block.eval()
    with (
        FakeTensorMode()
    ):  # shapes without numbers: what would have to read one from the device raises
        for module in block.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    module._parameters[name] = torch.nn.Parameter(
                        torch.empty(weight.shape, device="cuda")
                    )
        h = torch.empty(16, 1, 6, device="cuda")
        assert block(h).is_cuda and block.last_gate.shape == (16, 1)
        with pytest.raises(
            RuntimeError
        ):  # of many positions it routes, as a CPU does, and has to wait
            block(torch.empty(16, 1500, 6, device="cuda"))


def test_always_open_experts_are_used_everywhere_and_no_gate_is_asked(block):
    block.routing.settings = ExpertSettings(always_open=True, expert_dropout=0.0)
    block.gates["cs"].register_forward_hook(lambda *_: pytest.fail("a gate was asked"))
    h = torch.randn(2, 5, 6)
    for training in (True, False):
        assert (
            torch.equal(block.train(training)(h), block.experts["cs"](h))
            and block.last_gate.eq(1).all()
        )


def test_training_mixes_both_by_a_noisy_gate(block):
    h, block = torch.randn(3, 40, 6), block.train()
    block.routing.noise = 2.0
    torch.manual_seed(5)
    y = block(h)
    torch.manual_seed(5)
    g = torch.sigmoid(gate_logit(block, h) + 2.0 * torch.randn(3, 40, 1))
    torch.testing.assert_close(y, g * block.experts["cs"](h) + (1 - g) * block.shared(h))
    torch.testing.assert_close(block.last_gate, g.squeeze(-1))


def test_skipped_layer_is_the_shared_block_alone_but_its_gate_still_counts(block):
    h = torch.randn(2, 5, 6)
    block.train().routing.settings = ExpertSettings(gate_dropout=0.0, skip_gate=1.0)
    assert torch.equal(block(h), block.shared(h))
    assert block.last_gate.shape == (2, 5) and block.last_gate.requires_grad
    block.eval()  # and never in evaluation
    assert not torch.equal(block(h), block.shared(h))


def test_layers_are_skipped_as_often_as_stated(block):
    block.train().routing.settings = ExpertSettings(
        expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.25
    )
    h = torch.randn(1, 2, 6)
    torch.manual_seed(0)
    skipped = sum(torch.equal(block(h), block.shared(h)) for _ in range(2000)) / 2000
    assert 0.21 < skipped < 0.29


def test_dropout_acts_on_the_experts_output_and_the_gates_input(block):
    h, block = torch.randn(64, 20, 6), block.train()
    block.routing.settings = ExpertSettings(expert_dropout=0.3, gate_dropout=0.0, skip_gate=0.0)
    with torch.no_grad():
        g = torch.sigmoid(gate_logit(block, h))
        zero = (block(h) - (1 - g) * block.shared(h)).abs() < 1e-6
    assert 0.28 < zero.float().mean() < 0.32
    gate = Gate(6, ExpertSettings(gate_dropout=0.1)).train()
    assert gate.dropout.p == 0.1 and torch.all(
        gate(h) == 0
    )  # undecided at first, whatever comes in


def test_gates_are_kept_for_the_losses(trained, batch):
    with use_language(trained, "cs"):
        logits(trained, batch)
        gates = last_gates(trained)
    assert [g.shape for g in gates["encoder"]] == [(2, FRAMES // 2)] * 2
    assert [g.shape for g in gates["decoder"]] == [(2, 6)] * 2
    assert {value for stack in gates.values() for g in stack for value in g.unique().tolist()} == {
        0.0,
        1.0,
    }
    for nobody in (None, [None, None]):
        with use_language(trained, nobody):
            logits(trained, batch)
            assert last_gates(trained) == {"encoder": [], "decoder": []}
    with use_language(trained, ["cs", None]):
        logits(trained, batch)
        first, second = last_gates(trained)["decoder"][0]
    assert not first.isnan().any() and second.isnan().all()


# ---- choosing the language


@pytest.mark.parametrize("language", ["cs", "Czech", "czech", "CS"])
def test_language_may_be_a_code_or_an_english_name(trained, batch, language):
    set_language(trained, "cs")
    expected = logits(trained, batch)
    set_language(trained, None)
    set_language(trained, language)
    assert get_language(trained) == "cs" and torch.equal(logits(trained, batch), expected)


def test_experts_of_each_language_are_its_own(trained, batch):
    outputs = []
    for language in (None, "cs", "ca"):
        with use_language(trained, language):
            outputs.append(logits(trained, batch))
    assert not any(
        torch.allclose(outputs[i], outputs[j], atol=1e-3) for i, j in ((0, 1), (0, 2), (1, 2))
    )


def test_use_language_restores_what_was_set_also_after_errors(trained):
    set_language(trained, "ca")
    with pytest.raises(ZeroDivisionError), use_language(trained, ["cs", None]):
        assert get_language(trained) == ["cs", None]
        with use_language(trained, "cs"):
            assert get_language(trained) == "cs"
        assert get_language(trained) == ["cs", None]
        1 / 0  # noqa: B018
    assert get_language(trained) == "ca"
    with pytest.raises(ValueError, match="no experts for de"), use_language(trained, "de"):
        pass
    assert get_language(trained) == "ca"


def test_language_without_experts_is_refused_and_the_known_are_named(trained):
    set_language(trained, "cs")
    with pytest.raises(ValueError, match="no experts for de, nl: this model has cs, ca"):
        set_language(trained, ["cs", "nl", "german"])
    with pytest.raises(ValueError, match="empty list"):
        set_language(trained, [])
    with pytest.raises(ValueError, match="'klingon'.*known codes"):
        set_language(trained, "klingon")
    assert get_language(trained) == "cs"


def test_wrong_number_of_rows_is_told(trained):
    with (
        use_language(trained, ["cs", "ca"]),
        pytest.raises(ValueError, match="given 2 languages.*has 3 rows"),
    ):
        logits(trained, random_batch(rows=3))
    with (
        use_language(trained, ["cs", "ca", None]),
        pytest.raises(ValueError, match="given 3 languages.*has 2 rows"),
    ):
        logits(trained, random_batch(rows=2))


def test_plain_whisper_takes_no_language_but_none(model):
    set_language(model, None)
    assert get_language(model) is None and expert_languages(model) == []
    with use_language(model, None):
        pass
    with pytest.raises(ValueError, match="no experts are attached: call attach_experts"):
        set_language(model, "cs")


# ---- mixed languages in one batch

MIXED = ["cs", None, "ca", "cs"]


def test_mixed_batch_gives_each_row_its_own_logits(trained):
    batch = random_batch(rows=4)
    with use_language(trained, MIXED):
        together = logits(trained, batch)
    for row, language in enumerate(MIXED):
        with use_language(trained, language):
            alone = logits(trained, {name: tensor[row : row + 1] for name, tensor in batch.items()})
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)


def test_row_indices_of_a_mixed_batch_are_made_once_for_all_layers(trained, monkeypatch):
    first, *others = clsr_blocks(trained)
    h = torch.randn(2, 5, trained.config.d_model)
    with use_language(trained, ["cs", None]):
        first(h)
        monkeypatch.setattr(torch, "tensor", None)  # a GPU would have to be waited for
        for block in others:
            block(h)


@pytest.mark.parametrize("beams", [1, 3])
def test_mixed_batch_generates_what_each_row_generates_alone(trained, beams):
    features = random_batch(rows=4, seed=3)["input_features"]
    with use_language(trained, MIXED):
        together = generate(trained, features, "cs", beams)
    alone = []
    for row, language in enumerate(MIXED):
        with use_language(trained, language):
            alone.append(generate(trained, features[row : row + 1], "cs", beams)[0])
        with use_language(trained, "ca" if language is None else None):  # the experts matter here
            assert not torch.equal(
                alone[-1], generate(trained, features[row : row + 1], "cs", beams)[0]
            )
    width = max(map(len, alone))
    padded = [torch.nn.functional.pad(row, (0, width - len(row)), value=256) for row in alone]
    assert torch.equal(together, torch.stack(padded))


def test_mixed_batch_trains_the_experts_of_its_rows(model, batch):
    attach_experts(model, ["cs", "ca", "nl"], STILL).train()
    with use_language(model, ["cs", "ca"]):
        training_loss(model, batch).backward()
    trained = {
        name.split(".")[3]
        for name, p in expert_parameters(model)
        if p.grad is not None and p.grad.any()
    }
    assert trained == {"cs", "ca"}


def test_mixed_batch_trains_after_it_was_used_in_inference_mode(trained, batch):
    with use_language(trained, ["cs", "ca"]):
        with torch.inference_mode():
            logits(trained, batch)
        training_loss(trained.train(), batch).backward()


# ---- it stays a transformers Whisper


@torch.no_grad()
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("languages", ["cs", ["cs", None], None])
def test_routed_model_compiles_into_one_graph(trained, languages, dynamic):
    torch.compiler.reset()  # what other tests have compiled decides which sizes are taken for variable
    whole = torch.compile(
        trained, backend="eager", fullgraph=True, dynamic=dynamic
    )  # fullgraph: no break is allowed
    with (
        torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True),
        use_language(trained, languages),
    ):
        for seed in (
            0,
            1,
        ):  # other positions go to the experts: the graph must not know which, nor how many
            batch = random_batch(seed=seed)
            torch.testing.assert_close(
                logits(whole, batch), logits(trained, batch), rtol=0, atol=1e-5
            )


def test_pipeline_works_with_experts(trained, processor):
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    recognise = pipeline(
        "automatic-speech-recognition",
        model=trained,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    settings = {
        "language": "cs",
        "task": "transcribe",
        "max_new_tokens": 8,
        "num_beams": 1,
    }  # 5 by default there
    features = processor.feature_extractor(
        sound, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    texts = []
    for language in (None, "cs"):
        with use_language(trained, language):
            texts.append(recognise(sound.copy(), generate_kwargs=dict(settings))["text"])
            ids = trained.generate(features, **settings)
        assert texts[-1] == processor.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert texts[0] != texts[1]


def test_transformers_own_trainer_trains_experts(model, processor, tmp_path):
    attach_experts(model, ["cs"], STILL)
    set_language(model, "cs")
    shared, experts = frozen_state(model), [p.detach().clone() for _, p in expert_parameters(model)]
    rows = [
        {
            "input_features": torch.nn.functional.pad(item["features"], (0, 3000 - item["frames"])),
            "labels": item["labels"][:7],
        }
        for item in RandomClips(processor.tokenizer, 4, letters=(3, 3))
    ]
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        max_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_steps=2,
    )
    Trainer(model, arguments, train_dataset=rows).train()
    assert same_state(frozen_state(model), shared)
    assert not any(
        torch.equal(p, old)
        for (_, p), old in zip(expert_parameters(model), experts, strict=True)
        if p.dim() > 1 and p.shape[1] != 32
    )
    again = attach_experts(load_whisper("tiny"), ["cs"], STILL)
    from safetensors.torch import load_file

    again.load_state_dict(load_file(tmp_path / "checkpoint-2" / "model.safetensors"), strict=False)
    assert same_state(again.state_dict(), model.state_dict())


def test_gradient_checkpointing_gives_the_same_gradients(trained, batch):
    set_language(trained, "cs")
    set_noise(trained, 2.0)
    trained.config.use_cache = False
    trained.train()

    def run():
        trained.zero_grad()
        torch.manual_seed(7)  # dropout, noise and skipped layers are drawn alike
        loss = training_loss(trained, batch)
        loss = loss + sum(g.mean() for stack in last_gates(trained).values() for g in stack)
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in expert_parameters(trained, "cs")}

    loss, plain = run()
    trained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    calls = []
    hook = clsr_blocks(trained)[0].shared.register_forward_hook(lambda *_: calls.append(1))
    again, checkpointed = run()
    hook.remove()
    assert len(calls) == 2  # forward was computed twice, so checkpointing was on
    assert loss == again and all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert all(gradient.any() for gradient in plain.values())


def test_saved_model_is_a_plain_whisper(trained, model, batch, tmp_path):
    set_language(trained, "cs")
    trained.save_pretrained(tmp_path)
    plain = logits(
        load_whisper("tiny", attn_implementation="sdpa"), batch
    )  # transformers' own choice
    loaded = WhisperForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(logits(loaded, batch), plain)
    assert not clsr_blocks(loaded)


def test_state_has_whispers_names(trained):
    plain = load_whisper("tiny").state_dict()
    assert same_state(frozen_state(trained), plain)
    assert not [name for name in trained.state_dict() if "shared" in name]
    extra = trained.state_dict().keys() - plain.keys()
    assert len(extra) == 2 * 4 * (4 + 3) and all(
        ".fc1.experts." in n or ".fc1.gates." in n for n in extra
    )


def test_state_goes_through_load_state_dict(trained, batch):
    other = attach_experts(load_whisper("tiny"), ["cs", "ca"])
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 1
    result = other.load_state_dict(trained.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    for language in (None, "cs", "ca"):
        with use_language(other, language), use_language(trained, language):
            assert torch.equal(logits(other, batch), logits(trained, batch))
    result = other.load_state_dict(
        load_whisper("tiny").state_dict(), strict=False
    )  # a Whisper's, too
    assert not result.unexpected_keys and all(
        ".experts." in n or ".gates." in n for n in result.missing_keys
    )


def test_deep_copy_is_independent(trained, batch):
    set_language(trained, "cs")
    expected = logits(trained, batch)
    other = copy.deepcopy(trained)
    assert torch.equal(logits(other, batch), expected)
    set_language(other, "ca")
    shake_experts(other, seed=9)
    assert get_language(trained) == "cs" and torch.equal(logits(trained, batch), expected)
    assert other.load_state_dict(trained.state_dict()).missing_keys == []
    set_language(other, "cs")
    assert torch.equal(logits(other, batch), expected)
    detach_experts(other).load_state_dict(load_whisper("tiny").state_dict())
    assert trained.load_state_dict(trained.state_dict()).missing_keys == []


def test_detached_model_is_the_plain_one_again(trained, batch):
    set_language(trained, "cs")
    plain = load_whisper("tiny")
    assert detach_experts(trained) is trained
    assert same_state(trained.state_dict(), plain.state_dict())
    assert list(trained.state_dict()) == list(plain.state_dict())
    assert [type(module) for module in trained.modules()] == [
        type(module) for module in plain.modules()
    ]
    assert torch.equal(logits(trained, batch), logits(plain, batch))
    assert expert_languages(trained) == [] and get_language(trained) is None
    assert detach_experts(plain) is plain  # nothing to take out: nothing happens


def test_attaching_again_keeps_trained_experts_and_adds_languages(trained, batch):
    set_language(trained, "cs")
    expected = logits(trained, batch)
    attach_experts(trained, ["Czech", "nl", "nl"])
    assert expert_languages(trained) == ["cs", "ca", "nl"] and get_language(trained) == "cs"
    assert torch.equal(logits(trained, batch), expected)
    with use_language(trained, "nl"):
        assert torch.equal(logits(trained, batch), logits(load_whisper("tiny"), batch))
    detach_experts(trained)
    attach_experts(trained, "nl")  # and one language needs no list
    assert expert_languages(trained) == ["nl"]


# ---- beside a PEFT adapter


def move_adapter(model):
    """Move LoRA away from where it starts (B = 0)."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def test_lora_beside_experts(trained, batch):
    with use_language(trained, "cs"):
        alone = logits(trained, batch)
    adapted = get_peft_model(trained, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    set_language(adapted, "cs")
    assert torch.equal(logits(adapted, batch), alone) and get_language(adapted) == "cs"
    move_adapter(adapted)
    both = logits(adapted, batch)
    assert not torch.allclose(both, alone, atol=1e-3)
    with adapted.disable_adapter():
        assert torch.equal(logits(adapted, batch), alone)
    with use_language(adapted, None):
        assert not torch.allclose(logits(adapted, batch), both, atol=1e-3)
    with use_window(adapted, FRAMES):
        assert adapted.generate(
            input_features=batch["input_features"], language="cs", max_new_tokens=3
        ).shape == (2, 3)


def test_lora_in_the_shared_block_before_experts(model, batch):
    adapted = move_adapter(
        get_peft_model(model, LoraConfig(r=2, target_modules=["fc1", "fc2"]))
    ).eval()
    expected = logits(adapted, batch)
    attach_experts(adapted, ["cs"])
    for language in (None, "cs"):
        with use_language(adapted, language):
            assert torch.equal(logits(adapted, batch), expected)
    shake_experts(adapted)
    assert torch.equal(logits(adapted, batch), expected)
    with use_language(adapted, "cs"):
        assert not torch.allclose(logits(adapted, batch), expected, atol=1e-3)
    detach_experts(adapted)
    assert torch.equal(logits(adapted, batch), expected)


# ---- errors


def test_what_can_not_carry_experts_is_refused(model):
    with pytest.raises(ValueError, match="'klingon'.*use a code such as 'cs'"):
        attach_experts(model, ["cs", "klingon"])
    assert not clsr_blocks(model) and all(
        p.requires_grad for p in model.model.decoder.layers.parameters()
    )
    with pytest.raises(ValueError, match="into a Whisper; this is a Linear"):
        attach_experts(torch.nn.Linear(2, 2), ["cs"])
    model.config.activation_dropout = 0.1
    with pytest.raises(ValueError, match="activation_dropout = 0"):
        attach_experts(model, ["cs"])
    assert not clsr_blocks(model)


def test_settings_of_attached_experts_can_not_change(trained):
    with pytest.raises(ValueError, match=r"attached with .*'gate_dim': 64.*detach"):
        attach_experts(trained, ["nl"], ExpertSettings(gate_dim=8))
    assert expert_languages(trained) == ["cs", "ca"]
    attach_experts(trained, ["nl"], ExpertSettings())


def test_experts_come_in_the_models_precision():
    half = attach_experts(load_whisper("tiny", dtype=torch.bfloat16), ["cs"])
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    batch = random_batch()
    batch["input_features"] = batch["input_features"].bfloat16()
    with use_language(half, ["cs", None]):
        assert torch.allclose(
            logits(half, batch), logits(load_whisper("tiny", dtype=torch.bfloat16), batch), atol=0.2
        )


def test_processor_is_the_same_for_all(processor):
    assert load_processor("tiny").tokenizer.get_vocab() == processor.tokenizer.get_vocab()


# ---- gates that are hard in training too


def hard_block(**settings):
    """Return the first block of a tiny model, with a gate that opens at some positions, and an input for it."""
    torch.manual_seed(0)
    settings = ExpertSettings(
        gate_dim=16, expert_dropout=0, gate_dropout=0, skip_gate=0, hard=True, **settings
    )
    block = clsr_blocks(set_up := attach_experts(load_whisper("tiny"), ["cs"], settings))[0]
    set_language(set_up, "cs")
    with torch.no_grad():
        for parameter in block.gates["cs"].linear2.parameters():
            parameter.normal_()
        for parameter in block.experts["cs"].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block, torch.randn(2, 40, 32)


def test_hard_gates_route_in_training_as_they_do_in_use():
    block, h = hard_block()
    routed, g = block.eval()(h), block.last_gate
    trained = block.train()(h)
    assert 0 < g.mean() < 1 and torch.equal(block.last_gate, g)
    torch.testing.assert_close(trained, routed, atol=1e-6, rtol=0)


def test_hard_gates_learn_by_the_gradient_of_soft_ones():
    block, h = hard_block()
    gate, expert, shared = block.gates["cs"], block.experts["cs"], block.shared
    block.train()(h).sum().backward()
    found = gate.linear2.weight.grad.clone()
    gate.linear2.weight.grad = None
    (torch.sigmoid(gate(h)) * (expert(h) - shared(h)).detach()).sum().backward()
    torch.testing.assert_close(found, gate.linear2.weight.grad, atol=1e-4, rtol=1e-4)
    assert found.abs().max() > 0


def test_noise_opens_and_shuts_hard_gates():
    block, h = hard_block()
    block.routing.noise = 3.0
    block.train()(h)
    with_noise = block.last_gate.clone()
    assert set(with_noise.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(with_noise, (block.gates["cs"](h) >= 0).squeeze(-1).to(h.dtype))


# ---- routed and mixed in 16 bits


def run_in_16_bits(model, batch, language, autocast):
    """Return all blocks' outputs and the logits, the blocks' gates, and how many positions went to an expert."""
    outputs, sizes = [], []
    hooks = [
        block.register_forward_hook(lambda module, inputs, y: outputs.append(y))
        for block in clsr_blocks(model)
    ]
    hooks += [
        expert.register_forward_hook(lambda module, inputs, y: sizes.append(y[..., 0].numel()))
        for block in clsr_blocks(model)
        for expert in block.experts.values()
    ]
    with use_language(model, language), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs.append(logits(model, batch))
    for hook in hooks:
        hook.remove()
    return outputs, [g for stack in last_gates(model).values() for g in stack], sum(sizes)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
@pytest.mark.parametrize(
    ("languages", "rows"), [("cs", 1), ("cs", 3), (MIXED, 4), ([None, "cs"], 4)]
)
def test_routed_and_mixed_form_agree_in_16_bits(trained, languages, rows, autocast):
    model, batch = trained, random_batch(rows, tokens=24)
    for block in clsr_blocks(model):
        block.routing.settings = replace(
            STILL, hard=True
        )  # in training mode, both blocks and a gate of 0 or 1
    if not autocast:
        model, batch["input_features"] = model.bfloat16(), batch["input_features"].bfloat16()
    known = {}  # the mixed form gets the routed one's gates: a logit near 0 may change its sign by rounding
    for gate in (gate for block in clsr_blocks(model) for gate in block.gates.values()):
        gate.register_forward_hook(lambda module, inputs, G: known.setdefault(module, G))
    routed, gates, few = run_in_16_bits(model.eval(), batch, languages, autocast)
    mixed, same, all_ = run_in_16_bits(model.train(), batch, languages, autocast)
    plain, _, _ = run_in_16_bits(model.eval(), batch, None, autocast)
    assert len(gates) == 4 and all(
        0.1 < g.nanmean() < 0.9 for g in gates
    )  # some are open, some are shut
    assert all(
        torch.equal(g.nan_to_num(), other.nan_to_num())
        for g, other in zip(gates, same, strict=True)
    )
    assert (
        0 < few < all_ and routed[0].shape[1] == 50 and routed[2].shape[1] == 24
    )  # the encoder's, the decoder's
    for ours, theirs, without in zip(routed, mixed, plain, strict=True):
        # the largest output may be rounded one step away in each of the four layers
        tolerance = 4 * torch.finfo(torch.bfloat16).eps * ours.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
        for row, moved in enumerate((ours - without).abs().amax((1, 2)).tolist()):
            used = (
                languages if isinstance(languages, str) else languages[row * len(languages) // rows]
            )
            assert moved <= tolerance if used is None else moved > 10 * tolerance


@torch.no_grad()
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
@pytest.mark.parametrize("languages", ["cs", ["cs", None]])
def test_block_of_whisper_bases_width_mixes_in_16_bits_what_it_routes(languages, autocast):
    torch.manual_seed(0)
    shared = FeedForward(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512))
    block, h = ClsrFeedForward(shared, Routing(replace(STILL, hard=True))), torch.randn(2, 200, 512)
    block.add_language("cs")
    for parameter in (*block.experts.parameters(), *block.gates.parameters()):
        parameter += 0.02 * torch.randn_like(parameter)
    block.routing.language = languages
    if not autocast:
        block, h = block.bfloat16(), h.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        routed, g = block.eval()(h), block.last_gate
        mixed, plain = block.train()(h), shared(h)
    assert 0.1 < g.nanmean() < 0.9 and torch.equal(block.last_gate.nan_to_num(), g.nan_to_num())
    tolerance = torch.finfo(torch.bfloat16).eps * routed.abs().max().item()  # one step of rounding
    torch.testing.assert_close(routed, mixed, rtol=0, atol=tolerance)
    assert torch.equal(
        (routed - plain).abs().amax(-1) > 10 * tolerance, g == 1
    )  # where the gate is open alone


# ---- experts of a low rank


def low_rank_model(rank=4):
    return attach_experts(
        load_whisper("tiny"), ["cs"], ExpertSettings(gate_dim=16, rank=rank, skip_gate=0)
    )


def test_low_rank_experts_begin_as_the_shared_block_and_hold_two_thin_matrices_a_layer():
    batch, plain, model = random_batch(), load_whisper("tiny"), low_rank_model()
    with use_language(model, "cs"):
        torch.testing.assert_close(logits(model, batch), logits(plain, batch), atol=1e-5, rtol=0)
    experts = [p.numel() for name, p in expert_parameters(model) if ".experts." in name]
    assert sum(experts) == 4 * 2 * 4 * (
        32 + 64
    )  # layers x (fc1, fc2) x rank x (width + inner width)
    assert all(p.requires_grad for _, p in expert_parameters(model))
    assert not any(
        p.requires_grad for name, p in model.named_parameters() if "cs" not in name.split(".")
    )


def test_low_rank_expert_is_the_shared_block_plus_b_a():
    expert, shared = (block := clsr_blocks(low_rank_model())[0]).experts["cs"], block.shared
    with torch.no_grad():
        for linear in (expert.fc1, expert.fc2):
            linear.up.weight.normal_()
        merged = copy.deepcopy(shared)
        for mine, theirs in ((merged.fc1, expert.fc1), (merged.fc2, expert.fc2)):
            mine.weight += theirs.up.weight @ theirs.down.weight
        h = torch.randn(2, 3, 32)
        torch.testing.assert_close(expert(h), merged(h), atol=1e-4, rtol=1e-4)
        assert not torch.allclose(expert(h), shared(h), atol=1e-2)


def test_low_rank_experts_follow_a_copy_of_the_model_and_its_device_type():
    model = low_rank_model()
    other = copy.deepcopy(model)
    blocks = clsr_blocks(other)
    assert all(block.experts["cs"].fc1._shared[0] is block.shared.fc1 for block in blocks)
    other.half()
    assert blocks[0].experts["cs"].fc1._shared[0].weight.dtype == torch.float16
    assert clsr_blocks(model)[0].shared.fc1.weight.dtype == torch.float32


def test_low_rank_experts_alone_change_in_training():
    model, batch = low_rank_model().train(), random_batch()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    set_language(model, "cs")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        with use_window(model, batch["input_features"].shape[-1]):
            model(**batch).logits.float().square().mean().backward()
        optimizer.step()
    changed = {name for name, p in model.state_dict().items() if not torch.equal(p, before[name])}
    assert (
        changed
        and all(".cs." in name for name in changed)
        and any("up.weight" in name for name in changed)
    )
