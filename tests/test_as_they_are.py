"""Models as they are: a CTC model that is no Whisper, and published experts beside Whisper."""

import json
import os
from dataclasses import replace

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from hub_stand_in import hub_stand_in, no_hub
from made_corpora import make_fleurs
from made_models import LETTERS, make_ctc, make_published
from safetensors.torch import load_file, save_file
from test_released import PARITY
from transformers import AutoProcessor, Wav2Vec2Config, Wav2Vec2ForCTC

from distilwhisper_lib import files, presets
from distilwhisper_lib.evaluation import ctc
from distilwhisper_lib.evaluation.ctc import (
    CODES,
    MMS,
    REVISIONS,
    SHAPES,
    find_ctc,
    load_ctc,
    recognise,
    transcribe_ctc,
)
from distilwhisper_lib.experiments import as_they_are, estimates, grid, published
from distilwhisper_lib.experiments.as_they_are import Ctc, Published, score_as_it_is
from distilwhisper_lib.experiments.estimates import CARDS, estimate
from distilwhisper_lib.experiments.jobs import LANGUAGES
from distilwhisper_lib.experiments.published import compare_published, published_sources
from distilwhisper_lib.lab.comparison import score
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.method import released
from distilwhisper_lib.method.released import PUBLISHED

KEY = "cs/out-of-domain"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The random CTC model; do not change it."""
    return make_ctc(tmp_path_factory.mktemp("made") / "ctc")


@pytest.fixture
def folder(tmp_path):
    """A random CTC model of the test's own."""
    return make_ctc(tmp_path / "ctc")


@pytest.fixture
def lab():
    return Lab("smoke")


@pytest.fixture
def sounds():
    rng = np.random.default_rng(0)
    return [rng.normal(size=n).astype(np.float32) for n in (16_000, 9_001)]


# ---- the CTC model


def test_texts_are_those_of_transformers_own_recipe(made, sounds):
    processor = AutoProcessor.from_pretrained(made)
    processor.tokenizer.set_target_lang("ces")
    model = Wav2Vec2ForCTC.from_pretrained(
        made, target_lang="ces", ignore_mismatched_sizes=True
    ).eval()
    expected = []
    for sound in sounds:
        inputs = processor(sound, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            expected.append(processor.decode(model(**inputs).logits[0].argmax(-1)))
    found = recognise(load_ctc(made, "Czech"), sounds)
    assert found == [" ".join(text.split()) for text in expected]
    assert all(found)


def test_a_clip_has_the_same_text_in_a_batch_as_by_itself(made, sounds):
    model = load_ctc(made, "cs")
    assert recognise(model, sounds) == [recognise(model, [sound])[0] for sound in sounds]


def test_each_language_has_its_own_adapter_and_letters(made, sounds):
    czech, catalan = (recognise(load_ctc(made, code), sounds) for code in ("cs", "ca"))
    assert czech != catalan
    for texts, code in ((czech, "ces"), (catalan, "cat")):
        plain = "".join(texts).replace("<s>", "").replace("</s>", "").replace("<unk>", "")
        assert set(plain) <= {*LETTERS[code], " "}


def test_the_papers_languages_have_a_code_and_others_are_refused(made):
    assert tuple(CODES) == LANGUAGES
    with pytest.raises(ValueError, match="MMS is not prepared for 'sv' here, only for ca, cs, gl"):
        load_ctc(made, "sv")


def test_a_language_without_an_adapter_is_named(made):
    with pytest.raises(FileNotFoundError, match="the folder lacks adapter.tha.safetensors"):
        load_ctc(made, "th")


@pytest.mark.parametrize("name", ["model.safetensors", "adapter.ces.safetensors"])
def test_a_damaged_file_is_refused_and_nothing_is_unpickled(folder, name, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpickled"))
    torch.save({}, folder / name.replace("safetensors", "bin"))  # transformers would take it
    (folder / name).write_bytes((folder / name).read_bytes()[:2000])
    with pytest.raises(ValueError, match="ctc can't be loaded"):
        load_ctc(folder, "cs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "whisper"}, "holds a model of the kind 'whisper': wav2vec2 is needed"),
        ({"num_hidden_layers": 3}, "can't be loaded .The adapter weights .* missing keys"),
        ({"hidden_size": "x"}, "can't be loaded"),
    ],
)
def test_a_wrong_configuration_is_told(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        load_ctc(folder, "cs")


def test_weights_that_are_not_finite_are_refused(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    key = "wav2vec2.encoder.layer_norm.weight"
    state[key] = torch.full_like(state[key], torch.nan)
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"weights that are not finite .*{key}"):
        load_ctc(folder, "cs")


def test_a_weight_that_is_missing_is_named(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    key = "wav2vec2.encoder.layer_norm.weight"
    del state[key]
    save_file(state, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"ctc lacks weights of its config.json, .* {key}"):
        load_ctc(folder, "cs")


def test_a_checkpoint_of_earlier_transformers_is_read(folder, sounds):
    before = recognise(load_ctc(folder, "cs"), sounds)
    path = folder / "model.safetensors"
    old = {}
    for name, tensor in load_file(path).items():
        for part, letter in (("original0", "g"), ("original1", "v")):
            name = name.replace(f"parametrizations.weight.{part}", f"weight_{letter}")
        old[name] = tensor
    old[ctc.MASK] = torch.zeros(32)  # for training alone
    assert any(name.endswith("weight_g") for name in old)
    save_file(old, path, metadata={"format": "pt"})
    assert recognise(load_ctc(folder, "cs"), sounds) == before


def test_from_the_hub_only_what_is_needed_at_the_pinned_commit(made, monkeypatch):
    asked = {}

    def download(name, revision, allow_patterns):
        asked.update(name=name, revision=revision, files=allow_patterns)
        return made

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_ctc(MMS, "cs") == made
    assert (asked["name"], asked["revision"]) == (MMS, REVISIONS[MMS])
    assert [name for name in asked["files"] if name.endswith(".bin") or "*" in name] == []
    assert "adapter.ces.safetensors" in asked["files"]
    assert len([name for name in asked["files"] if name.startswith("adapter.")]) == 1


def test_no_network_says_what_to_do(tmp_path):
    with no_hub(tmp_path), pytest.raises(OSError, match="'facebook/mms-1b-all'.*check the network"):
        find_ctc(MMS, "cs")


def test_a_stopped_transcription_goes_on_where_it_was(made, lab, tmp_path, monkeypatch):
    model, clips = load_ctc(made, "cs"), lab.test_clips(KEY)
    decoding = replace(lab.decoding, eval_batch_size=1)
    whole = transcribe_ctc(model, clips, decoding, tmp_path / "whole.csv")
    calls = []

    def recognise_or_stop(given, sounds):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return recognise(given, sounds)

    monkeypatch.setattr(ctc, "recognise", recognise_or_stop)
    path = tmp_path / "stopped.csv"
    with pytest.raises(KeyboardInterrupt):
        transcribe_ctc(model, clips, decoding, path)
    again = transcribe_ctc(model, clips, decoding, path)
    assert len(calls) == len(clips) + 1
    assert again.equals(whole)
    assert list(again["id"]) == clips.ids


def test_the_shape_is_that_of_the_model_and_its_estimate_grows_with_the_clips():
    config = Wav2Vec2Config(
        vocab_size=154,
        hidden_size=1280,
        num_hidden_layers=48,
        num_attention_heads=16,
        intermediate_size=5120,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
        adapter_attn_dim=16,
    )
    with torch.device("meta"):
        model = Wav2Vec2ForCTC(config)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    shape = SHAPES[MMS]
    assert 0.99 * parameters < shape.parameters < parameters
    widths, strides = zip(*shape.kernels, strict=True)
    assert (widths, strides) == (tuple(config.conv_kernel), tuple(config.conv_stride))
    assert {*config.conv_dim} == {shape.channels}
    assert shape.forward_flops(1) > 2 * 50 * shape.layers * 12 * shape.width**2
    assert shape.forward_flops(20) > 20 * shape.forward_flops(1)  # attention

    found = estimate("mms-1b-all", presets.PAPER, 10_000)
    assert found["trained M"] == 0 and found["GB"] > 2 * shape.parameters / 1e9
    fewer = estimate("mms-1b-all", replace(presets.PAPER, test_clips=100), 10_000)
    assert all(found[f"{card} h"] > fewer[f"{card} h"] > 0 for card in CARDS)


def test_published_experts_cost_what_plain_whisper_does_and_the_experts_beside_it():
    student, shown, trained = (
        estimate(name, presets.PAPER, 3000)
        for name in ("student", "published", "distilwhisper-released")
    )
    for number in ("PFLOP", "T4 h"):
        assert student[number] < shown[number] < trained[number]
    assert shown["trained M"] == 0
    of_fleurs = estimate("published", presets.PAPER, 3000, ["out-of-domain"])
    share = estimates.TEST_CLIPS["out-of-domain"] / sum(estimates.TEST_CLIPS.values())
    assert of_fleurs["T4 h"] == pytest.approx(share * shown["T4 h"])


# ---- scores in a lab


def test_a_row_has_the_columns_of_every_other_and_is_computed_once(made, lab, monkeypatch):
    row = score_as_it_is(lab, "mms-1b-all", Ctc(str(made)), KEY)
    other = score(lab, "student", KEY)
    assert set(row) - set(other) == {"revision"} and set(other) <= set(row)
    assert row["n"] == other["n"] and row["normaliser"] == lab.preset.normaliser
    steps = [step["step"] for step in lab.steps()]
    assert steps[0] == f"transcribe ctc: {KEY}"

    monkeypatch.setattr(ctc, "load_ctc", lambda *_: pytest.fail("loaded again"))
    assert score_as_it_is(Lab("smoke"), "mms-1b-all", Ctc(str(made)), KEY) == row


def test_another_adapter_at_the_same_path_is_another_result(folder, lab):
    model = Ctc(str(folder))
    before = score_as_it_is(lab, "mms-1b-all", model, KEY)
    known = model.known_identity("cs")
    path = folder / "adapter.ces.safetensors"
    state = {name: tensor.flip(0).contiguous() for name, tensor in load_file(path).items()}
    save_file(state, path)
    assert score_as_it_is(lab, "mms-1b-all", model, KEY)["revision"] != before["revision"]
    assert model.known_identity("cs") != known
    assert Ctc(MMS).known_identity("cs") == f"{MMS}@{REVISIONS[MMS]}"


def test_translation_is_refused(made, lab):
    with pytest.raises(ValueError, match="cs/translation is a test of translation"):
        score_as_it_is(lab, "mms-1b-all", Ctc(str(made)), "cs/translation")


def test_untrained_experts_in_the_published_format_score_as_plain_whisper_does(lab, tmp_path):
    sources = {"made up": make_published(tmp_path / "released")}
    student, made_up = compare_published(lab, sources).to_dict("records")
    assert (student["system"], made_up["system"]) == ("student", "published made up")
    for column in ("n", "wer", "cer", "wer_low", "wer_high"):
        assert student[column] == made_up[column]
    assert [made_up[f"difference{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]


def test_trained_experts_in_the_published_format_say_something_else(lab, tmp_path):
    folders = [
        make_published(tmp_path / name, noise=noise) for name, noise in (("a", 0), ("b", 0.5))
    ]
    texts = [
        list(as_they_are.predictions_as_it_is(lab, Published(str(folder)), KEY)["prediction"])
        for folder in folders
    ]
    assert texts[0] != texts[1]


def test_experts_of_another_whisper_are_refused(lab):
    of_catalan = Lab("smoke", language="ca")
    message = "has 96 tokens, and the preset's student tiny .* openai/whisper-small for the authors"
    with pytest.raises(ValueError, match=message):
        score_as_it_is(of_catalan, "x", Published(str(PARITY / "released")), "ca/out-of-domain")


# ---- make grid ARGS=published


def small_paper(monkeypatch, tmp_path, *codes):
    """Let the preset `paper` have the tiny Whisper, and put FLEURS there for languages."""
    small = replace(presets.PAPER, student="tiny", teacher=None, max_new_tokens=8)
    monkeypatch.setitem(presets.PRESETS, "paper", small)
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    for code in codes:
        make_fleurs(tmp_path / "data" / "fleurs", code)


def test_one_command_scores_published_experts_on_fleurs_alone_and_goes_on(
    monkeypatch, tmp_path, capsys
):
    small_paper(monkeypatch, tmp_path, "cs_cz", "ca_es")  # and no Common Voice
    folder = make_published(tmp_path / "own-experts")
    command = ["published", "--languages", "ca", "Czech", "--experts", str(folder)]
    assert grid.main(command) == 0
    printed = capsys.readouterr().out
    assert "ca: language 1 of 2" in printed and "cs: language 2 of 2" in printed
    path = files.results_dir("paper") / "published.csv"
    assert f"written to {os.path.relpath(path)}" in printed
    table = pd.read_csv(path)
    assert list(table["system"]) == ["student", "published own-experts"] * 2
    assert list(table["language"]) == ["ca", "ca", "cs", "cs"]
    assert set(table["test_set"]) == {"out-of-domain"}
    assert set(table["normaliser"]) == {"released"}

    monkeypatch.setattr(released, "load_released", lambda *_: pytest.fail("transcribed again"))
    assert grid.main(command) == 0
    assert pd.read_csv(path).equals(table)


def test_a_language_that_a_checkpoint_on_the_hub_lacks_is_left_out_and_told(
    monkeypatch, tmp_path, capsys
):
    small_paper(monkeypatch, tmp_path, "cs_cz", "ca_es")
    folder = make_published(tmp_path / "released", ("ca",))
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    with hub_stand_in(tmp_path) as hub:
        commit = hub.add(PUBLISHED["3k"], content)
        command = ["published", "--languages", "cs", "ca", "--sizes", "3k"]
        assert grid.main(command) == 0
        told = capsys.readouterr()
        assert "left out: 'naver/multilingual-distilwhisper-3k': expert.czech.bin is" in told.err
        table = pd.read_csv(files.results_dir("paper") / "published.csv")
        assert list(table["language"]) == ["ca", "ca"]
        assert list(table["system"]) == ["student", "published 3k"]
        assert table["revision"].iloc[1] == f"{PUBLISHED['3k']}@{commit}"
        with pytest.raises(FileNotFoundError, match="the hub has experts for catalan"):
            grid.main(["published", "--languages", "cs", "--sizes", "3k"])


def test_without_the_hub_nothing_is_computed_and_the_message_says_what_to_do(monkeypatch, tmp_path):
    small_paper(monkeypatch, tmp_path, "cs_cz", "ca_es")
    monkeypatch.setattr(published, "compare_published", lambda *_: pytest.fail("computed"))
    message = "'naver/multilingual-distilwhisper-3k' .*can't be fetched.*check the network"
    with no_hub(tmp_path), pytest.raises(OSError, match=message):
        grid.main(["published", "--languages", "cs", "ca"])


def test_fleurs_that_cannot_be_fetched_is_told_before_anything_is_computed(monkeypatch, tmp_path):
    small_paper(monkeypatch, tmp_path)
    folder = make_published(tmp_path / "released")
    message = "no FLEURS in cs_cz.*check the network .no account is needed"
    with no_hub(tmp_path), pytest.raises(OSError, match=message):
        grid.main(["published", "--languages", "cs", "--experts", str(folder)])


def test_the_time_is_told_by_estimate_before_anything_is_computed(capsys):
    published._tell_hours([(Lab("paper", language="ca"), published_sources("ca"))])
    told = capsys.readouterr().out
    assert told.startswith("by estimate, not measured: ") and told.count("\n") == 1
    assert all(f"min on one {card}" in told for card in CARDS)
    published._tell_hours([(Lab("smoke"), {"made up": "folder"})])  # no shape that is known
    assert not capsys.readouterr().out


def test_the_sizes_that_a_language_has():
    assert list(published_sources("th")) == ["3k", "10k", "28k"]
    assert published_sources("cs") == {size: PUBLISHED[size] for size in ("3k", "10k")}
    with pytest.raises(ValueError, match="unknown size '4k'|a size"):
        published_sources("cs", ["4k"])
    with pytest.raises(ValueError, match="no published experts for cs at 28k: there are 3k: ca"):
        published.score_published("paper", ["cs"], ["28k"])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("published --systems lora", "published has neither --systems nor --seeds"),
        ("published --seeds 1", "published has neither --systems nor --seeds"),
        ("published --experts x --sizes 3k", "--sizes are those on the hub"),
        ("list --experts x", "--experts belongs to the command published"),
        ("published", "sees no GPU here, and the preset paper is meant for one"),
    ],
)
def test_options_that_do_not_belong_are_refused(line, told, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        grid.main(line.split())
    assert end.value.code == 2
    assert told in capsys.readouterr().err
