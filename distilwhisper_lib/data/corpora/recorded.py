"""Your own recordings: a folder with recordings.csv for each language."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from ...checks import check_choice, check_path
from ...files import atomic_folder, data_dir, tell
from ...whisper.tokens import LANGUAGES, language_code
from ..audio import SAMPLE_RATE, encode_flac, read_audio
from ..normalisers import normalise
from .items import Item, distinct_ids, hash_share
from .tables import Reading, Sounds, only_one, read_table

TABLE = "recordings.csv"

NEEDED = ("path", "text")  # columns

RENAMED = (".csv", ".tsv")  # tables that only need another name

EXPORTED = (".jsonl", ".json", ".parquet", ".xlsx", ".xls", ".ods")  # those to be written as CSV

# Column -> other names under which it is read: those of the hub's folders of sound, mostly.
OTHER_NAMES = {
    "path": ("file_name", "filename", "file", "audio", "audio_path", "audio_filepath"),
    "text": ("transcription", "transcript", "sentence"),
    "speaker": ("speaker_id", "client_id"),
    "language": (),
    "split": (),
    "translation_en": (),
}

SPLITS = {"train": "train", "validation": "validation", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class _Row:
    """A row that can be used.

    Attributes:
        cells: Column -> text.
        sound: The file, or None where there is none.
        name: Path of the recording in the folder, which its id is made of.
    """

    cells: dict[str, str]
    sound: Path | None
    name: PurePosixPath


def read_recordings(name: str, language: str, source: str | Path | None) -> Reading:
    """Return the rows of recordings.csv.

    Its columns are path and text and, if given, language, speaker, split and translation_en. A row
    without a split gets one by its speaker, or by its text where no speaker is named.

    Args:
        name: Of the corpus.
        language: Code of the language.
        source: A folder with `<language>/recordings.csv` or recordings.csv itself, or the table;
            None: `recordings` in the data folder, where only the first is looked for.

    Raises:
        FileNotFoundError: If there is no recordings.csv.
        ValueError: If a column is missing. Each message says what to do.
    """
    path = find_recordings(name, language, source)
    sounds = sounds_beside(path)

    flaws: list[str] = []
    rows = []
    stated = _stated_language(path)
    if stated and not _is_stated(stated, language):
        tell(f"{path}: its rows are in {stated!r}; the token that Whisper is given is {language}")
    for place, cells in read_table(path, NEEDED, flaws, None, other_names=OTHER_NAMES):
        row = {column: cell.strip() for column, cell in cells.items()}
        row["path"] = _from_folder_on(row["path"], path.parent)
        if stated:
            del row["language"]
        try:
            _check(row, language)
            sound = sounds.find(row["path"])
            if sound is None:
                _check_as_of_windows(row["path"])
        except ValueError as error:
            flaws.append(f"{place}: {error}")
            continue
        rows.append(_Row(row, sound, _name(row["path"], sound, path.parent)))

    ids = distinct_ids(f"recordings/{language}/", [row.name for row in rows])
    items = [
        _item(item_id, row, language, "" if row.sound else sounds.looked_for(row.cells["path"]))
        for item_id, row in zip(ids, rows, strict=True)
    ]
    files = [row.sound or path.parent / row.cells["path"] for row in rows]
    return Reading(items, [path], flaws, {"source": "folder"}, followed=[path.absolute(), *files])


def sounds_beside(table: Path) -> Sounds:
    """Return the sounds in the folder of a table, to be found by the paths that it has."""
    return Sounds(table.parent, ("clips", table.parent.name.casefold()))


def find_recordings(name: str, language: str, source: str | Path | None) -> Path:
    """Return the table of a language, as `read_recordings` describes it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If there are several folders of the language.
    """
    root = Path(source or data_dir() / name).expanduser()
    if source and root.is_file():
        return root

    places = [root / language / TABLE]
    if source:
        places.append(root / TABLE)
    for place in places:
        if place.is_file():
            return place

    # Other spellings: a folder "Galician" or "gl-ES", a table "Recordings.CSV".
    folders = [folder for folder in _folders(root) if _is_of(folder.name, language)]
    if source:
        folders.append(root)
    tables = [table for folder in folders if (table := _table_in(folder)) is not None]
    table = only_one(tables, f"tables of recordings in {language!r}", root)
    if table:
        return table

    looked_for = " and ".join(map(str, places))
    hint = _hint(folders)
    raise FileNotFoundError(
        f"no recordings in {language!r}: looked for {looked_for}{hint}; write a CSV there with the "
        "columns path and text, and put the sound beside it"
    )


def _hint(folders: list[Path]) -> str:
    """Return which file of some folders may be the table, and what to do with it; "" for none."""
    files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    for endings, advice in ((RENAMED, "rename it to"), (EXPORTED, "export it as CSV, as")):
        for path in files:
            if path.suffix.lower() in endings and path.is_file():
                return f" (there is {path}: {advice} {TABLE})"
    return ""


def split_of(key: str) -> str:
    """Return the split of a speaker or text: about 80 % training, 10 % validation, 10 % test.

    The SHA-256 of `key` decides.
    """
    share = hash_share(key)
    if share < 0.8:
        return "train"
    if share < 0.9:
        return "validation"
    return "test"


# ---- the table of a language


def _folders(root: Path) -> list[Path]:
    """Return the folders in a folder, sorted; none where it does not exist."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir())


def _is_of(text: str, language: str) -> bool:
    """Return whether a text is the code, name or region of a language."""
    try:
        return language_code(text) == language
    except ValueError:
        return False


def _table_in(folder: Path) -> Path | None:
    """Return the table in a folder, whatever the case of its name; None where there is none."""
    if not folder.is_dir():
        return None
    tables = [path for path in sorted(folder.iterdir()) if path.name.casefold() == TABLE]
    return next((path for path in tables if path.is_file()), None)


# ---- its rows


def _check(row: dict[str, str], language: str) -> None:
    """Raise ValueError with the reason for which a row cannot be used."""
    stated = row.get("language", "")
    split = row.get("split", "").casefold()
    posix = PurePosixPath(row["path"])
    if not posix.name:
        raise ValueError("no path of a sound file")
    if stated and not _is_stated(stated, language):
        raise ValueError(f"language {stated!r} in the folder of {language!r}")
    if posix.is_absolute() or ".." in posix.parts:
        raise ValueError(_outside(row["path"]))
    if split and split not in SPLITS:
        known = ", ".join(SPLITS)
        raise ValueError(f"unknown split {row['split']!r}: use one of {known}, or leave it empty")


def _check_as_of_windows(path: str) -> None:
    """Raise ValueError for a path that leads outside the folder as Windows writes it."""
    windows = PureWindowsPath(path)
    if windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(_outside(path))


def _outside(path: str) -> str:
    return f"{path!r} leads outside the folder: write it from the folder on, such as sound/1.wav"


def _stated_language(path: Path) -> str:
    """Return the language that all rows of a table state, "" where they differ or state none.

    A table of one language may have been given the token of another one.
    """
    rows = read_table(path, NEEDED, [], None, other_names=OTHER_NAMES)
    stated = {cells.get("language", "").strip() for _, cells in rows}
    return stated.pop() if len(stated) == 1 else ""


def _is_stated(text: str, language: str) -> bool:
    """Return whether a cell of the column language means a language."""
    return text.lower() == LANGUAGES[language] or _is_of(text, language)


def _from_folder_on(written: str, folder: Path) -> str:
    """Return a path as it is written, an absolute one into the folder without the folder."""
    path = Path(written)
    if not path.is_absolute():
        return written
    for root in (folder.absolute(), folder.resolve()):
        if path.is_relative_to(root):
            return path.relative_to(root).as_posix()
    return written


def _name(written: str, sound: Path | None, folder: Path) -> PurePosixPath:
    """Return the path that a recording's id is made of.

    It is the one that the table has, or that of the file where it is found under another spelling.
    """
    if sound is None or sound == folder / written:
        return PurePosixPath(written)
    return PurePosixPath(sound.relative_to(folder).as_posix())


def _item(item_id: str, row: _Row, language: str, looked_for: str) -> Item:
    """Return a row as an item."""
    speaker = row.cells.get("speaker", "")
    split = row.cells.get("split", "").casefold()
    text = row.cells["text"]
    return Item(
        id=item_id,
        sound=row.sound,
        text=text,
        language=language,
        speaker=speaker or "unknown",
        room_or_category="recordings",
        translation_en=row.cells.get("translation_en", ""),
        split=SPLITS[split] if split else split_of(speaker or normalise(text)),
        looked_for=looked_for,
    )


# ---- writing


COLUMNS = ("path", "text", "speaker", "split")


def write_recordings(rows: Iterable[dict], folder: str | Path) -> Path:
    """Write clips as a folder of recordings, which `load_corpus` and the command line read.

    The sounds are named by their number, `sound/0001.flac` the first.

    Args:
        rows: With audio (as `read_audio` takes it, or samples (n,) at 16 kHz), text and, if known,
            speaker and split: those of a corpus, or your own.
        folder: A new folder.

    Returns:
        The table, recordings.csv in the folder.

    Raises:
        FileExistsError: Where the folder exists.
        ValueError: For an unknown split, or a sound that cannot be read.
    """
    check_path("folder", folder)
    path = Path(folder).expanduser()
    with atomic_folder(path, new=True) as part:
        (part / "sound").mkdir(parents=True)
        lines = [COLUMNS]
        for number, row in enumerate(rows, 1):
            name = f"sound/{number:04d}.flac"
            (part / name).write_bytes(_as_flac(row["audio"]))
            lines.append((name, row["text"], _speaker(row), _split(row)))
        with (part / TABLE).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    return path / TABLE


def _as_flac(audio) -> bytes:
    """Return a sound as a FLAC file: samples (n,) at 16 kHz, or what `read_audio` takes."""
    if hasattr(audio, "dtype"):
        audio = {"array": audio, "sampling_rate": SAMPLE_RATE}
    return encode_flac(read_audio(audio))


def _speaker(row: dict) -> str:
    """Return the speaker of a row; "" where none is known."""
    speaker = row.get("speaker", "")
    return "" if speaker == "unknown" else speaker


def _split(row: dict) -> str:
    """Return the split of a row; "" where none is given."""
    split = row.get("split", "")
    return check_choice("split", split, SPLITS) if split else ""
