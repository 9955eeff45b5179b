"""Memory that a run has freed goes back to the system."""

import platform

import psutil
import pytest
from distilwhisper_lib.device import release_memory


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_is_given_back():
    held = [bytearray(b"x" * 64_000) for _ in range(4_000)]  # 256 MB in pieces that malloc takes from its heap
    top = bytearray(b"x" * 64_000)  # what lies above holds the freed pieces in the heap
    del held
    before = psutil.Process().memory_info().rss
    release_memory()
    assert before - psutil.Process().memory_info().rss > 200e6 and top
