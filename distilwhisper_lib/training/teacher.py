"""What the teacher says of each training clip, computed once and stored: its k likeliest words a position."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from ..data.batches import Clips, Collator, length_batches
from ..files import atomic_file, short_hash
from ..method.losses import EPSILON, labelled, top_k_divergence, top_k_log_probs
from ..whisper.loading import load_processor
from ..whisper.logits import teacher_forced_logits
from ..whisper.tokens import vocabulary_map


class TeacherDistributions:
    """Stored teacher distributions by clip id: words (T, k) and log-probabilities (T, k + 1).

    Words are the student's ids in int32, log-probabilities fp16. ids: the clips to read; None: all of the folder.
    """

    def __init__(self, folder: str | Path, ids: list[str] | None = None):
        self.folder, self._clips, wanted = Path(folder), {}, None if ids is None else set(ids)
        for path in sorted(self.folder.glob("batch-*.safetensors")):
            for key, tensor in load_file(path).items():
                kind, clip = key.split("|", 1)
                if wanted is None or clip in wanted:
                    self._clips.setdefault(clip, {})[kind] = tensor

    def __len__(self) -> int:
        return len(self._clips)

    def lookup(
        self, ids: list[str], labels: torch.Tensor, padded: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return words (N, k) and log-probabilities (N, k + 1) of the labelled positions of a batch, row by row.

        padded: of all its B x T positions, from outputs computed with `padded`.

        Raises KeyError for a clip that the teacher has not seen, ValueError where its label has another length.
        """
        if missing := [clip for clip in ids if clip not in self._clips]:
            raise KeyError(
                f"no teacher outputs for {missing[0]} in {self.folder}: compute them first"
            )
        counts = [len(row) if padded else int((row >= 0).sum()) for row in labels]
        for clip, wanted in zip(ids, counts, strict=True):
            stored = len(self._clips[clip]["words"])
            if stored < wanted or stored > wanted and not padded:
                raise ValueError(
                    f"{clip}: the teacher saw {stored} label tokens, the student has {wanted}"
                )
        words, log_probs = (
            torch.cat([self._clips[clip][kind][:n] for clip, n in zip(ids, counts, strict=True)])
            for kind in ("words", "log_probs")
        )
        return words.long().to(labels.device), log_probs.float().to(labels.device)

    def size(self) -> dict[str, int]:
        """Return the size on disk of all that the folder holds: {"bytes", "bytes_per_1000_clips"}."""
        total = sum(path.stat().st_size for path in self.folder.glob("batch-*.safetensors"))
        clips = len(stored_clips(self.folder))
        return {"bytes": total, "bytes_per_1000_clips": round(1000 * total / max(1, clips))}


def stored_clips(folder: str | Path) -> set[str]:
    """Return the ids of the clips whose outputs a folder holds."""
    found = set()
    for path in Path(folder).glob("batch-*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {key.split("|", 1)[1] for key in file.keys()}  # noqa: SIM118 (it is no dictionary)
    return found


def cache_teacher_distributions(
    model,
    clips: Clips,
    collator: Collator,
    folder: str | Path,
    k: int,
    batch_size: int = 16,
    student_tokenizer=None,
    padded: bool = False,
    temperature: float = 1.0,
) -> TeacherDistributions:
    """Run the teacher over `clips` with teacher forcing and store its top k; one file a batch.

    clips and collator: with the teacher's own processor; what is stored is in the ids of `student_tokenizer` (None: the
    same). A clip that the folder has is not computed again: a stopped run goes on where it was, a larger training set
    takes over what a smaller one has.
    padded: for every clip as many positions as the longest label has, not its own alone. The decoder looks back
    only, so that what it says behind a label's end does not depend on the batch that the clip is padded in.
    temperature: what the teacher's logits are divided by.
    Raises ValueError where the two vocabularies do not fit (`vocabulary_map`).
    """
    mapping = vocabulary_map(collator.tokenizer, student_tokenizer or collator.tokenizer)
    if padded:
        collator = replace(collator, width=max(map(len, clips.labels)))
    stored = stored_clips(folder)
    missing = [i for i, clip in enumerate(clips.ids) if clip not in stored]
    model.eval()
    batches = length_batches([clips.durations[i] for i in missing], batch_size)
    for indices in tqdm(batches, desc="teacher outputs", unit="batch"):
        batch = collator([clips[missing[i]] for i in indices])
        with atomic_file(Path(folder) / f"batch-{short_hash(batch['ids'])}.safetensors") as part:
            save_file(_teacher_batch(model, batch, k, mapping, padded, temperature), part)
    return TeacherDistributions(folder, clips.ids)


def teacher_processor(name: str, student):
    """Return the processor that a teacher is run with: the student's, unless the teacher has other mel bands or ids.

    Of Whisper's large-v3 and turbo, which have both, it is their own. A folder without a tokenizer, as of a model
    fine-tuned here, is read with the student's. Raises ValueError for another vocabulary (`vocabulary_map`).
    """
    try:
        own = load_processor(name)
    except FileNotFoundError:
        return student
    mapping, bands = (
        vocabulary_map(own.tokenizer, student.tokenizer),
        own.feature_extractor.feature_size,
    )
    alike = bands == student.feature_extractor.feature_size and torch.equal(
        mapping, torch.arange(len(mapping))
    )
    return student if alike else own


def top_k_errors(
    teacher_logits: torch.Tensor,
    student_logits: torch.Tensor,
    ks,
    mapping: torch.Tensor | None = None,
) -> pd.DataFrame:
    """Return what is lost, and stored, with each k of `ks`: the curve by which k is chosen.

    Logits (N, V) of the same positions; mapping as for `top_k_log_probs`. Columns: k; error: the share of the full
    JS, mean over positions, that is missing from the JS over top k and tail; outside: the teacher's mass outside the
    top k, mean over positions; bytes: of a position on disk.
    """
    stored = {
        k: top_k_log_probs(teacher_logits, k, mapping) for k in (*ks, teacher_logits.shape[-1])
    }
    js = {k: float(top_k_divergence(*pair, student_logits)) for k, pair in stored.items()}
    full = js[teacher_logits.shape[-1]]
    return pd.DataFrame(
        [
            {
                "k": k,
                "error": (full - js[k]) / max(full, EPSILON),
                "outside": float(stored[k][1][:, -1].exp().mean()),
                "bytes": 4 * k + 2 * (k + 1),
            }
            for k in ks
        ]
    )


def _teacher_batch(
    model, batch: dict, k: int, mapping, padded: bool, temperature: float
) -> dict[str, torch.Tensor]:
    logits, tensors = teacher_forced_logits(model, batch) / temperature, {}
    for clip, row, labels in zip(
        batch["ids"], logits, batch["labels"].to(logits.device), strict=True
    ):
        kept = row if padded else labelled(row, labels)[0]
        words, log_probs = top_k_log_probs(kept, k, mapping)  # (T, k), (T, k + 1)
        tensors[f"words|{clip}"] = words.to("cpu", torch.int32)
        tensors[f"log_probs|{clip}"] = log_probs.to("cpu", torch.float16)
    return tensors
