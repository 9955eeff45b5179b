"""The corpora: one `datasets.Dataset` per corpus and language, prepared once, then kept on disk."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, load_from_disk

from ...checks import check_path
from ...files import disk_errors, one_at_a_time, set_aside, tell
from .clip_store import is_in_store, load_rows
from .common_voice import SIZES, find_release
from .preparing import prepare_in_shards, prepare_sizes, prepare_small
from .registry import READERS, check_names, corpus_folder, store_folder
from .reports import is_current, is_prepared
from .shards import load_shards
from .sources import (
    check_source,
    damage_of,
    remembered_source,
    warn_of_another_source,
    what_has_changed,
)


@dataclass(frozen=True)
class _Opened:
    """A corpus that this process has opened.

    Attributes:
        state: That of its report at the time, as `_report_state` gives it.
        dataset: The corpus.
    """

    state: tuple[int, int] | None
    dataset: Dataset


ATTEMPTS = 3  # to open what this process has prepared, where another one prepares it too

_OPENED: dict[Path, _Opened] = {}  # by the folder of the prepared corpus


def load_corpus(name: str, language: str, source: str | Path | None = None) -> Dataset:
    """Return a corpus in a language, all splits in one Dataset with the columns of FEATURES.

    The first call prepares the corpus in the cache folder. Common Voice, FLEURS and recordings: it
    warns of missing or damaged clips and rows, which are left out. With a size of Common Voice the
    smaller ones are prepared too, and a larger one takes over what is decoded.

    Recordings follow their table and their sounds: where one of these has changed, the corpus is
    prepared anew, and a line on stderr says why. Of the other corpora a prepared one is loaded also
    where the archive has changed or another release lies there (`corpus_release` names the one that
    was used), with a warning where another source is given. Delete its folder to prepare it anew.

    As long as the prepared corpus stays the same, all calls in a process return the same object.
    Do not change it in place (`set_format`); methods such as `select` and `with_format` return a
    new one.

    Args:
        name: One of CORPORA.
        language: Code or English name of the language.
        source: A folder, .deb files or an archive to prepare it from. Without one it is looked for:
            see `packages.find_package`; Common Voice, FLEURS and recordings in the folder that
            LAB_DATA names.

    Raises:
        ValueError: For an unknown corpus or language, the message lists the known ones; and for
            recordings that could be either of two, see `check_source`.
        OSError: If the data cannot be had, or other programs prepare other data meanwhile.
    """
    name, language = check_names(name, language)
    if source is not None:
        check_path("source", source)
    folder = corpus_folder(name, language).absolute()
    check_source(name, language, folder, source)
    warn_of_another_source(name, language, folder, source)
    opened = _OPENED.get(folder)
    is_the_same = opened and opened.state is not None and opened.state == _report_state(folder)
    if opened and is_the_same and not what_has_changed(name, language, folder, source):
        return opened.dataset

    for _ in range(ATTEMPTS):
        _ensure_prepared(name, language, folder, source)
        state = _report_state(folder)  # before opening: a corpus replaced meanwhile is opened anew
        dataset = _open(name, language, folder)
        changed = what_has_changed(name, language, folder, source)  # by another process, since
        if not changed:
            _OPENED[folder] = _Opened(state, dataset)
            return dataset
    raise OSError(
        f"{name} in {language!r} was prepared {ATTEMPTS} times, and each time another program "
        f"prepared it from something else ({changed}): let one of them run alone, or give it a "
        "folder of its own by LAB_CACHE"
    )


def prepare_largest(names: Iterable[str], language: str) -> None:
    """Prepare the largest of some sizes of Common Voice, and with it those that are parts of it.

    Asked for one by one from the smallest on, each would search the archive anew. Where the largest
    cannot be prepared, a line on stderr says why: the caller may need a smaller one alone.

    Args:
        names: Of corpora; others than the sizes of Common Voice are left out.
        language: Code of the language.
    """
    sizes = [name for name in names if name in SIZES]
    if not sizes:
        return
    largest = max(sizes, key=SIZES.__getitem__)
    try:
        load_corpus(largest, language)
    except (ValueError, OSError) as error:
        tell(f"{largest} in {language} cannot be prepared: {error}")


def has_common_voice(name: str, language: str) -> bool:
    """Return whether a corpus of Common Voice is prepared, or can be from the data folder."""
    if is_prepared(name, language):
        return True
    try:
        find_release(language)
    except FileNotFoundError:
        return False
    return True


def _report_state(folder: Path) -> tuple[int, int] | None:
    """Return what changes when a corpus is prepared anew: the report's time and size.

    None where there is no report.
    """
    try:
        status = (folder / "report.json").stat()
    except FileNotFoundError:
        return None
    return status.st_mtime_ns, status.st_size


def _ensure_prepared(name: str, language: str, folder: Path, source: str | Path | None) -> None:
    """Prepare a corpus, unless it is prepared already; one process at a time.

    The sizes of Common Voice in a language are prepared in one place: a process waits for another
    that prepares any of them, and then has its clips.
    """
    remembered = remembered_source(folder)  # before a damaged folder is set aside
    if _is_usable(name, language, folder, source):
        return
    with one_at_a_time(store_folder(language) if name in SIZES else folder):
        if _is_usable(name, language, folder, source):  # another process has prepared it meanwhile
            return
        changed = what_has_changed(name, language, folder, source) if is_current(folder) else ""
        if changed:
            tell(f"{name} in {language}: {changed}: the corpus is prepared anew")
        if source is None:
            source = remembered
        if name in SIZES:
            prepare_sizes(name, language, folder, source)
        elif name in READERS:
            reading = READERS[name](name, language, source)
            with disk_errors(folder.parent):
                prepare_in_shards(name, language, folder, source, reading)
        else:
            prepare_small(name, language, folder, source)


def _is_usable(name: str, language: str, folder: Path, source: str | Path | None) -> bool:
    """Return whether a corpus is prepared, whole and what its source has.

    A damaged one is set aside.
    """
    if not is_current(folder):
        return False
    damage = damage_of(folder)
    if damage:
        set_aside(folder, damage)
        return False
    return not what_has_changed(name, language, folder, source)


def _open(name: str, language: str, folder: Path) -> Dataset:
    """Return a prepared corpus as a memory-mapped Dataset."""
    if is_in_store(folder):
        return load_rows(folder, name, language)
    if name in READERS:
        return load_shards(folder, name, language)
    return load_from_disk(str(folder))
