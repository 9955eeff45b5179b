"""The decoded clips of a language that several corpora share: the sizes of Common Voice.

Each clip is decoded once, into a shard of the store; a corpus is a choice of its rows, by number.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import soundfile
import soxr
from datasets import Dataset, Features, concatenate_datasets

from ...files import file_sha256, read_json, short_hash, write_json
from . import shards
from .items import Item, fingerprint, reason_to_drop, stable_hash
from .shards import Part, named, read_shard, write_parts

ROWS = "rows.json"  # in the folder of a corpus: which rows of the store it has

AT_ONCE = 8  # files that are read at the same time: disks and networks answer late

Key = tuple[str, str]  # id of a clip; hash of all that its row depends on


@dataclass(frozen=True)
class Clip:
    """What became of a clip.

    Attributes:
        shard: Name of the shard that has it; "" where it is left out.
        row: Its number in the shard.
        reason: Why it is left out; "" where it is not.
        problem: What is wrong with this one; "" where the reason says it all.
    """

    shard: str = ""
    row: int = 0
    reason: str = ""
    problem: str = ""


class ClipStore:
    """The decoded clips of a language. One process at a time adds to it.

    A clip is found again by its id and a hash of its text, its other columns, the bytes of its
    sound file, the builder and the libraries that decode: another release or a sound that was put
    right is another clip.

    Args:
        folder: Where the shards are; it need not exist.
        features: Columns of the corpora.
        builder: Version of the builder.
    """

    def __init__(self, folder: Path, features: Features, builder: int):
        self.folder = folder
        self._features = features
        self._versions = [builder, soundfile.__libsndfile_version__, soxr.__version__]
        self._clips: dict[Key, Clip] = {}
        self._shards: dict[str, dict] = {}  # what is known of each, by name
        self._sounds: dict[Path, str] = {}  # sound file -> SHA-256

        paths = sorted(folder.glob("clips-*.arrow"))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for path, shard in zip(paths, pool.map(_read_shard, paths), strict=True):
                if shard:
                    self._take(path.name, shard)

    def add(self, items: Sequence[Item], title: str) -> list[Clip]:
        """Decode the clips that are not in the store yet.

        Args:
            items: Lines of a corpus, each id once.
            title: The text beside the progress bar.

        Returns:
            What became of each item.
        """
        reasons = [reason_to_drop(item, shards.RULES) for item in items]
        usable = [item for item, reason in zip(items, reasons, strict=True) if not reason]
        self._hash_sounds(usable)
        key_of = {item.id: self._key(item) for item in usable}
        missing = [item for item in usable if key_of[item.id] not in self._clips]
        parts = []
        for start in range(0, len(missing), shards.SHARD):
            of_part = missing[start : start + shards.SHARD]
            keys = [key_of[item.id] for item in of_part]
            path = self.folder / f"clips-{stable_hash(str(keys))[:16]}.arrow"
            parts.append(Part(path, of_part, {"keys": keys}))
        written = write_parts(parts, self._features.arrow_schema, title)
        for part, shard in zip(parts, written, strict=True):
            self._take(part.path.name, shard)

        clips = []
        for item, reason in zip(items, reasons, strict=True):
            if reason:
                clips.append(Clip(reason=reason, problem="" if item.sound else item.looked_for))
            else:
                clips.append(self._clips[key_of[item.id]])
        return clips

    def parts(self, items: Sequence[Item], clips: Sequence[Clip]) -> list[dict]:
        """Return what `write_shards` would for some items.

        Args:
            items: Lines of a corpus.
            clips: What became of them, as `add` returns it.

        Returns:
            For each 500 items: clips (their number), fingerprint, dropped and problems.
        """
        together = list(zip(items, clips, strict=True))
        found = []
        for start in range(0, len(items), shards.SHARD):
            pairs = together[start : start + shards.SHARD]
            dropped: dict[str, list[str]] = {}
            for item, clip in pairs:
                if clip.reason:
                    dropped.setdefault(clip.reason, []).append(item.id)
            kept = [clip for _, clip in pairs if not clip.reason]
            part = {
                "clips": len(kept),
                "fingerprint": self._fingerprint(kept),
                "dropped": dropped,
                "problems": {item.id: clip.problem for item, clip in pairs if clip.problem},
            }
            found.append(part)
        return found

    def _fingerprint(self, clips: list[Clip]) -> str:
        """Return the fingerprint of the rows of clips that are in the store."""
        names = list(dict.fromkeys(clip.shard for clip in clips))
        if len(names) == 1:
            shard = self._shards[names[0]]
            if [clip.row for clip in clips] == list(range(shard["clips"])):  # all of it
                return shard["fingerprint"]
        tables = {name: _read_arrow(self.folder / name) for name in names}
        rows = (tables[clip.shard].slice(clip.row, 1).to_pylist()[0] for clip in clips)
        return fingerprint(rows)

    def write_rows(self, clips: Sequence[Clip], folder: Path) -> dict[str, list]:
        """Write which rows of the store a corpus has, in their order.

        Args:
            clips: What became of its items.
            folder: That of the corpus, beside that of the store.

        Returns:
            Path of each shard that has some of them, from the folder, with its size and SHA-256.
        """
        runs: list[list] = []  # shard, first row, row after the last
        for clip in clips:
            if clip.reason:
                continue
            if runs and runs[-1][0] == clip.shard and runs[-1][2] == clip.row:
                runs[-1][2] += 1
            else:
                runs.append([clip.shard, clip.row, clip.row + 1])
        write_json(folder / ROWS, {"store": self.folder.name, "rows": runs}, sealed=True)

        files = {}
        for name in dict.fromkeys(name for name, _, _ in runs):
            size = (self.folder / name).stat().st_size
            files[f"../{self.folder.name}/{name}"] = [size, self._shards[name]["sha256"]]
        return files

    def _take(self, name: str, shard: dict) -> None:
        """Take note of the clips of a shard."""
        self._shards[name] = shard
        reasons = {clip: reason for reason, ids in shard["dropped"].items() for clip in ids}
        row = 0
        for clip_id, digest in shard["keys"]:
            if clip_id in reasons:
                problem = shard["problems"].get(clip_id, "")
                clip = Clip(reason=reasons[clip_id], problem=problem)
            else:
                clip = Clip(name, row)
                row += 1
            self._clips.setdefault((clip_id, digest), clip)

    def _hash_sounds(self, items: Iterable[Item]) -> None:
        """Take note of the SHA-256 of sound files."""
        files = dict.fromkeys(item.sound for item in items)
        new = [path for path in files if path not in self._sounds]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            self._sounds.update(zip(new, pool.map(_sound_hash, new), strict=True))

    def _key(self, item: Item) -> Key:
        depends = [
            self._versions,
            self._sounds[item.sound],
            item.text,
            item.language,
            item.speaker,
            item.room_or_category,
            item.translation_en,
            item.split,
        ]
        return item.id, short_hash(depends)


def _read_shard(path: Path) -> dict:
    return read_shard(path, needs=("keys", "problems"))


def _sound_hash(path: Path) -> str:
    """Return the SHA-256 of a sound file; "" where it cannot be read, which decoding will tell."""
    try:
        return file_sha256(path)
    except OSError:
        return ""


def _read_arrow(path: Path) -> pa.Table:
    """Return the memory-mapped table of a shard."""
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_stream(file).read_all()


def is_in_store(folder: Path) -> bool:
    """Return whether a prepared corpus is a choice of rows of a store."""
    return (folder / ROWS).is_file()


def load_rows(folder: Path, name: str, language: str) -> Dataset:
    """Return a corpus that is a choice of rows of a store, as a memory-mapped Dataset.

    Args:
        folder: That of the corpus.
        name: Of the corpus.
        language: Code of the language.
    """
    about = read_json(folder / ROWS)
    store = folder.with_name(about["store"])
    names = dict.fromkeys(shard for shard, _, _ in about["rows"])
    opened = [Dataset.from_file(str(store / shard)) for shard in names]
    first = dict(zip(names, accumulate(map(len, opened), initial=0), strict=False))  # row of each
    numbers: list[int] = []
    for shard, start, end in about["rows"]:
        numbers += range(first[shard] + start, first[shard] + end)
    return named(concatenate_datasets(opened).select(numbers), name, language)
