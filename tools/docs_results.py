"""The generated tables of docs/results.md and docs/statistics.md, as Markdown."""

from docs_tables import label, markdown_table
from stored_results import (
    OURS,
    WAYS,
    by_room,
    clips_of,
    is_decided,
    points,
    read,
    run_metadata,
    score_of,
    stated,
    variant,
    verdict,
    with_interval,
)

from distilwhisper_lib import compared_methods, comparison
from distilwhisper_lib.evaluation.statistics import capped, holm, rate
from distilwhisper_lib.lab.comparison import is_off_beside_on
from distilwhisper_lib.presets import LAPTOP

DOMAINS = ("in-domain", "out-of-domain")
STRESS = "other-characters"


# ---- docs/results.md


def about_run() -> str:
    """Return a paragraph on where the figures come from."""
    record = run_metadata()
    machine = record["machine"]
    minutes = sum(step["seconds"] for step in record["steps"]) / 60
    peak = max(step["peak_memory_gb"] for step in record["steps"])
    versions = ", ".join(
        f"{name} {record['versions'][name]}" for name in ("torch", "transformers", "peft")
    )
    return (
        f"Machine: {machine['gpu'] or machine['processor']}, {machine['cores']} cores, precision "
        f"{machine['precision']}. Training and transcribing took {minutes:.0f} minutes and at most "
        f"{peak:.1f} GB of memory in a process. Decoding is greedy, the normaliser "
        f"`{record['preset']['normaliser']}`. Commit {_commit(record['commit'])}, {versions}."
    )


def _commit(name: str) -> str:
    """Return a commit, and whether files had been changed since."""
    number, _, changes = name.partition("+")
    return f"`{number[:10]}`" + " with uncommitted changes" * bool(changes)


def domain(test: str) -> str:
    """Return WER, CER and looping outputs of every system on one test."""
    table = comparison.main_table(read("comparison"), "cs")
    columns = [f"{test} {name}" for name in ("WER", "CER", "loops %")]
    rows = [[name, *row] for name, *row in table[columns].itertuples()]
    return markdown_table(rows, ["system", "WER", "CER", "loops, %"])


def stress() -> str:
    """Return plain and capped WER and looping outputs of every system on the stress test."""
    rows = []
    for name, method in compared_methods(LAPTOP).items():
        clips = clips_of(name, STRESS)
        loops = 100 * clips["loop"].mean()
        rates = [with_interval(rate(table)) for table in (clips, capped(clips))]
        rows.append([method.label, *rates, f"{loops:.1f}"])
    return markdown_table(rows, ["system", "WER", "WER, capped", "loops, %"])


def other_languages() -> str:
    """Return the mean WER over the languages that no system was trained on."""
    table = comparison.main_table(read("comparison"), "cs")
    rows = [[name, value] for name, value in table["other languages WER"].items()]
    return markdown_table(rows, ["system", "mean WER"])


def differences(test: str) -> str:
    """Return our variant minus each other system on one test."""
    rows = [
        [label(row["other"]), points(row), verdict(row)]
        for row in read("paired").to_dict("records")
        if row["test_set"] == test
    ]
    return markdown_table(rows, ["against", "difference", "verdict"])


CHANGES = (  # what changed -> settings of variants.csv
    ("another seed", {"seed": 78}),
    ("no gates: each position through its expert", {"always_open": True}),
    ("temperature 2", {"temperature": 2}),
    ("budget pooled over both stacks", {"per_stack": False}),
    ("budget 1", {"budget": 1}),
    ("no teacher", {"divergence": "none"}),
    ("budget 0.5", {"budget": 0.5}),
    ("a layer skips its expert in 0.2 of the passes", {"skip_gate": 0.2}),
    ("KL instead of JS", {"divergence": "kl"}),
    ("soft gates in training", {"hard": False}),
    ("dropout 0.3 on the expert's output", {"expert_dropout": 0.3}),
)


def variants() -> str:
    """Return the study of single changes: WER on validation minus that of our variant."""
    rows = [[text, stated(variant(**changed))] for text, changed in CHANGES]
    return markdown_table(rows, ["one change", "difference on validation"])


def harder_sound() -> str:
    """Return WER of every system under noise and reverberation."""
    tests = ("noise", "reverberation")
    rows = [
        [method.label, *(with_interval(score_of(name, test)) for test in tests)]
        for name, method in compared_methods(LAPTOP).items()
    ]
    return markdown_table(rows, ["system", *tests])


def second_language() -> str:
    """Return WER of student, teacher and our variant in the second language."""
    names = ("student", "teacher", OURS)
    found = {name: score_of(name, "second-language", "ca") for name in names}
    rows = [[label(name), with_interval(row), f"{row['loops']:.1f}"] for name, row in found.items()]
    return markdown_table(rows, ["system", "WER", "loops, %"])


def translation() -> str:
    """Return BLEU and chrF of every system for translation into English."""
    table = read("comparison")
    table = table[(table["test_set"] == "translation") & ~is_off_beside_on(table)]
    rows = [
        [label(row["system"]), with_interval(row, "bleu"), with_interval(row, "chrf")]
        for row in table.to_dict("records")
    ]
    return markdown_table(rows, ["system", "BLEU", "chrF"])


# ---- docs/statistics.md


def ways(test: str) -> str:
    """Return our variant minus each other system, computed in each of WAYS."""
    rows = []
    for other in [name for name in compared_methods(LAPTOP) if name != OURS]:
        found = [way(OURS, other, test) for way in WAYS.values()]
        rows.append([label(other), *(points(row) + " \\*" * is_decided(row) for row in found)])
    return markdown_table(rows, ["against", *WAYS])


def corrected() -> str:
    """Return which of the stored differences stay decided when all are tested together."""
    table = read("paired")
    before = sum(is_decided(row) for row in table.to_dict("records"))
    kept = [row for row, p in _with_holm(table) if p <= 0.05]
    names = "; ".join(f"{label(row.other)}, {row.test_set}" for row in kept) or "none"
    return (
        f"Of the {len(table)} differences of our variant {before} are decided one by one, and "
        f"{len(kept)} with Holm's correction over all {len(table)}: {names}."
    )


def _with_holm(table) -> list[tuple]:
    rows = list(table.itertuples())
    adjusted = holm({f"{row.other} {row.test_set}": row.p for row in rows})
    return list(zip(rows, adjusted.values(), strict=True))


def stand_in() -> str:
    """Return the stand-in minus fine-tuning in both domains."""
    found = [f"{test} {stated(by_room('teacher', 'fine-tuning', test))}" for test in DOMAINS]
    return f"The stand-in minus fine-tuning: {'; '.join(found)}."
