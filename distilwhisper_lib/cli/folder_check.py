"""A folder of recordings looked at before anything is trained: counts, losses and warnings."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.audio import read_audio
from ..data.corpora.items import Item, Loss, reason_to_drop, summary, to_row
from ..data.corpora.recorded import TABLE, read_recordings
from ..data.corpora.shards import RULES
from ..data.normalisers import normalise
from ..files import expanded
from ..presets import LAPTOP
from ..whisper.tokens import LANGUAGES, is_language_name, language_code
from .answers import Answer
from .formats import duration
from .pauses import frame_levels

NEEDED = ("train", "validation", "test")
NOBODY = "unknown"  # the speaker of a row without one

SHORT = 0.5  # s
QUIET = -45.0  # dB of full scale; speech that is recorded well is far above
PAUSE = 30.0  # dB below the loudest frame, from which a frame counts as silence
MOSTLY = 0.8  # share of silence
FULL = 0.99  # of full scale
CLIPPED = 1e-3  # share of samples at full scale
FASTEST = 25.0  # characters of text in a second of sound
SLOWEST = 2.0  # the same; less is hardly the whole text

LONGEST_TRAINED = LAPTOP.max_train_seconds or float("inf")  # s, of a clip in training

SHOWN = 5  # clips that are named in the text; the JSON has all


@dataclass(frozen=True)
class Warned:
    """Something that may be wrong.

    Attributes:
        kind: In one word or two, for programs.
        text: What it is and what to do.
        clips: Ids of the clips that it is about; none where it is about all.
    """

    kind: str
    text: str
    clips: tuple[str, ...] = ()


def check_folder(folder: Path, language: str | None = None, strict: bool = False) -> Answer:
    """Look at a folder of recordings with its table.

    Args:
        folder: With recordings.csv, or with a folder of the language that has it; or the table.
        language: Code or name; None: that which the name of the folder is.
        strict: Let the status be 1 for warnings too.

    Returns:
        The answer; its status is 1 where nothing can be trained with the folder.

    Raises:
        FileNotFoundError: Where there is no table.
        ValueError: For a table that cannot be read, or an unknown language.
    """
    folder = expanded(folder)
    code = language_of(folder, language)
    reading = read_recordings("recordings", code, folder)
    rows, dropped, warned = _look_at(reading.items)
    warned += _warned_of_speakers(rows)
    warned += _warned_of_texts(rows)
    splits = {split: about for split, about in summary(rows).items() if split in NEEDED}
    empty = [split for split in NEEDED if not splits[split]["clips"]]
    if empty:
        warned.append(_warned_of_empty(empty, rows, bool(dropped or reading.flaws)))
    too_long = [] if empty else _splits_of_long_clips(rows)
    if too_long:
        text = (
            f"all clips for {' and '.join(too_long)} last over {LONGEST_TRAINED:g} s: the preset "
            "laptop has nothing left there; cut them at pauses"
        )
        warned.append(Warned("no short clips", text))
    if splits["test"]["clips"] == 1:
        text = "the test has one clip, by which no interval can be drawn: record more for it"
        warned.append(Warned("one test clip", text))

    seconds = sum(row["duration"] for row in rows)
    content = {
        "folder": str(folder),
        "language": code,
        "clips": len(rows),
        "minutes": round(seconds / 60, 2),
        "speakers": len({row["speaker"] for row in rows} - {NOBODY}),
        "splits": splits,
        "dropped": dropped,
        "rows_not_read": reading.flaws,
        "warnings": [
            {"kind": one.kind, "text": one.text, "clips": list(one.clips)} for one in warned
        ],
        "can_train": not empty and not too_long,
    }
    fails = not content["can_train"] or (strict and bool(warned or dropped or reading.flaws))
    return Answer(content, _in_words(content), int(fails))


def language_of(folder: Path, language: str | None) -> str:
    """Return the code of a language, given or the name of the folder or of its only sub-folder.

    Raises:
        ValueError: Where it is not given and no folder is named by it, or it is not known.
    """
    if language is not None:
        return language_code(language)
    place = expanded(folder).absolute()
    if not place.exists():
        raise FileNotFoundError(f"no folder {folder}: give one with a table {TABLE}")
    names = [place.parent.name if place.is_file() else place.name]
    if place.is_dir():
        inside = [path for path in sorted(place.iterdir()) if (path / TABLE).is_file()]
        names += [inside[0].name] if len(inside) == 1 else []
    for name in names:
        if is_language_name(name):
            return language_code(name)
    raise ValueError(
        f"the language of {folder} is not known: give it, such as --language gl, or name the "
        "folder by it; for a language without a token of its own give that of a related one"
    )


def _look_at(items: list[Item]) -> tuple[list[dict], list[dict[str, str]], list[Warned]]:
    """Decode all clips.

    Returns:
        The rows of those that can be used, without their sounds; the others with the reason; and
        what was noticed in the sounds.
    """
    rows: list[dict] = []
    dropped: list[dict[str, str]] = []
    noticed: dict[str, list[str]] = defaultdict(list)
    known: set[str] = set()
    for item in tqdm(items, "check", unit=" clips", disable=None):
        row: dict | Loss
        reason = "named twice" if item.id in known else reason_to_drop(item, RULES)
        known.add(item.id)
        row = Loss(reason, item.looked_for) if reason else to_row(item, RULES)
        if isinstance(row, Loss):
            dropped.append({"clip": item.id, "reason": row.reason, "problem": row.problem})
            continue
        audio = read_audio(row.pop("audio"))
        for kind in _kinds(audio, row["duration"], len(normalise(row["text"]))):
            noticed[kind].append(row["id"])
        rows.append(row)
    warned = [Warned(kind, text, tuple(noticed[kind])) for kind, text in KINDS.items()]
    return rows, dropped, [one for one in warned if one.clips]


# What may be wrong with a sound, in the order in which it is told.
KINDS = {
    "short": f"under {SHORT:g} s: is the whole text in them?",
    "long": (
        f"over {LONGEST_TRAINED:g} s: the preset laptop leaves them out of training; cut "
        "them at pauses, or train at another preset"
    ),
    "quiet": f"never louder than {QUIET:g} dB of full scale: record nearer to the microphone",
    "silence": f"over {MOSTLY:.0%} silence: cut it off",
    "clipped": "clipped, the recording was too loud: record again with less gain",
    "fast": f"over {FASTEST:g} characters a second: does the text belong to the sound?",
    "slow": f"under {SLOWEST:g} characters a second: does the text belong to the sound?",
}


def _kinds(audio: np.ndarray, seconds: float, characters: int) -> list[str]:
    """Return which of KINDS hold of a clip (n,) whose text has some characters."""
    levels = frame_levels(audio)
    loudest = float(levels.max()) if levels.size else QUIET
    silence = float(np.mean(levels < loudest - PAUSE)) if levels.size else 0.0
    at_full_scale = float(np.mean(np.abs(audio) >= FULL))
    is_so = {
        "short": seconds < SHORT,
        "long": seconds > LONGEST_TRAINED,
        "quiet": loudest < QUIET,
        "silence": silence > MOSTLY,
        "clipped": at_full_scale > CLIPPED,
        "fast": characters > FASTEST * seconds,
        "slow": characters < SLOWEST * seconds,
    }
    return [kind for kind, holds in is_so.items() if holds]


def _warned_of_empty(empty: list[str], rows: list[dict], is_losing: bool) -> Warned:
    """Return the warning of splits without clips, with what to do about it.

    Args:
        empty: The splits.
        rows: Of the clips that can be used.
        is_losing: Whether clips or rows are left out.
    """
    if is_losing:
        advice = "put right what is left out first (see above)"
    elif len({row["speaker"] for row in rows}) == 1:
        advice = (
            "state the splits in the column split (train, validation, test); of a single speaker "
            "the test measures a known voice"
        )
    else:
        advice = (
            "state the splits in the column split (train, validation, test), each with speakers of "
            "its own"
        )
    return Warned("empty split", f"there are no clips for {' and '.join(empty)}: {advice}")


def _splits_of_long_clips(rows: list[dict]) -> list[str]:
    """Return the splits of training that have no clip short enough for it."""
    short = {row["split"] for row in rows if row["duration"] <= LONGEST_TRAINED}
    return [split for split in ("train", "validation") if split not in short]


def _warned_of_speakers(rows: list[dict]) -> list[Warned]:
    """Return warnings of a single speaker, of none, and of speakers in two splits."""
    named = {row["speaker"] for row in rows} - {NOBODY}
    warned = []
    if rows and not named:
        text = (
            "no speaker is named: give the column speaker, or nobody can tell whether the test has "
            "voices of its own"
        )
        warned.append(Warned("no speaker", text))
    if len(named) == 1 and all(row["speaker"] in named for row in rows):
        text = (
            f"all clips are of one speaker, {named.pop()}: the test says nothing about other "
            "voices; record more people"
        )
        warned.append(Warned("single speaker", text))

    of_named = [row for row in rows if row["speaker"] != NOBODY]
    for speaker, splits in _in_two_splits((row["speaker"], row["split"]) for row in of_named):
        text = (
            f"the speaker {speaker} is in {' and '.join(splits)}: the test then measures a known "
            "voice; keep each speaker in one split"
        )
        clips = tuple(row["id"] for row in of_named if row["speaker"] == speaker)
        warned.append(Warned("speaker in two splits", text, clips))
    return warned


def _warned_of_texts(rows: list[dict]) -> list[Warned]:
    """Return a warning of texts that are in two splits."""
    texts = [(normalise(row["text"]), row["split"]) for row in rows]
    doubled = {text for text, _ in _in_two_splits(texts)}
    clips = [row["id"] for row in rows if normalise(row["text"]) in doubled]
    if not clips:
        return []
    text = (
        f"{len(doubled)} texts are in two splits: the test then measures known sentences; keep "
        "each text in one split"
    )
    return [Warned("text in two splits", text, tuple(clips))]


def _in_two_splits(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    """Return what occurs in several splits, with these, from pairs of a key and a split."""
    found: dict[str, set[str]] = defaultdict(set)
    for key, split in pairs:
        found[key].add(split)
    order = NEEDED.index
    return [(key, sorted(splits, key=order)) for key, splits in found.items() if len(splits) > 1]


# ---- in words


def _in_words(content: dict[str, Any]) -> str:
    """Return the answer for a reader."""
    language = LANGUAGES[content["language"]].title()
    lines = [
        f"{content['folder']}: {language}, {content['clips']} clips, "
        f"{duration(60 * content['minutes'])}, speakers named: {content['speakers']}"
    ]
    for split, about in content["splits"].items():
        people = Counter(about["speakers"])
        lines.append(
            f"  {split:<10} {about['clips']:>5} clips  {duration(60 * about['minutes']):>9}  "
            f"{len(people)} speakers"
        )
    if content["dropped"]:
        lines.append(f"left out: {len(content['dropped'])} clips")
        for one in content["dropped"][:SHOWN]:
            problem = f" ({one['problem']})" if one["problem"] else ""
            lines.append(f"  {one['clip']}: {one['reason']}{problem}")
        lines += _rest(len(content["dropped"]))
    if content["rows_not_read"]:
        lines.append(f"rows that cannot be read: {len(content['rows_not_read'])}")
        lines += [f"  {flaw}" for flaw in content["rows_not_read"][:SHOWN]]
        lines += _rest(len(content["rows_not_read"]))
    for one in content["warnings"]:
        count = f"{len(one['clips'])} clips " if one["kind"] in KINDS else ""
        lines.append(f"warning: {count}{one['text']}")
        lines += [f"  {clip}" for clip in one["clips"][:SHOWN]]
        lines += _rest(len(one["clips"]))
    if not content["can_train"]:
        lines.append("nothing can be trained with it yet")
    return "\n".join(lines)


def _rest(count: int) -> list[str]:
    """Return a line about those that are not shown."""
    return [f"  … and {count - SHOWN} more (--json lists all)"] if count > SHOWN else []
