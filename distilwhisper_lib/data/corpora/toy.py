"""Toy: made-up speech for tests and the smoke preset; every syllable is a tone. No download, always the same."""

import numpy as np

from ..audio import SAMPLE_RATE
from .items import Item

CLIPS = {"train": 8, "teacher": 8, "validation": 4, "test": 4, "test-other": 4}

SYLLABLES = ("ba", "de", "fi", "ko", "lu", "ma", "ne", "pi")

SPEAKERS = {"toy-low": 1.0, "toy-high": 1.6, "toy-other": 2.3}  # factors of the pitch

SYLLABLE_SECONDS = 0.2


def tones(syllables: list[str], pitch: float, language: str) -> np.ndarray:
    """Return the sound (n,) of the syllables: a tone of 0.2 s each, with an overtone that depends on the language."""
    time = np.arange(round(SYLLABLE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    fade = np.sin(np.pi * time / SYLLABLE_SECONDS)
    overtone = 2 + sum(map(ord, language)) % 5
    parts = []
    for syllable in syllables:
        base = 2 * np.pi * 180 * pitch * 1.12 ** SYLLABLES.index(syllable) * time
        parts.append(0.3 * fade * (np.sin(base) + 0.5 * np.sin(overtone * base)))
    return np.concatenate(parts).astype(np.float32)


def toy_items(folder, language: str) -> list[Item]:
    """Return the 28 made-up clips of a language, of 0.4 to 1.2 s; `folder` is not used."""
    items = []
    for split, count in CLIPS.items():
        for i in range(count):
            number = len(items)  # written in base 8 with syllables: no text twice
            syllables = [SYLLABLES[number % 8], SYLLABLES[number // 8], *SYLLABLES[: number % 5]]
            speaker = "toy-other" if split == "test-other" else ("toy-low", "toy-high")[i % 2]
            words = [f"{language}{syllable}" for syllable in syllables]
            items.append(
                Item(
                    f"toy/{split}-{i}",
                    tones(syllables, SPEAKERS[speaker], language),
                    " ".join(words),
                    language,
                    speaker,
                    f"room-{split}",
                    " ".join(syllables),
                    split,
                )
            )
    return items
