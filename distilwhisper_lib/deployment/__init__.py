"""After training: experts without gates, and exports to programs that know nothing of experts."""

from .bake import bake, fix_gates, gate_shares
from .export import export_checkpoint, export_ctranslate2

__all__ = ["bake", "export_checkpoint", "export_ctranslate2", "fix_gates", "gate_shares"]
