"""Corpora are prepared: read, decoded, counted and written, completely or not at all."""

import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
from datasets import Dataset

from ...files import atomic_folder, disk_errors, write_json
from .clip_store import ClipStore, load_rows
from .common_voice import SIZES, read_sizes
from .items import Item, fingerprint, read_rows, without_duplicates
from .packages import Package, find_package
from .registry import BUILDER, FEATURES, ITEMS, MADE_UP, corpus_folder, store_folder
from .reports import (
    all_dropped,
    counts_of,
    first_problems,
    is_current,
    problems_of,
    report_of,
    report_of_parts,
    warn_of_losses,
    warn_of_lost_lines,
)
from .shards import load_shards, write_shards
from .sources import write_source
from .tables import Reading


def prepare_small(name: str, language: str, folder: Path, source: str | Path | None) -> None:
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
            f"{counts_of(dropped)}; is the package with the voices there?"
            f"{first_problems(dropped, problems)}"
        )

    about = {"source": package.source, "packages": package.versions}
    report = report_of(name, language, about, items, rows, dropped, fingerprint(rows))
    report["problems"] = problems

    data = dataset_of(rows)
    data.info.dataset_name = name
    data.info.config_name = language
    with atomic_folder(folder) as partial:
        data.save_to_disk(str(partial))
        write_json(partial / "report.json", report, sealed=True)
        write_source(partial, source)
    long = {reason: ids for reason, ids in dropped.items() if reason.startswith("longer than")}
    warn_of_losses(report, counts_of(long), len(items), folder / "report.json")


def dataset_of(rows: list[dict]) -> Dataset:
    """Return rows as `items.to_row` makes them as a Dataset in memory."""
    # Not by Dataset.from_dict: it would need torchcodec.
    return Dataset(pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema))


def prepare_sizes(name: str, language: str, folder: Path, source: str | Path | None) -> None:
    """Prepare a size of Common Voice, and with it the smaller ones, which are choices of its clips.

    Clips that another size or a killed run has decoded are not decoded again.
    """
    smaller = [
        size
        for size in SIZES
        if SIZES[size] < SIZES[name] and not is_current(corpus_folder(size, language))
    ]
    readings = read_sizes(name, smaller, language, source)
    with disk_errors(folder.parent):
        store = ClipStore(store_folder(language), FEATURES, BUILDER)
        reports = {}
        for size, reading in readings.items():
            items = first_of_each_id(reading.items)
            clips = store.add(list(items.values()), f"{size} {language}")
            parts = store.parts(list(items.values()), clips)
            dropped = all_dropped(reading.items, items, parts)
            if size != name and not any(part["clips"] for part in parts):
                continue
            _check_anything_is_heard(size, language, reading, parts, dropped)

            with atomic_folder(corpus_folder(size, language)) as partial:
                partial.mkdir()
                shards = store.write_rows(clips, partial)
                data = load_rows(partial, size, language)
                report = report_of_parts(size, language, reading, items, parts, dropped, data)
                _write_ids(reading.items, partial)
                write_json(partial / "report.json", report, sealed=True)
                write_source(partial, source, reading.followed, shards)
            reports[size] = report

    scratch = readings[name].scratch
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    warn_of_lost_lines(reports[name], folder)


def prepare_in_shards(
    name: str, language: str, folder: Path, source: str | Path | None, reading: Reading
) -> None:
    """Prepare a large corpus in a folder beside `folder`; shards of a killed run are used."""
    items = first_of_each_id(reading.items)
    partial = folder.with_name(f"{folder.name}.partial")
    parts = write_shards(list(items.values()), partial, FEATURES, f"{name} {language}", BUILDER)
    dropped = all_dropped(reading.items, items, parts)
    try:
        _check_anything_is_heard(name, language, reading, parts, dropped)
    except ValueError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    data = load_shards(partial, name, language)
    report = report_of_parts(name, language, reading, items, parts, dropped, data)

    # The folder under its own name, complete.
    _write_ids(reading.items, partial)
    write_json(partial / "report.json", report, sealed=True)
    write_source(partial, source, reading.followed)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    if reading.scratch:
        shutil.rmtree(reading.scratch, ignore_errors=True)
    report["follows"] = reading.followed is not None
    warn_of_lost_lines(report, folder)


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
        f"{counts_of(dropped)}, malformed rows: {len(reading.flaws)} {reading.flaws[:3]}"
        f"{first_problems(dropped, problems_of(parts))}"
    )


def _write_ids(items: list[Item], folder: Path) -> None:
    """Write split and id of all items to ids.csv."""
    ids = [(item.split, item.id) for item in items]
    pd.DataFrame(ids, columns=["split", "id"]).to_csv(folder / "ids.csv", index=False)


def first_of_each_id(items: list[Item]) -> dict[str, Item]:
    """Return the items by id.

    Of the items with one id the first counts, at the place of the last one.
    """
    from_the_end = {item.id: item for item in reversed(items)}
    return dict(reversed(from_the_end.items()))
