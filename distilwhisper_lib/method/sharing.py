"""Experts on the hub: found there, pushed there, and described by a model card.

A repository holds what `save_experts` writes, and the card, README.md; nothing of Whisper itself.
The card of this module says what experts.json says. `lab.card.model_card` makes one with the data
and the scores of a run, from the same pieces.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from ..files import write_json
from ..whisper.hub import (
    check_upload,
    create_repository,
    fetch_files,
    find_file,
    is_hub_id,
    local_folder,
    upload_folder,
)
from ..whisper.tokens import LANGUAGES, language_codes
from .blocks import expert_languages
from .storage import expert_file, read_description, save_experts

# Files beside those of the languages, as patterns.
SMALL_FILES = ["experts.json", "base*.safetensors"]

# Stands in a card for the repository's name, until `push_experts` knows it.
REPOSITORY = "user/name"

LIBRARY = "distilwhisper-lab"
NOT_STATED = "not stated"

# The hub knows Javanese by its present code.
HUB_CODES = {"jw": "jv"}


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
        ValueError: For a folder with a revision, or a damaged experts.json.
        OSError: Where the hub cannot be reached.
    """
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
    codes = language_codes(languages or description["languages"])
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
        description = _without_path(read_description(folder))
        write_json(folder / "experts.json", description)
        text = str(plain_card(description) if card is None else card)
        text = text.replace(REPOSITORY, repo_id)
        (folder / "README.md").write_text(text, encoding="utf-8")

        create_repository(repo_id, private, token)
        _check_no_language_vanishes(model, repo_id, revision, token)
        message = commit_message or f"Experts for {title_end(description)}"
        return upload_folder(folder, repo_id, message, token, revision)


def _without_path(description: dict[str, Any]) -> dict[str, Any]:
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


# ---- the model card


def plain_card(description: dict[str, Any]) -> Any:
    """Return a `huggingface_hub.ModelCard` that says what experts.json says: no data, no WER.

    Args:
        description: Content of experts.json.
    """
    parts = [
        f"# Experts for {title_end(description)}",
        f"No word error rate was given for these experts, and no training data.\n"
        f"{what_they_are(description)}",
        loading_section(description),
        f"## Settings\n\n{settings_table({'experts and gates': description['settings']})}",
        base_section(description),
        f"## Licence\n\nThe experts: {NOT_STATED}.",
        library_section(),
    ]
    return write_card(card_data(description), parts)


def write_card(metadata: dict[str, Any], parts: list[str]) -> Any:
    """Return a `huggingface_hub.ModelCard`.

    Args:
        metadata: Arguments of `huggingface_hub.ModelCardData`.
        parts: Of the text, in Markdown, in order.
    """
    from huggingface_hub import ModelCard, ModelCardData

    data = ModelCardData(**metadata)
    text = "\n\n".join(parts)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def card_data(description: dict[str, Any], licence: str | None = None) -> dict[str, Any]:
    """Return a card's metadata as far as experts.json tells it.

    Args:
        description: Content of experts.json.
        licence: The hub's id of one, such as "cc-by-4.0"; None: not stated.
    """
    data = {
        "language": [HUB_CODES.get(code, code) for code in description["languages"]],
        "library_name": LIBRARY,
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["whisper", "distilwhisper"],
    }
    if base_on_hub(description):
        data["base_model"] = description["base_model"]
        data["base_model_relation"] = "adapter"
    if licence:
        data["license"] = licence
    return data


def title_end(description: dict[str, Any]) -> str:
    """Return languages and Whisper, such as "Czech and Catalan (openai/whisper-base)"."""
    return f"{language_names(description['languages'])} ({base_name(description)})"


def language_names(codes: list[str]) -> str:
    """Return the English names of languages: "Czech, Dutch and Catalan"."""
    names = [LANGUAGES[code].title() for code in codes]
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def base_on_hub(description: dict[str, Any]) -> bool:
    """Return whether the Whisper comes from the hub: a folder has no revision."""
    return is_hub_id(description["base_model"]) and bool(description.get("revision"))


def base_name(description: dict[str, Any]) -> str:
    """Return the name of the Whisper; of a folder, no path of the machine it is on."""
    base = description["base_model"]
    if base == "tiny" or base_on_hub(description):
        return base
    return f"a local folder, {Path(base).name}"


def what_they_are(description: dict[str, Any]) -> str:
    """Return a paragraph on what the files are."""
    names = language_names(description["languages"])
    return (
        f"This repository holds language-specific experts and gates for {names}, "
        f"to be attached to a Whisper ({base_name(description)}) whose own weights stay as they "
        "are and are not stored here. Each feed-forward block gets an expert beside it, and a gate "
        "sends each position to one of the two (Multilingual DistilWhisper, arXiv 2311.01070)."
    )


def loading_section(description: dict[str, Any]) -> str:
    """Return the lines of code that load the experts."""
    base = description["base_model"]
    if base_name(description) != base:
        base = "folder-of-that-whisper"
    code = description["languages"][0]
    return f"""## How to load them

```python
from distilwhisper_lib import load_experts, load_whisper, set_language

model = load_whisper("{base}")
load_experts(model, "{REPOSITORY}")
set_language(model, "{code}")
```

`model` is a transformers Whisper: `model.generate(features, language="{code}")` transcribes. With
`set_language(model, None)` it is the plain Whisper again."""


def base_section(description: dict[str, Any]) -> str:
    """Return which Whisper the experts belong to, down to its hash."""
    revision = description.get("revision") or "not known"
    return f"""## Base model

| | |
| --- | --- |
| Whisper | {base_name(description)} |
| revision | {revision} |
| hash of its weights (`base_fingerprint`) | `{description["base_fingerprint"]}` |

`load_experts` refuses another Whisper."""


def settings_table(settings: dict[str, dict[str, Any]]) -> str:
    """Return settings as a table: a line per setting, by what it belongs to."""
    lines = ["| of | setting | value |", "| --- | --- | --- |"]
    for part, values in settings.items():
        lines += [f"| {part} | {name} | {value} |" for name, value in values.items()]
    return "\n".join(lines)


def library_section(commit: str | None = None) -> str:
    """Return which library has written the experts.

    Args:
        commit: Of the checkout; None: not known.
    """
    at = f", commit {commit}" if commit else ""
    return f"## Library\n\nDistilWhisper Lab (`{LIBRARY}`) {library_version()}{at}."


def library_version() -> str:
    """Return this library's version, "unknown" for a checkout that is not installed."""
    try:
        return version(LIBRARY)
    except PackageNotFoundError:
        return "unknown"
