"""Audio: reading, resampling and writing clips, changed sound for harder tests, and Whisper's log-mel of a clip."""

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch

SAMPLE_RATE = 16_000  # Whisper's, in Hz

FLOOR = -1.5  # feature of silence without speech near it: (log10(1e-10) + 4) / 4

SPAN = 2.0  # the floor lies this far below a clip's maximum: 8 in log10, divided by 4


class EmptyAudioError(ValueError):
    """The sound holds no samples."""


def read_audio(source) -> np.ndarray:
    """Return a sound as mono float32 at 16 kHz.

    source: path, the bytes of a file (wav, flac, ogg, mp3), {"bytes", "path"} as in a corpus, or
    {"array", "sampling_rate"}. Returns (n,). Raises FileNotFoundError, EmptyAudioError, or ValueError that names
    the file if it cannot be decoded. Reads with libsndfile: needs neither torchcodec nor FFmpeg.
    """
    if isinstance(source, dict) and source.get("array") is not None:
        name, (samples, rate) = (
            "the array",
            (np.asarray(source["array"], np.float32), source["sampling_rate"]),
        )
    else:
        name, samples, rate = _decode(source)
    if samples.ndim == 2:
        samples = samples.mean(axis=1)  # (n, channels) -> (n,)
    if not samples.size:
        raise EmptyAudioError(f"{name}: the sound is empty (0 samples)")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def _decode(source) -> tuple[str, np.ndarray, int]:
    """Return the sound's name, samples (n, channels) and rate."""
    data, path = (
        (source.get("bytes"), source.get("path")) if isinstance(source, dict) else (None, source)
    )
    if isinstance(path, bytes | bytearray):
        data, path = path, None
    name = str(path or "sound without a name")
    if data is None and path is None:
        raise ValueError(
            "no sound: expected a path, bytes, {'bytes', 'path'} or {'array', 'sampling_rate'}"
        )
    if data is None and not Path(path).is_file():
        raise FileNotFoundError(f"no sound file {name}")
    data = Path(path).read_bytes() if data is None else data
    if not data:
        raise EmptyAudioError(f"{name}: cannot decode the sound: the file is empty (0 bytes)")
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise ValueError(f"{name}: cannot decode the sound: {error}") from error
    return name, samples, rate


def encode_flac(audio: np.ndarray) -> bytes:
    """Return mono audio (n,) at 16 kHz as a 16-bit FLAC file; values beyond +-1 are clipped."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1, 1), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def add_noise(audio: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
    """Return the clip (n,) with speech-shaped noise at `snr_db` dB below (negative: above) its mean power.

    The noise has the clip's own spectrum, with random phases: it masks the speech evenly, and no noise corpus is
    needed. Power is taken over the whole clip, pauses included. Silence stays silence. The same seed gives the
    same noise.
    """
    spectrum = np.fft.rfft(audio)
    phases = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(spectrum))
    noise = np.fft.irfft(np.abs(spectrum) * np.exp(1j * phases), n=len(audio))
    power, noise_power = np.mean(np.square(audio, dtype=np.float64)), np.mean(noise**2)
    if noise_power == 0:
        return audio.astype(np.float32)
    return (audio + noise * np.sqrt(power / noise_power / 10 ** (snr_db / 10))).astype(np.float32)


def add_reverberation(audio: np.ndarray, rt60: float, seed: int) -> np.ndarray:
    """Return the clip (n,) as in a room in which sound falls by 60 dB in `rt60` seconds.

    The impulse response is made up: the direct sound, then from 2.5 ms on noise that decays exponentially, with
    as much energy as the direct sound. Length and mean power of the clip are kept; the tail after its end is cut.
    Raises ValueError unless rt60 > 0.
    """
    if rt60 <= 0:
        raise ValueError(f"rt60 must be above 0 s, not {rt60}")
    time = np.arange(1, max(2, round(rt60 * SAMPLE_RATE))) / SAMPLE_RATE
    tail = np.random.default_rng(seed).standard_normal(len(time)) * np.exp(
        -np.log(1000) * time / rt60
    )
    tail[time < 0.0025] = 0
    response = np.concatenate([[1.0], tail / max(np.sqrt(np.sum(tail**2)), 1e-12)])
    size = len(audio) + len(response) - 1
    wet = np.fft.irfft(np.fft.rfft(audio, size) * np.fft.rfft(response, size), size)[: len(audio)]
    return (wet * np.sqrt(np.mean(audio**2) / max(np.mean(wet**2), 1e-20))).astype(np.float32)


def log_mel(audio: np.ndarray, extractor) -> np.ndarray:
    """Return Whisper's log-mel of the clip alone: the frames of the 30 s window that see any of its samples.

    audio: (n,) at 16 kHz; extractor: WhisperFeatureExtractor. Returns float32 (80, t), t about 100 per second.
    All later frames of the window hold the clip's floor value, which `pad_features` fills in, so that nothing is
    lost. Raises ValueError for a clip longer than the extractor's window.
    """
    window, hop, n_fft = extractor.n_samples, extractor.hop_length, extractor.n_fft
    if len(audio) > window:
        raise ValueError(
            f"the clip lasts {len(audio) / SAMPLE_RATE:.1f} s, Whisper's window is "
            f"{window / SAMPLE_RATE:.0f} s: cut it"
        )
    if not len(audio):
        raise EmptyAudioError("the clip is empty (0 samples)")
    padded = min(
        window, -(-(len(audio) + n_fft) // hop) * hop
    )  # zeros for the last frames that see speech
    features = extractor(
        audio, sampling_rate=SAMPLE_RATE, max_length=padded, return_tensors="np"
    ).input_features[0]
    return features[:, : -(-(len(audio) + n_fft // 2) // hop)]  # (80, t)


def pad_features(features: list, frames: int) -> torch.Tensor:
    """Return log-mels (80, t), arrays or tensors, as one float32 tensor (B, 80, frames).

    Each clip is continued with its own floor, so that with 3000 frames the result is what the extractor gives for
    the clip padded to 30 s (to 1e-5). Raises ValueError if a clip is longer than `frames`.
    """
    clips = [torch.as_tensor(clip, dtype=torch.float32) for clip in features]
    longest = max(clip.shape[-1] for clip in clips)
    if longest > frames:
        raise ValueError(f"a clip has {longest} frames, more than the window's {frames}")
    batch = torch.stack(
        [(clip.max() - SPAN).clamp(min=FLOOR).expand(clip.shape[0], frames) for clip in clips]
    )
    for row, clip in zip(batch, clips, strict=True):
        row[:, : clip.shape[-1]] = clip
    return batch  # (B, 80, frames)
