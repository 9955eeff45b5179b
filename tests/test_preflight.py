"""The preflight: what would fail after hours is found before anything is computed."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from made_corpora import write_sound

from distilwhisper_lib.lab import preflight as module
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.lab.preflight import Step, bytes_needed, check_whisper, preflight
from distilwhisper_lib.training.methods import compared_methods
from distilwhisper_lib.whisper.loading import load_processor, load_whisper
from distilwhisper_lib.whisper.shapes import WhisperShape

ALL = tuple(compared_methods())


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with a tiny Whisper, to be damaged."""
    folder = tmp_path / "own"
    load_whisper("tiny").save_pretrained(folder)
    load_processor("tiny").save_pretrained(folder)
    return folder


def change(path, **changes):
    """Change settings in a JSON file; None removes one."""
    settings = json.loads(path.read_text()) | changes
    settings = {name: value for name, value in settings.items() if value is not None}
    path.write_text(json.dumps(settings))


@pytest.fixture
def checks(monkeypatch):
    """The models that were loaded for a check."""
    found = []

    def noting(name, languages, dtype):
        found.append(str(name))
        check_whisper(name, languages, dtype)

    monkeypatch.setattr(module, "check_whisper", noting)
    return found


def test_nothing_is_computed_and_a_model_that_has_passed_is_not_loaded_again(checks):
    lab = Lab("smoke")
    state = torch.get_rng_state()
    preflight(lab, ALL)
    assert checks == ["tiny"]
    assert [path.name for path in lab.folder.iterdir()] == ["preflight.json"]
    assert torch.equal(torch.get_rng_state(), state)
    preflight(Lab("smoke"), ALL)
    assert checks == ["tiny"]


def test_nothing_is_checked_where_all_results_are_there(checks, monkeypatch):
    lab = Lab("smoke")
    lab.train("lora")
    lab.transcribe("lora", "cs/in-domain")
    (lab.folder / "preflight.json").unlink(missing_ok=True)
    checks.clear()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    preflight(lab, ["lora"], ["cs/in-domain"])
    assert not checks
    preflight(lab, ["lora"], ["cs/noise"])
    assert checks == ["tiny"]


def test_all_that_is_wrong_is_told_at_once():
    lab = Lab("smoke", learning_rates={"lora": 1e-3})
    with pytest.raises(ValueError, match="^nothing was computed, for 5 things are wrong:") as found:
        preflight(lab, ["lora", "clsr-ft", "lorra", "distilwhisper"], ["cs/hard"])
    for part in ("for 'clsr-ft'", "method 'lorra'", "'distilwhisper'", "'cs/hard'", "'teacher'"):
        assert part in str(found.value)


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("generation_config.json", {"lang_to_id": None}, r"no languages \(lang_to_id\): copy gene"),
        ("generation_config.json", {"task_to_id": None}, r"no tasks \(task_to_id\): copy"),
        ("generation_config.json", {"is_multilingual": False}, "it knows English only: take a m"),
        (
            "generation_config.json",
            {"lang_to_id": {"<|de|>": 3}},
            "no token for the language 'ca'",
        ),
        (
            "generation_config.json",
            {"task_to_id": {"transcribe": 358}},
            "lack the task 'translate'",
        ),
        (
            "generation_config.json",
            {"lang_to_id": {"<|ca|>": 271, "<|cs|>": 282, "<|nl|>": 270}},
            r"have the id 271 for <\|ca\|>, and its tokenizer 269: they are of two models; copy",
        ),
        (
            "generation_config.json",
            {"task_to_id": {"transcribe": 357, "translate": 358}},
            r"have the id 357 for <\|transcribe\|>, and its tokenizer 358",
        ),
        (
            "generation_config.json",
            {"no_timestamps_token_id": 361},
            r"have the id 361 for <\|notimestamps\|>, and its tokenizer 362",
        ),
        ("generation_config.json", {"eos_token_id": [5]}, "with the token 5, and its .* with 256"),
    ],
)
def test_a_model_that_cannot_transcribe_is_told(role, file, changes, message, checkpoint):
    change(checkpoint / file, **changes)
    lab = Lab("smoke", **{role: str(checkpoint)}, second_language="ca", language="ca")
    with pytest.raises(ValueError, match=rf"^the {role} .*own cannot be used: .*{message}"):
        preflight(lab, ["distilwhisper"], [])


def test_a_missing_generation_config_is_told(checkpoint):
    (checkpoint / "generation_config.json").unlink()
    with pytest.raises(ValueError, match="copy generation_config.json of the Whisper that it was"):
        preflight(Lab("smoke", student=str(checkpoint)), ["student"])


def test_embeddings_smaller_than_the_tokenizer_are_told(checkpoint):
    model = load_whisper(checkpoint)
    tokens = len(load_processor(checkpoint).tokenizer)
    model.resize_token_embeddings(tokens - 1)
    model.save_pretrained(checkpoint)
    message = f"its tokenizer has {tokens} tokens and the model embeddings for {tokens - 1}"
    with pytest.raises(ValueError, match=message):
        check_whisper(checkpoint, ["cs"])


def test_a_teacher_that_is_not_there_is_told_before_the_student_is_trained(tmp_path):
    lab = Lab("smoke", teacher=str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="none"):
        preflight(lab, ["distilwhisper"], [])
    preflight(lab, ["lora"], [])  # needs no teacher


def recordings(folder, split):
    """Write recordings with these values of the column split, and return a lab of them."""
    folder.mkdir()
    lines = ["path,text,speaker,split"]
    for index, name in enumerate(split):
        write_sound(folder / f"{index}.wav", 0.3, 200 + 5 * index, "WAV")
        lines.append(f"{index}.wav,Frase {index}.,one,{name}")
    (folder / "recordings.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def lab_of_recordings(monkeypatch, tmp_path, split, **changes):
    """Return a lab of recordings in Catalan, one speaker."""
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "recordings").mkdir(parents=True)
    recordings(tmp_path / "data" / "recordings" / "ca", split)
    return Lab(
        replace(Lab("smoke").preset, name="own", retention=()),
        corpus="recordings",
        second_corpus="recordings",
        language="ca",
        second_language="ca",
        **changes,
    )


def test_one_speaker_alone_is_told_to_give_a_column_split(tmp_path, monkeypatch):
    lab = lab_of_recordings(monkeypatch, tmp_path, ["train"] * 6)
    with pytest.raises(ValueError, match="things are wrong") as found:
        preflight(lab, ["lora"])
    text = str(found.value)
    assert "the split 'validation'" in text and "the split 'test'" in text
    assert "a column split" in text


def test_without_a_teacher_it_is_said_how_to_give_one_or_do_without(tmp_path, monkeypatch):
    split = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    lab = lab_of_recordings(monkeypatch, tmp_path, split)
    preflight(lab, ["lora", "clsr-ft"])
    with pytest.raises(ValueError, match="the split 'teacher'") as found:
        preflight(lab, ["lora", "distilwhisper"])
    text = str(found.value)
    assert 'name one (teacher="openai/whisper-large-v2")' in text
    assert "or leave out what learns from it (distilwhisper)" in text


def test_every_door_to_a_training_says_what_to_do_without_a_teacher(tmp_path, monkeypatch):
    split = ["train"] * 4 + ["validation"] * 2 + ["test"] * 2
    lab = lab_of_recordings(monkeypatch, tmp_path, split)
    for door in (
        lambda: lab.train("distilwhisper"),
        lambda: lab.model("distilwhisper"),
        lambda: lab.transcribe("distilwhisper", "ca/in-domain"),
        lambda: lab.teacher_distributions(),
        lambda: lab.train_teacher(),
    ):
        with pytest.raises(ValueError, match="the split 'teacher'") as found:
            door()
        assert 'name one (teacher="openai/whisper-large-v2"), or leave out' in str(found.value)
        assert "a column split" not in str(found.value)  # recordings have no split "teacher"


def test_a_test_that_is_empty_is_told_before_a_method_is_trained_for_it(tmp_path, monkeypatch):
    lab = lab_of_recordings(monkeypatch, tmp_path, ["train"] * 4 + ["validation"] * 2)
    with pytest.raises(ValueError, match="the split 'test' of recordings in 'ca' is empty.*column"):
        lab.transcribe("lora", "ca/in-domain")
    assert not (lab.folder / "runs").exists()


def test_a_student_that_cannot_transcribe_is_told_before_it_is_trained_for_a_test(checkpoint):
    change(checkpoint / "generation_config.json", lang_to_id=None)
    lab = Lab("smoke", student=str(checkpoint))
    for door in (lambda: lab.transcribe("lora", "cs/in-domain"), lambda: lab.model("lora")):
        with pytest.raises(ValueError, match="the student .* cannot be used: .*lang_to_id"):
            door()
    assert not (lab.folder / "runs").exists()


def test_a_student_with_the_tokens_of_another_whisper_transcribes_nothing(checkpoint):
    change(checkpoint / "generation_config.json", lang_to_id={"<|cs|>": 271})
    with pytest.raises(ValueError, match=r"have the id 271 for <\|cs\|>, and its tokenizer 282"):
        Lab("smoke", student=str(checkpoint)).transcribe("student", "cs/in-domain")


def test_methods_and_tests_are_lists():
    for lists in (("lora",), (["lora"], "cs/in-domain")):
        with pytest.raises(ValueError, match="a list is needed"):
            preflight(Lab("smoke"), *lists)


def test_space_on_the_disk_is_that_of_weights_checkpoints_and_distributions(monkeypatch):
    shape = WhisperShape(768, 12, 3072)
    monkeypatch.setattr(module, "_shape_of", lambda name: shape)
    lab = Lab("smoke")
    fine_tuning = bytes_needed(lab, [Step("fine-tuning")])
    assert fine_tuning == pytest.approx((4 + 2 * 12) * shape.parameters)
    both = bytes_needed(lab, [Step("fine-tuning"), Step("lora")])
    assert both == pytest.approx(fine_tuning + 4 * 11_796_480)
    distilled = bytes_needed(lab, [Step("distilwhisper")])  # with the stand-in
    assert distilled > fine_tuning + 4 * 114_000_000

    free = SimpleNamespace(free=fine_tuning - 1)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: free)
    with pytest.raises(OSError, match=r"has 6.8 GB free, and .* need about 6.8 GB: free some, or"):
        preflight(lab, ["fine-tuning"], [])
    free.free += 1
    preflight(lab, ["fine-tuning"], [])


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    lab = Lab("smoke")
    shutil.rmtree(lab.folder, ignore_errors=True)
    lab.folder.parent.mkdir(parents=True, exist_ok=True)
    lab.folder.touch()  # a file in the way
    with pytest.raises(OSError, match="smoke"):
        preflight(lab, ["student"])
