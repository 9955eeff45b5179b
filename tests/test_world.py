"""The corpus of toy languages."""

import numpy as np
import pytest

from distilwhisper_lib.data.corpora import world
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.registry import CORPORA
from distilwhisper_lib.data.corpora.world import (
    KNOWN,
    LANGUAGES,
    LITTLE_KNOWN,
    OTHER_VOICE,
    SAME_VOICE,
    ToyLanguage,
    Voice,
    spoken_by,
    world_items,
)

FEW = {"test": 6, "test-other": 4, "validation": 3, "train": 5, "teacher": 2}
LETTERS = world.VOWELS + world.CONSONANTS


@pytest.fixture
def few(monkeypatch):
    """Make the corpus small."""
    monkeypatch.setattr(world, "CLIPS", FEW)


def letters_alike(first: str, second: str) -> int:
    """Return how many letters sound the same in two languages."""
    tones = [ToyLanguage(code).tones for code in (first, second)]
    return sum(tones[0][letter] == tones[1][letter] for letter in LETTERS)


@pytest.mark.parametrize("code", LANGUAGES)
def test_a_language_has_120_words_and_a_sound_for_each_letter(code):
    language = ToyLanguage(code)
    assert len(set(language.words)) == world.WORDS == 120
    assert set("".join(language.words)) <= set(LETTERS)
    assert set(language.tones) == set(LETTERS)
    assert len(set(language.tones.values())) == len(LETTERS)  # no two letters sound the same
    assert ToyLanguage(code).facts == language.facts  # drawn from the code alone


def test_frequent_words_are_twice_as_frequent_as_the_next_by_zipfs_law():
    shares = ToyLanguage("cs").frequencies
    assert shares.sum() == pytest.approx(1)
    assert shares[0] / shares[1] == pytest.approx(2)
    assert shares[0] / shares[9] == pytest.approx(10)


def test_half_or_all_of_the_letters_of_the_near_languages_sound_as_in_catalan():
    assert letters_alike("hu", "ca") in (8, 9)  # of 17; a ninth by chance
    assert letters_alike("uk", "ca") == len(LETTERS)
    for code in ("cs", "gl", "pl"):
        assert letters_alike(code, "ca") <= 2  # by chance
    assert set(LITTLE_KNOWN).isdisjoint(KNOWN)


def test_a_letter_is_two_tones_of_its_language_times_the_pitch():
    language = ToyLanguage("cs")
    rng = np.random.default_rng(0)
    sound = language.speak("a", Voice("x", pitch=1.1, noise=0.0), rng)
    spectrum = np.abs(np.fft.rfft(sound, 16_000))  # a bin is 1 Hz
    low, high = (1.1 * tone for tone in language.tones["a"])
    middle = 1000
    assert abs(int(spectrum[:middle].argmax()) - low) < 10
    assert abs(int(spectrum[middle:].argmax()) + middle - high) < 10


def test_the_other_voice_is_in_its_own_split_alone(few):
    items = world_items(None, "cs")
    assert {split: sum(item.split == split for item in items) for split in FEW} == FEW
    for item in items:
        voice = OTHER_VOICE if item.split == "test-other" else SAME_VOICE
        assert item.speaker == voice.name
    assert len({item.text for item in items}) == len({item.id for item in items}) == len(items)


def test_a_line_is_translated_word_by_word(few):
    own, english = ToyLanguage("cs"), ToyLanguage("en")
    for item in world_items(None, "cs"):
        numbers = [own.words.index(word) for word in item.text.split()]
        assert item.translation_en == " ".join(english.words[number] for number in numbers)


def test_the_corpus_is_the_same_each_time_and_loads_without_a_download(few):
    first, second = world_items(None, "cs"), world_items(None, "cs")
    for one, other in zip(first, second, strict=True):
        assert one.text == other.text
        assert np.array_equal(one.sound, other.sound)
    assert set(CORPORA["world"]) == set(LANGUAGES)
    dataset = load_corpus("world", "cs")
    assert len(dataset) == sum(FEW.values())  # nothing is dropped


def test_another_voice_speaks_the_same_lines_as_the_test(few):
    test = [item for item in world_items(None, "cs") if item.split == "test"]
    spoken = spoken_by("cs", Voice("deep", 0.8, 0.0), 4)
    assert [item.text for item in spoken] == [item.text for item in test[:4]]
    assert {item.speaker for item in spoken} == {"deep"}
