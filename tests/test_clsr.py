"""Experts in Whisper: it stays the same before training, and a transformers Whisper afterwards.

The tests go from the whole model to the single block, its training and evaluation, mixed languages
in a batch, and what transformers, PEFT and torch do with a model that has experts.
"""

import asyncio
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
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from torch_versions import ONE_GRAPH
from transformers import Trainer, TrainingArguments, WhisperForConditionalGeneration, pipeline

from distilwhisper_lib.evaluation.greedy import use_greedy_decoding
from distilwhisper_lib.method.attach import attach_experts, detach_experts
from distilwhisper_lib.method.blocks import (
    clsr_blocks,
    expert_languages,
    expert_parameters,
    last_gates,
    set_noise,
)
from distilwhisper_lib.method.experts import ExpertSettings, FeedForward, Gate
from distilwhisper_lib.method.languages import get_language, set_language, use_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.routing import ClsrFeedForward, Routing
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.unwrap import unwrap
from distilwhisper_lib.whisper.window import use_window

# Nothing random in training.
STILL = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0)


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
def test_untrained_experts_chosen_per_sequence_leave_the_logits_as_they_were(
    model, batch, languages
):
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
    plain = logits(model, batch)
    shared = frozen_state(model)
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


def test_only_experts_and_gates_require_gradients(model):
    attach_experts(model, ["cs"])
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert trained == {id(p) for _, p in expert_parameters(model)}

    names = [name for name, p in model.named_parameters() if p.requires_grad]
    of_expert = 4  # two linear layers with bias
    of_gate = 3
    assert len(names) == 4 * (of_expert + of_gate)  # 4 layers
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
    shared = FeedForward(torch.nn.Linear(6, 12), torch.nn.GELU(), torch.nn.Linear(12, 6))
    block = ClsrFeedForward(shared, routing)
    block.add_language("cs")
    routing.languages.append("cs")
    for parameter in (*block.experts.parameters(), *block.gates.parameters()):
        parameter.data += 0.5 * torch.randn_like(parameter)
    routing.choose("cs")
    return block


def gate_logit(block, h):
    gate = block.gates["cs"]
    return torch.relu(h @ gate.linear1.weight.T + gate.linear1.bias) @ gate.linear2.weight.T


def record_sizes(block):
    """Return a dict that will hold how many positions expert and shared block have computed."""
    sizes = {}

    def hook_for(name):
        def hook(module, inputs, y):
            sizes[name] = inputs[0].numel() // inputs[0].shape[-1]

        return hook

    block.experts["cs"].register_forward_hook(hook_for("expert"))
    block.shared.register_forward_hook(hook_for("shared"))
    return sizes


def rounded_up(number, multiple):
    return -(-number // multiple) * multiple


@pytest.mark.parametrize(
    ("positions", "multiple"),
    [(700, 32), (120, 30), (30, 7), (3, 1)],  # 32, or a quarter of the positions where that is less
)
def test_evaluation_sends_each_position_through_one_block(block, positions, multiple):
    h = torch.randn(1, positions, 6)
    block.eval()
    is_open = gate_logit(block, h) >= 0
    open_count = int(is_open.sum())
    assert 0 < open_count < positions  # both blocks are used
    expected = torch.where(is_open, block.experts["cs"](h), block.shared(h))

    sizes = record_sizes(block)
    assert torch.allclose(block(h), expected, atol=1e-6)
    assert torch.equal(block.last_gate, is_open.squeeze(-1).float())
    # The numbers of positions are rounded up, so that there are few shapes.
    assert sizes == {
        "expert": rounded_up(open_count, multiple),
        "shared": rounded_up(positions - open_count, multiple),
    }


def test_evaluation_keeps_the_order_of_positions_in_a_batch(block):
    h = torch.randn(3, 40, 6)
    block.eval()
    is_open = gate_logit(block, h) >= 0
    assert 0.1 < is_open.float().mean() < 0.9
    expected = torch.where(is_open, block.experts["cs"](h), block.shared(h))
    assert torch.allclose(block(h), expected, atol=1e-6)
    assert torch.equal(block.last_gate, is_open.squeeze(-1).float())


@pytest.mark.parametrize(("sign", "used"), [(1.0, "expert"), (-1.0, "shared")])
def test_same_gate_decision_at_every_position_spares_the_other_block(block, sign, used):
    h = torch.randn(3, 5, 6)
    block.eval()
    block.gates["cs"].register_forward_hook(
        lambda module, inputs, logit: torch.full_like(logit, sign)
    )
    parts = {"expert": block.experts["cs"], "shared": block.shared}
    expected = parts[used](h)
    other = parts["shared" if used == "expert" else "expert"]
    other.register_forward_hook(lambda *_: pytest.fail("both blocks were computed"))
    assert torch.equal(block(h), expected)


@torch.no_grad()
@pytest.mark.parametrize("languages", ["cs", ["cs", None]])
def test_a_decoding_step_on_a_gpu_reads_nothing_back_from_it(block, languages):
    block.routing.choose(languages)
    block.eval()
    with FakeTensorMode():  # tensors without values: reading one from the device raises an error
        for module in block.modules():
            for name, weight in module._parameters.items():
                if weight is not None:
                    on_gpu = torch.empty(weight.shape, device="cuda")
                    module._parameters[name] = torch.nn.Parameter(on_gpu)

        h = torch.empty(16, 1, 6, device="cuda")
        assert block(h).is_cuda
        assert block.last_gate.shape == (16, 1)

        # Many positions are routed as on a CPU, which needs their number.
        with pytest.raises(RuntimeError):
            block(torch.empty(16, 1500, 6, device="cuda"))


@pytest.mark.parametrize("training", [True, False])
def test_always_open_experts_are_used_everywhere_and_gates_are_bypassed(block, training):
    block.routing.settings = ExpertSettings(always_open=True, expert_dropout=0.0)
    block.gates["cs"].register_forward_hook(lambda *_: pytest.fail("a gate was computed"))
    h = torch.randn(2, 5, 6)
    block.train(training)
    assert torch.equal(block(h), block.experts["cs"](h))
    assert block.last_gate.eq(1).all()


@pytest.mark.parametrize(("is_open", "used"), [(True, "expert"), (False, "shared")])
def test_constant_gates_hold_in_evaluation_alone(block, is_open, used):
    h = torch.randn(2, 5, 6)
    block.constant_gates["cs"] = is_open
    computed = []
    block.gates["cs"].register_forward_hook(lambda *_: computed.append(1))
    block.eval()
    parts = {"expert": block.experts["cs"], "shared": block.shared}
    assert torch.equal(block(h), parts[used](h))
    assert block.last_gate.eq(float(is_open)).all()
    assert not computed
    block.train()(h)
    assert computed


def test_training_mixes_both_by_a_noisy_gate(block):
    h = torch.randn(3, 40, 6)
    block.train()
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
    h = torch.randn(64, 20, 6)
    block.train()
    block.routing.settings = ExpertSettings(expert_dropout=0.3, gate_dropout=0.0, skip_gate=0.0)
    with torch.no_grad():
        g = torch.sigmoid(gate_logit(block, h))
        zero = (block(h) - (1 - g) * block.shared(h)).abs() < 1e-6
    assert 0.28 < zero.float().mean() < 0.32
    gate = Gate(6, ExpertSettings(gate_dropout=0.1)).train()
    assert gate.dropout.p == 0.1
    assert torch.all(gate(h) == 0)  # undecided at first, whatever the input


def test_gates_are_kept_for_the_losses(trained, batch):
    with use_language(trained, "cs"):
        logits(trained, batch)
        gates = last_gates(trained)
    assert [g.shape for g in gates["encoder"]] == [(2, FRAMES // 2)] * 2
    assert [g.shape for g in gates["decoder"]] == [(2, 6)] * 2
    for g in [*gates["encoder"], *gates["decoder"]]:
        assert set(g.unique().tolist()) == {0.0, 1.0}
    for without_experts in (None, [None, None]):
        with use_language(trained, without_experts):
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
        raise ZeroDivisionError
    assert get_language(trained) == "ca"
    with pytest.raises(ValueError, match="no experts for de"), use_language(trained, "de"):
        pass
    assert get_language(trained) == "ca"


def test_language_without_experts_is_refused_and_those_with_experts_are_named(trained):
    set_language(trained, "cs")
    with pytest.raises(ValueError, match="no experts for de, nl: this model has cs, ca"):
        set_language(trained, ["cs", "nl", "german"])
    with pytest.raises(ValueError, match="empty list"):
        set_language(trained, [])
    with pytest.raises(ValueError, match="'klingon'.*known codes"):
        set_language(trained, "klingon")
    assert get_language(trained) == "cs"


@pytest.mark.parametrize(("languages", "batch_size"), [(["cs", "ca"], 3), (["cs", "ca", None], 2)])
def test_languages_that_do_not_fit_the_batch_are_refused(trained, languages, batch_size):
    message = f"given {len(languages)} languages.*has {batch_size} sequences"
    with use_language(trained, languages), pytest.raises(ValueError, match=message):
        logits(trained, random_batch(batch_size))


def test_plain_whisper_takes_no_language_but_none(model):
    set_language(model, None)
    assert get_language(model) is None and expert_languages(model) == []
    with use_language(model, None):
        pass
    with pytest.raises(ValueError, match="no experts are attached: call attach_experts"):
        set_language(model, "cs")


# ---- mixed languages in one batch

MIXED = ["cs", None, "ca", "cs"]


def test_mixed_batch_gives_each_sequence_its_own_logits(trained):
    batch = random_batch(batch_size=4)
    with use_language(trained, MIXED):
        together = logits(trained, batch)
    for index, language in enumerate(MIXED):
        one = {name: tensor[index : index + 1] for name, tensor in batch.items()}
        with use_language(trained, language):
            alone = logits(trained, one)
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-5)


def test_indices_of_a_mixed_batch_are_made_once_for_all_layers(trained, monkeypatch):
    first, *others = clsr_blocks(trained)
    h = torch.randn(2, 5, trained.config.d_model)
    with use_language(trained, ["cs", None]):
        first(h)
        monkeypatch.setattr(torch, "tensor", None)  # on a GPU, new tensors would make the CPU wait
        for block in others:
            block(h)


@pytest.mark.parametrize("beams", [1, 3])
def test_mixed_batch_generates_what_each_sequence_generates_alone(trained, beams):
    features = random_batch(batch_size=4, seed=3)["input_features"]
    with use_language(trained, MIXED):
        together = generate(trained, features, "cs", beams)
    alone = []
    for index, language in enumerate(MIXED):
        one = features[index : index + 1]
        with use_language(trained, language):
            alone.append(generate(trained, one, "cs", beams)[0])
        with use_language(trained, "ca" if language is None else None):  # the experts matter here
            assert not torch.equal(alone[-1], generate(trained, one, "cs", beams)[0])
    width = max(len(tokens) for tokens in alone)
    padded = [
        torch.nn.functional.pad(tokens, (0, width - len(tokens)), value=256) for tokens in alone
    ]
    assert torch.equal(together, torch.stack(padded))


def test_mixed_batch_trains_the_experts_of_its_languages(model, batch):
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


@ONE_GRAPH
@torch.no_grad()
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("languages", ["cs", ["cs", None], None])
def test_routed_model_compiles_into_one_graph(trained, languages, dynamic):
    # What other tests have compiled decides which sizes are taken for variable.
    torch.compiler.reset()
    # fullgraph: no graph break is allowed.
    compiled = torch.compile(trained, backend="eager", fullgraph=True, dynamic=dynamic)
    with (
        torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True),
        use_language(trained, languages),
    ):
        # Other positions go to the experts: the graph must not know which, nor how many.
        for seed in (0, 1):
            batch = random_batch(seed=seed)
            expected = logits(trained, batch)
            torch.testing.assert_close(logits(compiled, batch), expected, rtol=0, atol=1e-5)


def test_pipeline_works_with_experts(trained, processor):
    sound = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    recognise = pipeline(
        "automatic-speech-recognition",
        model=trained,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )
    # One beam: the pipeline's default is 5.
    settings = {"language": "cs", "task": "transcribe", "max_new_tokens": 8, "num_beams": 1}
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
    shared = frozen_state(model)
    experts = [p.detach().clone() for _, p in expert_parameters(model)]
    examples = [
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
    Trainer(model, arguments, train_dataset=examples).train()
    assert same_state(frozen_state(model), shared)
    assert not any(
        torch.equal(p, old)
        for (_, p), old in zip(expert_parameters(model), experts, strict=True)
        if p.dim() > 1 and p.shape[1] != 32
    )
    again = attach_experts(load_whisper("tiny"), ["cs"], STILL)
    again.load_state_dict(load_file(tmp_path / "checkpoint-2" / "model.safetensors"), strict=False)
    assert same_state(again.state_dict(), model.state_dict())


def test_gradient_checkpointing_gives_the_same_gradients(trained, batch):
    set_language(trained, "cs")
    set_noise(trained, 2.0)
    trained.config.use_cache = False
    trained.train()

    def run():
        trained.zero_grad()
        # Dropout, noise and skipped layers are drawn alike, and each expert is used: from 5.23 on
        # transformers draws fewer numbers.
        torch.manual_seed(4)
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
    # "sdpa" is what transformers itself would choose.
    plain = logits(load_whisper("tiny", attn_implementation="sdpa"), batch)
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

    # A plain Whisper's state can be loaded too.
    result = other.load_state_dict(load_whisper("tiny").state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(".experts." in name or ".gates." in name for name in result.missing_keys)


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
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["fc1", "fc2"]))
    move_adapter(adapted).eval()
    expected = logits(adapted, batch)
    attach_experts(adapted, ["cs"])
    assert torch.equal(logits(adapted, batch), expected)
    with use_language(adapted, "cs"):  # new experts hold the sum of weights and adapter
        torch.testing.assert_close(logits(adapted, batch), expected, rtol=0, atol=1e-5)
    shake_experts(adapted)
    assert torch.equal(logits(adapted, batch), expected)
    with use_language(adapted, "cs"):
        assert not torch.allclose(logits(adapted, batch), expected, atol=1e-3)
    detach_experts(adapted)
    assert torch.equal(logits(adapted, batch), expected)


# ---- errors


def test_models_that_cannot_carry_experts_are_refused(model):
    with pytest.raises(ValueError, match="'klingon'.*use a code such as 'cs'"):
        attach_experts(model, ["cs", "klingon"])
    assert not clsr_blocks(model)
    assert all(p.requires_grad for p in model.model.decoder.layers.parameters())
    with pytest.raises(ValueError, match="into a Whisper; this is a Linear"):
        attach_experts(torch.nn.Linear(2, 2), ["cs"])
    model.config.activation_dropout = 0.1
    with pytest.raises(ValueError, match="activation_dropout = 0"):
        attach_experts(model, ["cs"])
    assert not clsr_blocks(model)


def test_settings_of_attached_experts_cannot_change(trained):
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


def test_subclass_of_the_block_can_route_in_another_way(trained, batch):
    class BothComputed(ClsrFeedForward):
        """Computes both blocks at every position, as the authors' code does."""

        def _select(self, h, language, g):
            return torch.where(g, self.experts[language](h), self.shared(h))

    other = attach_experts(load_whisper("tiny"), ["cs", "ca"], block_class=BothComputed)
    assert {type(block) for block in clsr_blocks(other)} == {BothComputed}
    other.load_state_dict(trained.state_dict())
    for languages in ("cs", ["cs", None]):
        with use_language(other, languages), use_language(trained, languages):
            torch.testing.assert_close(
                logits(other, batch), logits(trained, batch), rtol=0, atol=1e-5
            )


# ---- gates that are hard in training too


def hard_block(**settings):
    """Return a block whose gate opens at some positions, and an input for it."""
    torch.manual_seed(0)
    settings = ExpertSettings(
        gate_dim=16, expert_dropout=0, gate_dropout=0, skip_gate=0, hard=True, **settings
    )
    model = attach_experts(load_whisper("tiny"), ["cs"], settings)
    set_language(model, "cs")
    block = clsr_blocks(model)[0]
    with torch.no_grad():
        for parameter in block.gates["cs"].linear2.parameters():
            parameter.normal_()
        for parameter in block.experts["cs"].parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return block, torch.randn(2, 40, 32)


def test_hard_gates_route_in_training_as_they_do_in_evaluation():
    block, h = hard_block()
    routed = block.eval()(h)
    g = block.last_gate
    trained = block.train()(h)
    assert 0 < g.mean() < 1
    assert torch.equal(block.last_gate, g)
    torch.testing.assert_close(trained, routed, atol=1e-6, rtol=0)


def test_hard_gates_learn_by_the_gradient_of_soft_ones():
    block, h = hard_block()
    gate = block.gates["cs"]
    expert = block.experts["cs"]
    shared = block.shared
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
    without_noise = (block.gates["cs"](h) >= 0).squeeze(-1).to(h.dtype)
    assert not torch.equal(with_noise, without_noise)


# ---- routed (evaluation) and mixed (training) in 16 bits


def run_in_16_bits(model, batch, language, autocast):
    """Run a model and watch its blocks.

    Returns the outputs of all blocks and the logits, the gates, and how many positions the experts
    have computed.
    """
    outputs = []
    sizes = []

    def keep_output(module, inputs, y):
        outputs.append(y)

    def keep_size(module, inputs, y):
        sizes.append(y[..., 0].numel())

    hooks = []
    for block in clsr_blocks(model):
        hooks.append(block.register_forward_hook(keep_output))
        for expert in block.experts.values():
            hooks.append(expert.register_forward_hook(keep_size))
    with use_language(model, language), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs.append(logits(model, batch))
    for hook in hooks:
        hook.remove()

    gates = last_gates(model)
    return outputs, [*gates["encoder"], *gates["decoder"]], sum(sizes)


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
@pytest.mark.parametrize(
    ("languages", "batch_size"), [("cs", 1), ("cs", 3), (MIXED, 4), ([None, None, "cs", "cs"], 4)]
)
def test_routed_and_mixed_form_agree_in_16_bits(trained, languages, batch_size, autocast):
    model = trained
    batch = random_batch(batch_size, tokens=24)
    for block in clsr_blocks(model):
        # In training mode: both blocks are computed, and the gate is 0 or 1.
        block.routing.settings = replace(STILL, hard=True)
    if not autocast:
        model = model.bfloat16()
        batch["input_features"] = batch["input_features"].bfloat16()

    # The mixed form gets the gates of the routed one: rounding may change the sign of a logit near
    # 0.
    first_logits = {}
    for block in clsr_blocks(model):
        for gate in block.gates.values():
            gate.register_forward_hook(
                lambda module, inputs, logit: first_logits.setdefault(module, logit)
            )

    routed, gates, routed_positions = run_in_16_bits(model.eval(), batch, languages, autocast)
    mixed, same_gates, all_positions = run_in_16_bits(model.train(), batch, languages, autocast)
    plain, _, _ = run_in_16_bits(model.eval(), batch, None, autocast)

    assert len(gates) == 4
    assert all(0.1 < g.nanmean() < 0.9 for g in gates)  # some are open, some are shut
    for g, other in zip(gates, same_gates, strict=True):
        assert torch.equal(g.nan_to_num(), other.nan_to_num())
    assert 0 < routed_positions < all_positions
    assert routed[0].shape[1] == 50  # of the encoder
    assert routed[2].shape[1] == 24  # of the decoder

    if isinstance(languages, str):
        languages = [languages]
    beams = batch_size // len(languages)
    language_of = [language for language in languages for _ in range(beams)]
    for ours, theirs, without in zip(routed, mixed, plain, strict=True):
        # The largest output may be rounded one step away in each of the four layers.
        tolerance = 4 * torch.finfo(torch.bfloat16).eps * ours.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)
        moved = (ours - without).abs().amax((1, 2)).tolist()  # by the experts, of each sequence
        for language, distance in zip(language_of, moved, strict=True):
            if language is None:
                assert distance <= tolerance
            else:
                assert distance > 10 * tolerance


@torch.no_grad()
@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "converted"])
@pytest.mark.parametrize("languages", ["cs", ["cs", None]])
def test_block_of_whisper_bases_width_mixes_in_16_bits_what_it_routes(languages, autocast):
    torch.manual_seed(0)
    shared = FeedForward(torch.nn.Linear(512, 2048), torch.nn.GELU(), torch.nn.Linear(2048, 512))
    block = ClsrFeedForward(shared, Routing(replace(STILL, hard=True)))
    h = torch.randn(2, 200, 512)
    block.add_language("cs")
    for parameter in (*block.experts.parameters(), *block.gates.parameters()):
        parameter += 0.02 * torch.randn_like(parameter)
    block.routing.choose(languages)
    if not autocast:
        block = block.bfloat16()
        h = h.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        routed = block.eval()(h)
        g = block.last_gate
        mixed = block.train()(h)
        plain = shared(h)
    assert 0.1 < g.nanmean() < 0.9
    assert torch.equal(block.last_gate.nan_to_num(), g.nan_to_num())
    tolerance = torch.finfo(torch.bfloat16).eps * routed.abs().max().item()  # one step of rounding
    torch.testing.assert_close(routed, mixed, rtol=0, atol=tolerance)
    moved = (routed - plain).abs().amax(-1) > 10 * tolerance
    assert torch.equal(moved, g == 1)  # only where the gate is open


# ---- experts of a low rank


def low_rank_model(rank=4):
    return attach_experts(
        load_whisper("tiny"), ["cs"], ExpertSettings(gate_dim=16, rank=rank, skip_gate=0)
    )


def test_low_rank_experts_begin_as_the_shared_block_and_hold_two_thin_matrices_a_layer():
    batch = random_batch()
    plain = load_whisper("tiny")
    model = low_rank_model()
    with use_language(model, "cs"):
        torch.testing.assert_close(logits(model, batch), logits(plain, batch), atol=1e-5, rtol=0)
    experts = [p.numel() for name, p in expert_parameters(model) if ".experts." in name]
    assert sum(experts) == 4 * 2 * 4 * (32 + 64)  # layers, fc1 and fc2, rank, width + inner width
    assert all(p.requires_grad for _, p in expert_parameters(model))
    assert not any(
        p.requires_grad for name, p in model.named_parameters() if "cs" not in name.split(".")
    )


def test_low_rank_expert_is_the_shared_block_plus_b_a():
    block = clsr_blocks(low_rank_model())[0]
    expert = block.experts["cs"]
    shared = block.shared
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
    assert all(block.experts["cs"].fc1._shared[0] is block.shared for block in blocks)
    other.half()
    assert blocks[0].experts["cs"].fc1._shared[0].fc1.weight.dtype == torch.float16
    assert clsr_blocks(model)[0].shared.fc1.weight.dtype == torch.float32


def test_low_rank_experts_alone_change_in_training():
    model = low_rank_model().train()
    batch = random_batch()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    set_language(model, "cs")
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        with use_window(model, batch["input_features"].shape[-1]):
            model(**batch).logits.float().square().mean().backward()
        optimizer.step()
    changed = {name for name, p in model.state_dict().items() if not torch.equal(p, before[name])}
    assert all(".cs." in name for name in changed)
    assert any("up.weight" in name for name in changed)


# ---- what would be wrong in silence


def test_a_state_with_other_experts_than_the_model_is_not_saved_as_its_own(trained, tmp_path):
    state = {name: value.clone() for name, value in trained.state_dict().items()}
    trained.save_pretrained(tmp_path / "same", state_dict=state)
    assert (tmp_path / "same" / "experts.json").is_file()
    half = {name: value.half() for name, value in state.items()}
    trained.save_pretrained(tmp_path / "half", state_dict=half)
    name = next(name for name in state if ".experts.cs." in name)
    state[name] += 1
    with pytest.raises(ValueError, match=r"other values of .*experts\.cs.*load_state_dict"):
        trained.save_pretrained(tmp_path / "other", state_dict=state)
    assert not (tmp_path / "other").exists()


def test_a_language_that_the_model_lacks_is_not_lost_from_a_folder(trained, tmp_path):
    save_experts(trained, tmp_path / "both")
    one = load_experts(load_whisper("tiny"), tmp_path / "both", languages=["cs"])
    with pytest.raises(ValueError, match="has experts for ca, which this model lacks"):
        save_experts(one, tmp_path / "both")
    again = load_experts(load_whisper("tiny"), tmp_path / "both")
    assert expert_languages(again) == ["cs", "ca"]
    save_experts(again, tmp_path / "both")  # all of them: as before


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_layers_that_are_left_out_at_random_are_refused(model, stack):
    setattr(model.config, f"{stack}_layerdrop", 0.1)
    with pytest.raises(ValueError, match=f"experts need config.{stack}_layerdrop = 0"):
        attach_experts(model, ["cs"])


def test_a_wrapper_of_torch_compile_is_looked_through(trained, batch, tmp_path):
    compiled = torch.compile(trained, backend="eager")
    assert unwrap(compiled) is trained
    set_language(compiled, "auto")
    assert get_language(trained) == "auto"
    set_language(compiled, None)
    with use_window(compiled, FRAMES):
        assert trained.config.max_source_positions == FRAMES // 2
    compiled.save_pretrained(tmp_path / "saved")
    assert expert_languages(load_experts(load_whisper("tiny"), tmp_path / "saved"))


def test_a_compiled_model_has_no_choice_left_after_tasks_that_overlapped(trained, batch):
    async def task(language):
        with use_language(trained, language):
            await asyncio.sleep(0)  # the other task enters
            await asyncio.sleep(0)

    async def both():
        await asyncio.gather(task("cs"), task("ca"))

    asyncio.run(both())
    compiled = torch.compile(trained, backend="eager")
    plain = logits(trained, batch)
    assert get_language(trained) is None
    torch.testing.assert_close(logits(compiled, batch), plain)


def test_a_compiled_model_follows_set_language_within_a_block(trained, batch):
    compiled = torch.compile(trained, backend="eager")
    with use_language(trained, "cs"), torch.no_grad():
        of_cs = logits(trained, batch)
        assert torch.equal(logits(compiled, batch), of_cs)
        set_language(trained, "ca")
        of_ca = logits(trained, batch)
        assert not torch.allclose(of_cs, of_ca)
        torch.testing.assert_close(logits(compiled, batch), of_ca)


def test_the_class_of_a_model_that_was_used_makes_plain_models(model, batch):
    with use_window(model, FRAMES), use_greedy_decoding(model):
        pass
    other = type(model)(model.config)
    assert other.config.max_source_positions == model.config.max_source_positions
    assert other.generation_config is not None
