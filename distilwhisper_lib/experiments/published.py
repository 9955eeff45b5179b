"""The authors' published experts beside plain Whisper, on the same clips: nothing is trained.

At the preset `paper` the test is FLEURS, which is open to everybody: no account is needed. Each
prediction is kept as soon as its batch is transcribed, so that a stopped call goes on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..checks import check_choice, check_list
from ..evaluation.scoring import paired_difference
from ..files import check_writable, tell
from ..lab.comparison import counts, score
from ..lab.lab import Lab
from ..lab.preflight import Step, find_problems, raise_problems
from ..method.released import PUBLISHED
from ..presets import get_preset
from ..whisper.tokens import language_codes
from .as_they_are import Published, counts_as_it_is, score_as_it_is
from .estimates import CARDS, PUBLISHED_ROW, estimate
from .jobs import LANGUAGES, SIZES, Job

TEST = "out-of-domain"  # FLEURS at the preset `paper`

Plan = tuple[Lab, dict[str, str]]  # a language's lab, and its experts: hub id or folder by name

COLUMNS = (
    *("language", "system", "test_set", "n", "wer", "wer_low", "wer_high"),
    *("difference", "difference_low", "difference_high", "cer", "cer_low", "cer_high", "loops"),
    *("normaliser", "release", "revision"),
)
SHOWN = ("language", "system", "n", "wer", "difference", "difference_low", "difference_high")


def published_sources(language: str, sizes: Sequence[str] | None = None) -> dict[str, str]:
    """Return the published checkpoints that a language has, by size: hub ids.

    Args:
        language: Code.
        sizes: "3k", "10k" or "28k"; None: all that there are.

    Raises:
        ValueError: For another size.
    """
    wanted = [check_choice("a size", size, PUBLISHED) for size in sizes or PUBLISHED]
    return {size: PUBLISHED[size] for size in wanted if language in SIZES[size]}


def compare_published(
    lab: Lab, sources: Mapping[str, str | Path], test: str = TEST
) -> pd.DataFrame:
    """Return scores of plain Whisper and of published experts on a test, in the lab's language.

    Args:
        lab: At a preset whose student is the Whisper that the experts belong to.
        sources: Hub id or folder by name, such as `published_sources` gives them.
        test: Name of a test of transcription.

    Returns:
        A row for each system, the student first: the columns of COLUMNS that there are.
        difference: its WER less the student's on the same clips, in points, with its 95 % interval.

    Raises:
        ValueError: Where the experts do not belong to the student, and for another test.
        OSError: Where the hub cannot be reached, or a file is missing.
    """
    key = lab.test_set(f"{lab.preset.language}/{test}").key
    rows = [score(lab, "student", key)]
    plain = counts(lab, "student", key)
    for name, source in sources.items():
        model = Published(str(source))
        row = score_as_it_is(lab, f"published {name}", model, key)
        found = paired_difference(counts_as_it_is(lab, model, key), plain)
        row["difference"] = found["difference"]
        row["difference_low"], row["difference_high"] = found["low"], found["high"]
        rows.append(row)
    table = pd.DataFrame(rows)
    return table[[column for column in COLUMNS if column in table]]


def score_published(
    preset: str = "paper",
    languages: Sequence[str] | None = None,
    sizes: Sequence[str] | None = None,
    folders: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Score published experts in several languages, printing each language's rows.

    Args:
        preset: Name of a preset; its student is the Whisper that the experts belong to.
        languages: Codes or names; None: at `paper` the paper's, else the preset's first.
        sizes: Of the checkpoints on the hub; None: all that a language has.
        folders: Folders in the published format, to be scored instead of those on the hub.

    Returns:
        As `compare_published`.

    Raises:
        ValueError: Where anything is wrong before anything is computed; the message lists all.
        OSError: Where the hub cannot be reached; nothing is computed then.
    """
    base = get_preset(preset)
    is_paper = base.corpus.startswith("common-voice")
    if languages is None:
        languages = LANGUAGES if is_paper else [base.language]
    codes = list(dict.fromkeys(language_codes(check_list("languages", languages))))
    plans: list[Plan] = []
    for code in codes:
        if folders is None:
            sources = published_sources(code, sizes)
        else:
            names = [Path(folder).name for folder in folders]
            is_clear = len(set(names)) == len(names)
            sources = dict(zip(names if is_clear else folders, folders, strict=True))
        if sources:
            plans.append((Lab(Job(preset, code, "all", "student").settings()), sources))
    if not plans:
        known = "; ".join(f"{size}: {', '.join(SIZES[size])}" for size in PUBLISHED)
        raise ValueError(
            f"no published experts for {', '.join(codes)} at {', '.join(sizes or PUBLISHED)}: "
            f"there are {known}"
        )

    plans = _check(plans, is_hub=folders is None)
    _tell_hours(plans)
    tables = []
    for number, (lab, sources) in enumerate(plans, 1):
        print(f"{lab.preset.language}: language {number} of {len(plans)}", flush=True)
        table = compare_published(lab, sources)
        shown = table[[column for column in SHOWN if column in table]].round(1)
        print(shown.to_string(index=False, na_rep=""), flush=True)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _tell_hours(plans: list[Plan]) -> None:
    """Print how long this takes by estimate, where the shape of the student is known."""
    rows = []
    for lab, sources in plans:
        rows += [
            estimate(name, lab.preset, 1, [TEST])
            for name in ("student", *len(sources) * [PUBLISHED_ROW])
        ]
    total = pd.DataFrame(rows).sum()
    minutes = [
        f"{60 * total[f'{card} h']:.0f} min on one {card}" for card in CARDS if f"{card} h" in total
    ]
    if minutes:
        print(f"by estimate, not measured: {', '.join(minutes)}", flush=True)


def _check(plans: list[Plan], is_hub: bool) -> list[Plan]:
    """Find what is wrong before anything is computed.

    Args:
        plans: What is going to be scored.
        is_hub: The experts are on the hub: a language that one of them lacks there is left out.

    Returns:
        The plans without what is left out.

    Raises:
        OSError: For the first file that cannot be fetched, for the others could not be either.
        ValueError: Where other things are wrong; the message lists all of them.
    """
    problems: list[Exception] = []
    lacking: list[Exception] = []
    checked: list[Plan] = []
    for lab, sources in plans:
        check_writable(lab.folder)
        language = lab.preset.language
        for problem in find_problems(lab, [Step("student", {}, (f"{language}/{TEST}",))]):
            if isinstance(problem, OSError) and not isinstance(problem, FileNotFoundError):
                raise problem
            problems.append(problem)
        there = {}
        for name, source in sources.items():
            try:
                Published(source).find(language)
                there[name] = source
            except FileNotFoundError as error:  # any other OSError: the hub cannot be reached
                (lacking if is_hub else problems).append(error)
            except ValueError as error:
                problems.append(error)
        if there:
            checked.append((lab, there))

    raise_problems(problems if checked else problems + lacking)
    for error in lacking:
        tell(f"left out: {error}")
    return checked
