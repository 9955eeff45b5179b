"""Shards: a large corpus is decoded in parts of 500 clips, each written whole or not at all; a killed run goes on."""

import shutil
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from tqdm import tqdm

from ...files import atomic_file, read_json, short_hash, write_json
from .items import Item, Rules, fingerprint, read_rows

SHARD = 500  # clips: about 60 MB of FLAC

RULES = Rules(
    longest=30.0, fastest=None, placeholders=False
)  # Whisper's window; the paper's test is not filtered


def write_shards(items: list[Item], folder: Path, features: Features, title: str) -> list[dict]:
    """Decode the items into folder/shard-00000.arrow, ...; returns for each {"dropped", "fingerprint", "clips"}.

    Shards that are there already are kept if they were made from the same items and files of the same sizes.
    """
    size = [item.sound.stat().st_size if item.sound else None for item in items]
    plan = short_hash([(i.id, i.text, i.split, i.translation_en, i.speaker) for i in items] + size)
    if not (folder / f"plan-{plan}").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / f"plan-{plan}").touch()
    shards = []
    for start in tqdm(range(0, len(items), SHARD), title, unit=f" parts of {SHARD} clips"):
        path = folder / f"shard-{start // SHARD:05d}.arrow"
        if not path.is_file():
            rows, dropped = read_rows(items[start : start + SHARD], None, RULES)
            shard = {"clips": len(rows), "fingerprint": fingerprint(rows), "dropped": dropped}
            write_json(path.with_suffix(".json"), shard)
            _write(pa.Table.from_pylist(rows, schema=features.arrow_schema), path)
        shards.append(read_json(path.with_suffix(".json")))
    return shards


def _write(table: pa.Table, path: Path) -> None:
    with atomic_file(path) as part, pa.ipc.new_stream(str(part), table.schema) as stream:
        stream.write_table(table)


def load_shards(folder: Path, name: str, language: str) -> Dataset:
    """Return the shards of a folder as one Dataset that stays on disk."""
    data = concatenate_datasets(
        [Dataset.from_file(str(path)) for path in sorted(folder.glob("shard-*.arrow"))]
    )
    data.info.dataset_name, data.info.config_name = name, language
    return data
