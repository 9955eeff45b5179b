"""From corpus rows to batches: log-mel features in a short window, and exact label ids."""

from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Sampler

from ..fidelity import Fidelity
from ..method.losses import IGNORED
from ..whisper.tokens import MOST_TOKENS, decoder_inputs, encode_labels
from .audio import log_mel, pad_features, read_audio

FRAMES_PER_SECOND = 100  # of the log-mel; an encoder position is two frames

NATIVE_FRAMES = 3000  # Whisper's 30 s


def window_frames(longest: int, margin_seconds: float | None) -> int:
    """Return the window, in mel frames, for clips of at most `longest` frames; None gives the native 30 s."""
    if longest > NATIVE_FRAMES:
        raise ValueError(
            f"a clip has {longest} frames ({longest / FRAMES_PER_SECOND:.1f} s), Whisper takes 30 s"
        )
    if margin_seconds is None:
        return NATIVE_FRAMES
    frames = longest + round(margin_seconds * FRAMES_PER_SECOND)
    return min(NATIVE_FRAMES, frames + frames % 2)


class Clips(Dataset):
    """Rows of a corpus as items for `Collator`; features are computed at first use and kept in memory.

    change: what is done to the sound, a function of (audio, seed), as for a noisy test; fidelity: of the labels.
    Items: id (str), features (M mel bands, frames), labels (list of ids), frames (int: mel frames of sound).
    Raises ValueError at once, with the row's id, for a label of more than label_limit tokens (None: any number will
    do, as where a text is only compared with what `generate` writes).
    """

    def __init__(
        self,
        rows,
        processor,
        language: str,
        task: str = "transcribe",
        text_column: str = "text",
        change=None,
        fidelity: Fidelity = Fidelity(),
        label_limit: int | None = MOST_TOKENS,
    ):
        if not len(rows):
            raise ValueError("there are no clips: the split is empty")
        self.rows, self.extractor, self.change = rows, processor.feature_extractor, change
        self.ids: list[str] = list(rows["id"])
        self.durations: list[float] = list(rows["duration"])
        self.labels: list[list[int]] = []
        for row_id, text in zip(self.ids, rows[text_column], strict=True):
            try:
                self.labels.append(
                    encode_labels(processor.tokenizer, text, language, task, label_limit, fidelity)
                )
            except ValueError as error:
                raise ValueError(f"{row_id}: {error}") from None
        self._features: dict[int, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict:
        if i not in self._features:
            try:
                audio = read_audio(self.rows[i]["audio"])
                audio = audio if self.change is None else self.change(audio, seed=i)
                self._features[i] = torch.as_tensor(log_mel(audio, self.extractor))  # (M, frames)
            except (ValueError, OSError) as error:
                raise ValueError(f"{self.ids[i]}: {error}") from error
        frames = round(self.durations[i] * FRAMES_PER_SECOND)
        return {
            "id": self.ids[i],
            "features": self._features[i],
            "labels": self.labels[i],
            "frames": frames,
        }


class JoinedClips(ConcatDataset):
    """Several `Clips` one after another, as one."""

    def __init__(self, parts: list[Clips]):
        super().__init__(parts)
        self.ids = [clip for part in parts for clip in part.ids]
        self.durations = [duration for part in parts for duration in part.durations]


@dataclass
class Collator:
    """Pads a list of `Clips` items.

    Gives input_features (B, M, F), labels and decoder_input_ids (B, T), frames (B,), ids (list of B strings).
    T is that of the longest label, or `width` where that is more.
    """

    tokenizer: object
    margin_seconds: float | None
    width: int = 0

    def __call__(self, items: list[dict]) -> dict:
        longest = max(item["features"].shape[-1] for item in items)
        frames = window_frames(longest, self.margin_seconds)
        inputs = [decoder_inputs(self.tokenizer, item["labels"]) for item in items]
        return {
            "input_features": pad_features([item["features"] for item in items], frames),
            "labels": _pad([item["labels"] for item in items], IGNORED, self.width),
            "decoder_input_ids": _pad(inputs, self.tokenizer.eos_token_id, self.width),
            "frames": torch.tensor([item["frames"] for item in items]),
            "ids": [item["id"] for item in items],
        }


def _pad(rows: list[list[int]], value: int, width: int) -> torch.Tensor:
    width = max(width, *map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def position_masks(batch: dict, encoder_positions: int) -> dict[str, torch.Tensor]:
    """Return what counts for the gate budget: {"encoder": (B, S), "decoder": (B, T)}, true at sound and text."""
    positions = torch.arange(encoder_positions, device=batch["labels"].device)
    sound = (batch["frames"].to(positions.device) + 1) // 2  # two frames a position
    return {"encoder": positions < sound[:, None], "decoder": batch["labels"] != IGNORED}


def length_batches(durations: list[float], batch_size: int) -> list[list[int]]:
    """Return indices in batches of clips of similar length, longest first, the same every time."""
    order = sorted(range(len(durations)), key=lambda i: (-durations[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


class LengthOrder(Sampler):
    """Shuffled indices in which each `batch_size` neighbours have similar length; the order depends on the
    seed and the epoch alone, so that a resumed epoch sees the same batches."""

    def __init__(self, durations: list[float], batch_size: int, seed: int):
        self.durations, self.batch_size, self.seed, self.epoch = (
            np.asarray(durations),
            batch_size,
            seed,
            0,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of one epoch (the Trainer calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.durations)

    def __iter__(self):
        rng = np.random.default_rng((self.seed, self.epoch))
        jitter = rng.uniform(0.8, 1.25, len(self.durations))  # other neighbours in each epoch
        order = np.argsort(self.durations * jitter, kind="stable")
        starts = rng.permutation(np.arange(0, len(order), self.batch_size))
        full = [order[s : s + self.batch_size] for s in starts]
        full.sort(key=len, reverse=True)  # the short rest last: only a last batch may be smaller
        return iter(np.concatenate(full).tolist())
