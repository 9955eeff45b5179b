"""Experts on disk: one safetensors file per language, and experts.json about all of them.

experts.json says which Whisper the experts belong to, and with which settings they were trained.
Beside it are fingerprints of all weights of that Whisper; nothing of Whisper itself is stored.

A folder that is damaged in any way is refused: experts.json holds the SHA-256 of the other files,
and a hash of itself.
"""

import json
import math
import re
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..checks import check_path
from ..files import SEAL, atomic_file, file_sha256, seal, write_json
from ..whisper.tokens import LANGUAGES
from ..whisper.unwrap import unwrap
from .blocks import (
    clsr_blocks,
    expert_languages,
    expert_parameters,
    shared_block,
    whisper_layers,
)
from .experts import ExpertSettings
from .fingerprint import (
    Fingerprints,
    combined,
    fingerprints,
    read_fingerprints,
    write_fingerprints,
)
from .packing import FORMS, Tensors, pack, unpack

# 1: always in fp32, without "form"; 1 and 2: "base_fingerprint" is of fc1 alone, in fp16, and there
# are no hashes of files ("sha256") and of experts.json ("check").
FORMAT = 3
READABLE_FORMATS = (1, 2, 3)

DESCRIPTION_FILE = "experts.json"
BASE_FILE = "base_fingerprint.safetensors"

# The keys of experts.json. "rank" is there in the form "low-rank" alone.
NEEDED_KEYS = ("format", "base_model", "base_fingerprint", "languages", "settings")
KNOWN_KEYS = (*NEEDED_KEYS, "revision", "form", "rank", "sha256", SEAL)

COPY_AGAIN = "copy it again, or train the experts again"


# ---- save


def save_experts(model: nn.Module, folder: str | Path, form: str = "fp16", rank: int = 64) -> Path:
    """Write experts and gates of all languages of a model, and nothing of Whisper itself.

    All files are written under temporary names first, so a save that fails leaves what was there.
    One that is killed while they get their names leaves a folder that `load_experts` refuses.

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
        ValueError: Where no experts are attached, for an unknown form or rank, for a quantised
            Whisper, for weights that are not finite, or not in this form, or for a folder with
            experts for languages that this model lacks.
        OSError: Where the disk is full or may not be written to.
    """
    folder = check_path("folder", folder)
    languages = expert_languages(model)
    if not languages:
        raise ValueError("no experts are attached, so there is nothing to save")

    _check_no_language_is_lost(Path(folder), languages)
    of_base = fingerprints(model)
    bad = [name for name, of in of_base.items() if not math.isfinite(of.norm)]
    if bad:
        raise ValueError(
            f"{bad[0]} of Whisper itself is not finite (NaN or infinite), so its experts are not "
            "saved: load another checkpoint"
        )

    with ExitStack() as files:
        # What is entered first is renamed last: experts.json, which names all others.
        description_part = files.enter_context(atomic_file(folder / DESCRIPTION_FILE))
        sha256 = {}
        for language in languages:
            path = expert_file(folder, language)
            parameters = expert_parameters(model, language)
            tensors = {name: parameter.detach().cpu() for name, parameter in parameters}
            packed = pack(tensors, form, shared_tensors(model, language), rank)
            part = files.enter_context(atomic_file(path))
            save_file(packed, part)
            sha256[path.name] = file_sha256(part)

        base_part = files.enter_context(atomic_file(folder / BASE_FILE))
        write_fingerprints(base_part, of_base)
        sha256[BASE_FILE] = file_sha256(base_part)
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
        write_description(description_part, description | {"sha256": sha256})
    return folder


def _check_no_language_is_lost(folder: Path, languages: list[str]) -> None:
    """Raise ValueError where a folder has experts for languages that are not among these."""
    try:
        there = read_description(folder)["languages"]
    except (FileNotFoundError, ValueError):  # nothing, or nothing that could be loaded
        return
    lost = [language for language in there if language not in languages]
    if lost:
        raise ValueError(
            f"{folder} has experts for {', '.join(lost)}, which this model lacks and saving would "
            "lose: load them into it as well (load_experts), or give a new folder"
        )


def write_description(path: Path, description: dict[str, Any]) -> None:
    """Write the content of experts.json, with a hash of it, atomically."""
    write_json(path, description, sealed=True)


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


def read_description(folder: Path) -> dict[str, Any]:
    """Return the content of experts.json.

    Raises:
        FileNotFoundError: Where it is missing.
        ValueError: Where it is damaged in any way, of another version, or changed since it was
            written.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is not a folder that save_experts has written"
        )
    try:
        description = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {COPY_AGAIN}") from error
    if not isinstance(description, dict):
        kind = type(description).__name__
        raise ValueError(f"{path} is damaged (a JSON object is needed, not {kind}): {COPY_AGAIN}")

    version = description.get("format")
    if isinstance(version, bool) or version not in READABLE_FORMATS:
        raise ValueError(f"{path} has format {version!r}, this version reads 1, 2 and 3")
    problem = _problem(description)
    if problem:
        raise ValueError(f"{path} is damaged ({problem}): {COPY_AGAIN}")

    if SEAL in description and description[SEAL] != seal(description):
        raise ValueError(
            f"{path} is not as it was written: {COPY_AGAIN}; if you have changed it on purpose, "
            f'remove its line "{SEAL}"'
        )
    return description


def _problem(description: dict[str, Any]) -> str:
    """Return what is wrong with the content of experts.json; "" where nothing is."""
    missing = [key for key in NEEDED_KEYS if key not in description]
    if missing:
        return f"it lacks {', '.join(missing)}"
    unknown = [key for key in description if key not in KNOWN_KEYS]
    if unknown:
        return f"unknown key {unknown[0]!r}; known are {', '.join(KNOWN_KEYS)}"
    if type(description["format"]) is not int:
        return f"format {description['format']!r} is no whole number"

    for key in ("base_model", "base_fingerprint"):
        if not isinstance(description[key], str):
            return f"{key} is {description[key]!r}, a text is needed"
    revision = description.get("revision")
    if revision is not None and not isinstance(revision, str):
        return f"revision is {revision!r}, a text or null is needed"
    if description.get("form", "fp32") not in FORMS:
        return f"form is {description['form']!r}, one of {', '.join(FORMS)} is needed"
    rank = description.get("rank", 1)
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        return f"rank is {rank!r}, a whole number from 1 on is needed"
    return (
        _problem_of_languages(description["languages"])
        or _problem_of_settings(description["settings"])
        or _problem_of_hashes(description)
    )


def _problem_of_languages(languages: Any) -> str:
    """Return what is wrong with the languages in experts.json; "" where nothing is."""
    if not isinstance(languages, list) or not languages:
        return f"languages is {languages!r}, a list of codes is needed"
    for code in languages:
        if not isinstance(code, str) or code not in LANGUAGES:
            return f"unknown language {code!r}"
        if languages.count(code) > 1:
            return f"language {code!r} is listed twice"
    return ""


def _problem_of_settings(settings: Any) -> str:
    """Return what is wrong with the settings in experts.json; "" where nothing is."""
    if not isinstance(settings, dict):
        return f"settings is {settings!r}, an object is needed"
    try:
        ExpertSettings(**settings)
    except (TypeError, ValueError) as error:
        return f"settings: {error}"
    return ""


def _problem_of_hashes(description: dict[str, Any]) -> str:
    """Return what is wrong with the hashes in experts.json; "" where nothing is."""
    if "sha256" not in description:  # written before there were hashes
        return ""
    hashes = description["sha256"]
    if not isinstance(hashes, dict):
        return f"sha256 is {hashes!r}, an object is needed"
    names = [expert_file(Path(), code).name for code in description["languages"]]
    missing = [name for name in (*names, BASE_FILE) if name not in hashes]
    if missing:
        return f"sha256 lacks {', '.join(missing)}"
    for name, digest in hashes.items():
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            return f"sha256 of {name} is {digest!r}"
    return ""


def _check_there(path: Path) -> None:
    """Raise FileNotFoundError where a file is missing."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: copy the folder again, or train the experts again"
        )


def check_file(path: Path, description: dict[str, Any]) -> None:
    """Check that a file beside experts.json is the one that was written with it.

    Args:
        path: The file.
        description: Content of experts.json; one without hashes accepts every file.

    Raises:
        FileNotFoundError: Where it is missing.
        ValueError: Where it is another one.
    """
    _check_there(path)
    digest = description.get("sha256", {}).get(path.name)
    if digest is not None and file_sha256(path) != digest:
        raise ValueError(
            f"{path} is not the file that {DESCRIPTION_FILE} beside it names: it is damaged, or of "
            f"another save; {COPY_AGAIN}"
        )


def read_base(folder: Path, description: dict[str, Any]) -> Fingerprints:
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
    check_file(path, description)
    return of_base


def read_tensors(path: Path, description: dict[str, Any]) -> tuple[Tensors, set[str]]:
    """Return a file's tensors, and the names of those that are differences to the shared block.

    Args:
        path: Of a language's experts.
        description: Content of experts.json beside it.

    Raises:
        FileNotFoundError: Where the file is missing.
        ValueError: Where it is damaged, of another save, or holds weights that are not finite.
    """
    _check_there(path)
    try:
        unpacked = unpack(load_file(path))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} cannot be read ({error}): {COPY_AGAIN}") from error
    check_file(path, description)
    return unpacked
