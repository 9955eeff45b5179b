"""Cached teacher distributions: the k most likely tokens at each label position.

Each file holds those of a batch, and in its metadata a hash of them. A damaged file is set aside,
told in one line, and its clips count as not computed. Files of earlier versions have no hash: they
must be readable, whole and finite.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import WhisperProcessor

from ..checks import check_number, check_path
from ..data.batches import Clips, Collator, length_batches, load_batches
from ..device import loader_workers, pick_device, to_device
from ..files import atomic_file, file_state, one_at_a_time, set_aside, short_hash
from ..method.losses import EPSILON, IGNORED, top_k_divergence, top_k_log_probs
from ..whisper.loading import load_processor
from ..whisper.logits import teacher_forced_logits
from ..whisper.tokens import vocabulary_map
from .stored import not_finite

KINDS = ("token_ids", "log_probs")
# The metadata of a file, as JSON in one entry: several would stand in another order each time.
ABOUT = "about"
HASH = "sha256"  # of its tensors; in earlier versions an entry by itself
SETTINGS = "settings"  # which earlier versions did not write

LOWEST = torch.finfo(torch.float16).min  # of a log-probability; that of a probability of 0

Tensors = dict[str, torch.Tensor]

# What is wrong ("") with files that this process has read, by the state of the file.
_known_problems: dict[tuple, str] = {}


class TeacherDistributions:
    """Cached teacher distributions by clip: token ids (T, k) and log-probabilities (T, k + 1).

    Token ids are the student's, in int32; log-probabilities are fp16, the last column is the mass
    of all other tokens.

    Args:
        folder: As `cache_teacher_distributions` has written it.
        digests: The clips to read, {id: digest of text and sound}; None: all of the folder.

    Raises:
        FileNotFoundError: Where there is no such folder.
        ValueError: Without digests, where the folder holds a clip with several texts or sounds.
    """

    def __init__(self, folder: str | Path, digests: dict[str, str] | None = None):
        self.folder = check_path("folder", folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{self.folder} is not there: compute teacher distributions into it with "
                "cache_teacher_distributions, or Lab.teacher_distributions"
            )
        self._clips: dict[str, Tensors] = {}
        digest_of: dict[str, str] = {}
        for path in _intact_files(self.folder):
            for (clip, digest), tensors in _by_clip(_read_tensors(path)).items():
                if digests is not None and digests.get(clip) != digest:
                    continue
                if digest_of.setdefault(clip, digest) != digest:
                    raise ValueError(
                        f"{self.folder} holds distributions of several versions of {clip}: give "
                        "the digests of your clips, dict(zip(clips.ids, clips.digests))"
                    )
                self._clips[clip] = tensors

    def __len__(self) -> int:
        return len(self._clips)

    def lookup(
        self, ids: list[str], labels: torch.Tensor, padded: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the distributions at a batch's labelled positions, one clip after another.

        Args:
            ids: Of the clips in the batch.
            labels: (B, T).
            padded: At all B x T positions; the distributions must have been computed with `padded`.

        Returns:
            Token ids (N, k) and log-probabilities (N, k + 1), on the labels' device.

        Raises:
            KeyError: For a clip that the teacher has not seen.
            ValueError: For a label of another length than the teacher saw.
        """
        missing = [clip for clip in ids if clip not in self._clips]
        if missing:
            raise KeyError(
                f"no teacher distributions for {missing[0]} in {self.folder}: compute them first"
            )

        # one transfer for the whole batch: on a GPU each is waited for
        lengths = [labels.shape[1]] * len(labels) if padded else (labels >= 0).sum(1).tolist()
        for clip, wanted in zip(ids, lengths, strict=True):
            stored = len(self._clips[clip]["token_ids"])
            too_long = stored > wanted and not padded
            if stored < wanted or too_long:
                raise ValueError(
                    f"{clip}: the teacher saw {stored} label tokens, the student has {wanted}"
                )

        found = {}
        for kind in KINDS:
            parts = [self._clips[clip][kind][:n] for clip, n in zip(ids, lengths, strict=True)]
            found[kind] = to_device(torch.cat(parts), labels.device)
        return found["token_ids"].long(), found["log_probs"].float()

    def size(self) -> dict[str, int]:
        """Return the size on disk: {"bytes", "bytes_per_1000_clips"}."""
        total = sum(path.stat().st_size for path in _batch_files(self.folder))
        clips = len(stored_clips(self.folder))
        return {"bytes": total, "bytes_per_1000_clips": round(1000 * total / max(1, clips))}


def stored_clips(folder: str | Path) -> set[tuple[str, str]]:
    """Return (id, digest) of each clip whose distributions a folder holds; damaged files aside."""
    found = set()
    for path in _intact_files(Path(folder)):
        with safe_open(path, "pt") as file:
            found |= {_clip_of(key) for key in file.keys()}  # noqa: SIM118 (no dictionary)
    return found


# ---- files


def _batch_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("batch-*.safetensors"))


def _intact_files(folder: Path) -> list[Path]:
    """Return the files of a folder that are intact, and set the others aside.

    Each file is read for it once in a process, unless it is written to.
    """
    intact = []
    for path in _batch_files(folder):
        try:
            state = file_state(path)
            if state not in _known_problems:
                _known_problems[state] = _problem(path)
        except FileNotFoundError:  # set aside by another process
            continue
        if _known_problems[state]:
            set_aside(path, _known_problems[state])
        else:
            intact.append(path)
    return intact


def _problem(path: Path) -> str:
    """Return what is wrong with a file, or ""."""
    try:
        with safe_open(path, "pt") as file:
            expected = _about(file).get(HASH)
        tensors = _read_tensors(path)
        clips = _by_clip(tensors)
    except FileNotFoundError:
        raise
    except (SafetensorError, RuntimeError, ValueError) as error:
        return f"it cannot be read: {error}"

    if expected is not None and expected != _hash_of(tensors):
        return "it is not what was written"
    if not clips:
        return "it is empty"
    for (clip, _), of_clip in clips.items():
        if set(of_clip) != set(KINDS) or len(of_clip[KINDS[0]]) != len(of_clip[KINDS[1]]):
            return f"the distributions of {clip} are not whole"
    bad = not_finite(tensors.items())
    return f"{bad} is not finite" if bad else ""


def _about(file) -> dict[str, str]:
    """Return the metadata of a file that is open."""
    metadata = file.metadata() or {}
    return json.loads(metadata[ABOUT]) if ABOUT in metadata else metadata


def _read_tensors(path: Path) -> Tensors:
    """Return the tensors of a file."""
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no dictionary)


def _clip_of(key: str) -> tuple[str, str]:
    """Return (id, digest) of the clip that a tensor belongs to.

    Raises:
        ValueError: For a name that no tensor of these files has.
    """
    _, digest, clip = key.split("|", 2)
    return clip, digest


def _by_clip(tensors: Tensors) -> dict[tuple[str, str], Tensors]:
    """Return the tensors of each clip by their kind, by (id, digest) of the clip."""
    clips: dict[tuple[str, str], Tensors] = {}
    for key, tensor in tensors.items():
        clips.setdefault(_clip_of(key), {})[key.split("|", 1)[0]] = tensor
    return clips


def _hash_of(tensors: Tensors) -> str:
    """Return the SHA-256 of tensors: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


# ---- computing them


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
    """Run the teacher over `clips` with teacher forcing and keep its k most likely tokens.

    A clip that the folder has, with the same text and sound, is not computed again: a stopped run
    goes on where it was, and a larger training set takes over what a smaller one has. So give each
    teacher, and each kind of labels, a folder of its own.

    Args:
        model: The teacher.
        clips: With the teacher's own processor.
        collator: The same.
        folder: Where the distributions are kept.
        k: Tokens kept per position.
        batch_size: Clips of a forward pass.
        student_tokenizer: Whose ids are stored; None: the teacher's.
        padded: Keep as many positions for each clip as the longest label has. The decoder looks
            back only, so what follows a label's end does not depend on the batch that the clip is
            padded in.
        temperature: By which the teacher's logits are divided.

    Raises:
        ValueError: Where the two vocabularies do not fit (`vocabulary_map`), for a number of tokens
            or clips below 1 or a temperature of 0 or below, for a folder with distributions of
            another k, temperature or `padded`, and where the teacher's outputs are not finite.
        OSError: Where the disk is full or may not be written to.
    """
    check_number("k", k, low=1, whole=True)
    check_number("batch_size", batch_size, low=1, whole=True)
    check_number("temperature", temperature, above=0)
    mapping = vocabulary_map(collator.tokenizer, student_tokenizer or collator.tokenizer)
    if padded:
        collator = replace(collator, width=max(map(len, clips.labels)))

    settings = f"k={k}, padded={padded}, temperature={float(temperature)}"
    _check_settings(Path(folder), settings)
    digests = dict(zip(clips.ids, clips.digests, strict=True))
    if not digests.items() <= stored_clips(folder):
        with one_at_a_time(Path(folder)):
            stored = stored_clips(folder)  # another process may have computed them meanwhile
            missing = [i for i, clip in enumerate(clips.ids) if (clip, digests[clip]) not in stored]
            found = length_batches([clips.durations[i] for i in missing], batch_size)
            batches = [[missing[i] for i in indices] for indices in found]
            made = load_batches(clips, batches, collator, loader_workers(pick_device()))
            model.eval()
            # where both have the same ids, nothing has to be looked up
            same_ids = torch.equal(mapping, torch.arange(model.config.vocab_size))
            needed = None if same_ids else mapping
            bar = {"desc": "teacher distributions", "unit": "batch", "total": len(batches)}
            for batch in tqdm(made, **bar):
                named = [(digests[clip], clip) for clip in batch["ids"]]
                tensors = _teacher_batch(model, batch, named, k, needed, padded, temperature)
                with atomic_file(Path(folder) / f"batch-{short_hash(named)}.safetensors") as part:
                    about = {HASH: _hash_of(tensors), SETTINGS: settings}
                    save_file(tensors, part, {ABOUT: json.dumps(about)})
    return TeacherDistributions(folder, digests)


def _check_settings(folder: Path, settings: str) -> None:
    """Raise ValueError where a folder has distributions that were made with other settings."""
    for path in sorted(folder.glob("batch-*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                then = _about(file).get(SETTINGS, settings)
        except (SafetensorError, OSError, ValueError):  # `stored_clips` sets it aside
            continue
        if then != settings:
            raise ValueError(
                f"{folder} has distributions with {then}, and {settings} are asked for: give "
                "another folder"
            )


def _teacher_batch(
    model,
    batch: dict,
    named: list[tuple[str, str]],
    k: int,
    mapping: torch.Tensor | None,
    padded: bool,
    temperature: float,
) -> dict[str, torch.Tensor]:
    """Return the tensors of a batch's file; named: (digest, id) of each clip.

    Raises:
        ValueError: Where a distribution is not finite.
    """
    labels = batch["labels"]  # (B, T), on the CPU
    lengths = [labels.shape[1]] * len(labels) if padded else (labels != IGNORED).sum(1).tolist()
    logits = teacher_forced_logits(model, batch) / temperature  # (B, T, V)
    found = [
        top_k_log_probs(logits[index, :length], k, mapping)  # (T, k), (T, k + 1)
        for index, length in enumerate(lengths)
    ]

    # The clips of a batch are read together: on a GPU each transfer is waited for.
    finite = torch.stack([log_probs.isfinite().all() for _, log_probs in found]).tolist()
    for (_, clip), good, features in zip(named, finite, batch["input_features"], strict=True):
        if not good or not_finite([(clip, features)]):
            raise ValueError(_not_finite(features, clip, temperature))
    all_ids = torch.cat([token_ids for token_ids, _ in found]).to("cpu", torch.int32)
    all_log_probs = torch.cat([log_probs for _, log_probs in found]).clamp_min(LOWEST)
    all_log_probs = all_log_probs.to("cpu", torch.float16)

    tensors = {}
    parts = zip(named, all_ids.split(lengths), all_log_probs.split(lengths), strict=True)
    for (digest, clip), token_ids, log_probs in parts:
        tensors[f"token_ids|{digest}|{clip}"] = token_ids.clone()
        tensors[f"log_probs|{digest}|{clip}"] = log_probs.clone()
    return tensors


def _not_finite(features: torch.Tensor, clip: str, temperature: float) -> str:
    """Return the message about a teacher whose outputs for a clip are not finite."""
    if not_finite([(clip, features)]):
        cause = "its sound has samples that are not finite: mend it, or leave the clip out"
    else:
        cause = (
            "the teacher's weights are damaged, its numbers overflow in half precision, or the "
            f"temperature {temperature:g} is too low"
        )
    return f"the teacher's distributions of {clip} are not finite, and are not kept: {cause}"


def teacher_processor(name: str, student: WhisperProcessor) -> WhisperProcessor:
    """Return the processor that a teacher is run with.

    It is the student's, unless the teacher has other mel bands or token ids (large-v3 and turbo
    have both). A folder without a tokenizer, as of a model fine-tuned here, is read with the
    student's.

    Raises:
        ValueError: For another vocabulary (`vocabulary_map`).
    """
    try:
        own = load_processor(name)
    except FileNotFoundError:
        return student
    mapping = vocabulary_map(own.tokenizer, student.tokenizer)
    same_ids = torch.equal(mapping, torch.arange(len(mapping)))
    same_bands = own.feature_extractor.feature_size == student.feature_extractor.feature_size
    return student if same_ids and same_bands else own


def top_k_errors(
    teacher_logits: torch.Tensor,
    student_logits: torch.Tensor,
    ks: Iterable[int],
    mapping: torch.Tensor | None = None,
) -> pd.DataFrame:
    """Return what each k loses, and stores: the curve by which k is chosen.

    Args:
        teacher_logits: (N, V).
        student_logits: (N, V) of the same positions.
        ks: Numbers of tokens kept.
        mapping: As for `top_k_log_probs`.

    Returns:
        Columns k; error: share of the full JS, mean over positions, that is missing from the JS
        over top k and tail;
        outside: the teacher's probability outside the top k, mean over positions; bytes: of a
            position on disk.
    """
    ks = list(ks)
    everything = teacher_logits.shape[-1]
    stored = {k: top_k_log_probs(teacher_logits, k, mapping) for k in (*ks, everything)}
    js = {k: float(top_k_divergence(*pair, student_logits)) for k, pair in stored.items()}

    rows = []
    for k in ks:
        _, log_probs = stored[k]
        rows.append(
            {
                "k": k,
                "error": (js[everything] - js[k]) / max(js[everything], EPSILON),
                "outside": float(log_probs[:, -1].exp().mean()),
                "bytes": 4 * k + 2 * (k + 1),
            }
        )
    return pd.DataFrame(rows)
