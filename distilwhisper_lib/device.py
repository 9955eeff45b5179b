"""The device and the precision that a run uses, its memory, and what the machine is."""

import contextlib
import ctypes
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar

import torch
from torch.utils import deterministic

from .checks import check_choice, number_in
from .programs import cores

PRECISIONS = ("bf16", "fp16", "no")
_CHOSEN: ContextVar[str | None] = ContextVar("precision", default=None)  # see `use_precision`

# Processes that prepare batches for a GPU: at most so many, and only with so much shared memory, in
# which their batches lie. By arithmetic: two batches each of 64 clips in Whisper's 30 s window.
MOST_WORKERS = 4
SHARED_BYTES = 2e9
SHARED_MEMORY = "/dev/shm"

# `accelerate launch` and torchrun set both variables: the number of processes that train together,
# and the number of this process. Process 0 writes the files.
PROCESSES = int(number_in("WORLD_SIZE", os.environ.get("WORLD_SIZE") or "1", low=1, whole=True))
RANK = int(number_in("RANK", os.environ.get("RANK") or "0", low=0, whole=True))


# ---- device and precision


def pick_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model: torch.nn.Module) -> torch.device:
    """Return the device of a model's first parameter."""
    return next(model.parameters()).device


def mixed_precision(device: torch.device) -> str:
    """Return the precision of forward passes on a device: "bf16", "fp16" or "no".

    It is "bf16" where the hardware computes in it, "fp16" on older GPUs (T4), else "no". A T4
    reports bf16 although it only emulates it, so the compute capability decides. `use_precision`
    overrides this, and the environment variable LAB_PRECISION overrides both.

    Raises:
        ValueError: For another value of LAB_PRECISION.
    """
    forced = os.environ.get("LAB_PRECISION")
    if forced:
        if forced not in PRECISIONS:
            raise ValueError(f"LAB_PRECISION is {forced!r}: use bf16, fp16 or no")
        return forced
    chosen = _CHOSEN.get()
    if chosen is not None:
        return chosen

    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"

    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "no"


@contextlib.contextmanager
def use_precision(precision: str | None) -> Iterator[None]:
    """Make `mixed_precision` a given one within the block, for this thread; None: as outside.

    Raises:
        ValueError: For a precision that is none of PRECISIONS.
    """
    if precision is None:
        yield
        return
    check_choice("precision", precision, PRECISIONS)
    token = _CHOSEN.set(precision)
    try:
        yield
    finally:
        _CHOSEN.reset(token)


def autocast(
    device: torch.device, dtype: torch.dtype = torch.float32
) -> AbstractContextManager[object]:
    """Return the context in which forward passes run: autocast to `mixed_precision`, or nothing.

    Args:
        device: Where the model is.
        dtype: The dtype of the model's weights. A model in half precision computes in that, without
            autocast.
    """
    precision = mixed_precision(device)
    if precision == "no" or dtype != torch.float32:
        return contextlib.nullcontext()
    half = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=half)


@contextlib.contextmanager
def weights_cast_once(model: torch.nn.Module) -> Iterator[None]:
    """Let autocast keep its 16-bit copy of every weight within the block, frozen ones included.

    Autocast keeps the copies of trainable weights only, and casts frozen weights anew at each
    decoding step. Within the block every weight therefore requires a gradient; use it together with
    `torch.no_grad`. The weights are frozen again afterwards.
    """
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


@contextlib.contextmanager
def deterministic_sums() -> Iterator[None]:
    """Deterministic sums on CPU: a training run within the block gives the same bits again.

    Without it, the gradient of the decoder's position embeddings, which full fine-tuning needs, is
    summed in the order in which the threads finish, and the rounding differs from run to run. On a
    GPU nothing changes. A stricter mode that is already set stays.
    """
    before = torch.get_deterministic_debug_mode()
    filled_before = deterministic.fill_uninitialized_memory
    wanted = 1 if pick_device().type == "cpu" else 0  # 1: warn where torch cannot be deterministic
    torch.set_deterministic_debug_mode(max(before, wanted))
    # Else every new tensor is filled with NaN before its values are written.
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = filled_before
        torch.set_deterministic_debug_mode(before)


# ---- batches for a GPU


def loader_workers(device: torch.device) -> int:
    """Return the number of processes that prepare batches while this one computes.

    On a CPU there are none, for they would take the cores that compute. With a GPU there is one for
    each other core, at most MOST_WORKERS, on Linux alone and where there is shared memory for their
    batches. The environment variable LAB_WORKERS overrides this; batches are the same.

    Raises:
        ValueError: For a LAB_WORKERS that is no whole number from 0 on.
    """
    forced = os.environ.get("LAB_WORKERS")
    if forced:
        return int(number_in("LAB_WORKERS", forced, low=0, whole=True))
    if device.type != "cuda" or not _has_shared_memory():
        return 0
    others = cores() - 1
    return min(MOST_WORKERS, max(1, others))


def _has_shared_memory() -> bool:
    """Return whether this is Linux with shared memory for batches; containers may have little."""
    try:
        return sys.platform == "linux" and shutil.disk_usage(SHARED_MEMORY).free >= SHARED_BYTES
    except OSError:
        return False


def to_device(
    tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Return a tensor on a device, and in a dtype; the CPU does not wait until a GPU has it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device=device, dtype=dtype or tensor.dtype, non_blocking=True)


# ---- memory


def card_memory_gb(device: torch.device) -> float | None:
    """Return the memory of a GPU in gigabytes (10^9 bytes); None for a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory / 1e9


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement of `peak_memory_gb`.

    Only Linux can reset the peak of a process; on other systems the peak on a CPU stays that since
    the process began.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak memory in gigabytes (10^9 bytes) since `reset_peak_memory`.

    On a GPU it is that of torch's allocator, on a CPU the resident memory of this process. On a CPU
    under Windows, which does not report it in this way, it is NaN.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9

    try:
        import resource  # exists on Unix only
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kibibytes
    return peak * unit / 1e9


def release_memory() -> None:
    """Return freed memory to the operating system.

    glibc keeps freed memory, and batches of many lengths make that grow. With another C library
    nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


# ---- the machine


def describe_machine() -> dict:
    """Return processor, cores, threads, GPU, precision and system, without names that identify it.

    Neither the machine's name nor its user's is in the result.
    """
    device = pick_device()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "precision": mixed_precision(device),
        "system": platform.system(),
    }


def _processor() -> str:
    """Return the processor's model name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
