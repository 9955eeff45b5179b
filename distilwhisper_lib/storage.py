"""Experts on disk: one safetensors file a language, and experts.json that says which Whisper they belong to."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .clsr import ExpertSettings, attach_experts, clsr_blocks, expert_languages, expert_parameters
from .text import language_code

FORMAT = 1


def base_fingerprint(model) -> str:
    """Return a hash of the frozen feed-forward weights, rounded to fp16 so that fp32 and fp16 copies agree."""
    digest = hashlib.sha256()
    for block in clsr_blocks(model):
        digest.update(block.shared.fc1.weight.detach().to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()


def save_experts(model, folder: str | Path) -> Path:
    """Write experts and gates of all languages of `model` into `folder`, and nothing of Whisper itself.

    Each file is written beside its place and renamed, so a stopped save leaves no half file. Returns the folder.
    Raises ValueError where no experts are attached, OSError (disk full, no right) as the system reports it.
    """
    languages = expert_languages(model)
    if not languages:
        raise ValueError("no experts are attached, so there is nothing to save")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for language in languages:
        tensors = {name: p.detach().cpu().contiguous() for name, p in expert_parameters(model, language)}
        part = folder / f"experts.{language}.part"
        save_file(tensors, part)
        os.replace(part, folder / f"experts.{language}.safetensors")
    config = getattr(model, "config", None)
    about = {
        "format": FORMAT,
        "base_model": getattr(config, "_name_or_path", ""),
        "revision": getattr(config, "_commit_hash", None),
        "base_fingerprint": base_fingerprint(model),
        "languages": languages,
        "settings": asdict(clsr_blocks(model)[0].routing.settings),
    }
    part = folder / "experts.part"
    part.write_text(json.dumps(about, indent=2) + "\n")
    os.replace(part, folder / "experts.json")
    return folder


def _read_about(folder: Path) -> dict:
    path = folder / "experts.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {folder} is not a folder that save_experts has written")
    about = json.loads(path.read_text())
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} has format {about.get('format')!r}, this version reads format {FORMAT}")
    return about


def load_experts(model, folder: str | Path, languages: list[str] | None = None):
    """Attach the experts of `languages` (default: all in the folder) to `model`, in place; returns the model.

    Raises FileNotFoundError for a folder or language that is not there, ValueError for experts that were
    trained on another Whisper or a damaged file.
    """
    folder = Path(folder)
    about = _read_about(folder)
    wanted = [language_code(language) for language in languages or about["languages"]]
    missing = [language for language in wanted if language not in about["languages"]]
    if missing:
        raise FileNotFoundError(f"{folder} holds no experts for {', '.join(missing)}; "
                                f"it has {', '.join(about['languages'])}")  # fmt: skip
    loaded = {language: _read_tensors(folder / f"experts.{language}.safetensors") for language in wanted}
    _check_shapes(model, about, loaded, folder)
    attach_experts(model, wanted, ExpertSettings(**about["settings"]))
    if base_fingerprint(model) != about["base_fingerprint"]:
        raise ValueError(f"the experts in {folder} were trained on another Whisper ({about['base_model']}): "
                         "their shapes fit, but the frozen weights differ")  # fmt: skip
    for language, tensors in loaded.items():
        for name, parameter in expert_parameters(model, language):
            parameter.data.copy_(tensors[name])
    return model


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): copy it again, or train the experts again") from error


def _check_shapes(model, about: dict, loaded: dict, folder: Path) -> None:
    """Compare sizes before anything is attached, so that a wrong folder leaves the model as it was."""
    config = model.config
    for language, tensors in loaded.items():
        for stack, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
            weights = [t for name, t in tensors.items()
                       if name.startswith(f"{stack}.") and name.endswith("fc1.weight")]  # fmt: skip
            width = weights[0].shape[1] if weights else 0
            if len(weights) != layers or width != config.d_model:
                raise ValueError(
                    f"the {language} experts in {folder} fit a Whisper with {len(weights)} {stack} layers of width "
                    f"{width} ({about['base_model']}); this one has {layers} of width {config.d_model}"
                )
