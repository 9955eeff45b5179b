"""What else transformers does with a Whisper with experts: pipelines, its Trainer, half precision.

Each is asked for with no language, with one, with one for each sequence, and with "auto", by the
language token. Ways to generate are in `test_generation.py`.
"""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from packaging.requirements import Requirement
from packaging.version import Version
from random_data import RandomClips, logits, random_batch, same_state, shake_experts
from transformers import (
    CompileConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
    WhisperForCausalLM,
    WhisperForConditionalGeneration,
    WhisperModel,
    pipeline,
)
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import expert_parameters, last_gates
from distilwhisper_lib.method.experts import ExpertSettings
from distilwhisper_lib.method.languages import get_language, set_language, use_language
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.model import DECODER_ASSISTS, check_assistant
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.tiny import CODES
from distilwhisper_lib.whisper.window import use_window

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
FRAMES = 200  # a window of 2 s, in place of Whisper's 30 s
PER_SEQUENCE = ["cs", None, "ca"]
CHOICES = [None, "cs", PER_SEQUENCE]
NAMES = ["no language", "one language", "a language per sequence"]
each_choice = pytest.mark.parametrize("choice", CHOICES, ids=NAMES)
FIRST_LANGUAGE = 258  # token id


def token_of(language):
    return FIRST_LANGUAGE + CODES.index(language)


@pytest.fixture
def trained(model):
    """A model with experts for two languages, both away from the shared block."""
    return shake_experts(attach_experts(model, ["cs", "ca"]))


@pytest.fixture
def plain():
    return load_whisper("tiny")


@pytest.fixture
def features():
    """Features (3, 80, FRAMES) of noise, with another spectrum in each clip."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(3, 80, FRAMES, generator=draw)
    return noise + 2 * torch.randn(3, 80, 1, generator=draw)


def languages_of(choice, clips):
    return choice if isinstance(choice, list) else [choice] * clips


def generate(model, features, **settings):
    settings = {"task": "transcribe", "max_new_tokens": 8} | settings
    with use_window(model, FRAMES):
        return model.generate(features, **settings)


def differ(first, second):
    """Return for each sequence whether its tokens differ."""
    return [not torch.equal(*pair) for pair in zip(first, second, strict=True)]


# ---- "auto": experts follow the language token


@pytest.mark.parametrize("how", ["argument", "generation_config"])
@pytest.mark.parametrize("language", ["cs", "czech", "Czech", "<|cs|>", ["cs"] * 3])
def test_experts_follow_the_language_given_to_generate(trained, plain, features, language, how):
    with use_language(trained, "cs"):
        expected = generate(trained, features, language="cs")
    set_language(trained, "auto")
    assert get_language(trained) == "auto"
    if how == "argument":
        found = generate(trained, features, language=language)
    else:
        trained.generation_config.language = language
        found = generate(trained, features)
    assert torch.equal(found, expected)
    assert all(differ(found, generate(plain, features, language="cs")))
    assert get_language(trained) == "auto"


@pytest.mark.parametrize("beams", [1, 3])
def test_experts_follow_a_list_of_languages(trained, plain, features, beams):
    tokens = ["czech", "de", "<|ca|>"]
    with use_language(trained, PER_SEQUENCE):
        expected = generate(trained, features, language=tokens, num_beams=beams)
    set_language(trained, "auto")
    found = generate(trained, features, language=tokens, num_beams=beams)
    assert torch.equal(found, expected)
    without = generate(plain, features, language=tokens, num_beams=beams)
    assert differ(found, without) == [True, False, True]


@pytest.mark.parametrize("language", ["de", ["de", "nl", "en"]])
def test_languages_without_experts_are_plain_whisper_bit_for_bit(
    trained, plain, features, language
):
    settings = {"language": language, "return_dict_in_generate": True, "output_scores": True}
    set_language(trained, "auto")
    found = generate(trained, features, **settings)
    without = generate(plain, features, **settings)
    assert torch.equal(found["sequences"], without["sequences"])
    assert all(map(torch.equal, found["scores"], without["scores"]))


def test_sequence_without_experts_is_plain_whisper_in_a_mixed_batch_too(trained, plain, features):
    settings = {
        "language": ["cs", "de", "ca"],
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    set_language(trained, "auto")
    found = generate(trained, features, **settings)
    without = generate(plain, features, **settings)
    assert torch.equal(found["sequences"][1], without["sequences"][1])
    for ours, theirs in zip(found["scores"], without["scores"], strict=True):
        torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-5)
    assert not torch.allclose(found["scores"][0][0], without["scores"][0][0], atol=0.1)


def test_detected_languages_choose_the_experts(plain, features):
    with use_window(plain, FRAMES):
        detected = plain.detect_language(features).tolist()
    codes = [CODES[token - FIRST_LANGUAGE] for token in detected]
    assert len(set(codes)) == 3
    # Of the three languages that plain Whisper hears, two get experts.
    model = shake_experts(attach_experts(load_whisper("tiny"), codes[:2]))
    with use_language(model, [codes[0], codes[1], None]):
        expected = generate(model, features, language=codes)
    assert differ(expected, generate(plain, features, language=codes)) == [True, True, False]
    set_language(model, "auto")
    assert torch.equal(generate(model, features), expected)
    assert torch.equal(generate(model, features, language=None), expected)


def test_detection_is_plain_whispers_and_its_result_holds_to_the_end(
    trained, plain, features, monkeypatch
):
    heard = []

    def detect(self, *args, **kwargs):
        heard.append(get_language(trained))
        return torch.tensor([token_of("ca"), token_of("de"), token_of("cs")])

    monkeypatch.setattr(WhisperGenerationMixin, "detect_language", detect)
    with use_language(trained, ["ca", None, "cs"]):
        expected = generate(trained, features, language=["ca", "de", "cs"])
    set_language(trained, "auto")
    assert torch.equal(generate(trained, features), expected)
    assert heard == [None] and get_language(trained) == "auto"


def test_auto_needs_sound_to_encode(trained, features):
    set_language(trained, None)
    with use_window(trained, FRAMES):
        encoded = BaseModelOutput(last_hidden_state=trained.get_encoder()(features)[0])
    set_language(trained, "auto")
    with pytest.raises(ValueError, match="give generate input_features, not encoder_outputs"):
        generate(trained, None, encoder_outputs=encoded, language="cs")
    with pytest.raises(ValueError, match="this call has none of them: set a language"):
        trained.get_encoder()(features)


@torch.no_grad()
def test_labels_choose_the_experts_of_a_forward_pass(trained, features):
    labels = torch.full((3, 5), 100)
    labels[:, 0] = torch.tensor([token_of("cs"), token_of("de"), token_of("ca")])
    labels[0, -1] = -100
    with use_window(trained, FRAMES):
        with use_language(trained, PER_SEQUENCE):
            expected = trained(input_features=features, labels=labels)
        plain = trained(input_features=features, labels=labels)
        set_language(trained, "auto")
        found = trained(input_features=features, labels=labels)
        gates = last_gates(trained)["encoder"][0]
        assert torch.equal(found.logits, expected.logits) and found.loss == expected.loss
        assert found.loss != plain.loss
        assert gates.isnan().all(1).tolist() == [False, True, False]
        labels[1, 0] = 100
        with pytest.raises(ValueError, match="no language token in sequence 1"):
            trained(input_features=features, labels=labels)
        with pytest.raises(ValueError, match="this call has none of them"):
            trained(input_features=features)


def test_generation_settings_without_language_tokens_are_told(trained, features):
    set_language(trained, "auto")
    del trained.generation_config.lang_to_id
    message = "generation_config has no lang_to_id.*set a language"
    with use_window(trained, FRAMES), pytest.raises(ValueError, match=message):
        trained.generate(features)


def test_a_whisper_that_does_not_generate_refuses_auto():
    model = attach_experts(WhisperModel(load_whisper("tiny").config), ["cs"])
    with pytest.raises(ValueError, match='"auto" needs a Whisper that generates.*WhisperModel'):
        set_language(model, "auto")


# ---- pipelines


def sounds(count=3, seconds=1):
    """Return tones of different pitch in noise."""
    draw = np.random.default_rng(0)
    time = np.arange(int(16_000 * seconds)) / 16_000
    tones = [np.sin(2 * np.pi * 300 * 3**index * time) for index in range(count)]
    noise = draw.normal(0, 0.05, (count, len(time)))
    return [(tone * 0.3 + hiss).astype(np.float32) for tone, hiss in zip(tones, noise, strict=True)]


def recogniser(model, processor):
    return pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=processor.tokenizer,
        feature_extractor=processor.feature_extractor,
    )


def recognise(model, processor, clips, language="cs", **options):
    settings = {"task": "transcribe", "max_new_tokens": 6, "num_beams": 1}
    if language is not None:
        settings["language"] = language
    copies = [clip.copy() for clip in clips]
    found = recogniser(model, processor)(copies, generate_kwargs=settings, **options)
    return [one["text"] for one in found]


@each_choice
def test_pipeline_gives_in_batches_what_it_gives_for_each_clip(trained, plain, processor, choice):
    clips = sounds()
    without = recognise(plain, processor, clips)
    with use_language(trained, choice):
        found = recognise(trained, processor, clips, batch_size=3)
    alone = []
    for clip, language in zip(clips, languages_of(choice, 3), strict=True):
        with use_language(trained, language):
            alone += recognise(trained, processor, [clip])
    assert found == alone
    changed = [ours != theirs for ours, theirs in zip(found, without, strict=True)]
    assert changed == [language is not None for language in languages_of(choice, 3)]


def test_pipeline_refuses_a_list_that_does_not_fit_its_batches(trained, processor):
    with use_language(trained, PER_SEQUENCE), pytest.raises(ValueError, match="3 languages.*has 2"):
        recognise(trained, processor, sounds(), batch_size=2)


@pytest.mark.parametrize("choice", [None, "cs", "auto"])
def test_pipeline_cuts_a_long_sound_into_chunks(trained, plain, processor, choice):
    sound = np.concatenate(sounds(3, 2))
    options = {"chunk_length_s": 2, "stride_length_s": 0.25}
    set_language(trained, choice)
    found = recognise(trained, processor, [sound], batch_size=4, **options)
    one_by_one = recognise(trained, processor, [sound], batch_size=1, **options)
    assert found == one_by_one
    without = recognise(plain, processor, [sound], batch_size=4, **options)
    assert (found == without) == (choice is None)
    if choice == "auto":
        with use_language(trained, "cs"):
            assert found == recognise(trained, processor, [sound], batch_size=4, **options)


def test_experts_follow_the_language_given_to_a_pipeline(trained, plain, processor):
    clips = sounds()
    set_language(trained, "auto")
    for language, expert in [("cs", "cs"), ("catalan", "ca"), ("de", None)]:
        found = recognise(trained, processor, clips, language, batch_size=2)
        with use_language(trained, expert):
            assert found == recognise(trained, processor, clips, language, batch_size=2)
        without = recognise(plain, processor, clips, language, batch_size=2)
        assert (found == without) == (expert is None)


def test_pipeline_hears_the_language_itself(plain, processor):
    time = np.arange(30 * 16_000)
    clips = [np.sin(pitch * time).astype(np.float32) for pitch in (0.1, 1, 2)]
    features = processor.feature_extractor(clips, sampling_rate=16_000, return_tensors="pt")
    detected = plain.detect_language(features.input_features).tolist()
    assert len(set(detected)) == 3
    first = CODES[detected[0] - FIRST_LANGUAGE]
    model = shake_experts(attach_experts(load_whisper("tiny"), first), seed=1)
    set_language(model, "auto")
    found = recognise(model, processor, clips, language=None, batch_size=3)
    without = recognise(plain, processor, clips, language=None, batch_size=3)
    changed = [ours != theirs for ours, theirs in zip(found, without, strict=True)]
    assert changed == [True, False, False]


def test_pipeline_gives_words_with_their_times(trained, plain, processor):
    settings = {"language": "cs", "task": "transcribe", "max_new_tokens": 6, "num_beams": 1}
    found = []
    for model, language in [(plain, None), (trained, None), (trained, "cs")]:
        with use_language(model, language):
            found.append(
                recogniser(model, processor)(
                    sounds(1)[0], return_timestamps="word", generate_kwargs=dict(settings)
                )
            )
    without, none, czech = found
    assert none == without and czech["text"] != without["text"]
    assert all(chunk["timestamp"] for chunk in czech["chunks"])


# ---- half precision


@torch.no_grad()
@each_choice
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(plain, features, choice, dtype):
    model = shake_experts(attach_experts(load_whisper("tiny", dtype=dtype), ["cs", "ca"]))
    half = load_whisper("tiny", dtype=dtype)
    features = features.to(dtype)
    batch = random_batch(3)
    batch["input_features"] = features
    with use_language(model, choice):
        found = logits(model, batch)
        tokens = generate(model, features, language="cs")
    assert found.dtype == dtype and found.isfinite().all()
    without = generate(half, features, language="cs")
    assert differ(tokens, without) == [code is not None for code in languages_of(choice, 3)]
    if choice is None:
        assert torch.equal(found, logits(half, batch))
    for index, language in enumerate(languages_of(choice, 3)):
        one = {name: value[index : index + 1] for name, value in batch.items()}
        with use_language(model, language):
            alone = logits(model, one)
        # Of logits of up to 30, several steps of rounding.
        tolerance = 8 * torch.finfo(dtype).eps * found.abs().max().item()
        torch.testing.assert_close(found[index : index + 1], alone, rtol=0, atol=tolerance)


@each_choice
def test_generation_under_autocast(trained, plain, features, choice):
    def run(model):
        with torch.autocast("cpu", torch.bfloat16):
            return generate(model, features, language="cs")

    with use_language(trained, choice):
        found = run(trained)
    changed = differ(found, run(plain))
    assert changed == [code is not None for code in languages_of(choice, 3)]


# ---- torch.compile


@each_choice
def test_generation_with_compiled_steps(trained, features, choice):
    torch.compiler.reset()
    # `generate` compiles its steps by itself on a GPU, with a static cache.
    config = CompileConfig(backend="eager", mode=None)
    config._compile_all_devices = True
    settings = {"language": "cs", "cache_implementation": "static", "max_new_tokens": 4}
    with use_language(trained, choice):
        expected = generate(trained, features, **settings)
        found = generate(trained, features, compile_config=config, **settings)
    assert hasattr(trained, "_compiled_call")
    assert torch.equal(found, expected)


def test_generation_with_a_compiled_forward_follows_the_choice(trained, features):
    torch.compiler.reset()
    settings = {"language": "cs", "cache_implementation": "static", "max_new_tokens": 2}
    choices = ["cs", PER_SEQUENCE]
    wanted = []
    for choice in choices:
        with use_language(trained, choice):
            wanted.append(generate(trained, features, **settings))
    assert differ(*wanted) == [False, True, True]

    # As in transformers' documentation of Whisper.
    trained.forward = torch.compile(trained.forward, backend="eager")
    for choice, expected in zip(choices, wanted, strict=True):
        with use_language(trained, choice):
            assert torch.equal(generate(trained, features, **settings), expected)


# ---- transformers' own Trainer

STILL = ExpertSettings(expert_dropout=0.0, gate_dropout=0.0, skip_gate=0.0)


def examples(processor, languages, seed=0):
    """Return two clips of each language, with labels."""
    found = []
    for index, language in enumerate(languages):
        clips = RandomClips(
            processor.tokenizer, 2, language=language, letters=(3, 3), seed=seed + index
        )
        for item in clips:
            pad = (0, FRAMES - item["frames"])
            found.append(
                {
                    "input_features": torch.nn.functional.pad(item["features"], pad),
                    "labels": item["labels"][:7],
                }
            )
    return found


def trainer_of(model, folder, data, trainer_class=Trainer, **settings):
    kind = Seq2SeqTrainingArguments if trainer_class is Seq2SeqTrainer else TrainingArguments
    arguments = kind(
        str(folder),
        **{
            "per_device_train_batch_size": 2,
            "max_steps": 4,
            "save_steps": 2,
            "learning_rate": 1e-2,
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
        }
        | settings,
    )
    return trainer_class(model, arguments, train_dataset=data, eval_dataset=data)


def new_student(choice, settings=STILL):
    torch.manual_seed(0)  # gates begin with random weights
    model = attach_experts(load_whisper("tiny"), ["cs", "ca"], settings)
    set_language(model, choice)
    return model


TRAINED_CHOICES = pytest.mark.parametrize("choice", ["cs", ["cs", "ca"], "auto"])


@TRAINED_CHOICES
def test_trainer_resumes_as_if_it_had_not_stopped(processor, tmp_path, choice):
    data = examples(processor, ["cs", "ca"])
    settings = ExpertSettings()  # with dropout and skipped layers

    def train(name, resume=None, **more):
        model = new_student(choice, settings)
        trainer = trainer_of(model, tmp_path / name, data, **more)
        with use_window(model, FRAMES):
            trainer.train(resume_from_checkpoint=resume)
        return model, trainer

    whole, whole_trainer = train("whole")
    resumed, trainer = train("resumed", str(tmp_path / "whole" / "checkpoint-2"))
    assert same_state(resumed.state_dict(), whole.state_dict())
    ours = trainer.optimizer.state_dict()["state"]
    theirs = whole_trainer.optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys() and ours
    for index in ours:
        assert same_state(ours[index], theirs[index])

    last = tmp_path / "whole" / f"checkpoint-{whole_trainer.state.global_step}"
    beside = load_experts(load_whisper("tiny"), last)
    assert same_state(dict(expert_parameters(beside)), dict(expert_parameters(whole)))

    start = new_student(choice, settings)
    moved = {
        name.split(".")[3]
        for (name, new), (_, old) in zip(
            expert_parameters(whole), expert_parameters(start), strict=True
        )
        if not torch.equal(new, old)
    }
    assert moved == ({"cs"} if choice == "cs" else {"cs", "ca"})


def test_trainer_loads_the_best_experts_at_the_end(processor, tmp_path):
    data = examples(processor, ["cs", "ca"])
    model = new_student("auto")
    settings = {
        "max_steps": 3,
        "save_steps": 1,
        "eval_steps": 1,
        "eval_strategy": "steps",
        "load_best_model_at_end": True,
        "metric_for_best_model": "loss",
        "greater_is_better": True,  # so that the best is the first, not the last
    }
    trainer = trainer_of(model, tmp_path, data, **settings)
    with use_window(model, FRAMES):
        trainer.train()
        best = trainer.evaluate()["eval_loss"]
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry][:3]
    assert best == pytest.approx(losses[0], rel=1e-5)
    assert losses[0] > losses[2] + 0.01


@pytest.mark.parametrize("how", ["save_model", "save_pretrained"])
def test_saved_is_a_plain_whisper_with_the_experts_beside_it(processor, tmp_path, how):
    model = new_student("auto")
    trainer = trainer_of(model, tmp_path / "run", examples(processor, ["cs", "ca"]))
    with use_window(model, FRAMES):
        trainer.train()
    folder = tmp_path / "saved"
    if how == "save_model":
        trainer.save_model(str(folder))
    else:
        model.save_pretrained(folder)

    again, info = WhisperForConditionalGeneration.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not info["unexpected_keys"] and not info["missing_keys"]
    batch = random_batch()
    plain = load_whisper("tiny")
    assert torch.equal(logits(again.eval(), batch), logits(plain, batch))
    load_experts(again, folder)
    model.eval()
    for choice in (None, "cs", "ca", ["ca", None]):
        with use_language(model, choice), use_language(again, choice):
            assert torch.equal(logits(again, batch), logits(model, batch))
    with use_language(model, "cs"):
        assert not torch.equal(logits(model, batch), logits(plain, batch))


def test_save_pretrained_refuses_to_upload_whisper_without_its_experts(trained, tmp_path):
    with pytest.raises(ValueError, match="without its experts: call push_experts"):
        trained.save_pretrained(tmp_path / "saved", push_to_hub=True)
    assert not (tmp_path / "saved").exists()


@pytest.mark.parametrize("choice", ["cs", "auto"])
def test_seq2seq_trainer_predicts_by_generating(processor, tmp_path, choice):
    data = examples(processor, ["cs"])
    model = shake_experts(new_student(choice))
    settings = {"predict_with_generate": True, "per_device_eval_batch_size": 2}
    trainer = trainer_of(model, tmp_path, data, Seq2SeqTrainer, **settings)
    features = torch.stack([example["input_features"] for example in data])
    with use_window(model, FRAMES):
        predictions = trainer.predict(data, language="cs", max_new_tokens=8).predictions
    with use_language(model, "cs"):
        expected = generate(model, features, language="cs", task=None)
    assert predictions[:, : expected.shape[1]].tolist() == expected.tolist()
    assert all(differ(expected, generate(load_whisper("tiny"), features, language="cs")))


# ---- what transformers does from some version on


@pytest.fixture
def decoder():
    """A Whisper's decoder alone, to draft for a whole Whisper."""
    return WhisperForCausalLM(load_whisper("tiny").config).eval()  # which changes its config


def test_a_decoder_alone_is_refused_as_an_assistant_of_an_old_transformers(
    trained, plain, features, decoder, monkeypatch
):
    monkeypatch.setattr(transformers, "__version__", "5.15.1")
    message = "decoder alone needs transformers 5.16 or newer, and 5.15.1 is .*: give a whole"
    with pytest.raises(ValueError, match=message):
        trained.generate(features, language="cs", assistant_model=decoder)
    check_assistant(plain)  # a whole Whisper may always draft
    check_assistant(None)
    for newer in ("5.16.0", "5.23.0.dev0", "6.0.0"):
        monkeypatch.setattr(transformers, "__version__", newer)
        check_assistant(decoder)


def test_the_refusal_of_a_decoder_alone_is_needed(plain, features, decoder):
    """When this fails, `check_assistant` and its tests can go."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    (needed,) = [text for text in project["dependencies"] if text.startswith("transformers")]
    first = Version(".".join(map(str, DECODER_ASSISTS)))
    last_without = f"{first.major}.{first.minor - 1}.99"
    assert Requirement(needed).specifier.contains(last_without), "no such version is allowed"
    if Version(transformers.__version__) < first:
        with use_window(plain, FRAMES), pytest.raises(UnboundLocalError, match="is_updated"):
            plain.generate(features[:1], language="cs", assistant_model=decoder)
