"""Training, scores and the comparison of methods, on recordings or on a corpus."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..checks import check_choice
from ..data.corpora.registry import CORPORA
from ..data.normalisers import NORMALISERS
from ..evaluation.scoring import FOR_UNSPACED, has_no_spaces, in_characters, main_rate
from ..evaluation.statistics import difference_or_nan
from ..files import atomic_folder, check_writable, expanded, tell
from ..lab.comparison import counts, score
from ..lab.lab import Lab
from ..lab.own_language import open_recordings
from ..lab.tables import show
from ..method.storage import read_description
from ..presets import get_preset
from ..training.methods import METHODS, Weights, get_method
from ..whisper.tokens import LANGUAGES, language_code
from .answers import Answer
from .folder_check import language_of

KEPT = ("n", "wer", "wer_low", "wer_high", "cer", "cer_low", "cer_high", "loops")


@dataclass(frozen=True)
class Where:
    """On what, and at which size.

    Attributes:
        preset: Name of a preset.
        recordings: A folder of recordings; None: a corpus.
        corpus: Name of a corpus; None: the preset's.
        language: Code or name; None: the folder's, or the preset's.
        student: Hub id or folder; None: the preset's.
        teacher: The same.
        normaliser: Of texts before they are compared; None: the preset's, or for a script without
            spaces one that keeps its marks.

    Raises:
        ValueError: For an unknown preset, corpus, language or normaliser, or both of `recordings`
            and `corpus`.
    """

    preset: str = "laptop"
    recordings: Path | None = None
    corpus: str | None = None
    language: str | None = None
    student: str | None = None
    teacher: str | None = None
    normaliser: str | None = None

    def __post_init__(self):
        get_preset(self.preset)
        if self.recordings is not None:
            object.__setattr__(self, "recordings", expanded(self.recordings))
        for name in ("student", "teacher"):
            model = getattr(self, name)
            if model is not None and expanded(model).is_dir():  # it goes on into what is stored
                object.__setattr__(self, name, str(expanded(model).absolute()))
        if self.recordings is not None and self.corpus is not None:
            raise ValueError("give either --recordings FOLDER or --corpus NAME")
        if self.corpus is not None:
            check_choice("--corpus", self.corpus, CORPORA)
        if self.language is not None:
            language_code(self.language)
        if self.normaliser is not None:
            check_choice("--normaliser", self.normaliser, NORMALISERS)

    def open(self) -> Lab:
        """Return the laboratory; recordings are prepared where they are new or have changed.

        Raises:
            ValueError: For a corpus without the language, or recordings without one.
            FileNotFoundError: Where there are no such recordings.
        """
        preset = get_preset(self.preset)
        changes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("student", "teacher", "normaliser")
            if getattr(self, name) is not None
        }
        if self.recordings is not None:
            code = language_of(self.recordings, self.language)
            return open_recordings(self.recordings, code, self.preset, **changes)
        code = language_code(self.language) if self.language else preset.language
        if self.corpus is not None:
            changes["corpus"] = self.corpus
        if self.language is not None:
            changes["language"] = code
        if has_no_spaces(code):
            changes.setdefault("normaliser", FOR_UNSPACED)
        if changes.keys() - {"normaliser"}:  # which changes no training
            changes["name"] = "-".join([preset.name, changes.get("corpus", preset.corpus), code])
        return Lab(self.preset, **changes)


# ---- train


def train(where: Where, systems: Sequence[str], to: Path | None = None) -> Answer:
    """Train methods, or find what an earlier call has trained.

    Args:
        where: The data and the size.
        systems: Names of methods.
        to: A new folder for the experts; None: they stay where they are. It takes one method.

    Raises:
        ValueError: For an unknown method, one that is not trained, or one without experts where
            `to` is given.
        FileExistsError: Where `to` exists.
        OSError: Where `to` cannot be written, before anything is computed.
    """
    to = None if to is None else expanded(to)
    check_to_train(systems, to)
    lab = where.open()
    runs = []
    for name in systems:
        folder = lab.train(name) / "model"
        runs.append(
            {"system": name, "folder": str(folder), "experts": get_method(name).has_experts}
        )
    if to is not None:
        with atomic_folder(to, new=True) as part:
            shutil.copytree(runs[0]["folder"], part)
        runs[0]["folder"] = str(to)

    lines = [f"{run['system']}: {run['folder']}" for run in runs]
    if any(run["experts"] for run in runs):
        lines.append("use it: distilwhisper transcribe FILE --experts FOLDER")
    content = {**_about(lab), "runs": runs}
    return Answer(content, "\n".join(lines))


def check_to_train(systems: Sequence[str], to: Path | None) -> None:
    """Raise an error, as `train` does, for methods that cannot be trained or copied to `to`.

    The folder above `to` is made where it is missing.
    """
    trained = [name for name, method in METHODS.items() if method.weights is not Weights.STUDENT]
    for name in systems:
        check_choice("--system", name, trained)
    if to is None:
        return
    if len(systems) != 1 or not get_method(systems[0]).has_experts:
        known = [name for name, method in METHODS.items() if method.has_experts]
        raise ValueError(f"--to takes one system with experts: one of {', '.join(known)}")
    if to.exists():
        raise FileExistsError(f"{to} exists: give a new folder, or remove that one first")
    check_writable(to.absolute().parent)


def check_to_score(systems: Sequence[str], at_least: int = 1) -> None:
    """Raise ValueError for an unknown method, or too few of them."""
    for name in systems:
        check_choice("--system", name, METHODS)
    if len(set(systems)) < at_least:
        raise ValueError("a comparison takes two systems or more: --system A --system B")


# ---- evaluate and compare


def evaluate(where: Where, systems: Sequence[str], tests: Sequence[str]) -> Answer:
    """Score methods that are trained, each with its interval.

    Args:
        where: The data and the size.
        systems: Names of methods.
        tests: Names of tests, such as "in-domain".

    Raises:
        ValueError: For an unknown method or test, or one that is not trained yet.
    """
    check_to_score(systems)
    lab = where.open()
    keys = _keys(lab, tests)
    _refuse_untrained(lab, systems, where)
    rows = _scores(lab, systems, keys)
    content = {**_about(lab), "scores": rows, "experts": _hashes_of_experts(lab, systems)}
    return Answer(content, "\n".join([_heading(lab), _score_table(lab, rows)]))


def compare(where: Where, systems: Sequence[str], tests: Sequence[str]) -> Answer:
    """Score methods, and compare the first with each other one on the same clips.

    Args:
        where: The data and the size.
        systems: Names of methods, two or more.
        tests: Names of tests.

    Raises:
        ValueError: As `evaluate` does, or for fewer than two methods.
    """
    check_to_score(systems, at_least=2)
    lab = where.open()
    keys = _keys(lab, tests)
    _refuse_untrained(lab, systems, where)
    rows = _scores(lab, systems, keys)
    first, *others = systems
    pairs = [_pair(lab, first, other, key) for key in keys for other in others]
    hashes = _hashes_of_experts(lab, systems)
    content = {**_about(lab), "scores": rows, "pairs": pairs, "experts": hashes}
    lines = [_heading(lab), _score_table(lab, rows), "", _pair_heading(lab), _pair_table(pairs)]
    return Answer(content, "\n".join(lines))


def _keys(lab: Lab, tests: Sequence[str]) -> list[str]:
    """Return the keys of tests of the lab's language by name.

    Raises:
        ValueError: For a test that it does not have.
    """
    language = lab.preset.language
    known = [
        test.name
        for test in lab.test_sets.values()
        if (test.language, test.task) == (language, "transcribe")
    ]
    for name in tests:
        if name not in known:
            raise ValueError(f"unknown test {name!r}: in {language} there are {', '.join(known)}")
    return [f"{language}/{name}" for name in tests]


def _refuse_untrained(lab: Lab, systems: Sequence[str], where: Where) -> None:
    """Raise ValueError where a method is not trained yet; nothing is trained unasked."""
    missing = [name for name in systems if not lab.is_ready(name)]
    if missing:
        options = " ".join(f"--system {name}" for name in missing)
        raise ValueError(
            f"not trained yet: {', '.join(missing)}: call `distilwhisper train {options}` first, "
            f"with the same data and --preset {where.preset}"
        )


def _scores(lab: Lab, systems: Sequence[str], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each method and test, with what the command line tells of it."""
    rows = []
    for key in keys:
        for name in systems:
            tell(f"{name} on {key}")
            row = score(lab, name, key)
            test = lab.test_set(key).name
            rows.append({"system": name, "test": test, **{one: row[one] for one in KEPT}})
    return rows


def _hashes_of_experts(lab: Lab, systems: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the hashes of the files that the systems with experts were scored with, by system."""
    return {
        name: read_description(lab.train(name) / "model").get("sha256", {})
        for name in systems
        if get_method(name).has_experts
    }


def _pair(lab: Lab, first: str, other: str, key: str) -> dict[str, Any]:
    """Return the difference of two methods on a test, in the main rate of the language."""
    tables = [counts(lab, name, key) for name in (first, other)]
    rate = main_rate(lab.preset.language)
    if rate == "cer":
        tables = [in_characters(table) for table in tables]
    found = difference_or_nan(*tables)
    about = {"first": first, "other": other, "test": lab.test_set(key).name, "rate": rate}
    return about | {name: found[name] for name in ("difference", "low", "high", "p")}


# ---- in words


def _about(lab: Lab) -> dict[str, Any]:
    """Return what the scores were made with."""
    p = lab.preset
    return {
        "preset": p.name,
        "language": p.language,
        "corpus": p.corpus,
        "student": p.student,
        "teacher": p.teacher,
        "normaliser": p.normaliser,
        "main_rate": main_rate(p.language),
    }


def _heading(lab: Lab) -> str:
    p = lab.preset
    language = LANGUAGES[p.language].title()
    return (
        f"{language}, {p.corpus}, {p.student}: error rates in per cent with 95 % intervals; "
        f"texts normalised by {p.normaliser}"
    )


def _score_table(lab: Lab, rows: list[dict[str, Any]]) -> str:
    """Return the scores as a table; without WER where words have no spaces between them."""
    rates = ["cer"] if has_no_spaces(lab.preset.language) else ["wer", "cer"]
    table = []
    for row in rows:
        shown = {"test": row["test"], "system": row["system"]}
        for rate in rates:
            interval = _interval(row[f"{rate}_low"], row[f"{rate}_high"])
            shown[rate.upper()] = f"{row[rate]:.1f} {interval}"
        table.append(shown | {"loops %": round(row["loops"], 1), "clips": row["n"]})
    return repr(show(pd.DataFrame(table).set_index("test")))


def _pair_heading(lab: Lab) -> str:
    rate = main_rate(lab.preset.language).upper()
    return (
        f"differences of {rate}, in points, on the same clips; below 0 the first is better, and an "
        "interval that holds 0 decides nothing"
    )


def _pair_table(pairs: list[dict[str, Any]]) -> str:
    table = [
        {
            "test": pair["test"],
            "first": pair["first"],
            "other": pair["other"],
            "difference": f"{pair['difference']:+.1f} {_interval(pair['low'], pair['high'], '+')}",
            "p": "–" if math.isnan(pair["p"]) else f"{pair['p']:.3f}",
        }
        for pair in pairs
    ]
    return repr(show(pd.DataFrame(table).set_index("test")))


def _interval(low: float, high: float, sign: str = "") -> str:
    """Return an interval as text; a single unit gives none."""
    return "(one unit: no interval)" if math.isnan(low) else f"[{low:{sign}.1f}, {high:{sign}.1f}]"
