"""The sentences of a Russian voice: texts, stress marks, splits."""

import pytest
from made_corpora import make_deb, make_festvox, tree

from distilwhisper_lib.data.corpora.festvox import clean, festvox_items, sentences
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.reports import corpus_report
from distilwhisper_lib.data.normalisers import normalise


def test_sentences_are_read_with_escaped_quotes_and_in_either_spacing():
    content = '( ru_0001 "Первая." )\n(ru_0002 "\\"Вторая\\", с \\\\ чертой.")\n( ru_0003 "" )\n'
    assert list(sentences(content)) == [
        ("ru_0001", "Первая."),
        ("ru_0002", '"Вторая", с \\ чертой.'),
        ("ru_0003", ""),
    ]


CLEANED = [
    ("+Окна дом+а.", "Окна дома."),
    ("сквозь х+а+ос", "сквозь хаос"),
    ("з+аногу, н+аспину", "за ногу, на спину"),
    ("н+ебыло д+осмерти", "не было до смерти"),
    ("небылой заногуй", "небылой заногуй"),  # parts of words stay
    (" Всё Ёлке,  жёлтое ", "Все Елке,  желтое"),
]


@pytest.mark.parametrize(("written", "text"), CLEANED)
def test_stress_marks_go_joined_words_are_separated_and_yo_is_e(written, text):
    assert clean(written) == text


def test_a_stress_mark_would_split_a_word_and_a_cleaned_text_does_not():
    assert normalise("дом+а") == "дом а"
    assert normalise(clean("дом+а")) == "дома"


def test_every_sentence_is_a_test_clip_and_a_unit_of_its_own(tmp_path):
    items = festvox_items(make_festvox(tmp_path), "ru")
    assert [item.id for item in items] == [
        "festvox/ru_0001",
        "festvox/ru_0002",
        "festvox/ru_0004",
        "festvox/ru_0005",
    ]
    first = items[0]
    assert first.text == "Окна дома, - не было стекол."
    assert (first.speaker, first.room_or_category) == ("festvox-ru", "ru_0001")
    assert {item.split for item in items} == {"test"}
    assert items[1].text == 'Сказал он: "Пойдем".'
    assert items[2].sound is None


def test_missing_texts_are_named_with_the_package(tmp_path):
    folder = make_festvox(tmp_path)
    (folder / "etc/txt.done.data").unlink()
    with pytest.raises(FileNotFoundError, match="no etc/txt.done.data under .*festvox-ru"):
        festvox_items(folder, "ru")


@pytest.mark.filterwarnings("ignore:festvox-ru 9 was not tested")
def test_the_corpus_is_prepared_from_a_package(tmp_path):
    make_festvox(tmp_path / "voice")
    deb = make_deb(tmp_path / "voice.deb", "festvox-ru", "9", tree(tmp_path / "voice"))
    data = load_corpus("festvox", "Russian", deb)
    assert data["id"][:] == ["festvox/ru_0001", "festvox/ru_0002"]
    report = corpus_report("festvox", "ru")
    assert report["dropped"] == {
        "no sound file": 1,
        "text too long for the sound (over 25 characters a second)": 1,
    }
    assert report["splits"]["test"]["clips"] == 2


@pytest.mark.real
def test_all_real_sentences_are_kept_and_nothing_of_the_source_is_left_in_their_texts():
    data = load_corpus("festvox", "ru")
    assert len(data) == 620
    assert set(data["split"][:]) == {"test"}
    assert not [text for text in data["text"][:] if set(text) & set("+()\\ёЁ")]
