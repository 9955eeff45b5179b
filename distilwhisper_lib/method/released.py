"""The authors' published checkpoints, read without unpickling.

They are naver/multilingual-distilwhisper-3k, -10k and -28k on the hub. A folder holds
`config.json`, `pytorch_model.bin` (the frozen Whisper) and `expert.<language>.bin`.

Source: the authors' release, commit 6faf22a (model/DistilWhisper.py: CLSRFFN).
"""

import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

from ..checks import check_path
from ..files import atomic_folder, read_json, write_json
from ..whisper.checkpoint import check_finite, refused_as_damaged
from ..whisper.conversion import fill
from ..whisper.hub import REVISIONS, fetch_files, list_files, local_folder
from ..whisper.loading import fastest_attention
from ..whisper.shapes import VOCABULARY
from ..whisper.tokens import LANGUAGES, language_codes
from ..whisper.unwrap import has_adapter
from .blocks import clsr_blocks, expert_languages, expert_parameters
from .experts import ExpertSettings
from .loading import attach_trained, check_shapes
from .packing import Tensors

# The published checkpoints by their number of training clips a language.
PUBLISHED = {size: f"naver/multilingual-distilwhisper-{size}" for size in ("3k", "10k", "28k")}

# Commits on the hub, where they are known to us: not for -3k and -10k. Their main branch is taken,
# and the model's configuration says which commit that was (`_commit_hash`).
PINNED = {
    PUBLISHED["28k"]: "dfc7ed43e46c90d235fb2b4a19f4a98192b4d26d",
}

# The release's student: the settings of `generate` come from it where the folder has none.
STUDENT = "openai/whisper-small"


# Name of a module in the release, and here; {} is the language's code.
NAMES = {
    "gate_in": "gates.{}.linear1",
    "gate_out": "gates.{}.linear2",
    "proj": "experts.{}",
}

SHARED = "ffn_clsr.proj.shared."  # before the names of a shared block's layers in the release
FEED_FORWARD = re.compile(r"(\.layers\.\d+\.)(fc[12]\.)")  # the same layers in a plain Whisper


def load_released(
    name: str | Path, languages: str | list[str], revision: str | None = None
) -> WhisperForConditionalGeneration:
    """Return a Whisper with the authors' published experts.

    Args:
        name: A hub id, or a folder in the release's format.
        languages: Codes or English names.
        revision: Branch, tag or commit on the hub; None: the commit in PINNED, or else the main
            branch. A folder has none.

    Returns:
        The model, in fp32. No language is set: see `set_language`. The commit that was fetched is
        `model.config._commit_hash`, also for a folder in the hub's cache.

    Raises:
        OSError: Where the hub cannot be reached.
        FileNotFoundError: For a repository, revision or file that is not there; for a file the
            message lists the languages that are.
        ValueError: For a damaged file, one that holds more than tensors, weights that are not
            finite, experts that do not fit, or a folder with a revision.
    """
    codes = language_codes(languages)
    folder = released_folder(name, codes, revision)
    model, config = read_whisper(folder, REVISIONS[STUDENT])
    model.set_attn_implementation(fastest_attention())
    model.config._name_or_path = str(name)
    in_hubs_cache = folder.parent.name == "snapshots" or not Path(name).expanduser().is_dir()
    model.config._commit_hash = folder.name if in_hubs_cache else None  # it is the folder's name
    model.name_or_path = str(name)

    settings = _settings(folder, config)
    experts = {code: read_expert(folder, code) for code in codes}
    check_shapes(model, settings, experts, str(folder))
    return attach_trained(model, settings, experts)


def _settings(folder: Path, config: dict[str, Any]) -> ExpertSettings:
    """Return the settings of experts and gates in a released config.json."""
    try:
        return ExpertSettings(gate_dim=config["clsr_gate_dim"], skip_gate=config["skip_gate_prob"])
    except KeyError as error:
        raise ValueError(f"{folder / 'config.json'} lacks {error}: fetch it again") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: {error}: fetch it again") from error


def released_folder(name: str | Path, codes: list[str], revision: str | None = None) -> Path:
    """Return the folder of a published checkpoint, fetching it from the hub where needed.

    Args:
        name: A hub id, or a folder, which is returned as it is.
        codes: Codes of the languages whose experts are wanted.
        revision: As for `load_released`.

    Raises:
        OSError: Where the files cannot be fetched.
        FileNotFoundError: For a repository or revision that is not there, or a language that the
            hub does not have. The message lists those that it has, or, where the hub cannot be
            reached, those in its cache on this machine.
        ValueError: For a folder with a revision.
    """
    local = local_folder(name, revision)
    if local is not None:
        return local

    revision = PINNED.get(str(name)) if revision is None else revision
    expert_files = [_expert_file(code) for code in codes]
    files = ["config.json", "generation_config.json", "pytorch_model.bin", *expert_files]
    folder = fetch_files(str(name), revision, files)

    missing = [file for file in expert_files if not (folder / file).is_file()]
    if missing:
        try:
            available = list_files(str(name), revision)
            where = "the hub has experts for"
        except Exception:
            available = os.listdir(folder)
            where = "the hub can't be asked, and its cache here has experts for"
        raise FileNotFoundError(
            f"{name!r}: {', '.join(missing)} is missing; {where} {_languages(available)}"
        )
    return folder


def _expert_file(code: str) -> str:
    """Return the name of a language's file: "expert.czech.bin" for "cs"."""
    return f"expert.{LANGUAGES[code]}.bin"


def _languages(files: list[str]) -> str:
    """Return the languages whose experts are among the files, separated by commas."""
    names = [file.split(".")[1] for file in files if fnmatch(file, "expert.*.bin")]
    return ", ".join(sorted(names)) or "no language"


def read_whisper(
    folder: Path, revision: str
) -> tuple[WhisperForConditionalGeneration, dict[str, Any]]:
    """Return the frozen Whisper of a published checkpoint, and the content of its config.json.

    Args:
        folder: In the release's format.
        revision: Commit of `STUDENT` on the hub.

    Returns:
        The Whisper in fp32, its shared blocks in their usual places, and the configuration.

    Raises:
        FileNotFoundError: For a missing file.
        ValueError: For a damaged checkpoint or one of another kind.
    """
    path = folder / "config.json"
    released_config = read_json(path, strict=True)
    if released_config.get("model_type") != "distilwhisper":
        raise ValueError(
            f"{path} is not that of a released 'distilwhisper': this kit's own experts are loaded "
            "by load_experts"
        )

    not_taken = {"model_type", "architectures", "dtype", "transformers_version"}
    of_whisper = set(WhisperConfig().to_dict()) - not_taken
    settings = {key: value for key, value in released_config.items() if key in of_whisper}
    with refused_as_damaged(folder):
        model = WhisperForConditionalGeneration(WhisperConfig(**settings))
    released_state = _read_tensors(folder / "pytorch_model.bin")
    state = {name.replace(SHARED, ""): tensor for name, tensor in released_state.items()}
    fill(model, state, str(folder))

    if (folder / "generation_config.json").is_file():
        read_json(folder / "generation_config.json", strict=True)
        model.generation_config = GenerationConfig.from_pretrained(folder)
    elif model.config.vocab_size == VOCABULARY:
        model.generation_config = GenerationConfig.from_pretrained(STUDENT, revision=revision)
    return model.eval(), released_config


def read_expert(folder: Path, code: str) -> Tensors:
    """Return a language's tensors by their names in `expert_parameters`.

    What is neither expert nor gate keeps another name, by which `check_shapes` finds it.

    Raises:
        FileNotFoundError: For a missing file; the message lists the languages that are there.
        ValueError: For a damaged file, or one that holds more than tensors.
    """
    tensors = {}
    for released_name, tensor in _read_tensors(folder / _expert_file(code)).items():
        name = released_name
        for theirs, ours in NAMES.items():
            name = name.replace(f"ffn_clsr.{theirs}.{LANGUAGES[code]}", ours.format(code))
        name = name.removeprefix("model.").replace(".layers.", ".")
        tensors[name] = tensor
    return tensors


def save_released(model: WhisperForConditionalGeneration, folder: str | Path) -> Path:
    """Write a Whisper with experts in the format of the published checkpoints.

    `load_released` reads it, and so does the authors' code. The format has no place for dropouts,
    noise and hard gates, with which a training would go on. All files are written under another
    name first.

    Args:
        model: A Whisper with experts and gates.
        folder: Where to write; it must not be there.

    Returns:
        The folder.

    Raises:
        FileExistsError: For a folder that is there.
        ValueError: Where no experts are attached, or experts or gates are of a kind that the
            release does not have: of low rank, or always open; and for a model with an adapter.
        OSError: Where the disk is full or may not be written to.
    """
    folder = check_path("folder", folder).expanduser()
    languages = expert_languages(model)
    if not languages:
        raise ValueError("no experts are attached, so there is nothing to save")
    if has_adapter(model):
        raise ValueError(
            "the published format has no adapters: save the experts with save_experts, load them "
            "into a Whisper without the adapter, and save that one"
        )
    settings = clsr_blocks(model)[0].routing.settings
    if settings.rank or settings.always_open:
        raise ValueError(
            "the published format has full experts behind gates: experts of low rank, or without "
            "gates, are saved by save_experts"
        )

    config = model.config.to_dict() | {
        "model_type": "distilwhisper",
        "clsr_gate_dim": settings.gate_dim,
        "skip_gate_prob": settings.skip_gate,
    }
    state = {
        FEED_FORWARD.sub(rf"\1{SHARED}\2", name): tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if ".experts." not in name and ".gates." not in name
    }
    with atomic_folder(folder, new=True) as part:
        write_json(part / "config.json", config)
        model.generation_config.save_pretrained(part)
        torch.save(state, part / "pytorch_model.bin")
        for code in languages:
            torch.save(_released_tensors(model, code), part / _expert_file(code))
    return folder


def _released_tensors(model: WhisperForConditionalGeneration, code: str) -> Tensors:
    """Return a language's experts and gates by the names that they have in the release."""
    tensors = {}
    for name, parameter in expert_parameters(model, code):
        stack, layer, rest = name.split(".", 2)
        for theirs, ours in NAMES.items():
            rest = rest.replace(ours.format(code), f"ffn_clsr.{theirs}.{LANGUAGES[code]}")
        tensors[f"model.{stack}.layers.{layer}.{rest}"] = parameter.detach().cpu().contiguous()
    return tensors


def _read_tensors(path: Path) -> Tensors:
    """Return the tensors of a .bin file; nothing else in it is unpickled."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; the folder has experts for {_languages(os.listdir(path.parent))}"
        )
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise ValueError(
            f"{path} can't be read: it is damaged, or holds more than tensors; fetch it again "
            f"({lines[0][:80]})"
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor)
        for name, tensor in tensors.items()
    ):
        raise ValueError(f"{path} can't be read: it is no dict of tensors by name; fetch it again")
    check_finite(tensors.items(), str(path))
    return tensors
