"""Experts exported as adapters: plain PEFT on plain Whisper computes what the experts compute."""

import copy
import json
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftModel, get_peft_model
from random_data import RandomClips, random_batch, same_state, shake_experts
from safetensors.torch import load_file
from test_readme import run_example
from transformers import WhisperForConditionalGeneration, WhisperModel

from distilwhisper_lib.evaluation.bake import bake, fix_gates, gate_shares
from distilwhisper_lib.evaluation.export_adapter import export_adapter
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import set_language, use_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.whisper.loading import fastest_attention, load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper

LOW_RANK = ExpertSettings(gate_dim=16, rank=4)
FULL = ExpertSettings(gate_dim=16)
GATES = {"cs": [1, 0, 1, 1], "ca": [0, 1, 1, 0]}  # of 2 encoder and 2 decoder layers


def fixed(model, language, gates):
    """Make the gates of a language constant: open where `gates` has 1, shut where it has 0."""
    return fix_gates(model, language, pd.DataFrame({"open": gates, "agree": 1.0}))


def with_experts(settings, plain=None):
    """Return a Whisper with two languages whose experts differ and whose gates are constant."""
    model = attach_experts(plain or load_whisper("tiny"), list(GATES), settings)
    shake_experts(model)
    for language, gates in GATES.items():
        fixed(model, language, gates * (len(clsr_blocks(model)) // 4))
    return model.eval()


def stock(plain=None):
    """Return the same Whisper as transformers' own class, and without anything of this library."""
    plain = plain or tiny_whisper()
    again = type(plain)(copy.deepcopy(plain.config)).eval()
    again.load_state_dict(plain.state_dict())
    again.set_attn_implementation(fastest_attention())  # as load_whisper does
    again.generation_config = copy.deepcopy(getattr(plain, "generation_config", None))
    return again


@contextmanager
def no_warning():
    """Make an error of every warning but PEFT's call of a name that transformers gives up."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        yield


def adapted_by(folder, plain=None, name="default", **options):
    """Put an adapter on a stock Whisper, by PEFT alone, and without a warning."""
    with no_warning():
        return PeftModel.from_pretrained(plain or stock(), str(folder), name, **options).eval()


def with_both(model, tmp_path):
    """Return a stock Whisper with both languages as adapters."""
    adapted = adapted_by(export_adapter(model, "cs", tmp_path / "cs"), name="cs")
    with no_warning():
        adapted.load_adapter(str(export_adapter(model, "ca", tmp_path / "ca")), adapter_name="ca")
    return adapted.eval()


def plain_logits(model, batch):
    """Return logits (B, T, V) in the window of 30 s, which stock transformers has."""
    with torch.no_grad():
        return model(**batch).logits


def logits_in(model, batch, language):
    with use_language(model, language):
        return plain_logits(model, batch)


def tokens_in(model, batch, experts, **options):
    """Return what is generated with a choice of experts."""
    with use_language(model, experts):
        return generated(model, batch, **options)


def generated(model, batch, **options):
    features = batch["input_features"]
    options = {"language": "cs", "task": "transcribe", "max_new_tokens": 12} | options
    return model.generate(features, **options)


@pytest.fixture
def batch():
    """Three clips of 30 s with the decoder's inputs."""
    return random_batch(batch_size=3, frames=3000)


# ---- the same outputs


@pytest.mark.parametrize("language", GATES)
def test_plain_peft_on_plain_whisper_gives_the_same_logits_bit_for_bit(language, batch, tmp_path):
    model = with_experts(LOW_RANK)
    expected = logits_in(model, batch, language)
    adapted = adapted_by(export_adapter(model, language, tmp_path / "out"))
    # in fp32 PEFT does the same sums in the same order, and multiplies by a scale of 1
    assert torch.equal(plain_logits(adapted, batch), expected)
    assert (expected - plain_logits(stock(), batch)).abs().max() > 0.1


@pytest.mark.parametrize("beams", [1, 2])
def test_generate_gives_the_same_tokens(beams, batch, tmp_path):
    model = with_experts(LOW_RANK)
    expected = tokens_in(model, batch, "cs", num_beams=beams)
    adapted = adapted_by(export_adapter(model, "Czech", tmp_path / "out"))
    assert torch.equal(generated(adapted, batch, num_beams=beams), expected)
    plain = generated(stock(), batch, num_beams=beams)
    assert plain.shape != expected.shape or not torch.equal(plain, expected)


def test_languages_are_adapters_of_one_whisper(batch, tmp_path):
    model = with_experts(LOW_RANK)
    adapted = with_both(model, tmp_path)
    for language in ("cs", "ca", "cs"):
        adapted.set_adapter(language)
        assert torch.equal(plain_logits(adapted, batch), logits_in(model, batch, language))


def test_a_batch_mixes_languages_by_adapter_names(batch, tmp_path):
    model = with_experts(LOW_RANK)
    adapted = with_both(model, tmp_path)
    names = ["ca", "__base__", "cs"]
    languages = ["ca", None, "cs"]
    with torch.no_grad():
        found = adapted(**batch, adapter_names=names).logits
    # rounding: parts of a batch are multiplied by matrices of other shapes
    expected = logits_in(model, batch, languages)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    for index, language in enumerate(languages):
        alone = logits_in(model, batch, language)[index]
        torch.testing.assert_close(found[index], alone, atol=1e-5, rtol=1e-4)
    assert (found[1] - logits_in(model, batch, "cs")[1]).abs().max() > 0.1


@pytest.mark.parametrize("beams", [1, 2])
def test_a_mixed_batch_generates_what_each_language_does(beams, batch, tmp_path):
    model = with_experts(LOW_RANK)
    adapted = with_both(model, tmp_path)
    options = {"language": ["ca", "en", "cs"], "num_beams": beams}
    found = generated(adapted, batch, adapter_names=["ca", "__base__", "cs"], **options)
    assert torch.equal(found, tokens_in(model, batch, ["ca", None, "cs"], **options))
    assert not torch.equal(found, generated(stock(), batch, **options))


def test_switched_off_or_unloaded_it_is_plain_whisper(batch, tmp_path):
    plain = stock()
    adapted = adapted_by(export_adapter(with_experts(LOW_RANK), "cs", tmp_path / "out"))
    with adapted.disable_adapter():
        assert torch.equal(plain_logits(adapted, batch), plain_logits(plain, batch))
    unloaded = adapted.unload()
    assert same_state(unloaded.state_dict(), plain.state_dict())
    assert torch.equal(plain_logits(unloaded, batch), plain_logits(plain, batch))


def test_merged_it_is_the_baked_model(collator, processor, tmp_path):
    model = with_experts(LOW_RANK)
    for block, sign in zip(clsr_blocks(model), GATES["cs"], strict=True):
        block.gates["cs"].register_forward_hook(
            lambda module, inputs, logit, sign=sign: torch.full_like(logit, 2 * sign - 1)
        )
    clips = RandomClips(processor.tokenizer, 2)
    merged = adapted_by(export_adapter(model, "cs", tmp_path / "out")).merge_and_unload()
    baked = bake(model, "cs", [collator([clips[0], clips[1]])])
    assert merged.state_dict().keys() == baked.state_dict().keys()
    for name, weight in baked.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], weight, atol=1e-6, rtol=1e-5)


def test_transformers_loads_it_too(batch, tmp_path):
    model = with_experts(LOW_RANK)
    plain = stock()
    plain.load_adapter(str(export_adapter(model, "cs", tmp_path / "out")))
    assert torch.equal(plain_logits(plain, batch), logits_in(model, batch, "cs"))


def test_peft_finds_the_whisper_by_itself(batch, tmp_path):
    tiny_whisper().save_pretrained(tmp_path / "plain")
    plain = WhisperForConditionalGeneration.from_pretrained(
        tmp_path / "plain", dtype=torch.float32, attn_implementation=fastest_attention()
    )
    model = with_experts(LOW_RANK, plain)
    folder = export_adapter(model, "cs", tmp_path / "out")
    found = AutoPeftModel.from_pretrained(
        str(folder), dtype=torch.float32, attn_implementation=fastest_attention()
    ).eval()
    assert type(found.get_base_model()) is WhisperForConditionalGeneration
    assert torch.equal(plain_logits(found, batch), logits_in(model, batch, "cs"))


def test_in_bf16_the_difference_is_rounding(batch, tmp_path):
    batch = batch | {"input_features": batch["input_features"].bfloat16()}
    model = with_experts(LOW_RANK).to(torch.bfloat16)
    folder = export_adapter(model, "cs", tmp_path / "out")
    expected = logits_in(model, batch, "cs")
    exact = adapted_by(folder, stock().to(torch.bfloat16), autocast_adapter_dtype=False)
    assert torch.equal(plain_logits(exact, batch), expected)
    found = plain_logits(adapted_by(folder, stock().to(torch.bfloat16)), batch)
    plain = plain_logits(stock().to(torch.bfloat16), batch)
    assert (found - expected).abs().mean() < 0.05 * (plain - expected).abs().mean()


def test_it_fits_a_whisper_without_output_layer(tmp_path):
    draw = random_batch(frames=3000)
    plain = WhisperModel(tiny_whisper().config).eval()
    model = with_experts(LOW_RANK, stock(plain))
    adapted = adapted_by(export_adapter(model, "ca", tmp_path / "out"), stock(plain))
    with torch.no_grad(), use_language(model, "ca"):
        expected = model(**draw).last_hidden_state
        assert torch.equal(adapted(**draw).last_hidden_state, expected)
        assert not torch.equal(plain(**draw).last_hidden_state, expected)


def test_deep_models_whose_names_peft_shortens_get_every_layer(batch, tmp_path):
    config = copy.deepcopy(tiny_whisper().config)
    config.encoder_layers = config.decoder_layers = 12
    plain = WhisperForConditionalGeneration(config).eval()
    model = with_experts(LOW_RANK, stock(plain))
    adapted = adapted_by(export_adapter(model, "cs", tmp_path / "cs"), stock(plain), "cs")
    adapted.load_adapter(str(export_adapter(model, "ca", tmp_path / "ca")), adapter_name="ca")
    assert len(json.loads((tmp_path / "cs/adapter_config.json").read_text())["target_modules"]) > 20
    for language in GATES:
        adapted.set_adapter(language)
        assert torch.equal(plain_logits(adapted, batch), logits_in(model, batch, language))


# ---- the files


def test_the_folder_is_a_standard_adapter_of_the_open_layers(tmp_path):
    folder = export_adapter(with_experts(LOW_RANK), "cs", tmp_path / "made" / "out")
    names = {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    config = json.loads((folder / "adapter_config.json").read_text())
    layers = ["decoder.layers.0", "decoder.layers.1", "encoder.layers.0"]
    modules = [f"model.{layer}.{part}" for layer in layers for part in ("fc1", "fc2")]
    assert config["target_modules"] == modules
    expected = {"peft_type": "LORA", "r": 4, "lora_alpha": 4, "bias": "none", "lora_bias": False}
    assert expected.items() <= config.items()
    assert config["base_model_name_or_path"] == "tiny"
    tensors = load_file(folder / "adapter_model.safetensors")
    stored = {name: list(tensor.shape) for name, tensor in tensors.items()}
    assert len(stored) == 2 * len(modules)
    first = "base_model.model.model.encoder.layers.0"
    assert stored[f"{first}.fc1.lora_A.weight"] == [4, 32]
    assert stored[f"{first}.fc1.lora_B.weight"] == [64, 4]
    assert stored[f"{first}.fc2.lora_A.weight"] == [4, 64]


def test_the_model_is_not_changed(batch, tmp_path):
    model = with_experts(LOW_RANK)
    set_language(model, "ca")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    before = plain_logits(model, batch)
    export_adapter(model, "cs", tmp_path / "out")
    assert same_state(model.state_dict(), state)
    assert torch.equal(plain_logits(model, batch), before)


def test_experts_without_gates_need_no_constant_ones(batch, tmp_path):
    settings = ExpertSettings(rank=4, always_open=True)
    model = shake_experts(attach_experts(load_whisper("tiny"), ["cs"], settings)).eval()
    adapted = adapted_by(export_adapter(model, "cs", tmp_path / "out"))
    assert torch.equal(plain_logits(adapted, batch), logits_in(model, batch, "cs"))


# ---- full copies


def test_full_copies_at_full_rank_are_the_same_but_for_rounding(batch, tmp_path):
    model = with_experts(FULL)
    folder = export_adapter(model, "cs", tmp_path / "out", rank=32)
    assert json.loads((folder / "adapter_config.json").read_text())["lora_bias"] is True
    adapted = adapted_by(folder)
    expected = logits_in(model, batch, "cs")
    # rounding: the factors are in fp16
    torch.testing.assert_close(plain_logits(adapted, batch), expected, atol=0.02, rtol=0.01)

    biases = [p for name, p in adapted.named_parameters() if "lora_B" in name and p.dim() == 1]
    assert len(biases) == 6
    for bias in biases:
        bias.data.zero_()
    assert (plain_logits(adapted, batch) - expected).abs().max() > 0.1


def test_full_copies_lose_at_a_low_rank_what_they_lose_on_disk(batch, tmp_path):
    model = with_experts(FULL)
    adapted = adapted_by(export_adapter(model, "cs", tmp_path / "out", rank=8))
    save_experts(model, tmp_path / "experts", form="low-rank", rank=8)
    stored = load_experts(load_whisper("tiny"), tmp_path / "experts")
    fixed(stored, "cs", GATES["cs"])
    expected = logits_in(stored, batch, "cs")
    # rounding: save_experts rounds the biases to fp16
    torch.testing.assert_close(plain_logits(adapted, batch), expected, atol=0.02, rtol=0.01)
    assert (logits_in(model, batch, "cs") - expected).abs().max() > 0.1


# ---- what cannot be exported


def test_what_is_no_adapter_is_refused(tmp_path):
    model = with_experts(LOW_RANK)
    with pytest.raises(ValueError, match="no experts for de: this model has cs, ca"):
        export_adapter(model, "de", tmp_path / "out")
    with pytest.raises(ValueError, match="does not know the language 'xx'"):
        export_adapter(model, "xx", tmp_path / "out")
    with pytest.raises(ValueError, match="no experts are attached"):
        export_adapter(load_whisper("tiny"), "cs", tmp_path / "out")
    fixed(model, "ca", [0, 0, 0, 0])
    with pytest.raises(ValueError, match="gates of ca are shut in every layer.*no adapter"):
        export_adapter(model, "ca", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_computed_gates_are_refused_with_what_to_do(tmp_path):
    model = with_experts(LOW_RANK)
    shares = pd.DataFrame({"open": [1, 0.4, 0.7, 0], "agree": [1, 0.6, 0.7, 1]})
    fix_gates(model, "cs", shares)
    message = r"not constant in 2 of 4 layers \(encoder 1, decoder 0\): fix_gates.*at_least=0.5"
    with pytest.raises(ValueError, match=message):
        export_adapter(model, "cs", tmp_path / "out")
    fix_gates(model, "cs", shares, at_least=0.5)
    assert export_adapter(model, "cs", tmp_path / "out").is_dir()


def test_full_copies_are_refused_with_what_to_do(tmp_path):
    model = with_experts(FULL)
    message = r"full copies.*rank=64.*save_experts\(.*\).*ExpertSettings\(rank=64\)"
    with pytest.raises(ValueError, match=message):
        export_adapter(model, "cs", tmp_path / "out")
    for rank in (0, 33, 2.0, True, "8"):
        with pytest.raises(ValueError, match="rank is .*a whole number from 1 to 32 is needed"):
            export_adapter(model, "cs", tmp_path / "out", rank=rank)
    with pytest.raises(ValueError, match="rank is 8, but the cs experts have rank 4 already"):
        export_adapter(with_experts(LOW_RANK), "cs", tmp_path / "out", rank=8)
    assert not list(tmp_path.iterdir())


def test_an_adapter_beside_the_experts_is_not_lost_in_silence(tmp_path):
    for wrap in (lambda model, config: get_peft_model(model, config), added):
        adapted = wrap(with_experts(LOW_RANK), LoraConfig(r=2, target_modules=["q_proj"]))
        with pytest.raises(ValueError, match="has an adapter beside its experts.*save_experts"):
            export_adapter(adapted, "cs", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def added(model, config):
    """Return the model with an adapter that transformers has put into it."""
    model.add_adapter(config)
    return model


def test_a_folder_that_exists_is_kept(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="there exists: give a new folder"):
        export_adapter(with_experts(LOW_RANK), "cs", tmp_path / "there")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["notes.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize(("settings", "rank"), [(LOW_RANK, None), (FULL, 4)])
def test_weights_that_are_not_finite_are_not_exported(settings, rank, tmp_path):
    model = with_experts(settings)
    with torch.no_grad():
        next(clsr_blocks(model)[0].experts["cs"].parameters())[0, 0] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        export_adapter(model, "cs", tmp_path / "out", rank)
    assert not list(tmp_path.iterdir())


# ---- the page


def test_the_examples_of_the_page_run(collator, processor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_whisper().save_pretrained("plain")
    clips = RandomClips(processor.tokenizer, 3)
    variables = {
        "lab": SimpleNamespace(model=lambda name: with_experts(FULL)),
        "batches": [collator([clips[0], clips[1]]), collator([clips[2]])],
        "features": torch.randn(3, 80, 3000),
    }
    page = "docs/deployment.md"
    run_example(page, "adapter", ("rank=64", "rank=8"), variables=variables)
    shares = gate_shares(variables["model"], "cs", variables["batches"])
    constant = [block.constant_gates["cs"] for block in clsr_blocks(variables["model"])]
    assert constant == list(shares["open"] >= 0.5)

    export_adapter(with_experts(LOW_RANK), "ca", "ca-adapter")
    found = run_example(page, "serve", ("openai/whisper-base", "plain"), variables=variables)
    assert len(found["token_ids"]) == 3
