"""Checkpoint folders of a Whisper: complete, undamaged, and loaded whole or not at all.

transformers gives random values to the weights that a checkpoint lacks, leaves out those that it
does not know, and takes default settings where generation_config.json cannot be read. Here each of
these is an error that names the folder and what is wrong with it.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import WhisperForConditionalGeneration, WhisperProcessor
from transformers.utils import logging as transformers_logging

from .shapes import FRAMES_PER_SECOND

INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"

# Settings of config.json that the shapes of the weights do not tell. transformers has defaults for
# them, with which a model would compute something else.
NEEDED_SETTINGS = ("encoder_attention_heads", "decoder_attention_heads")

# Probabilities in config.json, which show in training alone.
PROBABILITIES = (
    "dropout",
    "attention_dropout",
    "activation_dropout",
    "encoder_layerdrop",
    "decoder_layerdrop",
)

# Experts in the weights of a Trainer's checkpoint, beside which save_pretrained has written them.
EXPERT_KEY = re.compile(r"\.layers\.\d+\.fc1\.(experts|gates)\.")

# The output projection is tied to the embeddings, so that a checkpoint need not hold it.
TIED = {"proj_out.weight"}

LISTED = 3  # names of weights in a message

REMEDY = "get the checkpoint again, or save it again with save_pretrained"


# ---- files


def check_checkpoint(folder: Path) -> Path:
    """Return the folder if it holds the files of a checkpoint in safetensors.

    Raises:
        FileNotFoundError: Where files are missing; the message lists them.
        ValueError: For a damaged index of weights, or one that names files elsewhere.
    """
    needed = ["config.json", *_weight_files(folder)]
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} is not a Whisper checkpoint: it lacks {', '.join(missing)}; save one there "
            "with save_pretrained of the model and of its processor"
        )
    return folder


def _weight_files(folder: Path) -> list[str]:
    """Return the names of the files with weights; raises ValueError for a damaged index."""
    if (folder / INDEX).is_file() and not (folder / WEIGHTS).is_file():
        return _shards(folder / INDEX)
    return [WEIGHTS]


def _shards(index: Path) -> list[str]:
    """Return the names of the files that an index of weights lists."""
    weight_map = read_settings(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index} is damaged (no weight_map in it): {REMEDY}")

    names = set(weight_map.values()) if _all_text(weight_map.values()) else {None}
    for name in names:
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise ValueError(
                f"{index} is damaged (it names {name!r}, which is no safetensors file): {REMEDY}"
            )
        if "/" in name or "\\" in name:
            raise ValueError(
                f"{index} names a file outside its folder, {name!r}: do not use this checkpoint "
                "unless you know where it comes from"
            )
    return sorted(str(name) for name in names)


def _all_text(values: Iterable) -> bool:
    """Return whether all values are strings."""
    return all(isinstance(value, str) for value in values)


def read_settings(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of a checkpoint.

    Raises:
        ValueError: Where it is damaged, or holds something else than a JSON object.
    """
    try:
        settings = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {REMEDY}") from error
    if not isinstance(settings, dict):
        kind = type(settings).__name__
        raise ValueError(f"{path} is damaged (a JSON object is needed, not {kind}): {REMEDY}")
    return settings


def check_settings(folder: Path) -> dict[str, Any]:
    """Return a checkpoint's config.json, after checking that it is that of a Whisper.

    Raises:
        ValueError: For a model of another architecture, a damaged file, or settings that are
            missing.
    """
    path = folder / "config.json"
    config = read_settings(path)
    kind = config.get("model_type")
    if kind != "whisper":
        hint = "; released experts are loaded by load_released" if kind == "distilwhisper" else ""
        raise ValueError(
            f"{folder} holds a model of type {kind!r}, and a Whisper is needed (config.json says "
            f"model_type){hint}"
        )

    missing = [name for name in NEEDED_SETTINGS if name not in config]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: {REMEDY}")
    _check_numbers(path, config)
    if "transformers_weights" in config:
        raise ValueError(
            f"{path} names its weights itself (transformers_weights): rename them {WEIGHTS} and "
            "remove that line"
        )
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} holds an adapter of PEFT (adapter_config.json): load the Whisper that it "
            "belongs to, then the adapter with PeftModel.from_pretrained"
        )
    path = folder / "generation_config.json"
    if path.is_file():
        check_generation_settings(path, read_settings(path), config.get("vocab_size"))
    return config


def _check_numbers(path: Path, config: dict[str, Any]) -> None:
    """Raise ValueError for numbers in config.json that no Whisper can have."""
    width = config.get("d_model")
    for name in NEEDED_SETTINGS:
        heads = config[name]
        divides = _is_whole(heads) and heads > 0 and (not _is_whole(width) or width % heads == 0)
        if not divides:
            raise ValueError(
                f"{path}: {name} is {heads!r}, a whole number that divides the width {width!r} is "
                f"needed: {REMEDY}"
            )
    for name in PROBABILITIES:
        value = config.get(name, 0.0)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= 1:
            raise ValueError(
                f"{path}: {name} is {value!r}, a number from 0 to 1 is needed: {REMEDY}"
            )


def _is_whole(value: Any) -> bool:
    """Return whether a value is a whole number from 0 on."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# What the settings of `generate` that Whisper's own code reads must be, where they are there.
GENERATION = {
    "decoder_start_token_id": "a token id",
    "no_timestamps_token_id": "a token id",
    "prev_sot_token_id": "a token id",
    "eos_token_id": "a token id or a list of them",
    "suppress_tokens": "a list of token ids",
    "begin_suppress_tokens": "a list of token ids",
    "lang_to_id": "token ids by name",
    "task_to_id": "token ids by name",
    "max_initial_timestamp_index": "a whole number",
    "max_length": "a whole number",
    "alignment_heads": "a list of pairs",
    "is_multilingual": "true or false",
    "return_timestamps": "true or false",
}
NEEDED_FOR_GENERATION = ("decoder_start_token_id", "eos_token_id")
MAY_BE_NULL = ("suppress_tokens", "begin_suppress_tokens", "max_length", "alignment_heads")


def check_generation_settings(path: Path, settings: dict[str, Any], vocabulary: Any) -> None:
    """Check the content of a generation_config.json.

    Settings that are missing are found where a language is to be transcribed.

    Args:
        path: The file, for the message.
        settings: Its content.
        vocabulary: Number of the model's tokens.

    Raises:
        ValueError: Where a setting is of a wrong type, or one that every Whisper has is missing.
    """
    remedy = "take that of the Whisper that this one comes from"
    missing = [name for name in NEEDED_FOR_GENERATION if name not in settings]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: {remedy}")
    for name, kind in GENERATION.items():
        if name not in settings or (settings[name] is None and name in MAY_BE_NULL):
            continue
        if not _is_of_kind(settings[name], kind, vocabulary):
            raise ValueError(
                f"{path}: {name} is {str(settings[name])[:60]!r}, and {kind} is needed: {remedy}"
            )


def _is_of_kind(value: Any, kind: str, vocabulary: Any) -> bool:
    """Return whether a setting of `generate` is of one of the kinds in GENERATION."""

    def is_token(one: Any) -> bool:
        return _is_whole(one) and (not _is_whole(vocabulary) or one < vocabulary)

    def are_tokens(ids: Any) -> bool:  # OpenAI's own settings have -1 among them
        return isinstance(ids, list) and all(is_token(one) or one == -1 for one in ids)

    if kind == "a token id":
        return is_token(value)
    if kind == "a token id or a list of them":
        return is_token(value) or (are_tokens(value) and bool(value))
    if kind == "a list of token ids":
        return are_tokens(value)
    if kind == "token ids by name":
        return isinstance(value, dict) and all(is_token(one) for one in value.values())
    if kind == "a list of pairs":
        pairs = value if isinstance(value, list) else [value]
        return all(isinstance(one, list) and len(one) == 2 for one in pairs)
    if kind == "true or false":
        return isinstance(value, bool)
    return _is_whole(value)


# ---- weights


def load_checkpoint(
    folder: Path, dtype: torch.dtype, **options: Any
) -> WhisperForConditionalGeneration:
    """Return the Whisper in a checkpoint folder, with every weight from the checkpoint.

    Args:
        folder: As `check_checkpoint` accepts it.
        dtype: Of the weights, whatever the checkpoint has.
        **options: Passed to transformers' `from_pretrained`.

    Raises:
        ValueError: Where weights are missing, unknown, of another shape or not finite, or a file is
            damaged; the message names the folder and the weights.
    """
    check_settings(folder)
    for name in ("ignore_mismatched_sizes", "output_loading_info"):
        if name in options:
            raise ValueError(
                f"{name} is no option here: a checkpoint is loaded whole or not at all"
            )

    with refused_as_damaged(folder), _without_report():
        check_kinds(folder)
        loaded: Any = WhisperForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # they are in the report, with all others
            output_loading_info=True,
            **options,
        )
        model, report = loaded  # transformers' types do not know `output_loading_info`
    check_report(folder, report, is_tied=model.config.tie_word_embeddings)
    check_finite(model.state_dict().items(), str(folder))
    return model


def check_kinds(folder: Path) -> None:
    """Check that the weights of a checkpoint are floating-point numbers, unless it is quantised.

    transformers would take whole numbers for weights as they are.

    Raises:
        ValueError: Where they are not; the message names the weights.
        SafetensorError: For a damaged file.
    """
    if "quantization_config" in read_settings(folder / "config.json"):
        return
    wrong = []
    for weights in _weight_files(folder):
        with safe_open(folder / weights, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no dictionary)
                kind = file.get_slice(name).get_dtype()
                if not kind.startswith(("F", "BF")):
                    wrong.append(f"{name} ({kind})")
    if wrong:
        raise ValueError(f"weights that are no floating-point numbers: {_listed(sorted(wrong))}")


@contextmanager
def refused_as_damaged(folder: Path) -> Iterator[None]:
    """Raise a ValueError that names the folder, whatever a damaged file leads to in the block.

    Errors of memory and of the file system pass through, and so do import errors of libraries that
    an option needs.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0][:200] if lines else type(error).__name__
        raise ValueError(f"{folder} can't be loaded ({reason}): {REMEDY}") from error


@contextmanager
def _without_report() -> Iterator[None]:
    """Hide transformers' own table of missing and unknown weights: `check_report` says it."""
    logger: Any = transformers_logging.get_logger("transformers.modeling_utils")

    def is_wanted(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)


def check_report(folder: Path, report: dict[str, Any], is_tied: bool = True) -> None:
    """Check that transformers has found all weights of a model, and no others.

    Args:
        folder: The checkpoint, for the message. Where experts are stored beside its weights, the
            weights may hold them too: a Trainer's checkpoint does.
        report: As `from_pretrained(..., output_loading_info=True)` returns it.
        is_tied: Whether the output projection has the weights of the embeddings.

    Raises:
        ValueError: Where it has not; the message names the weights.
    """
    unknown = set(report["unexpected_keys"]) - TIED
    if (folder / "experts.json").is_file():
        unknown = {name for name in unknown if not EXPERT_KEY.search(name)}
    shapes = [
        f"{name} of shape {list(found)} instead of {list(needed)}"
        for name, found, needed in sorted(report["mismatched_keys"])
    ]
    problems = {
        "lacks": sorted(set(report["missing_keys"]) - (TIED if is_tied else set())),
        "has": shapes,
        "holds unknown": sorted(unknown),
    }
    found = [f"{verb} {_listed(names)}" for verb, names in problems.items() if names]
    if report["error_msgs"]:
        found.append("; ".join(report["error_msgs"]))
    if found:
        raise ValueError(
            f"the checkpoint in {folder} does not fit its config.json, as a whole Whisper would: "
            f"it {', '.join(found)}; {REMEDY}"
        )


def _listed(names: list[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether a tensor holds neither NaN nor an infinity.

    Tensors of whole numbers, packed forms and tensors without data count as finite.
    """
    if not tensor.is_floating_point() or tensor.itemsize < 2 or tensor.is_meta:
        return True
    if not tensor.numel():
        return True
    least, largest = torch.aminmax(tensor.detach())  # a NaN makes both NaN
    return bool(least.isfinite() & largest.isfinite())


def check_finite(tensors: Iterable[tuple[str, torch.Tensor]], source: str) -> None:
    """Check that weights are numbers.

    Args:
        tensors: Names and weights.
        source: Where they come from, for the message.

    Raises:
        ValueError: Where some are NaN or infinite; the message names them.
    """
    bad = [(name, tensor.dtype) for name, tensor in tensors if not is_finite(tensor)]
    if not bad:
        return
    names = [name for name, _ in bad]
    half = bad[0][1] == torch.float16
    hint = ", or they are too large for float16: use float32 or bfloat16" if half else ""
    raise ValueError(
        f"{source} has weights that are not finite (NaN or infinite): {_listed(names)}; the "
        f"training that made them has diverged, or a file is damaged{hint}"
    )


# ---- tokenizer and feature extractor

# What a mel frame is: every Whisper has these, and lengths in frames of 10 ms depend on them.
EXTRACTOR = {
    "sampling_rate": 16000,
    "hop_length": 160,
    "n_fft": 400,
    "padding_side": "right",
    "padding_value": 0.0,
}


def load_checkpoint_processor(folder: Path) -> WhisperProcessor:
    """Return the tokenizer and feature extractor in a checkpoint folder.

    Raises:
        FileNotFoundError: Where there is no tokenizer, or no feature extractor.
        ValueError: For a damaged file, or one that belongs to another model.
    """
    if not (folder / "tokenizer_config.json").is_file():
        raise FileNotFoundError(
            f"{folder} holds no tokenizer: save one there with save_pretrained of the "
            "processor, or load the processor by the name of the base model"
        )
    for name in ("tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            read_settings(folder / name)

    with refused_as_damaged(folder):
        processor = WhisperProcessor.from_pretrained(folder, local_files_only=True)
        letters = processor.tokenizer("a", add_special_tokens=False).input_ids
    config = folder / "config.json"
    of_model = read_settings(config) if config.is_file() else {}
    _check_tokenizer(folder, processor.tokenizer, bool(letters), of_model)
    _check_extractor(folder, processor.feature_extractor, of_model)
    return processor


def _check_tokenizer(folder: Path, tokenizer: Any, has_letters: bool, of_model: dict) -> None:
    """Raise ValueError for a tokenizer that is not that of a Whisper, or of another one.

    Args:
        folder: The checkpoint, for the message.
        tokenizer: That of the checkpoint.
        has_letters: Whether it finds tokens in a text.
        of_model: Content of the checkpoint's config.json.
    """
    remedy = "save it again with save_pretrained of the processor"
    needed = ("<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|notimestamps|>")
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in needed if token not in vocabulary]
    if missing or not has_letters:
        lacks = " ".join(missing) or "letters"
        raise ValueError(
            f"the tokenizer in {folder} is damaged or not one of Whisper, it lacks {lacks}: "
            f"{remedy}"
        )

    end = tokenizer.eos_token_id
    end_of_model = of_model.get("eos_token_id", end)
    if tokenizer.eos_token != "<|endoftext|>" or end != end_of_model:
        raise ValueError(
            f"the tokenizer in {folder} ends texts with {tokenizer.eos_token!r}, token {end}, and "
            f"the model with token {end_of_model}: it is damaged or that of another model; {remedy}"
        )
    if not isinstance(getattr(tokenizer, "predict_timestamps", False), bool):
        path = folder / "tokenizer_config.json"
        raise ValueError(f"{path}: predict_timestamps must be true or false; {remedy}")


def _check_extractor(folder: Path, extractor: Any, of_model: dict) -> None:
    """Raise ValueError for a feature extractor that makes other mel frames than Whisper's.

    Args:
        folder: The checkpoint, for the message.
        extractor: That of the checkpoint.
        of_model: Content of the checkpoint's config.json.
    """
    needed = dict(EXTRACTOR)
    if "num_mel_bins" in of_model:
        needed["feature_size"] = of_model["num_mel_bins"]
    if "max_source_positions" in of_model:
        needed["chunk_length"] = 2 * of_model["max_source_positions"] // FRAMES_PER_SECOND
    for name, value in needed.items():
        found = getattr(extractor, name, None)
        if found != value or isinstance(found, bool):
            raise ValueError(
                f"the feature extractor in {folder} has {name} {found!r}, and this Whisper takes "
                f"{value!r}: save it again with save_pretrained of the processor"
            )
    dither = getattr(extractor, "dither", 0.0)
    is_number = isinstance(dither, int | float) and not isinstance(dither, bool)
    if not is_number or not 0 <= dither < 1:
        raise ValueError(
            f"the feature extractor in {folder} has dither {dither!r}: a number from 0 on, below "
            "1, is needed"
        )
