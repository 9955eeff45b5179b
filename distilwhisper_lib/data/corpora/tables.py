"""Tables of downloaded speech: finding and reading them, and where to unpack what they name."""

import csv
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...files import cache_dir, short_hash
from .items import Item


@dataclass
class Reading:
    """What a reader has found of a corpus in a language, before any sound is decoded.

    Attributes:
        items: The lines, in the order of the tables.
        tables: Files whose SHA-256 goes into the report.
        flaws: Rows that cannot be read: "folder/file:line: why".
        about: More entries of the report: source ("folder", "archive" or "hub") and others.
        scratch: Temporary folder of unpacked files, removed once the corpus is prepared.
    """

    items: list[Item]
    tables: list[Path]
    flaws: list[str]
    about: dict
    scratch: Path | None = None


def find_folder(root: Path, name: str, mark: str = "*") -> Path | None:
    """Return the folder with a name at or below `root`, or None.

    Folders named clips or audio are not searched.

    Args:
        root: Where the search starts.
        name: Of the folder.
        mark: Pattern of a file that the folder must have.

    Raises:
        ValueError: If there are several.
    """
    found = []
    for place, inner, _ in os.walk(root.absolute(), followlinks=True):
        folder = Path(place)
        if folder.name == name and any(folder.glob(mark)):
            found.append(folder)
            inner.clear()
        else:
            inner[:] = sorted(set(inner) - {"clips", "audio"})
    return only_one(found, f"folders {name}", root)


def only_one(found: list[Path], what: str, root: Path) -> Path | None:
    """Return the only path of a list, or None for an empty one.

    Args:
        found: The paths.
        what: What they are, for the message.
        root: Where they are, for the message.

    Raises:
        ValueError: If there are several.
    """
    if len(found) > 1:
        raise ValueError(
            f"several {what} under {root}: {', '.join(map(str, found))}; give one as source, or "
            "move the others away"
        )
    return found[0] if found else None


def scratch_folder(name: str, files: list[Path]) -> Path:
    """Return the folder into which files are unpacked; it need not exist.

    It is in the system's temporary folder (TMPDIR), because the cache may be on a slow drive
    (Colab) and these are thousands of small files. After a killed run they are found again, unless
    the machine is another one; then they are unpacked anew.

    Args:
        name: A part of the folder's name.
        files: The archives. Another folder is used where one of them, or the cache, is another.
    """
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = short_hash([str(cache_dir()), state])
    return Path(tempfile.gettempdir()) / f"distilwhisper-lab-{name}-{key}"


def read_table(
    path: Path,
    needed: Sequence[str],
    flaws: list[str],
    delimiter: str = "\t",
    header: Sequence[str] | None = None,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row of a UTF-8 table as its place ("ca/train.tsv:17") and {column: text}.

    Args:
        path: The table.
        needed: Columns that must be there.
        flaws: Rows that cannot be read are added to it, each as its place and the reason.
        delimiter: Between cells. Only a CSV (",") has quotes.
        header: The columns, where the file does not name them in its first line.

    Raises:
        ValueError: If a column is missing. The message names the file and the column.
    """
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        columns = header or next(reader, [])
        missing = [column for column in needed if column not in columns]
        if missing:
            raise ValueError(
                f"{path} lacks the column {', '.join(missing)} "
                f"(it has {', '.join(columns) or 'none'}): is it the right file, and whole?"
            )

        while True:
            place = f"{path.parent.name}/{path.name}:{reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                flaws.append(f"{place}: {error}")
                continue
            if cells is None:
                return
            if not cells:  # an empty line
                continue
            if not _is_unicode(cells):
                flaws.append(f"{place}: not UTF-8")
            elif len(cells) != len(columns):
                flaws.append(f"{place}: {len(cells)} columns instead of {len(columns)}")
            else:
                yield place, dict(zip(columns, cells, strict=True))


def _is_unicode(cells: list[str]) -> bool:
    """Return whether the cells were valid UTF-8, not escaped bytes."""
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return False
    return True
