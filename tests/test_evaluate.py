"""Transcription of a test set: greedy, in complete batches, kept in a table and resumable."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_data import RandomClips, shake_experts

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.evaluation import transcription
from distilwhisper_lib.evaluation.greedy import overridden_in, overridden_settings
from distilwhisper_lib.evaluation.predictions import (
    _read_table,
    stored_predictions,
    write_predictions,
)
from distilwhisper_lib.evaluation.transcription import generate_batch, transcribe
from distilwhisper_lib.method.attach import attach_experts, detach_experts
from distilwhisper_lib.method.languages import use_language
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.whisper.tokens import prefix_tokens
from distilwhisper_lib.whisper.window import use_window

PRESET = get_preset("smoke")


@pytest.fixture
def clips(processor):
    return RandomClips(processor.tokenizer, 10)


@pytest.fixture
def collator(processor):
    return Collator(processor.tokenizer, PRESET.margin_seconds)


def read(path):
    """Return the predictions in a table by clip id."""
    return {clip: row.prediction for clip, row in _read_table(path).items()}


def run(model, clips, collator, path):
    return transcribe(model, clips, collator, PRESET, path, "cs")


def test_predictions_come_in_the_order_of_the_clips(model, clips, collator, processor, tmp_path):
    table = run(model, clips, collator, tmp_path / "new" / "cs.csv")
    assert list(table.columns) == ["id", "prediction"] and list(table["id"]) == clips.ids
    by_length = sorted(range(10), key=lambda index: (-clips.durations[index], index))
    longest = by_length[0]
    batch = collator([clips[index] for index in by_length[:4]])
    with torch.no_grad(), use_window(model, batch["input_features"].shape[-1]):
        ids = model.generate(
            batch["input_features"],
            language="cs",
            task="transcribe",
            do_sample=False,
            num_beams=1,
            max_new_tokens=PRESET.max_new_tokens,
        )
    text = " ".join(processor.tokenizer.decode(ids[0], skip_special_tokens=True).split())
    assert table["prediction"][longest] == text and ids.shape[1] <= 8


def test_each_clip_gets_its_own_prediction(clips, collator, tmp_path, monkeypatch):
    """The tiny model predicts nearly the same always; here a text is a value of the features."""

    def first_values(model, tokenizer, features, *_):
        return [f"{value:.5f}" for value in features[:, 0, 0].tolist()]

    monkeypatch.setattr(transcription, "generate_batch", first_values)
    model = torch.nn.Linear(1, 1)
    expected = {item["id"]: f"{item['features'][0, 0]:.5f}" for item in clips}
    assert len(set(expected.values())) == 10
    for _ in range(2):
        table = run(model, clips, collator, tmp_path / "cs.csv")
        assert dict(zip(table["id"], table["prediction"], strict=True)) == expected


def test_second_call_returns_the_same(model, clips, collator, tmp_path):
    first = run(model, clips, collator, tmp_path / "cs.csv")
    again = run(model, clips, collator, tmp_path / "cs.csv")
    pd.testing.assert_frame_equal(first, again)


def test_second_call_computes_the_missing_batches_alone(
    model, clips, collator, tmp_path, monkeypatch
):
    path = tmp_path / "cs.csv"
    batches = []
    whole = run(model, clips, collator, path)
    lines = path.read_bytes()
    done = dict(list(read(path).items())[:4])  # the first batch
    write_predictions(path, clips, done)

    def spy(*args):
        batches.append(len(args[2]))
        return generate_batch(*args)

    monkeypatch.setattr(transcription, "generate_batch", spy)
    pd.testing.assert_frame_equal(run(model, clips, collator, path), whole)
    assert batches == [4, 2] and path.read_bytes() == lines
    pd.testing.assert_frame_equal(run(model, clips, collator, path), whole)
    assert batches == [4, 2]  # nothing is left to do


def test_decoding_does_not_depend_on_training_mode_or_random_numbers(
    model, clips, collator, tmp_path
):
    first = run(model, clips, collator, tmp_path / "1.csv")
    torch.manual_seed(123)
    pd.testing.assert_frame_equal(run(model.train(), clips, collator, tmp_path / "2.csv"), first)


@pytest.mark.parametrize(("language", "task"), [("cs", "transcribe"), ("ca", "translate")])
def test_decoder_starts_with_language_and_task(model, clips, collator, processor, language, task):
    seen = []
    hook = model.model.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    texts = generate_batch(
        model, processor.tokenizer, collator([clips[0]])["input_features"], language, task, PRESET
    )
    hook.remove()
    assert seen[0] == [prefix_tokens(processor.tokenizer, language, task)]
    assert len(texts) == 1 and len(seen) <= PRESET.max_new_tokens


def test_each_text_is_one_line(model, clips, collator, processor, monkeypatch):
    monkeypatch.setattr(
        type(processor.tokenizer), "batch_decode", lambda *_, **__: [" a\rb \n\n c  d\u2028e "]
    )
    features = collator([clips[0]])["input_features"]
    assert generate_batch(model, processor.tokenizer, features, "cs", "transcribe", PRESET) == [
        "a b c d e"
    ]


def test_experts_matter_where_they_are_switched_on(model, clips, collator, tmp_path):
    plain = run(model, clips, collator, tmp_path / "plain.csv")
    shake_experts(attach_experts(model, ["cs"]))
    pd.testing.assert_frame_equal(run(model, clips, collator, tmp_path / "off.csv"), plain)
    with use_language(model, "cs"):
        assert not run(model, clips, collator, tmp_path / "on.csv").equals(plain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "NA",
        "nan",
        "None",
        '"',
        'a "b", c',
        "a,b",
        "a\nb",
        "a\r\nb",
        "a\rb",
        "\x00",
        "a\x00b",
        "\x1a",
        "\u2028",
        "\x85",
        "\ufeff",
        "kůň ไทย",
        "'",
        "#",
    ],
)
def test_any_text_goes_through_the_table_unchanged(text, tmp_path):
    predictions = {"first": "ahoj", "odd": text, "last": "konec"}
    clips = SimpleNamespace(
        ids=list(predictions), texts=["ahoj", text, ""]
    )  # references are odd too
    write_predictions(tmp_path / "t.csv", clips, predictions)
    assert read(tmp_path / "t.csv") == predictions
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["t.csv"]


def test_each_prediction_lies_beside_its_reference(model, clips, collator, tmp_path):
    run(model, clips, collator, tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    assert list(table.columns) == ["id", "reference", "prediction", "clip", "check"]
    assert dict(zip(table["id"], table["reference"], strict=True)) == dict(
        zip(clips.ids, clips.texts, strict=True)
    )


def test_missing_table_is_empty(tmp_path):
    assert read(tmp_path / "none.csv") == {}


# ---- a checkpoint's own generation settings

# settings of a checkpoint that change what `generate` returns, or make it fail
SETTINGS = {
    "repetition_penalty": 3.0,
    "no_repeat_ngram_size": 1,
    "return_timestamps": True,
    "return_dict_in_generate": True,
    "output_scores": True,
    "num_beams": 3,
    "num_return_sequences": 2,
    "do_sample": True,
    "forced_decoder_ids": [[1, 270], [2, 357]],
    "forced_eos_token_id": 50,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.1,
    "bad_words_ids": [[215]],
    "sequence_bias": [[[215], -50.0]],
    "min_new_tokens": 9,
    "max_time": 0.0001,
    "language": "<|fr|>",
    "task": "translate",
    "prompt_lookup_num_tokens": 3,
    "guidance_scale": 3.0,
    "watermarking_config": {"bias": 2.5},
    "force_unique_generate_call": True,
}


def decode(model, clips, collator):
    features = collator([clips[0], clips[1]])["input_features"]
    return generate_batch(model, collator.tokenizer, features, "cs", "transcribe", PRESET)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_of_a_checkpoint_do_not_change_predictions(name, model, clips, collator):
    usual = decode(model, clips, collator)
    setattr(model.generation_config, name, SETTINGS[name])
    assert decode(model, clips, collator) == usual
    assert getattr(model.generation_config, name) == SETTINGS[name]  # the model's stay
    assert list(overridden_settings(model.generation_config)) == [name]


def test_settings_do_not_change_predictions_with_experts_adapters_and_all_at_once(
    model, clips, collator
):
    usual = decode(model, clips, collator)
    for name, value in SETTINGS.items():
        setattr(model.generation_config, name, value)
    model.config.repetition_penalty = 2.0  # where old checkpoints have it
    attach_experts(model, ["cs"])
    assert decode(model, clips, collator) == usual
    adapted = get_peft_model(detach_experts(model), LoraConfig(target_modules=["q_proj"]))
    assert decode(adapted, clips, collator) == usual
    assert sorted(overridden_settings(model.generation_config)) == sorted(SETTINGS)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_no_text(value, model, clips, collator, tmp_path):
    with torch.no_grad():
        model.model.decoder.layer_norm.bias[0] = value
    with pytest.raises(ValueError, match="scores of the next token are not finite .* float32"):
        decode(model, clips, collator)
    with pytest.raises(ValueError, match="so nothing is transcribed"):
        run(model, clips, collator, tmp_path / "cs.csv")
    assert not (tmp_path / "cs.csv").exists()


def test_suppressed_tokens_stay(model, clips, collator):
    (usual, _) = decode(model, clips, collator)
    first = collator.tokenizer.encode(usual[0], add_special_tokens=False)
    model.generation_config.suppress_tokens = [*model.generation_config.suppress_tokens, *first]
    (changed, _) = decode(model, clips, collator)
    assert usual[0] not in changed and usual != changed
    assert overridden_settings(model.generation_config) == {}


def test_overridden_settings_are_read_without_the_weights(model, tmp_path):
    assert overridden_in(None) == overridden_in(tmp_path) == {}
    model.generation_config.save_pretrained(tmp_path)
    assert overridden_in(tmp_path) == {}
    model.generation_config.repetition_penalty = 1.3
    model.generation_config.save_pretrained(tmp_path)
    assert overridden_in(tmp_path) == {"repetition_penalty": 1.3}
    (tmp_path / "generation_config.json").write_text("[1")
    with pytest.raises(ValueError, match="generation_config.json holds no generation settings"):
        overridden_in(tmp_path)


# ---- damaged and outdated tables

DAMAGE = {
    "emptied": lambda content: b"",
    "cut in a line": lambda content: content[: len(content) // 2],
    "cut in the last line": lambda content: content[:-3],
    "other columns": lambda content: content.replace(b"prediction", b"text", 1),
    "a column less": lambda content: b"id,prediction\na,b\n",
    "NUL bytes": lambda content: content[:80] + bytes(8) + content[88:],
    "all NUL bytes": lambda content: bytes(len(content)),
    "a flipped byte": lambda content: content[:90] + bytes([content[90] ^ 1]) + content[91:],
    "no text": lambda content: b"\xff\xfe\x00\n",
    "an open quote": lambda content: content.replace(b"random/0-2,", b'random/0-2,"', 1),
    "a row twice": lambda content: content + content.splitlines(keepends=True)[-1],
    "JSON": lambda content: b'{"id": 1}\n',
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_table_is_set_aside_and_computed_anew(
    name, model, clips, collator, tmp_path, capsys
):
    path = tmp_path / "cs.csv"
    whole = run(model, clips, collator, path)
    content = path.read_bytes()
    damaged = DAMAGE[name](content)
    assert damaged != content
    path.write_bytes(damaged)

    pd.testing.assert_frame_equal(run(model, clips, collator, path), whole)
    assert path.read_bytes() == content
    assert (tmp_path / "cs.csv.damaged-1").read_bytes() == damaged
    assert capsys.readouterr().err.count("is damaged") == 1


def test_table_that_lost_whole_lines_is_completed(model, clips, collator, tmp_path):
    path = tmp_path / "cs.csv"
    whole = run(model, clips, collator, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))  # the first clip of a batch is missing
    assert stored_predictions(clips, path) is None
    pd.testing.assert_frame_equal(run(model, clips, collator, path), whole)
    path.write_bytes(b"".join(lines[:3]))  # the first is there, others of its batch are missing
    pd.testing.assert_frame_equal(run(model, clips, collator, path), whole)


def test_tables_of_earlier_versions_are_still_read(model, clips, collator, tmp_path):
    path = tmp_path / "cs.csv"
    whole = run(model, clips, collator, path)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table[["id", "reference", "prediction"]].to_csv(path, index=False)
    pd.testing.assert_frame_equal(stored_predictions(clips, path), whole)


def test_clips_that_have_changed_are_transcribed_anew_and_it_is_said(
    model, clips, collator, tmp_path, capsys
):
    path = tmp_path / "cs.csv"
    before = run(model, clips, collator, path)
    clips.items[3]["features"] = clips.items[3]["features"] + 3
    clips.digests[3] = "another sound"
    assert stored_predictions(clips, path) is None
    after = run(model, clips, collator, path)
    assert "cs.csv: 1 of 10 clips have another text or sound" in capsys.readouterr().err
    pd.testing.assert_frame_equal(after, run(model, clips, collator, tmp_path / "new.csv"))
    assert list(before["id"]) == list(after["id"])


def test_predictions_of_other_clips_in_the_table_are_left_out(
    model, clips, collator, processor, tmp_path
):
    path = tmp_path / "cs.csv"
    run(model, clips, collator, path)
    others = RandomClips(processor.tokenizer, 3, seed=5)
    table = run(model, others, collator, path)
    assert list(table["id"]) == others.ids


def test_unknown_language_or_task_is_refused(model, clips, collator, tmp_path):
    for language, task, message in (("xx", "transcribe", "'xx'"), ("cs", "summarise", "translate")):
        with pytest.raises(ValueError, match=message):
            transcribe(model, clips, collator, PRESET, tmp_path / "t.csv", language, task)
    assert not list(tmp_path.iterdir())
