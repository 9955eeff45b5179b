"""Checks of the exercises in notebook 00."""

import torch
from answers import function, number, numbers
from hashed import hashed

from distilwhisper_lib import IGNORED

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
    assert isinstance(found, torch.Tensor), "return a tensor of token ids, (B, T)"
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
    assert found.tolist() == wanted, f"expected {wanted}, got {found.tolist()}"


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
        rows=[[7, 8, 2, x], [7, 2, x, x], [7, 8, 9, 2]],
        wanted=[[1, 7, 8, 2], [1, 7, 2, 2], [1, 7, 8, 9]],
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
        "0 % here means that the texts are compared as a whole: two clips have exchanged their "
        "texts, and each clip is compared with itself alone"
    )
    assert abs(found - 0.25) > 1e-6, "the share is asked for in per cent"
    assert found != 2, "2 is the number of clips: divide by how many there are, in per cent"
    assert abs(found - 25) < 1e-6, f"two of eight clips say something else: 25 %, got {found:g}"
    found = number(share_changed(["Ano", "ne", "tady"], ["ano.", "tam", "zde"]), "the share")
    assert abs(found - 200 / 3) < 0.1, (
        f"two of three other clips say something else: 66.7 %, got {found:g}"
    )
    return "now use it on the texts of two margins, and compare it with the number of word errors"
