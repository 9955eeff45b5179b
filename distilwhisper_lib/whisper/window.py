"""The short window: an encoder over fewer frames than Whisper's 30 s."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def use_window(model: torch.nn.Module, frames: int) -> Iterator[None]:
    """Make the encoder take `frames` mel frames (10 ms each, an even number) instead of 3000, within the block.

    The first `frames / 2` sinusoidal positions are used as they are, so a window of 3000 is the plain model. Works
    for models wrapped by PEFT; don't save a model inside the block. Raises ValueError for a window that does not fit.
    """
    whisper = model.get_base_model() if hasattr(model, "get_base_model") else model
    config, positions = whisper.config, whisper.get_encoder().embed_positions
    longest = 2 * len(positions.weight)
    if frames % 2 or not 0 < frames <= longest:
        raise ValueError(
            f"a window of {frames} frames does not fit: an even number up to {longest} is needed"
        )
    before = config.max_source_positions, positions.num_embeddings
    config.max_source_positions = positions.num_embeddings = frames // 2
    try:
        yield
    finally:
        config.max_source_positions, positions.num_embeddings = before
