"""Own recordings: columns, splits, dialects of tables, spellings of paths, changes, damage."""

import shutil
import unicodedata
import warnings
from pathlib import PurePosixPath

import numpy as np
import pytest
from damage import damaged
from made_corpora import make_recordings, write_sound

from distilwhisper_lib.data.audio import read_audio
from distilwhisper_lib.data.corpora import loading
from distilwhisper_lib.data.corpora.items import distinct_ids
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.data.corpora.preparing import first_of_each_id
from distilwhisper_lib.data.corpora.recorded import read_recordings, split_of
from distilwhisper_lib.data.corpora.registry import BUILDER, FEATURES, corpus_folder
from distilwhisper_lib.data.corpora.reports import corpus_release, corpus_report
from distilwhisper_lib.data.corpora.selection import select
from distilwhisper_lib.data.corpora.shards import write_shards
from distilwhisper_lib.data.corpora.sources import damage_of, write_source
from distilwhisper_lib.lab.own_language import open_recordings


@pytest.fixture(autouse=True)
def data(monkeypatch, tmp_path):
    monkeypatch.setenv("LAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def splits_of(dataset, column: str) -> dict[str, set[str]]:
    table: dict[str, set[str]] = {}
    for key, split in zip(dataset[column][:], dataset["split"][:], strict=True):
        table.setdefault(key, set()).add(split)
    return table


def write_csv(folder, text: str | bytes):
    folder.mkdir(parents=True, exist_ok=True)
    for name in "abcdef":
        write_sound(folder / f"{name}.wav", 0.2, 200 + ord(name), "WAV")
    (folder / "recordings.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_recordings_of_a_language_become_a_dataset(data):
    make_recordings(data / "recordings" / "gl")
    dataset = load_corpus("recordings", "gl")
    assert dataset.features == FEATURES
    assert len(dataset) == 60
    row = dataset[0]
    assert row["id"] == "recordings/gl/sound/0"
    assert row["text"] == "Hola, 0."
    assert row["speaker"] == "speaker 0"
    assert row["room_or_category"] == "recordings"
    assert row["duration"] == 0.2
    assert row["language"] == "gl"
    assert corpus_release("recordings", "gl") is None
    assert set(select(dataset, "train", 5)["language"]) == {"gl"}


def test_no_speaker_is_in_two_splits(tmp_path):
    dataset = load_corpus("recordings", "gl", make_recordings(tmp_path / "own"))
    splits = splits_of(dataset, "speaker")
    assert len(splits) == 15
    assert all(found == {split_of(speaker)} for speaker, found in splits.items())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_without_speakers_no_text_is_in_two_splits(tmp_path):
    dataset = load_corpus(
        "recordings", "gl", make_recordings(tmp_path / "own", header="path,text,remark")
    )
    splits = splits_of(dataset, "text")
    assert len(splits) == 20
    assert all(len(found) == 1 for found in splits.values())
    assert set(dataset["speaker"]) == {"unknown"}
    assert split_of("hola 0") in splits["Hola, 0."]


def test_about_eight_in_ten_texts_are_for_training():
    found = [split_of(f"speaker {i}") for i in range(2000)]
    assert 1550 < found.count("train") < 1650
    assert 160 < found.count("validation") < 240
    assert 160 < found.count("test") < 240


def test_optional_columns_are_used(tmp_path):
    folder = write_csv(
        tmp_path / "gl",
        "text,path,split,language,translation_en,speaker\n"
        '"Un, ""dos"".\nTres",a.wav,test,gl,"One, two.",Uxía\nCatro,b.wav,dev,Galician,,\n'
        "Cinco,c.wav,,,,Uxía\n",
    )
    first, second, third = load_corpus("recordings", "gl", tmp_path)
    assert first["text"] == 'Un, "dos".\nTres'
    assert first["split"] == "test"
    assert first["translation_en"] == "One, two."
    assert second["split"] == "validation"
    assert second["speaker"] == "unknown"
    assert third["split"] == split_of("Uxía")
    assert corpus_report("recordings", "gl")["tables"].keys() == {"gl/recordings.csv"}
    assert folder.name == "gl"


ADVICE = ": write it from the folder on, such as sound/1.wav"


def test_rows_that_cannot_be_used_are_named(tmp_path):
    folder = write_csv(
        tmp_path / "own",
        b"path,text,split,language\na.wav,Un,test,gl\nb.wav,Dous,tests,gl\n"
        b"c.wav,Tres,test,cs\n../own/d.wav,Catro,test,\n/d.wav,Catro,test,\ne.wav,Cinco\n"
        b"f.wav,Fr\xe9se,test,\na.flac,Seis,test,\nx.wav,Sete,test,\na.wav,,test,\n"
        b'd.wav,"Oito,test,\nf.wav,Nove,test,\n',
    )
    (folder / "a.flac").write_bytes(b"")
    with pytest.warns(
        UserWarning,
        match=r"10 of 12 lines are left out \(empty audio: 1, named twice: 1, no sound file: 1, "
        r"malformed row: 7\).*No sound file, for instance recordings/gl/x: looked for .*own/x.wav; "
        r"the nearest name there is .\.wav.*The first malformed row: own/recordings.csv:3: unknown",
    ):
        assert load_corpus("recordings", "gl", folder)["text"][:] == ["Un", "Nove"]
    report = corpus_report("recordings", "gl")
    assert report["malformed_rows"] == [
        "own/recordings.csv:3: unknown split 'tests': use one of train, validation, dev, test, "
        "or leave it empty",
        "own/recordings.csv:4: language 'cs' in the folder of 'gl'",
        "own/recordings.csv:5: '../own/d.wav' leads outside the folder" + ADVICE,
        "own/recordings.csv:6: '/d.wav' leads outside the folder" + ADVICE,
        "own/recordings.csv:7: 2 columns instead of 4",
        "own/recordings.csv:8: not UTF-8: save the table as UTF-8",
        "own/recordings.csv:12: a quote is never closed",
    ]
    assert report["dropped"] == {"empty audio": 1, "named twice": 1, "no sound file": 1}


def test_a_missing_table_column_or_sound_is_named(data, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"no recordings in 'gl': looked for .*data/recordings/gl/recordings.csv; "
        "write a CSV there with the columns path and text",
    ):
        load_corpus("recordings", "gl")
    folder = write_csv(tmp_path / "own", "sound,text\na.wav,Un\n")
    with pytest.raises(
        ValueError,
        match=r"own/recordings.csv lacks the column path \(it has sound, text\).*Rename the column "
        r"that holds the path to path \(or file_name, ",
    ):
        load_corpus("recordings", "gl", folder)
    write_csv(folder, "a.wav,Un\nb.wav,Dous\n")
    with pytest.raises(ValueError, match="Its first line must name the columns: path, text"):
        load_corpus("recordings", "gl", folder)
    write_csv(folder, "path,text\nx.wav,Un\n")
    with pytest.raises(
        ValueError,
        match="(?s)recordings has nothing to hear in 'gl' .*recordings.csv.: {'no sound file': 1}"
        ".*looked for .*own/x.wav; the nearest name there is",
    ):
        load_corpus("recordings", "gl", folder)
    write_csv(folder, "path,text\n")
    with pytest.raises(ValueError, match="nothing to hear in 'gl' .*: {}, malformed"):
        load_corpus("recordings", "gl", folder)
    assert not corpus_folder("recordings", "gl").exists()


# ---- ids


def own(folder, text: str | bytes) -> dict[str, str]:
    """Return the texts of the recordings of a table by id, without what all ids begin with."""
    dataset = load_corpus("recordings", "gl", write_csv(folder, text))
    ids = [name.removeprefix("recordings/gl/") for name in dataset["id"][:]]
    return dict(zip(ids, dataset["text"][:], strict=True))


def test_recordings_that_differ_in_their_ending_alone_are_different(tmp_path):
    for number, name in enumerate(("1.wav", "1.flac", "rec.1", "rec.2", "2.wav", "1.wav.wav")):
        write_sound(tmp_path / name, 0.2, 200 + 20 * number, "FLAC" if "flac" in name else "WAV")
    found = own(
        tmp_path,
        "path,text\n1.wav,Un\n1.flac,Dous\nrec.1,Tres\nrec.2,Catro\n2.wav,Cinco\n1.wav.wav,Seis\n",
    )
    assert found == {
        "1.wav": "Un",
        "1.flac": "Dous",
        "rec.1": "Tres",
        "rec.2": "Catro",
        "2": "Cinco",  # as ever, where no other recording has this id
        "1.wav.wav": "Seis",  # without its ending it would be the id of the first one
    }


def test_ids_without_a_clash_are_those_without_ending():
    files = [PurePosixPath(name) for name in ("a/1.wav", "b/1.wav", "rec.3", "./a/1.wav")]
    assert distinct_ids("x/", files) == ["x/a/1", "x/b/1", "x/rec", "x/a/1"]


def test_the_same_file_twice_is_named_twice_however_it_is_written(tmp_path):
    with pytest.warns(UserWarning, match=r"2 of 3 .*\(named twice: 2\).*the first one counts"):
        assert own(tmp_path, "path,text\na.wav,Un\n./a.wav,Dous\nA.WAV,Tres\n") == {"a": "Un"}


# ---- dialects of tables

PLAIN = "path,text\na.wav,Un día\nb.wav,Dous\n"

DIALECTS = {
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "CR": PLAIN.replace("\n", "\r"),
    "semicolon": PLAIN.replace(",", ";"),
    "tab": PLAIN.replace(",", "\t"),
    "bar": PLAIN.replace(",", "|"),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16 without a mark, other letters": (
        ("язык," + PLAIN.replace("\n", "\nx,").removesuffix("x,")).encode("utf-16-be")
    ),
    "UTF-16 with CRLF and tabs": PLAIN.replace("\n", "\r\n").replace(",", "\t").encode("utf-16"),
    "byte order mark": PLAIN.encode("utf-8-sig"),
    "two byte order marks": b"\xef\xbb\xbf" + PLAIN.encode("utf-8-sig"),
    "no last line end": PLAIN.rstrip(),
    "empty lines": "\n\n" + PLAIN.replace("\n", "\n\n"),
    "empty rows of a spreadsheet": PLAIN + ",\n,,\n , \n",
    "empty columns of a spreadsheet": PLAIN.replace("\n", ",,\n"),
    "empty cells after the columns": PLAIN.replace("día", "día,,"),
    "sep= of a spreadsheet": "sep=;\n" + PLAIN.replace(",", ";"),
    "upper case and spaces": PLAIN.replace("path,text", " Path , TEXT"),
    "quoted names": PLAIN.replace("path,text", '"path","text"'),
    "the hub's folders": PLAIN.replace("path,text", "file_name,transcription"),
    "the hub's columns": PLAIN.replace("path,text", "audio,sentence"),
    "file name with a space": PLAIN.replace("path,text", "File Name,Transcription"),
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_table_is_read_as_people_write_it(tmp_path, dialect):
    with warnings.catch_warnings(action="error"):
        assert own(tmp_path, DIALECTS[dialect]) == {"a": "Un día", "b": "Dous"}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (b"PK\x03\x04 and more", "is a workbook or a zip, not a table: export it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "is a workbook, not a table: export it as CSV"),
        (b"PAR1\x15\x04", "is a parquet file, not a table: export it as CSV"),
        ('{"file_name": "a.wav", "text": "Un"}\n', "is JSON, not a table: export it as CSV"),
        ('\ufeff[{"file_name": "a.wav"}]', "is JSON, not a table: export it as CSV"),
        ("<html>Log in</html>", "is HTML or XML, not a table: export it as CSV"),
        (PLAIN.encode("utf-32"), "is UTF-32: save it as UTF-8"),
        ("path,text,text\na.wav,Un,Un\n", "names the column text twice: rename one of them"),
        ("audio,file,text\na.wav,a.wav,Un\n", "has the columns file and audio: rename the one"),
        ("", r"lacks the column path, text \(it has none\)"),
        ('path,"text\na.wav,Un\n', ":1: the names of the columns: a quote is never closed"),
        ("path:text\na.wav:Un\n", r"lacks the column path, text \(it has path:text\)"),
    ],
)
def test_what_is_no_table_of_recordings_is_refused_with_what_to_do(tmp_path, table, message):
    with pytest.raises(ValueError, match=f"recordings.csv ?{message}"):
        own(tmp_path, table)
    assert not corpus_folder("recordings", "gl").exists()


def test_a_line_end_in_quotes_is_none_of_a_table_whose_lines_end_in_cr(tmp_path):
    table = 'path,text\ra.wav,"Un\nou dous"\rb.wav,Tres\r'
    assert own(tmp_path, table) == {"a": "Un\nou dous", "b": "Tres"}


FLAWS = {  # row -> why it cannot be read
    ",Un,": "no path of a sound file",
    "./,Un,": "no path of a sound file",
    "e.wav,Un, dous,test": "4 columns instead of 3",
    'e.wav,"Un,test': "a quote is never closed",
    'e.wav,"Un" dous,test': "text after a closing quote",
    "e.wav,U\0n,test": "a NUL character: the file is damaged",
    "e.wav,Un\rdous,test": "a line end (CR) within the row",
    f"{'x' * 300}.wav,Un,test": f"'{'x' * 59}…' cannot be looked for (File name too long)",
    f"{'x/' * 3000}a.wav,Un,test": "cannot be looked for (File name too long)",
    "..\\e.wav,Un,test": "'..\\\\e.wav' leads outside the folder",
    "C:\\e.wav,Un,test": "'C:\\\\e.wav' leads outside the folder",
    "e.wav,Un,later": "unknown split 'later'",
}


@pytest.mark.parametrize("row", FLAWS)
def test_a_row_that_cannot_be_read_is_a_flaw_with_its_line_and_loses_no_other(tmp_path, row):
    table = f'path,text,split\na.wav,"Un\nou dous",test\n{row}\nb.wav,Dous,\nc.wav,Tres,\n'
    with pytest.warns(UserWarning, match=r"1 of 4 lines are left out \(malformed row: 1\)"):
        found = own(tmp_path, table)
    assert found == {"a": "Un\nou dous", "b": "Dous", "c": "Tres"}
    (flaw,) = corpus_report("recordings", "gl")["malformed_rows"]
    place, reason = flaw.split(": ", 1)
    assert place.endswith("/recordings.csv:4")  # a line of the file: row 2 has two
    assert FLAWS[row] in reason


def test_an_open_quote_that_another_one_closes_takes_no_row_with_it(tmp_path):
    table = 'path,text\na.wav,"Un\nb.wav,Dous"\nc.wav,"Tres\nd.wav,"Catro"\ne.wav,Cinco\n'
    with pytest.warns(UserWarning, match=r"2 of 5 lines .*\(malformed row: 2\)"):
        assert own(tmp_path, table) == {"b": 'Dous"', "d": "Catro", "e": "Cinco"}
    report = corpus_report("recordings", "gl")
    assert [flaw.split(":")[1] for flaw in report["malformed_rows"]] == ["2", "4"]


def test_a_quote_that_is_open_for_a_thousand_lines_costs_its_own_row(tmp_path):
    table = 'path,text\na.wav,"Un\n' + "no sound here\n" * 1000 + "b.wav,Dous\n"
    with pytest.warns(UserWarning, match=r"malformed row: 1001"):
        assert own(tmp_path, table) == {"b": "Dous"}


def test_a_speaker_under_the_names_of_the_hub_keeps_the_splits_apart(tmp_path):
    folder = make_recordings(tmp_path / "own", header="File name,Transcription,Speaker ID")
    splits = splits_of(load_corpus("recordings", "gl", folder), "speaker")
    assert len(splits) == 15
    assert all(found == {split_of(speaker)} for speaker, found in splits.items())


def test_a_language_may_be_stated_in_any_form(tmp_path):
    table = "path,text,language\na.wav,Un,GL\nb.wav,Dous,Galician\nc.wav,Tres,<|gl|>\n"
    assert set(own(tmp_path, table)) == {"a", "b", "c"}


# ---- sound files

SPELLINGS = {  # path in the table -> file that is there
    "sound\\e.wav": "sound/e.wav",
    "SOUND/E.WAV": "sound/e.wav",
    "sound/e": "sound/e.wav",
    "e.wav": "clips/e.wav",
    "clips/e.wav": "e.wav",
    "clips/e": "e.wav",
    unicodedata.normalize("NFD", "canción.wav"): unicodedata.normalize("NFC", "canción.wav"),
    unicodedata.normalize("NFC", "canción.wav"): unicodedata.normalize("NFD", "canción.wav"),
    "./sound//e.wav": "sound/e.wav",
}


@pytest.mark.parametrize("written", SPELLINGS)
def test_a_sound_is_found_under_another_spelling_of_its_path(tmp_path, written):
    folder = tmp_path / "own"
    write_sound(folder / SPELLINGS[written], 0.2, 300, "WAV")
    (folder / "recordings.csv").write_text(f"path,text\n{written},Un\n", encoding="utf-8")
    with warnings.catch_warnings(action="error"):
        dataset = load_corpus("recordings", "gl", folder)
    assert dataset["text"][:] == ["Un"]
    assert dataset["id"][:] == [f"recordings/gl/{SPELLINGS[written].removesuffix('.wav')}"]


def test_an_absolute_path_into_the_folder_is_read(tmp_path):
    folder = tmp_path / "own"
    write_csv(folder, f"path,text\n{folder.absolute()}/a.wav,Un\n")
    assert load_corpus("recordings", "gl", folder)["id"][:] == ["recordings/gl/a"]


def test_a_table_of_one_language_may_have_the_token_of_another(tmp_path, capsys):
    folder = write_csv(tmp_path / "own", "path,text,language\na.wav,Un,Rif\nb.wav,Dous,Rif\n")
    assert load_corpus("recordings", "ar", folder)["text"][:] == ["Un", "Dous"]
    assert "its rows are in 'Rif'; the token that Whisper is given is ar" in capsys.readouterr().err


def test_a_folder_without_a_table_is_not_taken_for_what_was_prepared(tmp_path, monkeypatch):
    one = write_csv(tmp_path / "one", "path,text\na.wav,Un\n")
    load_corpus("recordings", "gl", one)
    (tmp_path / "empty").mkdir()
    for other in (tmp_path / "empty", tmp_path / "mistyped"):
        with pytest.raises(FileNotFoundError, match="no recordings in 'gl'"):
            load_corpus("recordings", "gl", other)
    write_csv(tmp_path / "data" / "recordings" / "gl", "path,text\nb.wav,Dous\n")
    with pytest.raises(ValueError, match="others were prepared from .*one/recordings.csv: say whi"):
        load_corpus("recordings", "gl")
    assert load_corpus("recordings", "gl", one)["text"][:] == ["Un"]


def test_two_labs_of_one_language_keep_their_folders(tmp_path):
    folders = [make_recordings(tmp_path / name, count) for name, count in (("a", 40), ("b", 60))]
    labs = [open_recordings(folder, "gl", "smoke") for folder in folders]
    assert [len(lab.rows("train", every_voice=True)) for lab in labs * 2] == 2 * [
        len(select(load_corpus("recordings", "gl", folder), "train")) for folder in folders
    ]


def test_a_student_that_knows_no_speech_of_people_is_told(tmp_path, capsys):
    folder = make_recordings(tmp_path / "own")
    open_recordings(folder, "gl", "toy")
    assert "knows made-up languages alone: for speech of people give" in capsys.readouterr().err
    open_recordings(folder, "gl", "smoke")
    assert "made-up" not in capsys.readouterr().err


def test_clips_that_are_too_long_for_training_are_told(tmp_path):
    folder = make_recordings(tmp_path / "own")
    lab = open_recordings(folder, "gl", "smoke", max_train_seconds=0.1)
    with pytest.raises(
        ValueError, match=r"clips of gl train last over 0.1 s .* cut them at pauses"
    ):
        lab.clips("train")
    write_sound(folder / "sound" / "0.wav", 0.4, 300, "WAV")
    lab = open_recordings(folder, "gl", "smoke", max_train_seconds=0.3)
    split = load_corpus("recordings", "gl", folder)[0]["split"]
    if split != "test":
        with pytest.warns(UserWarning, match=rf"1 of \d+ clips of gl {split} last over 0.3 s"):
            lab.rows(split)


def test_a_file_that_could_be_either_of_two_is_not_guessed(tmp_path):
    for name in ("E.wav", "e.WAV"):
        write_sound(tmp_path / "own" / name, 0.2, 300, "WAV")
    (tmp_path / "own" / "recordings.csv").write_text("path,text\ne.wav,Un\n")
    with pytest.raises(
        ValueError, match="looked for .*own/e.wav; the nearest name there is E.wav|e.WAV"
    ):
        load_corpus("recordings", "gl", tmp_path / "own")


@pytest.mark.parametrize(
    ("place", "table"),
    [
        ("Galician/recordings.csv", "own"),
        ("GL/Recordings.CSV", "own"),
        ("gl/speech.csv", "own/gl/speech.csv"),
    ],
)
def test_the_table_is_found_under_another_spelling_or_given_itself(tmp_path, place, table):
    path = tmp_path / "own" / place
    write_sound(path.with_name("a.wav"), 0.2, 300, "WAV")
    path.write_text("path,text\na.wav,Un\n")
    assert load_corpus("recordings", "gl", tmp_path / table)["id"][:] == ["recordings/gl/a"]


def test_a_table_with_another_name_is_told_to_be_renamed(tmp_path):
    (tmp_path / "gl").mkdir()
    (tmp_path / "gl" / "metadata.csv").write_text("file_name,transcription\n")
    with pytest.raises(
        FileNotFoundError, match="there is .*gl/metadata.csv: rename it to recordings.csv"
    ):
        load_corpus("recordings", "gl", tmp_path)


@pytest.mark.parametrize("name", ["metadata.jsonl", "train.parquet", "Recordings.XLSX"])
def test_a_table_of_another_kind_is_told_to_be_exported(tmp_path, name):
    (tmp_path / "gl" / "recordings.csv").mkdir(parents=True)  # a folder is no table
    (tmp_path / "gl" / name).write_text("{}")
    with pytest.raises(
        FileNotFoundError, match=f"there is .*gl/{name}: export it as CSV, as recordings.csv"
    ):
        load_corpus("recordings", "gl", tmp_path)


def test_clips_over_30_s_are_told_with_their_count_and_how_to_cut_them(tmp_path):
    write_sound(tmp_path / "long.wav", 30.5, kind="WAV")
    with pytest.warns(
        UserWarning,
        match=r"1 of 2 lines are left out \(longer than 30 s: 1\).*recordings/gl/long: 30.5 s.*"
        r"cut longer sounds at pauses into parts of at most 30 s, .*in a row of its own .*ffmpeg",
    ):
        assert own(tmp_path, "path,text\na.wav,Un\nlong.wav,Dous\n") == {"a": "Un"}


def test_an_empty_split_says_how_to_state_the_splits(tmp_path):
    dataset = load_corpus(
        "recordings", "gl", write_csv(tmp_path, "path,text,speaker\na.wav,Un,Uxía\n")
    )
    with pytest.raises(ValueError, match="give recordings.csv a column split"):
        select(dataset, "train" if dataset["split"][0] != "train" else "test")


# ---- recordings that change


def change_text(folder):
    table = folder / "recordings.csv"
    table.write_text(table.read_text().replace("Un", "Outro"))


def change_sound(folder):
    write_sound(folder / "a.wav", 0.4, 500, "WAV")


def add_sound(folder):
    write_sound(folder / "x.wav", 0.4, 500, "WAV")


@pytest.mark.parametrize("change", [change_text, change_sound, add_sound])
@pytest.mark.parametrize("is_given", [True, False])
@pytest.mark.parametrize("is_another_process", [True, False])
def test_a_change_of_text_or_sound_prepares_the_corpus_anew_and_says_so(
    data, tmp_path, capsys, change, is_given, is_another_process
):
    folder = data / "recordings" / "gl" if not is_given else tmp_path / "own"
    source = folder if is_given else None
    write_csv(folder, "path,text\na.wav,Un\nx.wav,Dous\n")
    with pytest.warns(UserWarning, match="no sound file: 1"):
        first = load_corpus("recordings", "gl", source).to_list()
    fingerprint = corpus_report("recordings", "gl")["fingerprint"]
    assert load_corpus("recordings", "gl").to_list() == first
    assert "has changed" not in capsys.readouterr().err

    change(folder)
    if is_another_process:
        loading._OPENED.clear()
    with warnings.catch_warnings(action="ignore"):
        assert load_corpus("recordings", "gl").to_list() != first
    why = "which was missing, is there" if change is add_sound else " has changed"
    assert f"{why}: the corpus is prepared anew" in capsys.readouterr().err
    assert corpus_report("recordings", "gl")["fingerprint"] != fingerprint


def test_a_missing_sound_is_noticed_where_the_table_spells_its_path_otherwise(tmp_path, capsys):
    folder = write_csv(tmp_path / "gl", "path,text\nA.WAV,Un\nsound\\x,Dous\n")
    with pytest.warns(UserWarning, match="no sound file: 1"):
        assert len(load_corpus("recordings", "gl", folder)) == 1
    (folder / "sound").mkdir()
    write_sound(folder / "sound" / "x.wav", 0.4, 500, "WAV")
    assert load_corpus("recordings", "gl", folder)["text"][:] == ["Un", "Dous"]
    assert "which was missing, is there" in capsys.readouterr().err


def test_a_corpus_that_another_process_replaces_meanwhile_is_not_returned(tmp_path, monkeypatch):
    mine = write_csv(tmp_path / "mine", "path,text\na.wav,Un\n")
    other = write_csv(tmp_path / "other", "path,text\na.wav,Dous\n")
    opens, replaced = loading._open, []

    def replacing(name, language, folder):
        if not replaced:
            replaced.append(True)
            load_corpus("recordings", "gl", other)
        return opens(name, language, folder)

    monkeypatch.setattr(loading, "_open", replacing)
    assert load_corpus("recordings", "gl", mine)["text"][:] == ["Un"]

    def always(name, language, folder):
        monkeypatch.setattr(loading, "_open", opens)
        load_corpus("recordings", "gl", other)
        monkeypatch.setattr(loading, "_open", always)
        return opens(name, language, folder)

    loading._OPENED.clear()
    monkeypatch.setattr(loading, "_open", always)
    with pytest.raises(OSError, match="another program prepared it from something else"):
        load_corpus("recordings", "gl", mine)


def test_what_a_stopped_preparation_has_left_does_not_count_as_damage(tmp_path, capsys):
    folder = corpus_folder("recordings", "gl")
    own = write_csv(tmp_path / "gl", "path,text\na.wav,Un\n")
    load_corpus("recordings", "gl", own)
    write_source(folder, own, [own / "recordings.csv", own / "a.wav"])  # again, over the old one
    assert damage_of(folder) == ""


def test_a_prepared_corpus_does_without_its_source(tmp_path):
    folder = write_csv(tmp_path / "own", "path,text\na.wav,Un\n")
    first = load_corpus("recordings", "gl", folder)
    shutil.rmtree(folder)
    assert load_corpus("recordings", "gl") is first
    assert load_corpus("recordings", "gl", folder) is first


def test_another_table_is_another_corpus_and_a_copy_the_same(tmp_path, capsys):
    first = load_corpus("recordings", "gl", write_csv(tmp_path / "one", "path,text\na.wav,Un\n"))
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert load_corpus("recordings", "gl", tmp_path / "copy") is first
    write_csv(tmp_path / "two", "path,text\na.wav,Dous\n")
    assert load_corpus("recordings", "gl", tmp_path / "two")["text"][:] == ["Dous"]
    assert load_corpus("recordings", "gl")["text"][:] == ["Dous"]
    told = f"{tmp_path}/two/recordings.csv is not {tmp_path}/one/recordings.csv, from which it was"
    assert told in capsys.readouterr().err


def test_a_copy_of_the_folder_with_other_sounds_is_another_corpus(tmp_path, capsys):
    noisy = make_recordings(tmp_path / "noisy", 4)
    before = load_corpus("recordings", "gl", noisy).to_list()
    shutil.copytree(noisy, tmp_path / "cleaned")
    assert load_corpus("recordings", "gl", tmp_path / "cleaned").to_list() == before
    sound = sorted((tmp_path / "cleaned").rglob("*.wav"))[0]
    content = bytearray(sound.read_bytes())
    content[-100:] = bytes(100)  # as long as before
    sound.write_bytes(content)
    after = load_corpus("recordings", "gl", tmp_path / "cleaned").to_list()
    assert after != before
    assert f"{sound} has changed" in capsys.readouterr().err
    sound.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(load_corpus("recordings", "gl", tmp_path / "cleaned")) == 3


def test_parts_of_a_killed_preparation_are_not_used_for_sounds_that_were_put_right(tmp_path):
    folder = make_recordings(tmp_path / "own", 4)
    reading = read_recordings("recordings", "gl", folder)
    place = corpus_folder("recordings", "gl").absolute()
    partial = place.with_name(f"{place.name}.partial")
    write_shards(list(first_of_each_id(reading.items).values()), partial, FEATURES, "", BUILDER)
    sound = sorted(folder.rglob("*.wav"))[0]
    write_sound(sound, 0.2, 900, "WAV")
    audio = {row["id"]: read_audio(row["audio"]) for row in load_corpus("recordings", "gl", folder)}
    found = audio[f"recordings/gl/{sound.relative_to(folder).with_suffix('').as_posix()}"]
    assert np.allclose(found, read_audio(sound), atol=1e-3)


# ---- damaged caches


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "deleted", "report"])
def test_a_damaged_corpus_is_set_aside_and_prepared_anew(tmp_path, capsys, damage):
    folder = make_recordings(tmp_path / "own", 20)
    first = load_corpus("recordings", "gl", folder).to_list()
    prepared = corpus_folder("recordings", "gl")
    (path,) = prepared.glob("shard-*.arrow")
    content = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    elif damage == "report":
        (prepared / "report.json").write_text('{"builder": 1, "spl')
    else:
        path.unlink()  # the opened corpus keeps its file
        path.write_bytes(damaged(content, damage))
    loading._OPENED.clear()
    assert load_corpus("recordings", "gl").to_list() == first  # from the folder that was given
    assert "is damaged (" in capsys.readouterr().err
