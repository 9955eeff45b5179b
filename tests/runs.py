"""Trainings for tests, on the tiny Whisper and random clips."""

from dataclasses import replace

from distilwhisper_lib.device import mixed_precision, pick_device
from distilwhisper_lib.fidelity import Fidelity
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.training.config import ModelIdentity, Optimisation, RunConfig, TrainingData
from distilwhisper_lib.training.methods import get_method
from distilwhisper_lib.training.run import train_run
from distilwhisper_lib.training.trainer import make_trainer, training_arguments

CORRECTED = Fidelity()


def optimisation_of(preset, rate=1e-3, epochs=1, **changes):
    """Return the preset's batches with a learning rate and epochs."""
    return Optimisation(rate, epochs, preset.batch_size, preset.accumulation, **changes)


def arguments_of(folder, optimisation, clips, seed=0):
    """Return transformers' arguments in the precision of this machine, or of LAB_PRECISION."""
    return training_arguments(folder, optimisation, clips, seed, mixed_precision(pick_device()))


def config_of(name, preset, clips, rate=1e-3, epochs=1, seed=77, fidelity=CORRECTED, **changes):
    """Return the configuration of a training on random clips."""
    method = get_method(name)
    config = RunConfig(
        method=name,
        student=ModelIdentity("tiny", "tiny"),
        data=TrainingData("cs", len(clips), "random", "random", preset.train_margin_seconds),
        objective=method.objective(fidelity),
        optimisation=optimisation_of(preset, rate, epochs),
        experts=method.expert_settings(fidelity),
        choose_epoch=Lab(preset).decoding if preset.keep == "best" else None,
        fidelity=fidelity,
        seed=seed,
        precision=mixed_precision(pick_device()),
    ).changed(**changes)
    return replace(config, teacher="random") if config.objective.distils else config


def train(name, folder, preset, clips, collator, *, validation=None, teacher=None, **settings):
    """Train a method on random clips; settings as for `config_of`."""
    config = config_of(name, preset, clips, **settings)
    teacher = teacher if config.objective.distils else None
    return train_run(config, folder, clips, validation or clips, collator, teacher)


def trainer_on(model, arguments, objective, clips, collator, callbacks=None, **settings):
    """Return a trainer that validates on its training clips."""
    return make_trainer(model, arguments, objective, clips, clips, collator, callbacks, **settings)
