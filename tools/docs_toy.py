"""The generated parts of docs/toy-languages.md, from results/reference/toy/study."""

import json
from functools import cache

import pandas as pd
from docs_study import read as read_study
from docs_tables import label, markdown_table
from stored_results import ROOT, is_decided, points, score_of, with_interval

from distilwhisper_lib import DOMAINS, PRESETS, Fidelity, get_method
from distilwhisper_lib.evaluation.statistics import holm
from distilwhisper_lib.experiments.claims_tables import OTHER_LANGUAGES
from distilwhisper_lib.experiments.toy_models import RECIPES
from distilwhisper_lib.experiments.toy_study import PAIRS, SYSTEMS

STUDY = ROOT / "results" / "reference" / "toy" / "study"
KNOWN = ("ca", "gl", "pl")
OURS = "distilwhisper"

# Claims (a), (b), (c) of docs/statistics.md: first, other.
CLAIMS = {
    "(a) experts with the teacher, against fine-tuning": (OURS, "fine-tuning"),
    "(b) experts with the teacher, against LoRA": (OURS, "lora"),
    "(c) experts with the teacher, against experts without": (OURS, "experts"),
}

COMPUTED = ("student", "clips", "teacher", "loss", "nearness", "voice")  # knobs on the page

SHORT = {  # differences in the tables of knobs
    "experts + teacher − fine-tuning": (OURS, "fine-tuning"),
    "experts + teacher − LoRA": (OURS, "lora"),
    "teacher, for experts": (OURS, "experts"),
    "teacher, for fine-tuning": ("fine-tuning-teacher", "fine-tuning"),
    "teacher, for LoRA": ("lora-teacher", "lora"),
    "gates": ("experts", "experts-open"),
}


@cache
def read(name: str) -> pd.DataFrame:
    """Return a stored table of the study."""
    return pd.read_csv(STUDY / f"{name}.csv", dtype={"position": str})


def about(part: str) -> dict:
    """Return the record of a part of the study."""
    return json.loads((STUDY / f"{part}.json").read_text(encoding="utf-8"))


def rate_of(system: str, test: str) -> pd.Series:
    """Return a row of systems.csv."""
    return read("systems").query("system == @system and test == @test").iloc[0]


def pair_of(first: str, other: str, test: str) -> pd.Series:
    """Return a row of pairs.csv."""
    return read("pairs").query("first == @first and other == @other and test == @test").iloc[0]


def others_of(system: str) -> float:
    """Return a system's mean WER in the languages that the student knows."""
    return sum(rate_of(system, code)["wer"] for code in KNOWN) / len(KNOWN)


# ---- the study of seeds


def systems() -> str:
    """Return every system's WER on each test."""
    rows = []
    for system in ("student", "teacher", *SYSTEMS):
        found = [with_interval(rate_of(system, test)) for test in DOMAINS]
        translation = rate_of(system, "translation")["wer"]
        rows.append([label(system), *found, f"{others_of(system):.1f}", f"{translation:.1f}"])
    return markdown_table(
        rows, ["system", *(f"{test} WER" for test in DOMAINS), "known languages", "translation"]
    )


def claims() -> str:
    """Return the claims (a) to (c) in both domains, with p values corrected by Holm's method."""
    found = {
        f"{text}, {test}": pair_of(*pair, test) for text, pair in CLAIMS.items() for test in DOMAINS
    }
    corrected = holm({name: row["p"] for name, row in found.items()})
    rows = [
        [name, points(row), f"{corrected[name]:.3f}", _outcome(row, corrected[name])]
        for name, row in found.items()
    ]
    return markdown_table(rows, ["claim", "difference", "p, Holm", "here"])


def _outcome(row: pd.Series, p: float) -> str:
    """Return what a claim's difference shows."""
    if p > 0.05:
        return "open"
    return "holds" if row["difference"] < 0 else "the contrary holds"


def answer() -> str:
    """Return the sentences that sum the study of seeds up."""
    sentences = [_whether_experts_win(test) for test in DOMAINS]
    sentences.append(_what_the_teacher_does())
    kept = others_of("student")
    lost = {name: others_of(name) - kept for name in ("fine-tuning", "lora")}
    if others_of(OURS) != kept:
        raise ValueError("experts changed other languages while off")
    sentences.append(
        f"In the languages that the student knows, fine-tuning raises its WER by "
        f"{lost['fine-tuning']:.0f} points, a LoRA that is on by {lost['lora']:.0f}; experts and a "
        "LoRA that are off by nothing."
    )
    return " ".join(sentences)


def _whether_experts_win(test: str) -> str:
    """Return whether experts with the teacher beat fine-tuning and LoRA on a test."""
    parts = []
    for rival, text in (("fine-tuning", "fine-tuning"), ("lora", "LoRA")):
        row = pair_of(OURS, rival, test)
        if not is_decided(row):
            parts.append(f"are not decidedly better or worse than {text} ({points(row)})")
        elif row["difference"] < 0:
            parts.append(f"beat {text} by {points(row)}")
        else:
            parts.append(f"lose to {text} by {points(row)}")
    return f"{test.capitalize()}, experts with the teacher {' and '.join(parts)} points of WER."


def _what_the_teacher_does() -> str:
    """Return what distillation changes, with our gates and as released."""
    parts = []
    for text, pair in (
        ("with our gates", (OURS, "experts")),
        ("with the gates as released", ("distilwhisper-released", "clsr-ft")),
    ):
        found = [pair_of(*pair, test) for test in DOMAINS]
        numbers = " and ".join(points(row) for row in found)
        if len({PRESETS["toy"].learning_rate(name) for name in pair}) > 1:
            numbers += "; each with the learning rate of its own trials"
        if all(is_decided(row) and row["difference"] < 0 for row in found):
            parts.append(f"{text} it helps in both domains ({numbers})")
        elif any(is_decided(row) for row in found):
            parts.append(f"{text} it is decided in one domain alone ({numbers})")
        else:
            parts.append(f"{text} nothing is decided ({numbers})")
    return f"The teacher, for experts: {'; '.join(parts)}."


def pairs() -> str:
    """Return all differences of the study."""
    rows = [
        [
            f"{label(first)} − {label(other)}",
            *(f"{points(pair_of(first, other, test))}" for test in DOMAINS),
        ]
        for first, other in PAIRS
    ]
    return markdown_table(rows, ["difference", *DOMAINS])


def run() -> str:
    """Return where the figures come from."""
    record = about("seeds")
    machine = record["machine"]
    words = int(pd.read_csv(STUDY / "errors-in-domain.csv")["words"].sum())
    return (
        f"{len(record['seeds'])} seeds, each with its own {PRESETS['toy'].train_clips} training "
        f"clips; tests of {words} words a domain. Machine: {machine['processor']}, "
        f"{machine['cores']} cores, fp32. Commit `{record['commit'][:10]}`. Intervals resample "
        "seeds and clips ([statistics](statistics.md))."
    )


def models() -> str:
    """Return how the two models were made."""
    rows = []
    for role, recipe in RECIPES.items():
        stages = [f"{stage.steps} steps, {stage.share:.0%} each" for stage in recipe.stages]
        wers = [f"{rate_of(role, test)['wer']:.1f}" for test in ("in-domain", "out-of-domain")]
        rows.append([role, str(recipe.width), "; ".join(stages), *wers, f"{others_of(role):.1f}"])
    return markdown_table(
        rows,
        [
            "model",
            "width",
            "batches of 32, share of each little-known language",
            *(f"{test} WER" for test in DOMAINS),
            "known languages",
        ],
    )


# ---- beside real speech


def real_speech() -> str:
    """Return the differences of both studies beside each other, and whether they agree."""
    table = read_study("pairs").set_index(["first", "other", "test"])
    rows = []
    for first, other in PAIRS:
        for test in DOMAINS:
            if (first, other, test) not in table.index:
                continue
            toy, real = pair_of(first, other, test), table.loc[(first, other, test)]
            name = f"{label(first)} − {label(other)}, {test}"
            rows.append([name, points(toy), points(real), _agreement(toy, real)])
    differences = markdown_table(rows, ["difference", "toy", "real speech", ""])
    return f"{differences}\n\n{_other_languages()}"


def _other_languages() -> str:
    """Return what both worlds lose in other languages."""
    table = read_study("systems")
    real = table[table["fold"].isna()].set_index(["system", "test"])["wer"]
    rises = {}
    for name in ("fine-tuning", "lora"):
        at_toy = others_of(name) - others_of("student")
        with_speech = real[name, OTHER_LANGUAGES] - real["student", OTHER_LANGUAGES]
        if min(at_toy, with_speech) <= 0:
            raise ValueError(f"{name} has not raised the WER of other languages")
        rises[name] = f"{at_toy:.0f} points at toy, {with_speech:.0f} with real speech"
    return (
        f"In other languages fine-tuning raises the WER ({rises['fine-tuning']}), and so does a "
        f"LoRA that is on ({rises['lora']}). Experts and a LoRA that are off leave the student."
    )


def _agreement(toy: pd.Series, real: pd.Series) -> str:
    """Return whether the two worlds say the same of a difference."""
    decided = (is_decided(toy), is_decided(real))
    if decided == (True, True):
        is_same = (toy["difference"] < 0) == (real["difference"] < 0)
        return "alike" if is_same else "**contrary**"
    return {
        (False, False): "both open",
        (True, False): "decided at toy alone",
        (False, True): "decided with real speech alone",
    }[decided]


# ---- knobs


def knob(name: str) -> str:
    """Return the tables of a knob, one for each test.

    They have differences over the positions, those that are decided in bold; where all systems
    learn from the teacher, so that there is nothing to subtract, their WER.
    """
    table = read(f"knob-{name}")
    tests = [test for test in (*DOMAINS, "other voice") if test in set(table["test"])]
    if "other voice" in tests:
        tests = ["other voice"]
    content = _differences if _has_differences(name) else _rates
    return "\n\n".join(f"{test.capitalize()}:\n\n{content(name, test)}" for test in tests)


def _has_differences(name: str) -> bool:
    """Return whether a knob has any of the differences of SHORT."""
    table = read(f"knob-{name}-pairs")
    return bool(set(zip(table["first"], table["other"], strict=True)) & set(SHORT.values()))


def _differences(name: str, test: str) -> str:
    """Return the differences of SHORT over the positions of a knob."""
    table, pairs = (
        found[found["test"] == test] for found in (read(f"knob-{name}"), read(f"knob-{name}-pairs"))
    )
    students = table[table["system"] == "student"].set_index("position")["wer"]
    rows = []
    for position in dict.fromkeys(pairs["position"]):
        at = pairs[pairs["position"] == position]
        cells = [_cell(at, first, other) for first, other in SHORT.values()]
        rows.append([position, f"{students[position]:.1f}", *cells])
    return markdown_table(rows, ["", "student's WER", *SHORT])


def _rates(name: str, test: str) -> str:
    """Return the WER of each system over the positions of a knob."""
    table = read(f"knob-{name}")
    here = table[table["test"] == test]
    systems = list(dict.fromkeys(here["system"]))
    rows = []
    for position in dict.fromkeys(here["position"]):
        at = here[here["position"] == position].set_index("system")
        rows.append([position, *(with_interval(at.loc[system]) for system in systems)])
    return markdown_table(rows, ["", *(label(system) for system in systems)])


def _cell(rows: pd.DataFrame, first: str, other: str) -> str:
    """Return a difference, in bold where it is decided; a dash where there is none."""
    found = rows[(rows["first"] == first) & (rows["other"] == other)]
    if found.empty:
        return "–"
    row = found.iloc[0]
    text = f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
    return f"**{text}**" if is_decided(row) else text


def knobs_answer() -> str:
    """Return where over all knobs each difference of SHORT is decided, and on which side."""
    table = pd.concat([read(f"knob-{name}-pairs") for name in COMPUTED])
    decided = (table["low"] > 0) | (table["high"] < 0)
    rows = []
    for text, (first, other) in SHORT.items():
        of_pair = (table["first"] == first) & (table["other"] == other)
        below = table[of_pair & decided & (table["difference"] < 0)]
        above = table[of_pair & decided & (table["difference"] > 0)]
        still_open = str((of_pair & ~decided).sum())
        rows.append([text, _places(below), _places(above), still_open])
    return markdown_table(rows, ["difference", "decided below 0", "decided above 0", "open"])


def _places(rows: pd.DataFrame) -> str:
    """Return knob and position of each row, test by test."""
    named = rows.assign(place=rows["knob"] + " " + rows["position"])
    by_test = named.groupby("test", sort=False)["place"].agg(", ".join)
    return "; ".join(f"{test}: {places}" for test, places in by_test.items()) or "nowhere"


def where_others_lie() -> str:
    """Return where the settings of other presets lie on the knobs; empty where nobody knows."""
    toy, laptop, paper = (PRESETS[name] for name in ("toy", "laptop", "paper"))
    student, teacher = (score_of(name, "in-domain")["wer"] for name in ("student", "teacher"))
    toy_student, toy_teacher = (
        rate_of(name, "in-domain")["wer"] for name in ("student", "teacher")
    )
    rows = [
        ["WER of the student, in-domain", f"{toy_student:.1f}", f"{student:.1f}", ""],
        ["WER of the teacher, in-domain", f"{toy_teacher:.1f}", f"{teacher:.1f}", ""],
        ["labelled clips", str(toy.train_clips), "some 180, of one voice", "3,000 to 28,000"],
        ["divergence", *[get_method(OURS).objective(Fidelity()).divergence.upper()] * 2, "JS"],
        ["epochs", str(toy.epochs), str(laptop.epochs), str(paper.epochs)],
    ]
    return markdown_table(rows, ["knob", "toy", "laptop", "paper"])
