"""Wrong values by the kind of an option, and the options of the public functions."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

NAN = math.nan
INFINITE = math.inf

# Kind of an option -> values that it must refuse.
WRONG: dict[str, tuple] = {
    "whole from 1": (0, -1, 2.5, "3", "many", NAN, INFINITE, True, [4]),
    "whole from 0": (-1, 2.5, "3", NAN, INFINITE, True, [4]),
    "above 0": (0, -1.0, "0.1", "fast", NAN, INFINITE, -INFINITE, True, [0.1]),
    "from 0": (-1.0, "1", "long", NAN, -INFINITE, True, [1.0]),
    "share": (-0.1, 1.1, 50, "0.5", NAN, INFINITE, True, [0.5]),
    "flag": ("false", "true", "yes", "", 1, 0, 2, 0.0, []),
    "name": ("", "unknown", "../x", 3, 1.5, True, ["a"], "a" * 300, "x\0y"),
    "language": ("", "xx", "Klingon", "c", 3, ["cs", "ca"], True, "<|cs|>x"),
    "languages": ("", "xx", "Klingon", 3, True, [], ["xx"], [3]),
    "model": ("", "/no/such/folder", "no/such/model/at/all", 3, True, ["tiny"], "x\0y"),
    "folder": ("", 3, True, ["x"]),
    "text": (3, True, b"text", ["text"]),
}
REQUIRED = (None,)  # refused where the kind of an option does not end in "?"

PRESET = {
    "student": "model",
    "teacher": "model?",
    "corpus": "name",
    "second_corpus": "name",
    "other_corpus": "name?",
    "language": "language",
    "second_language": "language",
    "train_clips": "whole from 1?",
    "max_train_seconds": "above 0?",
    "teacher_clips": "whole from 1?",
    "validation_clips": "whole from 1?",
    "test_clips": "whole from 1?",
    "retention_clips": "whole from 1?",
    "epochs": "whole from 1",
    "teacher_epochs": "whole from 1",
    "batch_size": "whole from 1",
    "accumulation": "whole from 1",
    "margin_seconds": "from 0?",
    "train_margin_seconds": "from 0?",
    "max_new_tokens": "whole from 1",
    "normaliser": "name",
    "eval_batch_size": "whole from 1",
    "top_k": "whole from 1",
    "keep": "name",
    "seed": "whole from 0",
    "fidelity": "name",
}
TRAINING = {
    "learning_rate": "above 0",
    "epochs": "whole from 1",
    "batch_size": "whole from 1",
    "accumulation": "whole from 1",
    "warmup_ratio": "share",
    "batches": "name",
    "label_smoothing": "share",
    "budget": "share?",
    "per_stack": "flag",
    "divergence": "name",
    "temperature": "above 0",
    "uniformity": "from 0",
    "gate_dim": "whole from 1",
    "expert_dropout": "share",
    "gate_dropout": "share",
    "skip_gate": "share",
    "noise": "from 0",
    "hard": "flag",
    "always_open": "flag",
    "rank": "whole from 0",
    "seed": "whole from 0",
    "precision": "name",
}

# Why a wrong value is taken after all: (option, value as text) -> reason.
ACCEPTED: dict[tuple[str, str], str] = {
    ("budget", "0"): "no gate open: a limit of the range",
    ("max_train_seconds", "inf"): "no limit",
}


@dataclass(frozen=True)
class Value:
    """A wrong value of an option.

    Attributes:
        option: Its name.
        value: That is wrong.
    """

    option: str
    value: object

    @property
    def shown(self) -> str:
        """The value as text, shortened."""
        text = repr(self.value)
        return text if len(text) < 40 else f"{text[:36]} ..."


def wrong_values(options: dict[str, str]) -> Iterator[Value]:
    """Yield the wrong values of options, given by name and kind."""
    for option, kind in options.items():
        values = WRONG[kind.rstrip("?")]
        if not kind.endswith("?"):
            values += REQUIRED
        for value in values:
            yield Value(option, value)
