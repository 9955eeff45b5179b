"""Checkpoints on the hub: pinned revisions, its cache, and what to say where it can't be reached."""

import json
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .mirror import MIRRORED

REVISIONS = {  # commits on the hub; a model that is not here is taken as it is on its main branch
    "openai/whisper-tiny": "169d4a4341b33bc18d8881c4b69c2e104e1cc0af",
    "openai/whisper-base": "e37978b90ca9030d5170a5c07aadb050351a65bb",
    "openai/whisper-small": "973afd24965f72e36ca33b3055d56a652f456b4d",
    "openai/whisper-medium": "abdf7c39ab9d0397620ccaea8974cc764cd0953e",
    "openai/whisper-large-v2": "ae4642769ce2ad8fc292556ccea8e901f1530655",
    "openai/whisper-large-v3": "06f233fe06e710322aca913c1bc4249a0d71fce1",
    "openai/whisper-large-v3-turbo": "41f01f3fe87f28c78e2fbf8b568835947dd65ed9",
}

FILES = [
    "*.json",
    "*.txt",
    "model.safetensors",
    "model-*.safetensors",
]  # nothing that has to be unpickled

PROBE_SECONDS = 5


def _checked(folder: Path) -> Path:
    """Return the folder if it holds a whole checkpoint in safetensors; FileNotFoundError says what it lacks."""
    index = folder / "model.safetensors.index.json"
    weights = ["model.safetensors"]
    if index.is_file() and not (folder / weights[0]).is_file():
        weights = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if lacking := [name for name in ["config.json", *weights] if not (folder / name).is_file()]:
        raise FileNotFoundError(
            f"{folder} is not a Whisper checkpoint: it lacks {', '.join(lacking)}; save one there "
            "with save_pretrained of the model and of its processor"
        )
    return folder


def _in_hub_cache(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model that was fetched from the hub before, or None."""
    try:
        return _checked(
            Path(
                snapshot_download(
                    name, revision=revision, allow_patterns=FILES, local_files_only=True
                )
            )
        )
    except FileNotFoundError:  # the hub's own LocalEntryNotFoundError is one
        return None


def _hub_problem(name: str, revision: str | None) -> str | None:
    """Ask the hub once for a model's configuration; None if it answers, else why it can't be reached.

    One question without repetition: transformers asks for 45 s where there is no network. Raises ValueError where
    the hub answers that there is no such model.
    """
    try:
        get_hf_file_metadata(
            hf_hub_url(name, "config.json", revision=revision), timeout=PROBE_SECONDS
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        if name == MIRRORED:  # a hub that doesn't know Whisper is no hub
            return str(error)
        raise ValueError(
            f"model {name!r} is not on the hub, or not open to everybody: check its spelling"
        ) from error
    except Exception as error:
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
    raise OSError(
        f"model {name!r} could not be fetched from the hub ({problem}): check the network and the disk's "
        "free space, or give the folder of a Whisper checkpoint instead of its name"
    ) from error
