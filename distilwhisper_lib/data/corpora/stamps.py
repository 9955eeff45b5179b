"""Stamps: the spoken names of Tux Paint's rubber stamps (Debian package tuxpaint-stamps-default; GPL-2)."""

import re
from pathlib import Path

from .items import Item, stable_hash

LANGUAGES = ("ca", "ro", "el", "be", "bg", "da", "fr", "es", "ru")


def stamp_split(stamp: str) -> str:
    """Return the split of a stamp, alike in every language: by the SHA-256 of its path without extension."""
    share = int(stable_hash(stamp)[:8], 16) / 0x1_0000_0000
    for split, end in (("test", 0.30), ("validation", 0.38), ("train", 0.38 + 0.62 / 3)):
        if share < end:
            return split
    return "teacher"


def texts(path: Path, language: str) -> tuple[str, str]:
    """Return (text, English text) of a stamp: the line `LL.utf8=` and the first line; "" for what is not there."""
    if not path.is_file():
        return "", ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
    found = (re.fullmatch(rf"{re.escape(language)}\.utf8=(.*)", line) for line in lines[1:])
    return next((match[1].strip() for match in found if match), ""), lines[0].strip()


def stamps_items(folder: Path, language: str) -> list[Item]:
    """Return every stamp with a spoken description in a language, in the order of their paths.

    folder: Tux Paint's `stamps`. The text of `animals/birds/duck_desc_ca.ogg` is in `animals/birds/duck.txt`.
    """
    end = f"_desc_{language}.ogg"
    items = []
    for sound in sorted(folder.rglob(f"*{end}")):
        base = sound.with_name(sound.name.removesuffix(end))
        stamp = base.relative_to(folder).as_posix()
        text, english = texts(base.with_name(base.name + ".txt"), language)
        items.append(
            Item(
                f"stamps/{stamp}",
                sound,
                text,
                language,
                f"stamps-{language}",
                stamp.split("/")[0],
                english,
                stamp_split(stamp),
            )
        )
    return items
