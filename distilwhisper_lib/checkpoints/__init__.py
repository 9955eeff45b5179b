"""Checkpoints in other forms: the mirror of whisper-base, the authors' release, and a tiny one for tests."""

from .mirror import MIRRORED, VERSION, fetch_mirror, mirror_folder, without_bars
from .tiny import tiny_processor, tiny_whisper

__all__ = ["MIRRORED", "VERSION", "fetch_mirror", "mirror_folder", "tiny_processor", "tiny_whisper", "without_bars"]
