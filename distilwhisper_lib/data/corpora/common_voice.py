"""Common Voice (CC0), as the Mozilla Data Collective gives it out: the paper's choice of clips by votes."""

import heapq
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ...files import data_dir, short_hash
from .archives import is_archive, unpack_once
from .items import Item
from .tables import Reading, find_folder, one_of, read_table, scratch_folder

SIZES = {  # corpus -> clips of (training, validation); source: the release's id lists (data/generated_ids)
    "common-voice-3k": (3_000, 500),
    "common-voice-10k": (10_000, 1_000),
    "common-voice-28k": (28_000, 1_000),
}

LOCALES = {
    "hy": "hy-AM",
    "jw": "jv",
    "ne": "ne-NP",
    "nn": "nn-NO",
    "pa": "pa-IN",
    "sv": "sv-SE",
    "zh": "zh-CN",
}

TABLES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}

COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes")

RELEASE = re.compile(
    r"cv-corpus-[\w.]+(?:-delta)?-\d{4}-\d\d-\d\d|mcv-scripted-[\w-]+-v\d+(?:\.\d+)*"
)


def read_common_voice(name: str, language: str, source: str | Path | None) -> Reading:
    """Return the clips of a language that the paper's rule chooses, or the id list ids-3k.csv (-10k, -28k).

    Training and validation: the clips with the most up-votes, then the fewest down-votes, then the first in the
    table. Test: all. An id list (columns split, id: as the ids.csv of a prepared corpus, or file names) lies beside
    train.tsv, or in the folder `<locale>` beside the archive, and replaces the rule for the splits that it names. Of
    an archive only tables and chosen clips are unpacked. Raises FileNotFoundError (nothing there, no test.tsv, ...)
    or ValueError (damaged archive, missing column, ...), each with what to do.
    """
    locale, list_name = (
        LOCALES.get(language, language),
        f"ids-{name.removeprefix('common-voice-')}.csv",
    )
    folder, archive, scratch = find_release(name, locale, source)
    tables = [folder / table for table in TABLES.values()]
    if missing := [path.name for path in tables if not path.is_file()]:
        raise FileNotFoundError(
            f"{archive or folder} has no {', '.join(missing)}: give the whole release"
        )
    flaws: list[str] = []
    lists = [
        place / list_name for place in (folder, archive.parent / locale if archive else folder)
    ]
    lists = [path for path in lists if path.is_file()][:1]
    listed = _id_list(lists[0], flaws) if lists else {}
    chosen = {
        split: _choose(path, limit, listed.get(split), flaws)
        for split, path, limit in zip(TABLES, tables, (*SIZES[name], None), strict=True)
    }
    clips = _clips(folder, locale, archive, scratch, chosen)
    items = []
    for split, row in ((split, row) for split, rows in chosen.items() for row in rows):
        sound = clips / PurePosixPath(row["path"]).name  # never outside of clips
        items.append(
            Item(
                f"common-voice/{locale}/{sound.stem}",
                sound if sound.is_file() else None,
                row["sentence"].strip(),
                language,
                row["client_id"],
                "common-voice",
                "",
                split,
            )
        )
    release = (
        RELEASE.findall(str(folder))
        or RELEASE.findall(archive.name if archive else "")
        or ["unknown"]
    )
    about = {
        "source": "archive" if archive else "folder",
        "archive": archive.name if archive else None,
        "release": release[-1],
        "chosen_by": list_name if lists else "votes",
    }
    return Reading(items, tables + lists, flaws, about, scratch)


def most_voted(rows: Iterable[dict], limit: int) -> list[dict]:
    """Return the `limit` rows with the most up-votes, then the fewest down-votes, then the first in the table."""
    return heapq.nsmallest(
        limit, rows, key=lambda row: (-int(row["up_votes"]), int(row["down_votes"]))
    )


def find_release(
    name: str, locale: str, source: str | Path | None = None
) -> tuple[Path, Path | None, Path | None]:
    """Return the folder with the tables; if they come from an archive, that too and the folder for its clips.

    Raises as `read_common_voice` does.
    """
    root = Path(source or data_dir() / "common-voice").expanduser()
    if folder := find_folder(root, locale, "train.tsv"):
        return folder, None, None
    named = re.compile(rf"(?<![^\W_]){re.escape(locale)}(?![^\W_])", re.IGNORECASE)
    found = (
        [root]
        if root.is_file()
        else sorted(path for path in root.rglob("*.*") if named.search(path.name))
    )
    archive = one_of(
        [path for path in found if is_archive(path)], f"archives with {locale} in their names", root
    )
    if archive is None:
        raise FileNotFoundError(
            f"no Common Voice in {locale!r}: looked for {locale}/train.tsv and for an archive with {locale} in its "
            f"name (such as cv-corpus-13.0-2023-03-09-{locale}.tar.gz) under {root}. It needs an account: log in at "
            "Mozilla Data Collective, accept the terms of Common Voice Scripted Speech in this language, download it, "
            "and put the archive there as it is (LAB_DATA names another folder)"
        )
    scratch = scratch_folder(f"{name}-{locale}", [archive])
    ours = {(locale, table) for table in TABLES.values()} | {
        (locale, f"ids-{name.removeprefix('common-voice-')}.csv")
    }
    unpack_once(
        archive, scratch / "tables", lambda member: PurePosixPath(member).parts[-2:] in ours
    )
    folder = find_folder(scratch / "tables", locale, "train.tsv")
    if folder is None:
        raise FileNotFoundError(
            f"{archive} has no {locale}/train.tsv: is it Common Voice in {locale!r}?"
        )
    return folder, archive, scratch


def _choose(
    path: Path, limit: int | None, listed: list[str] | None, flaws: list[str]
) -> list[dict]:
    """Return the rows of a table that an id list names, in its order; else the most voted ones; else (no limit) all."""
    rows = read_table(path, COLUMNS, flaws)
    if listed is not None:
        wanted = set(listed)
        found = {key: row for _, row in rows if (key := PurePosixPath(row["path"]).stem) in wanted}
        flaws += [f"id list: {key} is not in {path.name}" for key in listed if key not in found]
        return [found[key] for key in listed if key in found]
    return (
        [row for _, row in rows] if limit is None else most_voted(_with_votes(rows, flaws), limit)
    )


def _with_votes(rows: Iterable[tuple[str, dict]], flaws: list[str]) -> Iterator[dict]:
    for place, row in rows:
        if row["up_votes"].isdecimal() and row["down_votes"].isdecimal():
            yield row
        else:
            flaws.append(
                f"{place}: up_votes {row['up_votes']!r}, down_votes {row['down_votes']!r} are no numbers"
            )


def _id_list(path: Path, flaws: list[str]) -> dict[str, list[str]]:
    """Return the file stems of an id list by split; raises ValueError for a split that it cannot have."""
    listed: dict[str, list[str]] = {}
    for place, row in read_table(path, ("split", "id"), flaws, ","):
        if row["split"] not in TABLES:
            raise ValueError(
                f"{place}: split {row['split']!r} in the id list: use one of {', '.join(TABLES)}"
            )
        listed.setdefault(row["split"], []).append(PurePosixPath(row["id"]).stem)
    return listed


def _clips(
    folder: Path, locale: str, archive: Path | None, scratch: Path | None, chosen: dict
) -> Path:
    """Return the folder with the sound of the chosen clips, unpacked from the archive if there is one."""
    if archive is None:
        return folder / "clips"
    wanted = {(locale, "clips", row["path"]) for rows in chosen.values() for row in rows}
    target = scratch / f"clips-{short_hash(sorted(wanted))}"
    unpack_once(archive, target, lambda member: PurePosixPath(member).parts[-3:] in wanted)
    return target / folder.relative_to(scratch / "tables") / "clips"
