"""Language codes and the token ids that Whisper is trained on."""

import torch
from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

from ..fidelity import Fidelity

MOST_TOKENS = 448  # positions of Whisper's decoder

NEEDED = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)


def language_code(language: str) -> str:
    """Return Whisper's code of a language given as code or English name ("cs", "Czech" -> "cs").

    Raises ValueError for a language that Whisper does not know.
    """
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    if code not in LANGUAGES:
        raise ValueError(
            f"Whisper does not know the language {language!r}: use a code such as 'cs', or a name "
            f"such as 'czech'; known codes: {' '.join(sorted(LANGUAGES))}"
        )
    return code


def prefix_tokens(tokenizer, language: str, task: str = "transcribe") -> list[int]:
    """Return the four ids that start the decoder: start, language, task, no timestamps."""
    words = (
        "<|startoftranscript|>",
        f"<|{language_code(language)}|>",
        f"<|{task}|>",
        "<|notimestamps|>",
    )
    ids = tokenizer.convert_tokens_to_ids(list(words))
    if None in ids or tokenizer.unk_token_id in ids and tokenizer.unk_token_id != ids[0]:
        raise ValueError(
            f"the tokenizer lacks one of {words}: task must be 'transcribe' or 'translate', and the "
            "language one that this model knows"
        )
    return ids


def encode_labels(
    tokenizer,
    text: str,
    language: str,
    task: str = "transcribe",
    limit: int | None = MOST_TOKENS,
    fidelity: Fidelity = Fidelity(),
) -> list[int]:
    """Return the ids that the decoder must predict: language, task, no timestamps, the text, end.

    The start token is not among them: it is the first *input* of the decoder (`decoder_inputs`). As released the
    language is absent and the start token is there; then the decoder's input begins with it twice.
    Raises ValueError where they would not fit the decoder's `limit` positions (None: any number).
    """
    start, code, *rest = prefix_tokens(tokenizer, language, task)
    ids = (
        [start] * fidelity.labels_with_start
        + [code] * (not fidelity.labels_without_language)
        + rest
    )
    ids = ids + tokenizer(text, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
    if limit is not None and len(ids) > limit:
        raise ValueError(
            f"label too long: {len(ids)} tokens, the decoder has {limit} positions: {text[:60]!r}…"
        )
    return ids


def decoder_inputs(tokenizer, labels: list[int]) -> list[int]:
    """Return the decoder's input ids for `labels`: the start token once, then the labels less their last."""
    return [tokenizer.convert_tokens_to_ids("<|startoftranscript|>"), *labels[:-1]]


def vocabulary_map(teacher, student) -> torch.Tensor:
    """Return the student's id of each token of the teacher's tokenizer: int64 (V_teacher,), -1 where it has none.

    Text tokens must have the same ids in both; those from <|endoftext|> on go by name: large-v3 has one language
    more, before its tasks, so that all ids after it are shifted. <|nocaptions|> is the older name of <|nospeech|>.
    Raises ValueError that says what differs, for a tokenizer that is English-only or of another family.
    """
    theirs, ours = (
        {name.replace("nocaptions", "nospeech"): i for name, i in tokenizer.get_vocab().items()}
        for tokenizer in (teacher, student)
    )
    if lacking := [name for name in NEEDED if name not in theirs.keys() & ours.keys()]:
        whose = "teacher" if lacking[0] in ours else "student"
        raise ValueError(
            f"the {whose}'s tokenizer lacks {' '.join(lacking)}: it is not one of Whisper"
        )
    texts = [
        {(i, name) for name, i in names.items() if i < names[NEEDED[0]]} for names in (theirs, ours)
    ]
    if texts[0] != texts[1]:
        i, name = min(texts[0] ^ texts[1])
        raise ValueError(
            f"text tokens of teacher ({len(texts[0])}) and student ({len(texts[1])}) differ, first at id "
            f"{i} ({name!r}): distillation needs two multilingual Whispers"
        )
    mapping = torch.full((max(theirs.values()) + 1,), -1)
    mapping[list(theirs.values())] = torch.tensor([ours.get(name, -1) for name in theirs])
    return mapping
