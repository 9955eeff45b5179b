"""Tables of downloaded speech: finding and reading them, and where to unpack what they name."""

import bisect
import codecs
import csv
import difflib
import itertools
import os
import re
import stat
import tempfile
import unicodedata
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ...files import cache_dir, disk_errors, short_hash
from ..audio import READABLE
from .items import Item

HEAD = 1 << 16  # bytes from which encoding and line ends of a table are told

DELIMITERS = (",", ";", "\t", "|")  # of a CSV, in the order in which they are tried

MOST_FILES = 200_000  # among more files a path is taken only as it is written

MOST_NAMES = 5_000  # that are compared for the nearest one; among more, its neighbours in order

LONGEST_ROW = 100  # lines of one row; a quote that is open for longer was never closed

OPEN_QUOTE = "unexpected end of data"  # what csv reports of a quote that is open at the end

NEVER_CLOSED = "a quote is never closed"

OTHER_KINDS = {  # how files begin that are no tables, and what they are
    b"PK\x03\x04": "a workbook or a zip",
    b"\xd0\xcf\x11\xe0": "a workbook",
    b"PAR1": "a parquet file",
    b"\x1f\x8b": "packed (gzip)",
    b"{": "JSON",
    b"[": "JSON",
    b"<": "HTML or XML",
}

MANY_ZEROS = 0.1  # share of bytes that are 0 in UTF-16, and never in UTF-8

BARE_CR = re.compile(r"\r(?![\r\n])")  # a line end of old spreadsheets

SEPARATOR = re.compile(r'"?sep=([,;\t|])"?')  # a first line that Excel writes and reads

SOUND_NAME = re.compile(rf"(?:{'|'.join(map(re.escape, READABLE))})$", re.IGNORECASE)


@dataclass
class Reading:
    """What a reader has found of a corpus in a language, before any sound is decoded.

    Attributes:
        items: The lines, in the order of the tables.
        tables: Files whose SHA-256 goes into the report.
        flaws: Rows that cannot be read: "folder/file:line: why".
        about: More entries of the report: source ("folder", "archive" or "hub") and others.
        scratch: Temporary folder of unpacked files, removed once the corpus is prepared.
        followed: Files whose change makes the corpus outdated, with those that are missing; None:
            a prepared corpus does not follow its source.
    """

    items: list[Item]
    tables: list[Path]
    flaws: list[str]
    about: dict
    scratch: Path | None = None
    followed: list[Path] | None = None


def find_folders(root: Path, names: Sequence[str] | None, mark: str = "*") -> list[Path]:
    """Return the folders with one of some names (None: any name) at or below `root`.

    Args:
        root: Where the search starts. Folders named clips or audio are not searched.
        names: Of the folders, in upper or lower case.
        mark: Pattern of a file that the folders must have.
    """
    wanted = None if names is None else {name.casefold() for name in names}
    found = []
    for place, inner, _ in os.walk(root.absolute(), followlinks=True):
        folder = Path(place)
        is_named = wanted is None or folder.name.casefold() in wanted
        if is_named and any(folder.glob(mark)):
            found.append(folder)
            inner.clear()
        else:
            inner[:] = sorted(set(inner) - {"clips", "audio"})
    return found


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
    the machine is another one; then they are unpacked anew. Nobody else can write to it.

    Args:
        name: A part of the folder's name.
        files: The archives. Another folder is used where one of them, or the cache, is another.

    Raises:
        OSError: Where the user's own temporary folder is that of somebody else or open to others.
    """
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = short_hash([str(cache_dir()), state])
    return _private_folder() / f"{name}-{key}"


def _private_folder() -> Path:
    """Return this user's folder in the temporary folder, which no one else may read or write."""
    user = os.getuid() if hasattr(os, "getuid") else 0  # Windows has a temporary folder for each
    folder = Path(tempfile.gettempdir()) / f"distilwhisper-lab-{user}"
    with disk_errors(folder.parent, "TMPDIR"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)

    status = folder.lstat()
    is_own = status.st_uid == user and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if not stat.S_ISDIR(status.st_mode) or (hasattr(os, "getuid") and not is_own):
        raise PermissionError(
            f"{folder} is not a folder of yours alone, so that others could have written what is "
            "in it: remove it, or set TMPDIR to a folder of your own",
        )
    return folder


# ---- reading a table


def read_table(
    path: Path,
    needed: Sequence[str],
    flaws: list[str],
    delimiter: str | None = "\t",
    header: Sequence[str] | None = None,
    other_names: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row of a table as its place ("ca/train.tsv:17") and {column: text}.

    UTF-8 and UTF-16 are read, with and without a byte order mark, and lines that end in LF, CRLF
    or CR. A row that cannot be read is a flaw, and the next line is read as a row again. Rows
    without any text (",,", as spreadsheets write them) are empty lines. Names of columns are
    compared in lower case, with "_" for spaces.

    Args:
        path: The table.
        needed: Columns that must be there.
        flaws: Rows that cannot be read are added to it, each as its place and the reason.
        delimiter: Between cells, without quotes around them; None: a CSV, with quotes and with
            the one of DELIMITERS that its first line has.
        header: The columns, where the file does not name them in its first line.
        other_names: Column -> other names under which it is read, where it is not there itself.

    Raises:
        ValueError: If a column is missing or named twice, or the file is no text. The message
            names the file and the column.
    """
    encoding, line_end = _text_form(path)
    errors = "surrogateescape" if encoding == "utf-8-sig" else "replace"
    place = f"{path.parent.name}/{path.name}"
    with open(path, encoding=encoding, errors=errors, newline=line_end) as stream:
        lines = _Lines(stream)
        if header is None:
            columns, delimiter_found = _read_header(path, lines, needed, delimiter, other_names)
        else:
            columns = list(header)
            delimiter_found = delimiter or ","
        quoting = csv.QUOTE_MINIMAL if delimiter is None else csv.QUOTE_NONE

        for number, cells in _records(lines, delimiter_found, quoting, len(columns)):
            if isinstance(cells, str):
                flaws.append(f"{place}:{number}: {cells}")
                continue
            while len(cells) > len(columns) and not cells[-1].strip():
                cells.pop()  # spreadsheets write empty cells after the last column
            problem = _problem(cells, len(columns), encoding)
            if problem:
                flaws.append(f"{place}:{number}: {problem}")
            else:
                yield f"{place}:{number}", dict(zip(columns, cells, strict=True))


class _Lines:
    """The lines of a text file with their line ends and numbers, with a look ahead."""

    def __init__(self, stream: Iterator[str]):
        self.stream = stream
        self.ahead: deque[str] = deque()
        self.number = 0  # of the line that `take` has returned last

    def peek(self, distance: int = 0) -> str | None:
        """Return the line that comes after `distance` others; None after the last one."""
        while len(self.ahead) <= distance:
            line = next(self.stream, None)
            if line is None:
                return None
            self.ahead.append(line)
        return self.ahead[distance]

    def take(self) -> str | None:
        """Return the next line and go on; None after the last one."""
        line = self.peek()
        if line is not None:
            self.ahead.popleft()
            self.number += 1
        return line


def _text_form(path: Path) -> tuple[str, str]:
    """Return the encoding and the line end ("\\n", also for CRLF, or "\\r") of a table."""
    with open(path, "rb") as file:
        head = file.read(HEAD)
    for start, kind in OTHER_KINDS.items():
        if head.removeprefix(codecs.BOM_UTF8).startswith(start):
            raise ValueError(f"{path} is {kind}, not a table: export it as CSV (UTF-8)")
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        raise ValueError(f"{path} is UTF-32: save it as UTF-8")

    # In UTF-16 every other byte of paths, commas and line ends is 0.
    encoding = "utf-8-sig"
    zeros_at_even = head[0::2].count(0)
    zeros_at_odd = head[1::2].count(0)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif zeros_at_odd > MANY_ZEROS * len(head) and zeros_at_odd > 10 * zeros_at_even:
        encoding = "utf-16-le"
    elif zeros_at_even > MANY_ZEROS * len(head) and zeros_at_even > 10 * zeros_at_odd:
        encoding = "utf-16-be"

    text = head.decode(encoding, "replace")
    ends_in_cr = len(BARE_CR.findall(text.rstrip("\r"))) > text.count("\n")
    return encoding, "\r" if ends_in_cr else "\n"


def _read_header(
    path: Path,
    lines: _Lines,
    needed: Sequence[str],
    delimiter: str | None,
    other_names: Mapping[str, Sequence[str]] | None,
) -> tuple[list[str], str]:
    """Return the columns that the first line names, and the delimiter."""
    line = lines.take()
    while line is not None and not line.strip(" \t\r\n,;|\ufeff"):  # empty lines before it
        line = lines.take()

    delimiters = DELIMITERS if delimiter is None else (delimiter,)
    separator = SEPARATOR.fullmatch((line or "").strip("\r\n"))
    if delimiter is None and separator:
        delimiters = (separator[1],)
        line = lines.take()

    # The first delimiter with which all columns are there.
    quoting = csv.QUOTE_MINIMAL if delimiter is None else csv.QUOTE_NONE
    found: list[list[str]] = []
    problem = ""
    for sign in delimiters:
        try:
            cells = _cells([line or ""], sign, quoting)
        except csv.Error as error:
            problem = _reason(error)
            continue
        columns = _named([_column_name(cell) for cell in cells], path, needed, other_names or {})
        if set(needed) <= set(columns):
            return columns, sign
        found.append(columns)

    if problem:
        raise ValueError(f"{path}:{lines.number}: the names of the columns: {problem}")
    columns = max(found, key=len)
    missing = [column for column in needed if column not in columns]
    raise ValueError(
        f"{path} lacks the column {', '.join(missing)} (it has {', '.join(columns) or 'none'}): "
        f"is it the right file, and whole?{_advice(missing, columns, other_names)}"
    )


def _advice(
    missing: list[str], columns: list[str], other_names: Mapping[str, Sequence[str]] | None
) -> str:
    """Return what to do about missing columns, for tables that people write."""
    if other_names is None:
        return ""
    if any(SOUND_NAME.search(column) for column in columns):
        return f" Its first line must name the columns: {', '.join(other_names)}"
    advice = f" Rename the column that holds the {missing[0]} to {missing[0]}"
    if other_names.get(missing[0]):
        advice += f" (or {', '.join(other_names[missing[0]])})"
    return advice


def _column_name(cell: str) -> str:
    """Return the name of a column in lower case, with "_" for spaces and hyphens."""
    name = unicodedata.normalize("NFC", cell).strip(" \t\r\n\ufeff\"'").casefold()
    return re.sub(r"[\s-]+", "_", name)


def _named(
    columns: list[str],
    path: Path,
    needed: Sequence[str],
    other_names: Mapping[str, Sequence[str]],
) -> list[str]:
    """Return the columns, those with another name under their own; ValueError for ambiguity."""
    columns = list(columns)
    for name, others in other_names.items():
        present = [other for other in others if other in columns]
        if name in columns or not present:
            continue
        if len(present) > 1 and name in needed:
            raise ValueError(
                f"{path} has the columns {' and '.join(present)}: rename the one that holds the "
                f"{name} to {name}"
            )
        columns[columns.index(present[0])] = name

    for name in (*needed, *other_names):
        if columns.count(name) > 1:
            raise ValueError(f"{path} names the column {name} twice: rename one of them")
    return columns


def _records(
    lines: _Lines, delimiter: str, quoting: int, width: int
) -> Iterator[tuple[int, list[str] | str]]:
    """Yield each row as the number of its first line and its cells, or why it cannot be read.

    Args:
        lines: The lines after the header.
        delimiter: Between cells.
        quoting: As for `csv.reader`.
        width: Number of columns, by which a row is told where a quote is never closed.
    """
    while True:
        line = lines.take()
        if line is None:
            return
        number = lines.number
        try:
            cells = _cells([line], delimiter, quoting)
        except csv.Error as error:
            if str(error) != OPEN_QUOTE:
                yield number, _reason(error)
                continue
            rest = _rest_of_quote(line, lines, delimiter, quoting, width)
            if rest is None:
                yield number, NEVER_CLOSED
                continue
            for _ in rest:
                lines.take()
            cells = _cells([line, *rest], delimiter, quoting)
        if any(cell.strip() for cell in cells):
            yield number, cells


def _rest_of_quote(
    first: str, lines: _Lines, delimiter: str, quoting: int, width: int
) -> list[str] | None:
    """Return the lines that end a row with a line end in quotes; None where nothing ends it.

    A quote that would take in the next row is never closed: two lines that name a sound file each
    are two rows.
    """
    names_a_sound = _names_a_sound(first.split(delimiter))
    rest: list[str] = []
    while len(rest) < LONGEST_ROW:
        line = lines.peek(len(rest))
        if line is None:
            return None
        if names_a_sound and _is_row(line, delimiter, quoting, width):
            return None
        rest.append(line)
        try:
            _cells([first, *rest], delimiter, quoting)
        except csv.Error as error:
            if str(error) != OPEN_QUOTE:
                return None
        else:
            return rest
    return None


def _is_row(line: str, delimiter: str, quoting: int, width: int) -> bool:
    """Return whether a line is a row that names a sound file by itself."""
    try:
        cells = _cells([line], delimiter, quoting)
    except csv.Error as error:
        if str(error) != OPEN_QUOTE:
            return False
        return _names_a_sound(line.split(delimiter))  # its own quote ends in another line
    return len(cells) == width and _names_a_sound(cells)


def _names_a_sound(cells: list[str]) -> bool:
    return any(SOUND_NAME.search(cell.strip(' "\r\n')) for cell in cells)


def _cells(lines: list[str], delimiter: str, quoting: int) -> list[str]:
    """Return the cells of one row."""
    reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
    return next(reader, [])


def _reason(error: csv.Error) -> str:
    """Return in plain words why a row cannot be read."""
    text = str(error)
    if text == OPEN_QUOTE:
        return NEVER_CLOSED
    if "new-line character" in text:
        return "a line end (CR) within the row"
    if "expected after" in text:
        return f"text after a closing quote ({text}): write a quote in a text twice"
    return text


def _problem(cells: list[str], width: int, encoding: str) -> str:
    """Return why a row cannot be used, or ""."""
    text = "".join(cells)
    if encoding == "utf-8-sig":
        is_readable = not any("\udc80" <= char <= "\udcff" for char in text)
    else:
        is_readable = "\ufffd" not in text
    if not is_readable:
        name = "UTF-8" if encoding == "utf-8-sig" else "UTF-16"
        return f"not {name}: save the table as UTF-8"
    if "\0" in text:
        return "a NUL character: the file is damaged"
    if len(cells) != width:
        return f"{len(cells)} columns instead of {width}"
    return ""


# ---- sound files by the paths that a table has


class Sounds:
    """The sound files below a folder, found by the paths that a table has.

    A path is taken as it is written where that file exists. Otherwise it is compared with the
    files that are there: with "/" for backslashes, in upper or lower case, in any Unicode form,
    without an ending, with or without the first folder `clips`. A file is found only where it is
    the only one.

    Args:
        folder: The folder.
        prefixes: Names of a first folder that a path may lack, or have in excess.
        shown: The folder as messages name it, where its files come from an archive.
    """

    def __init__(
        self, folder: Path, prefixes: Sequence[str] = ("clips",), shown: Path | None = None
    ):
        self.folder = folder
        self.prefixes = tuple(prefixes)
        self.shown = shown or folder
        self._there: dict[str, list[str]] | None = None  # key of a path -> paths in the folder
        self._has_told = False  # what is there instead of a missing file

    def find(self, written: str) -> Path | None:
        """Return the file, or None.

        Args:
            written: Its path within the folder.

        Raises:
            ValueError: For a path that cannot be looked for: it is too long or cannot be opened.
        """
        exact = self.folder / written
        try:
            if exact.is_file():
                return exact
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"{_shortened(written)!r} cannot be looked for ({reason})") from error

        for key in self._keys(written):
            files = self._files().get(key, [])
            if len(files) == 1:
                return self.folder / files[0]
            if files:
                return None  # which of them is meant?
        return None

    def looked_for(self, written: str) -> str:
        """Return where a file was looked for, and for the first one what is there instead."""
        place = f"looked for {self.shown / written}"
        if self._has_told:  # it takes a while among the names of many files
            return place
        self._has_told = True
        return f"{place}; {self.nearest(written)}"

    def nearest(self, written: str) -> str:
        """Return in words which file there is most like a path."""
        there = sorted({path for paths in self._files().values() for path in paths})
        if not there:
            if not self.folder.is_dir():
                return f"there is no folder {self.shown}"
            return f"there are no sound files under {self.shown}, or too many to compare"
        return nearest_name(written, there)

    def _keys(self, written: str) -> Iterator[str]:
        """Yield the keys under which a path is looked for, the likeliest first."""
        key = path_key(written)
        keys = [key]
        for prefix in self.prefixes:
            start = f"{prefix}/"
            keys.append(key.removeprefix(start) if key.startswith(start) else start + key)
        yield from keys
        yield from (f"{key}.*" for key in keys)

    def _files(self) -> dict[str, list[str]]:
        """Return the sound files that are there by key, and by key without ending + ".*"."""
        if self._there is None:
            self._there = {}
            paths = list(itertools.islice(self._walk(), MOST_FILES + 1))
            if len(paths) <= MOST_FILES:
                for path in paths:
                    key = path_key(path)
                    self._there.setdefault(key, []).append(path)
                    self._there.setdefault(f"{os.path.splitext(key)[0]}.*", []).append(path)
        return self._there

    def _walk(self) -> Iterator[str]:
        """Yield the path of each sound file in the folder, in order."""
        for place, inner, names in os.walk(self.folder, followlinks=True):
            inner.sort()
            folder = Path(place).relative_to(self.folder)
            if len(folder.parts) > 20:  # links in a circle
                inner.clear()
            for name in sorted(names):
                if name.lower().endswith(READABLE):
                    yield str(folder / name)


def nearest_name(written: str, there: list[str]) -> str:
    """Return in words which name is most like another.

    Args:
        written: The name that was looked for.
        there: The others, sorted, at least one.
    """
    if len(there) > MOST_NAMES:
        middle = bisect.bisect(there, written)
        there = there[max(0, middle - 100) : middle + 100]
    likely = difflib.get_close_matches(written, there, 1, 0.0)
    return f"the nearest name there is {likely[0] if likely else there[0]}"


def path_key(path: str) -> str:
    """Return a path in the form in which paths are compared: NFC, lower case, "/"."""
    text = unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()
    return "/".join(part for part in text.split("/") if part not in ("", "."))


def _shortened(text: str) -> str:
    """Return a text of at most 60 characters."""
    return text if len(text) <= 60 else f"{text[:59]}…"
