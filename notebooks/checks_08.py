"""Checks of the exercises in notebook 08."""

import pandas as pd
import torch


def check_route(route) -> str:
    """Exercise 8.1: each position through its own block, and through no other."""
    torch.manual_seed(8)
    seen = {0: 0, 1: 0, 2: 0, 3: 0}
    blocks = [torch.nn.Linear(6, 6) for _ in seen]
    for number, block in enumerate(blocks):

        def note(module, inputs, number=number):
            seen[number] += inputs[0].numel() // 6

        block.register_forward_pre_hook(note)
    h = torch.randn(2, 5, 6)
    choice = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 0, 1, 2]])
    with torch.no_grad():
        y = route(h, blocks, choice)
        counts = dict(seen)
        positions = zip(h.flatten(0, 1), choice.flatten(), strict=True)
        expected = torch.stack([blocks[number](vector) for vector, number in positions])
    assert y.shape == h.shape, f"the result has shape {tuple(y.shape)}, h has {tuple(h.shape)}"
    assert torch.allclose(y.flatten(0, 1), expected, atol=1e-5), (
        "a position has another block's output: is each result "
        "written back to the positions that its input came from?"
    )
    assert counts[3] == 0, "nobody chose block 3, but it was called"
    assert sum(counts.values()) == 10, (
        f"the blocks saw {sum(counts.values())} positions, there are 10: select the positions "
        "before the block, not after"
    )
    return "ten positions, ten passes: with a hundred experts it would still be ten"


def check_largest_rank(largest_rank) -> str:
    """Exercise 8.2: 60 MB over 24 layers, two weights each, two factors each."""
    assert largest_rank != 325, "325 is for one weight a layer: there are fc1 and fc2"
    assert largest_rank != 81, "81 is for numbers of 4 bytes; fp16 has 2"
    assert isinstance(largest_rank, int), "a rank is a whole number: round down, or it does not fit"
    assert largest_rank == 162, (
        f"{largest_rank} is not it: a rank costs 24 layers x 2 weights x (768 + 3072) numbers x 2 "
        "bytes = 368,640 bytes"
    )
    return "rank 162 in 60 MB; 64, LoRA's in the release, takes 24 MB, where a full copy takes 458"


def check_changed(changed) -> str:
    """Exercise 8.3: positions that take another block after baking."""
    shares = pd.DataFrame({"open": [1.0, 0.9, 0.4, 0.0]})
    found = changed(shares, 0.5)
    assert abs(found - 0.875) > 1e-6, "that is the share that keeps its block: the others change"
    assert abs(found - 0.125) < 1e-6, (
        f"{found:.3f} is not it: 0, 0.1, 0.4 and 0 of the four layers change, 0.125 in the mean"
    )
    low = changed(shares, 0.3)
    assert abs(low - 0.175) < 1e-6, (
        f"{low:.3f} at a threshold of 0.3: the third layer now keeps its expert, so its shut 0.6 "
        "change: 0.175"
    )
    return "no threshold changes fewer positions than 0.5"
