"""The command line: cutting at pauses, formats, each command, exit statuses, --json."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile

import numpy as np
import pytest
import soundfile
import torch
import typer
from hub_stand_in import hub_stand_in
from made_corpora import make_recordings
from test_audio import recorded
from typer.testing import CliRunner

from distilwhisper_lib.cli import app as app_module
from distilwhisper_lib.cli import folder_check, long, systems
from distilwhisper_lib.cli.app import app
from distilwhisper_lib.cli.folder_check import check_folder, language_of
from distilwhisper_lib.cli.formats import (
    FORMATS,
    Segment,
    Transcript,
    as_srt,
    as_text,
    as_vtt,
    clock,
    duration,
)
from distilwhisper_lib.cli.long import Settings, Transcriber
from distilwhisper_lib.cli.pauses import Piece, cut_at_pauses, is_silent
from distilwhisper_lib.cli.share import experts_card
from distilwhisper_lib.evaluation.scoring import count_errors, summarise
from distilwhisper_lib.evaluation.statistics import difference
from distilwhisper_lib.files import REPOSITORY
from distilwhisper_lib.lab import lab as lab_module
from distilwhisper_lib.lab.lab import Lab
from distilwhisper_lib.method.attach import attach_experts
from distilwhisper_lib.method.blocks import expert_languages, expert_parameters
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.storage import read_description, save_experts
from distilwhisper_lib.presets import get_preset
from distilwhisper_lib.whisper.loading import load_processor, load_whisper
from distilwhisper_lib.whisper.tokens import LANGUAGES

RATE = 16_000


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    """Return noise (n,), in place of speech."""
    draw = np.random.default_rng(seed)
    return (level * draw.standard_normal(round(seconds * RATE))).astype(np.float32)


def speech(*parts: float, hiss: float = 0.001) -> np.ndarray:
    """Return noise and pauses in turn: seconds of noise, of a pause, of noise …"""
    sounds = []
    for number, seconds in enumerate(parts):
        sounds.append(noise(seconds, hiss if number % 2 else 0.1, number))
    return np.concatenate(sounds)


def write(path, audio):
    soundfile.write(path, audio, RATE, subtype="PCM_16")
    return path


def run(*arguments):
    """Call the command line; returns the result, with exit_code, stdout and stderr."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# ---- cutting at pauses


def starts(pieces: list[Piece]) -> list[float]:
    return [piece.start / RATE for piece in pieces]


@pytest.mark.parametrize("seconds", [0.01, 5, 30])
def test_what_fits_into_a_piece_is_not_cut(seconds):
    audio = noise(seconds)
    assert cut_at_pauses(audio) == [Piece(0, len(audio))]


def test_nothing_has_no_pieces():
    assert cut_at_pauses(np.zeros(0, dtype=np.float32)) == []


def test_a_recording_hardly_longer_than_a_piece_is_cut():
    for seconds in (2.003, 2.1, 2.2):
        audio = noise(seconds)
        pieces = cut_at_pauses(audio, 2)
        assert pieces[0].start == 0 and pieces[-1].end == len(audio)
        assert [piece.end for piece in pieces[:-1]] == [piece.start for piece in pieces[1:]]
        assert all(0 < piece.seconds <= 2 for piece in pieces)


@pytest.mark.parametrize("longest", [2, 7.5, 30])
@pytest.mark.parametrize(
    "audio",
    [noise(95.003), speech(12, 0.5, 17, 0.5, 40, 2, 9), np.zeros(70 * RATE, dtype=np.float32)],
    ids=["noise", "speech", "silence"],
)
def test_pieces_follow_one_another_and_none_is_too_long(audio, longest):
    pieces = cut_at_pauses(audio, longest)
    assert pieces[0].start == 0 and pieces[-1].end == len(audio)
    assert all(one.end == next_one.start for one, next_one in zip(pieces, pieces[1:], strict=False))
    assert all(0 < piece.seconds <= longest for piece in pieces)


@pytest.mark.parametrize("hiss", [0, 0.001, 0.02], ids=["digital", "quiet", "telephone"])
def test_a_cut_lies_in_the_middle_of_a_pause(hiss):
    audio = speech(20, 1, 24, 1, 20, hiss=hiss)  # pauses from 20 to 21 s, and from 45 to 46 s
    assert starts(cut_at_pauses(audio)) == pytest.approx([0, 20.5, 45.5], abs=0.05)


def test_the_longest_pause_is_taken_though_another_comes_later():
    audio = speech(18, 1.5, 6, 0.4, 20)
    assert starts(cut_at_pauses(audio)) == pytest.approx([0, 18.75], abs=0.05)


def test_of_equal_pauses_the_later_one_is_taken():
    audio = speech(17, 0.5, 7, 0.5, 20, hiss=0)
    assert starts(cut_at_pauses(audio)) == pytest.approx([0, 24.75], abs=0.05)


def test_a_pause_in_the_first_half_of_a_piece_is_left_alone():
    audio = speech(5, 3, 16, 0.5, 20)
    assert starts(cut_at_pauses(audio)) == pytest.approx([0, 24.25], abs=0.05)


def test_the_gap_within_a_word_is_no_pause():
    audio = np.concatenate([speech(20, 0.4, 4), speech(3, 0.04, 8, hiss=0)])
    assert starts(cut_at_pauses(audio)) == pytest.approx([0, 20.2], abs=0.05)


def test_something_is_left_for_the_last_piece():
    pieces = cut_at_pauses(speech(29.5, 0.6, 0.1))
    assert len(pieces) == 2 and pieces[1].seconds >= 1


@pytest.mark.parametrize("longest", [1, 31, "10", float("nan")])
def test_a_length_that_no_piece_can_have_is_refused(longest):
    with pytest.raises(ValueError, match="longest is .* from 2.0 to 30.0"):
        cut_at_pauses(noise(1), longest)


def test_silence_is_what_has_no_loud_frame():
    assert is_silent(noise(1, 0.0005))
    assert not is_silent(speech(0.2, 5, hiss=0))
    assert is_silent(np.zeros(3, dtype=np.float32))


# ---- formats


TRANSCRIPT = Transcript(
    file="talk.wav",
    seconds=3723.5,
    model="tiny",
    language="gl",
    detected=True,
    experts=None,
    segments=[
        Segment(0.0, 28.5, "Bos días & <benvidos>."),
        Segment(28.5, 50.0, "", silent=True),
        Segment(50.0, 3723.4996, "Ata logo."),
    ],
)


def test_a_transcript_as_text_has_a_line_for_each_piece_with_speech():
    assert as_text(TRANSCRIPT) == "Bos días & <benvidos>.\nAta logo.\n"


def test_a_transcript_as_srt():
    assert as_srt(TRANSCRIPT) == (
        "1\n00:00:00,000 --> 00:00:28,500\nBos días & <benvidos>.\n\n"
        "2\n00:00:50,000 --> 01:02:03,500\nAta logo.\n"
    )


def test_a_transcript_as_vtt_escapes_what_would_be_a_tag():
    assert as_vtt(TRANSCRIPT) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:28.500\nBos días &amp; &lt;benvidos&gt;.\n\n"
        "00:00:50.000 --> 01:02:03.500\nAta logo.\n"
    )


def test_a_transcript_as_json_has_all():
    content = json.loads(FORMATS["json"](TRANSCRIPT))
    assert content["text"] == "Bos días & <benvidos>. Ata logo."
    assert content["segments"][1] == {
        "start": 28.5,
        "end": 50.0,
        "text": "",
        "silent": True,
        "loop": False,
    }
    assert content["language"] == "gl" and content["detected"] is True


def test_times_and_lengths_are_rounded_once():
    assert clock(59.9996, ",") == "00:01:00,000"
    assert clock(36_000, ".") == "10:00:00.000"
    assert [duration(45), duration(750), duration(3900), duration(7199)] == [
        "45 s",
        "12.5 min",
        "1 h 05 min",
        "2 h 00 min",
    ]


# ---- transcribe


@pytest.fixture
def experts(tmp_path):
    """Return a folder with experts for Galician."""
    model = attach_experts(load_whisper("tiny"), ["gl"])
    draw = torch.Generator().manual_seed(1)
    for _, parameter in expert_parameters(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=draw)
    return save_experts(model, tmp_path / "gl-experts")


@pytest.fixture
def talk(tmp_path):
    """Return a recording of 52 s, with pauses that cut it into pieces of up to 10 s."""
    return write(tmp_path / "talk.wav", speech(8, 0.5, 8, 0.5, 8, 0.5, 8, 0.5, 8, 0.5, 9))


@pytest.fixture
def heard(monkeypatch):
    """Let each piece have its length as its text; returns what the model was asked for."""
    asked = []

    def texts(model, tokenizer, features, language, task, decoding):
        asked.append((len(features), language))
        return [f"{language} {float(one.mean()):.4f}" for one in features]

    monkeypatch.setattr(long, "generate_batch", texts)
    return asked


SHORT = ("--model", "tiny", "--piece-seconds", 10)


def test_a_recording_becomes_four_files(monkeypatch, tmp_path, talk, experts):
    monkeypatch.setattr(long, "MOST_NEW_TOKENS", 6)
    done = run(
        *("transcribe", talk, "--experts", experts, "--language", "galician"),
        *("--piece-seconds", 20, "--to", tmp_path / "texts"),
    )
    assert done.exit_code == 0, done.stderr
    assert "Galician (given), Galician experts" in done.stdout
    written = sorted(path.name for path in (tmp_path / "texts").iterdir())
    assert written == ["talk.json", "talk.srt", "talk.txt", "talk.vtt"]
    content = json.loads((tmp_path / "texts" / "talk.json").read_text("utf-8"))
    assert (content["model"], content["experts"], content["detected"]) == ("tiny", "gl", False)
    assert [one["start"] for one in content["segments"]][0] == 0
    assert content["segments"][-1]["end"] == content["seconds"] == 51.5
    assert len(content["segments"]) == 3


def test_the_experts_are_used_for_their_language_alone(monkeypatch, talk, experts):
    monkeypatch.setattr(long, "MOST_NEW_TOKENS", 12)
    sound = noise(5)
    plain = Transcriber(Settings(model="tiny"))
    with_experts = Transcriber(Settings(experts=str(experts)))
    assert with_experts.texts([sound], "gl") != plain.texts([sound], "gl")
    assert with_experts.texts([sound], "cs") == plain.texts([sound], "cs")


def test_the_language_is_detected_by_plain_whisper(experts):
    sound = noise(5)
    plain = Transcriber(Settings(model="tiny")).detect([sound])
    assert plain in LANGUAGES
    assert Transcriber(Settings(experts=str(experts))).detect([sound]) == plain


def test_the_language_that_is_heard_most_often_is_taken(monkeypatch):
    transcriber = Transcriber(Settings(model="tiny"))
    monkeypatch.setattr(transcriber, "_language_of", lambda sound: "gl" if len(sound) > 1 else "pt")
    assert transcriber.detect([np.zeros(1), np.zeros(2), np.zeros(3)]) == "gl"


def test_experts_for_one_language_are_used_without_being_asked_for(tmp_path, talk, experts, heard):
    done = run("transcribe", talk, "--experts", experts, "--to", tmp_path / "t", "--json")
    found = json.loads(done.stdout)["files"][0]
    assert (found["language"], found["experts"], found["detected"]) == ("gl", "gl", False)


@pytest.mark.parametrize(("found", "used"), [("gl", "gl"), ("pt", None)])
def test_auto_takes_the_experts_of_the_detected_language_or_says_that_there_are_none(
    monkeypatch, tmp_path, talk, experts, heard, found, used
):
    monkeypatch.setattr(Transcriber, "_language_of", lambda self, sound: found)
    options = ("--language", "auto", "--to", tmp_path / "t", "--json")
    done = run("transcribe", talk, "--experts", experts, *options)
    told = "its experts are used" if used else "plain Whisper is used, for there are experts only"
    assert told in done.stderr
    assert json.loads(done.stdout)["files"][0]["experts"] == used
    assert {language for _, language in heard} == {found}


@pytest.mark.parametrize(
    ("found", "longest"), [("gl", get_preset("laptop").max_train_seconds), ("pt", 30)]
)
def test_pieces_are_as_long_as_the_clips_that_experts_are_trained_on(
    monkeypatch, tmp_path, talk, experts, heard, found, longest
):
    monkeypatch.setattr(Transcriber, "_language_of", lambda self, sound: found)
    options = ("--experts", experts, "--language", "auto", "--to", tmp_path / "t")
    run("transcribe", talk, *options)
    content = json.loads((tmp_path / "t" / "talk.json").read_text("utf-8"))
    lengths = [one["end"] - one["start"] for one in content["segments"]]
    assert longest / 2 < max(lengths) <= longest
    assert f"with experts {long.WITH_EXPERTS:g}." in " ".join(
        run("transcribe", "-h").stdout.split()
    )


def test_the_time_is_told_after_the_first_piece(tmp_path, talk, heard):
    done = run("transcribe", talk, *SHORT, "--language", "gl", "--to", tmp_path / "t")
    assert "talk.wav: 52 s of sound in 6 pieces" in done.stderr
    assert " for the 43 s of sound that are left" in done.stderr


def test_json_is_one_object_and_nothing_else_is_on_standard_output(tmp_path, talk, heard):
    options = ("--language", "gl", "--to", tmp_path / "t", "--format", "srt", "--json")
    done = run("transcribe", talk, *SHORT, *options)
    content = json.loads(done.stdout)
    assert content["model"] == "tiny"
    (one,) = content["files"]
    assert (one["pieces"], one["language"], one["detected"]) == (6, "gl", False)
    assert one["written"] == [str(tmp_path / "t" / "talk.srt")]
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["talk.srt"]


def test_a_stopped_call_goes_on_where_it_was(monkeypatch, tmp_path, talk, heard):
    options = (*SHORT, "--language", "gl", "--format", "txt")
    assert run("transcribe", talk, *options, "--to", tmp_path / "whole").exit_code == 0
    in_one_go = list(heard)
    for path in (tmp_path / "cache" / "transcripts").glob("*.json"):
        path.unlink()

    heard.clear()
    texts = long.generate_batch

    def stopped(*arguments):
        if len(heard) == 2:
            raise KeyboardInterrupt
        return texts(*arguments)

    monkeypatch.setattr(long, "generate_batch", stopped)
    first = run("transcribe", talk, *options, "--to", tmp_path / "parts")
    assert first.exit_code == 130
    assert "the same command goes on where it was" in first.stderr
    assert not list((tmp_path / "parts").glob("talk*"))

    monkeypatch.setattr(long, "generate_batch", texts)
    second = run("transcribe", talk, *options, "--to", tmp_path / "parts")
    assert second.exit_code == 0 and "2 of them transcribed before" in second.stderr
    assert heard == in_one_go
    whole = (tmp_path / "whole" / "talk.txt").read_bytes()
    assert (tmp_path / "parts" / "talk.txt").read_bytes() == whole


def test_another_recording_or_setting_is_not_taken_for_what_was_stopped(tmp_path, talk, heard):
    options = (*SHORT, "--language", "gl", "--overwrite", "--to", tmp_path / "t")
    run("transcribe", talk, *options)
    count = len(heard)
    run("transcribe", talk, *options)
    assert len(heard) == count  # nothing anew
    run("transcribe", talk, *options, "--piece-seconds", 15)
    assert len(heard) > count
    count = len(heard)
    write(talk, speech(8, 0.5, 8))
    run("transcribe", talk, *options)
    assert len(heard) == count + 2


def test_a_damaged_record_is_set_aside(tmp_path, talk, heard):
    options = (*SHORT, "--language", "gl", "--overwrite", "--to", tmp_path / "t")
    run("transcribe", talk, *options)
    (record,) = (tmp_path / "cache" / "transcripts").glob("*.json")
    record.write_text(record.read_text("utf-8").replace("gl -", "xx -"), "utf-8")
    count = len(heard)
    done = run("transcribe", talk, *options)
    assert done.exit_code == 0 and "is damaged" in done.stderr
    assert len(heard) == 2 * count


def test_files_that_cannot_be_transcribed_are_named_and_the_others_are(tmp_path, talk, heard):
    silent = write(tmp_path / "silent.wav", np.zeros(RATE, dtype=np.float32))
    quiet = write(tmp_path / "quiet.wav", noise(2, 0.0004))
    broken = tmp_path / "broken.wav"
    broken.write_bytes(talk.read_bytes()[:5000])
    letter = tmp_path / "letter.mp3"
    letter.write_text("Dear reader, this is no sound.", "utf-8")
    empty = tmp_path / "empty.ogg"
    empty.write_bytes(b"")
    missing = tmp_path / "missing.wav"
    files = [silent, quiet, broken, letter, talk, empty, missing, tmp_path]
    options = (*SHORT, "--language", "gl", "--to", tmp_path / "t", "--json")
    done = run("transcribe", *files, *options)

    assert done.exit_code == 1
    results = {one["file"]: one.get("error") for one in json.loads(done.stdout)["files"]}
    for file, reason in (
        (silent, "nothing but digital silence"),
        (quiet, "nothing is louder than -60 dB"),
        (broken, "cut off"),
        (letter, "cannot decode the sound"),
        (empty, "the file is empty"),
        (missing, "no sound file"),
        (tmp_path, "no sound file"),
    ):
        assert reason in results[str(file)]
        assert f"{file}: " in done.stderr or f"sound file {file}" in done.stderr
    assert results[str(talk)] is None
    assert (tmp_path / "t" / "talk.txt").is_file()


def test_a_recording_of_a_telephone_is_read(tmp_path, heard):
    path = tmp_path / "call.m4a"
    path.write_bytes(recorded("ipod", "aac", noise(3), RATE))
    done = run("transcribe", path, *SHORT, "--language", "gl", "--to", tmp_path / "t")
    assert done.exit_code == 0, done.stderr
    assert "call.m4a: 3 s, Galician (given), no experts" in done.stdout


def test_a_recording_with_a_long_name_is_transcribed(tmp_path, heard):
    path = write(tmp_path / f"{'ж' * 120}.wav", noise(3))
    done = run("transcribe", path, *SHORT, "--language", "gl", "--to", tmp_path / "t")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "t" / f"{'ж' * 120}.json").is_file()


def test_silent_pieces_are_not_transcribed(tmp_path, heard):
    path = write(tmp_path / "long.wav", speech(9, 30, 9, hiss=0))
    done = run("transcribe", path, *SHORT, "--language", "gl", "--to", tmp_path / "t", "--json")
    pieces = json.loads((tmp_path / "t" / "long.json").read_text("utf-8"))["segments"]
    silent = [piece for piece in pieces if piece["silent"]]
    assert silent and all(piece["text"] == "" for piece in silent)
    assert len(heard) == len(pieces) - len(silent)
    assert done.exit_code == 0


def test_several_pieces_can_go_together(tmp_path, talk, heard):
    options = (*SHORT, "--language", "gl", "--batch-size", 4, "--to", tmp_path / "t")
    run("transcribe", talk, *options)
    assert [count for count, _ in heard] == [1, 4, 1]


def test_a_text_that_repeats_itself_is_told(monkeypatch, tmp_path, talk):
    monkeypatch.setattr(Transcriber, "texts", lambda self, sounds, code: ["la " * 90] * len(sounds))
    done = run("transcribe", talk, *SHORT, "--language", "gl", "--to", tmp_path / "t")
    assert "the text repeats itself at 0 s, " in done.stdout


def test_files_of_others_are_not_replaced_unasked(tmp_path, talk, heard):
    options = (*SHORT, "--language", "gl", "--to", tmp_path / "t", "--format", "txt")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "talk.txt").write_text("my own notes", "utf-8")
    done = run("transcribe", talk, *options)
    assert done.exit_code == 1 and "give --overwrite" in done.stderr
    assert (tmp_path / "t" / "talk.txt").read_text("utf-8") == "my own notes"
    assert not heard  # said before anything was computed

    assert run("transcribe", talk, *options, "--overwrite").exit_code == 0
    written = (tmp_path / "t" / "talk.txt").read_text("utf-8")
    assert written.startswith("gl ")
    assert run("transcribe", talk, *options).exit_code == 0  # the same text does no harm


def test_recordings_with_one_name_keep_their_endings(tmp_path, heard):
    for name in ("a.wav", "a.flac"):
        write(tmp_path / name, noise(2))
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / "a.wav", noise(2))
    options = (*SHORT, "--language", "gl", "--to", tmp_path / "t", "--format", "txt")
    run("transcribe", tmp_path / "a.wav", tmp_path / "a.flac", *options)
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["a.flac.txt", "a.wav.txt"]
    done = run("transcribe", tmp_path / "a.wav", tmp_path / "other" / "a.wav", *options)
    assert done.exit_code == 1 and "several recordings are named a" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--language", "klingon"), "Whisper does not know the language 'klingon'"),
        (("--format", "pdf"), "--format is 'pdf': known are txt, srt, vtt, json"),
        (("--piece-seconds", "60"), "--piece-seconds is 60.0"),
        (("--batch-size", "0"), "--batch-size"),
        (("--colour", "red"), "No such option"),
    ],
)
def test_wrong_usage_is_2_and_says_what_is_wrong(talk, options, message):
    done = run("transcribe", talk, *options)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--experts", "no-such-folder"), "no-such-folder"),
        (("--model", "no-such-model"), "no such folder, and not a hub id"),
    ],
)
def test_a_model_that_is_not_there_is_told_as_json_too(tmp_path, talk, options, message):
    done = run("transcribe", talk, *options, "--to", tmp_path / "t", "--json")
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert message in json.dumps(content)
    assert message in done.stderr


# ---- check


def table(folder, *rows, header="path,text,speaker,split"):
    """Write recordings of a table's rows: (text, speaker, split, sound)."""
    folder.mkdir(parents=True)
    lines = [header]
    for number, (text, speaker, split, audio) in enumerate(rows):
        write(folder / f"{number}.wav", audio)
        lines.append(f"{number}.wav,{text},{speaker},{split}")
    (folder / "recordings.csv").write_text("\n".join(lines) + "\n", "utf-8")
    return folder


GOOD = [
    ("Bos días a todos.", "Uxía", "train", noise(2, seed=1)),
    ("Moitas grazas.", "Brais", "validation", noise(2, seed=2)),
    ("Ata mañá.", "Antía", "test", noise(2, seed=3)),
    ("Ata logo.", "Antía", "test", noise(2, seed=4)),
]


def kinds_of(folder):
    return {one["kind"]: one for one in check_folder(folder).content["warnings"]}


def test_a_good_folder_has_no_warnings(tmp_path):
    done = run("check", table(tmp_path / "gl", *GOOD), "--strict", "--json")
    content = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (content["language"], content["clips"], content["speakers"]) == ("gl", 4, 3)
    assert content["minutes"] == 0.13
    assert content["splits"]["test"] == {"clips": 2, "minutes": 0.07, "speakers": {"Antía": 2}}
    assert content["warnings"] == [] and content["dropped"] == [] and content["can_train"]


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("short", ("Si.", "Uxía", "train", noise(0.3))),
        ("long", ("Era unha vez " * 5, "Uxía", "train", noise(7))),
        ("quiet", ("Bo día.", "Uxía", "train", noise(2, 0.002))),
        ("silence", ("Bos días a todos.", "Uxía", "train", speech(0.5, 4, hiss=0.0001))),
        ("clipped", ("Bo día.", "Uxía", "train", np.clip(noise(2, 3), -1, 1))),
        ("fast", ("Isto é demasiado texto " * 4, "Uxía", "train", noise(2))),
        ("slow", ("Si.", "Uxía", "train", noise(4))),
    ],
)
def test_a_sound_that_may_be_wrong_is_named(tmp_path, kind, row):
    warned = kinds_of(table(tmp_path / "gl", *GOOD, row))
    assert warned[kind]["clips"] == ["recordings/gl/4"]
    assert set(warned) == {kind}


def test_where_all_clips_are_too_long_for_training_nothing_can_be_trained(tmp_path):
    rows = [(text, who, split, noise(7)) for text, who, split, _ in GOOD]
    done = run("check", table(tmp_path / "gl", *rows))
    assert done.exit_code == 1
    assert "all clips for train and validation last over 6 s: the preset laptop" in done.stdout


def test_a_test_of_one_clip_is_told_and_has_no_interval(tmp_path):
    warned = kinds_of(table(tmp_path / "gl", *GOOD[:3]))
    assert set(warned) == {"one test clip"}
    options = ("--recordings", tmp_path / "gl", "--preset", "smoke")
    done = run("evaluate", *options)
    assert done.exit_code == 0 and "(one unit: no interval)" in done.stdout
    done = run("evaluate", *options, "--json")
    assert json.loads(done.stdout)["scores"][0]["wer_low"] is None


@pytest.mark.parametrize("name", ["my-clips", "no-noise", "he_talks", "recordings"])
def test_a_folder_that_is_named_by_something_else_is_of_no_language(tmp_path, name):
    done = run("check", table(tmp_path / name, *GOOD))
    assert done.exit_code == 2 and "is not known: give it, such as --language gl" in done.stderr
    assert "of a related one" in " ".join(done.stderr.split())


@pytest.mark.parametrize("name", ["gl", "Galician", "gl-ES", "gl_es"])
def test_a_folder_that_is_named_by_its_language_is_of_it(tmp_path, name):
    assert (
        json.loads(run("check", table(tmp_path / name, *GOOD), "--json").stdout)["language"] == "gl"
    )


def test_a_single_speaker_is_told(tmp_path):
    rows = [(text, "Uxía", split, audio) for text, _, split, audio in GOOD]
    warned = kinds_of(table(tmp_path / "gl", *rows))
    assert set(warned) == {"single speaker", "speaker in two splits"}
    assert "all clips are of one speaker, Uxía" in warned["single speaker"]["text"]


def test_speakers_and_texts_in_two_splits_are_told(tmp_path):
    more = [
        ("Unha cousa nova.", "Antía", "train", noise(2, seed=4)),
        ("ATA MAÑÁ!", "Uxía", "train", noise(2, seed=5)),
    ]
    warned = kinds_of(table(tmp_path / "gl", *GOOD, *more))
    assert "the speaker Antía is in train and test" in warned["speaker in two splits"]["text"]
    assert warned["text in two splits"]["clips"] == ["recordings/gl/2", "recordings/gl/5"]


def test_recordings_without_speakers_are_told(tmp_path):
    rows = [(text, "", split, audio) for text, _, split, audio in GOOD]
    assert set(kinds_of(table(tmp_path / "gl", *rows))) == {"no speaker"}


def test_clips_that_are_left_out_have_a_reason_and_an_empty_split_is_a_problem(tmp_path):
    folder = table(
        tmp_path / "gl",
        *GOOD[:2],
        ("Cala.", "Antía", "test", np.zeros(RATE, dtype=np.float32)),
        ("Longo.", "Antía", "test", noise(31)),
        ("…", "Antía", "test", noise(1)),
    )
    with (folder / "recordings.csv").open("a", encoding="utf-8") as file:
        file.write("none.wav,Nada.,Antía,test\n0.wav,Sobra.,Antía,everywhere\n")
    done = run("check", folder, "--json")
    content = json.loads(done.stdout)
    assert done.exit_code == 1 and not content["can_train"]
    reasons = {one["clip"].split("/")[-1]: one["reason"] for one in content["dropped"]}
    assert reasons == {
        "2": "empty audio",
        "3": "longer than 30 s",
        "4": "empty text",
        "none": "no sound file",
    }
    assert "unknown split 'everywhere'" in content["rows_not_read"][0]
    (warned,) = content["warnings"]
    assert "there are no clips for test" in warned["text"]
    shown = run("check", folder).stdout
    assert "recordings/gl/2: empty audio" in shown and "nothing can be trained" in shown


def test_warnings_alone_are_no_problem_unless_strict(tmp_path):
    folder = table(tmp_path / "gl", *GOOD, ("Si.", "Uxía", "train", noise(4)))
    assert run("check", folder).exit_code == 0
    done = run("check", folder, "--strict")
    assert done.exit_code == 1
    assert "warning: 1 clips under 2 characters a second" in done.stdout


def test_the_language_comes_from_the_folder_or_is_asked_for(tmp_path):
    table(tmp_path / "mine" / "gl", *GOOD)
    assert language_of(tmp_path / "mine" / "gl", None) == "gl"
    assert language_of(tmp_path / "mine", None) == "gl"
    assert language_of(tmp_path / "mine" / "gl" / "recordings.csv", None) == "gl"
    assert language_of(tmp_path / "mine" / "gl", "Portuguese") == "pt"
    done = run("check", table(tmp_path / "interviews", *GOOD))
    assert done.exit_code == 2 and "--language gl" in done.stderr


EXPERTS = ("--system", "experts")


def test_a_folder_that_is_not_there_is_a_problem(tmp_path):
    done = run("check", tmp_path / "gl", "--json")
    assert done.exit_code == 1
    assert f"no folder {tmp_path / 'gl'}" in json.loads(done.stdout)["error"]
    (tmp_path / "gl").mkdir()
    done = run("check", tmp_path / "gl", "--json")
    assert "no recordings in 'gl'" in json.loads(done.stdout)["error"]
    done = run("check", tmp_path / "interviews")
    assert done.exit_code == 1 and "no folder" in done.stderr


# ---- train, evaluate, compare


def test_recordings_become_experts_that_are_scored_shared_and_used(monkeypatch, tmp_path):
    """The whole way: what one command writes, the next one takes."""
    monkeypatch.setattr(long, "MOST_NEW_TOKENS", 4)
    folder = make_recordings(tmp_path / "gl")
    data = ("--recordings", folder, "--preset", "smoke")
    early = run("evaluate", *data, "--system", "experts", "--json")
    assert early.exit_code == 1
    assert "distilwhisper train --system experts" in json.loads(early.stdout)["error"]

    trained = run("train", *data, "--to", tmp_path / "mine", "--json")
    assert trained.exit_code == 0, trained.stderr
    content = json.loads(trained.stdout)
    assert content["runs"] == [
        {"system": "experts", "folder": str(tmp_path / "mine"), "experts": True}
    ]
    assert read_description(tmp_path / "mine")["languages"] == ["gl"]

    both = ("--system", "experts", "--system", "student")
    scored = run("compare", *data, *both, "--json")
    assert scored.exit_code == 0, scored.stderr
    content = json.loads(scored.stdout)
    assert [row["system"] for row in content["scores"]] == ["experts", "student"]
    assert all(row["wer_low"] <= row["wer"] <= row["wer_high"] for row in content["scores"])
    (pair,) = content["pairs"]
    by_system = {row["system"]: row["wer"] for row in content["scores"]}
    expected = by_system["experts"] - by_system["student"]
    assert pair["rate"] == "wer" and pair["difference"] == pytest.approx(expected)
    shown = run("compare", *data, *both)
    assert "WER" in shown.stdout and "below 0 the first is better" in shown.stdout

    scores = tmp_path / "scores.json"
    scores.write_text(run("evaluate", *data, *both, "--json").stdout, "utf-8")
    permission = ("--consent", "--licence", "cc-by-4.0", "--scores", scores)
    assert run("share", tmp_path / "mine", *permission, "--to", tmp_path / "out").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "| in-domain | experts |" in card
    assert "Error rates of these experts stand below, beside those of the systems" in card

    one_only = json.loads(scores.read_text("utf-8"))
    one_only["experts"]["experts"] = {"experts.gl.safetensors": "0" * 64}
    scores.write_text(json.dumps(one_only), "utf-8")
    refused = run("share", tmp_path / "mine", *permission, "--to", tmp_path / "other")
    assert refused.exit_code == 1 and "scores of other experts (experts)" in refused.stderr

    sound = write(tmp_path / "new.wav", noise(3))
    options = ("--language", "gl", "--to", tmp_path / "t", "--json")
    used = run("transcribe", sound, "--experts", tmp_path / "out", *options)
    assert json.loads(used.stdout)["files"][0]["experts"] == "gl"


def test_names_that_look_like_places_are_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("transcribe", "~$0.wav", ".", *SHORT, "--to", tmp_path / "t")
    assert done.exit_code == 1
    assert "no sound file ~$0.wav" in done.stderr and "no sound file .\n" in done.stderr


def test_another_normaliser_scores_what_is_trained(tmp_path):
    data = ("--preset", "smoke")
    assert run("train", *data).exit_code == 0
    done = run("evaluate", *data, "--system", "experts", "--normaliser", "none")
    assert done.exit_code == 0, done.stderr
    assert "normalised by none" in done.stdout


def test_a_model_in_a_folder_is_found_from_everywhere(tmp_path, monkeypatch):
    model = load_whisper("tiny")
    model.save_pretrained(tmp_path / "my-whisper")
    load_processor("tiny").save_pretrained(tmp_path / "my-whisper")
    monkeypatch.chdir(tmp_path)
    data = ("--preset", "smoke", "--student", "my-whisper")
    done = run("train", *data, "--to", "mine")
    assert done.exit_code == 0, done.stderr
    assert read_description(tmp_path / "mine")["base_model"] == str(tmp_path / "my-whisper")
    scores = run("evaluate", "--preset", "smoke", "--student", "./my-whisper", *EXPERTS, "--json")
    (tmp_path / "scores.json").write_text(scores.stdout, "utf-8")
    options = ("--scores", "scores.json", "--to", "out")
    done = run("share", "mine", *PERMISSION, *options)
    assert done.exit_code == 0, done.stderr


def test_a_place_that_cannot_be_written_is_told_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(systems.Where, "open", lambda self: pytest.fail("a lab was opened"))
    (tmp_path / "file").touch()
    done = run("train", "--preset", "smoke", "--to", tmp_path / "file" / "experts")
    assert done.exit_code == 1 and "file cannot be made" in done.stderr


@pytest.mark.parametrize("is_own", [False, True])
def test_batches_are_those_of_the_notebooks_on_a_large_card(tmp_path, monkeypatch, is_own):
    monkeypatch.setattr(lab_module, "card_memory_gb", lambda device: 80.0)
    folder = make_recordings(tmp_path / "gl") if is_own else None
    own = systems.Where("colab", recordings=folder).open().preset
    of_notebooks = Lab("colab").preset
    assert own.eval_batch_size == of_notebooks.eval_batch_size == 64
    assert (own.batch_size, own.accumulation) == (16, 1)


def test_a_lack_of_memory_is_answered_as_json_and_a_traceback_is_shown_where_wanted(
    tmp_path, monkeypatch
):
    def fails(*_, **__):
        raise MemoryError

    monkeypatch.setattr(folder_check, "check_folder", fails)
    folder = table(tmp_path / "gl", *GOOD)
    done = run("check", folder, "--json")
    assert done.exit_code == 1 and "out of memory" in json.loads(done.stdout)["error"]
    assert "Traceback" not in done.stderr
    monkeypatch.setenv("LAB_TRACEBACK", "1")
    assert "Traceback" in run("check", folder).stderr


def test_a_fault_of_the_program_is_not_taken_for_bad_input(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_check, "check_folder", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("check", table(tmp_path / "gl", *GOOD))


def test_a_script_without_spaces_is_scored_by_characters(tmp_path):
    folder = make_recordings(tmp_path / "th")
    data = ("--recordings", folder, "--preset", "smoke")
    done = run("evaluate", *data)
    assert done.exit_code == 0, done.stderr
    assert "CER" in done.stdout and "WER" not in done.stdout
    assert "normalised by keep-marks" in done.stdout
    content = json.loads(run("evaluate", *data, "--json").stdout)
    assert content["main_rate"] == "cer"
    assert content["scores"][0]["wer"] is not None  # programs get both


def test_counts_in_characters_give_the_cer():
    references = ["สวัสดีครับ", "ขอบคุณมาก", "ลาก่อน"]
    counted = count_errors(references, ["สวัสดี", "ขอบคุณ", "ลาก่อนนะ"], "keep-marks")
    counted["id"] = counted["unit"] = ["a", "b", "c"]
    right = count_errors(references, references, "keep-marks").assign(**counted[["id", "unit"]])
    expected = summarise(counted)["cer"]
    found = difference(systems.in_characters(counted), systems.in_characters(right))
    assert 0 < expected == pytest.approx(found["difference"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("compare", "--system", "student"), "two systems or more"),
        (("compare", "--system", "student", "--system", "student"), "two systems or more"),
        (("evaluate", "--system", "magic"), "--system is 'magic'"),
        (("evaluate", "--preset", "huge"), "unknown preset 'huge'"),
        (("evaluate", "--corpus", "mine"), "--corpus is 'mine'"),
        (("evaluate", "--corpus", "toy", "--recordings", "x"), "give either --recordings"),
        (("evaluate", "--normaliser", "loud"), "--normaliser is 'loud'"),
        (("train", "--system", "student"), "--system is 'student'"),
        (("train", "--system", "lora", "--to", "x"), "--to takes one system with experts"),
    ],
)
def test_wrong_usage_of_systems_is_2(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check",), "Missing argument"),
        (("check", "x", "--colour", "red"), "No such option"),
        (("nonsense",), "No such command"),
        (("evaluate", "--system", "magic"), "--system is 'magic'"),
    ],
)
def test_wrong_usage_is_answered_as_json_where_json_is_wanted(arguments, message):
    done = run(*arguments, "--json")
    assert done.exit_code == 2 and message in json.loads(done.stdout)["error"]
    assert message in " ".join(done.stderr.split())


def test_a_test_that_is_not_there_is_named():
    done = run("evaluate", "--preset", "smoke", "--test", "loud")
    assert done.exit_code == 1
    assert "unknown test 'loud': in cs there are in-domain" in done.stderr


def test_a_corpus_at_a_preset_keeps_the_name_of_the_preset():
    assert systems.Where("smoke").open().preset.name == "smoke"
    changed = systems.Where("smoke", language="Dutch").open().preset
    assert (changed.name, changed.language) == ("smoke-toy-nl", "nl")
    assert changed.normaliser == get_preset("smoke").normaliser


# ---- share


PERMISSION = ("--consent", "--licence", "cc-by-4.0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "Missing is --consent (consent=True): the people"),
        ((), "have agreed to it, and --licence (licence=): how"),
        (("--consent",), "Missing is --licence"),
        (("--consent", "--licence", " "), "Missing is --licence"),
        (("--licence", "cc-by-4.0"), "Missing is --consent"),
    ],
)
def test_nothing_is_shared_without_consent_and_licence(tmp_path, experts, options, message):
    done = run("share", experts, *options, "--to", tmp_path / "out")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_borrowed_token_is_named_in_the_card(tmp_path, experts):
    spoken = ("--spoken", "Fala", "--to", tmp_path / "out")
    done = run("share", experts, *PERMISSION, *spoken)
    assert done.exit_code == 0, done.stderr
    assert "experts for Fala" in done.stdout
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "# Experts for Fala, with the token of Galician (tiny)" in card
    assert "The recordings are in Fala" in card and "Whisper is told Galician (gl)" in card
    assert "language:" not in card.split("---")[1]  # the hub would list them as Galician
    assert expert_languages(load_experts(load_whisper("tiny"), tmp_path / "out")) == ["gl"]

    without = run("share", experts, *PERMISSION, "--spoken", " ", "--to", tmp_path / "other")
    assert without.exit_code == 1 and "cannot be the spoken language" in without.stderr
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("where", [(), ("--to", "x", "--hub", "user/x")])
def test_experts_go_to_one_place(experts, where):
    done = run("share", experts, *PERMISSION, *where)
    assert done.exit_code == 2 and "either --to" in done.stderr


def test_a_zip_can_be_loaded_and_has_a_card(tmp_path, experts):
    done = run("share", experts, *PERMISSION, "--to", tmp_path / "galego.zip", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["languages"] == ["gl"]
    with zipfile.ZipFile(tmp_path / "galego.zip") as archive:
        archive.extractall(tmp_path / "got")
    folder = tmp_path / "got" / "galego"
    assert expert_languages(load_experts(load_whisper("tiny"), folder)) == ["gl"]
    card = (folder / "README.md").read_text("utf-8")
    assert "license: cc-by-4.0" in card
    assert "the people who were recorded have agreed to it" in card
    assert "No error rate was given" in card


def test_no_path_of_this_machine_is_shared(tmp_path):
    model = attach_experts(load_whisper("tiny"), ["gl"])
    model.config._name_or_path = str(tmp_path / "secret" / "my-whisper")
    folder = save_experts(model, tmp_path / "from-folder")
    assert run("share", folder, *PERMISSION, "--to", tmp_path / "out").exit_code == 0
    assert read_description(tmp_path / "out")["base_model"] == "my-whisper"
    for path in (tmp_path / "out").glob("*.[jm]*"):
        assert "secret" not in path.read_text("utf-8")


def test_damaged_experts_are_not_shared(tmp_path, experts):
    path = experts / "experts.gl.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = run("share", experts, *PERMISSION, "--to", tmp_path / "out")
    assert done.exit_code == 1 and "experts.gl.safetensors" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_not_replaced(tmp_path, experts):
    (tmp_path / "out").mkdir()
    done = run("share", experts, *PERMISSION, "--to", tmp_path / "out")
    assert done.exit_code == 1 and "exists" in done.stderr


def test_experts_are_pushed_with_their_card(tmp_path, experts):
    with hub_stand_in(tmp_path) as hub:
        hub.log_in("user")
        done = run("share", experts, *PERMISSION, "--hub", "user/galego", "--json")
        assert done.exit_code == 0, done.stderr
        assert "user/galego/commit/" in json.loads(done.stdout)["shared"]
        assert expert_languages(load_experts(load_whisper("tiny"), "user/galego")) == ["gl"]


def scored(system):
    """Return a row of scores as `evaluate --json` prints it."""
    rates = {f"{rate}{end}": 50.0 for rate in ("wer", "cer") for end in ("", "_low", "_high")}
    return {"system": system, "test": "in-domain", "n": 9, **rates}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"language": "gl", "student": "tiny", "scores": []}, "holds no scores of experts"),
        ({"language": "gl", "student": "tiny", "scores": "abc"}, "holds other scores"),
        ({"language": "gl", "student": "tiny", "scores": [{"test": "a"}]}, "holds other scores"),
        ({"language": "gl", "student": "tiny", "scores": [scored("student")]}, "of experts"),
        ({"language": "cs", "student": "tiny", "scores": [scored("experts")]}, "scores of 'cs'"),
        ({"language": "gl", "student": "other", "scores": [scored("experts")]}, "scores of other"),
        (
            {
                "language": "gl",
                "student": "tiny",
                "scores": [scored("experts")],
                "experts": {"experts": {"experts.gl.safetensors": "0" * 64}},
            },
            "scores of other experts (experts)",
        ),
        ({"error": "there is no table"}, "failed: there is no table"),
        ({"language": "gl"}, "damaged"),
    ],
)
def test_scores_of_something_else_are_refused(tmp_path, experts, content, message):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(content), "utf-8")
    done = run("share", experts, *PERMISSION, "--to", tmp_path / "out", "--scores", path)
    assert done.exit_code == 1 and message in done.stderr


def test_scores_that_do_not_say_of_which_experts_are_taken_and_that_is_told(tmp_path, experts):
    path = tmp_path / "scores.json"
    about = {"language": "gl", "student": "tiny", "scores": [scored("experts")]}
    path.write_text(json.dumps(about), "utf-8")
    done = run("share", experts, *PERMISSION, "--to", tmp_path / "out", "--scores", path)
    assert done.exit_code == 0
    assert "does not say which experts it is of: it is taken for these" in done.stderr
    assert "Error rates of these experts stand below." in (tmp_path / "out/README.md").read_text()


def test_a_zip_is_unpacked_before_it_is_used(tmp_path, experts, talk):
    done = run("share", experts, *PERMISSION, "--to", tmp_path / "galego.zip")
    assert done.exit_code == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "galego.zip") as archive:
        card = archive.read("galego/README.md").decode()
    assert 'load_experts(model, "path/to/galego")' in card and "This folder holds" in card
    done = run("transcribe", talk, "--experts", tmp_path / "galego.zip", "--to", tmp_path / "t")
    assert done.exit_code == 1 and "galego.zip is a file: unpack it" in done.stderr
    done = run("share", experts, *PERMISSION, "--to", tmp_path / "galego.tar.gz")
    assert done.exit_code == 1 and "the only archive that is written is a zip" in done.stderr


def test_the_commands_run_by_the_module_too(tmp_path):
    command = [sys.executable, "-m", "distilwhisper_lib", "check", table(tmp_path / "gl", *GOOD)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 0 and "Galician, 4 clips" in done.stdout


def test_a_language_without_a_token_is_told(tmp_path, talk):
    done = run("transcribe", talk, *SHORT, "--language", "yue", "--to", tmp_path / "t")
    assert done.exit_code == 1 and "yue came with large-v3: use zh before" in done.stderr


def test_a_licence_in_words_is_in_the_text_of_the_card_alone(experts):
    card = str(experts_card(read_description(experts), "For research, ask the archive", None))
    assert "license:" not in card
    assert "The experts: For research, ask the archive" in card


def test_on_a_terminal_both_are_asked_for(monkeypatch, tmp_path, experts):
    class Terminal:
        stdin = type("Input", (), {"isatty": staticmethod(lambda: True)})

    monkeypatch.setattr(app_module, "sys", Terminal)
    arguments = ["share", str(experts), "--to", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, arguments, input="n\ncc-by-4.0\n")
    assert refused.exit_code == 2 and not (tmp_path / "out").exists()
    agreed = CliRunner().invoke(app, arguments, input="y\ncc-by-4.0\n")
    assert agreed.exit_code == 0, agreed.stderr
    assert "agreed to it?" in agreed.stderr


# ---- all commands


COMMANDS = ("check", "train", "evaluate", "transcribe", "compare", "share")


def test_help_names_all_commands_and_each_explains_its_options():
    done = run("--help")
    assert done.exit_code == 0
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    for name in COMMANDS:
        text = run(name, "--help").stdout
        assert "Example: distilwhisper " in " ".join(text.split())
        assert "Exit status: 0 done, 1 a problem" in text
        options = text.partition("\nOptions:\n")[2]
        for option in re.findall(r"(?m)^  (--\S+.*(?:\n {10,}.*)*)", options):
            assert len(option.split()) > 3, f"{name}: no help for {option}"


def test_the_commands_of_the_page_and_of_the_help_have_known_options():
    page = (REPOSITORY / "docs" / "command-line.md").read_text("utf-8")
    lines = re.findall(r"(?m)^\.venv/bin/(distilwhisper .*)$", page)
    group = typer.main.get_command(app)
    for name in COMMANDS:
        lines += re.findall(r"Example: (.*)", " ".join(group.commands[name].help.split()))
    assert len(lines) >= 8 + len(COMMANDS)
    for line in lines:
        _, name, *arguments = shlex.split(line.partition(" > ")[0])
        group.commands[name].make_context(name, arguments)  # raises for an unknown option


def test_the_program_starts_without_loading_torch():
    code = (
        "import sys\nfrom distilwhisper_lib.cli.app import main\n"
        "sys.argv = ['distilwhisper', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    status = stop.code\n"
        "print('torch' in sys.modules, status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: distilwhisper ")
    assert done.stdout.endswith("False 0\n")


def test_the_program_is_declared():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"] == {"distilwhisper": "distilwhisper_lib.cli.app:main"}
    assert any(name.startswith("typer") for name in project["dependencies"])
