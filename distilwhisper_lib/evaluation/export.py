"""A plain Whisper as an ordinary checkpoint, and as a CTranslate2 model, which faster-whisper runs."""

import tempfile
from pathlib import Path

from ..files import atomic_folder
from ..method.attach import clsr_blocks
from ..whisper.mirror import without_bars


def export_checkpoint(model, processor, folder: str | Path) -> Path:
    """Write model, tokenizer and feature extractor as transformers does, all or nothing; returns the folder.

    Raises ValueError for a model with experts or an adapter beside it, FileExistsError where there is something
    already, OSError where the disk is full.
    """
    folder = Path(folder)
    if hasattr(model, "merge_and_unload"):
        raise ValueError(
            "this model has an adapter beside it, which is not in its weights: give "
            "model.merge_and_unload()"
        )
    if clsr_blocks(model):
        raise ValueError(
            "this model has experts, which others' programs would leave out: bake(model, language, ...) "
            "first, or detach_experts(model) for the plain Whisper"
        )
    with atomic_folder(folder, new=True) as part, without_bars():
        model.save_pretrained(part)
        processor.save_pretrained(part)
        processor.feature_extractor.save_pretrained(
            part
        )  # preprocessor_config.json, which others read
    return folder


def export_ctranslate2(model, processor, folder: str | Path, quantization: str = "int8") -> Path:
    """Convert a plain Whisper by CTranslate2's own converter into a folder for faster-whisper; returns the folder.

    quantization: as CTranslate2 names it, such as "int8", "float16" or "float32". Raises as `export_checkpoint` does,
    ImportError without the package ctranslate2, ValueError for a quantization that it does not know.
    """
    try:
        from ctranslate2.converters import TransformersConverter
    except ImportError as error:
        raise ImportError(
            "export_ctranslate2 needs the package ctranslate2, and faster-whisper to run what comes out: "
            'pip install ".[test]" in the project\'s folder has both'
        ) from error
    folder = Path(folder)
    with (
        atomic_folder(folder, new=True) as part,
        tempfile.TemporaryDirectory(dir=folder.parent) as work,
        without_bars(),
    ):
        source = export_checkpoint(model, processor, Path(work) / "checkpoint")
        converter = TransformersConverter(
            str(source), copy_files=["tokenizer.json", "preprocessor_config.json"]
        )
        converter.convert(str(part), quantization=quantization)
    return folder
