"""Greedy transcription of a test set by `generate`, the same for every system; a stopped run goes on."""

from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from ..data.batches import Clips, Collator, length_batches
from ..device import autocast, device_of, release_memory, weights_cast_once
from ..files import atomic_file
from ..presets import Preset
from ..whisper.window import use_window


def transcribe(
    model,
    clips: Clips,
    collator: Collator,
    preset: Preset,
    path: Path,
    language: str,
    task: str = "transcribe",
    label: str = "transcribe",
) -> pd.DataFrame:
    """Transcribe `clips` and keep the predictions in the table `path`: columns id, prediction.

    The table is written after each batch, whole batches only, so that a second call computes the rest of the
    same batches. Decoding is greedy, without timestamps or fallback, at most preset.max_new_tokens tokens.
    """
    done = _read(path)
    model.eval()
    batches = length_batches(clips.durations, preset.eval_batch_size)
    for indices in tqdm(batches, desc=label, unit="batch", disable=len(done) == len(clips)):
        if clips.ids[indices[0]] in done:
            continue
        batch = collator([clips[i] for i in indices])
        texts = generate_batch(
            model, collator.tokenizer, batch["input_features"], language, task, preset
        )
        done |= dict(zip(batch["ids"], texts, strict=True))
        _write(path, done)
        release_memory()
    return stored_predictions(clips, path)


def stored_predictions(clips: Clips, path: Path) -> pd.DataFrame | None:
    """Return the predictions in the table `path` in the order of `clips`, or None where some are missing."""
    done = _read(path)
    if not all(clip in done for clip in clips.ids):
        return None
    return pd.DataFrame({"id": clips.ids, "prediction": [done[clip] for clip in clips.ids]})


def generate_batch(
    model, tokenizer, features: torch.Tensor, language: str, task: str, preset: Preset
) -> list[str]:
    """Return the greedy texts of log-mel features (B, 80, F) in a window of F frames, each on one line."""
    device, dtype = device_of(model), model.dtype
    with (
        torch.no_grad(),
        use_window(model, features.shape[-1]),
        autocast(device, dtype),
        weights_cast_once(model),
    ):
        ids = model.generate(
            input_features=features.to(device, dtype),
            language=language,
            task=task,
            do_sample=False,
            num_beams=1,
            max_new_tokens=preset.max_new_tokens,
            use_cache=True,
        )
    return [
        " ".join(text.split()) for text in tokenizer.batch_decode(ids, skip_special_tokens=True)
    ]


def _read(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    return pd.read_csv(path, dtype=str, keep_default_na=False, index_col="id")[
        "prediction"
    ].to_dict()


def _write(path: Path, predictions: dict[str, str]) -> None:
    with atomic_file(path) as part:
        pd.Series(predictions, name="prediction").rename_axis("id").to_frame().to_csv(part)
