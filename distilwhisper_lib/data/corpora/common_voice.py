"""Common Voice: the paper's choice of clips by votes, from a release as it is downloaded.

Source: the Mozilla Data Collective (CC0).
"""

import heapq
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...files import data_dir, short_hash
from .archives import is_archive, unpack_once
from .items import Item
from .tables import Reading, find_folder, only_one, read_table, scratch_folder

# Corpus -> clips of (training, validation). Source: the id lists of the authors' release
# (data/generated_ids).
SIZES = {
    "common-voice-3k": (3_000, 500),
    "common-voice-10k": (10_000, 1_000),
    "common-voice-28k": (28_000, 1_000),
}

# Whisper's code of a language -> Common Voice's, where they differ.
LOCALES = {
    "hy": "hy-AM",
    "jw": "jv",
    "ne": "ne-NP",
    "nn": "nn-NO",
    "pa": "pa-IN",
    "sv": "sv-SE",
    "zh": "zh-CN",
}

TABLES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}  # by split

COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes")

RELEASE = re.compile(
    r"cv-corpus-[\w.]+(?:-delta)?-\d{4}-\d\d-\d\d|mcv-scripted-[\w-]+-v\d+(?:\.\d+)*"
)


def read_common_voice(name: str, language: str, source: str | Path | None) -> Reading:
    """Return the clips of a language that the paper's rule chooses.

    Training and validation: the clips with the most up-votes, then the fewest down-votes, then the
    first in the table. Test: all clips.

    An id list ids-3k.csv (-10k, -28k) replaces the rule for the splits that it names. It has the
    columns split and id, as the ids.csv of a prepared corpus, or file names as ids. It lies beside
    train.tsv, or in the folder `<locale>` beside the archive.

    Of an archive, only the tables and the chosen clips are unpacked.

    Args:
        name: Of the corpus, one of SIZES.
        language: Whisper's code of the language.
        source: An archive, or a folder in which it or the unpacked release is; None:
            `common-voice` in the data folder.

    Raises:
        FileNotFoundError: If there is no release, or a table of it is missing.
        ValueError: For a damaged archive, a missing column, or several releases. Each message says
            what to do.
    """
    locale = LOCALES.get(language, language)
    release = find_release(name, locale, source)
    tables = [release.folder / table for table in TABLES.values()]
    missing = [path.name for path in tables if not path.is_file()]
    if missing:
        place = release.archive or release.folder
        raise FileNotFoundError(f"{place} has no {', '.join(missing)}: give the whole release")

    # Which clips.
    flaws: list[str] = []
    list_path = _find_id_list(release, name, locale)
    listed = _read_id_list(list_path, flaws) if list_path else {}
    training_limit, validation_limit = SIZES[name]
    limits = {"train": training_limit, "validation": validation_limit, "test": None}
    chosen = {
        split: _choose(path, limits[split], listed.get(split), flaws)
        for split, path in zip(TABLES, tables, strict=True)
    }

    # Their lines.
    clips = _clips_folder(release, locale, chosen)
    items = []
    for split, rows in chosen.items():
        for row in rows:
            sound = clips / PurePosixPath(row["path"]).name  # never outside this folder
            item = Item(
                id=f"common-voice/{locale}/{sound.stem}",
                sound=sound if sound.is_file() else None,
                text=row["sentence"].strip(),
                language=language,
                speaker=row["client_id"],
                room_or_category="common-voice",
                translation_en="",
                split=split,
            )
            items.append(item)

    about = {
        "source": "archive" if release.archive else "folder",
        "archive": release.archive.name if release.archive else None,
        "release": release.name(),
        "chosen_by": list_path.name if list_path else "votes",
    }
    files = [*tables, list_path] if list_path else tables
    return Reading(items, files, flaws, about, release.scratch)


# ---- the release


@dataclass(frozen=True)
class Release:
    """A release of Common Voice in a language.

    Attributes:
        folder: The folder with the tables.
        archive: The archive that they come from; None for an unpacked release.
        scratch: Temporary folder for what is unpacked of the archive; None without an archive.
    """

    folder: Path
    archive: Path | None = None
    scratch: Path | None = None

    def name(self) -> str:
        """Return the name that the folder has, or else the archive; "unknown" without one."""
        names = RELEASE.findall(str(self.folder))
        if not names and self.archive:
            names = RELEASE.findall(self.archive.name)
        return names[-1] if names else "unknown"


def find_release(name: str, locale: str, source: str | Path | None = None) -> Release:
    """Return the release in a language; of an archive the tables are unpacked.

    Args:
        name: Of the corpus, one of SIZES.
        locale: Common Voice's code of the language.
        source: As for `read_common_voice`.

    Raises:
        FileNotFoundError: If there is no release.
        ValueError: For a damaged archive, or several releases. Each message says what to do.
    """
    root = Path(source or data_dir() / "common-voice").expanduser()
    folder = find_folder(root, locale, "train.tsv")
    if folder:
        return Release(folder)

    archive = _find_archive(root, locale)
    if archive is None:
        raise FileNotFoundError(
            f"no Common Voice in {locale!r}: looked for {locale}/train.tsv and for an archive with "
            f"{locale} in its name (such as cv-corpus-13.0-2023-03-09-{locale}.tar.gz) under "
            f"{root}. It needs an account: log in at Mozilla Data Collective, accept the terms of "
            "Common Voice Scripted Speech in this language, download it, and put the archive there "
            "as it is (LAB_DATA names another folder)"
        )

    scratch = scratch_folder(f"{name}-{locale}", [archive])
    wanted = {(locale, file) for file in (*TABLES.values(), _id_list_name(name))}
    unpack_once(
        archive, scratch / "tables", lambda member: PurePosixPath(member).parts[-2:] in wanted
    )
    folder = find_folder(scratch / "tables", locale, "train.tsv")
    if folder is None:
        raise FileNotFoundError(
            f"{archive} has no {locale}/train.tsv: is it Common Voice in {locale!r}?"
        )
    return Release(folder, archive, scratch)


def _find_archive(root: Path, locale: str) -> Path | None:
    """Return `root` if it is an archive, or the one below it with the locale in its name."""
    if root.is_file():
        found = [root]
    else:
        named = re.compile(rf"(?<![^\W_]){re.escape(locale)}(?![^\W_])", re.IGNORECASE)
        found = sorted(path for path in root.rglob("*.*") if named.search(path.name))
    archives = [path for path in found if is_archive(path)]
    return only_one(archives, f"archives with {locale} in their names", root)


def _clips_folder(release: Release, locale: str, chosen: dict[str, list[dict]]) -> Path:
    """Return the folder with the sounds of the chosen clips, unpacked if there is an archive."""
    if release.archive is None or release.scratch is None:
        return release.folder / "clips"

    wanted = {(locale, "clips", row["path"]) for rows in chosen.values() for row in rows}
    target = release.scratch / f"clips-{short_hash(sorted(wanted))}"
    unpack_once(release.archive, target, lambda member: PurePosixPath(member).parts[-3:] in wanted)
    return target / release.folder.relative_to(release.scratch / "tables") / "clips"


# ---- the choice of clips


def most_voted(rows: Iterable[dict], limit: int) -> list[dict]:
    """Return the rows with the most up-votes, then the fewest down-votes, then the first ones.

    Args:
        rows: Rows of a table, in its order, with the columns up_votes and down_votes.
        limit: How many.
    """
    return heapq.nsmallest(limit, rows, key=_rank)


def _rank(row: dict) -> tuple[int, int]:
    """Return the key of a row for sorting: the smallest is the best."""
    return -int(row["up_votes"]), int(row["down_votes"])


def _choose(
    path: Path, limit: int | None, listed: list[str] | None, flaws: list[str]
) -> list[dict]:
    """Return the rows of a table that are used.

    These are the ones that an id list names, in its order; without a list (None) the most voted
    ones; without a limit (None) all.
    """
    rows = read_table(path, COLUMNS, flaws)
    if listed is not None:
        return _listed_rows(path, rows, listed, flaws)
    if limit is not None:
        return most_voted(_with_votes(rows, flaws), limit)
    return [row for _, row in rows]


def _listed_rows(
    path: Path, rows: Iterable[tuple[str, dict]], listed: list[str], flaws: list[str]
) -> list[dict]:
    """Return the rows that an id list names, in its order."""
    wanted = set(listed)
    row_of = {}
    for _, row in rows:
        stem = PurePosixPath(row["path"]).stem
        if stem in wanted:
            row_of[stem] = row

    flaws.extend(f"id list: {stem} is not in {path.name}" for stem in listed if stem not in row_of)
    return [row_of[stem] for stem in listed if stem in row_of]


def _with_votes(rows: Iterable[tuple[str, dict]], flaws: list[str]) -> Iterator[dict]:
    """Yield the rows whose votes are numbers."""
    for place, row in rows:
        up_votes = row["up_votes"]
        down_votes = row["down_votes"]
        if up_votes.isdecimal() and down_votes.isdecimal():
            yield row
        else:
            flaws.append(
                f"{place}: up_votes {up_votes!r}, down_votes {down_votes!r} are no numbers"
            )


# ---- id lists


def _id_list_name(name: str) -> str:
    """Return the file name of the id list of a corpus."""
    return f"ids-{name.removeprefix('common-voice-')}.csv"


def _find_id_list(release: Release, name: str, locale: str) -> Path | None:
    """Return the id list beside the tables, or in the locale's folder beside the archive."""
    places = [release.folder]
    if release.archive:
        places.append(release.archive.parent / locale)
    for place in places:
        path = place / _id_list_name(name)
        if path.is_file():
            return path
    return None


def _read_id_list(path: Path, flaws: list[str]) -> dict[str, list[str]]:
    """Return the file stems of an id list by split; ValueError for a split that does not exist."""
    listed: dict[str, list[str]] = {}
    for place, row in read_table(path, ("split", "id"), flaws, ","):
        split = row["split"]
        if split not in TABLES:
            known = ", ".join(TABLES)
            raise ValueError(f"{place}: split {split!r} in the id list: use one of {known}")
        listed.setdefault(split, []).append(PurePosixPath(row["id"]).stem)
    return listed
