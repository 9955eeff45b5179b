"""The figures of the course: a function each, from tables to a matplotlib Figure, without any global state.

A system has the same label and colour everywhere (SYSTEMS). Error bars are 95 % intervals.
"""

from collections.abc import Iterable
from itertools import cycle
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation.scoring import summarise
from ..evaluation.testsets import DOMAINS
from ..training.systems import SYSTEMS
from .drawing import WIDE, add_legend, colours_of, error_bars, grouped_bars, label_of, new_figure
from .drawing import save_figure as save_figure

KINDS = {"deletions": "#4c72b0", "substitutions": "#b0b0b0", "insertions": "#c44e52"}

AXES = {
    "loss": "training loss (nats)",
    "ce": "CE, smoothed (nats a token)",
    "kd": "JS to the teacher (nats a token)",
    "budget": "gate budget loss",
    "gate_encoder": "mean g, encoder",
    "gate_decoder": "mean g, decoder",
    "eval_loss": "validation CE (nats a token)",
}

LENGTHS = (0, 1, 2, 3, 5, 8, 30)  # seconds: limits of the groups by length

MOST_GROUPS = 10  # speakers shown one by one


def plot_log_mel(features, title: str = "") -> Figure:
    """Draw log-mel features (80, frames), as Whisper takes them; a frame is 10 ms."""
    features = np.asarray(features, dtype=float)
    figure, (ax,) = new_figure(WIDE)
    image = ax.imshow(
        features,
        origin="lower",
        aspect="auto",
        cmap="magma",
        interpolation="nearest",
        extent=(0, features.shape[1] / 100, 0, features.shape[0]),
    )
    ax.set(title=title, xlabel="time (s)", ylabel="mel band")
    figure.colorbar(image, ax=ax, label="log energy (scaled)")
    return figure


def plot_waveform(audio, title: str = "", sample_rate: int = 16_000) -> Figure:
    """Draw the samples (n,) of a clip over time."""
    audio = np.asarray(audio, dtype=float)
    figure, (ax,) = new_figure((9, 2.5))
    ax.plot(
        np.arange(len(audio)) / sample_rate,
        audio,
        linewidth=0.5,
        color=SYSTEMS["distilwhisper"].colour,
    )
    ax.set(title=title, xlabel="time (s)", ylabel="amplitude", xlim=(0, len(audio) / sample_rate))
    return figure


def _test_label(language: str, name: str) -> str:
    """Return "nl" for a retention test, else "cs" over the test's name, broken where it is long."""
    if name == "retention":
        return language
    return f"{language}\n" + ("-\n".join(name.rsplit("-", 1)) if len(name) > 10 else name)


def _wer_bars(groups: list[str], scores: dict[str, pd.DataFrame], **axes) -> Figure:
    """Draw WER by group, side by side for each label of `scores`, whose tables have a row a group, NaN for none."""
    figure, (ax,) = new_figure(WIDE)
    grouped_bars(
        ax,
        groups,
        {name: (rows["wer"].to_numpy(), error_bars(rows)) for name, rows in scores.items()},
    )
    ax.set(ylabel="WER (%), 95 % interval", **axes)
    add_legend(figure, ax)
    return figure


def plot_gap(table: pd.DataFrame) -> Figure:
    """Draw the WER of each system on each test, side by side. table: rows of comparison.csv; BLEU rows are left out."""
    table = table[table["wer"].notna()]
    tests = list(dict.fromkeys(zip(table["language"], table["test_set"], strict=True)))
    scores = {
        system: rows.groupby(["language", "test_set"]).first().reindex(tests)
        for system, rows in table.groupby("system", sort=False)
    }
    return _wer_bars([_test_label(*test) for test in tests], scores, ylim=(0, None))


def plot_error_kinds(counts: dict[str, pd.DataFrame]) -> Figure:
    """Draw deletions, substitutions and insertions in per cent of the words: a bar for each table of counts."""
    figure, (ax,) = new_figure((9, 1.4 + 0.45 * len(counts)))
    shares = {name: summarise(table) for name, table in counts.items()}
    left = np.zeros(len(counts))
    for kind, colour in KINDS.items():
        values = np.array([share[kind] for share in shares.values()])
        ax.barh(range(len(counts)), values, 0.7, left=left, color=colour, label=kind)
        left += values
    for y, total in enumerate(left):
        ax.text(total, y, f" {total:.1f}", va="center", fontsize=9)
    ax.set_yticks(range(len(counts)), [label_of(name) for name in counts])
    ax.invert_yaxis()
    ax.set(xlabel="errors (% of the words); the sum is the WER", xlim=(0, 1.1 * left.max() or 1))
    ax.grid(axis="x", alpha=0.3)
    add_legend(figure, ax)
    return figure


def _groups(table: pd.DataFrame, by: str) -> pd.Series:
    """Return the group of each utterance, an ordered category: its length, or its speaker (rare ones together)."""
    if by == "length":
        names = [f"{low}-{high} s" for low, high in zip(LENGTHS, LENGTHS[1:], strict=False)]
        return pd.cut(table["duration"], LENGTHS, labels=names).cat.remove_unused_categories()
    if by == "speaker":
        frequent = list(table["speaker"].value_counts().index[:MOST_GROUPS])
        names = table["speaker"].where(table["speaker"].isin(frequent), "all others")
        return pd.Series(
            pd.Categorical(names, [*frequent, "all others"]), table.index
        ).cat.remove_unused_categories()
    raise ValueError(f"by must be 'length' or 'speaker', not {by!r}")


def plot_wer_by(counts: dict[str, pd.DataFrame], by: str = "length") -> Figure:
    """Draw WER by clip length or by speaker, the number of clips under each group; bars are cut at 250 %.

    counts: label -> table with one row an utterance (`comparison.counts`), all over the same test.
    Raises ValueError for another `by`.
    """
    scored = {name: table.dropna(subset=["words"]) for name, table in counts.items()}
    groups = _groups(next(iter(scored.values())), by)
    scores = {}
    for name, table in scored.items():
        parts = table.groupby(groups.array, observed=True)
        scores[name] = pd.DataFrame({group: summarise(part) for group, part in parts}).T
    names = [
        f"{group.replace('font_', '')}\nn={n}"
        for group, n in groups.value_counts(sort=False).items()
    ]
    figure = _wer_bars(names, scores, xlabel="length of the clip" if by == "length" else by)
    (ax,) = figure.axes
    ax.set_ylim(0, min(250, ax.get_ylim()[1]))  # a few loops would press all other bars flat
    return figure


def plot_curves(logs: dict[str, list[dict]], keys: tuple[str, ...] = ("loss",)) -> Figure:
    """Draw what a training run has logged over the epochs, one panel a key. logs: label -> "log" of run.json."""
    columns = min(2, len(keys))
    rows = -(-len(keys) // columns)
    figure, axes = new_figure((9, 0.6 + 3.2 * rows), columns, rows)
    for ax, key in zip(axes, keys, strict=False):
        for (name, log), colour in zip(logs.items(), colours_of(logs), strict=True):
            points = [(entry["epoch"], entry[key]) for entry in log if key in entry]
            x, y = zip(*points, strict=True) if points else ((), ())
            ax.plot(
                x,
                y,
                color=colour,
                label=label_of(name),
                marker="o" if len(x) < 15 else None,
                markersize=4,
            )
        ax.set(
            xlabel="epoch",
            ylabel=AXES.get(key, key),
            ylim=(0, 1) if key.startswith("gate_") else None,
        )
        ax.grid(alpha=0.3)
    for ax in axes[len(keys) :]:
        ax.set_visible(False)
    add_legend(figure, axes[0])
    return figure


def plot_gate_layers(
    shares: dict[str, dict[str, list[float]]],
    budgets: Iterable[float] = (0.5,),
    line: str = "budget",
) -> Figure:
    """Draw the share of positions that go to the expert, by layer, and the budgets that training held them to.

    shares: label -> {"encoder": [...], "decoder": [...]}, between 0 and 1; line: what the lines are called.
    """
    figure, axes = new_figure(WIDE, 2, sharey=True)
    for ax, stack in zip(axes, ("encoder", "decoder"), strict=True):
        layers = [str(i + 1) for i in range(max(len(share[stack]) for share in shares.values()))]
        grouped_bars(
            ax,
            layers,
            {name: (100 * np.asarray(s[stack], float), None) for name, s in shares.items()},
        )
        for budget, style in zip(budgets, cycle((":", "--", "-.")), strict=False):
            ax.axhline(
                100 * budget,
                color="#888888",
                linestyle=style,
                linewidth=1,
                label=f"{line} {budget:g}",
            )
        ax.set(title=stack, xlabel="layer", ylim=(0, 103))
    axes[0].set_ylabel("positions routed to the expert (%)")
    add_legend(figure, axes[0])
    return figure


def plot_gate_positions(matrix, tokens: list[str]) -> Figure:
    """Draw gates by layer and position. matrix (layers, positions), between 0 and 1, NaN where there was none."""
    matrix = np.asarray(matrix, dtype=float)
    figure, (ax,) = new_figure((9, 1.8 + 0.28 * len(matrix)))
    image = ax.imshow(np.ma.masked_invalid(matrix), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    ax.set_facecolor("#dddddd")
    ax.set_xticks(range(len(tokens)), tokens, rotation=90 if len(tokens) > 8 else 0, fontsize=8)
    ax.set_yticks(range(len(matrix)), [str(i + 1) for i in range(len(matrix))])
    ax.set(ylabel="layer")
    figure.colorbar(image, ax=ax, label="share to\nthe expert")
    return figure


def plot_comparison(table: pd.DataFrame, language: str) -> Figure:
    """Draw WER with its interval for every system, a panel for each domain that the table has."""
    table = table[(table["language"] == language) & table["test_set"].isin(DOMAINS)]
    names = [name for name in SYSTEMS if name in set(table["system"])]
    domains = [name for name in DOMAINS if name in set(table["test_set"])]
    figure, axes = new_figure(WIDE, len(domains), sharey=True)
    for ax, test in zip(axes, domains, strict=True):
        rows = (
            table[table["test_set"] == test]
            .drop_duplicates("system")
            .set_index("system")
            .reindex(names)
        )
        spread = error_bars(rows)
        for y, (wer, colour) in enumerate(zip(rows["wer"], colours_of(names), strict=True)):
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
        ax.set(title=test, xlabel="WER (%), 95 % interval", ylim=(len(names) - 0.5, -0.6))
        ax.grid(alpha=0.3)
    axes[0].set_yticks(range(len(names)), [label_of(name) for name in names])
    return figure


def forgetting_matrix(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return change to the student and how much worse that is, both systems x (other languages, translation).

    WER rises where something is forgotten, BLEU falls; in the second table forgetting is positive in both.
    """
    kept = table[table["test_set"] == "retention"].pivot_table(
        "wer", "system", "language", sort=False
    )
    changes = kept - kept.loc["student"]
    worse = changes.copy()
    for language, rows in table[table["test_set"] == "translation"].groupby("language"):
        bleu = rows.drop_duplicates("system").set_index("system")["bleu"]
        column = f"{language}→en\n(BLEU)"
        changes[column] = bleu - bleu["student"]
        worse[column] = -changes[column]
    names = [name for name in SYSTEMS if name in changes.index and name != "student"]
    return changes.loc[names], worse.loc[names]


def plot_forgetting(table: pd.DataFrame) -> Figure:
    """Draw what each system has lost against the student: WER on other languages, BLEU of translation; red: worse."""
    changes, worse = forgetting_matrix(table)
    figure, (ax,) = new_figure((9, 1.6 + 0.42 * len(changes)))
    limit = max(1.0, np.nanmax(np.abs(worse.to_numpy())))
    image = ax.imshow(
        np.ma.masked_invalid(worse.to_numpy()),
        cmap="RdBu_r",
        vmin=-limit,
        vmax=limit,
        aspect="auto",
    )
    for (y, x), value in np.ndenumerate(changes.to_numpy()):
        dark = abs(worse.to_numpy()[y, x]) > 0.6 * limit
        text = "-" if np.isnan(value) else "0" if abs(value) < 0.05 else f"{value:+.1f}"
        ax.text(
            x, y, text, ha="center", va="center", color="white" if dark else "black", fontsize=9
        )
    ax.set_xticks(
        range(changes.shape[1]), [c if "\n" in c else f"{c}\n(WER)" for c in changes.columns]
    )
    ax.set_yticks(range(len(changes)), [label_of(name) for name in changes.index])
    ax.set(title="change against the student, in points (red: worse)")
    figure.colorbar(image, ax=ax, label="points worse")
    return figure


def plot_cost(frame: pd.DataFrame) -> Figure:
    """Draw WER against training time and stored size. Columns: system, wer, wer_low, wer_high, seconds, stored_mb."""
    figure, axes = new_figure((9, 4.4), 2, sharey=True)
    spread = error_bars(frame)
    panels = {"seconds": (60, "training (minutes)"), "stored_mb": (1, "stored per language (MB)")}
    for ax, (column, (unit, label)) in zip(axes, panels.items(), strict=True):
        tied = (
            frame.groupby(frame[column].round(0)).cumcount() * 0.015 * frame[column].max()
        )  # moved aside
        x = ((frame[column] + tied) / unit).tolist()
        for i, (name, colour) in enumerate(
            zip(frame["system"], colours_of(frame["system"]), strict=True)
        ):
            ax.errorbar(
                x[i],
                frame["wer"].iloc[i],
                yerr=spread[:, [i]],
                fmt="o",
                color=colour,
                markersize=8,
                capsize=3,
                label=label_of(name),
            )
        ax.set(xlabel=label)
        ax.grid(alpha=0.3)
        ax.margins(x=0.08)
    axes[0].set_ylabel("WER (%), 95 % interval")
    add_legend(figure, axes[0])
    return figure


def plot_trials(table: pd.DataFrame) -> Figure:
    """Draw WER with its interval, a line a trial; the dotted line is the first one's. Columns: trial, wer, wer_low,
    wer_high."""
    figure, (ax,) = new_figure((9, 1.2 + 0.5 * len(table)))
    ax.errorbar(
        table["wer"],
        range(len(table)),
        xerr=error_bars(table),
        fmt="o",
        capsize=3,
        color=SYSTEMS["distilwhisper"].colour,
    )
    ax.axvline(table["wer"].iloc[0], color="#7f7f7f", linestyle=":")
    ax.set_yticks(range(len(table)), [fill(trial, 36) for trial in table["trial"]])
    ax.invert_yaxis()
    ax.set(xlabel="WER (%) with 95 % interval")
    return figure
