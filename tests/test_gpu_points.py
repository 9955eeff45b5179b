"""What is prepared for a GPU, as far as a CPU tells: batches, workers, readings, static cache."""

import itertools
import multiprocessing
import re
import sys
from collections import Counter
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from datasets import Dataset
from packaging.version import Version
from random_data import RandomClips, shake_experts
from runs import arguments_of, config_of, optimisation_of, train, trainer_on
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CompileConfig

from distilwhisper_lib import device as device_module
from distilwhisper_lib import presets
from distilwhisper_lib.data.audio import encode_flac
from distilwhisper_lib.data.batches import (
    Clips,
    Collator,
    length_batches,
    load_batches,
    plain_worker_errors,
)
from distilwhisper_lib.device import card_memory_gb, loader_workers, to_device
from distilwhisper_lib.evaluation.transcription import generate_batch, transcribe
from distilwhisper_lib.experiments import study
from distilwhisper_lib.experiments.estimates import MORE_TOKENS, TEACHER_OUTPUTS, estimate
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.method import routing
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import set_language
from distilwhisper_lib.presets import BY_MEMORY, FOR_GPUS, PRESETS, fit_to_memory, get_preset
from distilwhisper_lib.training.methods import compared_methods
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.training.teacher import _teacher_batch, cache_teacher_distributions
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
GPU = torch.device("cuda")
PRESET = get_preset("smoke")
PAGE = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
WORKERS = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="workers are used on Linux alone"
)


def on_page(passage):
    """Return whether docs/benchmarks.md has a passage, whatever its line breaks."""
    return " ".join(passage.split()) in " ".join(PAGE.split())


@pytest.fixture
def clips(processor):
    return RandomClips(processor.tokenizer, 8)


def trained_experts(settings=None, **options):
    """Return the tiny Whisper with Czech experts that have moved."""
    model = attach_experts(load_whisper("tiny"), ["cs"], settings, **options)
    shake_experts(model)
    set_language(model, "cs")
    return model


# ---- batches by the memory of the card


def cut(preset):
    """Return batch size, accumulation, and the clips decoded together."""
    return preset.batch_size, preset.accumulation, preset.eval_batch_size


@pytest.mark.parametrize("name", FOR_GPUS)
@pytest.mark.parametrize(
    ("gigabytes", "expected"),
    [
        (None, (8, 2, 16)),  # a CPU
        (15.8, (8, 2, 16)),  # T4
        (23.8, (16, 1, 32)),  # L4
        (42.3, (16, 1, 64)),  # A100 of 40 GB
        (85.0, (16, 1, 64)),
    ],
)
def test_batches_follow_the_memory_of_the_card(name, gigabytes, expected):
    preset = get_preset(name)
    found = fit_to_memory(preset, gigabytes)
    assert cut(found) == expected
    batches = {"batch_size": 8, "accumulation": 2, "eval_batch_size": 16}
    assert replace(found, **batches) == preset


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        (["eval_batch_size"], (16, 1, 16)),
        (["batch_size"], (8, 2, 64)),
        (["accumulation"], (8, 2, 64)),
        (["student"], (8, 2, 16)),
        (["teacher"], (8, 2, 16)),
        (["fidelity"], (8, 2, 64)),
        (["language", "epochs"], (16, 1, 64)),
    ],
)
def test_what_the_user_states_stays(stated, expected):
    assert cut(fit_to_memory(get_preset("colab"), 80, stated)) == expected


def test_other_presets_keep_their_batches():
    for name in PRESETS.keys() - set(FOR_GPUS):
        assert fit_to_memory(PRESETS[name], 80) == PRESETS[name]
    larger = replace(PRESETS["colab"], batch_size=32, accumulation=1, eval_batch_size=128)
    assert fit_to_memory(larger, 80) == larger
    released = replace(PRESETS["colab"], fidelity="released")
    assert cut(fit_to_memory(released, 80)) == (8, 2, 64)


def test_another_card_goes_on_with_a_t4s_run_only_as_the_page_says(clips, monkeypatch):
    page = (ROOT / "docs" / "colab.md").read_text(encoding="utf-8")
    (written,) = re.findall(r'open_lab\("colab", (batch_size=.*)\)', page)
    stated = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", written)}
    monkeypatch.setattr("distilwhisper_lib.lab.lab.card_memory_gb", lambda device: 15.8)
    small = Lab("colab").preset
    monkeypatch.setattr("distilwhisper_lib.lab.lab.card_memory_gb", lambda device: 80)
    assert Lab("colab", **stated).preset == small != Lab("colab").preset

    assert 'os.environ["LAB_PRECISION"] = "fp16"' in page
    names = {replace(config_of("lora", small, clips), precision=p).name for p in ("fp16", "bf16")}
    assert len(names) == 2
    monkeypatch.setenv("LAB_PRECISION", "fp16")
    assert Lab("colab", **stated).precision == "fp16"


def test_a_study_has_the_batches_of_the_course_but_for_that_of_the_release(monkeypatch):
    monkeypatch.setattr("distilwhisper_lib.lab.lab.card_memory_gb", lambda device: 80)
    preset = get_preset("colab")
    for name, expected in (("seeds", (16, 1, 64)), ("fidelity", (8, 2, 16))):
        lab = study.lab_of(name, preset, epochs=3)
        assert cut(lab.preset) == expected
        assert (lab.preset.epochs, lab.preset.test_clips) == (3, None)


def test_several_processes_share_the_accumulated_batches_as_before(monkeypatch):
    monkeypatch.setattr(presets, "PROCESSES", 2)
    assert cut(fit_to_memory(get_preset("colab"), 80)) == (8, 2, 64)


@pytest.mark.parametrize("name", FOR_GPUS)
@pytest.mark.parametrize("gigabytes", [least for least, *_ in BY_MEMORY])
def test_what_larger_batches_take_fits_by_the_estimates(name, gigabytes):
    most = max(MORE_TOKENS, key=MORE_TOKENS.get)  # the language of the longest texts
    for language in (PRESETS[name].language, most):
        preset = replace(fit_to_memory(PRESETS[name], gigabytes), language=language)
        for method in (TEACHER_OUTPUTS, *compared_methods(preset)):
            assert estimate(method, preset, 3000)["GB"] <= 0.8 * gigabytes, method


def test_the_memory_of_a_card_is_what_torch_reports(monkeypatch):
    assert card_memory_gb(CPU) is None
    card = SimpleNamespace(total_memory=80_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    assert card_memory_gb(GPU) == 80


def test_batches_are_part_of_the_identity_of_a_run(clips):
    small = get_preset("colab")
    configs = [config_of("lora", fit_to_memory(small, size), clips) for size in (None, 16, 24, 80)]
    assert configs[0].identity == configs[1].identity != configs[2].identity
    assert configs[2].identity == configs[3].identity  # decoding is no part of a training
    best = replace(PRESET, keep="best")
    more = replace(best, eval_batch_size=2 * best.eval_batch_size)
    names = {config_of("lora", preset, clips).identity for preset in (best, more)}
    assert len(names) == 2  # but where validation is decoded, to choose an epoch


def test_in_whispers_own_window_a_text_does_not_depend_on_the_batch(processor, clips):
    model = trained_experts()
    few = [clips[index] for index in range(4)]
    native = Collator(processor.tokenizer, None)
    limits = replace(PRESET, max_new_tokens=6)

    def texts(size):
        found = []
        for start in range(0, 4, size):
            features = native(few[start : start + size])["input_features"]
            found += generate_batch(
                model, processor.tokenizer, features, "cs", "transcribe", limits
            )
        return found

    assert texts(4) == texts(2)
    short = replace(native, margin_seconds=0.2)
    windows = [short(few[start : start + 2])["input_features"].shape[-1] for start in (0, 2)]
    assert windows[0] != windows[1]  # there it does: a batch has one window
    assert short(few)["input_features"].shape[-1] == max(windows)


def test_the_page_states_the_batches_of_each_card():
    (large, _, together), (least, update, fewer) = BY_MEMORY
    assert on_page(f"from {least} GB on {update} x 1 instead of 8 x 2 in training")
    assert on_page(f"{fewer} clips decoded together, from {large} GB on {together}")


# ---- 16 x 1 and 8 x 2

STILL = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0, noise=0.0)


def test_an_update_has_the_same_clips_however_it_is_cut(processor, tmp_path):
    clips = RandomClips(processor.tokenizer, 40)
    orders = []
    for batch_size, accumulation in ((16, 1), (8, 2)):
        preset = replace(PRESET, batch_size=batch_size, accumulation=accumulation)
        arguments = arguments_of(tmp_path, optimisation_of(preset), len(clips))
        collator = Collator(processor.tokenizer, 0.1)
        trainer = trainer_on(load_whisper("tiny"), arguments, Objective(), clips, collator)
        orders.append(list(trainer.order))
    assert orders[0] == orders[1]


# ---- the short window at colab


def test_the_page_says_what_the_short_window_gives():
    table = pd.read_csv(ROOT / "results" / "reference" / "benchmarks" / "training.csv")
    table = table[(table["size"] == "small") & (table["teacher"] == "large-v2")]
    seconds = table[table["work"] == "step"].set_index("run")["seconds"]
    shares = table[table["work"] == "10 epochs"].set_index("run")["times baseline"]
    ratio = seconds["without short window"] / seconds["mixed precision"]
    assert on_page(f"a step without the short window takes {ratio:.1f} times as long")
    assert on_page(
        f"ten epochs and the teacher's pass {shares['library']:.2f} instead of "
        f"{shares['library, 30 s']:.2f} of the plainest way's time"
    )
    laptop = PRESETS["laptop"]
    assert on_page(
        f'open_lab("colab", margin_seconds={laptop.margin_seconds}, '
        f"train_margin_seconds={laptop.train_margin_seconds})"
    )
    for name in FOR_GPUS:
        assert PRESETS[name].margin_seconds is PRESETS[name].train_margin_seconds is None


# ---- log-mels by other processes


def made_clips(processor, count=5):
    """Return clips whose log-mels have to be computed."""
    draw = np.random.default_rng(0)
    lengths = draw.uniform(0.3, 0.9, count)
    sounds = [draw.normal(0, 0.1, round(16_000 * length)).astype(np.float32) for length in lengths]
    rows = {
        "id": [f"made/{index}" for index in range(count)],
        "text": list("abcdefgh"[:count]),
        "duration": list(lengths),
        "audio": [{"bytes": encode_flac(sound), "path": "a.flac"} for sound in sounds],
    }
    return Clips(Dataset.from_dict(rows), processor, "cs")


def same_batch(first, second):
    """Return whether two batches are the same, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if torch.is_tensor(value) else value == second[name]
        for name, value in first.items()
    )


@WORKERS
def test_workers_make_the_same_batches_and_draw_no_random_number(processor, collator):
    clips = made_clips(processor)
    batches = length_batches(clips.durations, 2)
    state = torch.get_rng_state()
    by_workers = list(load_batches(clips, batches, collator, workers=2))
    assert not clips._features  # they are kept where they are computed
    here = list(load_batches(clips, batches, collator))
    assert len(here) == len(by_workers) == 3
    assert all(map(same_batch, here, by_workers))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(clips._features) == 5


@WORKERS
def test_an_error_of_a_worker_is_that_of_its_clip(processor, collator):
    clips = made_clips(processor)
    clips.rows = clips.rows.map(lambda row: {"audio": {"bytes": b"no sound", "path": "a.flac"}})
    for workers in (0, 1):
        with pytest.raises(ValueError, match=r"^made/1: .*cannot decode"):
            list(load_batches(clips, [[1]], collator, workers))


def test_clips_go_to_workers_that_are_no_copies_of_this_process(processor):
    clips = made_clips(processor)
    sent = ForkingPickler.loads(ForkingPickler.dumps(clips))
    assert torch.equal(sent[1]["features"], clips[1]["features"])


@WORKERS
def test_workers_change_no_prediction_and_no_distribution(
    model, clips, collator, tmp_path, monkeypatch
):
    found = {}
    for workers in ("0", "2"):
        monkeypatch.setenv("LAB_WORKERS", workers)
        folder = tmp_path / workers
        transcribe(model, clips, collator, PRESET, folder / "table.csv", "cs")
        cache_teacher_distributions(model, clips, collator, folder / "teacher", k=4, batch_size=3)
        files = [path for path in folder.rglob("*") if path.is_file()]
        found[workers] = {path.relative_to(folder): path.read_bytes() for path in files}
    assert len(found["0"]) >= 4
    assert found["0"] == found["2"]


@WORKERS
def test_workers_change_no_bit_of_a_training(clips, collator, tmp_path, monkeypatch):
    weights = []
    for workers in ("0", "2"):
        monkeypatch.setenv("LAB_WORKERS", workers)
        preset = replace(PRESET, batch_size=2, accumulation=2)
        folder = train("clsr-ft", tmp_path / workers, preset, clips, collator, rate=1e-2, epochs=2)
        weights.append((folder / "model" / "experts.cs.safetensors").read_bytes())
    assert weights[0] == weights[1]


@WORKERS
def test_a_clip_that_cannot_be_read_is_named_in_a_training_with_workers(
    processor, collator, tmp_path, monkeypatch
):
    clips = made_clips(processor, 4)
    broken = {"bytes": b"no sound", "path": "a.flac"}
    clips.rows = clips.rows.map(
        lambda row: row | {"audio": broken if row["text"] == "c" else row["audio"]}
    )
    monkeypatch.setenv("LAB_WORKERS", "1")
    with pytest.raises(ValueError, match=r"^made/2: ") as error:
        train("lora", tmp_path / "run", PRESET, clips, collator)
    assert "Traceback" not in str(error.value)


def test_other_errors_stay_as_they_are():
    with pytest.raises(ValueError, match="^too short$"), plain_worker_errors():
        raise ValueError("too short")
    with pytest.raises(KeyError), plain_worker_errors():
        raise KeyError("x")


def test_the_number_of_workers_follows_the_device(monkeypatch):
    monkeypatch.delenv("LAB_WORKERS", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    free = SimpleNamespace(free=10e9)
    monkeypatch.setattr(device_module.shutil, "disk_usage", lambda path: free)
    numbers = []
    for cores in (1, 2, 4, 64):
        monkeypatch.setattr(device_module, "cores", lambda cores=cores: cores)
        numbers.append(loader_workers(GPU))
    assert numbers == [1, 1, 3, 4]
    assert loader_workers(CPU) == 0

    free.free = 64e6  # a container's
    assert loader_workers(GPU) == 0
    monkeypatch.setenv("LAB_WORKERS", "3")
    assert loader_workers(GPU) == loader_workers(CPU) == 3
    monkeypatch.setenv("LAB_WORKERS", "many")
    with pytest.raises(ValueError, match="LAB_WORKERS is 'many': a whole number from 0 on"):
        loader_workers(CPU)


def test_on_a_cpu_a_tensor_is_sent_nowhere():
    tensor = torch.ones(3)
    assert to_device(tensor, CPU) is tensor
    assert to_device(tensor, CPU, torch.float16).dtype == torch.float16


# ---- readings, for which the CPU waits


class Readings(TorchDispatchMode):
    """Counts what makes the CPU wait for a GPU: values that are read, and choices by a mask.

    Attributes:
        found: Number by kind: "value" (`item`, `int`, `float`, `bool`), "list" (`tolist`), "mask".
        paused: Nothing is counted.
    """

    def __init__(self):
        super().__init__()
        self.found = Counter()
        self.paused = False

    def note(self, kind):
        if not self.paused:
            self.found[kind] += 1

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero"):
            self.note("value")
        indices = args[1] if name.startswith("index") and len(args) > 1 else []
        for index in indices if isinstance(indices, list | tuple) else []:
            if torch.is_tensor(index) and index.dtype == torch.bool:
                self.note("mask")
        return function(*args, **(kwargs or {}))


@pytest.fixture
def readings(monkeypatch):
    """Return a function that runs another and returns the readings by kind."""
    plain = torch.Tensor.tolist

    def count(run, mode):
        def tolist(tensor):
            mode.note("list")
            return plain(tensor)

        with monkeypatch.context() as patch, mode:
            patch.setattr(torch.Tensor, "tolist", tolist)
            run()
        return mode.found

    return count


class Unseen(Collator):
    """Makes batches without being counted: they are made on the CPU."""

    def __call__(self, items):
        self.mode.paused = True
        try:
            return super().__call__(items)
        finally:
            self.mode.paused = False


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_update_reads_once_whatever_its_parts(accumulation, clips, collator, tmp_path, readings):
    """Twice as many updates have twice the readings; what is read once is taken out."""
    teacher = cache_teacher_distributions(
        tiny_whisper(seed=1), clips, collator, tmp_path / "teacher", k=8
    )
    objective = Objective(divergence="js", budget=0.5)  # six parts: all that there are
    found = []
    for epochs in (1, 2):
        mode = Readings()
        unseen = Unseen(collator.tokenizer, 0.1)
        unseen.mode = mode
        preset = replace(PRESET, batch_size=2, accumulation=accumulation)
        arguments = arguments_of(tmp_path, optimisation_of(preset, epochs=epochs), len(clips))
        arguments.logging_steps = 100
        arguments.save_strategy = arguments.eval_strategy = "no"
        model = trained_experts(STILL)
        trainer = trainer_on(model, arguments, objective, clips, unseen, teacher=teacher)
        found.append(readings(trainer.train, mode))
        assert trainer.state.global_step == epochs * 4 // accumulation

    batches, updates = 4, 4 // accumulation  # of the second epoch
    more = found[1] - found[0]
    # an update: its norm, and the parts of all its batches; a batch: the lengths of its labels
    assert more["list"] == updates + batches
    # a batch: logits and labels at labelled positions, and the gradient of the first
    assert more["mask"] == 3 * batches
    # a CLSR block: whether its gate is skipped, drawn on the CPU; a batch: in transformers' masks,
    # where version 5.15 reads more. And the Trainer's own, for an epoch.
    drawn = len(clsr_blocks(trained_experts())) * batches
    in_masks = 5 if Version(transformers.__version__) < Version("5.23") else 1
    assert more["value"] - drawn <= in_masks * batches + 1


def test_what_is_read_once_is_what_was_read_part_by_part(clips, collator, tmp_path):
    preset = replace(PRESET, batch_size=2, accumulation=2)
    arguments = arguments_of(tmp_path, optimisation_of(preset), len(clips))
    trainer = trainer_on(trained_experts(STILL), arguments, Objective(), clips, collator)
    batches = [collator([clips[index], clips[index + 1]]) for index in (0, 2)]
    model = trainer.model.train()
    losses = [trainer.compute_loss(model, batch, num_items_in_batch=40) for batch in batches]
    expected = [trainer._unread[i].parts["loss"].item() for i in (0, 1)]
    assert trainer._read(torch.tensor(2.5)) == 2.5
    assert [parts["loss"] for _, parts in trainer.read_logged_parts()] == expected
    tokens = [int((batch["labels"] >= 0).sum()) for batch in batches]
    assert [count for count, _ in trainer.read_logged_parts()] == tokens
    for loss, whole, count in zip(losses, expected, tokens, strict=True):
        assert loss.item() == (torch.tensor(whole) * (count / 40.0)).item()


def test_the_share_of_a_batch_has_the_bits_of_pythons_division(clips, collator, tmp_path):
    """Results were computed with it."""
    arguments = arguments_of(tmp_path, optimisation_of(PRESET), len(clips))
    trainer = trainer_on(load_whisper("tiny"), arguments, Objective(), clips, collator)
    loss = torch.tensor(4.321)
    for tokens, whole in itertools.product(range(1, 90), range(90, 130)):
        items = torch.tensor(whole) / 1  # fp32, as the Trainer gives it
        share = trainer._batch_share(torch.tensor(tokens), items)
        assert torch.equal(loss * share.to(loss.dtype), loss * (tokens / float(items)))


def test_batches_that_no_update_reads_are_not_kept(clips, collator, tmp_path):
    arguments = arguments_of(tmp_path, optimisation_of(PRESET), len(clips))
    trainer = trainer_on(load_whisper("tiny"), arguments, Objective(), clips, collator)
    model = trainer.model.train()
    for _ in range(3):
        trainer.compute_loss(model, collator([clips[0]]))
    assert len(trainer._unread) == 1
    assert len(trainer.read_logged_parts()) == 3


def test_a_sound_that_is_not_finite_is_named_in_any_batch_of_an_update(clips, collator, tmp_path):
    clips.items[3]["features"][0, 5] = torch.nan
    preset = replace(PRESET, batch_size=2, accumulation=4)
    message = (
        rf"the loss is not finite \(ce nan.*\) in step 1 of 1, .*: the sound of {clips.ids[3]} has"
    )
    with pytest.raises(ValueError, match=message):
        train("clsr-ft", tmp_path / "run", preset, clips, collator)


class AsOnAGpu(routing.ClsrFeedForward):
    """A block that computes few positions as it does on a GPU."""

    def _select(self, h, language, g):
        return torch.where(g, self.experts[language](h), self.shared(h))


@pytest.mark.parametrize("kind", ["plain", "experts"])
def test_a_decoding_step_reads_once(kind, clips, collator, readings, monkeypatch):
    """It is transformers' question whether all clips of the batch are finished."""
    monkeypatch.setattr(routing, "_can_look", lambda h: False)
    if kind == "plain":
        model = load_whisper("tiny")
    else:
        model = trained_experts(block_class=AsOnAGpu)
    features = collator([clips[index] for index in range(3)])["input_features"]
    steps = []
    model.proj_out.register_forward_hook(lambda *_: steps.append(1))
    found = []
    for tokens in (4, 9):
        steps.clear()

        def run(tokens=tokens):
            limits = replace(PRESET, max_new_tokens=tokens)
            generate_batch(model, collator.tokenizer, features, "cs", "transcribe", limits)

        found.append((len(steps), readings(run, Readings()), len(steps)))
    (_, few, less), (_, many, more) = found
    assert more - less == 5
    assert (many - few) == Counter({"value": 5})


def test_the_teachers_pass_reads_as_often_for_eight_clips_as_for_two(clips, collator, readings):
    model = tiny_whisper()
    found = []
    for size in (2, 8):
        batch = collator([clips[index] for index in range(size)])
        named = [("digest", clip) for clip in batch["ids"]]

        def run(batch=batch, named=named):
            _teacher_batch(model, batch, named, 4, None, False, 1.0)

        found.append(readings(run, Readings()))
    assert found[0]["value"] == found[1]["value"]
    assert found[0]["mask"] == found[1]["mask"] == 0
    # beside those of the batch: the features of each clip are looked at, on the CPU
    assert found[1]["list"] - found[0]["list"] == 6


def test_a_teacher_with_the_students_token_ids_needs_no_map_of_them(clips, collator):
    model = tiny_whisper()
    batch = collator([clips[index] for index in range(3)])
    named = [("digest", clip) for clip in batch["ids"]]
    same_ids = torch.arange(model.config.vocab_size)
    found = [_teacher_batch(model, batch, named, 4, ids, False, 1.0) for ids in (None, same_ids)]
    assert same_batch(*found)
    assert len(found[0]) == 6


# ---- the static cache


@pytest.mark.parametrize("margin", [0.2, None], ids=["short window", "native window"])
@pytest.mark.parametrize("kind", ["plain", "experts"])
def test_a_static_cache_gives_the_same_texts(kind, margin, clips, processor, monkeypatch):
    model = load_whisper("tiny") if kind == "plain" else trained_experts()
    features = Collator(processor.tokenizer, margin)([clips[i] for i in range(3)])["input_features"]
    limits = replace(PRESET, max_new_tokens=12)
    plain = model.generate
    caches = []

    def decode(**settings):
        def generate(*args, **kwargs):
            return plain(*args, **kwargs, **settings)

        monkeypatch.setattr(model, "generate", generate)
        return generate_batch(model, processor.tokenizer, features, "cs", "transcribe", limits)

    def note(_, args, kwargs):
        caches.append(type(kwargs["past_key_values"].self_attention_cache).__name__)

    model.model.decoder.register_forward_pre_hook(note, with_kwargs=True)
    usual = decode()
    assert set(caches) == {"DynamicCache"}
    caches.clear()
    assert decode(cache_implementation="static") == usual
    assert set(caches) == {"StaticCache"}
    assert all(usual)


@pytest.mark.parametrize(
    ("margin", "compiled"),
    [(None, [1, 0, 0, 1]), (0.2, [1, 1, 0, 1])],
    ids=["native window", "short window"],
)
def test_with_a_static_cache_few_shapes_are_compiled(
    margin, compiled, model, clips, processor, monkeypatch
):
    """As on a GPU, where `generate` compiles its steps by itself."""
    graphs = []

    def compiler(graph, inputs):
        graphs.append(graph)
        return graph.forward

    config = CompileConfig(backend=compiler, mode=None)
    config._compile_all_devices = True
    plain = model.generate
    settings = {"cache_implementation": "static", "compile_config": config}
    monkeypatch.setattr(model, "generate", lambda **given: plain(**given, **settings))
    torch.compiler.reset()
    limits = replace(PRESET, max_new_tokens=3)
    numbers = []
    for indices in ([0, 1], [2, 3], [4, 5], [6]):
        batch = Collator(processor.tokenizer, margin)([clips[index] for index in indices])
        before = len(graphs)
        features = batch["input_features"]
        generate_batch(model, processor.tokenizer, features, "cs", "transcribe", limits)
        numbers.append(len(graphs) - before)
    assert numbers == compiled
