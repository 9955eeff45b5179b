"""What the teacher says of each training clip, computed once and stored: its k likeliest words a position."""

import os
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from .batches import Clips, Collator, length_batches
from .device import autocast, device_of
from .losses import labelled, top_k_log_probs
from .presets import disk_errors
from .weights import use_window


class TeacherOutputs:
    """Stored teacher distributions by clip id: words (T, k) int32 and log-probabilities (T, k + 1) fp16."""

    def __init__(self, folder: str | Path):
        self.folder, self._clips = Path(folder), {}
        for path in sorted(self.folder.glob("batch-*.safetensors")):
            for key, tensor in load_file(path).items():
                kind, clip = key.split("|", 1)
                self._clips.setdefault(clip, {})[kind] = tensor

    def __len__(self) -> int:
        return len(self._clips)

    def lookup(self, ids: list[str], labels: torch.Tensor, padded: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return words (N, k) and log-probabilities (N, k + 1) of the labelled positions of a batch, row by row.

        padded: of all its B x T positions, from outputs computed with `padded`.

        Raises KeyError for a clip that the teacher has not seen, ValueError where its label has another length.
        """
        missing = [clip for clip in ids if clip not in self._clips]
        if missing:
            raise KeyError(f"no teacher outputs for {missing[0]} in {self.folder}: compute them first")
        counts = [len(row) if padded else int((row >= 0).sum()) for row in labels]
        for clip, wanted in zip(ids, counts, strict=True):
            stored = len(self._clips[clip]["words"])
            if stored < wanted or stored > wanted and not padded:
                raise ValueError(f"{clip}: the teacher saw {stored} label tokens, the student has {wanted}")
        words, log_probs = (torch.cat([self._clips[clip][kind][:n] for clip, n in zip(ids, counts, strict=True)])
                            for kind in ("words", "log_probs"))  # fmt: skip
        return words.long().to(labels.device), log_probs.float().to(labels.device)


@torch.no_grad()
def compute_teacher(model, clips: Clips, collator: Collator, folder: str | Path, k: int,
                    batch_size: int = 16, padded: bool = False) -> TeacherOutputs:  # fmt: skip
    """Run the teacher over `clips` with teacher forcing and store its top k; one file a batch.

    A batch whose file exists is not computed again, so a stopped run goes on where it was.
    padded: for every clip as many positions as the longest label has, not its own alone. The decoder looks back
    only, so that what it says behind a label's end does not depend on the batch that the clip is padded in.
    """
    if padded:
        collator = replace(collator, width=max(map(len, clips.labels)))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    batches = length_batches(clips.durations, batch_size)
    for number, indices in enumerate(tqdm(batches, desc="teacher outputs", unit="batch")):
        path = folder / f"batch-{number:05d}.safetensors"
        if path.exists():
            continue
        tensors = _teacher_batch(model, collator([clips[i] for i in indices]), k, padded)
        part = path.with_suffix(".part")
        with disk_errors(folder):
            save_file(tensors, part)
            os.replace(part, path)
    return TeacherOutputs(folder)


def _teacher_batch(model, batch: dict, k: int, padded: bool) -> dict[str, torch.Tensor]:
    device = device_of(model)
    features, inputs = batch["input_features"].to(device, model.dtype), batch["decoder_input_ids"].to(device)
    with use_window(model, features.shape[-1]), autocast(device):
        logits = model(input_features=features, decoder_input_ids=inputs).logits  # (B, T, V)
    tensors = {}
    for clip, row, labels in zip(batch["ids"], logits, batch["labels"].to(device), strict=True):
        words, log_probs = top_k_log_probs(row if padded else labelled(row, labels)[0], k)  # (T, k), (T, k + 1)
        tensors[f"words|{clip}"] = words.to("cpu", torch.int32)
        tensors[f"log_probs|{clip}"] = log_probs.to("cpu", torch.float16)
    return tensors
