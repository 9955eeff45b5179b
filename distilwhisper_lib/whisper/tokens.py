"""Language codes, and the token ids that Whisper is trained on."""

import difflib
import re

import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from ..checks import check_list
from ..fidelity import FIDELITIES, Fidelity
from .shapes import DECODER_POSITIONS

MOST_TOKENS = DECODER_POSITIONS  # of a sequence that the decoder reads

# Special tokens that every multilingual Whisper has; <|endoftext|> is the first token after text.
NEEDED = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)


# ---- languages


# Codes and names that others use for Whisper's languages: older and newer codes of ISO 639-1, codes
# with three letters in the names of corpora, and English names.
OTHER_NAMES = {
    "iw": "he",
    "in": "id",
    "ji": "yi",
    "jv": "jw",
    "mo": "ro",
    "nb": "no",
    "fil": "tl",
    "cmn": "zh",
    "zh yue": "yue",
    "nob": "no",
    "nno": "nn",
    "filipino": "tl",
    "farsi": "fa",
    "bangla": "bn",
    "norwegian bokmål": "no",
    "norwegian bokmal": "no",
    "norwegian nynorsk": "nn",
}

# A code, and what may follow it: a script of four letters, a region, variants. Not with spaces
# between them: "no speech" is not Norwegian.
SUBTAGS = re.compile(
    r"([a-z]{2,3})(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9]\w{3}))*"
)


def language_code(language: str) -> str:
    """Return Whisper's code of a language.

    Args:
        language: A code, an English name or a language token, in upper or lower case: "cs",
            "Czech" and "<|cs|>" give "cs". A code may have a script and a region, with "-" or "_":
            "ca-ES" gives "ca", "zh_Hant_TW" gives "zh". Other codes for the same language are
            known: "iw", "jv", "fil", "nb".

    Raises:
        ValueError: For a language that Whisper does not know. The message names the nearest ones.
    """
    if not isinstance(language, str):
        raise ValueError(f"a language is needed, a code such as 'cs', not {language!r}")
    name = language.strip().lower().removeprefix("<|").removesuffix("|>")
    tag = SUBTAGS.fullmatch(re.sub("[_-]+", "-", name))
    name = re.sub(r"[\s_-]+", " ", name)
    code = _known_code(name)
    if code is None and tag:
        code = _known_code(tag[1])
    if code is None:
        raise ValueError(
            f"Whisper does not know the language {language!r}{nearest_languages(name)}: use a code "
            f"such as 'cs', or a name such as 'czech'; known codes: {' '.join(sorted(LANGUAGES))}"
        )
    return code


def is_language_name(text: str) -> bool:
    """Return whether a name, such as that of a folder, is that of a language and nothing else.

    A code, an English name, or a code with a region: "gl", "galician", "gl-ES". "my-clips" is none,
    though "my" is a code and "clips" could be a variant.
    """
    name = text.strip().lower()
    if _known_code(re.sub(r"[\s_-]+", " ", name)) is not None:
        return True
    return re.fullmatch(r"[a-z]{2,3}[_-]([a-z]{2}|[0-9]{3})", name) is not None and (
        _known_code(re.split("[_-]", name)[0]) is not None
    )


def _known_code(name: str) -> str | None:
    """Return the code that has a name, or is it; None for an unknown one."""
    if name in LANGUAGES:
        return name
    return TO_LANGUAGE_CODE.get(name) or OTHER_NAMES.get(name)


def nearest_languages(name: str) -> str:
    """Return what may be meant by an unknown name, for a message; "" where nothing is near.

    Args:
        name: In lower case.
    """
    codes = {**TO_LANGUAGE_CODE, **OTHER_NAMES}
    near = [known for known in codes if len(name) > 1 and known.startswith(name)]
    near += difflib.get_close_matches(name, [*codes, *LANGUAGES], n=3, cutoff=0.7)
    found = list(dict.fromkeys(codes.get(known, known) for known in near))[:3]
    if not found:
        return ""
    return f" (nearest: {', '.join(f'{code} {LANGUAGES[code].title()}' for code in found)})"


def language_codes(languages: str | list[str]) -> list[str]:
    """Return the codes of several languages, or of one.

    Raises:
        ValueError: As `language_code` does; for an empty list, or what is no list.
    """
    if isinstance(languages, str):
        languages = [languages]
    languages = check_list("languages", languages)
    if not languages:
        raise ValueError("languages is an empty list: give at least one, such as 'cs'")
    return [language_code(language) for language in languages]


# ---- token ids


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Return the id of one token."""
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)  # a list of ids belongs to a list of tokens
    return number


def prefix_tokens(
    tokenizer: PreTrainedTokenizerBase, language: str, task: str = "transcribe"
) -> list[int]:
    """Return the four token ids that start the decoder: start, language, task, no timestamps.

    Args:
        tokenizer: A Whisper's.
        language: Code or English name.
        task: "transcribe" or "translate".

    Raises:
        ValueError: For a language or task that the tokenizer has no token for.
    """
    tokens = (
        "<|startoftranscript|>",
        f"<|{language_code(language)}|>",
        f"<|{task}|>",
        "<|notimestamps|>",
    )
    token_ids = tokenizer.convert_tokens_to_ids(list(tokens))
    assert isinstance(token_ids, list)

    unknown = tokenizer.unk_token_id  # what a token without an id of its own becomes
    if None in token_ids or (unknown in token_ids and unknown != token_ids[0]):
        raise ValueError(
            f"the tokenizer lacks one of {tokens}: task must be 'transcribe' or 'translate', and "
            "the language one that this model knows (yue came with large-v3: use zh before)"
        )
    return token_ids


def encode_labels(
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    language: str,
    task: str = "transcribe",
    limit: int | None = MOST_TOKENS,
    fidelity: Fidelity = FIDELITIES["corrected"],
) -> list[int]:
    """Return the token ids that the decoder must predict.

    These are language, task, no timestamps, the text, end. The start token is not among them: it is
    the first *input* of the decoder (`decoder_inputs`).

    Args:
        tokenizer: A Whisper's.
        text: The reference transcript.
        language: Code or English name.
        task: "transcribe" or "translate".
        limit: Positions of the decoder; None: any number.
        fidelity: As released, the language is absent and the start token is there; the decoder's
            input then begins with the start token twice.

    Raises:
        ValueError: Where the labels do not fit the decoder's positions, or as `prefix_tokens`.
    """
    start, language_id, *task_and_timestamps = prefix_tokens(tokenizer, language, task)
    labels = []
    if fidelity.labels_with_start:
        labels.append(start)
    if not fidelity.labels_without_language:
        labels.append(language_id)
    labels += task_and_timestamps
    labels += text_tokens(tokenizer, text)
    labels.append(tokenizer.eos_token_id)

    if limit is not None and len(labels) > limit:
        raise ValueError(
            f"label too long: {len(labels)} tokens, the decoder has {limit} positions: "
            f"{text[:60]!r}…"
        )
    return labels


def text_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a text, in which the name of a special token is text as well.

    Args:
        tokenizer: A Whisper's.
        text: The text, such as "a tag <|endoftext|> in a transcript".

    Raises:
        ValueError: For what is no text.
    """
    if not isinstance(text, str):
        raise ValueError(f"a transcript is needed, not {text!r}")
    try:
        token_ids = tokenizer(text, add_special_tokens=False).input_ids
    except (UnicodeEncodeError, TypeError) as error:  # half of a pair of surrogates
        raise ValueError(f"the transcript is no valid Unicode: {text[:60]!r}…") from error

    end = token_id(tokenizer, "<|endoftext|>")
    others = tokenizer.convert_ids_to_tokens([index for index in token_ids if index >= end])
    if not any(name.startswith("<|") for name in others):  # others: words added to the vocabulary
        return token_ids

    # The tokenizer's own steps without the one that looks for special tokens.
    backend = tokenizer.backend_tokenizer
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = backend.pre_tokenizer.pre_tokenize_str(text)
    return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]


def decoder_inputs(tokenizer: PreTrainedTokenizerBase, labels: list[int]) -> list[int]:
    """Return the decoder's input ids: the start token, then all labels but the last."""
    return [token_id(tokenizer, "<|startoftranscript|>"), *labels[:-1]]


# ---- two vocabularies


def vocabulary_map(
    teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase
) -> torch.Tensor:
    """Return the student's id of each token of the teacher's tokenizer.

    Text tokens must have the same ids in both. Special tokens go by name: large-v3 has one language
    more, before its tasks, so that all ids after it are shifted.

    Args:
        teacher: The teacher's tokenizer.
        student: The student's tokenizer.

    Returns:
        int64, (V_teacher,), -1 where the student has no such token.

    Raises:
        ValueError: For a tokenizer that is English-only or of another family; the message says what
            differs.
    """
    teacher_ids = _ids_by_name(teacher)
    student_ids = _ids_by_name(student)
    _check_special_tokens(teacher_ids, student_ids)
    _check_text_tokens(teacher_ids, student_ids)

    counterparts = [student_ids.get(name, -1) for name in teacher_ids]
    mapping = torch.full((max(teacher_ids.values()) + 1,), -1)
    mapping[list(teacher_ids.values())] = torch.tensor(counterparts)
    return mapping


def _ids_by_name(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return all token ids by name; <|nocaptions|> is the older name of <|nospeech|>."""
    vocabulary = tokenizer.get_vocab()
    return {name.replace("nocaptions", "nospeech"): index for name, index in vocabulary.items()}


def _check_special_tokens(teacher_ids: dict[str, int], student_ids: dict[str, int]) -> None:
    """Raise ValueError where one of the two lacks a special token that every Whisper has."""
    missing = [name for name in NEEDED if name not in teacher_ids or name not in student_ids]
    if missing:
        owner = "teacher" if missing[0] in student_ids else "student"
        raise ValueError(
            f"the {owner}'s tokenizer lacks {' '.join(missing)}: it is not one of Whisper"
        )


def _check_text_tokens(teacher_ids: dict[str, int], student_ids: dict[str, int]) -> None:
    """Raise ValueError where the tokens before <|endoftext|> are not the same in both."""
    teacher_text = _text_tokens(teacher_ids)
    student_text = _text_tokens(student_ids)
    if teacher_text != student_text:
        index, name = min(teacher_text ^ student_text)
        raise ValueError(
            f"text tokens of teacher ({len(teacher_text)}) and student ({len(student_text)}) "
            f"differ, first at id {index} ({name!r}): distillation needs two multilingual Whispers"
        )


def _text_tokens(ids: dict[str, int]) -> set[tuple[int, str]]:
    """Return (id, name) of the tokens before <|endoftext|>."""
    end = ids[NEEDED[0]]
    return {(index, name) for name, index in ids.items() if index < end}
