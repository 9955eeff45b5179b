"""The game's scripts: dialogues, sounds, splits by room."""

from collections import Counter

import pytest
from made_corpora import make_fillets, write_ogg

from distilwhisper_lib.data.corpora.fillets import (
    LEADS,
    TEST_ROOMS,
    TRAIN_ROOMS,
    VALIDATION_ROOMS,
    dialogues,
    fillets_items,
    find_sound,
    room_split,
    unescape,
)
from distilwhisper_lib.data.corpora.items import reason_to_drop, stable_hash
from distilwhisper_lib.data.corpora.packages import find_package
from distilwhisper_lib.data.normalisers import normalise

SCRIPT = r"""
-- a comment with dialogId("no", "font_small", "No.")?
dialogId("plain", "font_small", "What?")
dialogStr("Co?")
dialogId( "broken", "font_big" , "Over two lines.")
dialogStr(
"Na dvou řádcích.")
dialogId("comment", "font_big", "With a comment.")
-- in between
dialogStr("S poznámkou.")
dialogId("quotes", "font_cyan", "He said \"no\" in C:\\CONFIG.")
dialogStr("Řekl \"ne\" v C:\\CONFIG, \ntečka\046")
dialogId("laser", "", "")
dialogId("last", "font_small", "Last.")
dialogStr("Poslední.")
"""


def test_dialogues_are_read_in_every_layout_of_the_scripts():
    found = {name: (font, english, text) for name, font, english, text in dialogues(SCRIPT)}
    assert found["plain"] == ("font_small", "What?", "Co?")
    assert found["broken"] == ("font_big", "Over two lines.", "Na dvou řádcích.")
    assert found["comment"] == ("font_big", "With a comment.", "S poznámkou.")
    assert found["quotes"] == (
        "font_cyan",
        'He said "no" in C:\\CONFIG.',
        'Řekl "ne" v C:\\CONFIG, \ntečka.',
    )
    assert found["laser"] == ("", "", "")
    assert found["last"][2] == "Poslední."


ESCAPES = [
    (r"a\\b", "a\\b"),
    (r"\"", '"'),
    (r"\/etc", "/etc"),
    (r"\065\66", "AB"),
    (r"a\nb", "a\nb"),
]


@pytest.mark.parametrize(("lua", "text"), ESCAPES)
def test_escape_sequences_of_lua_are_replaced(lua, text):
    assert unescape(lua) == text


def test_sounds_are_looked_for_in_the_room_then_among_the_shared(tmp_path):
    for place in ("cave", "share/borejokes", "share/border"):
        write_ogg(tmp_path / "sound" / place / "cs" / "x.ogg")
    write_ogg(tmp_path / "sound/share/blackjokes/cs/y.ogg")
    assert find_sound(tmp_path, "cave", "cs", "x") == tmp_path / "sound/cave/cs/x.ogg"
    assert find_sound(tmp_path, "share", "cs", "x") == tmp_path / "sound/share/borejokes/cs/x.ogg"
    assert find_sound(tmp_path, "share", "cs", "y") == tmp_path / "sound/share/blackjokes/cs/y.ogg"
    assert find_sound(tmp_path, "cave", "nl", "x") is None


def test_a_made_up_game_becomes_items(tmp_path):
    items = {item.id: item for item in fillets_items(make_fillets(tmp_path), "cs")}
    assert len(items) == 12
    line = items["fillets/gods/g-other"]
    assert (line.text, line.translation_en, line.speaker) == ("Voda!", "Water!", "font_cyan")
    assert (line.room_or_category, line.split, line.language) == ("gods", "test-other", "cs")
    reasons = {
        name.split("/")[-1]: reason_to_drop(item)
        for name, item in items.items()
        if reason_to_drop(item)
    }
    assert reasons == {
        "g-place": "text with a placeholder",
        "g-none": "empty text",
        "u-2": "no sound file",
        "a-x": "other character outside the test rooms",
    }


def test_a_missing_script_of_the_language_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="dialogs_nl.lua.*fillets-ng-data"):
        fillets_items(make_fillets(tmp_path), "nl")


def test_room_and_speaker_decide_the_split():
    assert room_split("gods", "font_small") == "test"
    assert room_split("gods", "font_cyan") == "test-other"
    assert room_split("airplane", "font_big") == "validation"
    assert room_split("airplane", "font_cyan") is None
    assert room_split("ufo", "font_big") == "train"
    assert room_split("a room not heard of", "font_big") == "teacher"
    assert TEST_ROOMS.isdisjoint(VALIDATION_ROOMS)
    assert TEST_ROOMS.isdisjoint(TRAIN_ROOMS)
    assert VALIDATION_ROOMS.isdisjoint(TRAIN_ROOMS)


@pytest.mark.real
def test_the_fixed_rooms_are_what_the_rule_gives():
    items = fillets_items(find_package("fillets", language="cs").folder, "cs")
    spoken = [item for item in items if item.sound is not None]
    others = Counter(item.room_or_category for item in spoken if item.speaker not in LEADS)
    assert {room for room, lines in others.items() if lines >= 5} == TEST_ROOMS
    assert len(TEST_ROOMS) == 18
    leads = [item for item in spoken if normalise(item.text) and item.speaker in LEADS]
    lines = Counter(
        item.room_or_category for item in leads if item.room_or_category not in TEST_ROOMS
    )
    rooms = sorted(lines, key=stable_hash)
    validation = set()
    train = set()
    while sum(lines[room] for room in validation) < 120:
        validation.add(rooms.pop(0))
    third = sum(lines[room] for room in rooms) / 3
    while sum(lines[room] for room in train) < third:
        train.add(rooms.pop(0))
    assert validation == VALIDATION_ROOMS
    assert train == TRAIN_ROOMS
