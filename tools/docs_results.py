"""The generated tables of docs/results.md and docs/statistics.md, as Markdown."""

from docs_tables import label, markdown_table
from stored_results import (
    NO_TEACHER,
    OURS,
    POOLED,
    by_clip,
    holm,
    is_decided,
    pair_in,
    points,
    read,
    robust_ways,
    run_metadata,
    score_of,
    stated,
    variant,
    verdict,
    with_interval,
    without_loops,
)

from distilwhisper_lib import METHODS, compared_methods, comparison

DOMAINS = ("in-domain", "out-of-domain")


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
        f"`{record['preset']['normaliser']}`. Commit `{record['commit'][:10]}`, {versions}."
    )


def domain(test: str) -> str:
    """Return WER, CER and looping outputs of every system on one test."""
    table = comparison.main_table(read("comparison"), "cs")
    columns = [f"{test} {name}" for name in ("WER", "CER", "loops %")]
    rows = [[name, *row] for name, *row in table[columns].itertuples()]
    return markdown_table(rows, ["system", "WER", "CER", "loops, %"])


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


def distillation() -> str:
    """Return the pooled budget with a teacher minus without one, with and without loops."""
    rows = [
        [
            test,
            stated(by_clip(POOLED, NO_TEACHER, test)),
            stated(without_loops(POOLED, NO_TEACHER, test)),
        ]
        for test in DOMAINS
    ]
    longer = [pair_in("studies/converged/seeds-paired", POOLED, NO_TEACHER, t) for t in DOMAINS]
    rows += [[f"{row['test_set']}, ten epochs", stated(row), "–"] for row in longer]
    return markdown_table(rows, ["test", "all clips", "without clips on which either loops"])


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


def longer_scores(test: str) -> str:
    """Return WER after ten epochs, a column for each seed."""
    table = read("studies/converged/seeds")
    table = table[table["test_set"] == test]
    rows = [
        [label(system), *(with_interval(row) for row in part.to_dict("records"))]
        for system, part in table.groupby("system", sort=False)
    ]
    return markdown_table(rows, ["system", *(f"seed {seed}" for seed in table["seed"].unique())])


def longer_differences() -> str:
    """Return our variant minus each other system after ten epochs, over both seeds."""
    table = read("studies/converged/seeds-paired")
    table = table[table["first"] == OURS].set_index(["other", "test_set"])
    rows = [
        [label(other), *(stated(table.loc[(other, test)]) for test in DOMAINS)]
        for other in table.index.unique("other")
    ]
    return markdown_table(rows, ["against", *DOMAINS])


def harder_sound() -> str:
    """Return WER of every system under noise and reverberation."""
    tests = ("noise", "reverberation")
    rows = [
        [method.label, *(with_interval(score_of(name, test)) for test in tests)]
        for name, method in compared_methods().items()
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
    found = {name: score_of(name, "translation") for name in compared_methods()}
    rows = [
        [label(name), with_interval(row, "bleu"), with_interval(row, "chrf")]
        for name, row in found.items()
    ]
    return markdown_table(rows, ["system", "BLEU", "chrF"])


def same_seed(test: str) -> str:
    """Return WER of four runs with one seed, a column for each run."""
    table = read("studies/same-seed")
    wide = table[table["test_set"] == test].pivot(index="system", columns="run", values="wer")
    rows = [
        [label(name), *(f"{wer:.1f}" for wer in wide.loc[name])]
        for name in METHODS
        if name in wide.index
    ]
    return markdown_table(rows, ["system", *(f"run {run}" for run in wide.columns)])


# ---- docs/statistics.md


def robust(test: str) -> str:
    """Return our variant minus each other system, computed in four ways."""
    rows = []
    for other in [name for name in compared_methods() if name != OURS]:
        found = [way(OURS, other, test) for way in robust_ways()]
        rows.append([label(other), *(points(row) + " \\*" * is_decided(row) for row in found)])
    return markdown_table(rows, ["against", "by clip", "by room", "without loops", "capped"])


def corrected() -> str:
    """Return which of the stored differences stay decided when all are tested together."""
    table = read("paired")
    before = sum(is_decided(row) for row in table.to_dict("records"))
    kept = holm(table)
    names = "; ".join(f"{label(row.other)}, {row.test_set}" for row in kept.itertuples())
    return (
        f"Of the {len(table)} differences of our variant {before} are decided one by one, and "
        f"{len(kept)} with Holm's correction over all {len(table)}: those to {names}."
    )


def stand_in() -> str:
    """Return the stand-in minus fine-tuning in both domains."""
    found = [f"{test} {stated(by_clip('teacher', 'fine-tuning', test))}" for test in DOMAINS]
    return f"The stand-in minus fine-tuning: {'; '.join(found)}."
