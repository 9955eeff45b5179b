"""The text of a model card: what experts.json says of stored experts.

`lab.card.model_card` adds the data and the scores of a run.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..whisper.hub import is_hub_id
from ..whisper.tokens import LANGUAGES

# Stands in a card for the repository's name, until `push_experts` knows it.
PLACEHOLDER_ID = "user/name"  # of a repository that is not known yet

LIBRARY = "distilwhisper-lab"
NOT_STATED = "not stated"

# The hub knows Javanese by its present code.
HUB_CODES = {"jw": "jv"}


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


def what_they_are(description: dict[str, Any], place: str = "repository") -> str:
    """Return a paragraph on what the files are.

    Args:
        description: Content of experts.json.
        place: What they are in.
    """
    names = language_names(description["languages"])
    return (
        f"This {place} holds language-specific experts and gates for {names}, "
        f"to be attached to a Whisper ({base_name(description)}) whose own weights stay as they "
        "are and are not stored here. Each feed-forward block gets an expert beside it, and a gate "
        "sends each position to one of the two (Multilingual DistilWhisper, arXiv 2311.01070)."
    )


def loading_section(description: dict[str, Any], source: str = PLACEHOLDER_ID) -> str:
    """Return the lines of code that load the experts.

    Args:
        description: Content of experts.json.
        source: Their repository or folder.
    """
    base = description["base_model"]
    if base_name(description) != base:
        base = "folder-of-that-whisper"
    code = description["languages"][0]
    return f"""## How to load them

```python
from distilwhisper_lib import load_experts, load_whisper, set_language

model = load_whisper("{base}")
load_experts(model, "{source}")
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
