"""Experts in less space: in half precision, or as a difference to the shared block in 8 bits or of low rank.

An expert begins as a copy of the shared block and training moves it little, so what is small is the difference: its
largest entry, which sets the step of 8-bit numbers, and the part of it that a matrix of low rank leaves out.
"""

import torch

FORMS = ("fp16", "fp32", "int8", "low-rank")

DIFFERENCES = (
    "int8",
    "low-rank",
)  # these store weights of experts as differences to the shared block's


def pack(tensors: dict, form: str, shared: dict, rank: int = 64) -> dict[str, torch.Tensor]:
    """Return tensors of experts and gates, by name, in the form in which they are stored.

    fp32 keeps them as they are; fp16 rounds them. int8: of each weight (out, in) that is in `shared` the difference,
    a row as whole numbers from -127 to 127 (`.int8`) times its own step (`.step`). low-rank: its best approximation of
    rank `rank` in least squares, as factors (`.left`, `.right`). All else (biases, gates) is in fp16 then.
    Raises ValueError for an unknown form, or a rank that is not a positive whole number.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of experts: one of {', '.join(FORMS)}")
    if form == "low-rank" and (not isinstance(rank, int) or rank < 1):
        raise ValueError(f"rank {rank!r} of stored experts: a whole number from 1 on is needed")
    packed = {}
    for name, tensor in tensors.items():
        if form in DIFFERENCES and name in shared and tensor.dim() == 2:
            difference = tensor.float() - shared[name].float()
            packed |= (
                _int8(name, difference) if form == "int8" else _low_rank(name, difference, rank)
            )
        else:
            packed[name] = (tensor if form == "fp32" else tensor.half()).contiguous()
    return packed


def _int8(name: str, difference: torch.Tensor) -> dict[str, torch.Tensor]:
    step = difference.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127  # (out, 1)
    return {f"{name}.int8": (difference / step).round().to(torch.int8), f"{name}.step": step}


def _low_rank(name: str, difference: torch.Tensor, rank: int) -> dict[str, torch.Tensor]:
    """The factors are from the eigenvectors of the smaller Gram matrix: the same as by SVD, at a tenth of the time."""
    tall = difference if difference.shape[0] >= difference.shape[1] else difference.T
    vectors = (
        torch.linalg.eigh(tall.T.double() @ tall.double()).eigenvectors[:, -rank:].float()
    )  # (n, r), largest last
    left, right = tall @ vectors, vectors.T
    if tall is not difference:
        left, right = right.T, left.T
    return {f"{name}.left": left.half().contiguous(), f"{name}.right": right.half().contiguous()}


def unpack(stored: dict) -> tuple[dict[str, torch.Tensor], set[str]]:
    """Return the tensors of `pack` by their names, and the names of those that are differences still.

    Raises KeyError where a part of a tensor is lacking, RuntimeError where two don't fit together.
    """
    tensors, differences = {}, set()
    for name, tensor in stored.items():
        whole, _, part = name.rpartition(".")
        if part == "int8":
            tensors[whole] = tensor.float() * stored[f"{whole}.step"]
        elif part == "left":
            tensors[whole] = tensor.float() @ stored[f"{whole}.right"].float()
        elif part not in ("step", "right"):
            tensors[name] = tensor
        if part in ("int8", "left"):
            differences.add(whole)
    return tensors, differences
