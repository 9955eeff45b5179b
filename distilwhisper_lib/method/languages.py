"""Choose the language, that is, the experts."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..whisper.tokens import language_code
from .attach import Model
from .blocks import clsr_blocks, routing_of
from .routing import LanguageChoice


def set_language(model: nn.Module, language: LanguageChoice) -> None:
    """Choose the experts that the next forward passes use.

    Args:
        model: A Whisper with experts; without experts only None is allowed.
        language: A code or English name for the whole batch; a list with one entry per sequence in
            the batch (None: no expert); or None for plain Whisper.

    Raises:
        ValueError: For a language without experts (the message lists those that have some), or an
            empty list.
    """
    if language is None and not clsr_blocks(model):
        return
    routing = routing_of(model)
    if isinstance(language, list | tuple):
        codes = [_code_or_none(one) for one in language]
        choice: LanguageChoice = codes
    else:
        choice = _code_or_none(language)
        codes = [choice]

    unknown = sorted({code for code in codes if code is not None} - set(routing.languages))
    if unknown or not codes:
        raise ValueError(
            f"no experts for {', '.join(unknown) or 'an empty list'}: "
            f"this model has {', '.join(routing.languages) or 'none'}"
        )
    routing.choose(choice)


def _code_or_none(language: str | None) -> str | None:
    """Return the code of a language; None stays None."""
    return None if language is None else language_code(language)


def get_language(model: nn.Module) -> LanguageChoice:
    """Return what `set_language` was given last, as codes; None on a model without experts."""
    return routing_of(model).language if clsr_blocks(model) else None


@contextmanager
def use_language(model: Model, language: LanguageChoice) -> Iterator[Model]:
    """Set the language inside a `with` block, and the previous one afterwards, also on errors.

    Args:
        model: As for `set_language`.
        language: As for `set_language`.

    Raises:
        ValueError: As `set_language` does.
    """
    before = get_language(model)
    set_language(model, language)
    try:
        yield model
    finally:
        set_language(model, before)
