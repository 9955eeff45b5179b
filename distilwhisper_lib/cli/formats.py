"""A transcript as a file: plain text, subtitles (SRT, WebVTT) or JSON."""

import html
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Segment:
    """What is said in a piece of a recording.

    Attributes:
        start: Seconds from the beginning of the recording.
        end: The same, of the piece's end.
        text: On one line; "" where nothing is said.
        silent: Whether the piece was too quiet to be transcribed.
        loop: Whether the text repeats itself, as Whisper does where it fails.
    """

    start: float
    end: float
    text: str
    silent: bool = False
    loop: bool = False


@dataclass(frozen=True)
class Transcript:
    """The transcript of a recording.

    Attributes:
        file: Name of the recording.
        seconds: Its length.
        model: Name of the Whisper.
        language: Code.
        detected: Whether the language was detected, not given.
        experts: Code of the language whose experts were used; None for plain Whisper.
        segments: In order.
    """

    file: str
    seconds: float
    model: str
    language: str
    detected: bool
    experts: str | None
    segments: list[Segment]

    @property
    def spoken(self) -> list[Segment]:
        """Return the segments with a text."""
        return [segment for segment in self.segments if segment.text]

    def content(self) -> dict[str, Any]:
        """Return the transcript for JSON, with the whole text."""
        return {"text": " ".join(one.text for one in self.spoken), **asdict(self)}


def as_text(transcript: Transcript) -> str:
    """Return the texts, a line for each piece."""
    return "".join(f"{segment.text}\n" for segment in transcript.spoken)


def as_srt(transcript: Transcript) -> str:
    """Return the transcript as SubRip subtitles."""
    cues = []
    for number, segment in enumerate(transcript.spoken, 1):
        times = f"{clock(segment.start, ',')} --> {clock(segment.end, ',')}"
        cues.append(f"{number}\n{times}\n{segment.text}\n")
    return "\n".join(cues)


def as_vtt(transcript: Transcript) -> str:
    """Return the transcript as WebVTT subtitles."""
    cues = ["WEBVTT\n"]
    for segment in transcript.spoken:
        times = f"{clock(segment.start, '.')} --> {clock(segment.end, '.')}"
        cues.append(f"{times}\n{html.escape(segment.text, quote=False)}\n")
    return "\n".join(cues)


def as_json(transcript: Transcript) -> str:
    """Return the transcript as JSON."""
    return json.dumps(transcript.content(), ensure_ascii=False, indent=1) + "\n"


# Ending of the file -> how it is made.
FORMATS: dict[str, Callable[[Transcript], str]] = {
    "txt": as_text,
    "srt": as_srt,
    "vtt": as_vtt,
    "json": as_json,
}


def clock(seconds: float, mark: str) -> str:
    """Return a time as "00:01:02,500".

    Args:
        seconds: From the beginning.
        mark: Between seconds and thousandths.
    """
    total = round(seconds * 1000)
    minutes, thousandths = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{thousandths // 1000:02}{mark}{thousandths % 1000:03}"


def duration(seconds: float) -> str:
    """Return a length for a reader: "45 s", "12.5 min" or "1 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min"
