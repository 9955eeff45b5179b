"""The generated tables of docs/ on method, presets, benchmarks and stored sizes, as Markdown."""

import pandas as pd
from method_table import MODES, fidelity_rows, method_rows, rate_rows
from stored_results import benchmark, points, stated, study, with_interval

from distilwhisper_lib import DIFFERENCES, FIDELITIES, PRESETS, Preset, get_method
from distilwhisper_lib.data.corpora.registry import MADE_UP

AGREED = "same gate decision at every position"
INFERENCE_ROWS = (  # size, compiled, work: in bf16 by autocast, one clip
    ("base", "no", "one pass"),
    ("base", "no", "token by token"),
    ("small", "no", "one pass"),
    ("small", "no", "token by token"),
    ("base", "yes", "one pass"),
)
TRAINING_ROWS = {  # run of training.csv -> what it adds to the rows above it
    "baseline": "the plainest way",
    "stored teacher": "cached teacher distributions",
    "top k": "losses at labelled positions, over 256 tokens",
    "short window": "short window",
    "mixed precision": "16 bits, fused optimiser",
}
SHAPES = {  # (student, teacher, batch) of training.csv -> heading
    ("base", "base", 8): "base from base",
    ("base", "small", 4): "base from small",
    ("small", "large-v2", 1): "small from large-v2",
}


def markdown_table(rows: list[list], head: list[str]) -> str:
    """Return rows as a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


# ---- presets and method


def presets() -> str:
    """Return the table of presets: what they need."""
    rows = [
        [f"`{p.name}`", p.student, p.teacher or "stand-in", p.minutes, p.memory]
        for p in PRESETS.values()
    ]
    return markdown_table(rows, ["preset", "student", "teacher", "time", "memory"])


def preset_speech() -> str:
    """Return the table of presets: what they train on."""
    rows = [[f"`{p.name}`", _corpora(p), _window(p), p.epochs] for p in PRESETS.values()]
    return markdown_table(rows, ["preset", "speech", "window", "epochs"])


def _corpora(preset: Preset) -> str:
    if preset.corpus in MADE_UP:
        return "made up"
    return ", ".join(dict.fromkeys((preset.corpus, preset.second_corpus)))


def _window(preset: Preset) -> str:
    return "30 s" if preset.margin_seconds is None else f"clip + {preset.margin_seconds:g} s"


def same_settings() -> str:
    """Return the settings that are the same in all presets: release, kit, source."""
    rows = [
        [setting, release, laptop, source]
        for setting, release, source, laptop, colab, paper in method_rows()
        if laptop == colab == paper
    ]
    return markdown_table(rows, ["setting", "release", "kit", "where the release says it"])


def preset_settings() -> str:
    """Return the settings that differ between presets, learning rates apart."""
    rows = [
        [setting, release, laptop, colab, paper]
        for setting, release, _, laptop, colab, paper in method_rows()
        if not laptop == colab == paper and setting != "learning rate"
    ]
    return markdown_table(rows, ["setting", "release", "`laptop`", "`colab`", "`paper`"])


def learning_rates() -> str:
    """Return the learning rate of each system in each preset."""
    return markdown_table(rate_rows(), ["system", "`laptop`", "`colab`", "`paper`"])


def switches() -> str:
    """Return the table of switches: what each fidelity does."""
    rows = [
        [f"`{name}`: {setting}", *does]
        for setting, name, *does in (
            [row[0], row[1].strip("`"), *row[2:5]] for row in fidelity_rows()
        )
        if name in DIFFERENCES
    ]
    return markdown_table(rows, ["switch", *(f"`{mode}`" for mode in MODES)])


def without_switch() -> str:
    """Return the table of the differences that no switch covers: kit and release."""
    rows = [
        [setting, released.removeprefix(kit).strip(" ()").removeprefix("its code: "), kit]
        for setting, switch, kit, released, *_ in fidelity_rows()
        if switch == "–"
    ]
    return markdown_table(rows, ["setting", "release", "kit"])


def fidelity_study(name: str) -> str:
    """Return what each fidelity was worth in a stored study, with and without looping clips."""
    rows = []
    for row in study(name).to_dict("records"):
        is_first = row["difference"] == row["low"] == row["high"] == 0
        without = {key: row[f"{key}_without_loops"] for key in ("difference", "low", "high")}
        shown = row["fidelity"]
        shown = f"`{shown}`" if shown in FIDELITIES else shown
        differences = ["–", "–"] if is_first else [stated(row), points(without)]
        rows.append([shown, with_interval(row), *differences])
    return markdown_table(rows, ["fidelity", "WER", "minus `corrected`", "the same without loops"])


# ---- benchmarks


def inference() -> str:
    """Return the rows of the benchmark of inference that matter, relative to plain Whisper."""
    rows = [
        [f"{size}{', compiled' if compiled == 'yes' else ''}, {work}", *_relative(runs)]
        for (size, compiled, work), runs in inference_runs().items()
    ]
    return markdown_table(rows, ["model, work", "both blocks", "routed", AGREED])


def inference_runs() -> dict[tuple, pd.Series]:
    """Return for each of INFERENCE_ROWS the time relative to plain Whisper, by run."""
    found = benchmark("inference")
    found = found[(found["dtype"] == "autocast") & (found["batch"] == 1)]
    index = ["size", "compiled", "work"]
    times = found.set_index([*index, "run"])["times plain"].sort_index()
    return {key: times.loc[key] for key in INFERENCE_ROWS}


def _relative(runs: pd.Series) -> list[str]:
    return [f"{runs[run]:.2f}" if run in runs else "–" for run in ("mixed", "routed", "agreeing")]


def training() -> str:
    """Return the time of a training step relative to the plainest way, as each measure is added."""
    shares = training_shares()
    rows = [
        [text, *(f"{shares[shape][run]:.2f}" for shape in SHAPES)]
        for run, text in TRAINING_ROWS.items()
    ]
    return markdown_table(rows, ["with", *SHAPES.values()])


def training_shares() -> dict[tuple, pd.Series]:
    """Return for each of SHAPES the time of a step over the baseline's, by run."""
    found = benchmark("training")
    steps = found[found["work"] == "step"].set_index(["size", "teacher", "batch", "run"])
    shares = steps["times baseline"].sort_index()
    return {shape: shares.loc[shape] for shape in SHAPES}


def memory() -> str:
    """Return the peak of memory of a training step: the plainest way and the library."""
    rows = []
    for (size, teacher, batch), part in benchmark("memory").groupby(
        ["size", "teacher", "batch"], sort=False
    ):
        peak = part.set_index("run")
        gigabytes = [f"{peak['gb'][run]:.1f} GB" for run in ("baseline", "library")]
        share = f"{peak['times baseline']['library']:.2f}"
        rows.append([f"{size} from {teacher}, batches of {batch}", *gigabytes, share])
    return markdown_table(rows, ["shapes", "the plainest way", "library", "share"])


def measured_on(name: str) -> str:
    """Return a sentence on the machines that a benchmark ran on."""
    found = benchmark(name)
    columns = ["processor", "gpu", "threads", "precision", "torch"]
    machines = found[columns].drop_duplicates()
    each = [
        f"{row.processor if pd.isna(row.gpu) else row.gpu} ({row.threads} threads, "
        f"16 bits: {row.precision}), torch {row.torch}"
        for row in machines.itertuples()
    ]
    return f"Measured on {'; '.join(each)}."


# ---- sizes


def storage() -> str:
    """Return megabytes of a language in each form, for whisper-base and whisper-small."""
    sizes = {}
    for row in benchmark("storage").to_dict("records"):
        form = row["form"] + ("" if pd.isna(row["rank"]) else f", rank {row['rank']:.0f}")
        sizes.setdefault(form, {})[row["size"]] = f"{row['megabytes']:.1f} MB"
    rows = [[form, by_size["base"], by_size["small"]] for form, by_size in sizes.items()]
    return markdown_table(rows, ["form", "whisper-base", "whisper-small"])


def smaller(system: str) -> str:
    """Return the WER of one system's experts in each stored form, and the difference to fp32."""
    table = study("smaller")
    rows = []
    for row in table[table["system"] == system].to_dict("records"):
        form = row["form"] + (", trained for agreement" if row["agreement"] else "")
        size = "–" if pd.isna(row["megabytes"]) else f"{row['megabytes']:.1f}"
        difference = "–" if pd.isna(row["difference"]) else stated(row)
        rows.append([form, size, with_interval(row), difference])
    return markdown_table(rows, ["form", "MB a language", "WER", "difference"])


def label(system: str) -> str:
    """Return a system's label."""
    return get_method(system).label
