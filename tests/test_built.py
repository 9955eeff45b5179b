"""Checks of what the reader builds: silent while open, content with ours, of help with mistakes."""

import json
import re
import sys
from pathlib import Path

import pytest

from distilwhisper_lib import PRESETS

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "notebooks")]

from exercise import attempt, check_if_built, is_open  # noqa: E402 (notebooks/exercise.py)

import notebooks as tool  # noqa: E402 (tools/notebooks.py)

SOURCES = {path.stem[:2]: path for path in tool.sources()}

# What the cells before a build cell have defined
BEFORE = """
import copy
import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F
from distilwhisper_lib import (
    IGNORED, cross_entropy, gate_budget_loss, labelled, last_gates, position_masks,
    top_k_divergence, total_loss, use_window,
)
from exercise import check_if_built, is_open
window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
"""
DEFINED_BEFORE = {"00": "def mel(hertz)", "90": "def mean_loss("}

# Mistakes of readers, as changes of our version: what stands there, what they write, what is said
MISTAKES = {
    "mel_filters": [
        (
            "hertz(np.linspace(mel(0), mel(8000), bands + 2))",
            "np.linspace(0, 8000, bands + 2)",
            "mel",
        ),
        ("np.maximum(0, np.minimum(rising, falling))", "np.minimum(rising, falling)", "below"),
        (" * 2 / (right - left)", "", "their height is not"),
        ("bands + 2", "82", "20 bands has the shape (201, 80)"),
        ("(right - f) / (right - centre)", "(right - f) / (right - left)", "its centre"),
        ("return np.maximum", "found = np.maximum", "None (is a `return` missing?)"),
    ],
    "log_energies": [
        ("np.log10", "np.log", "natural logarithm"),
        ("return np.log10", "return 10 * np.log10", "decibels"),
        ("frame * window", "frame", "multiplied by the window"),
        (" ** 2", "", "the square"),
        ("np.maximum(power @ filters, 1e-10)", "power @ filters", "energies of silence"),
        (
            "np.log10(np.maximum(power @ filters, 1e-10))",
            "power @ filters",
            "without their logarithm",
        ),
    ],
    "given_and_predicted": [
        ("whole[:-1], whole[1:]", "whole, whole", "one position apart"),
        ("whole[:-1], whole[1:]", "whole[1:], whole[:-1]", "inputs come first"),
        ("*words, end]", "*words]", "the last label is the end"),
        ('f"<|{language}|>"', '"<|cs|>"', "'<|startoftranscript|><|de|>"),
        (', "<|notimestamps|>"', "", "notimestamps"),
        ("tokenizer.convert_tokens_to_ids(names)", "names", "token ids are asked for"),
        (", add_special_tokens=False", "", "never predicted"),
        ("whole[:-1], whole[1:]", "whole[:-1]", "two lists"),
    ],
    "edit_table": [
        ("table[:, 0] = range(len(reference) + 1)", "pass", "first column"),
        ("table[0] = range(len(hypothesis) + 1)", "pass", "first row"),
        ("(r != h)", "1", "costs nothing where both words are equal"),
        ("min(deletion, insertion, substitution)", "substitution", "a deletion leads there"),
        ("return table", "return table[-1, -1]", "has the shape ()"),
        ("return table", "return table.T", "has the shape"),
    ],
    "interval": [
        ("100 * ", "", "in per cent"),
        ("[2.5, 97.5]", "[5, 95]", "5 % at each end"),
        ("[2.5, 97.5]", "[0.025, 0.975]", "from 0 to 100"),
        ("return low, high", "return high, low", "low comes first"),
        (
            "errors[draws].sum(axis=1) / words[draws].sum(axis=1)",
            "(errors / words)[draws].mean(axis=1)",
            "mean of rates",
        ),
        ("axis=1", "axis=0", "one resample"),
    ],
    "HandGate": [
        (
            "torch.relu(self.linear1(h))",
            "self.linear1(h)",
            "ReLU between the two layers is missing",
        ),
        (
            "self.linear2(torch.relu(self.linear1(h)))",
            "torch.relu(self.linear2(self.linear1(h)))",
            "not so here",
        ),
        (
            "self.linear2(torch.relu(self.linear1(h)))",
            "torch.sigmoid(self.linear2(torch.relu(self.linear1(h))))",
            "itself makes a gate",
        ),
        ("return self.linear2(torch.relu(self.linear1(h)))", "self.linear2(h * 0 + 1)", "(line"),
        (
            "self.linear2(torch.relu(self.linear1(h)))",
            "torch.relu(self.linear1(h))",
            "has the shape (2, 5, 64)",
        ),
    ],
    "smoothed_ce": [
        ("return -", "return ", "sign"),
        (".sum(-1).mean()", ".sum()", "sum over the positions"),
        (".sum(-1).mean()", ".mean()", "sum over the tokens"),
        (".sum(-1).mean()", ".sum(-1)", "has the shape (6,)"),
        (
            "(1 - smoothing) * F.one_hot(labels, size) + smoothing / size",
            "F.one_hot(labels, size)",
            "not smoothed",
        ),
        ("log_softmax", "softmax", "log_softmax"),
        ("smoothing / size  #", "smoothing / 5  #", "(V = 8"),
    ],
    "kl": [
        ("(p * (p / q).log())", "(p * (q / p).log())", "never negative"),
        ("(p * (p / q).log())", "(q * (q / p).log())", "KL(q || p)"),
        (".sum(-1)", ".mean(-1)", "that is their mean"),
        (".sum(-1)", ".sum(-1).mean()", "has the shape ()"),
        ("(p / q).log()", "(p / q)", "log(p / q)"),
    ],
    "js": [
        ("0.5 * kl(t, m) + 0.5 * kl(s, m)", "kl(t, m) + kl(s, m)", "twice too large"),
        ("0.5 * kl(t, m) + 0.5 * kl(s, m)", "kl(t, m)", "KL(t || m) alone"),
        ("0.5 * kl(t, m) + 0.5 * kl(s, m)", "0.5 * kl(m, t) + 0.5 * kl(m, s)", "comes second"),
        (
            "0.5 * kl(t, m) + 0.5 * kl(s, m)",
            "0.5 * kl(t, s) + 0.5 * kl(s, t)",
            "not with each other",
        ),
        ("(t + s) / 2", "t + s", "the average of t and s"),
    ],
    "step_loss": [
        ("total_loss(ce, budget, kd)", "ce + budget + kd", "weights"),
        ("total_loss(ce, budget, kd)", "total_loss(ce, budget)", "is missing"),
        (", label_smoothing=0.1", "", "smoothed"),
        (", per_stack=True", "", "each stack"),
        ("0.8", "0.5", "the budget is 0.8"),
        (
            'outputs.lookup(batch["ids"], batch["labels"])',
            "outputs.lookup(batch, labels)",
            "is asked for",
        ),
        (
            "return total_loss(ce, budget, kd)",
            "return total_loss(ce, budget, kd).item()",
            "must be a tensor",
        ),
        (
            "return total_loss(ce, budget, kd)",
            "return total_loss(ce, budget, kd).detach()",
            "no gradient",
        ),
    ],
    "LowRank": [
        ("self.scale * ", "", "scale is missing"),
        ("self.linear(x) + ", "", "adapter alone"),
        (
            "self.linear(x) + self.scale * (x @ self.A.T @ self.B.T)",
            "self.linear(x)",
            "frozen layer alone",
        ),
        ("self.linear(x)", "x @ self.linear.weight.T", "bias is missing"),
        (
            "self.linear(x) + self.scale * (x @ self.A.T @ self.B.T)",
            "self.scale * (self.linear(x) + x @ self.A.T @ self.B.T)",
            "adapter alone",
        ),
        ("x @ self.A.T @ self.B.T", "x @ self.A @ self.B", "is a `.T` missing"),
    ],
    "paired_bootstrap": [
        ("(errors - other_errors)", "(other_errors - errors)", "sign"),
        ("return 100 * ", "return ", "in points"),
        (
            "return 100 * more_errors / words[draws].sum(axis=1)",
            "other = draws[::-1]\n"
            "        one = errors[draws].sum(axis=1) / words[draws].sum(axis=1)\n"
            "        two = other_errors[other].sum(axis=1) / words[other].sum(axis=1)\n"
            "        return 100 * (one - two)",
            "draws of its own",
        ),
        (
            "return 100 * more_errors / words[draws].sum(axis=1)",
            "return 100 * ((errors - other_errors) / words)[draws].mean(axis=1)",
            "own rates",
        ),
        ("default_rng(seed)", "default_rng(0)", "`seed` is not used"),
        (
            "np.random.default_rng(seed).integers(0, n, (2000, n))",
            "np.random.default_rng(seed).choice(n, (2000, n)).T.reshape(2000, n)",
            "as the hint says",
        ),
        (
            "return 100 * more_errors / words[draws].sum(axis=1)",
            "return np.percentile(100 * more_errors / words[draws].sum(axis=1), [2.5, 97.5])",
            "has the shape (2,)",
        ),
    ],
    "room_bootstrap": [
        ("clips.groupby(rooms, sort=False).sum()", "clips", "clips are drawn"),
        (", sort=False", "", "sorted by name"),
        (".sum()", ".mean()", "take the place of clips"),
        ("words, seed)", "words)", "hand `seed` on"),
    ],
    "corrected": [
        ("(m - place)", "m", "Bonferroni"),
        (
            "max(highest, (m - place) * p_values[position])",
            "(m - place) * p_values[position]",
            "smaller than the one before",
        ),
        ("min(1.0, highest)", "highest", "none exceeds 1"),
        ("result[position]", "result[place]", "come sorted"),
        ("return result", "return result <= 0.05", "for [0.011"),
    ],
    "loss_of_texts": [
        ("return -(", "return (", "never negative"),
        (" / counted.sum(1)", "", "that is the sum of each text"),
        (
            "logits, labels = logits[:, first:], labels[:, first:]",
            "logits, labels = logits, labels",
            "the first positions count too",
        ),
        ("/ counted.sum(1)", "/ counted.shape[1]", "own number of tokens"),
        ("(log_p * counted).sum(1) / counted.sum(1)", "log_p.mean(1)", "padding counts too"),
        (
            "(log_p * counted).sum(1) / counted.sum(1)",
            "((log_p * counted).sum() / counted.sum()).expand(len(labels))",
            "mean of the batch",
        ),
        (
            "return -(log_p * counted).sum(1) / counted.sum(1)",
            "return -(log_p * counted).sum() / counted.sum()",
            "has the shape ()",
        ),
        ("log_softmax", "softmax", "is not it"),
    ],
    "accumulate": [
        ("share = count_tokens(batch) / all_tokens", "share = 1 / len(batches)", "mean of means"),
        ("share = count_tokens(batch) / all_tokens", "share = 1", "unweighted"),
        ("loss.backward()", "model.zero_grad(); loss.backward()", "do not set it to zero"),
        ("loss.backward()", "pass", "no gradient has arrived"),
        ("return total", "return loss.item()", "the loss that is returned"),
        ("return total", "print(total)", "`return` missing"),
    ],
    "newest_whole": [
        ("step > highest", "str(step) > str(highest)", "as text"),
        ('(path / "complete").exists() and ', "", "not whole"),
        ("return newest", "return str(newest)", "return the path"),
        ("return newest", "return newest or folder", "None is asked for"),
    ],
}


def build_cells() -> dict[str, tuple[str, str, str]]:
    """Return the number of its notebook, the cell and our version of all that is built, by name."""
    found = {}
    for number, path in SOURCES.items():
        cells = tool.read_source(path)
        for place, cell in enumerate(cells):
            if "build" in tool.tags(cell):
                for line in cell.source.splitlines():
                    if line.startswith("check_if_built("):
                        name = line.rstrip(")").split(", ")[1]
                        found[name] = (number, cell.source, cells[place + 2].source)
    return found


BUILT = build_cells()


def prepared(name: str) -> dict:
    """Return the names that the cells before a build cell have defined."""
    number = BUILT[name][0]
    names: dict = {"__name__": "__main__"}
    exec(BEFORE, names)
    for cell in tool.read_source(SOURCES[number]):
        if DEFINED_BEFORE.get(number, "nothing of the kind") in cell.source:
            exec(cell.source.split("\nwhole = ")[0], names)
    for earlier in list(BUILT)[: list(BUILT).index(name)]:
        if BUILT[earlier][0] == number:
            exec(BUILT[earlier][1], names)
            exec(BUILT[earlier][2], names)
    return names


def check_again(name: str, names: dict) -> None:
    """Run the check of what is built as the build cell does."""
    line = next(line for line in BUILT[name][1].splitlines() if line.endswith(f", {name})"))
    exec(line, names)


def test_every_function_that_is_built_has_a_check_and_mistakes():
    assert set(BUILT) == set(MISTAKES)
    for number in ("00", "01", "02", "03", "04", "05", "09", "90"):
        for cell in tool.read_source(SOURCES[number]):
            if "build" in tool.tags(cell):
                assert "check_if_built(" in cell.source, cell.source
    assert all(len(mistakes) >= 4 for mistakes in MISTAKES.values())


@pytest.mark.parametrize("name", BUILT)
def test_a_build_cell_is_silent_while_open_and_our_version_is_correct(name, capsys):
    _, build, fold = BUILT[name]
    names = prepared(name)
    exec(build, names)
    assert capsys.readouterr().out == ""
    exec(fold, names)
    check_again(name, names)
    assert capsys.readouterr().out.startswith("correct: ")


@pytest.mark.filterwarnings("ignore:divide by zero")  # a reader's logarithm of silence
@pytest.mark.parametrize("name", BUILT)
def test_what_is_built_wrongly_is_told_why(name, capsys):
    _, build, fold = BUILT[name]
    for right, wrong, words in MISTAKES[name]:
        assert right in fold, (name, right)
        names = prepared(name)
        exec(build, names)
        exec(fold.replace(right, wrong), names)
        capsys.readouterr()
        check_again(name, names)
        printed = capsys.readouterr().out
        assert "not yet: " in printed, (name, wrong, printed)
        assert words in printed, (name, wrong, printed)


def test_random_numbers_of_the_notebook_are_those_without_the_check():
    import torch

    def uses_random_numbers(answer):
        torch.manual_seed(5)
        return f"{torch.rand(3)} of {answer}"

    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    check_if_built(uses_random_numbers, 1)
    assert torch.equal(torch.rand(2), expected)


# ---- what a reader is told about errors and open answers


def of_two(first, second):
    return f"{first} and {second}"


def test_an_answer_that_is_open_in_part_says_which_part():
    assert attempt(of_two, None, ...) == ("open", "not attempted yet")
    assert attempt(of_two, ..., {3: ..., 6: ...}) == ("open", "not attempted yet")
    assert attempt(of_two, 1, {3: 4, 6: ...})[0] == "passed"  # a check says more about it
    outcome, message = attempt(of_two, 1, ...)
    assert outcome == "open"
    assert message == "not attempted yet: still open is second"


def test_what_is_no_function_is_not_open():
    assert not is_open(3)
    assert not is_open(object())


def call(answer):
    return answer()


def raises_in_if():
    import torch

    if torch.zeros(2) > 0:
        return 1


def subtracts_booleans():
    import torch

    return 1 - (torch.zeros(2) > 0)


def misses_brackets():
    with call:
        pass


def misses_a_name():
    return a_name_that_nobody_has_given  # noqa: F821


def multiplies_other_shapes():
    import torch

    return torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("answer", "line", "advice"),
    [
        (raises_in_if, "if torch.zeros(2) > 0:", "use a mask"),
        (subtracts_booleans, "return 1 - (torch.zeros(2) > 0)", "make numbers of them"),
        (misses_brackets, "with call:", "brackets of a call"),
        (misses_a_name, "return a_name_that_nobody_has_given", "run the cell that defines it"),
        (multiplies_other_shapes, "@ torch.zeros(2, 3)", "is a `.T` missing"),
    ],
)
def test_an_error_names_the_line_and_what_to_do(answer, line, advice):
    outcome, message = attempt(call, answer)
    assert outcome == "failed"
    assert "your code raised " in message
    assert f"(line {answer.__code__.co_firstlineno + 1}" in message or "(line " in message
    assert line in message
    assert advice in message


# ---- times of the preset toy


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "04", "05"])
def test_the_table_of_a_notebook_states_what_toy_took_in_the_reference_run(number):
    path = SOURCES[number]
    took = json.loads((ROOT / "results/reference/toy/timing.json").read_text())[path.stem]
    row = re.search(r"^# \| toy.* \| ([^|]+) \| ([^|]+) \|$", path.read_text("utf-8"), re.MULTILINE)
    time, memory = row.groups()
    if time.startswith("under"):
        assert took < 60
    else:
        assert int(time.split(" min")[0]) == round(took / 60)
    assert memory == PRESETS["toy"].memory
