"""The authors' published checkpoints, read without unpickling (naver/multilingual-distilwhisper-3k, -10k, -28k).

A folder holds `config.json`, `pytorch_model.bin` (the frozen Whisper) and `expert.<language>.bin`.
Source: the authors' release, commit 6faf22a (model/DistilWhisper.py: CLSRFFN).
"""

import os
from fnmatch import fnmatch
from pathlib import Path

import torch
from huggingface_hub import list_repo_files, snapshot_download
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from ..files import read_json
from ..whisper.conversion import fill
from ..whisper.tokens import LANGUAGES

STUDENT = "openai/whisper-small"  # the release's: settings of `generate` come from it where the folder has none

NAMES = {
    "gate_in": "gates.{}.linear1",
    "gate_out": "gates.{}.linear2",
    "proj": "experts.{}",
}  # theirs -> ours


def released_folder(name: str | Path, codes: list[str], revision: str | None = None) -> Path:
    """Return the folder `name`, or the files of these languages from the hub; OSError where they can't be had.

    Raises FileNotFoundError for a language that the hub hasn't: the message lists those that it has, or, where it can't
    be asked, those that are in its cache here.
    """
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    files = [
        "config.json",
        "generation_config.json",
        "pytorch_model.bin",
        *map(_expert_file, codes),
    ]
    try:
        folder = Path(snapshot_download(str(name), revision=revision, allow_patterns=files))
    except (OSError, ValueError) as error:  # what the hub's own errors derive from
        raise OSError(
            f"{name!r} is no folder here and can't be fetched from the hub ({type(error).__name__}): check "
            "its spelling (like naver/multilingual-distilwhisper-3k) and the network"
        ) from error
    if missing := [file for file in map(_expert_file, codes) if not (folder / file).is_file()]:
        try:
            where, there = "the hub has experts for", list_repo_files(str(name), revision=revision)
        except Exception:
            where, there = (
                "the hub can't be asked, and its cache here has experts for",
                os.listdir(folder),
            )
        raise FileNotFoundError(
            f"{name!r}: {', '.join(missing)} is missing; {where} {_languages(there)}"
        )
    return folder


def _expert_file(code: str) -> str:
    return f"expert.{LANGUAGES[code]}.bin"


def _languages(files: list[str]) -> str:
    return (
        ", ".join(sorted(file.split(".")[1] for file in files if fnmatch(file, "expert.*.bin")))
        or "no language"
    )


def read_whisper(folder: Path, revision: str) -> tuple[WhisperForConditionalGeneration, dict]:
    """Return the frozen Whisper (fp32), its shared blocks in their usual places, and the release's settings.

    revision: of STUDENT. Raises FileNotFoundError for a missing file, ValueError for a damaged or other one.
    """
    path = folder / "config.json"
    settings = read_json(path)
    if settings.get("model_type") != "distilwhisper":
        raise ValueError(
            f"{path} is not that of a released 'distilwhisper': this kit's own experts are loaded by "
            "load_experts"
        )
    known = set(WhisperConfig().to_dict()) - {
        "model_type",
        "architectures",
        "dtype",
        "transformers_version",
    }
    model = WhisperForConditionalGeneration(
        WhisperConfig(**{k: v for k, v in settings.items() if k in known})
    )
    state = _read_tensors(folder / "pytorch_model.bin")
    fill(
        model,
        {name.replace("ffn_clsr.proj.shared.", ""): tensor for name, tensor in state.items()},
        str(folder),
    )
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    elif model.config.vocab_size == 51865:  # Whisper's own multilingual vocabulary
        model.generation_config = GenerationConfig.from_pretrained(STUDENT, revision=revision)
    return model.eval(), settings


def read_expert(folder: Path, code: str) -> dict[str, torch.Tensor]:
    """Return a language's tensors under the names of `expert_parameters`; what is no expert's keeps another name."""
    tensors = {}
    for name, tensor in _read_tensors(folder / _expert_file(code)).items():
        for theirs, ours in NAMES.items():
            name = name.replace(f"ffn_clsr.{theirs}.{LANGUAGES[code]}", ours.format(code))
        tensors[name.removeprefix("model.").replace(".layers.", ".")] = tensor
    return tensors


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; the folder has experts for {_languages(os.listdir(path.parent))}"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} can't be read: it is damaged, or holds more than tensors; fetch it again "
            f"({str(error).splitlines()[0][:80]})"
        ) from error
