"""Long sound in pieces that Whisper hears at once, cut at pauses."""

from dataclasses import dataclass

import numpy as np

from ..checks import check_number
from ..data.audio import SAMPLE_RATE

LONGEST = 30.0  # s, Whisper's window
SHORTEST_LIMIT = 2.0  # s, the least that `longest` may be
REST = 1.0  # s, the least that is left for the last piece

FRAME = 0.02  # s, for which a level is measured
SMOOTHING = 5  # frames: the closure of a plosive, some 0.05 s, is no pause
FLOOR = 1e-10  # power, -100 dB: digital silence

PAUSE = 0.3  # of the way from the quietest frame's level to the loud frames', both in dB
LOUD_SHARE = 95  # per cent of frames below the loud level

SILENT = -60.0  # dB of full scale; a piece without a louder frame is silent


@dataclass(frozen=True)
class Piece:
    """A part of a sound.

    Attributes:
        start: First sample.
        end: Sample after the last one.
    """

    start: int
    end: int

    @property
    def seconds(self) -> float:
        """Return how long the piece lasts."""
        return (self.end - self.start) / SAMPLE_RATE


def cut_at_pauses(audio: np.ndarray, longest: float = LONGEST) -> list[Piece]:
    """Return pieces that follow one another and hold the whole sound.

    A cut lies in the middle of the longest pause of the second half of what a piece may hold. Where
    nobody pauses there, it lies at the longest of the quiet moments.

    Args:
        audio: The sound (n,) at 16 kHz.
        longest: Seconds of a piece, at most.

    Returns:
        The pieces; one for a sound of up to `longest` seconds, none for an empty one.

    Raises:
        ValueError: Unless `longest` is a number from 2 to 30.
    """
    check_number("longest", longest, low=SHORTEST_LIMIT, high=LONGEST)
    frame = round(FRAME * SAMPLE_RATE)
    most = int(longest / FRAME)
    rest = round(REST / FRAME)
    levels = frame_levels(audio)

    pieces = []
    start = 0  # in frames
    while len(audio) - start * frame > longest * SAMPLE_RATE:
        window = levels[start : start + most]
        middle = most // 2
        end = max(middle + 1, min(most, len(levels) - start - rest))
        cut = start + _place_to_cut(window, middle, end)
        pieces.append(Piece(start * frame, cut * frame))
        start = cut
    if len(audio) > start * frame:
        pieces.append(Piece(start * frame, len(audio)))
    return pieces


def frame_levels(audio: np.ndarray) -> np.ndarray:
    """Return the level of each whole frame of 20 ms, smoothed, in dB of full scale.

    Args:
        audio: The sound (n,) at 16 kHz.

    Returns:
        (n // 320,), from -100 on.
    """
    frame = round(FRAME * SAMPLE_RATE)
    count = len(audio) // frame
    frames = audio[: count * frame].reshape(count, frame)
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    if count >= SMOOTHING:
        kernel = np.full(SMOOTHING, 1 / SMOOTHING)
        weights = np.convolve(np.ones(count), kernel, "same")  # less than 1 at both ends
        power = np.convolve(power, kernel, "same") / weights
    return 10 * np.log10(np.maximum(power, FLOOR))


def is_silent(audio: np.ndarray) -> bool:
    """Return whether no frame of a sound (n,) is louder than -60 dB of full scale."""
    levels = frame_levels(audio)
    return not levels.size or bool(levels.max() < SILENT)


def _place_to_cut(levels: np.ndarray, first: int, end: int) -> int:
    """Return the frame before which to cut.

    Args:
        levels: Of all frames that a piece may hold, in dB.
        first: The first frame that may be chosen.
        end: The frame after the last one that may be chosen.
    """
    searched = levels[first:end]
    low = max(searched.min(), SILENT)
    high = max(np.percentile(levels, LOUD_SHARE), low)
    is_quiet = searched <= low + PAUSE * (high - low)

    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_quiet.astype(int), [0]])))
    starts = edges[::2]
    ends = edges[1::2]
    lengths = ends - starts
    chosen = int(np.flatnonzero(lengths == lengths.max())[-1])  # of equals the latest
    return first + int(starts[chosen] + ends[chosen]) // 2
