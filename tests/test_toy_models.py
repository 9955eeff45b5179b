"""The training of toy Whispers from nothing, and the two that lie in data/toy."""

import json
from dataclasses import replace

import pytest
import torch

from distilwhisper_lib import count_errors, generate_batch, load_processor, load_whisper, summarise
from distilwhisper_lib.data.batches import Clips, Collator
from distilwhisper_lib.data.corpora.items import to_row
from distilwhisper_lib.data.corpora.preparing import dataset_of
from distilwhisper_lib.data.corpora.world import SAME_VOICE, spoken_by
from distilwhisper_lib.experiments import toy_models
from distilwhisper_lib.experiments.toy_models import (
    RECIPES,
    Recipe,
    Speech,
    Stage,
    train_toy,
)
from distilwhisper_lib.presets import PRESETS
from distilwhisper_lib.whisper.loading import SHIPPED
from distilwhisper_lib.whisper.tiny import tiny_processor

SHORT = Recipe(32, (Stage(4, 0.0, 1e-3), Stage(2, 0.1, 1e-3)))


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    """Make batches of four clips, and save after each step."""
    monkeypatch.setattr(toy_models, "BATCH", 4)
    monkeypatch.setattr(toy_models, "SAVED_EVERY", 1)


def weights_of(folder) -> dict[str, torch.Tensor]:
    return load_whisper(folder).state_dict()


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_batch_depends_on_seed_stage_and_number_alone():
    speech = Speech(0, tiny_processor())
    stage = SHORT.stages[1]
    first, again = speech.batch(stage, 3), speech.batch(stage, 3)
    assert torch.equal(first["input_features"], again["input_features"])
    assert torch.equal(first["labels"], again["labels"])
    for other in (speech.batch(stage, 4), Speech(1, tiny_processor()).batch(stage, 3)):
        assert not torch.equal(first["labels"], other["labels"][:, : first["labels"].shape[1]])


def test_the_share_is_that_of_each_little_known_language():
    speech = Speech(0, tiny_processor())
    tokenizer = speech.processor.tokenizer

    def languages(share: float) -> list[str]:
        batches = [speech.batch(Stage(1, share, 1e-3), number) for number in range(60)]
        codes = [row[0] for batch in batches for row in batch["labels"].tolist()]
        return [tokenizer.decode([code]) for code in codes]

    assert set(languages(0.0)) == {"<|ca|>", "<|gl|>", "<|pl|>"}
    found = languages(0.25)
    assert found.count("<|cs|>") / len(found) == pytest.approx(0.25, abs=0.08)
    assert found.count("<|ca|>") / len(found) == pytest.approx(1 / 12, abs=0.08)


def test_a_recipe_shares_its_first_stages_with_others():
    first = train_toy(SHORT)
    longer = replace(SHORT, stages=(SHORT.stages[0], Stage(3, 0.1, 1e-3)))
    assert train_toy(longer) != first
    cache = first.parent
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 3  # stage 1 once
    before = (first / "model.safetensors").stat().st_mtime_ns
    assert train_toy(SHORT) == first  # it is there
    assert (first / "model.safetensors").stat().st_mtime_ns == before


def test_a_stopped_training_goes_on_to_the_same_weights(monkeypatch, tmp_path):
    whole = weights_of(train_toy(SHORT))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "other"))
    step = toy_models._step
    made = []

    def stop_in_the_third(*arguments):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(toy_models, "_step", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        train_toy(SHORT)
    resumed = train_toy(SHORT)
    assert len(made) == 3 + 2 + 2  # of the first stage two steps were left, then the second
    assert same(weights_of(resumed), whole)


def test_a_damaged_state_is_set_aside(monkeypatch, tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"no tensors")
    model = toy_models.small_whisper(32)
    adam = torch.optim.Adam(model.parameters())
    assert toy_models._restored(path, model, adam) == (0, [])
    assert not path.exists() and list(tmp_path.glob("*damaged*"))


def test_a_recipe_without_stages_is_refused():
    with pytest.raises(ValueError, match="no stages"):
        train_toy(Recipe(32, ()))


# ---- those that lie in data/toy


@pytest.mark.parametrize("role", RECIPES)
def test_the_shipped_models_are_those_of_the_recipe(role):
    folder = SHIPPED[f"toy-{role}"]
    about = json.loads((folder / "training.json").read_text())
    recipe = RECIPES[role]
    assert about["width"] == recipe.width and about["seed"] == recipe.seed
    assert about["stages"] == [vars(stage) for stage in recipe.stages]
    assert load_whisper(f"toy-{role}").config.d_model == recipe.width
    assert load_whisper(f"toy-{role}").dtype == torch.float32  # on disk it is fp16
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size < 5e6


def wer_of(name: str, language: str) -> float:
    """Return the WER of a model on 48 clips."""
    rows = [to_row(item) for item in spoken_by(language, SAME_VOICE, 48)]
    processor = load_processor(name)
    clips = Clips(dataset_of(rows), processor, language)
    batch = Collator(processor.tokenizer, 0.2)([clips[index] for index in range(len(clips))])
    texts = generate_batch(
        load_whisper(name),
        processor.tokenizer,
        batch["input_features"],
        language,
        "transcribe",
        PRESETS["toy"],
    )
    return summarise(count_errors(clips.texts, texts))["wer"]


def test_the_student_knows_three_languages_and_the_teacher_knows_all():
    for code in ("ca", "gl", "pl"):
        assert wer_of("toy-student", code) < 12
    student, teacher = wer_of("toy-student", "cs"), wer_of("toy-teacher", "cs")
    assert student > 20
    assert teacher < student / 2
