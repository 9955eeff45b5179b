"""Language codes, and the token ids that Whisper is trained on."""

import torch
from transformers import PreTrainedTokenizerBase
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from ..fidelity import FIDELITIES, Fidelity

MOST_TOKENS = 448  # positions of Whisper's decoder

# Special tokens that every multilingual Whisper has; <|endoftext|> is the first token after text.
NEEDED = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)


# ---- languages


def language_code(language: str) -> str:
    """Return Whisper's code of a language.

    Args:
        language: A code, an English name or a language token, in any case: "cs", "Czech" and
            "<|cs|>" give "cs".

    Raises:
        ValueError: For a language that Whisper does not know.
    """
    name = language.lower().removeprefix("<|").removesuffix("|>")
    code = TO_LANGUAGE_CODE.get(name, name)
    if code not in LANGUAGES:
        raise ValueError(
            f"Whisper does not know the language {language!r}: use a code such as 'cs', or a name "
            f"such as 'czech'; known codes: {' '.join(sorted(LANGUAGES))}"
        )
    return code


def language_codes(languages: str | list[str]) -> list[str]:
    """Return the codes of several languages, or of one, as `language_code` does."""
    if isinstance(languages, str):
        languages = [languages]
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
            "the language one that this model knows"
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
    labels += tokenizer(text, add_special_tokens=False).input_ids
    labels.append(tokenizer.eos_token_id)

    if limit is not None and len(labels) > limit:
        raise ValueError(
            f"label too long: {len(labels)} tokens, the decoder has {limit} positions: "
            f"{text[:60]!r}…"
        )
    return labels


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
