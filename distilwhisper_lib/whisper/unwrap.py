"""The Whisper inside a PEFT wrapper."""

from typing import Any

from torch import nn


def unwrap(model: nn.Module) -> Any:
    """Return the model inside a PEFT wrapper; a model without one is returned as it is."""
    get_base_model = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()
