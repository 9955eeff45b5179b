"""Common Voice: choice by votes, id lists, folder and archive, shards, killed runs, damage."""

import errno
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import soundfile
from damage import damaged
from made_corpora import (
    CV_ROWS,
    cv_row,
    make_common_voice,
    make_first_common_voice,
    pack,
    pack_zip,
    tone,
)

from distilwhisper_lib.data.audio import read_audio
from distilwhisper_lib.data.corpora import archives, common_voice, items, loading, shards
from distilwhisper_lib.data.corpora.common_voice import most_voted
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.registry import FEATURES, corpus_folder
from distilwhisper_lib.data.corpora.reports import corpus_release, corpus_report
from distilwhisper_lib.data.corpora.selection import select
from distilwhisper_lib.files import cache_dir

NAME = "common-voice-3k"


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Use 4 training and 2 validation clips, shards of 3, and the test's own folders."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(common_voice, "SIZES", {NAME: (4, 2), "common-voice-10k": (5, 3)})
    monkeypatch.setattr(shards, "SHARD", 3)
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))


@pytest.fixture
def folder(tmp_path):
    return make_common_voice(tmp_path / "data" / "common-voice")


def numbers(data, split: str) -> list[int]:
    return [
        int(name.rsplit("_", 1)[1])
        for name, other in zip(data["id"][:], data["split"][:], strict=True)
        if other == split
    ]


def rows_of(data) -> list[dict]:
    return sorted(data.to_list(), key=lambda row: row["id"])


def store() -> Path:
    """Return the folder of the decoded clips that all sizes share."""
    return corpus_folder("common-voice", "ca")


def append(path: Path, line: str | bytes) -> None:
    with open(path, "ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())


def test_up_votes_then_down_votes_then_the_place_in_the_file_decide():
    votes = [(2, 0), (5, 1), (5, 0), (2, 0), (2, 1), (10, 4), (2, 0)]
    rows = [
        {"path": i, "up_votes": str(up), "down_votes": str(down)}
        for i, (up, down) in enumerate(votes)
    ]
    assert [row["path"] for row in most_voted(rows, 99)] == [5, 2, 1, 0, 3, 6, 4]
    assert [row["path"] for row in most_voted(iter(rows), 5)] == [5, 2, 1, 0, 3]


def test_a_release_becomes_a_dataset(folder):
    data = load_corpus(NAME, "catalan")
    assert data.features == FEATURES
    assert data.info.dataset_name == NAME
    assert numbers(data, "train") == [6, 3, 2, 1]
    assert numbers(data, "validation") == [13, 12]
    assert numbers(data, "test") == [21, 22]  # all of it, whatever its votes
    row = next(row for row in data if row["id"] == "common-voice/ca/common_voice_ca_21")
    assert row["text"] == 'Frase "21.'
    assert row["speaker"] == "speaker0"
    assert row["language"] == "ca"
    assert row["room_or_category"] == "common-voice"
    assert row["translation_en"] == ""
    assert row["split"] == "test"
    assert row["audio"]["bytes"][:4] == b"fLaC"
    assert 0.3 <= row["duration"] < 0.4  # mp3 pads
    sound = read_audio(folder / "clips" / "common_voice_ca_21.mp3")
    assert abs(read_audio(row["audio"]) - sound).max() < 1e-4
    assert len(select(data, "train", 2)) == 2


def test_the_report_has_release_counts_and_hashes(folder):
    data = load_corpus(NAME, "ca")
    report = corpus_report(NAME, "ca")
    assert report["release"] == corpus_release(NAME, "ca") == "cv-corpus-13.0-2023-03-09"
    assert report["items"] == report["kept"] == len(data) == 8
    assert not report["dropped"]
    assert report["malformed"] == 0
    assert report["splits"]["test"]["clips"] == 2
    assert report["splits"]["train"]["minutes"] > 0
    assert set(report["tables"]) == {"ca/train.tsv", "ca/dev.tsv", "ca/test.tsv"}
    assert len(report["shards"]) == 3
    assert report["source"] == "folder"
    assert report["chosen_by"] == "votes"
    assert len(report["fingerprint"]) == 64


def test_a_larger_size_has_the_smaller_one_in_it_and_the_same_test(folder):
    small = load_corpus(NAME, "ca")
    large = load_corpus("common-voice-10k", "ca")
    assert numbers(large, "train") == [6, 3, 2, 1, 4]
    assert numbers(large, "test") == numbers(small, "test")
    assert set(small["id"]) < set(large["id"])


def test_archive_and_folder_give_the_same_corpus(folder, tmp_path, monkeypatch):
    first = rows_of(load_corpus(NAME, "ca"))
    report = corpus_report(NAME, "ca")
    archive = pack(
        folder, tmp_path / "packed" / "mcv-scripted-ca-v13.0.tar.gz", root=folder.parent.parent
    )
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    assert rows_of(load_corpus(NAME, "ca", archive)) == first
    again = corpus_report(NAME, "ca")
    assert again["fingerprint"] == report["fingerprint"]
    assert again["shards"] == report["shards"]
    assert again["source"] == "archive"
    assert again["release"] == "cv-corpus-13.0-2023-03-09"
    assert again["archive"] == archive.name
    assert again["tables"] == report["tables"]
    assert not [path for path in Path(tempfile.tempdir).rglob("*") if path.is_file()]


def test_an_archive_is_found_by_the_locale_in_its_name(folder, tmp_path, monkeypatch):
    data = tmp_path / "other"
    archives = [
        pack(folder, data / "common-voice" / name, root=folder.parent.parent)
        for name in ("mcv-scripted-ca-v24.0.tar.gz", "mcv-scripted-cs-v24.0.tar.gz")
    ]
    monkeypatch.setenv("LAB_DATA", str(data))
    assert len(load_corpus(NAME, "ca")) == 8
    with pytest.raises(
        FileNotFoundError,
        match=f"{archives[1].name} has no cs/train.tsv: is it Common Voice in 'cs'",
    ):
        load_corpus(NAME, "cs")
    archives[1].rename(archives[1].with_name("cv-corpus-13.0-2023-03-09-ca.tar.gz"))
    with pytest.raises(
        ValueError,
        match="several archives with ca in their names .*cv-corpus.*mcv.*give one as source",
    ):
        load_corpus("common-voice-10k", "ca")


@pytest.mark.parametrize(
    ("place", "archive", "release"),
    [
        ("cv-corpus-24.0-2025-12-05", "mcv-scripted-ca-v24.0.tar.gz", "cv-corpus-24.0-2025-12-05"),
        ("data", "mcv-scripted-ca-v24.0.tar.gz", "mcv-scripted-ca-v24.0"),
        ("data", "ca.tar.gz", "unknown"),
    ],
)
def test_the_release_is_named_by_folder_or_archive(tmp_path, place, archive, release):
    folder = make_common_voice(tmp_path / "x", release=place)
    load_corpus(NAME, "ca", pack(folder, tmp_path / archive, root=folder.parent.parent))
    assert corpus_release(NAME, "ca") == release


def test_only_the_chosen_clips_are_unpacked_and_read(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(items, "read_audio", lambda path: seen.append(path) or read_audio(path))
    unpacked = []
    extract = tarfile.TarFile.extract

    def noting(self, member, *args, **kwargs):
        unpacked.append(Path(member.name).name)
        return extract(self, member, *args, **kwargs)

    monkeypatch.setattr(tarfile.TarFile, "extract", noting)
    load_corpus(NAME, "ca", pack(folder, tmp_path / "ca.tar.gz", root=folder.parent.parent))
    chosen = {f"common_voice_ca_{i}.mp3" for i in (1, 2, 3, 6, 12, 13, 21, 22)}
    assert {path.name for path in seen} == chosen
    assert len(seen) == 8
    # Unpacked in the temporary folder: the cache may be on a slow drive.
    assert all(path.is_relative_to(tempfile.tempdir) for path in seen)
    assert set(unpacked) == chosen | {"train.tsv", "dev.tsv", "test.tsv"}
    assert len(unpacked) == 11


def test_the_ids_are_written_and_a_given_list_replaces_the_rule(folder, tmp_path, monkeypatch):
    load_corpus(NAME, "ca")
    written = pd.read_csv(corpus_folder(NAME, "ca") / "ids.csv")
    assert list(written.columns) == ["split", "id"]
    assert len(written) == 8
    assert written.iloc[0].tolist() == ["train", "common-voice/ca/common_voice_ca_6"]
    lines = [("train", 4), ("train", 99), ("train", 1), ("validation", 11)]
    listed = "split,id\n" + "".join(f"{split},common_voice_ca_{i}.mp3\n" for split, i in lines)
    (folder / "ids-3k.csv").write_text(listed)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    with pytest.warns(UserWarning, match=r"1 of 6 lines are left out \(malformed row: 1\)"):
        data = load_corpus(NAME, "ca")
        report = corpus_report(NAME, "ca")
    assert numbers(data, "train") == [4, 1]
    assert numbers(data, "validation") == [11]
    assert numbers(data, "test") == [21, 22]
    assert report["chosen_by"] == "ids-3k.csv"
    assert "ca/ids-3k.csv" in report["tables"]
    assert report["malformed_rows"] == ["id list: common_voice_ca_99 is not in train.tsv"]
    assert report["found_of_list"] == {"train": "2 of 3", "validation": "1 of 1"}
    (folder / "ids-10k.csv").write_text("split,id\ndev,common_voice_ca_1.mp3\n")
    with pytest.raises(
        ValueError,
        match="ca/ids-10k.csv:2: split 'dev' in the id list: use one of train, validation",
    ):
        load_corpus("common-voice-10k", "ca")


def test_a_list_of_which_a_part_is_there_is_told(folder):
    (folder / "ids-3k.csv").write_text(
        "split,id\ntrain,common_voice_ca_4\ntrain,common_voice_ca_98\ntrain,common_voice_ca_99\n"
    )
    told = r"ca/ids-3k.csv: train.tsv has 1 of the 3 clips that the list names"
    with pytest.warns(UserWarning, match=told) as caught:
        data = load_corpus(NAME, "ca")
    assert [warning.filename for warning in caught if "ids-3k" in str(warning.message)][0] == (
        __file__
    )
    assert numbers(data, "train") == [4]


def test_a_list_without_a_clip_of_the_release_is_refused(folder):
    lines = "split,id\ntrain,common_voice_ca_4\nvalidation,common_voice_cs_11\n"
    (folder / "ids-3k.csv").write_text(lines)
    with pytest.raises(
        ValueError,
        match=r"ca/ids-3k.csv: dev.tsv has none of the 1 clips that the list names for it "
        r"\(the first is common_voice_cs_11\): is the list of this language and this release",
    ):
        load_corpus(NAME, "ca")
    assert not corpus_folder(NAME, "ca").exists()


@pytest.mark.parametrize("number", ["4", "12.0", "common-voice/ca/4"])
def test_row_numbers_in_an_id_list_are_refused_with_the_reason(folder, number):
    (folder / "ids-3k.csv").write_text(f"split,id\ntrain,common_voice_ca_1\ntrain,{number}\n")
    with pytest.raises(
        ValueError,
        match=r"ca/ids-3k.csv:3: the id [\d.]+ is a number. .*rows of the dataset that was on the "
        "hub, in the order of its archives.*Give file names .*or remove the list",
    ):
        load_corpus(NAME, "ca")
    assert not corpus_folder(NAME, "ca").exists()


def test_an_id_list_written_for_one_is_read_by_another_also_beside_an_archive(
    folder, tmp_path, monkeypatch
):
    first = load_corpus(NAME, "ca")["id"][:]
    listed = (corpus_folder(NAME, "ca") / "ids.csv").read_bytes()
    archive = pack(folder, tmp_path / "packed" / "ca.tar.gz", root=folder.parent.parent)
    (archive.parent / "ca").mkdir()
    (archive.parent / "ca" / "ids-3k.csv").write_bytes(listed)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(common_voice, "most_voted", lambda *_: pytest.fail("chosen by votes"))
    assert load_corpus(NAME, "ca", archive.parent)["id"][:] == first


# ---- other releases and layouts


@pytest.mark.parametrize("name", ["cv-corpus-13.0-ca.ZIP", "ca.zip", "mcv-CA-v24.0.Tar.Gz"])
@pytest.mark.parametrize("sign", ["/", "\\"])
def test_an_archive_is_read_whatever_the_case_of_its_ending_and_the_signs_in_its_paths(
    folder, tmp_path, monkeypatch, name, sign
):
    first = rows_of(load_corpus(NAME, "ca"))
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    root = folder.parent.parent
    if name.lower().endswith("zip"):
        archive = pack_zip(folder, tmp_path / "packed" / name, root, sign)
    else:
        archive = pack(folder, tmp_path / "packed" / name, root=root)
    assert rows_of(load_corpus(NAME, "ca", archive.parent)) == first


def test_a_clip_that_an_archive_lacks_is_told_by_the_place_in_the_archive(folder, tmp_path):
    (folder / "clips" / "common_voice_ca_6.mp3").unlink()
    archive = pack(folder, tmp_path / "ca.tar.gz", root=folder.parent.parent)
    with pytest.warns(
        UserWarning,
        match=rf"looked for {archive}/cv-corpus-13.0-2023-03-09/ca/clips/common_voice_ca_6.mp3; "
        r"the nearest name there is clips/common_voice_ca_\d+.mp3",
    ):
        load_corpus(NAME, "ca", archive)


def test_folders_among_the_members_of_a_zip_do_no_harm(folder, tmp_path):
    archive = pack_zip(folder, tmp_path / "ca.zip", folder.parent.parent)
    with zipfile.ZipFile(archive, "a") as file:
        for name in ("./", "/", "cv-corpus-13.0-2023-03-09/", "../"):
            file.writestr(name, b"")
        file.writestr(".", b"no name")
    assert len(load_corpus(NAME, "ca", archive)) == 8


@pytest.mark.parametrize("ending", ["tar.zst", "7z", "rar", "tar.gz.1"])
def test_an_archive_of_another_kind_is_said_to_be_one(tmp_path, ending):
    archive = tmp_path / f"cv-corpus-13.0-2023-03-09-ca.{ending}"
    archive.write_bytes(b"packed")
    with pytest.raises(ValueError, match=f"-ca.{ending} is not an archive that can be read: give"):
        load_corpus(NAME, "ca", archive)
    if ending != "tar.gz.1":
        with pytest.raises(FileNotFoundError, match=f"is .*-ca.{ending}, which cannot be read her"):
            load_corpus(NAME, "ca", tmp_path)


def test_an_encrypted_zip_says_what_to_do(folder, tmp_path):
    archive = pack_zip(folder, tmp_path / "ca.zip")
    content = bytearray(archive.read_bytes())
    for start, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flag of each member
        place = content.find(start)
        while place >= 0:
            content[place + offset] |= 1
            place = content.find(start, place + 1)
    archive.write_bytes(content)
    with pytest.raises(ValueError, match=r"ca.zip cannot be unpacked here \(.*unpack it yourself"):
        load_corpus(NAME, "ca", archive)


@pytest.mark.parametrize("packed", [True, False])
def test_release_1_has_no_endings_in_its_tables_and_no_folder_in_its_archives(
    folder, tmp_path, monkeypatch, packed
):
    first = rows_of(load_corpus(NAME, "ca"))
    for table in CV_ROWS:
        path = folder / f"{table}.tsv"
        path.write_text(path.read_text(encoding="utf-8").replace(".mp3", ""), encoding="utf-8")
    folder = folder.rename(folder.parent / "unpacked")
    source = pack(folder, tmp_path / "ca.tar.gz", root=folder) if packed else folder
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    assert rows_of(load_corpus(NAME, "ca", source)) == first


@pytest.mark.parametrize("packed", [True, False])
def test_the_release_of_2017_is_read_and_its_clips_stay_apart(tmp_path, packed):
    folder = make_first_common_voice(tmp_path / "data" / "common-voice")
    source = None
    if packed:
        source = pack(folder, tmp_path / "cv_corpus_v1.tar.gz")
        shutil.rmtree(folder)
    data = load_corpus(NAME, "en", source)
    found = dict(zip(data["id"][:], data["text"][:], strict=True))
    start = "common-voice/en/cv-valid"
    assert found == {
        f"{start}-train/sample-000005": "sentence 6",
        f"{start}-train/sample-000002": "sentence 3",
        f"{start}-train/sample-000001": "sentence 2",
        f"{start}-train/sample-000000": "sentence 1",
        f"{start}-dev/sample-000002": "sentence 13",
        f"{start}-dev/sample-000001": "sentence 12",
        f"{start}-test/sample-000000": "sentence 21",
        f"{start}-test/sample-000001": "sentence 22",
    }
    assert corpus_release(NAME, "en") == "cv_corpus_v1"
    assert set(data["speaker"]) == {"unknown"}


def test_clips_are_found_under_another_spelling(folder):
    clips = folder / "clips"
    (clips / "common_voice_ca_6.mp3").rename(clips / "Common_Voice_ca_6.MP3")
    for table in CV_ROWS:
        path = folder / f"{table}.tsv"
        path.write_text(
            path.read_text(encoding="utf-8").replace("common_voice_ca_2", "clips/common_voice_ca_2")
        )
    assert numbers(load_corpus(NAME, "ca"), "train") == [6, 3, 2, 1]


DELTA = "cv-corpus-13.0-delta-2023-03-09"


def test_a_delta_release_is_said_to_be_one_and_does_not_hide_the_full_one(folder, tmp_path):
    delta = make_common_voice(tmp_path / "delta", release=DELTA)
    archive = pack(delta, tmp_path / "packed" / f"{DELTA}-ca.tar.gz")
    for source in (delta, delta.parent.parent, archive, archive.parent):
        with pytest.raises(
            FileNotFoundError,
            match=f"{DELTA}.* is a delta release of Common Voice: .*Download the full release in",
        ):
            load_corpus(NAME, "ca", source)
    shutil.copytree(delta, folder.parent.parent / DELTA / "ca")
    assert len(load_corpus(NAME, "ca")) == 8
    assert corpus_release(NAME, "ca") == "cv-corpus-13.0-2023-03-09"


@pytest.mark.parametrize(
    ("language", "there"), [("sv", "sv-SE"), ("sv", "sv"), ("jw", "jv"), ("no", "nb-NO")]
)
def test_a_language_is_found_under_any_name_that_releases_have_for_it(tmp_path, language, there):
    make_common_voice(tmp_path / "data" / "common-voice", there)
    assert len(load_corpus(NAME, language)) == 8


def test_a_release_of_another_variety_of_the_language_is_named(tmp_path):
    make_common_voice(tmp_path / "data" / "common-voice", "zh-TW")
    with pytest.raises(
        FileNotFoundError,
        match="no Common Voice in 'zh-CN'.*There is .*zh-TW, which is not zh-CN: to use it for "
        "'zh' all the same, .*rename its folder zh-TW to zh-CN",
    ):
        load_corpus(NAME, "zh")


def test_releases_in_other_languages_are_named(tmp_path):
    make_common_voice(tmp_path / "data" / "common-voice", "cs")
    with pytest.raises(FileNotFoundError, match=r"There is: .*cv-corpus-13.0-2023-03-09/cs\. It"):
        load_corpus(NAME, "ca")


def test_tables_of_another_language_in_the_folder_are_refused(tmp_path):
    folder = make_common_voice(tmp_path / "data" / "common-voice", "cs")
    folder.rename(folder.with_name("ca"))
    with pytest.raises(
        ValueError, match="ca/train.tsv:2: the table is of the locale 'cs', not of 'ca'"
    ):
        load_corpus(NAME, "ca")


@pytest.mark.parametrize("asked", ["zh-TW", "zh_HK", "zh-Hant", "sv-FI"])
def test_a_region_that_the_corpus_does_not_have_is_refused(asked):
    with pytest.raises(ValueError, match=f"(has .* not|has no language) '{asked}'"):
        load_corpus(NAME, asked)


def test_a_row_without_a_clip_or_with_too_long_a_name_is_a_flaw_with_its_line(folder):
    append(folder / "test.tsv", cv_row("ca", 1, 0, 0).replace("common_voice_ca_1.mp3", ""))
    append(folder / "test.tsv", cv_row("ca", 1, 0, 0).replace("common_voice_ca_1", "x" * 300))
    with pytest.warns(UserWarning, match=r"2 of 10 lines are left out \(malformed row: 2\)"):
        assert numbers(load_corpus(NAME, "ca"), "test") == [21, 22]
    flaws = corpus_report(NAME, "ca")["malformed_rows"]
    assert flaws[0] == "ca/test.tsv:4: no path of a sound file"
    assert flaws[1].startswith("ca/test.tsv:5: 'clips/xxx")
    assert flaws[1].endswith("cannot be looked for (File name too long)")


# ---- killed runs


class Killed(BaseException):
    pass


def killed_at(monkeypatch, owner, name: str, call: int):
    """Have the call of that number of a function end the run."""
    original = getattr(owner, name)
    calls = []

    def function(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, function)
    return calls


def test_a_run_killed_in_the_second_shard_continues_there(folder, tmp_path, monkeypatch):
    whole = rows_of(load_corpus(NAME, "ca"))
    report = corpus_report(NAME, "ca")
    archive = pack(folder, tmp_path / "ca.tar.gz", root=folder.parent.parent)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    for owner, name in ((shards, "read_rows"), (os, "replace")):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            killed_at(patch, owner, name, 2)
            load_corpus(NAME, "ca", archive)
        assert not corpus_folder(NAME, "ca").exists()
    with monkeypatch.context() as patch:
        patch.setattr(common_voice, "unpack_once", lambda *_: None)  # all of it is there
        calls = killed_at(patch, shards, "read_rows", 9)
        assert rows_of(load_corpus(NAME, "ca", archive)) == whole
        assert len(calls) == 2
    assert corpus_report(NAME, "ca")["fingerprint"] == report["fingerprint"]
    assert corpus_report(NAME, "ca")["splits"] == report["splits"]
    assert not [path for path in (cache_dir() / "corpora").iterdir() if "partial" in path.name]


@pytest.mark.parametrize("left", ["nothing", "folders", "all"])
def test_a_killed_run_continues_whatever_is_left_of_the_temporary_folder(
    folder, tmp_path, monkeypatch, left
):
    whole = rows_of(load_corpus(NAME, "ca"))
    archive = pack(folder, tmp_path / "ca.tar.gz", root=folder.parent.parent)
    monkeypatch.setenv("LAB_CACHE", str(tmp_path / "second"))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, shards, "read_rows", 3)
        load_corpus(NAME, "ca", archive)
    if left == "nothing":  # another machine with the same cache, as on Colab
        shutil.rmtree(tempfile.tempdir)
    elif left == "folders":  # a system's cleaner takes old files first
        for path in Path(tempfile.tempdir).rglob("*"):
            if path.is_file():
                path.unlink()
    calls = killed_at(monkeypatch, shards, "read_rows", 9)
    unpacked = killed_at(monkeypatch, archives, "unpack", 9)
    assert rows_of(load_corpus(NAME, "ca", archive)) == whole
    assert len(calls) == 1
    assert len(unpacked) == (0 if left == "all" else 2)  # tables, clips


@pytest.mark.parametrize("ending", ["arrow", "json"])
@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "deleted"])
def test_a_damaged_shard_of_a_killed_run_is_decoded_anew(folder, monkeypatch, ending, damage):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, shards, "read_rows", 3)
        load_corpus(NAME, "ca")
    path = min(store().glob(f"clips-*.{ending}"))
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(damaged(path.read_bytes(), damage))
    calls = killed_at(monkeypatch, shards, "read_rows", 9)
    resumed = rows_of(load_corpus(NAME, "ca"))
    assert len(calls) == 2  # the damaged one, and the one that was not begun
    monkeypatch.setenv("LAB_CACHE", str(cache_dir().parent / "second"))
    assert rows_of(load_corpus(NAME, "ca")) == resumed


def test_the_error_for_a_full_temporary_folder_names_tmpdir(folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    archive = pack(folder, tmp_path / "ca.tar.gz", root=folder.parent.parent)
    with (
        monkeypatch.context() as patch,
        pytest.raises(
            OSError,
            match=r"no space left under .*temporary/distilwhisper-lab-\d+/"
            r"common-voice-ca-\w+: free some, or set TMPDIR",
        ),
    ):
        patch.setattr(archives, "unpack", full)
        load_corpus(NAME, "ca", archive)
    assert len(load_corpus(NAME, "ca", archive)) == 8


def test_shards_of_other_clips_are_not_kept(folder, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, shards, "read_rows", 3)
        load_corpus(NAME, "ca")
    append(folder / "train.tsv", cv_row("ca", 1, 9, 0).replace("_1.mp3", "_7.mp3"))
    (folder / "clips" / "common_voice_ca_1.mp3").rename(folder / "clips" / "common_voice_ca_7.mp3")
    assert numbers(load_corpus(NAME, "ca"), "train") == [7, 6, 3, 2]


def test_a_clip_that_is_put_right_after_a_kill_is_read_again(folder, monkeypatch):
    clip = folder / "clips" / "common_voice_ca_6.mp3"
    content = clip.read_bytes()
    clip.write_bytes(b"")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, shards, "read_rows", 3)
        load_corpus(NAME, "ca")
    clip.write_bytes(content)
    assert numbers(load_corpus(NAME, "ca"), "train") == [6, 3, 2, 1]


def test_a_full_disk_is_reported_and_the_next_run_continues(folder, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        pytest.raises(OSError, match="no space left under .*corpora.*goes on where"),
    ):
        patch.setattr(shards, "_write_arrow", full)
        load_corpus(NAME, "ca")
    assert len(load_corpus(NAME, "ca")) == 8


def test_a_prepared_corpus_is_not_prepared_again(folder, monkeypatch):
    first = load_corpus(NAME, "ca")["id"][:]
    monkeypatch.setattr(common_voice, "find_folders", lambda *_: pytest.fail("looked for again"))
    loading._OPENED.clear()  # as in another process
    assert load_corpus(NAME, "ca")["id"][:] == first


def test_a_process_opens_a_corpus_once_and_again_when_it_is_prepared_anew(folder):
    first = load_corpus(NAME, "ca")
    with pytest.warns(UserWarning, match="prepared before, from where it is looked for without"):
        assert load_corpus(NAME, "ca", folder / "nowhere") is first
    append(folder / "train.tsv", cv_row("ca", 1, 9, 0).replace("_1.mp3", "_7.mp3"))
    (folder / "clips" / "common_voice_ca_1.mp3").rename(folder / "clips" / "common_voice_ca_7.mp3")
    assert load_corpus(NAME, "ca") is first
    shutil.rmtree(corpus_folder(NAME, "ca"))
    assert numbers(load_corpus(NAME, "ca"), "train") == [7, 6, 3, 2]
    assert numbers(first, "train") == [6, 3, 2, 1]


# ---- damage


def test_clips_that_cannot_be_used_are_dropped_and_counted_by_name(folder):
    clips = folder / "clips"
    (clips / "common_voice_ca_6.mp3").unlink()
    (clips / "common_voice_ca_3.mp3").write_bytes(b"")
    (clips / "common_voice_ca_2.mp3").write_bytes(bytes(range(256)) * 9)
    soundfile.write(clips / "common_voice_ca_13.mp3", tone(30.5, 16_000), 16_000, format="MP3")
    soundfile.write(clips / "common_voice_ca_12.mp3", tone(29.8, 16_000), 16_000, format="MP3")
    append(folder / "test.tsv", cv_row("ca", 22, 0, 0))
    append(folder / "test.tsv", cv_row("ca", 11, 0, 0).replace('Frase "11.', "?!"))
    append(
        folder / "test.tsv",
        cv_row("ca", 5, 0, 0).replace('Frase "5.', "100%1 " + "molt de pressa " * 9),
    )
    with pytest.warns(
        UserWarning,
        match=r"common-voice-3k in ca: 6 of 11 lines are left out \(empty audio: 1, empty text: 1, "
        r"longer than 30 s: 1, named twice: 1, no sound file: 1, unreadable audio: 1\); "
        r".*report.json.*Longer than 30 s, for instance common-voice/ca/common_voice_ca_13: 30.5 s"
        r".*No sound file, .*looked for .*ca/clips/common_voice_ca_6.mp3; the nearest name there "
        r"is clips/common_voice_ca_.*cut longer sounds at pauses",
    ):
        data = load_corpus(NAME, "ca")
        report = corpus_report(NAME, "ca")
    name = "common-voice/ca/common_voice_ca_"
    assert report["dropped_ids"] == {
        "named twice": [f"{name}22"],
        "no sound file": [f"{name}6"],
        "longer than 30 s": [f"{name}13"],
        "empty audio": [f"{name}3"],
        "unreadable audio": [f"{name}2"],
        "empty text": [f"{name}11"],
    }
    assert report["dropped_by_split"]["train"] == {
        "no sound file": 1,
        "empty audio": 1,
        "unreadable audio": 1,
    }
    assert report["items"] == 11 == report["kept"] + sum(report["dropped"].values())
    assert numbers(data, "test") == [21, 22, 5]
    assert numbers(data, "validation") == [12]  # a fast text stays


def test_malformed_rows_are_counted_and_named(folder):
    table = folder / "train.tsv"
    append(table, "a\tb\n")
    append(table, cv_row("ca", 7, "many", 0))
    append(table, cv_row("ca", 8, 3, -1))
    append(table, cv_row("ca", 8, 99, 0).encode().replace(b"Frase", b"Fr\xe9se"))
    append(table, cv_row("ca", 9, 99, 0).replace("Frase", "Fra\rse"))
    append(table, "\n")
    append(folder / "test.tsv", cv_row("ca", 1, "", "") + "cut off")
    with pytest.warns(UserWarning, match=r"\(named twice: 1, malformed row: 6\)"):
        data = load_corpus(NAME, "ca")
        report = corpus_report(NAME, "ca")
    assert numbers(data, "train") == [6, 3, 2, 1]
    assert numbers(data, "test") == [21, 22]  # 1 is in train
    assert report["malformed"] == 6
    assert report["malformed_rows"][:4] == [
        "ca/train.tsv:8: 2 columns instead of 9",
        "ca/train.tsv:9: up_votes 'many', down_votes '0' are no numbers",
        "ca/train.tsv:10: up_votes '3', down_votes '-1' are no numbers",
        "ca/train.tsv:11: not UTF-8: save the table as UTF-8",
    ]
    assert report["malformed_rows"][4] == "ca/train.tsv:12: a line end (CR) within the row"
    assert report["malformed_rows"][5] == "ca/test.tsv:5: 1 columns instead of 9"


def test_columns_are_read_by_name_whatever_their_order(folder):
    before = {
        table: (folder / f"{table}.tsv").read_text(encoding="utf-8").splitlines()
        for table in CV_ROWS
    }
    for table, lines in before.items():
        cells = [
            ["sentence_id" if i == 0 else f"s{i}", *reversed(line.split("\t"))]
            for i, line in enumerate(lines)
        ]
        text = "\r\n".join("\t".join(row) for row in cells)
        (folder / f"{table}.tsv").write_text("\ufeff" + text, encoding="utf-8", newline="")
    data = load_corpus(NAME, "ca")
    assert numbers(data, "train") == [6, 3, 2, 1]
    assert data["text"][0] == 'Frase "6.'


@pytest.mark.parametrize("column", ["path", "sentence", "up_votes"])
def test_a_missing_column_is_named_with_its_file(folder, column):
    table = folder / "dev.tsv"
    table.write_text(
        table.read_text(encoding="utf-8").replace(column, "other", 1), encoding="utf-8"
    )
    with pytest.raises(ValueError, match=rf"ca/dev.tsv lacks the column {column} \(it has .*other"):
        load_corpus(NAME, "ca")
    table.write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"dev.tsv lacks the column client_id, path, .* \(it has none\): .*whole\?"
    ):
        load_corpus(NAME, "ca")


def test_a_release_without_a_table_or_without_clips_is_refused(folder):
    (folder / "test.tsv").rename(folder / "test")
    with pytest.raises(FileNotFoundError, match="ca has no test.tsv: give the whole release"):
        load_corpus(NAME, "ca")
    (folder / "test").rename(folder / "test.tsv")
    (folder / "clips").rename(folder / "sound")
    with pytest.raises(
        ValueError,
        match=r"nothing to hear in 'ca' \(.*test.tsv\): {'no sound file': 8}, malformed rows: 0",
    ):
        load_corpus(NAME, "ca")
    (folder / "sound").rename(folder / "clips")
    assert len(load_corpus(NAME, "ca")) == 8  # nothing of the failed run is kept


@pytest.mark.parametrize("source", [None, "nowhere", "wrong"])
def test_a_missing_release_says_what_was_looked_for_and_how_to_get_it(tmp_path, source):
    make_common_voice(tmp_path / "wrong", "cs")
    with pytest.raises(
        FileNotFoundError,
        match=r"looked for ca/train.tsv and .*cv-corpus-13.0-2023-03-09-ca.tar.gz\) "
        "under .*account.*Mozilla Data Collective.*accept.*LAB_DATA",
    ) as caught:
        load_corpus(NAME, "ca", source and tmp_path / source)
    assert str(tmp_path / source if source else tmp_path / "data" / "common-voice") in str(
        caught.value
    )
    assert not corpus_folder(NAME, "ca").exists()


def test_two_releases_side_by_side_are_not_mixed_up(folder):
    make_common_voice(folder.parent.parent, release="cv-corpus-17.0-2024-03-15")
    with pytest.raises(
        ValueError, match="several folders ca under .*13.0.*17.0.*; give one as source"
    ):
        load_corpus(NAME, "ca")
    assert len(load_corpus(NAME, "ca", folder)) == 8


@pytest.mark.parametrize("part", [0.3, 0.95, 0.999])
def test_a_truncated_archive_is_named(folder, tmp_path, part):
    archive = pack(folder, tmp_path / "ca.tar.gz", root=folder.parent.parent)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"ca.tar.gz is damaged or cut off .*: download it again"):
        load_corpus(NAME, "ca", archive)
    archive.write_bytes(content)
    assert len(load_corpus(NAME, "ca", archive)) == 8


@pytest.mark.parametrize(
    "name", ["../outside.tsv", "/outside.tsv/../../x", "cv/ca/../../../clips.mp3"]
)
def test_an_archive_with_a_member_that_leads_outside_is_refused(folder, tmp_path, name):
    archive = pack(folder, tmp_path / "ca.tar.gz", {name: b"x"}, folder.parent.parent)
    with pytest.raises(ValueError, match=r"refused ca.tar.gz: its member '.*' leads outside"):
        load_corpus(NAME, "ca", archive)
    assert not list(tmp_path.rglob("outside.tsv"))
    assert not list(tmp_path.rglob("tables"))


@pytest.mark.parametrize("kind", ["tar.gz", "zip"])
def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(
    folder, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(archives, "SMALL", 1 << 20)
    for clip in (folder / "clips").iterdir():
        clip.write_bytes(bytes(1 << 20))
    root = folder.parent.parent
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "ca.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for path in folder.rglob("*.*"):
                file.write(path, path.relative_to(root))
    else:
        pack(folder, tmp_path / "ca.tar.gz", root=root)
    with pytest.raises(ValueError, match=f"refused ca.{kind}: it unpacks to more than 1 MB"):
        load_corpus(NAME, "ca", tmp_path / f"ca.{kind}")


@pytest.mark.parametrize("trap", ["open to others", "link"])
def test_a_temporary_folder_that_others_can_write_is_not_trusted(folder, tmp_path, trap):
    archive = pack(folder, tmp_path / "ca.tar.gz", root=folder.parent.parent)
    place = Path(tempfile.tempdir) / f"distilwhisper-lab-{os.getuid()}"
    if trap == "link":
        (tmp_path / "trap").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "trap")
    else:
        place.mkdir()
        place.chmod(0o777)
    with pytest.raises(PermissionError, match="is not a folder of yours alone, .* set TMPDIR"):
        load_corpus(NAME, "ca", archive)
    place.unlink() if trap == "link" else place.rmdir()
    assert len(load_corpus(NAME, "ca", archive)) == 8
    assert place.stat().st_mode & 0o077 == 0


def test_a_path_in_a_table_never_leads_outside_of_the_clips(folder):
    (folder / "secret.mp3").write_bytes((folder / "clips" / "common_voice_ca_1.mp3").read_bytes())
    append(
        folder / "test.tsv", cv_row("ca", 3, 0, 0).replace("common_voice_ca_3.mp3", "../secret.mp3")
    )
    with pytest.warns(UserWarning, match=r"\(no sound file: 1\)"):
        load_corpus(NAME, "ca")
    assert corpus_report(NAME, "ca")["dropped_ids"] == {"no sound file": ["common-voice/ca/secret"]}


def test_a_corpus_of_an_older_builder_is_prepared_anew(folder):
    load_corpus(NAME, "ca")
    path = corpus_folder(NAME, "ca") / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"builder": 0}))
    (folder / "clips" / "common_voice_ca_6.mp3").unlink()
    with pytest.warns(UserWarning, match=r"1 of 8 lines are left out \(no sound file: 1\)"):
        assert len(load_corpus(NAME, "ca")) == 7
