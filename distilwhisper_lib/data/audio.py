"""Audio: reading and resampling sound, changing it for harder tests, Whisper's log-mel features."""

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from ..checks import check_number

SAMPLE_RATE = 16_000  # Whisper's, in Hz

# Whisper clamps the log-mel of a clip at 8 (in log10) below its maximum, then computes (x + 4) / 4.
SPAN = 2.0  # maximum of a clip's features minus their floor: 8 / 4
FLOOR = -1.5  # the floor of digital silence: (log10(1e-10) + 4) / 4

DIRECT_SOUND = 0.0025  # s, before the first reflection of `add_reverberation`

# ---- what can be read

# Endings of sound files: those that libsndfile decodes, then those that FFmpeg (PyAV) does.
READABLE = (
    *(".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf"),
    *(".m4a", ".mp4", ".aac", ".webm", ".wma", ".3gp", ".amr", ".mov", ".mka", ".mkv"),
)

# FFmpeg's demuxers of the second line. Others are not tried: some open further files and addresses,
# and a damaged file of a kind that libsndfile reads must stay an error.
DEMUXERS = "mov,matroska,aac,asf,amr"
GUESSED_LENGTH = ("aac", "amr")  # without a length in the file: FFmpeg gives one by the bit rate

LONGEST = 600.0  # s that `read_audio` decodes unless more is asked for; Whisper's window has 30 s
MOST_BYTES = 1 << 30  # of a file, and of its samples once decoded
MOST_CHANNELS = 16
RATES = (1_000, 1_000_000)  # Hz, lowest and highest

LOUDEST = 8.0  # Vorbis overshoots 1 a little; samples in the scale of integers are far above
SILENCE = 0.5 / 32767  # samples up to here are 0 in a file of 16 bits
CANCELLED = 1e-3  # peak of the mix over that of its channels, up to which they cancel out

COMPLETE = 0.99  # share of the stated length that a file must have; less was cut off
PADDING = 0.1  # s that a compressed file may state beyond its samples
OGG_PAGE = b"OggS"  # how each page of an Ogg file begins
OGG_HEADER = 27  # bytes before the lengths of a page's segments; the last one is their number
EBML = b"\x1a\x45\xdf\xa3"  # how a WebM or Matroska file begins
ENTERED = (b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75")  # Segment and Cluster, which hold elements
UNKNOWN_LENGTH = 1 << 60  # what libsndfile gives for a length that is not stated is above
UNKNOWN_SIZE = 0x7FFF_0000  # sizes from here on stand in WAVs from pipes, whatever their length


class EmptyAudioError(ValueError):
    """The sound holds nothing: no samples, or silence alone."""


class LongAudioError(ValueError):
    """The sound is longer than what is to be read; it was not decoded to its end."""


def read_audio(
    source: str | Path | bytes | Mapping[str, Any], longest: float | None = LONGEST
) -> np.ndarray:
    """Return a sound as mono float32 at 16 kHz.

    libsndfile decodes it; what telephones and browsers record (m4a, aac, mp4, webm, wma) is decoded
    by the FFmpeg that PyAV's wheel holds. Nothing else needs to be installed.

    Args:
        source: A path, the bytes of a file (READABLE), {"bytes", "path"} as in a corpus, or
            {"array", "sampling_rate"}. An array has the shape (n,), (n, channels) or
            (channels, n), with up to 16 channels. Floats are in [-1, 1]; integers of 8 (unsigned),
            16 and 32 bits are scaled by their range.
        longest: Seconds; a longer sound is refused before it is decoded whole. None: any length.

    Returns:
        Samples (n,).

    Raises:
        FileNotFoundError: Where there is no such file.
        EmptyAudioError: For a sound without samples, of nothing but digital silence, or with
            channels that cancel out. Silence within a sound is left as it is.
        LongAudioError: For a sound longer than `longest`, or over 1 GB.
        ValueError: Where the sound cannot be decoded, holds samples that are not finite or far
            outside [-1, 1], or has the shape of no sound. Each message names the file.
    """
    if isinstance(source, Mapping) and source.get("array") is not None:
        name = str(source.get("path") or "the array")
        rate = _checked_rate(name, source.get("sampling_rate"))
        samples = _samples_of_array(name, source["array"])
        _check_length(name, len(samples), rate, samples.shape[1], longest)
    else:
        name, content = _file_content(source)
        samples, rate = _decode(name, content, longest)

    if not samples.size:
        raise EmptyAudioError(f"{name}: the sound is empty (0 samples)")
    _check_samples(name, samples, rate)
    mono = samples.mean(axis=1) if samples.shape[1] > 1 else samples[:, 0]  # (n, channels) -> (n,)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE)
    if not mono.size:
        raise EmptyAudioError(f"{name}: the sound is empty ({len(samples)} samples at {rate} Hz)")
    _check_silence(name, samples, mono)
    return np.ascontiguousarray(mono, dtype=np.float32)


def _file_content(source: str | Path | bytes | Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the name and the bytes of a sound file."""
    if isinstance(source, Mapping):
        content = source.get("bytes")
        path = source.get("path")
    elif isinstance(source, bytes | bytearray | memoryview):
        content = source
        path = None
    else:
        content = None
        path = source

    is_named = isinstance(path, str | Path) and bool(str(path))
    name = str(path) if is_named else "sound without a name"
    if content is None:
        if not is_named:
            raise ValueError(
                f"no sound, but {type(path).__name__}: expected a path, bytes, {{'bytes', 'path'}} "
                "or {'array', 'sampling_rate'}"
            )
        if not Path(path).is_file():
            raise FileNotFoundError(f"no sound file {name}")
        _check_bytes(name, Path(path).stat().st_size, "the file")
        content = Path(path).read_bytes()
    elif not isinstance(content, bytes | bytearray | memoryview):
        raise ValueError(f"{name}: no sound: its bytes are {type(content).__name__}")
    if not content:
        raise EmptyAudioError(f"{name}: cannot decode the sound: the file is empty (0 bytes)")
    return name, bytes(content)


# ---- checks


def _checked_rate(name: str, rate: Any) -> float:
    """Return a sampling rate; ValueError unless it is a number of Hz."""
    lowest, highest = RATES
    is_number = isinstance(rate, int | float | np.integer | np.floating)
    if not is_number or not lowest <= rate <= highest:
        raise ValueError(
            f"{name}: the sampling rate is {rate}: {lowest} to {highest} Hz are needed, such as "
            "16000"
        )
    return rate


def _check_length(
    name: str, frames: int, rate: float, channels: int, longest: float | None
) -> None:
    """Raise LongAudioError for a sound of more than `longest` seconds or MOST_BYTES."""
    if longest is not None and frames > longest * rate:
        raise LongAudioError(
            f"{name}: the sound lasts {frames / rate:.1f} s, up to {longest:g} s are read: cut it "
            "into clips of at most 30 s, each with its own text"
        )
    _check_bytes(name, 4 * frames * channels, "the decoded sound")


def _check_bytes(name: str, size: int, what: str) -> None:
    """Raise LongAudioError for more than MOST_BYTES."""
    if size > MOST_BYTES:
        raise LongAudioError(
            f"{name}: {what} has {size / 1e9:.1f} GB, up to {MOST_BYTES / 1e9:.1f} GB are read: "
            "cut it into clips of at most 30 s, each with its own text"
        )


def _check_samples(name: str, samples: np.ndarray, rate: float) -> None:
    """Raise ValueError for samples (n, channels) that are not finite or far outside [-1, 1]."""
    peak = max(samples.max(), -samples.min())  # NaN where any sample is
    if peak <= LOUDEST:
        return
    if math.isfinite(peak):
        raise ValueError(
            f"{name}: samples reach {peak:.6g}, where [-1, 1] is the range: divide them by the "
            "scale that they have (32768 for 16 bits), or export the sound anew"
        )
    wrong = ~np.isfinite(samples)
    first = np.flatnonzero(wrong.any(axis=1))[0]
    raise ValueError(
        f"{name}: {wrong.sum()} of {samples.size} samples are not finite (NaN or infinite), the "
        f"first at {first / rate:.3f} s: export the sound anew"
    )


def _check_silence(name: str, samples: np.ndarray, mono: np.ndarray) -> None:
    """Raise EmptyAudioError where the mix holds nothing.

    Args:
        name: Of the sound.
        samples: Its channels, (n, channels).
        mono: Their mean, at 16 kHz.
    """
    peak = np.abs(samples).max()
    peak_of_mix = np.abs(mono).max()
    if peak <= SILENCE or np.ptp(samples, axis=0).max() <= SILENCE:  # also one constant value
        raise EmptyAudioError(f"{name}: the sound is nothing but digital silence: record it anew")
    if samples.shape[1] > 1 and peak_of_mix <= max(SILENCE, CANCELLED * peak):
        raise EmptyAudioError(
            f"{name}: its {samples.shape[1]} channels cancel out, and their mix is silence: give "
            "one channel alone"
        )
    if peak_of_mix <= SILENCE:
        raise EmptyAudioError(f"{name}: the sound is nothing but silence below 8 kHz")


# ---- arrays


def _samples_of_array(name: str, array: Any) -> np.ndarray:
    """Return an array as float32 samples (n, channels), as `read_audio` describes it."""
    try:
        samples = np.asarray(array)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors with a gradient
        raise ValueError(f"{name}: no array of samples: {error}") from error

    if samples.ndim == 1:
        samples = samples[:, None]
    elif samples.ndim == 2 and samples.shape[0] <= MOST_CHANNELS < samples.shape[1]:
        samples = samples.T  # (channels, n), as torchaudio gives it
    if samples.ndim != 2 or samples.shape[1] > MOST_CHANNELS:
        raise ValueError(
            f"{name}: an array of shape {np.shape(array)} is no sound: (n,), (n, channels) or "
            f"(channels, n) is needed, with up to {MOST_CHANNELS} channels"
        )

    if samples.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what overflows is refused as not finite
            return samples.astype(np.float32)
    if samples.dtype.newbyteorder("=") in (np.int16, np.int32):
        return (samples / -float(np.iinfo(samples.dtype).min)).astype(np.float32)
    if samples.dtype == np.uint8:
        return ((samples - 128.0) / 128).astype(np.float32)
    raise ValueError(
        f"{name}: samples of the type {samples.dtype}, whose range is not known: give floats in "
        "[-1, 1], or integers as int16"
    )


# ---- files


def _decode(name: str, content: bytes, longest: float | None) -> tuple[np.ndarray, float]:
    """Return the samples (n, channels) of a sound file and their rate in Hz."""
    try:
        return _decode_with_libsndfile(name, content, longest)
    except (soundfile.SoundFileError, RuntimeError) as error:
        try:
            return _decode_with_ffmpeg(name, content, longest)
        except _OtherFormatError:
            reason = str(error).split(">: ")[-1]  # without the address of the buffer
    raise ValueError(
        f"{name}: cannot decode the sound: {reason} Files that can be read: {' '.join(READABLE)}"
    )


def _decode_with_libsndfile(
    name: str, content: bytes, longest: float | None
) -> tuple[np.ndarray, float]:
    """Return the samples (n, channels) of a file of libsndfile's formats and their rate in Hz."""
    with soundfile.SoundFile(io.BytesIO(content)) as sound:
        if sound.frames >= UNKNOWN_LENGTH:  # a FLAC from a pipe: libsndfile cannot read it
            return _decode_with_ffmpeg(name, content, longest, "flac")
        rate = _checked_rate(name, sound.samplerate)
        _check_length(name, sound.frames, rate, sound.channels, longest)
        if sound.seekable():
            sound.seek(0)  # as soundfile.read does: the samples of an MP3 differ in the last bits
        samples = sound.read(sound.frames, dtype="float32", always_2d=True)
        stated = sound.frames
        share = _share_of_file(sound.extra_info)

    if share < COMPLETE or len(samples) < COMPLETE * stated:
        raise _cut_off(name, len(samples) / rate, stated / (share * rate))
    if not _ends_with_a_page(content):
        raise _cut_off_within(name, len(samples) / rate, "a page of Ogg")
    return samples, rate


def _share_of_file(remarks: str) -> float:
    """Return the bytes of a file over those that its header states, by libsndfile's remarks."""
    for stated, found in re.findall(r": (\d+) \(should be (\d+)\)", remarks):
        if int(found) < int(stated) < UNKNOWN_SIZE:
            return int(found) / int(stated)
    return 1.0


def _ends_with_a_page(content: bytes) -> bool:
    """Return whether the last page of an Ogg file is whole; True for other files.

    An Ogg file does not state its length, and libsndfile leaves out a page that is cut off.
    """
    start = 0
    while content.startswith(OGG_PAGE, start):
        lengths_at = start + OGG_HEADER
        if lengths_at > len(content):
            return False
        lengths = content[lengths_at : lengths_at + content[lengths_at - 1]]
        start = lengths_at + content[lengths_at - 1] + sum(lengths)
    return start <= len(content)


def _ends_with_an_element(content: bytes) -> bool:
    """Return whether the last element of a WebM or Matroska file is whole; True for other files.

    What browsers record states no length, and FFmpeg leaves out a block that is cut off.
    """
    if not content.startswith(EBML):
        return True
    start = 0
    while start < len(content):
        size_at = start + 9 - content[start].bit_length()  # zeros in front state the bytes
        if size_at >= len(content):
            return False
        size_bytes = 9 - content[size_at].bit_length()
        inner = size_at + size_bytes
        if content[start] == 0 or content[size_at] == 0:  # no element
            return True
        unknown = (1 << 7 * size_bytes) - 1
        size = int.from_bytes(content[size_at:inner], "big") & unknown

        if content[start:size_at] in ENTERED:
            start = inner
        elif size == unknown:
            return True
        else:
            start = inner + size
    return start == len(content)


class _OtherFormatError(Exception):
    """A file of none of the formats that are left to FFmpeg."""


def _decode_with_ffmpeg(
    name: str, content: bytes, longest: float | None, demuxers: str = DEMUXERS
) -> tuple[np.ndarray, float]:
    """Return the samples (n, channels) of a file that a demuxer reads and their rate in Hz."""
    import av  # with FFmpeg's libraries: 0.3 s, for those who have such files

    try:
        settings = {"format_whitelist": demuxers}
        container = av.open(io.BytesIO(content), options=settings, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise _OtherFormatError from error

    with container:
        if not container.streams.audio:
            raise ValueError(f"{name}: cannot decode the sound: the file has none, only pictures")
        stream = container.streams.audio[0]
        stated = _stated_seconds(container, stream)
        _check_length(name, round(stated * SAMPLE_RATE), SAMPLE_RATE, 1, longest)

        parts = []
        frames = 0
        rate = SAMPLE_RATE
        try:
            for part in _parts(container, stream):
                rate = part.sample_rate
                frames += part.samples
                _check_length(name, frames, rate, part.layout.nb_channels, longest)
                parts.append(part.to_ndarray().T)  # (n, channels)
        except LongAudioError:
            raise
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"{name}: cannot decode the sound: {reason}") from error

    if frames / rate < COMPLETE * stated - PADDING:
        raise _cut_off(name, frames / rate, stated)
    if not _ends_with_an_element(content):
        raise _cut_off_within(name, frames / rate, "an element of Matroska")
    return np.concatenate(parts or [np.zeros((0, 1), np.float32)]), _checked_rate(name, rate)


def _stated_seconds(container, stream) -> float:
    """Return the length of a stream as the file states it; 0 where it does not."""
    if container.format.name in GUESSED_LENGTH:
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration and len(container.streams) == 1:
        return container.duration / 1e6
    return 0.0


def _parts(container, stream) -> Iterator:
    """Yield the frames of a stream, float32 with the rate and the channels of its first one."""
    import av

    resampler = None
    for frame in chain(container.decode(stream), [None]):
        if frame is not None and resampler is None:
            resampler = av.AudioResampler("fltp", frame.layout, frame.sample_rate)
        if resampler is not None:
            yield from resampler.resample(frame)


def _cut_off(name: str, found: float, stated: float) -> ValueError:
    return ValueError(
        f"{name}: cannot decode the sound: it is cut off after {found:.1f} of {stated:.1f} s: copy "
        "it again"
    )


def _cut_off_within(name: str, found: float, part: str) -> ValueError:
    return ValueError(
        f"{name}: cannot decode the sound: it is cut off after {found:.1f} s, within {part}: copy "
        "it again"
    )


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

    Raises:
        ValueError: For an empty clip, or for a ratio that is no number from -100 to 200.
    """
    check_number("snr_db", snr_db, low=-100, high=200)
    _check_not_empty(audio)
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
        ValueError: For an empty clip, or unless rt60 is a number above 0.
    """
    check_number("rt60", rt60, above=0)
    _check_not_empty(audio)

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


def _check_not_empty(audio: np.ndarray) -> None:
    """Raise ValueError for a clip without samples."""
    if not len(audio):
        raise ValueError("the clip is empty: it has no samples")


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
        ValueError: For a clip longer than the window of the extractor, of another shape, or with
            samples that are not finite.
    """
    window = extractor.n_samples
    hop = extractor.hop_length
    n_fft = extractor.n_fft
    if np.ndim(audio) != 1:
        raise ValueError(f"a mono clip (n,) is needed, not one of shape {np.shape(audio)}")
    if len(audio) > window:
        raise ValueError(
            f"the clip lasts {len(audio) / SAMPLE_RATE:.1f} s, Whisper's window is "
            f"{window / SAMPLE_RATE:.0f} s: cut it"
        )
    if not len(audio):
        raise EmptyAudioError("the clip is empty (0 samples)")
    if not np.isfinite(audio).all():
        raise ValueError("the clip has samples that are not finite (NaN or infinite)")

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
