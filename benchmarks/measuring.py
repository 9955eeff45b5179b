"""What all benchmarks share: interleaved medians, the speed of this machine, a table with ratios, and the CSV."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import transformers

from distilwhisper_lib.device import describe_machine
from distilwhisper_lib.files import REPOSITORY, atomic_file


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return how long one call takes, the device's own work included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def interleaved(
    runs: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each run, measured in turn, so that a slow moment of the machine meets all of them."""
    for run in runs.values():
        run()  # the first call allocates
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            took[name].append(seconds(run, device))
    return took


def reached_flops(
    device: torch.device, dtype: torch.dtype, size: int = 1536, repeats: int = 25
) -> float:
    """Return the floating-point operations a second that a plain matrix product reaches here, at its best."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = min(interleaved({"product": lambda: a @ b}, repeats, device)["product"])
    return 2 * size**3 / best


def reached_bytes(device: torch.device, megabytes: int = 256, repeats: int = 5) -> float:
    """Return the bytes a second that a copy reads here, at its best; it writes as many."""
    a = torch.ones(megabytes * 2**20 // 4, device=device)
    b = torch.empty_like(a)
    return a.nbytes / min(interleaved({"copy": lambda: b.copy_(a)}, repeats, device)["copy"])


def as_rows(
    took: dict[str, list[float]], baseline: str, floor: dict[str, float], **setting
) -> list[dict]:
    """Return a row per run: setting, median, ratio to the baseline (median of the ratios of each round), floor."""
    rows = []
    for name, values in took.items():
        ratios = [value / base for value, base in zip(values, took[baseline], strict=True)]
        median = statistics.median(values)
        rows.append(
            setting
            | {
                "run": name,
                "seconds": median,
                f"times {baseline}": statistics.median(ratios),
                "floor": floor[name],
                "times floor": median / floor[name],
                "rounds": len(values),
            }
        )
    return rows


def report(name: str, rows: list[dict], setting: tuple[str, ...]) -> pd.DataFrame:
    """Print the table with machine and versions; write it to benchmarks/<name>.csv in the folder of results.

    setting: the columns that say what was measured; rows that the file has of other settings stay.
    """
    shown, machine = pd.DataFrame(rows), describe_machine()
    table = shown.assign(**machine, torch=torch.__version__, transformers=transformers.__version__)
    path = (
        Path(os.environ.get("LAB_RESULTS") or REPOSITORY / "results").expanduser()
        / "benchmarks"
        / f"{name}.csv"
    )
    if path.exists():
        before = pd.read_csv(path)
        new, old = (
            found[list(setting)].astype(str).agg(" ".join, axis=1) for found in (table, before)
        )
        table = pd.concat([before[~old.isin(new)], table])
    with atomic_file(path) as part:
        table.to_csv(part, index=False, float_format="%.4g")
    print(
        f"{machine['gpu'] or machine['processor']}, {machine['threads']} threads, torch {torch.__version__}"
    )
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(f"written to benchmarks/{path.name}")
    return table
