"""The corpora: one `datasets.Dataset` per corpus and language, prepared once, then kept on disk."""

import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import soundfile
import soxr
from datasets import Audio, Dataset, DatasetInfo, Features, Value, load_from_disk

from ...checks import check_choice, check_path
from ...files import (
    atomic_folder,
    cache_dir,
    disk_errors,
    file_sha256,
    one_at_a_time,
    read_json,
    set_aside,
    tell,
    write_json,
)
from ...whisper.tokens import LANGUAGES, language_code, nearest_languages
from . import asterisk, festvox, fillets, stamps, toy, world
from .clip_store import ClipStore, is_in_store, load_rows
from .common_voice import COMMON, LOCALES, SIZES, find_release, read_common_voice, read_sizes
from .fleurs import CODES, read_fleurs
from .items import SPLITS, Item, fingerprint, read_rows, stable_hash, summary, without_duplicates
from .packages import Package, find_package
from .recorded import find_recordings, read_recordings
from .shards import load_shards, write_shards
from .tables import Reading

CORPORA: dict[str, tuple[str, ...]] = {  # corpus -> codes of its languages
    "fillets": ("cs", "nl"),
    "stamps": stamps.LANGUAGES,
    "festvox": festvox.LANGUAGES,
    "asterisk": asterisk.LANGUAGES,
    "toy": tuple(sorted({"cs", "nl", *stamps.LANGUAGES})),
    "world": tuple(sorted(world.LANGUAGES)),
    **dict.fromkeys(SIZES, tuple(sorted(LANGUAGES))),
    "fleurs": tuple(sorted(CODES)),
    "recordings": tuple(sorted(LANGUAGES)),
}

# Small corpora: (folder with the data, language) -> items
ITEMS: dict[str, Callable[..., list[Item]]] = {
    "fillets": fillets.fillets_items,
    "stamps": stamps.stamps_items,
    "festvox": festvox.festvox_items,
    "asterisk": asterisk.asterisk_items,
    "toy": toy.toy_items,
    "world": world.world_items,
}

MADE_UP = ("toy", "world")  # corpora that need no data

# Large corpora, prepared in shards: (corpus, language, source) -> reading
READERS: dict[str, Callable[[str, str, str | Path | None], Reading]] = {
    **dict.fromkeys(SIZES, read_common_voice),
    "fleurs": read_fleurs,
    "recordings": read_recordings,
}

# What to do about clips that are left out, by the start of the reason.
ADVICE = {
    "longer than": (
        "Whisper hears 30 s at once: cut longer sounds at pauses into parts of at most 30 s, each "
        "with its own text in a row of its own (for instance `ffmpeg -i long.wav -ss 0 -to 25 "
        "part-1.wav`, or Audacity's export of labelled parts)"
    ),
    "named twice": "A recording has one row: of several rows the first one counts",
}

# Raise it when rows or splits change: corpora that an older builder prepared are prepared anew.
BUILDER = 1

HASHED = 1 << 30  # bytes of a corpus up to which its files are hashed when it is opened

TEXT = Value("string")

FEATURES = Features(
    {
        "id": TEXT,
        "audio": Audio(sampling_rate=16_000, decode=False),  # {"bytes": mono FLAC, "path"}
        "text": TEXT,
        "language": TEXT,
        "speaker": TEXT,
        "room_or_category": TEXT,
        "translation_en": TEXT,
        "duration": Value("float64"),  # seconds
        "split": TEXT,
    }
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
        ValueError: For an unknown corpus or language. The message lists the known ones.
        OSError: If the data cannot be had.
    """
    name, language = check_names(name, language)
    if source is not None:
        check_path("source", source)
    folder = corpus_folder(name, language).absolute()
    _warn_of_another_source(name, language, folder, source)
    opened = _OPENED.get(folder)
    is_the_same = opened and opened.state is not None and opened.state == _report_state(folder)
    if opened and is_the_same and not _what_has_changed(name, language, folder, source):
        return opened.dataset

    _ensure_prepared(name, language, folder, source)
    state = _report_state(folder)  # before opening: a corpus replaced meanwhile is opened anew
    dataset = _open(name, language, folder)
    _OPENED[folder] = _Opened(state, dataset)
    return dataset


def prepare_largest(names: Iterable[str], language: str) -> None:
    """Prepare the largest of some sizes of Common Voice, and with it those that are parts of it.

    Asked for one by one from the smallest on, each would search the archive anew. Where the largest
    cannot be prepared nothing happens: `load_corpus` says why, of the one that is needed.

    Args:
        names: Of corpora; others than the sizes of Common Voice are left out.
        language: Code of the language.
    """
    sizes = [name for name in names if name in SIZES]
    if sizes:
        with suppress(ValueError, OSError):
            load_corpus(max(sizes, key=SIZES.__getitem__), language)


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
    remembered = _remembered_source(folder)  # before a damaged folder is set aside
    if _is_usable(name, language, folder, source):
        return
    with one_at_a_time(_store_folder(language) if name in SIZES else folder):
        if _is_usable(name, language, folder, source):  # another process has prepared it meanwhile
            return
        changed = _what_has_changed(name, language, folder, source) if _is_prepared(folder) else ""
        if changed:
            tell(f"{name} in {language}: {changed}: the corpus is prepared anew")
        if source is None:
            source = remembered
        if name in SIZES:
            _prepare_sizes(name, language, folder, source)
        elif name in READERS:
            reading = READERS[name](name, language, source)
            with disk_errors(folder.parent):
                _prepare_in_shards(name, language, folder, source, reading)
        else:
            _prepare(name, language, folder, source)


def _is_usable(name: str, language: str, folder: Path, source: str | Path | None) -> bool:
    """Return whether a corpus is prepared, whole and what its source has.

    A damaged one is set aside.
    """
    if not _is_prepared(folder):
        return False
    damage = _damage(folder)
    if damage:
        set_aside(folder, damage)
        return False
    return not _what_has_changed(name, language, folder, source)


def _is_prepared(folder: Path) -> bool:
    """Return whether this version of the builder has prepared a corpus."""
    return read_json(folder / "report.json").get("builder") == BUILDER


# ---- what a prepared corpus was made from, and whether it is whole

SOURCE = "source.json"  # beside report.json
OWN_FILES = (".arrow", ".json", ".csv")  # of a prepared corpus, by the ends of their names


def _write_source(
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
        if path.suffix in OWN_FILES:
            files[path.name] = [path.stat().st_size, file_sha256(path)]
    about: dict = {"source": _absolute(source), "files": files}
    if followed is not None:
        table, *sounds = followed
        about["table"] = [str(table), file_sha256(table)]
        about["sounds"] = {str(path.absolute()): _file_state(path) for path in sounds}
    write_json(folder / SOURCE, about, sealed=True)


def _remembered_source(folder: Path) -> str | None:
    """Return the source that a corpus was prepared from, if it was given and is still there."""
    about = read_json(folder / SOURCE)
    table, _ = about.get("table", (None, None))
    for path in (table, about.get("source")):
        if path is not None and Path(path).exists():
            return path
    return None


def _absolute(source: str | Path | None) -> str | None:
    return None if source is None else str(Path(source).expanduser().absolute())


def _file_state(path: Path) -> list[int] | None:
    """Return the size and the time of a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _damage(folder: Path) -> str:
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


def _what_has_changed(name: str, language: str, folder: Path, source: str | Path | None) -> str:
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

    digests = {digest, *read_json(folder / "report.json").get("tables", {}).values()}
    if file_sha256(table) not in digests:
        return f"{table} has changed"
    if str(table.absolute()) != about.get("table", [None])[0]:
        return ""  # a copy elsewhere, or a corpus from before the sounds were noted
    for sound, state in about.get("sounds", {}).items():
        if _file_state(Path(sound)) != state:
            return f"{sound} has changed"
    return ""


def _warn_of_another_source(
    name: str, language: str, folder: Path, source: str | Path | None
) -> None:
    """Warn where a source is given and the corpus was prepared from another one."""
    if source is None or name == "recordings" or not _is_prepared(folder):
        return
    about = read_json(folder / SOURCE)
    if about and about["source"] != _absolute(source):
        warnings.warn(
            f"{name} in {language} was prepared before, from "
            f"{about['source'] or 'where it is looked for without a source'}: {source} is not "
            f"read. Delete {folder} to prepare it from there",
            stacklevel=3,  # the caller of load_corpus
        )


def _open(name: str, language: str, folder: Path) -> Dataset:
    """Return a prepared corpus as a memory-mapped Dataset."""
    if is_in_store(folder):
        return load_rows(folder, name, language)
    if name in READERS:
        return load_shards(folder, name, language)
    return load_from_disk(str(folder))


def corpus_report(name: str, language: str) -> dict:
    """Return the report of a prepared corpus.

    It has counts, reasons for dropping clips, minutes, packages and the fingerprint.

    Raises:
        FileNotFoundError: If the corpus is not prepared yet.
    """
    name, language = check_names(name, language)
    report = read_json(corpus_folder(name, language) / "report.json")
    if not report:
        raise FileNotFoundError(
            f"{name}-{language} is not prepared yet: call load_corpus({name!r}, {language!r})"
        )
    return report


def corpus_release(name: str, language: str) -> str | None:
    """Return the release that a prepared corpus was made from.

    Returns:
        Common Voice: "cv-corpus-13.0-2023-03-09" or "unknown". None where there are no releases.

    Raises:
        FileNotFoundError: If the corpus is not prepared yet.
    """
    return corpus_report(name, language).get("release")


def is_prepared(name: str, language: str) -> bool:
    """Return whether a corpus is prepared, intact or not."""
    return (corpus_folder(name, language) / "report.json").is_file()


def has_common_voice(name: str, language: str) -> bool:
    """Return whether a corpus of Common Voice is prepared, or can be from the data folder."""
    if is_prepared(name, language):
        return True
    try:
        find_release(language)
    except FileNotFoundError:
        return False
    return True


def check_names(name: str, language: str) -> tuple[str, str]:
    """Return the corpus and the code of the language.

    Args:
        name: One of CORPORA.
        language: Code or English name of the language.

    Raises:
        ValueError: For an unknown corpus or language. The message lists the known ones.
    """
    if not isinstance(name, str) or name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: one of {', '.join(CORPORA)}")
    code = language
    nearest = ""
    try:
        code = language_code(language)
    except ValueError:
        nearest = nearest_languages(str(language).strip().lower())
    if code not in CORPORA[name]:
        known = ", ".join(CORPORA[name])
        raise ValueError(f"the corpus {name} has no language {language!r}{nearest}: it has {known}")
    _check_region(name, code, language)
    return name, code


def _check_region(name: str, code: str, asked: str) -> None:
    """Raise ValueError where a language is asked for in another region than the corpus has it in.

    Args:
        name: Of the corpus.
        code: Whisper's code of the language.
        asked: What the caller has written, "zh-TW" say.
    """
    if name in SIZES:
        own = LOCALES.get(code, code)
    elif name == "fleurs":
        own = CODES[code]
    else:
        return
    _, *regions = re.split("[-_]", asked.lower().removeprefix("<|").removesuffix("|>"))
    parts = set(re.split("[-_]", own.lower())[1:])  # region and script
    if "cn" in parts:
        parts.add("hans")
    others = [region for region in regions if region not in parts]
    if others and parts:
        raise ValueError(
            f"{name} has {own} for {code!r}, not {asked!r}: give {code!r} for it, or another corpus"
        )


def corpus_folder(name: str, language: str) -> Path:
    """Return the folder of a prepared corpus; `language` is a code."""
    return cache_dir() / "corpora" / f"{name}-{language}"


def _store_folder(language: str) -> Path:
    """Return the folder of the decoded clips of Common Voice in a language, for all sizes."""
    return corpus_folder(COMMON, language).absolute()


# ---- preparing


def _prepare(name: str, language: str, folder: Path, source: str | Path | None) -> None:
    """Prepare a small corpus in `folder`, completely or not at all."""
    if name in MADE_UP:
        package = Package(None, "made up")
    else:
        package = find_package(name, source, language)
    items = ITEMS[name](package.folder, language)
    rows, unusable, problems = read_rows(items, f"{name} {language}")
    rows, duplicates = without_duplicates(rows)
    dropped = unusable | duplicates
    if not rows:
        raise ValueError(
            f"{name} has nothing to hear in {language!r} under {package.folder}: "
            f"{_counts(dropped)}; is the package with the voices there?{_first(dropped, problems)}"
        )

    about = {"source": package.source, "packages": package.versions}
    report = _report(name, language, about, items, rows, dropped, fingerprint(rows))
    report["problems"] = problems

    data = dataset_of(rows)
    data.info.dataset_name = name
    data.info.config_name = language
    with atomic_folder(folder) as partial:
        data.save_to_disk(str(partial))
        write_json(partial / "report.json", report, sealed=True)
        _write_source(partial, source)
    long = {reason: ids for reason, ids in dropped.items() if reason.startswith("longer than")}
    _warn_of_losses(report, _counts(long), len(items), folder / "report.json")


def dataset_of(rows: list[dict]) -> Dataset:
    """Return rows as `items.to_row` makes them as a Dataset in memory."""
    # Not by Dataset.from_dict: it would need torchcodec.
    return Dataset(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))


def _prepare_sizes(name: str, language: str, folder: Path, source: str | Path | None) -> None:
    """Prepare a size of Common Voice, and with it the smaller ones, which are choices of its clips.

    Clips that another size or a killed run has decoded are not decoded again.
    """
    smaller = [
        size
        for size in SIZES
        if SIZES[size] < SIZES[name] and not _is_prepared(corpus_folder(size, language))
    ]
    readings = read_sizes(name, smaller, language, source)
    with disk_errors(folder.parent):
        store = ClipStore(_store_folder(language), FEATURES, BUILDER)
        reports = {}
        for size, reading in readings.items():
            items = _first_of_each_id(reading.items)
            clips = store.add(list(items.values()), f"{size} {language}")
            parts = store.parts(list(items.values()), clips)
            dropped = _all_dropped(reading.items, items, parts)
            if size != name and not any(part["clips"] for part in parts):
                continue
            _check_anything_is_heard(size, language, reading, parts, dropped)

            with atomic_folder(corpus_folder(size, language)) as partial:
                partial.mkdir()
                shards = store.write_rows(clips, partial)
                data = load_rows(partial, size, language)
                report = _report_of_parts(size, language, reading, items, parts, dropped, data)
                _write_ids(reading.items, partial)
                write_json(partial / "report.json", report, sealed=True)
                _write_source(partial, source, reading.followed, shards)
            reports[size] = report

    scratch = readings[name].scratch
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    _warn_of_lost_lines(reports[name], folder)


def _prepare_in_shards(
    name: str, language: str, folder: Path, source: str | Path | None, reading: Reading
) -> None:
    """Prepare a large corpus in a folder beside `folder`; shards of a killed run are used."""
    items = _first_of_each_id(reading.items)
    partial = folder.with_name(f"{folder.name}.partial")
    parts = write_shards(list(items.values()), partial, FEATURES, f"{name} {language}")
    dropped = _all_dropped(reading.items, items, parts)
    try:
        _check_anything_is_heard(name, language, reading, parts, dropped)
    except ValueError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    data = load_shards(partial, name, language)
    report = _report_of_parts(name, language, reading, items, parts, dropped, data)

    # The folder under its own name, complete.
    _write_ids(reading.items, partial)
    write_json(partial / "report.json", report, sealed=True)
    _write_source(partial, source, reading.followed)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    if reading.scratch:
        shutil.rmtree(reading.scratch, ignore_errors=True)
    report["follows"] = reading.followed is not None
    _warn_of_lost_lines(report, folder)


def _check_anything_is_heard(
    name: str, language: str, reading: Reading, parts: list[dict], dropped: dict[str, list[str]]
) -> None:
    """Raise ValueError where not one clip can be used.

    Args:
        name: Of the corpus.
        language: Code of the language.
        reading: What was read.
        parts: As `write_shards` returns them.
        dropped: Ids of all dropped items by reason.
    """
    if any(part["clips"] for part in parts):
        return
    raise ValueError(
        f"{name} has nothing to hear in {language!r} ({', '.join(map(str, reading.tables))}): "
        f"{_counts(dropped)}, malformed rows: {len(reading.flaws)} {reading.flaws[:3]}"
        f"{_first(dropped, _problems(parts))}"
    )


def _problems(parts: list[dict]) -> dict[str, str]:
    """Return what is wrong with dropped clips, by id."""
    return {key: text for part in parts for key, text in part.get("problems", {}).items()}


def _report_of_parts(
    name: str,
    language: str,
    reading: Reading,
    items: dict[str, Item],
    parts: list[dict],
    dropped: dict[str, list[str]],
    data: Dataset,
) -> dict:
    """Return the report of a large corpus.

    Args:
        name: Of the corpus.
        language: Code of the language.
        reading: What was read.
        items: The items that were decoded, by id.
        parts: As `write_shards` returns them.
        dropped: Ids of all dropped items by reason.
        data: The corpus.
    """
    rows = data.select_columns(["id", "speaker", "split", "duration"]).to_list()
    prints = [part["fingerprint"] for part in parts]
    content = stable_hash("".join(prints))
    return {
        **_report(name, language, reading.about, reading.items, rows, dropped, content),
        "dropped_by_split": _dropped_by_split(items, dropped),
        "malformed": len(reading.flaws),
        "malformed_rows": reading.flaws[:1000],
        "problems": dict(list(_problems(parts).items())[:1000]),
        "shards": prints,
        "tables": {f"{path.parent.name}/{path.name}": file_sha256(path) for path in reading.tables},
    }


def _write_ids(items: list[Item], folder: Path) -> None:
    """Write split and id of all items to ids.csv."""
    ids = [(item.split, item.id) for item in items]
    pd.DataFrame(ids, columns=["split", "id"]).to_csv(folder / "ids.csv", index=False)


def _first_of_each_id(items: list[Item]) -> dict[str, Item]:
    """Return the items by id.

    Of the items with one id the first counts, at the place of the last one.
    """
    from_the_end = {item.id: item for item in reversed(items)}
    return dict(reversed(from_the_end.items()))


def _all_dropped(
    read: list[Item], items: dict[str, Item], shards: list[dict]
) -> dict[str, list[str]]:
    """Return the ids of all dropped items by reason.

    Args:
        read: All items, with those whose id occurs twice.
        items: The items that were decoded, by id.
        shards: As `write_shards` returns them.
    """
    dropped: dict[str, list[str]] = {}
    named_twice = [item.id for item in read if items[item.id] is not item]
    if named_twice:
        dropped["named twice"] = named_twice
    for shard in shards:
        for reason, ids in shard["dropped"].items():
            dropped.setdefault(reason, []).extend(ids)
    return dropped


def _dropped_by_split(
    items: dict[str, Item], dropped: dict[str, list[str]]
) -> dict[str | None, Counter[str]]:
    """Return the number of dropped items by split and reason."""
    counts: dict[str | None, Counter[str]] = {split: Counter() for split in SPLITS}
    for reason, ids in dropped.items():
        for item_id in ids:
            counts[items[item_id].split][reason] += 1
    return counts


def _warn_of_lost_lines(report: dict, folder: Path) -> None:
    """Warn of the lines of a large corpus that were left out.

    Args:
        report: That of the corpus.
        folder: Of the prepared corpus.
    """
    lost = {**report["dropped"], "malformed row": report["malformed"]}
    lines = report["items"] + report["malformed"]
    _warn_of_losses(report, lost, lines, folder / "report.json", stacklevel=6)


def _warn_of_losses(
    report: dict, lost: dict[str, int], lines: int, path: Path, stacklevel: int = 5
) -> None:
    """Warn of lines that were left out, with what to do about them.

    Args:
        report: That of the corpus.
        lost: Number of lines by reason.
        lines: Number of all lines.
        path: Of the report.
        stacklevel: Of the caller of load_corpus.
    """
    lost = {reason: count for reason, count in lost.items() if count}
    if not lost:
        return
    reasons = ", ".join(f"{reason}: {count}" for reason, count in lost.items())
    advice = [text for start, text in ADVICE.items() if any(key.startswith(start) for key in lost)]
    then = "" if report.get("follows") else " and delete that folder"
    if report["corpus"] in SIZES:
        then += ", and those of smaller sizes"
    ids = {reason: report["dropped_ids"].get(reason, []) for reason in lost}
    warnings.warn(
        f"{report['corpus']} in {report['language']}: {sum(lost.values())} of {lines} lines are "
        f"left out ({reasons}); {path} names them: to have them after all, put them right"
        f"{then}{_first(ids, report['problems'])}"
        f"{_first_flaw(report)}{''.join(f'. {text}' for text in advice)}",
        stacklevel=stacklevel,
    )


def _first(dropped: dict[str, list[str]], problems: dict[str, str]) -> str:
    """Return what is wrong with the first clip of each reason, as further sentences."""
    sentences = []
    for reason, ids in sorted(dropped.items()):
        known = [item_id for item_id in ids if item_id in problems]
        if known:
            longest = max(known[:1000], key=lambda item_id: len(problems[item_id]))
            first = longest if reason == "no sound file" else known[0]
            problem = problems[first].rstrip(". ")
            sentences.append(f". {reason.capitalize()}, for instance {first}: {problem}")
    return "".join(sentences)


def _first_flaw(report: dict) -> str:
    """Return the first malformed row, as a further sentence; "" without one."""
    rows = report.get("malformed_rows", [])
    return f". The first malformed row: {rows[0]}" if rows else ""


def _counts(dropped: dict[str, list[str]]) -> dict[str, int]:
    """Return the number of dropped items by reason."""
    return {reason: len(ids) for reason, ids in sorted(dropped.items())}


def _report(
    name: str,
    language: str,
    about: dict,
    items: list[Item],
    rows: list[dict],
    dropped: dict[str, list[str]],
    content: str,
) -> dict:
    """Return the part of the report that all corpora have.

    Args:
        name: Of the corpus.
        language: Code of the language.
        about: Where the data come from.
        items: All lines.
        rows: Those that are in the corpus: id, speaker, split, duration.
        dropped: Ids of the others by reason.
        content: Hash of ids, texts and sounds.
    """
    seconds = sum(row["duration"] for row in rows)
    return {
        "corpus": name,
        "language": language,
        "builder": BUILDER,
        **about,
        "libraries": {
            "soundfile": soundfile.__version__,
            "libsndfile": soundfile.__libsndfile_version__,
            "soxr": soxr.__version__,
        },
        "items": len(items),
        "kept": len(rows),
        "minutes": round(seconds / 60, 2),
        "dropped": _counts(dropped),
        "splits": summary(rows),
        "fingerprint": content,
        "dropped_ids": {reason: sorted(ids) for reason, ids in sorted(dropped.items())},
    }


# ---- choosing rows


def select(dataset: Dataset, split: str, limit: int | None = None, seed: int = 0) -> Dataset:
    """Return the rows of a split, in an order that depends on their ids and the seed alone.

    Args:
        dataset: A corpus.
        split: One of `items.SPLITS`.
        limit: How many rows, the first ones in that order: a smaller limit gives a part of a
            larger one. None: all.
        seed: Of the order.

    Raises:
        ValueError: For an unknown split, a limit below 1, or an empty split (the message names the
            corpus, the language and the split).
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: one of {', '.join(sorted(SPLITS))}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, not {limit}")

    ids = dataset["id"][:]
    splits = dataset["split"][:]
    chosen = [index for index, other in enumerate(splits) if other == split]
    if not chosen:
        info = dataset.info
        with_clips = [name for name in SPLITS if name in set(splits)]
        advice = _split_advice(info, split)
        raise ValueError(
            f"the split {split!r} of {info.dataset_name or 'the corpus'} in {info.config_name!r} "
            f"is empty: splits with clips: {', '.join(with_clips) or 'none'}{advice}"
        )
    chosen.sort(key=lambda index: stable_hash(f"{seed}:{ids[index]}"))
    return dataset.select(chosen[:limit])


def _split_advice(info: DatasetInfo, split: str) -> str:
    """Return what to do about an empty split of recordings; "" for other corpora.

    They have no split "teacher".
    """
    if info.dataset_name != "recordings" or split not in ("train", "validation", "test"):
        return ""
    return (
        ". The split is drawn by speaker: with few of them give recordings.csv a column split "
        "(train, validation or test in each row)"
    )


def of_speaker(dataset: Dataset, speaker: str, others: bool = False) -> Dataset:
    """Return the rows of one speaker, in all splits, or those of all other speakers.

    Args:
        dataset: A corpus.
        speaker: Its name; it has lines in the splits "train" and "test".
        others: Take the rows of all others instead.

    Raises:
        ValueError: For a speaker without lines in "train" or "test": the message names those who
            have some in both. For others where the test has none.
    """
    speakers = dataset["speaker"][:]
    lines = set(zip(speakers, dataset["split"][:], strict=True))
    known = sorted(name for name, split in lines if split == "train" and (name, "test") in lines)
    corpus = f"{dataset.info.dataset_name or 'the corpus'} in {dataset.info.config_name!r}"
    check_choice(f"the voice, a speaker with lines in train and test of {corpus},", speaker, known)
    if others and {name for name, split in lines if split == "test"} == {speaker}:
        raise ValueError(
            f"{speaker!r} is the only speaker in the test of {corpus}: a voice needs others to be "
            "tested on, so leave it out"
        )

    kept = [index for index, name in enumerate(speakers) if (name == speaker) != others]
    return dataset.select(kept)
