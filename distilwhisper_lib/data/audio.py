"""Audio: reading and resampling sound, changing it for harder tests, Whisper's log-mel features."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

SAMPLE_RATE = 16_000  # Whisper's, in Hz

# Whisper clamps the log-mel of a clip at 8 (in log10) below its maximum, then computes (x + 4) / 4.
SPAN = 2.0  # maximum of a clip's features minus their floor: 8 / 4
FLOOR = -1.5  # the floor of digital silence: (log10(1e-10) + 4) / 4

DIRECT_SOUND = 0.0025  # s, before the first reflection of `add_reverberation`


class EmptyAudioError(ValueError):
    """The sound holds no samples."""


def read_audio(source: str | Path | bytes | Mapping[str, Any]) -> np.ndarray:
    """Return a sound as mono float32 at 16 kHz.

    libsndfile decodes it: neither torchcodec nor FFmpeg is needed.

    Args:
        source: A path, the bytes of a file (wav, flac, ogg, mp3), {"bytes", "path"} as in a corpus,
            or {"array", "sampling_rate"} with samples (n,) or (n, channels).

    Returns:
        Samples (n,).

    Raises:
        FileNotFoundError: Where there is no such file.
        EmptyAudioError: For a sound without samples.
        ValueError: Where the sound cannot be decoded; the message names the file.
    """
    if isinstance(source, Mapping) and source.get("array") is not None:
        name = "the array"
        samples = np.asarray(source["array"], np.float32)
        rate = source["sampling_rate"]
    else:
        name, content = _file_content(source)
        samples, rate = _decode(name, content)

    if samples.ndim == 2:
        samples = samples.mean(axis=1)  # (n, channels) -> (n,)
    if not samples.size:
        raise EmptyAudioError(f"{name}: the sound is empty (0 samples)")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _file_content(source: str | Path | bytes | Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the name and the bytes of a sound file."""
    if isinstance(source, Mapping):
        content = source.get("bytes")
        path = source.get("path")
    elif isinstance(source, bytes | bytearray):
        content = source
        path = None
    else:
        content = None
        path = source

    name = str(path or "sound without a name")
    if content is None:
        if path is None:
            raise ValueError(
                "no sound: expected a path, bytes, {'bytes', 'path'} or {'array', 'sampling_rate'}"
            )
        if not Path(path).is_file():
            raise FileNotFoundError(f"no sound file {name}")
        content = Path(path).read_bytes()
    if not content:
        raise EmptyAudioError(f"{name}: cannot decode the sound: the file is empty (0 bytes)")
    return name, content


def _decode(name: str, content: bytes) -> tuple[np.ndarray, int]:
    """Return the samples (n, channels) of a sound file and their rate in Hz."""
    try:
        return soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(f"{name}: cannot decode the sound: {error}") from error


def encode_flac(audio: np.ndarray) -> bytes:
    """Return mono audio (n,) at 16 kHz as a 16-bit FLAC file; values beyond +-1 are clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


# ---- changed sound


def add_noise(audio: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """Return a clip with speech-shaped noise added.

    The noise has the magnitude spectrum of the clip and random phases: it masks the speech evenly,
    and no corpus of noises is needed. Silence stays silence.

    Args:
        audio: The clip (n,).
        snr_db: Mean power of the clip over that of the noise, in dB. Pauses count.
        seed: Of the phases. The same seed gives the same noise.

    Returns:
        float32 (n,).
    """
    spectrum = np.fft.rfft(audio)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(spectrum))
    noise = np.fft.irfft(np.abs(spectrum) * np.exp(1j * phases), n=len(audio))

    power = np.mean(np.square(audio, dtype=np.float64))
    noise_power = np.mean(noise**2)
    if noise_power == 0:
        return audio.astype(np.float32)
    gain = np.sqrt(power / noise_power / 10 ** (snr_db / 10))
    return (audio + noise * gain).astype(np.float32)


def add_reverberation(audio: np.ndarray, rt60: float, seed: int) -> np.ndarray:
    """Return a clip as in a reverberant room.

    The impulse response is synthetic: the direct sound, then, from 2.5 ms on, noise that decays
    exponentially and has as much energy as the direct sound. The mean power of the clip is kept.

    Args:
        audio: The clip (n,).
        rt60: Seconds in which sound falls by 60 dB.
        seed: Of the noise. The same seed gives the same room.

    Returns:
        float32 (n,): what would sound on after the end of the clip is cut off.

    Raises:
        ValueError: Unless rt60 > 0.
    """
    if rt60 <= 0:
        raise ValueError(f"rt60 must be above 0 s, not {rt60}")

    # The impulse response: 1 for the direct sound, then the decaying noise.
    time = np.arange(1, max(2, round(rt60 * SAMPLE_RATE))) / SAMPLE_RATE
    decay = np.exp(-np.log(1000) * time / rt60)  # 60 dB are a factor of 1000 in amplitude
    tail = np.random.default_rng(seed).standard_normal(len(time)) * decay
    tail[time < DIRECT_SOUND] = 0
    tail_norm = max(np.sqrt(np.sum(tail**2)), 1e-12)
    response = np.concatenate([[1.0], tail / tail_norm])

    # Convolution in the frequency domain.
    size = len(audio) + len(response) - 1
    product = np.fft.rfft(audio, size) * np.fft.rfft(response, size)
    wet = np.fft.irfft(product, size)[: len(audio)]

    gain = np.sqrt(np.mean(audio**2) / max(np.mean(wet**2), 1e-20))
    return (wet * gain).astype(np.float32)


# ---- features


def log_mel(audio: np.ndarray, extractor) -> np.ndarray:
    """Return the log-mel features of a clip without the padding to 30 s.

    These are the frames of Whisper's 30 s window that overlap any sample of the clip. All later
    frames hold the floor value of the clip. `pad_features` fills them in, so nothing is lost.

    Args:
        audio: The clip (n,) at 16 kHz.
        extractor: A WhisperFeatureExtractor.

    Returns:
        float32 (mel bands, frames), about 100 frames per second.

    Raises:
        EmptyAudioError: For a clip without samples.
        ValueError: For a clip longer than the window of the extractor.
    """
    window = extractor.n_samples
    hop = extractor.hop_length
    n_fft = extractor.n_fft
    if len(audio) > window:
        raise ValueError(
            f"the clip lasts {len(audio) / SAMPLE_RATE:.1f} s, Whisper's window is "
            f"{window / SAMPLE_RATE:.0f} s: cut it"
        )
    if not len(audio):
        raise EmptyAudioError("the clip is empty (0 samples)")

    # Zeros after the clip, enough for the last frames that overlap it; a whole number of hops.
    padded_length = min(window, math.ceil((len(audio) + n_fft) / hop) * hop)
    outputs = extractor(
        audio, sampling_rate=SAMPLE_RATE, max_length=padded_length, return_tensors="np"
    )
    features = outputs.input_features[0]

    frames = math.ceil((len(audio) + n_fft // 2) / hop)
    return features[:, :frames]


def pad_features(features: Sequence[np.ndarray | torch.Tensor], frames: int) -> torch.Tensor:
    """Return the log-mel features of several clips as one batch.

    Each clip is padded with its own floor value. With 3000 frames the result is that of the
    extractor for the clip padded to 30 s (to 1e-5).

    Args:
        features: B arrays or tensors (mel bands, t), as `log_mel` gives them.
        frames: Length of the window, at least every t.

    Returns:
        float32 (B, mel bands, frames).

    Raises:
        ValueError: If a clip is longer than the window.
    """
    clips = [torch.as_tensor(clip, dtype=torch.float32) for clip in features]
    longest = max(clip.shape[-1] for clip in clips)
    if longest > frames:
        raise ValueError(f"a clip has {longest} frames, more than the window's {frames}")

    padded = []
    for clip in clips:
        floor = (clip.max() - SPAN).clamp(min=FLOOR)
        missing = frames - clip.shape[-1]
        padded.append(torch.nn.functional.pad(clip, (0, missing), value=floor.item()))
    return torch.stack(padded)
