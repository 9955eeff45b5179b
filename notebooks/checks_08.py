"""Checks of the exercises in notebook 08."""

import pandas as pd
import torch
from answers import function, gradients, number, tensor, whole_number


def _counted_blocks(width: int, calls: list[list[int]]) -> list[torch.nn.Module]:
    """Return linear blocks that note in `calls` how many positions each call has."""
    blocks = [torch.nn.Linear(width, width) for _ in calls]
    for noted, block in zip(calls, blocks, strict=True):

        def note(module, inputs, noted=noted):
            noted.append(inputs[0].numel() // width)

        block.register_forward_pre_hook(note)
    return blocks


def _check_route(route, choice: torch.Tensor, width: int, number_of_blocks: int) -> None:
    """Exercise 8.1 for one choice of blocks."""
    calls: list[list[int]] = [[] for _ in range(number_of_blocks)]
    blocks = _counted_blocks(width, calls)
    h = torch.randn(*choice.shape, width)
    before = h.clone()
    with torch.no_grad():
        y = tensor(route(h, blocks, choice.clone()), h.shape, "the result")
    seen = [list(noted) for noted in calls]
    assert torch.equal(h, before), "`h` itself has changed: write into a new tensor"

    def by_hand(rows: torch.Tensor) -> torch.Tensor:
        pairs = zip(rows.flatten(0, 1), choice.flatten().tolist(), strict=True)
        return torch.stack([blocks[n](row) for row, n in pairs]).view_as(rows)

    assert torch.allclose(y, by_hand(h), atol=1e-5), (
        "a position has another block's output: is each result "
        "written back to the positions that its input came from?"
    )
    for n, noted in enumerate(seen):
        assert not noted or n in choice, f"nobody chose block {n}, but it was called"
    positions = sum(sum(noted) for noted in seen)
    assert positions == choice.numel(), (
        f"the blocks saw {positions} positions, there are {choice.numel()}: select the positions "
        "before the block, not after"
    )
    x = h.clone().requires_grad_()
    weights = [block.weight for block in blocks]
    given = gradients(route(x * 1, blocks, choice.clone()), x, *weights)
    wanted = gradients(by_hand(x), x, *weights)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(given, wanted, strict=True)), (
        "the values are right, but the gradient that reaches `h` and the blocks is not, so the "
        "blocks would not learn: no detach(), no .data, no torch.no_grad()"
    )


def check_route(route) -> str:
    """Exercise 8.1: each position through its own block, and through no other."""
    route = function(route, "route(h, blocks, choice)")
    torch.manual_seed(8)
    _check_route(route, torch.tensor([[0, 1, 2, 0, 1], [2, 2, 0, 1, 2]]), 6, 4)
    _check_route(route, torch.tensor([[4, 0, 4], [3, 3, 1], [0, 0, 4], [1, 4, 3]]), 3, 6)
    return "ten positions, ten passes: with a hundred experts it would still be ten"


def check_largest_rank(largest_rank) -> str:
    """Exercise 8.2: 60 MB over 24 layers, two weights each, two factors each."""
    value = number(largest_rank, "largest_rank")
    assert value // 1 != 325, "325 is for one weight a layer: there are fc1 and fc2"
    assert value // 1 != 81, "81 is for numbers of 4 bytes; fp16 has 2"
    assert value // 1 != 170, "170 is for 60 MiB (2^20 bytes each); a megabyte has 10^6"
    assert value.is_integer(), "a rank is a whole number: round down, or it does not fit"
    rank = whole_number(largest_rank, "largest_rank")
    assert rank != 163, "163 takes 60.1 MB, which is too much: round down"
    assert rank == 162, (
        f"{rank} is not it: a rank costs 24 layers x 2 weights x (768 + 3072) numbers x 2 "
        "bytes = 368,640 bytes"
    )
    return "rank 162 in 60 MB; 64, LoRA's in the release, takes 24 MB, where a full copy takes 458"


def _changed(changed, opened: list[float], threshold: float) -> float:
    """Return what the reader's function gives for these shares of open gates."""
    shares = pd.DataFrame({"open": opened})
    found = number(changed(shares, threshold), "the share of changed positions")
    assert shares["open"].tolist() == opened, "the table itself has changed: work on a copy"
    return found


def check_changed(changed) -> str:
    """Exercise 8.3: positions that take another block after baking."""
    changed = function(changed, "changed(shares, threshold)")
    opened = [1.0, 0.9, 0.4, 0.0]
    found = _changed(changed, opened, 0.5)
    assert abs(found - 0.875) > 1e-6, "that is the share that keeps its block: the others change"
    assert abs(found - 12.5) > 1e-6, "a share between 0 and 1 is asked for, not per cent"
    assert abs(found - 0.5) > 1e-6, "that is a sum over the layers: take their mean"
    assert abs(found - 0.425) > 1e-6, (
        "that takes the mean of the four layers first, but each layer is baked by its own share"
    )
    assert abs(found - 0.125) < 1e-6, (
        f"{found:.3f} is not it: 0, 0.1, 0.4 and 0 of the four layers change, 0.125 in the mean"
    )
    low = _changed(changed, opened, 0.3)
    assert abs(low - 0.125) > 1e-6, (
        "at a threshold of 0.3 nothing has changed: is the threshold used? The third layer (0.4 "
        "open) now keeps its expert"
    )
    assert abs(low - 0.175) < 1e-6, (
        f"{low:.3f} at a threshold of 0.3: the third layer now keeps its expert, so its shut 0.6 "
        "change: 0.175"
    )
    equal = _changed(changed, opened, 0.4)
    assert abs(equal - 0.175) < 1e-6, (
        "at a threshold of 0.4 a layer with exactly 0.4 open keeps its expert: >=, not >"
    )
    return "no threshold changes fewer positions than 0.5"
