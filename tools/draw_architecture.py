"""Draw the figure of DistilWhisper that README and notebooks show.

    .venv/bin/python tools/draw_architecture.py

Writes notebooks/figures/architecture.svg and .png, and two parts of it: block.png, for the notebook
that builds experts and gates, and losses.png, for the one that builds the losses. Everything is
placed by hand in inches, on a sheet of WIDTH x HEIGHT; grey is frozen, colour is trained.
"""

import argparse
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from matplotlib.transforms import Bbox

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from distilwhisper_lib.training.methods import METHODS  # noqa: E402

FIGURES = ROOT / "notebooks" / "figures"
WIDTH, HEIGHT, DPI = 9.0, 7.3, 200

# Parts that are files of their own: left, bottom, right and top
PARTS = {"block": (0.05, 0.2, 3.8, 5.9), "losses": (3.88, 0.6, 8.95, 6.95)}

INK = "#222222"
FROZEN = "#e4e4e4"
FROZEN_EDGE = "#9a9a9a"
LAYER = "#f7f7f7"
GATE = "#3f8a5f"
GATE_FACE = "#dcefe3"
EXPERT = METHODS["distilwhisper-released"].colour
EXPERT_FACE = "#cfe3f3"
OTHER_EXPERT = METHODS["clsr-ft"].colour
OTHER_EXPERT_FACE = "#e6f1f9"
TEACHER = METHODS["teacher"].colour
LOSS = "#fff6da"
LOSS_EDGE = "#b99a3c"
NOTE = "#555555"


def box(
    ax: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str = "",
    face: str = FROZEN,
    edge: str = FROZEN_EDGE,
    colour: str = INK,
    size: float = 9,
    linewidth: float = 1.1,
    linestyle: str | tuple = "-",
    zorder: float = 1,
) -> None:
    """Draw a rounded box with its lower left corner at (x, y) and a text in its middle.

    Args:
        ax: The sheet.
        x: Left edge, in inches.
        y: Lower edge, in inches.
        width: In inches.
        height: In inches.
        text: May have several lines.
        face: Colour of the box.
        edge: Colour of its edge.
        colour: Colour of the text.
        size: Of the text, in points.
        linewidth: Of the edge, in points.
        linestyle: Of the edge, in matplotlib's forms.
        zorder: Higher boxes hide lower ones.
    """
    patch = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.06",
        facecolor=face,
        edgecolor=edge,
        linewidth=linewidth,
        linestyle=linestyle,
        zorder=zorder,
    )
    ax.add_patch(patch)
    ax.text(
        x + width / 2,
        y + height / 2,
        text,
        ha="center",
        va="center",
        fontsize=size,
        color=colour,
        zorder=zorder + 1,
        linespacing=1.25,
    )


def line(
    ax: Axes,
    *points: tuple[float, float],
    colour: str = INK,
    head: bool = True,
    linestyle: str | tuple = "-",
) -> None:
    """Draw a path of straight pieces through the points, with an arrow head at its end."""
    # The last piece is drawn by the arrow, where there is one
    drawn = points[:-1] if head else points
    x, y = zip(*drawn, strict=True)
    ax.plot(
        x,
        y,
        color=colour,
        linewidth=1.4,
        linestyle=linestyle,
        solid_capstyle="butt",
        zorder=2,
    )
    if not head:
        return
    arrow = FancyArrowPatch(
        points[-2],
        points[-1],
        arrowstyle="-|>",
        mutation_scale=11,
        color=colour,
        linewidth=1.4,
        linestyle=linestyle,
        shrinkA=0,
        shrinkB=0,
        zorder=2,
    )
    ax.add_patch(arrow)


def note(ax: Axes, x: float, y: float, text: str, size: float = 9, **style) -> None:
    """Write a text at (x, y), centred unless `style` says otherwise."""
    centred = {"ha": "center", "va": "center", "color": INK, "linespacing": 1.25}
    ax.text(x, y, text, fontsize=size, **centred | style)


def draw_losses(ax: Axes) -> None:
    """Draw the three losses over what they are computed from, and their sum."""
    note(ax, 0.2, 7.08, "Training: only experts and gates learn", 10.5, ha="left", weight="bold")
    note(
        ax,
        8.8,
        7.08,
        r"loss = ½ $\left[\,(\mathrm{CE} + \mathrm{budget})\,/\,1.41^2 + \mathrm{JS}\,\right]$",
        10.5,
        ha="right",
    )
    losses = (
        (0.55, 2.95, "gate budget\n" + r"$|\,$mean of $g - b\,|$,  $b = 0.5$"),
        (4.0, 2.3, "CE\ncross-entropy with the labels"),
        (6.6, 2.2, "JS\nJensen-Shannon divergence"),
    )
    for x, width, text in losses:
        box(ax, x, 6.2, width, 0.58, text, LOSS, LOSS_EDGE)


def draw_block(ax: Axes) -> None:
    """Draw the feed-forward block with its gate and experts, enlarged."""
    box(ax, 0.15, 2.05, 3.5, 3.75, face="#ffffff", edge=EXPERT, linewidth=1.6, zorder=1)
    note(ax, 0.3, 5.6, "CLSR feed-forward block", 10, ha="left", weight="bold", color=EXPERT)
    line(ax, (1.9, 1.9), (1.9, 2.55), head=False)
    note(ax, 2.0, 2.3, "$h$, a vector per position", 8.5, ha="left")
    note(ax, 0.3, 2.28, "no language set:\nshared block alone", 8.5, ha="left", color=NOTE)
    line(ax, (1.9, 2.55), (0.82, 2.55), (0.82, 3.1))
    line(ax, (1.9, 2.55), (1.9, 3.1))
    line(ax, (1.9, 2.55), (2.92, 2.55), (2.92, 3.1))
    box(ax, 0.3, 3.1, 1.04, 0.95, "shared\nblock:\nWhisper's own")
    box(ax, 1.48, 3.1, 0.84, 0.95, "gate\n$G(h)$", GATE_FACE, GATE)
    box(ax, 2.6, 3.22, 0.92, 0.95, face=OTHER_EXPERT_FACE, edge=OTHER_EXPERT)
    box(ax, 2.53, 3.16, 0.92, 0.95, face=OTHER_EXPERT_FACE, edge=OTHER_EXPERT)
    box(ax, 2.46, 3.1, 0.92, 0.95, "expert\nof the\nlanguage", EXPERT_FACE, EXPERT)
    note(ax, 2.98, 2.9, "cs, ca, …", 9, ha="left", color=EXPERT)
    line(ax, (0.82, 4.05), (0.82, 4.63))
    line(ax, (2.92, 4.17), (2.92, 4.63))
    line(ax, (1.9, 4.05), (1.9, 4.63), colour=GATE)
    note(ax, 2.0, 4.34, "$g$", 11, ha="left", color=GATE)
    box(
        ax,
        0.5,
        4.63,
        2.8,
        0.44,
        r"$y = g\cdot\mathrm{expert}(h) + (1-g)\cdot\mathrm{shared}(h)$",
        "#ffffff",
        INK,
    )
    line(ax, (3.0, 5.07), (3.0, 5.68))
    note(ax, 3.12, 5.4, "$y$", 11, ha="left")


def draw_routing(ax: Axes) -> None:
    """Draw how the gate decides: softly with noise in training, hard in evaluation."""
    logit = np.linspace(-4, 4, 200)
    draw_gate_curve(ax, 0.5, "training: soft", sigmoid(1.4 * logit), noisy=True)
    draw_gate_curve(ax, 2.3, "evaluation: hard", logit >= 0)
    note(ax, 1.12, 0.42, r"$g=\sigma(G+\alpha\,\varepsilon),\ \varepsilon\sim N(0,1)$", 9)
    note(ax, 2.92, 0.42, r"$g=1$ where $G\geq 0$, else $0$", 9)


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-logit))


def draw_gate_curve(ax: Axes, x: float, title: str, curve: np.ndarray, noisy: bool = False) -> None:
    """Draw the gate g over its logit G with the left end at x; `noisy` adds samples with noise."""
    middle, floor, height = x + 0.62, 0.75, 0.52
    width = 0.155  # inches for each unit of the logit
    line(ax, (x, floor), (x + 1.25, floor), head=False, colour=FROZEN_EDGE)
    line(ax, (middle, 0.7), (middle, 1.35), head=False, colour=FROZEN_EDGE)

    if noisy:
        rng = np.random.default_rng(1)
        places = rng.uniform(-3.6, 3.6, 60)
        gates = sigmoid(1.4 * (places + rng.normal(0, 1.1, 60)))
        ax.scatter(
            middle + places * width,
            floor + height * gates,
            s=5,
            color=GATE,
            alpha=0.35,
            linewidths=0,
        )

    logit = np.linspace(-4, 4, len(curve))
    ax.plot(middle + logit * width, floor + height * curve, color=GATE, linewidth=2)
    note(ax, middle, 1.55, title, 9, weight="bold", color=GATE)
    note(ax, x + 1.33, floor, "$G$", 9, ha="left")
    note(ax, x + 0.08, 1.27, "$g=1$", 8, color=NOTE)


def draw_layers(ax: Axes, x: float, parts: list[str], title: str) -> None:
    """Draw a stack of Whisper layers from y = 2.05: the parts of one, the edges of the others."""
    height = 0.2 + 0.62 * len(parts)
    for shift in (0.1, 0.05, 0):
        box(ax, x + shift, 2.05 + shift, 1.2, height, face=LAYER, edge=FROZEN_EDGE)
    for index, part in enumerate(parts):
        bottom = 2.2 + 0.62 * index
        routed = part == "CLSR block"
        face = EXPERT_FACE if routed else FROZEN
        edge = EXPERT if routed else FROZEN_EDGE
        box(ax, x + 0.1, bottom, 1.0, 0.44, part, face, edge)
        if index:
            line(ax, (x + 0.6, bottom - 0.18), (x + 0.6, bottom))
    note(ax, x + 0.65, 2.05 + height + 0.25, title, 9, weight="bold")


def draw_student(ax: Axes) -> None:
    """Draw the student: log-mel, encoder, decoder, probabilities of the next token."""
    draw_layers(ax, 4.0, ["self-\nattention", "CLSR block"], "encoder × N")
    decoder = ["self-\nattention", "cross-\nattention", "CLSR block"]
    draw_layers(ax, 5.55, decoder, "decoder × N")

    # The enlarged block's place in the encoder
    cone = [(3.65, 5.72), (3.65, 2.13), (4.1, 2.82), (4.1, 3.26)]
    ax.add_patch(Polygon(cone, facecolor=EXPERT, alpha=0.10, linewidth=0, zorder=0.5))
    line(ax, (5.3, 3.04), (5.65, 3.04))

    # A made-up log-mel spectrogram, louder at low frequencies
    rng = np.random.default_rng(7)
    sound = np.clip(rng.gamma(2.0, 0.2, (10, 24)) * np.linspace(1.4, 0.3, 10)[:, None], 0, 1)
    ax.imshow(
        sound, extent=(4.05, 5.15, 0.95, 1.5), origin="lower", cmap="magma", aspect="auto", zorder=1
    )
    ax.add_patch(Rectangle((4.05, 0.95), 1.1, 0.55, fill=False, edgecolor=FROZEN_EDGE, zorder=2))
    note(ax, 4.6, 0.8, "log-mel of speech", 8.5)
    box(ax, 3.9, 0.65, 3.1, 0.95, face="none", linestyle=(0, (3, 2)), zorder=0.5)
    line(ax, (4.6, 1.5), (4.6, 2.05))
    box(
        ax,
        5.5,
        1.0,
        1.35,
        0.45,
        "start  cs  transcribe\ntokens so far",
        "#ffffff",
        FROZEN_EDGE,
        size=8,
    )
    line(ax, (6.15, 1.45), (6.15, 2.05))
    box(ax, 5.45, 4.98, 1.4, 0.46, "$p_S$: next token", "#ffffff", INK)
    line(ax, (6.15, 4.55), (6.15, 4.98))
    note(ax, 3.95, 5.6, "Student: a Whisper", 10, ha="left", weight="bold")


def draw_teacher(ax: Axes) -> None:
    """Draw the teacher, which has the same input and is used in training only."""
    text = (
        "Teacher:\na Whisper that\nknows more\n\n(large-v2 in the\npaper, a stand-in\non a laptop)"
    )
    box(ax, 7.3, 2.05, 1.5, 2.3, text, TEACHER, TEACHER, "white")
    box(ax, 7.35, 4.98, 1.4, 0.46, "$p_T$: next token", "#ffffff", INK)
    line(ax, (8.05, 4.35), (8.05, 4.98))
    line(ax, (7.0, 1.2), (8.05, 1.2), (8.05, 2.05), linestyle=(0, (3, 2)))
    note(ax, 8.02, 0.98, "the same input,\nin training only", 8.5, va="top")


def draw_links(ax: Axes) -> None:
    """Draw what flows into the losses."""
    line(ax, (5.75, 5.44), (5.75, 6.2))
    line(ax, (6.55, 5.44), (6.55, 5.8), (7.05, 5.8), (7.05, 6.2))
    line(ax, (8.05, 5.44), (8.05, 6.2), linestyle=(0, (3, 2)))
    line(ax, (2.0, 5.8), (2.0, 6.2), colour=GATE)
    note(ax, 2.1, 6.0, "all $g$ of all layers", 9, ha="left", color=GATE)


def draw_legend(ax: Axes) -> None:
    """Say what the colours mean."""
    for x, face, edge, text in (
        (4.0, FROZEN, FROZEN_EDGE, "frozen"),
        (5.0, EXPERT_FACE, EXPERT, "trained: experts"),
        (6.75, GATE_FACE, GATE, "trained: gates"),
    ):
        box(ax, x, 0.22, 0.26, 0.2, face=face, edge=edge)
        note(ax, x + 0.35, 0.32, text, 9, ha="left")


def architecture() -> Figure:
    """Return the whole figure."""
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    ax = figure.add_axes((0, 0, 1, 1))
    draw_losses(ax)
    draw_block(ax)
    draw_routing(ax)
    draw_student(ax)
    draw_teacher(ax)
    draw_links(ax)
    draw_legend(ax)
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="equal")
    ax.axis("off")
    return figure


def main(folder: Path = FIGURES) -> None:
    """Write the files into `folder`; they are the same at every call."""
    folder.mkdir(parents=True, exist_ok=True)
    fixed = {"svg.hashsalt": "architecture", "svg.fonttype": "path", "font.family": "DejaVu Sans"}
    with mpl.rc_context(fixed):
        figure = architecture()
        figure.savefig(folder / "architecture.svg", metadata={"Date": None, "Creator": None})
        figure.savefig(folder / "architecture.png", metadata={"Software": None})
        for name, part in PARTS.items():
            whole = Bbox.from_extents(*part)
            figure.savefig(folder / f"{name}.png", metadata={"Software": None}, bbox_inches=whole)
    print(f"wrote {folder / 'architecture.svg'} and .png, and its parts: {', '.join(PARTS)}")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
