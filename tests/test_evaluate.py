"""Transcription of a test set: greedy, in complete batches, kept in a table and resumable."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from random_data import RandomClips, shake_experts

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.evaluation import transcription
from distilwhisper_lib.evaluation.transcription import (
    _read_predictions,
    _write_predictions,
    generate_batch,
    transcribe,
)
from distilwhisper_lib.method.attach import attach_experts
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
    done = dict(list(_read_predictions(path).items())[:4])  # the first batch
    _write_predictions(path, clips, done)

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
    _write_predictions(tmp_path / "t.csv", clips, predictions)
    assert _read_predictions(tmp_path / "t.csv") == predictions
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["t.csv"]


def test_each_prediction_lies_beside_its_reference(model, clips, collator, tmp_path):
    run(model, clips, collator, tmp_path / "t.csv")
    table = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    assert list(table.columns) == ["id", "reference", "prediction"]
    assert dict(zip(table["id"], table["reference"], strict=True)) == dict(
        zip(clips.ids, clips.texts, strict=True)
    )


def test_missing_table_is_empty(tmp_path):
    assert _read_predictions(tmp_path / "none.csv") == {}
