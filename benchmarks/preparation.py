"""Preparing Common Voice in three sizes, against mere decoding of its clips.

    make benchmark NAME=preparation [ARGS=--quick]

A release of made-up clips (MP3, 32 kHz, 5 s) stands for Common Voice, its sizes scaled down: the
largest has --clips training clips, the others 10/28 and 3/28 of them, as 28k, 10k and 3k. Runs:

decoding   each clip of the largest size read once, resampled to 16 kHz, and forgotten, by as many
           processes as the library takes; they have begun before. The baseline
largest    the largest size prepared from nothing: choice by votes, decoding, FLAC, hashes, tables
smaller    the two smaller sizes after it
apart      each of the three sizes from nothing, as if the others were not there

Floor, a lower bound: libsndfile and soxr alone on sounds in memory, and for what is prepared
libsndfile's FLAC encoder, by one thread, divided by the number of processes. Seconds are of the
clock; the last column but one compares the processor's seconds, which others on the machine disturb
less.
"""

import argparse
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import soxr

from distilwhisper_lib.data.audio import SAMPLE_RATE, read_audio
from distilwhisper_lib.data.corpora import common_voice
from distilwhisper_lib.data.corpora.decoding import cores, processes_for
from distilwhisper_lib.data.corpora.loading import load_corpus
from distilwhisper_lib.programs import number_option, run_program

from .measuring import as_rows, report

CLIPS = 2_000
QUICK = 280

RATE = 32_000  # Hz, of Common Voice's files
SECONDS = 5.0  # of a clip
SOUNDS = 40  # different ones; the clips are copies of these
SHARES = {"common-voice-28k": 1.0, "common-voice-10k": 10 / 28, "common-voice-3k": 3 / 28}
LARGEST = "common-voice-28k"


@dataclass(frozen=True)
class Made:
    """A made-up release.

    Attributes:
        folder: The data folder that it is in.
        clips: The files that the largest size takes.
    """

    folder: Path
    clips: list[Path]


@dataclass(frozen=True)
class Times:
    """Seconds of a run, by the clock and of the processor, all processes together."""

    clock: float
    processor: float


def make_release(folder: Path, clips: int) -> Made:
    """Write a release: `clips` training clips, a tenth of it validation, a tenth of it test."""
    locale = folder / "common-voice" / "cv-corpus-0.0-2026-01-01" / "ca"
    (locale / "clips").mkdir(parents=True)
    sounds = [_sound(number) for number in range(SOUNDS)]
    files = []
    for table, count in (("train", clips), ("dev", clips // 10), ("test", clips // 10)):
        lines = ["client_id\tpath\tsentence\tup_votes\tdown_votes\n"]
        for number in range(count):
            name = f"{table}_{number}.mp3"
            path = locale / "clips" / name
            path.write_bytes(sounds[number % SOUNDS])
            files.append(path)
            votes = 2 + (7 * number) % 5
            lines.append(f"speaker{number % 50}\t{name}\tsentence {number}\t{votes}\t0\n")
        (locale / f"{table}.tsv").write_text("".join(lines), encoding="utf-8")
    return Made(folder, files)


def _sound(number: int) -> bytes:
    """Return an MP3: a tone that grows and fades, and noise."""
    generator = np.random.default_rng(number)
    time_axis = np.arange(round(SECONDS * RATE)) / RATE
    tone = np.sin(2 * np.pi * (120 + 10 * number) * time_axis)
    swell = 0.1 * (1 + np.sin(2 * np.pi * 3 * time_axis))
    noise = 0.02 * generator.standard_normal(len(time_axis))
    buffer = io.BytesIO()
    soundfile.write(buffer, (swell * tone + noise).astype(np.float32), RATE, format="MP3")
    return buffer.getvalue()


@contextmanager
def scaled_sizes(clips: int) -> Iterator[None]:
    """Let the sizes of Common Voice be parts of `clips`."""
    before = dict(common_voice.SIZES)
    scaled = {name: (round(share * clips), clips // 10) for name, share in SHARES.items()}
    common_voice.SIZES.update(scaled)
    try:
        yield
    finally:
        common_voice.SIZES.update(before)


@contextmanager
def folders(cache: Path, data: Path) -> Iterator[None]:
    """Let the library use other folders."""
    before = {name: os.environ.get(name) for name in ("LAB_CACHE", "LAB_DATA")}
    os.environ.update({"LAB_CACHE": str(cache), "LAB_DATA": str(data)})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# ---- runs


def decode_all(made: Made, processes: int) -> Times:
    """Decode the clips in some processes, which have begun before."""
    parts = [made.clips[start::processes] for start in range(processes)]
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(_decode, [part[:1] for part in parts]))  # all are there
        start = time.perf_counter()
        used = sum(pool.map(_decode, parts))
        return Times(time.perf_counter() - start, used)


def _decode(paths: list[Path]) -> float:
    """Decode clips; return the seconds of the processor."""
    start = time.process_time()
    for path in paths:
        read_audio(path)
    return time.process_time() - start


def prepare(made: Made, cache: Path, sizes: list[str]) -> Times:
    """Prepare sizes of Common Voice, one after the other."""
    before = os.times()
    start = time.perf_counter()
    with folders(cache, made.folder):
        for size in sizes:
            load_corpus(size, "ca")
    clock = time.perf_counter() - start
    return Times(clock, sum(os.times()[:4]) - sum(before[:4]))


def prepare_apart(made: Made, cache: Path) -> Times:
    """Prepare each size in a cache of its own."""
    times = [prepare(made, cache / size, [size]) for size in SHARES]
    return Times(sum(t.clock for t in times), sum(t.processor for t in times))


# ---- floor


def floors(made: Made, processes: int) -> tuple[float, float]:
    """Return the least seconds to decode the clips, and to encode them as FLAC."""
    contents = [path.read_bytes() for path in made.clips[:SOUNDS]]
    decoding = _fastest(lambda: [_decoded(content) for content in contents])
    sounds = [_decoded(content) for content in contents]
    encoding = _fastest(lambda: [_encoded(sound) for sound in sounds])
    times = len(made.clips) / len(contents) / processes
    return decoding * times, encoding * times


def _fastest(run: Callable[[], object], repeats: int = 3) -> float:
    """Return the processor's seconds of the fastest of some calls."""
    found = []
    for _ in range(repeats):
        start = time.thread_time()
        run()
        found.append(time.thread_time() - start)
    return min(found)


def _decoded(content: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    return soxr.resample(samples, rate, SAMPLE_RATE)


def _encoded(sound: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


# ---- the table


def measure(clips: int, rounds: int) -> list[dict]:
    """Return a row per run.

    Args:
        clips: Training clips of the largest size.
        rounds: How often each run is measured, in turn.
    """
    times: dict[str, list[Times]] = {}
    with tempfile.TemporaryDirectory() as place, scaled_sizes(clips):
        made = make_release(Path(place) / "data", clips)
        processes = processes_for(len(made.clips))
        for number in range(rounds):
            cache = Path(place) / f"cache-{number}"
            smaller = [size for size in SHARES if size != LARGEST]
            found = {
                "decoding": decode_all(made, processes),
                "largest": prepare(made, cache / "together", [LARGEST]),
                "smaller": prepare(made, cache / "together", smaller),
                "apart": prepare_apart(made, cache / "apart"),
            }
            for name, one in found.items():
                times.setdefault(name, []).append(one)
            shutil.rmtree(cache)
        decoding, encoding = floors(made, processes)

    # Nothing is decoded again for the smaller sizes, so that they have no floor but 0.
    share = sum(SHARES.values())
    floor = {
        "decoding": decoding,
        "largest": decoding + encoding,
        "smaller": float("nan"),
        "apart": share * (decoding + encoding),
    }
    clock = {name: [one.clock for one in found] for name, found in times.items()}
    rows = as_rows(clock, "decoding", floor, clips=len(made.clips), processes=processes)
    for row in rows:
        ratios = [
            one.processor / base.processor
            for one, base in zip(times[row["run"]], times["decoding"], strict=True)
        ]
        row["processor's times decoding"] = float(np.median(ratios))
        row["cores"] = cores()
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        prog="make benchmark NAME=preparation ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = number_option(low=1, whole=True)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK} clips unless --clips says otherwise"
    )
    parser.add_argument("--clips", type=number_option(low=28, whole=True), help=f"default: {CLIPS}")
    parser.add_argument("--rounds", type=count, default=1)
    options = parser.parse_args(arguments)
    clips = options.clips or (QUICK if options.quick else CLIPS)
    report("preparation", measure(clips, options.rounds), ("clips", "processes"))


if __name__ == "__main__":
    run_program(main)
