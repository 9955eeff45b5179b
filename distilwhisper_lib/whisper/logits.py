"""Logits of a Whisper: teacher-forced over a batch, or at chosen decoder positions alone."""

import threading
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..device import autocast, device_of
from .unwrap import unwrap
from .window import use_window


def logits_at(model: nn.Module, positions: torch.Tensor) -> AbstractContextManager:
    """Compute logits at some decoder positions alone, within the block.

    At the other positions the output projection is skipped: at base size the logits of one position
    cost as much as the whole decoder. Other threads get the logits of all positions meanwhile.

    Args:
        model: A Whisper, also one wrapped by PEFT.
        positions: True where logits are wanted, (B, T), boolean.

    Returns:
        A context manager. Within it the model's logits are (N, V), N the number of true positions.
    """

    thread = threading.get_ident()

    def keep_positions(_: nn.Module, arguments: tuple) -> tuple:
        (hidden_states,) = arguments  # (B, T, d)
        if threading.get_ident() != thread:
            return arguments
        return (hidden_states[positions],)  # (N, d)

    return unwrap(model).proj_out.register_forward_pre_hook(keep_positions)


@torch.no_grad()
def teacher_forced_logits(model: nn.Module, batch: dict) -> torch.Tensor:
    """Return the teacher-forced logits of a collated batch, (B, T, V), on the model's device.

    Args:
        model: A Whisper, also one wrapped by PEFT.
        batch: "input_features" (B, mel bands, frames) and "decoder_input_ids" (B, T).

    Raises:
        ValueError: Where the batch's mel bands are not the model's.
    """
    whisper: Any = model  # for mypy: PEFT's wrapper too has Whisper's `config` and `dtype`
    bands = batch["input_features"].shape[1]
    needed_bands = whisper.config.num_mel_bins
    if bands != needed_bands:
        raise ValueError(
            f"the model takes {needed_bands} mel bands, the clips have {bands}: make the clips "
            "with the model's own processor, and keep that in its folder"
        )

    device = device_of(model)
    features = batch["input_features"].to(device, whisper.dtype)
    decoder_input_ids = batch["decoder_input_ids"].to(device)
    with use_window(model, features.shape[-1]), autocast(device, whisper.dtype):
        output = model(input_features=features, decoder_input_ids=decoder_input_ids)
    return output.logits
