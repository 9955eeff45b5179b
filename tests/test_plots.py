"""The figures, drawn from small made-up tables: their bars, points and labels."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from distilwhisper_lib.lab import plots
from distilwhisper_lib.training.methods import METHODS, compared_methods

NAMES = list(compared_methods())
LOG = [
    {"step": 1, "epoch": 0.5, "loss": 3.0, "ce": 2.0, "gate_encoder": 0.5},
    {"step": 2, "epoch": 1.0, "loss": 1.5, "ce": 1.0, "gate_encoder": 0.5},
    {"step": 3, "epoch": 1.5, "loss": 1.0, "ce": 0.7, "gate_encoder": 0.5},
    {"step": 2, "epoch": 1.0, "eval_loss": 2.0},
    {"step": 4, "epoch": 2.0, "eval_loss": 1.0},
]
TESTS = [
    ("cs", "in-domain"),
    ("cs", "out-of-domain"),
    ("nl", "retention"),
    ("es", "retention"),
]


@pytest.fixture
def table() -> pd.DataFrame:
    """Return rows as in comparison.csv: two tests, two other languages, translation."""
    rows = []
    for index, system in enumerate(NAMES):
        row = {"system": system}
        for language, test in TESTS:
            unchanged = test == "retention" and METHODS[system].has_experts
            wer = 60.0 if unchanged else 60.0 + index
            scores = {"wer": wer, "wer_low": wer - 5, "wer_high": wer + 5}
            rows.append(row | {"language": language, "test_set": test} | scores)
        scores = {"bleu": 5.0 - index, "chrf": 20.0}
        rows.append(row | {"language": "cs", "test_set": "translation"} | scores)
    return pd.DataFrame(rows)


@pytest.fixture
def counts() -> pd.DataFrame:
    """Return counts as of `comparison.counts`: four clips, two speakers, one not scorable."""
    return pd.DataFrame(
        {
            "speaker": ["font_small", "font_big", "font_small", "font_big"],
            "duration": [0.5, 1.5, 4.0, 9.0],
            "words": [2, 4, np.nan, 10],
            "insertions": [0, 1, np.nan, 1],
            "deletions": [1, 0, np.nan, 2],
            "substitutions": [0, 1, np.nan, 3],
            "characters": [9, 20, np.nan, 50],
            "character_errors": [2, 4, np.nan, 9],
            "loop": [False, False, False, True],
        }
    )


def drawn(figure: Figure) -> Figure:
    """Draw a figure as a notebook does, and return it."""
    assert isinstance(figure, Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    return figure


def names_in_legend(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def labels(axis) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


def test_gap_has_a_bar_per_system_and_test_and_no_translation(table):
    figure = drawn(plots.plot_gap(table))
    (ax,) = figure.axes
    assert len(ax.patches) == len(NAMES) * 4
    assert labels(ax.xaxis) == ["cs\nin-domain", "cs\nout-of-\ndomain", "nl", "es"]
    assert names_in_legend(figure) == [METHODS[name].label for name in NAMES]
    assert ax.patches[0].get_facecolor() == pytest.approx((0x7F / 255,) * 3 + (1,))


def test_error_kinds_sum_to_the_wer(counts):
    (ax,) = drawn(plots.plot_error_kinds({"student": counts, "another": counts})).axes
    assert len(ax.patches) == 2 * 3
    assert ax.texts[0].get_text().strip() == f"{100 * 9 / 16:.1f}"
    assert labels(ax.yaxis) == [METHODS["student"].label, "another"]


def test_wer_by_length_and_speaker_leave_out_what_cannot_be_scored(counts):
    (ax,) = drawn(plots.plot_wer_by({"student": counts, "teacher": counts})).axes
    assert labels(ax.xaxis) == ["0-1 s\nn=1", "1-2 s\nn=1", "8-30 s\nn=1"]
    assert len(ax.patches) == 2 * 3
    (ax,) = drawn(plots.plot_wer_by({"student": counts}, "speaker")).axes
    assert sorted(labels(ax.xaxis)) == ["big\nn=2", "small\nn=1"]


def test_wer_by_puts_rare_speakers_together_and_last(counts):
    rare = [counts.iloc[[0]].assign(speaker=f"font_{index}") for index in range(12)]
    many = pd.concat([*rare, counts.iloc[[1, 1]]])
    (ax,) = drawn(plots.plot_wer_by({"student": many.reset_index(drop=True)}, "speaker")).axes
    assert len(labels(ax.xaxis)) == plots.MOST_GROUPS + 1
    assert labels(ax.xaxis)[-1] == "all others\nn=3"


def test_wer_by_anything_else_is_refused(counts):
    with pytest.raises(ValueError, match="length"):
        plots.plot_wer_by({"student": counts}, "weather")


def test_curves_have_a_panel_per_key_and_a_line_per_run():
    figure = drawn(
        plots.plot_curves({"lora": LOG, "clsr-ft": LOG}, ("loss", "eval_loss", "gate_encoder"))
    )
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [len(ax.lines) for ax in shown] == [2, 2, 2]
    assert list(shown[1].lines[0].get_xdata()) == [1.0, 2.0]
    assert names_in_legend(figure) == ["LoRA", "Experts (CLSR-FT)"]


def test_curves_of_a_key_that_was_never_logged_stay_empty():
    (ax,) = drawn(plots.plot_curves({"lora": LOG}, ("kd",))).axes
    assert len(ax.lines[0].get_xdata()) == 0


def test_gate_layers_have_a_bar_per_layer():
    shares = {name: {"encoder": [0.2, 1.0, 0.0], "decoder": [0.0, 0.5]} for name in NAMES[4:]}
    encoder, decoder = drawn(plots.plot_gate_layers(shares)).axes
    assert (len(encoder.patches), len(decoder.patches)) == (6, 4)
    assert max(bar.get_height() for bar in encoder.patches) == 100
    (ax, _) = plots.plot_gate_layers(shares, (0.2, 0.4, 0.6, 0.8)).axes
    assert [line.get_ydata()[0] for line in ax.lines] == [20, 40, 60, 80]


def test_gate_positions_show_every_token_and_layer():
    figure = drawn(plots.plot_gate_positions([[0, 1, np.nan], [1, 1, 0]], ["start", "cs", "a"]))
    assert labels(figure.axes[0].xaxis) == ["start", "cs", "a"]
    assert figure.axes[0].images[0].get_array().shape == (2, 3)


def test_gates_lie_below_the_sound_at_the_same_time():
    features, gates = np.zeros((80, 207)), np.zeros((6, 150))
    figure = drawn(plots.plot_gates_over_sound(features, gates, "a clip"))
    sound, below = figure.axes[:2]
    assert sound.get_title() == "a clip"
    assert sound.get_xlim() == below.get_xlim() == (0, 2.07)
    assert below.images[0].get_extent() == [
        0,
        3.0,
        6.5,
        0.5,
    ]  # 150 positions of 20 ms, layer 1 on top


def test_comparison_has_every_system_in_both_panels(table):
    inside, outside = drawn(plots.plot_comparison(table, "cs")).axes
    assert labels(inside.yaxis) == [METHODS[name].label for name in NAMES]
    assert [text.get_text() for text in inside.texts] == [f"{60 + i}.0" for i in range(len(NAMES))]
    assert len(outside.texts) == len(NAMES)


def test_comparison_leaves_out_a_domain_that_was_not_tested(table):
    (ax,) = drawn(plots.plot_comparison(table[table["test_set"] != "out-of-domain"], "cs")).axes
    assert ax.get_title() == "in-domain"


def test_forgetting_is_zero_for_experts_and_positive_where_bleu_falls(table):
    changes, worse = plots.forgetting_matrix(table)
    assert (changes.loc["experts", ["nl", "es"]] == 0).all()
    assert changes.loc["lora", "nl"] == 3
    assert worse.loc["lora", "cs→en\n(BLEU)"] == -changes.loc["lora", "cs→en\n(BLEU)"] == 3
    (ax, _) = drawn(plots.plot_forgetting(table)).axes
    assert len(ax.texts) == (len(NAMES) - 1) * 3


def test_cost_has_a_point_per_system_and_moves_ties_aside(table):
    frame = table[table["test_set"] == "in-domain"].assign(
        seconds=60.0, stored_mb=range(len(NAMES))
    )
    left, right = drawn(plots.plot_cost(frame)).axes
    assert len(left.containers) == len(right.containers) == len(NAMES)
    places = [container.lines[0].get_xdata()[0] for container in left.containers]
    assert len(set(places)) == len(NAMES) and places[0] == 1.0


def test_audio_is_drawn_over_seconds_and_figures_are_saved(tmp_path):
    figure = drawn(plots.plot_log_mel(np.zeros((80, 50)), "a clip"))
    assert figure.axes[0].get_title() == "a clip" and figure.axes[0].get_xlim() == (0, 0.5)
    figure = drawn(plots.plot_waveform(np.zeros(8000)))
    assert figure.axes[0].get_xlim() == (0, 0.5)
    assert plots.save_figure(figure, tmp_path / "new" / "wave.png") is figure
    assert (tmp_path / "new" / "wave.png").stat().st_size > 0


def test_trials_are_lines_in_their_order_with_the_first_marked():
    table = pd.DataFrame(
        {
            "trial": ["basis", "budget 0.5, learning_rate 0.0006, expert_dropout 0.3"],
            "wer": [50.0, 55.0],
            "wer_low": [45.0, 51.0],
            "wer_high": [54.0, 60.0],
        }
    )
    (ax,) = drawn(plots.plot_trials(table)).axes
    first, second = labels(ax.yaxis)
    assert first == "basis"
    assert second.replace("\n", " ") == table["trial"][1]
    assert "\n" in second
    points = ax.lines[0]
    marked = ax.lines[-1]
    assert list(points.get_xdata()) == [50.0, 55.0]
    assert list(marked.get_xdata()) == [50.0, 50.0]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_forgetting_is_drawn_of_translation_alone_and_of_other_languages_alone(table):
    for test, column in (("translation", "cs→en\n(BLEU)"), ("retention", "nl")):
        changes, worse = plots.forgetting_matrix(table[table["test_set"] == test])
        assert column in changes.columns and changes.shape == worse.shape
        assert len(changes) == len(NAMES) - 1
        drawn(plots.plot_forgetting(table[table["test_set"] == test]))


def test_an_adapter_that_is_scored_off_too_has_a_row_of_its_own(table):
    table["experts"] = ""
    off = table[(table["system"] == "student") & (table["test_set"] == "retention")]
    table = pd.concat([table, off.assign(system="lora", experts="off")])
    changes, _ = plots.forgetting_matrix(table)
    rows = list(changes.index)
    assert rows[rows.index("lora") + 1] == "lora, off"
    assert changes.loc["lora, off", "nl"] == 0 < changes.loc["lora", "nl"]
    (ax, _) = drawn(plots.plot_forgetting(table)).axes
    assert "LoRA, off" in labels(ax.yaxis)


def test_a_language_of_two_corpora_has_a_column_for_each(table):
    further = table[table["language"] == "es"].assign(test_set="retention-festvox", wer=60.0)
    changes, _ = plots.forgetting_matrix(pd.concat([table, further]))
    assert list(changes.columns)[:3] == ["nl", "es", "es, festvox"]
    assert changes.loc["lora", "es"] > changes.loc["lora", "es, festvox"] == 0


def test_figures_of_nothing_say_what_is_missing(table, counts):
    others = table[table["system"] != "student"]
    for draw, message in (
        (lambda: plots.plot_comparison(table, "nl"), "no rows of a test of in-domain .* in 'nl'"),
        (lambda: plots.plot_gap(table[:0]), "no rows with a WER"),
        (lambda: plots.plot_error_kinds({}), "no counts"),
        (lambda: plots.plot_wer_by({"student": counts[2:3]}), "no utterances that can be scored"),
        (lambda: plots.plot_curves({}), "no logs"),
        (lambda: plots.plot_gate_layers({}), "no shares"),
        (lambda: plots.plot_gate_positions(np.zeros((2, 3)), ["a"]), "do not fit 1 tokens"),
        (lambda: plots.plot_gates_over_sound(np.zeros((80, 9)), np.zeros((2, 4))), "9 frames"),
        (lambda: plots.plot_forgetting(table[:2]), "no rows of retention or translation"),
        (lambda: plots.plot_forgetting(others), "no row of the student on es/retention"),
    ):
        with pytest.raises(ValueError, match=message):
            draw()
