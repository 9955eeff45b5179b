"""Experts on disk: what is loaded is what was saved.

A folder that is damaged or does not fit leaves the model as it was.
"""

import copy
import errno
import json

import pytest
import torch
from damage import damages
from peft import LoraConfig, get_peft_model
from random_data import logits, random_batch, same_state, shake_experts
from safetensors.torch import load_file, save_file

from distilwhisper_lib.method import storage
from distilwhisper_lib.method.attach import attach_experts, detach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, expert_languages, expert_parameters
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.fingerprint import feed_forward_fingerprints, plain_weights
from distilwhisper_lib.method.languages import get_language, set_language, use_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.packing import FORMS
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper

SETTINGS = ExpertSettings(gate_dim=16, skip_gate=0.4)
SETTINGS_WITHOUT_GATES = ExpertSettings(gate_dim=16, always_open=True)


@pytest.fixture
def batch():
    return random_batch()


@pytest.fixture
def trained(model):
    return shake_experts(attach_experts(model, ["cs", "ca"], SETTINGS))


@pytest.fixture
def folder(trained, tmp_path):
    return save_experts(trained, tmp_path / "experts", form="fp32")


def test_loaded_experts_give_the_same_logits(trained, folder, batch):
    loaded = load_experts(load_whisper("tiny"), folder)
    assert expert_languages(loaded) == ["cs", "ca"] and get_language(loaded) is None
    assert clsr_blocks(loaded)[0].routing.settings == SETTINGS
    for language in (None, "cs", "ca", ["ca", "cs"]):
        with use_language(loaded, language), use_language(trained, language):
            assert torch.equal(logits(loaded, batch), logits(trained, batch))
    assert same_state(dict(expert_parameters(loaded)), dict(expert_parameters(trained)))


def test_nothing_of_whisper_is_stored(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "base_fingerprint.safetensors",
        "experts.ca.safetensors",
        "experts.cs.safetensors",
        "experts.json",
    ]
    description = json.loads((folder / "experts.json").read_text())
    assert description["base_model"] == "tiny"
    assert description["languages"] == ["cs", "ca"]
    assert description["settings"]["gate_dim"] == 16

    tensors = load_file(folder / "experts.cs.safetensors")
    assert len(tensors) == 4 * 7
    assert all(".cs." in name for name in tensors)
    expert = 2 * 32 * 64 + 32 + 64
    gate = 16 * 32 + 16 + 16
    assert sum(tensor.numel() for tensor in tensors.values()) == 4 * (expert + gate)

    weights = len(dict(plain_weights(load_whisper("tiny"))))
    of_base = load_file(folder / "base_fingerprint.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in of_base.items()}
    assert shapes == {
        "digests": (weights, 3 * 32),
        "norms": (weights,),
        "sketches": (weights, 127),
    }


def test_one_of_several_languages_can_be_loaded(trained, folder, batch):
    for languages in (["ca"], "Catalan"):
        loaded = load_experts(load_whisper("tiny"), folder, languages)
        assert expert_languages(loaded) == ["ca"]
        with use_language(loaded, "ca"), use_language(trained, "ca"):
            assert torch.equal(logits(loaded, batch), logits(trained, batch))


def test_experts_of_two_folders_can_be_loaded_into_one_model(trained, tmp_path, batch):
    for language in ("cs", "ca"):
        one = attach_experts(load_whisper("tiny"), [language], SETTINGS)
        weights = dict(expert_parameters(trained, language))
        for name, parameter in expert_parameters(one):
            parameter.data.copy_(weights[name])
        save_experts(one, tmp_path / language, form="fp32")
    both = load_whisper("tiny")
    for language in ("cs", "ca"):
        load_experts(both, tmp_path / language)
    with use_language(both, ["cs", "ca"]), use_language(trained, ["cs", "ca"]):
        assert torch.equal(logits(both, batch), logits(trained, batch))


def test_experts_of_another_training_can_be_loaded_beside_those_attached(trained, folder, batch):
    other = ExpertSettings(gate_dim=16, hard=True, noise=1.0, expert_dropout=0.0)
    model = attach_experts(load_whisper("tiny"), ["nl"], other)
    load_experts(model, folder)
    assert expert_languages(model) == ["nl", "cs", "ca"]
    assert clsr_blocks(model)[0].routing.settings == other
    with use_language(model, "cs"), use_language(trained, "cs"):
        assert torch.equal(logits(model, batch), logits(trained, batch))


def test_loading_replaces_experts_of_the_same_language(trained, folder, batch):
    set_language(trained, "cs")
    expected = logits(trained, batch)
    shake_experts(trained, seed=5)
    assert not torch.equal(logits(trained, batch), expected)
    load_experts(trained, folder)
    assert expert_languages(trained) == ["cs", "ca"]
    assert torch.equal(logits(trained, batch), expected)


def test_loading_forgets_constant_gates_of_the_language(trained, folder):
    for block in clsr_blocks(trained):
        block.constant_gates = {"cs": True, "ca": False}
    load_experts(trained, folder, ["cs"])
    assert all(block.constant_gates == {"ca": False} for block in clsr_blocks(trained))


def test_saving_again_replaces_what_was_there(trained, folder, batch):
    shake_experts(trained, seed=5)
    save_experts(trained, folder, form="fp32")
    loaded = load_experts(load_whisper("tiny"), folder)
    with use_language(loaded, "cs"), use_language(trained, "cs"):
        assert torch.equal(logits(loaded, batch), logits(trained, batch))


def test_half_precision_base_takes_the_experts(folder):
    half = load_experts(load_whisper("tiny", dtype=torch.float16), folder)
    stored = load_file(folder / "experts.cs.safetensors")
    assert all(torch.equal(p, stored[name].half()) for name, p in expert_parameters(half, "cs"))


def test_experts_load_below_a_peft_adapter(trained, folder, batch):
    adapted = get_peft_model(load_whisper("tiny"), LoraConfig(r=2, target_modules=["q_proj"]))
    load_experts(adapted, folder)
    with use_language(adapted, "cs"), use_language(trained, "cs"):
        assert torch.equal(logits(adapted, batch), logits(trained, batch))


# ---- forms


def slightly_trained(model):
    """Move a model's experts a little away from the shared block, as training might."""
    torch.manual_seed(9)
    for _, parameter in expert_parameters(model):
        parameter.data.add_(0.01 * torch.randn_like(parameter))
    return model


# Tolerance of logits; the tiny model's biases, which are stored in fp16, are zero.
ROUNDING = {"fp32": 1e-6, "fp16": 5e-3, "int8": 1e-6, "low-rank": 1e-6}


def size_of(path):
    """Return the bytes of a file's tensors."""
    return sum(tensor.nbytes for tensor in load_file(path).values())


def test_half_precision_is_the_default_and_rounds_each_weight(trained, tmp_path):
    folder = save_experts(trained, tmp_path / "experts")
    assert json.loads((folder / "experts.json").read_text())["form"] == "fp16"
    loaded = dict(expert_parameters(load_experts(load_whisper("tiny"), folder)))
    for name, weight in expert_parameters(trained):
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], weight.half().float()), name


def test_eight_bits_keep_each_weight_within_half_a_step_of_its_row(tmp_path):
    model = slightly_trained(attach_experts(load_whisper("tiny"), ["cs"]))
    folder = save_experts(model, tmp_path / "experts", form="int8")
    loaded = dict(expert_parameters(load_experts(load_whisper("tiny"), folder)))
    shared = storage.shared_tensors(model, "cs")
    for name, weight in expert_parameters(model):
        found = loaded[name]
        if name in shared and weight.dim() == 2:
            step = (weight - shared[name]).abs().amax(1, keepdim=True) / 127
            assert ((found - weight).abs() <= 0.501 * step + 1e-7).all(), name
            assert not torch.equal(found, weight), name
        else:
            assert torch.equal(found, weight.half().float()), name


def test_low_rank_is_the_best_approximation_of_its_rank_and_exact_at_full_rank(tmp_path):
    model = slightly_trained(attach_experts(load_whisper("tiny"), ["cs"]))
    shared = storage.shared_tensors(model, "cs")
    errors = []
    for rank in (4, 16, 32):
        folder = save_experts(model, tmp_path / str(rank), form="low-rank", rank=rank)
        assert json.loads((folder / "experts.json").read_text())["rank"] == rank
        loaded = dict(expert_parameters(load_experts(load_whisper("tiny"), folder)))
        for name in ("encoder.0.experts.cs.fc1.weight", "decoder.1.experts.cs.fc2.weight"):
            difference = dict(expert_parameters(model))[name].detach() - shared[name]
            error = (loaded[name].detach() - shared[name] - difference).norm() / difference.norm()
            values = torch.linalg.svdvals(difference)
            best = float(values[rank:].norm() / values.norm())
            # 2e-3: the factors are in half precision.
            assert float(error) == pytest.approx(best, abs=2e-3), name
            errors.append(float(error))
    assert errors[0] > errors[2] > errors[4] and max(errors[4:]) < 2e-3


def test_untrained_experts_come_back_as_the_shared_block_in_every_form(tmp_path, batch):
    model = attach_experts(load_whisper("tiny"), ["cs"])
    for form in FORMS:
        folder = save_experts(model, tmp_path / form, form=form, rank=2)
        loaded = load_experts(load_whisper("tiny"), folder)
        plain = logits(load_whisper("tiny"), batch)
        with use_language(loaded, "cs"):
            torch.testing.assert_close(logits(loaded, batch), plain, atol=ROUNDING[form], rtol=0)


def test_smaller_forms_take_less_space(trained, tmp_path):
    sizes = {}
    for form in ("fp32", "fp16", "int8", "low-rank"):
        folder = save_experts(trained, tmp_path / form, form=form, rank=2)
        sizes[form] = size_of(folder / "experts.cs.safetensors")
    assert sizes["fp32"] == 2 * sizes["fp16"]
    assert sizes["fp16"] > sizes["int8"] > sizes["low-rank"]


def test_experts_in_the_first_format_are_read(trained, folder, batch):
    description = json.loads((folder / "experts.json").read_text())
    del description["form"], description["sha256"], description["check"]
    description["format"] = 1
    description["base_fingerprint"] = min(feed_forward_fingerprints(trained))  # either of two
    (folder / "base_fingerprint.safetensors").unlink()
    (folder / "experts.json").write_text(json.dumps(description))
    loaded = load_experts(load_whisper("tiny"), folder)
    with use_language(loaded, "cs"), use_language(trained, "cs"):
        assert torch.equal(logits(loaded, batch), logits(trained, batch))


def test_unknown_form_or_rank_is_named_and_nothing_is_written(trained, tmp_path):
    for options, message in (
        ({"form": "int4"}, r"unknown form 'int4'.*fp16, fp32, int8, low-rank"),
        ({"form": "low-rank", "rank": 0}, "rank 0 of stored experts"),
        ({"form": "low-rank", "rank": 1.5}, "rank 1.5 of stored experts"),
    ):
        with pytest.raises(ValueError, match=message):
            save_experts(trained, tmp_path / "experts", **options)
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("experts.json"))


@pytest.mark.parametrize("form", FORMS)
def test_low_rank_experts_are_stored_as_they_are(tmp_path, batch, form):
    model = shake_experts(
        attach_experts(load_whisper("tiny"), ["cs"], ExpertSettings(gate_dim=16, rank=4))
    )
    folder = save_experts(model, tmp_path / "experts", form=form)
    loaded = dict(expert_parameters(load_experts(load_whisper("tiny"), folder)))
    for name, weight in expert_parameters(model):
        expected = weight if form == "fp32" else weight.half().float()
        assert torch.equal(loaded[name], expected), name
    wide = load_whisper("tiny").config
    wide.d_model = 48
    refused(
        folder,
        ValueError,
        r"are for 2 \+ 2 layers of width 32 .*needs 2 \+ 2 layers of width 48",
        model=type(model)(wide),
    )


def test_packed_file_that_lacks_a_part_is_named(tmp_path):
    model = attach_experts(load_whisper("tiny"), ["cs"])
    for form, part in (("int8", "step"), ("low-rank", "right")):
        path = save_experts(model, tmp_path / form, form=form, rank=2) / "experts.cs.safetensors"
        tensors = load_file(path)
        for name in list(tensors):
            if name.endswith(f"fc1.weight.{part}"):
                del tensors[name]
        save_file(tensors, path)
        refused(
            tmp_path / form,
            ValueError,
            rf"experts.cs.safetensors cannot be read \(.*{part}.*copy it again",
        )


@pytest.mark.parametrize(
    ("form", "part", "other", "message"),
    [
        ("int8", "int8", None, r"int8 is missing, which belongs to .*fc1.weight.step"),
        ("low-rank", "left", None, r"left is missing, which belongs to .*fc1.weight.right"),
        ("int8", "step", torch.ones(64), "and its .step do not fit together"),
        ("int8", "int8", torch.ones(64, 32), "and its .step do not fit together"),
        ("low-rank", "right", torch.ones(3, 32).half(), "and its .right do not fit together"),
        ("int8", "step", torch.full((64, 1), 1e38), "is not finite"),
        ("low-rank", "left", torch.full((64, 2), torch.nan).half(), "is not finite"),
    ],
)
def test_parts_that_pack_does_not_write_are_refused(tmp_path, form, part, other, message):
    model = slightly_trained(attach_experts(load_whisper("tiny"), ["cs"]))
    folder = save_experts(model, tmp_path, form=form, rank=2)
    path = folder / "experts.cs.safetensors"
    tensors = load_file(path)
    name = f"encoder.0.experts.cs.fc1.weight.{part}"
    if other is None:
        del tensors[name]
    else:
        tensors[name] = other
    save_file(tensors, path)
    without_hashes(folder)
    refused(folder, ValueError, rf"experts.cs.safetensors cannot be read \(.*{message}")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder.0.experts.cs.fc1.bias", torch.ones(64, dtype=torch.int32), "is in int32"),
        ("encoder.0.gates.cs.linear1.bias", torch.full((16,), torch.inf), "is not finite"),
        ("encoder.0.experts.cs.fc1.weight.int8", torch.ones(64, 32).to(torch.int8), "twice"),
    ],
)
def test_tensors_that_no_form_has_are_refused(folder, name, value, message):
    path = folder / "experts.cs.safetensors"
    tensors = load_file(path) | {name: value}
    if name.endswith("int8"):
        tensors[name.replace("int8", "step")] = torch.ones(64, 1)
    save_file(tensors, path)
    without_hashes(folder)
    refused(folder, ValueError, rf"experts.cs.safetensors cannot be read \(.*{message}")


# ---- weights that are not finite


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weight_that_is_not_finite_is_never_saved(trained, tmp_path, form, value):
    name, parameter = list(expert_parameters(trained))[-3]
    parameter.data[0] = value
    with pytest.raises(ValueError, match=f"{name} is not finite.*has diverged; train again"):
        save_experts(trained, tmp_path / "experts", form=form)
    assert not list((tmp_path / "experts").iterdir())


@pytest.mark.parametrize("form", ["fp16", "int8", "low-rank"])
@pytest.mark.parametrize(("which", "value"), [("gates.cs.linear1.bias", 7e4), ("fc1.weight", 3e38)])
def test_weight_that_a_form_cannot_hold_is_never_saved(trained, tmp_path, form, which, value):
    if form == "int8" and which == "fc1.weight":
        shared = storage.shared_tensors(trained, "cs")["encoder.0.experts.cs.fc1.weight"]
        shared[0, 0] = -3e38  # the difference is too large for fp32 too
    parameters = dict(expert_parameters(trained, "cs"))
    name = next(name for name in parameters if name.endswith(which))
    parameters[name].data.flatten()[0] = value
    with pytest.raises(ValueError, match=f'{name} is too large for the form .*form="fp32"'):
        save_experts(trained, tmp_path / "experts", form=form)
    assert not list((tmp_path / "experts").iterdir())
    save_experts(trained, tmp_path / "experts", form="fp32")
    loaded = dict(expert_parameters(load_experts(unchanged(trained), tmp_path / "experts")))
    assert torch.equal(loaded[name], parameters[name])


def unchanged(trained):
    """Return the plain Whisper of a model with experts."""
    return detach_experts(copy.deepcopy(trained)).requires_grad_(True)


def test_experts_that_become_infinite_in_the_dtype_of_a_model_are_refused(trained, tmp_path):
    dict(expert_parameters(trained))["encoder.0.gates.cs.linear1.bias"].data[0] = 7e4
    folder = save_experts(trained, tmp_path, form="fp32")
    half = load_whisper("tiny", dtype=torch.float16)
    refused(folder, ValueError, "linear1.bias has values that float16 does not hold", model=half)


def test_nothing_is_written_of_a_whisper_that_is_not_finite(trained, tmp_path):
    trained.model.encoder.conv1.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"encoder.conv1.bias of Whisper itself is not finite"):
        save_experts(trained, tmp_path / "experts")
    with pytest.raises(ValueError, match=r"this model has weights .*: model.encoder.conv1.bias"):
        trained.save_pretrained(tmp_path / "whole")
    assert not (tmp_path / "experts").exists() and not (tmp_path / "whole").exists()


# ---- errors; the model stays as it was


def without_hashes(folder):
    """Make a folder look as before experts.json had hashes."""
    path = folder / "experts.json"
    description = json.loads(path.read_text())
    del description["sha256"], description["check"]
    path.write_text(json.dumps(description))


def refused(folder, error, match, model=None, languages=None):
    model = model or load_whisper("tiny")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(error, match=match):
        load_experts(model, folder, languages)
    assert not clsr_blocks(model) and same_state(model.state_dict(), state)
    assert all(p.requires_grad for p in model.model.decoder.parameters())


def test_missing_folder_file_or_language_is_named(folder, tmp_path):
    refused(tmp_path / "nowhere", FileNotFoundError, r"nowhere.*no such folder, and not a hub id")
    refused(
        folder,
        FileNotFoundError,
        r"experts holds no experts for nl; it has cs, ca",
        languages=["cs", "nl"],
    )
    refused(folder, ValueError, "'klingon'", languages=["klingon"])
    (folder / "experts.ca.safetensors").unlink()
    refused(folder, FileNotFoundError, r"experts.ca.safetensors is missing: copy the folder again")
    assert expert_languages(load_experts(load_whisper("tiny"), folder, ["cs"])) == ["cs"]


def test_damaged_files_are_named(folder):
    path = folder / "experts.ca.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 100, whole[:-1]):
        path.write_bytes(damaged)
        refused(folder, ValueError, r"experts.ca.safetensors cannot be read \(.*copy it again")
    description = folder / "experts.json"
    description.write_text(description.read_text()[:40])
    refused(folder, ValueError, r"experts.json is damaged.*copy it again")
    description.write_text('{"format": 99}')
    refused(folder, ValueError, r"experts.json has format 99, this version reads 1, 2 and 3")


@pytest.mark.parametrize("change", ["lacking", "additional", "narrow"])
def test_file_with_other_tensors_is_refused(folder, change):
    path = folder / "experts.cs.safetensors"
    tensors = load_file(path)
    name = "decoder.1.gates.cs.linear1.bias"
    if change == "lacking":
        del tensors[name]
    else:
        tensors[name if change == "narrow" else "decoder.9.gates.cs.linear1.bias"] = torch.zeros(3)
    save_file(tensors, path)
    without_hashes(folder)
    refused(
        folder,
        ValueError,
        r"the cs experts in .*experts \(tiny\) are for 2 \+ 2 layers of width 32",
    )


def test_other_base_of_the_same_shape_is_refused(folder):
    refused(
        folder,
        ValueError,
        r"trained on another Whisper, tiny: their shapes fit.*load tiny",
        model=tiny_whisper(seed=1),
    )


@pytest.mark.parametrize("change", [{"d_model": 48}, {"encoder_layers": 3}, {"decoder_layers": 1}])
def test_other_base_of_other_shape_is_refused(folder, change):
    config = load_whisper("tiny").config
    for name, value in change.items():
        setattr(config, name, value)
    other = type(load_whisper("tiny"))(config)
    refused(
        folder, ValueError, r"are for 2 \+ 2 layers of width 32 .*this Whisper needs", model=other
    )


def test_other_shapes_than_those_attached_are_refused(folder, batch):
    model = attach_experts(load_whisper("tiny"), ["nl"])
    with pytest.raises(ValueError, match=r"attached with .*'gate_dim': 64"):
        load_experts(model, folder)
    assert expert_languages(model) == ["nl"]


def test_experts_with_gates_and_without_are_not_mixed(folder, tmp_path, batch):
    ungated = attach_experts(load_whisper("tiny"), ["nl"], SETTINGS_WITHOUT_GATES)
    without = save_experts(shake_experts(ungated), tmp_path / "without", form="fp32")
    model = load_experts(load_whisper("tiny"), folder)
    with pytest.raises(ValueError, match="experts with gates, and nl was trained without them"):
        load_experts(model, without)
    assert expert_languages(model) == ["cs", "ca"]
    alone = load_experts(load_whisper("tiny"), without)
    with pytest.raises(ValueError, match="experts without gates, and cs, ca was trained with"):
        load_experts(alone, folder)
    set_language(alone, "nl")
    set_language(ungated, "nl")
    assert torch.equal(logits(alone, batch), logits(ungated, batch))


def test_plain_model_has_nothing_to_save(model, tmp_path):
    with pytest.raises(ValueError, match="no experts are attached, so there is nothing to save"):
        save_experts(model, tmp_path / "experts")
    assert not (tmp_path / "experts").exists()


def test_full_disk_leaves_what_was_saved_before(trained, folder, batch, monkeypatch):
    set_language(trained, "cs")
    expected = logits(trained, batch)
    shake_experts(trained, seed=5)

    def full(tensors, path):
        path.write_bytes(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(OSError, match=r"no space left under .*experts: free some"):
        save_experts(trained, folder)
    loaded = load_experts(load_whisper("tiny"), folder)
    with use_language(loaded, "cs"):
        assert torch.equal(logits(loaded, batch), expected)


def test_a_save_that_fails_at_the_second_language_leaves_all_as_it_was(
    trained, tmp_path, monkeypatch
):
    save_experts(trained, tmp_path, form="fp32")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_at_the_second_language(tensors, path):
        if "experts.ca" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        save_file(tensors, path)

    monkeypatch.setattr(storage, "save_file", full_at_the_second_language)
    with pytest.raises(OSError, match="no space left"):
        save_experts(trained, tmp_path, form="int8")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_save_that_fails_at_its_last_file_leaves_all_as_it_was(trained, tmp_path, monkeypatch):
    save_experts(trained, tmp_path, form="fp32")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, description):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(storage, "write_description", full)
    other = attach_experts(tiny_whisper(seed=1), ["cs", "ca"], SETTINGS)
    with pytest.raises(OSError, match="no space left"):
        save_experts(other, tmp_path, form="fp32")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ---- damaged folders


def test_a_file_of_another_save_is_refused(trained, folder, tmp_path):
    shake_experts(trained, seed=5)
    other = save_experts(trained, tmp_path / "other", form="fp32")
    (other / "experts.ca.safetensors").replace(folder / "experts.ca.safetensors")
    refused(folder, ValueError, r"experts.ca.safetensors is not the file that experts.json .*names")
    assert expert_languages(load_experts(load_whisper("tiny"), folder, "cs")) == ["cs"]


def test_experts_json_that_was_changed_is_refused_until_its_check_is_removed(folder):
    path = folder / "experts.json"
    path.write_text(path.read_text().replace('"noise": 5.0', '"noise": 4.0'))
    refused(folder, ValueError, r"experts.json is not as it was written.*remove its line \"check\"")
    description = json.loads(path.read_text())
    del description["check"]
    path.write_text(json.dumps(description))
    model = load_experts(load_whisper("tiny"), folder)
    assert clsr_blocks(model)[0].routing.settings.noise == 4.0


@pytest.mark.parametrize("version", [2, 3])
def test_experts_without_hashes_are_read(trained, folder, version):
    without_hashes(folder)
    if version == 2:
        path = folder / "experts.json"
        description = json.loads(path.read_text()) | {"format": 2}
        description["base_fingerprint"] = min(feed_forward_fingerprints(trained))
        path.write_text(json.dumps(description))
    loaded = load_experts(load_whisper("tiny"), folder)
    assert same_state(dict(expert_parameters(loaded)), dict(expert_parameters(trained)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"languages": ["cs", "cs"]}, "language 'cs' is listed twice"),
        ({"languages": []}, "languages is .*a list of codes is needed"),
        ({"languages": ["../cs"]}, "unknown language '../cs'"),
        ({"format": True}, "has format True, this version reads"),
        ({"format": 3.0}, "format 3.0 is no whole number"),
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"base_model": None}, "base_model is None, a text is needed"),
        ({"form": "int4"}, "form is 'int4', one of fp16"),
        ({"rank": -1}, "rank is -1, a whole number"),
        ({"settings": {"gate_dim": -16}}, "settings: gate_dim is -16"),
        ({"settings": {"gate_dim": 10**20}}, "have settings that no model can have"),
        ({"settings": {"always_open": "false"}}, "settings: always_open is 'false'"),
        ({"settings": {"gate_width": 16}}, "settings: .*'gate_width'"),
        ({"settings": [16]}, "settings is .*an object is needed"),
        ({"sha256": {}}, "sha256 lacks experts.cs.safetensors"),
    ],
)
def test_wrong_values_in_experts_json_are_named(folder, change, message):
    path = folder / "experts.json"
    description = json.loads(path.read_text()) | change
    del description["check"]
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message) as caught:
        load_experts(load_whisper("tiny"), folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("form", ["fp16", "int8", "low-rank"])
def test_every_damage_to_a_folder_of_experts_is_refused_with_its_name(trained, tmp_path, form):
    folder = save_experts(trained, tmp_path / "experts", form=form, rank=2)
    model = load_whisper("tiny")
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for kind, damaged in damages(path, seed=len(form)):
            path.write_bytes(damaged)
            with pytest.raises(ValueError) as caught:
                load_experts(model, folder)
            assert str(folder) in str(caught.value), kind
            assert not clsr_blocks(model)
        path.write_bytes(whole)
    assert expert_languages(load_experts(model, folder)) == ["cs", "ca"]
