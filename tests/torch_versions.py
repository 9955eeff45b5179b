"""What older releases of torch cannot do, whichever model it is."""

import pytest
import torch
from packaging.version import Version

# Whisper's cache copies its configuration in each forward pass; torch 2.11 cannot trace that.
ONE_GRAPH = pytest.mark.skipif(
    Version(torch.__version__) < Version("2.13"),
    reason=f"torch {torch.__version__} does not compile plain Whisper into one graph either",
)
