"""Trained experts into a Whisper: check that they fit, attach them, copy their weights."""

from pathlib import Path

import torch
from torch import nn

from ..whisper.checkpoint import check_finite, is_finite
from ..whisper.tokens import language_codes
from .attach import Model, attach_experts
from .blocks import clsr_blocks, expert_parameters, shared_block, whisper_layers
from .experts import ExpertSettings, Gate, new_expert
from .fingerprint import differing_weights, feed_forward_fingerprints, plain_weights
from .packing import Tensors
from .sharing import check_languages, experts_folder
from .storage import expert_file, read_base, read_description, read_tensors, shared_tensors

# Where adapters go: a Whisper that differs in some of these alone has one merged, most likely.
ADAPTED = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


def load_experts(
    model: Model,
    folder: str | Path,
    languages: str | list[str] | None = None,
    *,
    revision: str | None = None,
) -> Model:
    """Attach stored experts to a model, in place.

    Where an error is raised, the model is as it was before.

    Args:
        model: The Whisper that the experts were trained on, in fp32, fp16 or bf16; it may have
            experts already. Where it has only an encoder or a decoder, it takes that one's experts.
        folder: As `save_experts` or `model.save_pretrained` has written it; or a name on the hub,
            "user/name", of which the files of the wanted languages are fetched.
        languages: Codes or English names; None: all languages that are stored.
        revision: Branch, tag or commit on the hub; None: the main branch.

    Returns:
        The model. No language is set: see `set_language`.

    Raises:
        FileNotFoundError: For a folder, repository, revision, file or language that is not there.
        ValueError: For experts that were trained on another Whisper, a damaged file, or weights
            that are not finite, also in the model's dtype. Folders in formats 1 and 2 cannot tell
            another Whisper in all cases: see `check_base`.
        OSError: Where the hub cannot be reached.
    """
    source = str(folder)
    folder = experts_folder(folder, languages, revision)
    description = read_description(folder)
    wanted = language_codes(description["languages"] if languages is None else languages)
    check_languages(source, wanted, description)

    # Each file says its own form: a save in another form that was stopped leaves both.
    stacks = {stack for stack, _, _ in whisper_layers(model)}
    experts: dict[str, Tensors] = {}
    differences: dict[str, set[str]] = {}
    for language in wanted:
        tensors, of_differences = read_tensors(expert_file(folder, language), description)
        experts[language] = _of_stacks(tensors, stacks)
        differences[language] = of_differences & set(experts[language])

    _refuse_quantised(model)
    settings = ExpertSettings(**description["settings"])
    check_shapes(model, settings, experts, f"{source} ({description['base_model']})")
    check_base(model, folder, description, source)

    for language, tensors in experts.items():
        shared = shared_tensors(model, language)
        for name in differences[language]:
            tensors[name] += shared[name].float()
        path = expert_file(folder, language)
        check_finite(tensors.items(), str(path))
        _check_fits_dtype(model, tensors, path)
    return attach_trained(model, settings, experts)


def _check_fits_dtype(model: nn.Module, tensors: Tensors, path: Path) -> None:
    """Raise ValueError where a weight would become infinite in the dtype of a model."""
    _, _, layer = next(whisper_layers(model))
    dtype = shared_block(layer).fc1.get_parameter("weight").dtype
    for name, tensor in tensors.items():
        if not is_finite(tensor.to(dtype)):
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"{path}: {name} has values that {kind} does not hold: load Whisper with "
                "dtype=torch.float32 or torch.bfloat16"
            )


def _of_stacks(tensors: Tensors, stacks: set[str]) -> Tensors:
    """Return the tensors of the stacks that a model has; those of unknown stacks stay."""
    lacking = {"encoder", "decoder"} - stacks
    return {name: tensor for name, tensor in tensors.items() if name.split(".")[0] not in lacking}


def _refuse_quantised(model: nn.Module) -> None:
    """Raise ValueError for a quantised Whisper, whose shapes say nothing."""
    for _ in plain_weights(model):
        pass


def attach_trained(model: Model, settings: ExpertSettings, experts: dict[str, Tensors]) -> Model:
    """Attach experts with trained weights, in place.

    Args:
        model: A Whisper that the experts fit (`check_shapes`).
        settings: Those that the experts were trained with. Where experts with the same shapes are
            attached already, theirs stay: all other settings but `always_open` act in training
            alone.
        experts: For each language, by code, its tensors by their names in `expert_parameters`.

    Returns:
        The model.

    Raises:
        ValueError: Where experts of other shapes are attached already, or experts with gates meet
            experts without.
    """
    blocks = clsr_blocks(model)
    if blocks:
        attached = blocks[0].routing.settings
        if attached.always_open != settings.always_open:
            there, new = ("without", "with") if attached.always_open else ("with", "without")
            raise ValueError(
                f"the model has experts {there} gates, and {', '.join(experts)} was trained {new} "
                "them (always_open): load it into a Whisper of its own"
            )
        if (attached.gate_dim, attached.rank) == (settings.gate_dim, settings.rank):
            settings = attached
    attach_experts(model, list(experts), settings)

    for language, tensors in experts.items():
        for block in clsr_blocks(model):
            block.constant_gates.pop(language, None)  # they were measured on the earlier gates
        for name, parameter in expert_parameters(model, language):
            parameter.data.copy_(tensors[name])
    return model


def check_base(model: nn.Module, folder: Path, description: dict, source: str) -> None:
    """Check that a model is the Whisper that the experts in a folder were trained on.

    Rounded copies are the same Whisper; what counts as one is in `fingerprint.py`. Folders in
    formats 1 and 2 hold a hash of the feed-forward weights alone, in fp16: with them, a merged
    adapter on attention is not found. A bf16 copy of a base in fp32 or fp16, or one stack alone,
    cannot be recognised by that hash and is refused.

    Args:
        model: With or without experts and adapters; it is not changed.
        folder: As `save_experts` has written it.
        description: Its `experts.json`.
        source: Where the experts come from, for the error message.

    Raises:
        FileNotFoundError: Where the fingerprints of the base are missing.
        ValueError: Where they are damaged, or the model is another Whisper or a quantised one.
    """
    base_model = description["base_model"]
    revision = description.get("revision")
    name = f"{base_model} (revision {revision})" if revision else base_model
    another = f"the experts in {source} were trained on another Whisper, {name}"

    if description["format"] in (1, 2):
        if description["base_fingerprint"] not in feed_forward_fingerprints(model):
            raise ValueError(
                f"{another}, or this is a copy that format {description['format']} of experts does "
                f"not recognise (in bf16, or with one stack): load {base_model} whole and in fp32 "
                "or fp16, load the experts, and save them again"
            )
        return

    differing = differing_weights(model, read_base(folder, description))
    if differing:
        count = sum(1 for _ in plain_weights(model))
        raise ValueError(
            f"{another}: their shapes fit, but {len(differing)} of {count} weights differ, the "
            f"first is {differing[0]}; load {base_model}{_advice(differing)}"
        )


def _advice(differing: list[str]) -> str:
    """Return what to do about an adapter, where only weights differ that adapters change."""
    modules = {name.split(".")[-2] for name in differing}
    if not modules <= set(ADAPTED) or not all(name.endswith(".weight") for name in differing):
        return ""
    listed = ", ".join(module for module in ADAPTED if module in modules)
    return (
        f"; only {listed} differ, as by a merged adapter: unload it or do not merge it, or merge "
        "the one with which the experts were trained"
    )


def check_shapes(
    model: nn.Module, settings: ExpertSettings, experts: dict[str, Tensors], source: str
) -> None:
    """Check names and shapes of experts before anything is attached.

    Args:
        model: The Whisper that they are for; it is not changed.
        settings: Those that the experts were trained with.
        experts: As for `attach_trained`.
        source: Where the experts come from, for the error message.

    Raises:
        ValueError: Where they do not fit; the message compares the sizes.
    """
    for language, tensors in experts.items():
        try:
            needed = _needed_shapes(model, settings, language)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise ValueError(
                f"the experts in {source} have settings that no model can have "
                f"(gate_dim {settings.gate_dim}, rank {settings.rank}): copy the folder again"
            ) from error
        found = {name: tensor.shape for name, tensor in tensors.items()}
        if found != needed:
            raise ValueError(
                f"the {language} experts in {source} are for {_describe(found)}; "
                f"this Whisper needs {_describe(needed)}"
            )


def _needed_shapes(
    model: nn.Module, settings: ExpertSettings, language: str
) -> dict[str, torch.Size]:
    """Return the shapes that a language's experts and gates have in this Whisper, by name."""
    shapes = {}
    for stack, index, layer in whisper_layers(model):
        shared = shared_block(layer)
        width = shared.fc1.get_parameter("weight").shape[1]
        with torch.device("meta"):  # shapes without memory
            gate = Gate(width, settings)
            expert = new_expert(shared, settings.rank) if settings.rank else shared
        for kind, module in (("experts", expert), ("gates", gate)):
            for name, parameter in module.named_parameters():
                shapes[f"{stack}.{index}.{kind}.{language}.{name}"] = parameter.shape
    return shapes


def _describe(shapes: dict[str, torch.Size]) -> str:
    """Return the size of the Whisper that tensors of these names and shapes belong to."""
    widths = {}  # of each layer, by the name of its first weight
    for name, shape in shapes.items():
        if name.endswith(("fc1.weight", "fc1.down.weight")):
            widths[name] = shape[1]
    encoder = sum(name.startswith("encoder.") for name in widths)
    decoder = sum(name.startswith("decoder.") for name in widths)
    width = next(iter(widths.values()), 0)
    return f"{encoder} + {decoder} layers of width {width} ({len(shapes)} tensors)"
