"""Checks of the exercises in notebook 00."""

import numpy as np
import torch
from answers import array, described, function, items, not_a_mistake, number, numbers
from hashed import hashed
from transformers.audio_utils import mel_filter_bank

from distilwhisper_lib import IGNORED, decoder_inputs, encode_labels, load_processor

FRAMES = hashed("0.2 frames")
POSITIONS = hashed("0.2 positions")
PER_CENT = hashed("0.2 per cent")


def check_window(answer: tuple[float, float, float]) -> str:
    """Exercise 0.2: (log-mel frames, encoder positions, share of the native window in per cent)."""
    frames, positions, share = numbers(answer, "frames", "positions", "per_cent")
    FRAMES.check(
        frames, f"{frames:g} frames is not clip + margin: the log-mel has a frame every 10 ms"
    )
    assert positions != frames, (
        "the second convolution of the encoder has stride 2: two frames make one position"
    )
    POSITIONS.check(positions, f"{positions:g} positions: two frames make one position")
    assert share > 1, "the share is asked for in per cent"
    return PER_CENT.check(share, "the share compares with the native window of 30 s")


def _check_inputs(make_inputs, start: int, end: int, rows: list, wanted: list) -> None:
    """Exercise 0.1 on one batch of labels."""
    labels = torch.tensor(rows)
    before = labels.clone()
    found = make_inputs(labels, start, end)
    assert torch.equal(labels, before), (
        "your function changed the labels themselves: the loss needs them as they were"
    )
    assert isinstance(found, torch.Tensor), (
        f"return a tensor of token ids, (B, T), not {described(found)}"
    )
    assert found.shape == labels.shape, (
        f"the shape is {tuple(found.shape)}, not (B, T) = {tuple(labels.shape)}: "
        "one token comes in on the left, so one must go out on the right"
    )
    assert not found.is_floating_point(), (
        f"the tensor's dtype is {found.dtype}: token ids are whole numbers, as the labels are"
    )
    assert not (found == IGNORED).any(), (
        f"{IGNORED} is still in the decoder's inputs: it is a mark for the loss, not a token, "
        "and the embedding has no row for it"
    )
    assert (found[:, 0] == start).all(), (
        f"each row must begin with the start token that is given, here {start}"
    )
    assert ((found == start).sum(1) == 1).all(), (
        "the start token stands in a row more than once (a common trap!)"
    )
    labelled = labels[:, 1:] != IGNORED
    assert not torch.equal(found[:, 1:][labelled], labels[:, 1:][labelled]), (
        "the tokens are not shifted: the input at position t is the label at t - 1"
    )
    after_ignored = labels[:, :-1] == IGNORED
    assert (found[:, 1:][after_ignored] == end).all(), (
        f"where {IGNORED} would be must stand the token `end` that is given, here {end}"
    )
    known = torch.tensor(wanted)
    assert torch.equal(found, known) or not torch.equal(
        found[labels != IGNORED], known[labels != IGNORED]
    ), (
        f"a token is lost where a row of labels has its first {IGNORED}: the shift has moved the "
        f"{IGNORED} to the right, so look for them after it"
    )
    assert torch.equal(found, known), f"expected {wanted}, got {found.tolist()}"


def check_decoder_inputs(make_inputs) -> str:
    """Exercise 0.1: labels (B, T), padded with -100, to decoder inputs (B, T)."""
    make_inputs = function(make_inputs, "make_inputs(labels, start, end)")
    x = IGNORED
    end = 50257
    _check_inputs(
        make_inputs,
        start=50258,
        end=end,
        rows=[[50283, 50359, 50363, 42, 43, 45, end], [50283, 50359, 50363, 44, end, x, x]],
        wanted=[
            [50258, 50283, 50359, 50363, 42, 43, 45],
            [50258, 50283, 50359, 50363, 44, end, end],
        ],
    )
    _check_inputs(
        make_inputs,
        start=1,
        end=2,
        rows=[[7, 8, 2, x], [7, 2, x, x], [7, 8, 9, 2], [7, 8, 9, x]],  # the last has no end
        wanted=[[1, 7, 8, 2], [1, 7, 2, 2], [1, 7, 8, 9], [1, 7, 8, 9]],
    )
    return "position t sees the labels up to t - 1 and must predict label t"


# Of exercise 0.3: what the same clips gave twice
FIRST = ["Dobrý den.", "kde je ta ryba", "Ano", "Ne", "nevím", "podívej se", "to je ono", "tady"]
SECOND = ["dobrý den.", "kde je ta ryba?", "Ne", "Ano", "nevím", "podívej se", "to je ono", "tady"]


def check_share_changed(share_changed) -> str:
    """Exercise 0.3: share of the clips, in per cent, whose text differs after normalisation."""
    share_changed = function(share_changed, "share_changed(first, second)")
    found = number(share_changed(list(FIRST), list(FIRST)), "the share")
    assert found == 0, f"the same texts twice must give 0 %, got {found:g}"
    found = number(share_changed(list(FIRST), list(SECOND)), "the share")
    assert abs(found - 50) > 1e-6, (
        "50 % counts capitals and punctuation as changes: compare the texts after normalise()"
    )
    assert abs(found - 37.5) > 1e-6, (
        "37.5 % counts a capital or a question mark as a change: normalise() removes both"
    )
    assert found != 0, (
        "two of eight clips say something else, yours are none. Two clips have exchanged their "
        "texts here, and each clip is compared with itself alone. Or is a `return` inside the loop?"
    )
    assert abs(found - 0.25) > 1e-6, "the share is asked for in per cent"
    assert found != 2, "2 is the number of clips: divide by how many there are, in per cent"
    assert abs(found - 25) < 1e-6, f"two of eight clips say something else: 25 %, got {found:g}"
    found = number(share_changed(["Ano", "ne", "tady"], ["ano.", "tam", "zde"]), "the share")
    assert abs(found - 200 / 3) < 0.1, (
        f"two of three other clips say something else: 66.7 %, got {found:g}"
    )
    return "now use it on the texts of two margins, and compare it with the number of word errors"


# ---- what the reader builds


def _filterbank(bands: int) -> np.ndarray:
    """Return transformers' filterbank (201, bands), which is Whisper's."""
    return mel_filter_bank(201, bands, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")


def built_mel_filters(mel_filters) -> str:
    """Section 5: the filterbank."""
    mel_filters = function(mel_filters, "mel_filters(bands)")
    for bands in (80, 20):
        wanted = _filterbank(bands)
        given = array(mel_filters(bands), wanted.shape, f"the filterbank of {bands} bands")
        assert given.min() > -1e-9, "outside of its triangle a band is 0, yours goes below"
        peaks, right_peaks = 40 * given.argmax(0), 40 * wanted.argmax(0)
        wrong = np.flatnonzero(peaks != right_peaks)
        assert not len(wrong), (
            f"band {wrong[0]} of {bands} has its peak at {peaks[wrong[0]]} Hz, not at "
            f"{right_peaks[wrong[0]]}: take points that are equally far apart in mel, and their "
            "Hz; a band is highest at the second of its three points, its centre"
        )
        heights = given.max(0) / wanted.max(0)
        assert np.allclose(given, wanted * heights, atol=1e-6), (
            "the peaks are right, the slopes are not: a band rises from its left point to the "
            "centre and falls to its right point, in Hz"
        )
        assert np.allclose(heights, 1, atol=1e-3), (
            "the triangles are right, their height is not: multiply each by 2 / (right - left)"
        )
    return "the bands are Whisper's"


def built_log_energies(log_energies) -> str:
    """Section 5: the logarithm of the energies of one frame."""
    log_energies = function(log_energies, "log_energies(frame, filters)")
    filters = _filterbank(80)
    frame = np.random.default_rng(0).normal(size=400)
    given = array(log_energies(frame, filters), (80,), "the result")

    def logarithm(frame, power=2):
        return np.log10(np.abs(np.fft.rfft(frame)) ** power @ filters)

    faded = frame * (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400))
    right = logarithm(faded)
    mistakes = [
        (right * np.log(10), "that is the natural logarithm, to base 10 is asked for"),
        (10 * right, "that is in decibels: ten times the logarithm"),
        (logarithm(frame), "the frame is not multiplied by the window"),
        (logarithm(faded, power=1), "the power is the square of the absolute value"),
        (10**right, "these are the energies, without their logarithm"),
    ]
    not_a_mistake(given, mistakes)
    assert np.allclose(given, right, atol=1e-3), (
        "the energies of a frame of noise are other ones: window, Fourier transform, power, bands, "
        "logarithm, in this order"
    )
    silence = array(log_energies(np.zeros(400), filters), (80,), "the result")
    assert np.allclose(silence, -10), (
        "the energies of silence are 0 and have no logarithm: take at least 1e-10"
    )
    return "one frame is what Whisper hears of it"


def built_given_and_predicted(given_and_predicted) -> str:
    """Section 6: what the decoder is given and what it must predict."""
    given_and_predicted = function(
        given_and_predicted, "given_and_predicted(tokenizer, text, language)"
    )
    tokenizer = load_processor("tiny").tokenizer
    start, end, silent = tokenizer.convert_tokens_to_ids(
        ["<|startoftranscript|>", "<|endoftext|>", "<|notimestamps|>"]
    )
    for text, language in (("ano", "cs"), ("ja ja", "de")):
        wanted = "two lists are asked for, (inputs, labels)"
        pair = items(given_and_predicted(tokenizer, text, language), wanted)
        assert len(pair) == 2, f"{wanted}; yours are {len(pair)}"
        inputs, labels = (items(part, wanted) for part in pair)
        assert not any(isinstance(token, str) for token in inputs + labels), (
            "token ids are asked for: convert_tokens_to_ids makes them of names"
        )
        right_labels = encode_labels(tokenizer, text, language)
        right = (decoder_inputs(tokenizer, right_labels), right_labels)
        assert (inputs, labels) != right[::-1], "inputs come first, then labels"
        assert inputs != labels, "inputs and labels are the same: they are one position apart"
        assert start not in labels, "the start is given and never predicted"
        assert end not in inputs, "the end is predicted and never given"
        assert labels[-1:] == [end], "the last label is the end, `<|endoftext|>`"
        assert inputs[:1] == [start], "the first input is the start, `<|startoftranscript|>`"
        assert inputs.count(start) == 1, (
            "the start is given twice: let the tokenizer add no special tokens of its own"
        )
        assert silent in inputs, "`<|notimestamps|>` is missing"
        assert len(inputs) == len(labels), (
            f"{len(inputs)} inputs and {len(labels)} labels: each input has one label"
        )
        assert (inputs, labels) == right, (
            f"for {text!r} in {language!r} the inputs are {tokenizer.decode(right[0])!r}, yours "
            f"{tokenizer.decode(inputs)!r}"
        )
    return "what must be predicted in one position is given in the next"
