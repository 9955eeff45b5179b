"""The passages of README and docs that hold a number or a verdict, from the stored results.

A passage is compared with the page without regard to line breaks. What a passage says of an order
or a verdict is asserted before it is given out: an AssertionError means that the text is no longer
true.
"""

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
from docs_results import DOMAINS
from docs_tables import inference_runs
from stored_results import (
    OURS,
    benchmark,
    by_room,
    clips_of,
    is_decided,
    points,
    read_timing,
    study,
    variant,
)

from distilwhisper_lib import LOOP_RATIO, PRESETS

RIVALS = ("fine-tuning", "lora")


def tenths(value: float, digits: str = "0.1") -> str:
    """Return a number without its sign, rounded half up, as a reader rounds what is stored."""
    exact = Decimal(str(round(abs(value), 6)))
    return str(exact.quantize(Decimal(digits), ROUND_HALF_UP))


def interval(found) -> str:
    """Return the interval alone, as "[-0.6, +5.4]"."""
    return points(found).split(" ", 1)[1]


def row_of(name: str, column: str, value):
    """Return the first row of a study in which a column has a value."""
    table = study(name)
    return table[table[column] == value].iloc[0]


# ---- pages


def readme() -> list[str]:
    """Return the passages of README.md."""
    seconds = read_timing()
    minutes = sum(seconds[stem] for stem in sorted(seconds)[:6]) / 60
    assert PRESETS["toy"].minutes.startswith("4 min")
    return [
        f"{minutes:.0f} minutes on 2 cores, {PRESETS['laptop'].memory} of memory",
        "A first course takes four minutes",
    ]


def results() -> list[str]:
    """Return the passages of docs/results.md."""
    sizes = [len(clips_of("student", test)) for test in DOMAINS]
    return [
        f"{sizes[0]} clips in-domain, {sizes[1]} out-of-domain",
        *_one_change(),
    ]


def _one_change() -> list[str]:
    table = study("variants")
    no_gates = variant(always_open=True)
    assert is_decided(no_gates) and no_gates["difference"] < 0
    dropout = variant(expert_dropout=0.3)
    soft = variant(hard=False)
    decided = [row["difference"] for row in table.to_dict("records") if is_decided(row)]
    assert set(decided) == {row["difference"] for row in (no_gates, dropout, soft)}
    return [
        f"scored on {table['n'].iloc[0]} validation clips",
        f"no loss can be seen: {points(variant(divergence='none')).split()[0]} points",
        f"WER is {tenths(no_gates['difference'])} points lower",
        f"the release's dropout of 0.3 on the expert's output costs "
        f"{tenths(dropout['difference'])} points, soft gates in training cost "
        f"{tenths(soft['difference'])}.",
    ]


def statistics() -> list[str]:
    """Return the passages of docs/statistics.md."""
    rooms = [clips_of("student", test)["unit"].nunique() for test in DOMAINS]
    ahead = [by_room("teacher", "fine-tuning", test)["high"] for test in DOMAINS]
    assert max(ahead) < 0
    return [
        f"({rooms[0]} rooms in-domain, {rooms[1]} out-of-domain)",
        f"({LOOP_RATIO:g} times or more",
        *_trials(),
    ]


def _trials() -> list[str]:
    tables = ("variants", "variants-soft", "variants-hard")
    trials = sum((study(name)["system"] == OURS).sum() for name in tables)
    return [f"our variant's other settings had {trials} trials"]


def method() -> list[str]:
    """Return the passages of docs/method.md."""
    table = study("fidelity").set_index("fidelity")
    seed = table.loc["corrected, another seed", "difference"]
    switches = table.drop(["corrected", "corrected, another seed"])
    assert all(row["low"] < seed < row["high"] for row in switches.to_dict("records"))
    both = row_of("fidelity-lora", "fidelity", "lora_on_both")
    again = row_of("fidelity-lora", "fidelity", "corrected, another seed")
    plain = row_of("fidelity-lora", "fidelity", "corrected")
    labels = row_of("fidelity-lora-labels", "fidelity", "labels_without_language")
    released = row_of("fidelity-lora-labels", "fidelity", "released")
    start = row_of("fidelity-lora-labels", "fidelity", "labels_with_start")
    assert start["difference"] == 0
    return [
        f"makes {tenths(both['difference'])} points more errors {interval(both)}",
        f"another seed makes {tenths(again['difference'])} fewer {interval(again)}",
        f"LoRA's WER is {tenths(plain['wer'] - plain['wer_forced'])} points below that in use",
        f"cost {tenths(labels['difference'])} points {interval(labels)}, the second start token "
        f"nothing, all of the release together {tenths(released['difference'])} "
        f"{interval(released)}",
    ]


def deployment() -> list[str]:
    """Return the passages of docs/deployment.md."""
    table = study("smaller")
    ours = table[table["system"] == OURS].set_index("form")
    assert not is_decided(ours.loc["int8"]) and is_decided(ours.loc["low-rank 16"])
    return [f"rank 16 costs {tenths(ours.loc['low-rank 16']['difference'])} points, decided"]


def benchmarks() -> list[str]:
    """Return the passages of docs/benchmarks.md."""
    return [*_inference(), *_training(), *_cheap_training()]


def _inference() -> list[str]:
    found = benchmark("inference").set_index(["run", "dtype", "compiled", "size", "batch"])
    times = found["times plain"].sort_index()
    same = times["agreeing"]
    routed = times["routed"]
    compiled = float(np.ravel(routed["autocast", "yes", "base", 1])[0])  # one row
    in_16_bits = sorted(routed["bf16", "no", "base", 1])
    autocast = [
        runs["routed"] for (_, compiled, _), runs in inference_runs().items() if compiled == "no"
    ]
    return [
        f"takes {same.min():.3f} to {same.max():.3f} times plain Whisper",
        f"it takes {in_16_bits[0]:.3f} and {in_16_bits[1]:.3f}",
        f"up to {max(autocast):.2f}; compiled {compiled:.2f}",
    ]


def _training() -> list[str]:
    table = benchmark("training").set_index(["size", "teacher", "work", "run"])
    shares = table["times baseline"].sort_index()
    seconds = table["seconds"].sort_index()
    step = seconds["base", "base", "step"]
    fronts, without, unfused = [], [], []
    for size, teacher in (("base", "small"), ("base", "base"), ("small", "large-v2")):
        part = seconds[size, teacher, "step"]
        fronts.append(100 * part["frozen front"] / part["mixed precision"])
        without.append(part["without labelled, top k"] / part["mixed precision"])
        unfused.append(part["without fused optimizer"] / part["mixed precision"])
    epochs = "library, 30 s"
    return [
        f"ten epochs take {shares['base', 'small', '10 epochs', epochs]:.2f} of the baseline's "
        f"time (base from small), and {shares['small', 'large-v2', '10 epochs', epochs]:.2f} with "
        f"the paper's models (small from large-v2). Four epochs of base from base take "
        f"{shares['base', 'base', '4 epochs', epochs]:.2f}.",
        f"{without[0]:.2f}, {without[1]:.2f} and {without[2]:.2f} times the time",
        f"takes {unfused[0]:.2f}, {unfused[1]:.2f} and {unfused[2]:.2f} times the time: one round",
        f"cost {100 * (step['deterministic sums'] / step['mixed precision'] - 1):.0f} % of a step",
        f"save {min(fronts):.0f} to {max(fronts):.0f} % of a step",
        f"a step takes {step['mixed precision']:.1f} s instead of {step['baseline']:.1f} s; "
        f"without the short window it would take {step['without short window']:.1f} s",
    ]


def _cheap_training() -> list[str]:
    changes = {
        "all of the teacher's tokens instead of the 256 most likely": "top_k",
        "fp32 instead of 16 bits": "convergence",
        "clips drawn at random instead of by length (another machine)": "convergence-random",
    }
    rows = {text: study(name).iloc[-1] for text, name in changes.items()}
    assert not any(is_decided(row) for row in rows.values())
    return [f"| {text} | {points(row)} |" for text, row in rows.items()]


def library() -> list[str]:
    """Return the passages of docs/library.md."""
    return [f"{_fp32('base') / 4:.1f} million parameters"]


def colab() -> list[str]:
    """Return the passages of docs/colab.md: what is trained with Adam's two moments."""
    gigabytes = 3 * _fp32("small") / 1000
    return [f"{gigabytes:.1f} GB", f"ten epochs of experts fill {10 * gigabytes:.0f} GB"]


def _fp32(size: str) -> float:
    table = benchmark("storage")
    return table[(table["size"] == size) & (table["form"] == "fp32")]["megabytes"].iloc[0]


CLAIMS = {
    "README.md": readme,
    "docs/results.md": results,
    "docs/statistics.md": statistics,
    "docs/method.md": method,
    "docs/deployment.md": deployment,
    "docs/benchmarks.md": benchmarks,
    "docs/library.md": library,
    "docs/colab.md": colab,
}
