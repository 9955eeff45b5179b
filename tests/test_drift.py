"""Every keyword that we pass to the libraries we stand on is one that the installed release knows."""

import ast
import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = (
    "transformers",
    "datasets",
    "peft",
    "jiwer",
    "sacrebleu",
    "safetensors",
    "accelerate",
    "huggingface_hub",
)
FOLDERS = ("distilwhisper_lib", "notebooks/source", "tools", "benchmarks")
CODE = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# methods of objects that a name does not lead to: method -> classes whose signatures count
METHODS = {
    "from_pretrained": (
        "transformers.WhisperForConditionalGeneration",
        "transformers.WhisperProcessor",
        "peft.PeftModel",
    ),
    "save_pretrained": ("transformers.WhisperForConditionalGeneration", "peft.PeftModel"),
    "generate": ("transformers.WhisperForConditionalGeneration",),
    "batch_decode": ("transformers.WhisperTokenizer",),
    "decode": ("transformers.WhisperTokenizer",),
    "save_to_disk": ("datasets.Dataset",),
    "corpus_score": ("sacrebleu.metrics.BLEU",),
    "sentence_score": ("sacrebleu.metrics.BLEU",),
    "train": ("transformers.Trainer",),
}
# where a function's **kwargs go, by its last name: the attributes, parameters or text of these hold what it knows
BEHIND = {
    "generate": (
        "transformers.GenerationConfig",
        "transformers.WhisperForConditionalGeneration.forward",
    ),
    "from_pretrained": ("transformers.modeling_utils", "transformers.tokenization_utils_base"),
    "GenerationConfig": (
        "transformers.GenerationConfig",
        "transformers.models.whisper.generation_whisper",
        "transformers.generation.logits_process",
    ),
    "WhisperConfig": ("transformers.configuration_utils",),
    "WhisperTokenizer": ("transformers.tokenization_utils_base",),
}


@dataclass(frozen=True)
class Used:
    """A call with a keyword: where it is, and what may be called by that name."""

    place: str
    name: str
    keyword: str
    targets: tuple[str, ...]


def find(dotted):
    """Return the object that a dotted name means."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"there is no {dotted}")


def imported(tree):
    """Return name in the file -> dotted name, for what comes from one of LIBRARIES."""
    names = {}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and node.module.split(".")[0] in LIBRARIES
        ):
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
        elif isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name: alias.name
                for alias in node.names
                if alias.name.split(".")[0] in LIBRARIES
            }
    return names


def called(function, names):
    """Return the dotted name of what is called, or None where it is not from one of LIBRARIES."""
    parts = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if isinstance(function, ast.Name) and function.id in names:
        return ".".join([names[function.id], *reversed(parts)])
    return None


def uses(path):
    """Yield the keywords of a file's calls into LIBRARIES."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = imported(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        dotted = called(node.func, names)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else None
        targets = [dotted] if dotted else [f"{owner}.{method}" for owner in METHODS.get(method, ())]
        for keyword in [keyword.arg for keyword in node.keywords if keyword.arg] if targets else ():
            yield Used(f"{path.name}:{node.lineno}", method or dotted, keyword, tuple(targets))


def known_behind(dotted, keyword):
    """Return whether a configuration has an attribute, a function a parameter, or a module a string of that name."""
    target = find(dotted)
    if inspect.ismodule(target):
        tree = ast.parse(inspect.getsource(target))
        return any(
            keyword in (getattr(node, "value", None), getattr(node, "attr", None))
            for node in ast.walk(tree)
        )
    return (
        hasattr(target(), keyword)
        if inspect.isclass(target)
        else keyword in inspect.signature(target).parameters
    )


def accepts(dotted, keyword):
    """Return whether a function takes a keyword by name; with **kwargs, whether what stands behind it knows it."""
    target = find(dotted)
    parameters = inspect.signature(target).parameters
    if keyword in parameters:
        return True
    open_ended = inspect.isclass(target) or any(
        p.kind is p.VAR_KEYWORD for p in parameters.values()
    )  # configs hide theirs
    behind = BEHIND.get(dotted.rsplit(".", 1)[-1], ())
    return open_ended and any(known_behind(other, keyword) for other in behind)


USES = [use for path in CODE for use in uses(path)]


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.place}:{use.keyword}")
def test_keyword_is_known(use):
    assert any(accepts(target, use.keyword) for target in use.targets), (
        f"{use.place}: {use.name} of the installed release takes no {use.keyword!r}"
    )


def test_the_search_finds_what_matters():
    found = {(use.name.rsplit(".", 1)[-1], use.keyword) for use in USES}
    expected = {
        ("TrainingArguments", "eval_strategy"),
        ("LoraConfig", "target_modules"),
        ("Audio", "decode"),
        ("generate", "max_new_tokens"),
        ("from_pretrained", "dtype"),
        ("process_words", "reference"),
        ("snapshot_download", "allow_patterns"),
        ("WhisperConfig", "attn_implementation"),
    }
    assert expected <= found, expected - found


@pytest.mark.parametrize(
    "dotted, keyword",
    [
        ("transformers.TrainingArguments", "evaluation_strategy"),
        ("transformers.TrainingArguments", "no_cuda"),
        ("jiwer.process_words", "truth"),
        ("transformers.WhisperForConditionalGeneration.generate", "max_tokens"),
        ("transformers.GenerationConfig", "language_to_id"),
        ("peft.LoraConfig", "alpha"),
        ("huggingface_hub.snapshot_download", "resume_download"),
        ("transformers.WhisperConfig", "attention_backend"),
    ],
)
def test_an_old_or_invented_keyword_is_found_out(dotted, keyword):
    assert not accepts(dotted, keyword)
