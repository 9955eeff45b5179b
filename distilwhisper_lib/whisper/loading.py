"""Whisper models by name: hub id, local folder, or "tiny"."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from .hub import REVISIONS, _checked, _from_hub, _hub_problem, _in_hub_cache
from .mirror import MIRRORED, VERSION, fetch_mirror, mirror_folder, without_bars
from .tiny import tiny_processor, tiny_whisper

NOISE = (
    "Both `max_new_tokens`",
    "Passing `generation_config` together",  # Whisper's generate calls itself so
    "The attention mask is not set",
)  # the encoder has none

logging.getLogger("transformers.generation.utils").addFilter(
    lambda record: not record.getMessage().startswith(NOISE)
)


@dataclass(frozen=True)
class Source:
    """Where a model's weights come from: kind is "tiny", "folder", "hub" or "mirror"; no folder for "tiny"."""

    name: str
    kind: str
    folder: Path | None = None
    revision: str | None = None


def load_whisper(
    name: str | Path, dtype: torch.dtype = torch.float32, **options
) -> WhisperForConditionalGeneration:
    """Return a Whisper in eval mode, by hub id, local folder, or "tiny" (random, for tests).

    `options` go to transformers' `from_pretrained`; `attn_implementation` is `fastest_attention` unless given. The
    length limit of `generate` is stated as new tokens. Raises ValueError for a name that means nothing,
    FileNotFoundError for a folder without a checkpoint, OSError where a model can't be fetched.
    """
    source = find_weights(name)
    options = {"attn_implementation": fastest_attention()} | options
    if source.folder is None:
        model = tiny_whisper().to(dtype)
        model.set_attn_implementation(options["attn_implementation"])
    else:
        with without_bars():
            model = WhisperForConditionalGeneration.from_pretrained(
                source.folder, dtype=dtype, use_safetensors=True, local_files_only=True, **options
            )
    model.config._name_or_path, model.config._commit_hash = source.name, source.revision
    model.name_or_path = source.name
    settings, half = (
        model.generation_config,
        model.config.max_target_positions // 2,
    )  # two limits make `generate` warn
    settings.max_length, settings.max_new_tokens = None, settings.max_new_tokens or half
    return model.eval()


def fastest_attention() -> str:
    """Return "sdpa" where there is a GPU, else "eager": torch's fused attention takes 4 to 6 times as long as a plain
    product for the one query of a decoding step on a CPU (bf16, keys of 450 to 780 positions)."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def load_processor(name: str | Path) -> WhisperProcessor:
    """Return tokenizer and feature extractor of a model that `load_whisper` knows; it raises the same errors."""
    source = find_weights(name)
    if source.folder is None:
        return tiny_processor()
    if not (source.folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(
            f"{source.folder} holds no tokenizer: save one there with save_pretrained of the "
            "processor, or load the processor by the name of the base model"
        )
    return WhisperProcessor.from_pretrained(source.folder, local_files_only=True)


def find_weights(name: str | Path) -> Source:
    """Return where the weights of a model are, fetching them where needed; raises as `load_whisper` does."""
    name = str(name)
    if name == "tiny":
        return Source(name, "tiny")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Source(name, "folder", _checked(folder))
    if not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise FileNotFoundError(
            f"model {name!r}: no such folder, and not a hub id (like openai/whisper-base) either"
        )
    if name == MIRRORED and mirror_folder().is_dir():
        return _mirror()
    revision = REVISIONS.get(name)
    folder = _in_hub_cache(name, revision)
    if folder is None:
        problem = _hub_problem(name, revision)
        if problem and name == MIRRORED:
            return _mirror()
        folder = _from_hub(name, revision, problem)
    return Source(
        name, "hub", folder, folder.name
    )  # the hub's cache names the folder by its commit


def _mirror() -> Source:
    return Source(MIRRORED, "mirror", fetch_mirror(), f"mirror-{VERSION}")
