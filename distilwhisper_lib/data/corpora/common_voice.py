"""Common Voice: the paper's choice of clips by votes, from a release as it is downloaded.

Source: the Mozilla Data Collective (CC0).
"""

import heapq
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...files import data_dir, short_hash
from ...whisper.tokens import LANGUAGES
from .archives import is_archive, is_other_archive, unpack_once
from .items import Item, distinct_ids
from .tables import (
    Reading,
    Sounds,
    find_folders,
    only_one,
    path_key,
    read_table,
    scratch_folder,
)

# Corpus -> clips of (training, validation). Source: the id lists of the authors' release
# (data/generated_ids).
SIZES = {
    "common-voice-3k": (3_000, 500),
    "common-voice-10k": (10_000, 1_000),
    "common-voice-28k": (28_000, 1_000),
}

COMMON = "common-voice"  # in the names of what all sizes of a language share

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

# Whisper's code of a language -> further names that a release may have for it.
OTHER_LOCALES = {
    "he": ("iw",),
    "jw": ("jav",),
    "no": ("nb-NO", "nb", "no-NO"),
    "tl": ("fil",),
}

TABLES = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}  # by split

COLUMNS = ("client_id", "path", "sentence", "up_votes", "down_votes")

# The first release of all (2017, English) has CSVs, and a folder of sounds for each of them.
FIRST_TABLES = {
    "train": "cv-valid-train.csv",
    "validation": "cv-valid-dev.csv",
    "test": "cv-valid-test.csv",
}

FIRST_NAMES = {"path": ("filename",), "sentence": ("text",)}  # columns

FIRST_FOLDER = "cv_corpus_v1"

PLACE = "file:line"  # an additional column of a row

# An id of the authors' lists (data/generated_ids); tools that write tables may add ".0".
ROW_NUMBER = re.compile(r"\d+(\.0)?")

RELEASE = re.compile(
    r"cv-corpus-[\w.]+(?:-delta)?-\d{4}-\d\d-\d\d|mcv-scripted-[\w-]+-v\d+(?:\.\d+)*|cv_corpus_v1"
)

DELTA = re.compile(r"(?:cv-corpus|mcv)-[\w.-]*?-delta(?![^\W_])", re.IGNORECASE)


def read_common_voice(name: str, language: str, source: str | Path | None) -> Reading:
    """Return the clips of a language that the paper's rule chooses.

    Training and validation: the clips with the most up-votes, then the fewest down-votes, then the
    first in the table. Test: all clips.

    An id list ids-3k.csv (-10k, -28k) replaces the rule for the splits that it names. It has the
    columns split and id, as the ids.csv of a prepared corpus, or file names as ids. It lies beside
    train.tsv, or in the folder `<locale>` beside the archive. The authors' own lists have row
    numbers of a dataset that is gone, and are refused.

    Of an archive, only the tables and the chosen clips are unpacked.

    Args:
        name: Of the corpus, one of SIZES.
        language: Whisper's code of the language.
        source: An archive, or a folder in which it or the unpacked release is; None:
            `common-voice` in the data folder.

    Raises:
        FileNotFoundError: If there is no release, or a table of it is missing.
        ValueError: For a damaged archive, a missing column, several releases, or an id list with
            row numbers or without a clip of the release. Each message says what to do.
    """
    return read_sizes(name, (), language, source)[name]


def read_sizes(
    name: str, smaller: Sequence[str], language: str, source: str | Path | None
) -> dict[str, Reading]:
    """Return the clips of a size, and those of smaller ones, which are parts of it.

    The tables are read once. A smaller size is left out where it is no part: an id list replaces
    the rule for it or for the size itself.

    Args:
        name: Of the corpus, one of SIZES.
        smaller: Those of smaller sizes.
        language: As for `read_common_voice`.
        source: The same.

    Returns:
        The reading of `name`, then those of the smaller ones, each as of `read_common_voice`.

    Raises:
        FileNotFoundError: As `read_common_voice`.
        ValueError: The same.
    """
    locale = LOCALES.get(language, language)
    release = find_release(language, source)
    tables = release.tables()
    missing = [path.name for path in tables.values() if not path.is_file()]
    if missing:
        place = release.archive or release.folder
        raise FileNotFoundError(f"{place} has no {', '.join(missing)}: give the whole release")

    # Which clips.
    flaws: list[str] = []
    list_path = _find_id_list(release, name, locale)
    listed = _read_id_list(list_path, flaws) if list_path else {}
    found_of_list: dict[str, str] = {}
    limits = _limits(name)
    chosen = {}
    for split, path in tables.items():
        rows = _of_language(_read_rows(path, release, flaws), language)
        if list_path and split in listed:
            chosen[split] = _listed_rows(path, rows, listed[split], flaws)
            _check_found(list_path, path, listed[split], chosen[split])
            found_of_list[split] = f"{len(chosen[split])} of {len(listed[split])}"
        else:
            chosen[split] = _choose(rows, limits[split], flaws)

    chosen_of = {name: chosen}
    for size in smaller:
        if list_path is None and _find_id_list(release, size, locale) is None:
            first = _limits(size)
            chosen_of[size] = {split: rows[: first[split]] for split, rows in chosen.items()}

    # Their sounds.
    files = [release.clip(row) for rows in chosen.values() for row in rows]
    place = _unpacked(release, files)
    about = {
        "source": "archive" if release.archive else "folder",
        "archive": release.archive.name if release.archive else None,
        "release": release.name(),
        "chosen_by": list_path.name if list_path else "votes",
    }
    if list_path:
        about["found_of_list"] = found_of_list
    read = [*tables.values(), *([list_path] if list_path else [])]
    readings = {}
    for size, rows in chosen_of.items():
        own_flaws = list(flaws)
        sounds = Sounds(place, (), release.shown())
        items = _items(release, rows, language, sounds, own_flaws)
        readings[size] = Reading(items, read, own_flaws, about, release.scratch)
    return readings


def _limits(name: str) -> dict[str, int | None]:
    """Return the number of clips that a size takes of each split; None: all."""
    training_limit, validation_limit = SIZES[name]
    return {"train": training_limit, "validation": validation_limit, "test": None}


def _items(
    release: "Release",
    chosen: dict[str, list[dict]],
    language: str,
    sounds: Sounds,
    flaws: list[str],
) -> list[Item]:
    """Return the items of the chosen rows.

    Args:
        release: The release.
        chosen: Rows of the tables by split.
        language: Whisper's code of the language.
        sounds: The sound files.
        flaws: Gets a line for each row whose sound cannot be looked for.
    """
    locale = LOCALES.get(language, language)
    files = {split: [release.clip(row) for row in rows] for split, rows in chosen.items()}
    names = [release.named(file) for split in chosen for file in files[split]]
    ids = iter(distinct_ids(f"common-voice/{locale}/", names))
    items = []
    for split, rows in chosen.items():
        for row, file in zip(rows, files[split], strict=True):
            item_id = next(ids)
            try:
                sound = _find_sound(sounds, file)
            except ValueError as error:
                flaws.append(f"{row[PLACE]}: {error}")
                continue
            item = Item(
                id=item_id,
                sound=sound,
                text=row["sentence"].strip(),
                language=language,
                speaker=row.get("client_id", "unknown"),
                room_or_category="common-voice",
                translation_en="",
                split=split,
                looked_for="" if sound else sounds.looked_for(str(file)),
            )
            items.append(item)
    return items


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

    def shown(self) -> Path:
        """Return the folder as messages name it: within its archive, where there is one."""
        if self.archive is None or self.scratch is None:
            return self.folder
        return self.archive / self.folder.relative_to(self.scratch / "tables")

    def is_first(self) -> bool:
        """Return whether it is the release of 2017, which has another layout."""
        return (self.folder / FIRST_TABLES["train"]).is_file()

    def tables(self) -> dict[str, Path]:
        """Return the paths of the tables by split; the files need not exist."""
        names = FIRST_TABLES if self.is_first() else TABLES
        return {split: self.folder / name for split, name in names.items()}

    def clip(self, row: dict[str, str]) -> PurePosixPath:
        """Return where a clip is in the folder of the release, never outside it."""
        path = PurePosixPath(row["path"].replace("\\", "/"))
        folder = PurePosixPath(path.parent.name) if self.is_first() else PurePosixPath("clips")
        return folder / path.name

    def named(self, clip: PurePosixPath) -> PurePosixPath:
        """Return what the id of a clip is made of; the first release counts anew in each folder."""
        return clip if self.is_first() else PurePosixPath(clip.name)

    def name(self) -> str:
        """Return the name that the folder has, or else the archive; "unknown" without one."""
        names = RELEASE.findall(str(self.folder))
        if not names and self.archive:
            names = RELEASE.findall(self.archive.name)
        return names[-1] if names else "unknown"


def find_release(language: str, source: str | Path | None = None) -> Release:
    """Return the release in a language; of an archive the tables are unpacked.

    Args:
        language: Whisper's code of the language.
        source: As for `read_common_voice`.

    Raises:
        FileNotFoundError: If there is no release, or only a delta release.
        ValueError: For a damaged archive, or several releases. Each message says what to do.
    """
    root = Path(source or data_dir() / "common-voice").expanduser()
    if root.is_file() and not is_archive(root):
        raise ValueError(
            f"{root} is not an archive that can be read: give a .tar.gz, a .zip, or the folder "
            "that it is unpacked into"
        )
    names = _names(language)
    locale = names[0]

    # An unpacked release.
    folders = _folders(root, language, has_source=source is not None)
    folder = only_one(_complete(folders), f"folders {locale}", root)
    if folder:
        return Release(folder)

    # An archive.
    archives = _archives(root, names)
    archive = only_one(_complete(archives), f"archives with {locale} in their names", root)
    if archive is None:
        raise _not_found(root, language, [*folders, *archives])

    scratch = scratch_folder(f"{COMMON}-{locale}", [archive])
    tables = {*TABLES.values(), *FIRST_TABLES.values(), *map(_id_list_name, SIZES)}
    unpack_once(archive, scratch / "tables", lambda member: PurePosixPath(member).name in tables)
    folders = _folders(scratch / "tables", language, has_source=True)
    folder = only_one(folders, f"folders {locale}", archive)
    if folder is None:
        there = [path.name for path in find_folders(scratch / "tables", None, "train.tsv")]
        has = f" (it has {', '.join(there)})" if there else ""
        raise FileNotFoundError(
            f"{archive} has no {locale}/train.tsv: is it Common Voice in {locale!r}?{has}"
        )
    return Release(folder, archive, scratch)


def _names(language: str) -> list[str]:
    """Return Common Voice's code of a language, then others that a release may have for it."""
    names = [LOCALES.get(language, language), language, *OTHER_LOCALES.get(language, ())]
    return list(dict.fromkeys(names))


def _folders(root: Path, language: str, has_source: bool) -> list[Path]:
    """Return the folders of a language with tables at or below `root`.

    Args:
        root: Where the search starts.
        language: Whisper's code of the language.
        has_source: `root` was given for this language: tables that lie in it directly, as in the
            archives of release 1, are taken unless its name is that of another language.
    """
    folders = find_folders(root, _names(language), TABLES["train"])
    if language == "en":
        folders += find_folders(root, [FIRST_FOLDER], FIRST_TABLES["train"])
    if folders or not has_source:
        return folders

    marks = [TABLES["train"], *([FIRST_TABLES["train"]] if language == "en" else [])]
    other_locales = {*LANGUAGES, *LOCALES.values()}
    if root.name not in other_locales and any((root / mark).is_file() for mark in marks):
        return [root]
    return [
        folder
        for folder in find_folders(root, None, TABLES["train"])
        if RELEASE.fullmatch(folder.name)
    ]


def _archives(root: Path, names: list[str]) -> list[Path]:
    """Return `root` if it is an archive, or those below it with a name of the language."""
    if root.is_file():
        return [root] if is_archive(root) else []
    for name in names:
        pattern = re.escape(name).replace(r"\-", "[-_]")
        named = re.compile(rf"(?<![^\W_]){pattern}(?![^\W_])", re.IGNORECASE)
        found = sorted(path for path in root.rglob("*.*") if named.search(path.name))
        archives = [path for path in found if is_archive(path) and path.is_file()]
        if archives:
            return archives
    return []


def _complete(found: list[Path]) -> list[Path]:
    """Return what is no delta release."""
    return [path for path in found if not DELTA.search(str(path))]


def _not_found(root: Path, language: str, deltas: list[Path]) -> FileNotFoundError:
    """Return the error for a language without a release: what is there, and how to get it."""
    locale = _names(language)[0]
    if deltas:
        return FileNotFoundError(
            f"{deltas[0]} is a delta release of Common Voice: it has only the clips that are new "
            "since the release before, without train, dev and test. Download the full release in "
            f"{locale!r}, and put the archive there as it is"
        )

    # Releases in other languages, those of the same language with another name first.
    there = find_folders(root, None, TABLES["train"])
    if root.is_dir():
        there += sorted(path for path in root.rglob("*.*") if is_archive(path))
    base = locale.split("-")[0].casefold()
    variant = re.compile(rf"(?<![^\W_]){re.escape(base)}[-_][a-z]{{2,4}}(?![^\W_])", re.IGNORECASE)
    variants = [path for path in there if variant.search(path.name)]
    hint = ""
    if variants:
        hint = (
            f". There is {variants[0]}, which is not {locale}: to use it for {language!r} all the "
            f"same, unpack it and rename its folder {variant.search(variants[0].name)[0]} to "
            f"{locale}"
        )
    elif there:
        hint = f". There is: {', '.join(map(str, there[:5]))}"
    else:
        packed = sorted(path for path in root.rglob("*.*") if is_other_archive(path))
        if packed:
            hint = f". There is {packed[0]}, which cannot be read here: unpack it yourself"

    return FileNotFoundError(
        f"no Common Voice in {locale!r}: looked for {locale}/train.tsv and for an archive with "
        f"{locale} in its name (such as cv-corpus-13.0-2023-03-09-{locale}.tar.gz) under "
        f"{root}{hint}. It needs an account: log in at Mozilla Data Collective, accept the terms "
        "of Common Voice Scripted Speech in this language, download it, and put the archive there "
        "as it is (LAB_DATA names another folder)"
    )


# ---- its clips


def _unpacked(release: Release, clips: list[PurePosixPath]) -> Path:
    """Return the folder of the release with the chosen clips, unpacked if there is an archive."""
    if release.archive is None or release.scratch is None:
        return release.folder

    inner = release.folder.relative_to(release.scratch / "tables")
    wanted = {path_key(str(inner / clip)) for clip in clips}
    wanted |= {f"{path}.mp3" for path in wanted}
    target = release.scratch / f"clips-{short_hash(sorted(wanted))}"
    unpack_once(release.archive, target, lambda member: path_key(member) in wanted)
    return target / inner


def _find_sound(sounds: Sounds, clip: PurePosixPath) -> Path | None:
    """Return the sound file of a clip, or None; release 1 leaves out the ending in its tables."""
    with_ending = clip.with_name(f"{clip.name}.mp3")
    if not clip.suffix and len(with_ending.name) < 200 and (sounds.folder / with_ending).is_file():
        return sounds.folder / with_ending
    return sounds.find(str(clip))


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


def _read_rows(path: Path, release: Release, flaws: list[str]) -> Iterator[tuple[str, dict]]:
    """Yield place and cells of each row of a table that names a clip."""
    if release.is_first():
        rows = read_table(path, COLUMNS[1:], flaws, None, other_names=FIRST_NAMES)
    else:
        rows = read_table(path, COLUMNS, flaws)
    for place, row in rows:
        if PurePosixPath(row["path"]).name in ("", ".."):
            flaws.append(f"{place}: no path of a sound file")
        else:
            yield place, row | {PLACE: place}


def _of_language(rows: Iterable[tuple[str, dict]], language: str) -> Iterator[tuple[str, dict]]:
    """Yield the rows; ValueError where the first one says that they are of another language."""
    names = [name.casefold() for name in _names(language)]
    for index, (place, row) in enumerate(rows):
        locale = row.get("locale") or names[0]
        if index == 0 and locale.casefold() not in names:
            raise ValueError(
                f"{place}: the table is of the locale {locale!r}, not of {_names(language)[0]!r}: "
                "is it in the right folder?"
            )
        yield place, row


def _choose(rows: Iterable[tuple[str, dict]], limit: int | None, flaws: list[str]) -> list[dict]:
    """Return the rows of a table that are used: the most voted ones, without a limit (None) all."""
    if limit is not None:
        return most_voted(_with_votes(rows, flaws), limit)
    return [row for _, row in rows]


def _listed_rows(
    path: Path, rows: Iterable[tuple[str, dict]], listed: list[str], flaws: list[str]
) -> list[dict]:
    """Return the rows that an id list names, with or without ending, in its order."""
    wanted = {*listed, *(PurePosixPath(name).stem for name in listed)}
    row_of: dict[str, dict] = {}
    for _, row in rows:
        file = PurePosixPath(row["path"])
        for name in (file.stem, file.name):
            if name in wanted:
                row_of[name] = row

    found = []
    for name in listed:
        stem = PurePosixPath(name).stem
        row = row_of.get(name) or row_of.get(stem)
        if row is None:
            flaws.append(f"id list: {stem} is not in {path.name}")
        else:
            found.append(row)
    return found


def _check_found(list_path: Path, table: Path, listed: list[str], found: list[dict]) -> None:
    """Warn where a table lacks clips that an id list names.

    Args:
        list_path: Of the list.
        table: Of the split.
        listed: The ids that the list has for it.
        found: The rows of these.

    Raises:
        ValueError: Where the table has none of them.
    """
    if not found:
        raise ValueError(
            f"{list_path}: {table.name} has none of the {len(listed)} clips that the list names "
            f"for it (the first is {listed[0]}): is the list of this language and this release? "
            "Without the list, the votes choose the clips"
        )
    if len(found) < len(listed):
        warnings.warn(
            f"{list_path}: {table.name} has {len(found)} of the {len(listed)} clips that the list "
            "names for it; the others are left out",
            stacklevel=6,  # the caller of load_corpus
        )


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
    """Return the file names of an id list by split.

    Raises:
        ValueError: For a split that does not exist, and for ids that are numbers.
    """
    listed: dict[str, list[str]] = {}
    for place, row in read_table(path, ("split", "id"), flaws, None):
        split = row["split"]
        if split not in TABLES:
            known = ", ".join(TABLES)
            raise ValueError(f"{place}: split {split!r} in the id list: use one of {known}")
        name = PurePosixPath(row["id"]).name
        if ROW_NUMBER.fullmatch(name):
            raise ValueError(
                f"{place}: the id {name} is a number. The authors' lists (data/generated_ids) hold "
                "such numbers: rows of the dataset that was on the hub, in the order of its "
                "archives. The tables of a release have another order, so that nobody can tell "
                "which clips are meant. Give file names (common_voice_ca_123.mp3), or remove the "
                "list: then the votes choose the clips"
            )
        listed.setdefault(split, []).append(name)
    return listed
