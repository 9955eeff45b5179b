"""Draw the pictures of docs/figures from the stored benchmarks.

    .venv/bin/python tools/docs_figures.py

Each picture holds the SHA-256 of the tables that it was drawn from; a test compares.
"""

import argparse
import hashlib
from pathlib import Path

from docs_tables import (
    AGREED,
    SHAPES,
    TRAINING_ROWS,
    inference_runs,
    training_shares,
)
from matplotlib.figure import Figure
from stored_results import BENCHMARKS, ROOT

FIGURES = ROOT / "docs" / "figures"
COLOURS = ("#7f7f7f", "#2a78b8", "#10427a")
SOURCES = {"inference": "inference.csv", "training": "training.csv"}


def fingerprint(name: str) -> str:
    """Return the SHA-256 of the table that a picture is drawn from."""
    return hashlib.sha256((BENCHMARKS / SOURCES[name]).read_bytes()).hexdigest()


def draw_inference() -> Figure:
    """Draw the time of inference above plain Whisper's, by way of computing experts."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    runs = inference_runs()
    ways = {"mixed": "both blocks", "routed": "routed", "agreeing": AGREED}
    for offset, (run, text), colour in zip((-0.27, 0, 0.27), ways.items(), COLOURS, strict=True):
        found = [(place, times[run]) for place, times in enumerate(runs.values()) if run in times]
        places = [place + offset for place, _ in found]
        above = [100 * (time - 1) for _, time in found]
        bars = axes.barh(places, above, 0.25, color=colour, label=text)
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
    axes.set_yticks(range(len(runs)), [_inference_label(*key) for key in runs])
    axes.invert_yaxis()
    axes.set_xlim(0, 36)
    axes.set_xlabel("time above that of plain Whisper (%)")
    figure.legend(loc="outside upper center", ncols=3, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _inference_label(size: str, compiled: str, work: str) -> str:
    return f"whisper-{size}{', compiled' if compiled == 'yes' else ''},\n{work}"


def draw_training() -> Figure:
    """Draw the time of a training step over the plainest way, as each measure is added."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    axes = figure.subplots()
    shares = training_shares()
    offsets = (-0.27, 0, 0.27)
    for offset, (shape, text), colour in zip(offsets, SHAPES.items(), COLOURS, strict=True):
        places = [place + offset for place in range(len(TRAINING_ROWS))]
        values = [shares[shape][run] for run in TRAINING_ROWS]
        bars = axes.barh(places, values, 0.25, color=colour, label=text)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    names = list(TRAINING_ROWS.values())
    axes.set_yticks(range(len(names)), names[:1] + [f"+ {name}" for name in names[1:]])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12)
    axes.set_xlabel("time of a training step relative to the plainest way")
    axes.legend(loc="lower right", title="student from teacher", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


DRAWN = {"inference": draw_inference, "training": draw_training}


def main(folder: Path = FIGURES) -> None:
    """Draw every picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWN.items():
        metadata = {"Description": fingerprint(name)}
        draw().savefig(folder / f"{name}.png", dpi=110, metadata=metadata)
        print(f"{name}.png")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
