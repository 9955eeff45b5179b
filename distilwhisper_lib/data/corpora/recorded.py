"""Recordings of your own: a folder with recordings.csv for each language."""

from pathlib import Path, PurePosixPath

from ...files import data_dir
from ...whisper.tokens import LANGUAGES
from ..normalisers import normalise
from .items import Item, stable_hash
from .tables import Reading, read_table

NEEDED = ("path", "text")

SPLITS = {"train": "train", "validation": "validation", "dev": "validation", "test": "test"}


def read_recordings(name: str, language: str, source: str | Path | None) -> Reading:
    """Return the rows of recordings.csv: path and text, if given also language, speaker, split and translation_en.

    Looked for as `<language>/recordings.csv` in the source (by default `recordings` in the data folder), or in the
    source itself. Without a split a row gets one by its speaker, or by its text where none is named. Raises
    FileNotFoundError or ValueError (missing column), with what to do.
    """
    root = Path(source or data_dir() / name).expanduser()
    found = [root / language / "recordings.csv"] + ([root / "recordings.csv"] if source else [])
    path = next((place for place in found if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"no recordings in {language!r}: looked for {' and '.join(map(str, found))}; write a "
            "CSV there with the columns path and text, and put the sound beside it"
        )
    flaws, items = [], []
    for place, row in read_table(path, NEEDED, flaws, ","):
        item = _item(
            path.parent,
            {column: cell.strip() for column, cell in row.items()},
            language,
            place,
            flaws,
        )
        items += [item] if item else []
    return Reading(items, [path], flaws, {"source": "folder"})


def split_of(key: str) -> str:
    """Return the split of a speaker or text, by its SHA-256: about 80 % training, 10 % validation, 10 % test."""
    share = int(stable_hash(key)[:8], 16) / 0x1_0000_0000
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"


def _item(
    folder: Path, row: dict[str, str], language: str, place: str, flaws: list[str]
) -> Item | None:
    """Return a row as an item, or note why it cannot be one."""
    file, speaker, split = PurePosixPath(row["path"]), row.get("speaker", ""), row.get("split", "")
    if row.get("language", "").lower() not in ("", language, LANGUAGES[language]):
        flaws.append(f"{place}: language {row['language']!r} in the folder of {language!r}")
    elif file.is_absolute() or ".." in file.parts:
        flaws.append(f"{place}: {row['path']!r} leads outside the folder")
    elif split and split not in SPLITS:
        flaws.append(
            f"{place}: unknown split {split!r}: use one of {', '.join(SPLITS)}, or leave it empty"
        )
    else:
        sound = folder / file
        split = SPLITS[split] if split else split_of(speaker or normalise(row["text"]))
        return Item(
            f"recordings/{language}/{file.with_suffix('')}",
            sound if sound.is_file() else None,
            row["text"],
            language,
            speaker or "unknown",
            "recordings",
            row.get("translation_en", ""),
            split,
        )
    return None
