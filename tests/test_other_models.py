"""Experts in Whispers of other classes, in parts of one, in quantised and in dispatched ones."""

import copy

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from random_data import logits, random_batch, same_state, shake_experts
from torch import nn
from torch.ao.quantization import quantize_dynamic
from transformers import (
    BertConfig,
    BertLMHeadModel,
    SpeechEncoderDecoderModel,
    WhisperForAudioClassification,
    WhisperForCausalLM,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from distilwhisper_lib.method.attach import attach_experts, detach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, expert_parameters, last_gates
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import get_language, set_language, use_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.window import use_window

# Nothing random in training.
STILL = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0)

STACKS = {
    WhisperModel: ["encoder", "decoder"],
    WhisperForCausalLM: ["decoder"],
    WhisperForAudioClassification: ["encoder"],
}
EACH_CLASS = pytest.mark.parametrize("kind", STACKS, ids=lambda kind: kind.__name__)


@pytest.fixture
def batch():
    return random_batch()


@pytest.fixture
def trained(model):
    """A model with experts for two languages, both away from the shared block."""
    return shake_experts(attach_experts(model, ["cs", "ca"], STILL))


@pytest.fixture
def folder(trained, tmp_path):
    """Where those experts are stored."""
    return save_experts(trained, tmp_path / "experts", form="fp32")


def tiny(kind):
    """Return a random Whisper of a class, as wide as the tiny one."""
    config = copy.deepcopy(load_whisper("tiny").config)
    config.num_labels = 3
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    return kind(config).eval()


def output(model):
    """Return what a model of any class computes of random speech or text, (2, …)."""
    batch = random_batch()
    if isinstance(model, WhisperForCausalLM):
        encoded = torch.randn(2, 50, 32, generator=torch.Generator().manual_seed(5))
        return model(batch["decoder_input_ids"], encoder_outputs=(encoded,)).logits
    if isinstance(model, WhisperModel):
        with use_window(model, batch["input_features"].shape[-1]):
            return model(**batch).last_hidden_state
    features = torch.nn.functional.pad(batch["input_features"], (0, 2900))
    return model(features).logits


@torch.no_grad()
def output_in(model, language):
    with use_language(model, language):
        return output(model)


def logits_in(model, batch, language):
    with use_language(model, language):
        return logits(model, batch)


def weights(model, language=None):
    return {name: p.detach().clone() for name, p in expert_parameters(model, language)}


def check_close(found, wanted, tolerance=5e-6):
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)


def check_far(found, other):
    assert (found - other).abs().max() > 1e-2


# ---- Whispers of other classes


@EACH_CLASS
def test_untrained_experts_leave_every_class_of_whisper_as_it_was(kind):
    model = tiny(kind)
    with torch.no_grad():
        plain = output(model)
    attach_experts(model, ["cs", "ca"])
    for language in (None, "cs", ["cs", None]):
        assert torch.equal(output_in(model, language), plain)


@EACH_CLASS
def test_trained_experts_act_in_every_class_of_whisper(kind):
    model = shake_experts(attach_experts(tiny(kind), ["cs", "ca"]))
    found = {language: output_in(model, language) for language in ("cs", "ca", None)}
    check_far(found["cs"], found["ca"])
    check_far(found["cs"], found[None])
    mixed = output_in(model, ["ca", None])
    check_close(mixed[0], found["ca"][0])
    check_close(mixed[1], found[None][1])
    set_language(model, "ca")
    with torch.no_grad():
        assert torch.equal(output(model), found["ca"])
        gates = last_gates(model)
    assert [stack for stack, layers in gates.items() if len(layers) == 2] == STACKS[kind]


@EACH_CLASS
def test_gradients_reach_the_experts_of_every_class_of_whisper(kind):
    model = attach_experts(tiny(kind), ["cs", "ca"], STILL).train()
    with torch.no_grad():
        for name, parameter in expert_parameters(model):
            if ".experts." in name:
                parameter += 0.2 * torch.randn_like(parameter)
    set_language(model, "cs")
    output(model).square().flatten()[::3].sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    inner_layer = ".linear1."  # has no gradient as long as w2 = 0
    wanted = {
        name
        for name, _ in model.named_parameters()
        if (".experts.cs." in name or ".gates.cs." in name) and inner_layer not in name
    }
    assert reached == wanted


@EACH_CLASS
def test_every_class_of_whisper_is_copied_detached_saved_and_loaded(kind, tmp_path):
    model = tiny(kind)
    with torch.no_grad():
        plain = output(model)
    plain_class = type(model)
    shake_experts(attach_experts(model, ["cs", "ca"]))
    wanted = output_in(model, "cs")

    other = copy.deepcopy(model)
    assert torch.equal(output_in(other, "cs"), wanted)
    detach_experts(other)
    assert type(other) is plain_class
    with torch.no_grad():
        assert torch.equal(output(other), plain)

    model.save_pretrained(tmp_path)
    loaded = kind.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        assert torch.equal(output(loaded), plain)
    load_experts(loaded, tmp_path)
    assert torch.equal(output_in(loaded, "cs"), wanted)
    save_experts(model, tmp_path / "experts", form="fp32")
    assert same_state(weights(load_experts(tiny(kind), tmp_path / "experts")), weights(model))


@EACH_CLASS
def test_auto_is_refused_where_nothing_is_generated_from_speech(kind):
    model = attach_experts(tiny(kind), ["cs"])
    with pytest.raises(ValueError, match=f"a {kind.__name__}: set a language"):
        set_language(model, "auto")
    assert get_language(model) is None


# ---- parts of a Whisper


def test_encoder_of_a_model_follows_the_language_of_the_model(trained, batch):
    features = batch["input_features"]

    @torch.no_grad()
    def encode(language):
        with use_language(trained, language), use_window(trained, features.shape[-1]):
            return trained.get_encoder()(features).last_hidden_state

    found = {language: encode(language) for language in ("cs", "ca", None)}
    check_far(found["cs"], found["ca"])
    check_far(found["cs"], found[None])
    mixed = encode(["ca", None])
    check_close(mixed[0], found["ca"][0])
    check_close(mixed[1], found[None][1])
    with pytest.raises(ValueError, match="set a language"):
        encode("auto")


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
@pytest.mark.parametrize(
    "use",
    [
        lambda part, folder: attach_experts(part, ["nl"]),
        lambda part, folder: load_experts(part, folder),
        lambda part, folder: set_language(part, "cs"),
        lambda part, folder: last_gates(part),
        lambda part, folder: save_experts(part, folder),
        lambda part, folder: detach_experts(part),
    ],
    ids=["attach", "load", "set_language", "last_gates", "save", "detach"],
)
def test_stack_alone_is_refused_as_a_part_of_its_model(trained, folder, stack, use):
    part = getattr(trained.model, stack)
    message = f"this is its Whisper{stack.title()} alone: give the model that it belongs to"
    with pytest.raises(ValueError, match=message):
        use(part, folder)
    assert len(clsr_blocks(trained)) == 4


OUTER_USES = {
    "attach": lambda model, folder: attach_experts(model, ["nl"]),
    "load": lambda model, folder: load_experts(model, folder),
    "set_language": lambda model, folder: set_language(model, "cs"),
    "set none": lambda model, folder: set_language(model, None),
    "save": lambda model, folder: save_experts(model, folder),
    "detach": lambda model, folder: detach_experts(model),
}


@pytest.mark.parametrize("use", OUTER_USES)
def test_experts_of_the_inner_model_are_refused_by_the_model_around_it(trained, folder, use):
    outer = load_whisper("tiny")
    attach_experts(outer.model, ["cs"])
    message = r"part of this WhisperForConditionalGeneration alone: detach_experts\(model.model\)"
    with pytest.raises(ValueError, match=message):
        OUTER_USES[use](outer, folder)
    detach_experts(outer.model)
    load_experts(outer, folder)
    assert same_state(weights(outer), weights(trained))


@pytest.mark.parametrize("use", OUTER_USES)
def test_inner_model_refuses_the_experts_of_the_model_around_it(trained, batch, folder, use):
    wanted = logits_in(trained, batch, "cs")
    with pytest.raises(ValueError, match="to the model around this WhisperModel: give that one"):
        OUTER_USES[use](trained.model, folder)
    assert torch.equal(logits_in(trained, batch, "cs"), wanted)


def test_inner_model_with_experts_of_its_own_is_used_by_the_model_around_it(batch):
    outer = load_whisper("tiny")
    plain = logits(outer, batch)
    attach_experts(outer.model, ["cs"])
    set_language(outer.model, "cs")
    assert torch.equal(logits(outer, batch), plain)
    shake_experts(outer.model)
    check_far(logits(outer, batch), plain)
    set_language(outer.model, None)
    assert torch.equal(logits(outer, batch), plain)


def test_models_with_a_whisper_in_them_are_refused(folder):
    config = BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=50,
        is_decoder=True,
        add_cross_attention=True,
    )
    encoder = load_whisper("tiny").get_encoder()
    model = SpeechEncoderDecoderModel(encoder=encoder, decoder=BertLMHeadModel(config))
    for use in (
        lambda: attach_experts(model, ["cs"]),
        lambda: load_experts(model, folder),
        lambda: set_language(model, "cs"),
        lambda: detach_experts(model),
    ):
        with pytest.raises(ValueError, match="into a Whisper; this is a SpeechEncoderDecoderModel"):
            use()
    with pytest.raises(ValueError, match="this is its WhisperEncoder alone"):
        attach_experts(model.encoder, ["cs"])


# ---- quantised Whispers


class Linear8bit(nn.Module):
    """Looks like the layers that bitsandbytes puts in place of linear ones."""

    def __init__(self, linear, dtype):
        super().__init__()
        rounded = (10 * linear.weight.detach()).to(dtype)
        self.weight = nn.Parameter(rounded, requires_grad=False)
        self.bias = linear.bias


def in_8_bits(dtype):
    """Return the tiny Whisper with weights in 8 bits."""
    model = load_whisper("tiny")
    for module in list(model.model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Linear8bit(child, dtype))
    return model


def quantised_by_torch(model, dtype=torch.qint8):
    return quantize_dynamic(model, {nn.Linear}, dtype=dtype)


QUANTISED = {
    "int8": lambda: in_8_bits(torch.int8),
    "uint8": lambda: in_8_bits(torch.uint8),
    "torch int8": lambda: quantised_by_torch(load_whisper("tiny")),
    "torch fp16": lambda: quantised_by_torch(load_whisper("tiny"), torch.float16),
}


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_whisper_is_refused_and_stays_as_it_is(kind, folder):
    model = QUANTISED[kind]()
    with pytest.raises(ValueError, match="fc1 is a Linear.*fp16 or bf16, without quantisation"):
        attach_experts(model, ["cs"])
    with pytest.raises(ValueError, match="in fp32, fp16 or bf16"):
        load_experts(model, folder)
    assert not clsr_blocks(model) and type(model) is WhisperForConditionalGeneration


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16], ids=["int8", "fp16"])
def test_model_with_experts_is_quantised_and_used_but_its_experts_are_not_saved(
    trained, batch, folder, tmp_path, dtype
):
    quantised = quantised_by_torch(trained, dtype)
    for language in ("cs", "ca", None):
        wanted = logits_in(trained, batch, language)
        found = logits_in(quantised, batch, language)
        assert (found - wanted).abs().mean() < 0.1 * wanted.std()
        assert not torch.equal(found, wanted)
    assert not torch.equal(logits_in(quantised, batch, "cs"), logits_in(quantised, batch, "ca"))

    message = "fc1.weight of an expert or gate is quantised: train and save experts before"
    with pytest.raises(ValueError, match=message):
        save_experts(quantised, tmp_path / "new")
    assert not list((tmp_path / "new").glob("experts*"))
    with pytest.raises(ValueError, match=message):
        list(expert_parameters(quantised))
    with pytest.raises(ValueError, match="without quantisation"):
        attach_experts(quantised, ["nl"])
    with pytest.raises(ValueError, match="without quantisation"):
        load_experts(quantised, folder)


def test_low_rank_experts_use_the_shared_block_in_8_bits(model):
    quantised = quantised_by_torch(attach_experts(model, ["cs"], ExpertSettings(rank=2)))
    for block in clsr_blocks(quantised):
        assert block.experts["cs"].fc1._shared[0] is block.shared
        assert callable(block.shared.fc1.weight)  # a packed layer


def test_experts_in_8_bits_are_not_saved(trained, tmp_path):
    for block in clsr_blocks(trained):
        block.experts["ca"].fc2 = Linear8bit(block.experts["ca"].fc2, torch.int8)
    with pytest.raises(ValueError, match="fc2.weight of an expert or gate is quantised"):
        save_experts(trained, tmp_path)


# ---- hooks of accelerate, other precisions


BY_LAYERS = [
    *(f"model.encoder.{name}" for name in ("conv1", "conv2", "embed_positions", "layer_norm")),
    *(f"model.decoder.{name}" for name in ("embed_tokens", "embed_positions", "layer_norm")),
    *(f"model.{stack}.layers.{index}" for stack in ("encoder", "decoder") for index in (0, 1)),
    "proj_out",
]


@pytest.mark.parametrize("places", [[""], BY_LAYERS], ids=["whole", "by layers"])
@pytest.mark.parametrize("first", ["experts", "dispatch"])
def test_dispatched_model_chooses_generates_saves_and_is_detached(
    trained, batch, folder, tmp_path, places, first
):
    wanted = {language: logits_in(trained, batch, language) for language in ("cs", None)}
    mixed = logits_in(trained, batch, ["ca", None])
    features = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(1))

    def generate(model):
        with use_language(model, "auto"):
            return model.generate(features, language="cs", max_new_tokens=4)

    tokens = generate(trained)
    labels = torch.tensor([[trained.generation_config.lang_to_id["<|ca|>"], 100]])

    @torch.no_grad()
    def loss(model):
        with use_language(model, "auto"):
            return model(features, labels=labels).loss

    loss_of_labels = loss(trained)
    model = load_whisper("tiny")
    if first == "experts":
        load_experts(model, folder)
    device_map = dict.fromkeys(places, "cpu")
    model = dispatch_model(model, device_map=device_map, main_device="cpu", force_hooks=True)
    if first == "dispatch":
        load_experts(model, folder)
    assert hasattr(model.model.encoder.layers[0] if places == BY_LAYERS else model, "_hf_hook")

    for language, found in wanted.items():
        assert torch.equal(logits_in(model, batch, language), found)
    assert torch.equal(logits_in(model, batch, ["ca", None]), mixed)
    assert torch.equal(generate(model), tokens)
    assert torch.equal(loss(model), loss_of_labels)
    save_experts(model, tmp_path / "again", form="fp32")
    again = load_experts(load_whisper("tiny"), tmp_path / "again")
    assert same_state(weights(again), weights(trained))
    detach_experts(model)
    assert torch.equal(logits(model, batch), wanted[None])


def test_offloaded_whisper_is_refused(folder):
    model = cpu_offload(load_whisper("tiny"), execution_device=torch.device("cpu"))
    for use in (lambda: attach_experts(model, ["cs"]), lambda: load_experts(model, folder)):
        with pytest.raises(ValueError, match="is offloaded: load .* on one device, without device"):
            use()
    assert not clsr_blocks(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_experts_follow_the_model_into_another_precision(trained, batch, dtype):
    wanted = {language: logits_in(trained, batch, language) for language in ("cs", None)}
    model = trained.half() if dtype == torch.float16 else trained.to(dtype)
    attach_experts(model, ["nl"])
    assert {p.dtype for p in model.parameters()} == {dtype}
    converted = {**batch, "input_features": batch["input_features"].to(dtype)}
    for language, found in wanted.items():
        logits_of_model = logits_in(model, converted, language)
        assert logits_of_model.dtype == dtype
        check_close(logits_of_model.float(), found, 2e-6 if dtype == torch.float64 else 0.3)
    mixed = logits_in(model, converted, ["cs", "nl"])
    assert torch.equal(mixed.isfinite(), torch.ones_like(mixed, dtype=torch.bool))
    check_close(mixed[0].float(), wanted["cs"][0], 0.3)
    check_close(mixed[1].float(), wanted[None][1], 0.3)
