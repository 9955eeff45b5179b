"""Storage formats of experts that take less space: fp16, int8 and low rank.

An expert begins as a copy of the shared block, and training moves its weights little. So int8 and
low rank store the weight difference to the shared block: its values are small, which makes the
quantisation scale of int8 fine and the error of a low-rank approximation small.
"""

import torch

Tensors = dict[str, torch.Tensor]

FORMS = ("fp16", "fp32", "int8", "low-rank")

# Formats that store weight matrices as differences to the shared block's.
DIFFERENCES = ("int8", "low-rank")


def pack(tensors: Tensors, form: str, shared: Tensors, rank: int = 64) -> Tensors:
    """Return the tensors of experts and gates in a storage format.

    Args:
        tensors: Weights of experts and gates by name.
        form: The storage format. "fp32" keeps the tensors as they are, "fp16" rounds them. "int8"
            and "low-rank" store the difference of each weight matrix (out, in) that has one of the
            same name in `shared`; all other tensors (biases, gates) are in fp16 then. int8:
            integers from -127 to 127, `.int8` (out, in), times a scale for each row, `.step`
            (out, 1).
            low-rank: the best approximation in least squares, as the factors `.left` (out, rank)
            and `.right` (rank, in).
        shared: The shared blocks' weights, under the names that the experts' have in `tensors`.
        rank: Rank of the approximation, for "low-rank".

    Raises:
        ValueError: For an unknown format, or a rank that is not a positive integer.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of experts: one of {', '.join(FORMS)}")
    if form == "low-rank" and (not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank {rank!r} of stored experts: a whole number from 1 on is needed")

    packed: Tensors = {}
    for name, tensor in tensors.items():
        if form in DIFFERENCES and name in shared and tensor.dim() == 2:
            difference = tensor.float() - shared[name].float()
            if form == "int8":
                packed.update(_int8(name, difference))
            else:
                packed.update(_low_rank(name, difference, rank))
        elif form == "fp32":
            packed[name] = tensor.contiguous()
        else:
            packed[name] = tensor.half().contiguous()
    return packed


def _int8(name: str, difference: torch.Tensor) -> Tensors:
    """Return a difference (out, in) as 8-bit integers and the scale of each row (out, 1)."""
    step = difference.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return {f"{name}.int8": (difference / step).round().to(torch.int8), f"{name}.step": step}


def _low_rank(name: str, difference: torch.Tensor, rank: int) -> Tensors:
    """Return a difference (out, in) as factors (out, rank) and (rank, in).

    They come from the eigenvectors of the smaller Gram matrix: the same as by SVD, in a tenth of
    the time.
    """
    is_tall = difference.shape[0] >= difference.shape[1]
    tall = difference if is_tall else difference.T  # (m, n), m >= n
    gram = tall.T.double() @ tall.double()  # (n, n)
    vectors = torch.linalg.eigh(gram).eigenvectors[:, -rank:].float()  # (n, rank), largest last
    if is_tall:
        left = tall @ vectors
        right = vectors.T
    else:
        left = vectors
        right = (tall @ vectors).T
    return {f"{name}.left": left.half().contiguous(), f"{name}.right": right.half().contiguous()}


def unpack(stored: Tensors) -> tuple[Tensors, set[str]]:
    """Undo `pack`, as far as that is possible without the shared blocks.

    Args:
        stored: What `pack` has returned.

    Returns:
        The tensors by their names before packing, and the names of those that are differences to
        the shared block.

    Raises:
        KeyError: Where a part of a tensor is missing.
        RuntimeError: Where two parts do not fit together.
    """
    tensors: Tensors = {}
    differences = set()
    for name, tensor in stored.items():
        whole, _, part = name.rpartition(".")
        if part == "int8":
            tensors[whole] = tensor.float() * stored[f"{whole}.step"]
            differences.add(whole)
        elif part == "left":
            tensors[whole] = tensor.float() @ stored[f"{whole}.right"].float()
            differences.add(whole)
        elif part not in ("step", "right"):
            tensors[name] = tensor
    return tensors, differences
