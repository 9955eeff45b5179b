"""Fillets: the spoken dialogues of the game Fish Fillets NG.

Source: the Debian packages fillets-ng-data, fillets-ng-data-cs and fillets-ng-data-nl (GPL-2).
"""

import re
from collections.abc import Iterator
from pathlib import Path

from .items import Item

# The speaker is the font of the subtitle. These two fish are in every room.
LEADS = ("font_small", "font_big")

# Rooms in which at least five Czech lines belong to other characters.
TEST_ROOMS = frozenset(
    (
        "gods",
        "viking2",
        "ending",
        "linux",
        "city",
        "cabin1",
        "bathyscaph",
        "viking1",
        "pavement",
        "corridor",
        "elevator2",
        "briefcase",
        "hole",
        "cabin2",
        "captain",
        "elevator1",
        "corals",
        "floppy",
    )
)

# The other rooms in the order of the SHA-256 of their names: validation until it has 120 Czech
# lines, then train until it has a third of the rest. What remains is the split "teacher".
VALIDATION_ROOMS = frozenset(
    (
        "atlantis",
        "alibaba",
        "columns",
        "stairs",
        "airplane",
        "society",
        "reactor",
        "broom",
        "cannons",
    )
)

TRAIN_ROOMS = frozenset(
    (
        "ufo",
        "pyramid",
        "windoze",
        "hardware",
        "creatures",
        "tank",
        "cancan",
        "rush",
        "elk",
        "kitchen",
        "reef",
        "bathroom",
        "party2",
        "submarine",
        "grail",
        "keys",
        "snowman",
        "aztec",
        "noground",
        "map",
        "turtle",
    )
)

SHARED_SOUNDS = ("borejokes", "blackjokes", "border")  # folders under sound/share

# ---- the scripts

STRING = r'\s*"((?:[^"\\]|\\.)*)"\s*'  # a quoted string of Lua, with white space around it

GAP = r"(?:\s|--[^\n]*(?:\n|$))*"  # white space and comments

DIALOGUE = re.compile(
    rf"dialogId\({STRING},{STRING},{STRING}\)(?:{GAP}dialogStr\({STRING}\))?", re.DOTALL
)

ESCAPE = re.compile(r"\\(\d{1,3}|.)", re.DOTALL)

LETTERS = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def unescape(text: str) -> str:
    """Return the value of a quoted string of Lua, given without its quotes."""
    return ESCAPE.sub(_escaped_character, text)


def _escaped_character(match: re.Match) -> str:
    """Return the character that an escape sequence of Lua stands for."""
    code = match[1]
    if code.isdigit():
        return chr(int(code))
    return LETTERS.get(code, code)


def dialogues(script: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield id, font, English text and text of each dialogue in a Lua script.

    The text is "" where the script has none.
    """
    for match in DIALOGUE.finditer(script):
        name, font, english, text = (unescape(part or "") for part in match.groups())
        yield name, font, english, text


# ---- the corpus


def room_split(room: str, font: str) -> str | None:
    """Return the split of a line.

    Args:
        room: Its room, which decides, in the same way in every language.
        font: Its speaker.

    Returns:
        One of SPLITS, or None for other characters outside the test rooms.
    """
    is_lead = font in LEADS
    if room in TEST_ROOMS:
        return "test" if is_lead else "test-other"
    if not is_lead:
        return None
    if room in VALIDATION_ROOMS:
        return "validation"
    if room in TRAIN_ROOMS:
        return "train"
    return "teacher"


def find_sound(folder: Path, room: str, language: str, name: str) -> Path | None:
    """Return the sound file of a dialogue, or None.

    Args:
        folder: The data of the game.
        room: The room of the script. Its own sounds come before the shared ones.
        language: Code of the language.
        name: The id of the dialogue.
    """
    for place in (room, *(f"share/{shared}" for shared in SHARED_SOUNDS)):
        path = folder / "sound" / place / language / f"{name}.ogg"
        if path.is_file():
            return path
    return None


def fillets_items(folder: Path, language: str) -> list[Item]:
    """Return every dialogue of a language, with and without sound.

    They are in the order of the rooms' names and of the scripts. Of two dialogues of a room with
    the same id the later one counts.

    Args:
        folder: The data of the game, with the folders `script` and `sound`.
        language: Code of the language.

    Raises:
        FileNotFoundError: If there is no script of the language.
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
        script = path.read_text(encoding="utf-8", errors="replace")
        for name, font, english, text in dialogues(script):
            item = Item(
                id=f"fillets/{room}/{name}",
                sound=find_sound(folder, room, language, name),
                text=text.strip(),
                language=language,
                speaker=font,
                room_or_category=room,
                translation_en=english.strip(),
                split=room_split(room, font),
                reason="other character outside the test rooms",
            )
            items[item.id] = item
    return list(items.values())
