"""Memory that a run has freed goes back; autocast casts frozen weights once; gradients are summed in one order."""

import contextlib
import platform

import psutil
import pytest
import torch
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
    held = [
        bytearray(b"x" * 64_000) for _ in range(4_000)
    ]  # 256 MB in pieces that malloc takes from its heap
    top = bytearray(b"x" * 64_000)  # what lies above holds the freed pieces in the heap
    del held
    before = psutil.Process().memory_info().rss
    release_memory()
    assert before - psutil.Process().memory_info().rss > 200e6 and top


@pytest.mark.skipif(
    platform.system() != "Linux", reason="only Linux lets a process's peak begin anew"
)
def test_peak_memory_is_that_since_the_reset():
    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory_gb(device)
    block = torch.ones(2**26)  # 256 MB
    assert peak_memory_gb(device) == pytest.approx(before + 2**28 / 1e9, abs=0.05) and block.sum()
    del block
    reset_peak_memory(device)
    assert peak_memory_gb(device) == pytest.approx(before, abs=0.05)


def copies(linear: torch.nn.Linear, block) -> int:
    """Return how often the weight is copied while it is used three times under autocast, within `block(linear)`."""

    class Count(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.number += "_to_copy" in str(function) and args[0].shape == linear.weight.shape
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), block(linear), Count() as count:
        for _ in range(3):
            linear(torch.zeros(1, 8))
    return count.number


def test_frozen_weights_are_cast_once_under_autocast_and_are_frozen_afterwards():
    linear = torch.nn.Linear(8, 4).requires_grad_(False)
    linear.bias.requires_grad_(True)
    assert (
        copies(linear, lambda _: contextlib.nullcontext()) == 3
    )  # what the block is for; 1: autocast does it itself by now
    assert copies(linear, weights_cast_once) == 1
    assert not linear.weight.requires_grad and linear.bias.requires_grad
    with pytest.raises(KeyError), weights_cast_once(linear):
        raise KeyError
    assert not linear.weight.requires_grad


def test_gradients_of_positions_are_summed_in_one_order_whatever_the_threads():
    torch.manual_seed(0)
    weight, threads = torch.randn(64, 512, requires_grad=True), torch.get_num_threads()
    positions, upstream = torch.arange(60).repeat(32, 1), torch.randn(32, 60, 512)
    torch.set_num_threads(4)
    try:
        with deterministic_sums():
            sums = {
                torch.autograd.grad((weight[positions] * upstream).sum(), weight)[0]
                .numpy()
                .tobytes()
                for _ in range(30)
            }
    finally:
        torch.set_num_threads(threads)
    assert len(sums) == 1 and not torch.are_deterministic_algorithms_enabled()


def test_a_reader_s_own_order_of_sums_stays():
    torch.use_deterministic_algorithms(True)
    try:
        with deterministic_sums():
            assert (
                torch.get_deterministic_debug_mode() == 2
            )  # an error where there is no order, as the reader asked
        assert torch.get_deterministic_debug_mode() == 2
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_gpu_is_left_to_its_own_order(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with deterministic_sums():
        assert not torch.are_deterministic_algorithms_enabled()
