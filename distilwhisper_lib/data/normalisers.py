"""Text normalisers: applied to references and predictions before these are compared."""

import re
import unicodedata
from collections.abc import Callable

from transformers.models.whisper.english_normalizer import BasicTextNormalizer

BASIC = BasicTextNormalizer()

# Scripts written without spaces between words: Thai, Lao, Tibetan, Burmese, Hangul, Japanese
# kana, Chinese characters.
SPLIT_SCRIPTS = re.compile(
    "(["
    "\u0e00-\u0fff"
    "\u1000-\u109f"
    "\u1100-\u11ff"
    "\u3040-\u30ff"
    "\u3400-\u9fff"
    "\uac00-\ud7af"
    "\uf900-\ufaff"
    "])"
)

# Text in brackets, which Whisper's own normaliser removes as well.
ASIDES = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]*\)")

APOSTROPHE = re.compile(r"(?<=\w)['’ʼ](?=\w)")  # inside a word

MODIFIER_APOSTROPHE = "\u02bc"  # counts as a letter

# Invisible characters that Unicode does not count as format characters (Cf): the combining grapheme
# joiner, Hangul fillers, inherent vowels of Khmer, and variation selectors.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u3164\uffa0\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)

# Turkish İ in its two forms, and what lower case makes of it.
DOTTED_I = re.compile("İ|[iI]\u0307")


def visible(text: str) -> str:
    """Return `text` without characters that nobody sees, and with a plain i for Turkish İ.

    Taken out are format characters (zero-width spaces and joiners, direction marks, soft hyphens, a
    byte order mark), control characters other than white space, and those of INVISIBLE.
    """
    text = DOTTED_I.sub("i", INVISIBLE.sub("", text))
    return "".join(char for char in text if not _is_format_or_control(char))


def _is_format_or_control(char: str) -> bool:
    return unicodedata.category(char) in ("Cf", "Cc") and not char.isspace()


def keep_marks(text: str) -> str:
    """Return `text` in lower case without text in brackets, punctuation and symbols.

    Vowel signs and tone marks are kept. An apostrophe inside a word is kept too, as the letter
    U+02BC. Invisible characters are taken out, and Turkish İ is an i (`visible`). Thai is written
    without spaces between words, so score its CER.
    """
    text = visible(text)
    text = unicodedata.normalize("NFKC", text.lower())
    text = ASIDES.sub("", text)
    text = APOSTROPHE.sub(MODIFIER_APOSTROPHE, text)
    return "".join(" " if _is_punctuation_or_symbol(char) else char for char in text)


def _is_punctuation_or_symbol(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"


def _unchanged(text: str) -> str:
    return text


def _basic(text: str) -> str:
    """Return `text` as Whisper's basic normaliser gives it, once it is `visible`.

    Whisper's takes a zero-width space for a letter, and makes "i stanbul" of "İstanbul".
    """
    return BASIC(visible(text))


def _released(text: str) -> str:
    """Return `text` as the authors' release normalises it.

    That is Whisper's basic normaliser, for which invisible characters are letters, then each
    character of SPLIT_SCRIPTS as a word of its own. It splits Tamil at vowel signs, and Thai into
    consonants: the WER of both means little.

    Source: the release, train_utils.py, ExtendedTextNormalizer.
    """
    return SPLIT_SCRIPTS.sub(r" \1 ", BASIC(text))


NORMALISERS: dict[str, Callable[[str], str]] = {
    "none": _unchanged,
    "whisper-basic": _basic,
    "released": _released,
    "keep-marks": keep_marks,
}


def normalise(text: str, name: str = "whisper-basic") -> str:
    """Return `text` as it is scored, with single spaces between words.

    Args:
        text: A reference or a prediction.
        name: One of NORMALISERS. It is stated in every row of results.

    Raises:
        ValueError: For what is no text, or for an unknown name. The message lists the known ones.
    """
    if not isinstance(text, str):
        raise ValueError(f"a text is needed, not {text!r}")
    if not isinstance(name, str) or name not in NORMALISERS:
        raise ValueError(f"unknown normaliser {name!r}: one of {', '.join(NORMALISERS)}")
    return " ".join(NORMALISERS[name](text).split())
