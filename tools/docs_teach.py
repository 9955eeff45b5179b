"""The generated parts of docs/teach: times of the notebooks, and the quizzes as Markdown."""

import json
import re
from functools import cache

from docs_tables import markdown_table
from stored_results import ROOT, read_timing

QUIZZES = ROOT / "docs" / "teach" / "quiz"
NOTEBOOKS = tuple(path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")))
APPENDIX = "90"  # it has neither exercises nor a quiz, and belongs to no afternoon
NUMBERS = tuple(stem[:2] for stem in NOTEBOOKS if stem[:2] != APPENDIX)

# The notebooks of each afternoon.
AFTERNOONS = {"1": ("00", "01"), "2": ("02",), "3": ("03",), "4": ("04", "07"), "5": ("05",)}

# Where each exercise is set: the afternoon, in class and at home.
SET = {
    "1": (("0.1", "1.1", "1.2"), ("0.2", "0.3", "1.3")),
    "2": (("2.1", "2.2", "2.3"), ("8.1",)),
    "3": (("3.1", "3.2"), ("3.3", "6.2")),
    "4": (("4.1", "4.2", "4.3", "7.1"), ("7.2", "7.3", "6.3")),
    "5": (("5.1", "5.2", "5.3"), ("6.1", "8.2", "8.3", "9.1", "9.2", "9.3")),
}

NOT_MEASURED = "not measured"
LETTERS = "abcd"


# ---- times


@cache
def seconds_of(preset: str) -> dict[str, float]:
    """Return the seconds that each notebook took in the reference run of a preset, by number."""
    timing = read_timing(ROOT / "results" / "reference" / preset)
    return {stem[:2]: seconds for stem, seconds in timing.items()}


def worded(seconds: float | None) -> str:
    """Return a time as "9 s" or "25 min"."""
    if seconds is None:
        return NOT_MEASURED
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def times(numbers: tuple[str, ...] = (*NUMBERS, APPENDIX)) -> str:
    """Return the table of the time that notebooks took in the reference runs."""
    rows = []
    for stem in NOTEBOOKS:
        number = stem[:2]
        if number in numbers:
            found = [worded(seconds_of(preset).get(number)) for preset in ("toy", "laptop")]
            rows.append([f"[{number}](../../notebooks/{stem}.ipynb)", *found])
    return markdown_table(rows, ["notebook", "`toy`", "`laptop`"])


def times_of(afternoon: str) -> str:
    """Return the same table for the notebooks of an afternoon."""
    return times(AFTERNOONS[afternoon])


# ---- exercises


def read_exercises() -> dict[str, dict[str, str]]:
    """Return the title, the dots and the minutes of each exercise, by its number."""
    found = {}
    pattern = r"# ### Exercise (\d\.\d): (.+)\n#\n# ([●○]+) · (\d+) minutes"
    for path in sorted((ROOT / "notebooks" / "source").glob("[0-9]*.py")):
        for number, title, dots, minutes in re.findall(pattern, path.read_text(encoding="utf-8")):
            title = re.sub(r" \((?:by hand|code|experiment)\)$", "", title)
            title = title[0].upper() + title[1:]
            found[number] = {"title": title, "dots": dots, "minutes": minutes}
    return found


def exercises() -> str:
    """Return the table of all exercises: their minutes, and where they are set."""
    places = {}
    for afternoon, (in_class, at_home) in SET.items():
        places |= dict.fromkeys(in_class, f"{afternoon}, in class")
        places |= dict.fromkeys(at_home, f"{afternoon}, at home")
    rows = [
        [number, about["title"], f"{about['dots']} {about['minutes']}", places[number]]
        for number, about in read_exercises().items()
    ]
    return markdown_table(rows, ["exercise", "", "minutes", "afternoon"])


# ---- quizzes


def read_quiz(number: str) -> list[dict]:
    """Return the questions on a notebook, in the format of jupyterquiz."""
    return json.loads((QUIZZES / f"{number}.json").read_text(encoding="utf-8"))


def quiz(number: str) -> str:
    """Return the questions on a notebook as Markdown, the reasons folded below each."""
    parts = []
    for place, item in enumerate(read_quiz(number), 1):
        choices = list(zip(LETTERS, item["answers"], strict=True))
        right = next(letter for letter, answer in choices if answer["correct"])
        parts += [f"**{number}.{place}** {item['question']}", ""]
        parts += [f"- ({letter}) {answer['answer']}" for letter, answer in choices]
        parts += ["", "<details><summary>Answer and reasons</summary>", "", f"Right: ({right})", ""]
        parts += [f"- ({letter}) {answer['feedback']}" for letter, answer in choices]
        parts += ["", "</details>", ""]
    return "\n".join(parts).rstrip()
