"""Greedy transcription of a test set by `generate`, the same for every system; resumable."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from ..checks import check_choice, check_number
from ..data.batches import Clips, Collator, length_batches, load_batches
from ..device import (
    autocast,
    device_of,
    loader_workers,
    pick_device,
    release_memory,
    to_device,
    weights_cast_once,
)
from ..files import atomic_file, set_aside, short_hash, tell
from ..whisper.tokens import MOST_TOKENS, language_code
from ..whisper.window import use_window
from .greedy import use_greedy_decoding

TASKS = ("transcribe", "translate")

# Columns of a table of predictions: `clip` is the digest of the clip's text and sound, `check` a
# hash of the row. Tables of earlier versions lack both.
COLUMNS = ["id", "reference", "prediction", "clip", "check"]
EARLIER_COLUMNS = COLUMNS[:3]


class DecodingLimits(Protocol):
    """What transcription needs to know: a preset has it, and so has any object with these two."""

    @property
    def eval_batch_size(self) -> int:
        """The number of clips in a batch."""

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of a prediction."""


def transcribe(
    model,
    clips: Clips,
    collator: Collator,
    decoding: DecodingLimits,
    path: Path,
    language: str,
    task: str = "transcribe",
    label: str = "transcribe",
) -> pd.DataFrame:
    """Transcribe clips and keep the predictions, beside their references, in a table on disk.

    The table is written after each batch and holds complete batches only. A second call therefore
    computes the missing batches, and these are the same as in an uninterrupted call. Decoding is
    greedy, without timestamps and without fallback to higher temperatures.

    Args:
        model: A Whisper, on its device; it is put into evaluation mode.
        clips: The clips of a test set.
        collator: Makes log-mel features of a list of clips.
        decoding: A preset, or anything else with `eval_batch_size` and `max_new_tokens`.
        path: The table (CSV).
        language: The language of the speech.
        task: "transcribe", or "translate" (into English).
        label: The text beside the progress bar.

    Returns:
        Columns id and prediction, in the order of `clips`.

    Raises:
        ValueError: For an unknown language or task, or limits that are no such numbers.
        OSError: As `disk_errors` does.
    """
    language = language_code(language)
    check_choice("task", task, TASKS)
    most = MOST_TOKENS - 4  # the first four state language and task
    check_number("max_new_tokens", decoding.max_new_tokens, low=1, high=most, whole=True)
    check_number("eval_batch_size", decoding.eval_batch_size, low=1, whole=True)
    predictions = _current_predictions(path, clips, is_told=True)
    model.eval()
    batches = length_batches(clips.durations, decoding.eval_batch_size)
    missing = [
        indices
        for indices in batches
        if any(clips.ids[index] not in predictions for index in indices)
    ]
    made = load_batches(clips, missing, collator, loader_workers(pick_device()))
    bar = {"total": len(batches), "initial": len(batches) - len(missing), "disable": not missing}
    for batch in tqdm(made, desc=label, unit="batch", **bar):
        features = batch["input_features"]
        texts = generate_batch(model, collator.tokenizer, features, language, task, decoding)
        predictions.update(zip(batch["ids"], texts, strict=True))
        _write_predictions(path, clips, predictions)
        release_memory()
    return _in_order(clips, predictions)


def stored_predictions(clips: Clips, path: Path) -> pd.DataFrame | None:
    """Return the predictions in the table `path`, or None where some are missing.

    A damaged table is set aside and counts as absent, and so do the predictions of clips that have
    changed since.

    Returns:
        Columns id and prediction, in the order of `clips`.
    """
    predictions = _current_predictions(path, clips)
    if not all(clip in predictions for clip in clips.ids):
        return None
    return _in_order(clips, predictions)


def generate_batch(
    model, tokenizer, features: torch.Tensor, language: str, task: str, decoding: DecodingLimits
) -> list[str]:
    """Decode one batch greedily, whatever the generation settings of the checkpoint say.

    Args:
        model: A Whisper.
        tokenizer: Its tokenizer.
        features: Log-mel features (B, bands, F), for a window of F frames.
        language: The language of the speech.
        task: "transcribe" or "translate".
        decoding: A preset, or anything else with `max_new_tokens`.

    Returns:
        B texts, each on one line.

    Raises:
        ValueError: Where the model's scores of the next token are not finite.
    """
    device = device_of(model)
    dtype = model.dtype
    watch = _FiniteScores()
    with (
        torch.no_grad(),
        use_window(model, features.shape[-1]),
        use_greedy_decoding(model) as settings,
        autocast(device, dtype),
        weights_cast_once(model),
    ):
        token_ids = model.generate(
            input_features=to_device(features, device, dtype),
            generation_config=settings,
            logits_processor=LogitsProcessorList([watch]),
            language=language,
            task=task,
            return_timestamps=False,
            do_sample=False,
            num_beams=1,
            max_new_tokens=decoding.max_new_tokens,
            use_cache=True,
        )
    watch.check(dtype)
    texts = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]


class _FiniteScores(LogitsProcessor):
    """Leaves scores as they are, and remembers whether the highest of any step was not finite.

    The flag stays on the device until the end, so that a GPU is not waited for at each token.
    """

    def __init__(self):
        self._wrong = torch.tensor(False)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores (B, V)."""
        wrong = (~scores.amax(-1).isfinite()).any()
        self._wrong = self._wrong.to(wrong.device) | wrong
        return scores

    def check(self, dtype: torch.dtype) -> None:
        """Raise ValueError where scores were not finite; dtype: of the weights, for the message."""
        if bool(self._wrong):
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(
                "the model's scores of the next token are not finite (NaN or infinite), so nothing "
                f"is transcribed: its weights are damaged, or its numbers overflow in {kind} (load "
                "it in torch.float32, or set LAB_PRECISION=no)"
            )


def _in_order(clips: Clips, predictions: dict[str, str]) -> pd.DataFrame:
    """Return the table of predictions in the order of `clips`."""
    texts = [predictions[clip] for clip in clips.ids]
    return pd.DataFrame({"id": clips.ids, "prediction": texts})


# ---- the table


@dataclass(frozen=True)
class _Row:
    """A prediction in a table.

    Attributes:
        prediction: The text.
        digest: Of the clip that was transcribed (`Clips.digests`); "" where that is not known.
    """

    prediction: str
    digest: str


def _current_predictions(path: Path, clips: Clips, is_told: bool = False) -> dict[str, str]:
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


def _write_predictions(path: Path, clips: Clips, predictions: dict[str, str]) -> None:
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
