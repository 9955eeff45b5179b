"""From the rows of a corpus to batches: log-mel features in a short window, and exact label ids."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, get_worker_info

from ..checks import check_number
from ..fidelity import Fidelity
from ..method.losses import IGNORED
from ..whisper.shapes import FRAMES_PER_SECOND, NATIVE_FRAMES
from ..whisper.tokens import MOST_TOKENS, decoder_inputs, encode_labels
from .audio import log_mel, pad_features, read_audio


def window_frames(longest: int, margin_seconds: float | None) -> int:
    """Return the length of the window for a batch, in mel frames: an even number, at most 3000.

    Args:
        longest: Frames of the longest clip.
        margin_seconds: Silence after the longest clip; None: the native window of 30 s.

    Raises:
        ValueError: For a clip of more than 30 s.
    """
    if longest > NATIVE_FRAMES:
        seconds = longest / FRAMES_PER_SECOND
        raise ValueError(f"a clip has {longest} frames ({seconds:.1f} s), Whisper takes 30 s")
    if margin_seconds is None:
        return NATIVE_FRAMES

    frames = longest + round(margin_seconds * FRAMES_PER_SECOND)
    even = frames + frames % 2
    return min(NATIVE_FRAMES, even)


# ---- clips


def _distinct(ids: list[str]) -> list[str]:
    """Return ids; raises ValueError where one is there twice, for results are kept by id."""
    doubled = [clip for clip, count in Counter(ids).items() if count > 1]
    if doubled:
        raise ValueError(
            f"{len(doubled)} ids are there more than once, such as {doubled[0]!r}: predictions and "
            "teacher distributions are kept by id, so each clip needs one of its own"
        )
    return ids


class Clips(Dataset):
    """The rows of a corpus as items for `Collator`.

    Features are computed at first use and kept in memory, but not by the workers of a DataLoader,
    which end with the epoch. An item holds

        id        str
        features  float32 (mel bands, frames)
        labels    list of token ids
        frames    int: mel frames with sound, by the clip's duration

    Args:
        rows: Rows of a corpus, with the columns id, audio, duration and `text_column`.
        processor: A WhisperProcessor.
        language: Of the labels.
        task: Of the labels: "transcribe" or "translate".
        text_column: The column with the text of the labels.
        change: Applied to the sound, as for a noisy test: called with the samples (n,) and a seed
            that depends on the clip.
        fidelity: Its switches for labels apply; without it the labels are those of "corrected".
        label_limit: The largest number of tokens of a label; None: no limit, as where a text is
            only compared with what `generate` writes.

    Attributes:
        ids: The id of each row.
        durations: The seconds of each row.
        texts: The text of each row.
        labels: The token ids of each row.

    Raises:
        ValueError: For an empty split, an id that is there twice, or a label over the limit, with
            the id of its row. An item whose sound cannot be used raises it on access, with the id
            too.
    """

    def __init__(
        self,
        rows,
        processor,
        language: str,
        task: str = "transcribe",
        text_column: str = "text",
        change: Callable[..., np.ndarray] | None = None,
        fidelity: Fidelity | None = None,
        label_limit: int | None = MOST_TOKENS,
    ):
        if not len(rows):
            raise ValueError("there are no clips: the split is empty")
        self.rows = rows
        self.extractor = processor.feature_extractor
        self.change = change
        self.ids: list[str] = _distinct(list(rows["id"]))
        self.durations: list[float] = list(rows["duration"])
        self.texts: list[str] = list(rows[text_column])
        self._features: dict[int, torch.Tensor] = {}

        self.labels: list[list[int]] = []
        fidelity = Fidelity() if fidelity is None else fidelity
        if not isinstance(fidelity, Fidelity):
            raise ValueError(f"fidelity is {fidelity!r}: Fidelity(...) or None is needed")
        for row_id, text in zip(self.ids, self.texts, strict=True):
            try:
                token_ids = encode_labels(
                    processor.tokenizer, text, language, task, label_limit, fidelity
                )
            except ValueError as error:
                raise ValueError(f"{row_id}: {error}") from None
            self.labels.append(token_ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict:
        features = self._features.get(index)
        if features is None:
            features = self._compute_features(index)
            if get_worker_info() is None:
                self._features[index] = features
        return {
            "id": self.ids[index],
            "features": features,
            "labels": self.labels[index],
            "frames": round(self.durations[index] * FRAMES_PER_SECOND),
        }

    def forget_features(self) -> None:
        """Free the memory of the features computed so far."""
        self._features.clear()

    @cached_property
    def digests(self) -> list[str]:
        """A hash of each row's text and sound: it changes where either is corrected."""
        found = []
        for row, text in zip(self.rows, self.texts, strict=True):
            digest = hashlib.sha256(text.encode())
            digest.update(b"\0" + row["audio"]["bytes"])
            found.append(digest.hexdigest()[:16])
        return found

    def _compute_features(self, index: int) -> torch.Tensor:
        """Return the log-mel features (mel bands, frames) of a row."""
        try:
            audio = read_audio(self.rows[index]["audio"])
            if self.change is not None:
                audio = self.change(audio, seed=index)
            return torch.as_tensor(log_mel(audio, self.extractor))
        except (ValueError, OSError) as error:
            raise ValueError(f"{self.ids[index]}: {error}") from error


class JoinedClips(ConcatDataset):
    """Several `Clips`, one after another, as one dataset.

    Attributes:
        ids: The id of each clip.
        durations: The seconds of each clip.
        digests: A hash of each clip's text and sound.
    """

    def __init__(self, parts: list[Clips]):
        super().__init__(parts)
        self.parts = parts
        self.ids: list[str] = []
        self.durations: list[float] = []
        for part in parts:
            self.ids.extend(part.ids)
            self.durations.extend(part.durations)

    @cached_property
    def digests(self) -> list[str]:
        """A hash of each clip's text and sound, as of `Clips`."""
        return [digest for part in self.parts for digest in part.digests]


# ---- batches


@dataclass
class Collator:
    """Makes a padded batch of a list of items of `Clips`.

    A batch holds

        input_features     float32 (B, mel bands, F), F as `window_frames` gives it
        labels             int64 (B, T), padded with IGNORED
        decoder_input_ids  int64 (B, T), padded with <|endoftext|>
        frames             int64 (B,): mel frames with sound
        ids                list of B strings

    where T is the length of the longest label.

    Attributes:
        tokenizer: Of the model.
        margin_seconds: Silence after the longest clip; None: Whisper's window of 30 s.
        width: The smallest T.
    """

    tokenizer: Any
    margin_seconds: float | None
    width: int = 0

    def __call__(self, items: list[dict]) -> dict:
        """Return the batch of a list of items."""
        features = [item["features"] for item in items]
        labels = [item["labels"] for item in items]
        inputs = [decoder_inputs(self.tokenizer, token_ids) for token_ids in labels]
        longest = max(clip.shape[-1] for clip in features)
        frames = window_frames(longest, self.margin_seconds)
        return {
            "input_features": pad_features(features, frames),
            "labels": _pad(labels, IGNORED, self.width),
            "decoder_input_ids": _pad(inputs, self.tokenizer.eos_token_id, self.width),
            "frames": torch.tensor([item["frames"] for item in items]),
            "ids": [item["id"] for item in items],
        }


def _pad(sequences: list[list[int]], value: int, width: int) -> torch.Tensor:
    """Return sequences of ids as one tensor (B, T), T at least `width`, padded with `value`."""
    longest = max(len(sequence) for sequence in sequences)
    width = max(width, longest)
    return torch.tensor([sequence + [value] * (width - len(sequence)) for sequence in sequences])


def position_masks(batch: dict, encoder_positions: int) -> dict[str, torch.Tensor]:
    """Return the positions that count in the gate budget: those with sound, and those with text.

    Args:
        batch: As `Collator` gives it.
        encoder_positions: Positions S of the encoder; each is two mel frames.

    Returns:
        Two masks, true where a position counts: "encoder" (B, S) and "decoder" (B, T).
    """
    labels = batch["labels"]
    positions = torch.arange(encoder_positions, device=labels.device)
    frames = batch["frames"].to(labels.device)
    positions_with_sound = (frames + 1) // 2
    return {
        "encoder": positions < positions_with_sound[:, None],
        "decoder": labels != IGNORED,
    }


# ---- batches made by other processes


class _Batches(Dataset):
    """Whole batches as items. An error is an item too, to be raised in the process that asked."""

    def __init__(self, clips: Clips, batches: Sequence[Sequence[int]], collator: Callable):
        self.clips = clips
        self.batches = batches
        self.collator = collator

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict | ValueError:
        try:
            return self.collator([self.clips[i] for i in self.batches[index]])
        except ValueError as error:
            return error


def load_batches(
    clips: Clips, batches: Sequence[Sequence[int]], collator: Callable, workers: int = 0
) -> Iterator[dict]:
    """Yield collated batches, made by `workers` other processes while the model computes.

    They are the same with any number of workers, and no random number is drawn for them.

    Args:
        clips: The clips.
        batches: Indices of the clips of each batch.
        collator: Makes a batch of a list of items.
        workers: Number of processes; 0: each batch is made here, when it is asked for.
    """
    if not workers:
        for indices in batches:
            yield collator([clips[index] for index in indices])
        return

    loader = DataLoader(
        _Batches(clips, batches, collator),
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else a number of torch's own is drawn, also in a training
    )
    for batch in loader:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


@contextmanager
def plain_worker_errors() -> Iterator[None]:
    """Raise a ValueError of a DataLoader's worker with its own message, without its traceback."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if not text.startswith("Caught ValueError in DataLoader worker"):
            raise
        raise ValueError(text.rsplit("\nValueError: ", 1)[-1].strip()) from None


# ---- orders


def length_batches(durations: list[float], batch_size: int) -> list[list[int]]:
    """Return batches of clips of similar length, longest first; no randomness.

    Args:
        durations: Seconds of each clip.
        batch_size: Clips of a batch; the last batch may be smaller.

    Returns:
        The indices of the clips of each batch.

    Raises:
        ValueError: For a batch size that is no whole number from 1 on.
    """
    check_number("batch_size", batch_size, low=1, whole=True)
    order = sorted(range(len(durations)), key=lambda index: (-durations[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class EpochOrder(Sampler):
    """Indices of clips, in an order that depends on the seed and the epoch alone.

    A resumed epoch therefore sees the same batches. Subclasses define the order.

    Args:
        durations: Seconds of each clip.
        batch_size: Clips of a batch, those of all accumulated batches and processes together.
        seed: Of the order.
    """

    def __init__(self, durations: list[float], batch_size: int, seed: int):
        self.durations = np.asarray(durations)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is given (the Trainer calls this)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.durations)


class LengthOrder(EpochOrder):
    """Shuffled batches, each of clips of similar length: less padding.

    Only the last batch may be smaller than `batch_size`.
    """

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))

        # Sorted by length, with some noise so that each epoch makes other batches.
        noise = rng.uniform(0.8, 1.25, len(self.durations))
        order = np.argsort(self.durations * noise, kind="stable")

        # Shuffled batches, the smaller one at the end.
        starts = rng.permutation(np.arange(0, len(order), self.batch_size))
        batches = [order[start : start + self.batch_size] for start in starts]
        batches.sort(key=len, reverse=True)
        return iter(np.concatenate(batches).tolist())


class RandomOrder(EpochOrder):
    """Shuffled clips, whatever their lengths."""

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(1000 * self.seed + self.epoch)
        return iter(torch.randperm(len(self), generator=generator).tolist())
