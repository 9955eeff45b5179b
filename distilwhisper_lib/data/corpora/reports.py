"""What a prepared corpus says of itself: counts, and what was left out and why."""

import warnings
from collections import Counter
from pathlib import Path

import soundfile
import soxr
from datasets import Dataset

from ...files import file_sha256, read_json
from .common_voice import SIZES
from .items import SPLITS, Item, stable_hash, summary
from .registry import BUILDER, check_names, corpus_folder
from .tables import Reading

# What to do about clips that are left out, by the start of the reason.
ADVICE = {
    "longer than": (
        "Whisper hears 30 s at once: cut longer sounds at pauses into parts of at most 30 s, each "
        "with its own text in a row of its own (for instance `ffmpeg -i long.wav -ss 0 -to 25 "
        "part-1.wav`, or Audacity's export of labelled parts)"
    ),
    "named twice": "A recording has one row: of several rows the first one counts",
}


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


def is_prepared(name: str, language: str) -> bool:
    """Return whether a corpus is prepared, intact or not."""
    return (corpus_folder(name, language) / "report.json").is_file()


def is_current(folder: Path) -> bool:
    """Return whether this version of the builder has prepared a corpus."""
    return read_json(folder / "report.json").get("builder") == BUILDER


# ---- making the report


def report_of(
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
        "dropped": counts_of(dropped),
        "splits": summary(rows),
        "fingerprint": content,
        "dropped_ids": {reason: sorted(ids) for reason, ids in sorted(dropped.items())},
    }


def report_of_parts(
    name: str,
    language: str,
    reading: Reading,
    items: dict[str, Item],
    parts: list[dict],
    dropped: dict[str, list[str]],
    data: Dataset,
) -> dict:
    """Return the report of a large corpus.

    Args:
        name: Of the corpus.
        language: Code of the language.
        reading: What was read.
        items: The items that were decoded, by id.
        parts: As `write_shards` returns them.
        dropped: Ids of all dropped items by reason.
        data: The corpus.
    """
    rows = data.select_columns(["id", "speaker", "split", "duration"]).to_list()
    prints = [part["fingerprint"] for part in parts]
    content = stable_hash("".join(prints))
    return {
        **report_of(name, language, reading.about, reading.items, rows, dropped, content),
        "dropped_by_split": _dropped_by_split(items, dropped),
        "malformed": len(reading.flaws),
        "malformed_rows": reading.flaws[:1000],
        "problems": dict(list(problems_of(parts).items())[:1000]),
        "shards": prints,
        "tables": {f"{path.parent.name}/{path.name}": file_sha256(path) for path in reading.tables},
    }


def problems_of(parts: list[dict]) -> dict[str, str]:
    """Return what is wrong with dropped clips, by id."""
    return {key: text for part in parts for key, text in part.get("problems", {}).items()}


def all_dropped(
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


def counts_of(dropped: dict[str, list[str]]) -> dict[str, int]:
    """Return the number of dropped items by reason."""
    return {reason: len(ids) for reason, ids in sorted(dropped.items())}


# ---- warning of what was left out


def warn_of_lost_lines(report: dict, folder: Path) -> None:
    """Warn of the lines of a large corpus that were left out.

    Args:
        report: That of the corpus.
        folder: Of the prepared corpus.
    """
    lost = {**report["dropped"], "malformed row": report["malformed"]}
    lines = report["items"] + report["malformed"]
    warn_of_losses(report, lost, lines, folder / "report.json", stacklevel=6)


def warn_of_losses(
    report: dict, lost: dict[str, int], lines: int, path: Path, stacklevel: int = 5
) -> None:
    """Warn of lines that were left out, with what to do about them.

    Args:
        report: That of the corpus.
        lost: Number of lines by reason.
        lines: Number of all lines.
        path: Of the report.
        stacklevel: Of the caller of load_corpus.
    """
    lost = {reason: count for reason, count in lost.items() if count}
    if not lost:
        return
    reasons = ", ".join(f"{reason}: {count}" for reason, count in lost.items())
    advice = [text for start, text in ADVICE.items() if any(key.startswith(start) for key in lost)]
    then = "" if report.get("follows") else " and delete that folder"
    if report["corpus"] in SIZES:
        then += ", and those of smaller sizes"
    ids = {reason: report["dropped_ids"].get(reason, []) for reason in lost}
    warnings.warn(
        f"{report['corpus']} in {report['language']}: {sum(lost.values())} of {lines} lines are "
        f"left out ({reasons}); {path} names them: to have them after all, put them right"
        f"{then}{first_problems(ids, report['problems'])}"
        f"{_first_flaw(report)}{''.join(f'. {text}' for text in advice)}",
        stacklevel=stacklevel,
    )


def first_problems(dropped: dict[str, list[str]], problems: dict[str, str]) -> str:
    """Return what is wrong with the first clip of each reason, as further sentences."""
    sentences = []
    for reason, ids in sorted(dropped.items()):
        known = [item_id for item_id in ids if item_id in problems]
        if known:
            longest = max(known[:1000], key=lambda item_id: len(problems[item_id]))
            first = longest if reason == "no sound file" else known[0]
            problem = problems[first].rstrip(". ")
            sentences.append(f". {reason.capitalize()}, for instance {first}: {problem}")
    return "".join(sentences)


def _first_flaw(report: dict) -> str:
    """Return the first malformed row, as a further sentence; "" without one."""
    rows = report.get("malformed_rows", [])
    return f". The first malformed row: {rows[0]}" if rows else ""
