"""DistilWhisper Lab: language-specific experts and distillation for Whisper, small enough to read in an hour.

The modules, in the order in which they import each other:
basics: fidelity, presets, text, audio, device, record;
corpora/: archives, apt, packages, items, fillets, stamps, toy, tables, common_voice, fleurs, recorded, shards, loading;
checkpoints/: conversion, packing, tiny, mirror, released;
the method: weights, experts, clsr, storage, losses;
training: batches, teacher, systems, scoring, evaluate, train;
results: testsets, lab, comparison, drawing, plots;
deployment/: bake, export;
experiments/: study, estimates, jobs, grid;
programs: course.
"""

from .clsr import (
    ExpertSettings, attach_experts, detach_experts, expert_languages, get_language, last_gates, set_language,
    use_language,
)  # fmt: skip
from .deployment import bake, export_ctranslate2
from .lab import Lab, open_lab
from .losses import cross_entropy, gate_budget_loss, js_divergence, kl_divergence, total_loss
from .presets import get_preset
from .storage import load_experts, load_released, save_experts
from .text import normalise
from .weights import load_processor, load_whisper, use_window

__all__ = [
    "ExpertSettings", "Lab", "attach_experts", "bake", "cross_entropy", "detach_experts", "expert_languages",
    "export_ctranslate2", "gate_budget_loss", "get_language", "get_preset", "js_divergence", "kl_divergence",
    "last_gates", "load_experts", "load_processor", "load_released", "load_whisper", "normalise", "open_lab",
    "save_experts", "set_language", "total_loss", "use_language", "use_window",
]  # fmt: skip
