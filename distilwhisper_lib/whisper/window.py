"""The short window: an encoder over fewer frames than Whisper's 30 s."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import nn

from .per_call import Mixin, PerCall, mix_in
from .unwrap import unwrap


@dataclass(frozen=True)
class Window:
    """A window of the encoder.

    Attributes:
        positions: Of the encoder, two frames each.
        config: The model's configuration, with this number of positions.
    """

    positions: int
    config: Any


class _WithConfig(Mixin):
    """A model whose configuration is that of the window of the call.

    Whisper's encoder checks the length of its input against the configuration, and `generate` pads
    features to it.
    """

    _window: PerCall | None = None  # of a new object of this class: none

    @property
    def config(self):
        window = self._window and self._window.get()
        return vars(self)["config"] if window is None else window.config

    @config.setter
    def config(self, value):
        vars(self)["config"] = value


class _WithPositions(Mixin):
    """Embeddings of the encoder's positions, as many as the window of the call has.

    Whisper's encoder adds as many positions as `num_embeddings` says.
    """

    _window: PerCall | None = None  # of a new object of this class: none

    @property
    def num_embeddings(self):
        window = self._window and self._window.get()
        return vars(self)["num_embeddings"] if window is None else window.positions

    @num_embeddings.setter
    def num_embeddings(self, value):
        vars(self)["num_embeddings"] = value


_PREPARING = threading.Lock()


def _windows_of(whisper: Any) -> PerCall:
    """Return where a model's windows are kept; prepare the model at the first call."""
    encoder = whisper.get_encoder()
    with _PREPARING:
        if "_window" not in vars(encoder.embed_positions):
            window = PerCall()
            for part, mixin in [
                (whisper, _WithConfig),
                (encoder, _WithConfig),
                (encoder.embed_positions, _WithPositions),
            ]:
                part._window = window
                mix_in(part, mixin)
        return encoder.embed_positions._window


@contextmanager
def use_window(model: nn.Module, frames: int) -> Iterator[None]:
    """Make the encoder take `frames` mel frames instead of 3000, within the block.

    The first `frames / 2` sinusoidal positions are used as they are, so a window of 3000 frames is
    the plain model. The window is that of this thread or asyncio task: other threads can use the
    model with another one, or without. Do not save a model inside the block.

    Args:
        model: A Whisper, also one wrapped by PEFT.
        frames: Length of the window in mel frames of 10 ms, an even number up to 3000.

    Raises:
        ValueError: For a window that does not fit.
    """
    whisper = unwrap(model)
    longest = 2 * len(whisper.get_encoder().embed_positions.weight)
    is_whole = isinstance(frames, Integral) and not isinstance(frames, bool)
    if not is_whole or frames % 2 or not 0 < frames <= longest:
        raise ValueError(
            f"a window of {frames!r} frames does not fit: an even number up to {longest} is needed"
        )

    config = copy.copy(whisper.config)
    config.max_source_positions = frames // 2
    with _windows_of(whisper).use(Window(frames // 2, config)):
        yield
