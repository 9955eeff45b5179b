"""Export of a plain Whisper: an ordinary checkpoint, and a CTranslate2 model for faster-whisper."""

import tempfile
from pathlib import Path

from ..files import atomic_folder
from ..method.blocks import clsr_blocks
from ..whisper.checkpoint import check_finite
from ..whisper.mirror import without_bars
from ..whisper.unwrap import has_adapter


def export_checkpoint(model, processor, folder: str | Path) -> Path:
    """Write model, tokenizer and feature extractor in transformers' own format, atomically.

    Args:
        model: A plain Whisper, without experts or adapters.
        processor: Its processor.
        folder: The folder to write, which must not exist.

    Returns:
        The folder.

    Raises:
        ValueError: For a model with experts or with an adapter, or with a weight that is infinite
            or not a number.
        FileExistsError: Where the folder exists.
        OSError: As `disk_errors` does.
    """
    folder = Path(folder)
    if has_adapter(model):
        raise ValueError(
            "this model has an adapter beside it, which is not in its weights: give "
            "model.merge_and_unload(), or unload an adapter that was added by add_adapter"
        )
    if clsr_blocks(model):
        raise ValueError(
            "this model has experts, which other programs would leave out: "
            "bake(model, language, ...) first, or detach_experts(model) for the plain Whisper"
        )

    check_finite(model.state_dict().items(), "this model")
    with atomic_folder(folder, new=True) as temporary, without_bars():
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        # preprocessor_config.json: other programs look for this file
        processor.feature_extractor.save_pretrained(temporary)
    return folder


def export_ctranslate2(model, processor, folder: str | Path, quantization: str = "int8") -> Path:
    """Convert a plain Whisper to a folder for faster-whisper, by CTranslate2's own converter.

    Args:
        model: A plain Whisper, without experts or adapters.
        processor: Its processor.
        folder: The folder to write, which must not exist.
        quantization: As CTranslate2 names it, such as "int8", "float16" or "float32".

    Returns:
        The folder.

    Raises:
        ImportError: Where the package ctranslate2 is not installed.
        ValueError: As `export_checkpoint` does, and for an unknown quantization.
        FileExistsError: Where the folder exists.
        OSError: As `disk_errors` does.
    """
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise ImportError(
            "export_ctranslate2 needs the package ctranslate2, and faster-whisper to run what "
            'comes out: pip install ".[test]" in the project\'s folder has both'
        ) from error

    if quantization.split("_")[-1] == "float16":
        halves = ((name, tensor.half()) for name, tensor in model.state_dict().items())
        check_finite(halves, "in float16 this model")
    folder = Path(folder)
    with (
        atomic_folder(folder, new=True) as temporary,
        tempfile.TemporaryDirectory(dir=folder.parent) as work,
        without_bars(),
    ):
        checkpoint = export_checkpoint(model, processor, Path(work) / "checkpoint")
        converter = TransformersConverter(
            str(checkpoint), copy_files=["tokenizer.json", "preprocessor_config.json"]
        )
        converter.convert(str(temporary), quantization=quantization)
    return folder
