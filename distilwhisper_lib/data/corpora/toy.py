"""Toy: synthetic speech for tests and the smoke preset; each syllable is a tone, none is random."""

import numpy as np

from ..audio import SAMPLE_RATE
from .items import Item

CLIPS = {"train": 8, "teacher": 8, "validation": 4, "test": 4, "test-other": 4}

SYLLABLES = ("ba", "de", "fi", "ko", "lu", "ma", "ne", "pi")

SPEAKERS = {"toy-low": 1.0, "toy-high": 1.6, "toy-other": 2.3}  # factor of the pitch

SYLLABLE_SECONDS = 0.2


def tones(syllables: list[str], pitch: float, language: str) -> np.ndarray:
    """Return the sound of some syllables: a tone of 0.2 s each.

    Args:
        syllables: Some of SYLLABLES. Each has a frequency of its own.
        pitch: Factor of all frequencies.
        language: Code of the language; the overtone depends on it.

    Returns:
        float32 (n,) at 16 kHz.
    """
    time = np.arange(round(SYLLABLE_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    fade = np.sin(np.pi * time / SYLLABLE_SECONDS)
    overtone = 2 + sum(map(ord, language)) % 5
    parts = []
    for syllable in syllables:
        phase = 2 * np.pi * 180 * pitch * 1.12 ** SYLLABLES.index(syllable) * time
        parts.append(0.3 * fade * (np.sin(phase) + 0.5 * np.sin(overtone * phase)))
    return np.concatenate(parts).astype(np.float32)


def toy_items(folder, language: str) -> list[Item]:
    """Return the 28 clips of a language, of 0.4 to 1.2 s each; `folder` is not used."""
    items: list[Item] = []
    for split, count in CLIPS.items():
        for index in range(count):
            # The number of the clip, written in base 8 with syllables: no text occurs twice.
            number = len(items)
            syllables = [SYLLABLES[number % 8], SYLLABLES[number // 8], *SYLLABLES[: number % 5]]
            if split == "test-other":
                speaker = "toy-other"
            else:
                speaker = ("toy-low", "toy-high")[index % 2]
            item = Item(
                id=f"toy/{split}-{index}",
                sound=tones(syllables, SPEAKERS[speaker], language),
                text=" ".join(f"{language}{syllable}" for syllable in syllables),
                language=language,
                speaker=speaker,
                room_or_category=f"room-{split}",
                translation_en=" ".join(syllables),
                split=split,
            )
            items.append(item)
    return items
