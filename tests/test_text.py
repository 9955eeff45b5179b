"""Languages, the exact token ids of labels and decoder inputs, and normalisers."""

import pytest
import torch
from random_data import random_batch
from transformers.models.whisper.english_normalizer import BasicTextNormalizer

from distilwhisper_lib.data.normalisers import NORMALISERS, normalise
from distilwhisper_lib.evaluation.scoring import count_errors, word_errors
from distilwhisper_lib.whisper.loading import load_processor
from distilwhisper_lib.whisper.tokens import (
    LANGUAGES,
    decoder_inputs,
    encode_labels,
    language_code,
    prefix_tokens,
    text_tokens,
)
from distilwhisper_lib.whisper.window import use_window

# Token ids of the tiny tokenizer.
END = 256
START = 257
CA = 269
CS = 282
TRANSLATE = 357
TRANSCRIBE = 358
NO_TIMESTAMPS = 362


def test_numbers_above_are_those_of_the_tokens(processor):
    expected = {
        "<|endoftext|>": END,
        "<|startoftranscript|>": START,
        "<|ca|>": CA,
        "<|cs|>": CS,
        "<|translate|>": TRANSLATE,
        "<|transcribe|>": TRANSCRIBE,
        "<|notimestamps|>": NO_TIMESTAMPS,
    }
    token_ids = processor.tokenizer.convert_tokens_to_ids(list(expected))
    assert token_ids == list(expected.values())


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("cs", "cs"),
        ("Czech", "cs"),
        ("CZECH", "cs"),
        ("catalan", "ca"),
        ("Valencian", "ca"),
        ("yue", "yue"),
        ("Cantonese", "yue"),
        ("<|cs|>", "cs"),
        (" cs\n", "cs"),
        ("haitian_creole", "ht"),
        # with a script, a region, a variant
        ("ca-ES", "ca"),
        ("ca_es", "ca"),
        ("zh-TW", "zh"),
        ("ZH_Hant_TW", "zh"),
        ("es-419", "es"),
        ("ca-valencia", "ca"),
        ("cmn_hans_cn", "zh"),
        ("<|pt-BR|>", "pt"),
        # other codes and names of the same language
        ("jv", "jw"),
        ("jw", "jw"),
        ("iw", "he"),
        ("in", "id"),
        ("fil", "tl"),
        ("fil_ph", "tl"),
        ("nb-NO", "no"),
        ("zh-yue", "yue"),
        ("Filipino", "tl"),
        ("Norwegian Bokmål", "no"),
    ],
)
def test_languages_by_code_or_name(given, code):
    assert language_code(given) == code


@pytest.mark.parametrize("given", ["klingon", "", "cz", "c", "<|xx|>"])
def test_unknown_language_is_named_with_the_known_codes(given):
    with pytest.raises(
        ValueError, match=r"does not know the language .*use a code such as 'cs'.* ca cs .* zh"
    ) as e:
        language_code(given)
    assert repr(given) in str(e.value)


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("cz", "cs Czech"),
        ("Czehc", "cs Czech"),
        ("portugese", "pt Portuguese"),
        ("ge", "de German, ka Georgian"),
        ("english!", "en English"),
    ],
)
def test_the_nearest_languages_are_named(given, nearest):
    with pytest.raises(ValueError, match=rf"language '{given}' \(nearest: {nearest}\): use"):
        language_code(given)


@pytest.mark.parametrize("given", ["no speech", "is it", "so called", "no data", "he 1990"])
def test_words_that_begin_with_a_code_are_no_language(given):
    with pytest.raises(ValueError, match=f"does not know the language '{given}'"):
        language_code(given)


@pytest.mark.parametrize("given", ["nan-TW", "klingon", "q", "cs-!"])
def test_a_language_with_nothing_near_is_refused_plainly(given):
    with pytest.raises(ValueError, match=rf"language '{given}'(: use| \(nearest: cs Czech\): use)"):
        language_code(given)


@pytest.mark.parametrize("given", [None, 5, ["cs"], float("nan")])
def test_a_language_that_is_no_text_is_refused(given):
    with pytest.raises(ValueError, match="a language is needed, a code such as 'cs', not "):
        language_code(given)


def test_all_of_whispers_languages_are_known():
    assert len(LANGUAGES) == 100
    assert all(language_code(name) == code for code, name in LANGUAGES.items())


@pytest.mark.parametrize(
    ("language", "task", "expected"),
    [
        ("cs", "transcribe", [START, CS, TRANSCRIBE, NO_TIMESTAMPS]),
        ("cs", "translate", [START, CS, TRANSLATE, NO_TIMESTAMPS]),
        ("Catalan", "transcribe", [START, CA, TRANSCRIBE, NO_TIMESTAMPS]),
        ("ca", "translate", [START, CA, TRANSLATE, NO_TIMESTAMPS]),
    ],
)
def test_exact_ids_of_labels_and_decoder_inputs(processor, language, task, expected):
    tokenizer = processor.tokenizer
    text = "kůň"
    spelt = tokenizer("kůň", add_special_tokens=False).input_ids
    assert len(spelt) == 5 and tokenizer.decode(spelt) == text
    labels = encode_labels(tokenizer, text, language, task)
    assert prefix_tokens(tokenizer, language, task) == expected
    assert labels == [*expected[1:], *spelt, END]
    assert decoder_inputs(tokenizer, labels) == [*expected, *spelt]
    assert decoder_inputs(tokenizer, labels).count(START) == 1 and START not in labels


@pytest.mark.real
def test_ids_with_the_real_tokenizer():
    tokenizer = load_processor("openai/whisper-base").tokenizer
    labels = encode_labels(tokenizer, "Dobrý den.", "cs")
    spelt = tokenizer("Dobrý den.", add_special_tokens=False).input_ids
    assert labels == [50283, 50359, 50363, *spelt, 50257]  # Czech, transcribe, no timestamps, end
    assert decoder_inputs(tokenizer, labels) == [50258, 50283, 50359, 50363, *spelt]
    assert encode_labels(tokenizer, "x", "ca", "translate")[:3] == [50270, 50358, 50363]


def test_ids_do_not_depend_on_what_the_tokenizer_was_set_to(processor):
    tokenizer = processor.tokenizer
    expected = encode_labels(tokenizer, "a b", "cs")
    tokenizer.set_prefix_tokens(language="ca", task="translate", predict_timestamps=True)
    try:
        assert encode_labels(tokenizer, "a b", "cs") == expected
    finally:
        tokenizer.set_prefix_tokens(language="en", task="transcribe", predict_timestamps=False)


@pytest.mark.parametrize(("language", "task"), [("cs", "transcribe"), ("ca", "translate")])
def test_generate_starts_with_the_same_prefix(model, processor, language, task):
    batch = random_batch()
    seen = []
    with use_window(model, batch["input_features"].shape[-1]):
        hook = model.model.decoder.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
        )
        model.generate(batch["input_features"], language=language, task=task, max_new_tokens=2)
        hook.remove()
    assert seen[0].tolist() == [prefix_tokens(processor.tokenizer, language, task)] * 2


def test_unknown_task_is_refused(processor):
    with pytest.raises(ValueError, match="'transcribe' or 'translate'"):
        prefix_tokens(processor.tokenizer, "cs", "summarise")


def test_label_that_does_not_fit_is_refused_with_its_text(processor):
    tokenizer = processor.tokenizer
    assert len(encode_labels(tokenizer, "x" * 444, "cs")) == 448
    with pytest.raises(
        ValueError, match=r"label too long: 449 tokens, the decoder has 448 positions: 'xxx"
    ):
        encode_labels(tokenizer, "x" * 445, "cs")
    with pytest.raises(ValueError, match="9 tokens, the decoder has 8 positions"):
        encode_labels(tokenizer, "12345", "cs", limit=8)


def test_longest_label_fits_the_decoder(model, processor):
    labels = encode_labels(processor.tokenizer, "x" * 444, "cs")
    inputs = torch.tensor([decoder_inputs(processor.tokenizer, labels)])
    batch = random_batch(batch_size=1)
    with use_window(model, batch["input_features"].shape[-1]), torch.no_grad():
        assert model(batch["input_features"], decoder_input_ids=inputs).logits.shape[1] == 448


@pytest.mark.parametrize(
    "name", ["<|endoftext|>", "<|startoftranscript|>", "<|cs|>", "<|0.02|>", "<|notimestamps|>"]
)
def test_the_name_of_a_special_token_in_a_transcript_stays_text(processor, name):
    tokenizer = processor.tokenizer
    text = f"kůň {name}x{name} úpěl"
    labels = encode_labels(tokenizer, text, "cs")
    spelt = labels[3:-1]
    assert labels[:3] == [CS, TRANSCRIBE, NO_TIMESTAMPS] and labels[-1] == END
    assert max(spelt) < END
    spelling = "".join(tokenizer.convert_ids_to_tokens(spelt))
    assert spelling.count(name) == 2
    assert (
        spelt
        == [  # the tiny tokenizer has a token for each byte
            token
            for piece in (f"kůň {name[0]}", f"{name[1:]}x{name[0]}", f"{name[1:]} úpěl")
            for token in tokenizer(piece, add_special_tokens=False).input_ids
        ]
    )


def test_ids_of_texts_with_brackets_are_the_tokenizers(processor):
    tokenizer = processor.tokenizer
    for text in ("a <b> [c] <|d|> |>", "", "<", "2 < 3"):
        assert text_tokens(tokenizer, text) == tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("text", [None, float("nan"), 5, ["a"], "half a pair: \ud800"])
def test_what_is_no_text_is_refused(processor, text):
    with pytest.raises(ValueError, match="transcript is needed|no valid Unicode"):
        encode_labels(processor.tokenizer, text, "cs")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ahoj,  světe! (smích)", "ahoj světe"),
        ("L'ocell", "l ocell"),
        ("  \n", ""),
        ("«Ça»", "ça"),
        ("3,5 %", "3 5"),
    ],
)
def test_whispers_basic_normaliser(text, expected):
    assert normalise(text) == normalise(text, "whisper-basic") == expected


INVISIBLE = {
    "zero-width space": "\u200b",
    "joiner": "\u200d",
    "non-joiner": "\u200c",
    "right-to-left mark": "\u200f",
    "isolate": "\u2068",
    "soft hyphen": "\u00ad",
    "byte order mark": "\ufeff",
    "word joiner": "\u2060",
    "variation selector": "\ufe0f",
    "grapheme joiner": "\u034f",
    "control character": "\x00",
    "filler": "\u3164",
}


@pytest.mark.parametrize("name", ["whisper-basic", "keep-marks"])
@pytest.mark.parametrize("char", INVISIBLE.values(), ids=INVISIBLE.keys())
def test_invisible_characters_do_not_count(name, char):
    seen = "tady je ryba"
    assert normalise(f"{char}ta{char}dy{char} {char} je ryba{char}", name) == seen
    assert normalise(char, name) == ""
    errors = count_errors([f"{char}Tady je{char} ryba."], [seen], name)
    assert word_errors(errors).tolist() == [0]
    assert errors["character_errors"].tolist() == [0]
    assert errors["characters"].tolist() == [len(seen)]


@pytest.mark.parametrize("name", ["whisper-basic", "keep-marks"])
def test_a_dotted_capital_i_is_an_i(name):
    for written in ("İstanbul", "I\u0307stanbul", "i\u0307stanbul", "ISTANBUL"):
        assert normalise(written, name) == "istanbul"
    assert normalise("ışık", name) == "ışık"  # the other letter of Turkish


def test_the_released_normaliser_stays_as_released():
    assert normalise("ta\u200bdy", "released") == "ta\u200bdy"
    assert normalise("İstanbul", "released") == "i stanbul"
    assert normalise("ta\u200bdy", "none") == "ta\u200bdy"


def test_visible_texts_are_normalised_as_whispers_authors_do():
    texts = [
        "Žluťoučký kůň [smích] úpěl — 10:30, 5 €",
        "L'avió",
        "வணக்கம் உலகம்!",
        "ΣΑΣ ﬁn",
        "a\tb\u00a0c",
    ]
    for text in texts:
        assert normalise(text) == " ".join(BasicTextNormalizer()(text).split())


@pytest.mark.parametrize("text", [None, float("nan"), 5])
def test_a_normaliser_takes_texts_alone(text):
    with pytest.raises(ValueError, match="a text is needed, not "):
        normalise(text)


def test_no_normaliser_still_joins_white_space():
    assert normalise(" Ahoj,\n  Světe! ", "none") == "Ahoj, Světe!"


def test_unknown_normaliser_is_refused_with_the_known_names():
    with pytest.raises(
        ValueError, match=f"unknown normaliser 'mine': one of {', '.join(NORMALISERS)}"
    ):
        normalise("x", "mine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("வணக்கம் உலகம்!", "வணக்கம் உலகம்"),  # two Tamil words, vowel signs and all
        ("สวัสดีครับ", "สวัสดีครับ"),
        ("Здоров'я — це найголовніше", "здоровʼя це найголовніше"),
        ("Здоров’я", "здоровʼя"),
        ("L'avió 'vermell' (riu) s'enlaira.", "lʼavió vermell sʼenlaira"),
        ("Žluťoučký kůň [smích] úpěl — 10:30, 5 €", "žluťoučký kůň úpěl 10 30 5"),
    ],
)
def test_normaliser_that_keeps_marks(text, expected):
    assert normalise(text, "keep-marks") == expected
    assert normalise(normalise(text, "keep-marks"), "keep-marks") == expected
