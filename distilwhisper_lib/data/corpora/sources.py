"""What a prepared corpus was made from, whether that has changed, and whether it is whole."""

import warnings
from pathlib import Path

from ...files import file_sha256, read_json, remembered_sha256, write_json
from .recorded import find_recordings, sounds_beside
from .reports import is_current

SOURCE = "source.json"  # beside report.json

OWN_FILES = (".arrow", ".json", ".csv")  # of a prepared corpus, by the ends of their names

HASHED = 1 << 30  # bytes of a corpus up to which its files are hashed when it is opened


def write_source(
    folder: Path,
    source: str | Path | None,
    followed: list[Path] | None = None,
    elsewhere: dict[str, list] | None = None,
) -> None:
    """Write from what a corpus is prepared, and the sizes and hashes of its own files.

    Args:
        folder: That of the corpus, complete but for this.
        source: As for `load_corpus`.
        followed: Files whose change makes the corpus outdated: the table, then the sounds.
        elsewhere: Files outside the folder that the corpus has: path from it -> size and hash.
    """
    files = dict(elsewhere or {})
    for path in sorted(folder.iterdir()):
        if path.suffix in OWN_FILES and path.name != SOURCE:  # which a stopped run may have left
            files[path.name] = [path.stat().st_size, file_sha256(path)]
    about: dict = {"source": _absolute(source), "files": files}
    if followed is not None:
        table, *sounds = followed
        about["table"] = [str(table), file_sha256(table)]
        about["sounds"] = {str(path.absolute()): _sound_state(path) for path in sounds}
    write_json(folder / SOURCE, about, sealed=True)


def remembered_source(folder: Path) -> str | None:
    """Return the source that a corpus was prepared from, if it was given and is still there."""
    about = read_json(folder / SOURCE)
    table, _ = about.get("table", (None, None))
    for path in (table, about.get("source")):
        if path is not None and Path(path).exists():
            return path
    return None


def _absolute(source: str | Path | None) -> str | None:
    return None if source is None else str(Path(source).expanduser().absolute())


def _sound_state(path: Path) -> list[int | str] | None:
    """Return the size, the time and the hash of a file; None where it cannot be read."""
    try:
        status = path.stat()
        return [status.st_size, status.st_mtime_ns, remembered_sha256(path)]
    except OSError:
        return None


def _is_as_then(sound: Path, then: list | None, in_place: bool) -> bool:
    """Return whether a sound is what a corpus was prepared from.

    Args:
        sound: Its file.
        then: Size, time and hash; of a corpus from before there were hashes without the last.
        in_place: Whether it is the very file, so that its time tells; else its contents count.
    """
    try:
        status = sound.stat()
        if then is None or status.st_size != then[0]:
            return False
        if in_place:
            return status.st_mtime_ns == then[1]
        return len(then) < 3 or remembered_sha256(sound) == then[2]
    except OSError:
        return then is None


def damage_of(folder: Path) -> str:
    """Return what is wrong with the files of a prepared corpus, or "".

    Hashes are compared where all files together have less than HASHED bytes, else sizes alone.
    """
    files = read_json(folder / SOURCE).get("files", {})
    is_hashed = sum(size for size, _ in files.values()) < HASHED
    for name, (size, digest) in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes instead of {size}"
        if is_hashed and file_sha256(path) != digest:
            return f"the bytes of {name} are not those that were written"
    return ""


def what_has_changed(name: str, language: str, folder: Path, source: str | Path | None) -> str:
    """Return why recordings are no longer what their corpus was prepared from, or ""."""
    if name != "recordings":
        return ""
    about = read_json(folder / SOURCE)
    path, digest = about.get("table", (None, None))
    if source is not None or path is None:
        try:
            path = find_recordings(name, language, source)
        except (FileNotFoundError, ValueError):
            return ""  # the source is gone: the prepared corpus does without it
    table = Path(path)
    if not table.is_file():
        return ""

    then = Path(about.get("table", [path])[0])
    digests = {digest, *read_json(folder / "report.json").get("tables", {}).values()}
    if file_sha256(table) not in digests:
        if table.absolute() == then.absolute():
            return f"{table} has changed"
        return f"{table} is not {then}, from which it was prepared"
    if "table" not in about:
        return ""  # a corpus from before the sounds were noted
    there = sounds_beside(table.absolute())
    for name_then, state in about.get("sounds", {}).items():
        sound = Path(name_then)
        if sound.is_relative_to(then.parent):  # in a copy of the folder it has moved with the table
            written = sound.relative_to(then.parent)
            sound = table.absolute().parent / written
            if state is None and there.find(str(written)) is not None:
                return f"{sound}, which was missing, is there"
        if not _is_as_then(sound, state, in_place=str(sound) == name_then):
            return f"{sound} has changed"
    return ""


def check_source(name: str, language: str, folder: Path, source: str | Path | None) -> None:
    """Raise unless it is clear which recordings are asked for.

    A prepared corpus does without its source where that is gone; of a folder that has never been
    its source, it is not the corpus.

    Args:
        name: Of the corpus.
        language: Code.
        folder: Of the prepared corpus.
        source: As for `load_corpus`.

    Raises:
        FileNotFoundError: For a source without a table from which nothing was prepared.
        ValueError: Without a source, where a table lies in the folder of LAB_DATA and the corpus
            was prepared from another one.
    """
    if name != "recordings":
        return
    about = read_json(folder / SOURCE)
    then = about.get("table", [None])[0]
    if source is not None:
        earlier = {about.get("source"), then, then and str(Path(then).parent)}
        if _absolute(source) not in earlier:
            find_recordings(name, language, source)
        return

    try:
        table = find_recordings(name, language, None).absolute()
    except (FileNotFoundError, ValueError):
        return
    if then is not None and Path(then) != table and file_sha256(table) != about["table"][1]:
        raise ValueError(
            f"there are recordings in {language!r} at {table}, and others were prepared from "
            f"{then}: say which are meant, by open_recordings(FOLDER, {language!r}), "
            "load_corpus(…, source=FOLDER) or --recordings FOLDER"
        )


def warn_of_another_source(
    name: str, language: str, folder: Path, source: str | Path | None
) -> None:
    """Warn where a source is given and the corpus was prepared from another one."""
    if source is None or name == "recordings" or not is_current(folder):
        return
    about = read_json(folder / SOURCE)
    if about and about["source"] != _absolute(source):
        warnings.warn(
            f"{name} in {language} was prepared before, from "
            f"{about['source'] or 'where it is looked for without a source'}: {source} is not "
            f"read. Delete {folder} to prepare it from there",
            stacklevel=3,  # the caller of load_corpus
        )
