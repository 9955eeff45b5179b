"""Fillets: the spoken dialogues of the game Fish Fillets NG (Debian packages fillets-ng-data, -cs, -nl; GPL-2)."""

import re
from pathlib import Path

from .items import Item

LEADS = (
    "font_small",
    "font_big",
)  # the subtitle's font is the speaker; these two fish are in every room
# Rooms where at least five Czech lines belong to other characters.
TEST_ROOMS = frozenset(
    ["gods", "viking2", "ending", "linux", "city", "cabin1", "bathyscaph", "viking1", "pavement", "corridor", "elevator2", "briefcase", "hole", "cabin2", "captain", "elevator1", "corals", "floppy"]
)
# In the order of the rooms' SHA-256: validation until 120 Czech lines, then train until a third of the rest.
VALIDATION_ROOMS = frozenset(
    ["atlantis", "alibaba", "columns", "stairs", "airplane", "society", "reactor", "broom", "cannons"]
)

TRAIN_ROOMS = frozenset(
    ["ufo", "pyramid", "windoze", "hardware", "creatures", "tank", "cancan", "rush", "elk", "kitchen", "reef", "bathroom", "party2", "submarine", "grail", "keys", "snowman", "aztec", "noground", "map", "turtle"]
)

SHARED_SOUNDS = ("borejokes", "blackjokes", "border")  # folders under sound/share

STRING = r'\s*"((?:[^"\\]|\\.)*)"\s*'

GAP = r"(?:\s|--[^\n]*(?:\n|$))*"

DIALOGUE = re.compile(
    rf"dialogId\({STRING},{STRING},{STRING}\)(?:{GAP}dialogStr\({STRING}\))?", re.DOTALL
)

ESCAPE = re.compile(r"\\(\d{1,3}|.)", re.DOTALL)

LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def unescape(text: str) -> str:
    """Return what Lua makes of the inside of a quoted string."""
    return ESCAPE.sub(lambda m: chr(int(m[1])) if m[1].isdigit() else LETTERS.get(m[1], m[1]), text)


def dialogues(script: str) -> list[tuple[str, str, str, str]]:
    """Return (id, font, English text, text) for each dialogue of a Lua script; text is "" where there is none."""
    return [
        tuple(unescape(part or "") for part in found.groups())
        for found in DIALOGUE.finditer(script)
    ]


def room_split(room: str, font: str) -> str | None:
    """Return the split of a line: by room, alike in every language; None for other characters elsewhere."""
    lead = font in LEADS
    if room in TEST_ROOMS:
        return "test" if lead else "test-other"
    if not lead:
        return None
    if room in VALIDATION_ROOMS:
        return "validation"
    return "train" if room in TRAIN_ROOMS else "teacher"


def find_sound(folder: Path, room: str, language: str, name: str) -> Path | None:
    """Return the sound file of a dialogue, or None."""
    places = [room, *(f"share/{place}" for place in SHARED_SOUNDS)]
    paths = (folder / "sound" / place / language / f"{name}.ogg" for place in places)
    return next((path for path in paths if path.is_file()), None)


def fillets_items(folder: Path, language: str) -> list[Item]:
    """Return every dialogue of a language, spoken or not, in the order of the rooms' names and of the scripts.

    folder: the game's data with `script` and `sound`. Raises FileNotFoundError if it has no script of the language.
    """
    scripts = sorted(folder.glob(f"script/*/*dialogs_{language}.lua"))
    if not scripts:
        raise FileNotFoundError(
            f"no script/*/*dialogs_{language}.lua under {folder}: the package fillets-ng-data "
            "is missing or incomplete"
        )
    items: dict[str, Item] = {}
    for path in scripts:
        room = path.parent.name
        for name, font, english, text in dialogues(
            path.read_text(encoding="utf-8", errors="replace")
        ):
            key, sound = f"fillets/{room}/{name}", find_sound(folder, room, language, name)
            items[key] = Item(
                key,
                sound,
                text.strip(),
                language,
                font,
                room,
                english.strip(),
                room_split(room, font),
                "other character outside the test rooms",
            )
    return list(items.values())
