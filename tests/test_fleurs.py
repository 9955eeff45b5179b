"""FLEURS: published layout and parquet, English sentences by id, the hub's files, damage."""

import gzip
import shutil
import tempfile
import warnings
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from made_corpora import ENGLISH_ROWS, make_fleurs, make_fleurs_parquet, pack, pack_zip, tar_bytes

from distilwhisper_lib.data.audio import read_audio
from distilwhisper_lib.data.corpora import archives, fleurs, shards
from distilwhisper_lib.data.corpora.fleurs import CODES, REVISION
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.registry import CORPORA, FEATURES
from distilwhisper_lib.data.corpora.reports import corpus_release, corpus_report
from distilwhisper_lib.whisper.tokens import LANGUAGES


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Shards of two, data and what is unpacked in folders of the test, and no hub."""
    monkeypatch.setattr(shards, "SHARD", 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "lab"))
    monkeypatch.setattr(fleurs, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))


@pytest.fixture
def folder(tmp_path):
    make_fleurs(tmp_path / "lab" / "fleurs", "en_us", ENGLISH_ROWS)
    return make_fleurs(tmp_path / "lab" / "fleurs")


def elsewhere(monkeypatch, tmp_path, source, language: str = "ca"):
    """Return the rows prepared in another cache."""
    monkeypatch.setenv(
        "LAB_CACHE", str(tmp_path / "caches" / str(len(list(tmp_path.glob("caches/*")))))
    )
    return load_corpus("fleurs", language, source).to_list()


def nothing_unpacked_is_left() -> bool:
    return Path(tempfile.tempdir).is_dir() and not list(Path(tempfile.tempdir).rglob("*.wav"))


def cut_in_two(path, name) -> None:
    """Replace a parquet file and its folder by two files named as in the hub's other layout."""
    table = pq.read_table(path)
    for number, part in enumerate((table.slice(0, 1), table.slice(1))):
        pq.write_table(part, name.with_name(f"{name.name}-{number:05d}-of-00002.parquet"))
    shutil.rmtree(path.parent)


def test_the_published_layout_becomes_a_dataset(folder):
    data = load_corpus("fleurs", "ca")
    report = corpus_report("fleurs", "ca")
    assert data.features == FEATURES
    assert data["id"][:] == [
        "fleurs/ca_es/train/700",
        "fleurs/ca_es/train/800",
        "fleurs/ca_es/validation/900",
        "fleurs/ca_es/test/701",
        "fleurs/ca_es/test/501",
        "fleurs/ca_es/test/401",
    ]
    assert data["split"][:] == ["train", "train", "validation", "test", "test", "test"]
    row = data[3]
    assert row["text"] == "ca_es test 7"
    assert row["speaker"] == "female"
    assert row["room_or_category"] == "fleurs"
    assert row["language"] == "ca"
    assert row["duration"] == 0.3
    assert len(read_audio(row["audio"])) == 4800
    assert report["source"] == "folder"
    assert report["release"] is None
    assert report["malformed"] == 0
    assert set(report["tables"]) == {"ca_es/train.tsv", "ca_es/dev.tsv", "ca_es/test.tsv"}
    assert nothing_unpacked_is_left()


def test_the_english_sentence_is_the_first_of_the_same_id(folder):
    data = load_corpus("fleurs", "ca")
    english = dict(zip(data["id"][:], data["translation_en"][:], strict=True))
    assert english["fleurs/ca_es/train/700"] == english["fleurs/ca_es/test/701"] == "en_us train 7"
    assert english["fleurs/ca_es/validation/900"] == "en_us dev 9"
    assert english["fleurs/ca_es/test/501"] == "en_us test 5"
    assert english["fleurs/ca_es/train/800"] == english["fleurs/ca_es/test/401"] == ""
    assert corpus_report("fleurs", "ca")["with_english"] == 4


def test_without_english_beside_it_there_are_no_english_sentences(folder):
    shutil.rmtree(folder.parent / "en_us")
    assert set(load_corpus("fleurs", "ca")["translation_en"]) == {""}
    assert corpus_report("fleurs", "ca")["with_english"] == 0


def test_archives_unpacked_sounds_and_parquet_give_the_same(folder, tmp_path, monkeypatch):
    first = load_corpus("fleurs", "ca").to_list()
    fingerprint = corpus_report("fleurs", "ca")["fingerprint"]
    other = make_fleurs(tmp_path / "unpacked", packed=False)
    english = make_fleurs(tmp_path / "unpacked", "en_us", ENGLISH_ROWS, packed=False)
    assert elsewhere(monkeypatch, tmp_path, other.parent) == first
    for split in ("train", "dev", "test"):
        (other / "audio" / split).rename(other / split)
    assert elsewhere(monkeypatch, tmp_path, other.parent) == first
    for split in ("train", "dev", "test"):
        (other / split).rename(other / "audio" / split)
    hub = make_fleurs_parquet(tmp_path / "parquet", other)
    make_fleurs_parquet(tmp_path / "parquet", english)
    assert elsewhere(monkeypatch, tmp_path, hub.parent) == first
    report = corpus_report("fleurs", "ca")
    assert report["fingerprint"] == fingerprint
    assert report["with_english"] == 4
    assert set(report["tables"]) == {
        f"{split}/0000.parquet" for split in ("train", "validation", "test")
    }
    for folder in (hub, hub.parent / "en_us"):
        for split in ("train", "validation", "test"):
            cut_in_two(folder / split / "0000.parquet", folder / f"fleurs-{split}")
    assert elsewhere(monkeypatch, tmp_path, hub.parent) == first
    assert len(corpus_report("fleurs", "ca")["tables"]) == 6
    assert corpus_report("fleurs", "ca")["with_english"] == 4
    assert nothing_unpacked_is_left()


def test_english_itself_is_its_own_translation(folder):
    data = load_corpus("fleurs", "en")
    assert data["translation_en"][2:] == ["en_us train 7", "en_us test 5"]
    assert data["text"][2] == "en_us test 7"


def test_without_a_folder_the_published_files_of_the_pinned_commit_are_fetched(
    tmp_path, monkeypatch
):
    make_fleurs(tmp_path / "hub", "en_us", ENGLISH_ROWS)
    make_fleurs(tmp_path / "hub")
    calls = []
    monkeypatch.setattr(
        fleurs,
        "snapshot_download",
        lambda *args, **kw: calls.append((args, kw)) or tmp_path / "hub",
    )
    assert len(load_corpus("fleurs", "ca")) == 6
    assert calls == [
        (
            ("google/fleurs",),
            {
                "repo_type": "dataset",
                "revision": "70bb2e84b976b7e960aa89f1c648e09c59f894dd",
                "allow_patterns": [
                    "data/ca_es/*.tsv",
                    "data/ca_es/audio/*.tar.gz",
                    "data/en_us/*.tsv",
                ],
            },
        )
    ]
    assert corpus_report("fleurs", "ca")["source"] == "hub"
    assert corpus_release("fleurs", "ca") == REVISION


def test_without_the_hub_the_error_says_what_to_do(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise LocalEntryNotFoundError("no connection\nmore")

    monkeypatch.setattr(fleurs, "snapshot_download", fail)
    with pytest.raises(
        OSError,
        match=r"no FLEURS in ca_es: looked for a folder ca_es under .*lab/fleurs, and could not "
        r"fetch .*google/fleurs \(LocalEntryNotFoundError: no connection\).*no account.*"
        "put data/ca_es",
    ):
        load_corpus("fleurs", "ca")


def test_every_code_is_that_of_one_of_whispers_languages():
    assert set(CORPORA["fleurs"]) == set(CODES) <= set(LANGUAGES)
    assert len(set(CODES.values())) == len(CODES) > 75
    some = "ca cs gl hu pl ta th uk en es fr nl ro ru de it pt zh no"
    assert " ".join(CODES[code] for code in some.split()) == (
        "ca_es cs_cz gl_es hu_hu pl_pl ta_in th_th uk_ua en_us es_419 fr_fr nl_nl ro_ro "
        "ru_ru de_de it_it pt_br cmn_hans_cn nb_no"
    )
    with pytest.raises(ValueError, match="fleurs has no language 'latin': it has af, am"):
        load_corpus("fleurs", "latin")


def test_a_copy_of_the_hubs_repository_has_tables_in_one_folder_and_parquet_in_another(
    folder, tmp_path, monkeypatch
):
    first = load_corpus("fleurs", "ca").to_list()
    plain = make_fleurs(tmp_path / "plain", packed=False)
    hub = make_fleurs_parquet(tmp_path / "hub", plain)
    copy = folder.parent.parent / "parquet-data" / "ca_es"
    copy.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        (hub / split / "0000.parquet").rename(copy / f"{split}-00000-of-00001.parquet")
    assert elsewhere(monkeypatch, tmp_path, folder.parent.parent) == first
    assert corpus_report("fleurs", "ca")["tables"].keys() >= {"ca_es/test.tsv"}

    shutil.rmtree(folder)  # the parquet files alone
    assert elsewhere(monkeypatch, tmp_path, copy.parent) == [
        row | {"translation_en": ""} for row in first
    ]


def test_parquet_files_without_paths_have_those_of_the_sounds(tmp_path):
    hub = make_fleurs_parquet(tmp_path / "hub", make_fleurs(tmp_path / "own", packed=False))
    for path in hub.rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["path"]), path)
    assert load_corpus("fleurs", "ca", hub)["id"][0] == "fleurs/ca_es/train/700"


@pytest.mark.parametrize("ending", [".tar", ".zip", ".tgz"])
def test_sounds_may_be_packed_otherwise_and_the_folder_in_upper_case(tmp_path, ending):
    folder = make_fleurs(tmp_path / "own", packed=False)
    sounds = folder / "audio" / "test"
    if ending == ".zip":
        pack_zip(sounds, folder / "audio" / f"test{ending}")
    else:
        packed = pack(sounds, folder / "audio" / f"test{ending}")
        if ending == ".tar":
            packed.write_bytes(gzip.decompress(packed.read_bytes()))
    shutil.rmtree(sounds)
    folder.rename(folder.with_name("CA_ES"))
    assert len(load_corpus("fleurs", "ca", tmp_path / "own")) == 6


def test_tables_without_sounds_say_what_to_download(tmp_path):
    folder = make_fleurs(tmp_path / "own")
    (folder / "audio" / "dev.tar.gz").unlink()
    with pytest.warns(
        UserWarning,
        match=r"\(no sound file: 1\).*looked for .*audio/dev/900.wav and for .*dev.tar.gz; there "
        "are no sounds of this table: download them as well",
    ):
        load_corpus("fleurs", "ca", folder)


def test_a_row_of_parquet_without_a_name_or_gender_does_not_lose_the_others(tmp_path):
    hub = make_fleurs_parquet(tmp_path / "hub", make_fleurs(tmp_path / "own", packed=False))
    path = hub / "test" / "0000.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["path"] = None
    rows[1]["gender"] = None
    pq.write_table(table.from_pylist(rows, schema=table.schema), path)
    with pytest.warns(UserWarning, match="ca_es/test:1: no name of a sound file"):
        data = load_corpus("fleurs", "ca", hub)
    assert data["speaker"][3:] == ["other", "male"]


@pytest.mark.parametrize("path", ["..", "a\0.wav", f"{'x' * 300}.wav", "", None])
def test_a_row_of_parquet_with_a_name_that_no_file_can_have_is_a_flaw(tmp_path, path):
    hub = make_fleurs_parquet(tmp_path / "hub", make_fleurs(tmp_path / "own", packed=False))
    change_row(hub / "test" / "0000.parquet", path=path)
    with pytest.warns(UserWarning, match="1 of 6 lines .*ca_es/test:1: no name of a sound file"):
        assert len(load_corpus("fleurs", "ca", hub)) == 5


def test_a_path_of_windows_in_parquet_is_found(tmp_path):
    hub = make_fleurs_parquet(tmp_path / "hub", make_fleurs(tmp_path / "own", packed=False))
    first = change_row(hub / "test" / "0000.parquet")
    name = first["path"].split("/")[-1]
    change_row(hub / "test" / "0000.parquet", path=f"C:\\cache\\{name}")
    assert len(load_corpus("fleurs", "ca", hub)) == 6


def test_a_row_of_parquet_without_path_and_sound_is_a_flaw(tmp_path):
    hub = make_fleurs_parquet(tmp_path / "hub", make_fleurs(tmp_path / "own", packed=False))
    for path in hub.rglob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["path"]), path)
    change_row(hub / "test" / "0000.parquet", audio=None)
    with pytest.warns(UserWarning, match="1 of 6 lines .*ca_es/test:1: no name of a sound file"):
        assert len(load_corpus("fleurs", "ca", hub)) == 5


def test_a_parquet_file_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    hub = make_fleurs_parquet(tmp_path / "hub", make_fleurs(tmp_path / "own", packed=False))
    sound = {"bytes": bytes(2 << 20), "path": "700.wav"}
    change_row(hub / "train" / "0000.parquet", audio=sound)
    with pytest.raises(ValueError, match="refused 0000.parquet: it unpacks to more than 1 MB"):
        load_corpus("fleurs", "ca", hub)


def change_row(file, **cells):
    """Change cells of the first row of a parquet file; returns the row as it was."""
    table = pq.read_table(file)
    rows = table.to_pylist()
    before = dict(rows[0])
    rows[0] |= cells
    pq.write_table(table.from_pylist(rows, schema=table.schema), file)
    return before


@pytest.mark.parametrize("asked", ["es-ES", "pt-PT", "en_GB"])
def test_a_region_that_the_corpus_does_not_have_is_refused(asked):
    with pytest.raises(ValueError, match=f"(has .* not|has no language) '{asked}'"):
        load_corpus("fleurs", asked)


# ---- damage


def test_only_the_test_split_must_be_there(folder, tmp_path):
    (folder / "train.tsv").unlink()
    assert set(load_corpus("fleurs", "ca")["split"]) == {"validation", "test"}
    english = folder.parent / "en_us"
    (english / "test.tsv").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"en_us has no test split \(test.tsv, test/\*.parquet or fleurs-test",
    ):
        load_corpus("fleurs", "en")
    with pytest.raises(
        FileNotFoundError,
        match=f"no folder th_th under {tmp_path}/lab.*audio/test.tar.gz.*no source",
    ):
        load_corpus("fleurs", "th", tmp_path / "lab")


def test_sounds_and_rows_that_cannot_be_used_are_counted_by_name(tmp_path):
    folder = make_fleurs(tmp_path / "own", packed=False)
    (folder / "audio" / "test" / "701.wav").unlink()
    (folder / "audio" / "test" / "501.wav").write_bytes(b"")
    (folder / "audio" / "dev" / "900.wav").write_bytes(b"\x00\xff" * 500)
    with open(folder / "test.tsv", "ab") as table:
        table.write(b"1\t2.wav\n\n3\t4.wav\tr\t\xff\t\t0\tMALE\n")
    with pytest.warns(
        UserWarning,
        match=r"fleurs in ca: 5 of 8 lines are left out \(empty audio: 1, no sound file: 1, "
        r"unreadable audio: 1, malformed row: 2\); .*fleurs-ca/report.json names them",
    ) as caught:
        load_corpus("fleurs", "ca", tmp_path / "own")
    assert len(caught) == 1
    assert caught[0].filename == __file__  # of the line that called load_corpus
    with warnings.catch_warnings(action="error"):  # once, not each time
        load_corpus("fleurs", "ca", tmp_path / "own")
    report = corpus_report("fleurs", "ca")
    assert report["dropped_ids"] == {
        "no sound file": ["fleurs/ca_es/test/701"],
        "empty audio": ["fleurs/ca_es/test/501"],
        "unreadable audio": ["fleurs/ca_es/validation/900"],
    }
    assert report["dropped_by_split"]["test"] == {"no sound file": 1, "empty audio": 1}
    assert report["malformed_rows"] == [
        "ca_es/test.tsv:4: 2 columns instead of 7",
        "ca_es/test.tsv:6: not UTF-8: save the table as UTF-8",
    ]
    assert report["items"] == 6
    assert report["kept"] == 3


def test_a_missing_sound_is_told_with_the_nearest_name_there(tmp_path):
    folder = make_fleurs(tmp_path / "own", packed=False)
    sounds = folder / "audio" / "test"
    (sounds / "701.wav").rename(sounds / "7O1.wav")
    pack(sounds, folder / "audio" / "test.tar.gz")
    shutil.rmtree(sounds)
    with pytest.warns(
        UserWarning,
        match=r"no sound file: 1.*: looked for 701.wav in .*test.tar.gz; the nearest name there is "
        "7O1.wav",
    ):
        load_corpus("fleurs", "ca", folder)


def test_a_damaged_archive_is_named_and_replacing_it_is_enough(folder):
    archive = folder / "audio" / "test.tar.gz"
    content = archive.read_bytes()
    for damaged in (content[:-9], b"\x00" * 100):
        archive.write_bytes(damaged)
        with pytest.raises(
            ValueError, match="(?s)test.tar.gz is damaged or cut off .*: download it again"
        ):
            load_corpus("fleurs", "ca")
    archive.write_bytes(gzip.compress(tar_bytes({"../evil.wav": b"x"})))
    with pytest.raises(
        ValueError, match="refused test.tar.gz: its member '../evil.wav' leads outside"
    ):
        load_corpus("fleurs", "ca")
    archive.write_bytes(content)
    assert len(load_corpus("fleurs", "ca")) == 6


def test_a_damaged_parquet_file_is_named(tmp_path):
    hub = make_fleurs_parquet(tmp_path / "parquet", make_fleurs(tmp_path / "own", packed=False))
    path = hub / "test" / "0000.parquet"
    content = path.read_bytes()
    table = pq.read_table(path)
    path.write_bytes(content[:-20])
    with pytest.raises(
        ValueError, match="0000.parquet is damaged or cut off .*: download it again"
    ):
        load_corpus("fleurs", "ca", hub)
    pq.write_table(table.drop_columns(["transcription"]), path)
    with pytest.raises(
        ValueError, match="test/0000.parquet lacks the column transcription: is it FLEURS"
    ):
        load_corpus("fleurs", "ca", hub)
    rows = table.to_pylist()
    rows[0]["audio"]["bytes"] = None
    rows[1]["transcription"] = None
    pq.write_table(table.from_pylist(rows, schema=table.schema), path)
    with pytest.warns(UserWarning, match=r"2 of 6 lines .*\(empty audio: 1, empty text: 1\)"):
        load_corpus("fleurs", "ca", hub)
    assert corpus_report("fleurs", "ca")["dropped"] == {"empty audio": 1, "empty text": 1}
