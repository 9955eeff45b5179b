"""Shared by all benchmarks: interleaved medians, the machine's speed, the table and its file."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import transformers

from distilwhisper_lib.device import describe_machine
from distilwhisper_lib.files import atomic_file, one_at_a_time, results_dir, set_aside

HALF_PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of one call in seconds, including the device's asynchronous work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def interleaved(
    runs: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Measure the runs in turn, so that a slow moment of the machine affects all of them.

    Args:
        runs: What is measured, by name. Each is called once more before, without measuring.
        repeats: Number of rounds.
        device: Where the runs compute.

    Returns:
        The seconds of each run, one value for each round.
    """
    for run in runs.values():
        run()  # the first call allocates memory
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(seconds(run, device))
    return times


def reached_flops(
    device: torch.device, dtype: torch.dtype, size: int = 1536, repeats: int = 25
) -> float:
    """Return the floating-point operations per second of the fastest of some matrix products.

    Args:
        device: Where it is computed.
        dtype: Of both matrices.
        size: Rows and columns of both matrices.
        repeats: How often it is measured.
    """
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    times = interleaved({"product": lambda: a @ b}, repeats, device)
    return 2 * size**3 / min(times["product"])


def reached_bytes(device: torch.device, megabytes: int = 256, repeats: int = 5) -> float:
    """Return the bytes per second that the fastest of some copies reads; it writes as many."""
    source = torch.ones(megabytes * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    times = interleaved({"copy": lambda: target.copy_(source)}, repeats, device)
    return source.nbytes / min(times["copy"])


def as_rows(
    times: dict[str, list[float]], baseline: str, floor: dict[str, float], **setting
) -> list[dict]:
    """Return a row of the table for each run.

    Args:
        times: Seconds of each run, a value per round.
        baseline: Name of the run that the ratios refer to.
        floor: Lower bound of each run in seconds.
        **setting: Further columns, which say what was measured.

    Returns:
        Per run: the setting, the median in seconds, the median over the rounds of the ratio to the
        baseline, the floor, the ratio of the median to it, and the number of rounds.
    """
    rows = []
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, times[baseline], strict=True)]
        median = statistics.median(values)
        result = {
            "run": name,
            "seconds": median,
            f"times {baseline}": statistics.median(ratios),
            "floor": floor[name],
            "times floor": median / floor[name],
            "rounds": len(values),
        }
        rows.append(setting | result)
    return rows


def report(name: str, rows: list[dict], setting: tuple[str, ...]) -> pd.DataFrame:
    """Print the table and write it, with machine and versions, to the results' benchmarks folder.

    Args:
        name: Of the benchmark; the file is benchmarks/<name>.csv.
        rows: The table.
        setting: The columns that say what was measured. Rows of other settings that the file holds
            stay, those of the same setting are replaced.

    Returns:
        The table as it was written.
    """
    shown = pd.DataFrame(rows)
    machine = describe_machine()
    table = shown.assign(**machine, torch=torch.__version__, transformers=transformers.__version__)

    processor = machine["gpu"] or machine["processor"]
    print(f"{processor}, {machine['threads']} threads, torch {torch.__version__}")
    print(shown.to_string(index=False, float_format=lambda value: f"{value:.3f}"))

    path = results_dir("benchmarks") / f"{name}.csv"
    with one_at_a_time(path):
        earlier = _read_earlier(path, setting)
        if earlier is not None:
            measured = set(_settings(table, setting))
            others = ~_settings(earlier, setting).isin(measured)
            table = pd.concat([earlier[others], table])
        with atomic_file(path) as part:
            table.to_csv(part, index=False, float_format="%.4g")
    print(f"written to benchmarks/{path.name}")
    return table


def _read_earlier(path: Path, setting: tuple[str, ...]) -> pd.DataFrame | None:
    """Return the table that is there already; None without one. A damaged one is set aside."""
    if not path.exists():
        return None
    try:
        earlier = pd.read_csv(path)
        missing = [column for column in setting if column not in earlier]
        reason = f"no column {', '.join(missing)}" if missing else ""
    except ValueError as error:  # of pandas, and of bytes that are no UTF-8
        reason = str(error)
    if not reason:
        return earlier
    set_aside(path, reason)
    return None


def _settings(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.Series:
    """Return the setting of each row as one text."""
    return table[list(columns)].astype(str).agg(" ".join, axis=1)
