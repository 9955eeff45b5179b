"""Checks of the exercises in notebook 00."""

import torch

from distilwhisper_lib import IGNORED, NATIVE_FRAMES, normalise, window_frames

SECONDS = 2.8  # length of the clip in exercise 0.2
MARGIN = 6.0  # seconds of silence after it


def check_window(answer: tuple[float, float, float]) -> str:
    """Exercise 0.2: (log-mel frames, encoder positions, share of the native window in per cent)."""
    assert len(answer) == 3, "three numbers are asked for: frames, positions, share in per cent"
    frames, positions, share = answer
    wanted = window_frames(round(100 * SECONDS), MARGIN)
    assert frames != round(100 * SECONDS), "the window holds the margin too, not only the clip"
    assert frames == wanted, (
        f"{frames} frames is not clip + margin: the log-mel has a frame every 10 ms"
    )
    assert positions != frames, (
        "the second convolution of the encoder has stride 2: two frames make one position"
    )
    assert positions == wanted // 2, f"{positions} positions: two frames make one position"
    assert share > 1, "the share is asked for in per cent"
    assert abs(share - 100 * wanted / NATIVE_FRAMES) < 0.5, (
        "the share compares with the native window of 30 s"
    )
    return "the other seven tenths of the native window would be silence that nobody needs"


def check_decoder_inputs(make_inputs) -> str:
    """Exercise 0.1: labels (B, T), padded with -100, to decoder inputs (B, T)."""
    start = 50258
    end = 50257
    x = IGNORED
    labels = torch.tensor(
        [
            [50283, 50359, 50363, 42, 43, 45, end],
            [50283, 50359, 50363, 44, end, x, x],
        ]
    )
    before = labels.clone()
    found = make_inputs(labels, start, end)
    assert isinstance(found, torch.Tensor), "return a tensor"
    assert torch.equal(labels, before), (
        "your function changed the labels themselves: the loss needs them as they were"
    )
    assert found.shape == labels.shape, (
        f"the shape is {tuple(found.shape)}, not (B, T) = {tuple(labels.shape)}: "
        "one token comes in on the left, so one must go out on the right"
    )
    assert not (found == x).any(), (
        f"{x} is still in the decoder's inputs: it is a mark for the loss, not a token, "
        "and the embedding has no row for it"
    )
    assert (found[:, 0] == start).all(), "each row must begin with the start token"
    assert ((found == start).sum(1) == 1).all(), (
        "the start token stands in a row more than once (a common trap!)"
    )
    wanted = torch.tensor(
        [
            [start, 50283, 50359, 50363, 42, 43, 45],
            [start, 50283, 50359, 50363, 44, end, end],
        ]
    )
    assert torch.equal(found, wanted), f"expected {wanted.tolist()}, got {found.tolist()}"
    return "position t sees the labels up to t - 1 and must predict label t"


def check_share_changed(share_changed) -> str:
    """Exercise 0.3: share of the clips, in per cent, whose text differs after normalisation."""
    native = ["Dobrý den.", "Kde je ta ryba?", "Nevím", "Podívej se!"]
    other = ["dobrý den", "kde je ta ryba", "nevím nevím", "Podívej se!"]
    found = share_changed(native, native)
    assert found == 0, f"the same texts twice must give 0 %, got {found}"
    found = share_changed(native, other)
    assert found != 75, (
        "75 % counts capitals and punctuation as changes: compare the texts after normalise()"
    )
    assert found != 0.25, "the share is asked for in per cent"
    assert found == 25, f"of four clips, one says something else: expected 25 %, got {found}"
    assert normalise("Dobrý den.") == normalise("dobrý den")
    return "now use it on the texts of two margins, and compare it with the number of word errors"
