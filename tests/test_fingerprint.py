"""The fingerprint of a Whisper: rounded copies are the same Whisper, anything else is another."""

import copy
import hashlib
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_data import same_state, shake_experts
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    WhisperForAudioClassification,
    WhisperForCausalLM,
    WhisperForConditionalGeneration,
)

from distilwhisper_lib.method import fingerprint
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, expert_parameters
from distilwhisper_lib.method.fingerprint import (
    MARGIN,
    PERIOD,
    SKETCH,
    base_fingerprint,
    differing_weights,
    fingerprints,
    plain_weights,
    sketch,
    weight_fingerprint,
)
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.storage import BASE_FILE, save_experts
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def randomised(model, seed=3):
    """Give every weight of a model, biases and norms too, a value that no coarse dtype holds."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return model


@pytest.fixture
def whisper(model):
    return randomised(model)


@pytest.fixture
def folder(whisper, tmp_path):
    return saved(whisper, tmp_path / "experts")


def saved(whisper, folder):
    """Save shaken experts of a copy of a Whisper."""
    with_experts = attach_experts(copy.deepcopy(whisper), ["cs"])
    return save_experts(shake_experts(with_experts), folder)


def in_dtype(whisper, *names):
    """Return a copy of a Whisper, rounded to one dtype after the other."""
    converted = copy.deepcopy(whisper)
    for name in names:
        converted.to(DTYPES[name])
    return converted


def with_adapter(whisper, strength):
    """Return a copy with LoRA on q and v, whose change is `strength` of the weights' norm."""
    torch.manual_seed(5)
    config = LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "v_proj"])
    adapted = get_peft_model(copy.deepcopy(whisper), config)
    for module in adapted.modules():
        if hasattr(module, "lora_B"):
            a = module.lora_A["default"].weight.data
            b = torch.randn_like(module.lora_B["default"].weight)
            weight = module.base_layer.weight
            b *= strength * weight.norm() / (b @ a).norm()
            module.lora_B["default"].weight.data.copy_(b)
    return adapted


def refused(model, folder, match):
    """Check that a folder is refused and that the model stays as it was."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=match):
        load_experts(model, folder)
    assert not clsr_blocks(model) and same_state(model.state_dict(), state)


# ---- the weights of the plain Whisper


def test_plain_weights_have_the_names_of_transformers_whisper_model(whisper):
    found = dict(plain_weights(whisper))
    expected = dict(whisper.model.named_parameters())
    assert list(found) == list(expected)
    assert all(found[name].data_ptr() == weight.data_ptr() for name, weight in expected.items())


def test_experts_and_adapters_beside_whisper_do_not_change_its_fingerprint(whisper):
    expected = base_fingerprint(whisper)
    names = list(dict(plain_weights(whisper)))
    assert base_fingerprint(whisper.model) == expected

    everywhere = LoraConfig(r=2, target_modules=["q_proj", "fc1", "conv1", "embed_positions"])
    adapted = get_peft_model(copy.deepcopy(whisper), everywhere)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.add_(1)
    assert base_fingerprint(adapted) == base_fingerprint(adapted.get_base_model()) == expected
    assert list(dict(plain_weights(adapted))) == names

    kept = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["layer_norm"])
    copied = get_peft_model(copy.deepcopy(whisper), kept)
    for name, parameter in copied.named_parameters():
        if "modules_to_save" in name:
            parameter.data.add_(1)
    assert base_fingerprint(copied) == expected

    shake_experts(attach_experts(whisper, ["cs", "ca"]))
    assert base_fingerprint(whisper) == base_fingerprint(whisper.model) == expected
    assert sorted(dict(plain_weights(whisper))) == sorted(names)
    shared = LoraConfig(r=2, target_modules=r".*\.(q_proj|shared\.fc[12])")
    assert base_fingerprint(get_peft_model(whisper, shared)) == expected


def test_compiled_whisper_has_the_fingerprint_of_whisper(whisper):
    expected = base_fingerprint(whisper)
    whisper.model.encoder = torch.compile(whisper.model.encoder)
    assert base_fingerprint(whisper) == base_fingerprint(torch.compile(whisper)) == expected


def test_a_model_with_one_stack_has_the_weights_of_that_stack_alone(whisper):
    config = copy.deepcopy(whisper.config)
    classifier = WhisperForAudioClassification(config)
    classifier.encoder.load_state_dict(whisper.model.encoder.state_dict())
    decoder = WhisperForCausalLM(config)
    decoder.model.decoder.load_state_dict(whisper.model.decoder.state_dict())

    whole = dict(plain_weights(whisper))
    for part, stack in ((classifier, "encoder"), (decoder, "decoder")):
        expected = {name: weight for name, weight in whole.items() if name.startswith(stack)}
        assert same_state(dict(plain_weights(part)), expected)
        assert differing_weights(part, fingerprints(whisper)) == []
        next(weight for _, weight in plain_weights(part)).mul_(1.1)
        assert len(differing_weights(part, fingerprints(whisper))) == 1


def test_an_output_projection_of_its_own_counts_and_a_copy_of_the_embeddings_does_not(whisper):
    tied = fingerprints(whisper)
    config = copy.deepcopy(whisper.config)
    config.tie_word_embeddings = False
    untied = WhisperForConditionalGeneration(config)
    untied.load_state_dict(whisper.state_dict())
    assert untied.proj_out.weight is not untied.model.decoder.embed_tokens.weight
    assert base_fingerprint(untied) == base_fingerprint(whisper)

    untied.proj_out.weight.data[7, 7] += 0.1
    assert list(fingerprints(untied))[-1] == "proj_out.weight"
    assert differing_weights(untied, tied) == ["proj_out.weight"]
    assert differing_weights(whisper, fingerprints(untied)) == ["proj_out.weight"]
    assert differing_weights(whisper.model, fingerprints(untied)) == []  # has no head


def test_no_weights_of_whisper_are_named_where_there_are_none():
    with pytest.raises(ValueError, match="a Linear is no Whisper: it has no encoder or decoder"):
        list(plain_weights(torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_base_is_refused_with_its_dtype(whisper, folder, dtype):
    layer = whisper.model.decoder.layers[0]
    quantised = layer.fc2.weight.detach().to(dtype)
    layer.fc2.weight = torch.nn.Parameter(quantised, requires_grad=False)
    name = str(dtype).removeprefix("torch.")
    message = rf"decoder.layers.0.fc2.weight is quantised \({name}\).*in fp32, fp16 or bf16"
    with pytest.raises(ValueError, match=message):
        base_fingerprint(whisper)
    with pytest.raises(ValueError, match=message):
        load_experts(whisper, folder)


def test_offloaded_base_is_refused(whisper):
    with pytest.raises(ValueError, match="conv1.weight is offloaded: load the base on one device"):
        base_fingerprint(whisper.to("meta"))


# ---- the same Whisper


def test_the_exact_fingerprint_does_not_depend_on_the_dtype_that_holds_the_values(whisper):
    rounded = base_fingerprint(in_dtype(whisper, "bf16"))
    assert rounded == base_fingerprint(in_dtype(whisper, "bf16", "fp32"))
    assert rounded != base_fingerprint(whisper)
    assert base_fingerprint(whisper) == base_fingerprint(copy.deepcopy(whisper).double())


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("loaded", DTYPES)
def test_experts_load_into_the_same_whisper_in_every_dtype(whisper, tmp_path, stored, loaded):
    folder = saved(in_dtype(whisper, stored), tmp_path)
    for rounded in ((loaded,), (stored, loaded), (stored, "fp32")):
        candidate = load_experts(in_dtype(whisper, *rounded), folder)
        dtypes = {parameter.dtype for _, parameter in expert_parameters(candidate)}
        assert dtypes == {DTYPES[rounded[-1]]}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_experts_that_were_trained_on_rounded_values_in_fp32_load_into_each_copy(
    whisper, tmp_path, dtype
):
    folder = saved(in_dtype(whisper, dtype, "fp32"), tmp_path)
    for names in (("fp32",), (dtype,), (dtype, "fp32")):
        load_experts(in_dtype(whisper, *names), folder)


def test_an_adapter_that_was_merged_and_unmerged_in_fp32_leaves_the_same_whisper(whisper, folder):
    adapted = with_adapter(whisper, 0.1)
    adapted.merge_adapter()
    adapted.unmerge_adapter()
    assert base_fingerprint(adapted) != base_fingerprint(whisper)  # by the noise of fp32
    load_experts(adapted, folder)


def test_encoder_alone_takes_the_experts_of_the_encoder(whisper, folder):
    classifier = WhisperForAudioClassification(copy.deepcopy(whisper.config))
    classifier.encoder.load_state_dict(whisper.model.encoder.state_dict())
    load_experts(classifier, folder)
    found = dict(expert_parameters(classifier))
    whole = dict(expert_parameters(load_experts(whisper, folder)))
    expected = {name: weight for name, weight in whole.items() if name.startswith("encoder.")}
    assert same_state(found, expected)


def test_encoder_of_another_whisper_or_with_more_layers_is_refused(whisper, folder):
    config = copy.deepcopy(whisper.config)
    other = WhisperForAudioClassification(config)
    refused(other, folder, "trained on another Whisper, tiny.*the first is encoder.conv1.weight")
    config.encoder_layers = 3
    deeper = WhisperForAudioClassification(config)
    refused(deeper, folder, r"are for 2 \+ 0 layers .*this Whisper needs 3 \+ 0 layers")


# ---- another Whisper

# One of every kind of tensor in a Whisper.
KINDS = [
    "encoder.conv1.weight",
    "encoder.conv2.bias",
    "encoder.embed_positions.weight",
    "encoder.layers.0.self_attn.k_proj.weight",
    "encoder.layers.1.self_attn.out_proj.bias",
    "encoder.layers.0.self_attn_layer_norm.weight",
    "encoder.layers.1.fc1.bias",
    "encoder.layer_norm.bias",
    "decoder.embed_tokens.weight",
    "decoder.embed_positions.weight",
    "decoder.layers.0.self_attn.q_proj.weight",
    "decoder.layers.1.encoder_attn.v_proj.bias",
    "decoder.layers.0.encoder_attn_layer_norm.bias",
    "decoder.layers.1.fc2.weight",
    "decoder.layers.0.final_layer_norm.weight",
    "decoder.layer_norm.weight",
]


@pytest.mark.parametrize("name", KINDS)
def test_one_value_that_changed_in_any_tensor_makes_another_whisper(whisper, folder, name):
    stored = fingerprints(whisper)
    weight = dict(plain_weights(whisper))[name]
    weight.view(-1)[-1] += 1e-3  # above the noise of fp32
    assert base_fingerprint(whisper) != fingerprint.combined(stored)
    assert differing_weights(whisper, stored) == [name]
    refused(whisper, folder, rf"another Whisper, tiny: .* 1 of 89 weights differ.*{name}; load")


@pytest.mark.parametrize("strength", [1e-5, 1e-3, 0.1])
def test_merged_adapter_makes_another_whisper_however_small_it_is(whisper, folder, strength):
    merged = with_adapter(whisper, strength).merge_and_unload()
    message = (
        r"trained on another Whisper, tiny: their shapes fit, but 12 of 89 weights differ, the "
        r"first is encoder.layers.0.self_attn.v_proj.weight; load tiny; only q_proj, v_proj "
        r"differ, as by a merged adapter: unload it or do not merge it"
    )
    refused(merged, folder, message)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("loaded", DTYPES)
def test_merged_adapter_above_the_rounding_is_refused_in_every_dtype(
    whisper, tmp_path, stored, loaded
):
    folder = saved(in_dtype(whisper, stored), tmp_path)
    merged = with_adapter(whisper, 0.02).merge_and_unload()
    refused(in_dtype(merged, loaded), folder, "12 of 89 weights differ.*only q_proj, v_proj differ")


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_small_merged_adapter_is_found_where_one_of_the_two_is_in_fp32(whisper, tmp_path, dtype):
    released = in_dtype(whisper, "fp16", "fp32")  # as the hub's Whispers are
    merged = with_adapter(released, 1e-3).merge_and_unload()
    refused(in_dtype(merged, dtype), saved(released, tmp_path / "a"), "12 of 89 weights differ")
    refused(merged, saved(in_dtype(released, dtype), tmp_path / "b"), "12 of 89 weights differ")


def test_whisper_with_other_weights_is_refused_without_a_word_about_adapters(folder):
    with pytest.raises(ValueError, match="trained on another Whisper.*89 of 89") as error:
        load_experts(randomised(tiny_whisper(seed=1), seed=4), folder)
    assert str(error.value).endswith("the first is encoder.conv1.weight; load tiny")


def test_the_revision_of_the_base_is_named(whisper, tmp_path):
    whisper.config._commit_hash = "abc123"
    folder = saved(whisper, tmp_path)
    refused(load_whisper("tiny"), folder, r"another Whisper, tiny \(revision abc123\): .*load tiny")


# ---- between bf16 and fp16: sketches


def rounded_copies(weights):
    """Return the fingerprints of a tensor's copies in bf16 and fp16."""
    return weight_fingerprint(weights.bfloat16()), weight_fingerprint(weights.half())


def ratio(found, stored):
    """Return distance / tolerance of two fingerprints: up to 1 they are copies of one tensor."""
    tolerance = fingerprint._tolerance(found, stored)
    return fingerprint.sketch_distance(found, stored) / tolerance


@pytest.mark.parametrize("shape", [(1,), (80,), (512,), (512, 80, 3), (700, 512), (2000, 1024)])
@pytest.mark.parametrize("scale", [1e-6, 1e-4, 0.02, 10.0])
def test_copies_in_bf16_and_fp16_are_well_within_the_tolerance(shape, scale):
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        bf16, fp16 = rounded_copies(scale * torch.randn(shape, generator=draw))
        assert ratio(bf16, fp16) < 0.7 and ratio(fp16, bf16) < 0.7


CHANGES = {
    "all values": lambda weights, noise: noise,
    "factor": lambda weights, noise: weights,
    "one row": lambda weights, noise: noise * (torch.arange(256) == 9)[:, None],
    "one column": lambda weights, noise: noise * (torch.arange(512) == 9),
    "one value": lambda weights, noise: torch.eye(256, 512) * (torch.arange(512) == 9),
    "rank 1": lambda weights, noise: noise[:, :1] * noise[:1],
    "shift": lambda weights, noise: torch.ones_like(weights),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_one_percent_is_more_than_the_tolerance(change):
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        weights = 0.02 * torch.randn(256, 512, generator=draw)
        difference = CHANGES[change](weights, torch.randn(256, 512, generator=draw))
        changed = weights + 0.01 * difference * weights.norm() / difference.norm()
        bf16, _ = rounded_copies(weights)
        _, fp16 = rounded_copies(changed)
        assert ratio(fp16, bf16) > 1.1


def test_the_tolerance_covers_roundings_that_are_as_bad_as_can_be():
    # Values just above a power of two, halfway between two values of bf16: half a unit each.
    draw = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (512, 512), generator=draw) * 2 - 1
    weights = signs * (1 + 2.0**-8)
    bf16, fp16 = rounded_copies(weights + 2.0**-20 * torch.randn(512, 512, generator=draw))
    assert 0.7 / MARGIN < ratio(bf16, fp16) < 1


def test_sketches_are_the_same_on_every_machine_for_ever():
    sums = sketch(torch.arange(1.0, 400.0))
    assert sums.shape == (SKETCH,) and sums.dtype == torch.float64
    assert sums[:6].tolist() == [-508, 4, -6, -262, -264, -254] and sums.sum() == -3404


def test_sketches_see_where_values_are():
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(2 * PERIOD, generator=draw)
    swapped = torch.cat([values[PERIOD:], values[:PERIOD]])
    distance = (sketch(values) - sketch(swapped)).norm()
    assert distance / (values - swapped).norm() == pytest.approx(1, abs=0.25)
    assert sketch(values).norm() / values.norm() == pytest.approx(1, abs=0.25)


# ---- on disk


def test_fingerprints_are_read_as_they_were_written(whisper, tmp_path):
    expected = fingerprints(whisper)
    fingerprint.write_fingerprints(tmp_path / "file", expected)
    found = fingerprint.read_fingerprints(tmp_path / "file")
    assert list(found) == list(expected)
    for name, weight in expected.items():
        assert (found[name].shape, found[name].dtype) == (weight.shape, weight.dtype)
        assert found[name].digests == weight.digests
        assert found[name].norm == weight.norm and torch.equal(found[name].sketch, weight.sketch)


def test_missing_file_of_fingerprints_is_named(folder):
    (folder / BASE_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=f"{BASE_FILE} is missing: copy the folder again"):
        load_experts(load_whisper("tiny"), folder)


def test_damaged_file_of_fingerprints_is_named(whisper, folder):
    path = folder / BASE_FILE
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 100):
        path.write_bytes(damaged)
        refused(whisper, folder, rf"{BASE_FILE} cannot be read \(.*copy the folder again")

    path.write_bytes(whole)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    for name in tensors:
        lacking = {other: tensor for other, tensor in tensors.items() if other != name}
        save_file(lacking, path, metadata)
        refused(whisper, folder, rf"{BASE_FILE} cannot be read \(.*copy the folder again")
        save_file({**tensors, name: tensors[name][1:].clone()}, path, metadata)
        refused(whisper, folder, rf"{BASE_FILE} cannot be read \(.*copy the folder again")
    save_file(tensors, path)
    refused(whisper, folder, rf"{BASE_FILE} cannot be read \(.*copy the folder again")


def test_fingerprints_of_other_experts_are_refused(folder, tmp_path):
    other = saved(tiny_whisper(seed=1), tmp_path / "other")
    (folder / BASE_FILE).write_bytes((other / BASE_FILE).read_bytes())
    refused(tiny_whisper(seed=1), folder, f"{BASE_FILE} does not belong to experts.json beside it")


# ---- formats 1 and 2


def in_old_format(whisper, folder, version=2):
    """Save experts of a Whisper as formats 1 and 2 are."""
    saved(whisper, folder)
    (folder / BASE_FILE).unlink()
    description = json.loads((folder / "experts.json").read_text())
    if version == 1:
        del description["form"]
    digest = hashlib.sha256()
    for stack in (whisper.model.encoder, whisper.model.decoder):
        for layer in stack.layers:
            digest.update(layer.fc1.weight.detach().half().numpy().tobytes())
    del description["sha256"], description["check"]
    description["format"] = version
    description["base_fingerprint"] = digest.hexdigest()
    (folder / "experts.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_folders_in_older_formats_load_as_before(whisper, tmp_path, version):
    folder = in_old_format(whisper, tmp_path, version)
    expected = dict(expert_parameters(load_experts(in_dtype(whisper, "fp32"), folder)))
    found = dict(expert_parameters(load_experts(in_dtype(whisper, "fp16"), folder)))
    assert same_state(found, {name: weight.half() for name, weight in expected.items()})
    refused(tiny_whisper(seed=1), folder, "trained on another Whisper, tiny.*load tiny whole")


def test_folders_in_older_formats_know_a_base_in_bf16_from_its_copies(whisper, tmp_path):
    folder = in_old_format(in_dtype(whisper, "bf16"), tmp_path)
    for copies in (("bf16",), ("bf16", "fp32"), ("fp32",)):
        load_experts(in_dtype(whisper, *copies), folder)


def test_what_older_formats_cannot_recognise_is_said(whisper, tmp_path):
    folder = in_old_format(whisper, tmp_path)
    message = r"or this is a copy that format 2 .* \(in bf16, or with one stack\): load tiny whole"
    refused(in_dtype(whisper, "bf16"), folder, message)
    refused(WhisperForAudioClassification(copy.deepcopy(whisper.config)), folder, message)
