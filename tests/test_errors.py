"""What can go wrong: messages name the thing and say what to do about it."""

import errno
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from random_data import RandomClips
from runs import train
from safetensors import SafetensorError

from distilwhisper_lib.data.audio import encode_flac, log_mel, read_audio
from distilwhisper_lib.data.batches import Clips, Collator, window_frames
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.selection import select
from distilwhisper_lib.data.normalisers import normalise
from distilwhisper_lib.device import mixed_precision
from distilwhisper_lib.evaluation.scoring import summarise
from distilwhisper_lib.evaluation.transcription import transcribe
from distilwhisper_lib.files import disk_errors
from distilwhisper_lib.lab.lab import Lab, open_lab
from distilwhisper_lib.method import storage
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.languages import set_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.training import teacher
from distilwhisper_lib.training.methods import get_method
from distilwhisper_lib.training.teacher import cache_teacher_distributions
from distilwhisper_lib.whisper.loading import load_processor, load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper
from distilwhisper_lib.whisper.tokens import encode_labels, language_code
from distilwhisper_lib.whisper.window import use_window

PRESET = replace(get_preset("smoke"), batch_size=4, eval_batch_size=4)
NO_SPACE = OSError(errno.ENOSPC, "No space left on device")


def cs_experts():
    return attach_experts(load_whisper("tiny"), ["cs"])


def wide_whisper():
    config = load_whisper("tiny").config
    config.d_model = 48
    return type(load_whisper("tiny"))(config)


def clip_of(seconds):
    return np.zeros(round(16_000 * seconds), np.float32)


# what is done (with an empty folder), the error, and a pattern that its message has
TABLE = {
    "unknown language": (
        lambda _: language_code("klingon"),
        ValueError,
        r"'klingon'.*use a code such as 'cs'",
    ),
    "experts for an unknown language": (
        lambda _: attach_experts(load_whisper("tiny"), ["xx"]),
        ValueError,
        "'xx'.*cs",
    ),
    "language without experts": (
        lambda _: set_language(cs_experts(), "nl"),
        ValueError,
        "for nl: this model has cs",
    ),
    "no experts at all": (
        lambda _: set_language(load_whisper("tiny"), "cs"),
        ValueError,
        "call attach_experts",
    ),
    "language without a corpus": (
        lambda _: load_corpus("toy", "ja"),
        ValueError,
        "toy has no language 'ja': .*cs",
    ),
    "language without speech": (
        lambda _: Lab("smoke", language="ja"),
        ValueError,
        "'ja' at preset smoke.* cs",
    ),
    "unknown corpus": (
        lambda _: load_corpus("librispeech", "cs"),
        ValueError,
        "'librispeech': one of fillets, stamps",
    ),
    "unknown preset": (
        lambda _: open_lab("huge"),
        ValueError,
        "'huge': one of smoke, toy, laptop, colab",
    ),
    "unknown method": (
        lambda _: get_method("bert"),
        ValueError,
        "'bert': one of student, teacher, fine-tuning",
    ),
    "unknown test": (
        lambda _: Lab("smoke").test_rows("cs/easy"),
        ValueError,
        "'cs/easy': one of cs/in-domain",
    ),
    "unknown split": (lambda _: Lab("smoke").rows("dev"), ValueError, "'dev': one of .*validation"),
    "unknown normaliser": (
        lambda _: normalise("a", "nfc"),
        ValueError,
        "'nfc': one of none, whisper-basic",
    ),
    "missing audio": (lambda folder: read_audio(folder / "a.ogg"), FileNotFoundError, "a.ogg"),
    "unreadable audio": (
        lambda _: read_audio({"bytes": b"x", "path": "a.ogg"}),
        ValueError,
        "a.ogg.*cannot decode",
    ),
    "empty audio": (
        lambda _: read_audio({"bytes": encode_flac(clip_of(0)), "path": "a"}),
        ValueError,
        "a: .*empty",
    ),
    "clip too long": (
        lambda _: log_mel(clip_of(31), load_processor("tiny").feature_extractor),
        ValueError,
        "31.0 s.*30 s",
    ),
    "too many frames": (
        lambda _: window_frames(3100, None),
        ValueError,
        r"3100 frames \(31.0 s\), Whisper takes 30 s",
    ),
    "label too long": (
        lambda _: encode_labels(load_processor("tiny").tokenizer, "x" * 500, "cs"),
        ValueError,
        "504 tokens, the decoder has 448 positions: 'xxx",
    ),
    "empty split": (
        lambda _: select(
            load_corpus("toy", "cs").filter(lambda row: row["split"] == "test"), "train"
        ),
        ValueError,
        "the split 'train' .*is empty: splits with clips: test",
    ),
    "no clips": (
        lambda _: Clips([], load_processor("tiny"), "cs"),
        ValueError,
        "the split is empty",
    ),
    "nothing to score": (
        lambda _: summarise(pd.DataFrame({"words": [np.nan]})),
        ValueError,
        "reference is empty",
    ),
    "experts of another size": (
        lambda folder: load_experts(wide_whisper(), save_experts(cs_experts(), folder)),
        ValueError,
        "cs experts .*layers of width 32 .*needs .*width 48",
    ),
    "experts of other weights": (
        lambda folder: load_experts(tiny_whisper(3), save_experts(cs_experts(), folder)),
        ValueError,
        "trained on another Whisper.*load tiny",
    ),
    "no experts in a folder": (
        lambda folder: load_experts(load_whisper("tiny"), folder),
        FileNotFoundError,
        "experts.json is missing.*save_experts",
    ),
    "nothing to save": (
        lambda folder: save_experts(load_whisper("tiny"), folder),
        ValueError,
        "no experts",
    ),
    "no such model": (
        lambda _: load_whisper("whisper"),
        FileNotFoundError,
        "'whisper': no such folder.*whisper-base",
    ),
    "no checkpoint in a folder": (
        load_whisper,
        FileNotFoundError,
        "lacks config.json, model.safetensors",
    ),
    "window that does not fit": (
        lambda _: use_window(load_whisper("tiny"), 3002).__enter__(),
        ValueError,
        "to 3000",
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_error_names_the_thing_and_what_to_do(name, tmp_path):
    action, error, message = TABLE[name]
    with pytest.raises(error, match=rf"(?s){message}") as caught:
        action(tmp_path)
    assert len(str(caught.value)) < 700


def test_preset_and_precision_of_the_environment_are_checked(monkeypatch):
    monkeypatch.setenv("LAB_PRESET", "laptop2")
    with pytest.raises(
        ValueError, match="unknown preset 'laptop2', of the variable LAB_PRESET: one of smoke"
    ):
        Lab()
    for precision in ("bf16", "fp16", "no"):
        monkeypatch.setenv("LAB_PRECISION", precision)
        assert mixed_precision(torch.device("cpu")) == precision
    monkeypatch.setenv("LAB_PRECISION", "float8")
    with pytest.raises(ValueError, match="LAB_PRECISION is 'float8': use bf16, fp16 or no"):
        open_lab("smoke")


def test_without_network_a_model_that_is_not_here_is_named(monkeypatch, tmp_path):
    constants = huggingface_hub.constants
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        "http://127.0.0.1:9/{repo_id}/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        for load in (load_whisper, load_processor):
            with pytest.raises(
                OSError,
                match="'someone/whisper-huge' could not be fetched.*network.*give the folder",
            ):
                load("someone/whisper-huge")


# ---- a full disk

FULL = [
    NO_SPACE,
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 534"),
]


@pytest.mark.parametrize("error", FULL, ids=["system", "quota", "safetensors", "torch"])
def test_full_disk_gives_one_message_whatever_library_meets_it(error, tmp_path):
    message = "no space left under .*: free some, or choose a folder on another disk"
    with pytest.raises(OSError, match=message) as caught, disk_errors(tmp_path):
        raise error
    assert str(tmp_path) in str(caught.value)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), ValueError("a"), KeyboardInterrupt()]
)
def test_other_errors_stay_what_they_are(error, tmp_path):
    with pytest.raises(type(error)) as caught, disk_errors(tmp_path):
        raise error
    assert caught.value is error


class Full:
    """Raises an error at the second call of what it replaces, as a disk does that fills up."""

    def __init__(self, original, error):
        self.original = original
        self.error = error
        self.calls = 0

    def __get__(self, instance, owner):
        return lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return self.original(*args, **kwargs)


def test_runs_stop_at_a_full_disk_and_go_on_when_there_is_space(processor, tmp_path, monkeypatch):
    clips = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.5))
    collator = Collator(processor.tokenizer, 0.3)
    model = load_whisper("tiny")

    def cache_teacher(folder):
        cache_teacher_distributions(model, clips, collator, folder, 4, batch_size=4)

    def write_table(folder):
        transcribe(model, clips, collator, PRESET, folder / "cs.csv", "cs")

    def fine_tune(folder):
        train("fine-tuning", folder, PRESET, clips, collator, epochs=2)

    # what is done, what writes the files, and the error that it raises
    jobs = {
        "teacher": (cache_teacher, (teacher, "save_file"), FULL[2]),
        "table": (write_table, (Path, "write_bytes"), FULL[0]),
        "train": (fine_tune, (torch, "save"), FULL[3]),
    }
    for name, (job, (owner, attribute), error) in jobs.items():
        message = f"no space left under .*{name}: free some.*goes on where it was"
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, Full(getattr(owner, attribute), error))
            with pytest.raises(OSError, match=message):
                job(tmp_path / name)
        job(tmp_path / name)
        assert not list(tmp_path.glob(f"{name}/*.part"))
    assert (tmp_path / "train" / "model" / "model.safetensors").exists()


def test_full_disk_while_saving_experts(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "save_file", Full(storage.save_file, FULL[2]))
    model = attach_experts(load_whisper("tiny"), ["cs", "ca"])
    with pytest.raises(OSError, match="no space left under .*experts: free some"):
        save_experts(model, tmp_path / "experts")
    with pytest.raises(FileNotFoundError, match="experts.json is missing"):
        load_experts(load_whisper("tiny"), tmp_path / "experts")


def test_broken_clip_is_named_when_it_is_trained_on(processor, tmp_path):
    rows = {
        "id": ["room/a", "room/b"],
        "text": ["a", "b"],
        "duration": [0.5, 0.5],
        "audio": [
            {"bytes": encode_flac(clip_of(1)), "path": "a"},
            {"bytes": b"broken", "path": "b"},
        ],
    }
    clips = Clips(Dataset.from_dict(rows), processor, "cs")
    validation = RandomClips(processor.tokenizer, 1)
    collator = Collator(processor.tokenizer, 0.3)
    with pytest.raises(ValueError, match="room/b: .*cannot decode"):
        train("fine-tuning", tmp_path, PRESET, clips, collator, validation=validation)
