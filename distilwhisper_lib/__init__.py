"""DistilWhisper Lab: language-specific experts and distillation for Whisper, small enough to read in an hour.

The modules, in the order in which they import each other: presets, text, audio, archives, packages, items, fillets, stamps, toy,
corpora (data); conversion, mirror, tiny, weights (Whisper); clsr, storage, losses (the method); device, batches,
teacher, systems, train (training); scoring, evaluate, testsets, record, lab, comparison, drawing, plots, study, course, check_real (results).
"""

from .clsr import (
    ExpertSettings,
    attach_experts,
    detach_experts,
    expert_languages,
    get_language,
    last_gates,
    set_language,
    use_language,
)
from .lab import Lab, open_lab
from .losses import cross_entropy, gate_budget_loss, js_divergence, kl_divergence, total_loss
from .presets import get_preset
from .storage import load_experts, save_experts
from .text import normalise
from .weights import load_processor, load_whisper, use_window

__all__ = [
    "ExpertSettings", "Lab", "attach_experts", "cross_entropy", "detach_experts", "expert_languages",
    "gate_budget_loss", "get_language", "get_preset", "js_divergence", "kl_divergence", "last_gates", "load_experts",
    "load_processor", "load_whisper", "normalise", "open_lab", "save_experts", "set_language", "total_loss",
    "use_language", "use_window",
]  # fmt: skip
