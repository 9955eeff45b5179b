"""Checkpoints on the hub: pinned revisions, the hub's cache on this machine, and clear errors.

All access to the hub goes through this module. `huggingface_hub` is imported by the functions that
need it, so that a model in a folder is loaded without it.
"""

import json
from pathlib import Path

from .mirror import MIRRORED

# Commits on the hub; a model that is not here is taken as it is on its main branch.
REVISIONS = {
    "openai/whisper-tiny": "169d4a4341b33bc18d8881c4b69c2e104e1cc0af",
    "openai/whisper-base": "e37978b90ca9030d5170a5c07aadb050351a65bb",
    "openai/whisper-small": "973afd24965f72e36ca33b3055d56a652f456b4d",
    "openai/whisper-medium": "abdf7c39ab9d0397620ccaea8974cc764cd0953e",
    "openai/whisper-large-v2": "ae4642769ce2ad8fc292556ccea8e901f1530655",
    "openai/whisper-large-v3": "06f233fe06e710322aca913c1bc4249a0d71fce1",
    "openai/whisper-large-v3-turbo": "41f01f3fe87f28c78e2fbf8b568835947dd65ed9",
}

# Files of a checkpoint, as patterns: weights in safetensors alone, nothing that is unpickled.
FILES = ["*.json", "*.txt", "model.safetensors", "model-*.safetensors"]

PROBE_SECONDS = 5  # how long the hub may take to answer the first request


def download_snapshot(name: str, revision: str | None, patterns: list[str]) -> Path:
    """Fetch files of a repository into the hub's cache, where they are not there yet.

    Args:
        name: Hub id of the repository.
        revision: Branch, tag or commit; None: the main branch.
        patterns: Names of the wanted files, with wildcards.

    Returns:
        The folder in the hub's cache, named by its commit.

    Raises:
        OSError: The hub's own errors, where it cannot be reached or does not know the repository.
    """
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))


def list_files(name: str, revision: str | None) -> list[str]:
    """Return the names of all files of a repository on the hub; raises the hub's own errors."""
    from huggingface_hub import list_repo_files

    return list_repo_files(name, revision=revision)


def check_checkpoint(folder: Path) -> Path:
    """Return the folder if it holds a complete checkpoint in safetensors.

    Raises:
        FileNotFoundError: Where files are missing; the message lists them.
    """
    index = folder / "model.safetensors.index.json"
    weights = ["model.safetensors"]
    if index.is_file() and not (folder / "model.safetensors").is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        weights = sorted(set(shards.values()))

    missing = [name for name in ["config.json", *weights] if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is not a Whisper checkpoint: it lacks {', '.join(missing)}; save one there "
            "with save_pretrained of the model and of its processor"
        )
    return folder


def find_in_cache(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model that was fetched from the hub before, or None."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=FILES, local_files_only=True
        )
        return check_checkpoint(Path(folder))
    except FileNotFoundError:  # also the hub's LocalEntryNotFoundError
        return None


def why_unreachable(name: str, revision: str | None) -> str | None:
    """Ask the hub once for a model's configuration.

    This is one request without retries: where there is no network, transformers tries for 45 s.

    Returns:
        None if the hub answers, else why it cannot be reached.

    Raises:
        ValueError: Where the hub answers that there is no such model.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import (
        EntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    url = hf_hub_url(name, "config.json", revision=revision)
    try:
        get_hf_file_metadata(url, timeout=PROBE_SECONDS)
    except (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError) as error:
        if name == MIRRORED:  # what answers without knowing whisper-base is not the hub
            return str(error)
        raise ValueError(
            f"model {name!r} is not on the hub, or not open to everybody: check its spelling"
        ) from error
    except Exception as error:
        return _first_line(error)
    return None


def fetch_model(name: str, revision: str | None, problem: str | None) -> Path:
    """Fetch a model's files into the hub's cache.

    Args:
        name: Hub id of the model.
        revision: Branch, tag or commit; None: the main branch.
        problem: Why the hub cannot be reached, as far as that is known (`why_unreachable`).

    Returns:
        The folder in the hub's cache.

    Raises:
        OSError: Where the model cannot be fetched; the message says what to do.
    """
    cause = None
    if problem is None:
        try:
            return check_checkpoint(download_snapshot(name, revision, FILES))
        except OSError as error:  # also the hub's own errors
            cause = error
            problem = _first_line(error)
    raise OSError(
        f"model {name!r} could not be fetched from the hub ({problem}): check the network and the "
        "disk's free space, or give the folder of a Whisper checkpoint instead of its name"
    ) from cause


def _first_line(error: Exception) -> str:
    """Return an exception's type and the first line of its message."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
