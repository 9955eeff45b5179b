"""Shards: a large corpus is decoded in parts of 500 clips, so that a killed run continues.

Each shard is an arrow file, written atomically, with its counts in a JSON file beside it.
"""

import shutil
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, Features, concatenate_datasets
from tqdm import tqdm

from ...files import atomic_file, file_sha256, read_json, set_aside, short_hash, write_json
from .items import Item, Rules, fingerprint, read_rows

SHARD = 500  # clips: about 60 MB of FLAC

# Whisper's window is the only limit: the paper does not filter its test.
RULES = Rules(longest=30.0, fastest=None, placeholders=False)


def write_shards(items: list[Item], folder: Path, features: Features, title: str) -> list[dict]:
    """Decode the items into folder/shard-00000.arrow and so on.

    Shards that are there already are kept, if the same items, with sound files of the same sizes,
    were to be written; otherwise the folder is emptied first.

    Args:
        items: Lines of a corpus.
        folder: Where the shards are written.
        features: Columns of the corpus.
        title: The text beside the progress bar.

    Returns:
        For each shard: clips (their number), fingerprint (of its rows), dropped (ids by reason),
        problems (by id, where there is more to say than the reason) and sha256 (of its file).
    """
    plan = folder / f"plan-{_plan_hash(items)}"
    if not plan.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plan.touch()

    shards = []
    for start in tqdm(range(0, len(items), SHARD), title, unit=f" parts of {SHARD} clips"):
        path = folder / f"shard-{start // SHARD:05d}.arrow"
        shard = _written_shard(path)
        if not shard:
            rows, dropped, problems = read_rows(items[start : start + SHARD], None, RULES)
            _write_arrow(pa.Table.from_pylist(rows, schema=features.arrow_schema), path)
            shard = {
                "clips": len(rows),
                "fingerprint": fingerprint(rows),
                "dropped": dropped,
                "problems": problems,
                "sha256": file_sha256(path),
            }
            write_json(path.with_suffix(".json"), shard, sealed=True)
        shards.append(shard)
    return shards


def _written_shard(path: Path) -> dict:
    """Return what is known of a shard that a killed run has written; {} where it is not whole.

    Its JSON file is written last. A damaged shard is set aside.
    """
    if not path.is_file():
        return {}
    shard = read_json(path.with_suffix(".json"), needs=("clips", "fingerprint", "dropped"))
    if shard and shard.get("sha256") != file_sha256(path):
        set_aside(path, "it is not what was written")
        return {}
    return shard


def _plan_hash(items: list[Item]) -> str:
    """Return a hash of the items and of the sizes of their sound files."""
    lines = [(item.id, item.text, item.split, item.translation_en, item.speaker) for item in items]
    sizes = [_file_size(item) for item in items]
    return short_hash(lines + sizes)


def _file_size(item: Item) -> int | None:
    """Return the bytes of an item's sound file, or None where there is none."""
    return item.sound.stat().st_size if isinstance(item.sound, Path) else None


def _write_arrow(table: pa.Table, path: Path) -> None:
    """Write a table as an arrow stream, atomically."""
    with atomic_file(path) as part, pa.ipc.new_stream(str(part), table.schema) as stream:
        stream.write_table(table)


def load_shards(folder: Path, name: str, language: str) -> Dataset:
    """Return the shards of a folder as one memory-mapped Dataset.

    Args:
        folder: Where `write_shards` has written them.
        name: Of the corpus.
        language: Code of the language.
    """
    paths = sorted(folder.glob("shard-*.arrow"))
    data = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
    data.info.dataset_name = name
    data.info.config_name = language
    return data
