"""What JSON files hold beside times, for comparing a run with another one."""

from collections.abc import Collection

TIMES = {
    "check",  # a hash that holds them all
    "seconds",
    "peak_memory_gb",
    "eval_runtime",
    "eval_samples_per_second",
    "eval_steps_per_second",
}


def without_times(value, times: Collection[str] = TIMES):
    """Return a JSON value without the entries with some names."""
    if isinstance(value, dict):
        kept = {name: part for name, part in value.items() if name not in times}
        return {name: without_times(part, times) for name, part in kept.items()}
    if isinstance(value, list):
        return [without_times(part, times) for part in value]
    return value
