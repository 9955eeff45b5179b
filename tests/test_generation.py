"""What transformers generates with a Whisper with experts: all that it generates with a plain one.

Each way to generate is asked for with no language, with one, and with one for each sequence. With
no language the result is that of a plain Whisper, bit for bit. Otherwise it is what each clip gives
alone, with its own language.
"""

from contextlib import nullcontext

import pytest
import torch
import transformers
from packaging.version import Version
from random_data import shake_experts
from transformers import LogitsProcessor, WhisperForCausalLM
from transformers.modeling_outputs import BaseModelOutput

from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import clsr_blocks
from distilwhisper_lib.method.languages import set_language, use_language
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.tiny import tiny_whisper
from distilwhisper_lib.whisper.window import use_window

PER_SEQUENCE = ["cs", None, "ca"]
CHOICES = [None, "cs", PER_SEQUENCE]
NAMES = ["no language", "one language", "a language per sequence"]
each_choice = pytest.mark.parametrize("choice", CHOICES, ids=NAMES)

# Largest difference between logits of a clip alone and in a batch: sums in another order.
TOLERANCE = 1e-4

PAD = 256
FRAMES = 200  # a window of 2 s, in place of Whisper's 30 s
FIRST_TIMESTAMP = 363
# Timestamps of 0 and of 1 to 2 s: a random model would go on by 0.02 s in each segment.
UNLIKELY_TIMES = [*range(1, 50), *range(101, 1501)]
LATE_TIMESTAMPS = {"suppress_tokens": [FIRST_TIMESTAMP + step for step in UNLIKELY_TIMES]}


@pytest.fixture
def trained(model):
    """A model with experts for two languages, both away from the shared block."""
    return shake_experts(attach_experts(model, ["cs", "ca"]))


@pytest.fixture
def plain():
    return load_whisper("tiny")


def random_features(clips=3, frames=FRAMES):
    """Return features (clips, 80, frames) of noise, with another spectrum in each clip."""
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(clips, 80, frames, generator=draw)
    return noise + 2 * torch.randn(clips, 80, 1, generator=draw)


@pytest.fixture
def features():
    return random_features()


def languages_of(choice, clips):
    return choice if isinstance(choice, list) else [choice] * clips


def generate(model, features, **settings):
    """Return what `generate` gives, as a dict, with a token for Czech unless another is given."""
    settings = {"language": "cs", "task": "transcribe", "max_new_tokens": 8} | settings
    with use_window(model, FRAMES):
        result = model.generate(features, **settings)
    return {"sequences": result} if isinstance(result, torch.Tensor) else dict(result)


def generate_alone(model, features, choice, **settings):
    """Return what each clip gives alone, with its language, as a list of dicts."""
    results = []
    for clip, language in zip(features.split(1), languages_of(choice, len(features)), strict=True):
        with use_language(model, language):
            results.append(generate(model, clip, **settings))
    return results


def padded(sequences, value=PAD):
    """Return sequences (n, T) of different T as one batch."""
    width = max(tokens.shape[1] for tokens in sequences)
    fill = torch.nn.functional.pad
    return torch.cat([fill(one, (0, width - one.shape[1]), value=value) for one in sequences])


def check_that_experts_matter(found, without, choice):
    """Check that sequences with experts differ from those of plain Whisper, and others do not.

    Args:
        found: Tokens (n, T), where several sequences of a clip follow one another.
        without: The same of plain Whisper.
        choice: One language, or a list of three.
    """
    copies = len(found) // 3
    languages = [code for code in languages_of(choice, 3) for _ in range(copies)]
    for language, ours, theirs in zip(languages, found, without, strict=True):
        width = min(len(ours), len(theirs))
        assert torch.equal(ours[:width], theirs[:width]) == (language is None)


# ---- a clip alone and in a batch


@torch.no_grad()
@each_choice
def test_a_clip_has_the_same_logits_alone_and_in_a_padded_batch(trained, plain, features, choice):
    draw = torch.Generator().manual_seed(1)
    token_ids = torch.randint(97, 123, (3, 9), generator=draw)
    token_ids[:, 0] = 257
    lengths = [9, 4, 6]
    for sequence, length in zip(token_ids, lengths, strict=True):
        sequence[length:] = PAD
    mask = token_ids != PAD
    batch = {"input_features": features, "decoder_input_ids": token_ids}

    def logits(model, language, batch):
        with use_language(model, language), use_window(model, FRAMES):
            return model(**batch).logits

    together = logits(trained, choice, batch | {"decoder_attention_mask": mask})
    if choice is None:
        assert torch.equal(together, logits(plain, None, batch | {"decoder_attention_mask": mask}))
    for index, language in enumerate(languages_of(choice, 3)):
        clip = {
            "input_features": features[index : index + 1],
            "decoder_input_ids": token_ids[index : index + 1, : lengths[index]],
        }
        alone = logits(trained, language, clip)
        ours = together[index : index + 1, : lengths[index]]
        torch.testing.assert_close(ours, alone, rtol=0, atol=TOLERANCE)
        without = logits(plain, None, clip)
        assert torch.allclose(alone, without, atol=0.1) == (language is None)


# ---- ways to generate

PROMPT = torch.tensor([360, *range(97, 123)])
LONGEST_PROMPT = torch.tensor([360, *(97 + index % 26 for index in range(222))])

WAYS = {
    "greedy": {},
    "beam search": {"num_beams": 3},
    "several sequences of a beam search": {"num_beams": 4, "num_return_sequences": 2},
    "no cache": {"use_cache": False},
    "dynamic cache": {"cache_implementation": "dynamic"},
    "static cache": {"cache_implementation": "static"},
    "static cache and beams": {"cache_implementation": "static", "num_beams": 3},
    "no repeated pairs": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    "a prompt": {"prompt_ids": PROMPT},
    "a prompt and beams": {"prompt_ids": PROMPT, "num_beams": 3},
    "the longest prompt": {"prompt_ids": LONGEST_PROMPT},
    "word timestamps": {"return_token_timestamps": True},
    "word timestamps and beams": {"return_token_timestamps": True, "num_beams": 3},
    "timestamps": {"return_timestamps": True, "max_new_tokens": 12, **LATE_TIMESTAMPS},
}


@each_choice
@pytest.mark.parametrize("way", WAYS)
def test_generated_are_the_tokens_of_each_clip_alone(trained, plain, features, choice, way):
    settings = WAYS[way]
    with use_language(trained, choice):
        found = generate(trained, features, **settings)
    without = generate(plain, features, **settings)
    assert found.keys() == without.keys()
    if choice is None:
        for name, value in without.items():
            assert torch.equal(found[name], value)
        return

    alone = generate_alone(trained, features, choice, **settings)
    sequences = padded([one["sequences"] for one in alone])
    assert torch.equal(found["sequences"], sequences)
    check_that_experts_matter(found["sequences"], without["sequences"], choice)
    if "token_timestamps" in found:
        for index, one in enumerate(alone):
            times = one["token_timestamps"][0]
            ours = found["token_timestamps"][index, : len(times)]
            torch.testing.assert_close(ours, times, rtol=0, atol=0.021)


@each_choice
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}],
    ids=["greedy", "beams", "several sequences"],
)
def test_scores_are_those_of_each_clip_alone(trained, plain, features, choice, settings):
    settings = {"return_dict_in_generate": True, "output_scores": True, **settings}
    with use_language(trained, choice):
        found = generate(trained, features, **settings)
    if choice is None:
        without = generate(plain, features, **settings)
        assert torch.equal(found["sequences"], without["sequences"])
        assert all(map(torch.equal, found["scores"], without["scores"]))
        return

    alone = generate_alone(trained, features, choice, **settings)
    assert torch.equal(found["sequences"], torch.cat([one["sequences"] for one in alone]))
    for step, scores in enumerate(found["scores"]):
        expected = torch.cat([one["scores"][step] for one in alone])
        torch.testing.assert_close(scores, expected, rtol=0, atol=TOLERANCE)
    if "num_beams" in settings:
        expected = torch.cat([one["sequences_scores"] for one in alone])
        torch.testing.assert_close(found["sequences_scores"], expected, rtol=0, atol=TOLERANCE)


@each_choice
@pytest.mark.parametrize("copies", [1, 2])
def test_sampled_are_the_tokens_that_one_language_gives_with_the_same_random_numbers(
    trained, plain, features, choice, copies
):
    def sample(model):
        torch.manual_seed(0)
        settings = {"do_sample": True, "temperature": 1.5, "num_return_sequences": copies}
        return generate(model, features, **settings)["sequences"]

    with use_language(trained, choice):
        found = sample(trained)
    without = sample(plain)
    assert len(found) == 3 * copies
    assert copies == 1 or not torch.equal(found[0], found[1])
    if choice is None:
        assert torch.equal(found, without)
        return
    for index, language in enumerate(languages_of(choice, 3)):
        with use_language(trained, language):
            uniform = sample(trained)
        own = slice(copies * index, copies * (index + 1))
        assert torch.equal(found[own], uniform[own])
    check_that_experts_matter(found, without, choice)


@pytest.mark.parametrize("choice", [None, "cs", ["cs"]])
def test_the_longest_prompt_leaves_room_to_the_end_of_the_decoder(trained, plain, choice):
    clip = random_features(1)
    with use_language(trained, choice):
        found = generate(trained, clip, prompt_ids=LONGEST_PROMPT, max_new_tokens=None)["sequences"]
    without = generate(plain, clip, prompt_ids=LONGEST_PROMPT, max_new_tokens=None)["sequences"]
    assert found.shape[1] == 448 - 223 - 4
    assert torch.equal(found, without) == (choice is None)


@each_choice
def test_encoder_outputs_may_be_given(trained, features, choice):
    with use_language(trained, choice):
        expected = generate(trained, features)["sequences"]
        found = generate(trained, None, encoder_outputs=encode(trained, features))["sequences"]
    assert torch.equal(found, expected)


def encode(model, features):
    """Return the encoder's outputs in the form that `generate` takes."""
    with use_window(model, FRAMES):
        encoded = model.get_encoder()(features).last_hidden_state
    return BaseModelOutput(last_hidden_state=encoded)


def test_languages_that_do_not_fit_given_encoder_outputs_are_refused(trained):
    outputs = encode(trained, random_features(4))
    with use_language(trained, ["cs", "ca"]), pytest.raises(ValueError, match="2 languages.*has 4"):
        generate(trained, None, encoder_outputs=outputs)


# ---- more than 30 s


def long_batch():
    """Return features (3, 80, 500) of clips of different lengths, their mask and lengths."""
    features = random_features(3, 500)
    lengths = [500, 350, 150]
    mask = torch.zeros(3, 500, dtype=torch.long)
    for index, length in enumerate(lengths):
        mask[index, :length] = 1
        features[index, :, length:] = 0
    return features, mask, lengths


LONG_WAYS = {
    "long-form": {},
    "previous tokens": {"condition_on_prev_tokens": True},
    "timestamps asked for": {"return_timestamps": True},
    "a prompt for all segments": {
        "condition_on_prev_tokens": True,
        "prompt_ids": PROMPT,
        "prompt_condition_type": "all-segments",
    },
    "beams": {"num_beams": 2},
}


def generate_long(model, features, **settings):
    settings = {"max_new_tokens": 12, "return_timestamps": True, **LATE_TIMESTAMPS} | settings
    return generate(model, features, **settings)["sequences"]


@pytest.mark.parametrize("way", LONG_WAYS)
def test_long_clip_is_transcribed_with_no_language_one_or_a_list_of_one(trained, plain, way):
    features = random_features(1, 500)
    settings = LONG_WAYS[way]
    found = generate_long(trained, features, **settings)
    without = generate_long(plain, features, **settings)
    assert found.shape[1] > 12  # of several segments
    assert torch.equal(found, without)

    baked = baked_whisper(trained, "cs")
    for choice in ("cs", ["cs"]):
        with use_language(trained, choice):
            found = generate_long(trained, features, **settings)
        assert torch.equal(found, generate_long(baked, features, **settings))
        assert not torch.equal(found, without)


@pytest.mark.parametrize("way", LONG_WAYS)
@pytest.mark.parametrize("choice", [None, "cs", ["cs"] * 3])
def test_long_clips_in_one_batch_have_one_language(trained, plain, way, choice):
    features, mask, _ = long_batch()
    settings = LONG_WAYS[way]
    baked = baked_whisper(trained, "cs")
    with use_language(trained, choice):
        found = generate_long(trained, features, attention_mask=mask, **settings)
    reference = plain if choice is None else baked
    assert torch.equal(found, generate_long(reference, features, attention_mask=mask, **settings))
    other = baked if choice is None else plain
    assert not torch.equal(found, generate_long(other, features, attention_mask=mask, **settings))


@pytest.mark.parametrize("choice", [None, "cs"])
def test_long_clip_alone_and_in_a_batch_gives_the_same_tokens(trained, choice):
    features, mask, lengths = long_batch()
    with use_language(trained, choice):
        found = generate_long(trained, features, attention_mask=mask)
        alone = [
            generate_long(trained, clip[..., :length])
            for clip, length in zip(features.split(1), lengths, strict=True)
        ]
    assert torch.equal(found, padded(alone))
    assert len({one.shape[1] for one in alone}) > 1  # clips end after different segments


@pytest.mark.parametrize("choice", [["cs", None, "ca"], ["cs", "ca", "cs"], "auto"])
def test_long_clips_with_different_experts_in_one_batch_are_refused(trained, choice):
    features, mask, _ = long_batch()
    set_language(trained, choice)
    message = "clips with different experts .*cannot be longer than 30 s.*one batch for each"
    with pytest.raises(ValueError, match=message):
        generate_long(trained, features, attention_mask=mask, language=["cs", "de", "ca"])


def test_long_clip_takes_whole_windows_of_30_seconds(trained, plain):
    features = random_features(1, 3500)
    late = [FIRST_TIMESTAMP + step for step in range(1, 1000)]
    settings = {"language": "cs", "max_new_tokens": 6, "suppress_tokens": late}
    settings["return_timestamps"] = True
    without = plain.generate(features, **settings)
    assert torch.equal(trained.generate(features, **settings), without)
    baked = baked_whisper(trained, "cs")
    with use_language(trained, "cs"):
        found = trained.generate(features, **settings)
    assert torch.equal(found, baked.generate(features, **settings))
    assert not torch.equal(found, without)


class EndSecondClip(LogitsProcessor):
    """Ends the second of three clips after three tokens of its first segment."""

    def __init__(self):
        self.begin = 4

    def set_begin_index(self, begin):
        """Called by `generate` before each segment."""
        self.begin = begin

    def __call__(self, token_ids, scores):
        if len(token_ids) == 3 and token_ids.shape[1] == self.begin + 3:
            scores[1] = -torch.inf
            scores[1, PAD] = 0
        return scores


@pytest.mark.parametrize("settings", [{}, {"cache_implementation": "static"}])
def test_clips_whose_timestamps_end_early_leave_a_mixed_batch(trained, plain, features, settings):
    batches = []  # how many clips are not finished, before each segment

    def count(progress):
        batches.append(int((progress[:, 0] < progress[:, 1]).sum()))

    def run(model):
        return generate(
            model,
            features,
            max_new_tokens=8,
            return_timestamps=True,
            logits_processor=[EndSecondClip()],
            monitor_progress=count,
            **LATE_TIMESTAMPS,
            **settings,
        )["sequences"]

    with use_language(trained, PER_SEQUENCE):
        found = run(trained)
    assert batches[:2] == [3, 2]
    for index, language in enumerate(PER_SEQUENCE):
        with use_language(trained, language):
            uniform = run(trained)
        width = min(found.shape[1], uniform.shape[1])
        assert torch.equal(found[index, :width], uniform[index, :width])
    check_that_experts_matter(found, run(plain), PER_SEQUENCE)


# ---- fallback to other temperatures

FALLBACK = {
    "temperature": (0.0, 0.8, 1.0),
    "compression_ratio_threshold": 0.5,  # all predictions fall back
    "logprob_threshold": -1.0,
}


@pytest.mark.parametrize("choice", [None, "cs", ["cs"] * 3])
@pytest.mark.parametrize("is_long", [False, True], ids=["short", "long"])
def test_fallback_draws_what_plain_whisper_draws(trained, plain, choice, is_long):
    features, mask, _ = long_batch()
    settings = {"attention_mask": mask, **FALLBACK}
    if not is_long:
        features = random_features()
        settings = dict(FALLBACK)

    def run(model, **others):
        torch.manual_seed(0)
        return generate_long(model, features, **(settings | others))

    reference = baked_whisper(trained, "cs") if choice else plain
    with use_language(trained, choice):
        found = run(trained)
        assert not torch.equal(found, run(trained, temperature=0.0))  # it did fall back
    assert torch.equal(found, run(reference))


def test_fallback_with_different_experts_is_refused(trained, features):
    with use_language(trained, PER_SEQUENCE):
        with pytest.raises(ValueError, match="fall back to other temperatures in one batch"):
            generate_long(trained, features, **FALLBACK)
        generate_long(trained, features, temperature=(0.0,))  # one temperature is no fallback


# ---- an assistant that drafts

ASSISTANTS = {
    "plain": lambda: tiny_whisper(seed=1),
    "same weights": lambda: load_whisper("tiny"),
    "with experts": lambda: assistant_with_experts("ca"),
    "with the same experts": lambda: assistant_with_experts("cs"),
    "decoder alone": lambda: WhisperForCausalLM(tiny_whisper(seed=1).config).eval(),
}


def assistant_with_experts(language):
    assistant = shake_experts(attach_experts(load_whisper("tiny"), ["cs", "ca"]))
    set_language(assistant, language)
    return assistant


@pytest.mark.parametrize("assistant", ASSISTANTS)
@pytest.mark.parametrize("choice", [None, "cs", ["cs"], "auto"])
def test_assisted_decoding_gives_what_greedy_decoding_gives(trained, plain, choice, assistant):
    if assistant == "decoder alone" and Version(transformers.__version__) < Version("5.16"):
        pytest.skip("refused (test_transformers.py)")
    features = random_features(1)
    # transformers lets an assisted model predict the end at once.
    trained.generation_config.begin_suppress_tokens = None
    plain.generation_config.begin_suppress_tokens = None
    set_language(trained, choice)
    greedy = generate(trained, features)["sequences"]
    drafting = ASSISTANTS[assistant]()
    with use_window(drafting, FRAMES) if assistant != "decoder alone" else nullcontext():
        assisted = generate(trained, features, assistant_model=drafting)["sequences"]
    # Assisted, `generate` gives the first tokens too.
    assert torch.equal(assisted[:, -greedy.shape[1] :], greedy)
    without = generate(plain, features)["sequences"]
    assert torch.equal(greedy, without) == (choice is None)


def baked_whisper(trained, language):
    """Open all gates of a model's language, and return a plain Whisper that computes the same."""
    plain = load_whisper("tiny")
    blocks = clsr_blocks(trained)
    layers = [*plain.get_encoder().layers, *plain.get_decoder().layers]
    for block, layer in zip(blocks, layers, strict=True):
        layer.fc1.load_state_dict(block.experts[language].fc1.state_dict())
        layer.fc2.load_state_dict(block.experts[language].fc2.state_dict())
        block.constant_gates[language] = True
    return plain


@pytest.mark.parametrize("name", ["ca-ES", "Catalan", "ca"])
def test_a_language_has_any_of_its_names_for_generate(trained, features, name):
    with use_language(trained, "ca"):
        expected = generate(trained, features, language="ca")["sequences"]
        found = generate(trained, features, language=name)["sequences"]
        listed = generate(trained, features, language=[name] * len(features))["sequences"]
    assert torch.equal(found, expected) and torch.equal(listed, expected)
