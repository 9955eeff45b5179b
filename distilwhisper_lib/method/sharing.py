"""Experts on the hub: found there, and pushed there with a model card.

A repository holds what `save_experts` writes, and the card, README.md; nothing of Whisper itself.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from ..checks import check_path
from ..whisper.hub import (
    check_upload,
    create_repository,
    fetch_files,
    find_file,
    local_folder,
    upload_folder,
)
from ..whisper.tokens import language_codes
from .blocks import expert_languages
from .card import PLACEHOLDER_ID, base_on_hub, plain_card, title_end
from .storage import expert_file, read_description, save_experts, write_description

# Files beside those of the languages, as patterns.
SMALL_FILES = ["experts.json", "base*.safetensors"]


# ---- from the hub


def experts_folder(
    name: str | Path, languages: str | list[str] | None = None, revision: str | None = None
) -> Path:
    """Return the folder of stored experts, fetching them from the hub where needed.

    Of a repository experts.json comes first, then the files of the wanted languages alone. What was
    fetched before is taken from the hub's cache, also without a network.

    Args:
        name: A folder, which is returned as it is; or a hub id, "user/name".
        languages: Codes or English names; None: all languages of the repository.
        revision: Branch, tag or commit on the hub; None: the main branch. A folder has none.

    Returns:
        The folder; that of a repository is in the hub's cache, and named by its commit.

    Raises:
        FileNotFoundError: For a name that is neither a folder nor a repository, a revision that is
            not there, a repository without experts, or a language that it has none for (the message
            lists those that it has).
        ValueError: For a file such as a zip, a folder with a revision, or a damaged experts.json.
        OSError: Where the hub cannot be reached.
    """
    if check_path("folder", name).expanduser().is_file():
        raise ValueError(f"{name} is a file: unpack it, and give the folder that is in it")
    local = local_folder(name, revision)
    if local is not None:
        return local

    name = str(name)
    folder = fetch_files(name, revision, ["experts.json"])
    if not (folder / "experts.json").is_file():
        raise FileNotFoundError(
            f"{name!r} on the hub holds no experts that save_experts has written: it has no "
            "experts.json (the authors' published checkpoints are loaded by load_released)"
        )
    description = read_description(folder)
    codes = language_codes(description["languages"] if languages is None else languages)
    check_languages(name, codes, description)

    # From the same commit, though somebody may push another one meanwhile.
    files = [expert_file(folder, code).name for code in codes]
    folder = fetch_files(name, folder.name, [*SMALL_FILES, *files])
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{name!r} on the hub lacks {', '.join(missing)}, which its experts.json names: "
            "its owner has to push the experts again; or give an earlier revision"
        )
    return folder


def check_languages(source: str, codes: list[str], description: dict[str, Any]) -> None:
    """Raise FileNotFoundError where stored experts lack a language; it lists those that they have.

    Args:
        source: Where the experts are, for the message.
        codes: Of the wanted languages.
        description: Content of experts.json.
    """
    missing = [code for code in codes if code not in description["languages"]]
    if missing:
        raise FileNotFoundError(
            f"{source} holds no experts for {', '.join(missing)}; "
            f"it has {', '.join(description['languages'])}"
        )


# ---- to the hub


def push_experts(
    model: nn.Module,
    repo_id: str,
    *,
    card: Any = None,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    form: str = "fp16",
) -> str:
    """Upload experts and gates of all languages of a model, with a model card, in one commit.

    Nothing of Whisper itself is uploaded. The model and the files on this machine stay as they are,
    whatever happens. Where the hub has the same files already, nothing is committed.

    Args:
        model: A Whisper with experts.
        repo_id: "user/name" on the hub; the repository is made where it is missing.
        card: Content of README.md: a text, or a `huggingface_hub.ModelCard` such as `model_card`
            gives; the name "user/name" in it becomes `repo_id`. None: what the experts themselves
            tell, which is no data and no WER.
        private: Of a new repository: True: seen by its owner alone; False: by everybody; None: as
            the owner's settings say. One that is there stays as it is.
        token: With the right to write; None: that of `hf auth login` or HF_TOKEN.
        revision: A branch, made where it is missing; None: the main branch.
        commit_message: None: one that names languages and Whisper.
        form: As for `save_experts`.

    Returns:
        The address of the commit. It ends in the commit's name, the `revision` by which
        `load_experts` finds these experts also after another push.

    Raises:
        ValueError: Where no experts are attached, for an unknown form, a name that the hub does not
            allow, metadata of the card that it does not accept, or a repository with experts for
            languages that this model lacks.
        OSError: Where there is no token, it may not write there, or the hub cannot be reached.
    """
    check_upload(repo_id, token)
    with TemporaryDirectory(prefix="push-experts-") as temporary:
        folder = save_experts(model, temporary, form)
        description = without_path(read_description(folder))
        write_description(folder / "experts.json", description)
        text = str(plain_card(description) if card is None else card)
        text = text.replace(f'"{PLACEHOLDER_ID}"', f'"{repo_id}"')  # where it is loaded
        (folder / "README.md").write_text(text, encoding="utf-8")

        create_repository(repo_id, private, token)
        _check_no_language_vanishes(model, repo_id, revision, token)
        message = commit_message or f"Experts for {title_end(description)}"
        return upload_folder(folder, repo_id, message, token, revision)


def without_path(description: dict[str, Any]) -> dict[str, Any]:
    """Return the content of experts.json, without the path of a Whisper that is in a folder."""
    if description["base_model"] == "tiny" or base_on_hub(description):
        return description
    return description | {"base_model": Path(description["base_model"]).name}


def _check_no_language_vanishes(
    model: nn.Module, repo_id: str, revision: str | None, token: str | None
) -> None:
    """Raise ValueError where the hub has experts for languages that the model has none for.

    The new experts.json would not name them any more, and nobody would find them.
    """
    path = find_file(repo_id, "experts.json", revision, token)
    if path is None:
        return
    try:
        there = read_description(path.parent)["languages"]
    except ValueError:  # nobody can read them anyhow
        return
    lost = sorted(set(there) - set(expert_languages(model)))
    if lost:
        raise ValueError(
            f"{repo_id!r} has experts for {', '.join(lost)} too, and would lose them: attach them "
            f"first, load_experts(model, {repo_id!r}, languages={lost}), or push to another "
            "repository"
        )
