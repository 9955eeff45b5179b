"""Prompts of a telephone exchange: the choice of sentences, typing errors, splits."""

import gzip

import pytest
from made_corpora import ASTERISK_LINES, make_asterisk, make_deb, tree

from distilwhisper_lib.data.corpora.asterisk import (
    CORRECTIONS,
    LANGUAGES,
    asterisk_items,
    correct,
    group,
    prompts,
    why_not,
)
from distilwhisper_lib.data.corpora.items import reason_to_drop
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.packages import find_package
from distilwhisper_lib.data.corpora.reports import corpus_report


def test_prompts_are_read_without_comments_and_with_colons_in_the_text():
    content = "\ufeff; a list: of prompts\n\na-b:  Un: deux \r\nx/y: Z\nno prompt\n"
    assert list(prompts(content)) == [("a-b", "Un: deux"), ("x/y", "Z")]


CHOICE = [
    ("conf-locked", "Cette conférence est fermée", ""),
    ("x", "C'est ça", ""),  # three words
    ("auth-thankyou", "Merci à vous", ""),
    ("dir-multi", "Deux mots", "fewer than 3 words"),
    ("vm-next", "Appuyez sur 6 maintenant", "text with digits"),
    ("beep", "un son [bip] très court", "text with a note in brackets"),
    ("beep", "le glorieux (emphase) responsable", "text with a note in brackets"),
    ("more", "Voir le site www.asterisk.org", "text with an address"),
    ("conf-full", "La conferenza ? piena", "text with a lost letter"),
    ("say", "Il tempo sar? esatto", "text with a lost letter"),
    ("ask", "Posta vocale. Quale casella? Prego", ""),
    ("run", "È stato tolto vm-then-pound: poi premere", "text of two prompts"),
    ("digits/20", "vingt et un", "letter, number or name of a channel"),
    ("phonetic/d_p", "D come Domodossola", "letter, number or name of a channel"),
    ("spy-misdn", "M I S D N", "letter, number or name of a channel"),
]


@pytest.mark.parametrize(("name", "text", "reason"), CHOICE)
def test_only_sentences_are_tested_on_and_the_others_have_a_reason(name, text, reason):
    assert why_not(name, text) == reason


CORRECTED = [
    ("ru", "Что бы выйти", "Чтобы выйти"),
    ("ru", "… чтобы бы вернуть", "… чтобы вернуть"),
    ("ru", "Введите то, что было", "Введите то, что было"),
    ("ru", "Нажмите решётку ещё раз", "Нажмите решетку еще раз"),  # both spellings occur
    ("fr", "Desole, ces problemes", "Désolé, ces problèmes"),
    ("fr", "Le statut est noté", "Le statut est noté"),
    ("it", "E' in uso", "È in uso"),
    ("es", "Numero de contrasena", "Número de contraseña"),
    ("es", "Esta usted en esta linea", "Está usted en esta línea"),  # "esta" depends on the words
    ("es", "los demás números", "los demás números"),
]


@pytest.mark.parametrize(("language", "typed", "text"), CORRECTED)
def test_typing_errors_are_put_right_in_whole_words_alone(language, typed, text):
    assert correct(typed, language) == text


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_corrected_text_is_not_corrected_again(language):
    for meant in CORRECTIONS[language].values():
        assert correct(meant, language) == meant


def test_a_prompt_belongs_to_its_folder_or_the_first_word_of_its_name():
    assert group("dictate/both_help") == "dictate"
    assert group("conf-locked") == "conf"
    assert group("invalid") == "invalid"


def test_a_made_up_exchange_becomes_items(tmp_path):
    items = {item.id: item for item in asterisk_items(make_asterisk(tmp_path), "fr")}
    line = items["asterisk/conf-locked"]
    assert line.text == "Cette conférence est verrouillée."
    assert (line.speaker, line.room_or_category) == ("asterisk-fr", "conf")
    assert (line.language, line.split, line.translation_en) == ("fr", "test", "")
    assert items["asterisk/dictate/forhelp"].text == "Êtes-vous là: oui ou non"
    reasons = {name.split("/", 1)[1]: reason_to_drop(item) for name, item in items.items()}
    assert reasons == {
        "conf-locked": "",
        "dictate/forhelp": "",
        "digits/20": "letter, number or name of a channel",
        "silence/2": "empty text",
        "auth-thankyou": "fewer than 3 words",
        "vm-next": "text with digits",
        "vm-mute": "no sound file",
    }


def test_texts_may_lie_there_unpacked(tmp_path):
    folder = make_asterisk(tmp_path)
    packed = next(tmp_path.rglob("*.txt.gz"))
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert len(asterisk_items(folder, "fr")) == 7


def test_missing_texts_and_sounds_are_named_with_the_package(tmp_path):
    folder = make_asterisk(tmp_path)
    with pytest.raises(FileNotFoundError, match="asterisk-core-sounds-es is missing"):
        asterisk_items(folder, "es")
    make_asterisk(tmp_path, "it")
    next(folder.glob("sounds/it_*")).rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="asterisk-core-sounds-it-wav is missing"):
        asterisk_items(folder, "it")


def test_data_without_the_texts_are_not_taken(tmp_path):
    make_asterisk(tmp_path)
    assert find_package("asterisk", tmp_path, "fr").folder.name == "asterisk"
    next(tmp_path.rglob("*.txt.gz")).unlink()
    with pytest.raises(FileNotFoundError, match="for ../doc/.*asterisk-core-sounds-fr-wav"):
        find_package("asterisk", tmp_path, "fr")


@pytest.mark.filterwarnings("ignore:asterisk-core-sounds")
def test_the_corpus_is_prepared_from_the_packages_of_texts_and_of_sounds(tmp_path):
    make_asterisk(tmp_path / "exchange", "it")
    files = tree(tmp_path / "exchange")
    texts = {name: content for name, content in files.items() if name.endswith(".gz")}
    sounds = {name: content for name, content in files.items() if name.endswith(".wav")}
    store = tmp_path / "debs"
    make_deb(store / "a.deb", "asterisk-core-sounds-it", "9", texts)
    make_deb(store / "b.deb", "asterisk-core-sounds-it-wav", "9", sounds)
    data = load_corpus("asterisk", "it", store)
    assert data["id"][:] == ["asterisk/vm-login", "asterisk/vm-then-pound"]
    assert set(data["split"][:]) == {"test"}
    assert corpus_report("asterisk", "it")["items"] == len(ASTERISK_LINES["it"]) - 1


@pytest.mark.real
@pytest.mark.parametrize(
    ("language", "clips"), [("ru", 200), ("fr", 216), ("it", 195), ("es", 176)]
)
def test_the_real_prompts_are_as_many_as_the_card_says(language, clips):
    data = load_corpus("asterisk", language)
    assert len(data) == clips
    assert set(data["split"][:]) == {"test"}
