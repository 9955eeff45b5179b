"""The table of predictions that every system writes: one row for each clip, checked, resumable."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..data.batches import Clips
from ..files import atomic_file, set_aside, short_hash, tell

# Columns of a table of predictions: `clip` is the digest of the clip's text and sound, `check` a
# hash of the row. Tables of earlier versions lack both.
COLUMNS = ["id", "reference", "prediction", "clip", "check"]
EARLIER_COLUMNS = COLUMNS[:3]


def stored_predictions(clips: Clips, path: Path) -> pd.DataFrame | None:
    """Return the predictions in the table `path`, or None where some are missing.

    A damaged table is set aside and counts as absent, and so do the predictions of clips that have
    changed since.

    Returns:
        Columns id and prediction, in the order of `clips`.
    """
    predictions = current_predictions(path, clips)
    if not all(clip in predictions for clip in clips.ids):
        return None
    return in_order(clips, predictions)


@dataclass(frozen=True)
class _Row:
    """A prediction in a table.

    Attributes:
        prediction: The text.
        digest: Of the clip that was transcribed (`Clips.digests`); "" where that is not known.
    """

    prediction: str
    digest: str


def current_predictions(path: Path, clips: Clips, is_told: bool = False) -> dict[str, str]:
    """Return the stored predictions of `clips` by id, without those of clips that have changed.

    Args:
        path: The table.
        clips: The clips as they are now.
        is_told: Say how many have changed.
    """
    digests = _digests_of(clips)
    predictions = {}
    changed = 0
    for clip, row in _read_table(path).items():
        if clip not in digests:
            continue
        if row.digest and digests[clip] and row.digest != digests[clip]:
            changed += 1
            continue
        predictions[clip] = row.prediction
    if changed and is_told:
        tell(
            f"{path.name}: {changed} of {len(digests)} clips have another text or sound than when "
            "they were transcribed: transcribed anew"
        )
    return predictions


def stored_digests(path: Path) -> dict[str, str]:
    """Return the digest of each clip in a table of predictions, by clip id."""
    return {clip: row.digest for clip, row in _read_table(path).items()}


def _digests_of(clips: Clips) -> dict[str, str]:
    """Return the digest of each clip by id; "" where clips have none."""
    digests = getattr(clips, "digests", None) or [""] * len(clips.ids)
    return dict(zip(clips.ids, digests, strict=True))


def _read_table(path: Path) -> dict[str, _Row]:
    """Return the rows of a table by clip id; none where there is no table.

    A table that is damaged in any way is set aside and counts as absent.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        return _parse_table(content)
    except ValueError as error:
        set_aside(path, str(error))
        return {}


def _parse_table(content: bytes) -> dict[str, _Row]:
    """Return the rows of a table by clip id.

    Raises:
        ValueError: Where anything is not as it was written; the message says what.
    """
    if not content:
        raise ValueError("it is empty")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("it is no UTF-8 text") from error
    if not text.endswith("\n"):
        raise ValueError("its last line is cut off")

    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header, *lines = list(reader)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from error
    if header not in (COLUMNS, EARLIER_COLUMNS):
        raise ValueError(f"its columns are not {', '.join(COLUMNS)}")

    rows: dict[str, _Row] = {}
    for number, fields in enumerate(lines, 1):
        if len(fields) != len(header):
            raise ValueError(f"row {number} has {len(fields)} of {len(header)} values")
        clip, reference, prediction, *others = fields
        if clip in rows:
            raise ValueError(f"row {number} is the second for {clip!r}")
        digest = ""
        if others:
            digest, check = others
            if check != _check(clip, reference, prediction, digest):
                raise ValueError(f"row {number} is not as it was written")
        rows[clip] = _Row(prediction, digest)
    return rows


def _check(*values: str) -> str:
    """Return eight hexadecimal digits that change with any character of a row."""
    return short_hash(values)


def write_predictions(path: Path, clips: Clips, predictions: dict[str, str]) -> None:
    """Write the table of predictions, each beside its reference, atomically."""
    references = dict(zip(clips.ids, clips.texts, strict=True))
    digests = _digests_of(clips)
    lines = [COLUMNS]
    for clip, prediction in predictions.items():
        values = [clip, references[clip], prediction, digests[clip]]
        lines.append([*values, _check(*values)])
    text = "".join(",".join(map(_quoted, fields)) + "\n" for fields in lines)
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def _quoted(text: str) -> str:
    """Return a value for CSV. (csv and pandas leave a carriage return without quotes.)"""
    if any(character in text for character in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def in_order(clips: Clips, predictions: dict[str, str]) -> pd.DataFrame:
    """Return the table of predictions in the order of `clips`."""
    texts = [predictions[clip] for clip in clips.ids]
    return pd.DataFrame({"id": clips.ids, "prediction": texts})
