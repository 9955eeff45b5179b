"""Checks of the exercises in notebook 08."""

import pandas as pd
import torch
from answers import function, gradients, number, tensor, whole_number
from hashed import hashed

LARGEST_RANK = hashed("8.2 largest_rank")


def _numbered_blocks(width: int, calls: list[list[int]]) -> list[torch.nn.Module]:
    """Return blocks of which number n gives (n + 1) times its input, reversed, plus n.

    Each notes in `calls` how many positions a call of it has.
    """
    blocks = []
    for number_of_block, noted in enumerate(calls):
        block = torch.nn.Linear(width, width)
        with torch.no_grad():
            block.weight.copy_((number_of_block + 1) * torch.eye(width).flip(0))
            block.bias.fill_(number_of_block)

        def note(module, inputs, noted=noted):
            noted.append(inputs[0].numel() // width)

        block.register_forward_pre_hook(note)
        blocks.append(block)
    return blocks


def _check_route(route, choice: torch.Tensor, width: int, number_of_blocks: int) -> None:
    """Exercise 8.1 for one choice of blocks."""
    calls: list[list[int]] = [[] for _ in range(number_of_blocks)]
    blocks = _numbered_blocks(width, calls)
    h = torch.randn(*choice.shape, width)
    before = h.clone()
    with torch.no_grad():
        y = tensor(route(h, blocks, choice.clone()), h.shape, "the result")
    assert torch.equal(h, before), "`h` itself has changed: write into a new tensor"

    times = (choice + 1)[..., None]  # (B, T, 1)
    assert torch.allclose(y, times * h.flip(-1) + choice[..., None], atol=1e-5), (
        "a position has another block's output: is each result "
        "written back to the positions that its input came from?"
    )
    for n, noted in enumerate(calls):
        assert not noted or n in choice, f"nobody chose block {n}, but it was called"
    for n, noted in enumerate(calls):
        assert len(noted) <= 1, (
            f"block {n} was called {len(noted)} times: give it its positions all in one call; many "
            "small products take much longer than one large"
        )
    positions = sum(sum(noted) for noted in calls)
    assert positions == choice.numel(), (
        f"the blocks saw {positions} positions, there are {choice.numel()}: select the positions "
        "before the block, not after"
    )
    _check_gradients(route, choice, h, blocks)


def _check_gradients(route, choice: torch.Tensor, h: torch.Tensor, blocks: list) -> None:
    """Exercise 8.1: the input gets its block's factor, a block's bias the number of its inputs."""
    x = h.clone().requires_grad_()
    y = route(x * 1, blocks, choice.clone())
    given = gradients(y, x, *(block.bias for block in blocks))
    counts = choice.flatten().bincount(minlength=len(blocks)).tolist()
    wanted = [(choice + 1)[..., None].expand_as(h).float()]
    wanted += [torch.full_like(block.bias, n) for block, n in zip(blocks, counts, strict=True)]
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
    assert value.is_integer(), "a rank is a whole number: round down, or it does not fit"
    rank = whole_number(largest_rank, "largest_rank")
    return LARGEST_RANK.check(
        rank,
        f"{rank} is not it: count what a rank costs in bytes, over the layers, the weights of a "
        "layer and the two factors of a weight",
    )


def _share_of(changed, opened: list[float], threshold: float) -> float:
    """Return what the reader's function gives for these shares of open gates."""
    shares = pd.DataFrame({"open": opened})
    found = number(changed(shares, threshold), "the share of changed positions")
    assert shares["open"].tolist() == opened, "the table itself has changed: work on a copy"
    return found


def check_changed(changed) -> str:
    """Exercise 8.3: positions that take another block after baking."""
    changed = function(changed, "changed(shares, threshold)")
    opened = [1.0, 0.9, 0.4, 0.0]
    found = _share_of(changed, opened, 0.5)
    assert abs(found - 0.875) > 1e-6, "that is the share that keeps its block: the others change"
    assert abs(found - 12.5) > 1e-6, "a share between 0 and 1 is asked for, not per cent"
    assert abs(found - 0.5) > 1e-6, "that is a sum over the layers: take their mean"
    assert abs(found - 0.425) > 1e-6, (
        "that takes the mean of the four layers first, but each layer is baked by its own share"
    )
    assert abs(found - 0.125) < 1e-6, (
        f"{found:.3f} is not it: 0, 0.1, 0.4 and 0 of the four layers change, 0.125 in the mean"
    )
    low = _share_of(changed, opened, 0.3)
    assert abs(low - 0.125) > 1e-6, (
        "at a threshold of 0.3 nothing has changed: is the threshold used? The third layer (0.4 "
        "open) now keeps its expert"
    )
    assert abs(low - 0.175) < 1e-6, (
        f"{low:.3f} at a threshold of 0.3: the third layer now keeps its expert, so its shut 0.6 "
        "change: 0.175"
    )
    equal = _share_of(changed, opened, 0.4)
    assert abs(equal - 0.175) < 1e-6, (
        "at a threshold of 0.4 a layer with exactly 0.4 open keeps its expert: >=, not >"
    )
    return "no threshold changes fewer positions than 0.5"
