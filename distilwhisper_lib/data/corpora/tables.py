"""Tables of downloaded speech: where they lie, read row by row, and where what they name is unpacked."""

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
    """What a reader has found of a corpus in a language, before any sound is decoded."""

    items: list[Item]
    tables: list[Path]  # the report has their SHA-256
    flaws: list[str]  # rows that cannot be read: "folder/file:line: why"
    about: dict  # further entries of the report: source ("folder", "archive" or "hub"), ...
    scratch: Path | None = None  # what was unpacked: removed once the corpus is prepared


def find_folder(root: Path, name: str, mark: str = "*") -> Path | None:
    """Return the folder `name` with a file like `mark` at or below `root`, or None.

    Folders named clips or audio are not looked into. Raises ValueError if there are several.
    """
    found = []
    for place, inner, _ in os.walk(root.absolute(), followlinks=True):
        inner[:] = sorted({*inner} - {"clips", "audio"})
        if Path(place).name == name and any(Path(place).glob(mark)):
            found.append(Path(place))
            inner.clear()
    return one_of(found, f"folders {name}", root)


def one_of(found: list[Path], what: str, root: Path) -> Path | None:
    """Return the only path of a list, or None; raises ValueError if there are several."""
    if len(found) > 1:
        raise ValueError(
            f"several {what} under {root}: {', '.join(map(str, found))}; give one as source, or move "
            "the others away"
        )
    return found[0] if found else None


def scratch_folder(name: str, files: list[Path]) -> Path:
    """Return the folder for what is unpacked of these files: another one when one of them, or the cache, changes.

    It is in the system's temporary folder (TMPDIR): the cache may be on a slow drive (Colab), and these are thousands
    of small files. A killed run finds them again there, unless the machine is another one; then they are unpacked anew.
    """
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return (
        Path(tempfile.gettempdir())
        / f"distilwhisper-lab-{name}-{short_hash([str(cache_dir()), state])}"
    )


def read_table(
    path: Path,
    needed: Sequence[str],
    flaws: list[str],
    delimiter: str = "\t",
    header: Sequence[str] | None = None,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row of a UTF-8 table as its place ("ca/train.tsv:17") and {column: text}.

    needed: columns that must be there; header: the columns, if the file does not name them. Only a CSV (delimiter
    ",") has quotes. A row that cannot be read goes to `flaws` with its place. Raises ValueError that names file and
    columns if one is missing.
    """
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="\n") as lines:
        reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
        columns = header or next(reader, [])
        if missing := [column for column in needed if column not in columns]:
            raise ValueError(
                f"{path} lacks the column {', '.join(missing)} (it has {', '.join(columns) or 'none'}): "
                "is it the right file, and whole?"
            )
        name = f"{path.parent.name}/{path.name}"
        while True:
            place = f"{name}:{reader.line_num + 1}"
            try:
                cells = next(reader, None)
                if cells is None:
                    return
                "".join(cells).encode()
            except csv.Error as error:
                flaws.append(f"{place}: {error}")
            except UnicodeEncodeError:
                flaws.append(f"{place}: not UTF-8")
            else:
                if len(cells) == len(columns):
                    yield place, dict(zip(columns, cells, strict=True))
                elif cells:
                    flaws.append(f"{place}: {len(cells)} columns instead of {len(columns)}")
