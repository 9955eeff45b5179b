"""Which corpora there are, in which languages, and where the prepared ones lie."""

import re
from collections.abc import Callable
from pathlib import Path

from datasets import Audio, Features, Value

from ...files import cache_dir
from ...whisper.tokens import LANGUAGES, language_code, nearest_languages
from . import asterisk, festvox, fillets, stamps, toy, world
from .common_voice import COMMON, LOCALES, SIZES, read_common_voice
from .fleurs import CODES, read_fleurs
from .items import Item
from .recorded import read_recordings
from .tables import Reading

CORPORA: dict[str, tuple[str, ...]] = {  # corpus -> codes of its languages
    "fillets": ("cs", "nl"),
    "stamps": stamps.LANGUAGES,
    "festvox": festvox.LANGUAGES,
    "asterisk": asterisk.LANGUAGES,
    "toy": tuple(sorted({"cs", "nl", *stamps.LANGUAGES})),
    "world": tuple(sorted(world.LANGUAGES)),
    **dict.fromkeys(SIZES, tuple(sorted(LANGUAGES))),
    "fleurs": tuple(sorted(CODES)),
    "recordings": tuple(sorted(LANGUAGES)),
}

# Small corpora: (folder with the data, language) -> items
ITEMS: dict[str, Callable[..., list[Item]]] = {
    "fillets": fillets.fillets_items,
    "stamps": stamps.stamps_items,
    "festvox": festvox.festvox_items,
    "asterisk": asterisk.asterisk_items,
    "toy": toy.toy_items,
    "world": world.world_items,
}

MADE_UP = ("toy", "world")  # corpora that need no data

# Large corpora, prepared in shards: (corpus, language, source) -> reading
READERS: dict[str, Callable[[str, str, str | Path | None], Reading]] = {
    **dict.fromkeys(SIZES, read_common_voice),
    "fleurs": read_fleurs,
    "recordings": read_recordings,
}

# Raise it when rows or splits change: corpora that an older builder prepared are prepared anew.
BUILDER = 1

TEXT = Value("string")

FEATURES = Features(
    {
        "id": TEXT,
        "audio": Audio(sampling_rate=16_000, decode=False),  # {"bytes": mono FLAC, "path"}
        "text": TEXT,
        "language": TEXT,
        "speaker": TEXT,
        "room_or_category": TEXT,
        "translation_en": TEXT,
        "duration": Value("float64"),  # seconds
        "split": TEXT,
    }
)


def check_names(name: str, language: str) -> tuple[str, str]:
    """Return the corpus and the code of the language.

    Args:
        name: One of CORPORA.
        language: Code or English name of the language.

    Raises:
        ValueError: For an unknown corpus or language. The message lists the known ones.
    """
    if not isinstance(name, str) or name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: one of {', '.join(CORPORA)}")
    code = language
    nearest = ""
    try:
        code = language_code(language)
    except ValueError:
        nearest = nearest_languages(str(language).strip().lower())
    if code not in CORPORA[name]:
        known = ", ".join(CORPORA[name])
        raise ValueError(f"the corpus {name} has no language {language!r}{nearest}: it has {known}")
    _check_region(name, code, language)
    return name, code


def _check_region(name: str, code: str, asked: str) -> None:
    """Raise ValueError where a language is asked for in another region than the corpus has it in.

    Args:
        name: Of the corpus.
        code: Whisper's code of the language.
        asked: What the caller has written, "zh-TW" say.
    """
    if name in SIZES:
        own = LOCALES.get(code, code)
    elif name == "fleurs":
        own = CODES[code]
    else:
        return
    _, *regions = re.split("[-_]", asked.lower().removeprefix("<|").removesuffix("|>"))
    parts = set(re.split("[-_]", own.lower())[1:])  # region and script
    if "cn" in parts:
        parts.add("hans")
    others = [region for region in regions if region not in parts]
    if others and parts:
        raise ValueError(
            f"{name} has {own} for {code!r}, not {asked!r}: give {code!r} for it, or another corpus"
        )


def corpus_folder(name: str, language: str) -> Path:
    """Return the folder of a prepared corpus; `language` is a code."""
    return cache_dir() / "corpora" / f"{name}-{language}"


def store_folder(language: str) -> Path:
    """Return the folder of the decoded clips of Common Voice in a language, for all sizes."""
    return corpus_folder(COMMON, language).absolute()
