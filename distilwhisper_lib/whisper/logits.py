"""Logits of a Whisper: teacher-forced over a batch, or at chosen decoder positions alone."""

import contextlib

import torch

from ..device import autocast, device_of
from .window import use_window


def logits_at(model: torch.nn.Module, positions: torch.Tensor) -> contextlib.AbstractContextManager:
    """Make the model's logits (N, V), of the decoder `positions` (B, T) that are true alone, within the block.

    The others are never multiplied out: at base size a row of logits costs as much as the whole decoder.
    """
    whisper = model.get_base_model() if hasattr(model, "get_base_model") else model
    return whisper.proj_out.register_forward_pre_hook(
        lambda _, arguments: (arguments[0][positions],)
    )


@torch.no_grad()
def teacher_forced_logits(model, batch: dict) -> torch.Tensor:
    """Return what a model says of a collated batch with teacher forcing: (B, T, V), on the model's device.

    Raises ValueError where the batch's mel bands are not the model's.
    """
    bands, wanted, device = (
        batch["input_features"].shape[1],
        model.config.num_mel_bins,
        device_of(model),
    )
    if bands != wanted:
        raise ValueError(
            f"the model takes {wanted} mel bands, the clips have {bands}: make the clips with the model's "
            "own processor, and keep that in its folder"
        )
    features, inputs = (
        batch["input_features"].to(device, model.dtype),
        batch["decoder_input_ids"].to(device),
    )
    with use_window(model, features.shape[-1]), autocast(device, model.dtype):
        return model(input_features=features, decoder_input_ids=inputs).logits
