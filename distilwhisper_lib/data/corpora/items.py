"""The lines of a corpus before they become rows, and what the builders of all corpora share."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from ..audio import SAMPLE_RATE, EmptyAudioError, LongAudioError, encode_flac, read_audio
from ..normalisers import normalise

# Where two splits have the same text, the one that is named first here keeps it.
SPLITS = ("test", "test-other", "validation", "train", "teacher")

PLACEHOLDER = re.compile(r"%\d")  # the game fills it in, so the clip does not say it

SHORTEST = 0.1  # seconds; a shorter clip counts as empty


@dataclass(frozen=True)
class Rules:
    """Which clips are dropped.

    The defaults are for the games, whose texts are not always what is spoken.

    Attributes:
        longest: Seconds; longer clips are dropped.
        fastest: Normalised characters a second; more cannot be spoken, so the text is not that of
            the clip, which is dropped. None: no limit.
        placeholders: Drop texts with a placeholder such as "%1".
    """

    longest: float = 29.0
    fastest: float | None = 25.0
    placeholders: bool = True


GAME_RULES = Rules()


@dataclass(frozen=True)
class Item:
    """A line of a corpus.

    Attributes:
        id: Unique in the corpus.
        sound: A file, samples (n,) at 16 kHz, or None where there is none.
        text: What is spoken.
        language: Code of the language.
        speaker: Name of the speaker, or what is known of them (FLEURS: the gender).
        room_or_category: Where the line belongs: a room of the game, a category of stamps.
        translation_en: The text in English; "" where there is none.
        split: One of SPLITS, or None: the line is dropped.
        reason: Why it is dropped, where `split` is None.
        looked_for: Where `sound` is None: in words, the path that was looked for and what is there.
    """

    id: str
    sound: Path | np.ndarray | None
    text: str
    language: str
    speaker: str
    room_or_category: str
    translation_en: str
    split: str | None
    reason: str = ""
    looked_for: str = ""


def stable_hash(text: str) -> str:
    """Return the SHA-256 of a text, by which rooms, stamps and clips are put in order."""
    return sha256(text.encode()).hexdigest()


def hash_share(text: str) -> float:
    """Return a number in [0, 1) that depends on `text` alone, evenly spread over texts."""
    return int(stable_hash(text)[:8], 16) / 0x1_0000_0000


def distinct_ids(start: str, files: Sequence[PurePosixPath]) -> list[str]:
    """Return the id of each recording: `start` and its path without ending.

    Where that would be the id of different files (`1.wav` and `1.flac`, `rec.1` and `rec.2`), each
    of them keeps its ending. The same file has the same id each time.

    Args:
        start: What all ids begin with.
        files: Paths of the recordings in their folder.
    """
    whole: set[PurePosixPath] = set()  # the files that keep their ending
    while True:
        names = {file: str(file if file in whole else file.with_suffix("")) for file in files}
        counts = Counter(names.values())
        clashing = {file for file, name in names.items() if counts[name] > 1} - whole
        if not clashing:
            return [f"{start}{names[file]}" for file in files]
        whole |= clashing


# ---- items to rows


def reason_to_drop(item: Item, rules: Rules = GAME_RULES) -> str:
    """Return why an item cannot be used, judged without decoding audio, or ""."""
    if item.sound is None:
        return "no sound file"
    if not normalise(item.text):
        return "empty text"
    if rules.placeholders and PLACEHOLDER.search(item.text):
        return "text with a placeholder"
    if item.split is None:
        return item.reason
    return ""


@dataclass(frozen=True)
class Loss:
    """Why a clip is left out.

    Attributes:
        reason: In a few words, the same for all clips with the same fault.
        problem: What is wrong with this one; "" where the reason says it all.
    """

    reason: str
    problem: str = ""


def to_row(item: Item, rules: Rules = GAME_RULES) -> dict | Loss:
    """Return the item as a row of the corpus, or why it is dropped.

    Args:
        item: An item with a sound.
        rules: Which clips are dropped.

    Returns:
        The columns of a corpus, the sound as FLAC with 16 kHz; or the reason.
    """
    try:
        if isinstance(item.sound, np.ndarray):
            audio = item.sound
        else:
            audio = read_audio(item.sound)
    except EmptyAudioError as error:
        return Loss("empty audio", str(error))
    except LongAudioError as error:
        return Loss(_too_long(rules), str(error))
    except (ValueError, OSError) as error:
        return Loss("unreadable audio", str(error))

    duration = len(audio) / SAMPLE_RATE
    if duration < SHORTEST:
        return Loss("empty audio", f"{duration:.3f} s of sound")
    if duration > rules.longest:
        return Loss(_too_long(rules), f"{duration:.1f} s")
    if rules.fastest and len(normalise(item.text)) > rules.fastest * duration:
        return Loss(f"text too long for the sound (over {rules.fastest:.0f} characters a second)")

    return {
        "id": item.id,
        "text": item.text,
        "language": item.language,
        "speaker": item.speaker,
        "room_or_category": item.room_or_category,
        "translation_en": item.translation_en,
        "split": item.split,
        "audio": {"bytes": encode_flac(audio), "path": item.id.replace("/", "--") + ".flac"},
        "duration": duration,
    }


def _too_long(rules: Rules) -> str:
    """Return the reason for which a long clip is dropped."""
    return f"longer than {rules.longest:.0f} s"


def read_rows(
    items: list[Item], title: str | None, rules: Rules = GAME_RULES, threads: int = 2
) -> tuple[list[dict], dict[str, list[str]], dict[str, str]]:
    """Decode the items, in some threads.

    Args:
        items: Lines of a corpus.
        title: The text beside the progress bar; None: no bar.
        rules: Which clips are dropped.
        threads: How many.

    Returns:
        The usable rows in the order of the items, the ids of the dropped items by reason, and what
        is wrong with each of these, by id, where there is more to say than the reason.
    """
    dropped: dict[str, list[str]] = {}
    problems: dict[str, str] = {}

    # Items that can be judged without decoding audio.
    usable = []
    for item in items:
        reason = reason_to_drop(item, rules)
        if reason:
            dropped.setdefault(reason, []).append(item.id)
            if item.sound is None and item.looked_for:
                problems[item.id] = item.looked_for
        else:
            usable.append(item)

    # The others.
    rows = []
    with ThreadPoolExecutor(threads) as pool:
        each = map if threads == 1 else pool.map  # a pool of one costs and gains nothing
        found = each(lambda item: to_row(item, rules), usable)
        progress = tqdm(found, title, len(usable), unit=" clips", disable=title is None)
        for item, row in zip(usable, progress, strict=True):
            if isinstance(row, Loss):
                dropped.setdefault(row.reason, []).append(item.id)
                if row.problem:
                    problems[item.id] = row.problem
            else:
                rows.append(row)
    return rows, dropped, problems


# ---- sets of rows


def without_duplicates(rows: list[dict]) -> tuple[list[dict], dict[str, list[str]]]:
    """Drop texts that are in two splits, and recordings that occur twice.

    A text (normalised) stays in the first of SPLITS that has it; of the same recordings the first
    one stays.

    Returns:
        The rows that stay, in their order, and the ids of the others by reason.
    """
    dropped: dict[str, list[str]] = {}
    split_of: dict[str, str] = {}  # normalised text -> its split
    recordings = set()
    kept = set()
    for row in sorted(rows, key=lambda row: (SPLITS.index(row["split"]), row["id"])):
        text = normalise(row["text"])
        recording = sha256(row["audio"]["bytes"]).digest()
        if split_of.setdefault(text, row["split"]) != row["split"]:
            dropped.setdefault("duplicate text in another split", []).append(row["id"])
        elif recording in recordings:
            dropped.setdefault("same recording twice", []).append(row["id"])
        else:
            recordings.add(recording)
            kept.add(row["id"])
    return [row for row in rows if row["id"] in kept], dropped


def summary(rows: list[dict]) -> dict[str, dict]:
    """Return the number of clips, the minutes and the clips of each speaker, for each split."""
    table = {}
    for split in SPLITS:
        of_split = [row for row in rows if row["split"] == split]
        speakers = Counter(row["speaker"] for row in of_split)
        seconds = sum(row["duration"] for row in of_split)
        table[split] = {
            "clips": len(of_split),
            "minutes": round(seconds / 60, 2),
            "speakers": dict(speakers.most_common()),
        }
    return table


def fingerprint(rows: Iterable[dict]) -> str:
    """Return the SHA-256 of the id, text and sound of all rows, whatever their order."""
    digest = sha256()
    for row in sorted(rows, key=lambda row: row["id"]):
        for part in (row["id"].encode(), row["text"].encode(), row["audio"]["bytes"]):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()
