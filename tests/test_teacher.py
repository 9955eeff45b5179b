"""Cached teacher distributions: those of the same labels, by clip, whatever the batches."""

import pytest
import torch
from random_data import RandomClips
from safetensors.torch import load_file, save_file

from distilwhisper_lib.method.losses import labelled, top_k_log_probs
from distilwhisper_lib.training.teacher import (
    TeacherDistributions,
    cache_teacher_distributions,
    stored_clips,
)
from distilwhisper_lib.whisper.tiny import tiny_whisper
from distilwhisper_lib.whisper.window import use_window

K = 6


@pytest.fixture
def clips(processor):
    return RandomClips(processor.tokenizer, 5, seconds=(0.3, 0.6))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "teacher"


@pytest.fixture
def cached(model, clips, collator, folder):
    return cache_teacher_distributions(model.train(), clips, collator, folder, K, batch_size=2)


class Watched:
    """A collator that notes the ids of the clips it was asked for."""

    def __init__(self, collator):
        self.collator = collator
        self.tokenizer = collator.tokenizer
        self.ids = []

    def __call__(self, items):
        self.ids += [item["id"] for item in items]
        return self.collator(items)


def batch_of(clips, collator, indices):
    return collator([clips[index] for index in indices])


def lookup(distributions, batch):
    return distributions.lookup(batch["ids"], batch["labels"])


def same(first, second):
    """Return whether two look-ups have the same token ids and log-probabilities."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_each_clip_has_a_distribution_per_label(cached, clips, collator, model):
    assert len(cached) == 5
    assert not model.training  # dropout is switched off
    for index in range(5):
        labels = len(clips[index]["labels"])
        token_ids, log_probs = lookup(cached, batch_of(clips, collator, [index]))
        assert token_ids.shape == (labels, K)
        assert log_probs.shape == (labels, K + 1)
        ones = torch.ones(labels)
        torch.testing.assert_close(log_probs.exp().sum(1), ones, atol=5e-3, rtol=0)  # fp16


def test_distributions_of_a_batch_are_looked_up_clip_by_clip(cached, clips, collator, model):
    first, second = sorted(range(5), key=lambda i: -clips.durations[i])[:2]
    batch = batch_of(clips, collator, [first, second])  # as the teacher saw them: one window
    with torch.no_grad(), use_window(model, batch["input_features"].shape[-1]):
        logits = model(
            input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
        ).logits
    kept, _ = labelled(logits, batch["labels"])
    token_ids, log_probs = top_k_log_probs(kept, K)
    stored_ids, stored = lookup(cached, batch)
    assert torch.equal(stored_ids, token_ids)
    assert stored_ids.dtype == torch.int64
    torch.testing.assert_close(stored, log_probs, rtol=1e-3, atol=2e-3)

    turned_ids, _ = lookup(cached, batch_of(clips, collator, [second, first]))
    length = len(clips[first]["labels"])
    assert torch.equal(turned_ids, torch.cat([token_ids[length:], token_ids[:length]]))


def test_a_temperature_divides_the_logits(cached, clips, collator, model, tmp_path):
    flat = cache_teacher_distributions(
        model, clips, collator, tmp_path / "flat", K, batch_size=2, temperature=4.0
    )
    batch = batch_of(clips, collator, range(5))
    token_ids, log_probs = lookup(cached, batch)
    flat_ids, flatter = lookup(flat, batch)
    assert torch.equal(token_ids, flat_ids)
    between = (log_probs[:, 0] - log_probs[:, 1]) / 4  # two tokens: the tail does not act on it
    torch.testing.assert_close(flatter[:, 0] - flatter[:, 1], between, atol=1e-2, rtol=0)


def test_files_are_small_and_read_again(cached, clips, collator, folder):
    tensors = load_file(min(folder.glob("*.safetensors")))
    assert {tensor.dtype for tensor in tensors.values()} == {torch.int32, torch.float16}
    batch = batch_of(clips, collator, range(5))
    assert same(lookup(TeacherDistributions(folder), batch), lookup(cached, batch))


def test_tensors_are_named_by_the_digest_and_id_of_their_clip(model, clips, collator, folder):
    clips.digests = [f"digest {index}" for index in range(5)]
    cache_teacher_distributions(model, clips, collator, folder, K, batch_size=2)
    names = set()
    for path in folder.glob("*.safetensors"):
        names |= load_file(path).keys()
    pairs = list(zip(clips.ids, clips.digests, strict=True))
    kinds = ("token_ids", "log_probs")
    assert names == {f"{kind}|{digest}|{clip}" for kind in kinds for clip, digest in pairs}
    assert stored_clips(folder) == set(pairs)


def test_batches_that_are_there_are_not_computed_again(cached, clips, collator, folder):
    paths = sorted(folder.glob("*"))
    assert len(paths) == 3
    before = [path.read_bytes() for path in paths]
    paths[1].unlink()
    paths[1].with_name(f"{paths[1].name}.part").write_bytes(b"half a file")
    another = tiny_whisper(seed=1)
    cache_teacher_distributions(another, clips, collator, folder, K, batch_size=2)
    after = [path.read_bytes() for path in paths]
    unchanged = [old == new for old, new in zip(before, after, strict=True)]
    assert unchanged == [True, False, True]


def test_larger_and_smaller_training_sets_share_what_was_computed(
    cached, clips, collator, folder, processor
):
    more = RandomClips(processor.tokenizer, 8, seconds=(0.3, 0.6))
    assert more.ids[:5] == clips.ids
    watched = Watched(collator)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    another = tiny_whisper(seed=1)
    larger = cache_teacher_distributions(another, more, watched, folder, K, batch_size=2)
    assert sorted(watched.ids) == sorted(more.ids[5:])
    assert len(larger) == 8
    assert all(path.read_bytes() == content for path, content in before.items())

    digests = dict(zip(clips.ids[:3], clips.digests[:3], strict=True))
    smaller = TeacherDistributions(folder, digests)
    assert len(smaller) == 3
    assert stored_clips(folder) == set(zip(more.ids, more.digests, strict=True))
    batch = batch_of(clips, collator, range(3))
    expected = lookup(cached, batch)
    assert same(lookup(larger, batch), expected)
    assert same(lookup(smaller, batch), expected)


def test_a_clip_whose_text_or_sound_changed_is_computed_anew(cached, clips, collator, folder):
    batch = batch_of(clips, collator, [2])
    old = lookup(cached, batch)
    before = dict(zip(clips.ids, clips.digests, strict=True))
    clips.digests[2] = "another"
    after = dict(zip(clips.ids, clips.digests, strict=True))
    assert len(TeacherDistributions(folder, after)) == 4  # what is stored is not served
    with pytest.raises(KeyError, match=f"no teacher distributions for {clips.ids[2]}"):
        lookup(TeacherDistributions(folder, after), batch)

    watched = Watched(collator)
    another = tiny_whisper(seed=1)
    anew = cache_teacher_distributions(another, clips, watched, folder, K, batch_size=2)
    assert watched.ids == [clips.ids[2]]
    assert len(anew) == 5
    assert not torch.equal(lookup(anew, batch)[1], old[1])
    others = batch_of(clips, collator, [0, 1, 3, 4])
    assert same(lookup(anew, others), lookup(cached, others))
    assert same(lookup(TeacherDistributions(folder, before), batch), old)  # kept, by its digest


def test_a_clip_that_the_teacher_has_not_seen_is_named(cached, clips, collator):
    batch = batch_of(clips, collator, [0])
    message = r"no teacher distributions for room/new in .*teacher: compute them first"
    with pytest.raises(KeyError, match=message):
        cached.lookup(["room/new"], batch["labels"])
    message = rf"{clips.ids[0]}: the teacher saw \d+ label tokens, the student has 2"
    with pytest.raises(ValueError, match=message):
        cached.lookup(batch["ids"], batch["labels"][:, :2])


def test_a_clip_in_two_versions_is_not_served_without_its_digest(cached, clips, collator, folder):
    before = dict(zip(clips.ids, clips.digests, strict=True))
    clips.digests[2] = "another"
    cache_teacher_distributions(tiny_whisper(seed=1), clips, collator, folder, K, batch_size=2)
    with pytest.raises(ValueError, match=f"several versions of {clips.ids[2]}: give the digests"):
        TeacherDistributions(folder)
    assert len(TeacherDistributions(folder, before)) == 5


# ---- what is not finite


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("temperature", 0, "a number above 0"),
        ("temperature", float("nan"), "a number above 0"),
        ("k", 0, "a whole number from 1 on"),
        ("batch_size", 0, "a whole number from 1 on"),
    ],
)
def test_settings_out_of_range_are_refused(name, value, needed, model, clips, collator, folder):
    settings = {"k": K, "batch_size": 2} | {name: value}
    with pytest.raises(ValueError, match=f"{name} is {value}: {needed} is needed"):
        cache_teacher_distributions(model, clips, collator, folder, **settings)
    assert not folder.exists()


def test_a_sound_that_is_not_finite_is_named_and_nothing_of_it_is_kept(
    model, clips, collator, folder
):
    clips.items[3]["features"][0, 0] = torch.nan
    message = f"distributions of {clips.ids[3]} are not finite, and are not kept: its sound has"
    with pytest.raises(ValueError, match=message):
        cache_teacher_distributions(model, clips, collator, folder, K, batch_size=2)
    stored = {clip for clip, _ in stored_clips(folder)}
    assert clips.ids[3] not in stored


def test_a_teacher_that_is_not_finite_is_told(model, clips, collator, folder):
    model.proj_out.weight.data[7] = torch.nan
    with pytest.raises(ValueError, match="are not kept: the teacher's weights are damaged"):
        cache_teacher_distributions(model, clips, collator, folder, K, batch_size=2)
    assert stored_clips(folder) == set()


def test_a_temperature_near_0_overflows_no_log_probability(model, clips, collator, folder):
    sharp = cache_teacher_distributions(model, clips, collator, folder, K, temperature=1e-6)
    _, log_probs = lookup(sharp, batch_of(clips, collator, range(5)))
    assert log_probs.isfinite().all()
    assert log_probs.min() < -1e4
    assert (log_probs[:, 0] == 0).all()


# ---- damaged files


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip_first(path):
    flip(path, 9)  # in the names of the tensors


def flip_last(path):
    flip(path, -3)  # in a value


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, empty, flip_first, flip_last])
def test_a_damaged_file_is_set_aside_and_computed_anew(
    damage, cached, model, clips, collator, folder, capsys
):
    batch = batch_of(clips, collator, range(5))
    expected = lookup(cached, batch)
    paths = sorted(folder.glob("*.safetensors"))
    before = {path.name: path.read_bytes() for path in paths}
    damage(paths[1])
    assert len(stored_clips(folder)) in (3, 4)  # two batches of two clips, one of one
    kept = folder / f"{paths[1].name}.damaged-1"
    assert kept.exists() and not paths[1].exists()
    assert capsys.readouterr().err.count(f"{paths[1]} is damaged (it ") == 1

    anew = cache_teacher_distributions(model, clips, collator, folder, K, batch_size=2)
    assert same(lookup(anew, batch), expected)
    assert {path.name: path.read_bytes() for path in folder.glob("*.safetensors")} == before


def test_a_file_of_an_earlier_version_without_a_hash_is_used(
    cached, model, clips, collator, folder
):
    expected = lookup(cached, batch_of(clips, collator, range(5)))
    for path in folder.glob("*.safetensors"):
        save_file(load_file(path), path)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    again = cache_teacher_distributions(None, clips, collator, folder, K, batch_size=2)
    assert same(lookup(again, batch_of(clips, collator, range(5))), expected)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("fault", ["lost", "short", "infinite", "unknown"])
def test_a_file_of_an_earlier_version_that_is_not_whole_is_set_aside(fault, cached, folder):
    path = max(folder.glob("*.safetensors"))
    tensors = load_file(path)
    name = next(name for name in tensors if name.startswith("log_probs"))
    if fault == "lost":
        del tensors[name]
    if fault == "short":
        tensors[name] = tensors[name][:-1].contiguous()
    if fault == "infinite":
        tensors[name][0, 0] = -torch.inf
    if fault == "unknown":
        tensors["weight"] = tensors.pop(name)
    save_file(tensors, path)
    stored_clips(folder)
    assert not path.exists() and path.with_name(f"{path.name}.damaged-1").exists()


def test_complete_distributions_are_read_without_a_lock(cached, clips, collator, folder):
    lock = folder.with_name(f".{folder.name}.lock")
    lock.unlink(missing_ok=True)
    again = cache_teacher_distributions(None, clips, collator, folder, K, batch_size=2)
    assert len(again) == 5
    assert not lock.exists()


@pytest.mark.parametrize("changes", [{"k": K + 1}, {"temperature": 2.0}, {"padded": True}])
def test_distributions_of_other_settings_are_not_found_again(
    changes, cached, clips, collator, model, folder
):
    settings = {"k": K} | changes
    with pytest.raises(ValueError, match="has distributions with .*give another folder"):
        cache_teacher_distributions(model, clips, collator, folder, batch_size=2, **settings)
