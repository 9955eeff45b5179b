"""The short window: an encoder over fewer frames than Whisper's 30 s."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .unwrap import unwrap


@contextmanager
def use_window(model: nn.Module, frames: int) -> Iterator[None]:
    """Make the encoder take `frames` mel frames instead of 3000, within the block.

    The first `frames / 2` sinusoidal positions are used as they are, so a window of 3000 frames is
    the plain model. Do not save a model inside the block.

    Args:
        model: A Whisper, also one wrapped by PEFT.
        frames: Length of the window in mel frames of 10 ms, an even number up to 3000.

    Raises:
        ValueError: For a window that does not fit.
    """
    whisper = unwrap(model)
    config = whisper.config
    positions = whisper.get_encoder().embed_positions

    longest = 2 * len(positions.weight)
    if frames % 2 or not 0 < frames <= longest:
        raise ValueError(
            f"a window of {frames} frames does not fit: an even number up to {longest} is needed"
        )

    # The encoder checks the length of its input against the configuration, and adds as many
    # position embeddings as `num_embeddings` says.
    config_before = config.max_source_positions
    embeddings_before = positions.num_embeddings
    config.max_source_positions = frames // 2
    positions.num_embeddings = frames // 2
    try:
        yield
    finally:
        config.max_source_positions = config_before
        positions.num_embeddings = embeddings_before
