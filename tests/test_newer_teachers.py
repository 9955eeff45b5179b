"""Teachers with another vocabulary and more mel bands, as large-v3.

Their distributions are cached in the student's token ids.
"""

import copy
import gc
import weakref
from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch
from random_data import RandomClips
from transformers import (
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from distilwhisper_lib.data.batches import Clips, Collator
from distilwhisper_lib.evaluation.transcription import generate_batch
from distilwhisper_lib.lab import lab as lab_module
from distilwhisper_lib.lab.comparison import top_k_curve
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.method.losses import (
    js_divergence,
    labelled,
    top_k_divergence,
    top_k_log_probs,
)
from distilwhisper_lib.training.teacher import (
    TeacherDistributions,
    cache_teacher_distributions,
    teacher_processor,
    top_k_errors,
)
from distilwhisper_lib.whisper import tiny
from distilwhisper_lib.whisper.hub import REVISIONS
from distilwhisper_lib.whisper.loading import load_processor, load_whisper
from distilwhisper_lib.whisper.logits import teacher_forced_logits
from distilwhisper_lib.whisper.tokens import vocabulary_map

K = 6
YUE = 357  # <|yue|> comes after the 99 languages: 256 bytes, end, start, en ... su
CHANGES = {"train_clips": 4, "teacher_clips": 4, "validation_clips": 3, "test_clips": 3}


def newer(bands=128, names=()):
    """Return a tiny Whisper like large-v3 and its processor.

    It has one language more, `bands` mel bands, and other names of tokens where `names` says so.
    """
    special = [dict(names).get(name, name) for name in tiny.SPECIAL]
    special.insert(special.index("<|su|>") + 1, "<|yue|>")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "SPECIAL", special)
        patch.setattr(tiny, "CODES", [*tiny.CODES, "yue"])
        patch.setattr(tiny, "WhisperConfig", partial(WhisperConfig, num_mel_bins=bands))
        model = tiny.tiny_whisper(seed=1)
        processor = WhisperProcessor(WhisperFeatureExtractor(bands), tiny.tiny_tokenizer())
    return model, processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The newer tiny Whisper as a folder, as from the hub."""
    folder = tmp_path_factory.mktemp("large-v3")
    for part in newer():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def lab(folder):
    return Lab("smoke", teacher=str(folder), **CHANGES)


@torch.no_grad()
def make_likely(model, batch, token):
    """Change the embedding of a token so that the model surely predicts it somewhere."""
    weight = model.get_input_embeddings().weight
    weight[token] = 3 * weight[teacher_forced_logits(model, batch)[0, -1].argmax()]


def shortened(model):
    """Return a student with the teacher's weights, without the embedding of <|yue|>."""
    student = load_whisper("tiny")
    keep = torch.arange(model.config.vocab_size) != YUE
    weights = model.state_dict()
    for name, tensor in weights.items():
        if tensor.shape[0] == len(keep):
            weights[name] = tensor[keep]
    student.load_state_dict(weights)
    return student


# ---- vocabularies


def test_tokens_after_the_further_language_are_one_lower_for_the_student(processor):
    theirs = newer()[1].tokenizer
    ours = processor.tokenizer
    mapping = vocabulary_map(theirs, ours)
    assert mapping.dtype == torch.int64
    assert mapping.tolist() == [*range(YUE), -1, *range(YUE, len(ours))]
    around = theirs.convert_tokens_to_ids(["<|su|>", "<|yue|>", "<|translate|>"])
    assert around == [YUE - 1, YUE, YUE + 1]
    assert vocabulary_map(ours, theirs).tolist() == [*range(YUE), *range(YUE + 1, len(theirs))]
    assert vocabulary_map(ours, ours).tolist() == list(range(len(ours)))


def test_the_two_names_of_no_speech_are_one_token(processor):
    older = newer(80, {"<|nospeech|>": "<|nocaptions|>"})[1].tokenizer
    mapping = vocabulary_map(older, processor.tokenizer)
    theirs = older.convert_tokens_to_ids("<|nocaptions|>")
    ours = processor.tokenizer.convert_tokens_to_ids("<|nospeech|>")
    assert mapping[theirs] == ours


def bytes_tokenizer(letters, special):
    return WhisperTokenizer(
        vocab={letter: number for number, letter in enumerate(letters)},
        merges=[],
        pad_token=tiny.END,
        extra_special_tokens=special,
    )


def test_other_vocabularies_are_refused_with_what_differs(processor):
    ours = processor.tokenizer
    letters = sorted(tiny.pre_tokenizers.ByteLevel.alphabet())
    english = bytes_tokenizer(letters[:-1], tiny.SPECIAL)  # English-only: fewer text tokens
    with pytest.raises(
        ValueError,
        match=r"text tokens of teacher \(255\) and student \(256\) differ, first at id 255 "
        rf"\('{letters[-1]}'\): distillation needs two multilingual",
    ):
        vocabulary_map(english, ours)
    letters[5], letters[9] = letters[9], letters[5]
    with pytest.raises(
        ValueError, match=r"teacher \(256\) and student \(256\) differ, first at id 5 "
    ):
        vocabulary_map(bytes_tokenizer(letters, tiny.SPECIAL), ours)
    special = [name for name in tiny.SPECIAL if name not in ("<|translate|>", "<|notimestamps|>")]
    lacking = bytes_tokenizer(sorted(letters), special)
    with pytest.raises(
        ValueError,
        match=r"teacher's tokenizer lacks <\|translate\|> <\|notimestamps\|>: it is not one",
    ):
        vocabulary_map(lacking, ours)
    with pytest.raises(ValueError, match=r"the student's tokenizer lacks <\|translate\|>"):
        vocabulary_map(ours, lacking)


def test_hub_commits_of_the_newer_teachers_are_pinned():
    assert {"openai/whisper-large-v3", "openai/whisper-large-v3-turbo"} <= set(REVISIONS)
    assert all(len(commit) == 40 for commit in REVISIONS.values())
    assert len(set(REVISIONS.values())) == len(REVISIONS)


# ---- cached distributions


def by_length(clips):
    """Return the indices of clips, the longest first, as the teacher sees them."""
    return sorted(range(len(clips)), key=lambda index: (-clips.durations[index], index))


def without_yue(p):
    """Return a teacher's probabilities (N, V + 1) in the student's ids (N, V)."""
    return torch.cat([p[:, :YUE], p[:, YUE + 1 :]], 1)


def test_distributions_are_cached_in_the_students_ids(processor, tmp_path):
    model, own = newer(80)
    theirs, ours = (RandomClips(part.tokenizer, 3) for part in (own, processor))
    batch = Collator(own.tokenizer, 0.5)([theirs[i] for i in by_length(theirs)])
    make_likely(model, batch, YUE)
    make_likely(model, batch, YUE + 1)
    outputs = cache_teacher_distributions(
        model, theirs, Collator(own.tokenizer, 0.5), tmp_path, K, 3, processor.tokenizer
    )
    p = labelled(teacher_forced_logits(model, batch), batch["labels"])[0].softmax(-1)  # (N, V + 1)
    assert (p.topk(K).indices == YUE).any()
    top = without_yue(p).topk(K)
    student_batch = Collator(processor.tokenizer, 0.5)(
        [ours[ours.ids.index(clip)] for clip in batch["ids"]]
    )
    token_ids, log_probs = outputs.lookup(batch["ids"], student_batch["labels"])
    assert torch.equal(token_ids, top.indices)
    tail = 1 - top.values.sum(1, keepdim=True)  # with the token that the student lacks
    expected = torch.cat([top.values, tail], 1)
    torch.testing.assert_close(log_probs.exp(), expected, rtol=2e-3, atol=1e-4)


def test_student_that_is_the_teacher_has_no_divergence(processor, tmp_path):
    model, own = newer(80)
    theirs, ours = (RandomClips(part.tokenizer, 3) for part in (own, processor))
    teacher_batch = Collator(own.tokenizer, 0.5)([theirs[i] for i in range(3)])
    make_likely(model, teacher_batch, YUE + 1)  # <|translate|>
    student = shortened(model)
    batch = Collator(processor.tokenizer, 0.5)([ours[i] for i in range(3)])
    logits = labelled(teacher_forced_logits(student, batch), batch["labels"])[0]
    divergence = {}
    for name, tokenizer in (("student's ids", processor.tokenizer), ("teacher's ids", None)):
        cached = cache_teacher_distributions(
            model, theirs, Collator(own.tokenizer, 0.5), tmp_path / name, 64, 3, tokenizer
        )
        token_ids, log_probs = cached.lookup(batch["ids"], batch["labels"])
        divergence[name] = float(top_k_divergence(token_ids, log_probs, logits.double()))
    assert divergence["student's ids"] < 1e-6  # not 0: <|yue|> has some mass
    assert divergence["teacher's ids"] > 1e-3


def test_embeddings_beyond_the_tokenizer_are_never_cached(model, processor, tmp_path):
    size = len(processor.tokenizer)
    clips = RandomClips(processor.tokenizer, 2)
    collator = Collator(processor.tokenizer, 0.5)
    plain = cache_teacher_distributions(model, clips, collator, tmp_path / "plain", K)
    model.resize_token_embeddings(size + 104, mean_resizing=False)
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        weight[size:] = weight[:104] * 3  # likely, some of them
    padded = cache_teacher_distributions(model, clips, collator, tmp_path / "padded", K)
    batch = collator([clips[i] for i in range(2)])
    logits, _ = labelled(teacher_forced_logits(model, batch), batch["labels"])
    assert (logits.topk(K).indices >= size).any()
    token_ids, log_probs = padded.lookup(batch["ids"], batch["labels"])
    plain_ids, _ = plain.lookup(batch["ids"], batch["labels"])
    assert torch.equal(token_ids, plain_ids)
    sums = log_probs.exp().sum(1)
    torch.testing.assert_close(sums, torch.ones(len(token_ids)), atol=5e-3, rtol=0)


def test_embedding_shorter_than_the_tokenizer_works_too():
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    for k in (3, 50):
        longer = top_k_log_probs(logits, k, torch.arange(12))
        assert all(
            torch.equal(a, b) for a, b in zip(longer, top_k_log_probs(logits, k), strict=True)
        )


def test_size_is_that_of_the_files(model, processor, tmp_path):
    clips = RandomClips(processor.tokenizer, 4)
    outputs = cache_teacher_distributions(
        model, clips, Collator(processor.tokenizer, 0.5), tmp_path, K, 2
    )
    total = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    assert outputs.size() == {"bytes": total, "bytes_per_1000_clips": 250 * total}
    tokens = sum(len(item["labels"]) for item in clips.items)
    position = top_k_errors(torch.randn(2, 9), torch.randn(2, 9), [K])["bytes"][0]
    assert 0 < total - position * tokens < 2000  # the files' headers
    (tmp_path / "none").mkdir()
    assert TeacherDistributions(tmp_path / "none").size() == {"bytes": 0, "bytes_per_1000_clips": 0}


# ---- precision


def test_teacher_computes_in_half_precision(model, processor, tmp_path):
    clips = RandomClips(processor.tokenizer, 2)
    collator = Collator(processor.tokenizer, 0.5)
    batch = collator([clips[i] for i in range(2)])
    log_probs = {}
    for name, teacher in (("full", model), ("half", copy.deepcopy(model).half())):
        cached = cache_teacher_distributions(teacher, clips, collator, tmp_path / name, 50)
        _, log_probs[name] = cached.lookup(batch["ids"], batch["labels"])
    torch.testing.assert_close(log_probs["half"], log_probs["full"], atol=0.02, rtol=0.02)

    preset = Lab("smoke").preset
    features = batch["input_features"]
    texts = generate_batch(teacher, processor.tokenizer, features, "cs", "transcribe", preset)
    assert len(texts) == 2


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_not_autocast(model, processor, monkeypatch, precision):
    monkeypatch.setenv("LAB_PRECISION", precision)
    batch = Collator(processor.tokenizer, 0.5)([RandomClips(processor.tokenizer, 1)[0]])
    autocast_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert teacher_forced_logits(model, batch).dtype == autocast_dtype
    assert teacher_forced_logits(model.half(), batch).dtype == torch.float16


def test_teacher_is_loaded_in_half_precision_on_a_gpu_alone(lab, monkeypatch):
    asked = []

    class Loaded:
        def to(self, device):
            asked.append(device.type)

    def load(name, dtype):
        asked.append(dtype)
        return Loaded()

    monkeypatch.setattr(lab_module, "load_whisper", load)
    for device in ("cpu", "cuda"):
        lab.device = torch.device(device)
        lab.model("teacher")
    lab.teacher()
    assert asked == [torch.float32, "cpu", torch.float16, "cuda", torch.float32, "cuda"]


# ---- the laboratory


def test_lab_runs_such_a_teacher_with_its_own_processor(lab, folder, monkeypatch):
    models = []

    def watched(*arguments, **options):
        model = load_whisper(*arguments, **options)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(lab_module, "load_whisper", watched)
    lab.transcribe("student", "cs/in-domain")  # one that is held
    gc.disable()
    try:
        outputs = lab.teacher_distributions()
        assert len(models) == 2
        assert all(model() is None for model in models)
        assert lab._held is None
    finally:
        gc.enable()
    assert lab.teacher_processor.feature_extractor.feature_size == 128
    own = load_processor(folder)
    rows = lab.rows("train", limit=4)
    theirs = Clips(rows, own, "cs")
    ours = lab.clips("train", limit=4)
    assert theirs[0]["features"].shape[0] == 128 and ours[0]["features"].shape[0] == 80
    order = by_length(theirs)
    batch = replace(lab.train_collator, tokenizer=own.tokenizer)([theirs[i] for i in order])
    labels = lab.train_collator([ours[i] for i in order])["labels"]
    p = labelled(teacher_forced_logits(load_whisper(folder), batch), batch["labels"])[0].softmax(-1)
    token_ids, log_probs = outputs.lookup(batch["ids"], labels)
    top = without_yue(p).topk(8)
    assert torch.equal(token_ids, top.indices)
    torch.testing.assert_close(log_probs[:, :-1].exp(), top.values, rtol=2e-3, atol=1e-5)
    assert (lab.train("distilwhisper") / "model" / "experts.cs.safetensors").is_file()


def test_lab_transcribes_with_such_a_teacher(lab, folder):
    table = lab.transcribe("teacher", "cs/in-domain")
    own = load_processor(folder)
    clips = Clips(lab.test_rows("cs/in-domain"), own, "cs")
    order = by_length(clips)
    batch = Collator(own.tokenizer, lab.preset.margin_seconds)([clips[i] for i in order])
    features = batch["input_features"]
    assert features.shape[1] == 128
    texts = generate_batch(
        load_whisper(folder), own.tokenizer, features, "cs", "transcribe", lab.preset
    )
    predictions = [texts[order.index(i)] for i in range(3)]
    expected = pd.DataFrame({"id": clips.ids, "prediction": predictions})
    pd.testing.assert_frame_equal(table, expected)


def test_predictions_of_a_teacher_are_decoded_by_its_own_tokenizer(lab, monkeypatch):
    monkeypatch.setattr(
        lab_module, "transcribe", lambda model, clips, collator, *_: (clips, collator)
    )
    for system, size, bands in (("teacher", 1865, 128), ("student", 1864, 80)):
        clips, collator = lab.transcribe(system, "cs/noise")
        assert len(collator.tokenizer) == size and clips[0]["features"].shape[0] == bands


def test_teacher_with_the_students_vocabulary_shares_its_processor_and_features(
    tmp_path, processor, monkeypatch
):
    tiny.tiny_whisper(seed=3).save_pretrained(tmp_path / "alike")
    processor.save_pretrained(tmp_path / "alike")
    lab = Lab("smoke", teacher=str(tmp_path / "alike"), **CHANGES)
    assert lab.teacher_processor is lab.processor
    lab.teacher_distributions()
    clips = lab.clips("train", limit=4)
    assert len(clips._features) == 4  # the student's clips, whose features training takes again

    monkeypatch.setattr(
        lab_module, "cache_teacher_distributions", lambda *_: pytest.fail("computed again")
    )
    again = Lab("smoke", teacher=str(tmp_path / "alike"), **CHANGES)
    assert len(again.teacher_distributions()) == 4


def test_distributions_for_students_of_different_vocabularies_are_kept_apart(folder, monkeypatch):
    folders = []
    monkeypatch.setattr(
        lab_module,
        "cache_teacher_distributions",
        lambda teacher, clips, collator, folder, *_: folders.append(folder),
    )
    for student in ("tiny", str(folder)):
        Lab("smoke", teacher=str(folder), student=student, **CHANGES).teacher_distributions()
    assert len(set(folders)) == 2


def test_folder_without_tokenizer_is_read_with_the_students(tmp_path, processor):
    model, own = newer()
    model.save_pretrained(tmp_path)
    assert teacher_processor(str(tmp_path), processor) is processor
    with pytest.raises(
        ValueError,
        match=r"the model takes 128 mel bands, the clips have 80: make the clips with the "
        "model's own processor",
    ):
        Lab("smoke", teacher=str(tmp_path), **CHANGES).teacher_distributions()
    own.save_pretrained(tmp_path)
    tokenizer = teacher_processor(str(tmp_path), processor).tokenizer
    assert tokenizer.convert_tokens_to_ids("<|yue|>") == YUE


def test_more_mel_bands_alone_need_the_teachers_own_processor(tmp_path, processor):
    config = tiny.tiny_whisper().config
    config.num_mel_bins = 128
    WhisperForConditionalGeneration(config).save_pretrained(tmp_path)
    WhisperProcessor(WhisperFeatureExtractor(128), processor.tokenizer).save_pretrained(tmp_path)
    assert teacher_processor(str(tmp_path), processor).feature_extractor.feature_size == 128


def test_language_that_the_student_lacks_is_named(processor):
    with pytest.raises(
        ValueError, match=r"lacks one of .*<\|yue\|>.*, and the language one that this model knows"
    ):
        RandomClips(processor.tokenizer, 1, language="yue")
    assert RandomClips(newer()[1].tokenizer, 1, language="yue")[0]["labels"][0] == YUE


# ---- the curve by which k is chosen


def test_errors_of_top_k_are_what_is_missing_of_the_full_divergence():
    draw = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(40, 300, generator=draw) for _ in range(2))
    table = top_k_errors(teacher, student, (1, 16, 300))
    full = js_divergence(teacher, student)
    for _, row in table.iterrows():
        token_ids, log_probs = top_k_log_probs(teacher, int(row["k"]))
        missing = 1 - top_k_divergence(token_ids, log_probs, student) / full
        assert row["error"] == pytest.approx(float(missing), abs=1e-4)
        top = teacher.softmax(-1).topk(int(row["k"])).values.sum(-1)
        assert row["outside"] == pytest.approx(float((1 - top).mean()), abs=1e-6)
    assert list(table["error"]) == sorted(table["error"], reverse=True)
    assert table["error"].iloc[0] > 0.05
    assert table["error"].iloc[-1] == 0
    assert list(table["bytes"]) == [8, 98, 1802]


def test_errors_of_a_mapped_teacher_are_those_of_its_reindexed_logits():
    draw = torch.Generator().manual_seed(1)
    teacher, student = (3 * torch.randn(20, size, generator=draw) for size in (101, 100))
    teacher[:, 60] = -30.0  # the token that the student lacks
    mapping = torch.tensor([*range(60), -1, *range(60, 100)])
    by_hand = top_k_errors(torch.cat([teacher[:, :60], teacher[:, 61:]], 1), student, (2, 8))
    pd.testing.assert_frame_equal(
        top_k_errors(teacher, student, (2, 8), mapping), by_hand, atol=1e-5
    )


def test_curve_of_a_lab_is_over_its_validation_clips(lab):
    table = top_k_curve(lab, (1, 8, 64))
    assert list(table["k"]) == [1, 8, 64] and (table["outside"].diff().dropna() < 0).all()
    assert (table["error"].diff().dropna() < 0).all() and table["error"].between(0, 1).all()
