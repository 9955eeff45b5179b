"""Your own recordings: a folder with recordings.csv for each language."""

from pathlib import Path, PurePosixPath

from ...files import data_dir
from ...whisper.tokens import LANGUAGES
from ..normalisers import normalise
from .items import Item, hash_share
from .tables import Reading, read_table

NEEDED = ("path", "text")  # columns

SPLITS = {"train": "train", "validation": "validation", "dev": "validation", "test": "test"}


def read_recordings(name: str, language: str, source: str | Path | None) -> Reading:
    """Return the rows of recordings.csv.

    Its columns are path and text and, if given, language, speaker, split and translation_en. A row
    without a split gets one by its speaker, or by its text where no speaker is named.

    Args:
        name: Of the corpus.
        language: Code of the language.
        source: A folder with `<language>/recordings.csv` or recordings.csv itself; None:
            `recordings` in the data folder, where only the former is looked for.

    Raises:
        FileNotFoundError: If there is no recordings.csv.
        ValueError: If a column is missing. Each message says what to do.
    """
    root = Path(source or data_dir() / name).expanduser()
    places = [root / language / "recordings.csv"]
    if source:
        places.append(root / "recordings.csv")
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        looked_for = " and ".join(map(str, places))
        raise FileNotFoundError(
            f"no recordings in {language!r}: looked for {looked_for}; write a CSV there with the "
            "columns path and text, and put the sound beside it"
        )

    flaws: list[str] = []
    items = []
    for place, cells in read_table(path, NEEDED, flaws, ","):
        row = {column: cell.strip() for column, cell in cells.items()}
        problem = _problem(row, language)
        if problem:
            flaws.append(f"{place}: {problem}")
        else:
            items.append(_item(path.parent, row, language))
    return Reading(items, [path], flaws, {"source": "folder"})


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


def _problem(row: dict[str, str], language: str) -> str:
    """Return why a row cannot be used, or ""."""
    file = PurePosixPath(row["path"])
    split = row.get("split", "")
    if row.get("language", "").lower() not in ("", language, LANGUAGES[language]):
        return f"language {row['language']!r} in the folder of {language!r}"
    if file.is_absolute() or ".." in file.parts:
        return f"{row['path']!r} leads outside the folder"
    if split and split not in SPLITS:
        known = ", ".join(SPLITS)
        return f"unknown split {split!r}: use one of {known}, or leave it empty"
    return ""


def _item(folder: Path, row: dict[str, str], language: str) -> Item:
    """Return a row as an item; `folder` is that of the table."""
    file = PurePosixPath(row["path"])
    sound = folder / file
    speaker = row.get("speaker", "")
    if row.get("split"):
        split = SPLITS[row["split"]]
    else:
        split = split_of(speaker or normalise(row["text"]))
    return Item(
        id=f"recordings/{language}/{file.with_suffix('')}",
        sound=sound if sound.is_file() else None,
        text=row["text"],
        language=language,
        speaker=speaker or "unknown",
        room_or_category="recordings",
        translation_en=row.get("translation_en", ""),
        split=split,
    )
