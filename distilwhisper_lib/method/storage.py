"""Experts on disk: one safetensors file per language, and experts.json about all of them.

experts.json says which Whisper the experts belong to, and with which settings they were trained.
Nothing of Whisper itself is stored.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
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
from .packing import Tensors, pack, unpack

FORMAT = 2
READABLE_FORMATS = (1, 2)  # 1: always in fp32, without "form"


def base_fingerprint(model: nn.Module) -> str:
    """Return a hash of the frozen feed-forward weights, in hexadecimal digits.

    The weights are rounded to fp16, so that copies in fp32 and fp16 have the same fingerprint.
    """
    digest = hashlib.sha256()
    for _, _, layer in whisper_layers(model):
        weight = shared_block(layer).fc1.get_parameter("weight").detach()
        digest.update(weight.to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()


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
        ValueError: Where no experts are attached, or for an unknown form or rank.
        OSError: Where the disk is full or may not be written to.
    """
    languages = expert_languages(model)
    if not languages:
        raise ValueError("no experts are attached, so there is nothing to save")

    folder = Path(folder)
    for language in languages:
        parameters = expert_parameters(model, language)
        tensors = {name: parameter.detach().cpu() for name, parameter in parameters}
        packed = pack(tensors, form, shared_tensors(model, language), rank)
        with atomic_file(expert_file(folder, language)) as temporary:
            save_file(packed, temporary)

    config = unwrap(model).config
    description = {
        "format": FORMAT,
        "base_model": config._name_or_path,
        "revision": getattr(config, "_commit_hash", None),
        "base_fingerprint": base_fingerprint(model),
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
            f"{path} has format {description.get('format')!r}, this version reads 1 and 2"
        )
    return description


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
