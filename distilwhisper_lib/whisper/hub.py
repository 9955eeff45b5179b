"""Checkpoints on the hub: pinned revisions, the hub's cache on this machine, and clear errors.

All access to the hub goes through this module. `huggingface_hub` is imported by the functions that
need it, so that a model in a folder is loaded without it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..checks import check_path
from .checkpoint import check_checkpoint
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


# ---- a folder, or a repository of the hub


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of a hub id, "user/name"."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", name) is not None


def local_folder(name: str | Path, revision: str | None) -> Path | None:
    """Return the folder that a name means, or None where it means a repository of the hub.

    Args:
        name: A folder, or a hub id. A folder of that name goes first, and a `Path` is never an id.
        revision: On the hub; None for a folder.

    Raises:
        FileNotFoundError: For what is neither a folder nor a hub id.
        ValueError: For a folder with a revision, or for what is no path.
    """
    folder = check_path("folder", name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ValueError(
                f"{str(name)!r} is a folder here, and a folder has no revisions: leave "
                f"revision={revision!r} out, or call it from another directory if you mean the "
                "repository of that name on the hub"
            )
        return folder
    if isinstance(name, Path) or not is_hub_id(name):
        raise FileNotFoundError(
            f"{str(name)!r}: no such folder, and not a hub id (like user/name) either"
        )
    return None


# ---- files of a repository


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


def fetch_files(name: str, revision: str | None, patterns: list[str]) -> Path:
    """Fetch files of a repository as `download_snapshot` does, with errors that say what to do.

    Args:
        name: Hub id of the repository.
        revision: Branch, tag or commit; None: the main branch.
        patterns: Names of the wanted files, with wildcards. One that no file has is no error.

    Returns:
        The folder in the hub's cache, named by its commit.

    Raises:
        FileNotFoundError: For a repository or a revision that is not there.
        OSError: Where the hub cannot be reached, or does not let the repository be read.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return download_snapshot(name, revision, patterns)
    except GatedRepoError as error:
        raise OSError(
            f"{name!r}: its owner asks for terms to be accepted first; do so on its page on the "
            "hub, and log in here (hf auth login)"
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{name!r} is no folder here, and the hub has no such repository that you may read: "
            "check its spelling; for a private one log in (hf auth login)"
        ) from error
    except RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{name!r} has no revision {revision!r} on the hub: give a branch, a tag or a commit, "
            "or leave it out for the main branch"
        ) from error
    except Exception as error:
        raise OSError(
            f"{name!r} is no folder here, and can't be fetched from the hub "
            f"({hub_message(error)}): {_remedy(error)}"
        ) from error


def _remedy(error: Exception) -> str:
    """Return what to do about an error of `download_snapshot`."""
    if status_of(error) == 401:
        return "it does not accept your token; log in again (hf auth login), or out"
    return (
        "check the network and the disk's free space, or download the folder elsewhere and give "
        "its path instead"
    )


def status_of(error: Exception) -> int | None:
    """Return the HTTP status that the hub answered with, None where it did not answer."""
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def hub_message(error: Exception) -> str:
    """Return what an error of the hub's library says, in a line."""
    said = getattr(error, "server_message", None) or str(error)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


# ---- Whisper checkpoints


@contextmanager
def damaged_in_cache(folder: Path, name: str) -> Iterator[None]:
    """Add what to do to a ValueError about a checkpoint in the hub's cache.

    Args:
        folder: In the hub's cache, of one commit.
        name: Hub id of the model.
    """
    try:
        yield
    except ValueError as error:
        repository = folder.parent.parent  # it holds all commits, and the files that they share
        raise ValueError(
            f"{name}, in the hub's cache on this machine: {error}. If it is damaged, remove "
            f"{repository}, and it is fetched again"
        ) from error


def find_in_cache(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model that was fetched from the hub before, or None."""
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            name, revision=revision, allow_patterns=FILES, local_files_only=True
        )
        with damaged_in_cache(Path(folder), name):
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
        return hub_message(error)
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
        OSError: Where the model cannot be fetched, or its repository lacks a file; the message says
            what to do.
    """
    cause = None
    if problem is None:
        try:
            folder = download_snapshot(name, revision, FILES)
        except OSError as error:  # also the hub's own errors
            cause = error
            problem = hub_message(error)
        else:
            return check_checkpoint(folder)
    raise OSError(
        f"model {name!r} could not be fetched from the hub ({problem}): check the network and the "
        "disk's free space, or give the folder of a Whisper checkpoint instead of its name"
    ) from cause


# ---- upload


def check_upload(repository: str, token: str | None) -> None:
    """Check what an upload needs, before anything is done for it.

    Args:
        repository: "user/name" on the hub.
        token: Of the user; None: the one that is kept on this machine.

    Raises:
        ValueError: For a name that the hub does not allow.
        OSError: Where there is no token.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
        problem = "" if is_hub_id(repository) else "user or organisation, a slash, and a name"
    except HFValidationError as error:
        problem = str(error)
    if problem:
        raise ValueError(f"{repository!r} is no name for a repository, like user/name: {problem}")

    if not (token or get_token()):
        raise OSError(
            f"no token, so nothing can be uploaded to {repository!r}: make one with the right to "
            "write on the hub (Settings, Access Tokens), then run hf auth login, or give it as "
            "token=, or set HF_TOKEN"
        )


def create_repository(repository: str, private: bool | None, token: str | None) -> None:
    """Create a repository for a model, where there is none of that name.

    Args:
        repository: "user/name" on the hub.
        private: Of a new one: True: to be seen by its owner alone; False: by everybody; None: as
            the owner's settings say. One that is there stays as it is.
        token: As for `check_upload`.

    Raises:
        OSError: As `upload_errors` does.
    """
    from huggingface_hub import HfApi

    with upload_errors(repository):
        HfApi(token=token).create_repo(repository, private=private, exist_ok=True)


def find_file(name: str, file: str, revision: str | None, token: str | None) -> Path | None:
    """Fetch one file that a repository may have; None where it has none, or no such revision."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    with upload_errors(name):
        try:
            return Path(hf_hub_download(name, file, revision=revision, token=token))
        except (EntryNotFoundError, RevisionNotFoundError) as error:
            if status_of(error) is None:  # the hub did not answer
                raise
            return None


def upload_folder(
    folder: Path, repository: str, message: str, token: str | None, branch: str | None
) -> str:
    """Upload all files of a folder, in a single commit.

    The hub's own `upload_folder` may make several commits of one folder.

    Args:
        folder: Without folders in it.
        repository: "user/name" on the hub; it exists.
        message: Of the commit.
        token: As for `check_upload`.
        branch: It is made, from the main branch, where it is missing; None: the main branch.

    Returns:
        The address of the commit, which ends in its name.

    Raises:
        ValueError: Where the hub does not accept the metadata of README.md.
        OSError: As `upload_errors` does.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    additions = [
        CommitOperationAdd(path.name, str(path))
        for path in sorted(folder.iterdir())
        if path.is_file()
    ]
    api = HfApi(token=token)
    with upload_errors(repository):
        if branch is not None:
            api.create_branch(repository, branch=branch, exist_ok=True)
        commit = api.create_commit(
            repository, operations=additions, commit_message=message, revision=branch
        )
    return commit.commit_url


@contextmanager
def upload_errors(repository: str) -> Iterator[None]:
    """Raise an error that says what to do, where the block's requests to the hub fail.

    Args:
        repository: "user/name" on the hub.

    Raises:
        ValueError: Where the hub does not accept what is uploaded.
        OSError: Where the hub cannot be reached, or does not let the user write there.
    """
    try:
        yield
    except Exception as error:
        nothing = f"nothing was committed to {repository!r}"
        said = hub_message(error)
        status = status_of(error)
        if status == 400:
            raise ValueError(f"{nothing}, the hub does not accept it: {said}") from error
        if isinstance(error, ValueError):  # of README.md's metadata, a line for each mistake
            raise ValueError(f"{nothing}, the hub does not accept it: {error}") from error
        if status == 401:
            raise OSError(
                f"{nothing}, the hub does not accept your token ({said}): make another one "
                "(Settings, Access Tokens), and log in with it (hf auth login)"
            ) from error
        if status in (403, 404):
            raise OSError(
                f"{nothing}, your token may not write there ({said}): use one with the right to "
                "write to this user or organisation, or another name"
            ) from error
        raise OSError(
            f"{nothing} ({said}): check the network, then call it again; what is trained is "
            "still here"
        ) from error
