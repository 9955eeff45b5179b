"""Reading, changing and writing audio; log-mel features without padding."""

import io

import numpy as np
import pytest
import soundfile
import torch
from made_corpora import tone, write_ogg
from transformers import WhisperFeatureExtractor

from distilwhisper_lib.data.audio import (
    SAMPLE_RATE,
    EmptyAudioError,
    add_noise,
    add_reverberation,
    encode_flac,
    log_mel,
    pad_features,
    read_audio,
)


@pytest.fixture(scope="module")
def extractor():
    return WhisperFeatureExtractor(feature_size=80)


@pytest.fixture
def speech():
    rng = np.random.default_rng(1)
    return (tone(1.7, SAMPLE_RATE) + 0.05 * rng.standard_normal(27_200)).astype(np.float32)


FORMATS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_every_format_rate_and_number_of_channels_gives_16_khz_mono(
    tmp_path, kind, subtype, rate, channels
):
    path = tmp_path / f"sound.{kind.lower()}"
    soundfile.write(
        path, np.stack([tone(1.0, rate)] * channels, axis=1), rate, format=kind, subtype=subtype
    )
    audio = read_audio(path)
    expected = tone(1.0, SAMPLE_RATE)
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert abs(len(audio) - SAMPLE_RATE) <= 0.1 * SAMPLE_RATE  # MP3 pads
    middle = slice(4000, 12_000)
    peak = np.abs(np.fft.rfft(audio[middle])).argmax()
    assert peak == np.abs(np.fft.rfft(expected[middle])).argmax()
    if kind in ("WAV", "FLAC"):
        assert np.abs(audio[middle] - expected[middle]).max() < 2e-3


def test_all_kinds_of_source_give_the_same_samples(tmp_path):
    path = tmp_path / "sound.flac"
    path.write_bytes(encode_flac(tone(0.5, SAMPLE_RATE)))
    expected = read_audio(path)
    forms = [
        str(path),
        path.read_bytes(),
        {"bytes": path.read_bytes(), "path": "x.flac"},
        {"bytes": None, "path": str(path)},
        {"array": expected, "sampling_rate": SAMPLE_RATE},
    ]
    for form in forms:
        assert np.array_equal(read_audio(form), expected)


def test_a_stereo_array_is_mixed_and_resampled():
    left = tone(1.0, 8000)
    audio = read_audio({"array": np.stack([left, -left], axis=1), "sampling_rate": 8000})
    assert len(audio) == SAMPLE_RATE
    assert np.abs(audio).max() == 0


@pytest.mark.parametrize("content", [b"", b"OggS but no Ogg", b"\0" * 1000])
def test_an_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "broken.ogg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.ogg: cannot decode"):
        read_audio(path)
    with pytest.raises(ValueError, match="from-a-corpus.flac: cannot decode"):
        read_audio({"bytes": content, "path": "from-a-corpus.flac"})


def test_a_missing_and_an_empty_file_and_no_file_at_all_are_told_apart(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.ogg"):
        read_audio(tmp_path / "nowhere.ogg")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(0, np.float32), SAMPLE_RATE, format="WAV")
    with pytest.raises(EmptyAudioError, match="empty"):
        read_audio({"bytes": buffer.getvalue(), "path": "empty.wav"})
    with pytest.raises(ValueError, match="no sound"):
        read_audio({"bytes": None, "path": None})


def test_flac_keeps_the_samples_and_clips_what_is_too_loud():
    audio = tone(0.5, SAMPLE_RATE)
    again = read_audio(encode_flac(audio))
    assert len(again) == len(audio)
    assert np.abs(again - audio).max() < 1e-4
    loud = read_audio(encode_flac(np.array([0.0, 1.5, -2.0, 0.5], np.float32)))
    assert np.allclose(loud, [0, 1, -1, 0.5], atol=1e-4)


@pytest.mark.parametrize("snr", [-5, 0, 5, 20])
def test_noise_has_the_stated_power_and_the_clips_spectrum(speech, snr):
    noisy = add_noise(speech, snr, seed=3)
    noise = noisy - speech
    measured = 10 * np.log10(np.mean(speech**2) / np.mean(noise**2))
    assert noisy.dtype == np.float32
    assert measured == pytest.approx(snr, abs=0.05)
    assert np.array_equal(noisy, add_noise(speech, snr, seed=3))
    assert not np.array_equal(noisy, add_noise(speech, snr, seed=4))
    assert np.corrcoef(band_energies(noise), band_energies(speech))[0, 1] > 0.99


def band_energies(sound):
    """Return the energy in eight bands of equal width."""
    spectrum = np.abs(np.fft.rfft(sound))
    return [np.sum(band**2) for band in np.array_split(spectrum, 8)]


def test_noise_and_reverberation_leave_silence():
    silence = np.zeros(800, np.float32)
    assert np.array_equal(add_noise(silence, 5, 0), silence)
    assert np.array_equal(add_reverberation(silence, 0.5, 0), silence)


@pytest.mark.parametrize("rt60", [0.3, 0.6])
def test_reverberation_decays_as_stated(rt60):
    click = np.zeros(2 * SAMPLE_RATE, np.float32)
    click[0] = 1
    wet = add_reverberation(click, rt60, seed=5)
    assert len(wet) == len(click)
    assert np.mean(wet**2) == pytest.approx(np.mean(click**2), rel=1e-3)
    fall = level(wet, 0.3 * rt60) - level(wet, 0.8 * rt60)
    slope = fall / (0.5 * rt60)  # dB per second
    assert slope * rt60 == pytest.approx(60, rel=0.08)
    assert np.abs(wet[1:39]).max() < 1e-12  # nothing in the first 2.5 ms after the direct sound
    with pytest.raises(ValueError, match="rt60"):
        add_reverberation(click, 0, seed=0)


def level(sound, second):
    """Return the mean power of 0.1 s of a sound, in dB."""
    start = round(second * SAMPLE_RATE)
    return 10 * np.log10(np.mean(sound[start : start + 1600] ** 2))


LENGTHS = [
    1,
    150,
    3000,
    16_000,
    27_200,
    27_201,
    27_359,
    160 * 37,
    479_400,
    479_700,
    479_900,
    480_000,
]


@pytest.mark.parametrize("length", LENGTHS)
def test_padded_features_of_a_clip_are_those_of_whispers_extractor(extractor, length):
    rng = np.random.default_rng(length)
    audio = (0.1 * rng.standard_normal(length)).astype(np.float32)
    audio[length // 2 :] *= 0.3
    features = log_mel(audio, extractor)
    expected = extractor(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
    assert features.shape[0] == 80
    assert features.shape[1] <= min(3000, length // 160 + 3)
    padded = pad_features([features], 3000)
    assert padded.dtype == torch.float32
    assert padded.shape == (1, 80, 3000)
    assert (padded - expected).abs().max() <= 1e-5


def test_quiet_clips_and_silence_have_whispers_floor(extractor):
    rng = np.random.default_rng(0)
    for amplitude in (0, 1e-7, 1e-5):
        audio = (amplitude * rng.standard_normal(5000)).astype(np.float32)
        expected = extractor(audio, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        padded = pad_features([log_mel(audio, extractor)], 3000)
        assert (padded - expected).abs().max() <= 1e-5


def test_each_clip_of_a_batch_keeps_its_own_floor(extractor, speech):
    loud = log_mel(speech, extractor)
    quiet = log_mel(speech[:9000] * 0.1, extractor)
    batch = pad_features([torch.as_tensor(loud), quiet], 400)
    assert torch.equal(batch[0, :, : loud.shape[1]], torch.as_tensor(loud))
    assert batch[0, 0, -1] == pytest.approx(loud.max() - 2, abs=1e-6)
    assert batch[1, 0, -1] == pytest.approx(quiet.max() - 2, abs=1e-6)
    assert torch.equal(batch, pad_features([loud, quiet], 900)[..., :400])


def test_too_long_and_empty_clips_are_refused(extractor, speech):
    with pytest.raises(ValueError, match="30.1 s"):
        log_mel(np.zeros(481_000, np.float32), extractor)
    with pytest.raises(EmptyAudioError):
        log_mel(np.zeros(0, np.float32), extractor)
    with pytest.raises(ValueError, match="more than the window's 100"):
        pad_features([log_mel(speech, extractor)], 100)


def test_made_up_files_have_the_channels_asked_for(tmp_path):
    write_ogg(tmp_path / "a.ogg", 0.5, channels=2)
    assert soundfile.info(tmp_path / "a.ogg").channels == 2
