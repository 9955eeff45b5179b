"""Stamps: texts, audio, splits by stamp."""

from collections import Counter

import pytest
from made_corpora import make_stamps, write_ogg

from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.reports import corpus_report
from distilwhisper_lib.data.corpora.stamps import stamp_split, stamps_items, texts


def test_stamps_become_items_with_their_texts(tmp_path):
    folder = make_stamps(tmp_path, count=4)
    write_ogg(folder / "animals/thing1_desc_es.ogg")
    items = stamps_items(folder, "ca")
    assert [item.id for item in items] == [
        "stamps/animals/thing1",
        "stamps/animals/thing3",
        "stamps/food/fruit/thing0",
        "stamps/food/fruit/thing2",
    ]
    first = items[0]
    assert first.text == "Una cosa 1."
    assert first.translation_en == "Thing 1."
    assert first.speaker == "stamps-ca"
    assert first.room_or_category == "animals"
    assert items[2].room_or_category == "food"
    assert stamps_items(folder, "es")[0].text == ""  # no line of the language


def test_texts_of_missing_empty_and_damaged_files(tmp_path):
    path = tmp_path / "x.txt"
    assert texts(path, "ca") == ("", "")
    path.write_bytes(b"")
    assert texts(path, "ca") == ("", "")
    path.write_bytes(b"A fig.\r\nca.utf8= Una figa. \r\n" + b"ro.utf8=\xff\n")
    assert texts(path, "ca") == ("Una figa.", "A fig.")


def test_split_is_the_stamps_in_every_language_and_has_the_stated_shares(tmp_path):
    folder = make_stamps(tmp_path, "ca", 30)
    make_stamps(tmp_path, "ru", 30)
    catalan = {item.id: item.split for item in stamps_items(folder, "ca")}
    russian = {item.id: item.split for item in stamps_items(folder, "ru")}
    assert catalan == russian

    stated = {"test": 0.3, "validation": 0.08, "train": 0.62 / 3, "teacher": 0.62 * 2 / 3}
    counts = Counter(stamp_split(f"animals/{index}") for index in range(20_000))
    for split, share in stated.items():
        assert counts[split] / 20_000 == pytest.approx(share, abs=0.01)


def test_what_cannot_be_used_is_dropped_and_counted(tmp_path):
    folder = make_stamps(tmp_path)
    victims = sorted(folder.rglob("*_desc_ca.ogg"))
    victims[0].with_name(victims[0].name.replace("_desc_ca.ogg", ".txt")).unlink()
    victims[1].write_bytes(b"not a sound")
    victims[2].write_bytes(b"")
    write_ogg(victims[3], seconds=0.05)
    write_ogg(victims[4], seconds=29.5)
    long = victims[5].with_name(victims[5].name.replace("_desc_ca.ogg", ".txt"))
    long.write_text("Long.\nca.utf8=" + "molt llarg " * 20)
    victims[6].write_bytes(victims[7].read_bytes())
    with pytest.warns(UserWarning, match=r"1 of 40 .*\(longer than 29 s: 1\).*cut longer sounds"):
        data = load_corpus("stamps", "ca", folder)
    report = corpus_report("stamps", "ca")
    assert report["dropped"] == {
        "empty text": 1,
        "unreadable audio": 1,
        "empty audio": 2,
        "longer than 29 s": 1,
        "text too long for the sound (over 25 characters a second)": 1,
        "same recording twice": 1,
    }
    assert report["items"] == 40
    assert report["kept"] == len(data) == 33
