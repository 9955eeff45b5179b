"""Common Voice (CC0), as the Mozilla Data Collective gives it out: the paper's choice of clips by votes."""

import heapq
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from .archives import is_archive, unpack_once
from .tables import Reading, find_folder, one_of, read_table, scratch_folder
from .items import Item
from ..presets import data_dir
from ..record import short_hash

SIZES = {  # corpus -> clips of (training, validation); source: the release's id lists (data/generated_ids)
    "common-voice-3k": (3_000, 500), "common-voice-10k": (10_000, 1_000), "common-voice-28k": (28_000, 1_000),
}  # fmt: skip
LOCALES = {"hy": "hy-AM", "jw": "jv", "ne": "ne-NP", "nn": "nn-NO", "pa": "pa-IN", "sv": "sv-SE", "zh": "zh-CN"}
TABLES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes")
RELEASE = re.compile(r"cv-corpus-[\w.]+(?:-delta)?-\d{4}-\d\d-\d\d|mcv-scripted-[\w-]+-v\d+(?:\.\d+)*")


def read_common_voice(name: str, language: str, source: str | Path | None) -> Reading:
    """Return the clips of a language that the paper's rule chooses, or the id list ids-3k.csv (-10k, -28k).

    Training and validation: the clips with the most up-votes, then the fewest down-votes, then the first in the
    table. Test: all. The id list (columns split, path) lies beside train.tsv, or in the folder `<locale>` beside the
    archive, and replaces the rule for the splits that it names. Of an archive only tables and chosen clips are
    unpacked. Raises FileNotFoundError (nothing there, no test.tsv, ...) or ValueError (damaged archive, missing
    column), each with what to do.
    """
    locale, size = LOCALES.get(language, language), name.removeprefix("common-voice-")
    folder, archive, scratch = find_release(name, locale, source)
    flaws: list[str] = []
    places = (folder, archive.parent / locale) if archive else (folder,)
    listed = next((place / f"ids-{size}.csv" for place in places if (place / f"ids-{size}.csv").is_file()), None)
    wanted = _id_list(listed, flaws) if listed else {}
    chosen = {}
    for (split, table), limit in zip(TABLES.items(), (*SIZES[name], None), strict=True):
        if not (folder / table).is_file():
            raise FileNotFoundError(f"{folder} has no {table}: unpack the whole release, or put its archive there")
        by_votes = split not in wanted and limit is not None
        rows = _rows(folder / table, flaws, by_votes)
        chosen[split] = most_voted(rows, limit) if by_votes else _listed(rows, wanted.get(split), table, flaws)
    clips = _clips(folder, locale, archive, scratch, chosen)
    items = [_item(row, clips, language, locale, split) for split, rows in chosen.items() for row in rows]
    release = (RELEASE.findall(str(folder)) or RELEASE.findall(archive.name if archive else "") or ["unknown"])[-1]
    about = {"release": release, "chosen_by": listed.name if listed else "votes",
             "archives": {archive.name: archive.stat().st_size} if archive else {}}  # fmt: skip
    ids = [{"split": split} | {column: row[column] for column in ("path", "up_votes", "down_votes")}
           for split, rows in chosen.items() for row in rows]  # fmt: skip
    tables = [folder / table for table in TABLES.values()] + ([listed] if listed else [])
    return Reading(items, "archive" if archive else "folder", tables, flaws, about, ids, scratch)


def most_voted(rows: Iterable[dict], limit: int) -> list[dict]:
    """Return the `limit` rows with the most up-votes, then the fewest down-votes, then the first in the table."""
    return heapq.nsmallest(limit, rows, key=lambda row: (-int(row["up_votes"]), int(row["down_votes"])))


def find_release(name: str, locale: str, source: str | Path | None = None) -> tuple[Path, Path | None, Path | None]:
    """Return the folder with the tables; if they come from an archive, that too and the folder for its clips.

    Raises as `read_common_voice` does.
    """
    root = Path(source or data_dir() / "common-voice").expanduser()
    if folder := find_folder(root, locale, "train.tsv"):
        return folder, None, None
    named = re.compile(rf"(?<![^\W_]){re.escape(locale)}(?![^\W_])", re.IGNORECASE)
    found = [root] if root.is_file() else sorted(path for path in root.rglob("*.*") if named.search(path.name))
    archive = one_of([path for path in found if is_archive(path)], f"archives with {locale} in their names", root)
    if archive is None:
        raise FileNotFoundError(
            f"no Common Voice in {locale!r}: looked for {locale}/train.tsv and for an archive with {locale} in its "
            f"name (such as cv-corpus-13.0-2023-03-09-{locale}.tar.gz) under {root}. It needs an account: log in at "
            "Mozilla Data Collective, accept the terms of Common Voice Scripted Speech in this language, download it, and put "
            "the archive there as it is (LAB_DATA names another folder)")  # fmt: skip
    scratch = scratch_folder(f"{name}-{locale}", [archive])
    ours = {(locale, table) for table in TABLES.values()} | {(locale, f"ids-{name.rsplit('-', 1)[1]}.csv")}
    unpack_once(archive, scratch / "tables", lambda member: PurePosixPath(member).parts[-2:] in ours)
    folder = find_folder(scratch / "tables", locale, "train.tsv")
    if folder is None:
        raise FileNotFoundError(f"{archive} has no {locale}/train.tsv: is it Common Voice in {locale!r}?")
    return folder, archive, scratch


def _rows(path: Path, flaws: list[str], votes: bool) -> Iterator[dict]:
    """Yield the rows of a table with the columns that we use; with `votes`, those whose votes are numbers."""
    for place, row in read_table(path, COLUMNS, flaws):
        if votes and not (row["up_votes"].isdecimal() and row["down_votes"].isdecimal()):
            flaws.append(f"{place}: up_votes {row['up_votes']!r}, down_votes {row['down_votes']!r} are no numbers")
        else:
            yield {column: row[column] for column in COLUMNS}


def _id_list(path: Path, flaws: list[str]) -> dict[str, list[str]]:
    """Return the clips of an id list by split; raises ValueError for a split that it cannot have."""
    listed: dict[str, list[str]] = {}
    for place, row in read_table(path, ("split", "path"), flaws, ","):
        if row["split"] not in TABLES:
            raise ValueError(f"{place}: split {row['split']!r} in the id list: use one of {', '.join(TABLES)}")
        listed.setdefault(row["split"], []).append(row["path"])
    return listed


def _listed(rows: Iterable[dict], paths: list[str] | None, table: str, flaws: list[str]) -> list[dict]:
    """Return the rows of the given clips in their order (None: all rows); those that are not there are flaws."""
    if paths is None:
        return list(rows)
    wanted = set(paths)
    found = {row["path"]: row for row in rows if row["path"] in wanted}
    flaws += [f"id list: {path} is not in {table}" for path in paths if path not in found]
    return [found[path] for path in paths if path in found]


def _clips(folder: Path, locale: str, archive: Path | None, scratch: Path | None, chosen: dict) -> Path:
    """Return the folder with the sound of the chosen clips, unpacked from the archive if there is one."""
    if archive is None:
        return folder / "clips"
    wanted = {(locale, "clips", row["path"]) for rows in chosen.values() for row in rows}
    target = scratch / f"clips-{short_hash(sorted(wanted))}"
    unpack_once(archive, target, lambda member: PurePosixPath(member).parts[-3:] in wanted)
    return target / folder.relative_to(scratch / "tables") / "clips"


def _item(row: dict, clips: Path, language: str, locale: str, split: str) -> Item:
    sound = clips / PurePosixPath(row["path"]).name  # never outside of clips
    return Item(f"common-voice/{locale}/{sound.stem}", sound if sound.is_file() else None, row["sentence"].strip(),
                language, row["client_id"], "common-voice", "", split)  # fmt: skip
