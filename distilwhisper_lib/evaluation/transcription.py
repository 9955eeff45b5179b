"""Greedy transcription of a test set by `generate`, the same for every system; resumable."""

from pathlib import Path
from typing import Protocol

import pandas as pd
import torch
from tqdm import tqdm

from ..data.batches import Clips, Collator, length_batches
from ..device import autocast, device_of, release_memory, weights_cast_once
from ..files import atomic_file
from ..whisper.window import use_window


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
        OSError: As `disk_errors` does.
    """
    predictions = _read_predictions(path)
    complete = len(predictions) == len(clips)
    model.eval()
    batches = length_batches(clips.durations, decoding.eval_batch_size)
    for indices in tqdm(batches, desc=label, unit="batch", disable=complete):
        if clips.ids[indices[0]] in predictions:
            continue
        batch = collator([clips[index] for index in indices])
        features = batch["input_features"]
        texts = generate_batch(model, collator.tokenizer, features, language, task, decoding)
        predictions.update(zip(batch["ids"], texts, strict=True))
        _write_predictions(path, clips, predictions)
        release_memory()
    return _in_order(clips, predictions)


def stored_predictions(clips: Clips, path: Path) -> pd.DataFrame | None:
    """Return the predictions in the table `path`, or None where some are missing.

    Returns:
        Columns id and prediction, in the order of `clips`.
    """
    predictions = _read_predictions(path)
    if not all(clip in predictions for clip in clips.ids):
        return None
    return _in_order(clips, predictions)


def generate_batch(
    model, tokenizer, features: torch.Tensor, language: str, task: str, decoding: DecodingLimits
) -> list[str]:
    """Decode one batch greedily.

    Args:
        model: A Whisper.
        tokenizer: Its tokenizer.
        features: Log-mel features (B, bands, F), for a window of F frames.
        language: The language of the speech.
        task: "transcribe" or "translate".
        decoding: A preset, or anything else with `max_new_tokens`.

    Returns:
        B texts, each on one line.
    """
    device = device_of(model)
    dtype = model.dtype
    with (
        torch.no_grad(),
        use_window(model, features.shape[-1]),
        autocast(device, dtype),
        weights_cast_once(model),
    ):
        token_ids = model.generate(
            input_features=features.to(device, dtype),
            language=language,
            task=task,
            do_sample=False,
            num_beams=1,
            max_new_tokens=decoding.max_new_tokens,
            use_cache=True,
        )
    texts = tokenizer.batch_decode(token_ids, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]


def _in_order(clips: Clips, predictions: dict[str, str]) -> pd.DataFrame:
    """Return the table of predictions in the order of `clips`."""
    texts = [predictions[clip] for clip in clips.ids]
    return pd.DataFrame({"id": clips.ids, "prediction": texts})


def _read_predictions(path: Path) -> dict[str, str]:
    """Return the predictions in a table by clip id, or an empty dict where there is no table."""
    if not path.exists():
        return {}
    table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col="id")
    return table["prediction"].to_dict()


def _write_predictions(path: Path, clips: Clips, predictions: dict[str, str]) -> None:
    """Write the table of predictions, each beside its reference, atomically."""
    references = dict(zip(clips.ids, clips.texts, strict=True))
    rows = [(clip, references[clip], text) for clip, text in predictions.items()]
    table = pd.DataFrame(rows, columns=["id", "reference", "prediction"]).set_index("id")
    with atomic_file(path) as temporary:
        table.to_csv(temporary)
