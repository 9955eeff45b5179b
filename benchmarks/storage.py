"""`python -m benchmarks.storage`: what a language takes on disk, in each form of `save_experts`.

Random experts in Whisper's shapes, a hundredth away from the shared block. Baseline: fp32, as the authors publish.
Floor, of fp32 and fp16: the numbers of experts and gates at 4 or 2 bytes; of int8 one byte for each weight; of low-rank
the factors in fp16. Beside it the seconds to save and to load. What a form costs in WER is in notebook 08.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import torch

from distilwhisper_lib.device import pick_device
from distilwhisper_lib.method.attach import attach_experts, detach_experts, expert_parameters
from distilwhisper_lib.method.storage import load_experts, save_experts

from .inference import SHAPES, whisper_of
from .measuring import report, seconds

RANKS = (16, 64, 128)
FORMS = [("fp32", 0), ("fp16", 0), ("int8", 0)] + [("low-rank", rank) for rank in RANKS]


def least_bytes(parameters: dict, form: str, rank: int) -> int:
    """Return the bytes that the numbers of one language need in a form, without names, steps and padding."""
    if form in ("fp32", "fp16"):
        return {"fp32": 4, "fp16": 2}[form] * sum(p.numel() for p in parameters.values())
    weights = [p for name, p in parameters.items() if ".experts." in name and p.dim() == 2]
    others = sum(p.numel() for p in parameters.values()) - sum(p.numel() for p in weights)
    packed = sum(
        p.numel() if form == "int8" else 2 * min(rank, *p.shape) * sum(p.shape) for p in weights
    )
    return packed + 2 * others


def measure(size: str, forms: list[tuple[str, int]]) -> list[dict]:
    """Return a row per form: megabytes, ratio to fp32, floor, and the seconds to save and to load."""
    model, device, rows = attach_experts(whisper_of(size), ["cs"]), pick_device(), []
    with torch.no_grad():
        for _, weight in expert_parameters(model):
            weight.add_(0.01 * torch.randn_like(weight))
    parameters = dict(expert_parameters(model))
    with tempfile.TemporaryDirectory() as folder:
        for form, rank in forms:
            path = Path(folder) / f"{form}-{rank}"
            save = partial(save_experts, model, path, form, rank or 64)
            saving = seconds(save, device)
            megabytes = (path / "experts.cs.safetensors").stat().st_size / 1e6
            rows.append(
                {
                    "size": size,
                    "form": form,
                    "rank": rank or "",
                    "megabytes": megabytes,
                    "floor": least_bytes(parameters, form, rank) / 1e6,
                    "seconds to save": saving,
                }
            )
        detach_experts(model)
        for row, (form, rank) in zip(rows, forms, strict=True):
            row["seconds to load"] = seconds(
                lambda: load_experts(model, Path(folder) / f"{form}-{rank}"), device
            )
            row["times fp32"] = row["megabytes"] / rows[0]["megabytes"]
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="whisper-base, one rank: under a minute"
    )
    parser.add_argument("--sizes", nargs="*", choices=[*SHAPES, "tiny"], default=["base", "small"])
    a = parser.parse_args(arguments)
    sizes, forms = (a.sizes[:1], FORMS[:4]) if a.quick else (a.sizes, FORMS)
    torch.manual_seed(0)
    report("storage", [row for size in sizes for row in measure(size, forms)], ("size",))


if __name__ == "__main__":
    main()
