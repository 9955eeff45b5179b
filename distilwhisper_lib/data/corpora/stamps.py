"""Stamps: the spoken names of Tux Paint's rubber stamps.

Source: the Debian package tuxpaint-stamps-default (GPL-2).
"""

from pathlib import Path

from .items import Item, hash_share

LANGUAGES = ("ca", "ro", "el", "be", "bg", "da", "fr", "es", "ru")

# Upper end of the interval of `hash_share` in which a stamp belongs to the split.
SHARES = {"test": 0.30, "validation": 0.38, "train": 0.38 + 0.62 / 3, "teacher": 1.0}


def stamp_split(stamp: str) -> str:
    """Return the split of a stamp, the same in every language.

    Args:
        stamp: Its path without extension, of which the SHA-256 decides.
    """
    share = hash_share(stamp)
    return next(split for split, end in SHARES.items() if share < end)


def texts(path: Path, language: str) -> tuple[str, str]:
    """Return the text and the English text of a stamp, each "" where there is none.

    Args:
        path: The text file of the stamp: the first line is English, a line `LL.utf8=...` has the
            text of another language.
        language: The code LL.
    """
    if not path.is_file():
        return "", ""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines:
        return "", ""

    start = f"{language}.utf8="
    text = next((line.removeprefix(start) for line in lines[1:] if line.startswith(start)), "")
    return text.strip(), lines[0].strip()


def stamps_items(folder: Path, language: str) -> list[Item]:
    """Return every stamp with a spoken description in a language, in the order of their paths.

    Args:
        folder: `stamps` of Tux Paint. The text of `animals/birds/duck_desc_ca.ogg` is in
            `animals/birds/duck.txt`.
        language: Code of the language.
    """
    ending = f"_desc_{language}.ogg"
    items = []
    for sound in sorted(folder.rglob(f"*{ending}")):
        base = sound.with_name(sound.name.removesuffix(ending))
        stamp = base.relative_to(folder).as_posix()
        text, english = texts(base.with_name(f"{base.name}.txt"), language)
        item = Item(
            id=f"stamps/{stamp}",
            sound=sound,
            text=text,
            language=language,
            speaker=f"stamps-{language}",
            room_or_category=stamp.split("/")[0],
            translation_en=english,
            split=stamp_split(stamp),
        )
        items.append(item)
    return items
