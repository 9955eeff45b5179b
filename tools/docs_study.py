"""The generated parts of docs/claims.md, from results/reference/study.

What is not computed yet is said to be so: the study is computed in parts.
"""

import itertools
import json
from functools import cache

import pandas as pd
from docs_tables import label, markdown_table
from stored_results import ROOT, is_decided, points, verdict, with_interval
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from distilwhisper_lib import DOMAINS
from distilwhisper_lib.experiments.cells import PAIRS
from distilwhisper_lib.experiments.claims import (
    CAUSE_SEEDS,
    FEWER_EPOCHS,
    FURTHER_SEEDS,
    RATES,
    SEEDS,
    STUDY,
    SYSTEMS,
    TUNED_AS,
    UNTRAINED,
    VOICES,
    cells_of_causes,
    cells_of_study,
)
from distilwhisper_lib.experiments.claims_curve import OTHERS, TARGET
from distilwhisper_lib.experiments.claims_tables import (
    GATELESS_PAIRS,
    HYPOTHESES,
    OTHER_LANGUAGES,
    STRESS,
    TIME,
    UNCHANGED,
    UNTRAINED_PAIRS,
    VERDICTS,
)

FOLDER = ROOT / "results" / "reference" / "study"
NOT_YET = "*Not computed yet.*"

CLAIMED = {  # what a hypothesis claims of its difference
    **dict.fromkeys((claim.name for claim in HYPOTHESES if claim.sign < 0), "below 0"),
    **dict.fromkeys((claim.name for claim in HYPOTHESES if claim.sign > 0), "above 0"),
    TIME: "below 0",
}


@cache
def read(name: str) -> pd.DataFrame:
    """Return a stored table of the study; an empty one where it is not there yet."""
    path = FOLDER / f"{name}.csv"
    return pd.read_csv(path, dtype={"fold": str}) if path.is_file() else pd.DataFrame()


@cache
def records() -> list[dict]:
    """Return the records of the cells that are computed."""
    paths = sorted((FOLDER / "cells").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


# ---- before the run


def tuning() -> str:
    """Return the WER of each trial on validation."""
    table = read("tuning")
    if table.empty:
        return NOT_YET
    rows = []
    for kind, rates in RATES.items():
        trials = table[table["system"] == kind]
        at = trials[trials["epochs"] == STUDY.epochs].set_index("learning_rate")
        cells = [_trial(kind, rate, at.loc[rate]) for rate in rates]
        fewer = trials[trials["epochs"] == FEWER_EPOCHS].iloc[0]
        rows.append([label(kind), *cells, f"{fewer['wer']:.1f}"])
    head = ["", "lowest rate", "middle rate", "highest rate", f"middle, {FEWER_EPOCHS} epochs"]
    return markdown_table(rows, head)


def _trial(kind: str, rate: float, row: pd.Series) -> str:
    text = f"{rate:g}: {with_interval(row)}"
    return f"**{text}**" if rate == STUDY.learning_rate(kind) else text


def power() -> str:
    """Return what difference the study can show."""
    table = read("power")
    if table.empty:
        return NOT_YET
    rows = [
        [
            f"{label(row.first)} − {label(row.other)}",
            row.test,
            *(
                f"{value:.1f}"
                for value in (row.standard_error, row.detectable, row.detectable_corrected)
            ),
        ]
        for row in table.itertuples()
    ]
    head = ["difference", "test", "standard error", "shown at 0.05", "shown at 0.05 / 9"]
    return markdown_table(rows, head)


AIM = 2.0  # points that the study was to show (docs/statistics.md)


def power_in_words() -> str:
    """Return what the study can show of experts, and whether that reaches the aim."""
    table = read("power")
    if table.empty:
        return NOT_YET
    found = table[(table["first"] == "experts") & (table["test"] == DOMAINS[0])]
    numbers = [
        f"against {label(row.other)} {row.detectable:.1f} points at 0.05 and "
        f"{row.detectable_corrected:.1f} at 0.05 / 9"
        for row in found.itertuples()
    ]
    reached = "reached" if (found["detectable"] <= AIM).all() else "missed"
    return (
        f"Written before the first training of the study: experts {', '.join(numbers)}, without "
        f"the scatter of seeds. The aim is {reached}: smaller differences will mostly stay open."
    )


# ---- what there is


def progress() -> str:
    """Return how much of the study is computed, where and how long it took."""
    planned = {cell.name for cell in cells_of_study(VOICES, SEEDS)}
    done = [record for record in records() if not record["cell"]["label"]]
    if not done:
        return f"None of the study's {len(planned)} cells is computed yet."
    causes = len(records()) - len(done)
    hours = sum(record["seconds"] for record in records()) / 3600
    processors = dict.fromkeys(record["machine"]["processor"] for record in records())
    commits = dict.fromkeys(record["commit"][:10] for record in records())
    counted = _computed()
    if len(done) == len(planned):
        counted = f"All {len(planned)} cells of the study are computed"
    of_causes = len(cells_of_causes(VOICES, CAUSE_SEEDS))
    counted_causes = "all" if causes == of_causes else f"{causes} of the"
    return (
        f"{counted}, and {counted_causes} {of_causes} of "
        "[causes](#what-explains-the-verdicts) with one seed in each fold, in "
        f"{hours:.1f} hours of one core. Processors: {', '.join(processors)}. "
        f"Commits: {', '.join(f'`{commit}`' for commit in commits)}."
    )


def _seeds_of(system: str) -> str:
    """Return how many seeds each fold has of a system, such as "5" or "2 and 1"."""
    if system in UNTRAINED:
        return "–"
    own = [r["cell"] for r in records() if r["cell"]["system"] == system and not r["cell"]["label"]]
    counts = [sum(cell["voice"] == voice for cell in own) for voice in VOICES]
    return str(counts[0]) if len(set(counts)) == 1 else " and ".join(map(str, counts))


def systems() -> str:
    """Return the WER of every system on each test, folds and seeds together."""
    table = read("systems")
    if table.empty:
        return NOT_YET
    pooled = table[table["fold"].isna()].set_index(["system", "test"])
    rows = []
    for system in (*UNTRAINED, *SYSTEMS):
        if (system, DOMAINS[0]) not in pooled.index:
            continue
        cells = [with_interval(pooled.loc[(system, test)]) for test in DOMAINS]
        stress = pooled.loc[(system, STRESS)]
        cells += [with_interval(stress), with_interval(stress, "capped_wer")]
        rows.append([label(system), _seeds_of(system), *cells])
    head = ["system", "seeds a fold", *DOMAINS, "other characters", "the same, capped"]
    return markdown_table(rows, head)


def other_languages() -> str:
    """Return the WER of systems in the other languages, and chrF of translations."""
    table, translated = read("systems"), read("translation")
    if table.empty:
        return NOT_YET
    pooled = table[table["fold"].isna()].set_index(["system", "test"])
    scores = translated.set_index("system")
    languages = [code for _, code in STUDY.retention if code in set(table["test"])]
    rows = []
    for system in (*UNTRAINED, *SYSTEMS):
        if (system, OTHER_LANGUAGES) not in pooled.index:
            continue
        cells = [
            with_interval(pooled.loc[(system, test)]) for test in (*languages, OTHER_LANGUAGES)
        ]
        chrf = f"{scores.loc[system, 'chrf']:.1f}" if system in scores.index else "–"
        rows.append([label(system), *cells, chrf])
    head = [
        "system",
        *(LANGUAGES[code].capitalize() for code in languages),
        "together",
        "translation, chrF",
    ]
    return markdown_table(rows, head)


def hypotheses() -> str:
    """Return the hypotheses with their differences, p values and verdicts."""
    table = read("hypotheses")
    if table.empty:
        return NOT_YET
    rows = []
    for row in table.to_dict("records"):
        measured = not pd.isna(row["difference"])
        is_complete = row["verdict"] not in ("incomplete", "not measured")
        rows.append(
            [
                row["name"],
                CLAIMED[row["name"]],
                str(int(row["trainings"])) if row["name"] != TIME else "–",
                _points_of_hypothesis(row) if measured else "–",
                f"{row['p_holm']:.3f}" if is_complete else "–",
                row["verdict"],
            ]
        )
    return markdown_table(
        rows, ["hypothesis", "claimed", "trainings", "difference", "p, Holm", "verdict"]
    )


def _points_of_hypothesis(row: dict) -> str:
    """Return a difference with its interval; that of time in per cent of plain Whisper's."""
    scale = 100 if row["name"] == TIME else 1
    return points({name: scale * row[name] for name in ("difference", "low", "high")})


def pairs() -> str:
    """Return all other differences; those that are decided in bold."""
    table = read("pairs")
    if table.empty:
        return NOT_YET
    found = table.set_index(["first", "other", "test"])
    rows = []
    for first, other in (*UNTRAINED_PAIRS, *PAIRS, *GATELESS_PAIRS):
        tests = [test for test in (*DOMAINS, STRESS) if (first, other, test) in found.index]
        if not tests:
            continue
        cells = [_difference(found.loc[(first, other, test)]) for test in tests]
        trainings = int(found.loc[(first, other, DOMAINS[0]), "trainings"])
        rows.append([f"{label(first)} − {label(other)}", str(trainings), *cells])
    head = ["difference", "trainings", *DOMAINS, "other characters"]
    return markdown_table(rows, head)


def _difference(row: pd.Series) -> str:
    text = points(row)
    return f"**{text}**" if is_decided(row) else text


AGAINST = (
    ("distilwhisper", "fine-tuning"),
    ("distilwhisper", "lora"),
    ("distilwhisper", "experts"),
)


TOY_CLIPS = ROOT / "results" / "reference" / "toy" / "study" / "knob-clips-pairs.csv"
FEWER = ("100 clips", "50 clips")  # in as many steps as all clips


def _changes_the_clips(causes: pd.DataFrame) -> pd.Series:
    """Return for each row whether it is of fewer training clips."""
    return causes["change"].str.contains(r"^\d+ clips\b")


def fewer_clips() -> str:
    """Return what experts with the teacher gain with fewer training clips."""
    causes = read("causes")
    if causes.empty:
        return NOT_YET
    causes = causes[_changes_the_clips(causes)]
    tables = {name: causes[causes["change"] == name] for name in dict.fromkeys(causes["change"])}
    tables["all clips"] = read("pairs")
    rows = []
    for name, table in tables.items():
        found = table.set_index(["first", "other", "test"])
        of_pairs = [found.loc[(*pair, test)] for pair in AGAINST for test in DOMAINS]
        trainings = str(int(of_pairs[0]["trainings"]))
        rows.append([name, trainings, *(_difference(row) for row in of_pairs)])
    head = [f"− {label(other)}, {test}" for _, other in AGAINST for test in DOMAINS]
    return markdown_table(rows, ["", "trainings", *head])


def fewer_clips_rates() -> str:
    """Return the WER of each system with fewer clips, beside the student's in the same folds."""
    causes = read("causes")
    if causes.empty:
        return NOT_YET
    changed = causes[_changes_the_clips(causes) & (causes["other"] == UNCHANGED)]
    found = changed.set_index(["change", "first", "test"])["wer"]
    systems = read("systems").astype({"fold": object})
    systems["fold"] = systems["fold"].fillna("both")
    whole = systems.set_index(["fold", "system", "test"])["wer"]
    student, *adapted = HEADLINE
    rows = []
    for change in dict.fromkeys(changed["change"]):
        voices = {r["cell"]["voice"] for r in records() if r["cell"]["label"] == change}
        fold = "both" if voices == set(VOICES) else voices.pop()
        for test in DOMAINS:
            wers = [whole[fold, student, test], *(found[change, name, test] for name in adapted)]
            rows.append([f"{change}, {test}", *(f"{wer:.1f}" for wer in wers)])
    for test in DOMAINS:
        wers = [whole["both", name, test] for name in HEADLINE]
        rows.append([f"all clips, {test}", *(f"{wer:.1f}" for wer in wers)])
    return markdown_table(rows, ["WER", *(label(name) for name in HEADLINE)])


def other_losses() -> str:
    """Return what another way of learning from the teacher changes."""
    causes = read("causes")
    if causes.empty:
        return NOT_YET
    own = causes[(causes["other"] == UNCHANGED) & ~_changes_the_clips(causes)]
    found = own.set_index(["change", "test"])
    rows = [
        [
            change,
            str(int(found.loc[(change, DOMAINS[0]), "trainings"])),
            *(_difference(found.loc[(change, test)]) for test in DOMAINS),
        ]
        for change in dict.fromkeys(own["change"])
    ]
    return markdown_table(rows, ["change", "trainings", *DOMAINS])


def causes_answer() -> str:
    """Return whether the teacher helps with fewer clips, and whether another loss is better."""
    causes = read("causes")
    if causes.empty:
        return NOT_YET
    is_fewer = _changes_the_clips(causes)
    of_teacher = (causes["first"] == "distilwhisper") & (causes["other"] == "experts")
    help_given = causes[is_fewer & of_teacher]
    own = causes[(causes["other"] == UNCHANGED) & ~is_fewer]
    better, worse = _decided_places(own, -1), _decided_places(own, 1)
    losses = [f"better: {better}"] * bool(better) + [f"worse: {worse}"] * bool(worse)
    return "\n".join(
        [
            "- **With fewer clips, experts with the teacher minus without it**: decided below 0: "
            f"{_decided_places(help_given, -1) or 'nowhere'}; decided above 0: "
            f"{_decided_places(help_given, 1) or 'nowhere'}.",
            _growth(help_given),
            _growth_at_toy(),
            f"- **Another loss**: {'; '.join(losses) or 'none is decided to be better or worse'}.",
        ]
    )


def ceiling() -> str:
    """Return how far our variant is from its teacher, in both domains."""
    systems = read("systems")
    if systems.empty:
        return NOT_YET
    wer = systems[systems["fold"].isna()].set_index(["system", "test"])["wer"]
    parts = [
        f"{test} {wer['teacher', test]:.1f} %, "
        f"{wer['distilwhisper', test] - wer['teacher', test]:.1f} points below our variant"
        for test in DOMAINS
    ]
    return f"- **The teacher's own WER, the ceiling**: {'; '.join(parts)}."


def _growth(help_given: pd.DataFrame) -> str:
    """Return whether the teacher's help grows as clips get fewer, in as many steps.

    Args:
        help_given: Experts with the teacher minus without it, a row for each change and domain.
    """
    pairs = read("pairs")
    whole = pairs[(pairs["first"] == "distilwhisper") & (pairs["other"] == "experts")]
    found = pd.concat([help_given, whole.assign(change="all clips")])
    by_place = found.set_index(["change", "test"])["difference"]
    names = [name for name in ("all clips", *FEWER) if name in by_place.index]
    parts, grows = [], len(names) > 1
    for test in DOMAINS:
        values = [by_place[name, test] for name in names]
        grows = grows and all(one > other for one, other in itertools.pairwise(values))
        parts.append(f"{test} {', '.join(f'{value:+.1f}' for value in values)}")
    begin = "The fewer clips, the more it helps" if grows else "It does not help steadily more"
    return f"- **{begin}**, in as many steps, with {', '.join(names)}: {'; '.join(parts)} points."


def _growth_at_toy() -> str:
    """Return with how many clips the teacher's help is decided in the toy languages."""
    pairs = pd.read_csv(TOY_CLIPS, dtype={"position": str})
    own = pairs[(pairs["first"] == "distilwhisper") & (pairs["other"] == "experts")]
    own = own.assign(change=own["position"] + " clips")
    return (
        "- **In the [toy languages](toy-languages.md#how-many-labelled-clips)**: decided below 0: "
        f"{_decided_places(own, -1) or 'nowhere'}; above 0: {_decided_places(own, 1) or 'nowhere'}."
    )


def _decided_places(table: pd.DataFrame, sign: int) -> str:
    """Return the changes and domains whose difference is decided and has the sign."""
    return ", ".join(
        f"{row['change']} {row['test']}"
        for _, row in table.iterrows()
        if is_decided(row) and row["difference"] * sign > 0
    )


def curve() -> str:
    """Return WER in the language and in others, for systems that are used in part."""
    table = read("curve")
    if table.empty:
        return NOT_YET
    found = table.set_index(["system", "strength", "test"])
    rows = [
        [
            label(system),
            f"{strength:g}",
            *(with_interval(found.loc[(system, strength, test)]) for test in (TARGET, OTHERS)),
        ]
        for system, strength in dict.fromkeys(zip(table["system"], table["strength"], strict=True))
    ]
    return markdown_table(rows, ["system", "used by", TARGET, OTHERS])


def curve_answer() -> str:
    """Return what each system gains when it is used in part, and what others pay for it."""
    table = read("curve")
    if table.empty:
        return NOT_YET
    found = table.pivot_table(index=["system", "strength"], columns="test", values="wer")
    student = found.loc["student"].iloc[0]
    adapted = found.drop("student")
    whole = adapted.xs(1.0, level="strength")
    parts = adapted.drop(1.0, level="strength")
    best = parts.loc[parts.groupby("system")[TARGET].idxmin()].reset_index("strength")

    who = "Every system" if (best[TARGET] < whole[TARGET]).all() else "Not every system"
    lines = [
        f"{who} makes fewer errors when it is used in part than as it was trained. That is a hint "
        "and no verdict: one training of one fold, and the best share is chosen on the test.",
        "",
        f"- Whisper (student): {student[TARGET]:.1f} % WER in its language, "
        f"{student[OTHERS]:.1f} % in the others.",
    ]
    for system in dict.fromkeys(adapted.index.get_level_values("system")):
        part, trained = best.loc[system], whole.loc[system]
        lines.append(
            f"- {label(system)}, used by {part['strength']:g}: {part[TARGET]:.1f} % and "
            f"{part[OTHERS]:.1f} %; as it was trained {trained[TARGET]:.1f} % and "
            f"{trained[OTHERS]:.1f} %."
        )
    share = parts.index.get_level_values("strength").min()
    least = parts.xs(share, level="strength")
    gains, costs = student[TARGET] - least[TARGET], least[OTHERS] - student[OTHERS]
    lines += [
        "",
        f"Used by {share:g}, and on in all languages, the systems gain {gains.min():.1f} to "
        f"{gains.max():.1f} points in their language and change the others by {costs.min():+.1f} "
        f"to {costs.max():+.1f} points.",
    ]
    return "\n".join(lines)


def plan() -> str:
    """Return how many trainings the study has."""
    cells = cells_of_study(VOICES, SEEDS)
    trained = [cell for cell in cells if cell.system not in UNTRAINED]
    variants = sum(len(names) for names in TUNED_AS.values())
    return (
        f"{len(trained)} trainings: {len(VOICES)} folds, {len(SEEDS)} seeds of the systems of the "
        f"hypotheses, {len(FURTHER_SEEDS)} of the others. {len(RATES)} kinds of methods had "
        f"{len(next(iter(RATES.values()))) + 1} trials each on validation; {variants} variants "
        "take the rate of their kind."
    )


# ---- README

HEADLINE = ("student", "fine-tuning", "lora", "experts", "distilwhisper")


def headline() -> str:
    """Return README's table of results: five systems, WER in both domains.

    It is over the folds together, or over the one that all five have as long as others are missing.
    """
    table = read("systems")
    folds = table.dropna(subset=["fold"]).groupby("system")["fold"].agg(set)
    common = set.intersection(*folds[list(HEADLINE)])
    of_folds = table["fold"].isna() if len(common) == len(VOICES) else table["fold"].isin(common)
    found = table[of_folds].set_index(["system", "test"])
    rows = [
        [label(name), *(with_interval(found.loc[(name, test)]) for test in DOMAINS)]
        for name in HEADLINE
    ]
    return markdown_table(rows, ["system", *(f"{test} WER" for test in DOMAINS)])


def sentences() -> str:
    """Return README's three sentences: what is decided, the teacher's part, what is kept."""
    found = read("hypotheses").set_index("name")
    against = [_compared(text, found.loc[list(names)]) for text, names in RIVALS.items()]
    teacher = [_compared(text, found.loc[list(names)]) for text, names in TEACHER.items()]
    return "\n".join(
        [
            f"- **{_outcome(found)}** {' '.join(against)} Negative: fewer errors; *open*: "
            "corrected p above 0.05.",
            f"- **{_help(found)}** {' '.join(teacher)}",
            *_cost_of_gates(),
            f"- **What is switched off forgets nothing.** {_kept(found)}",
        ]
    )


def _cost_of_gates() -> list[str]:
    """Return what gates cost experts with the teacher: a line, or none where it is not computed."""
    keys = [(*GATES["with the teacher"], test) for test in DOMAINS]
    found = read("pairs").set_index(["first", "other", "test"])
    if not all(key in found.index for key in keys):
        return []
    rows = [found.loc[key] for key in keys]
    cost = all(is_decided(row) and row["difference"] > 0 for row in rows)
    title = "Gates cost errors" if cost else "What gates cost is not decided"
    numbers = ", ".join(f"{test} {points(row)}" for test, row in zip(DOMAINS, rows, strict=True))
    return [
        f"- **{title}** (exploratory). Our variant against experts without gates, both with the "
        f"teacher: {numbers}."
    ]


def _outcome(found: pd.DataFrame) -> str:
    """Return whether experts with the teacher beat fine-tuning and LoRA."""
    names = [name for pair in RIVALS.values() for name in pair]
    if any(found.loc[name, "verdict"] == "incomplete" for name in names):
        return f"No verdict yet: {_computed()}."
    beaten = {
        text.rsplit(" ", 1)[-1]: all(found.loc[name, "verdict"] == "holds" for name in pair)
        for text, pair in RIVALS.items()
    }
    if all(beaten.values()):
        return "DistilWhisper beats fine-tuning and LoRA here, in both domains."
    lost = " or ".join(name for name, won in beaten.items() if not won)
    text = f"DistilWhisper is not shown to beat {lost} in both domains here"
    if not any(beaten.values()) and _none_is_beaten_that_has_the_teacher():
        text += ", with or without the same teacher"
    return f"{text}."


def _none_is_beaten_that_has_the_teacher() -> bool:
    """Return whether all rivals with the same teacher are scored, and none is beaten twice."""
    found = read("pairs").set_index(["first", "other", "test"])
    beaten = []
    for pair in WITH_TEACHER.values():
        keys = [(*pair, test) for test in DOMAINS]
        if not all(key in found.index for key in keys):
            return False
        beaten.append(all(found.loc[key, "high"] < 0 for key in keys))
    return not any(beaten)


def _help(found: pd.DataFrame) -> str:
    """Return whether the teacher is shown to help experts."""
    verdicts = [found.loc[name, "verdict"] for pair in TEACHER.values() for name in pair]
    if "incomplete" in verdicts:
        return "Nor on the teacher's part."
    if verdicts == ["holds", "holds"]:
        return "The teacher helps, in both domains."
    if "holds" in verdicts:
        return f"The teacher helps {DOMAINS[verdicts.index('holds')]} alone."
    return "The teacher is not shown to help."


def _computed() -> str:
    """Return how many cells of the study there are."""
    planned = {cell.name for cell in cells_of_study(VOICES, SEEDS)}
    done = [record for record in records() if not record["cell"]["label"]]
    return f"{len(done)} of the study's {len(planned)} cells are computed"


# ---- the answer

# What is compared -> the hypotheses, in-domain and out-of-domain.
RIVALS = {
    "Experts with the teacher against fine-tuning": ("a-in", "a-out"),
    "Experts with the teacher against LoRA": ("b-in", "b-out"),
}
TEACHER = {"Experts with the teacher against experts without it": ("c-in", "c-out")}
GATES = {  # experts with our gates, and without gates
    "with the teacher": ("distilwhisper", "experts-open-teacher"),
    "without it": ("experts", "experts-open"),
}
TAUGHT = {  # with the teacher, without it; our variant has hypotheses of its own
    "fine-tuning": ("fine-tuning-teacher", "fine-tuning"),
    "LoRA": ("lora-teacher", "lora"),
    "experts without gates": ("experts-open-teacher", "experts-open"),
    "experts with the gates of the release": ("distilwhisper-released", "clsr-ft"),
}
WITH_TEACHER = {  # rivals that learn from it too
    f"{label(name)}:": ("distilwhisper", name) for name in ("fine-tuning-teacher", "lora-teacher")
}
EXPLORATORY = {
    "What the teacher changes": TAUGHT,
    "Against those that learn from the same teacher": WITH_TEACHER,
    "What gates change": GATES,
}
GROUPS = RIVALS | TEACHER


def answer() -> str:
    """Return what the study says so far: each claim with its verdict."""
    table = read("hypotheses")
    if table.empty:
        return NOT_YET
    found = table.set_index("name")
    counted = found["verdict"].value_counts()
    parts = [f"{outcome} {counted[outcome]}" for outcome in VERDICTS if outcome in counted]
    lines = [f"Of the {len(found)} claims, at this scale: {', '.join(parts)}. In points of WER:"]
    lines += [_compared(text, found.loc[list(names)]) for text, names in GROUPS.items()]
    lines.append(_kept(found))
    for text, named in EXPLORATORY.items():
        parts = _in_both_domains(named)
        lines.append(f"{text} (exploratory): {parts}." if parts else "")
    return "\n".join(f"- {line}" for line in filter(None, lines))


def _compared(text: str, rows: pd.DataFrame) -> str:
    """Return two differences with their verdicts, where they have one."""
    parts = [
        f"{test} {points(row)}" + f" ({row['verdict']})" * (row["verdict"] != "incomplete")
        for test, (_, row) in zip(DOMAINS, rows.iterrows(), strict=True)
        if row["verdict"] != "not measured"
    ]
    return f"{text}: {', '.join(parts)}." if parts else ""


def _kept(found: pd.DataFrame) -> str:
    """Return what is kept in other languages and tasks."""
    table = read("systems")
    pooled = table[table["fold"].isna()].set_index(["system", "test"])["wer"]
    if ("fine-tuning", OTHER_LANGUAGES) not in pooled.index:
        return ""
    wers = [pooled.loc[(system, OTHER_LANGUAGES)] for system in ("student", "fine-tuning")]
    verdicts = [found.loc[name, "verdict"] for name in ("d-languages", "d-translation")]
    outcome = f"Of the claims that on languages: {verdicts[0]}, that on translation: {verdicts[1]}"
    if verdicts == ["holds", "holds"]:
        outcome = "Both claims of keeping hold"
    return (
        f"By construction experts, switched off, leave the student, as LoRA does: {wers[0]:.1f} % "
        f"WER in the other languages, where fine-tuning has {wers[1]:.1f}. {outcome}."
    )


def _in_both_domains(named: dict[str, tuple[str, str]]) -> str:
    """Return the differences of pairs that are there, each behind its name."""
    found = read("pairs").set_index(["first", "other", "test"])
    parts = []
    for text, pair in named.items():
        keys = [(*pair, test) for test in DOMAINS]
        if all(key in found.index for key in keys):
            rows = {test: found.loc[key] for test, key in zip(DOMAINS, keys, strict=True)}
            numbers = [f"{test} {points(row)}, {verdict(row)}" for test, row in rows.items()]
            parts.append(f"{text} {', '.join(numbers)}")
    return "; ".join(parts)
