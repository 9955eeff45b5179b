"""The Whisper inside a PEFT wrapper."""

from typing import Any

from torch import nn


def unwrap(model: nn.Module) -> Any:
    """Return the model inside a PEFT wrapper; any other model is returned as it is.

    The return type is open: transformers' own types do not know the attributes of a Whisper.
    """
    get_base_model = getattr(model, "get_base_model", None)
    return model if get_base_model is None else get_base_model()
