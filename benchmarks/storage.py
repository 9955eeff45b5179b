"""The size of one language's experts on disk, in each form that `save_experts` writes.

    make benchmark NAME=storage [ARGS=--quick]

Random experts in Whisper's shapes, a hundredth away from the shared block. Baseline: fp32, as the
authors publish. Floor, a lower bound: of fp32 and fp16 the numbers of experts and gates at 4 or 2
bytes; of int8 one byte for each weight; of low-rank the factors in fp16. Also the seconds to save
and to load. What a form costs in WER is measured by `make smaller`, see notebook 08.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from distilwhisper_lib.device import pick_device
from distilwhisper_lib.method.attach import attach_experts, detach_experts
from distilwhisper_lib.method.blocks import expert_parameters
from distilwhisper_lib.method.loading import load_experts
from distilwhisper_lib.method.storage import save_experts
from distilwhisper_lib.programs import run_program

from .inference import SHAPES, whisper_of
from .measuring import report, seconds

# Form and rank; 0 where a form has no rank
FORMS = [
    ("fp32", 0),
    ("fp16", 0),
    ("int8", 0),
    ("low-rank", 16),
    ("low-rank", 64),
    ("low-rank", 128),
]


def least_bytes(parameters: dict[str, nn.Parameter], form: str, rank: int) -> int:
    """Return the bytes that the numbers of one language need, without names, scales and padding.

    Args:
        parameters: Of experts and gates, as `expert_parameters` names them.
        form: A form of `save_experts`.
        rank: Of the form "low-rank".
    """
    total = sum(parameter.numel() for parameter in parameters.values())
    if form == "fp32":
        return 4 * total
    if form == "fp16":
        return 2 * total

    # Only the experts' weight matrices are packed; the rest is fp16
    matrices = [p for name, p in parameters.items() if ".experts." in name and p.dim() == 2]
    others = total - sum(matrix.numel() for matrix in matrices)
    if form == "int8":
        packed = sum(matrix.numel() for matrix in matrices)
    else:
        packed = sum(2 * min(rank, *matrix.shape) * sum(matrix.shape) for matrix in matrices)
    return packed + 2 * others


def measure(size: str, forms: list[tuple[str, int]]) -> list[dict]:
    """Return a row per form: megabytes, ratio to fp32, floor, and the seconds to save and load."""
    device = pick_device()
    model = attach_experts(whisper_of(size), ["cs"])
    with torch.no_grad():
        for _, weight in expert_parameters(model):
            weight.add_(0.01 * torch.randn_like(weight))
    parameters = dict(expert_parameters(model))

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{form}-{rank}" for form, rank in forms]
        for (form, rank), path in zip(forms, paths, strict=True):
            saving = seconds(partial(save_experts, model, path, form=form, rank=rank or 64), device)
            row = {
                "size": size,
                "form": form,
                "rank": rank or "",
                "megabytes": (path / "experts.cs.safetensors").stat().st_size / 1e6,
                "floor": least_bytes(parameters, form, rank) / 1e6,
                "seconds to save": saving,
            }
            rows.append(row)

        detach_experts(model)
        for row, path in zip(rows, paths, strict=True):
            row["seconds to load"] = seconds(partial(load_experts, model, path), device)
            row["times fp32"] = row["megabytes"] / rows[0]["megabytes"]
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        prog="make benchmark NAME=storage ARGS=...",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one rank, and whisper-base unless --sizes says otherwise: under a minute",
    )
    parser.add_argument("--sizes", nargs="+", choices=[*SHAPES, "tiny"], default=["base", "small"])
    options = parser.parse_args(arguments)
    forms = FORMS
    if options.quick:
        forms = FORMS[:4]
        parser.set_defaults(sizes=["base"])
        options = parser.parse_args(arguments)

    torch.manual_seed(0)
    rows = []
    for size in dict.fromkeys(options.sizes):
        rows += measure(size, forms)
    report("storage", rows, ("size",))


if __name__ == "__main__":
    run_program(main)
