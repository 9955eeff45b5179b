"""Storage formats of experts that take less space: fp16, int8 and low rank.

An expert begins as a copy of the shared block, and training moves its weights little. So int8 and
low rank store the weight difference to the shared block: its values are small, which makes the
quantisation scale of int8 fine and the error of a low-rank approximation small.
"""

import torch

from ..whisper.checkpoint import is_finite

Tensors = dict[str, torch.Tensor]

FORMS = ("fp16", "fp32", "int8", "low-rank")

# Formats that store weight matrices as differences to the shared block's.
DIFFERENCES = ("int8", "low-rank")

# Endings of the names of a packed tensor's two parts: the second by the first, and back.
SECOND_PART = {"int8": "step", "left": "right"}
FIRST_PART = {second: first for first, second in SECOND_PART.items()}

# Dtypes of tensors that are not packed.
WHOLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


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
        ValueError: For an unknown format, a rank that is not a positive integer, or a weight that
            is not finite or becomes so in this format.
    """
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r} of experts: one of {', '.join(FORMS)}")
    is_number = isinstance(rank, int) and not isinstance(rank, bool)
    if form == "low-rank" and (not is_number or rank < 1):
        raise ValueError(f"rank {rank!r} of stored experts: a whole number from 1 on is needed")

    packed: Tensors = {}
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(
                f"{name} is not finite (NaN or infinite), so these experts are not saved: their "
                "training has diverged; train again with a lower learning rate"
            )
        parts = _parts(name, tensor, form, shared, rank)
        if not all(is_finite(part) for part in parts.values()):
            raise ValueError(
                f"{name} is too large for the form {form!r} of experts, which holds numbers up to "
                '65504: save them with form="fp32"'
            )
        packed.update(parts)
    return packed


def _parts(name: str, tensor: torch.Tensor, form: str, shared: Tensors, rank: int) -> Tensors:
    """Return what is stored of one tensor; arguments as for `pack`."""
    if form in DIFFERENCES and name in shared and tensor.dim() == 2:
        difference = tensor.float() - shared[name].float()
        if not is_finite(difference):  # no eigenvectors then
            return {name: difference}
        return _int8(name, difference) if form == "int8" else _low_rank(name, difference, rank)
    if form == "fp32":
        return {name: tensor.contiguous()}
    return {name: tensor.half().contiguous()}


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
        ValueError: Where a part of a tensor is missing or left over, a tensor is there twice, or
            one has a dtype or a shape that `pack` does not write, or a value that is not finite.
    """
    tensors: Tensors = {}
    differences = set()
    for name, tensor in stored.items():
        whole, _, part = name.rpartition(".")
        if part in FIRST_PART:
            _check_pair(stored, f"{whole}.{FIRST_PART[part]}", name)
            continue
        if part in SECOND_PART:
            other = _check_pair(stored, f"{whole}.{SECOND_PART[part]}", name)
            if not _fit_together(tensor, other, part):
                raise ValueError(f"{name} and its .{SECOND_PART[part]} do not fit together")
            if part == "int8":
                value = tensor.float() * other
            else:
                value = tensor.float() @ other.float()
            differences.add(whole)
        else:
            whole = name
            value = tensor
            if tensor.dtype not in WHOLE:
                kind = str(tensor.dtype).removeprefix("torch.")
                raise ValueError(f"{name} is in {kind}, which no form of experts is")

        if whole in tensors:
            raise ValueError(f"{whole} is there twice, as a whole and packed")
        if not is_finite(value):
            raise ValueError(f"{whole} is not finite (NaN or infinite)")
        tensors[whole] = value
    return tensors, differences


def _fit_together(tensor: torch.Tensor, other: torch.Tensor, part: str) -> bool:
    """Return whether two parts have the dtypes and shapes that `pack` gives them."""
    if tensor.dim() != 2 or other.dim() != 2:
        return False
    if part == "int8":
        dtypes = (torch.int8, torch.float32)
        shapes_fit = other.shape == (len(tensor), 1)
    else:
        dtypes = (torch.float16, torch.float16)
        shapes_fit = tensor.shape[1] == other.shape[0]
    return (tensor.dtype, other.dtype) == dtypes and shapes_fit


def _check_pair(stored: Tensors, other: str, name: str) -> torch.Tensor:
    """Return the other part of a packed tensor; raises ValueError where it is missing."""
    if other not in stored:
        raise ValueError(f"{other} is missing, which belongs to {name}")
    return stored[other]
