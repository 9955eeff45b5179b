"""Experts on disk: one safetensors file a language, and experts.json that says which Whisper they belong to."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..files import atomic_file, write_json
from ..whisper.hub import REVISIONS
from ..whisper.loading import fastest_attention
from ..whisper.tokens import language_code
from .attach import (
    attach_experts,
    clsr_blocks,
    expert_languages,
    expert_parameters,
    shared_block,
    whisper_layers,
)
from .experts import ExpertSettings, Gate, new_expert
from .packing import pack, unpack
from .released import STUDENT, read_expert, read_whisper, released_folder

FORMAT, READ = 2, (1, 2)  # 1: before forms


def base_fingerprint(model) -> str:
    """Return a hash of the frozen feed-forward weights, rounded to fp16 so that fp32 and fp16 copies agree."""
    digest = hashlib.sha256()
    for _, _, layer in whisper_layers(model):
        fc1 = shared_block(layer).fc1
        digest.update(fc1.weight.detach().to("cpu", torch.float16).numpy().tobytes())
    return digest.hexdigest()


def save_experts(model, folder: str | Path, form: str = "fp16", rank: int = 64) -> Path:
    """Write experts and gates of all languages of `model` into `folder`, and nothing of Whisper itself.

    form: "fp16", "fp32" (exact), or differences to Whisper's own block, "int8" or "low-rank" (factors of `rank`):
    of whisper-small a language takes 229, 458, 116 and, at rank 64, 26 MB. `load_experts` reads all.
    Each file is written beside its place and renamed, so a stopped save leaves no half file. Returns the folder.
    Raises ValueError where no experts are attached or for an unknown form, OSError where the disk is full or may not
    be written to.
    """
    languages = expert_languages(model)
    if not languages:
        raise ValueError("no experts are attached, so there is nothing to save")
    folder = Path(folder)
    for language in languages:
        tensors = {name: p.detach().cpu() for name, p in expert_parameters(model, language)}
        tensors = pack(tensors, form, _shared(model, language), rank)
        with atomic_file(folder / f"experts.{language}.safetensors") as part:
            save_file(tensors, part)
    base = {
        "base_model": model.config._name_or_path,
        "revision": getattr(model.config, "_commit_hash", None),
        "base_fingerprint": base_fingerprint(model),
    }
    about = {
        "languages": languages,
        "settings": asdict(clsr_blocks(model)[0].routing.settings),
        "form": form,
    }
    about |= {"rank": rank} if form == "low-rank" else {}
    write_json(folder / "experts.json", {"format": FORMAT, **base, **about})
    return folder


def _shared(model, language: str) -> dict[str, torch.Tensor]:
    """Return the shared blocks' tensors under the names that a language's experts have in `expert_parameters`."""
    return {
        f"{stack}.{index}.experts.{language}.{name}": p.detach().cpu()
        for stack, index, layer in whisper_layers(model)
        for name, p in shared_block(layer).named_parameters()
    }


def _read_about(folder: Path) -> dict:
    path = folder / "experts.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is not a folder that save_experts has written"
        )
    try:
        about = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}): copy it again, or train the experts again"
        ) from error
    if about.get("format") not in READ:
        raise ValueError(f"{path} has format {about.get('format')!r}, this version reads 1 and 2")
    return about


def load_experts(model, folder: str | Path, languages: list[str] | None = None):
    """Attach the experts of `languages` (default: all in the folder) to `model`, in place; returns the model.

    Raises FileNotFoundError for a folder, file or language that is not there, ValueError for experts that were
    trained on another Whisper or a damaged file; the model is then as it was.
    """
    folder = Path(folder)
    about = _read_about(folder)
    languages = [languages] if isinstance(languages, str) else languages
    wanted = [language_code(language) for language in languages or about["languages"]]
    if missing := [language for language in wanted if language not in about["languages"]]:
        raise FileNotFoundError(
            f"{folder} holds no experts for {', '.join(missing)}; "
            f"it has {', '.join(about['languages'])}"
        )
    settings = ExpertSettings(**about["settings"])
    read = {
        language: _read_tensors(folder / f"experts.{language}.safetensors") for language in wanted
    }
    loaded = {language: tensors for language, (tensors, _) in read.items()}
    _check_shapes(model, settings, loaded, f"{folder} ({about['base_model']})")
    if base_fingerprint(model) != about["base_fingerprint"]:
        raise ValueError(
            f"the experts in {folder} were trained on another Whisper: their shapes fit, but the frozen "
            f"weights differ; load {about['base_model']} in fp32 or fp16"
        )
    for language, (
        tensors,
        differences,
    ) in read.items():  # each file says its own form: a stopped save leaves two
        shared = _shared(model, language)
        for name in differences:
            tensors[name] += shared[name].float()
    return _attach_trained(model, settings, loaded)


def _attach_trained(model, settings: ExpertSettings, experts: dict[str, dict]):
    """Attach experts whose tensors are given, {language: {name in `expert_parameters`: tensor}}; returns the model.

    Beside experts that are attached already their settings stay, unless shapes differ: all others are of training.
    """
    there = clsr_blocks(model)[0].routing.settings if clsr_blocks(model) else settings
    alike = (there.gate_dim, there.rank) == (settings.gate_dim, settings.rank)
    attach_experts(model, list(experts), there if alike else settings)
    for language, tensors in experts.items():
        for block in clsr_blocks(model):
            block.fixed.pop(language, None)  # of the gates that were there before
        for name, parameter in expert_parameters(model, language):
            parameter.data.copy_(tensors[name])
    return model


def load_released(name: str | Path, languages: list[str], revision: str | None = None):
    """Return a Whisper with the authors' published experts of `languages`; none is switched on (`set_language`).

    name: a hub id or a folder in the release's format; languages: codes or English names; revision: of the hub.
    Raises OSError where the hub can't be reached, FileNotFoundError for a file that is not there (the message lists the
    languages that are), ValueError for a damaged file or one that holds more than tensors, or experts that don't fit.
    """
    codes = [
        language_code(language)
        for language in ([languages] if isinstance(languages, str) else languages)
    ]
    folder = released_folder(name, codes, revision)
    model, about = read_whisper(folder, REVISIONS[STUDENT])
    model.set_attn_implementation(fastest_attention())
    model.config._name_or_path = model.name_or_path = str(name)
    settings = ExpertSettings(gate_dim=about["clsr_gate_dim"], skip_gate=about["skip_gate_prob"])
    experts = {code: read_expert(folder, code) for code in codes}
    _check_shapes(model, settings, experts, str(folder))
    return _attach_trained(model, settings, experts)


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], set[str]]:
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


def _check_shapes(model, settings: ExpertSettings, experts: dict[str, dict], source: str) -> None:
    """Compare names and shapes before anything is attached, so that a wrong folder leaves the model as it was."""
    for language, tensors in experts.items():
        needed, found = (
            _shapes(model, settings, language),
            {name: tensor.shape for name, tensor in tensors.items()},
        )
        if found != needed:
            raise ValueError(
                f"the {language} experts in {source} are for {_describe(found)}; "
                f"this Whisper needs {_describe(needed)}"
            )


def _shapes(model, settings: ExpertSettings, language: str) -> dict[str, torch.Size]:
    """Return the shapes that a language's experts have in this Whisper, by name."""
    shapes = {}
    for stack, index, layer in whisper_layers(model):
        shared = shared_block(layer)
        with torch.device("meta"):  # only its shapes are wanted
            gate = Gate(shared.fc1.weight.shape[1], settings)
            expert = new_expert(shared, settings.rank) if settings.rank else shared
        for kind, module in (("experts", expert), ("gates", gate)):
            shapes |= {
                f"{stack}.{index}.{kind}.{language}.{name}": p.shape
                for name, p in module.named_parameters()
            }
    return shapes


def _describe(shapes: dict[str, torch.Size]) -> str:
    """Return the size of the Whisper that tensors of these names and shapes belong to."""
    weights = {
        name: shape
        for name, shape in shapes.items()
        if name.endswith(("fc1.weight", "fc1.down.weight"))
    }
    counts = [sum(name.startswith(stack) for name in weights) for stack in ("encoder.", "decoder.")]
    width = next(iter(weights.values()))[1] if weights else 0
    return f"{counts[0]} + {counts[1]} layers of width {width} ({len(shapes)} tensors)"
