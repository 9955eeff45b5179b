"""From corpus rows to batches: windows, exact ids, masks, and orders by seed and epoch alone."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from random_data import RandomClips

from distilwhisper_lib.data.audio import encode_flac, log_mel
from distilwhisper_lib.data.batches import (
    Clips,
    Collator,
    JoinedClips,
    LengthOrder,
    RandomOrder,
    length_batches,
    position_masks,
    window_frames,
)
from distilwhisper_lib.method.losses import IGNORED

END = 256
START = 257
CS = 282
TRANSLATE = 357
TRANSCRIBE = 358
NO_TIMESTAMPS = 362
SECONDS = [0.5, 0.83, 0.4]


def sound(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(16_000 * seconds)).astype(np.float32)


def make_rows(texts=("ab", "cde", "f"), seconds=SECONDS, **columns):
    rows = {
        "id": [f"room/{i}" for i in range(len(texts))],
        "text": list(texts),
        "duration": list(seconds),
        "translation_en": [text.upper() for text in texts],
        "audio": [
            {"bytes": encode_flac(sound(s, i)), "path": f"{i}"} for i, s in enumerate(seconds)
        ],
    }
    return Dataset.from_dict(rows | columns)


@pytest.fixture
def clips(processor):
    return Clips(make_rows(), processor, "cs")


# ---- the window


@pytest.mark.parametrize(
    ("longest", "margin", "frames"),
    [
        (100, 3.0, 400),
        (101, 3.0, 402),
        (100, 0.505, 150),
        (2900, 3.0, 3000),
        (2999, 0.0, 3000),
        (50, None, 3000),
    ],
)
def test_the_window_is_the_longest_clip_and_a_margin(longest, margin, frames):
    assert window_frames(longest, margin) == frames


def test_clip_longer_than_whispers_window_is_refused():
    for margin in (None, 3.0):
        with pytest.raises(ValueError, match=r"3001 frames \(30.0 s\), Whisper takes 30 s"):
            window_frames(3001, margin)


# ---- clips


def test_items_hold_features_labels_and_the_length_of_the_sound(clips, processor):
    assert len(clips) == 3
    assert clips.ids == ["room/0", "room/1", "room/2"]
    assert clips.durations == SECONDS
    item = clips[1]
    assert (item["id"], item["frames"]) == ("room/1", 83)
    assert item["labels"] == [
        CS,
        TRANSCRIBE,
        NO_TIMESTAMPS,
        *processor.tokenizer("cde", add_special_tokens=False).input_ids,
        END,
    ]
    expected = log_mel(sound(0.83, 1), processor.feature_extractor)
    assert item["features"].shape == expected.shape
    tolerance = 1e-2  # the clip was stored as 16-bit FLAC
    assert torch.allclose(item["features"], torch.as_tensor(expected), atol=tolerance)


def test_task_language_and_column_go_into_the_labels(processor):
    translated = Clips(make_rows(), processor, "Czech", "translate", "translation_en")
    assert translated.labels[0] == [
        CS,
        TRANSLATE,
        NO_TIMESTAMPS,
        *processor.tokenizer("AB", add_special_tokens=False).input_ids,
        END,
    ]


def test_sound_is_changed_in_the_same_way_each_time(processor):
    def change(audio, seed):
        return audio + np.random.default_rng(seed).normal(0, 0.1, len(audio)).astype(np.float32)

    plain, first, second = (
        Clips(make_rows(), processor, "cs", change=how) for how in (None, change, change)
    )
    assert torch.equal(first[1]["features"], second[1]["features"])
    assert not torch.allclose(first[1]["features"], plain[1]["features"], atol=0.05)


def test_features_are_computed_once(clips, monkeypatch):
    first = clips[0]["features"]
    monkeypatch.setattr(
        "distilwhisper_lib.data.batches.read_audio", lambda _: pytest.fail("read again")
    )
    assert clips[0]["features"] is first


def test_label_too_long_is_refused_at_once_with_its_id(processor):
    with pytest.raises(ValueError, match="room/1: label too long: 504 tokens, the decoder has 448"):
        Clips(make_rows(["a", "x" * 500, "b"]), processor, "cs")


def test_unreadable_and_empty_sound_is_named(processor):
    broken = make_rows(
        audio=[
            {"bytes": b"no sound", "path": "0.flac"},
            {"bytes": encode_flac(sound(0)), "path": "e"},
            {"bytes": encode_flac(sound(1)), "path": "g"},
        ]
    )
    clips = Clips(broken, processor, "cs")
    with pytest.raises(ValueError, match=r"room/0: .*cannot decode"):
        clips[0]
    with pytest.raises(ValueError, match=r"room/1: .*empty"):
        clips[1]
    assert clips[2]["features"].shape[0] == 80
    long = Clips(make_rows(["a"], [31.0]), processor, "cs")
    with pytest.raises(ValueError, match=r"room/0: the clip lasts 31.0 s.*30 s: cut it"):
        long[0]


def test_empty_split_is_refused(processor):
    with pytest.raises(ValueError, match="no clips: the split is empty"):
        Clips(make_rows([], []), processor, "cs")


def test_joined_clips_are_one_after_another(processor):
    both = JoinedClips(
        [Clips(make_rows(), processor, "cs"), Clips(make_rows(["z"], [0.6]), processor, "ca")]
    )
    assert len(both) == 4
    assert both.ids == ["room/0", "room/1", "room/2", "room/0"]
    assert both.durations == [*SECONDS, 0.6]
    assert [both[i]["labels"][0] for i in range(4)] == [CS, CS, CS, 269]


# ---- batches


def test_batch_is_padded_and_its_ids_are_exact(clips, processor):
    batch = Collator(processor.tokenizer, margin_seconds=0.5)([clips[0], clips[1], clips[2]])
    a, b, c, d, e, f = (
        processor.tokenizer(letter, add_special_tokens=False).input_ids[0] for letter in "abcdef"
    )
    head = [CS, TRANSCRIBE, NO_TIMESTAMPS]
    assert batch["labels"].tolist() == [
        [*head, a, b, END, IGNORED],
        [*head, c, d, e, END],
        [*head, f, END, IGNORED, IGNORED],
    ]
    assert batch["decoder_input_ids"].tolist() == [
        [START, *head, a, b, END],
        [START, *head, c, d, e],
        [START, *head, f, END, END],
    ]
    longest = clips[1]["features"].shape[1]
    assert batch["input_features"].shape == (3, 80, longest + 50 + longest % 2)
    assert torch.equal(batch["input_features"][1, :, :longest], clips[1]["features"])
    assert batch["frames"].tolist() == [50, 83, 40]
    assert batch["ids"] == clips.ids


def test_native_window_is_what_the_extractor_gives(clips, processor):
    batch = Collator(processor.tokenizer, margin_seconds=None)([clips[0]])
    expected = processor.feature_extractor(
        sound(0.5, 0), sampling_rate=16_000, return_tensors="pt"
    ).input_features
    assert batch["input_features"].shape == (1, 80, 3000)
    assert torch.allclose(batch["input_features"], expected, atol=1e-2)


def test_masks_are_true_at_sound_and_text():
    batch = {
        "frames": torch.tensor([5, 8, 0]),
        "labels": torch.tensor([[1, 2, -100], [1, 2, 3], [1, -100, -100]]),
    }
    masks = position_masks(batch, encoder_positions=6)
    assert masks["encoder"].int().tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    assert masks["decoder"].int().tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0]]


# ---- orders


def test_batches_by_length_have_each_clip_once_the_longest_first():
    durations = [0.3, 2.0, 1.0, 1.0, 5.0, 0.1, 1.0]
    batches = length_batches(durations, 3)
    assert batches == [[4, 1, 2], [3, 6, 0], [5]] == length_batches(list(durations), 3)


def order_of(durations, seed, epoch, kind=LengthOrder):
    order = kind(durations, 4, seed)
    order.set_epoch(epoch)
    return list(order)


@pytest.mark.parametrize("kind", [LengthOrder, RandomOrder])
def test_training_order_depends_on_seed_and_epoch_alone(kind):
    durations = np.random.default_rng(0).uniform(0.5, 10, 50).tolist()
    first = order_of(durations, 7, 3, kind)
    assert sorted(first) == list(range(50))

    # The global generators do not matter; seed and epoch do.
    torch.manual_seed(99)
    np.random.seed(99)
    assert order_of(durations, 7, 3, kind) == first
    assert order_of(durations, 7, 4, kind) != first
    assert order_of(durations, 8, 3, kind) != first

    # Earlier epochs do not matter either.
    order = kind(durations, 4, 7)
    for epoch in (0, 1, 3):
        order.set_epoch(epoch)
        assert len(list(order)) == len(order) == 50
    assert list(order) == first
    assert list(order) == first


def test_random_order_ignores_the_lengths():
    durations = np.random.default_rng(0).uniform(0.5, 10, 50).tolist()
    assert order_of(durations, 7, 3, RandomOrder) == order_of([1.0] * 50, 7, 3, RandomOrder)


@pytest.mark.parametrize("count", [3, 48, 50, 51])
def test_neighbours_have_similar_length_and_only_the_last_batch_is_small(count):
    durations = np.random.default_rng(0).uniform(0.5, 10, count)
    order = order_of(durations.tolist(), 1, 0)
    assert sorted(order) == list(range(count))
    batches = [durations[order[start : start + 4]] for start in range(0, count, 4)]
    assert [len(batch) for batch in batches[:-1]] == [4] * (len(batches) - 1)

    if count > 4:
        spread = np.mean([np.ptp(batch) for batch in batches])
        shuffled = np.random.default_rng(1).permutation(durations)
        random_batches = [shuffled[start : start + 4] for start in range(0, count, 4)]
        assert spread < 4
        assert spread < 0.6 * np.mean([np.ptp(batch) for batch in random_batches])


def test_random_clips_of_these_tests_look_like_clips(processor):
    collator = Collator(processor.tokenizer, 0.5)
    clips = RandomClips(processor.tokenizer, 3)
    batch = collator([clips[i] for i in range(3)])
    assert batch["labels"][:, 0].tolist() == [CS] * 3
    assert batch["decoder_input_ids"][:, 0].tolist() == [START] * 3
