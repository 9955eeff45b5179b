"""Choose the language, that is, the experts."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ..whisper.tokens import language_code
from ..whisper.unwrap import unwrap
from .attach import Model
from .blocks import clsr_blocks, routing_of
from .model import ExpertGeneration
from .routing import AUTO, Choice, LanguageChoice


def set_language(model: nn.Module, language: LanguageChoice) -> None:
    """Choose the experts of the calls that follow, of all threads.

    Calls that are running keep their choice. Within `use_language` it is the choice of that block,
    until its end.

    Args:
        model: A Whisper with experts; without experts only None is allowed.
        language: A code or English name for the whole batch; a list with one entry per sequence in
            the batch (None: no expert); "auto": for each sequence the language of its language
            token, which is given to `generate` or detected by plain Whisper, or is in
            `decoder_input_ids` or `labels`, without an expert where that language has none; or None
            for plain Whisper.

    Raises:
        ValueError: For a language without experts (the message lists those that have some), an
            empty list, or "auto" with a model that does not generate from speech.
    """
    if language is None and not clsr_blocks(model):
        return
    routing_of(model).choose(_checked(model, language))


def _checked(model: nn.Module, language: LanguageChoice) -> LanguageChoice:
    """Return a choice as codes; raises ValueError as `set_language` does."""
    routing = routing_of(model)
    if language == AUTO:
        if not isinstance(unwrap(model), ExpertGeneration):
            raise ValueError(
                f'"auto" needs a Whisper that generates, and this is a '
                f"{type(unwrap(model)).__name__}: set a language"
            )
        return AUTO

    choice: LanguageChoice
    if isinstance(language, list | tuple):
        codes = [_code_or_none(one) for one in language]
        choice = codes
    else:
        choice = _code_or_none(language)
        codes = [choice]

    unknown = sorted({code for code in codes if code is not None} - set(routing.languages))
    if unknown or not codes:
        raise ValueError(
            f"no experts for {', '.join(unknown) or 'an empty list'}: "
            f"this model has {', '.join(routing.languages) or 'none'}"
        )
    return choice


def _code_or_none(language: str | None) -> str | None:
    """Return the code of a language; None stays None."""
    return None if language is None else language_code(language)


def get_language(model: nn.Module) -> LanguageChoice:
    """Return the choice that holds here, as codes; None on a model without experts."""
    return routing_of(model).language if clsr_blocks(model) else None


@contextmanager
def use_language(model: Model, language: LanguageChoice) -> Iterator[Model]:
    """Choose the experts of the calls within a `with` block, of this thread alone.

    More exactly, of this context (`contextvars`): of this thread, or of this task of asyncio. Other
    threads can use the model with other languages at the same time; those that are started within
    the block enter `use_language` themselves. The previous choice holds afterwards, also on errors.
    With torch.compile the tasks of one thread take turns: a compiled model follows the one that has
    entered last.

    Args:
        model: As for `set_language`.
        language: As for `set_language`.

    Raises:
        ValueError: As `set_language` does.
    """
    if language is None and not clsr_blocks(model):
        yield model
        return
    with routing_of(model).use(Choice(_checked(model, language))):
        yield model
