"""Experts as a standard adapter of PEFT, which plain PEFT loads onto plain Whisper.

With constant gates, low-rank experts compute W h + b + B A h at every position of some layers, and
W h + b in the others. That is a LoRA on fc1 and fc2 of the layers whose gates are open.

Source: Hu et al., "LoRA", ICLR 2022; for the format, the package peft.
"""

import re
from pathlib import Path

import transformers
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file

from ..checks import check_number, check_path
from ..files import atomic_folder
from ..method.blocks import blocks_by_layer, clsr_blocks, expert_parameters, whisper_layers
from ..method.languages import use_language
from ..method.packing import Tensors, pack
from ..method.storage import shared_tensors
from ..whisper.checkpoint import check_finite
from ..whisper.tokens import language_code
from ..whisper.unwrap import has_adapter, unwrap

LISTED = 4  # layers in a message


def export_adapter(model, language: str, folder: str | Path, rank: int | None = None) -> Path:
    """Write the experts of a language as a LoRA of PEFT, atomically; the model is not changed.

    `PeftModel.from_pretrained(plain, folder)` puts it on the Whisper that the experts belong to.
    Plain Whisper then computes what the experts compute with these constant gates: in fp32, with
    the same implementation of attention, the same numbers; in fp16 and bf16 up to rounding, because
    PEFT computes adapters in fp32.

    Args:
        model: A Whisper with experts, whose gates for `language` are constant in every layer
            (`fix_gates` with at_least=0.5) or bypassed (`ExpertSettings.always_open`).
        language: Its code or English name.
        folder: The folder to write, which must not exist.
        rank: For experts that are full copies: the adapter holds the nearest difference of this
            rank to each weight matrix, rounded to fp16, and the whole difference of the biases
            (`lora_bias`). None for experts of low rank, which are written as they are.

    Returns:
        The folder, with adapter_config.json and adapter_model.safetensors.

    Raises:
        ValueError: For a language without experts, gates that are computed or all shut, full copies
            without `rank`, a model that has an adapter, or weights that are not finite.
        FileExistsError: Where the folder exists.
        OSError: As `disk_errors` does.
    """
    folder = check_path("folder", folder)
    code = language_code(language)
    with use_language(model, code):  # raises the error
        modules = _adapted_modules(model, code)
    _check_without_adapter(model)
    _check_rank(model, code, rank)

    with atomic_folder(folder, new=True) as temporary:
        weights = {name: weight.detach().cpu() for name, weight in expert_parameters(model, code)}
        if rank is None:
            tensors = _own_difference(weights, modules)
        else:
            tensors = _nearest_difference(weights, shared_tensors(model, code), modules, rank)
        check_finite(tensors.items(), f"the adapter of the {code} experts")

        _configuration(model, tensors, modules).save_pretrained(str(temporary))
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, temporary / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    return folder


def _adapted_modules(model, language: str) -> dict[str, str]:
    """Return the linear layers that the adapter changes, by the names of the experts' own.

    For example {"encoder.0.experts.ca.fc1": "model.encoder.layers.0.fc1"}.

    Raises:
        ValueError: Where gates are not constant, or all are shut.
    """
    name_of = {module: name for name, module in unwrap(model).named_modules()}
    layers = {(stack, index): layer for stack, index, layer in whisper_layers(model)}
    found = {}
    computed = []
    for stack, index, block in blocks_by_layer(model):
        without_gates = block.routing.settings.always_open or None
        is_open = block.constant_gates.get(language, without_gates)
        if is_open is None:
            computed.append(f"{stack} {index}")
        elif is_open:
            layer = name_of[layers[stack, index]]
            for part in ("fc1", "fc2"):
                found[f"{stack}.{index}.experts.{language}.{part}"] = f"{layer}.{part}"

    if computed:
        listed = ", ".join(computed[:LISTED]) + (", ..." if len(computed) > LISTED else "")
        raise ValueError(
            f"an adapter has no gates, and those of {language} are not constant in "
            f"{len(computed)} of {len(layers)} layers ({listed}): fix_gates(model, '{language}', "
            f"gate_shares(model, '{language}', batches), at_least=0.5) makes all of them constant; "
            "compare the WER before and after"
        )
    if not found:
        raise ValueError(
            f"the gates of {language} are shut in every layer, so that the model computes what "
            "plain Whisper does: use plain Whisper, no adapter is needed"
        )
    return found


def _check_without_adapter(model) -> None:
    """Raise ValueError for a model with an adapter of its own, which would be left out."""
    if has_adapter(model):
        raise ValueError(
            "this model has an adapter beside its experts, which export_adapter would leave out: "
            "save the experts with save_experts, load them into a Whisper without that adapter, "
            "and export from there"
        )


def _check_rank(model, language: str, rank: int | None) -> None:
    """Raise ValueError for a rank that is missing, not needed or too large."""
    block = clsr_blocks(model)[0]
    own_rank = block.routing.settings.rank
    if own_rank and rank is not None:
        raise ValueError(
            f"rank is {rank!r}, but the {language} experts have rank {own_rank} already and are "
            "written as they are: leave rank out"
        )
    if own_rank:
        return

    if rank is None:
        raise ValueError(
            f"the {language} experts are full copies of Whisper's blocks, and an adapter holds "
            "differences of low rank: rank=64 writes the nearest of that rank, as "
            'save_experts(model, folder, form="low-rank", rank=64) does; or train experts of low '
            "rank, attach_experts(model, languages, ExpertSettings(rank=64))"
        )
    largest = min(block.shared.fc1.get_parameter("weight").shape)
    check_number("rank", rank, low=1, high=largest, whole=True)


def _own_difference(weights: Tensors, modules: dict[str, str]) -> Tensors:
    """Return the adapter's tensors of experts of low rank; their biases are Whisper's own."""
    tensors = {}
    for expert, module in modules.items():
        tensors[_key(module, "lora_A.weight")] = weights[f"{expert}.down.weight"]  # (rank, in)
        tensors[_key(module, "lora_B.weight")] = weights[f"{expert}.up.weight"]  # (out, rank)
    return tensors


def _nearest_difference(
    weights: Tensors, shared: Tensors, modules: dict[str, str], rank: int
) -> Tensors:
    """Return the adapter's tensors of experts that are full copies.

    Args:
        weights: The experts' weights by name.
        shared: The shared blocks' weights by the same names.
        modules: As `_adapted_modules` returns them.
        rank: Of the differences.
    """
    tensors = {}
    for expert, module in modules.items():
        name = f"{expert}.weight"
        packed = pack({name: weights[name]}, "low-rank", shared, rank)
        tensors[_key(module, "lora_A.weight")] = packed[f"{name}.right"]  # (rank, in)
        tensors[_key(module, "lora_B.weight")] = packed[f"{name}.left"]  # (out, rank)
        bias = weights[f"{expert}.bias"].float() - shared[f"{expert}.bias"].float()  # (out,)
        tensors[_key(module, "lora_B.bias")] = bias
    return tensors


def _key(module: str, part: str) -> str:
    """Return the name that PEFT gives a tensor in a file: without the adapter's name."""
    return f"base_model.model.{module}.{part}"


def _configuration(model, tensors: Tensors, modules: dict[str, str]) -> LoraConfig:
    """Return PEFT's configuration: every module by its full name, and the scale alpha / r = 1."""
    whisper = unwrap(model)
    rank = next(len(tensor) for name, tensor in tensors.items() if name.endswith("lora_A.weight"))
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_bias=any(name.endswith("lora_B.bias") for name in tensors),
        inference_mode=True,
        base_model_name_or_path=whisper.config._name_or_path,
        revision=_commit_of(whisper),
    )
    config.target_modules = sorted(modules.values())  # as a set, their order in the file would vary

    # No task type: for PEFT's, `forward` takes input_ids, which Whisper has not. With the class
    # AutoPeftModel finds the Whisper by itself.
    name = type(whisper).__name__
    if hasattr(transformers, name):
        config.auto_mapping = {"base_model_class": name, "parent_library": "transformers"}
    return config


def _commit_of(whisper) -> str | None:
    """Return the hub's commit of a Whisper; None for what is from elsewhere, such as a mirror."""
    revision = getattr(whisper.config, "_commit_hash", None)
    return revision if revision and re.fullmatch("[0-9a-f]{40}", revision) else None
