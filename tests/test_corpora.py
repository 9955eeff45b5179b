"""Preparing and loading corpora: columns, splits, duplicates, damage, killed runs."""

import errno
import json
import multiprocessing
import shutil
import time
from collections import defaultdict
from pathlib import Path

import pytest
from damage import damaged
from made_corpora import make_fillets, make_stamps

from distilwhisper_lib.data.audio import SAMPLE_RATE, read_audio
from distilwhisper_lib.data.corpora import loading, packages, preparing, registry
from distilwhisper_lib.data.corpora.items import SPLITS, without_duplicates
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.registry import CORPORA, FEATURES, corpus_folder
from distilwhisper_lib.data.corpora.reports import corpus_report
from distilwhisper_lib.data.corpora.selection import of_speaker, select
from distilwhisper_lib.data.normalisers import normalise
from distilwhisper_lib.files import REPOSITORY, cache_dir
from distilwhisper_lib.whisper.tokens import LANGUAGES


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(
        packages, "INSTALLED", dict.fromkeys(packages.PACKAGES, tmp_path / "not-installed")
    )


@pytest.fixture
def fillets(tmp_path):
    return load_corpus("fillets", "cs", make_fillets(tmp_path))


def test_a_made_up_game_becomes_a_dataset(fillets):
    assert fillets.features == FEATURES
    assert list(fillets.column_names) == list(FEATURES)
    rows = {row["id"]: row for row in fillets}
    assert set(rows) == {
        "fillets/gods/g-small",
        "fillets/gods/g-big",
        "fillets/gods/g-other",
        "fillets/airplane/a-1",
        "fillets/ufo/u-1",
        "fillets/cave/c-1",
        "fillets/share/smrt-v-0",
    }
    row = rows["fillets/airplane/a-1"]
    assert row["split"] == "validation"
    assert row["speaker"] == "font_small"
    assert row["translation_en"] == "A ship."
    assert row["audio"]["path"] == "fillets--airplane--a-1.flac"
    assert row["audio"]["bytes"][:4] == b"fLaC"
    assert len(read_audio(row["audio"])) == round(row["duration"] * SAMPLE_RATE) == SAMPLE_RATE // 2


def test_the_report_counts_everything(fillets):
    report = corpus_report("fillets", "cs")
    assert report["dropped"] == {
        "duplicate text in another split": 1,
        "empty text": 1,
        "no sound file": 1,
        "other character outside the test rooms": 1,
        "text with a placeholder": 1,
    }
    assert report["items"] == 12 == report["kept"] + sum(report["dropped"].values())
    assert report["dropped_ids"]["duplicate text in another split"] == ["fillets/airplane/a-2"]
    assert report["splits"]["test"] == {
        "clips": 2,
        "minutes": 0.02,
        "speakers": {"font_small": 1, "font_big": 1},
    }
    assert sum(split["clips"] for split in report["splits"].values()) == len(fillets)
    assert report["source"] == "folder"
    assert len(report["fingerprint"]) == 64


def test_the_same_data_have_the_same_fingerprint_wherever_they_come_from(
    fillets, tmp_path, monkeypatch
):
    first = corpus_report("fillets", "cs")["fingerprint"]
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    load_corpus("fillets", "czech", make_fillets(tmp_path / "again"))
    assert corpus_report("fillets", "cs")["fingerprint"] == first


def test_a_prepared_corpus_is_not_prepared_again(fillets, monkeypatch):
    monkeypatch.setattr(loading, "prepare_small", lambda *_: pytest.fail("prepared again"))
    assert load_corpus("fillets", "cs")["id"][:] == fillets["id"][:]
    loading._OPENED.clear()  # as in another process
    assert load_corpus("fillets", "cs")["id"][:] == fillets["id"][:]


def test_a_process_opens_a_corpus_once(fillets, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "is_current", lambda _: pytest.fail("read again"))
    monkeypatch.setattr(loading, "load_from_disk", lambda _: pytest.fail("opened again"))
    assert load_corpus("fillets", "cs") is fillets
    assert load_corpus("fillets", "Czech") is fillets


def test_another_source_of_a_prepared_corpus_is_not_read_and_the_warning_says_so(fillets, tmp_path):
    with pytest.warns(
        UserWarning, match="fillets in cs was prepared before, from .*nowhere is not read. Delete"
    ) as caught:
        assert load_corpus("fillets", "czech", tmp_path / "nowhere") is fillets
    assert caught[0].filename == __file__


def test_a_corpus_that_is_prepared_anew_is_opened_anew(fillets, tmp_path):
    game = make_fillets(tmp_path)
    script = game / "script" / "cave" / "dialogs_cs.lua"
    script.write_text(script.read_text(encoding="utf-8").replace("Jeskyně", "Díra"))
    assert load_corpus("fillets", "cs", game) is fillets

    shutil.rmtree(corpus_folder("fillets", "cs"))
    again = load_corpus("fillets", "cs", game)
    assert "Díra." in again["text"][:]
    assert "Jeskyně." in fillets["text"][:]  # what was opened before is still there
    assert load_corpus("fillets", "cs") is again


def test_a_deleted_corpus_is_not_given_out(fillets, tmp_path):
    shutil.rmtree(corpus_folder("fillets", "cs"))
    with pytest.raises(OSError, match="nowhere"):
        load_corpus("fillets", "cs", tmp_path / "nowhere")


def test_another_cache_folder_has_its_own_corpus(fillets, tmp_path, monkeypatch):
    first_cache = cache_dir()
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    second = load_corpus("fillets", "cs", make_fillets(tmp_path))
    assert second is not fillets
    assert second["id"][:] == fillets["id"][:]
    monkeypatch.setenv("LAB_CACHE", str(first_cache))
    assert load_corpus("fillets", "cs") is fillets


def test_a_corpus_of_an_older_builder_is_prepared_anew(fillets, tmp_path):
    path = corpus_folder("fillets", "cs") / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"builder": 0}))
    load_corpus("fillets", "cs", make_fillets(tmp_path))
    assert corpus_report("fillets", "cs")["builder"] == registry.BUILDER


def test_a_damaged_corpus_is_set_aside_and_prepared_anew(fillets, tmp_path, capsys):
    first = fillets.to_list()
    (path,) = corpus_folder("fillets", "cs").glob("*.arrow")
    content = path.read_bytes()
    path.unlink()  # the opened corpus keeps its file
    path.write_bytes(content[:2000] + b"!" + content[2001:])
    loading._OPENED.clear()
    assert load_corpus("fillets", "cs").to_list() == first
    assert "is damaged (the bytes of data-00000-of-00001.arrow are not" in capsys.readouterr().err
    assert corpus_folder("fillets", "cs").with_name("fillets-cs.damaged-1").is_dir()


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "report.json", "source.json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "other"])
def test_damaged_metadata_of_a_corpus_does_no_harm(name, damage, fillets, capsys):
    first = fillets.to_list()
    report = corpus_report("fillets", "cs")
    path = corpus_folder("fillets", "cs") / name
    changed = b"{}" if damage == "other" else damaged(path.read_bytes(), damage)
    path.unlink()  # the opened corpus keeps its file
    path.write_bytes(changed)
    loading._OPENED.clear()
    assert load_corpus("fillets", "cs").to_list() == first
    assert corpus_report("fillets", "cs") == report
    if damage != "other":  # which looks like one of an earlier version
        assert "is damaged (" in capsys.readouterr().err


def row(name: str, split: str, text: str, sound: bytes) -> dict:
    return {"id": name, "split": split, "text": text, "audio": {"bytes": sound}}


def test_of_two_splits_the_one_named_first_keeps_a_text():
    rows = [
        row("1", "teacher", "Co?", b"1"),
        row("2", "test-other", "co", b"2"),
        row("3", "train", "CO!", b"3"),
        row("4", "test-other", "Co...", b"4"),
        row("5", "train", "jiné", b"5"),
        row("6", "train", "Jiné!", b"6"),
        row("7", "teacher", "něco", b"5"),
    ]
    kept, dropped = without_duplicates(rows)
    assert [r["id"] for r in kept] == ["2", "4", "5", "6"]
    assert dropped == {"duplicate text in another split": ["3", "1"], "same recording twice": ["7"]}


@pytest.mark.parametrize("language", CORPORA["toy"])
def test_the_toy_corpus_has_28_short_clips_in_every_language(language):
    data = load_corpus("toy", language)
    report = corpus_report("toy", language)
    assert {name: split["clips"] for name, split in report["splits"].items()} == {
        "test": 4,
        "test-other": 4,
        "validation": 4,
        "train": 8,
        "teacher": 8,
    }
    assert not report["dropped"]
    assert min(data["duration"]) >= 0.4
    assert max(data["duration"]) <= 1.2
    assert set(data["language"]) == {language}
    assert len(set(data["id"])) == 28
    assert all(data["translation_en"])


def test_toy_is_the_same_every_time(tmp_path, monkeypatch):
    first = {language: load_corpus("toy", language)["audio"][:] for language in CORPORA["toy"]}
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    assert load_corpus("toy", "cs")["audio"][:] == first["cs"] != first["nl"]


def test_every_language_is_one_of_whispers():
    assert all(code in LANGUAGES for codes in CORPORA.values() for code in codes)
    assert set(CORPORA["toy"]) == {*CORPORA["fillets"], *CORPORA["stamps"]}


def test_unknown_names_list_the_known():
    with pytest.raises(
        ValueError,
        match="unknown corpus 'librispeech': one of fillets, stamps, festvox, asterisk, toy, world",
    ):
        load_corpus("librispeech", "cs")
    with pytest.raises(ValueError, match="fillets has no language 'ca': it has cs, nl"):
        load_corpus("fillets", "ca")
    with pytest.raises(ValueError, match="no language 'klingon': it has ca, ro"):
        load_corpus("stamps", "klingon")
    with pytest.raises(
        ValueError, match=r"no language 'Czehc' \(nearest: cs Czech\): it has cs, nl"
    ):
        load_corpus("fillets", "Czehc")
    with pytest.raises(FileNotFoundError, match="toy-cs is not prepared yet"):
        corpus_report("toy", "cs")


def test_a_selection_is_the_same_every_time_and_part_of_a_larger_one():
    data = load_corpus("toy", "cs")
    everything = select(data, "train")["id"][:]
    assert len(everything) == 8
    assert everything == select(data, "train")["id"][:]
    assert select(data, "train", 3)["id"][:] == everything[:3]
    assert sorted(select(data, "train", 99)["id"][:]) == sorted(everything)
    assert select(data, "train", seed=1)["id"][:] != everything
    shuffled = data.shuffle(seed=3)  # the order of the rows does not matter
    assert select(shuffled, "train", 3)["id"][:] == everything[:3]


def test_select_names_what_is_wrong(tmp_path):
    data = load_corpus("stamps", "ca", make_stamps(tmp_path))
    with pytest.raises(ValueError, match="split 'test-other' of stamps in 'ca' is empty.*teacher"):
        select(data, "test-other")
    with pytest.raises(ValueError, match="unknown split 'dev': one of teacher, test"):
        select(data, "dev")
    with pytest.raises(ValueError, match="limit must be at least 1"):
        select(data, "test", 0)


def test_rows_are_those_of_a_speaker_or_of_all_others():
    data = load_corpus("toy", "cs")
    own = of_speaker(data, "toy-low")
    others = of_speaker(data, "toy-low", others=True)
    assert set(own["speaker"]) == {"toy-low"}
    assert set(others["speaker"]) == {"toy-high", "toy-other"}
    assert sorted([*own["id"], *others["id"]]) == sorted(data["id"])
    assert len(select(own, "test")) == len(select(others, "test")) == 2


@pytest.mark.parametrize("speaker", ["nobody", "toy-other"])  # the other one is in test-other alone
def test_an_unknown_speaker_is_told_those_of_train_and_test(speaker):
    message = f"lines in train and test of toy in 'cs', is '{speaker}': known are toy-high, toy-low"
    with pytest.raises(ValueError, match=message):
        of_speaker(load_corpus("toy", "cs"), speaker)


def test_a_speaker_without_others_in_the_test_is_told(tmp_path):
    data = load_corpus("stamps", "ca", make_stamps(tmp_path))
    assert len(of_speaker(data, "stamps-ca")) == len(data)
    with pytest.raises(ValueError, match="'stamps-ca' is the only speaker in the test of stamps"):
        of_speaker(data, "stamps-ca", others=True)


def test_without_any_usable_clip_there_is_no_corpus(tmp_path):
    folder = make_fillets(tmp_path)
    for sound in folder.rglob("*.ogg"):
        sound.write_bytes(b"broken")
    with pytest.raises(ValueError, match="nothing to hear in 'cs'.*unreadable audio"):
        load_corpus("fillets", "cs", folder)
    assert not corpus_folder("fillets", "cs").exists()


def test_a_full_disk_leaves_no_incomplete_corpus(tmp_path, monkeypatch):
    def full(path, report, sealed):
        path.write_text(f"half of {report}")
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="no space left under .*corpora.*LAB_CACHE"),
    ):
        patch.setattr(preparing, "write_json", full)
        load_corpus("toy", "cs")
    assert [path.name for path in (cache_dir() / "corpora").iterdir() if path.is_dir()] == []
    assert len(load_corpus("toy", "cs")) == 28


def prepare_slowly(folder: Path, target: str, moment: str, ready) -> None:
    """Prepare the corpus, but stop for a minute before or after one of its steps."""
    real = getattr(preparing, target)

    def slow(*arguments, **settings):
        result = real(*arguments, **settings) if moment == "after" else None
        ready.set()
        time.sleep(60)
        return result

    setattr(preparing, target, slow)
    load_corpus("fillets", "cs", folder)


@pytest.mark.parametrize(
    ("target", "moment"),
    [("read_rows", "before"), ("without_duplicates", "after"), ("write_json", "after")],
)
def test_a_killed_preparation_leaves_no_incomplete_corpus(tmp_path, target, moment):
    folder = make_fillets(tmp_path)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=prepare_slowly, args=(folder, target, moment, ready))
    process.start()
    assert ready.wait(60)
    process.kill()
    process.join()
    assert not corpus_folder("fillets", "cs").exists()
    assert len(load_corpus("fillets", "cs", folder)) == 7
    assert not [path.name for path in (cache_dir() / "corpora").iterdir() if "partial" in path.name]


@pytest.mark.real
@pytest.mark.parametrize("corpus", ["fillets/cs", "fillets/nl", "stamps/ca", "stamps/fr"])
def test_the_real_corpora_keep_the_contract(corpus):
    name, language = corpus.split("/")
    data = load_corpus(name, language).remove_columns("audio").to_pandas()
    assert data["id"].is_unique
    assert data["duration"].between(0.1, 29).all()
    assert set(data["split"]) <= set(SPLITS)
    split_of = defaultdict(set)
    for text, split in zip(data["text"], data["split"], strict=True):
        split_of[normalise(text)].add(split)
    assert "" not in split_of
    assert all(len(splits) == 1 for splits in split_of.values())
    if name == "fillets":
        rooms = data[data["split"] != "test-other"].groupby("room_or_category")["split"].nunique()
        assert (rooms == 1).all()


@pytest.mark.real
def test_rooms_and_stamps_are_in_the_same_split_in_every_language():
    for name, languages in (("fillets", ("cs", "nl")), ("stamps", ("ca", "es", "fr"))):
        split_of = {}
        for language in languages:
            data = load_corpus(name, language)
            for key, split in zip(data["id"][:], data["split"][:], strict=True):
                assert split_of.setdefault(key, split) == split


@pytest.mark.real
@pytest.mark.parametrize("name", ["fillets", "stamps"])
def test_the_dataset_cards_state_what_was_measured(name):
    card = (REPOSITORY / "data" / name / "README.md").read_text(encoding="utf-8")
    prepared = [language for language in CORPORA[name] if corpus_folder(name, language).exists()]
    assert prepared
    for language in prepared:
        report = corpus_report(name, language)
        cells = [
            f"{split['clips']} ({split['minutes']:.1f})" for split in report["splits"].values()
        ]
        kept = f"{report['kept']} ({report['minutes']:.1f})"
        row = f"| {language} | {report['items']} | {kept} | {' | '.join(cells)} |"
        assert row in card, row
