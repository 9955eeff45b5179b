"""Shards: a large corpus is decoded in parts of 500 clips, so that a killed run continues.

Each shard is an arrow file, written atomically, with its counts in a JSON file beside it. Where
there are many clips, several processes decode, each a shard at a time.
"""

import base64
import shutil
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from tqdm import tqdm

from ...files import atomic_file, file_sha256, read_json, set_aside, short_hash, write_json
from .decoding import answers, processes_for
from .items import Item, Rules, fingerprint, read_rows

if TYPE_CHECKING:  # it takes as long to import as torch, and a process that decodes does without it
    from datasets import Dataset, Features

SHARD = 500  # clips: about 60 MB of FLAC

# Whisper's window is the only limit: the paper does not filter its test.
RULES = Rules(longest=30.0, fastest=None, placeholders=False)


@dataclass(frozen=True)
class Part:
    """Items that are decoded into one shard.

    Attributes:
        path: The arrow file.
        items: Lines of a corpus, each id once.
        about: Written into the JSON file too.
    """

    path: Path
    items: Sequence[Item]
    about: dict = field(default_factory=dict)


def write_shards(
    items: list[Item], folder: Path, features: "Features", title: str, builder: int
) -> list[dict]:
    """Decode the items into folder/shard-00000.arrow and so on.

    Shards that are there already are kept, if the same items, with sound files of the same sizes
    and times, were to be written; otherwise the folder is emptied first.

    Args:
        items: Lines of a corpus.
        folder: Where the shards are written.
        features: Columns of the corpus.
        title: The text beside the progress bar.
        builder: Version of the builder: shards of another are not used.

    Returns:
        For each shard, as of `write_parts`.
    """
    plan = folder / f"plan-{_plan_hash(items, builder)}"
    if not plan.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plan.touch()

    parts = []
    for start in range(0, len(items), SHARD):
        path = folder / f"shard-{start // SHARD:05d}.arrow"
        parts.append(Part(path, items[start : start + SHARD]))
    return write_parts(parts, features.arrow_schema, title)


def write_parts(parts: list[Part], schema: pa.Schema, title: str) -> list[dict]:
    """Decode parts into their shards, in several processes; shards that are there are kept.

    Args:
        parts: The parts.
        schema: Columns of the shards.
        title: The text beside the progress bar.

    Returns:
        For each shard: clips (their number), fingerprint (of its rows), dropped (ids by reason),
        problems (by id, where there is more to say than the reason) and sha256 (of its file).
    """
    shards = {part.path: read_shard(part.path) for part in parts}
    missing = [part for part in parts if not shards[part.path]]
    kept = len(parts) - len(missing)
    unit = f" parts of {SHARD} clips"
    with (
        tqdm(None, title, len(parts), initial=kept, unit=unit, disable=not missing) as bar,
        closing(_written(missing, schema)) as written,
    ):
        for part, shard in written:
            shards[part.path] = shard
            bar.update()
    return list(shards.values())


def _written(parts: list[Part], schema: pa.Schema) -> Iterator[tuple[Part, dict]]:
    """Decode parts in this process, and where there are many clips in others too."""
    processes = processes_for(sum(len(part.items) for part in parts))
    if processes == 1 or not all(_can_be_asked(part) for part in parts):
        for part in parts:
            yield part, _write_part(part, schema, threads=2)
        return

    def here(index: int) -> dict:
        return _write_part(parts[index], schema, threads=1)

    questions = [_question(part, schema) for part in parts]
    with closing(answers(questions, here, processes)) as answered:
        for index, shard in answered:
            yield parts[index], shard


def _write_part(part: Part, schema: pa.Schema, threads: int) -> dict:
    """Decode a part, write its shard, and return what is known of it."""
    rows, dropped, problems = read_rows(list(part.items), None, RULES, threads)
    _write_arrow(pa.Table.from_pylist(rows, schema=schema), part.path)
    shard = part.about | {
        "clips": len(rows),
        "fingerprint": fingerprint(rows),
        "dropped": dropped,
        "problems": problems,
        "sha256": file_sha256(part.path),
    }
    write_json(part.path.with_suffix(".json"), shard, sealed=True)
    return shard


# ---- a part as JSON, for another process


def _can_be_asked(part: Part) -> bool:
    """Return whether another process can decode a part: it reads sounds from files."""
    return all(item.sound is None or isinstance(item.sound, Path) for item in part.items)


def _question(part: Part, schema: pa.Schema) -> dict:
    """Return the JSON object for `answer`."""
    items = [
        asdict(item) | {"sound": None if item.sound is None else str(item.sound)}
        for item in part.items
    ]
    packed = base64.b64encode(schema.serialize().to_pybytes()).decode()
    return {"path": str(part.path), "items": items, "about": part.about, "schema": packed}


def answer(question: dict) -> dict:
    """Decode the part that a JSON object describes; return what is known of its shard."""
    items = []
    for values in question["items"]:
        sound = values["sound"]
        items.append(Item(**values | {"sound": None if sound is None else Path(sound)}))
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(question["schema"])))
    return _write_part(Part(Path(question["path"]), items, question["about"]), schema, threads=1)


# ---- shards on disk


def read_shard(path: Path, needs: Sequence[str] = ()) -> dict:
    """Return what is known of a shard that was written before; {} where it is not whole.

    Its JSON file is written last. A damaged shard is set aside.

    Args:
        path: The arrow file.
        needs: Further keys that the JSON file must have.
    """
    if not path.is_file():
        return {}
    about = path.with_suffix(".json")
    shard = read_json(about, needs=("clips", "fingerprint", "dropped", *needs))
    if shard and shard.get("sha256") != file_sha256(path):
        set_aside(path, "it is not what was written")
        return {}
    return shard


def _plan_hash(items: list[Item], builder: int) -> str:
    """Return a hash of the items, of the sizes and times of their sound files, and the builder."""
    lines = [(item.id, item.text, item.split, item.translation_en, item.speaker) for item in items]
    return short_hash([builder, lines, [_file_state(item) for item in items]])


def _file_state(item: Item) -> tuple[int, int] | None:
    """Return the bytes and the time of an item's sound file, or None where there is none."""
    if not isinstance(item.sound, Path):
        return None
    status = item.sound.stat()
    return status.st_size, status.st_mtime_ns


def _write_arrow(table: pa.Table, path: Path) -> None:
    """Write a table as an arrow stream, atomically."""
    with atomic_file(path) as part, pa.ipc.new_stream(str(part), table.schema) as stream:
        stream.write_table(table)


def load_shards(folder: Path, name: str, language: str) -> "Dataset":
    """Return the shards of a folder as one memory-mapped Dataset.

    Args:
        folder: Where `write_shards` has written them.
        name: Of the corpus.
        language: Code of the language.
    """
    from datasets import Dataset, concatenate_datasets

    paths = sorted(folder.glob("shard-*.arrow"))
    data = concatenate_datasets([Dataset.from_file(str(path)) for path in paths])
    return named(data, name, language)


def named(data: "Dataset", name: str, language: str) -> "Dataset":
    """Return a Dataset after it has been given the names of its corpus and its language."""
    data.info.dataset_name = name
    data.info.config_name = language
    return data
