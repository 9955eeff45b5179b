"""What a laboratory may be asked for: fields of a preset, settings of a training, experts."""

from dataclasses import fields, replace

from ..checks import check_choice, check_number
from ..device import PRECISIONS
from ..evaluation.scoring import FOR_UNSPACED, has_no_spaces
from ..method.experts import ExpertSettings
from ..presets import NUMBERS, Preset
from ..training.config import OWN_FIELDS, Optimisation
from ..training.objective import Objective
from ..whisper.tokens import language_code

EXPERTS = (True, False, "encoder")  # which experts a prediction uses: all, none, the encoder's


def check_experts(experts: bool | str) -> None:
    """Raise ValueError unless `experts` is True, False or "encoder"; 1 and "off" are neither."""
    if not (isinstance(experts, bool) or experts == "encoder"):
        raise ValueError(f"unknown experts {experts!r}: one of {', '.join(map(repr, EXPERTS))}")


def check_changes(changes: dict) -> None:
    """Raise ValueError for a name that is no setting of a training, or a value that none can have.

    A method that is not trained takes no settings: without this, a slip would go unnoticed there.
    """
    needed = {"learning_rate": 1e-3, "epochs": 1}
    own = {Objective: {}, Optimisation: needed, ExpertSettings: {}}
    names = {part: [field.name for field in fields(part)] for part in own}
    known = ["language", *OWN_FIELDS, *names[Objective], *names[Optimisation]]
    for name in changes:
        check_choice("a setting of a training", name, [*known, *names[ExpertSettings]])

    # each part checks its values
    given = {name: value for name, value in changes.items() if value is not None}
    for part, values in own.items():
        part(**values | {name: given[name] for name in names[part] if name in given})
    if "seed" in given:
        check_number("seed", given["seed"], **NUMBERS["seed"])
    if "precision" in given:
        check_choice("precision", given["precision"], PRECISIONS)
    if "language" in given:
        language_code(given["language"])


def changed_preset(preset: Preset, changes: dict) -> Preset:
    """Return a preset with other values of its fields, its languages as codes.

    A voice is a speaker of one corpus and one language: where one of these becomes another and no
    voice is given, there is none. Texts of recordings in a script without spaces keep their marks
    when they are compared, unless another normaliser is given.

    Raises:
        ValueError: For an unknown field or language.
    """
    known = [field.name for field in fields(Preset)]
    unknown = sorted(set(changes) - set(known))
    if unknown:
        raise ValueError(
            f"a preset has no setting {', '.join(unknown)}: it has {', '.join(known)}; settings of "
            "a single training, such as hard, go to lab.train"
        )
    changed = replace(preset, **changes)
    languages = {
        name: language_code(getattr(changed, name)) for name in ("language", "second_language")
    }
    try:
        retention = tuple((corpus, language_code(code)) for corpus, code in changed.retention)
    except ValueError as error:
        raise ValueError(f"retention: {error}") from error
    changed = replace(changed, **languages, retention=retention)
    if "voice" not in changes and _speech_of(changed) != _speech_of(preset):
        changed = replace(changed, voice=None)
    is_recorded = changed.corpus == "recordings"
    if "normaliser" not in changes and is_recorded and has_no_spaces(changed.language):
        changed = replace(changed, normaliser=FOR_UNSPACED)
    return changed


def _speech_of(preset: Preset) -> tuple[str, str]:
    """Return where a preset's voice speaks: corpus and language."""
    return preset.corpus, preset.language
