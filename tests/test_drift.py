"""Every keyword that we pass to the libraries we use is one that the installed release knows."""

import ast
import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from pathlib import Path

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
FOLDERS = ("distilwhisper_lib", "notebooks", "tools", "benchmarks")

# Methods of objects whose class a name does not show: method -> methods whose signatures count
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

# Where a function's **kwargs go, by its last name: their attributes, parameters or text hold what
# it knows
BEHIND = {
    "generate": (
        "transformers.GenerationConfig",
        "transformers.WhisperForConditionalGeneration.forward",
    ),
    "from_pretrained": ("transformers.modeling_utils", "transformers.tokenization_utils_base"),
    "save_pretrained": ("peft.PeftModel.save_pretrained",),
    "GenerationConfig": (
        "transformers.GenerationConfig",
        "transformers.models.whisper.generation_whisper",
        "transformers.generation.logits_process",
    ),
    "WhisperConfig": ("transformers.configuration_utils",),
    "WhisperTokenizer": ("transformers.tokenization_utils_base",),
}


@dataclass(frozen=True)
class Use:
    """A call with a keyword: where it is, and the functions that may be called by that name."""

    place: str
    name: str
    keyword: str
    targets: tuple[str, ...]


@cache
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
    """Return {name in the file: dotted name} of what comes from one of LIBRARIES."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if not node.level and node.module.split(".")[0] in LIBRARIES:
                for alias in node.names:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in LIBRARIES:
                    names[alias.asname or alias.name] = alias.name
    return names


def called(function, names):
    """Return the dotted name of what is called, None where it is not from one of LIBRARIES."""
    parts = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if isinstance(function, ast.Name) and function.id in names:
        return ".".join([names[function.id], *reversed(parts)])
    return None


def uses(tree, place):
    """Yield the keywords of a file's calls into LIBRARIES."""
    names = imported(tree)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        dotted = called(node.func, names)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else None
        targets = (dotted,)
        if dotted is None:
            targets = tuple(f"{owner}.{method}" for owner in METHODS.get(method, ()))
        for keyword in node.keywords:
            if targets and keyword.arg:
                yield Use(f"{place}:{node.lineno}", method or dotted, keyword.arg, targets)


@cache
def strings_and_attributes(dotted):
    """Return the constants and attribute names in a module's source."""
    tree = ast.parse(inspect.getsource(find(dotted)))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def known_behind(dotted, keyword):
    """Return whether a module, a configuration or a function knows a keyword."""
    target = find(dotted)
    if inspect.ismodule(target):
        return keyword in strings_and_attributes(dotted)
    if inspect.isclass(target):
        return hasattr(target(), keyword)
    return keyword in inspect.signature(target).parameters


@cache
def accepts(dotted, keyword):
    """Return whether a function takes a keyword, by name or through its **kwargs."""
    target = find(dotted)
    parameters = inspect.signature(target).parameters
    if keyword in parameters:
        return True
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_any and not inspect.isclass(target):  # configurations hide theirs
        return False
    behind = BEHIND.get(dotted.rsplit(".", 1)[-1], ())
    return any(known_behind(other, keyword) for other in behind)


def all_uses():
    """Return the keywords of all our calls into LIBRARIES."""
    found = []
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found += uses(tree, path.relative_to(ROOT))
    return found


def test_the_installed_releases_know_every_keyword():
    found = all_uses()
    assert len(found) > 100
    unknown = [
        f"{use.place}: {use.name} of the installed release takes no {use.keyword!r}"
        for use in found
        if not any(accepts(target, use.keyword) for target in use.targets)
    ]
    assert not unknown, "\n".join(["", *unknown])


def test_the_search_finds_what_matters():
    found = {(use.name.rsplit(".", 1)[-1], use.keyword) for use in all_uses()}
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


def test_old_and_invented_keywords_are_found():
    wrong = [
        ("transformers.TrainingArguments", "evaluation_strategy"),
        ("transformers.TrainingArguments", "no_cuda"),
        ("jiwer.process_words", "truth"),
        ("transformers.WhisperForConditionalGeneration.generate", "max_tokens"),
        ("transformers.GenerationConfig", "language_to_id"),
        ("peft.LoraConfig", "alpha"),
        ("huggingface_hub.snapshot_download", "resume_download"),
        ("transformers.WhisperConfig", "attention_backend"),
    ]
    accepted = [(dotted, keyword) for dotted, keyword in wrong if accepts(dotted, keyword)]
    assert not accepted, accepted
