"""The corpora: one `datasets.Dataset` per corpus and language, prepared once and kept in the cache folder."""

import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
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
from .items import SPLITS, fingerprint, read_rows, stable_hash, summary, without_duplicates
from .packages import Package, find_package
from .recorded import read_recordings
from .shards import load_shards, write_shards

CORPORA: dict[str, tuple[str, ...]] = {  # corpus -> languages
    "fillets": ("cs", "nl"),
    "stamps": stamps.LANGUAGES,
    "toy": tuple(sorted({"cs", "nl", *stamps.LANGUAGES})),
    **dict.fromkeys(SIZES, tuple(sorted(LANGUAGES))),
    "fleurs": tuple(sorted(CODES)),
    "recordings": tuple(sorted(LANGUAGES)),
}

ITEMS: dict[str, Callable] = {
    "fillets": fillets.fillets_items,
    "stamps": stamps.stamps_items,
    "toy": toy.toy_items,
}

READERS: dict[str, Callable] = {  # of paper scale: prepared in shards
    **dict.fromkeys(SIZES, read_common_voice),
    "fleurs": read_fleurs,
    "recordings": read_recordings,
}

INTENDED = (
    "empty text",
    "longer than 30 s",
)  # why a corpus of READERS leaves out what its files have whole

BUILDER = 1  # raise it when rows or splits change: what an older one prepared is then prepared anew

TEXT = Value("string")

FEATURES = Features(
    {  # audio: {"bytes": 16 kHz mono FLAC, "path"}; duration: seconds
        "id": TEXT,
        "audio": Audio(sampling_rate=16_000, decode=False),
        "text": TEXT,
        "language": TEXT,
        "speaker": TEXT,
        "room_or_category": TEXT,
        "translation_en": TEXT,
        "duration": Value("float64"),
        "split": TEXT,
    }
)


def load_corpus(name: str, language: str, source: str | Path | None = None) -> Dataset:
    """Return a corpus in a language, all splits in one; the first call prepares it, later calls load it.

    source: a folder, .deb files or an archive to prepare it from; else it is looked for (`packages.find_package`;
    Common Voice, FLEURS and recordings: in the folder that LAB_DATA names).
    A corpus that is prepared already is loaded whatever the source, also where the archive has changed or another
    release lies there (`corpus_release` names the one that was used): delete its folder to prepare it anew.
    Common Voice, FLEURS and recordings: that call warns of missing or damaged clips and rows, which are left out.
    Columns: see FEATURES. Raises ValueError for a corpus or language that does not exist (lists those that do),
    OSError where the data cannot be had.
    """
    name, language = check_names(name, language)
    folder = corpus_folder(name, language)
    report = folder / "report.json"
    if read_json(report).get("builder") != BUILDER:
        with disk_errors(folder.parent), FileLock(f"{folder}.lock"):
            if read_json(report).get("builder") != BUILDER:
                (_prepare_large if name in READERS else _prepare)(name, language, folder, source)
    return load_shards(folder, name, language) if name in READERS else load_from_disk(str(folder))


def corpus_report(name: str, language: str) -> dict:
    """Return the report of a prepared corpus: counts, reasons for dropping, minutes, packages, fingerprint.

    Raises FileNotFoundError if it is not prepared yet.
    """
    name, language = check_names(name, language)
    report = read_json(corpus_folder(name, language) / "report.json")
    if not report:
        raise FileNotFoundError(
            f"{name}-{language} is not prepared yet: call load_corpus({name!r}, {language!r})"
        )
    return report


def corpus_release(name: str, language: str) -> str | None:
    """Return the release a prepared corpus was made from (Common Voice: "cv-corpus-13.0-2023-03-09" or "unknown").

    None where there are no releases. Raises FileNotFoundError if the corpus is not prepared yet.
    """
    return corpus_report(name, language).get("release")


def has_common_voice(name: str, language: str) -> bool:
    """Return whether a corpus of Common Voice is prepared, or its release lies in the data folder."""
    prepared = read_json(corpus_folder(name, language) / "report.json")
    with suppress(FileNotFoundError):
        return bool(prepared or find_release(name, LOCALES.get(language, language)))
    return False


def check_names(name: str, language: str) -> tuple[str, str]:
    """Return the corpus and the language's code; raises ValueError with the known ones."""
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: one of {', '.join(CORPORA)}")
    code, known = language, CORPORA[name]
    with suppress(ValueError):
        code = language_code(language)
    if code not in known:
        raise ValueError(
            f"the corpus {name} has no language {language!r}: it has {', '.join(known)}"
        )
    return name, code


def corpus_folder(name: str, language: str) -> Path:
    """Return where a prepared corpus is kept."""
    return cache_dir() / "corpora" / f"{name}-{language}"


def _prepare(name: str, language: str, folder: Path, source) -> None:
    """Build the corpus, whole or not at all."""
    package = Package(None, "made up") if name == "toy" else find_package(name, source, language)
    items = ITEMS[name](package.folder, language)
    rows, dropped = read_rows(items, f"{name} {language}")
    rows, duplicates = without_duplicates(rows)
    if not rows:
        raise ValueError(
            f"{name} has nothing to hear in {language!r} under {package.folder}: "
            f"{_counts(dropped | duplicates)}; is the package with the voices there?"
        )
    about = {"source": package.source, "packages": package.versions}
    report = _describe(name, language, about, items, rows, dropped | duplicates, fingerprint(rows))
    data = Dataset(
        pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)
    )  # from_dict would need torchcodec
    data.info.dataset_name, data.info.config_name = name, language
    with atomic_folder(folder) as partial:
        data.save_to_disk(str(partial))
        write_json(partial / "report.json", report)


def _prepare_large(name: str, language: str, folder: Path, source) -> None:
    """Build a corpus of paper scale beside `folder`, in shards that a killed run leaves for the next."""
    reading = READERS[name](name, language, source)
    items = {item.id: item for item in reversed(reading.items)}  # of two with one id the first
    partial = folder.with_name(f"{folder.name}.partial")
    shards = write_shards([*reversed(items.values())], partial, FEATURES, f"{name} {language}")
    dropped = {"named twice": [item.id for item in reading.items if items[item.id] is not item]}
    for reason, ids in (pair for shard in shards for pair in shard["dropped"].items()):
        dropped.setdefault(reason, []).extend(ids)
    dropped = {reason: ids for reason, ids in dropped.items() if ids}
    if not any(shard["clips"] for shard in shards):
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(
            f"{name} has nothing to hear in {language!r} ({', '.join(map(str, reading.tables))}): "
            f"{_counts(dropped)}, malformed rows: {len(reading.flaws)} {reading.flaws[:3]}"
        )
    rows = (
        load_shards(partial, name, language)
        .select_columns(["id", "speaker", "split", "duration"])
        .to_list()
    )
    prints = [shard["fingerprint"] for shard in shards]
    report = _describe(
        name, language, reading.about, reading.items, rows, dropped, stable_hash("".join(prints))
    )
    report |= {
        "dropped_by_split": {
            split: Counter(
                reason
                for reason, ids in dropped.items()
                for key in ids
                if items[key].split == split
            )
            for split in SPLITS
        },
        "malformed": len(reading.flaws),
        "malformed_rows": reading.flaws[:1000],
        "shards": prints,
        "tables": {f"{path.parent.name}/{path.name}": file_sha256(path) for path in reading.tables},
    }
    ids = [(item.split, item.id) for item in reading.items]
    pd.DataFrame(ids, columns=["split", "id"]).to_csv(partial / "ids.csv", index=False)
    write_json(partial / "report.json", report)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    if reading.scratch:
        shutil.rmtree(reading.scratch, ignore_errors=True)
    _warn_of_losses(report, folder / "report.json")


def _warn_of_losses(report: dict, path: Path) -> None:
    found = report["dropped"] | {"malformed row": report["malformed"]}
    lost = {reason: count for reason, count in found.items() if count and reason not in INTENDED}
    if lost:
        why = ", ".join(f"{reason}: {count}" for reason, count in lost.items())
        warnings.warn(
            f"{report['corpus']} in {report['language']}: {sum(lost.values())} of "
            f"{report['items'] + report['malformed']} lines are left out ({why}); {path} names them: to "
            "have them after all, put them right and delete that folder",
            stacklevel=4,
        )


def _counts(dropped: dict[str, list[str]]) -> dict[str, int]:
    return {reason: len(ids) for reason, ids in sorted(dropped.items())}


def _describe(
    name: str, language: str, about: dict, items: list, rows: list, dropped: dict, content: str
) -> dict:
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
        "minutes": round(sum(row["duration"] for row in rows) / 60, 2),
        "dropped": _counts(dropped),
        "splits": summary(rows),
        "fingerprint": content,
        "dropped_ids": {reason: sorted(ids) for reason, ids in sorted(dropped.items())},
    }


def select(dataset: Dataset, split: str, limit: int | None = None, seed: int = 0) -> Dataset:
    """Return the rows of a split in an order fixed by id and seed; of `limit` rows, the first in that order.

    A smaller limit gives a part of a larger one. Raises ValueError for an unknown split, a limit below 1, or a
    split that is empty (names corpus, language and split).
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: one of {', '.join(sorted(SPLITS))}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, not {limit}")
    ids, splits = dataset["id"][:], dataset["split"][:]
    chosen = [i for i, other in enumerate(splits) if other == split]
    if not chosen:
        info = dataset.info
        there = ", ".join(s for s in SPLITS if s in set(splits)) or "none"
        raise ValueError(
            f"the split {split!r} of {info.dataset_name or 'the corpus'} in {info.config_name!r} is "
            f"empty: splits with clips: {there}"
        )
    chosen.sort(key=lambda i: stable_hash(f"{seed}:{ids[i]}"))
    return dataset.select(chosen[:limit])


def held_out_lead(dataset: Dataset, lead: str) -> Dataset:
    """Return the corpus without the lines of `lead` in training, validation and teacher, and with only them in test.

    Rooms stay where they are, so that neither the test's voice nor its texts were trained on.
    Raises ValueError for a speaker without lines in the test (lists those with).
    """
    speakers, splits = dataset["speaker"][:], dataset["split"][:]
    known = sorted(
        {speaker for speaker, split in zip(speakers, splits, strict=True) if split == "test"}
    )
    if lead not in known:
        raise ValueError(f"no lines of {lead!r} in the test: its speakers are {', '.join(known)}")
    keep = [
        i
        for i, (speaker, split) in enumerate(zip(speakers, splits, strict=True))
        if split == "test-other" or (speaker == lead) == (split == "test")
    ]
    return dataset.select(keep)
