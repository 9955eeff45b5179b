"""Greedy transcription of a test set by `generate`, the same for every system; resumable."""

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
from ..whisper.tokens import MOST_TOKENS, language_code
from ..whisper.window import use_window
from .greedy import use_greedy_decoding
from .predictions import current_predictions, in_order, write_predictions

TASKS = ("transcribe", "translate")


class DecodingLimits(Protocol):
    """What transcription needs to know: a preset has it, and so has any object with these two."""

    @property
    def eval_batch_size(self) -> int:
        """The number of clips in a batch."""

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of a prediction."""


@dataclass(frozen=True)
class FixedLimits:
    """Limits that are given; the attributes are those of `DecodingLimits`."""

    eval_batch_size: int
    max_new_tokens: int


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
        path: The table (CSV). What it holds of these clips is not computed again, so give each
            model, language and task a path of its own.
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
    predictions = current_predictions(path, clips, is_told=True)
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
        write_predictions(path, clips, predictions)
        release_memory()
    return in_order(clips, predictions)


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
