"""Text normalisers: applied to references and predictions before these are compared."""

import re
import unicodedata
from collections.abc import Callable

from transformers.models.whisper.english_normalizer import BasicTextNormalizer

BASIC = BasicTextNormalizer()

# Scripts written without spaces between words: Thai, Lao, Tibetan, Burmese, Hangul, Japanese
# kana, Chinese characters.
UNSPACED = re.compile(
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


def keep_marks(text: str) -> str:
    """Return `text` in lower case without text in brackets, punctuation and symbols.

    Vowel signs and tone marks are kept. An apostrophe inside a word is kept too, as the letter
    U+02BC. Thai is written without spaces between words, so score its CER.
    """
    text = unicodedata.normalize("NFKC", text.lower())
    text = ASIDES.sub("", text)
    text = APOSTROPHE.sub(MODIFIER_APOSTROPHE, text)
    return "".join(" " if _is_punctuation_or_symbol(char) else char for char in text)


def _is_punctuation_or_symbol(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"


def _unchanged(text: str) -> str:
    return text


def _released(text: str) -> str:
    """Return `text` as the authors' release normalises it.

    That is Whisper's basic normaliser, then each character of the scripts of UNSPACED as a word of
    its own. It splits Tamil at vowel signs, and Thai into consonants: the WER of both means little.

    Source: the release, train_utils.py, ExtendedTextNormalizer.
    """
    return UNSPACED.sub(r" \1 ", BASIC(text))


NORMALISERS: dict[str, Callable[[str], str]] = {
    "none": _unchanged,
    "whisper-basic": BASIC,
    "released": _released,
    "keep-marks": keep_marks,
}


def normalise(text: str, name: str = "whisper-basic") -> str:
    """Return `text` as it is scored, with single spaces between words.

    Args:
        text: A reference or a prediction.
        name: One of NORMALISERS. It is stated in every row of results.

    Raises:
        ValueError: For an unknown name. The message lists the known ones.
    """
    if name not in NORMALISERS:
        raise ValueError(f"unknown normaliser {name!r}: one of {', '.join(NORMALISERS)}")
    return " ".join(NORMALISERS[name](text).split())
