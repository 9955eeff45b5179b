"""What all figures share: size, colours and labels of the methods, bars, legend, saving."""

import io
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from ..files import atomic_file
from ..training.methods import METHODS

WIDE = (9, 4)  # inches

DPI = 100

# colours of what is not a method
OTHERS = ("#4c956c", "#8e6c8a", "#b08968", "#5fa8a0", "#c06c84", "#6c757d")


class Picture(Figure):
    """A Figure that notebooks show by itself, without pyplot and its backends."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png")
        return stream.getvalue()


def save_figure(figure: Figure, path: Path) -> Figure:
    """Write `figure` as PNG, making the folder where it is missing; returns the figure."""
    with atomic_file(path) as part:
        figure.savefig(part, format="png")
    return figure


def label_of(name: str) -> str:
    """Return the label of a method, or the name itself where it is not one."""
    return METHODS[name].label if name in METHODS else name


def colours_of(names: Iterable[str]) -> list[str]:
    """Return each method's own colour, by name or label; anything else takes the next of OTHERS."""
    known = {}
    for method in METHODS.values():
        known[method.name] = method.colour
        known[method.label] = method.colour
    rest = cycle(OTHERS)
    return [known[name] if name in known else next(rest) for name in names]


def ordered(names: Iterable[str]) -> list[str]:
    """Return names in the order of the comparison; what is no method comes last."""
    names = list(names)
    methods = [name for name in METHODS if name in names]
    return methods + [name for name in names if name not in METHODS]


def new_figure(size: tuple, columns: int = 1, rows: int = 1, **options) -> tuple[Picture, list]:
    """Return a figure and the flat list of its axes, with light grid lines and no box."""
    figure = Picture(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=9)
    return figure, axes


def add_legend(figure: Figure, ax, columns: int = 4) -> None:
    """Put the legend of `ax` under the whole figure, where it covers nothing."""
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(columns, len(labels)),
            fontsize=9,
            frameon=False,
        )


def error_bars(table: pd.DataFrame) -> np.ndarray:
    """Return error bars of wer for matplotlib: distances to wer_low and wer_high, (2, n)."""
    wer, low, high = table[["wer", "wer_low", "wer_high"]].to_numpy(dtype=float).T
    return np.maximum([wer - low, high - wer], 0)


def grouped_bars(ax, groups: list[str], series: dict[str, tuple]) -> None:
    """Draw bars side by side.

    Args:
        ax: The axes.
        groups: Labels of the groups of bars.
        series: Name -> (heights, error bars or None), one height a group, NaN for none.
    """
    width = 0.8 / max(1, len(series))
    colours = colours_of(series)
    for i, (name, (heights, spread)) in enumerate(series.items()):
        x = np.arange(len(groups)) + (i - (len(series) - 1) / 2) * width
        bars = ax.bar(
            x,
            heights,
            0.92 * width,
            color=colours[i],
            edgecolor=colours[i],
            label=label_of(name),
            yerr=spread,
            error_kw={"ecolor": "#333333", "elinewidth": 1, "capsize": 2},
        )
        if spread is not None:  # a light rim, to be seen on dark bars too
            _, caps, lines = bars.errorbar.lines
            for artist in (*caps, *lines):
                artist.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    ax.set_xticks(range(len(groups)), groups, fontsize=8 if len(groups) > 6 else 9)
    ax.grid(axis="y", alpha=0.3)
