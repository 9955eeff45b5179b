"""The figures of the course: one function per figure, from tables to a matplotlib Figure.

A system has the same label and colour in every figure (`drawing`). Error bars are 95 % intervals.
No function changes matplotlib's global state.
"""

from collections.abc import Iterable, Sequence
from itertools import cycle, pairwise
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.scoring import summarise
from ..evaluation.testsets import DOMAINS, RETENTION, is_retention
from ..training.methods import METHODS
from .comparison import is_off_beside_on
from .drawing import (
    WIDE,
    add_legend,
    colours_of,
    error_bars,
    grouped_bars,
    label_of,
    new_figure,
    ordered,
)
from .drawing import save_figure as save_figure

OURS = "distilwhisper"  # the system whose colour a figure without systems takes
KINDS = {"deletions": "#4c72b0", "substitutions": "#b0b0b0", "insertions": "#c44e52"}
MISSING = "#dddddd"  # the background where there is no gate
GUIDE = "#888888"  # lines of budgets
FIRST_TRIAL = "#7f7f7f"  # the line of the first trial

AXES = {  # labels of what a training run logs
    "loss": "training loss (nats)",
    "ce": "CE, smoothed (nats a token)",
    "kd": "JS to the teacher (nats a token)",
    "budget": "gate budget loss",
    "gate_encoder": "mean g, encoder",
    "gate_decoder": "mean g, decoder",
    "eval_loss": "validation CE (nats a token)",
}

LENGTHS = (0, 1, 2, 3, 5, 8, 30)  # limits of the groups of clips by length, in seconds
MOST_GROUPS = 10  # speakers with a group of their own
OTHER_SPEAKERS = "all others"
HIGHEST_WER = 250  # per cent; a few loops would make all other bars too short to read
WER_AXIS = "WER (%), 95 % interval"
BLEU = "(BLEU)"  # in the label of a column of forgetting
OFF = ", off"  # after the name of a system whose adapters are switched off
OTHER_VOICE = "other voice"  # the test of the toy study whose voice is changed


def _needs(things, what: str) -> None:
    """Raise ValueError where there is nothing to draw."""
    if len(things) == 0:
        raise ValueError(f"there is nothing to draw: no {what}")


# ---- audio


def plot_log_mel(features, title: str = "") -> Figure:
    """Draw log-mel features as Whisper takes them.

    Args:
        features: (80, frames); a frame is 10 ms.
        title: The figure's title.
    """
    features = np.asarray(features, dtype=float)
    bands, frames = features.shape
    figure, (ax,) = new_figure(WIDE)
    image = ax.imshow(
        features,
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
        extent=(0, frames / 100, 0, bands),
    )
    ax.set(title=title, xlabel="time (s)", ylabel="mel band")
    figure.colorbar(image, ax=ax, label="log energy (scaled)")
    return figure


def plot_waveform(audio, title: str = "", sample_rate: int = 16_000) -> Figure:
    """Draw the waveform of a clip.

    Args:
        audio: Samples, (n,).
        title: The figure's title.
        sample_rate: Samples per second.
    """
    audio = np.asarray(audio, dtype=float)
    seconds = np.arange(len(audio)) / sample_rate
    (colour,) = colours_of([OURS])
    figure, (ax,) = new_figure((9, 2.5))
    ax.plot(seconds, audio, linewidth=0.5, color=colour)
    ax.set(title=title, xlabel="time (s)", ylabel="amplitude", xlim=(0, len(audio) / sample_rate))
    return figure


# ---- error rates


def plot_gap(table: pd.DataFrame) -> Figure:
    """Draw the WER of each system on each test, side by side.

    Args:
        table: Rows of comparison.csv. Rows without a WER, those of translation, are left out.
    """
    table = table[table["wer"].notna()]
    _needs(table, "rows with a WER")
    tests = list(dict.fromkeys(zip(table["language"], table["test_set"], strict=True)))
    scores = {}
    for system, rows in table.groupby("system", sort=False):
        scores[system] = rows.groupby(["language", "test_set"]).first().reindex(tests)
    labels = [_test_label(language, name) for language, name in tests]
    return _wer_bars(labels, scores, ylim=(0, None))


def _test_label(language: str, name: str) -> str:
    """Return "nl" for a retention test, else the language over the test's name, in short lines."""
    if is_retention(name):
        return _language_label(language, name)
    if len(name) > 10:
        name = "-\n".join(name.rsplit("-", 1))
    return f"{language}\n{name}"


def _language_label(language: str, name: str) -> str:
    """Return the label of a retention test: "ru", and "ru, festvox" of a further corpus."""
    corpus = name.removeprefix(RETENTION).removeprefix("-")
    return f"{language}, {corpus}" if corpus else language


def _wer_bars(groups: list[str], scores: dict[str, pd.DataFrame], **axes) -> Figure:
    """Draw WER by group, with the bars of each system side by side.

    Args:
        groups: The labels of the groups, G.
        scores: System -> table with the columns wer, wer_low and wer_high; one row per group, NaN
            where there is no score.
        **axes: What else to set of the axes.
    """
    series = {name: (rows["wer"].to_numpy(), error_bars(rows)) for name, rows in scores.items()}
    figure, (ax,) = new_figure(WIDE)
    grouped_bars(ax, groups, series)
    ax.set(ylabel=WER_AXIS, **axes)
    add_legend(figure, ax)
    return figure


def plot_error_kinds(counts: dict[str, pd.DataFrame]) -> Figure:
    """Draw deletions, substitutions and insertions in per cent of the words, as stacked bars.

    Args:
        counts: Label of a bar -> counts, as `count_errors` returns them.
    """
    _needs(counts, "counts")
    figure, (ax,) = new_figure((9, 1.4 + 0.45 * len(counts)))
    summaries = [summarise(table) for table in counts.values()]
    totals = np.zeros(len(counts))
    for kind, colour in KINDS.items():
        shares = np.array([summary[kind] for summary in summaries])
        ax.barh(range(len(counts)), shares, 0.7, left=totals, color=colour, label=kind)
        totals = totals + shares
    for y, total in enumerate(totals):
        ax.text(total, y, f" {total:.1f}", va="center", fontsize=9)

    ax.set_yticks(range(len(counts)), [label_of(name) for name in counts])
    ax.invert_yaxis()
    ax.set(xlabel="errors (% of the words); the sum is the WER", xlim=(0, 1.1 * totals.max() or 1))
    ax.grid(axis="x", alpha=0.3)
    add_legend(figure, ax)
    return figure


def plot_wer_by(counts: dict[str, pd.DataFrame], by: str = "length") -> Figure:
    """Draw WER by clip length or by speaker.

    The number of clips is under each group. Bars are cut off at HIGHEST_WER. Intervals are over
    clips: a group may lie in one room alone.

    Args:
        counts: System -> table with one row per utterance (`comparison.counts`), all of the same
            test.
        by: "length" or "speaker".

    Raises:
        ValueError: For another `by`, or without utterances that can be scored.
    """
    _needs(counts, "counts")
    scored = {
        name: table.dropna(subset=["words"]).drop(columns="unit", errors="ignore")
        for name, table in counts.items()
    }
    first = next(iter(scored.values()))
    _needs(first, "utterances that can be scored")
    groups = _groups(first, by)

    scores = {}
    for name, table in scored.items():
        parts = table.groupby(groups.array, observed=True)
        scores[name] = pd.DataFrame({group: summarise(part) for group, part in parts}).T

    labels = []
    for group, number in groups.value_counts(sort=False).items():
        labels.append(f"{group.replace('font_', '')}\nn={number}")
    figure = _wer_bars(labels, scores, xlabel="length of the clip" if by == "length" else by)
    (ax,) = figure.axes
    ax.set_ylim(0, min(HIGHEST_WER, ax.get_ylim()[1]))
    return figure


def _groups(table: pd.DataFrame, by: str) -> pd.Series:
    """Return the group of each utterance, as an ordered category without empty groups.

    By speaker, the most frequent speakers have a group of their own, and the others share one.
    """
    if by == "length":
        names = [f"{low}-{high} s" for low, high in zip(LENGTHS[:-1], LENGTHS[1:], strict=True)]
        groups = pd.cut(table["duration"], LENGTHS, labels=names)
    elif by == "speaker":
        frequent = list(table["speaker"].value_counts().index[:MOST_GROUPS])
        speakers = table["speaker"].where(table["speaker"].isin(frequent), OTHER_SPEAKERS)
        groups = pd.Series(pd.Categorical(speakers, [*frequent, OTHER_SPEAKERS]), table.index)
    else:
        raise ValueError(f"by must be 'length' or 'speaker', not {by!r}")
    return groups.cat.remove_unused_categories()


# ---- training


def plot_curves(logs: dict[str, list[dict]], keys: Sequence[str] = ("loss",)) -> Figure:
    """Draw over the epochs what training runs have logged, one panel per key.

    Args:
        logs: System -> "log" of its run.json.
        keys: What to draw: keys of the log's entries.
    """
    if isinstance(keys, str):
        keys = (keys,)
    _needs(keys, "keys")
    _needs(logs, "logs")
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)  # rounded up
    figure, axes = new_figure((9, 0.6 + 3.2 * rows), columns, rows)
    for ax, key in zip(axes, keys, strict=False):
        for (name, log), colour in zip(logs.items(), colours_of(logs), strict=True):
            entries = [entry for entry in log if key in entry]
            ax.plot(
                [entry["epoch"] for entry in entries],
                [entry[key] for entry in entries],
                color=colour,
                label=label_of(name),
                marker="o" if len(entries) < 15 else None,
                markersize=4,
            )
        limits = (0, 1) if key.startswith("gate_") else None
        ax.set(xlabel="epoch", ylabel=AXES.get(key, key), ylim=limits)
        ax.grid(alpha=0.3)
    for ax in axes[len(keys) :]:
        ax.set_visible(False)
    add_legend(figure, axes[0])
    return figure


# ---- gates


def plot_gate_layers(
    shares: dict[str, dict[str, list[float]]],
    budgets: Iterable[float] = (0.5,),
    line: str = "budget",
) -> Figure:
    """Draw by layer the share of positions that are routed to the expert.

    Args:
        shares: System -> {"encoder": [...], "decoder": [...]}, one share per layer, 0 to 1.
        budgets: Shares to mark by a line, such as the budgets of training.
        line: What these lines are called in the legend.
    """
    _needs(shares, "shares")
    figure, axes = new_figure(WIDE, 2, sharey=True)
    for ax, stack in zip(axes, ("encoder", "decoder"), strict=True):
        depth = max(len(share[stack]) for share in shares.values())
        layers = [str(layer + 1) for layer in range(depth)]
        series = {}
        for name, share in shares.items():
            series[name] = (100 * np.asarray(share[stack], float), None)
        grouped_bars(ax, layers, series)
        for budget, style in zip(budgets, cycle((":", "--", "-.")), strict=False):
            ax.axhline(
                100 * budget,
                color=GUIDE,
                linestyle=style,
                linewidth=1,
                label=f"{line} {budget:g}",
            )
        ax.set(title=stack, xlabel="layer", ylim=(0, 103))
    axes[0].set_ylabel("positions routed to the expert (%)")
    add_legend(figure, axes[0])
    return figure


def plot_gate_positions(matrix, tokens: list[str]) -> Figure:
    """Draw gates by layer and position.

    Args:
        matrix: (layers, positions), 0 to 1; NaN where there is no gate.
        tokens: The label of each position.
    """
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2 or matrix.shape[1] != len(tokens):
        raise ValueError(
            f"gates of shape {matrix.shape} do not fit {len(tokens)} tokens: (layers, positions) "
            "is needed"
        )
    figure, (ax,) = new_figure((9, 1.8 + 0.28 * len(matrix)))
    image = ax.imshow(np.ma.masked_invalid(matrix), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_facecolor(MISSING)
    ax.set_xticks(range(len(tokens)), tokens, rotation=90 if len(tokens) > 8 else 0, fontsize=8)
    ax.set_yticks(range(len(matrix)), [str(layer + 1) for layer in range(len(matrix))])
    ax.set(ylabel="layer")
    figure.colorbar(image, ax=ax, label="share to\nthe expert")
    return figure


def plot_gates_over_sound(features, matrix, title: str = "") -> Figure:
    """Draw the gates of the encoder below the log-mel of a clip, on one axis of time.

    Args:
        features: Log-mel of the clip (80, frames); a frame is 10 ms.
        matrix: Gates (layers, positions), 0 to 1; a position is two frames. Those after the end of
            the clip are left out.
        title: The figure's title.
    """
    features = np.asarray(features, dtype=float)
    matrix = np.asarray(matrix, dtype=float)
    if matrix.ndim != 2 or 2 * matrix.shape[1] < features.shape[1]:
        raise ValueError(
            f"gates of shape {matrix.shape} do not fit {features.shape[1]} frames: (layers, "
            "positions) is needed, a position for every two frames"
        )
    bands, frames = features.shape
    seconds = frames / 100
    layers = len(matrix)
    heights = {"height_ratios": [2, 0.6 + 0.15 * layers]}
    size = (9, 4 + 0.2 * layers)
    figure, (sound, gates) = new_figure(size, rows=2, sharex=True, gridspec_kw=heights)
    common = {"aspect": "auto", "interpolation": "nearest"}
    sound.imshow(features, origin="lower", cmap="magma", extent=(0, seconds, 0, bands), **common)
    image = gates.imshow(
        np.ma.masked_invalid(matrix),
        cmap="Blues",
        vmin=0,
        vmax=1,
        extent=(0, 2 * matrix.shape[1] / 100, layers + 0.5, 0.5),
        **common,
    )
    gates.set_facecolor(MISSING)
    sound.set(title=title, ylabel="mel band")
    gates.set(xlabel="time (s)", ylabel="layer", xlim=(0, seconds), yticks=range(1, layers + 1))
    figure.colorbar(image, ax=[sound, gates], label="share to the expert")
    return figure


# ---- the comparison


def plot_comparison(table: pd.DataFrame, language: str) -> Figure:
    """Draw the WER of every system with its interval, one panel per domain in the table.

    Args:
        table: Rows of comparison.csv.
        language: The language of the tests to draw.
    """
    table = table[(table["language"] == language) & table["test_set"].isin(DOMAINS)]
    systems = ordered(table["system"].unique())
    tested = set(table["test_set"])
    _needs(tested, f"rows of a test of {' or '.join(DOMAINS)} in {language!r}")
    domains = [name for name in DOMAINS if name in tested]
    figure, axes = new_figure(WIDE, len(domains), sharex=True, sharey=True)
    for ax, domain in zip(axes, domains, strict=True):
        rows = table[table["test_set"] == domain].drop_duplicates("system")
        _comparison_panel(ax, rows.set_index("system").reindex(systems))
        ax.set(title=domain, xlabel=WER_AXIS, ylim=(len(systems) - 0.5, -0.6))
        ax.grid(alpha=0.3)
    axes[0].set_yticks(range(len(systems)), [label_of(name) for name in systems])
    return figure


def _comparison_panel(ax: Axes, rows: pd.DataFrame) -> None:
    """Draw the WER of each system, from the top. rows: wer, wer_low, wer_high; by system."""
    spread = error_bars(rows)
    for y, (wer, colour) in enumerate(zip(rows["wer"], colours_of(rows.index), strict=True)):
        ax.errorbar(
            wer,
            y,
            xerr=spread[:, [y]],
            fmt="o",
            color=colour,
            markersize=7,
            capsize=4,
            linewidth=2,
        )
        ax.annotate(
            f"{wer:.1f}", (wer, y), (0, 7), textcoords="offset points", ha="center", fontsize=8
        )


def forgetting_matrix(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what each system has forgotten, compared with the student.

    WER rises where something is forgotten, and BLEU falls.

    Args:
        table: Rows of comparison.csv. Where a system is there on and off, its rows are two.

    Returns:
        Two tables of systems x (other languages, translation), in points: the change against the
        student, and how much worse that is. In the second, forgetting is positive in all columns.
        A system that is there on and off has two rows, "lora" and "lora, off".

    Raises:
        ValueError: For a table without such tests, or without the student.
    """
    is_of_others = table["test_set"].map(is_retention).astype(bool)
    table = table[is_of_others | (table["test_set"] == "translation")]
    _needs(table, "rows of retention or translation")
    off = is_off_beside_on(table)
    table = table.assign(system=table["system"].mask(off, table["system"] + OFF))
    for (name, language), rows in table.groupby(["test_set", "language"]):
        if "student" not in set(rows["system"]):
            raise ValueError(
                f"the table has no row of the student on {language}/{name}, which the others are "
                "compared with"
            )
    changes = pd.DataFrame(index=pd.Index(table["system"].unique(), name="system"))
    retention = table[table["test_set"].map(is_retention)]
    if not retention.empty:
        tests = zip(retention["language"], retention["test_set"], strict=True)
        retention = retention.assign(test=[_language_label(*test) for test in tests])
        wer = retention.pivot_table("wer", "system", "test", sort=False)
        changes = wer - wer.loc["student"]
    worse = changes.copy()

    translation = table[table["test_set"] == "translation"]
    for language, rows in translation.groupby("language"):
        bleu = rows.drop_duplicates("system").set_index("system")["bleu"]
        column = f"{language}→en\n{BLEU}"
        changes[column] = bleu - bleu["student"]
        worse[column] = -changes[column]

    systems = ordered(dict.fromkeys(name.removesuffix(OFF) for name in changes.index))
    rows = [row for name in systems for row in (name, name + OFF) if row in changes.index]
    rows.remove("student")
    return changes.loc[rows], worse.loc[rows]


def plot_forgetting(table: pd.DataFrame) -> Figure:
    """Draw what each system has forgotten: WER on other languages, and BLEU of translation.

    Numbers are changes against the student. Red cells are worse, blue ones better. Beside WER, BLEU
    has no colour, for its points are few and count the other way round.

    Args:
        table: Rows of comparison.csv.
    """
    changes, worse = forgetting_matrix(table)
    is_bleu = worse.columns.str.endswith(BLEU)
    uncoloured = is_bleu & ~is_bleu.all()
    shades = np.ma.masked_invalid(worse.mask(np.broadcast_to(uncoloured, worse.shape)))
    limit = max(1.0, np.abs(shades).max())

    figure, (ax,) = new_figure((9, 1.6 + 0.42 * len(changes)))
    image = ax.imshow(shades, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (y, x), change in np.ndenumerate(changes.to_numpy()):
        dark = shades[y, x] is not np.ma.masked and abs(shades[y, x]) > 0.6 * limit
        colour = "white" if dark else "black"
        ax.text(x, y, _change_text(change), ha="center", va="center", color=colour, fontsize=9)

    columns = [name if "\n" in name else f"{name}\n(WER)" for name in changes.columns]
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(changes)), [_label_on_or_off(name) for name in changes.index])
    ax.set(title="change against the student, in points (red: worse)")
    figure.colorbar(image, ax=ax, label=f"points of {'BLEU' if is_bleu.all() else 'WER'} worse")
    return figure


def _label_on_or_off(name: str) -> str:
    """Return the label of a row of `forgetting_matrix`."""
    system = name.removesuffix(OFF)
    return label_of(system) + name.removeprefix(system)


def _change_text(change: float) -> str:
    """Return a change with its sign and one decimal; "-" for NaN, "0" where it rounds to zero."""
    if np.isnan(change):
        return "-"
    if abs(change) < 0.05:
        return "0"
    return f"{change:+.1f}"


def plot_cost(frame: pd.DataFrame) -> Figure:
    """Draw WER against training time and against stored size.

    Args:
        frame: Columns system, wer, wer_low, wer_high, seconds, stored_mb; one row per system.
    """
    panels = {"seconds": (60, "training (minutes)"), "stored_mb": (1, "stored per language (MB)")}
    spread = error_bars(frame)
    colours = colours_of(frame["system"])
    figure, axes = new_figure((9, 4.4), 2, sharey=True)
    for ax, (column, (unit, label)) in zip(axes, panels.items(), strict=True):
        places = _apart(frame[column] / unit)
        points = zip(frame["system"], places, frame["wer"], colours, strict=True)
        for index, (name, x, wer, colour) in enumerate(points):
            ax.errorbar(
                x,
                wer,
                yerr=spread[:, [index]],
                fmt="o",
                color=colour,
                markersize=8,
                capsize=3,
                label=label_of(name),
            )
        ax.set(xlabel=label)
        ax.grid(alpha=0.3)
        ax.margins(x=0.08)
    axes[0].set_ylabel(WER_AXIS)
    add_legend(figure, axes[0])
    return figure


def _apart(places: pd.Series, share: float = 0.015) -> pd.Series:
    """Return places along an axis, moved to the right where one would cover the one before it.

    Args:
        places: Of points.
        share: The least distance of two points, as a share of the largest place.
    """
    apart = places.sort_values(kind="stable").astype(float)
    for before, index in pairwise(apart.index):
        apart[index] = max(apart[index], apart[before] + share * places.max())
    return apart[places.index]


def plot_trials(table: pd.DataFrame) -> Figure:
    """Draw the WER of each trial with its interval; a dotted line marks the first trial's WER.

    Args:
        table: Columns trial (its label), wer, wer_low, wer_high; one row per trial.
    """
    (colour,) = colours_of([OURS])
    figure, (ax,) = new_figure((9, 1.2 + 0.5 * len(table)))
    ax.errorbar(
        table["wer"],
        range(len(table)),
        xerr=error_bars(table),
        fmt="o",
        capsize=3,
        color=colour,
    )
    ax.axvline(table["wer"].iloc[0], color=FIRST_TRIAL, linestyle=":")
    ax.set_yticks(range(len(table)), [fill(trial, 36) for trial in table["trial"]])
    ax.invert_yaxis()
    ax.set(xlabel="WER (%) with 95 % interval")
    return figure


def plot_knob(table: pd.DataFrame, label: str) -> Figure:
    """Draw the WER of each compared system over the positions of a knob, a panel for each domain.

    Systems that learn from the teacher have broken lines. Student and teacher are not drawn: their
    WER is ten times that of the others, or a tenth of it.

    Args:
        table: Columns position, system, test, wer, wer_low, wer_high; the positions in order.
        label: What is changed, below the axis.
    """
    _needs(table, "rows")
    positions = list(dict.fromkeys(table["position"]))
    tests = [test for test in dict.fromkeys(table["test"]) if test in (*DOMAINS, OTHER_VOICE)]
    figure, axes = new_figure((9, 4.6), columns=len(tests), sharey=True)
    systems = [name for name in ordered(dict.fromkeys(table["system"])) if METHODS[name].is_trained]
    for ax, test in zip(axes, tests, strict=True):
        for system, colour in zip(systems, colours_of(systems), strict=True):
            rows = table[(table["system"] == system) & (table["test"] == test)]
            rows = rows.set_index("position").reindex(positions)
            is_taught = METHODS[system].distils
            ax.errorbar(
                range(len(positions)),
                rows["wer"],
                yerr=error_bars(rows),
                color=colour,
                linestyle="--" if is_taught else "-",
                marker="o",
                markersize=4,
                capsize=2,
                linewidth=1.6,
                label=label_of(system),
            )
        ax.set_xticks(range(len(positions)), [fill(position, 12) for position in positions])
        ax.set(title=test, xlabel=label)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(WER_AXIS)
    add_legend(figure, axes[0], columns=3)
    return figure


def plot_tradeoff(table: pd.DataFrame, target: str, others: str) -> Figure:
    """Draw WER in the adapted language over WER in other languages: lower left is best.

    A line joins the strengths of a system, from the student to the system as it was trained; the
    strengths of the longest line, ours among equals, are written beside its points. Intervals are
    in the table alone: of so many points they would hide the lines.

    Args:
        table: Columns system, strength (0: the student), test, wer.
        target: The test of the adapted language.
        others: The test of the other languages.
    """
    _needs(table, "rows")
    wer = table.pivot_table("wer", ["system", "strength"], "test", sort=False)
    student = wer[wer.index.get_level_values("strength") == 0].droplevel("system")
    lines = {}
    for system in ordered(dict.fromkeys(table["system"])):
        own = wer.loc[system]
        if system != "student" and len(own) > 1:
            own = pd.concat([student, own]).sort_index()
        lines[system] = own

    figure, (ax,) = new_figure((7.5, 4.8))
    for (system, own), colour in zip(lines.items(), colours_of(lines), strict=True):
        ax.plot(
            own[others],
            own[target],
            color=colour,
            marker="o",
            markersize=5,
            zorder=3 if system == "student" else 2,  # at the beginning of all lines
            label=label_of(system),
        )
    longest = max(lines, key=lambda name: (len(lines[name]), name == OURS))
    for strength, point in lines[longest].iterrows():
        place = (point[others], point[target])
        ax.annotate(f"{strength:g}", place, (6, -12), textcoords="offset points", fontsize=8)
    ax.set(xlabel=f"WER (%), {others}", ylabel=f"WER (%), {target}")
    ax.grid(alpha=0.3)
    add_legend(figure, ax, columns=3)
    return figure


def plot_differences(table: pd.DataFrame) -> Figure:
    """Draw differences of WER with their intervals; what is below zero favours the first system.

    Args:
        table: Columns label, difference, low, high, and verdict: "holds" and "contradicted" are
            drawn filled, everything else hollow.
    """
    _needs(table, "rows")
    figure, (ax,) = new_figure((8.5, 1.2 + 0.42 * len(table)))
    for place, row in enumerate(table.itertuples()):
        is_decided = row.verdict in ("holds", "contradicted")
        (colour,) = colours_of([OURS])
        ax.errorbar(
            row.difference,
            place,
            xerr=[[row.difference - row.low], [row.high - row.difference]],
            fmt="o",
            capsize=3,
            color=colour,
            markerfacecolor=colour if is_decided else "white",
        )
    ax.axvline(0, color=FIRST_TRIAL, linestyle=":")
    labels = [
        f"{fill(row.label, 44, break_on_hyphens=False)}\n{row.verdict}"
        for row in table.itertuples()
    ]
    ax.set_yticks(range(len(table)), labels)
    ax.invert_yaxis()
    ax.set(xlabel="difference in points of WER, with 95 % interval (left: fewer errors)")
    return figure
