"""Text normalisers: what is done to references and predictions before they are compared."""

import re
import unicodedata
from collections.abc import Callable

from transformers.models.whisper.english_normalizer import BasicTextNormalizer

BASIC = BasicTextNormalizer()

UNSPACED = re.compile(
    "([\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff])"
)

ASIDES = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]*\)")  # what Whisper's own normaliser drops as well

APOSTROPHE = re.compile(r"(?<=\w)['’ʼ](?=\w)")


def keep_marks(text: str) -> str:
    """Return text in small letters without asides, punctuation and symbols; vowel signs and tones stay.

    An apostrophe inside a word stays too, as the letter U+02BC. Thai has no spaces between words: score its CER.
    """
    text = APOSTROPHE.sub("\u02bc", ASIDES.sub("", unicodedata.normalize("NFKC", text.lower())))
    return "".join(" " if unicodedata.category(char)[0] in "PS" else char for char in text)


NORMALISERS: dict[str, Callable[[str], str]] = {
    "none": lambda text: text,
    "whisper-basic": BASIC,
    # the release (train_utils.py: ExtendedTextNormalizer): basic, then each letter of Chinese, Japanese, Korean, Thai,
    # Lao, Tibetan and Burmese on its own. Tamil is cut at vowel signs, Thai into consonants: neither has a WER
    "released": lambda text: UNSPACED.sub(r" \1 ", BASIC(text)),
    "keep-marks": keep_marks,
}


def normalise(text: str, name: str = "whisper-basic") -> str:
    """Return `text` as it is scored; `name` is one of NORMALISERS and goes into every result row."""
    if name not in NORMALISERS:
        raise ValueError(f"unknown normaliser {name!r}: one of {', '.join(NORMALISERS)}")
    return " ".join(NORMALISERS[name](text).split())
