"""DistilWhisper Lab: language-specific experts and distillation for Whisper.

    method/        the paper: experts, routing, losses, experts on disk
    whisper/       plain Whisper: models by name, the short window, logits, tokens
    data/          speech: audio, batches, text normalisers, corpora
    evaluation/    test sets, transcription, scores, baked and exported models
    training/      the methods, what they minimise, one trainer, cached teacher distributions
    lab/           what the notebooks call: laboratory, comparison, run metadata, figures, course
    experiments/   beyond the course: tuning, seeds, smaller experts, the paper's whole table
    cli/           the command line `distilwhisper`
    demo/          what `make demo` shows
    files/         folders, JSON, hashes, atomic writes, locks, damaged files

Beside the folders: `checks`, `programs`, `presets`, `fidelity` and `device`; on these and on
`files/` everything stands.

Every public name can be imported from here, and is loaded when it is first asked for:
`from distilwhisper_lib import attach_experts` loads torch and transformers, but neither datasets
nor pandas.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("distilwhisper-lab")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

_PUBLIC = {
    "device": ["autocast", "use_precision", "describe_machine", "weights_cast_once"],
    "fidelity": ["DIFFERENCES", "FIDELITIES", "Fidelity", "get_fidelity"],
    "files.folders": ["REPOSITORY", "cache_dir", "data_dir", "results_dir"],
    "files.hashes": ["short_hash"],
    "presets": ["LAPTOP", "PRESETS", "Preset", "get_preset"],
    "whisper.loading": ["find_weights", "load_processor", "load_whisper"],
    "whisper.logits": ["logits_at", "teacher_forced_logits"],
    "whisper.shapes": ["NATIVE_FRAMES"],
    "whisper.tiny": ["tiny_processor", "tiny_whisper"],
    "whisper.tokens": ["decoder_inputs", "encode_labels", "language_code", "prefix_tokens"],
    "whisper.window": ["use_window"],
    "method.attach": ["attach_experts", "detach_experts"],
    "method.blocks": [
        "clsr_blocks",
        "expert_languages",
        "expert_parameters",
        "last_gates",
        "shared_block",
        "whisper_layers",
    ],
    "method.experts": ["ExpertSettings", "FeedForward", "Gate", "LowRankLinear"],
    "method.fingerprint": ["base_fingerprint"],
    "method.languages": ["get_language", "set_language", "use_language"],
    "method.loading": ["load_experts"],
    "method.losses": [
        "IGNORED",
        "cross_entropy",
        "gate_budget_loss",
        "gate_uniformity_loss",
        "js_divergence",
        "kl_divergence",
        "labelled",
        "top_k_divergence",
        "top_k_log_probs",
        "total_loss",
    ],
    "method.packing": ["pack", "unpack"],
    "method.released": ["load_released", "released_folder", "save_released"],
    "method.routing": ["ClsrFeedForward", "Routing"],
    "method.sharing": ["push_experts"],
    "method.storage": ["save_experts"],
    "data.audio": ["SAMPLE_RATE", "add_noise", "add_reverberation", "log_mel", "read_audio"],
    "data.batches": [
        "Clips",
        "Collator",
        "length_batches",
        "position_masks",
        "window_frames",
    ],
    "data.corpora.common_voice": ["most_voted", "read_common_voice"],
    "data.corpora.loading": ["load_corpus"],
    "data.corpora.recorded": ["write_recordings"],
    "data.corpora.reports": ["corpus_report"],
    "data.normalisers": ["NORMALISERS", "normalise"],
    "evaluation.bake": ["bake", "fix_gates", "gate_shares"],
    "evaluation.export": ["export_checkpoint", "export_ctranslate2"],
    "evaluation.export_adapter": ["export_adapter"],
    "evaluation.interpolation": ["interpolated", "interpolated_experts"],
    "evaluation.likelihood": ["language_scores", "text_losses"],
    "evaluation.scoring": [
        "LOOP_RATIO",
        "count_errors",
        "in_characters",
        "is_loop",
        "main_rate",
        "paired_difference",
        "summarise",
        "word_errors",
    ],
    "evaluation.testsets": ["DOMAINS", "corpus_of", "is_retention", "with_paper_data"],
    "evaluation.transcription": ["generate_batch", "transcribe"],
    "training.objective": ["Objective"],
    "training.config": ["Decoding", "Optimisation", "RunConfig", "TrainingData", "identify"],
    "training.methods": [
        "METHODS",
        "Cost",
        "Method",
        "compared_methods",
        "count_parameters",
        "get_method",
        "lora_config",
        "register",
        "trained_methods",
    ],
    "training.teacher": ["TeacherDistributions", "cache_teacher_distributions"],
    "training.callbacks": ["GateNoise", "last_complete_checkpoint"],
    "training.run": ["train_run"],
    "training.trainer": ["make_trainer", "training_arguments"],
    "lab.card": ["model_card"],
    "lab.comparison": ["compare", "counts", "paired", "score"],
    "lab.lab": ["Lab", "open_lab"],
    "lab.own_language": [
        "doubtful_clips",
        "language_losses",
        "learning_curve",
        "open_recordings",
    ],
    "lab.speech": ["Speech"],
    "lab.plots": ["plot_comparison", "plot_curves", "plot_forgetting", "plot_gate_layers"],
    "lab.tables": ["show"],
    "experiments.estimates": ["estimate"],
    "experiments.grid": ["listing"],
    "experiments.jobs": ["ROWS", "make_jobs"],
    "experiments.published": ["compare_published", "published_sources"],
    "cli.folder_check": ["check_folder", "language_of"],
    "cli.share": ["share"],
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
_MODULES = {
    "comparison": "lab.comparison",
    "plots": "lab.plots",
    "statistics": "evaluation.statistics",
}

__all__ = sorted([*_HOME, *_MODULES])


def __getattr__(name: str):
    """Import a public name when it is first asked for (PEP 562)."""
    if name in _MODULES:
        return import_module(f".{_MODULES[name]}", __name__)
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
