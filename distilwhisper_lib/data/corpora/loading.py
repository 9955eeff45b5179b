"""The corpora: one `datasets.Dataset` per corpus and language, prepared once, then kept on disk."""

import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import soundfile
import soxr
from datasets import Audio, Dataset, Features, Value, load_from_disk
from filelock import FileLock

from ...files import atomic_folder, cache_dir, disk_errors, file_sha256, read_json, write_json
from ...whisper.tokens import LANGUAGES, language_code
from . import fillets, stamps, toy
from .common_voice import LOCALES, SIZES, find_release, read_common_voice
from .fleurs import CODES, read_fleurs
from .items import SPLITS, Item, fingerprint, read_rows, stable_hash, summary, without_duplicates
from .packages import Package, find_package
from .recorded import read_recordings
from .shards import load_shards, write_shards
from .tables import Reading

CORPORA: dict[str, tuple[str, ...]] = {  # corpus -> codes of its languages
    "fillets": ("cs", "nl"),
    "stamps": stamps.LANGUAGES,
    "toy": tuple(sorted({"cs", "nl", *stamps.LANGUAGES})),
    **dict.fromkeys(SIZES, tuple(sorted(LANGUAGES))),
    "fleurs": tuple(sorted(CODES)),
    "recordings": tuple(sorted(LANGUAGES)),
}

# Small corpora: (folder with the data, language) -> items
ITEMS: dict[str, Callable[..., list[Item]]] = {
    "fillets": fillets.fillets_items,
    "stamps": stamps.stamps_items,
    "toy": toy.toy_items,
}

# Large corpora, prepared in shards: (corpus, language, source) -> reading
READERS: dict[str, Callable[[str, str, str | Path | None], Reading]] = {
    **dict.fromkeys(SIZES, read_common_voice),
    "fleurs": read_fleurs,
    "recordings": read_recordings,
}

# Reasons for which a large corpus leaves out intact clips: no warning.
INTENDED = ("empty text", "longer than 30 s")

# Raise it when rows or splits change: corpora that an older builder prepared are prepared anew.
BUILDER = 1

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
    warns of missing or damaged clips and rows, which are left out.

    A prepared corpus is loaded whatever the source, also where the archive has changed or another
    release lies there (`corpus_release` names the one that was used). Delete its folder to prepare
    it anew.

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
    folder = corpus_folder(name, language).absolute()
    opened = _OPENED.get(folder)
    if opened and opened.state is not None and opened.state == _report_state(folder):
        return opened.dataset

    _ensure_prepared(name, language, folder, source)
    state = _report_state(folder)  # before opening: a corpus replaced meanwhile is opened anew
    dataset = _open(name, language, folder)
    _OPENED[folder] = _Opened(state, dataset)
    return dataset


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
    """Prepare a corpus, unless it is prepared already; one process at a time."""
    if _is_prepared(folder):
        return
    with disk_errors(folder.parent), FileLock(f"{folder}.lock"):
        if _is_prepared(folder):  # by another process, while this one waited
            return
        if name in READERS:
            _prepare_in_shards(name, language, folder, source)
        else:
            _prepare(name, language, folder, source)


def _is_prepared(folder: Path) -> bool:
    """Return whether this version of the builder has prepared a corpus."""
    return read_json(folder / "report.json").get("builder") == BUILDER


def _open(name: str, language: str, folder: Path) -> Dataset:
    """Return a prepared corpus as a memory-mapped Dataset."""
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


def has_common_voice(name: str, language: str) -> bool:
    """Return whether a corpus of Common Voice is prepared, or can be from the data folder."""
    if (corpus_folder(name, language) / "report.json").is_file():
        return True
    try:
        find_release(name, LOCALES.get(language, language))
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
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: one of {', '.join(CORPORA)}")
    code = language
    with suppress(ValueError):
        code = language_code(language)
    if code not in CORPORA[name]:
        known = ", ".join(CORPORA[name])
        raise ValueError(f"the corpus {name} has no language {language!r}: it has {known}")
    return name, code


def corpus_folder(name: str, language: str) -> Path:
    """Return the folder of a prepared corpus; `language` is a code."""
    return cache_dir() / "corpora" / f"{name}-{language}"


# ---- preparing


def _prepare(name: str, language: str, folder: Path, source: str | Path | None) -> None:
    """Prepare a small corpus in `folder`, completely or not at all."""
    if name == "toy":
        package = Package(None, "made up")
    else:
        package = find_package(name, source, language)
    items = ITEMS[name](package.folder, language)
    rows, unusable = read_rows(items, f"{name} {language}")
    rows, duplicates = without_duplicates(rows)
    dropped = unusable | duplicates
    if not rows:
        raise ValueError(
            f"{name} has nothing to hear in {language!r} under {package.folder}: "
            f"{_counts(dropped)}; is the package with the voices there?"
        )

    about = {"source": package.source, "packages": package.versions}
    report = _report(name, language, about, items, rows, dropped, fingerprint(rows))

    # Not by Dataset.from_dict: it would need torchcodec.
    data = Dataset(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))
    data.info.dataset_name = name
    data.info.config_name = language
    with atomic_folder(folder) as partial:
        data.save_to_disk(str(partial))
        write_json(partial / "report.json", report)


def _prepare_in_shards(name: str, language: str, folder: Path, source: str | Path | None) -> None:
    """Prepare a large corpus in a folder beside `folder`; shards of a killed run are used."""
    reading = READERS[name](name, language, source)
    items = _first_of_each_id(reading.items)
    partial = folder.with_name(f"{folder.name}.partial")
    shards = write_shards(list(items.values()), partial, FEATURES, f"{name} {language}")
    dropped = _all_dropped(reading.items, items, shards)
    if not any(shard["clips"] for shard in shards):
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(
            f"{name} has nothing to hear in {language!r} ({', '.join(map(str, reading.tables))}): "
            f"{_counts(dropped)}, malformed rows: {len(reading.flaws)} {reading.flaws[:3]}"
        )

    # The report.
    data = load_shards(partial, name, language)
    rows = data.select_columns(["id", "speaker", "split", "duration"]).to_list()
    prints = [shard["fingerprint"] for shard in shards]
    content = stable_hash("".join(prints))
    report = {
        **_report(name, language, reading.about, reading.items, rows, dropped, content),
        "dropped_by_split": _dropped_by_split(items, dropped),
        "malformed": len(reading.flaws),
        "malformed_rows": reading.flaws[:1000],
        "shards": prints,
        "tables": {f"{path.parent.name}/{path.name}": file_sha256(path) for path in reading.tables},
    }

    # The folder under its own name, complete.
    ids = [(item.split, item.id) for item in reading.items]
    pd.DataFrame(ids, columns=["split", "id"]).to_csv(partial / "ids.csv", index=False)
    write_json(partial / "report.json", report)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    if reading.scratch:
        shutil.rmtree(reading.scratch, ignore_errors=True)
    _warn_of_losses(report, folder / "report.json")


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


def _warn_of_losses(report: dict, path: Path) -> None:
    """Warn of lines that were left out because something is missing or damaged."""
    left_out = {**report["dropped"], "malformed row": report["malformed"]}
    lost = {reason: count for reason, count in left_out.items() if count and reason not in INTENDED}
    if not lost:
        return
    reasons = ", ".join(f"{reason}: {count}" for reason, count in lost.items())
    lines = report["items"] + report["malformed"]
    warnings.warn(
        f"{report['corpus']} in {report['language']}: {sum(lost.values())} of {lines} lines are "
        f"left out ({reasons}); {path} names them: to have them after all, put them right and "
        "delete that folder",
        stacklevel=5,  # the caller of load_corpus
    )


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
        raise ValueError(
            f"the split {split!r} of {info.dataset_name or 'the corpus'} in {info.config_name!r} "
            f"is empty: splits with clips: {', '.join(with_clips) or 'none'}"
        )
    chosen.sort(key=lambda index: stable_hash(f"{seed}:{ids[index]}"))
    return dataset.select(chosen[:limit])


def held_out_lead(dataset: Dataset, lead: str) -> Dataset:
    """Return the corpus with the lines of one speaker in the test alone, and no others there.

    The speaker's lines in training, validation and teacher are left out, and so are the lines of
    other speakers in the test. Rooms keep their split, so neither the voice nor the texts of the
    test were trained on.

    Args:
        dataset: A corpus.
        lead: The speaker.

    Raises:
        ValueError: For a speaker without lines in the test. The message lists those who have some.
    """
    speakers = dataset["speaker"][:]
    splits = dataset["split"][:]
    in_test = {speaker for speaker, split in zip(speakers, splits, strict=True) if split == "test"}
    if lead not in in_test:
        known = ", ".join(sorted(in_test))
        raise ValueError(f"no lines of {lead!r} in the test: its speakers are {known}")

    kept = []
    for index, (speaker, split) in enumerate(zip(speakers, splits, strict=True)):
        if split == "test":
            is_kept = speaker == lead
        elif split == "test-other":
            is_kept = True
        else:
            is_kept = speaker != lead
        if is_kept:
            kept.append(index)
    return dataset.select(kept)
