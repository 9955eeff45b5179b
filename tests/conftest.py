"""What every test starts from: own cache and results, full precision, one thread, a tiny model."""

import gc
import os

import pytest
import torch

from distilwhisper_lib.data.batches import Collator
from distilwhisper_lib.whisper.loading import load_processor, load_whisper

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)  # deterministic sums, and room for other tests


def pytest_collection_finish():
    """Leave what is imported out of garbage collection: each training collects twice.

    Without this each collection looks through all of torch and transformers, in 0.2 s and more.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_folders(request, monkeypatch, tmp_path):
    """Give each test its own cache, results and settings; tests of real data keep the real ones."""
    for name in ("LAB_PRESET", "LAB_PRECISION", "LAB_DATA"):
        monkeypatch.delenv(name, raising=False)
    if "real" not in request.keywords:
        monkeypatch.setenv("LAB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("LAB_RESULTS", str(tmp_path / "results"))
        monkeypatch.setenv("LAB_PRECISION", "no")


@pytest.fixture
def model():
    """A random Whisper with every part of the real one."""
    return load_whisper("tiny")


@pytest.fixture(scope="session")
def processor():
    """The tiny Whisper's tokenizer and feature extractor; do not change them."""
    return load_processor("tiny")


@pytest.fixture
def collator(processor):
    """A collator for the tiny Whisper, with a short margin."""
    return Collator(processor.tokenizer, margin_seconds=0.1)
