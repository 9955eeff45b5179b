"""Checkpoint folders: loaded whole, with every weight from the checkpoint, or refused by name."""

import json
import logging
import shutil

import pytest
import torch
from damage import damages, flipped
from hub_stand_in import hub_stand_in
from safetensors.torch import load_file, save_file
from transformers import WhisperModel

from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks
from distilwhisper_lib.whisper.checkpoint import is_finite
from distilwhisper_lib.whisper.loading import load_processor, load_whisper

NAME = "user/whisper"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the tiny Whisper and its processor; do not change it."""
    folder = tmp_path_factory.mktemp("saved") / "whisper"
    load_whisper("tiny").save_pretrained(folder)
    load_processor("tiny").save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "whisper")


def change_weights(folder, **changes):
    """Change tensors of a checkpoint; None removes one, a name that is not there adds one."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, value in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if value is not None:
            tensors[key] = value
    save_file(tensors, path, metadata={"format": "pt"})


def change_json(path, **changes):
    """Change values of a JSON object; None removes a key."""
    values = json.loads(path.read_text()) | changes
    values = {key: value for key, value in values.items() if value is not None}
    path.write_text(json.dumps(values))


def refused(folder, match, load=load_whisper, error=ValueError):
    with pytest.raises(error, match=match) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


# ---- weights

BIAS = "model__encoder__layers__1__fc1__bias"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({BIAS: None}, r"lacks model.encoder.layers.1.fc1.bias;"),
        ({"model__encoder__colour": torch.ones(2)}, "holds unknown model.encoder.colour;"),
        (
            {BIAS: torch.ones(63)},
            r"has model.encoder.layers.1.fc1.bias of shape \[63\] instead of \[64\]",
        ),
        (
            {BIAS: None, "model__decoder__colour": torch.ones(2)},
            "lacks model.encoder.layers.1.fc1.bias, holds unknown model.decoder.colour",
        ),
    ],
)
def test_checkpoint_that_is_no_whole_whisper_is_refused_by_name(folder, caplog, changes, message):
    change_weights(folder, **changes)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        refused(folder, f"does not fit its config.json.*{message}")
    assert not caplog.records  # one error, and not a table of transformers beside it


def test_missing_layers_are_counted(folder):
    change_json(folder / "config.json", encoder_layers=4)
    refused(folder, r"lacks model.encoder.layers.2.* and 27 more; get the checkpoint again")


def test_tied_output_projection_may_be_missing_or_there(folder):
    stored = load_file(folder / "model.safetensors")
    assert "proj_out.weight" not in stored
    embeddings = stored["model.decoder.embed_tokens.weight"]
    change_weights(folder, proj_out__weight=embeddings.clone())
    assert torch.equal(load_whisper(folder).proj_out.weight, embeddings)


def test_output_projection_of_its_own_may_not_be_missing(folder):
    embeddings = load_file(folder / "model.safetensors")["model.decoder.embed_tokens.weight"]
    change_json(folder / "config.json", tie_word_embeddings=False)
    refused(folder, "lacks proj_out.weight; get the checkpoint again")
    change_weights(folder, proj_out__weight=2 * embeddings)
    assert torch.equal(load_whisper(folder).proj_out.weight, 2 * embeddings)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(folder, value):
    change_weights(folder, **{BIAS: torch.full((64,), value)})
    refused(folder, r"not finite \(NaN or infinite\): model.encoder.layers.1.fc1.bias;.*diverged")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.bool])
def test_weights_that_are_whole_numbers_are_refused_by_name(folder, dtype):
    change_weights(folder, **{BIAS: torch.ones(64, dtype=dtype)})
    refused(folder, r"no floating-point numbers: model.encoder.layers.1.fc1.bias \((I|BOOL)")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_every_floating_point_type_are_read(folder, dtype):
    change_weights(folder, **{BIAS: torch.full((64,), 0.5, dtype=dtype)})
    assert load_whisper(folder).model.encoder.layers[1].fc1.bias.eq(0.5).all()


def test_weights_that_half_precision_does_not_hold_are_refused(folder):
    change_weights(folder, **{BIAS: torch.full((64,), 7e4)})
    assert load_whisper(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="too large for float16: use float32 or bfloat16"):
        load_whisper(folder, dtype=torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_value_that_is_not_finite_is_found(dtype):
    tensor = torch.zeros(1000, dtype=dtype)
    assert is_finite(tensor) and is_finite(torch.zeros(0)) and is_finite(torch.ones(3).int())
    for value in (torch.nan, torch.inf, -torch.inf):
        tensor[700] = value
        assert not is_finite(tensor)


def test_weights_of_whisper_without_its_head_are_no_checkpoint(tmp_path):
    WhisperModel(load_whisper("tiny").config).save_pretrained(tmp_path / "body")
    loaded = load_whisper(tmp_path / "body")  # transformers puts the prefix before its names
    assert torch.equal(loaded.proj_out.weight, loaded.model.decoder.embed_tokens.weight)


def test_checkpoint_of_a_trainer_with_experts_gives_the_plain_whisper(tmp_path):
    model = attach_experts(load_whisper("tiny"), ["cs"])
    folder = tmp_path / "checkpoint-3"
    model.save_pretrained(folder)
    assert any(".experts.cs." in name for name in load_file(folder / "model.safetensors"))
    loaded = load_whisper(folder)
    assert (
        not clsr_blocks(loaded) and loaded.num_parameters() == load_whisper("tiny").num_parameters()
    )
    (folder / "experts.json").unlink()
    refused(folder, r"holds unknown model.decoder.layers.0.fc1.experts")


def test_loading_half_a_checkpoint_is_no_option(folder):
    with pytest.raises(ValueError, match="ignore_mismatched_sizes is no option here"):
        load_whisper(folder, ignore_mismatched_sizes=True)


# ---- shards


@pytest.fixture
def shards(tmp_path):
    load_whisper("tiny").save_pretrained(tmp_path / "shards", max_shard_size="200KB")
    return tmp_path / "shards"


def name_shard(folder, file):
    """Let the index of a checkpoint name another file for one tensor."""
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.encoder.conv1.bias"] = file
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("file", ["../other.safetensors", "/etc/x.safetensors", "a\\b.safetensors"])
def test_index_that_points_outside_its_folder_is_refused(shards, file):
    name_shard(shards, file)
    refused(shards, "index.json names a file outside its folder")


@pytest.mark.parametrize("file", ["pytorch_model.bin", 3, None])
def test_index_that_names_no_safetensors_file_is_refused(shards, file):
    name_shard(shards, file)
    refused(shards, "index.json is damaged .*which is no safetensors file")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"weight_map": []}', "\udcff"])
def test_index_that_is_damaged_is_refused(shards, content):
    path = shards / "model.safetensors.index.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(shards, "index.json is damaged")


def test_missing_shard_is_named(shards):
    sorted(shards.glob("model-*.safetensors"))[0].unlink()
    refused(shards, "lacks model-00001-of", error=FileNotFoundError)


def test_pickled_weights_are_never_read(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refused(folder, "lacks model.safetensors", error=FileNotFoundError)


# ---- settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "wav2vec2"}, "holds a model of type 'wav2vec2', and a Whisper is needed"),
        ({"model_type": "distilwhisper"}, "type 'distilwhisper'.*loaded by load_released"),
        ({"model_type": None}, "holds a model of type None"),
        ({"encoder_attention_heads": None}, "config.json lacks encoder_attention_heads"),
        ({"decoder_attention_heads": 5}, "decoder_attention_heads is 5, .*divides the width 32"),
        ({"dropout": "0.1"}, "dropout is '0.1', a number from 0 to 1"),
        ({"d_model": "32"}, "can't be loaded"),
        ({"transformers_weights": "other.safetensors"}, "names its weights itself"),
    ],
)
def test_settings_of_another_model_are_refused(folder, changes, message):
    change_json(folder / "config.json", **changes)
    refused(folder, message)


def test_folder_of_an_adapter_is_refused(folder, tmp_path):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "tiny"}))
    refused(folder, "holds an adapter of PEFT.*PeftModel.from_pretrained")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lang_to_id": ["<|cs|>"]}, "lang_to_id is .*token ids by name is needed"),
        ({"lang_to_id": {"<|cs|>": 99999}}, "lang_to_id is .*token ids by name is needed"),
        ({"task_to_id": {"transcribe": "358"}}, "task_to_id is .*token ids by name is needed"),
        ({"eos_token_id": []}, "eos_token_id is .*a token id or a list of them is needed"),
        ({"decoder_start_token_id": None}, "lacks decoder_start_token_id"),
        ({"no_timestamps_token_id": 362.0}, "no_timestamps_token_id is '362.0', and a token id"),
        ({"is_multilingual": "no"}, "is_multilingual is 'no', and true or false is needed"),
    ],
)
def test_wrong_settings_of_generate_are_refused(folder, changes, message):
    change_json(folder / "generation_config.json", **changes)
    refused(folder, f"generation_config.json:? {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_size": 128}, "feature_size 128, and this Whisper takes 80"),
        ({"sampling_rate": 8000}, "sampling_rate 8000, and this Whisper takes 16000"),
        ({"chunk_length": 10}, "chunk_length 10, and this Whisper takes 30"),
        ({"dither": "x"}, "dither 'x': a number"),
    ],
)
def test_feature_extractor_of_another_model_is_refused(folder, changes, message):
    path = folder / "processor_config.json"
    extractor = json.loads(path.read_text())["feature_extractor"]
    change_json(path, feature_extractor=extractor | changes)
    refused(folder, f"the feature extractor in .* has {message}", load_processor)


def test_tokenizer_of_another_model_is_refused(folder):
    change_json(folder / "config.json", eos_token_id=50257)
    refused(folder, r"token 256, and the model with token 50257.*another model", load_processor)


def test_missing_files_of_a_processor_are_named(folder):
    (folder / "tokenizer.json").unlink()
    refused(folder, "tokenizer in .* is damaged or not one of Whisper, it lacks", load_processor)
    (folder / "tokenizer_config.json").unlink()
    refused(folder, "holds no tokenizer", load_processor, FileNotFoundError)


# ---- damaged files


def load_both(folder):
    """Return all that a checkpoint decides: weights, settings of generate, tokens, mel frames."""
    model = load_whisper(folder)
    processor = load_processor(folder)
    return (
        {name: tensor.tolist() for name, tensor in model.named_parameters()},
        model.generation_config.to_dict(),
        processor.tokenizer("žlutý kůň").input_ids,
        processor.feature_extractor.to_dict(),
    )


def test_a_damaged_file_is_refused_or_makes_no_difference(folder):
    whole = load_both(folder)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        for kind, damaged in damages(path):
            if "renamed" in kind or " is " in kind or "bit changed" in kind:
                continue  # some of them are other checkpoints, with nothing to tell them by
            path.write_bytes(damaged)
            try:
                assert load_both(folder) == whole, kind
            except (ValueError, FileNotFoundError) as error:
                assert str(folder) in str(error), kind
        path.write_bytes(content)


def test_header_of_weights_with_a_changed_bit_is_never_loaded_as_another_model(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    before = load_whisper(folder).state_dict()
    for place in range(8, 600, 7):
        path.write_bytes(flipped(content, place, place % 7))
        try:
            after = load_whisper(folder).state_dict()
        except (ValueError, FileNotFoundError) as error:
            assert str(folder) in str(error)
        else:
            assert all(torch.equal(before[name], after[name]) for name in before)


def test_damaged_checkpoint_in_the_hubs_cache_says_what_to_remove(folder, tmp_path):
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    with hub_stand_in(tmp_path) as hub:
        hub.add(NAME, files)
        load_whisper(NAME)
        cached = next(hub.home.rglob("snapshots/*/model.safetensors"))
        cached.resolve().write_bytes(files["model.safetensors"][:1000])
        repository = cached.parents[2]
        with pytest.raises(ValueError, match=f"hub's cache.*can't be loaded.*remove {repository}"):
            load_whisper(NAME)
        shutil.rmtree(repository)
        assert load_whisper(NAME).num_parameters() > 100_000
