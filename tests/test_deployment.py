"""Constant gates, models without gates, and what other programs compute with them."""

import copy
import json
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_data import RandomClips, logits, random_batch, same_state, shake_experts
from transformers import WhisperForConditionalGeneration

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.evaluation.bake import bake, fix_gates, gate_shares
from distilwhisper_lib.evaluation.export import export_checkpoint, export_ctranslate2
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks, last_gates, whisper_layers
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import set_language, use_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.whisper.loading import load_processor, load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper


@pytest.fixture
def batches():
    tokenizer = load_processor("tiny").tokenizer
    collator = Collator(tokenizer, margin_seconds=0.1)
    clips = RandomClips(tokenizer, 6)
    groups = ([0, 1, 2], [3, 4], [5])
    return [collator([clips[index] for index in group]) for group in groups]


def with_gates(signs):
    """Return a tiny Whisper whose experts differ from the shared blocks.

    signs: Of each layer's gate logits at every position; 0: they vary.
    """
    model = shake_experts(attach_experts(load_whisper("tiny"), ["cs"], ExpertSettings(gate_dim=16)))
    for block, sign in zip(clsr_blocks(model), signs, strict=True):
        if sign:
            block.gates["cs"].register_forward_hook(
                lambda module, inputs, logit, sign=sign: torch.full_like(logit, sign)
            )
    return model


def test_a_model_in_training_is_so_after_its_gates_were_counted(batches):
    model = with_gates([0, 0, 0, 0]).train()
    gate_shares(model, "cs", batches)
    assert model.training
    narrow = batches[0] | {"input_features": batches[0]["input_features"][:, :70]}
    with pytest.raises(ValueError, match="the model takes 80 mel bands"):
        gate_shares(model, "cs", [narrow])
    assert model.training


def test_shares_count_the_open_gates_of_real_positions(batches):
    model = with_gates([1, -1, 0, 0])
    table = gate_shares(model, "cs", batches)
    assert list(table["stack"]) == ["encoder", "encoder", "decoder", "decoder"]
    assert list(table["layer"]) == [0, 1, 0, 1]
    assert list(table["open"][:2]) == [1, 0]
    assert list(table["agree"][:2]) == [1, 1]

    opened = 0
    real = 0
    for batch in batches:
        with use_language(model, "cs"):
            logits(model, {name: batch[name] for name in ("input_features", "decoder_input_ids")})
        gates = last_gates(model)["decoder"][0]
        is_real = batch["labels"] != -100
        opened += int(gates[is_real].sum())
        real += int(is_real.sum())
    assert 0 < opened < real
    assert table["open"][2] == pytest.approx(opened / real)
    assert table["agree"][2] == pytest.approx(max(opened, real - opened) / real)


@pytest.mark.parametrize("sign", [1, -1])
def test_baked_model_equals_the_routed_one_with_the_same_gate_decision_at_every_position(
    batches, sign
):
    model = with_gates([sign] * 4)
    batch = random_batch()
    with use_language(model, "cs"):
        routed = logits(model, batch)
    baked = bake(model, "Czech", batches)
    assert not clsr_blocks(baked)
    assert torch.equal(logits(baked, batch), routed)
    assert torch.equal(routed, logits(load_whisper("tiny"), batch)) == (sign < 0)
    assert not any(p.requires_grad for p in baked.parameters())


def test_each_layer_keeps_the_block_that_most_positions_take(batches):
    model = with_gates([1, -1, 0, 1])
    opened = list(gate_shares(model, "cs", batches)["open"])
    assert 0 < opened[2] < 1
    blocks = [(block.shared, block.experts["cs"]) for block in clsr_blocks(model)]
    for threshold, third in ((opened[2], 1), (opened[2] + 1e-3, 0)):
        baked = bake(copy.deepcopy(model), "cs", batches, threshold)
        layers = [*baked.model.encoder.layers, *baked.model.decoder.layers]
        for layer, pair, kept in zip(layers, blocks, (1, 0, third, 1), strict=True):
            assert torch.equal(layer.fc1.weight, pair[kept].fc1.weight)
            assert torch.equal(layer.fc2.bias, pair[kept].fc2.bias)


def test_low_rank_experts_are_added_to_the_weights(batches):
    model = attach_experts(load_whisper("tiny"), ["cs"], ExpertSettings(gate_dim=16, rank=4))
    shake_experts(model)
    for block in clsr_blocks(model):
        block.gates["cs"].register_forward_hook(
            lambda module, inputs, logit: torch.full_like(logit, 1)
        )
    with use_language(model, "cs"):
        routed = logits(model, random_batch())
    baked = bake(model, "cs", batches)
    assert set(baked.state_dict()) == set(load_whisper("tiny").state_dict())
    torch.testing.assert_close(logits(baked, random_batch()), routed, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(routed, logits(load_whisper("tiny"), random_batch()), atol=1e-2)


def test_baked_checkpoint_is_an_ordinary_whisper(batches, tmp_path):
    baked = bake(with_gates([1, -1, 0, 0]), "cs", batches)
    assert set(baked.state_dict()) == set(load_whisper("tiny").state_dict())
    folder = export_checkpoint(baked, load_processor("tiny"), tmp_path / "baked")
    again = WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    assert same_state(again.state_dict(), baked.state_dict())
    assert torch.equal(logits(again, random_batch()), logits(baked, random_batch()))
    assert json.loads((folder / "preprocessor_config.json").read_text())["feature_size"] == 80
    assert (
        load_processor(folder).tokenizer.get_vocab() == load_processor("tiny").tokenizer.get_vocab()
    )


def test_constant_gates_give_the_same_outputs_and_are_not_computed(batches):
    model = with_gates([1, -1, 0, 0])
    batch = random_batch()
    set_language(model, "cs")
    routed = logits(model, batch)
    gates = [block.last_gate for block in clsr_blocks(model)]
    fix_gates(model, "cs", gate_shares(model, "cs", batches))
    calls = []
    for block in clsr_blocks(model):
        block.gates["cs"].register_forward_hook(lambda module, inputs, logit: calls.append(module))
    assert torch.equal(logits(model, batch), routed)
    assert calls == [block.gates["cs"] for block in clsr_blocks(model)[2:]]
    assert all(
        torch.equal(block.last_gate, gate)
        for block, gate in zip(clsr_blocks(model), gates, strict=True)
    )
    model.train()
    logits(model, batch)
    assert len(calls) == 2 + 4  # in training every gate is computed


def test_gates_with_too_small_a_majority_are_computed_as_before(batches):
    model = with_gates([1, -1, 0, 0])
    shares = gate_shares(model, "cs", batches)
    fix_gates(model, "cs", shares, at_least=shares["agree"][2])
    constant = [block.constant_gates.get("cs") for block in clsr_blocks(model)]
    assert constant[:2] == [True, False]
    assert constant[2] == (shares["open"][2] >= 0.5)
    assert (constant[3] is None) == (shares["agree"][3] < shares["agree"][2])


def test_constant_gates_are_computed_again_when_they_may_have_changed(batches, tmp_path):
    model = with_gates([1, -1, 0, 0])
    shares = gate_shares(model, "cs", batches)
    fix_gates(model, "cs", shares, at_least=0.5)
    assert sum("cs" in block.constant_gates for block in clsr_blocks(model)) == 4
    fix_gates(model, "cs", shares)
    constant = [block.constant_gates.get("cs") for block in clsr_blocks(model)]
    assert constant == [True, False, None, None]
    load_experts(model, save_experts(model, tmp_path))
    assert not any(block.constant_gates for block in clsr_blocks(model))
    with pytest.raises(ValueError, match="no experts for de"):
        fix_gates(model, "de", shares)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shares_are_whole_numbers_of_positions_in_half_precision_too(batches, dtype):
    model = with_gates([1, -1, 1, 1]).to(dtype)
    table = gate_shares(model, "cs", batches * 40)  # more positions than 16 bits can count
    assert list(table["open"]) == [1, 0, 1, 1]
    assert list(table["agree"]) == [1] * 4


def test_a_refused_language_leaves_the_model_in_training(batches):
    model = with_gates([1] * 4).train()
    with pytest.raises(ValueError, match="no experts for ca"):
        gate_shares(model, "ca", batches)
    assert model.training


def test_what_cannot_be_baked_or_exported_is_named(batches, tmp_path):
    model = with_gates([1, 1, 1, 1])
    with pytest.raises(ValueError, match="no calibration batches"):
        bake(model, "cs", [])
    with pytest.raises(ValueError, match="no experts for ca: this model has cs"):
        bake(model, "ca", batches)
    with pytest.raises(ValueError, match="no experts are attached"):
        bake(load_whisper("tiny"), "cs", batches)
    with pytest.raises(ValueError, match=r"has experts.*bake\(model, language"):
        export_checkpoint(model, load_processor("tiny"), tmp_path / "out")
    adapted = get_peft_model(load_whisper("tiny"), LoraConfig(r=2, target_modules=["fc1"]))
    with pytest.raises(ValueError, match="has an adapter.*merge_and_unload"):
        export_checkpoint(adapted, load_processor("tiny"), tmp_path / "out")
    (tmp_path / "there").mkdir()
    for export in (export_checkpoint, export_ctranslate2):
        with pytest.raises(FileExistsError, match="there exists: give a new folder"):
            export(load_whisper("tiny"), load_processor("tiny"), tmp_path / "there")
    assert len(clsr_blocks(model)) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_converted_encoder_computes_what_the_baked_one_does(batches, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    baked = bake(with_gates([1, -1, 0, 0]), "cs", batches)
    folder = export_ctranslate2(baked, load_processor("tiny"), tmp_path / "converted", "float32")
    written = {path.name for path in folder.iterdir()}
    assert {"model.bin", "tokenizer.json", "preprocessor_config.json"} <= written
    features = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(2))
    found = ctranslate2.models.Whisper(str(folder)).encode(
        ctranslate2.StorageView.from_array(features.numpy())
    )
    with torch.no_grad():
        expected = baked.get_encoder()(features)[0]
        plain = load_whisper("tiny").get_encoder()(features)[0]
    torch.testing.assert_close(torch.from_numpy(np.array(found)), expected, atol=1e-3, rtol=1e-3)
    assert (plain - expected).abs().max() > 0.1
    with pytest.raises(ValueError, match="int9 is not a valid quantization"):
        export_ctranslate2(baked, load_processor("tiny"), tmp_path / "other", "int9")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["converted"]


def test_without_ctranslate2_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ctranslate2.converters", None)
    with pytest.raises(ImportError, match=r"needs the package ctranslate2.*\[test\]"):
        export_ctranslate2(tiny_whisper(), load_processor("tiny"), tmp_path / "out")


@pytest.mark.real
def test_faster_whisper_transcribes_as_the_baked_model_does(tmp_path):
    faster_whisper = pytest.importorskip("faster_whisper")
    from test_mirror import real_clips

    clips = list(real_clips(6))
    processor = load_processor("openai/whisper-base")
    features = [
        processor(clip, sampling_rate=16000, return_tensors="pt").input_features for clip in clips
    ]
    model = attach_experts(load_whisper("openai/whisper-base"), ["cs"])
    # a quarter of the weights' standard deviation: still Czech, but other words
    shake_experts(model, size=0.006)
    experts = [block.experts["cs"] for block in clsr_blocks(model)]
    ids = processor.tokenizer("Dobrý den", return_tensors="pt").input_ids
    batches = [
        {
            "input_features": mel,
            "decoder_input_ids": ids,
            "labels": ids,
            "frames": torch.tensor([200]),
        }
        for mel in features[:2]
    ]
    baked = bake(model, "cs", batches)
    kept = [
        layer.fc1 is expert.fc1
        for (_, _, layer), expert in zip(whisper_layers(baked), experts, strict=True)
    ]
    # of the 6 encoder and the 6 decoder layers, some keep the expert and some the shared block
    assert set(kept[:6]) == set(kept[6:]) == {True, False}
    folder = export_ctranslate2(baked, processor, tmp_path / "converted", "float32")
    theirs = faster_whisper.WhisperModel(str(folder), device="cpu", compute_type="float32")
    found = []
    for clip in clips:
        # without the silence, faster-whisper would pad the features instead of the audio
        silence = np.zeros(30 * 16000 - len(clip), np.float32)
        segments, _ = theirs.transcribe(
            np.append(clip, silence),
            language="cs",
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            condition_on_previous_text=False,
            no_speech_threshold=None,
            log_prob_threshold=None,
            compression_ratio_threshold=None,
        )
        found.append("".join(segment.text for segment in segments).strip())
    ours = []
    plain = []
    for whisper, texts in ((baked, ours), (load_whisper("openai/whisper-base"), plain)):
        for mel in features:
            tokens = whisper.generate(mel, language="cs", task="transcribe")
            texts.append(processor.decode(tokens[0], skip_special_tokens=True).strip())
    assert sum(map(len, ours)) > 60 and found == ours
    assert sum(text != without for text, without in zip(found, plain, strict=True)) > len(clips) / 2


def test_weights_that_are_not_finite_are_not_exported(tmp_path, processor):
    model = tiny_whisper()
    weight = model.model.decoder.layers[0].fc1.weight
    with torch.no_grad():
        weight[0, 0] = 1e6  # finite, but not in float16
    with pytest.raises(ValueError, match="in float16 this model .*layers.0.fc1.weight.*float32"):
        export_ctranslate2(model, processor, tmp_path / "int8", "int8_float16")
    with torch.no_grad():
        weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="this model has weights that are not finite"):
        export_checkpoint(model, processor, tmp_path / "plain")
    assert not list(tmp_path.iterdir())


def test_a_table_of_shares_may_be_sorted(batches):
    model = with_gates([1, -1, 0, 1])
    table = gate_shares(model, "cs", batches)
    fix_gates(model, "cs", table, 0.5)
    expected = [block.constant_gates["cs"] for block in clsr_blocks(model)]
    assert len(set(expected)) == 2
    fix_gates(model, "cs", table.sort_values("open"), 0.5)
    assert [block.constant_gates["cs"] for block in clsr_blocks(model)] == expected
    fix_gates(model, "cs", table[["open", "agree"]], 0.5)
    assert [block.constant_gates["cs"] for block in clsr_blocks(model)] == expected
    with pytest.raises(ValueError, match="of other layers than the model's"):
        fix_gates(model, "cs", table.assign(layer=table["layer"] + 1))


@pytest.mark.parametrize("is_wrapped", [True, False])
def test_a_model_with_an_adapter_is_neither_baked_nor_exported(
    is_wrapped, batches, tmp_path, processor
):
    def adapted(model):
        config = LoraConfig(target_modules=["q_proj"])
        if is_wrapped:
            return get_peft_model(model, config)
        model.add_adapter(config)
        return model

    with pytest.raises(ValueError, match="an adapter beside its experts, which save_pretrained"):
        bake(adapted(with_gates([1, -1, 0, 1])), "cs", batches)
    with pytest.raises(ValueError, match="this model has an adapter beside it"):
        export_checkpoint(adapted(tiny_whisper()), processor, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


@pytest.mark.parametrize("share", [-0.1, 50, float("nan"), "0.5", True])
def test_shares_out_of_range_are_refused(share, batches):
    model = with_gates([1, -1, 0, 0])
    with pytest.raises(ValueError, match="threshold is .*a number from 0 to 1 is needed"):
        bake(model, "cs", batches, share)
    table = gate_shares(model, "cs", batches)
    with pytest.raises(ValueError, match="at_least is .*a number from 0 to 1 is needed"):
        fix_gates(model, "cs", table, share)
    with pytest.raises(ValueError, match="does not fit the model's 4 layers.*gate_shares"):
        fix_gates(model, "cs", table.iloc[:3])
