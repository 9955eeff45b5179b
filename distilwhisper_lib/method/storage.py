"""Experts on disk: one safetensors file per language, and experts.json about all of them.

experts.json says which Whisper the experts belong to, and with which settings they were trained.
Beside it are fingerprints of all weights of that Whisper; nothing of Whisper itself is stored.
"""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..files import atomic_file, write_json
from ..whisper.unwrap import unwrap
from .blocks import (
    clsr_blocks,
    expert_languages,
    expert_parameters,
    shared_block,
    whisper_layers,
)
from .fingerprint import (
    Fingerprints,
    combined,
    fingerprints,
    read_fingerprints,
    write_fingerprints,
)
from .packing import Tensors, pack, unpack

# 1: always in fp32, without "form"; 1 and 2: "base_fingerprint" is of fc1 alone, in fp16.
FORMAT = 3
READABLE_FORMATS = (1, 2, 3)

BASE_FILE = "base_fingerprint.safetensors"


# ---- save


def save_experts(model: nn.Module, folder: str | Path, form: str = "fp16", rank: int = 64) -> Path:
    """Write experts and gates of all languages of a model, and nothing of Whisper itself.

    Each file is an atomic write, so a stopped save leaves no incomplete file.

    Args:
        model: A Whisper with experts.
        folder: Where to write; it is made where it is missing.
        form: "fp16"; "fp32" (exact); or differences to Whisper's own block, "int8" or "low-rank".
            In whisper-small a language takes 229, 458, 116 and, at rank 64, 26 MB. `load_experts`
            reads all four.
        rank: Of the form "low-rank".

    Returns:
        The folder.

    Raises:
        ValueError: Where no experts are attached, for an unknown form or rank, or for a quantised
            Whisper.
        OSError: Where the disk is full or may not be written to.
    """
    languages = expert_languages(model)
    if not languages:
        raise ValueError("no experts are attached, so there is nothing to save")

    folder = Path(folder)
    of_base = fingerprints(model)
    for language in languages:
        parameters = expert_parameters(model, language)
        tensors = {name: parameter.detach().cpu() for name, parameter in parameters}
        packed = pack(tensors, form, shared_tensors(model, language), rank)
        with atomic_file(expert_file(folder, language)) as temporary:
            save_file(packed, temporary)

    write_fingerprints(folder / BASE_FILE, of_base)
    config = unwrap(model).config
    description = {
        "format": FORMAT,
        "base_model": config._name_or_path,
        "revision": getattr(config, "_commit_hash", None),
        "base_fingerprint": combined(of_base),
        "languages": languages,
        "settings": asdict(clsr_blocks(model)[0].routing.settings),
        "form": form,
    }
    if form == "low-rank":
        description["rank"] = rank
    write_json(folder / "experts.json", description)
    return folder


def expert_file(folder: Path, language: str) -> Path:
    """Return the path of a language's experts."""
    return folder / f"experts.{language}.safetensors"


def shared_tensors(model: nn.Module, language: str) -> Tensors:
    """Return the shared blocks' tensors under the names that a language's experts have."""
    tensors = {}
    for stack, index, layer in whisper_layers(model):
        for name, parameter in shared_block(layer).named_parameters():
            tensors[f"{stack}.{index}.experts.{language}.{name}"] = parameter.detach().cpu()
    return tensors


# ---- read


def read_description(folder: Path) -> dict:
    """Return the content of experts.json; raises FileNotFoundError or ValueError."""
    path = folder / "experts.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is not a folder that save_experts has written"
        )
    try:
        description = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): copy it again, or train the experts again"
        ) from error
    if description.get("format") not in READABLE_FORMATS:
        raise ValueError(
            f"{path} has format {description.get('format')!r}, this version reads 1, 2 and 3"
        )
    return description


def read_base(folder: Path, description: dict) -> Fingerprints:
    """Return the fingerprints of the Whisper that the experts in a folder belong to.

    Args:
        folder: As `save_experts` has written it.
        description: Its `experts.json`, in format 3.

    Raises:
        FileNotFoundError: Where the file is missing.
        ValueError: Where it is damaged, or belongs to other experts.
    """
    path = folder / BASE_FILE
    of_base = read_fingerprints(path)
    if combined(of_base) != description["base_fingerprint"]:
        raise ValueError(
            f"{path} does not belong to experts.json beside it, or is damaged: copy the folder "
            "again, or save the experts again"
        )
    return of_base


def read_tensors(path: Path) -> tuple[Tensors, set[str]]:
    """Return a file's tensors, and the names of those that are differences to the shared block."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: copy the folder again, or train the experts again"
        )
    try:
        return unpack(load_file(path))
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): copy it again, or train the experts again"
        ) from error
