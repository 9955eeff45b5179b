"""Reading, changing and writing audio; log-mel features without padding."""

import io

import av
import numpy as np
import pytest
import soundfile
import torch
from made_corpora import tone, write_ogg
from transformers import WhisperFeatureExtractor

from distilwhisper_lib.data.audio import (
    READABLE,
    SAMPLE_RATE,
    EmptyAudioError,
    LongAudioError,
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
    audio = read_audio({"array": np.stack([left, 0 * left], axis=1), "sampling_rate": 8000})
    assert len(audio) == SAMPLE_RATE
    assert np.abs(audio).max() == pytest.approx(np.abs(left).max() / 2, rel=0.01)


def recorded(container, codec, sound, rate, **options):
    """Return mono sound (n,) as the bytes of a file that FFmpeg encodes."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        queue = av.AudioFifo()
        for part in av.AudioResampler(stream.format.name, "mono", rate).resample(frame):
            queue.write(part)
        while (part := queue.read(stream.frame_size or 1024, partial=True)) is not None:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return buffer.getvalue()


TELEPHONES = [
    ("m4a", "ipod", "aac"),
    ("mp4", "mp4", "aac"),
    ("aac", "adts", "aac"),
    ("webm", "webm", "libopus"),
    ("wma", "asf", "wmav2"),
    ("mov", "mov", "pcm_s16le"),
    ("3gp", "3gp", "aac"),
    ("mka", "matroska", "flac"),
]


@pytest.mark.parametrize(("ending", "container", "codec"), TELEPHONES)
def test_what_telephones_and_browsers_record_is_read(tmp_path, ending, container, codec):
    path = tmp_path / f"sound.{ending}"
    path.write_bytes(recorded(container, codec, tone(1.0, 48_000), 48_000))
    audio = read_audio(path)
    assert path.suffix in READABLE
    assert audio.dtype == np.float32
    assert abs(len(audio) - SAMPLE_RATE) <= 0.1 * SAMPLE_RATE  # whole blocks of the codec
    middle = slice(4000, 12_000)
    expected = tone(1.0, SAMPLE_RATE)[middle]
    spectrum = np.abs(np.fft.rfft(audio[middle]))
    assert spectrum.argmax() == np.abs(np.fft.rfft(expected)).argmax()
    assert np.std(audio[middle]) == pytest.approx(np.std(expected), rel=0.05)


def test_a_flac_that_does_not_state_its_length_is_read():
    sound = tone(1.0, SAMPLE_RATE)
    content = bytearray(encode_flac(sound))
    content[21] &= 0xF0  # the number of samples in the header, as a pipe leaves it
    content[22:26] = bytes(4)
    assert np.array_equal(read_audio(bytes(content)), read_audio(encode_flac(sound)))


def test_kinds_of_file_that_lead_to_others_are_not_opened(tmp_path):
    """FFmpeg would read what a playlist names."""
    (tmp_path / "secret.aac").write_bytes(recorded("adts", "aac", tone(1.0, 48_000), 48_000))
    playlists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.aac\n",
        "a.aac": f"ffconcat version 1.0\nfile '{tmp_path}/secret.aac'\n",
    }
    for name, text in playlists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name}: cannot decode the sound"):
            read_audio(tmp_path / name)


@pytest.mark.parametrize(
    "cut",
    [
        lambda sound: encode_flac(sound),
        lambda sound: recorded("ipod", "aac", sound, SAMPLE_RATE),
        lambda sound: recorded("webm", "libopus", sound, 48_000),
        lambda sound: recorded("asf", "wmav2", sound, 44_100),
        lambda sound: written(sound, "WAV"),
        lambda sound: written(sound, "AIFF"),
        lambda sound: written(sound, "MP3"),
        lambda sound: written(sound, "WAV", "GSM610"),
        lambda sound: written(sound, "OGG", "VORBIS"),
        lambda sound: written(sound, "OGG", "OPUS"),
    ],
)
def test_a_file_that_is_cut_off_is_refused(cut):
    content = cut(tone(2.0, SAMPLE_RATE))
    read_audio(content)
    with pytest.raises(ValueError, match="x.bin: cannot decode the sound"):
        read_audio({"bytes": content[: len(content) * 2 // 3], "path": "x.bin"})


def written(samples, kind, subtype=None, rate=SAMPLE_RATE):
    """Return samples as the bytes of a file that libsndfile writes."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def test_the_error_says_which_files_can_be_read(tmp_path):
    path = tmp_path / "talk.docx"
    path.write_bytes(b"PK no sound at all" * 50)
    with pytest.raises(ValueError, match=r"talk.docx: cannot decode.* \.wav \.flac .*\.m4a"):
        read_audio(path)


# ---- what is no sound


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(wrong):
    sound = tone(1.0, SAMPLE_RATE)
    sound[8000] = wrong
    message = r"1 of 16000 samples are not finite \(NaN or infinite\), the first at 0\.500 s"
    with pytest.raises(ValueError, match=f"a.wav: {message}"):
        read_audio({"bytes": written(sound, "WAV", "FLOAT"), "path": "a.wav"})
    with pytest.raises(ValueError, match=f"the array: {message}"):
        read_audio({"array": sound.astype(np.float64), "sampling_rate": SAMPLE_RATE})


def test_samples_far_outside_the_range_are_refused_and_a_little_overshoot_is_not():
    sound = tone(1.0, SAMPLE_RATE) / np.abs(tone(1.0, SAMPLE_RATE)).max()
    for scale in (9, 32768):
        with pytest.raises(ValueError, match=rf"a.wav: samples reach {scale}, .*divide them"):
            read_audio({"bytes": written(scale * sound, "WAV", "FLOAT"), "path": "a.wav"})
        with pytest.raises(ValueError, match=f"the array: samples reach {scale}"):
            read_audio({"array": -scale * sound, "sampling_rate": SAMPLE_RATE})
    with pytest.raises(ValueError, match="not finite"):
        read_audio({"array": 1e300 * sound.astype(np.float64), "sampling_rate": SAMPLE_RATE})
    assert np.abs(read_audio(written(1.5 * sound, "WAV", "FLOAT"))).max() == pytest.approx(1.5)


def test_nothing_but_silence_is_refused():
    for silence in (0.0, 1e-6, 0.3):  # the last as of a microphone that is off, with an offset
        silence = np.full(SAMPLE_RATE, silence)
        with pytest.raises(EmptyAudioError, match=r"a\.wav: .*digital silence"):
            read_audio({"bytes": written(silence, "WAV", "FLOAT"), "path": "a.wav"})
    with pytest.raises(EmptyAudioError, match="digital silence"):
        read_audio({"array": np.zeros((800, 2), np.int16), "sampling_rate": 8000})
    ultrasonic = 0.5 * np.sin(2 * np.pi * 20_000 * np.arange(48_000) / 48_000)
    ultrasonic *= np.hanning(48_000)
    with pytest.raises(EmptyAudioError, match="silence below 8 kHz"):
        read_audio({"array": ultrasonic, "sampling_rate": 48_000})


@pytest.mark.parametrize(("kind", "subtype"), FORMATS)
def test_channels_that_cancel_out_are_refused(kind, subtype):
    left = tone(1.0, 44_100)
    stereo = np.stack([left, -left], axis=1)
    message = r"a\.x: its 2 channels cancel out.*give one channel alone"
    with pytest.raises(EmptyAudioError, match=message):
        read_audio({"bytes": written(stereo, kind, subtype, 44_100), "path": "a.x"})


def test_silence_within_a_recording_is_left_as_it_is():
    sound = np.concatenate([np.zeros(10 * SAMPLE_RATE), tone(0.5, SAMPLE_RATE)])
    audio = read_audio(written(sound, "WAV"))
    assert len(audio) == len(sound)
    assert not audio[: 10 * SAMPLE_RATE].any()
    quiet = 1e-4 * tone(0.5, SAMPLE_RATE)
    assert np.array_equal(read_audio({"array": quiet, "sampling_rate": SAMPLE_RATE}), quiet)


# ---- arrays


def test_arrays_of_either_order_give_the_same_sound():
    sound = tone(0.5, SAMPLE_RATE)
    stereo = np.stack([sound, 0.5 * sound])  # (channels, n), as torchaudio gives it
    expected = read_audio({"array": stereo.T, "sampling_rate": SAMPLE_RATE})
    assert np.array_equal(expected, stereo.mean(axis=0))
    for array in (stereo, torch.as_tensor(stereo), stereo.tolist()):
        assert np.array_equal(read_audio({"array": array, "sampling_rate": SAMPLE_RATE}), expected)
    for array in (sound[None], sound[:, None]):
        assert np.array_equal(read_audio({"array": array, "sampling_rate": SAMPLE_RATE}), sound)


@pytest.mark.parametrize("part", [0.995, 0.9, 0.6])
@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_an_ogg_that_is_cut_off_within_a_page_is_refused(codec, part):
    """It states no length, and libsndfile leaves out the last second or so without a word."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE)
    content = written(noise, "OGG", codec)
    assert len(read_audio(content)) == 4 * SAMPLE_RATE
    with pytest.raises(ValueError, match=r"it is cut off after [123]\.\d s, within a page of Ogg"):
        read_audio(content[: int(part * len(content))])


@pytest.mark.parametrize("part", [0.99, 0.9, 0.5])
def test_what_a_browser_records_without_a_length_is_refused_where_it_is_cut_off(part):
    noise = 0.1 * np.random.default_rng(0).standard_normal(2 * 48_000).astype(np.float32)
    content = recorded("webm", "libopus", noise, 48_000, live="1")
    assert len(read_audio(content)) == pytest.approx(2 * SAMPLE_RATE, abs=500)
    with pytest.raises(ValueError, match=r"it is cut off after [012]\.\d s, within an element of"):
        read_audio(content[: int(part * len(content))])


@pytest.mark.parametrize("scale", ["int16", ">i2", "int32", "uint8"])
def test_integers_are_scaled_by_their_range(scale):
    sound = tone(0.5, SAMPLE_RATE)
    limits = np.iinfo(scale)
    steps = (limits.max - limits.min + 1) / 2
    middle = limits.max + 1 - steps
    integers = np.round(sound.astype(np.float64) * steps + middle).astype(scale)
    audio = read_audio({"array": integers, "sampling_rate": SAMPLE_RATE})
    assert audio.dtype == np.float32
    assert np.abs(audio - sound).max() <= 1 / steps + 1e-7
    if scale == "int16":
        assert np.array_equal(audio, read_audio(written(integers, "WAV", "PCM_16")))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((80, 3000)), r"shape \(80, 3000\) is no sound"),
        (np.ones((1, 2, 800)), r"shape \(1, 2, 800\) is no sound"),
        (np.float32(1), r"shape \(\) is no sound"),
        ([[1.0, 2.0], [1.0]], "no array of samples"),
        (np.ones(800, np.int64), "type int64, whose range is not known"),
        (np.ones(800, bool), "type bool, whose range is not known"),
        (np.ones(800, complex), "type complex128, whose range is not known"),
        (["a", "b"], "type <U1, whose range is not known"),
        (torch.ones(800, requires_grad=True), "no array of samples"),
    ],
)
def test_arrays_that_are_no_sound_are_refused(array, message):
    with pytest.raises(ValueError, match=f"the array: .*{message}"):
        read_audio({"array": array, "sampling_rate": SAMPLE_RATE})


@pytest.mark.parametrize("rate", [None, 0, -16_000, 16, np.nan, np.inf, "16000", 1e9])
def test_a_rate_that_is_none_is_refused(rate):
    with pytest.raises(ValueError, match=rf"x: the sampling rate is {rate}: 1000 to 1000000 Hz"):
        read_audio({"array": tone(0.1, 8000), "sampling_rate": rate, "path": "x"})


@pytest.mark.parametrize(
    "source", [None, 5, "", {}, {"bytes": "text", "path": None}, np.zeros(800), [0.0, 0.1]]
)
def test_what_is_no_source_of_sound_is_refused(source):
    with pytest.raises(ValueError, match="no sound"):
        read_audio(source)


# ---- long sound


def test_a_long_sound_is_refused_before_it_is_decoded(monkeypatch):
    second = tone(1.0, SAMPLE_RATE)
    sound = np.tile(second, 700)
    content = encode_flac(sound)
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(
        LongAudioError, match=r"a\.flac: the sound lasts 700\.0 s, up to 600 s .*cut"
    ):
        read_audio({"bytes": content, "path": "a.flac"})
    monkeypatch.undo()
    assert len(read_audio(content, longest=None)) == len(sound)
    with pytest.raises(LongAudioError, match=r"the array: the sound lasts 1\.0 s, up to 0\.5 s"):
        read_audio({"array": second, "sampling_rate": SAMPLE_RATE}, longest=0.5)
    assert len(read_audio({"array": second, "sampling_rate": SAMPLE_RATE}, longest=1)) == len(
        second
    )


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("ipod", "aac", {}),
        ("adts", "aac", {}),  # these two do not state their length
        ("webm", "libopus", {"live": "1"}),
    ],
)
def test_decoding_stops_where_a_sound_becomes_too_long(container, codec, options):
    content = recorded(container, codec, np.tile(tone(1.0, 48_000), 5), 48_000, **options)
    with pytest.raises(LongAudioError, match=r"lasts [2-5]\.\d s, up to 2 s are read"):
        read_audio(content, longest=2)
    assert len(read_audio(content, longest=5.5)) == pytest.approx(5 * SAMPLE_RATE, rel=0.02)


def test_a_header_that_promises_gigabytes_is_refused(tmp_path):
    content = bytearray(encode_flac(tone(1.0, SAMPLE_RATE)))
    content[21] |= 0x0F  # the number of samples in the header: 2^36 - 1
    content[22:26] = b"\xff" * 4
    for longest in (600, None):
        with pytest.raises(LongAudioError, match=r"lasts|GB"):
            read_audio(bytes(content), longest=longest)
    with open(tmp_path / "huge.wav", "wb") as file:
        file.truncate(2 << 30)  # a sparse file
    with pytest.raises(LongAudioError, match=r"huge\.wav: the file has 2\.1 GB, up to 1\.1 GB"):
        read_audio(tmp_path / "huge.wav")


# ---- files that cannot be read


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
