"""A method registered from outside goes through training, scores, tables, figures, estimates.

This is the recipe of CONTRIBUTING: a class, and one line that registers it.
"""

from dataclasses import dataclass, replace

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from distilwhisper_lib.experiments.estimates import estimate
from distilwhisper_lib.experiments.jobs import make_jobs
from distilwhisper_lib.lab import comparison, plots
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.presets import COLAB, get_preset
from distilwhisper_lib.training.methods import METHODS, Cost, Method, register
from distilwhisper_lib.training.objective import Objective
from distilwhisper_lib.whisper.loading import load_whisper
from distilwhisper_lib.whisper.shapes import WhisperShape


@dataclass(frozen=True)
class BitFit(Method):
    """Trains the biases alone (Ben Zaken et al., "BitFit", ACL 2022)."""

    def prepare(self, model, language, config=None):
        """Let the biases be trained."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))
        return model

    def save(self, model, folder):
        """Write the biases."""
        folder.mkdir()
        biases = {name: p for name, p in model.named_parameters() if p.requires_grad}
        save_file(biases, folder / "biases.safetensors")

    def load(self, folder, config):
        """Return the student with the trained biases."""
        model = load_whisper(config.student.name)
        model.load_state_dict(load_file(folder / "biases.safetensors"), strict=False)
        return model

    def count(self, shape):
        """Count biases: attention (keys have none), feed-forward, layer norms, convolutions."""
        d = shape.width
        encoder = 3 * d + (shape.ffn + d) + 2 * d
        decoder = 2 * 3 * d + (shape.ffn + d) + 3 * d
        return Cost(trained=shape.layers * (encoder + decoder) + 2 * d + 2 * d)


@dataclass(frozen=True)
class OfLayers(BitFit):
    """Has a setting of its own."""

    layers: int = 1


@pytest.fixture
def bitfit():
    """The method, registered while a test runs."""
    method = register(BitFit("bitfit", "BitFit", "#2e8b57"))
    yield method
    del METHODS[method.name]


@pytest.fixture
def lab(bitfit):
    """A lab with a learning rate for it, and little data."""
    rates = get_preset("smoke").learning_rates | {"bitfit": 1e-2, "layers": 1e-2}
    few = {"train_clips": 4, "teacher_clips": 4, "test_clips": 2, "retention_clips": 1}
    return Lab("smoke", learning_rates=rates, **few)


def test_it_is_trained_and_scored_and_stands_in_tables_and_figures(lab, bitfit):
    scores = comparison.compare(lab)
    mine = scores[scores["system"] == "bitfit"]
    assert set(mine["test_set"]) >= {"in-domain", "out-of-domain", "translation", "retention"}
    assert set(mine["experts"]) == {""}

    table = comparison.main_table(scores, lab.preset.language)
    assert list(table.index)[-1] == "BitFit" and table.loc["BitFit"].notna().all()
    pairs = pd.read_csv(lab.results / "paired.csv")
    assert "bitfit" in set(pairs["other"])

    figures = (plots.plot_comparison(scores, lab.preset.language), plots.plot_forgetting(scores))
    for figure in figures:
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        labels += [tick.get_text() for ax in figure.axes for tick in ax.get_yticklabels()]
        assert "BitFit" in labels
    curves = plots.plot_curves({"bitfit": lab.run_log("bitfit")}, ("loss", "eval_loss"))
    assert curves.axes[0].lines[0].get_color() == bitfit.colour


def test_its_run_says_what_was_trained(lab, bitfit):
    model = bitfit.prepare(load_whisper("tiny"), "cs")
    biases = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    trained = dict(lab.model("bitfit").named_parameters())
    moved = {name for name, p in biases.items() if not p.equal(trained[name])}
    frozen = dict(load_whisper("tiny").named_parameters()).items()
    assert moved and all(p.equal(trained[name]) for name, p in frozen if name not in biases)


def test_a_run_is_named_by_the_settings_of_its_method(lab, bitfit):
    lora = METHODS["lora"]

    def name_with(method):
        METHODS[method.name] = method
        return lab.run_config(method.name).name

    try:
        names = {name_with(replace(lora, rank=rank)) for rank in (64, 8)}
        assert len(names) == 2
        assert name_with(replace(lora, loss=Objective(label_smoothing=0.3))) not in names
    finally:
        METHODS["lora"] = lora
    deep = {name_with(OfLayers("layers", "Layers", "#2e8b58", layers=count)) for count in (1, 2)}
    del METHODS["layers"]
    assert len(deep) == 2


def test_it_is_estimated_and_a_job_of_the_grid(bitfit):
    found = estimate("bitfit", COLAB, 3000)
    assert 0 < found["trained M"] < 0.5 and found["T4 h"] > 0
    assert [job.row for job in make_jobs("smoke", rows=("bitfit",), seeds=(1,))] == ["bitfit"]

    model = bitfit.prepare(load_whisper("tiny"), "cs")
    config = model.config
    shape = WhisperShape(config.d_model, config.encoder_layers, config.encoder_ffn_dim)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert bitfit.count(shape).trained == trained


def test_a_method_that_is_not_registered_is_unknown_everywhere():
    lab = Lab("smoke")
    for call in (
        lambda: lab.train("bitfit"),
        lambda: lab.transcribe("bitfit", "cs/in-domain"),
        lambda: estimate("bitfit", COLAB, 3000),
        lambda: make_jobs("smoke", rows=("bitfit",)),
    ):
        with pytest.raises(ValueError, match="unknown (method|system) 'bitfit': .*student, "):
            call()


def test_a_method_without_a_learning_rate_is_told_at_once(bitfit):
    with pytest.raises(ValueError, match="smoke has no learning rate for 'bitfit', only for "):
        Lab("smoke").train("bitfit")
