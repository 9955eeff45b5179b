"""Greedy decoding without timestamps, whatever a checkpoint's own generation settings say."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from ..whisper.per_call import Mixin, PerCall, mix_in
from ..whisper.unwrap import unwrap

# What Whisper's decoder needs to know of its tokens. All else of a checkpoint's settings (beams,
# sampling, penalties, bans, thresholds, prompts, timestamps, form of the output) is overridden.
KEPT = (
    "alignment_heads",
    "begin_suppress_tokens",
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "is_multilingual",
    "lang_to_id",
    "max_initial_timestamp_index",
    "no_timestamps_token_id",
    "pad_token_id",
    "prev_sot_token_id",
    "suppress_tokens",
    "task_to_id",
)

# Settings that each call of `generate` states, or that say nothing of it.
NOT_TOLD = ("_from_model_config", "max_length", "max_new_tokens", "transformers_version")


def plain_settings(settings: GenerationConfig) -> GenerationConfig:
    """Return the settings of greedy decoding: of a checkpoint's those in KEPT."""
    plain = GenerationConfig()
    for name in KEPT:
        if hasattr(settings, name):
            setattr(plain, name, getattr(settings, name))
    return plain


def overridden_settings(settings: GenerationConfig) -> dict[str, Any]:
    """Return those of a checkpoint's settings that evaluation does not use, by name."""
    own = settings.to_dict()
    usual = GenerationConfig().to_dict()
    usual |= GenerationConfig._get_default_generation_params() | {"return_timestamps": False}
    return {
        name: value
        for name, value in sorted(own.items())
        if name not in (*KEPT, *NOT_TOLD) and value is not None and value != usual.get(name)
    }


def overridden_in(folder: Path | None) -> dict[str, Any]:
    """Return the same for a checkpoint's folder, without its weights; None: the tiny Whisper."""
    path = None if folder is None else folder / "generation_config.json"
    if path is None or not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        found = overridden_settings(GenerationConfig(**settings))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no generation settings ({error}): get it again") from error
    # as the file has them: transformers makes objects of some
    return {name: settings.get(name, value) for name, value in found.items()}


class _WithSettings(Mixin):
    """A Whisper whose generation settings are those of the call.

    `generate` fills up the settings that it is given with the model's own, so that it is not
    enough to give it others.
    """

    _settings: PerCall | None = None  # of a new object of this class: none

    @property
    def generation_config(self):
        settings = self._settings and self._settings.get()
        return vars(self)["generation_config"] if settings is None else settings

    @generation_config.setter
    def generation_config(self, value):
        vars(self)["generation_config"] = value


_PREPARING = threading.Lock()


@contextmanager
def use_greedy_decoding(model: Any) -> Iterator[GenerationConfig]:
    """Make `generate` of a model decode greedily without timestamps, within the block.

    It holds for this thread or asyncio task. Do not save a model inside the block.

    Args:
        model: A Whisper, also one wrapped by PEFT.

    Yields:
        The settings, to be given to `generate` too.
    """
    whisper = unwrap(model)
    with _PREPARING:
        if "_settings" not in vars(whisper):
            whisper._settings = PerCall()
            mix_in(whisper, _WithSettings)
    plain = plain_settings(whisper.generation_config)
    with whisper._settings.use(plain):
        yield plain
