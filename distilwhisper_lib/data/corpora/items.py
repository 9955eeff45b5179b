"""One line of a corpus before it becomes a row: what the builders of the corpora have in common."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..audio import SAMPLE_RATE, EmptyAudioError, encode_flac, read_audio
from ..normalisers import normalise

SPLITS = (
    "test",
    "test-other",
    "validation",
    "train",
    "teacher",
)  # the earlier keeps a text that both have

PLACEHOLDER = re.compile(r"%\d")  # what the game fills in: the clip does not say it

SHORTEST = 0.1  # seconds


@dataclass(frozen=True)
class Rules:
    """What is dropped: clips over `longest` seconds, texts of over `fastest` characters a second or with a placeholder.

    The defaults are for the games, whose texts are not always what is said; None and False switch a rule off.
    """

    longest: float = 29.0
    fastest: float | None = 25.0  # normalised characters: more than that cannot be said in the time
    placeholders: bool = True


@dataclass(frozen=True)
class Item:
    """A line of a corpus. sound: a file, samples (n,) at 16 kHz, or None; split: None drops it for `reason`."""

    id: str
    sound: Path | np.ndarray | None
    text: str
    language: str
    speaker: str
    room_or_category: str
    translation_en: str
    split: str | None
    reason: str = ""


def stable_hash(text: str) -> str:
    """Return the SHA-256 of a text: the order in which rooms, stamps and clips are dealt out."""
    return sha256(text.encode()).hexdigest()


def reason_to_drop(item: Item, rules: Rules = Rules()) -> str:
    """Return why an item cannot be used, as far as that shows without its sound, or ""."""
    if item.sound is None:
        return "no sound file"
    if not normalise(item.text):
        return "empty text"
    if rules.placeholders and PLACEHOLDER.search(item.text):
        return "text with a placeholder"
    return "" if item.split else item.reason


def to_row(item: Item, rules: Rules = Rules()) -> dict | str:
    """Return the item as a row of the corpus, its sound as FLAC, or the reason why it has to be dropped."""
    try:
        audio = item.sound if isinstance(item.sound, np.ndarray) else read_audio(item.sound)
    except EmptyAudioError:
        return "empty audio"
    except (ValueError, OSError):
        return "unreadable audio"
    duration = len(audio) / SAMPLE_RATE
    if duration < SHORTEST:
        return "empty audio"
    if duration > rules.longest:
        return f"longer than {rules.longest:.0f} s"
    if rules.fastest and len(normalise(item.text)) > rules.fastest * duration:
        return f"text too long for the sound (over {rules.fastest:.0f} characters a second)"
    fields = ("id", "text", "language", "speaker", "room_or_category", "translation_en", "split")
    sound = {"bytes": encode_flac(audio), "path": item.id.replace("/", "--") + ".flac"}
    return {name: getattr(item, name) for name in fields} | {"audio": sound, "duration": duration}


def read_rows(
    items: list[Item], title: str | None, rules: Rules = Rules()
) -> tuple[list[dict], dict[str, list[str]]]:
    """Return the usable rows in the items' order, and the ids of the others by reason; two threads.

    title: of the progress bar; None: no bar.
    """
    dropped: dict[str, list[str]] = {}
    rows: list[dict] = []
    keep = []
    for item in items:
        reason = reason_to_drop(item, rules)
        dropped.setdefault(reason, []).append(item.id) if reason else keep.append(item)
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda item: to_row(item, rules), keep)
        for item, row in zip(
            keep, tqdm(found, title, len(keep), unit=" clips", disable=title is None), strict=True
        ):
            dropped.setdefault(row, []).append(item.id) if isinstance(row, str) else rows.append(
                row
            )
    return rows, dropped


def without_duplicates(rows: list[dict]) -> tuple[list[dict], dict[str, list[str]]]:
    """Return the rows less those whose normalised text is in a higher split too, and less recordings met before."""
    dropped: dict[str, list[str]] = {}
    split_of: dict[str, str] = {}  # normalised text -> its highest split
    recordings, kept = set(), set()
    for row in sorted(rows, key=lambda row: (SPLITS.index(row["split"]), row["id"])):
        key, sound = normalise(row["text"]), sha256(row["audio"]["bytes"]).digest()
        if split_of.setdefault(key, row["split"]) != row["split"]:
            dropped.setdefault("duplicate text in another split", []).append(row["id"])
        elif sound in recordings:
            dropped.setdefault("same recording twice", []).append(row["id"])
        else:
            recordings.add(sound)
            kept.add(row["id"])
    return [row for row in rows if row["id"] in kept], dropped


def summary(rows: list[dict]) -> dict[str, dict]:
    """Return clips, minutes and clips by speaker for each split."""
    table = {}
    for split in SPLITS:
        part = [row for row in rows if row["split"] == split]
        speakers = Counter(row["speaker"] for row in part).most_common()
        minutes = round(sum(row["duration"] for row in part) / 60, 2)
        table[split] = {"clips": len(part), "minutes": minutes, "speakers": dict(speakers)}
    return table


def fingerprint(rows: list[dict]) -> str:
    """Return the SHA-256 over id, text and sound of all rows."""
    digest = sha256()
    for row in sorted(rows, key=lambda row: row["id"]):
        for part in (row["id"].encode(), row["text"].encode(), row["audio"]["bytes"]):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
