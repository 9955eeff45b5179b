"""Transcripts of long recordings: cut at pauses, transcribed piece by piece, resumable."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..checks import check_choice, check_number
from ..data.audio import SAMPLE_RATE, log_mel, pad_features, read_audio
from ..data.batches import window_frames
from ..data.corpora.items import distinct_ids
from ..device import autocast, mixed_precision, pick_device, release_memory
from ..evaluation.scoring import is_loop
from ..evaluation.transcription import FixedLimits, generate_batch
from ..files import (
    atomic_file,
    cache_dir,
    check_writable,
    expanded,
    file_sha256,
    one_at_a_time,
    read_json,
    short_hash,
    tell,
    write_json,
)
from ..method.blocks import expert_languages
from ..method.languages import use_language
from ..method.loading import load_experts
from ..method.sharing import experts_folder
from ..method.storage import read_description
from ..presets import LAPTOP, MOST_NEW_TOKENS
from ..training.config import identify
from ..whisper.loading import load_processor, load_whisper
from ..whisper.tokens import LANGUAGES, language_code, prefix_tokens
from ..whisper.window import use_window
from .answers import Answer
from .formats import FORMATS, Segment, Transcript, duration
from .pauses import LONGEST, Piece, cut_at_pauses, is_silent

USUAL_MODEL = "openai/whisper-base"
AUTO = "auto"
WITH_EXPERTS = LAPTOP.max_train_seconds or LONGEST  # s of a piece: the clips they are trained on
VERSION = 1  # raise it when transcripts change: earlier ones are then not taken up
LISTENED = 3  # pieces from which a language is detected


@dataclass(frozen=True)
class Settings:
    """What all files of a call share.

    Attributes:
        model: Name of a Whisper or its folder; None: the one that the experts belong to.
        experts: Folder of experts, or their name on the hub; None: plain Whisper.
        language: A code or a name; "auto": detected for each file; None: that of the experts where
            they are for one language, else "auto".
        piece_seconds: Of a piece, at most; None: 30 s, with experts as long as the clips that they
            are trained on at the preset laptop. On longer pieces these leave text out.
        batch_size: Pieces that are transcribed together.
        formats: Endings of the files to write.
        folder: Where they are written.
        overwrite: Whether other files there are replaced.

    Raises:
        ValueError: For a language, a format or a number that cannot be.
    """

    model: str | None = None
    experts: str | None = None
    language: str | None = None
    piece_seconds: float | None = None
    batch_size: int = 1
    formats: Sequence[str] = tuple(FORMATS)
    folder: Path = Path("transcripts")
    overwrite: bool = False
    code: str | None = field(init=False, default=None)

    def __post_init__(self):
        if self.piece_seconds is not None:
            check_number("--piece-seconds", self.piece_seconds, low=2, high=LONGEST)
        object.__setattr__(self, "folder", expanded(self.folder))
        check_number("--batch-size", self.batch_size, low=1, whole=True)
        for name in self.formats:
            check_choice("--format", name, FORMATS)
        if self.language not in (None, AUTO):
            object.__setattr__(self, "code", language_code(self.language))


class Transcriber:
    """A Whisper, with experts or without, that is loaded when it is first needed.

    Args:
        settings: Of the call.

    Raises:
        FileNotFoundError: For a model or experts that are not there.
        ValueError: For damaged ones.
    """

    def __init__(self, settings: Settings):
        self.settings = settings
        self.device = pick_device()
        self._experts = experts_folder(settings.experts) if settings.experts else None
        base = None
        self.code: str | None = settings.code  # of the language; None: it is detected
        if self._experts is not None:
            description = read_description(self._experts)
            base = description["base_model"]
            if settings.language is None and len(description["languages"]) == 1:
                self.code = description["languages"][0]
        self.name: str = settings.model or base or USUAL_MODEL
        self.seconds_per_second: float | None = None  # of computing for a second of sound

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a transcript depends on beside the recording."""
        experts = []
        if self._experts is not None:
            paths = [*self._experts.glob("*.json"), *self._experts.glob("*.safetensors")]
            experts = [[path.name, file_sha256(path)] for path in sorted(paths)]
        return {
            "version": VERSION,
            "model": identify(self.name).content,
            "experts": experts,
            "language": self.code or AUTO,
            "piece_seconds": self.settings.piece_seconds,
            "batch_size": self.settings.batch_size,
            "precision": mixed_precision(self.device),
        }

    @cached_property
    def processor(self):
        """Tokenizer and feature extractor."""
        return load_processor(self.name)

    @cached_property
    def model(self):
        """The Whisper; ValueError where it has no token for the language."""
        if self.code is not None:
            prefix_tokens(self.processor.tokenizer, self.code)
        model = load_whisper(self.name)
        if self._experts is not None:
            load_experts(model, self._experts)
        return model.to(self.device).eval()

    def experts_for(self, code: str) -> str | None:
        """Return the language whose experts are used: `code`, or None where there are none."""
        if self._experts is None:
            return None
        return code if code in expert_languages(self.model) else None

    def detect(self, sounds: list[np.ndarray]) -> str:
        """Return the language that plain Whisper hears most often in pieces of a recording."""
        codes = [self._language_of(sound) for sound in sounds]
        return Counter(codes).most_common(1)[0][0]  # of equals the first

    def _language_of(self, sound: np.ndarray) -> str:
        """Return the language of a piece (n,)."""
        features = self._features([sound]).to(self.device, self.model.dtype)
        with (
            torch.no_grad(),
            use_window(self.model, features.shape[-1]),
            use_language(self.model, None),
            autocast(self.device, self.model.dtype),
        ):
            ids = self.model.detect_language(input_features=features)
        token = self.processor.tokenizer.convert_ids_to_tokens([int(ids[0])])[0]
        return language_code(token)

    def texts(self, sounds: list[np.ndarray], code: str) -> list[str]:
        """Return what is said in pieces (n,) of a recording in a language.

        How long that takes for a second of sound is kept from the first call.
        """
        begin = time.perf_counter()
        with use_language(self.model, self.experts_for(code)):
            texts = generate_batch(
                self.model,
                self.processor.tokenizer,
                self._features(sounds),
                code,
                "transcribe",
                FixedLimits(self.settings.batch_size, MOST_NEW_TOKENS),
            )
        if self.seconds_per_second is None:
            seconds = sum(len(sound) for sound in sounds) / SAMPLE_RATE
            self.seconds_per_second = (time.perf_counter() - begin) / seconds
        release_memory()
        return texts

    def _features(self, sounds: list[np.ndarray]) -> torch.Tensor:
        """Return log-mel features (B, bands, F), as much silence at their ends as in `evaluate`."""
        extractor = self.processor.feature_extractor
        features = [log_mel(sound, extractor) for sound in sounds]
        longest = max(one.shape[-1] for one in features)
        return pad_features(features, window_frames(longest, LAPTOP.margin_seconds))


# ---- all files of a call


def transcribe_files(files: list[Path], settings: Settings) -> Answer:
    """Transcribe recordings and write their transcripts; one that fails does not stop the others.

    Args:
        files: The recordings.
        settings: How, and where to.

    Raises:
        ValueError: For a recording that is given twice.
        OSError: Where nothing can be written, before anything is computed.
    """
    files = [expanded(file) for file in files]
    names = _names(files)
    check_writable(settings.folder)
    transcriber = Transcriber(settings)
    done, lines, problems = [], [], []
    for file, name in zip(files, names, strict=True):
        try:
            transcript, paths = _transcribe_file(file, name, transcriber)
        except (ValueError, OSError) as error:
            reason = str(error)
            problems.append(f"error: {reason if str(file) in reason else f'{file}: {reason}'}")
            done.append({"file": str(file), "error": reason})
            continue
        loops = [segment.start for segment in transcript.segments if segment.loop]
        done.append(
            {
                "file": str(file),
                "seconds": transcript.seconds,
                "language": transcript.language,
                "detected": transcript.detected,
                "experts": transcript.experts,
                "pieces": len(transcript.segments),
                "repeated_at": loops,
                "written": [str(path) for path in paths],
            }
        )
        lines.append(f"{file}: {_in_words(transcript)}: {', '.join(map(str, paths))}")
        if loops:
            places = ", ".join(duration(start) for start in loops)
            lines.append(f"  the text repeats itself at {places}: listen there")
    content = {"model": transcriber.name, "files": done}
    return Answer(content, "\n".join(lines), 1 if problems else 0, problems)


def _names(files: list[Path]) -> list[str]:
    """Return the name that each recording's transcripts have, without ending.

    Raises:
        ValueError: Where two would have the same.
    """
    names = distinct_ids("", [PurePosixPath(file.absolute().name or "root") for file in files])
    doubled = [name for name, count in Counter(names).items() if count > 1]
    if doubled:
        raise ValueError(
            f"several recordings are named {doubled[0]}: transcribe them in calls of their own, "
            "each with another --to FOLDER"
        )
    return names


def _in_words(transcript: Transcript) -> str:
    """Return length, language and experts for a reader."""
    language = LANGUAGES[transcript.language].title()
    how = "detected" if transcript.detected else "given"
    used = (
        f"{LANGUAGES[transcript.experts].title()} experts" if transcript.experts else "no experts"
    )
    return f"{duration(transcript.seconds)}, {language} ({how}), {used}"


# ---- one file


def _transcribe_file(
    file: Path, name: str, transcriber: Transcriber
) -> tuple[Transcript, list[Path]]:
    """Return the transcript of a recording and the files that hold it."""
    settings = transcriber.settings
    targets = {ending: settings.folder / f"{name}.{ending}" for ending in settings.formats}
    audio = read_audio(file, longest=None)
    if is_silent(audio):
        raise ValueError(f"{file}: nothing is louder than -60 dB: record it anew, or louder")

    depends = {"recording": file_sha256(file), **transcriber.identity}
    record = cache_dir() / "transcripts" / f"{short_hash([name, depends])}.json"
    with one_at_a_time(record):
        work = _Work(record, audio, transcriber)
        if not work.is_done:
            _refuse_existing(targets, settings)
            work.finish(file.name)
        transcript = Transcript(
            file=file.name,
            seconds=round(len(audio) / SAMPLE_RATE, 3),
            model=transcriber.name,
            language=work.language,
            detected=transcriber.code is None,
            experts=work.experts,
            segments=work.segments,
        )
    contents = {path: FORMATS[ending](transcript) for ending, path in targets.items()}
    _refuse_existing(targets, settings, contents)
    for path, text in contents.items():
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return transcript, list(contents)


def _refuse_existing(
    targets: dict[str, Path], settings: Settings, contents: dict[Path, str] | None = None
) -> None:
    """Raise FileExistsError where a transcript would replace another file.

    Args:
        targets: The files to write.
        settings: Of the call.
        contents: What is to be written; a file that holds it already does no harm.
    """
    if settings.overwrite:
        return
    for path in targets.values():
        if not path.exists():
            continue
        if contents is not None and path.is_file() and path.read_bytes() == contents[path].encode():
            continue
        found = "exists" if contents is None else "exists, with another content"
        raise FileExistsError(
            f"{path} {found}: give --overwrite to replace it, or another --to FOLDER"
        )


class _Work:
    """The pieces of a recording, of which some may have been transcribed by an earlier call.

    Args:
        path: The record of what is done.
        audio: The recording (n,).
        transcriber: Transcribes its pieces.
    """

    def __init__(self, path: Path, audio: np.ndarray, transcriber: Transcriber):
        self._path = path
        self._audio = audio
        self._transcriber = transcriber
        record = read_json(path)
        self.language: str = record.get("language", "")
        self.experts: str | None = record.get("experts")
        self.segments = [Segment(**one) for one in record.get("segments", [])]

    @cached_property
    def _pieces(self) -> list[Piece]:
        """The pieces, as long as the experts take them; first asked for with the language known."""
        longest = self._transcriber.settings.piece_seconds
        if longest is None:
            longest = WITH_EXPERTS if self.experts else LONGEST
        return cut_at_pauses(self._audio, longest)

    @property
    def is_done(self) -> bool:
        """Return whether all pieces are transcribed."""
        return bool(self.language) and len(self.segments) == len(self._pieces)

    def finish(self, name: str) -> None:
        """Transcribe the pieces that are missing; each is kept as soon as it is there.

        Args:
            name: Of the recording.
        """
        if not self.language:
            self._choose_language(name)
        total = self._seconds(len(self._pieces))
        kept = len(self.segments)
        already = f", {kept} of them transcribed before" if kept else ""
        tell(f"{name}: {duration(total)} of sound in {len(self._pieces)} pieces{already}")
        self._tell_time_left()
        with _progress(name, total, self._seconds(kept)) as bar:
            while not self.is_done:
                begin = len(self.segments)
                is_measured = self._transcriber.seconds_per_second is not None
                self._transcribe_some()
                bar.update(round(self._seconds(len(self.segments)) - self._seconds(begin), 1))
                if not is_measured:
                    self._tell_time_left()

    def _seconds(self, count: int) -> float:
        """Return how long the first pieces last together."""
        return sum(piece.seconds for piece in self._pieces[:count])

    def _sound(self, piece: Piece) -> np.ndarray:
        return self._audio[piece.start : piece.end]

    def _choose_language(self, name: str) -> None:
        """Take the language that is given, or detect it; say which experts are used."""
        given = self._transcriber.code
        if given is None:
            pieces = cut_at_pauses(self._audio)
            loud = [piece for piece in pieces if not is_silent(self._sound(piece))]
            places = np.linspace(0, len(loud) - 1, min(LISTENED, len(loud))).astype(int)
            sounds = [self._sound(loud[place]) for place in places]
            self.language = self._transcriber.detect(sounds)
        else:
            self.language = given
        self.experts = self._transcriber.experts_for(self.language)

        language = LANGUAGES[self.language].title()
        found = f"the language is {language}" if given else f"the language detected is {language}"
        if self.experts:
            used = "its experts are used"
        elif self._transcriber.settings.experts:
            known = ", ".join(expert_languages(self._transcriber.model))
            used = f"plain Whisper is used, for there are experts only for {known}"
        else:
            used = "plain Whisper is used"
        tell(f"{name}: {found}; {used}")

    def _tell_time_left(self) -> None:
        """Say how long the missing pieces will take, once that has been measured."""
        speed = self._transcriber.seconds_per_second
        left = self._seconds(len(self._pieces)) - self._seconds(len(self.segments))
        if speed is not None and left > 0:
            tell(f"about {duration(speed * left)} for the {duration(left)} of sound that are left")

    def _transcribe_some(self) -> None:
        """Transcribe the next pieces, as many as go together, and keep what is done."""
        begin = len(self.segments)
        size = self._transcriber.settings.batch_size
        if self._transcriber.seconds_per_second is None:
            size = 1  # the time is known soon
        pieces = self._pieces[begin : begin + size]
        loud = [piece for piece in pieces if not is_silent(self._sound(piece))]
        texts = {}
        if loud:
            found = self._transcriber.texts([self._sound(piece) for piece in loud], self.language)
            texts = dict(zip(loud, found, strict=True))
        for piece in pieces:
            text = texts.get(piece, "")
            self.segments.append(
                Segment(
                    start=round(piece.start / SAMPLE_RATE, 3),
                    end=round(piece.end / SAMPLE_RATE, 3),
                    text=text,
                    silent=piece not in texts,
                    loop=is_loop(text),
                )
            )
        segments = [asdict(segment) for segment in self.segments]
        content = {"language": self.language, "experts": self.experts, "segments": segments}
        write_json(self._path, content, sealed=True)


@contextmanager
def _progress(name: str, total: float, done: float) -> Iterator[tqdm]:
    """Yield a progress bar in seconds of sound; it is shown on a terminal alone."""
    form = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    with tqdm(
        desc=name, total=total, initial=done, bar_format=form, disable=None, file=sys.stderr
    ) as bar:
        yield bar
