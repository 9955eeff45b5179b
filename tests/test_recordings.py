"""Own recordings: columns, splits by speaker or text, and what is wrong with a row."""

import pytest
from made_corpora import make_recordings, write_sound

from distilwhisper_lib.data.corpora.loading import (
    FEATURES,
    corpus_folder,
    corpus_release,
    corpus_report,
    load_corpus,
    select,
)
from distilwhisper_lib.data.corpora.recorded import split_of


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
        match=r"10 of 11 lines are left out \(named twice: 2, no sound file: 1, malformed",
    ):
        assert load_corpus("recordings", "gl", folder)["text"][:] == ["Un"]
    report = corpus_report("recordings", "gl")
    assert report["malformed_rows"] == [
        "own/recordings.csv:3: unknown split 'tests': use one of train, validation, dev, test, "
        "or leave it empty",
        "own/recordings.csv:4: language 'cs' in the folder of 'gl'",
        "own/recordings.csv:5: '../own/d.wav' leads outside the folder",
        "own/recordings.csv:6: '/d.wav' leads outside the folder",
        "own/recordings.csv:7: 2 columns instead of 4",
        "own/recordings.csv:8: not UTF-8",
        "own/recordings.csv:12: unexpected end of data",
    ]
    assert report["dropped"] == {"named twice": 2, "no sound file": 1}


def test_a_missing_table_column_or_sound_is_named(data, tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"no recordings in 'gl': looked for .*data/recordings/gl/recordings.csv; "
        "write a CSV there with the columns path and text",
    ):
        load_corpus("recordings", "gl")
    folder = write_csv(tmp_path / "own", "file,text\na.wav,Un\n")
    with pytest.raises(
        ValueError, match=r"own/recordings.csv lacks the column path \(it has file, text\)"
    ):
        load_corpus("recordings", "gl", folder)
    write_csv(folder, "path,text\nx.wav,Un\n")
    with pytest.raises(
        ValueError,
        match="recordings has nothing to hear in 'gl' .*recordings.csv.: {'no sound file': 1}",
    ):
        load_corpus("recordings", "gl", folder)
    write_csv(folder, "path,text\n")
    with pytest.raises(ValueError, match="nothing to hear in 'gl' .*: {}, malformed"):
        load_corpus("recordings", "gl", folder)
    assert not corpus_folder("recordings", "gl").exists()
