"""Freed memory is returned, autocast casts frozen weights once, sums on CPU are deterministic."""

import contextlib
import math
import os
import platform
import subprocess
import sys

import psutil
import pytest
import torch
from torch.utils import deterministic
from torch.utils._python_dispatch import TorchDispatchMode

from distilwhisper_lib.device import (
    deterministic_sums,
    peak_memory_gb,
    release_memory,
    reset_peak_memory,
    weights_cast_once,
)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_is_given_back():
    piece = b"x" * 64_000  # so small that malloc takes it from its heap
    held = [bytearray(piece) for _ in range(4_000)]  # 256 MB
    top = bytearray(piece)  # lies above: the freed pieces stay in the heap
    del held
    before = psutil.Process().memory_info().rss
    release_memory()
    assert before - psutil.Process().memory_info().rss > 200e6
    assert top


def test_peak_memory_is_unknown_where_the_system_does_not_report_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert math.isnan(peak_memory_gb(torch.device("cpu")))


@pytest.mark.skipif(platform.system() != "Linux", reason="only Linux can reset a process's peak")
def test_peak_memory_is_that_since_the_reset():
    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory_gb(device)
    block = torch.ones(2**26)  # 256 MiB
    assert peak_memory_gb(device) == pytest.approx(before + 2**28 / 1e9, abs=0.05)
    assert block.sum()
    del block
    reset_peak_memory(device)
    assert peak_memory_gb(device) == pytest.approx(before, abs=0.05)


def copies(linear: torch.nn.Linear, block) -> int:
    """Return how often the weight is cast when it is used three times under autocast.

    block: Gives the context, from the layer.
    """

    class Count(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "_to_copy" in str(function) and args[0].shape == linear.weight.shape:
                self.number += 1
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), block(linear), Count() as count:
        for _ in range(3):
            linear(torch.zeros(1, 8))
    return count.number


def test_frozen_weights_are_cast_once_under_autocast_and_are_frozen_afterwards():
    linear = torch.nn.Linear(8, 4).requires_grad_(False)
    linear.bias.requires_grad_(True)
    # where this gives 1, autocast does it itself by now, and the context is not needed any more
    assert copies(linear, lambda _: contextlib.nullcontext()) == 3
    assert copies(linear, weights_cast_once) == 1
    assert not linear.weight.requires_grad and linear.bias.requires_grad
    with pytest.raises(KeyError), weights_cast_once(linear):
        raise KeyError
    assert not linear.weight.requires_grad


def test_gradients_of_position_embeddings_are_deterministic_with_several_threads():
    torch.manual_seed(0)
    weight = torch.randn(64, 512, requires_grad=True)
    positions = torch.arange(60).repeat(32, 1)
    upstream = torch.randn(32, 60, 512)

    def gradient() -> bytes:
        (found,) = torch.autograd.grad((weight[positions] * upstream).sum(), weight)
        return found.numpy().tobytes()

    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with deterministic_sums():
            gradients = {gradient() for _ in range(30)}
    finally:
        torch.set_num_threads(threads)
    assert len(gradients) == 1
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_stricter_mode_that_is_set_already_stays():
    torch.use_deterministic_algorithms(True)
    try:
        with deterministic_sums():
            assert torch.get_deterministic_debug_mode() == 2  # errors, not warnings
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.use_deterministic_algorithms(False)


def test_sums_on_a_gpu_are_left_as_they_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with deterministic_sums():
        assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("name", "value"), [("WORLD_SIZE", "0"), ("RANK", "one"), ("RANK", "-1")])
def test_variables_of_the_processes_are_checked(name, value):
    code = "import distilwhisper_lib.device"
    environment = os.environ | {name: value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert f"ValueError: {name} is " in done.stderr
    assert "a whole number from" in done.stderr


def test_within_deterministic_sums_new_tensors_are_not_filled_first():
    before = deterministic.fill_uninitialized_memory
    with deterministic_sums():
        assert torch.get_deterministic_debug_mode() == 1
        assert not deterministic.fill_uninitialized_memory
    assert deterministic.fill_uninitialized_memory == before
    assert torch.get_deterministic_debug_mode() == 0
