"""World: made-up speech in toy languages, for the paper in five minutes.

A toy language is a lexicon of 120 words under Zipf's law, and a map from letters to pairs of tones,
as vowels are told apart by two formants. The toy languages have codes of real ones, for Whisper has
a token for each; nothing else of these languages is in them. Word number n means the same in all of
them, so that a line can be translated into toy English word by word.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np

from ..audio import SAMPLE_RATE
from .items import Item

# Three languages that the toy student knows, and three that it hardly knows.
KNOWN = ("ca", "gl", "pl")
LITTLE_KNOWN = ("cs", "hu", "uk")
LANGUAGES = (*KNOWN, *LITTLE_KNOWN)
ENGLISH = "en"  # of translations alone: nobody speaks it here

# The share of a language's letters that sound as in toy Catalan; in the others it is chance.
NEAR_CATALAN = {"hu": 0.5, "uk": 1.0}

VOWELS = "aeiou"
CONSONANTS = "bdfgklmnprst"
WORDS = 120
SYLLABLES = (1, 2)  # of a word, at least and at most
LINE_WORDS = (3, 5)  # words of a line, at least and at most

# Hz: a letter is a pair of these, one of each row.
LOW_TONES = (300.0, 390.0, 507.0, 659.0, 857.0)
HIGH_TONES = (1150.0, 1450.0, 1830.0, 2300.0, 2900.0)

LETTER_SECONDS = (0.07, 0.11)
PAUSE_SECONDS = (0.04, 0.08)  # after a word
EDGE_SECONDS = 0.012  # in which a tone fades in and out
LOUDNESS = 0.15  # amplitude of each tone


@dataclass(frozen=True)
class Voice:
    """A speaker and the place where they are recorded.

    Attributes:
        name: Of the speaker.
        pitch: Factor of all frequencies.
        noise: Standard deviation of white noise; a tone has the amplitude LOUDNESS.
    """

    name: str
    pitch: float
    noise: float


SAME_VOICE = Voice("toy-low", 0.95, 0.03)
OTHER_VOICE = Voice("toy-high", 1.08, 0.06)

# Clips of each split. "test-other" is spoken by OTHER_VOICE, the others by SAME_VOICE.
CLIPS = {"test": 1024, "test-other": 1024, "validation": 128, "train": 768, "teacher": 32}


class ToyLanguage:
    """A lexicon and a sound for each letter, drawn from the language's code alone.

    Args:
        code: Of the language.

    Attributes:
        code: The same.
        words: WORDS different words, the most frequent first.
        tones: The pair of frequencies of each letter, in Hz.
    """

    def __init__(self, code: str):
        self.code = code
        rng = _rng("language", code)
        self.words: list[str] = _draw_lexicon(rng)
        self.tones: dict[str, tuple[float, float]] = _draw_tones(code, rng)

    @property
    def facts(self) -> list:
        """All that makes the language what it is, for hashes."""
        return [self.code, self.words, sorted(self.tones.items())]

    @cached_property
    def frequencies(self) -> np.ndarray:
        """The share of each word in speech (WORDS,): Zipf's law."""
        weights = 1 / np.arange(1, WORDS + 1)
        return weights / weights.sum()

    def draw_line(self, rng: np.random.Generator) -> list[int]:
        """Return the numbers of the words of a line."""
        low, high = LINE_WORDS
        count = int(rng.integers(low, high + 1))
        return [int(number) for number in rng.choice(WORDS, count, p=self.frequencies)]

    def text(self, line: list[int]) -> str:
        """Return the text of a line, words between spaces."""
        return " ".join(self.words[number] for number in line)

    def speak(self, text: str, voice: Voice, rng: np.random.Generator) -> np.ndarray:
        """Return the sound of a text.

        Args:
            text: Of letters and spaces.
            voice: Who speaks.
            rng: Of durations, phases and noise.

        Returns:
            float32 (n,) at 16 kHz, about 1.5 s a line.
        """
        parts = []
        for word in text.split():
            for letter in word:
                low, high = self.tones[letter]
                parts.append(_tones(low * voice.pitch, high * voice.pitch, rng))
            parts.append(np.zeros(_samples(PAUSE_SECONDS, rng)))
        sound = np.concatenate(parts)
        sound += voice.noise * rng.standard_normal(len(sound))
        return sound.astype(np.float32)


def _rng(*key: object) -> np.random.Generator:
    """Return random numbers that depend on a key alone, the same on every machine."""
    digest = sha256(repr(key).encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def _draw_lexicon(rng: np.random.Generator) -> list[str]:
    """Return WORDS different words of one or two syllables, each a consonant and a vowel.

    A last consonant may follow.
    """
    words: dict[str, None] = {}
    low, high = SYLLABLES
    while len(words) < WORDS:
        word = ""
        for _ in range(int(rng.integers(low, high + 1))):
            word += CONSONANTS[rng.integers(len(CONSONANTS))] + VOWELS[rng.integers(len(VOWELS))]
        if rng.random() < 0.5:
            word += CONSONANTS[rng.integers(len(CONSONANTS))]
        words[word] = None
    return list(words)


def _draw_tones(code: str, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Return a pair of tones for each letter; no two letters have the same."""
    letters = [str(letter) for letter in rng.permutation(list(VOWELS + CONSONANTS))]
    tones = {}
    share = NEAR_CATALAN.get(code, 0.0)
    if share:
        catalan = ToyLanguage("ca").tones
        tones = {letter: catalan[letter] for letter in letters[: round(share * len(letters))]}
    pairs = [(low, high) for low in LOW_TONES for high in HIGH_TONES]
    free = [pair for pair in pairs if pair not in tones.values()]
    order = rng.permutation(len(free))
    others = letters[len(tones) :]
    return tones | {letter: free[i] for letter, i in zip(others, order, strict=False)}


def _samples(seconds: tuple[float, float], rng: np.random.Generator) -> int:
    """Return a number of samples, drawn evenly between two durations."""
    return round(rng.uniform(*seconds) * SAMPLE_RATE)


def _tones(low: float, high: float, rng: np.random.Generator) -> np.ndarray:
    """Return two tones at once, of the length of a letter, faded in and out."""
    time = np.arange(_samples(LETTER_SECONDS, rng)) / SAMPLE_RATE
    phases = rng.uniform(0, 2 * np.pi, 2)
    sound = np.sin(2 * np.pi * low * time + phases[0])
    sound += np.sin(2 * np.pi * high * time + phases[1])
    edge = np.minimum(time, time[::-1]) / EDGE_SECONDS
    return LOUDNESS * np.minimum(edge, 1) * sound


def world_items(folder, language: str) -> list[Item]:
    """Return the clips of a toy language; `folder` is not used.

    No two clips have the same text.
    """
    items = []
    spoken: set[str] = set()
    for split, count in CLIPS.items():
        voice = OTHER_VOICE if split == "test-other" else SAME_VOICE
        items += _items_of(language, split, count, voice, spoken)
    return items


def spoken_by(language: str, voice: Voice, count: int) -> list[Item]:
    """Return the first lines of the split "test", spoken by a voice of any kind.

    Args:
        language: Code of the toy language.
        voice: Who speaks.
        count: How many lines.
    """
    return _items_of(language, "test", count, voice, set())


def _items_of(language: str, split: str, count: int, voice: Voice, spoken: set[str]) -> list[Item]:
    """Return `count` clips of a split, none of whose texts is in `spoken`; add these to it."""
    own = ToyLanguage(language)
    english = ToyLanguage(ENGLISH)
    lines = _new_lines(own, count, spoken, _rng("lines", language, split))
    sounds = _rng("sounds", language, split)
    items = []
    for index, line in enumerate(lines):
        text = own.text(line)
        item = Item(
            id=f"world/{split}-{index}",
            sound=own.speak(text, voice, sounds),
            text=text,
            language=language,
            speaker=voice.name,
            room_or_category=f"{split}-{index}",
            translation_en=english.text(line),
            split=split,
        )
        items.append(item)
    return items


def _new_lines(
    language: ToyLanguage, count: int, spoken: set[str], rng: np.random.Generator
) -> Iterator[list[int]]:
    """Yield lines whose texts are not in `spoken`, and add them to it."""
    found = 0
    while found < count:
        line = language.draw_line(rng)
        text = language.text(line)
        if text not in spoken:
            spoken.add(text)
            found += 1
            yield line
