"""The teacher's stored outputs: what it says with the same labels, by clip, whatever the batches."""

import pytest
import torch
from random_data import RandomClips
from safetensors.torch import load_file

from distilwhisper_lib.method.losses import labelled, top_k_log_probs
from distilwhisper_lib.training.teacher import TeacherDistributions, cache_teacher_distributions, stored_clips
from distilwhisper_lib.whisper.tiny import tiny_whisper
from distilwhisper_lib.whisper.window import use_window

K = 6


@pytest.fixture
def clips(processor):
    return RandomClips(processor.tokenizer, 5, seconds=(0.3, 0.6))


@pytest.fixture
def outputs(model, clips, collator, tmp_path):
    return cache_teacher_distributions(model.train(), clips, collator, tmp_path / "teacher", K, batch_size=2)


def test_each_clip_has_a_distribution_per_label(outputs, clips, collator, model):
    assert len(outputs) == 5 and not model.training  # dropout is switched off
    for i in range(5):
        batch = collator([clips[i]])
        words, log_probs = outputs.lookup(batch["ids"], batch["labels"])
        assert words.shape == (len(clips[i]["labels"]), K) and log_probs.shape == (
            len(clips[i]["labels"]),
            K + 1,
        )
        assert torch.allclose(log_probs.exp().sum(1), torch.ones(len(words)), atol=5e-3)  # fp16


def test_outputs_of_a_batch_are_looked_up_row_by_row(outputs, clips, collator, model):
    order = sorted(range(5), key=lambda i: -clips.durations[i])
    batch = collator([clips[order[0]], clips[order[1]]])  # as the teacher saw them: one window
    with torch.no_grad(), use_window(model, batch["input_features"].shape[-1]):
        output = model(
            input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
        ).logits
    words, log_probs = top_k_log_probs(labelled(output, batch["labels"])[0], K)
    stored_words, stored = outputs.lookup(batch["ids"], batch["labels"])
    assert torch.equal(stored_words, words) and stored_words.dtype == torch.int64
    torch.testing.assert_close(stored, log_probs, rtol=1e-3, atol=2e-3)
    turned = collator([clips[order[1]], clips[order[0]]])
    turned_words, _ = outputs.lookup(turned["ids"], turned["labels"])
    assert torch.equal(
        turned_words,
        torch.cat(
            [words[len(clips[order[0]]["labels"]) :], words[: len(clips[order[0]]["labels"])]]
        ),
    )


def test_a_temperature_divides_the_logits(outputs, clips, collator, model, tmp_path):
    flat = cache_teacher_distributions(
        model, clips, collator, tmp_path / "flat", K, batch_size=2, temperature=4.0
    )
    batch = collator([clips[i] for i in range(5)])
    (words, log_probs), (same_words, flatter) = (
        o.lookup(batch["ids"], batch["labels"]) for o in (outputs, flat)
    )
    assert torch.equal(words, same_words)
    between = (log_probs[:, 0] - log_probs[:, 1]) / 4  # of two words the tail does not touch
    torch.testing.assert_close(flatter[:, 0] - flatter[:, 1], between, atol=1e-2, rtol=0)


def test_files_are_small_and_read_again(outputs, clips, collator, tmp_path):
    tensors = load_file(min((tmp_path / "teacher").glob("*.safetensors")))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.int32, torch.float16}
    again = TeacherDistributions(tmp_path / "teacher")
    batch = collator([clips[i] for i in range(5)])
    for mine, theirs in zip(
        again.lookup(batch["ids"], batch["labels"]),
        outputs.lookup(batch["ids"], batch["labels"]),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_batches_that_are_there_are_not_computed_again(outputs, clips, collator, tmp_path):
    paths = sorted((tmp_path / "teacher").glob("*"))
    assert len(paths) == 3
    before = [path.read_bytes() for path in paths]
    paths[1].unlink()
    paths[1].with_name(f"{paths[1].name}.part").write_bytes(b"half a file")
    cache_teacher_distributions(
        tiny_whisper(seed=1), clips, collator, tmp_path / "teacher", K, batch_size=2
    )  # another model
    after = [path.read_bytes() for path in paths]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_larger_and_smaller_training_sets_share_what_was_computed(
    outputs, clips, collator, tmp_path, processor
):
    more = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))
    more.ids[:5] = clips.ids
    seen = []

    def watched(items):
        seen.extend(item["id"] for item in items)
        return collator(items)

    watched.tokenizer = collator.tokenizer
    before = {path: path.read_bytes() for path in (tmp_path / "teacher").iterdir()}
    larger = cache_teacher_distributions(
        tiny_whisper(seed=1), more, watched, tmp_path / "teacher", K, batch_size=2
    )
    assert sorted(seen) == sorted(more.ids[5:]) and len(larger) == 8
    assert all(path.read_bytes() == content for path, content in before.items())
    smaller = TeacherDistributions(tmp_path / "teacher", clips.ids[:3])
    assert len(smaller) == 3 and stored_clips(tmp_path / "teacher") == set(more.ids)
    batch = collator([clips[i] for i in range(3)])
    pairs = [o.lookup(batch["ids"], batch["labels"]) for o in (outputs, larger, smaller)]
    assert all(torch.equal(a, b) for pair in pairs[1:] for a, b in zip(pair, pairs[0], strict=True))


def test_clip_that_the_teacher_has_not_seen_is_named(outputs, clips, collator, tmp_path):
    batch = collator([clips[0]])
    with pytest.raises(
        KeyError, match=r"no teacher outputs for room/new in .*teacher: compute them first"
    ):
        outputs.lookup(["room/new"], batch["labels"])
    with pytest.raises(
        ValueError, match=rf"{clips.ids[0]}: the teacher saw \d+ label tokens, the student has 2"
    ):
        outputs.lookup(batch["ids"], batch["labels"][:, :2])
