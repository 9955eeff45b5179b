"""A multilingual model that is no Whisper: MMS, a wav2vec 2.0 with CTC, as transformers has it.

It hears sound instead of log-mels and writes letters without a decoder. So it has a transcription
of its own here, and shares clips, tables of predictions and scores with every other system.

Licence: CC-BY-NC 4.0, not for commercial use. FLEURS and Common Voice are among the data that
MMS-1B-all has learned from.

Source: Pratap et al., "Scaling Speech Technology to 1,000+ Languages", arXiv 2305.13516; licence,
languages and training data: README of fairseq's examples/mms.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from tqdm import tqdm
from transformers import (
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from ..checks import check_number
from ..data.audio import SAMPLE_RATE, read_audio
from ..data.batches import Clips, length_batches
from ..device import autocast, device_of, release_memory, weights_cast_once
from ..whisper.checkpoint import check_finite, read_settings, refused_as_damaged
from ..whisper.hub import fetch_files, local_folder
from ..whisper.mirror import without_bars
from ..whisper.tokens import language_code
from .predictions import current_predictions, in_order, write_predictions
from .transcription import DecodingLimits

MMS = "facebook/mms-1b-all"

# Commits on the hub; another model is taken as it is on its main branch. This one is what public
# projects pin MMS to; we could not ask the hub.
REVISIONS = {MMS: "3d33597edbdaaba14a8e858e2c8caa76e3cec0cd"}

# Whisper's code of a language -> MMS's, which is that of ISO 639-3. The paper's languages.
CODES = {
    "ca": "cat",
    "cs": "ces",
    "gl": "glg",
    "hu": "hun",
    "pl": "pol",
    "ta": "tam",
    "th": "tha",
    "uk": "ukr",
}

# Files of a checkpoint, beside the adapter of a language: nothing that is unpickled.
FILES = (
    "config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "model.safetensors",
)
MAY_BE_MISSING = ("special_tokens_map.json",)

MASK = "wav2vec2.masked_spec_embed"  # it is for training alone


@dataclass(frozen=True)
class CtcShape:
    """Sizes of a wav2vec 2.0 with adapters, and arithmetic on them.

    Attributes:
        width: Width of the model.
        layers: Layers of the encoder.
        ffn: Inner width of a feed-forward block.
        kernels: (width, stride) of each convolution of the feature extractor.
        channels: Of the feature extractor.
    """

    width: int
    layers: int
    ffn: int
    kernels: tuple[tuple[int, int], ...] = ((10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2)
    channels: int = 512

    @property
    def parameters(self) -> int:
        """Parameters without biases, norms and adapters, which are less than a hundredth."""
        layer = 4 * self.width**2 + 2 * self.width * self.ffn
        first, *others = (width for width, _ in self.kernels)
        convolutions = first * self.channels + sum(others) * self.channels**2
        positions = 128 * self.width**2 // 16  # a convolution of width 128 in 16 groups
        return self.layers * layer + convolutions + positions

    def forward_flops(self, seconds: float) -> float:
        """Floating-point operations of a forward pass over a sound of so many seconds."""
        flops = 0.0
        rate = float(SAMPLE_RATE)
        inputs = 1
        for width, stride in self.kernels:
            rate /= stride
            flops += rate * seconds * width * inputs * self.channels
            inputs = self.channels
        positions = rate * seconds
        layer = 4 * self.width**2 + 2 * self.width * self.ffn + 2 * positions * self.width
        return 2 * (flops + self.layers * positions * layer)


SHAPES = {MMS: CtcShape(width=1280, layers=48, ffn=5120)}


@dataclass(frozen=True)
class CtcModel:
    """A CTC model with the adapter of a language.

    Attributes:
        model: The model, with the language's adapter and letters.
        processor: Its feature extractor, and its tokenizer set to the language.
    """

    model: Wav2Vec2ForCTC
    processor: Wav2Vec2Processor


# ---- loading


def find_ctc(name: str | Path, language: str) -> Path:
    """Return the folder of a model and of a language's adapter, fetching them where needed.

    Args:
        name: A hub id, or a folder with the same files.
        language: Code or English name.

    Raises:
        ValueError: For a language that is not among CODES.
        FileNotFoundError: For a repository, a folder or a file that is not there.
        OSError: Where the hub cannot be reached. Each message says what to do.
    """
    files = [*FILES, _adapter_file(language)]
    folder = local_folder(name, None)
    revision = REVISIONS.get(str(name))
    where = "the folder lacks"
    if folder is None:
        folder = fetch_files(str(name), revision, files)
        where = "the hub has no"

    missing = [
        file for file in files if file not in MAY_BE_MISSING and not (folder / file).is_file()
    ]
    if missing:
        raise FileNotFoundError(
            f"{str(name)!r}: {where} {', '.join(missing)}: a multilingual CTC checkpoint of "
            "transformers is needed, in safetensors, with an adapter for each language"
        )
    return folder


def _adapter_file(language: str) -> str:
    """Return the name of a language's adapter: "adapter.ces.safetensors" for "cs"."""
    return f"adapter.{mms_code(language)}.safetensors"


def mms_code(language: str) -> str:
    """Return MMS's code of a language, by Whisper's code or English name.

    Raises:
        ValueError: For a language that is not among the paper's.
    """
    code = language_code(language)
    if code not in CODES:
        raise ValueError(
            f"MMS is not prepared for {language!r} here, only for {', '.join(CODES)}: add the "
            "language's code of ISO 639-3 to CODES in evaluation/ctc.py"
        )
    return CODES[code]


def load_ctc(name: str | Path, language: str, dtype: torch.dtype = torch.float32) -> CtcModel:
    """Return a multilingual CTC model for a language, in evaluation mode, on the CPU.

    Args:
        name: As for `find_ctc`.
        language: Code or English name.
        dtype: Of the weights.

    Raises:
        ValueError: For a damaged checkpoint, one of another architecture, or a language that it
            does not have.
        OSError: This and other errors as `find_ctc`.
    """
    folder = find_ctc(name, language)
    code = mms_code(language)
    kind = read_settings(folder / "config.json").get("model_type")
    if kind != "wav2vec2":
        raise ValueError(f"{folder} holds a model of the kind {kind!r}: wav2vec2 is needed")
    letters = read_settings(folder / "vocab.json")
    if not isinstance(letters.get(code), dict):
        raise ValueError(f"{folder / 'vocab.json'} has no letters for {code!r}")

    with refused_as_damaged(folder), without_bars():
        loaded: Any = Wav2Vec2ForCTC.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        model, report = loaded  # transformers' types do not know `output_loading_info`
        # By itself transformers would unpickle an adapter where the one in safetensors is damaged.
        model.load_adapter(code, use_safetensors=True, local_files_only=True)
        extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
        tokenizer = Wav2Vec2CTCTokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer.set_target_lang(code)
        with safe_open(folder / _adapter_file(language), "pt") as adapter:
            of_adapter = set(adapter.keys())
    _check_report(folder, report, of_adapter)
    check_finite(model.named_parameters(), str(folder))
    if extractor.sampling_rate != SAMPLE_RATE:
        raise ValueError(f"{folder} hears {extractor.sampling_rate} Hz, not {SAMPLE_RATE}")
    return CtcModel(model.eval(), Wav2Vec2Processor(extractor, tokenizer))


def _check_report(folder: Path, report: dict[str, Any], of_adapter: set[str]) -> None:
    """Raise ValueError where a weight is neither in the checkpoint nor in the adapter."""
    lacking = sorted(set(report["missing_keys"]) - of_adapter - {MASK})
    lacking += [str(name) for name, *_ in sorted(report["mismatched_keys"])]
    if lacking:
        raise ValueError(
            f"{folder} lacks weights of its config.json, or has them in another shape: "
            f"{', '.join(lacking[:3])}; get the checkpoint again"
        )


# ---- transcription


def transcribe_ctc(
    ctc: CtcModel, clips: Clips, decoding: DecodingLimits, path: Path, label: str = "transcribe"
) -> pd.DataFrame:
    """Transcribe clips and keep the predictions in a table on disk, as `transcribe` does.

    Args:
        ctc: On its device.
        clips: The clips of a test set.
        decoding: A preset, or anything else with `eval_batch_size`.
        path: The table (CSV).
        label: The text beside the progress bar.

    Returns:
        Columns id and prediction, in the order of `clips`.

    Raises:
        ValueError: For a size of a batch that is none, a sound that cannot be read, or scores that
            are not finite.
        OSError: As `disk_errors` does.
    """
    check_number("eval_batch_size", decoding.eval_batch_size, low=1, whole=True)
    predictions = current_predictions(path, clips, is_told=True)
    batches = length_batches(clips.durations, decoding.eval_batch_size)
    complete = len(predictions) == len(clips)
    for indices in tqdm(batches, desc=label, unit="batch", disable=complete):
        ids = [clips.ids[index] for index in indices]
        if all(clip in predictions for clip in ids):
            continue
        sounds = [_sound(clips, index) for index in indices]
        predictions.update(zip(ids, recognise(ctc, sounds), strict=True))
        write_predictions(path, clips, predictions)
        release_memory()
    return in_order(clips, predictions)


def _sound(clips: Clips, index: int) -> np.ndarray:
    """Return the samples of a clip, changed where the test says so; an error names the clip."""
    change: Callable[..., np.ndarray] | None = clips.change
    try:
        audio = read_audio(clips.rows[index]["audio"])
        return audio if change is None else change(audio, seed=index)
    except (ValueError, OSError) as error:
        raise ValueError(f"{clips.ids[index]}: {error}") from error


def recognise(ctc: CtcModel, sounds: list[np.ndarray]) -> list[str]:
    """Return the text of each sound: the likeliest letter of each position, repeats merged.

    Args:
        ctc: On its device.
        sounds: Samples (n,) each, at SAMPLE_RATE.

    Raises:
        ValueError: Where the model's scores are not finite.
    """
    model = ctc.model
    device = device_of(model)
    inputs: Any = ctc.processor(
        audio=sounds, sampling_rate=SAMPLE_RATE, padding=True, return_tensors="pt"
    )
    with torch.no_grad(), autocast(device, model.dtype), weights_cast_once(model):
        logits = model(
            inputs["input_values"].to(device, model.dtype),
            attention_mask=inputs["attention_mask"].to(device),
        ).logits
    if not bool(logits.isfinite().all()):
        kind = str(model.dtype).removeprefix("torch.")
        raise ValueError(
            "the model's scores of the letters are not finite (NaN or infinite), so nothing is "
            f"transcribed: its weights are damaged, or its numbers overflow in {kind} (set "
            "LAB_PRECISION=no)"
        )
    letters = logits.argmax(-1)
    texts = []
    for row, sound in zip(letters, sounds, strict=True):
        with_sound = row[: _positions(model.config, len(sound))]  # no letters of the padding
        texts.append(" ".join(ctc.processor.decode(with_sound).split()))
    return texts


def _positions(config: Any, samples: int) -> int:
    """Return how many positions the convolutions make of a number of samples."""
    for width, stride in zip(config.conv_kernel, config.conv_stride, strict=True):
        samples = (samples - width) // stride + 1
    return samples
