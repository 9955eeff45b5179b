"""Losses, gradients and weights that are not finite: the likely cause, and what is kept.

NaN >= 0 is false, so gates of a diverged training are shut, and its experts would be scored like
the plain student. A training therefore stops at the first value that is not finite.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from .callbacks import last_marked
from .stored import not_finite


def check_weights(tensors: Iterable[tuple[str, torch.Tensor]], when: str) -> None:
    """Raise ValueError where a trained weight is not finite: it is not written.

    Args:
        tensors: Names and trained weights.
        when: In the training, for the message.
    """
    bad = not_finite(tensors)
    if bad:
        raise ValueError(
            f"the trained weight {bad} is not finite {when}: nothing of it is written; most likely "
            "the learning rate is too high: lower it"
        )


def says_what_is_kept(folder: Path) -> str:
    """Return what is kept of a training that stops, for its message.

    Args:
        folder: Of the checkpoints.
    """
    checkpoint = last_marked(folder)
    if checkpoint is None:
        return "There is no checkpoint yet."
    return f"The last good checkpoint is kept: {checkpoint}"


def likely_cause(trainer: Any, inputs: dict) -> str:
    """Return why a loss or gradient is not finite, and what to do, as far as that can be told.

    Args:
        trainer: A `LabTrainer`.
        inputs: The batch; empty where it is not known.
    """
    clip = _clip_that_is_not_finite(inputs)
    if clip is not None:
        return f"the sound of {clip} has samples that are not finite: mend it, or leave it out"

    frozen = not_finite(
        (name, weight)
        for name, weight in trainer.network.named_parameters()
        if not weight.requires_grad
    )
    if frozen:
        return f"the student's own weight {frozen} is not finite: get the student again"

    of_teacher = _teacher_that_is_not_finite(trainer, inputs)
    if of_teacher is not None:
        return (
            f"the cached teacher distributions of {of_teacher} are not finite: remove "
            f"{trainer.teacher.folder}, so that they are computed anew"
        )

    trained = not_finite(trainer.trained_state().items())
    became = f" ({trained} is not finite since the step before)" if trained else ""
    cause = f"most likely the learning rate is too high{became}: lower it"
    if trainer.accelerator.mixed_precision == "fp16":
        cause += "; or numbers overflow in fp16: set LAB_PRECISION=no"
    return cause


def _clip_that_is_not_finite(inputs: dict) -> str | None:
    """Return the id of the first clip in a batch with features that are not finite, or None."""
    if not inputs:
        return None
    return not_finite(zip(inputs["ids"], inputs["input_features"], strict=True))


def _teacher_that_is_not_finite(trainer: Any, inputs: dict) -> str | None:
    """Return the id of the first clip whose cached distributions are not finite, or None."""
    if trainer.teacher is None or not inputs:
        return None
    padded = trainer.fidelity.padding_in_divergence
    for index, clip in enumerate(inputs["ids"]):
        labels = inputs["labels"][index : index + 1]
        _, log_probs = trainer.teacher.lookup([clip], labels, padded)
        if not_finite([(clip, log_probs)]):
            return clip
    return None
