"""The Whisper inside a wrapper of PEFT or of torch.compile, and whether it has an adapter."""

import sys
from typing import Any

from torch import nn


def unwrap(model: nn.Module) -> Any:
    """Return the model inside wrappers of PEFT and torch.compile; any other model as it is.

    The return type is open: transformers' own types do not know the attributes of a Whisper.
    """
    while True:
        compiled = vars(model).get("_modules", {}).get("_orig_mod")
        if compiled is not None:
            model = compiled
            continue
        get_base_model: Any = getattr(model, "get_base_model", None)
        if get_base_model is None:
            return model
        model = get_base_model()


def has_adapter(model: nn.Module) -> bool:
    """Return whether a model has an adapter of PEFT, around it or in it."""
    if hasattr(model, "merge_and_unload"):
        return True
    layers = sys.modules.get("peft.tuners.tuners_utils")  # without PEFT there is no adapter
    return layers is not None and any(
        isinstance(module, layers.BaseTunerLayer) for module in model.modules()
    )
