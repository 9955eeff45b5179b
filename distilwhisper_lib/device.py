"""Which device and which precision a run uses, and what the machine is."""

import contextlib
import ctypes
import os
import platform
import resource
import sys
from collections.abc import Iterator

import torch

PROCESSES = int(
    os.environ.get("WORLD_SIZE", 1)
)  # that train together: `accelerate launch` sets both

RANK = int(os.environ.get("RANK", 0))  # of this one; 0 is the one that writes


def pick_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(model) -> torch.device:
    """Return the device of a model's first parameter."""
    return next(model.parameters()).device


def mixed_precision(device: torch.device) -> str:
    """Return "bf16" where the hardware computes in it, "fp16" on older GPUs (T4), else "no".

    The variable LAB_PRECISION overrides it. A T4 reports bf16 by emulation, so its compute capability decides.
    """
    if forced := os.environ.get("LAB_PRECISION"):
        if forced not in ("bf16", "fp16", "no"):
            raise ValueError(f"LAB_PRECISION is {forced!r}: use bf16, fp16 or no")
        return forced
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "no"


def autocast(device: torch.device, dtype: torch.dtype = torch.float32):
    """Return the context in which forward passes run: autocast to `mixed_precision`, or nothing.

    dtype: of the model; one in half precision computes in it.
    """
    precision = mixed_precision(device)
    if precision == "no" or dtype != torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(
        device.type, dtype={"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    )


@contextlib.contextmanager
def weights_cast_once(model) -> Iterator[None]:
    """Let autocast keep its 16-bit copy of every weight within the block, frozen ones too.

    It keeps those of trainable weights only, and casts frozen ones anew at each decoding step. For use without
    gradients; the weights are frozen again afterwards.
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
    """Let torch add up in one order within the block, on a CPU: a training gives the same bits again.

    Without it the gradient of the decoder's positions, which full fine-tuning needs, is summed by the processor's
    cores as they come, and the rounding differs from run to run.
    """
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(
        max(before, pick_device().type == "cpu")
    )  # 1: warn where there is no order
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_gb` begin anew; outside Linux a process's own peak can't be, and stays that of all so far."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory_gb(device: torch.device) -> float:
    """Return the peak since `reset_peak_memory`: of this process (resident) on a CPU, of torch's allocator on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def release_memory() -> None:
    """Give freed memory back to the system: glibc keeps it, and batches of many lengths make it grow (else no-op)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def describe_machine() -> dict:
    """Return processor, cores, GPU and precision, without any name of the machine or its user."""
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
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
