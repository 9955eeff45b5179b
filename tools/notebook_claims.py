"""What the notebooks say of results, and whether their outputs bear it out.

Each claim is a passage of a notebook and a function that looks at the outputs of the committed
notebook, or at the reference results. A function returns True where the passage holds.

    .venv/bin/python tools/notebook_claims.py    list the claims that do not hold
"""

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import nbformat
import pandas as pd

from notebooks import NOTEBOOKS, code_cells, read_source, sources

ROOT = Path(__file__).resolve().parent.parent

MOST_WORDS = 80  # of a Read paragraph

# What may stand in a Read paragraph as a number without being a result
NO_RESULT = re.compile(
    r"`[^`]*`"  # code
    r"|\$[^$]*\$"  # formulas
    r"|[Nn]otebooks? \d\d(?:(?:,| and| to) \d\d)*"
    r"|(?:sections?|exercises?) \d(?:\.\d)?"
    r"|95 % intervals?"
)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:,\d{3})*(?:\.\d+)?")


class Claim(NamedTuple):
    """A passage that says something of a result.

    Attributes:
        passage: As it stands in the notebook, line breaks aside.
        holds: Whether it is true of the committed outputs.
    """

    passage: str
    holds: Callable[[], bool]


# ---- paragraphs


def paragraphs(path: Path) -> Iterator[str]:
    """Yield the paragraphs of a source, each on one line."""
    for cell in read_source(path):
        if cell.cell_type == "markdown":
            for paragraph in cell.source.split("\n\n"):
                yield " ".join(paragraph.split())


def read_paragraphs(path: Path) -> Iterator[str]:
    """Yield the paragraphs of a source that tell what an output shows, each on one line."""
    return (text for text in paragraphs(path) if text.startswith("**Read"))


def unbound_numbers(paragraph: str, claims: list[Claim]) -> list[str]:
    """Return the numbers of a paragraph that belong to no claim."""
    for claim in claims:
        paragraph = paragraph.replace(claim.passage, "")
    return NUMBER.findall(NO_RESULT.sub("", paragraph))


# ---- outputs


def output_of(stem: str, code: str) -> str:
    """Return what the first code cell that contains `code` has printed, in a committed notebook."""
    notebook = nbformat.read(NOTEBOOKS / f"{stem}.ipynb", as_version=4)
    for cell in code_cells(notebook):
        if code in cell.source:
            texts = [out.get("text") or out["data"].get("text/plain", "") for out in cell.outputs]
            return "\n".join("".join(text) for text in texts)
    raise LookupError(f"{stem} has no cell with {code!r}")


def numbers_of(stem: str, code: str, label: str) -> list[float]:
    """Return the numbers of the line of an output that begins with `label`, those in it aside."""
    for line in output_of(stem, code).splitlines():
        if line.strip().startswith(label):
            rest = line.strip().removeprefix(label)
            return [float(number.replace(",", "")) for number in NUMBER.findall(rest)]
    raise LookupError(f"{stem}: no line of the output begins with {label!r}")


def reference(system: str, test: str) -> pd.Series:
    """Return a system's scores on a test such as "cs/noise", in the course's reference run."""
    table = pd.read_csv(ROOT / "results" / "reference" / "laptop" / "comparison.csv")
    language, name = test.split("/")
    chosen = table[
        (table["system"] == system) & (table["language"] == language) & (table["test_set"] == name)
    ]
    return chosen.iloc[0]


def overlap(first: pd.Series, second: pd.Series, score: str = "wer") -> bool:
    """Whether the intervals of two scores have a point in common."""
    low, high = f"{score}_low", f"{score}_high"
    return first[low] <= second[high] and second[low] <= first[high]


def decided(row: pd.Series, suffix: str = "") -> bool:
    """Whether the interval of a paired difference leaves out zero."""
    return row[f"low{suffix}"] > 0 or row[f"high{suffix}"] < 0


def shows(number: float, text: str) -> bool:
    """Whether a number is written as `text` once it is rounded to as many decimals."""
    decimals = len(text.partition(".")[2])
    return abs(number - float(text)) <= 0.5 * 10**-decimals + 1e-9


def table_numbers(stem: str, code: str, label: str) -> list[float]:
    """Return the numbers of a row of a table that is printed in several blocks of columns."""
    lines = [line.strip() for line in output_of(stem, code).splitlines()]
    rows = [line.removeprefix(label) for line in lines if line.startswith(label)]
    if not rows:
        raise LookupError(f"{stem}: no row of the table begins with {label!r}")
    return [float(number.replace(",", "")) for row in rows for number in NUMBER.findall(row)]


# ---- the claims


def _margin(label: str) -> tuple[float, float, float]:
    """Return seconds, word errors and loops with a margin, in notebook 00."""
    seconds, _, errors, loops, *_ = numbers_of("00_setup", '"word errors"', label)
    return seconds, errors, loops


def _texts_mostly_differ() -> bool:
    *_, same, clips = numbers_of("00_setup", '"word errors"', "6 s")
    return same < clips / 2


def _extra_frames() -> bool:
    text = output_of("00_setup", "become {features.shape[1]} frames")
    samples, _, frames = map(float, re.findall(r"(\d+) samples, ([\d.]+) s, become (\d+)", text)[0])
    return 1 <= frames - samples / 160 < 3


def setup() -> list[Claim]:
    """Return the claims of notebook 00."""
    half, six, native = (
        lambda name=name: _margin(name) for name in ("0.5 s", "6 s", "native 30 s")
    )
    return [
        Claim("there are one or two more", _extra_frames),
        Claim(
            "That costs words, and in this small test time as well.",
            lambda: half()[0] > six()[0] and half()[1] > six()[1] and half()[2] > 0,
        ),
        Claim(
            "With 6 s the loops are gone, and there are no more word errors than in the native "
            "window.",
            lambda: six()[2] == 0 and six()[1] <= native()[1],
        ),
        Claim("Yet most texts are not the same", _texts_mostly_differ),
    ]


def _gap(test: str) -> bool:
    student, teacher = reference("student", test), reference("teacher", test)
    return teacher["wer"] < student["wer"] and not overlap(student, teacher)


def _forgets() -> bool:
    """Whether the stand-in is worse in a language that it was not tuned on."""
    tests = [f"{language}/retention" for language in ("nl", "ru", "es", "fr", "it")]
    return any(reference("teacher", t)["wer"] > reference("student", t)["wer"] for t in tests)


def _changes(sound: str) -> tuple[float, float]:
    """Return what a sound costs student and stand-in, in points of WER (notebook 01)."""
    line = numbers_of("01_baseline_gap", 'both.pivot(index="system"', f"{sound} changes WER by")
    return line[0], line[1]


def _confused() -> list[int]:
    """Return how often each pair of words is confused (notebook 01)."""
    printed = output_of("01_baseline_gap", "confusions(table[inside]).most_common(8)")
    return [int(times) for times in re.findall(r"\((\d+)\)", printed)]


def baseline_gap() -> list[Claim]:
    """Return the claims of notebook 01."""
    domains = ("cs/in-domain", "cs/out-of-domain")
    inside, outside = (reference("student", test) for test in domains)
    stress = reference("student", "cs/other-characters")
    own = numbers_of("01_baseline_gap", "WER of each clip", "WER of each clip")
    return [
        Claim("The first clip alone has a WER of 200 %", lambda: own[0] == 200),
        Claim("The intervals of the two leads overlap.", lambda: overlap(inside, outside)),
        Claim(
            "In the stress test errors are far more frequent, and the interval is wide.",
            lambda: (
                stress["wer"] > 1.2 * max(inside["wer"], outside["wer"])
                and stress["wer_high"] - stress["wer_low"] > 20
            ),
        ),
        Claim(
            "CER is less than half of WER in both domains",
            lambda: all(row["cer"] < row["wer"] / 2 for row in (inside, outside)),
        ),
        Claim(
            "In Czech the stand-in is ahead in both domains, and the intervals are apart",
            lambda: all(_gap(test) for test in domains),
        ),
        Claim("look for those in which it is *worse* than the student", _forgets),
        Claim("None occurs more than four times.", lambda: max(_confused()) == 4),
        Claim(
            "the intervals of student and stand-in overlap",
            lambda: overlap(
                *(reference(n, "cs/translation") for n in ("student", "teacher")), "bleu"
            ),
        ),
        Claim(
            "It loses more points than the student to both noise and echo, and yet it stays ahead.",
            lambda: (
                all(
                    student < teacher
                    for student, teacher in (_changes("noise"), _changes("reverberation"))
                )
                and all(
                    reference("teacher", f"cs/{name}")["wer"]
                    < reference("student", f"cs/{name}")["wer"]
                    for name in ("noise", "reverberation")
                )
            ),
        ),
    ]


def _toy_errors(label: str) -> tuple[float, float, float, float]:
    """Return the errors with soft and hard gates, the share of binary gates, and the lowest gate.

    They are those of notebook 02.
    """
    soft, hard, binary, lowest = numbers_of("02_language_experts", "train_toy(strongest)", label)
    return soft, hard, binary, lowest


def language_experts() -> list[Claim]:
    """Return the claims of notebook 02."""
    stem = "02_language_experts"
    without, noisy = (
        lambda name=name: _toy_errors(name) for name in ("without noise", "with noise up to 5")
    )
    return [
        Claim(
            "Without noise the soft mixture fits well, and rounding ruins it.",
            lambda: without()[1] > 3 * without()[0],
        ),
        Claim("No gate lies below one half.", lambda: without()[3] == noisy()[3] == 0.5),
        Claim(
            "With noise the fit in training is worse and the error in use is smaller",
            lambda: noisy()[0] > without()[0] and noisy()[1] < without()[1],
        ),
        Claim(
            "just what the files of the authors' release weigh (458 MB per language and data size)",
            lambda: round(numbers_of(stem, "SIZES.items()}).T", "small")[3]) == 458,
        ),
        Claim(
            "With a dozen, the experts and the small model together outweigh the large one.",
            lambda: numbers_of(stem, "is still smaller", "small with experts for") == [11, 12],
        ),
        Claim(
            "most gates are the encoder's, and in the release, which counts the 1,500 positions of "
            "a 30 s window whatever the clip's length, nearly all of them are.",
            lambda: (
                numbers_of(stem, "a 30 s window, unmasked", "gates:")[-1] > 50
                and numbers_of(stem, "a 30 s window, unmasked", "a 30 s window")[-1] > 95
            ),
        ),
        Claim("On a CPU the factor lies between 1 and 1.4", lambda: 1 < _times_plain() < 1.4),
    ]


def _times_plain() -> float:
    return numbers_of("02_language_experts", 'times")', "plain")[-1]


def _of(module: str, name: str) -> Callable[[], list[Claim]]:
    """Return claims of another module, which imports this one, so it is imported when asked."""

    def claims() -> list[Claim]:
        return getattr(import_module(module), name)()

    return claims


CLAIMS: dict[str, Callable[[], list[Claim]]] = {
    "00_setup": setup,
    "01_baseline_gap": baseline_gap,
    "02_language_experts": language_experts,
    "03_distillation": _of("notebook_claims_distillation", "claims"),
    "04_finetuning_and_lora": _of("notebook_claims_adapting", "claims"),
    "05_comparison": _of("notebook_claims_comparison", "comparison"),
    "06_paper_scale": _of("notebook_claims_beyond", "paper_scale"),
    "07_ablations": _of("notebook_claims_beyond", "ablations"),
    "08_faster_smaller_deployed": _of("notebook_claims_beyond", "faster_smaller_deployed"),
    "09_your_language": _of("notebook_claims_own_language", "claims"),
    "90_appendix_trainer": _of("notebook_claims_appendix", "appendix_trainer"),
}


def fault_of(claim: Claim) -> str:
    """Return why a claim does not hold, or an empty text where it does."""
    try:
        return "" if claim.holds() else "false"
    except (LookupError, ValueError) as error:  # no such output, or one of another shape
        return f"cannot be looked up: {error}"


def main() -> None:
    """Print the claims that do not hold; exit with 1 where there are any."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    wrong = []
    for path in sources():
        for claim in CLAIMS.get(path.stem, list)():
            fault = fault_of(claim)
            if fault:
                wrong.append(f"{path.stem}: {claim.passage} ({fault})")
    print("\n".join(wrong) or "all claims hold")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
