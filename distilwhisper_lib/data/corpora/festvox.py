"""Festvox: sentences of novels, read for the Russian voice of the speech synthesis Festival.

Source: the Debian package festvox-ru (a licence like BSD's).
"""

import re
from collections.abc import Iterator
from pathlib import Path

from .items import Item

LANGUAGES = ("ru",)

TEXTS = "etc/txt.done.data"  # a line for each sentence: ( ru_0001 "Text." )

LINE = re.compile(r'\(\s*(\S+)\s+"((?:[^"\\]|\\.)*)"\s*\)')

STRESS = "+"  # before a stressed vowel whose place the synthesis would not guess

# Written as one word for the sake of the stress, which is on the first syllable.
JOINED = {
    "досмерти": "до смерти",
    "заногу": "за ногу",
    "наспину": "на спину",
    "небыло": "не было",
}

YO = str.maketrans("ёЁ", "еЕ")  # as Russian is mostly printed, and as Whisper mostly writes it

JOINED_WORD = re.compile(rf"\b({'|'.join(JOINED)})\b")


def sentences(content: str) -> Iterator[tuple[str, str]]:
    """Yield id and text of each sentence of txt.done.data, as they are written there."""
    for match in LINE.finditer(content):
        name, text = match.groups()
        yield name, re.sub(r"\\(.)", r"\1", text)


def clean(text: str) -> str:
    """Return a sentence as it would be printed: no stress marks, joined words apart, е for ё."""
    text = text.replace(STRESS, "")
    text = JOINED_WORD.sub(lambda match: JOINED[match[1]], text)
    return text.translate(YO).strip()


def festvox_items(folder: Path, language: str) -> list[Item]:
    """Return every sentence, with and without sound, in the order of the source.

    All are in the split "test". Each sentence is a unit of its own: the source names neither novels
    nor chapters.

    Args:
        folder: The voice, with the folders `etc` and `wav`.
        language: Code of the language.

    Raises:
        FileNotFoundError: If there are no texts.
    """
    path = folder / TEXTS
    if not path.is_file():
        raise FileNotFoundError(
            f"no {TEXTS} under {folder}: the package festvox-{language} is missing or incomplete"
        )

    items = []
    for name, text in sentences(path.read_text(encoding="utf-8", errors="replace")):
        sound = folder / "wav" / f"{name}.wav"
        item = Item(
            id=f"festvox/{name}",
            sound=sound if sound.is_file() else None,
            text=clean(text),
            language=language,
            speaker=f"festvox-{language}",
            room_or_category=name,
            translation_en="",
            split="test",
        )
        items.append(item)
    return items
