"""Which Whisper a model is: a fingerprint of all its weights, whatever is attached to it.

Experts belong to one Whisper. Its fingerprint is stored beside them, and `differing_weights`
compares a model with it, tensor by tensor. A tensor is the same where one of these holds:

1. It has the same values, in whatever dtype: their SHA-256 agrees.
2. One is the other rounded to bf16 or fp16. The SHA-256 of the rounded values is stored too, so
   this is exact: a merged adapter is found as soon as it changes one of the rounded values.
3. One is held in bf16 and the other in fp16, both rounded from values that are not at hand; or one
   is held in fp32 and they differ by its noise, as after an adapter was merged and unmerged. This
   is decided by the distance of two short sketches, within the bound of these roundings
   (`_tolerance`).

So a copy that was rounded twice, to fp16 and then to bf16, is in general another Whisper.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..files import atomic_file
from ..whisper.unwrap import unwrap
from .blocks import shared_block, whisper_layers
from .routing import ClsrFeedForward

# ---- the weights of the plain Whisper

# Children in which a wrapper keeps the module that it wraps: adapters of PEFT, its modules_to_save,
# torch.compile.
WRAPPED = ("base_layer", "original_module", "_orig_mod")

KNOWN_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

EMBEDDINGS = "decoder.embed_tokens.weight"


def plain_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the weights of the plain Whisper in a model, without copying them.

    Adapters, experts, gates and the head of a classifier are left out, and so is an output
    projection that has the weights of the token embeddings.

    Args:
        model: A Whisper of any kind: whole or with one stack, with experts, wrapped by PEFT.

    Yields:
        name in transformers' `WhisperModel` ("encoder.layers.0.fc1.weight"), or
        "proj_out.weight"; tensor.

    Raises:
        ValueError: For a quantised or offloaded weight, or a model without encoder and decoder.
    """
    whisper = unwrap(model)
    body = getattr(whisper, "model", whisper)  # WhisperModel is its own body
    stacks = [name for name in ("encoder", "decoder") if getattr(body, name, None) is not None]
    if not stacks:
        raise ValueError(f"a {type(whisper).__name__} is no Whisper: it has no encoder or decoder")

    embeddings = None
    for stack in stacks:
        module = body.get_submodule(stack)
        for name, weight in _unwrapped_parameters(module, f"{stack}."):
            if name == EMBEDDINGS:
                embeddings = weight
            yield name, weight

    head = getattr(whisper, "proj_out", None)
    if head is not None:
        for name, weight in _unwrapped_parameters(head, "proj_out."):
            if not _equal(weight, embeddings):
                yield name, weight


def _unwrapped_parameters(module: nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield a module's parameters under the names that they have without wrappers and experts."""
    children = dict(module.named_children())
    for name in WRAPPED:
        if name in children:
            yield from _unwrapped_parameters(children[name], prefix)
            return

    # The shared block holds fc1 and fc2 of the layer, and is itself at fc1.
    if isinstance(module, ClsrFeedForward):
        yield from _unwrapped_parameters(module.shared, prefix.removesuffix("fc1."))
        return

    for name, parameter in module.named_parameters(recurse=False):
        _check_dtype(prefix + name, parameter)
        yield prefix + name, parameter.detach()
    for name, child in children.items():
        yield from _unwrapped_parameters(child, f"{prefix}{name}.")


def _check_dtype(name: str, weight: torch.Tensor) -> None:
    """Raise ValueError for a weight whose values are not at hand."""
    if weight.dtype not in KNOWN_DTYPES:
        kind = str(weight.dtype).removeprefix("torch.")
        raise ValueError(
            f"{name} is quantised ({kind}), which does not say which Whisper it is: load the base "
            "in fp32, fp16 or bf16"
        )
    if weight.is_meta:
        raise ValueError(f"{name} is offloaded: load the base on one device, without device_map")


def _equal(weight: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Return whether a weight is another one, or a copy of it."""
    if other is None or weight.data_ptr() == other.data_ptr():
        return other is not None
    alike = (weight.shape, weight.dtype, weight.device) == (other.shape, other.dtype, other.device)
    return alike and torch.equal(weight, other)


# ---- fingerprints

# Names of the dtypes in the file.
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

# The length of a sketch. A prime: each row and each column of a matrix is spread over all its sums.
SKETCH = 127

# The signs begin again after so many values (a multiple of SKETCH), rotated by so many places (not
# a multiple of SKETCH, so that equal signs are in different sums).
PERIOD = SKETCH * 8192
ROTATION = 7001


@dataclass(frozen=True)
class WeightFingerprint:
    """What is stored of one tensor of the plain Whisper.

    Attributes:
        shape: Its shape.
        dtype: That in which it was held, as in DTYPES; "fp32" for fp64 too.
        digests: SHA-256 of its values rounded to each of DTYPES, in hexadecimal digits.
        norm: Its Euclidean norm.
        sketch: (SKETCH,), in float64; see `sketch`.
    """

    shape: tuple[int, ...]
    dtype: str
    digests: dict[str, str]
    norm: float
    sketch: torch.Tensor


# Of a whole Whisper, by the tensors' names.
Fingerprints = dict[str, WeightFingerprint]


def base_fingerprint(model: nn.Module) -> str:
    """Return the exact fingerprint of the plain Whisper in a model, in hexadecimal digits.

    It covers names, shapes and values of all weights. A model in bf16 or fp16 and its copy in fp32
    have the same one; a model and its rounded copy have not.

    Args:
        model: As for `plain_weights`.

    Raises:
        ValueError: As `plain_weights` does.
    """
    weights = plain_weights(model)
    return _combined(
        (name, tuple(weight.shape), _digest(_values(weight))) for name, weight in weights
    )


def fingerprints(model: nn.Module) -> Fingerprints:
    """Return the fingerprint of each weight of the plain Whisper in a model.

    Args:
        model: As for `plain_weights`.

    Raises:
        ValueError: As `plain_weights` does.
    """
    return {name: weight_fingerprint(weight) for name, weight in plain_weights(model)}


def combined(of_weights: Fingerprints) -> str:
    """Return the `base_fingerprint` of the model that the weights' fingerprints are of."""
    return _combined((name, of.shape, of.digests["fp32"]) for name, of in of_weights.items())


def _combined(parts: Iterable[tuple[str, tuple[int, ...], str]]) -> str:
    """Return the SHA-256 of names, shapes and digests, in the order of the names."""
    lines = [f"{name} {list(shape)} {digest}\n" for name, shape, digest in parts]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def weight_fingerprint(weight: torch.Tensor) -> WeightFingerprint:
    """Return the fingerprint of a tensor, on any device and in any of the known dtypes."""
    values = _values(weight)
    digests = {"fp32": _digest(values)}
    for name in ("bf16", "fp16"):
        rounded = values.to(DTYPES[name]).float()
        same = torch.equal(rounded, values)
        digests[name] = digests["fp32"] if same else _digest(rounded)
    norm = _norm(values)
    dtype = next((name for name, dtype in DTYPES.items() if dtype == weight.dtype), "fp32")
    return WeightFingerprint(tuple(values.shape), dtype, digests, norm, sketch(values))


def _values(weight: torch.Tensor) -> torch.Tensor:
    """Return a tensor in fp32, on the CPU."""
    return weight.to("cpu", torch.float32).contiguous()


def _norm(values: torch.Tensor) -> float:
    """Return the Euclidean norm in float64, part by part: a whole copy would take much memory."""
    parts = values.flatten().split(PERIOD)
    norms = [torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]
    return float(torch.stack(norms).norm())


def _digest(values: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor in fp32, in hexadecimal digits."""
    array = values.numpy().astype("<f4", copy=False)
    return hashlib.sha256(array.data).hexdigest()


# ---- sketches


def sketch(values: torch.Tensor) -> torch.Tensor:
    """Return a short vector by which tensors are compared: (SKETCH,), in float64.

    Each value, with a sign, is added to one of the sums: value i to sum i modulo SKETCH. That is
    linear, and the norm of a difference of two sketches estimates the norm of the tensors'
    difference, with a standard error of 1 / sqrt(2 * SKETCH), 6 %. A single value that differs, or
    a tensor of up to SKETCH values, is measured exactly. The signs are the same everywhere, for
    ever: stored sketches depend on them.

    Args:
        values: Any shape, on the CPU.

    Source: count sketch (Charikar, Chen and Farach-Colton, "Finding Frequent Items in Data
    Streams", ICALP 2002).
    """
    sums = torch.zeros(SKETCH, dtype=torch.float64)
    for index, part in enumerate(values.flatten().split(PERIOD)):
        signs = _signs().roll(index * ROTATION)[: len(part)] if index else _signs()[: len(part)]
        padded = nn.functional.pad(part.double() * signs, (0, -len(part) % SKETCH))
        sums += padded.view(-1, SKETCH).sum(0)
    return sums


@cache
def _signs() -> torch.Tensor:
    """Return fixed signs, 1 and -1 in float64: (PERIOD,)."""
    stream = hashlib.shake_256(b"DistilWhisper Lab: signs of values").digest(PERIOD // 8)
    data = torch.frombuffer(bytearray(stream), dtype=torch.uint8)
    bits = (data[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1  # lowest bit first
    return bits.flatten().double() * 2 - 1


# ---- comparison

# Half a unit in the last place: relative to the value, and the absolute one of subnormal numbers
# (those of bf16 and fp32 are far too small to matter).
ROUNDING = {"bf16": (2.0**-8, 0.0), "fp16": (2.0**-11, 2.0**-25), "fp32": (2.0**-24, 0.0)}

# How far the distance of two sketches may exceed the largest possible distance of two rounded
# copies. If every rounding error were half a unit in the last place, 127 sums exceed 1.5 times
# their expected norm with a probability of 3e-14 (chi-squared with 127 degrees of freedom above
# 1.5² * 127). Real errors are smaller: with the weights of whisper-base, distances are 0.25 of the
# tolerance, 0.45 at most.
MARGIN = 1.5


def differing_weights(model: nn.Module, stored: Fingerprints) -> list[str]:
    """Return the names of the weights by which a model is another Whisper; [] where it is the same.

    Stacks that the model lacks are not compared.

    Args:
        model: As for `plain_weights`.
        stored: The fingerprints of the Whisper that it should be.

    Raises:
        ValueError: As `plain_weights` does.
    """
    found = set()
    differing = []
    for name, weight in plain_weights(model):
        found.add(name)
        if name not in stored or not _is_same(weight, stored[name]):
            differing.append(name)

    parts = {name.split(".")[0] for name in found}
    lacking = [name for name in stored if name not in found and name.split(".")[0] in parts]
    if "proj_out.weight" in stored and "proj_out" not in parts:
        # A head that is not stored apart is a copy of the embeddings here, but was none there.
        has_head = getattr(unwrap(model), "proj_out", None) is not None
        lacking += ["proj_out.weight"] if has_head else []
    return differing + lacking


def _is_same(weight: torch.Tensor, stored: WeightFingerprint) -> bool:
    """Return whether a tensor is the stored one, or both are copies of one tensor."""
    if tuple(weight.shape) != stored.shape:
        return False
    if _digest(_values(weight)) in stored.digests.values():
        return True
    found = weight_fingerprint(weight)
    if stored.digests["fp32"] in found.digests.values():
        return True
    return sketch_distance(found, stored) <= _tolerance(found, stored)


def sketch_distance(one: WeightFingerprint, other: WeightFingerprint) -> float:
    """Return the estimate of the distance of two tensors: the Euclidean norm of the difference."""
    return float((one.sketch - other.sketch).norm())


def _tolerance(found: WeightFingerprint, stored: WeightFingerprint) -> float:
    """Return the largest distance of the sketches of two copies of one tensor.

    With relative errors u and v and absolute errors a and b of the two roundings, the difference of
    value x is at most (u + v) |x| + a + b, and its norm over n values at most
    (u + v) * norm + (a + b) * sqrt(n). For bf16 and fp16 together that is 0.44 % of the norm; with
    the margin, a change of the tensor by 1 % is refused.

    Where one of the two is held in fp32, neither is rounded from values that are not at hand: a
    rounded copy has been found by its digest, and what is left is the noise of fp32. Copies in the
    same half precision are equal.
    """
    held = {found.dtype, stored.dtype}
    if "fp32" in held:
        roundings = [ROUNDING["fp32"], ROUNDING["fp32"]]
    elif held == {"bf16", "fp16"}:
        roundings = [ROUNDING["bf16"], ROUNDING["fp16"]]
    else:
        return 0.0
    relative = sum(rounding[0] for rounding in roundings)
    absolute = sum(rounding[1] for rounding in roundings)
    count = torch.Size(stored.shape).numel()
    return MARGIN * (relative * stored.norm + absolute * count**0.5)


# ---- on disk


def write_fingerprints(path: Path, of_weights: Fingerprints) -> None:
    """Write fingerprints to a safetensors file, atomically; whisper-small's take 0.5 MB."""
    stored = of_weights.values()
    digests = [bytes.fromhex("".join(of.digests[name] for name in DTYPES)) for of in stored]
    tensors = {
        "digests": torch.tensor([list(digest) for digest in digests], dtype=torch.uint8),
        "norms": torch.tensor([of.norm for of in stored], dtype=torch.float64),
        "sketches": torch.stack([of.sketch for of in stored]),
    }
    weights = {name: {"shape": of.shape, "dtype": of.dtype} for name, of in of_weights.items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"weights": json.dumps(weights)})


# What reading a damaged file of fingerprints leads to.
DAMAGE = (AttributeError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)


def read_fingerprints(path: Path) -> Fingerprints:
    """Return the fingerprints in a file.

    Args:
        path: As `write_fingerprints` has written it.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where it is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: copy the folder again")
    try:
        return _read(path)
    except (*DAMAGE, SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}): copy the folder again") from error


def _read(path: Path) -> Fingerprints:
    """Return the fingerprints in a file; raises whatever a damaged file leads to."""
    with safe_open(path, "pt") as file:
        weights = json.loads(file.metadata()["weights"])
        digests = file.get_tensor("digests").view(len(weights), len(DTYPES), 32)
        norms = file.get_tensor("norms").tolist()
        sketches = file.get_tensor("sketches").view(len(weights), SKETCH)

    of_weights = {}
    stored = zip(weights.items(), digests.tolist(), norms, sketches, strict=True)
    for (name, weight), rows, norm, sums in stored:
        if weight["dtype"] not in DTYPES or not torch.Size(weight["shape"]).numel():
            raise ValueError(f"{name} cannot be of shape {weight['shape']} in {weight['dtype']!r}")
        if not (math.isfinite(norm) and sums.isfinite().all()):
            raise ValueError(f"the fingerprint of {name} is not finite")
        by_dtype = {dtype: bytes(row).hex() for dtype, row in zip(DTYPES, rows, strict=True)}
        shape = tuple(weight["shape"])
        of_weights[name] = WeightFingerprint(shape, weight["dtype"], by_dtype, norm, sums)
    return of_weights


# ---- formats 1 and 2 of stored experts


def feed_forward_fingerprints(model: nn.Module) -> set[str]:
    """Return the fingerprints that formats 1 and 2 may hold of the Whisper in a model.

    These formats know a Whisper by fc1 of all layers alone, rounded to fp16. That is the same for
    copies in fp32 and fp16. A base in bf16 was rounded to bf16 before, and a copy in fp32 is
    recognised too. A copy in bf16 of a base in fp32 or fp16 cannot be recognised, nor can one stack
    alone.
    """
    direct = hashlib.sha256()
    from_bf16 = hashlib.sha256()
    for _, _, layer in whisper_layers(model):
        weight = shared_block(layer).fc1.get_parameter("weight").detach().cpu()
        direct.update(weight.to(torch.float16).numpy().tobytes())
        from_bf16.update(weight.to(torch.bfloat16).to(torch.float16).numpy().tobytes())
    return {direct.hexdigest(), from_bf16.hexdigest()}
