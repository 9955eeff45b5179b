"""The passages of README and docs that hold a number or a verdict, from the stored results.

A passage is compared with the page without regard to line breaks. What a passage says of an order
or a verdict is asserted before it is given out: an AssertionError means that the text is no longer
true.
"""

from decimal import ROUND_HALF_UP, Decimal

from docs_results import DOMAINS
from docs_tables import inference_runs
from stored_results import (
    NO_TEACHER,
    OURS,
    POOLED,
    ROOT,
    benchmark,
    by_clip,
    by_room,
    capped_wer,
    clips_of,
    is_decided,
    pair_in,
    points,
    read,
    read_timing,
    robust_ways,
    run_metadata,
    variant,
    without_loops,
)

from distilwhisper_lib import LOOP_RATIO, PRESETS, word_errors

CONVERGED = "studies/converged/seeds-paired"
LOW_RANK = "studies/low-rank/seeds-paired"
RIVALS = ("fine-tuning", "lora")


def tenths(value: float, digits: str = "0.1") -> str:
    """Return a number without its sign, rounded half up, as a reader rounds what is stored."""
    exact = Decimal(str(round(abs(value), 6)))
    return str(exact.quantize(Decimal(digits), ROUND_HALF_UP))


def interval(found) -> str:
    """Return the interval alone, as "[-0.6, +5.4]"."""
    return points(found).split(" ", 1)[1]


def turned(found) -> dict:
    """Return a difference the other way round."""
    return {
        "difference": -found["difference"],
        "low": -found["high"],
        "high": -found["low"],
    }


def study(name: str, column: str, value):
    """Return the first row of a study in which a column has a value."""
    table = read(f"studies/{name}")
    return table[table[column] == value].iloc[0]


# ---- pages


def readme() -> list[str]:
    """Return the passages of README.md."""
    seconds = read_timing()
    course = sum(seconds[stem] for stem in sorted(seconds)[:6])
    assert 55 <= course / 60 <= 65
    assert PRESETS["toy"].minutes.startswith("4 min")
    preset = run_metadata()["preset"]
    ours = read("studies/variants").iloc[0]
    assert ours["per_stack"] and ours["hard"]
    return [
        f"an hour on 2 cores, {PRESETS['laptop'].memory} of memory",
        "A first course takes four minutes",
        f"a gate budget of {preset['gate_budget']:g} over encoder and decoder together",
        f"*Our variant*: {ours['budget']:g} in each, hard gates in training",
    ]


def results() -> list[str]:
    """Return the passages of docs/results.md."""
    calm = without_loops(OURS, "fine-tuning", "out-of-domain")
    assert calm["low"] > 0
    table = read("comparison").set_index(["system", "test_set"])["wer"]
    assert max(table[name, "in-domain"] for name in RIVALS) < table[OURS, "in-domain"]
    assert table[:, "out-of-domain"].idxmin() == OURS
    return [
        f"fine-tuning is {tenths(calm['difference'])} points ahead {interval(calm)}, "
        "which is decided",
        *_one_change(),
        *_pooled_budget(),
        *_ten_epochs(),
        *_low_rank(),
    ]


def _one_change() -> list[str]:
    table = read("studies/variants")
    no_gates = variant(always_open=True)
    assert is_decided(no_gates) and no_gates["difference"] < 0
    dropout = variant(expert_dropout=0.3)
    soft = variant(hard=False)
    decided = [row["difference"] for row in table.to_dict("records") if is_decided(row)]
    assert set(decided) == {row["difference"] for row in (no_gates, dropout, soft)}
    return [
        f"scored on {table['n'].iloc[0]} validation clips",
        f"nothing is lost: {points(variant(divergence='none')).split()[0]} points",
        f"WER is {tenths(no_gates['difference'])} points lower",
        f"the release's dropout of 0.3 on the expert's output costs "
        f"{tenths(dropout['difference'])} points, soft gates in training cost "
        f"{tenths(soft['difference'])}.",
    ]


def _pooled_budget() -> list[str]:
    fine_tuning, lora = (by_clip(POOLED, name, "in-domain") for name in RIVALS)
    assert fine_tuning["low"] > 0 and lora["low"] > 0
    assert not any(is_decided(by_clip(POOLED, name, "out-of-domain")) for name in RIVALS)
    return [
        f"worse than fine-tuning, by {tenths(fine_tuning['difference'])} points "
        f"{interval(fine_tuning)}, and than LoRA, by {tenths(lora['difference'])} "
        f"{interval(lora)}; out-of-domain neither is decided",
    ]


def _ten_epochs() -> list[str]:
    inside = [pair_in(CONVERGED, OURS, name, "in-domain") for name in RIVALS]
    assert all(abs(row["difference"]) < 1 and not is_decided(row) for row in inside)
    fine_tuning, lora = (pair_in(CONVERGED, OURS, name, "out-of-domain") for name in RIVALS)
    assert fine_tuning["difference"] > 0 > lora["difference"]
    assert not is_decided(fine_tuning) and not is_decided(lora)
    behind = [pair_in(CONVERGED, POOLED, name, "in-domain")["difference"] for name in RIVALS]
    behind.append(-pair_in(CONVERGED, OURS, POOLED, "in-domain")["difference"])
    scores = read("studies/converged/seeds")
    sizes = [scores[scores["test_set"] == test]["n"].iloc[0] for test in DOMAINS]
    losses = read("studies/converged/seeds-validation").set_index(["system", "seed", "epoch"])
    losses = losses["eval_loss"].sort_index()
    assert all(losses["fine-tuning", seed].idxmin() == 2 for seed in (77, 78))
    assert all(losses["lora", seed].idxmin() in (2, 3) for seed in (77, 78))
    first, last = losses["fine-tuning", 77, 2], losses["fine-tuning", 77, 10]
    return [
        f"the whole tests ({sizes[0]} and {sizes[1]} clips)",
        f"our variant is {tenths(fine_tuning['difference'])} points behind fine-tuning and "
        f"{tenths(lora['difference'])} ahead of LoRA, and neither is decided",
        f"stay {min(behind):.0f} points behind these three in-domain",
        f"at seed 77 it is {first:.3f} after epoch 2 and {last:.3f} after epoch 10",
    ]


def _low_rank() -> list[str]:
    thin = study("smaller", "system", "distilwhisper-low-rank")
    soft = turned(pair_in(LOW_RANK, OURS, "distilwhisper-low-rank", "in-domain"))
    lora = pair_in(LOW_RANK, "distilwhisper-low-rank", "lora", "in-domain")
    assert not is_decided(thin) and not is_decided(soft) and lora["low"] > 0
    return [
        f"{tenths(thin['difference'])} points more WER in-domain {interval(thin)}",
        f"{tenths(soft['difference'])} more {interval(soft)}, one seed each",
        f"{tenths(lora['difference'])} points better in-domain than they are with soft gates "
        f"{interval(lora)}",
    ]


def statistics() -> list[str]:
    """Return the passages of docs/statistics.md."""
    for test in DOMAINS:
        for name in RIVALS:
            assert all(way(OURS, name, test)["high"] > 0 for way in robust_ways())
    assert by_room(OURS, "fine-tuning", "in-domain")["low"] > 0
    rooms = [by_room(OURS, "student", test)["rooms"] for test in DOMAINS]
    return [
        f"({rooms[0]} in-domain, {rooms[1]} out-of-domain)",
        f"({LOOP_RATIO:g} times or more",
        *_floor(),
        *_clips(),
        *_luck(),
    ]


def _floor() -> list[str]:
    systems = ("student", OURS, "lora", "fine-tuning", "teacher")
    student, ours, lora, fine_tuning, teacher = (
        f"{capped_wer(name, 'out-of-domain'):.1f}" for name in systems
    )
    exact = [_without_error(name) for name in (*systems, NO_TEACHER, POOLED)]
    return [
        f"the student's WER is {student} %, our variant's {ours}, LoRA's {lora}, "
        f"fine-tuning's {fine_tuning} and the stand-in's {teacher}, and every system writes "
        f"{min(exact):.0f} to {max(exact):.0f} % of the clips without an error",
    ]


def _without_error(system: str) -> float:
    return 100 * (word_errors(clips_of(system, "out-of-domain")) == 0).mean()


def _clips() -> list[str]:
    card = (ROOT / "data" / "fillets" / "README.md").read_text(encoding="utf-8")
    row = next(line for line in card.splitlines() if line.startswith("| cs | 2057"))
    train, teacher = (cell.strip() for cell in row.split("|")[-3:-1])
    shown = [
        f"({cell.replace(' (', ' clips, ').removesuffix(')')} minutes)" for cell in (teacher, train)
    ]
    return [f"split `teacher` of the game {shown[0]}", f"split `train` {shown[1]}", *_trials()]


def _trials() -> list[str]:
    tables = ["tuning", "tuning-ours", "variants-soft", "variants-hard"]
    tables += ["longer/tuning", "longer/variants"]
    systems = [name for table in tables for name in read(f"studies/{table}")["system"]]
    ours, fine_tuning, lora = (systems.count(name) for name in (OURS, *RIVALS))
    assert fine_tuning == lora
    return [f"our variant had {ours} trials on validation, fine-tuning and LoRA {lora} each"]


def _luck() -> list[str]:
    ours = variant(seed=78)
    pooled = study("fidelity", "fidelity", "corrected, another seed")
    runs = read("studies/same-seed").pivot(
        index=["system", "test_set"], columns="run", values="wer"
    )
    assert (runs[3] == runs[4]).all()
    moved = runs.max(axis=1) - runs.min(axis=1)
    return [
        f"another seed moves our variant by {points(ours).split()[0]} points on validation "
        f"{interval(ours)}; another seed of the pooled budget moves it by {points(pooled)}",
        f"Fine-tuning moved by {tenths(moved['fine-tuning', 'in-domain'])} points in-domain, and "
        f"the pooled budget, whose teacher moved, by {tenths(moved[POOLED, 'out-of-domain'])} "
        "out-of-domain",
    ]


def method() -> list[str]:
    """Return the passages of docs/method.md."""
    table = read("studies/fidelity").set_index("fidelity")
    seed = table.loc["corrected, another seed", "difference"]
    switches = table.drop(["corrected", "corrected, another seed"])
    assert all(row["low"] < seed < row["high"] for row in switches.to_dict("records"))
    both = study("fidelity-lora", "fidelity", "lora_on_both")
    again = study("fidelity-lora", "fidelity", "corrected, another seed")
    plain = study("fidelity-lora", "fidelity", "corrected")
    labels = study("fidelity-lora-labels", "fidelity", "labels_without_language")
    released = study("fidelity-lora-labels", "fidelity", "released")
    start = study("fidelity-lora-labels", "fidelity", "labels_with_start")
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
    table = read("studies/smaller")
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
    in_16_bits = sorted(routed["bf16", "no", "base", 1])
    autocast = [
        runs["routed"] for (_, compiled, _), runs in inference_runs().items() if compiled == "no"
    ]
    return [
        f"takes {same.min():.3f} to {same.max():.3f} times plain Whisper",
        f"it takes {in_16_bits[0]:.3f} and {in_16_bits[1]:.3f}",
        f"up to {max(autocast):.2f}; compiled {routed['autocast', 'yes', 'base', 1]:.2f}",
    ]


def _training() -> list[str]:
    table = benchmark("training").set_index(["size", "teacher", "work", "run"])
    shares = table["times baseline"].sort_index()
    seconds = table["seconds"].sort_index()
    step = seconds["base", "base", "step"]
    steps = -(-366 // 8) * 4 * 2  # batches of 8 from 366 clips, four epochs, two distilled systems
    fronts, without = [], []
    for size, teacher in (("base", "small"), ("base", "base"), ("small", "large-v2")):
        part = seconds[size, teacher, "step"]
        fronts.append(100 * part["frozen front"] / part["mixed precision"])
        without.append(part["without labelled, top k"] / part["mixed precision"])
        assert part["without fused optimizer"] < 1.25 * part["mixed precision"]
    minutes = steps * step / 60
    epochs = "library, 30 s"
    return [
        f"ten epochs take {shares['base', 'small', '10 epochs', epochs]:.2f} of the baseline's "
        f"time (base from small), and {shares['small', 'large-v2', '10 epochs', epochs]:.2f} with "
        f"the paper's models (small from large-v2). Four epochs of base from base take "
        f"{shares['base', 'base', '4 epochs', epochs]:.2f}.",
        f"{without[0]:.2f}, {without[1]:.2f} and {without[2]:.2f} times the time",
        f"save {min(fronts):.0f} to {max(fronts):.0f} % of a step",
        f"trains {steps} steps of 8 clips",
        f"a step takes {step['mixed precision']:.1f} s instead of {step['baseline']:.1f} s, so "
        f"that these steps take {minutes['mixed precision']:.0f} minutes instead of "
        f"{minutes['baseline'] / 60:.1f} hours. Without the short window they would take "
        f"{minutes['without short window']:.0f} minutes",
    ]


def _cheap_training() -> list[str]:
    changes = {
        "all of the teacher's tokens instead of the 256 most likely": "top_k",
        "fp32 instead of 16 bits": "convergence",
        "clips drawn at random instead of by length (another machine)": "convergence-random",
    }
    rows = {text: read(f"studies/{name}").iloc[-1] for text, name in changes.items()}
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
    table = benchmark("storage").set_index(["size", "form"])
    return table.loc[(size, "fp32"), "megabytes"]


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
